"""WSGI applications (PEP 3333) served: each request's call on a thread of the pool, its body and answer streamed.

Laws:

- What is wrong with an answer's head is raised to the application, by `start_response`, and not found out later.
- Nothing is sent before the first piece that isn't empty: up to then the application may change its mind.
- The iterable's `close` is called once, whatever became of the request, and on a thread: it may block.
- An answer that is whole when the application returns goes in one send, with its length.
"""

from __future__ import annotations

import inspect
import io
import itertools
import logging
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.util import FileWrapper

from hypoll.app import failure
from hypoll.files import Slice
from hypoll.message import ClientDisconnect, Deferred, HTTPError, Kind, Request, Response, Section, check_field, reason
from hypoll.server import Service
from hypoll.version import __version__
from hypoll.wsgi_face import Face

INPUT_BUFFER = 64 * 1024
"""Bytes of a streamed body that `wsgi.input` keeps for `readline` and short reads."""

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    )
)
"""Fields an application may not send (PEP 3333, "Other HTTP Features"): they are of the connection."""

CONTENTLESS = (204, 205, 304)

_STATUS = re.compile(r"([2-5][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")

_OWNER = "hypoll.wsgi"
"""The variable that holds the `WSGI` an environment was made by."""

_UNKNOWN_HOSTS = {"http": ("localhost", "80"), "https": ("localhost", "443")}

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
Environ = dict[str, Any]
WSGIApplication = Callable[[Environ, Any], Iterable[bytes]]

log = logging.getLogger("hypoll.error")


