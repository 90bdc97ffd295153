"""The way out: a `Response` to bytes, framed as RFC 9112 (6) asks. Nothing is appended before all of it was checked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from email.utils import formatdate
from enum import Enum
from typing import NamedTuple, cast

from hypoll.protocol.fields import HeaderSource, check_field, exact_bytes, exact_int, lines_of
from hypoll.protocol.files import File
from hypoll.protocol.messages import JSON, Request, Response, StreamedBody, reason
from hypoll.protocol.open_file import OpenFile
from hypoll.protocol.slices import Slice

COPY_LIMIT = 16 * 1024
"""A body up to this size is copied behind its head; a larger one is sent from where it is."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

BODILESS = (204, 304)
"""Final statuses whose response ends with its head, without Content-Length (RFC 9110, 8.6)."""

CONTENTLESS = (204, 205, 304)
"""Final statuses that carry no content (RFC 9110, 15.3 and 15.4)."""

PREFIXES = 256
"""Heads kept prebuilt, by status and Content-Type, until the second ends."""

HEARTBEAT_INTERVAL = 15.0
"""Seconds a body with a heartbeat may be silent."""

HEADS: dict[int, bytes] = {}
"""Heads of JSON answers, by the length of their content, until the second ends; see `json_head`."""

LENGTHS = 1024
"""Lengths of content whose head is kept."""

BEGINNINGS: dict[int, bytes] = {}
"""Beginnings of heads, by status, until the second ends; see `begin_head`."""

SERVER_LINE = b"Server: hypoll\r\n"
"""Of every answer, unless its handler gives another (RFC 9110, 10.2.4)."""

_prefixes: dict[tuple[int, str | None], bytes] = {}
_date = b""


UNPARSED = Request("", b"")
"""Stands for a request that couldn't be parsed, or never came."""


class Remainder(NamedTuple):
    """What is to be known of an answer that isn't whole, or is the last of its connection.

    Attributes:
        stream, async_stream: the framed pieces of its body; of an async iterator, the latter.
        part: the bytes of a file that are its body.
        source: where its pieces come from, which are framed already.
        until_close: whether only the connection's end marks the end of the body.
        end: gives what ends the body, where the server may do that when it goes away; None: it may not.
        heartbeat: seconds without a piece of the stream after which to send the framed bytes, again and again.
    """

    stream: Generator[bytes] | None
    close: bool
    heartbeat: tuple[float, bytes] | None = None
    async_stream: AsyncGenerator[bytes] | None = None
    part: Slice | None = None
    source: StreamedBody | None = None
    until_close: bool = False
    end: Callable[[], bytes] | None = None


