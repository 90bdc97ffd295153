"""Compressing answers on their way out: for whom, which, and in which coding.

Laws: what has a coding already, is a part of something, or must not be changed stays as it is. What was compressed is
another representation: its entity tag is weak, it has no ranges, and Vary says what it was chosen by. A stream's pieces
go out as they come. The loop compresses 64 KiB at a time, and others have their turn in between.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, cast

from hypoll.protocol.bounded import Bounded
from hypoll.protocol.conditional import Outcome, Validators, decide, preferred, quality
from hypoll.protocol.fields import exact_bytes, is_token
from hypoll.protocol.messages import Request, Response, StreamedBody
from hypoll.protocol.open_file import OpenFile
from hypoll.protocol.serializer import check_piece
from hypoll.protocol.slices import Slice
from hypoll.web.codings import Coding, Encoder, find_codings
from hypoll.web.results import close_body
from hypoll.web.routing import RouteError

MIN_SIZE = 500
"""Bytes below which an answer fits a packet either way."""

PIECE_SIZE = 64 * 1024
"""Bytes of a body that are compressed at once on the loop."""

TYPES = (
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/manifest+json",
    "application/wasm",
    "application/x-ndjson",
    "*+json",
    "*+xml",
    "*+text",
    "font/ttf",
    "font/otf",
)
"""Media types that get much smaller; those of images, videos and archives are compressed by themselves."""

_UNTOUCHED = (204, 205, 206, 304)
_DESCRIBED = frozenset(("content-encoding", "content-range", "digest", "content-digest", "repr-digest", "content-md5"))
"""Fields of an answer that speak of its very bytes."""
_OF_CONTENT = ("Content-Type", "Content-Length", "Content-Language", "Content-Disposition")
_LONGEST = 256
"""Characters of an Accept-Encoding that is looked at: browsers send 30."""


class Compression:
    """What `Routes.compress` declares: see there. Raises `RouteError`."""

    def __init__(self, min_size: int, types: Iterable[str]) -> None:
        if isinstance(min_size, bool) or not isinstance(min_size, int) or min_size < 0:
            raise RouteError(f"compress: min_size is a number of bytes, not {min_size!r}")
        self._min_size = min_size
        if isinstance(types, str):
            raise RouteError(f"compress: types takes a list, as in types=[{types!r}]")
        kinds = [_checked_type(kind) for kind in types]
        self._exact = frozenset(kind for kind in kinds if "*" not in kind)
        self._beginnings = tuple(kind[:-1] for kind in kinds if kind.endswith("*"))
        self._endings = tuple(kind[1:] for kind in kinds if kind.startswith("*"))
        self._codings = {coding.name: coding for coding in find_codings()}
        # It costs 2 to 5 microseconds to take one apart, a third of what a small answer costs in all.
        self._weighed: Bounded[str, tuple[list[str], bool]] = Bounded(self._weigh, limit=256, size=_LONGEST)

    def finish(self, request: Request, response: Response, at_once: bool = False) -> Response:
        """The answer in the coding that the request prefers, if it is worth it.

        Args:
            request: what is answered.
            response: the answer, which is changed.
            at_once: whether a body may be compressed as a whole, whatever its size: this isn't the loop.
        """
        size = _size_of(response)
        if size == 0 or not self._is_compressible(response):
            return response
        accepted = request.headers.get("accept-encoding", "")
        names, refuses_identity = self._weighed[accepted] if len(accepted) <= _LONGEST else ([], False)
        small = size is not None and size < self._min_size
        if small and not refuses_identity:
            return response
        if not _varies(response):
            response.headers.vary("Accept-Encoding")
        if not names:
            return response
        encoded = self._encoded(request, response, self._codings[names[0]], at_once)
        encoded.background = response.background
        return encoded

    def _weigh(self, accepted: str) -> tuple[list[str], bool]:
        """The codings that an Accept-Encoding prefers, the most wanted first; and whether it refuses to have none."""
        weights = quality(accepted)
        return preferred(accepted, tuple(self._codings)), weights.get("identity", weights.get("*", 1.0)) == 0

    def _is_compressible(self, response: Response) -> bool:
        if response.status in _UNTOUCHED:
            return False
        names = {name.lower() for name in response.fields or ()}
        if not _DESCRIBED.isdisjoint(names) or "no-transform" in _field(response, "cache-control").lower():
            return False
        body = response.body
        file_fields = body.fields if isinstance(body, OpenFile) else ()
        if any(name == "Content-Encoding" or "no-transform" in value for name, value in file_fields):
            return False
        kind = _type_of(response).partition(";")[0].strip(" \t").lower()
        return kind in self._exact or kind.startswith(self._beginnings) or kind.endswith(self._endings)

    def _encoded(self, request: Request, response: Response, coding: Coding, at_once: bool) -> Response:
        body = response.body
        if isinstance(body, OpenFile):
            response = body.respond(request, response)
            if response.status == 200:
                return self._encoded(request, response, coding, at_once)
            _weaken(response)
            return response
        headers = response.headers
        _weaken(response)
        if isinstance(body, (bytes, bytearray, memoryview, str)) and _is_unchanged(request, response):
            for name in _OF_CONTENT:
                headers.pop(name, None)
            return Response(b"", 304, headers)
        response.content_type = _type_of(response)
        response.body = _encode_body(body, coding, at_once)
        for name in ("Content-Length", "Accept-Ranges"):
            headers.pop(name, None)
        headers["Content-Encoding"] = coding.name
        return response


def _checked_type(kind: str) -> str:
    parts = kind.split("/") if isinstance(kind, str) else []
    wildcard = isinstance(kind, str) and kind.startswith("*+") and is_token(kind[2:])
    if not wildcard and not (len(parts) == 2 and is_token(parts[0]) and is_token(parts[1]) and "*" not in parts[0]):
        raise RouteError(f"compress: a type is as 'text/html', 'text/*' or '*+json', not {kind!r}")
    return kind.lower()


def _field(response: Response, name: str) -> str:
    """A field of an answer, empty if it has none; none is made by asking."""
    return "" if response.fields is None else response.fields.get(name, "")


def _type_of(response: Response) -> str:
    """The media type that an answer will have."""
    given = _field(response, "content-type")
    if given or response.content_type is not None:
        return given or response.content_type or ""
    body = response.body
    if isinstance(body, OpenFile):
        return body.content_type
    return "text/plain; charset=utf-8" if isinstance(body, str) else "application/octet-stream"


def _size_of(response: Response) -> int | None:
    """The size of an answer's content; None: it isn't known, or it is none that can be compressed here: 0."""
    body = response.body
    if isinstance(body, str):
        return len(str.encode(body))
    if isinstance(body, (bytes, bytearray, memoryview)):
        return memoryview(body).nbytes
    if isinstance(body, OpenFile):
        return body.size
    if isinstance(body, Slice):
        return body.count
    if isinstance(body, (StreamedBody, Mapping)) or not isinstance(body, (Iterable, AsyncIterable)):
        return 0
    declared = _field(response, "content-length")
    return int(declared) if declared.isdecimal() and declared.isascii() else None


def _varies(response: Response) -> bool:
    """Whether a file says by itself that it depends on Accept-Encoding."""
    body = response.body
    return isinstance(body, OpenFile) and any("accept-encoding" in value.lower() for _, value in body.fields)


def _weaken(response: Response) -> None:
    """Make the entity tag weak: in another coding the bytes are others (RFC 9110, 8.8.1)."""
    tag = _field(response, "etag")
    if tag and not tag.startswith("W/"):
        response.headers["ETag"] = "W/" + tag


def _is_unchanged(request: Request, response: Response) -> bool:
    """Whether the client has this answer. Its tag is the weak one, which the handler doesn't know."""
    tags, tag = request.headers.get("if-none-match"), response.headers.get("etag")
    if tags is None or tag is None or response.status != 200 or request.method not in ("GET", "HEAD"):
        return False
    return decide("GET", {"if-none-match": tags}, Validators(tag, None), 0)[0] is Outcome.UNCHANGED