class WSGI:
    """A WSGI application as what a server serves.

    application: called with `environ` and `start_response`.
    script_name: the path below which the application is, as `/shop`: SCRIPT_NAME. Other paths are 404.
    multiprocess: whether other processes serve the application, too: `wsgi.multiprocess`.

    Raises `TypeError` for what can't be called so, and for ASGI applications.
    """

    asynchronous = False

    def __init__(self, application: WSGIApplication, *, script_name: str = "", multiprocess: bool = False) -> None:
        check_application(application)
        self.application = application
        self.script_name = script_name.rstrip("/")
        self._base: Environ = {
            _OWNER: self,
            "SCRIPT_NAME": self.script_name,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": f"hypoll/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.errors": ErrorStream(),
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
            return self._answer(request)
        except Exception as error:
            return _failure(request, error)

    def answer(self, request: Request) -> Response | Deferred:
        """Answer a request as serving does: on the pool."""
        return self._whole if request.section.bodiless or "body" in request.__dict__ else self._streamed

    def streams(self, request: Request) -> bool:
        """Say that bodies are taken as they come."""
        return True

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

    def _answer(self, request: Request, in_thread: object = None) -> Response:
        start = Start()
        body = self.application(self.environ(request), start)
        try:
            return _respond(request, start, body)
        except BaseException:
            _close(body)
            raise

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


def service_of(application: Service | WSGIApplication, *, script_name: str = "", multiprocess: bool = False) -> Service:
    """What serves an application: itself, when it is `Routes` or another service; a `WSGI` for any other callable.

    script_name, multiprocess: of the WSGI application. Without the former the environment's SCRIPT_NAME is taken, as
    gunicorn does. Raises `TypeError` for what is neither.
    """
    if isinstance(application, Face):
        return application.routes
    if hasattr(application, "startup") and hasattr(application, "refuses"):
        return cast(Service, application)
    script_name = script_name or os.environ.get("SCRIPT_NAME", "")
    return WSGI(application, script_name=script_name, multiprocess=multiprocess)


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
    """`wsgi.errors`: what a thread writes, up to the end of a line or a flush, is a record of the error log."""

    _text = ""

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
        if text:
            log.error("%s", text)


# the answer


class Start:
    """`start_response` of one request, and what it was told.

    status, phrase: the phrase is None where it is the registered one.
    declared: the Content-Length; None: not told.
    content_type: the only field beside Content-Length; None: there are others, or none.
    written: what `write` took, to go before the body.
    sent: whether the head is on its way.
    """

    __slots__ = ("content_type", "declared", "fields", "phrase", "sent", "status", "written")

    def __init__(self) -> None:
        self.status = 0
        self.phrase: str | None = None
        self.fields: list[tuple[str, str]] = []
        self.declared: int | None = None
        self.content_type: str | None = None
        self.written: list[bytes] = []
        self.sent = False

    def __call__(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Take the head of the answer; give `write`.

        Raises `ValueError` and `TypeError` for one that can't be sent, `RuntimeError` when it is the second and not for
        an error, and that error when the first was sent already.
        """
        try:
            if exc_info and exc_info[1] is not None:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            elif self.status:
                raise RuntimeError("start_response was called already: a second call must have exc_info")
        finally:
            exc_info = None  # its traceback leads back here
        code, phrase = _parse_status(status)
        self._take(list(headers))
        self.status, self.phrase = code, phrase
        return self.write

    def _take(self, fields: list[tuple[str, str]]) -> None:
        declared = content_type = None
        for name, value in fields:
            match _checked(name, value):
                case "content-length":
                    if declared is not None:
                        raise ValueError("there is more than one Content-Length")
                    declared = int(value)
                case "content-type":
                    content_type = value
        self.fields, self.declared = fields, declared
        self.content_type = content_type if len(fields) == (1 if declared is None else 2) else None

    def write(self, data: bytes) -> None:
        """Take the beginning of the body: it goes when the application has returned."""
        if type(data) is not bytes:
            raise TypeError(f"write takes bytes, not {type(data).__name__}")
        self.written.append(data)

    def response(self, body: Any) -> Response:
        """The response with this head and a body."""
        simple = self.content_type is not None and self.status == 200 and self.phrase is None
        if simple and type(body) is bytes and self.declared in (None, len(body)):
            # In the form that is encoded fastest: its head is likely prebuilt.
            return Response(body, 200, None, self.content_type)
        response = Response(body, self.status, self.fields, "")
        response.reason = self.phrase
        return response


@lru_cache(512)
def _checked(name: str, value: str) -> str:
    """The lower-case name of a field that an application may send. Raises `ValueError`, `TypeError`."""
    check_field(name, value)
    lower = name.lower()
    if lower in HOP_BY_HOP:
        raise ValueError(f"{name} is a field of the connection: an application may not send it (PEP 3333)")
    if lower == "content-length" and not (value.isascii() and value.isdecimal()):
        raise ValueError(f"Content-Length: {value!r} is not a decimal number")
    return lower


@lru_cache(256)
def _parse_status(status: str) -> tuple[int, str | None]:
    """Code and reason phrase, None for the registered one. Raises `TypeError`, `ValueError`."""
    if not isinstance(status, str):
        raise TypeError(f"the status is {status!r}: it must be a str, as in '200 OK'")
    match = _STATUS.fullmatch(status)
    if match is None:
        raise ValueError(f"the status is {status!r}: it must be a code from 200 to 599 and a phrase, as in '200 OK'")
    code, phrase = int(match[1]), match[2]
    return code, None if phrase == reason(code) else phrase


def _respond(request: Request, start: Start, body: Iterable[bytes]) -> Response:
    """The response of what the application has returned. The body is closed, unless the response has it."""
    if type(body) in (list, tuple):
        content = [*start.written, *body]
        return _whole(request, start, content[0] if len(content) == 1 else b"".join(content))
    contentless = request.method == "HEAD" or start.status in CONTENTLESS
    if isinstance(body, FileWrapper) and start.status and not (contentless or start.written):
        part = _file_part(start, body)
        if part is not None:
            return start.response(part)
    pieces = iter(body)
    first = b"".join(start.written) or next(filter(None, pieces), b"")
    if contentless or not first or len(first) == start.declared:
        # There is no more, or no more of it may be sent.
        response = _whole(request, start, first if not contentless else b"")
        _close(body)
        return response
    _check(start, first)
    start.sent = True
    return start.response(Pieces(first, pieces, body))


def _whole(request: Request, start: Start, content: bytes) -> Response:
    """The response with all of its body here; that of HEAD may be absent."""
    _check(start, content)
    bodiless = request.method == "HEAD" or start.status in CONTENTLESS
    if start.declared not in (None, len(content)) and (content or not bodiless):
        raise ValueError(f"the answer declares Content-Length: {start.declared}, its body has {len(content)} bytes")
    if not bodiless or (content and start.status not in CONTENTLESS):
        return start.response(content)
    return start.response(b"" if start.declared is not None else iter(()))


def _check(start: Start, content: object) -> None:
    """Hold an application against what it owes. Raises `RuntimeError`, `TypeError`."""
    if not start.status:
        raise RuntimeError("the application gave a body before it called start_response")
    if not isinstance(content, bytes):
        raise TypeError(f"the body gives bytes, not {type(content).__name__}")


class Pieces:
    """What is left of an answer's body."""

    def __init__(self, first: bytes, rest: Iterator[bytes], body: Iterable[bytes]) -> None:
        self._pieces = itertools.chain((first,), rest)
        self._body: Iterable[bytes] | None = body

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Close what the application has returned, once."""
        body, self._body = self._body, None
        _close(body)


class FilePart(Slice):
    """What is left of an application's file, which is closed when nothing more is sent of it."""

    __slots__ = ("_wrapper",)

    def __init__(self, wrapper: FileWrapper, fd: int, offset: int, count: int) -> None:
        self._wrapper: FileWrapper | None = wrapper
        self._file = None
        self.fd = fd
        self.offset = offset
        self.count = count

    def release(self) -> None:
        """Close the file."""
        wrapper, self._wrapper = self._wrapper, None
        super().release()
        _close(wrapper)

    close = release


def _file_part(start: Start, wrapper: FileWrapper) -> FilePart | None:
    """The part of a wrapped file that is to be sent by sendfile(2): from where it stands, as long as is declared.

    None: it is no regular file, or what reads it does more than read. Raises `ValueError` when it is too short.
    """
    file: Any = wrapper.filelike
    if not _is_plain(file) and not _is_plain(file := getattr(file, "file", None)):
        return None
    if isinstance(file, io.BufferedRandom):
        file.flush()
    fd = file.fileno()
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return None
    offset = file.tell()
    there = max(status.st_size - offset, 0)
    count = there if start.declared is None else start.declared
    if count > there:
        raise ValueError(f"the answer declares Content-Length: {count}, its file has {there} bytes")
    return FilePart(wrapper, fd, offset, count)


def _is_plain(file: Any) -> bool:
    """Whether reading gives the bytes of a descriptor: a GzipFile has one, too, and gives others."""
    return type(file) is io.FileIO or (
        type(file) in (io.BufferedReader, io.BufferedRandom) and type(file.raw) is io.FileIO
    )


def _close(body: Any) -> None:
    """Close what the application has returned, and log what that raises."""
    try:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    except Exception:
        log.exception("closing a response's body failed")


def _same(response: Response) -> Response:
    return response


def _failure(request: Request, error: BaseException) -> Response:
    """What the client is told of an exception that the application let out."""
    if isinstance(error, InputError) and error.__cause__ is not None:
        error = error.__cause__
    return failure(request, error)
