"""What a WSGI application answers (PEP 3333): `start_response`, and what is made of the iterable.

Laws:

- What is wrong with an answer's head is raised to the application, by `start_response`, and not found out later.
- Nothing is sent before the first piece that isn't empty: up to then the application may change its mind.
- The iterable's `close` is called once, whatever became of the request, on the request's thread: after the server has
  taken over the last piece, or the client has gone.
- The iterable is exhausted, unless the client has gone, the answer has no content, or its Content-Length is reached:
  then one more `next` tells whether there is too much.
- An answer that is whole when the application returns goes in one send, with its length.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

from hypoll.contracts import EarlyAnswer
from hypoll.protocol.fields import check_field, exact_bytes, exact_str
from hypoll.protocol.messages import ClientDisconnect, Request, Response, reason
from hypoll.protocol.serializer import CONTENTLESS
from hypoll.protocol.slices import FilePart
from hypoll.web.results import close_body

if TYPE_CHECKING:
    from hypoll.server.thread_stream import ThreadStream

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

_STATUS = re.compile(r"([2-5][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger("hypoll.error")


class ResponseStart:
    """`start_response` of one request, and what it was given.

    Args:
        request: what is answered.
        call: by what the head is sent before the end of the handler; None: it can't be.

    Attributes:
        status, phrase: the phrase is None where it is the registered one.
        declared: the Content-Length; None: not given.
        content_type: the only field beside Content-Length; None: there are others, or none.
        written: what `write` took and didn't send, to go before the body.
        stream: takes the body, piece by piece, once the head is on its way.
    """

    __slots__ = ("_call", "_request", "content_type", "declared", "fields", "phrase", "status", "stream", "written")

    def __init__(self, request: Request, call: EarlyAnswer | None = None) -> None:
        self._request = request
        self._call = call
        self.status = 0
        self.phrase: str | None = None
        self.fields: list[tuple[str, str]] = []
        self.declared: int | None = None
        self.content_type: str | None = None
        self.written: list[bytes] = []
        self.stream: ThreadStream | None = None

    def __call__(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Take the head of the answer; give `write`.

        Raises `ValueError` and `TypeError` for one that can't be sent, `RuntimeError` when it is the second and not for
        an error, and that error when the first was sent already.
        """
        try:
            if exc_info and exc_info[1] is not None:
                if self.stream is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            elif self.status:
                raise RuntimeError("start_response was called already: a second call must have exc_info")
        finally:
            exc_info = None  # its traceback leads back here
        if not isinstance(status, str):
            raise TypeError(f"the status is {status!r}: it must be a str, as in '200 OK'")
        code, phrase = _parse_status(exact_str(status))
        self._take(list(headers))
        self.status, self.phrase = code, phrase
        return self.write

    def _take(self, given: list[tuple[str, str]]) -> None:
        declared = content_type = None
        fields = []
        for pair in given:
            name, value = pair
            if type(name) is not str or type(value) is not str:
                name, value = check_field(name, value)
            match _checked(name, value):
                case "":
                    continue
                case "content-length":
                    if declared is not None:
                        raise ValueError("there is more than one Content-Length")
                    declared = int(value)
                case "content-type":
                    content_type = value
            fields.append((name, value))
        self.fields, self.declared = fields, declared
        self.content_type = content_type if len(fields) == (1 if declared is None else 2) else None

    def write(self, data: bytes) -> None:
        """Send a piece of the body. Raises `TypeError`, `ValueError`, `ClientDisconnect` when the client has gone."""
        if not isinstance(data, bytes):
            raise TypeError(f"write takes bytes, not {type(data).__name__}")
        if self.contentless or not data:
            return
        if self.stream is None and self.begin() is None:
            self.written.append(exact_bytes(data))
        elif self.stream is not None:
            self.stream.write(data)

    @property
    def contentless(self) -> bool:
        """Whether the answer has no content, whatever the application gives."""
        return self._request.method == "HEAD" or self.status in CONTENTLESS

    def begin(self) -> ThreadStream | None:
        """Send the head. None: here it can't be sent before the end."""
        if self._call is not None:
            self.stream = self._call.start_stream(self.response(()))
        return self.stream

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
    """The lower-case name of a field that an application may send; empty: it is dropped.

    Raises `ValueError`, `TypeError`.
    """
    check_field(name, value)
    lower = name.lower()
    if lower == "transfer-encoding" and value.strip().lower() != "identity":
        raise ValueError(f"Transfer-Encoding: {value} is the server's to choose: an application may not send it")
    if lower in HOP_BY_HOP:
        _warn_of_dropped(lower)
        return ""
    if lower == "content-length" and not (value.isascii() and value.isdecimal()):
        raise ValueError(f"Content-Length: {value!r} is not a decimal number")
    return lower


