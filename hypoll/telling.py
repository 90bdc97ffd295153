"""A connection that is observed: the same, and tells a hub what it does. Without a hub there is no such connection, so
that observing costs nothing when it is off.

Its laws:

- A request is told once, when the last byte of its answer was given to the kernel, or will never be.
- Why a connection ends is what was marked first.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import NamedTuple

from hypoll import tracing
from hypoll.answers import failure
from hypoll.connection import _IDLE, _PLAIN_EDGE, Connection
from hypoll.encode import JSON_HEADS, NAMED_HEADS, encode_json, encode_named, encode_plain
from hypoll.http import Deferred, HTTPError, Kind, Peer, PeerError, Request, Response, Rest, State
from hypoll.message import FAILURES, NOTHING, Section
from hypoll.observe import End, Hub, Series, Timeout
from hypoll.output import PeerGone
from hypoll.phases import Phase, Rule
from hypoll.shared import READ_SIZE, Shared
from hypoll.writer import BodyError

# Plain names: see `hypoll.connection`.
_heads, _named_heads = JSON_HEADS, NAMED_HEADS
_KEPT = End.KEPT
_END = b"\r\n\r\n"
_NONE = Series(Request("", b""), "", "")

GIVEN_UP = 499
"""The status that is told of a request whose client left before there was an answer: none was sent."""

REMEMBERED = 1024
"""Patterns of routes, and series, that are remembered, of targets of at most `REMEMBERED_SIZE` bytes; then no more
until the next second."""

REMEMBERED_SIZE = 128

TIMEOUTS = {
    Phase.HANDSHAKE: Timeout.HEAD,
    Phase.NEW: Timeout.IDLE,
    Phase.IDLE: Timeout.IDLE,
    Phase.HEAD: Timeout.HEAD,
    Phase.BODY: Timeout.BODY,
    Phase.SKIPPING: Timeout.BODY,
    Phase.SENDING: Timeout.WRITE,
    Phase.FINISHING: Timeout.WRITE,
    Phase.LINGERING: Timeout.LINGER,
}


class _Draft(NamedTuple):
    """What is known of a request once its answer is encoded."""

    request: Request | None
    response: Response | None
    status: int
    received: int
    size: int
    head: int
    began: float
    called: float
    returned: float
    name: bytes = b""


class Told:
    """What the observed connections of one server have in common.

    Has the times of each handler's call noted on its request, where the hot path doesn't note them itself.

    named: whether each answer tells its request's id. naming, asking: see `Observer`.
    """

    def __init__(self, shared: Shared, hub: Hub) -> None:
        self.hub = hub
        self.plain = hub.plain
        self.named = shared.settings.request_id
        self.naming = self.named or hub.naming
        self.asking = hub.asking
        self.loop = shared.loop
        self.clock = shared.loop.clock
        self._find: Callable[[Request], str | None] = getattr(shared.application, "pattern", lambda request: None)
        self._patterns: dict[tuple[str, bytes], str] = {}
        self._series: dict[tuple[str, bytes, Section, str], Series] = {}
        self.answer = shared.answer
        shared.answer = self._timed
        shared.told = self

    def pattern(self, request: Request) -> str:
        """The pattern of a request's route; empty: there is none. It is looked up once for targets that repeat."""
        key = request.method, request.target
        found = self._patterns.get(key)
        if found is None:
            found = (request.target and self._find(request)) or ""  # a refused one may have none
            if len(self._patterns) < REMEMBERED and len(request.target) <= REMEMBERED_SIZE:
                self._patterns[key] = found
        return found

    def find_series(self, request: Request, address: str, direct: bool) -> Series:
        """The series of a plain request. direct: the client has this address, whatever the request says."""
        # `request.client`, without a call where no proxy has anything to say.
        client = address if direct or request.section.origin is NOTHING else request.client[0]
        key = request.method, request.target, request.section, client
        series = self._series.get(key)
        if series is None:
            series = Series(request, self.pattern(request), client)
            if len(self._series) < REMEMBERED and len(request.target) <= REMEMBERED_SIZE and request.section.shared:
                self._series[key] = series
        return series

    def tidy(self) -> None:
        """Make room for what is asked for now: once a second."""
        for remembered in (self._patterns, self._series):
            if len(remembered) >= REMEMBERED:
                remembered.clear()

    def _timed(self, request: Request) -> Response | bytes | Deferred:
        request.arrived = self.loop.now
        request.called = self.clock()
        try:
            return self.answer(request)
        finally:
            request.returned = self.clock()


