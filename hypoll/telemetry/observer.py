"""What a server reports about itself: to an access log, to metrics, to hooks. One test for None when nobody listens.

Laws: an observer is notified after the fact and changes nothing; what it raises is logged and costs no request its
answer. A method runs on the loop's thread, and everybody waits for it. Requests are reported at the end of the loop's
turn, all of the turn together: while they are answered, one costs its record and an append.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from hypoll.contracts import CloseReason, Gauges, Timeout
from hypoll.protocol.messages import Request, Response
from hypoll.protocol.peer import NOBODY, Peer

log = logging.getLogger("hypoll.error")


class Record:
    """A request and what became of it: the one record of it, made when the last byte of its answer was sent.

    Attributes:
        request: the request; None: it was refused before its head was whole.
        peer: whom it came from.
        response: what answered it. None: a small JSON answer that was sent without one.
        status: the status that was sent.
        route: the pattern of its route, as `/users/{id:int}`; empty: there was none.
        received: bytes of the request on the wire, head and body.
        sent: bytes of the answer on the wire, head and body, as far as they were sent.
        began: when its first byte came (of an idle connection: when the loop learnt of it).
        ended: when the last byte was given to the kernel. Both are readings of the loop's clock, in seconds, as
            `called` and `returned`.
        end: why the connection ends with it.
        head: bytes of the answer's head; the rest of `sent` is its content, with the framing of chunks.
        name: the id of a refusal; empty: the request has it.
    """

    request: Request | None = None
    peer: Peer = NOBODY
    response: Response | None = None
    status = 200
    route = ""
    received = 0
    sent = 0
    began = 0.0
    ended = 0.0
    end = CloseReason.KEPT
    head = 0
    name = b""

    @property
    def called(self) -> float:
        """When the handler was called; 0: it wasn't."""
        return 0.0 if self.request is None else self.request.called

    @property
    def returned(self) -> float:
        """When it returned."""
        return 0.0 if self.request is None else self.request.returned

    @property
    def id(self) -> str:
        """The id of the request, or of the refusal of what was none."""
        return self.name.decode() or ("" if self.request is None else self.request.id)

    @property
    def client(self) -> str:
        """Whom it is from, by the word of trusted proxies: the address; empty: a unix socket's."""
        return (self.peer.client if self.request is None else self.request.client)[0]


class Traffic(NamedTuple):
    """What went over a WebSocket behind its handshake: messages, and bytes on the wire."""

    messages_received: int
    messages_sent: int
    received: int
    sent: int


class SocketRecord(NamedTuple):
    """A WebSocket that has ended.

    Attributes:
        request: the handshake's.
        route: the pattern of its route; empty: there was none.
        code, reason: why it ended (RFC 6455, 7.1.5).
        traffic: all that went over it.
        began, ended: when the handshake was answered, and when it ended, by the loop's clock.
    """

    request: Request
    route: str
    code: int
    reason: str
    traffic: Traffic
    began: float
    ended: float


class Observer:
    """Is notified of what happens. A subclass has those methods it wants; these do nothing."""

    def on_open(self) -> None:
        """Note that a connection was accepted."""

    def on_requests(self, records: list[Record]) -> None:
        """Note what came of the requests of one turn, and of the refusals of such: each is recorded once."""

    def on_traffic(self, traffic: Traffic) -> None:
        """Note what went over a WebSocket since the last time: about as often as it is pinged, and when it ends."""

    def on_sockets(self, records: list[SocketRecord]) -> None:
        """Note the WebSockets that ended in one turn. Their handshakes are among the requests."""

    def on_shed(self, reason: str) -> None:
        """Note that a connection was refused before it said anything. reason: one word of a few."""

    def on_timeout(self, timeout: Timeout) -> None:
        """Note that a deadline passed."""

    def on_close(self, reason: CloseReason) -> None:
        """Note that a connection is closed."""

    def on_wait(self, seconds: float) -> None:
        """Note how long a call waited for a thread of the pool."""

    def on_tick(self, lag: float, gauges: Gauges) -> None:
        """Note, about once a second, how late the loop is, in seconds, and what there is at the moment."""

    def on_stop(self) -> None:
        """Note that the server has stopped: nothing follows."""


class CallsSoon(Protocol):
    """What is asked of a loop: to call later in the same turn."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call when the events of this turn are through."""


class Observers:
    """What a server reports, to those of its observers that want to know it.

    It has the methods of `Observer`, and gathers the exchanges of a turn.
    """

    on_open: Callable[[], None]
    on_traffic: Callable[[Traffic], None]
    on_shed: Callable[[str], None]
    on_timeout: Callable[[Timeout], None]
    on_close: Callable[[CloseReason], None]
    on_wait: Callable[[float], None]
    on_tick: Callable[[float, Gauges], None]

    def __init__(self, observers: Iterable[Observer], loop: CallsSoon) -> None:
        found = list(observers)
        for name in ("on_open", "on_traffic", "on_shed", "on_timeout", "on_close", "on_wait", "on_tick"):
            setattr(self, name, _notifier(found, name))
        self._on_requests = _notifier(found, "on_requests")
        self._on_sockets = _notifier(found, "on_sockets")
        self._on_stop = _notifier(found, "on_stop")
        self._call_soon = loop.call_soon
        self._pending: list[Record] = []
        self._ended: list[SocketRecord] = []

    def on_requests(self, records: list[Record]) -> None:
        """Take what came of requests; the observers are notified at the end of the turn."""
        if not self._pending:
            self._call_soon(self._flush)
        self._pending += records

    def on_request(self, record: Record) -> None:
        """`on_requests`, of one."""
        pending = self._pending
        if not pending:
            self._call_soon(self._flush)
        pending.append(record)

    def on_socket(self, record: SocketRecord) -> None:
        """Take what came of a WebSocket; the observers are notified at the end of the turn."""
        if not self._ended:
            self._call_soon(self._flush_sockets)
        self._ended.append(record)

    def on_stop(self) -> None:
        """Tell what is left, and that nothing follows."""
        self._flush()
        self._flush_sockets()
        self._on_stop()

    def _flush(self) -> None:
        records, self._pending = self._pending, []
        if records:
            self._on_requests(records)

    def _flush_sockets(self) -> None:
        records, self._ended = self._ended, []
        if records:
            self._on_sockets(records)


def combine_observers(observers: Iterable[Observer], loop: CallsSoon) -> Observers | None:
    """One `Observers` of several observers; None for none."""
    found = list(observers)
    return Observers(found, loop) if found else None


def _notifier(observers: list[Observer], name: str) -> Callable[..., None]:
    """What calls this method of every observer that has one, whatever the others raise."""
    own = getattr(Observer, name)
    methods: list[Callable[..., object]] = [
        getattr(observer, name) for observer in observers if getattr(type(observer), name) is not own
    ]

    def notify(*arguments: Any) -> None:
        for method in methods:
            try:
                method(*arguments)
            except Exception:
                log.exception("%s failed", name)

    return notify
