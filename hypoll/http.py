"""HTTP/1.1 without a socket: bytes in, `Request`s out; `Response`s in, bytes out (RFC 9110, RFC 9112).

The laws of the parser:

- httptools (llhttp, strict) sees every byte of a head and checks it, each tab as a space: behind `chunked` it takes
  only the latter, and elsewhere nothing tells them apart. What it lets through and the RFCs don't, `validation.py`
  refuses.
- Of a chunked body it gets the chunks alone, and `chunked.py` checks what is between them.
- It is fed one message at a time and never runs ahead: a head can only end at CRLF CRLF, a body with a length needs no
  parser, and the end of a chunked one is found by us. So that httptools can't pause is never felt, no pipelined
  request is parsed before its turn, and after a refusal no byte is parsed at all.
- A head that is whole and has nothing odd goes the straight way, `RequestParser.feed`: no callback, no memory of what
  clients say but for field names and hosts. All else is taken with care, for as long as it is odd.
- Limits count bytes fed, and what comes of a stream is the same however it was cut when it was received.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from enum import IntEnum
from itertools import repeat
from typing import Any

import httptools

from hypoll.protocol.chunked import Chunks
from hypoll.protocol.header_section import HeaderSection, RawHeaderSection
from hypoll.protocol.messages import (
    FAILURES,
    BodyStore,
    ClientDisconnect,
    HTTPError,
    PlainRequest,
    Request,
    Response,
    StreamedRequest,
    json_response,
    problem,
)
from hypoll.protocol.multidict import Headers, MultiDict
from hypoll.protocol.peer import NOBODY, Peer
from hypoll.protocol.refusals import body_too_large, no_room
from hypoll.protocol.serializer import UNPARSED, Remainder, encode, refresh_date
from hypoll.protocol.validation import (
    BAD_ENCODING,
    METHODS,
    PeerError,
    check_line,
    parse_fields,
    parse_header_section,
    parse_request_line,
    peek_request_line,
    wants_websocket,
)
from hypoll.protocol.vocabulary import CONNECTION, HOST, LENGTH, UNUSUAL, Vocabulary
from hypoll.settings import Settings

__all__ = [
    "FAILURES",
    "ClientDisconnect",
    "HTTPError",
    "Headers",
    "MultiDict",
    "Peer",
    "PeerError",
    "Remainder",
    "Request",
    "RequestParser",
    "Response",
    "State",
    "StreamedRequest",
    "Vocabulary",
    "encode",
    "json_response",
    "problem",
    "refresh_date",
]

HEAD_END = b"\r\n\r\n"

SMALL_BODY = 32 * 1024
"""Bytes of a body up to which httptools sees it with its head, when both came together."""

COMMON_CONNECTION_OPTIONS = {
    blank + word: word == b"close" for blank in (b"", b" ") for word in (b"close", b"keep-alive")
}
"""Whether a Connection field, in lower case, asks for the connection's end, where it has one of the common forms."""

COMPARED_SECTION = 1024
"""Bytes of a header section up to which a connection keeps its last one."""

# To split all lines of a section with no Python code in between.
_partition, _COLONS = bytes.partition, repeat(b":")

LARGE_PIECE = 8 * 1024
"""Bytes of a body that are kept as they came; smaller pieces, which would weigh more than they hold, are joined."""


class State(IntEnum):
    """What the parser is in the middle of."""

    START = 0
    HEAD = 1
    BODY = 2
    DONE = 3
    """No further byte will be parsed: the last request asked to close, or was refused."""

    BLANK = 4
    """A CR came that may be an empty line's: no request has begun, so none of its time runs."""


class _Callbacks:
    """What httptools takes its callbacks from. They are methods of lists: feeding runs no Python code."""

    def __init__(self, chunks: list[Any], unfinished: list[None]) -> None:
        self.on_body = chunks.append
        self.on_message_complete = unfinished.clear