_ENDINGS = (b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

CLOSE = Remainder(None, close=True)
"""All that is to be known of an answer that is whole and the last."""

Body = bytes | Slice | StreamedBody | Iterator[bytes] | AsyncIterator[bytes]


def refresh_date(now: float | None = None) -> None:
    """Rebuild the Date field (IMF-fixdate) and the heads that hold it: to be called once a second.

    Args:
        now: seconds since 1970; None: the clock's.
    """
    global _date
    _date = formatdate(time.time() if now is None else now, usegmt=True).encode()
    _prefixes.clear()
    BEGINNINGS.clear()
    HEADS.clear()


def begin_head(status: int) -> bytes:
    """The status line, Server and Date of a head."""
    phrase = reason(status).encode("latin-1")
    BEGINNINGS[status] = beginning = b"HTTP/1.1 %d %b\r\n%bDate: %b\r\n" % (status, phrase, SERVER_LINE, _date)
    return beginning


def json_head(size: int) -> bytes | None:
    """The head of a small JSON answer on a connection that goes on; None when it needs more thought."""
    prefix = _prefixes.get((200, JSON))
    if prefix is None or size > COPY_LIMIT:
        return None
    head = b"%b%d\r\n\r\n" % (prefix, size)
    if len(HEADS) < LENGTHS:
        HEADS[size] = head
    return head


def plain_head(response: Response) -> bytes | None:
    """The head of a small answer on a connection that goes on; None when the response needs more thought.

    Its content is `body`, in bytes, as it is.
    """
    prefix = _prefix_of(response)
    if prefix is None or (size := len(response.body)) > COPY_LIMIT:  # type: ignore[arg-type]
        return None
    return b"%b%d\r\n\r\n" % (prefix, size)


def _prefix_of(response: Response) -> bytes | None:
    """The prebuilt beginning of the head of a plain answer, up to the value of Content-Length."""
    if response.is_plain:
        status, content_type, body = response.status, response.content_type, response.body
        # By type, not by what equals: 200.0 and a str of a class of its own are checked where there is time to.
        if type(body) is bytes and type(status) is int and type(content_type) is str:
            return _prefixes.get((status, content_type))
    return None


def encode(out: list[bytes], response: Response, request: Request, close: bool) -> Remainder | None:
    """Append the response's bytes to `out`.

    Gives None when that was all; else what is to be done after. Raises `ValueError` or `TypeError` for a response
    that can't be sent as it is.

    Args:
        out: takes the bytes.
        response: what is to be sent.
        request: what it answers; `UNPARSED` when there is none.
        close: whether the connection ends with this answer even if the request didn't ask for that.
    """
    prefix = _prefix_of(response)
    if prefix is not None and request.minor and request.method != "HEAD":
        # Only the length is new, and that the connection ends.
        body = cast("bytes", response.body)
        close = close or not request.keep_alive
        if len(body) > COPY_LIMIT:
            out += (b"%b%d%b" % (prefix, len(body), _ENDINGS[close]), body)
        else:
            out.append(b"%b%d%b%b" % (prefix, len(body), _ENDINGS[close], body))
        return CLOSE if close else None
    if isinstance(response.body, (File, OpenFile)):
        file = response.body.whole(request) if request.plain and not close and _is_bare(response) else None
        if file is not None:
            return _encode_file(out, file)
        response = response.body.respond(request, response)
    return _encode_general(out, response, request, close)


def _encode_general(out: list[bytes], response: Response, request: Request, close: bool) -> Remainder | None:
    status = response.status
    if not isinstance(status, int) or not 200 <= (status := exact_int(status)) <= 599:
        raise ValueError(f"{status!r} is not the status of a final response, which is an int from 200 to 599")
    fields, declared, asked = inspect_fields(response.fields)
    if status == 426:
        fields.append(("Connection", "Upgrade"))  # with each Upgrade field (RFC 9110, 7.8)
    body, content_type = content_of(response)
    if isinstance(body, Slice):
        declared = body.count
    has_content = status not in CONTENTLESS and request.method != "HEAD"
    framing = Framing.NONE if status in BODILESS else _framing(body, declared, request.minor, has_content)
    if status == 205:
        framing = Framing.LENGTH  # no content, and that must be stated (RFC 9110, 15.3.6), whatever the body was
    close = close or asked or not request.keep_alive or framing is Framing.CLOSE
    head = b"HTTP/1.1 %d %b\r\n%b" % (
        status,
        (reason(status) if response.reason is None else _checked_reason(response.reason)).encode("latin-1"),
        _field_lines(fields, None if status in BODILESS else content_type),
    )
    if has_content and framing is Framing.LENGTH and response.is_plain:
        _remember(status, content_type, head)
    length = 0 if status == 205 else len(body) if declared is None and isinstance(body, bytes) else declared
    out.append(head + _framing_lines(framing, length, close, request.minor))
    part = None
    if not has_content:
        _release(body)
    elif isinstance(body, Slice):
        part = _sliced(out, body)
    elif not isinstance(body, bytes):
        remainder = _begin(response, body, Framer(framing is Framing.CHUNKED, declared), close)
        return remainder._replace(until_close=True) if framing is Framing.CLOSE else remainder
    elif body:
        out.append(body)
    return Remainder(None, close, part=part) if close or part is not None else None


def _begin(
    response: Response, body: StreamedBody | Iterator[bytes] | AsyncIterator[bytes], framer: Framer, close: bool
) -> Remainder:
    """What is to be done with a body that comes in pieces."""
    if isinstance(body, StreamedBody):
        body.framer = body.framer or framer
        return Remainder(None, close, _heartbeat_of(body, body.framer), source=body, end=_end(body, body.framer))
    beat, end = _heartbeat_of(response.body, framer), _end(response.body, framer)
    if isinstance(body, AsyncIterator):
        return Remainder(None, close, beat, _primed_async(_frame_async(body, framer)), end=end)
    return Remainder(_primed(_frame(body, framer)), close, beat, end=end)


def _end(body: object, framer: Framer) -> Callable[[], bytes] | None:
    if framer.declared is None and getattr(body, "ends_with_server", False):
        trailer: Callable[[], bytes] | None = getattr(body, "trailer", None)
        return framer.end if trailer is None else lambda: framer.piece(trailer()) + framer.end()
    return None


def file_head(file: OpenFile) -> bytes:
    """The head of a whole file."""
    return b"HTTP/1.1 200 OK\r\n%bDate: %b\r\n%b\r\n" % (SERVER_LINE, _date, file.lines)


def encode_file(request: Request, response: Response) -> OpenFile | None:
    """The file that is the whole answer to a plain request and is worth sendfile(2); None: it needs more thought."""
    body = response.body
    if isinstance(body, (OpenFile, File)) and _is_bare(response):
        file = body.whole(request)
        if file is not None and file.size > COPY_LIMIT:
            return file
    return None


def _is_bare(response: Response) -> bool:
    return response.is_plain and response.status == 200 and response.content_type is None


def _encode_file(out: list[bytes], file: OpenFile) -> Remainder | None:
    """The head of a whole file, which is prebuilt."""
    out.append(file_head(file))
    part = _sliced(out, Slice(file, 0, file.size))
    return None if part is None else Remainder(None, close=False, part=part)


def _sliced(out: list[bytes], body: Slice) -> Slice | None:
    """A small slice is copied behind its head: sendfile(2) is the dearer way up to about this size."""
    if body.count > COPY_LIMIT:
        return body
    try:
        out.append(b"".join(body))
    finally:
        body.release()
    return None


def _framing_lines(framing: Framing, length: int | None, close: bool, minor: int) -> bytes:
    """What tells the content's end and the connection's, and the empty line."""
    line = {
        Framing.LENGTH: b"Content-Length: %d\r\n" % (length or 0),
        Framing.CHUNKED: b"Transfer-Encoding: chunked\r\n",
    }.get(framing, b"")
    if close:
        return line + b"Connection: close\r\n\r\n"
    return line + (b"\r\n" if minor else b"Connection: keep-alive\r\n\r\n")


def _remember(status: int, content_type: str | None, head: bytes) -> None:
    if content_type is not None and len(_prefixes) < PREFIXES:
        _prefixes[status, content_type] = head + b"Content-Length: "


class Framing(Enum):
    """How the end of a response's content is marked (RFC 9112, 6.3)."""

    NONE = "no content"
    LENGTH = "Content-Length"
    CHUNKED = "chunked"
    CLOSE = "the connection's end"


def _framing(body: Body, declared: int | None, minor: int, has_content: bool) -> Framing:
    """Choose the framing; `declared` is the response's own Content-Length. Raises `ValueError` when it is wrong."""
    if isinstance(body, bytes):
        if declared is not None and declared != len(body) and (has_content or body):
            raise ValueError(f"the response declares Content-Length: {declared}, its body has {len(body)} bytes")
        return Framing.LENGTH
    if declared is not None:
        return Framing.LENGTH
    if not has_content:
        return Framing.NONE
    return Framing.CHUNKED if minor else Framing.CLOSE


def content_of(response: Response) -> tuple[Body, str | None]:
    """The body as bytes or an iterator, and its Content-Type."""
    body, content_type = response.body, response.content_type
    if content_type is not None:
        _, content_type = check_field("Content-Type", content_type)
    if isinstance(body, str):
        return str.encode(body), "text/plain; charset=utf-8" if content_type is None else content_type
    if isinstance(body, (bytes, bytearray, memoryview)):
        body = exact_bytes(body)
        default = "application/octet-stream" if body else None
        return body, default if content_type is None else content_type
    if isinstance(body, Slice):
        return body, content_type
    if isinstance(body, StreamedBody):
        return body, "application/octet-stream" if content_type is None else content_type
    try:
        if isinstance(body, Mapping):
            raise TypeError
        found = aiter(body) if isinstance(body, AsyncIterable) else iter(cast("Iterable[bytes]", body))
        return found, "application/octet-stream" if content_type is None else content_type
    except TypeError:
        raise TypeError(f"a response's body is bytes, str or an iterator of bytes, not {type(body).__name__}") from None


def _checked_reason(phrase: str) -> str:
    return check_field("reason", phrase)[1]


def inspect_fields(headers: HeaderSource | None) -> tuple[list[tuple[str, str]], int | None, bool]:
    """The fields to send as they are, the declared Content-Length, and whether it asks to close.

    Raises `ValueError` or `TypeError`.
    """
    fields: list[tuple[str, str]] = []
    declared: int | None = None
    close = False
    for name, value in lines_of(headers):
        match name.lower():
            case "transfer-encoding":
                raise ValueError("Transfer-Encoding is the server's to set: give an iterator as the body to be chunked")
            case "content-length":
                if declared is not None or not value.isdecimal() or not value.isascii():
                    raise ValueError(f"Content-Length: {value!r} is not one decimal number")
                declared = int(value)
            case "connection":
                # A field of the connection, not of the response: the one thing a handler may ask is its end.
                close = close or "close" in (option.strip().lower() for option in value.split(","))
            case _:
                fields.append((name, value))
    return fields, declared, close


def _field_lines(fields: Iterable[tuple[str, str]], content_type: str | None) -> bytes:
    """Field lines: Server and Date unless given, Content-Type unless given, then `fields`."""
    names = {name.lower() for name, _ in fields}
    lines = []
    if "server" not in names:
        lines.append(SERVER_LINE)
    if "date" not in names:
        lines.append(b"Date: %b\r\n" % _date)
    if content_type and "content-type" not in names:
        lines.append(b"Content-Type: %b\r\n" % content_type.encode("latin-1"))
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in fields]
    return b"".join(lines)


