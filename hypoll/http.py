"""HTTP/1.1 without a socket: bytes in, `Request`s out; `Response`s in, bytes out (RFC 9110, RFC 9112).

The laws of the parser:

- httptools (llhttp, strict) sees every byte of a head and judges it, each tab as a space: behind `chunked` it takes
  only the latter, and elsewhere nothing tells them apart. What it lets through and the RFCs don't, `head.py` refuses.
- Of a chunked body it gets the chunks alone, and `chunked.py` judges what is between them.
- It is fed one message at a time and never runs ahead: a head can only end at CRLF CRLF, a body with a length ends at
  its length, and the end of a chunked one is found by us. So that httptools can't pause is never felt, no pipelined
  request is parsed before its turn, and after a refusal no byte is parsed at all.
- No field is cut from a head by a callback. Request lines and header sections that repeat are judged once by us; by
  httptools always.
- Limits count bytes fed, and what comes of a stream is the same however it was cut when it was received.
"""

from __future__ import annotations

from enum import IntEnum

import httptools

from hypoll.chunked import Chunks, body_too_large
from hypoll.encode import UNPARSED, Rest, encode, refresh_date
from hypoll.head import METHODS, PeerError, check_line, glance, header_section, parse_fields, request_line
from hypoll.message import (
    FAILURES,
    NOBODY,
    ClientDisconnect,
    Deferred,
    Headers,
    HTTPError,
    Kind,
    MultiDict,
    Peer,
    PlainRequest,
    Request,
    Response,
    Section,
    StreamedRequest,
    json_response,
    problem,
)
from hypoll.settings import Settings
from hypoll.spool import Spool

__all__ = [
    "FAILURES",
    "ClientDisconnect",
    "Deferred",
    "HTTPError",
    "Headers",
    "Kind",
    "Known",
    "MultiDict",
    "Peer",
    "PeerError",
    "Request",
    "RequestParser",
    "Response",
    "Rest",
    "State",
    "StreamedRequest",
    "encode",
    "json_response",
    "problem",
    "refresh_date",
]

HEAD_END = b"\r\n\r\n"

SECTIONS = 256
"""Header sections remembered, of at most `SECTION_SIZE` bytes each; then all are forgotten."""

SECTION_SIZE = 2048

LINES = 1024
"""Request lines remembered, of at most `LINE_SIZE` bytes each; then no more until the next second."""

LINE_SIZE = 256

QUICK_BODY = 32 * 1024
"""Bytes of a body up to which it may come whole with its head."""

SIMPLE_LINE_SIZE = 2048
"""Bytes of a request line up to which it may be judged in the short way."""

PLAIN_METHODS = {name: text for name, text in METHODS.items() if text != "HEAD"}
"""The methods whose answer carries content."""

_VERSION = b" HTTP/1.1\r\n"


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

    def __init__(self, chunks: list[bytes], unfinished: list[None]) -> None:
        self.on_body = chunks.append
        self.on_message_complete = unfinished.clear


class Known:
    """What parsers of equal settings have judged already, in bounded memory.

    sections: header sections, by their bytes. bare: those of them after which no body comes.
    lines: method and target of request lines, by their bytes before the version.
    execute: httptools' own judgement of a whole request, its body included. It has no callbacks, and keeps nothing from
    one to the next.
    """

    __slots__ = ("bare", "execute", "lines", "sections")

    def __init__(self) -> None:
        self.renew()
        self.sections: dict[bytes, Section] = {}
        self.bare: dict[bytes, Section] = {}
        self.lines: dict[bytes, tuple[str, bytes]] = {}

    def renew(self) -> None:
        """Begin with another parser: one that has raised is of no further use."""
        self.execute = httptools.HttpRequestParser(None).feed_data

    def add_section(self, block: bytes, section: Section) -> None:
        """Remember a section that goes with any request line of HTTP/1.1, unless it is a large one."""
        if len(block) > SECTION_SIZE:
            return
        if len(self.sections) >= SECTIONS:
            self.sections.clear()
            self.bare.clear()
        section.shared = True
        self.sections[block] = section
        if section.bodiless:
            self.bare[block] = section

    def add_line(self, line: bytes, known: tuple[str, bytes]) -> None:
        """Remember a line, unless it is a long one or there are enough. Where none repeats that costs little."""
        if len(self.lines) < LINES and len(line) <= LINE_SIZE:
            self.lines[line] = known

    def tidy(self) -> None:
        """Make room for other lines: to be called once a second."""
        if len(self.lines) >= LINES:
            self.lines.clear()


