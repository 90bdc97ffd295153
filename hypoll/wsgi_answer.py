"""What a WSGI application answers (PEP 3333): `start_response`, and what is made of the iterable.

Laws:

- What is wrong with an answer's head is raised to the application, by `start_response`, and not found out later.
- Nothing is sent before the first piece that isn't empty: up to then the application may change its mind.
- The iterable's `close` is called once, whatever became of the request, and on a thread: it may block. (A file's is
  called on the loop.)
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
from functools import lru_cache
from types import TracebackType
from typing import Any
from wsgiref.util import FileWrapper

from hypoll.encode import CONTENTLESS
from hypoll.files import Slice
from hypoll.message import Request, Response, check_field, reason

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


def respond(request: Request, start: Start, body: Iterable[bytes]) -> Response:
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
        close_body(body)
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
        close_body(body)


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
        close_body(wrapper)

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


def close_body(body: Any) -> None:
    """Close what the application has returned, and log what that raises."""
    try:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    except Exception:
        log.exception("closing a response's body failed")