class Framer:
    """Frames a body's pieces: in chunks (RFC 9112, 7.1), or as they are, held against the declared length if any."""

    __slots__ = ("chunked", "declared", "sent")

    def __init__(self, chunked: bool, declared: int | None) -> None:
        self.chunked = chunked
        self.declared = declared
        self.sent = 0

    @property
    def left(self) -> int | None:
        """Bytes that the declared length still wants; None: none is declared."""
        return None if self.declared is None else self.declared - self.sent

    def piece(self, piece: bytes) -> bytes:
        """A piece, framed. Raises `ValueError` before a byte too many, `TypeError` for what isn't bytes."""
        piece = check_piece(piece)
        self.sent += len(piece)
        if self.declared is not None and self.sent > self.declared:
            raise ValueError(f"the body is longer than its Content-Length: {self.declared}")
        # An empty chunk would be the last. It is given on as nothing: skipping it here might never end.
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked and piece else piece

    def wrap(self, count: int) -> tuple[bytes, bytes]:
        """What goes before and behind a piece of so many bytes that is sent from elsewhere. Raises as `piece` does."""
        self.sent += count
        if self.declared is not None and self.sent > self.declared:
            raise ValueError(f"the body is longer than its Content-Length: {self.declared}")
        return (b"%x\r\n" % count, b"\r\n") if self.chunked and count else (b"", b"")

    def end(self) -> bytes:
        """What tells the end: the last chunk, only when nothing failed. Raises `ValueError` when bytes are missing."""
        if self.declared is not None and self.sent < self.declared:
            raise ValueError(f"the body ended after {self.sent} bytes, its Content-Length is {self.declared}")
        return b"0\r\n\r\n" if self.chunked else b""