class RequestParser:
    """The requests of one connection.

    `feed` takes what was received and gives the first complete request, `next` the following ones. None: more bytes
    are needed; or, where some are `pending` still, they were many small chunks, and `next` goes on with them. Both
    raise `HTTPError` when the request must be refused and `PeerError` when not even that makes sense; the parser is
    `State.DONE` then, and silent.

    settings: the limits `max_head`, `max_line`, `max_field`, `max_headers`, `max_body`.
    peer: whom the requests are from.
    known: the memory of what was judged, to be shared by parsers of equal settings.
    """

    __slots__ = (
        "_at",
        "_bare",
        "_body",
        "_chunked",
        "_chunks",
        "_execute",
        "_fault",
        "_known",
        "_largest_body",
        "_left",
        "_lines",
        "_longest_line",
        "_partial",
        "_sections",
        "_settings",
        "_unfinished",
        "incoming",
        "peer",
        "pending",
        "received",
        "refused",
        "spool",
        "state",
        "streaming",
        "used",
    )

    def __init__(self, settings: Settings, peer: Peer = NOBODY, known: Known | None = None) -> None:
        self.peer = peer
        self.state = State.START
        self.incoming: Request | None = None
        """The request whose body is being received."""
        self.refused: Request | None = None
        """The request that was refused, with what is known of it: the parser is `State.DONE` since then."""
        self.received = 0
        """Bytes of its body so far, decoded."""
        self.used = 0
        """Bytes used so far, but for requests that were whole in one `feed` by themselves."""
        self.streaming = False
        """Whether that body is taken in pieces, by `take`, rather than kept for the request; until it is whole."""
        self.spool: Spool | None = None
        """Where that body is put, until it is whole."""
        self._settings = settings
        self._known = Known() if known is None else known
        self._lines = self._known.lines
        longest = min(SIMPLE_LINE_SIZE, settings.max_head - SECTION_SIZE - len(_VERSION))
        if settings.max_line:
            longest = min(longest, settings.max_line - len(b" HTTP/1.1"))
        # A line up to this size passes no limit, and no head of it and a known section does.
        self._longest_line = longest
        self._bare = self._known.bare if longest >= LINE_SIZE else {}
        self._sections = self._known.sections if longest >= LINE_SIZE else {}
        self._largest_body = min(settings.max_body, QUICK_BODY)
        self.pending = b""
        """What was received and no request has used wholly yet, from `_at` on."""
        self._at = 0
        self._partial = b""
        self._fault: str | None = None
        self._left = 0
        self._chunked: Chunks | None = None
        self._body: bytearray | None = None
        self._chunks: list[bytes] = []
        # Emptied by httptools when a message is complete, filled before it is fed one that may not be.
        self._unfinished: list[None] = [None]
        self._renew()

    def feed(self, data: bytes) -> Request | None:
        """Take what was received; give the first request it completes."""
        request = self.quick(data)
        return self.add(data) if request is None else request

    def quick(self, data: bytes) -> Request | None:
        """Give the request that the data are, if nothing about it is new or special.

        None: nothing was taken, the data are to be given to `add`. Such a request is plain, its body, if it has one,
        came whole with it, and it is by itself: nothing is pending before or after it.
        """
        # The hot path: that the line is a line and the section a section, known or seen, tells that this is one head
        # and nothing else.
        line, _, block = data.partition(_VERSION)
        section = self._bare.get(block) or self._with_body(block)
        if section is None or self.state or self.pending:
            return None
        known = self._lines.get(line)
        if known is None:
            known = self._simple_line(line)
            if known is None:
                return None
        execute = self._known.execute
        try:
            execute(data)
        except BaseException as error:
            self._known.renew()
            self._lines.pop(line, None)
            if not isinstance(error, (httptools.HttpParserError, httptools.HttpParserUpgrade)):
                raise
            return None  # to be judged again, with care
        request = PlainRequest()
        request.method, request.target = known
        request.section = section
        request.peer = self.peer
        request.plain = True
        if section.length:
            request.body = data[-section.length :]
        return request

    def _with_body(self, block: bytes) -> Section | None:
        """The section at the beginning of the block, if it is known and the rest is just its body."""
        fields, end, body = block.partition(HEAD_END)
        section = self._sections.get(fields + end)
        if section is None or section.length != len(body) or len(body) > self._largest_body:
            return None
        return section

    def _simple_line(self, line: bytes) -> tuple[str, bytes] | None:
        """The method and the target of a line that is seen at a glance to be well-formed, but for single bytes."""
        name, _, target = line.partition(b" ")
        method = PLAIN_METHODS.get(name)
        # Space, #, % and LF as numbers: `in` is faster so. The other bytes are left to httptools.
        if (
            method is None or not target.startswith(b"/") or len(line) > self._longest_line
            or 32 in target or 35 in target or 37 in target or 10 in target
        ):  # fmt: skip
            return None
        known = method, target
        self._known.add_line(line, known)
        return known

    def add(self, data: bytes) -> Request | None:
        """Take what `quick` didn't; give the first request it completes."""
        if self.pending:
            data = self.pending[self._at :] + data
        self.pending = data
        self._at = 0
        return self.next()

    def next(self) -> Request | None:
        """The next request that is complete in what was fed."""
        while self._at < len(self.pending):
            if self.state == State.DONE:
                break
            at = self._at
            request = self._step_body() if self.state == State.BODY else self._step_head()
            self.used += self._at - at
            if request is not None:
                if self._at == len(self.pending):
                    self._forget()
                return request
            if self._chunked is not None and self._chunked.halted:
                return None
        self._forget()
        return None

    def take(self) -> list[bytes]:
        """What of the body came since the last call, when `streaming`: in one piece, however small the chunks were."""
        pieces = [b"".join(self._chunks)] if self._chunks else []
        self._chunks.clear()
        return pieces

    def stream(self) -> list[bytes]:
        """Begin to stream the incoming request's body; give what came of it already."""
        self.streaming = True
        pieces = [] if self._body is None else [bytes(self._body)]
        self._body = None
        return pieces + self.take()

    def spool_into(self, spool: Spool) -> None:
        """Put the incoming request's body into a spool, what came of it included, which `Request.spooled` will be."""
        self.spool = spool
        came, self._body = self._body, None
        if came:
            self._put_into(spool, bytes(came))

    def _put_into(self, spool: Spool, data: bytes) -> None:
        try:
            spool.force(data)
        except OSError:
            raise self._refused(no_room()) from None

    @property
    def left(self) -> int | None:
        """Bytes of the incoming body still to come; None: only its end will tell."""
        return self._left if self._chunked is None else None

    def _forget(self) -> None:
        self.pending = b""
        self._at = 0

    def _renew(self) -> None:
        self._unfinished[:] = [None]
        self._execute = httptools.HttpRequestParser(_Callbacks(self._chunks, self._unfinished)).feed_data

    @property
    def subject(self) -> Request | None:
        """The request that is being received, or was refused, if its line is known; of one whose method alone is known
        to be HEAD the target is empty.
        """
        if self.refused is not None:
            return None if self.refused is UNPARSED else self.refused
        return self.incoming or self._begun(self._partial)

    def _begun(self, head: bytes, whole: bool = False) -> Request | None:
        """What is known of a request of whose head so much has come; `whole`: and httptools has taken it."""
        line, newline, block = head.partition(b"\n")
        known = glance(line.removesuffix(b"\r")) if newline else None
        if known is None:
            return Request("HEAD", b"", Section(), self.peer) if head.startswith(b"HEAD ") else None
        request = Request(known.method, known.target, Section(parse_fields(block) if whole else ()), self.peer)
        request.minor = known.minor
        request.authority = known.authority
        return request

    def _refused(self, error: HTTPError | PeerError, request: Request | None = None) -> HTTPError | PeerError:
        self.refused = request or self.incoming or UNPARSED
        self.state = State.DONE
        self.incoming = None
        self.streaming = False
        self._partial = b""
        self._body = self.spool = None
        self._chunks.clear()
        self._forget()
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
        self._unfinished[:] = [None]
        if self._fault is None:
            try:
                upgrade = self._feed_httptools(piece.replace(b"\t", b" "))
            except httptools.HttpParserError as error:
                self._fault = str(error)
        whole = found and fits and head[0] != 10
        if self._fault is not None or (b"\n" in piece and not whole):
            self._judge_line(head)  # a whole head's is judged with it
        if not fits:
            raise self._refused(self._too_large(head), self._begun(head))
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

    def _feed_httptools(self, piece: bytes) -> bool:
        """Whether the head asked for an upgrade. Raises `HttpParserError` for what llhttp refuses."""
        try:
            self._execute(piece)
        except httptools.HttpParserUpgrade:
            return True
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # a callback is a list's method: MemoryError
        return False

    def _judge_line(self, head: bytes) -> None:
        """Refuse a bad request line as soon as it is whole, so that the answer is the same however it was split."""
        line, newline, _ = head.partition(b"\n")
        line = line.removesuffix(b"\r")
        try:
            if newline:
                request_line(line)
            else:
                check_line(line)
        except (HTTPError, PeerError) as error:
            raise self._refused(error, self._begun(head)) from None
        if newline and self._fault is not None:
            raise self._refused(HTTPError(400, f"the request is malformed: {self._fault}"), self._begun(head))

    def _too_large(self, head: bytes) -> HTTPError:
        limit = self._settings.max_head
        if b"\n" in head:
            return HTTPError(431, f"the request head is larger than {limit} bytes")
        return HTTPError(414, f"the request target is longer than the {limit} bytes of a request head")

    def _on_head_fed(self, head: bytes, upgrade: bool) -> Request | None:
        """The head is whole: give its request when that needs no body."""
        try:
            request = self._request(head)
            if upgrade or self._unfinished:
                self._begin_body(request, upgrade)
        except (HTTPError, PeerError) as error:
            raise self._refused(error, self._begun(head, whole=True)) from None
        if self.incoming is not None:
            return None
        if self.state == State.HEAD:
            self.state = State.START
        return request

    def _request(self, head: bytes) -> Request:
        """The request of a whole head. Raises `HTTPError`, `PeerError`."""
        # At the LF, as in `_judge_line`: llhttp lets a bare one end a line without version.
        line, _, block = head.partition(b"\n")
        line = line.removesuffix(b"\r")
        method, target, minor, authority = request_line(line)
        if len(line) > (self._settings.max_line or len(line)):
            raise HTTPError(414, f"the request line is longer than {self._settings.max_line} bytes")
        section = self._known.sections.get(block)
        if section is None:
            section = header_section(block, self._settings.max_headers, self._settings.max_field)
        if minor == 1 and section.host is None:
            raise HTTPError(400, "the request has no Host field")
        if minor == 0 and section.chunked:
            raise HTTPError(400, "HTTP/1.0 has no Transfer-Encoding")
        request = Request(method, target, section, self.peer)
        request.minor = minor
        request.authority = authority
        request.keep_alive = not section.close and (minor == 1 or section.persist)
        request.plain = section.plain and minor == 1 and method != "HEAD"
        if section.expect is not None and minor == 1:
            if section.expect != "100-continue":
                raise HTTPError(417, "of the expectations only 100-continue is implemented")
            request.expects_continue = True
        if not request.keep_alive:
            self.state = State.DONE
        elif minor == 1 and section.plain:
            self._known.add_section(block, section)
        return request

    # the body

    def _begin_body(self, request: Request, upgrade: bool) -> None:
        section = request.section
        if upgrade:
            # httptools takes a message with an upgrade to end with its head, and its body for the other protocol.
            # hypoll upgrades to none, so the body is HTTP's: a new parser gets just the fields that frame it.
            self._renew()
            if not section.chunked and not section.length:
                return
            framing = (
                b"Transfer-Encoding: chunked" if section.chunked else b"Content-Length: %d" % (section.length or 0)
            )
            self._execute(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        if section.length is not None and section.length > self._settings.max_body:
            raise body_too_large(self._settings.max_body)
        self.incoming = request
        self.state = State.BODY
        self.received = 0
        self._left = section.length or 0
        limits = self._settings
        self._chunked = Chunks(limits.max_body, limits.max_head) if section.chunked else None

    def _step_body(self) -> Request | None:
        """Feed httptools up to where the body may end."""
        data, at, chunked = self.pending, self._at, self._chunked
        fault = None
        if chunked is None:
            self._at = min(at + self._left, len(data))
            self._left -= self._at - at
            fed = [data[at : self._at]]
        else:
            fed, self._at = chunked.pass_over(data, at)
            fault = chunked.fault
        if fault is not None:
            raise self._refused(fault)
        try:
            for piece in fed:
                self._feed_httptools(piece)
        except httptools.HttpParserError as error:
            raise self._refused(HTTPError(400, f"the body is malformed: {error}")) from None
        self.received += sum(map(len, self._chunks))
        done = not self._unfinished
        if chunked is not None and not chunked.agrees(done, self.received):
            raise self._refused(HTTPError(400, "the body is malformed: it is not in chunks"))
        if done:
            return self._on_body_complete()
        self._gather()
        return None

    def _gather(self) -> None:
        if self.streaming:
            return
        if self.spool is not None:
            self._put_into(self.spool, b"".join(self._chunks))
            self._chunks.clear()
            return
        if self._body is None:
            self._body = bytearray()
        for chunk in self._chunks:
            self._body += chunk
        self._chunks.clear()

    def _on_body_complete(self) -> Request:
        request = self.incoming
        assert request is not None
        if self.spool is not None:
            self._gather()
            request.spooled, self.spool = self.spool, None
        elif not self.streaming:
            rest = b"".join(self._chunks)
            self._chunks.clear()
            if self._body is not None:
                self._body += rest
                rest = bytes(self._body)
            request.body = rest
            self._body = None
        self.streaming = False
        self.incoming = None
        self.state = State.START if request.keep_alive else State.DONE
        return request


def no_room() -> HTTPError:
    """The refusal of a body for which the process has no room left."""
    return HTTPError(503, "the server has no room for the body now: try again later", {"Retry-After": "1"})


def _boundary(tail: bytes, data: bytes, at: int) -> tuple[int, bool]:
    """Behind the first CRLF CRLF from `at` on, or that begins in the `tail` before the data; else the data's end."""
    if tail:
        index = (tail + data[at : at + 3]).find(HEAD_END)
        if index >= 0:
            return at - len(tail) + index + 4, True
    index = data.find(HEAD_END, at)
    return (index + 4, True) if index >= 0 else (len(data), False)