def _encode_body(body: Any, coding: Coding, at_once: bool) -> Any:
    encoder = coding.make()
    if isinstance(body, (str, bytes, bytearray, memoryview)):
        data = str.encode(body) if isinstance(body, str) else exact_bytes(body)
        if at_once or len(data) <= PIECE_SIZE:
            return encoder.end(data)
        return EncodedPieces(_cut(data), encoder, coding, flush=False)
    if isinstance(body, Slice):
        if body.count <= PIECE_SIZE:
            try:
                return encoder.end(b"".join(body))
            finally:
                body.release()
        return EncodedPieces(body, encoder, coding, flush=False)
    if isinstance(body, AsyncIterable):
        return AsyncEncodedPieces(body, encoder, coding)
    return EncodedPieces(body, encoder, coding, flush=True)


def _cut(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[at : at + PIECE_SIZE]) for at in range(0, len(data), PIECE_SIZE))


class _Encoded:
    """A body on its way into a coding.

    Attributes:
        heartbeat, interval, ends_with_server: as of a body of `hypoll.sse`.
    """

    def __init__(self, body: Any, encoder: Encoder, coding: Coding, *, flush: bool = True) -> None:
        self._body = body
        self._encoder = encoder
        self._flush = flush
        self._lock = threading.Lock()  # a server that goes away asks for the trailer on the loop's thread
        self._begun = self._ended = self._under_way = False
        if getattr(body, "heartbeat", None) is not None:
            self.heartbeat = coding.silence
            self.interval = getattr(body, "interval", None)
        self.ends_with_server = getattr(body, "ends_with_server", False)

    def trailer(self, written: bool = True) -> bytes | None:
        """What ends the body where the server ends it. None: a piece is under way that has to be written before."""
        with self._lock:
            if self._under_way and not written:
                return None
            return self._end()

    def _begin(self) -> bytes:
        self._begun = True
        return self._encoder.begin() if self._flush else b""

    def _encode(self, piece: bytes) -> bytes | None:
        """A piece; None: the body has been ended."""
        piece = check_piece(piece)
        with self._lock:
            if self._ended:
                return None
            self._under_way = True
            return self._encoder.encode(piece, flush=self._flush) if piece else b""

    def _settle(self) -> None:
        """The piece before is written: another is asked for."""
        with self._lock:
            self._under_way = False

    def _end(self) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        return self._encoder.end()


class EncodedPieces(_Encoded):
    """The pieces of an iterator, each in the coding as soon as it comes."""

    _pieces: Iterator[bytes] | None = None

    def __iter__(self) -> EncodedPieces:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            return self._begin()
        self._settle()
        if self._ended:
            raise StopIteration
        if self._pieces is None:
            self._pieces = iter(self._body)
        for piece in self._pieces:
            encoded = self._encode(piece)
            if encoded is None:
                raise StopIteration
            return encoded
        with self._lock:
            return self._end()

    def close(self) -> None:
        """Close the body."""
        close_body(self._pieces)
        if self._body is not self._pieces:
            close_body(self._body)


class AsyncEncodedPieces(_Encoded):
    """The same of an async iterator."""

    _pieces: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncEncodedPieces:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            return self._begin()
        self._settle()
        if self._ended:
            raise StopAsyncIteration
        if self._pieces is None:
            self._pieces = aiter(cast("AsyncIterable[bytes]", self._body))
        async for piece in self._pieces:
            encoded = self._encode(piece)
            if encoded is None:
                raise StopAsyncIteration
            return encoded
        return self._end()

    async def aclose(self) -> None:
        """Close the body."""
        for body in (self._pieces, self._body if self._body is not self._pieces else None):
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()
