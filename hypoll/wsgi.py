"""WSGI applications (PEP 3333) served: each request's call on a thread of the pool, its body and answer streamed.

Laws:

- A field that could be taken for another is not in the environment.
- What requests have in common of their environments is built once; no application sees another's.
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
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.util import FileWrapper

from hypoll.answers import failure
from hypoll.message import ClientDisconnect, Deferred, HandlerCall, HTTPError, Kind, Request, Response, Section
from hypoll.server import Service
from hypoll.spool import SpoolReader
from hypoll.version import __version__
from hypoll.wsgi_answer import Start, respond
from hypoll.wsgi_face import Face

INPUT_BUFFER = 64 * 1024
"""Bytes of a streamed body that `wsgi.input` keeps for `readline` and short reads."""

_OWNER = "hypoll.wsgi"
"""The variable that holds the `WSGI` an environment was made by."""

_UNKNOWN_HOSTS = {"http": ("localhost", "80"), "https": ("localhost", "443")}

Environ = dict[str, Any]
WSGIApplication = Callable[[Environ, Any], Iterable[bytes]]

log = logging.getLogger("hypoll.error")


class WSGI:
    """A WSGI application as what a server serves.

    application: called with `environ` and `start_response`.
    script_name: the path below which the application is, as `/shop`: SCRIPT_NAME. Other paths are 404.
    multiprocess: whether other processes serve the application, too: `wsgi.multiprocess`.
    stream: whether the application is called when the head is whole, and waits for the body as it reads it.

    Raises `TypeError` for what can't be called so, and for ASGI applications.
    """

    asynchronous = False

    def __init__(
        self, application: WSGIApplication, *, script_name: str = "", multiprocess: bool = False, stream: bool = False
    ) -> None:
        check_application(application)
        self.application = application
        self.script_name = script_name.rstrip("/")
        self._errors = ErrorStream()
        self._stream = stream
        self._base: Environ = {
            _OWNER: self,
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
        # A body that is here, or isn't, needs nothing of what streaming one takes.
        self._whole = Deferred(Kind.THREADED, self._answer, _same, _failure)
        self._streamed = Deferred(Kind.THREADED, self._answer, _same, _failure, stream=True)

    def __call__(self, request: Request) -> Response:
        """Answer a request, here and now."""
        try:
            response = self._answer(request)
        except Exception as error:
            response = _failure(request, error)
        assert response is not None  # without a call nothing is sent by the application itself
        return response

    def answer(self, request: Request) -> Response | Deferred:
        """Answer a request as serving does: on the pool."""
        here = request.section.bodiless or request.spooled is not None or "body" in request.__dict__
        return self._whole if here else self._streamed

    def streams(self, request: Request) -> bool:
        """Whether the body is taken as it comes."""
        return self._stream

    def spools(self, request: Request) -> bool:
        """Whether the body is received before the application is called: a slow client holds no thread."""
        return not self._stream

    def refuses(self, request: Request) -> HTTPError | None:
        """Refuse nothing unasked: only the application knows."""
        return None

    def pattern(self, request: Request) -> str | None:
        """Name no route: only the application knows."""
        return None

    def startup(self, complete: Any) -> None:
        """Do nothing: WSGI has no such hook."""

    def shutdown(self, complete: Any) -> None:
        """Do nothing: WSGI has no such hook."""

    def _answer(self, request: Request, call: HandlerCall | None = None) -> Response | None:
        start = Start(request, call)
        try:
            return respond(request, start, self.application(self.environ(request), start), call)
        finally:
            self._errors.flush()
            if request.spooled is not None:
                request.spooled.close()

    def environ(self, request: Request) -> Environ:
        """The environment of a request. Raises `HTTPError` 404 when its path is not below `script_name`."""
        peer, template = request.peer, request.section.environ
        if template is None or template["wsgi.url_scheme"] != peer.scheme or template[_OWNER] is not self:
            template = request.section.environ = self._template(request.section, peer.scheme)
        environ = template.copy()
        target = request.target.decode("latin-1")
        path, _, query = target.partition("?")
        if "%" in path:
            path = unquote_to_bytes(path).decode("latin-1")  # bytes as characters: PEP 3333, "Unicode Issues"
        environ["REQUEST_METHOD"] = request.method
        environ["PATH_INFO"] = self._below(path) if self.script_name else path
        environ["QUERY_STRING"] = query
        environ["RAW_URI"] = environ["REQUEST_URI"] = target
        environ["REMOTE_ADDR"], port = peer.client
        environ["REMOTE_PORT"] = str(port)
        environ["wsgi.input"] = _input(request)
        if request.authority is not None:
            environ["HTTP_HOST"] = request.authority
            environ["SERVER_NAME"], environ["SERVER_PORT"] = _server(request.authority, peer.scheme)
        if not request.minor:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        return environ

    def _template(self, section: Section, scheme: str) -> Environ:
        """What the environments of requests with equal header sections have in common."""
        template = self._base | _variables(section)
        template["wsgi.url_scheme"] = scheme
        template["SERVER_NAME"], template["SERVER_PORT"] = _server(section.host or "", scheme)
        return template

    def _below(self, path: str) -> str:
        below = path.removeprefix(self.script_name)
        if below == path or below[:1] not in ("", "/"):
            raise HTTPError(404, f"the application is below {self.script_name}")
        return below


def service_of(
    application: Service | WSGIApplication, *, script_name: str = "", multiprocess: bool = False, stream: bool = False
) -> Service:
    """What serves an application: itself, when it is `Routes` or another service; a `WSGI` for any other callable.

    script_name, multiprocess, stream: of the WSGI application. Without the first the environment's SCRIPT_NAME is
    taken, as gunicorn does. Raises `TypeError` for what is neither.
    """
    if isinstance(application, Face):
        return application.routes
    if hasattr(application, "startup") and hasattr(application, "refuses"):
        return cast(Service, application)
    script_name = script_name or os.environ.get("SCRIPT_NAME", "")
    return WSGI(application, script_name=script_name, multiprocess=multiprocess, stream=stream)


def check_application(application: Any) -> None:
    """Raise `TypeError`, which says why, for what can't be a WSGI application."""
    fault = misfit(application)
    if fault:
        raise TypeError(f"{getattr(application, '__qualname__', None) or repr(application)} {fault}")


def misfit(application: Any) -> str:
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
        signature = inspect.signature(application)
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


def _variables(section: Section) -> dict[str, str]:
    """The fields of a header section as variables (RFC 3875, 4.1.18).

    One with an underscore in its name is left out: nobody could tell it from the one with a dash, which a proxy may
    have set or removed for the application to rely on.
    """
    variables: dict[str, str] = {}
    for name, value in section.fields:
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        if key in variables:
            value = variables[key] + ("; " if name == "cookie" else ", ") + value
        variables[key] = value
    if "CONTENT_LENGTH" in variables:
        variables["CONTENT_LENGTH"] = str(section.length)
    return variables


@lru_cache(256)
def _server(host: str, scheme: str) -> tuple[str, str]:
    """SERVER_NAME and SERVER_PORT: the server as the client named it (RFC 3875, 4.1.14)."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    default = _UNKNOWN_HOSTS[scheme]
    return name or default[0], port or default[1]


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
    """What the client is told of an exception that the application let out."""
    if isinstance(error, InputError) and error.__cause__ is not None:
        error = error.__cause__
    return failure(request, error)
