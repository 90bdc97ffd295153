"""What is recorded of an observed connection. Where nobody observes there is none, and nothing is noted.

Its laws:

- A request is recorded once, when the last byte of its answer was given to the kernel, or will never be.
- Why a connection ends is what was marked first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hypoll.contracts import CloseReason, ConnectionState, Timeout
from hypoll.http import RequestParser
from hypoll.loop import Loop
from hypoll.protocol.messages import Request, Response
from hypoll.telemetry.observer import Observers, Record, SocketRecord, Traffic

CLIENT_CLOSED_REQUEST = 499
"""The status that is recorded of a request whose client left before there was an answer: none was sent."""

TIMEOUTS = {
    ConnectionState.HANDSHAKE: Timeout.HEAD,
    ConnectionState.NEW: Timeout.IDLE,
    ConnectionState.IDLE: Timeout.IDLE,
    ConnectionState.HEAD: Timeout.HEAD,
    ConnectionState.BODY: Timeout.BODY,
    ConnectionState.SKIPPING: Timeout.BODY,
    ConnectionState.SENDING: Timeout.WRITE,
    ConnectionState.FINISHING: Timeout.WRITE,
    ConnectionState.LINGERING: Timeout.LINGER,
    ConnectionState.UPGRADED: Timeout.WEBSOCKET,
}

_END = b"\r\n\r\n"

_KEPT = CloseReason.KEPT


class Output(Protocol):
    """What an instrument looks at of a connection's output: see `hypoll.server.writer.Writer`."""

    buffers: list[Any]
    pulled_bytes: int


class InstrumentContext:
    """What the instruments of one server have in common.

    Args:
        find_pattern: gives the path of a request's route, as declared; None: it has none.
        adds_request_id: whether each answer has its request's id.
    """

    def __init__(
        self,
        observers: Observers,
        loop: Loop,
        find_pattern: Callable[[Request], str | None],
        *,
        adds_request_id: bool = False,
    ) -> None:
        self.observers = observers
        self.adds_request_id = adds_request_id
        self.loop = loop
        self.clock = loop.clock
        self._find_pattern = find_pattern

    def pattern(self, request: Request) -> str:
        """The pattern of a request's route; empty: there is none."""
        found = request.route
        if found is None and request.target:  # a refused one may have none
            found = self._find_pattern(request)
            request.route, request.application_data = found or "", None  # which may be large, and is of no more use
        return found or ""


