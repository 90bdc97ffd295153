"""WSGI applications (PEP 3333) served: each request's call on a thread of the pool, its body and answer streamed.

Laws:

- A body is received before the application is called, into a spool, so that a slow client holds no thread. With
  `--wsgi-stream` it is read as the application reads it.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast
from wsgiref.util import FileWrapper

from hypoll.contracts import Application, EarlyAnswer, HandlerCall, RunOn, as_application
from hypoll.protocol.messages import ClientDisconnect, HTTPError, Request, Response
from hypoll.server.spool import SpoolReader
from hypoll.version import __version__
from hypoll.web.results import failure
from hypoll.web.signatures import signature_of
from hypoll.wsgi.adapter import WSGIAdapter
from hypoll.wsgi.environ import Environ, Environs
from hypoll.wsgi.response import ResponseStart, respond

INPUT_BUFFER = 64 * 1024
"""Bytes of a streamed body that `wsgi.input` keeps for `readline` and short reads."""

WSGIApplication = Callable[[Environ, Any], Iterable[bytes]]

log = logging.getLogger("hypoll.error")


class WSGI(Application):
    """A WSGI application as what a server serves.

    Args:
        application: called with `environ` and `start_response`.
        script_name: the path below which the application is, as `/shop`: SCRIPT_NAME. Other paths are 404.
        multiprocess: whether other processes serve the application, too: `wsgi.multiprocess`.
        stream: whether the application is called when the head is whole, and waits for the body as it reads it.
        known: whether somebody says that it is one, so that its signature doesn't count.

    Raises:
        TypeError: For what can't be called so, and for ASGI applications.
    """

    uses_asyncio = False

    def __init__(
        self,
        application: WSGIApplication,
        *,
        script_name: str = "",
        multiprocess: bool = False,
        stream: bool = False,
        known: bool = False,
    ) -> None:
        if not known:
            check_application(application)
        self.application = application
        self.script_name = script_name.rstrip("/")
        self._errors = ErrorStream()
        self._stream = stream
        base: Environ = {
            "SCRIPT_NAME": self.script_name,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": f"hypoll/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.errors": self._errors,
            "wsgi.multithread": True,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }
        self._environs = Environs(base, self.script_name)
        # A body that is here, or isn't, needs nothing of what streaming one takes.
        self._whole = HandlerCall(RunOn.THREAD, self._answer, _same, _failure)
        self._streamed = HandlerCall(RunOn.THREAD, self._answer, _same, _failure, stream=True)

    def __call__(self, request: Request) -> Response:
        """Answer a request, here and now."""
        try:
            response = self._answer(request)
        except Exception as error:
            response = _failure(request, error)
        assert response is not None  # without a call nothing is sent by the application itself
        return response

    def answer(self, request: Request) -> Response | HandlerCall:
        """Answer a request as serving does: on the pool."""
        here = request.header_section.has_no_body or request.spooled is not None or "body" in request.__dict__
        return self._whole if here else self._streamed

    def wants_stream(self, request: Request) -> bool:
        """Whether the body is taken as it comes."""
        return self._stream

    def wants_spool(self, request: Request) -> bool:
        """Whether the body is received before the application is called: a slow client holds no thread."""
        return not self._stream

    def _answer(self, request: Request, call: EarlyAnswer | None = None) -> Response | None:
        start = ResponseStart(request, call)
        try:
            return respond(request, start, self.application(self.environ(request), start), call)
        finally:
            self._errors.flush()
            if request.spooled is not None:
                request.spooled.close()

    def environ(self, request: Request) -> Environ:
        """The environment of a request. Raises `HTTPError` 404 when its path is not below `script_name`."""
        environ = self._environs.of(request)
        environ["wsgi.input"] = _input(request)
        return environ


def service_of(
    application: Application | WSGIApplication,
    *,
    script_name: str = "",
    multiprocess: bool = False,
    stream: bool = False,
    known: bool = False,
) -> Application:
    """What serves an application: itself, when it is `Routes` or another service; a `WSGI` for any other callable.

    Args:
        application: what is to be served.
        script_name: the path that it is below; without one the environment's SCRIPT_NAME is taken, as gunicorn does.
        multiprocess: whether other processes serve it, too.
        stream: whether it is called before its request's body is whole.
        known: whether somebody says that it is a WSGI application.

    Raises:
        TypeError: For what is neither.
    """
    if isinstance(application, WSGIAdapter):
        return application.routes
    if hasattr(application, "startup") and hasattr(application, "early_refusal"):
        return as_application(cast(Application, application))
    script_name = script_name or os.environ.get("SCRIPT_NAME", "")
    return WSGI(application, script_name=script_name, multiprocess=multiprocess, stream=stream, known=known)


def check_application(application: Any) -> None:
    """Raise `TypeError`, which says why, for what can't be a WSGI application."""
    fault = mismatch(application)
    if fault:
        raise TypeError(f"{getattr(application, '__qualname__', None) or repr(application)} {fault}")