class TellingConnection(Connection):
    """See the module."""

    __slots__ = (
        "address",
        "began",
        "direct",
        "drafts",
        "end",
        "last_read",
        "series",
        "told",
        "used",
    )

    def __init__(self, shared: Shared, sock: socket.socket, peer: Peer) -> None:
        told = shared.told
        assert told is not None
        self.told: Told = told
        self.series = _NONE
        """Of the last plain request."""
        self.address = peer.client[0]
        self.direct = peer.origin is None
        """Whether the peer's own address is the client's, whatever its requests say."""
        self.began: float | None = None
        self.drafts: list[_Draft] = []
        self.end: End | None = None
        self.last_read = 0
        self.used = 0
        super().__init__(shared, sock, peer)
        told.hub.on_open()

    def on_events(self, events: int) -> None:  # noqa: C901 - one path, without calls on it
        """The hot path of `Connection.on_events`, observed; what is different goes the same ways as there."""
        if events != _PLAIN_EDGE or self.phase is not _IDLE:
            super().on_events(events)
            return
        try:
            # Not in functions of their own: each call costs, and this may cost little more than unobserved. The
            # benchmark's row of all observers holds it.
            shared, told = self.shared, self.told
            try:
                data = self.sock.recv(READ_SIZE)
            except BlockingIOError:
                self.readable = False
                return
            except OSError as error:
                raise PeerGone from error
            size = len(data)
            request = self.parser.quick(data)
            known = request is not None
            if request is None or shared.draining:
                request = request or self.parser.add(data)
                if request is None or not request.plain or self.parser.pending or size == READ_SIZE or shared.draining:
                    self._on_request(data, request)
                    self.pump()
                    return
                self.used = self.parser.used
            section = request.section
            name = b""
            if told.naming:
                # `request.give_name`, without a call where the section is known to give none.
                name = section.given or (request.give_name() if section.given is None else next(tracing.names))
                request._name = name
            clock, handle = told.clock, told.answer
            called = clock()
            context = shared.context.copy()
            try:
                answer = context.run(handle, request)
            except FAILURES as error:
                answer = failure(request, error)
            returned = clock()
            payload = response = None
            if type(answer) is bytes:
                if told.named:
                    start = _named_heads.get(len(answer))
                    payload = encode_named(answer, name) if start is None else start + name + _END + answer
                else:
                    start = _heads.get(len(answer))
                    payload = encode_json(answer) if start is None else start + answer
            elif isinstance(answer, Response):
                response = answer
                if answer.status == 200:
                    payload = encode_named(answer, name) if told.named else encode_plain(answer)
            if payload is None:
                request.arrived, request.called, request.returned = shared.loop.now, called, returned
                self.last_read = size
                self._answer(request, answer, context)
                self.pump()
                return
            try:
                sent = self.sock.send(payload)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise PeerGone from error
            whole = len(payload)
            now = shared.loop.now
            if sent < whole:
                head = whole - _content_size(answer)
                self.drafts.append(_Draft(request, response, 200, size, whole, head, now, called, returned))
                self.writer.buffers.append(memoryview(payload)[sent:])
                self._enter(Phase.SENDING)
                return
            self.deadline = now + shared.keep_alive
            if told.asking or not known:
                told.hub.on_exchange((
                    request, request.peer, response, 200, told.pattern(request), size, sent,
                    now, called, returned, clock(), _KEPT, sent - _content_size(answer), b"",
                ))  # fmt: skip
                return
            # The same objects, as of lines and sections that are remembered, are the same series.
            series = self.series
            if (
                request.target is not series.target
                or section is not series.section
                or request.method is not series.method
            ):
                series = self.series = told.find_series(request, self.address, self.direct)
            plain = told.plain
            if not plain:
                told.hub.began = now
                told.hub.begin()
            plain.append((series, name, size, sent, called, returned, clock()))
        except Exception as error:
            self._on_failure(error)

    # what is noted

    def mark(self, end: End) -> None:
        """Note why the connection ends, if that isn't known yet."""
        if self.end is None:
            self.end = end

    def _note_read(self, data: bytes) -> None:
        self.last_read = len(data)
        super()._note_read(data)

    def _await_more(self) -> None:
        if self.began is None and self.parser.state in (State.HEAD, State.BODY):
            self.began = self.shared.loop.now
        super()._await_more()

    def _received(self) -> int:
        """Bytes of the request that was parsed last. One that is a read of its own the parser doesn't count."""
        before, self.used = self.used, self.parser.used
        return self.used - before or self.last_read

    def _draft(self, request: Request | None, response: Response | bytes, out: list[bytes], name: bytes = b"") -> None:
        began, self.began = self.began, None
        now = self.told.clock()
        self.writer.pulled = 0
        self.drafts.append(
            _Draft(
                request,
                response if isinstance(response, Response) else None,
                int(out[0][9:12]),  # what is sent: a response that can't be is another's
                self._received(),
                sum(map(len, out)),
                out[0].index(b"\r\n\r\n") + 4,
                (getattr(request, "arrived", 0.0) or self.shared.loop.now) if began is None else began,
                getattr(request, "called", 0.0),
                getattr(request, "returned", now),
                name,
            )
        )

    def _encode(self, out: list[bytes], request: Request, response: Response | bytes, kind: Kind) -> Rest | None:
        begin = len(out)
        rest = super()._encode(out, request, response, kind)
        if self.told.named:
            out[begin] = named(out[begin], request.id.encode())
        self._draft(request, response, out[begin:])
        return rest

    def _encode_refusal(self, out: list[bytes], response: Response, request: Request | None, name: str) -> None:
        begin = len(out)
        super()._encode_refusal(out, response, request, name)
        if self.told.named:
            out[begin] = named(out[begin], name.encode())
        self._draft(request, response, out[begin:], name.encode())

    def respond(self, answer: Response | bytes) -> None:
        """`Connection.respond`."""
        if self.exchange is not None:
            self.exchange.request.returned = self.told.clock()
        super().respond(answer)

    def _deliver(self, out: list[bytes], rest: Rest | None, context: Context | None) -> None:
        if rest is not None and rest.close and self.drafts:
            request = self.drafts[-1].request
            if self.shared.draining:
                self.mark(End.DRAIN)
            elif request is not None and not request.keep_alive:
                self.mark(End.CLIENT)
            else:
                self.mark(End.APPLICATION)
        super()._deliver(out, rest, context)

    def _on_body_error(self, error: BodyError) -> None:
        self.mark(End.FAILED)
        super()._on_body_error(error)

    def _cut(self) -> None:
        if self.drafts:
            self._tell(self.end or End.FAILED)
        super()._cut()

    # what is told

    def _tell(self, end: End) -> None:
        """All that was encoded is sent, or will never be."""
        drafts, self.drafts = self.drafts, []
        told, now = self.told, self.told.clock()
        waiting = sum(map(len, self.writer.buffers))
        for at, draft in enumerate(drafts):
            last = at == len(drafts) - 1
            sent = max(0, draft.size + self.writer.pulled - waiting) if last else draft.size
            request = draft.request
            pattern = "" if request is None else told.pattern(request)
            peer = self.parser.peer if request is None else request.peer
            record = (
                request, peer, draft.response, draft.status, pattern, draft.received, sent,
                draft.began, draft.called, draft.returned, now, end if last else End.KEPT, draft.head, draft.name,
            )  # fmt: skip
            told.hub.on_exchange(record)

    def _go_on(self) -> None:
        if self.drafts:
            self._tell(End.KEPT)
        super()._go_on()

    def _on_sent(self) -> None:
        if self.drafts and self.phase is Phase.FINISHING:
            self._tell(self.end or End.APPLICATION)
        super()._on_sent()

    def _on_rule(self, rule: Rule | None) -> None:
        self.told.hub.on_timeout(TIMEOUTS[self.phase])
        self.mark(End.TIMEOUT)
        super()._on_rule(rule)

    def _starve_out(self) -> None:
        self.told.hub.on_timeout(Timeout.BODY)
        super()._starve_out()

    def refuse(self, error: HTTPError, owed: Iterable[bytes] = ()) -> None:
        """`Connection.refuse`."""
        self.mark(End.REFUSED)
        super().refuse(error, owed)

    def _on_failure(self, error: Exception) -> None:
        if not isinstance(error, HTTPError):
            gone = isinstance(error, PeerGone)
            self.mark(End.ABORTED if gone else End.REFUSED if isinstance(error, PeerError) else End.FAILED)
        super()._on_failure(error)

    def close(self) -> None:
        """`Connection.close`."""
        if self.phase is Phase.CLOSED:
            return
        busy = self.phase not in (Phase.NEW, Phase.IDLE)
        end = self.end or (End.DRAIN if self.shared.draining else End.ABORTED if busy else End.CLIENT)
        exchange = self.exchange
        if exchange is not None and exchange.started and not self.drafts:
            self.drafts.append(self._given_up(exchange.request))
        if self.drafts:
            self._tell(end)
        super().close()
        self.told.hub.on_close(end)

    def _given_up(self, request: Request) -> _Draft:
        now = self.told.clock()
        called = getattr(request, "called", now)
        return _Draft(request, None, GIVEN_UP, self._received(), 0, 0, called, called, now)


def _content_size(answer: Response | bytes | Deferred) -> int:
    """Of what is sent in one piece."""
    return len(answer.body if isinstance(answer, Response) else answer)  # type: ignore[arg-type]


def named(answer: bytes, name: bytes) -> bytes:
    """The beginning of an answer, its head in it, with the field X-Request-Id unless the application has set one."""
    end = answer.index(b"\r\n\r\n") + 4
    return answer if b"\r\nx-request-id:" in answer[:end].lower() else _insert(answer, end, name)


def _insert(answer: bytes, end: int, name: bytes) -> bytes:
    """A field more at the end of the head, which has so many bytes."""
    return b"%bX-Request-Id: %b\r\n%b" % (answer[: end - 2], name, answer[end - 2 :])