@lru_cache(256)
def _parse_status(status: str) -> tuple[int, str | None]:
    """Code and reason phrase, None for the registered one. Raises `ValueError`."""
    match = _STATUS.fullmatch(status)
    if match is None:
        raise ValueError(f"the status is {status!r}: it must be a code from 200 to 599 and a phrase, as in '200 OK'")
    code, phrase = int(match[1]), match[2]
    return code, None if phrase == reason(code) else phrase


@cache
def _warn_of_dropped(name: str) -> None:
    """Say once that a field is dropped; there are few such names."""
    log.warning("the application sends %s, a field of the connection (PEP 3333): it is dropped, here and later", name)


def respond(request: Request, start: ResponseStart, body: Any, call: EarlyAnswer | None) -> Response | None:
    """Answer with what the application has returned, and close it. None: the answer is sent, or on its way.

    Without a `call` the body is given on with the response, if that isn't whole.
    """
    response: Response | None = None
    pieces: Iterator[bytes] | None = None
    try:
        if start.stream is None:
            if type(body) in (list, tuple):
                content = [*start.written, *map(_check_piece, body)]
                return _whole(request, start, content[0] if len(content) == 1 else b"".join(content))
            response, first, pieces = _begin(request, start, body)
        else:
            first, pieces = b"", iter(body)
        if response is None and call is not None and pieces is not None:
            _stream(start, first, pieces)
        elif response is None and pieces is not None:
            response, body = start.response(Pieces(first, pieces, body)), None
        elif response is not None and call is not None and hasattr(body, "close"):
            call.send(response)
            response = None
    finally:
        close_body(body)
    return response


def _begin(request: Request, start: ResponseStart, body: Any) -> tuple[Response | None, bytes, Iterator[bytes] | None]:
    """The response, if it is whole; else the first piece of the body and what gives the others."""
    if start.status and start.contentless:
        return _whole(request, start, b""), b"", None
    if isinstance(body, FileWrapper) and start.status and not start.written:
        part = _file_part(start, body)
        if part is not None:
            return start.response(part), b"", None
    pieces = iter(body)
    first = b"".join(start.written) or _next(pieces)
    if start.contentless:  # a generator calls `start_response` with its first piece
        return _whole(request, start, b"" if start.status else first), b"", None
    if first and len(first) == start.declared:
        _check_end(start, pieces)
    elif first:
        _check_started(start)
        return None, first, pieces
    return _whole(request, start, first), b"", None


def _stream(start: ResponseStart, first: bytes, pieces: Iterator[bytes]) -> None:
    """Send the pieces one by one, on the request's thread."""
    stream = start.stream or start.begin()
    assert stream is not None
    try:
        if first:
            stream.write(first)
        while stream.framer.left != 0 and (piece := _next(pieces)):
            stream.write(piece)
        if stream.framer.left == 0:
            _check_end(start, pieces)
        stream.finish()
    except ClientDisconnect as error:
        stream.fail(error)


def _next(pieces: Iterator[bytes]) -> bytes:
    """The next piece that isn't empty; b"": there is none. Raises `TypeError` for what isn't bytes."""
    for piece in pieces:
        if checked := _check_piece(piece):
            return checked
    return b""


def _check_end(start: ResponseStart, pieces: Iterator[bytes]) -> None:
    """See that the application gives no more than it has declared. Raises `ValueError`."""
    if _next(pieces):
        raise ValueError(f"the answer declares Content-Length: {start.declared}, its body is longer")


def _check_piece(piece: Any) -> bytes:
    if not isinstance(piece, bytes):
        raise TypeError(f"the application's iterable must give bytes, it gave {type(piece).__name__}: {piece!r:.60}")
    return exact_bytes(piece)


def _whole(request: Request, start: ResponseStart, content: bytes) -> Response:
    """The response with all of its body here; that of HEAD may be absent."""
    _check_started(start)
    bodiless = start.contentless
    if start.declared not in (None, len(content)) and (content or not bodiless):
        raise ValueError(f"the answer declares Content-Length: {start.declared}, its body has {len(content)} bytes")
    if not bodiless or (content and start.status not in CONTENTLESS):
        return start.response(content)
    return start.response(b"" if start.declared is not None else iter(()))


def _check_started(start: ResponseStart) -> None:
    """See that there is a head. Raises `RuntimeError`."""
    if not start.status:
        raise RuntimeError("the application gave a body before it called start_response")


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
        close_body(body)


def _file_part(start: ResponseStart, wrapper: FileWrapper) -> FilePart | None:
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
    name = getattr(file, "name", None)  # the descriptor's number where the file was opened by that
    return FilePart(fd, offset, count, name if isinstance(name, str) else None)


def _is_plain(file: Any) -> bool:
    """Whether reading gives the bytes of a descriptor: a GzipFile has one, too, and gives others."""
    return type(file) is io.FileIO or (
        type(file) in (io.BufferedReader, io.BufferedRandom) and type(file.raw) is io.FileIO
    )
