"""What a server tells of itself: to an access log, to metrics, to hooks. Costs one test for None when nobody listens.

Laws: an observer is told after the fact and changes nothing; what it raises is logged and costs no request its answer.
A method runs on the loop's thread, and everybody waits for it. Exchanges are told at the end of the loop's turn, all of
the turn together: while requests are answered, an exchange costs its record and an append.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from hypoll.message import Peer, Request, Response

log = logging.getLogger("hypoll.error")


class End(StrEnum):
    """Why a connection ended; `KEPT`: it goes on."""

    KEPT = ""
    CLIENT = "client"
    """The client asked for it, speaks HTTP/1.0, or closed an idle connection."""
    APPLICATION = "application"
    """The response has `Connection: close`, or its length is told by the end."""
    DRAIN = "drain"
    REFUSED = "refused"
    """The request, or the connection, was refused."""
    TIMEOUT = "timeout"
    """A phase's deadline passed."""
    ABORTED = "aborted"
    """The client left in the middle of a request or an answer."""
    FAILED = "failed"
    """The answer could not be finished: its body failed, or the server did."""


class Timeout(StrEnum):
    """Whose deadline passed."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    WRITE = "write"
    LINGER = "linger"


class Series:
    """What requests have in common of one method, target, header section and client, answered with a plain 200.

    route, client: as in `Record`. counts: where `hypoll.metrics` counts them, once it has found out. beginning: of the
    line that `hypoll.accesslog` writes of one with these sizes, `received` and `sent`; -1: it has written none.
    """

    __slots__ = ("beginning", "client", "counts", "method", "received", "route", "section", "sent", "target")

    def __init__(self, request: Request, route: str, client: str) -> None:
        self.method = request.method
        self.target = request.target
        self.section = request.section
        self.route = route
        self.client = client
        self.counts: Any = None
        self.beginning = b""
        self.received = self.sent = -1


class Record(NamedTuple):
    """A request and what became of it: the one record of it, made when the last byte of its answer was sent.

    request: the request; None: it was refused before its head was whole.
    peer: whom it came from.
    response: what answered it. None: a small JSON answer that was sent without one.
    status: the status that was sent.
    route: the pattern of its route, as `/users/{id:int}`; empty: there was none.
    received: bytes of the request on the wire, head and body.
    sent: bytes of the answer on the wire, head and body, as far as they were sent.
    began: when its first byte came (of an idle connection: when the loop learnt of it).
    called: when the handler was called; 0: it wasn't.
    returned: when it returned.
    ended: when the last byte was given to the kernel. All four are readings of the loop's clock, in seconds.
    end: why the connection ends with it.
    head: bytes of the answer's head; the rest of `sent` is its content, with the framing of chunks.
    name: the id of a refusal; empty: the request has it.
    """

    request: Request | None
    peer: Peer
    response: Response | None
    status: int
    route: str
    received: int
    sent: int
    began: float
    called: float
    returned: float
    ended: float
    end: End = End.KEPT
    head: int = 0
    name: bytes = b""

    @property
    def id(self) -> str:
        """The id of the request, or of the refusal of what was none."""
        return self.name.decode() or ("" if self.request is None else self.request.id)

    @property
    def client(self) -> str:
        """Whom it is from, by the word of trusted proxies: the address; empty: a unix socket's."""
        return (self.peer.client if self.request is None else self.request.client)[0]


class Gauges(NamedTuple):
    """What there is at the moment.

    connections: how many are open, by the name of their phase.
    queue: calls that wait for a thread of the pool. threads: those that are busy. streams: those that have left the
    pool, since they wait for a client or stream for long.
    spool_memory, spool_disk: bytes that wait in the spools.
    """

    connections: Mapping[str, int]
    queue: int = 0
    threads: int = 0
    streams: int = 0
    spool_memory: int = 0
    spool_disk: int = 0


Fields = tuple[
    Request | None, Peer, Response | None, int, str, int, int, float, float, float, float, End, int, bytes
]  # fmt: skip
"""The fields of a `Record`, as observers are told them: a plain tuple is made, and taken apart, in half the time."""

Plain = tuple[Series, bytes, int, int, float, float, float]
"""What a plain exchange adds to its series: the name if somebody asks for it, received, sent, called, returned, ended;
see `Record`. It began with the turn, its status was 200, and the connection goes on."""