class RequestParser:
    """The requests of one connection.

    `feed` takes what was received and gives the first complete request, `next` the following ones. None: more bytes
    are needed; or, where some are `pending` still, they were many small chunks, and `next` goes on with them. Both
    raise `HTTPError` when the request must be refused and `PeerError` when not even that makes sense; the parser is
    `State.DONE` then, and silent.

    Args:
        settings: the limits `max_head`, `max_line`, `max_field`, `max_headers`, `max_body`.
        peer: whom the requests are from.
        vocabulary: what parsers of equal settings share.
    """

    state = State.START
    incoming: Request | None = None
    """The request whose body is being received."""
    refused: Request | None = None
    """The request that was refused, with what is known of it: the parser is `State.DONE` since then."""
    received = 0
    """Bytes of its body so far, decoded."""
    size = 0
    """Bytes on the wire, so far, of the message that is being received or was refused."""
    streaming = False
    """Whether that body is taken in pieces, by `take`, rather than kept for the request; until it is whole."""
    spool: BodyStore | None = None
    """Where that body is put, until it is whole."""
    pending = b""
    """What was received and no request has used wholly yet, from `_at` on."""
    _at = 0
    _partial = b""
    _fault: str | None = None
    _left = 0
    _chunked: Chunks | None = None
    _body: list[bytes | bytearray | memoryview] | None = None
    _execute: Callable[[bytes], object] | None = None
    """httptools' parser of the messages that don't come in the straight way; made when there is one."""
    _section: HeaderSection | None = None
    """The last one that went the straight way."""
    _chunks: list[bytes | memoryview]
    """What came of a body and was neither kept nor taken."""
    _unfinished: list[None]
    """Emptied by httptools when a message is complete."""

    def __init__(self, settings: Settings, peer: Peer = NOBODY, vocabulary: Vocabulary | None = None) -> None:
        self.peer = peer
        self._settings = settings
        self._vocabulary = Vocabulary(settings) if vocabulary is None else vocabulary
        # What each request looks at, though the class has it: an attribute of an instance is found sooner.
        self.state = State.START
        self.pending = b""
        self._at = 0
        self._section = None

    def next(self) -> Request | None:
        """The next request that is complete in what was fed."""
        return self.feed(b"")

    def feed(self, data: bytes) -> Request | None:  # noqa: C901 - the straight way
        """Take what was received; give the first request it completes.

        The straight way of a head that is here as a whole. Each field costs a search and a look-up, whatever it says.
        What is odd, or not whole, or means more to framing than a length, goes to `_feed_in_general`; that is no loss
        of a check, since httptools sees the same bytes here as there.
        """
        pending, at = self.pending, self._at
        if not pending:
            pending, at = data, 0
        elif data:
            pending, at = pending[at:] + data, 0
        end = pending.find(HEAD_END, at)
        if end < 0 or self.state:
            return self._feed_in_general(pending, at)
        vocabulary = self._vocabulary
        line_end = pending.find(b"\r\n", at)
        try:
            name, target, version = pending[at:line_end].split(b" ")
        except ValueError:
            return self._feed_in_general(pending, at)
        method = METHODS.get(name)
        # Bytes as numbers: `in` is faster so. Those that no target may have httptools looks for.
        if (
            method is None or version != b"HTTP/1.1" or not target or target[0] != 47 or 35 in target
            or (37 in target and BAD_ENCODING.search(target))
            or (end - at > vocabulary.short_head and not vocabulary.within_limits(pending[at:end]))
        ):  # fmt: skip
            return self._feed_in_general(pending, at)
        # A client repeats itself: a section is compared with the connection's last one.
        section: HeaderSection | None = self._section
        block = pending[line_end:end]
        if section is None or block != section.block:
            section = self._read_section(block)
            if section is None:
                return self._feed_in_general(pending, at)
        stop = end + 4
        length = section.length
        if length and length <= SMALL_BODY and stop + length <= len(pending):
            stop += length
        left = len(pending) - stop
        try:
            vocabulary.validate(pending[at:stop] if at or left else pending)
        except BaseException as error:
            vocabulary.renew_parser()
            if not isinstance(error, (httptools.HttpParserError, httptools.HttpParserUpgrade)):
                raise
            return self._feed_in_general(pending, at)
        request = PlainRequest()
        request.method = method
        request.target = target
        request.header_section = section
        request.peer = self.peer
        request.size = stop - at
        if section.close:
            vocabulary.renew_parser()  # which takes nothing more
            request.keep_alive, request.plain = False, False
            self.state = State.DONE
        else:
            request.plain = name != b"HEAD"
        if length:
            if stop == end + 4:  # not all of it is here
                vocabulary.renew_parser()
                return self._feed_body(request, pending, stop)
            request.body = pending[end + 4 : stop]
        if left:
            self.pending, self._at = pending, stop
        elif at:
            self._clear_pending()
        return request

    def _read_section(self, block: bytes) -> HeaderSection | None:
        """Check the field lines of a head. None: with care. It is kept to be compared with the next."""
        vocabulary = self._vocabulary
        names = vocabulary.names
        host = length = close = None
        noted: dict[int, bytes | None] = {}
        lines = block.split(b"\r\n")
        for name, _, value in map(_partition, lines, _COLONS):
            meaning = names[name]
            if meaning > UNUSUAL:
                noted[meaning] = None if meaning in noted else value
            elif meaning:
                if meaning == HOST and host is None:
                    host = vocabulary.hosts[value]
                elif meaning == CONNECTION and value.lower() in COMMON_CONNECTION_OPTIONS:
                    close = close or COMMON_CONNECTION_OPTIONS[value.lower()]
                elif meaning == LENGTH and length is None and len(value) < 20 and value.strip(b" \t").isdigit():
                    length = int(value)
                else:
                    return None
        if not host or (length and length > vocabulary.largest_body) or len(lines) - 1 > vocabulary.most_fields:
            return None
        section = RawHeaderSection()
        section.block, section.host, section.indexed = block, host, noted
        section.length, section.close = length, bool(close)
        if len(block) <= COMPARED_SECTION:
            self._section = section
        return section

    def _feed_body(self, request: Request, pending: bytes, at: int) -> Request | None:
        """Go on with a body of known length, which needs no parser."""
        self.size, request.size = request.size, 0
        self._receive(request, None)
        return self._feed_in_general(pending, at)

    def _feed_in_general(self, pending: bytes, at: int) -> Request | None:
        """`feed`, with a head that comes in pieces or is odd, or with a body."""
        self.pending, self._at = pending, at
        while self._at < len(self.pending):
            if self.state == State.DONE:
                break
            if self.state in (State.START, State.BLANK):
                self.size = 0
            at = self._at
            came = len(self.pending) - at
            try:
                request = self._step_body() if self.state == State.BODY else self._step_head()
            except (HTTPError, PeerError):
                self.size += came  # nothing behind it will be read as another
                raise
            self.size += self._at - at
            if request is not None:
                request.size = self.size
                if self._at == len(self.pending):
                    self._clear_pending()
                return request
            if self._chunked is not None and self._chunked.halted:
                return None
        self._clear_pending()
        return None

    def take(self) -> list[bytes]:
        """What of the body came since the last call, when `streaming`: in one piece, however small the chunks were."""
        chunks = self._chunks
        if not chunks:
            return []
        pieces = [b"".join(chunks)]
        chunks.clear()
        return pieces

    def stream(self) -> list[bytes]:
        """Begin to stream the incoming request's body; give what came of it already."""
        self.streaming = True
        body, self._body = self._body, None
        return ([b"".join(body)] if body else []) + self.take()

    def spool_into(self, spool: BodyStore) -> None:
        """Put the incoming request's body into a spool, what came of it included, which `Request.spooled` will be."""
        self.spool = spool
        came, self._body = self._body, None
        if came:
            self._write_to_spool(spool, b"".join(came))

    def _write_to_spool(self, spool: BodyStore, data: bytes) -> None:
        try:
            spool.force(data)
        except OSError:
            raise self._refuse(no_room()) from None

    def release(self) -> bytes:
        """Parse nothing more: what was received and no request has used is another protocol's."""
        rest = self.pending[self._at :]
        self.state = State.DONE
        self._clear_pending()
        self._section = self._execute = None
        for name in ("_chunks", "_unfinished"):
            with contextlib.suppress(AttributeError):  # not by `__dict__`, which would be made for it
                delattr(self, name)
        return rest

    @property
    def left(self) -> int | None:
        """Bytes of the incoming body still to come; None: only its end will show."""
        return self._left if self._chunked is None else None

    def _clear_pending(self) -> None:
        self.pending = b""
        self._at = 0

    def _feeder(self) -> Callable[[bytes], object]:
        """Of a parser that is in the middle of no message."""
        self._chunks, self._unfinished = [], [None]
        return httptools.HttpRequestParser(_Callbacks(self._chunks, self._unfinished)).feed_data

    @property
    def subject(self) -> Request | None:
        """The request that is being received, or was refused, if its line is known; of one whose method alone is known
        to be HEAD the target is empty.
        """
        if self.refused is not None:
            return None if self.refused is UNPARSED else self.refused
        return self.incoming or self._partial_request(self._partial)

    def _partial_request(self, head: bytes, whole: bool = False) -> Request | None:
        """What is known of a request of whose head so much has come; `whole`: and httptools has taken it."""
        line, newline, block = head.partition(b"\n")
        known = peek_request_line(line.removesuffix(b"\r")) if newline else None
        if known is None:
            return Request("HEAD", b"", HeaderSection(), self.peer) if head.startswith(b"HEAD ") else None
        request = Request(known.method, known.target, HeaderSection(parse_fields(block) if whole else ()), self.peer)
        request.minor = known.minor
        request.authority = known.authority
        return request

    def _refuse(self, error: HTTPError | PeerError, request: Request | None = None) -> HTTPError | PeerError:
        self.refused = request or self.incoming or UNPARSED
        self.state = State.DONE
        self.incoming = None
        self.streaming = False
        self._partial = b""
        self._body = self.spool = None
        self._chunks = []
        self._clear_pending()
        return error

    # the head

    def _step_head(self) -> Request | None:
        """Feed httptools up to where the head may end."""
        if self._partial in (b"", b"\r") and not self._skip_empty_lines():
            return None
        end, found = _boundary(self._partial[-3:], self.pending, self._at)
        room = self._settings.max_head - len(self._partial)
        piece = self.pending[self._at : min(end, self._at + room)]
        fits = self._at + room >= end
        self._at = end
        head = self._partial + piece
        self.state = State.HEAD
        upgrade = False
        if self._fault is None:
            try:
                upgrade = self._feed_head(piece.replace(b"\t", b" "))
            except httptools.HttpParserError as error:
                self._fault = str(error)
        whole = found and fits and head[0] != 10
        if self._fault is not None or (b"\n" in piece and not whole):
            self._validate_line(head)  # a whole head's is checked with it
        if not fits:
            raise self._refuse(self._too_large(head), self._partial_request(head))
        if not found or self._fault is not None:
            self._partial = head
            if head == b"\r":
                self.state = State.BLANK
            return None
        self._partial = b""
        return self._on_head_fed(head, upgrade)

    def _skip_empty_lines(self) -> bool:
        """Pass over empty lines before the request line (RFC 9112, 2.2); they begin no request. False: nothing else."""
        if self._partial:
            if self.pending[self._at] != 10:
                return True
            self._at += 1
            self._partial = b""
            self.state = State.START
        while self.pending.startswith(b"\r\n", self._at):
            self._at += 2
        return self._at < len(self.pending)

    def _feed_head(self, piece: bytes) -> bool:
        """Whether the head asked for an upgrade. Raises `HttpParserError` for what llhttp refuses."""
        if self._execute is None:
            self._execute = self._feeder()
        self._unfinished[:] = [None]
        try:
            self._execute(piece)
        except httptools.HttpParserUpgrade:
            return True
        return False

    def _feed_chunks(self, pieces: Iterable[bytes]) -> None:
        assert self._execute is not None
        try:
            for piece in pieces:
                self._execute(piece)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
                raise error.__context__ from None  # a callback is a list's method: MemoryError
            raise self._refuse(HTTPError(400, f"the body is malformed: {error}")) from None

    def _validate_line(self, head: bytes) -> None:
        """Refuse a bad request line as soon as it is whole, so that the answer is the same however it was split."""
        line, newline, _ = head.partition(b"\n")
        line = line.removesuffix(b"\r")
        try:
            if newline:
                parse_request_line(line)
            else:
                check_line(line)
        except (HTTPError, PeerError) as error:
            raise self._refuse(error, self._partial_request(head)) from None
        if newline and self._fault is not None:
            raise self._refuse(HTTPError(400, f"the request is malformed: {self._fault}"), self._partial_request(head))

    def _too_large(self, head: bytes) -> HTTPError:
        limit = self._settings.max_head
        if b"\n" in head:
            return HTTPError(431, f"the request head is larger than {limit} bytes")
        return HTTPError(414, f"the request target is longer than the {limit} bytes of a request head")

    def _on_head_fed(self, head: bytes, upgrade: bool) -> Request | None:
        """The head is whole: give its request when that needs no body."""
        try:
            request = self._request(head)
            limit = self._max_body_of(request)
        except (HTTPError, PeerError) as error:
            raise self._refuse(error, self._partial_request(head, whole=True)) from None
        section = request.header_section
        if section.chunked:
            if upgrade:
                # httptools takes such a message to end with its head, and its body for the other protocol. hypoll
                # upgrades to none, so the body is HTTP's: a new parser gets just the field that frames it.
                self._execute = self._feeder()
                self._execute(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            self._receive(request, Chunks(limit, self._settings.max_head))
            return None
        if section.length:
            self._receive(request, None)
            return None
        if upgrade:
            self._execute = None  # it takes no other message
            if wants_websocket(request):
                request.upgrade, request.plain = "websocket", False
        if self.state == State.HEAD:
            self.state = State.START
        return request

    def _request(self, head: bytes) -> Request:
        """The request of a whole head. Raises `HTTPError`, `PeerError`."""
        # At the LF, as in `_validate_line`: llhttp lets a bare one end a line without version.
        line, _, block = head.partition(b"\n")
        line = line.removesuffix(b"\r")
        method, target, minor, authority = parse_request_line(line)
        if len(line) > (self._settings.max_line or len(line)):
            raise HTTPError(414, f"the request line is longer than {self._settings.max_line} bytes")
        section = parse_header_section(block, self._settings.max_headers, self._settings.max_field)
        if minor == 1 and section.host is None:
            raise HTTPError(400, "the request has no Host field")
        if minor == 0 and section.chunked:
            raise HTTPError(400, "HTTP/1.0 has no Transfer-Encoding")
        request = Request(method, target, section, self.peer)
        request.minor = minor
        request.authority = authority
        request.keep_alive = not section.close and (minor == 1 or section.keep_alive)
        request.plain = section.plain and minor == 1 and method != "HEAD"
        if section.expect is not None and minor == 1:
            if section.expect != "100-continue":
                raise HTTPError(417, "of the expectations only 100-continue is implemented")
            request.expects_continue = True
        if not request.keep_alive:
            self.state = State.DONE
        return request

    def _max_body_of(self, request: Request) -> int:
        """Bytes that its body may have. Raises `HTTPError` 413 for one that is too large by its length."""
        section, limit, find = request.header_section, self._settings.max_body, self._vocabulary.max_body_of
        if find is not None and (section.length or section.chunked):
            own = find(request)
            limit = limit if own is None else own
        if (section.length or 0) > limit:
            raise body_too_large(limit)
        return limit

    # the body

    def _receive(self, request: Request, chunked: Chunks | None) -> None:
        """Begin with a request's body."""
        self.incoming = request
        self.state = State.BODY
        self.received = 0
        self._left = request.header_section.length or 0
        self._chunked = chunked
        if chunked is None:
            self._chunks, self._execute = [], None

    def _step_body(self) -> Request | None:
        """Take what came of a body, up to where it may end."""
        chunked = self._chunked
        if chunked is None:
            self._take_length()
            done = not self._left
        else:
            done = self._take_chunks(chunked)
        if done:
            return self._on_body_complete()
        self._keep_body()
        return None

    def _take_length(self) -> None:
        data, at = self.pending, self._at
        stop = min(at + self._left, len(data))
        self._at = stop
        self._left -= stop - at
        self.received += stop - at
        if not at and stop == len(data):
            self._chunks.append(data)
        elif stop - at >= LARGE_PIECE:
            self._chunks.append(memoryview(data)[at:stop])  # copied once, when the body is whole
        else:
            self._chunks.append(data[at:stop])

    def _take_chunks(self, chunked: Chunks) -> bool:
        """Feed httptools chunks. Whether they are all of the body."""
        fed, self._at = chunked.pass_over(self.pending, self._at)
        if chunked.fault is not None:
            raise self._refuse(chunked.fault)
        before = len(self._chunks)
        self._feed_chunks(fed)
        self.received += sum(map(len, self._chunks[before:]))
        done = not self._unfinished
        if not chunked.agrees(done, self.received):
            raise self._refuse(HTTPError(400, "the body is malformed: it is not in chunks"))
        return done

    def _keep_body(self) -> None:
        """Keep what came, or put it where it is wanted."""
        if self.streaming or not self._chunks:
            return
        if self.spool is not None:
            self._write_to_spool(self.spool, b"".join(self._chunks))
        else:
            if self._body is None:
                self._body = []
            for chunk in self._chunks:
                _keep(self._body, chunk)
        self._chunks.clear()

    def _on_body_complete(self) -> Request:
        request = self.incoming
        assert request is not None
        if self.spool is not None:
            self._keep_body()
            request.spooled, self.spool = self.spool, None
        elif not self.streaming:
            pieces = [*(self._body or ()), *self._chunks]
            self._chunks.clear()
            self._body = None
            request.body = b"".join(pieces) if len(pieces) != 1 else bytes(pieces[0])
        self.streaming = False
        self._chunked = None
        self.incoming = None
        self.state = State.START if request.keep_alive else State.DONE
        return request


def _keep(body: list[bytes | bytearray | memoryview], piece: bytes | memoryview) -> None:
    """Keep a piece of a body. Small ones are joined: each by itself would weigh many times what it holds."""
    if len(piece) >= LARGE_PIECE:
        body.append(piece)
    elif body and isinstance(body[-1], bytearray):
        body[-1] += piece
    else:
        body.append(bytearray(piece))


def _boundary(tail: bytes, data: bytes, at: int) -> tuple[int, bool]:
    """Behind the first CRLF CRLF from `at` on, or that begins in the `tail` before the data; else the data's end."""
    if tail:
        index = (tail + data[at : at + 3]).find(HEAD_END)
        if index >= 0:
            return at - len(tail) + index + 4, True
    index = data.find(HEAD_END, at)
    return (index + 4, True) if index >= 0 else (len(data), False)
