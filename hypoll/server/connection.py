"""One connection: readiness, states and deadlines, back-pressure. Sockets and HTTP meet only here.

Its laws:

- An edge is reported once. `readable` remembers it until a read comes back short, which for a stream socket means
  drained (epoll(7)); whoever stops before that comes back by `reschedule`, once a turn however many edges are reported
  meanwhile.
- Registered once for IN, OUT and RDHUP, edge-triggered; that is the one `epoll_ctl` of a connection's life, unless its
  peer goes on sending while a handler is at work elsewhere.
- All output goes through `writer`, in order. Its deadline is `write_timeout` after the kernel last took something, or
  after something began to wait.
- What an error means depends on where it came from: those of the socket are `PeerGone`, what the application raises is
  answered and logged where it is called.
- While output waits for the peer, or a request for its handler, nothing is read and no request handled: the peer's own
  pace is the limit. Only what a `stream=True` handler asks for is read.
- One state at a time; its deadline, status and reason stand in `ConnectionState`. `enter_state` is the one place that
  begins its time anew.
- Every refusal of a request goes through `refuse`; every end through `close`, and nothing leads out of CLOSED.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from contextvars import Context

from hypoll.concurrency.forks import keep_out
from hypoll.contracts import STATE_OF_PARSER, Answer, CloseReason, ConnectionState, HandlerCall, Upgrade
from hypoll.http import RequestParser, State
from hypoll.loop import ERR, HUP, IN, OUT, RDHUP, has_forked
from hypoll.protocol.current_request import calls_application
from hypoll.protocol.messages import FAILURES, HTTPError, Request, Response
from hypoll.protocol.peer import Peer
from hypoll.protocol.refusals import no_room
from hypoll.protocol.serializer import CLOSE, HEADS, Remainder, json_head, plain_head
from hypoll.protocol.validation import PeerError
from hypoll.server.context import BODY_READ_SIZE, READ_SIZE, READS_PER_TURN, ServerContext
from hypoll.server.ending import (
    LINGER_IN_DRAIN,
    begin_linger,
    discard_input,
    end_idle,
    end_stream,
    fail_body,
    finish,
    time_out,
)
from hypoll.server.exchange import Exchange, PlainExchange
from hypoll.server.receiving import (
    begin_body,
    check_half_closed_peer,
    discard_rest_of_body,
    has_room,
    is_streaming_body,
    lacks_body,
    on_body_progress,
    plan_deadline,
    probe_peer,
    read_body,
    send_interim,
    start,
    time_out_body,
)
from hypoll.server.refusing import refuse
from hypoll.server.sending import begin_remainder, hand_over, is_late, queue_answer, send_last
from hypoll.server.socket_io import PeerGone, receive, reset
from hypoll.server.transport import TURN_SIZE, TLSSocket, reason_of
from hypoll.server.waiting import continue_handshake, respond_in_general
from hypoll.server.writer import BodyError, Outcome, Writer
from hypoll.telemetry.instrument import Instrument
from hypoll.web.results import failure

MOST_PIECES = 64
"""Pieces of pipelined answers, one or two each, made for one send: a handler's time is everybody's."""

NEW_GRACE = 1.0
"""Seconds a connection that has not sent a byte is kept when a drain begins."""

log = logging.getLogger("hypoll.error")


# Plain names: an Enum's attribute costs the hot path two look-ups more, and a method of an imported name, or of what an
# attribute holds, is looked up anew with each call (CPython 3.11 and 3.12).
_heads = HEADS
_IDLE = ConnectionState.IDLE
_KEPT = CloseReason.KEPT
_WAITING = ConnectionState.WAITING

_GONE = ERR | HUP
_INPUT = IN | RDHUP
_PLAIN_EDGE = IN | OUT


class Connection:
    """One accepted, non-blocking stream socket, to its close.

    Args:
        watched: whether edges are reported to it at once; else by `read_first`.
    """

    watched = False
    """Whether the loop reports edges to it."""
    readable = False
    half_closed = False
    rescheduled = False
    input_disarmed = False
    paused_at: float | None = None
    """Since when a body isn't read because the spools have no room."""
    exchange: Exchange | None = None
    """The request whose handler works elsewhere, until its answer is sent."""
    instrument: Instrument | None = None
    """What records it, where somebody observes."""
    upgrade: Upgrade | None = None
    """What it was handed to by an answer 101."""
    tls: TLSSocket | None = None
    """Its socket, where that speaks TLS."""

    def __init__(self, context: ServerContext, sock: socket.socket, peer: Peer, *, watched: bool = True) -> None:
        self.context = context
        self.sock = sock
        self.parser = RequestParser(context.settings, peer, context.vocabulary)
        self.state = ConnectionState.NEW
        self.state_since = context.loop.now
        self.deadline = self.state_since + context.keep_alive
        self.writer = Writer()
        # What each request looks at, though the class has it: an attribute of an instance is found sooner.
        self.exchange = self.instrument = self.tls = None
        self.readable = self.half_closed = False
        if watched:
            self.watch()
        context.connections.add(self)
        if context.instruments is not None:
            self.instrument = Instrument(context.instruments, self.parser)
        if isinstance(sock, TLSSocket):
            self.tls = sock
            self.writer.send_size = TURN_SIZE
            self.enter_state(ConnectionState.HANDSHAKE)

    # edges

    def watch(self) -> None:
        """Watch for edges; those that are there already are reported at once (epoll_ctl(2)). Raises `LoopError`."""
        self.context.loop.register(self.sock.fileno(), self.on_events)
        self.watched = True

    def read_first(self) -> None:
        """Answer what has come with the connection, if it has; then watch for more. Raises `LoopError`."""
        if self.tls is None:
            try:
                data = receive(self.sock, READ_SIZE)
                if data is not None:
                    self.state = _IDLE
                    self._on_request(data, self.parser.feed(data))
                    self.process_input()
            except Exception as error:
                self.on_failure(error)
        if self.state is not ConnectionState.CLOSED:
            self.watch()

    def on_events(self, events: int) -> None:
        """Take an edge. A connection that fails is closed, never left behind."""
        try:
            if events != _PLAIN_EDGE or self.state is not _IDLE:
                self._on_edge(events)
                return
            # An idle connection is sent something, and can be sent something.
            try:
                data = self.sock.recv(READ_SIZE)
            except BlockingIOError:
                self.readable = False
                return
            except OSError as error:
                raise PeerGone from error
            request = self.parser.feed(data)
            if request is not None and len(data) < READ_SIZE and self.tls is None:
                self.answer(request)
                if not self.parser.pending:
                    return
            else:
                self._on_request(data, request)
            self.process_input()
        except Exception as error:
            self.on_failure(error)

    def on_failure(self, error: Exception) -> None:
        """The one place that knows what an exception means for the connection."""
        keep_out(error.__cause__ if isinstance(error, BodyError) else None)  # a forked child's sockets fail
        gone = isinstance(error, PeerGone)
        if self.instrument is not None and not isinstance(error, HTTPError):
            self.instrument.set_close_reason(
                CloseReason.ABORTED
                if gone
                else CloseReason.REFUSED
                if isinstance(error, PeerError)
                else CloseReason.FAILED
            )
        if self.tls is not None and gone and isinstance(error.__cause__, OSError):
            log.debug("%s closed: %s", self.parser.peer.client, reason_of(error.__cause__))
        if isinstance(error, HTTPError):
            self.refuse(error)
        elif isinstance(error, BodyError):
            fail_body(self, error)
        elif isinstance(error, PeerError):
            self.run_guarded(begin_linger, self)  # it speaks something else; what was answered before that is still its
        elif gone:
            self.close()
        else:
            self.close()
            log.error("a connection failed", exc_info=error)

    def run_guarded(self, step: Callable[..., object], *args: object) -> None:
        """Take a step that no edge is the reason of, and close when it fails, as `on_events` does."""
        try:
            step(*args)
        except Exception as error:
            self.on_failure(error)

    # turns and states

    def reschedule(self) -> None:
        """Go on when the other connections had their turn: no edge will come."""
        if not self.rescheduled:
            self.rescheduled = True
            self.context.loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.rescheduled = False
        self.on_events(0)

    def enter_state(self, state: ConnectionState) -> None:
        """Enter a state: the one place that changes it where its time begins anew."""
        if self.state is ConnectionState.CLOSED:
            return  # a handler has stopped the server under its own request
        self.state = state
        # Not the turn's time: a handler that took long in this turn has not used up its client's.
        self.state_since = self.context.loop.time()
        self.deadline = self.state_since + self.context.state_seconds[state]

    def on_deadline(self) -> None:
        """The state has lasted too long: refuse, or close."""
        if self.paused_at is not None:
            self.refuse(no_room())
            return
        if self.upgrade is not None:
            self.upgrade.on_deadline()
            return
        writer = self.writer
        if (
            self.exchange is not None
            and self.exchange.waits_for_body
            and (self.state is _WAITING or not writer.buffers)
        ):
            time_out_body(self)
        elif self.state is _WAITING:
            probe_peer(self)
        elif writer.source is not None and writer.heartbeat is not None and not writer.buffers:
            writer.write_heartbeat()
            self._resume_writing_now()
        else:
            time_out(self)

    def extend_deadline(self, seconds: float) -> None:
        """Let the peer have so many seconds more, in which the server didn't run."""
        self.deadline += seconds
        self.state_since += seconds
        if self.paused_at is not None:
            self.paused_at += seconds
        if self.exchange is not None:
            self.exchange.extend_deadline(seconds)
        elif self.upgrade is not None:
            self.upgrade.extend_deadline(seconds)

    def refuse(self, error: HTTPError, owed: Iterable[bytes] = ()) -> None:
        """Say why, and close. `owed`: the answers before it, encoded."""
        refuse(self, error, owed)

    def drain(self) -> None:
        """The server is going away: this connection's next answer is its last.

        Who has had none since may have sent a request already, which an end would lose: it is waited for a moment.
        """
        server = self.context
        now = server.loop.time()
        if self.state is ConnectionState.HANDSHAKE:
            self.deadline = min(self.deadline, now + NEW_GRACE)
        elif self.state is ConnectionState.IDLE:
            if not server.drain.keeps_idle:
                end_idle(self)
        elif self.state is ConnectionState.NEW:
            end_idle(self)
            # Accepted and not heard from: its first request is likely on the way.
            self.deadline = min(self.deadline, now + NEW_GRACE)
        elif self.state is ConnectionState.LINGERING:
            self.deadline = min(self.deadline, now + LINGER_IN_DRAIN)
        elif self.upgrade is not None:
            self.upgrade.on_drain()
        elif self.exchange is not None and self.exchange.on_drain():
            pass
        elif end_stream(self):
            self._resume_writing_now()

    def close(self) -> None:
        """Close the socket and let go of everything. Closing twice does nothing."""
        state = self.state
        if state is ConnectionState.CLOSED:
            return
        if self.tls is not None and not self.writer.has_output:
            # Where something of an answer is missing there is no goodbye: that tells the peer.
            with contextlib.suppress(OSError):
                self.tls.notify_close()
        try:
            self.state = ConnectionState.CLOSED
            server, exchange = self.context, self.exchange
            if self.instrument is not None:
                given_up = exchange.request if exchange is not None and exchange.started else None
                busy = state not in (ConnectionState.NEW, ConnectionState.IDLE)
                self.instrument.on_close(busy, server.draining, given_up, self.writer)
            server.lingering.pop(self, None)
            server.connections.discard(self)  # first: who sees the close may ask how many there are
            if self.watched:
                server.loop.forget(self.sock.fileno())
            if self.writer.until_close and self.writer.has_output:
                # The connection's end is the body's: a part of it must not look whole.
                reset(self.sock)
            if has_forked():
                with contextlib.suppress(OSError):  # the peer may have ended it
                    self.sock.shutdown(socket.SHUT_RDWR)
        finally:
            self.sock.close()  # also when an interrupt comes in between: nobody would come back to it
        self.exchange = None
        if exchange is not None:
            exchange.abandon()
        self.writer.clear()
        upgrade, self.upgrade = self.upgrade, None
        if upgrade is not None:
            upgrade.on_close()
        server.on_close(self)

    # the way in

    def _on_edge(self, events: int) -> None:  # noqa: C901 - who gets an edge, as one page
        if self.state is ConnectionState.HANDSHAKE:
            if events & (_GONE | RDHUP) or not (events and is_late(self)):
                continue_handshake(self, events)
            else:
                self.reschedule()
            return
        if self.upgrade is not None:
            self.upgrade.on_events(events)
            return
        if events & _GONE and self.state is not ConnectionState.LINGERING:
            # Both directions are gone: nobody will read an answer. (A lingering connection has shut down its own, and
            # the peer's end is what it waits for.)
            self.close()
            return
        half_closes = events & RDHUP and not self.half_closed
        if half_closes:
            # A half-close: the peer still reads what is owed.
            self.half_closed = True
            if self.exchange is not None:
                self.exchange.on_half_close()
        if events & _INPUT:
            self.readable = True
        if self.rescheduled and events and not half_closes:
            # It had its turn: a peer that makes edges must not get one more for each. A half-close comes only once.
            return
        if events and not half_closes and is_late(self):
            self.reschedule()
        elif self.state.takes_input:
            self.process_input()
        elif self.state is ConnectionState.LINGERING:
            discard_input(self)
        elif self.state is not ConnectionState.CLOSED:
            self._on_edge_while_busy(events, bool(half_closes))

    def _on_edge_while_busy(self, events: int, half_closes: bool) -> None:
        """A request has not been answered whole yet."""
        if self.exchange is not None and self.exchange.request_body is not None:
            read_body(self)
        if self.state is not ConnectionState.WAITING:
            self.resume_writing()
            self.process_input()
            return
        if half_closes:
            check_half_closed_peer(self)
        send_interim(self)
        if events & _INPUT and self.state is ConnectionState.WAITING and not is_streaming_body(self):
            # The peer goes on sending, and isn't read: no more of that is reported, only its end (EPOLLONESHOT).
            self.input_disarmed = True
            self.context.loop.rearm(self.sock.fileno(), 0 if self.half_closed else RDHUP)

    def process_input(self) -> None:
        """Receive, handle and answer until drained, blocked on output, or out of turn."""
        parser = self.parser
        for _ in READS_PER_TURN:
            if not self.state.takes_input:
                return
            if parser.pending:
                self.answer(discard_rest_of_body(self, parser.next()))
            elif self.readable:
                size = BODY_READ_SIZE if (parser.left or 0) > READ_SIZE else READ_SIZE
                if parser.spool is not None:
                    if not has_room(self, parser.spool):
                        return
                    size = min(size, max(READ_SIZE, parser.spool.room))
                data = receive(self.sock, size)
                if data is None:
                    self.readable = False
                    return
                self._on_request(data, discard_rest_of_body(self, parser.feed(data)), size)
            else:
                return
        self.reschedule()

    def _on_request(self, data: bytes, request: Request | None, size: int = READ_SIZE) -> None:
        """`data` was received, of `size` bytes that were asked for, and completed `request`, or none."""
        self.note_read(data, size)
        if data:
            self.answer(request)
        elif self.parser.state in (State.HEAD, State.BODY):
            self.refuse(HTTPError(400, "the connection ended before the request did"))
        else:
            self.close()

    def note_read(self, data: bytes, size: int = READ_SIZE) -> None:
        """Note what a read says of the socket. size: bytes that were asked for."""
        if self.tls is not None and self.tls.ended:
            self.half_closed = True  # also by the peer's word alone (RFC 8446, 6.1)
        # A short read has drained the socket (epoll(7)). But an end that was reported already brings no further edge.
        self.readable = len(data) == size or self.half_closed

    def answer(  # noqa: C901 - a request's way, as one page
        self, request: Request | None, answer: Answer | None = None, context: Context | None = None
    ) -> None:
        """Answer a request, and those that came behind it, with one send. None: none is complete.

        Args:
            request: the first of those that are complete; None: none is.
            answer: what the application gave already.
            context: what the request's code runs in; None: it hasn't begun.
        """
        if request is None:
            self._await_rest_of_request()
            return
        server, parser = self.context, self.parser
        out: list[bytes] = []
        remainder = None
        size = 0
        try:
            while request is not None:
                if context is None:
                    context = server.request_context.copy()
                if answer is None:
                    answer = self.call_application(request, context)
                if type(answer) is HandlerCall and not out and hand_over(self, request, answer, context):
                    return
                piece = self._serialize_whole(request, answer) if request.plain and not server.draining else None
                if piece is None:
                    begin = len(out)
                    remainder = queue_answer(self, out, request, answer, context)
                    if remainder is not None or len(out) == begin:
                        break  # more of it comes, and nothing behind it before that
                    size += sum(map(len, out[begin:-1]))
                elif not (out or parser.pending or self.exchange or self.writer.buffers):
                    # It is alone, as most are.
                    if self.send_whole(piece) and (parser.state or self.writer.end or self.writer.heartbeat):
                        self._next_request()
                    return
                else:
                    out.append(piece)
                # The size only where more comes.
                if not parser.pending or (size := size + len(out[-1])) >= server.max_output or len(out) >= MOST_PIECES:
                    break
                answer = context = None
                request = parser.next()
        except HTTPError as error:
            self.refuse(error, out)
            return
        except PeerError:
            remainder = Remainder(None, close=True)
        if remainder is CLOSE and len(out) == 1 and send_last(self, out[0]):
            pass
        elif out or remainder is not None or (self.exchange is not None and not self.exchange.started):
            self.write(out, remainder, context)

    @calls_application
    def call_application(self, request: Request, context: Context) -> Answer:
        """What the application answers."""
        if self.instrument is not None:
            self.instrument.on_handler_call(request)
        try:
            return context.run(self.context.answer, request)
        except FAILURES as error:
            return self.context.application.amend_refusal(request, failure(request, error))

    def _serialize_whole(self, request: Request, answer: Answer) -> bytes | None:
        """All of an answer, head and body, if nothing is special about it but maybe its status."""
        if type(answer) is bytes:
            head: bytes | None = _heads.get(len(answer)) or json_head(len(answer))
            body = answer
        elif type(answer) is Response:
            head, body = plain_head(answer), answer.body  # type: ignore[assignment]
        else:
            return None
        if head is None:
            return None
        return head + body if self.instrument is None else self.instrument.record_whole(request, answer, head, body)

    def send_whole(self, answer: bytes) -> bool:
        """Send a whole answer to a connection that then is idle. False: the kernel is full, what is left waits."""
        # What `send_one` does, without a call: every request comes through here.
        try:
            sent = self.sock.send(answer)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerGone from error
        if sent < len(answer):
            self.writer.buffers.append(memoryview(answer)[sent:])
            self.enter_state(ConnectionState.SENDING)
            return False
        if self.instrument is not None:
            self.instrument.report_whole()
        self.state = _IDLE
        self.deadline = self.context.loop.now + self.context.keep_alive
        return True

    def _await_rest_of_request(self) -> None:
        """A request is incomplete: its state runs."""
        if self.instrument is not None and self.parser.state in (State.HEAD, State.BODY):
            self.instrument.on_first_byte()
        state = STATE_OF_PARSER[self.parser.state]
        if state is ConnectionState.BODY and self.state is ConnectionState.SKIPPING:
            return  # its deadline is for all that is left
        if state is not self.state:
            self._enter_parser_state(state)
        elif state is ConnectionState.BODY:
            on_body_progress(self)

    def _enter_parser_state(self, state: ConnectionState) -> None:
        """Enter the state that the parser is in."""
        self.enter_state(state)
        if state is ConnectionState.BODY:
            begin_body(self)

    # a handler that works elsewhere

    def respond(self, answer: Response | bytes) -> None:
        """Send the answer of a handler that worked elsewhere. A connection that fails at it is closed."""
        exchange = self.exchange
        try:
            if type(exchange) is PlainExchange and not (self.readable or self.writer.buffers or self.context.draining):
                # `_serialize_whole`, without a call where that can be.
                head = _heads.get(len(answer)) if type(answer) is bytes and self.instrument is None else None
                piece = self._serialize_whole(exchange.request, answer) if head is None else head + answer  # type: ignore[operator]
                if piece is not None:
                    exchange.connection = self.exchange = None
                    self.send_whole(piece)
                    return
            assert exchange is not None
            respond_in_general(self, exchange, answer)
        except Exception as error:
            self.on_failure(error)

    # a body that its handler takes as it comes

    def on_body_wanted(self) -> None:
        """The handler asks for more of the body."""
        if is_streaming_body(self):
            self.run_guarded(read_body, self)

    # the way out

    def write(self, out: list[bytes], remainder: Remainder | None, context: Context | None) -> None:
        """Send answers; then go on with what `remainder` says of the last of them, or with what came after it."""
        if remainder is not None:
            begin_remainder(self, out, remainder, context)
            if self.context.drain.begun:
                end_stream(self)  # it would hold the drain as one does that began before it
            if is_late(self):
                self.reschedule()
            else:
                self.resume_writing()
        elif is_late(self, out):
            self.writer.buffers += out
            self.enter_state(ConnectionState.SENDING)
            self.reschedule()
        elif self.writer.write(self.sock, out):
            self._next_request()
        else:
            self.enter_state(ConnectionState.SENDING)
            if not self.writer.stalled:
                self.reschedule()

    def on_body_piece(self) -> None:
        """The source has something."""
        self.deadline = self.context.loop.time() + self.context.settings.write_timeout
        self._resume_writing_now()

    def resume_writing(self) -> None:
        """Send what waits and pull what follows, until the kernel is full, all is sent, or the turn is over."""
        writer = self.writer
        outcome, progress = writer.resume(self.sock)
        began, writer.stalled = not writer.stalled, outcome is Outcome.FULL
        if progress or (writer.stalled and began):
            self.deadline = self.context.loop.time() + self.context.settings.write_timeout
        match outcome:
            case Outcome.DONE:
                self._on_sent()
            case Outcome.WAITING:
                plan_deadline(self)
            case Outcome.TURN:
                self.reschedule()

    def _resume_writing_now(self) -> None:
        """`resume_writing` where no edge is the reason; requests behind this answer have their turn."""
        self.run_guarded(self.resume_writing)
        if self.state.takes_input and (self.readable or self.parser.pending):
            self.reschedule()

    def _on_sent(self) -> None:
        """The answer is out. `_next_request`, or the end."""
        if self.state is ConnectionState.CLOSED:
            return
        if self.instrument is not None and self.instrument.records and self.state is ConnectionState.FINISHING:
            self.instrument.report_end(CloseReason.APPLICATION, self.writer)
        if self.state is ConnectionState.SENDING and not (self.exchange and lacks_body(self, self.exchange)):
            self._next_request()
        else:
            finish(self)

    def end_exchange(self) -> bool:
        """The answer of a handler that worked elsewhere is sent. Whether some of its request's body is to come."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return False
        lacking = exchange.request_body is not None
        exchange.end()
        return lacking

    def _next_request(self) -> None:
        """Nothing waits any more: take up what the parser is in the middle of."""
        if self.instrument is not None and self.instrument.records:
            self.instrument.report(CloseReason.KEPT, self.writer)
        if self.exchange is not None and not self.exchange.started:
            start(self, self.exchange)  # the answers before its are sent
            return
        self.writer.begin_answer()
        if self.end_exchange():
            self.enter_state(ConnectionState.SKIPPING)
            return
        state = STATE_OF_PARSER[self.parser.state]
        self._enter_parser_state(state)
        if state is _IDLE and self.context.draining and not self.parser.pending:
            # The answer was begun before the drain, and didn't say that it is the last.
            self.drain()