make_record: Callable[[Fields], Record] = Record._make
"""The record of its fields, by name."""


class Observer:
    """Is told what happens. A subclass has those methods it wants; these do nothing.

    naming: whether it asks for the id of each request.
    asking: whether it asks for more of each request than its series tells. Where nobody does, plain exchanges are told
    in the short form, by `on_turn`: half of what is made for one otherwise isn't, and no request is kept until the
    turn's end, so that the next takes its memory.
    """

    naming = False
    asking = True

    def on_open(self) -> None:
        """Note that a connection was accepted."""

    def on_exchanges(self, exchanges: list[Fields]) -> None:
        """Note what came of the requests of one turn, and of the refusals of such: each is told once."""

    def on_turn(self, exchanges: list[Fields], plain: list[Plain], began: float) -> None:
        """`on_exchanges`, and those in the short form; `began`: when they did. Told instead, where nobody is asking."""

    def on_shed(self, reason: str) -> None:
        """Note that a connection was refused before it said anything. reason: one word of a few."""

    def on_timeout(self, timeout: Timeout) -> None:
        """Note that a deadline passed."""

    def on_close(self, end: End) -> None:
        """Note that a connection is closed."""

    def on_wait(self, seconds: float) -> None:
        """Note how long a call waited for a thread of the pool."""

    def on_tick(self, lag: float, gauges: Gauges) -> None:
        """Note, about once a second, how late the loop is, in seconds, and what there is at the moment."""

    def on_stop(self) -> None:
        """Note that the server has stopped: nothing follows."""


class Soon(Protocol):
    """What is asked of a loop: to call later in the same turn."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call when the events of this turn are through."""


class Hub:
    """What a server tells, to those of its observers that want to know it.

    It has the methods of `Observer`, but takes exchanges one by one, as they end.
    """

    on_open: Callable[[], None]
    on_shed: Callable[[str], None]
    on_timeout: Callable[[Timeout], None]
    on_close: Callable[[End], None]
    on_wait: Callable[[float], None]
    on_tick: Callable[[float, Gauges], None]

    def __init__(self, observers: Iterable[Observer], loop: Soon) -> None:
        found = list(observers)
        for name in ("on_open", "on_shed", "on_timeout", "on_close", "on_wait", "on_tick"):
            setattr(self, name, _telling(found, name))
        self._on_exchanges = _telling(found, "on_exchanges")
        self._on_turn = _telling(found, "on_turn")
        self._on_stop = _telling(found, "on_stop")
        self._call_soon = loop.call_soon
        self.naming = any(observer.naming for observer in found)
        self.asking = any(observer.asking for observer in found)
        self.pending: list[Fields] = []
        """What the observers will be told at the end of the turn. The first is to be announced by `begin`."""
        self.plain: list[Plain] = []
        """The same in the short form, unless somebody is asking."""
        self.began = 0.0
        """When those did."""

    def on_exchange(self, exchange: Fields) -> None:
        """Take what came of a request; the observers are told at the end of the turn."""
        if not self.pending:
            self.begin()
        self.pending.append(exchange)

    def begin(self) -> None:
        """Have the observers told when the turn ends."""
        self._call_soon(self._flush)

    def on_stop(self) -> None:
        """Tell what is left, and that nothing follows."""
        self._flush()
        self._on_stop()

    def _flush(self) -> None:
        exchanges, plain = self.pending[:], self.plain[:]
        self.pending.clear()
        self.plain.clear()
        if plain or (exchanges and not self.asking):
            self._on_turn(exchanges, plain, self.began)
        elif exchanges:
            self._on_exchanges(exchanges)


def combine(observers: Iterable[Observer], loop: Soon) -> Hub | None:
    """The hub for some observers; None for none."""
    found = list(observers)
    return Hub(found, loop) if found else None


def _telling(observers: list[Observer], name: str) -> Callable[..., None]:
    """What calls this method of every observer that has one, whatever the others raise."""
    own = getattr(Observer, name)
    methods: list[Callable[..., object]] = [
        getattr(observer, name) for observer in observers if getattr(type(observer), name) is not own
    ]

    def tell(*arguments: Any) -> None:
        for method in methods:
            try:
                method(*arguments)
            except Exception:
                log.exception("%s failed", name)

    return tell