def mismatch(application: Any) -> str:
    """Why something can't be a WSGI application, to be read behind its name; empty when it can."""
    if not callable(application):
        return f"is a {type(application).__name__}, neither a hypoll.Routes nor a WSGI application"
    call = application if inspect.isclass(application) else application.__call__
    if inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(call) or _takes(application, 3):
        return "is an ASGI application; only WSGI applications and hypoll.Routes are served"
    if not _takes(application, 2):
        return "is no WSGI application: it can't be called with environ and start_response"
    return ""


def _takes(application: Any, count: int) -> bool:
    """Whether it can be called with so many arguments, and, for more than two, not with two."""
    try:
        signature = signature_of(application)
    except (TypeError, ValueError):
        return count == 2  # written in C, and silent on it
    if count > 2 and _binds(signature, 2):
        return False
    return _binds(signature, count)


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


# the request


def _input(request: Request) -> io.BufferedIOBase:
    if request.spooled is not None:
        return io.BufferedReader(SpoolReader(request.spooled), INPUT_BUFFER)
    stream = request.__dict__.get("stream")
    if stream is None:
        return io.BytesIO(request.body)
    return io.BufferedReader(InputStream(stream), INPUT_BUFFER)


class InputError(OSError):
    """The body will not come whole: `wsgi.input` raises it, its `__cause__` says why."""


class InputStream(io.RawIOBase):
    """A body that comes in pieces as a file to read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Take what is here, or wait for the client. Raises `InputError` when it breaks off or is refused."""
        if not self._rest:
            self._rest = memoryview(self._next())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _next(self) -> bytes:
        try:
            return next(self._pieces, b"")
        except (ClientDisconnect, HTTPError) as error:
            raise InputError(str(error)) from error


class ErrorStream(threading.local):
    """`wsgi.errors`: what a thread writes, up to the end of a line or a flush, is a record of the error log.

    A logging handler may write to it (Flask's first example has the root's do so). Where that gets the record of what
    was written here, it is written to standard error: it would come here for ever.
    """

    _text = ""
    _logging = False

    def write(self, text: str) -> int:
        """Take text."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        self._text += text
        if text.endswith("\n"):
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Take lines, together."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Log what was written, if it is more than white space."""
        text, self._text = self._text.rstrip(), ""
        if not text:
            return
        if self._logging:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.__stderr__.write(text + "\n")  # type: ignore[union-attr]
            return
        self._logging = True
        try:
            log.error("%s", text)
        finally:
            self._logging = False


def _same(response: Response) -> Response:
    return response


def _failure(request: Request, error: BaseException) -> Response:
    """What the client gets for an exception that the application let out."""
    if isinstance(error, InputError) and error.__cause__ is not None:
        error = error.__cause__
    return failure(request, error)