class Instrument:
    """See the module. records: the answers that are encoded and not sent as a whole."""

    __slots__ = ("_began", "_close_reason", "_context", "_parser", "_upgrade", "records")

    def __init__(self, context: InstrumentContext, parser: RequestParser) -> None:
        self._context = context
        self._parser = parser
        self._began: float | None = None
        self._close_reason: CloseReason | None = None
        self.records: list[Record] = []
        self._upgrade: Record | None = None
        context.observers.on_open()

    def on_first_byte(self) -> None:
        """The first bytes of a request have come, and not all."""
        if self._began is None:
            self._began = self._context.loop.now

    def set_close_reason(self, reason: CloseReason) -> None:
        """Note why the connection ends, if that isn't known yet."""
        if self._close_reason is None:
            self._close_reason = reason

    def on_handler_call(self, request: Request) -> None:
        """A request's handler is about to be called."""
        common = self._context
        request.arrived = common.loop.now
        request.called = common.clock()

    def record_whole(self, request: Request, answer: Response | bytes, head: bytes, body: bytes) -> bytes:
        """Note an answer that is whole; give what is to be sent of it."""
        common = self._context
        request.returned = common.clock()
        if common.adds_request_id:
            head = b"%bX-Request-Id: %b\r\n\r\n" % (head[:-2], request._id or request.assign_id())
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
        record.began = request.arrived if self._began is None else self._take_begin()
        self.records.append(record)
        return piece

    def record(
        self, request: Request | None, response: Response | bytes, out: list[bytes], begin: int, refusal_id: bytes = b""
    ) -> None:
        """Note an answer whose head and, maybe, whose body are in `out` from `begin` on.

        Args:
            request: what was answered; None: the head wasn't whole.
            response: the answer.
            out: the encoded bytes.
            begin: where in `out` those of this answer begin.
            refusal_id: of a refusal; empty: the request has it.
        """
        common, record = self._context, Record()
        if common.adds_request_id:
            out[begin] = with_request_id(out[begin], refusal_id or (b"" if request is None else request.id.encode()))
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
        record.began = arrived or common.loop.now if self._began is None else self._take_begin()
        record.name = refusal_id
        self.records.append(record)

    def _take_begin(self) -> float:
        began, self._began = self._began, None
        assert began is not None
        return began

    def report_whole(self) -> None:
        """The one answer there is was sent as a whole, and the connection goes on."""
        common, record = self._context, self.records.pop()
        record.ended = common.clock()
        common.observers.on_request(record)

    def report(self, reason: CloseReason, writer: Output) -> None:
        """All that was encoded is sent, or will never be; the connection ends with the last of it, unless `KEPT`."""
        records, self.records = self.records, []
        common = self._context
        now = common.clock()
        for record in records:
            record.ended = now
            if not record.received:  # of a request that isn't whole: what came of it
                request = record.request
                record.received = (request is not None and request.size) or self._parser.size
        if reason is not _KEPT:
            record.end = reason
        if writer.pulled_bytes or writer.buffers:
            record.sent = max(0, record.sent + writer.pulled_bytes - sum(map(len, writer.buffers)))
            writer.pulled_bytes = 0
        common.observers.on_requests(records)

    def on_upgrade(self) -> None:
        """The last answer that was recorded is a 101: the connection is a WebSocket's."""
        self._upgrade = self.records[-1]

    def on_traffic(self, traffic: Traffic) -> None:
        """So much went over the WebSocket since the last time."""
        self._context.observers.on_traffic(traffic)

    def on_upgrade_end(self, code: int, reason: str, traffic: Traffic) -> None:
        """The WebSocket has ended."""
        upgrade, self._upgrade = self._upgrade, None
        if upgrade is not None and upgrade.request is not None:
            now = self._context.clock()
            record = SocketRecord(upgrade.request, upgrade.route, code, reason, traffic, upgrade.ended, now)
            self._context.observers.on_socket(record)

    def report_end(self, default: CloseReason, writer: Output) -> None:
        """`report`, with what was marked first."""
        self.report(self._close_reason or default, writer)

    def on_deadline(self, state: ConnectionState) -> None:
        """A state's deadline has passed, and with it the connection's end has come."""
        self._context.observers.on_timeout(TIMEOUTS[state])
        self.set_close_reason(CloseReason.TIMEOUT)

    def on_body_timeout(self) -> None:
        """A handler has waited too long for its request's body."""
        self._context.observers.on_timeout(Timeout.BODY)
        self.set_close_reason(CloseReason.TIMEOUT)

    def on_close(self, busy: bool, draining: bool, given_up: Request | None, writer: Output) -> None:
        """The connection is closed. given_up: the request whose answer nobody waits for any more."""
        reason = self._close_reason or (
            CloseReason.DRAIN if draining else CloseReason.ABORTED if busy else CloseReason.CLIENT
        )
        if given_up is not None and not self.records:
            record = Record()
            record.request, record.peer = given_up, given_up.peer
            record.route = given_up.route or self._context.pattern(given_up)
            record.received = given_up.size
            record.status = CLIENT_CLOSED_REQUEST
            record.began = given_up.called
            given_up.returned = self._context.clock()
            self.records.append(record)
        if self.records:
            self.report(reason, writer)
        self._context.observers.on_close(reason)


def with_request_id(answer: bytes, name: bytes) -> bytes:
    """The beginning of an answer, its head in it, with the field X-Request-Id unless the application has set one."""
    end = answer.index(_END) + 4
    if b"\r\nx-request-id:" in answer[:end].lower():
        return answer
    return b"%bX-Request-Id: %b\r\n%b" % (answer[: end - 2], name, answer[end - 2 :])
