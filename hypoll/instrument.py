"""What an observed connection is told to note. Where nobody observes there is none, and nothing is noted.

Its laws:

- A request is told once, when the last byte of its answer was given to the kernel, or will never be.
- Why a connection ends is what was marked first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hypoll.contracts import End, Phase, Timeout
from hypoll.http import RequestParser
from hypoll.loop import Loop
from hypoll.message import Request, Response
from hypoll.observe import Hub, Record

GIVEN_UP = 499
"""The status that is told of a request whose client left before there was an answer: none was sent."""

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

_END = b"\r\n\r\n"

_KEPT = End.KEPT


class Output(Protocol):
    """What an instrument looks at of a connection's output: see `hypoll.writer.Writer`."""

    buffers: list[Any]
    pulled: int


class Instruments:
    """What the instruments of one server have in common.

    find: gives the path of a request's route, as declared; None: it has none.
    named: whether each answer tells its request's id.
    """

    def __init__(self, hub: Hub, loop: Loop, find: Callable[[Request], str | None], *, named: bool = False) -> None:
        self.hub = hub
        self.named = named
        self.loop = loop
        self.clock = loop.clock
        self._find = find

    def pattern(self, request: Request) -> str:
        """The pattern of a request's route; empty: there is none."""
        found = request.route
        if found is None and request.target:  # a refused one may have none
            found = self._find(request)
        return found or ""


class Instrument:
    """See the module. records: the answers that are encoded and not sent as a whole."""

    __slots__ = ("_began", "_common", "_end", "_parser", "records")

    def __init__(self, common: Instruments, parser: RequestParser) -> None:
        self._common = common
        self._parser = parser
        self._began: float | None = None
        self._end: End | None = None
        self.records: list[Record] = []
        common.hub.on_open()

    def begin(self) -> None:
        """The first bytes of a request have come, and not all."""
        if self._began is None:
            self._began = self._common.loop.now

    def mark(self, end: End) -> None:
        """Note why the connection ends, if that isn't known yet."""
        if self._end is None:
            self._end = end

    def on_call(self, request: Request) -> None:
        """A request's handler is about to be called."""
        common = self._common
        request.arrived = common.loop.now
        request.called = common.clock()

    def plain(self, request: Request, answer: Response | bytes, head: bytes, body: bytes) -> bytes:
        """Note an answer that is whole; give what is to be sent of it."""
        common = self._common
        request.returned = common.clock()
        if common.named:
            head = b"%bX-Request-Id: %b\r\n\r\n" % (head[:-2], request._name or request.give_name())
        piece = head + body
        record = Record()
        record.request, record.peer = request, request.peer
        if type(answer) is not bytes:
            record.response = answer  # type: ignore[assignment]
            record.status = answer.status  # type: ignore[union-attr]
        record.route = request.route or common.pattern(request)
        record.received = request.size
        record.sent = len(piece)
        record.head = len(head)
        record.began = request.arrived if self._began is None else self._begun()
        self.records.append(record)
        return piece

    def note(
        self, request: Request | None, response: Response | bytes, out: list[bytes], begin: int, name: bytes = b""
    ) -> None:
        """Note an answer whose head and, maybe, whose body are in `out` from `begin` on.

        name: of a refusal; empty: the request has it.
        """
        common, record = self._common, Record()
        if common.named:
            out[begin] = named(out[begin], name or (b"" if request is None else request.id.encode()))
        arrived = 0.0
        record.peer = self._parser.peer
        if request is not None:
            request.returned = common.clock()
            record.request, record.received, arrived = request, request.size, request.arrived
            record.route = request.route or common.pattern(request)
        record.response = response if isinstance(response, Response) else None
        record.status = int(out[begin][9:12])  # what is sent: a response that can't be is another's
        record.sent = sum(map(len, out[begin:]))
        record.head = out[begin].index(_END) + 4
        record.began = arrived or common.loop.now if self._began is None else self._begun()
        record.name = name
        self.records.append(record)

    def _begun(self) -> float:
        began, self._began = self._began, None
        assert began is not None
        return began

    def tell(self, end: End, writer: Output) -> None:
        """All that was encoded is sent, or will never be; the connection ends with the last of it, unless `KEPT`."""
        records, self.records = self.records, []
        common = self._common
        now = common.clock()
        for record in records:
            record.ended = now
            if not record.received:  # of a request that isn't whole: what came of it
                request = record.request
                record.received = (request is not None and request.size) or self._parser.size
        if end is not _KEPT:
            record.end = end
        if writer.pulled or writer.buffers:
            record.sent = max(0, record.sent + writer.pulled - sum(map(len, writer.buffers)))
            writer.pulled = 0
        common.hub.on_exchanges(records)

    def tell_end(self, default: End, writer: Output) -> None:
        """`tell`, with what was marked first."""
        self.tell(self._end or default, writer)

    def on_deadline(self, phase: Phase) -> None:
        """A phase's deadline has passed, and with it the connection's end has come."""
        self._common.hub.on_timeout(TIMEOUTS[phase])
        self.mark(End.TIMEOUT)

    def on_starved(self) -> None:
        """A handler has waited too long for its request's body."""
        self._common.hub.on_timeout(Timeout.BODY)
        self.mark(End.TIMEOUT)

    def close(self, busy: bool, draining: bool, given_up: Request | None, writer: Output) -> None:
        """The connection is closed. given_up: the request whose answer nobody waits for any more."""
        end = self._end or (End.DRAIN if draining else End.ABORTED if busy else End.CLIENT)
        if given_up is not None and not self.records:
            record = Record()
            record.request, record.peer = given_up, given_up.peer
            record.route = given_up.route or self._common.pattern(given_up)
            record.received = given_up.size
            record.status = GIVEN_UP
            record.began = given_up.called
            given_up.returned = self._common.clock()
            self.records.append(record)
        if self.records:
            self.tell(end, writer)
        self._common.hub.on_close(end)


def named(answer: bytes, name: bytes) -> bytes:
    """The beginning of an answer, its head in it, with the field X-Request-Id unless the application has set one."""
    end = answer.index(_END) + 4
    if b"\r\nx-request-id:" in answer[:end].lower():
        return answer
    return b"%bX-Request-Id: %b\r\n%b" % (answer[: end - 2], name, answer[end - 2 :])