def framer_of(response: Response, request: Request) -> Framer:
    """How the pieces of a response's body are framed, if it has content. Raises `ValueError`, `TypeError`."""
    _, declared, _ = inspect_fields(response.fields)
    return Framer(declared is None and request.minor > 0, declared)


def _heartbeat_of(body: object, framer: Framer) -> tuple[float, bytes] | None:
    """What to send while the body has nothing, framed; see `hypoll.sse`."""
    heartbeat: bytes | None = getattr(body, "heartbeat", None)
    if heartbeat is None or framer.declared is not None:
        return None
    interval: float | None = getattr(body, "interval", None)
    return HEARTBEAT_INTERVAL if interval is None else interval, framer.piece(heartbeat)


def _primed(stream: Generator[bytes]) -> Generator[bytes]:
    """Go to the first, empty piece: closing a generator that was never begun would not close the body."""
    next(stream)
    return stream


def _primed_async(stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    with contextlib.suppress(StopIteration):
        stream.__anext__().send(None)
    return stream


def _frame(pieces: Iterator[bytes], framer: Framer) -> Generator[bytes]:
    try:
        yield b""
        for piece in pieces:
            yield framer.piece(piece)
        yield framer.end()
    finally:
        _release(pieces)


async def _frame_async(pieces: AsyncIterator[bytes], framer: Framer) -> AsyncGenerator[bytes]:
    try:
        yield b""
        async for piece in pieces:
            yield framer.piece(piece)
        yield framer.end()
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


def check_piece(piece: bytes) -> bytes:
    """A piece of a body as bytes. Raises `TypeError` for what is none."""
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        # As a list of what is to be JSON does, which a handler may return as it is, or as (value, status, headers).
        raise TypeError(f"the iterator of a response's body gives bytes, not {type(piece).__name__}")
    return exact_bytes(piece)


def _release(body: Body) -> None:
    """Close a generator or a file that nobody will pull any more."""
    close = getattr(body, "close", None)
    if close is not None:
        close()


refresh_date()
