"""One connection: readiness, phases and deadlines, back-pressure. Sockets and HTTP meet only here.

Its laws:

- An edge is told once. `readable` remembers it until a read comes back short, which for a stream socket means drained
  (epoll(7)); whoever stops before that comes back by `_come_back`, once a turn however many edges are told meanwhile.
- Registered once for IN, OUT and RDHUP, edge-triggered; that is the one `epoll_ctl` of a connection's life, unless its
  peer goes on sending while a handler is at work elsewhere.
- All output goes through `writer`, in order. Its deadline is `write_timeout` after the kernel last took something, or
  after something began to wait.
- Errors are judged by where they came from: those of the socket are `PeerGone`, what the application raises is answered
  and logged where it is called.
- While output waits for the peer, or a request for its handler, nothing is read and no request handled: the peer's own
  pace is the limit. Only what a `stream=True` handler asks for is read.
- One phase at a time; its deadline, status and reason stand in `RULES`. `_enter` is the one place that changes it.
- Every refusal goes through `refuse`; every end through `close`, and nothing leads out of CLOSED.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import termios
from collections.abc import Callable, Iterable
from contextvars import Context

from hypoll.answers import failure, unsendable
from hypoll.bodies import FileSource, InlineSource, Source, TaskSource, log_cut
from hypoll.encode import (
    CLOSE,
    CONTINUE,
    COPY_LIMIT,
    HEADS,
    UNPARSED,
    encode_file,
    file_head,
    json_head,
    plain_head,
)
from hypoll.exchange import Exchange, PlainExchange, too_slow
from hypoll.files import File, OpenFile, Slice
from hypoll.forks import keep_out
from hypoll.held import Held
from hypoll.http import (
    FAILURES,
    ClientDisconnect,
    Deferred,
    HTTPError,
    Kind,
    Peer,
    PeerError,
    Request,
    RequestParser,
    Response,
    Rest,
    State,
    encode,
    no_room,
    problem,
)
from hypoll.instrument import Instrument
from hypoll.loop import ERR, HUP, IN, OUT, RDHUP, has_forked
from hypoll.message import json_response
from hypoll.observe import End
from hypoll.output import SEND_SIZE, PeerGone, receive, reset
from hypoll.phases import LINGER_PAUSE, NEVER, PHASES, RULES, Phase, Rule
from hypoll.shared import BODY_READ_SIZE, READ_SIZE, Shared
from hypoll.spool import Spool
from hypoll.tls import TLSSocket, reason_of
from hypoll.tracing import new_id
from hypoll.writer import BodyError, Heartbeat, Outcome, Writer

READS_PER_TURN = range(4)
"""Reads before a connection lets the others have their turn."""

PIECES_PER_SEND = 64
"""Pieces of pipelined answers, one or two each, made for one send: a handler's time is everybody's."""

LINGER_TIME = 30.0
"""Seconds a refused peer may go on sending, in all."""

LINGER_IN_DRAIN = 2.0
"""The same while the server stops."""

MAX_LINGERING = 256
"""Connections whose input is read away at once; then the oldest is closed."""

SKIP_LIMIT = 64 * 1024
"""Bytes of a body which its handler didn't read that are read away to keep the connection."""

NEW_GRACE = 1.0
"""Seconds a connection that has not sent a byte is kept when a drain begins."""

log = logging.getLogger("hypoll.error")


# Plain names: an Enum's attribute costs the hot path two look-ups more, and a method of an imported name, or of what an
# attribute holds, is looked up anew with each call (CPython 3.11 and 3.12).
_heads = HEADS
_IDLE = Phase.IDLE
_FILES = (File, OpenFile)
_WAITING = Phase.WAITING

_GONE = ERR | HUP
_INPUT = IN | RDHUP
_PLAIN_EDGE = IN | OUT


class Connection:
    """One accepted, non-blocking stream socket, to its close.

    watched: whether it is told of edges at once; else by `begin`.
    """

    watched = False
    """Whether the loop tells it of edges."""
    readable = False
    half_closed = False
    planned = False
    disarmed = False
    parked_at: float | None = None
    """Since when a body isn't read because the spools have no room."""
    exchange: Exchange | None = None
    """The request whose handler works elsewhere, until its answer is sent."""
    instrument: Instrument | None = None
    """What is told of it, where somebody observes."""
    tls: TLSSocket | None = None
    """Its socket, where that speaks TLS."""

    def __init__(self, shared: Shared, sock: socket.socket, peer: Peer, *, watched: bool = True) -> None:
        self.shared = shared
        self.sock = sock
        self.parser = RequestParser(shared.settings, peer, shared.known)
        self.phase = Phase.NEW
        self.since = shared.loop.now
        self.deadline = self.since + shared.keep_alive
        self.writer = Writer()
        if watched:
            self.watch()
        shared.connections.add(self)
        if shared.instruments is not None:
            self.instrument = Instrument(shared.instruments, peer)
        if isinstance(sock, TLSSocket):
            self.tls = sock
            self._enter(Phase.HANDSHAKE)

    # edges

    def watch(self) -> None:
        """Be told of edges; those that are there already are told at once (epoll_ctl(2)). Raises `LoopError`."""
        self.shared.loop.register(self.sock.fileno(), self.on_events)
        self.watched = True

    def begin(self) -> None:
        """Answer what has come with the connection, if it has; then be told of more. Raises `LoopError`."""
        if self.tls is None:
            try:
                data = receive(self.sock, READ_SIZE)
                if data is not None:
                    self.phase = _IDLE
                    self._on_request(data, self.parser.feed(data))
                    self.pump()
            except Exception as error:
                self._on_failure(error)
        if self.phase is not Phase.CLOSED:
            self.watch()

    def on_events(self, events: int) -> None:
        """Take an edge. A connection that fails is closed, never left behind."""
        try:
            if events != _PLAIN_EDGE or self.phase is not _IDLE:
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
                self._answer(request)
                if not self.parser.pending:
                    return
            else:
                self._on_request(data, request)
            self.pump()
        except Exception as error:
            self._on_failure(error)

    def _on_failure(self, error: Exception) -> None:
        """The one place that knows what an exception means for the connection."""
        keep_out(error.__cause__ if isinstance(error, BodyError) else None)  # a forked child's sockets fail
        gone = isinstance(error, PeerGone)
        if self.instrument is not None and not isinstance(error, HTTPError):
            self.instrument.mark(End.ABORTED if gone else End.REFUSED if isinstance(error, PeerError) else End.FAILED)
        if self.tls is not None and gone and isinstance(error.__cause__, OSError):
            log.debug("%s closed: %s", self.parser.peer.client, reason_of(error.__cause__))
        if isinstance(error, HTTPError):
            self.refuse(error)
        elif isinstance(error, BodyError):
            self._on_body_error(error)
        elif isinstance(error, PeerError):
            self.guard(self._begin_to_linger)  # it speaks something else; what was answered before that is still its
        elif gone:
            self.close()
        else:
            self.close()
            log.error("a connection failed", exc_info=error)

    def _on_body_error(self, error: BodyError) -> None:
        """A body has failed: only the missing end can tell the client."""
        if error.__cause__ is not None:
            log_cut(error.__cause__)
        error.__traceback__ = error.__cause__ = None
        self._cut()

    def _cut(self) -> None:
        """End the connection where the answer under way has no end."""
        if self.instrument is not None and self.instrument.records:
            self.instrument.tell_end(End.FAILED, self.writer)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.abandon()
        if self.writer.until_close:
            self.close()
            return
        # Not at once: what the peer has sent and isn't read would reset the answers before this one.
        self.writer.clear()
        self.guard(self._begin_to_linger)

    def guard(self, step: Callable[..., object], *args: object) -> None:
        """Take a step that no edge is the reason of, and close when it fails, as `on_events` does."""
        try:
            step(*args)
        except Exception as error:
            self._on_failure(error)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received, handled or answered."""
        return Phase.HEAD <= self.phase <= Phase.FINISHING

    # turns and phases

    def _come_back(self) -> None:
        """Go on when the other connections had their turn: no edge will tell."""
        if not self.planned:
            self.planned = True
            self.shared.loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.planned = False
        self.on_events(0)

    def _enter(self, phase: Phase) -> None:
        if self.phase is Phase.CLOSED:
            return  # a handler has stopped the server under its own request
        self.phase = phase
        # Not the turn's time: a handler that took long in this turn has not used up its client's.
        self.since = self.shared.loop.time()
        self.deadline = self.since + self.shared.seconds[phase]

    def on_deadline(self) -> None:
        """The phase has lasted too long: refuse, or close."""
        if self.parked_at is not None:
            self.refuse(no_room())
            return
        writer = self.writer
        if self.exchange is not None and self.exchange.starved and (self.phase is _WAITING or not writer.buffers):
            self._starve_out()
        elif self.phase is _WAITING:
            self._probe()
        elif writer.source is not None and writer.heartbeat is not None and not writer.buffers:
            writer.beat()
            self._drive_on()
        else:
            self._on_rule(RULES.get(self.phase))

    def extend(self, seconds: float) -> None:
        """Let the peer have so many seconds more, in which the server didn't run."""
        self.deadline += seconds
        self.since += seconds
        if self.parked_at is not None:
            self.parked_at += seconds
        if self.exchange is not None:
            self.exchange.extend(seconds)

    def _starve_out(self) -> None:
        """The client has kept a handler waiting for its body for too long."""
        if self.instrument is not None:
            self.instrument.on_starved()
        if self.exchange is not None:
            self.exchange.fail(too_slow())
        self._plan_deadline()

    def _on_rule(self, rule: Rule | None) -> None:
        if self.instrument is not None:
            self.instrument.on_deadline(self.phase)
        if rule is not None and rule.refusal is not None:
            self.refuse(rule.refusal)
            return
        if self.writer.unfinished:
            # After a FIN the kernel would keep what the peer doesn't take, megabytes, and probe for minutes.
            reset(self.sock)
        self.close()

    def refuse(self, error: HTTPError, owed: Iterable[bytes] = ()) -> None:
        """Say why, and close: the one function that writes refusals. `owed`: the answers before it, encoded."""
        if self.instrument is not None:
            self.instrument.mark(End.REFUSED)
        if self.phase is Phase.HANDSHAKE:  # nothing can be said yet
            log.debug("%s closed: %s", self.parser.peer.client, error)
            self.close()
            return
        request = self.parser.subject
        name = new_id() if request is None else request.id
        log.debug("%s refused: %s", self.parser.peer.client, error, extra={"request_id": name})
        error.__traceback__ = None  # its frames may hold the error, and the parser: a cycle
        spool, self.parser.spool = self.parser.spool, None
        if spool is not None:
            spool.close()  # now: the client may go on sending for long
        self.parked_at = None
        if self.phase is Phase.SKIPPING:
            self.close()  # its request was answered: this would be taken for the answer to another
            return
        try:
            out = list(owed)
            begin = len(out)
            encode(out, problem(error, name), request or UNPARSED, True)
            if self.instrument is not None:
                self.instrument.note(request, problem(error, name), out, begin, self.parser.size, name.encode())
            self._enter(Phase.FINISHING)
            # More may come, and must be read away before closing, or the kernel resets the connection under the answer.
            self.readable = True
            self.writer.buffers += out
            self._drive()
        except (BodyError, PeerGone, MemoryError):
            self.close()

    def drain(self) -> None:
        """The server is going away: this connection's next answer is its last.

        Who has had none since may have sent a request already, which an end would lose: it is waited for a moment.
        """
        shared = self.shared
        now = shared.loop.time()
        if self.phase is Phase.HANDSHAKE:
            self.deadline = min(self.deadline, now + NEW_GRACE)
        elif self.phase is Phase.IDLE:
            if not shared.drain.keeps_idle:
                self._end_idle()
        elif self.phase is Phase.NEW:
            self._end_idle()
            # Accepted and not heard from: its first request is likely on the way.
            self.deadline = min(self.deadline, now + NEW_GRACE)
        elif self.phase is Phase.LINGERING:
            self.deadline = min(self.deadline, now + LINGER_IN_DRAIN)
        elif self._end_stream():
            self._drive_on()

    def _end_stream(self) -> bool:
        """End the body under way, if it is one that ends with the server."""
        ended = self.writer.end_source()
        if ended and self.exchange is not None:
            self.exchange.end_body()
        return ended

    def _end_idle(self) -> None:
        """Close, unless a request has arrived that this turn has not come to."""
        self.readable = True
        self.on_events(0)
        if self.phase is Phase.IDLE:
            self.close()

    def close(self) -> None:
        """Close the socket and let go of everything. Closing twice does nothing."""
        phase = self.phase
        if phase is Phase.CLOSED:
            return
        if self.tls is not None and not self.writer.unfinished:
            # Where something of an answer is missing there is no goodbye: that tells the peer.
            with contextlib.suppress(OSError):
                self.tls.notify_close()
        self.phase = Phase.CLOSED
        shared, exchange = self.shared, self.exchange
        if self.instrument is not None:
            given_up = exchange.request if exchange is not None and exchange.started else None
            busy = phase not in (Phase.NEW, Phase.IDLE)
            self.instrument.close(busy, shared.draining, given_up, self.writer)
        shared.lingering.pop(self, None)
        shared.connections.discard(self)  # first: who sees the close may ask how many there are
        if self.watched:
            shared.loop.forget(self.sock.fileno())
        if self.writer.until_close and self.writer.unfinished:
            # The connection's end is the body's: a part of it must not look whole.
            reset(self.sock)
        if has_forked():
            with contextlib.suppress(OSError):  # the peer may have ended it
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.exchange = None
        if exchange is not None:
            exchange.abandon()
        self.writer.clear()
        shared.on_close(self)

    # the way in

    def _on_edge(self, events: int) -> None:
        if self.phase is Phase.HANDSHAKE:
            self._shake(events)
            return
        if events & _GONE and self.phase is not Phase.LINGERING:
            # Both directions are gone: nobody will read an answer. (A lingering connection has shut down its own, and
            # the peer's end is what it waits for.)
            self.close()
            return
        half_closes = events & RDHUP and not self.half_closed
        if half_closes:
            # A half-close: the peer still reads what is owed.
            self.half_closed = True
        if events & _INPUT:
            self.readable = True
        if self.planned and events and not half_closes:
            # It had its turn: a peer that makes edges must not get one more for each. A half-close comes only once.
            return
        if self.phase < _WAITING:
            self.pump()
        elif self.phase is Phase.LINGERING:
            self._linger()
        elif self.phase is not Phase.CLOSED:
            self._on_edge_while_busy(events, bool(half_closes))

    def _shake(self, events: int) -> None:
        """Go on with the handshake of TLS."""
        assert self.tls is not None
        if events & _GONE:
            self.close()
            return
        if events & RDHUP:
            self.half_closed = True
        try:
            if not self.tls.handshake():
                return
        except OSError as error:
            raise PeerGone from error
        given = self.deadline
        self._enter(Phase.NEW)
        if self.shared.draining:
            self.deadline = min(self.deadline, given)
        # What came with the handshake's last message brings no edge.
        self.readable = True
        self.pump()

    def _on_edge_while_busy(self, events: int, half_closes: bool) -> None:
        """A request has not been answered whole yet."""
        if self.exchange is not None and self.exchange.intake is not None:
            self._take_in()
        if self.phase is not Phase.WAITING:
            self._drive()
            self.pump()
            return
        if half_closes:
            self._doubt()
        self._send_interim()
        if events & _INPUT and self.phase is Phase.WAITING and not self._takes_in():
            # The peer goes on sending, and isn't read: no more of that is told, only its end (EPOLLONESHOT).
            self.disarmed = True
            self.shared.loop.rearm(self.sock.fileno(), 0 if self.half_closed else RDHUP)

    def pump(self) -> None:
        """Receive, handle and answer until drained, blocked on output, or out of turn."""
        parser = self.parser
        for _ in READS_PER_TURN:
            if self.phase >= _WAITING:
                return
            if parser.pending:
                self._answer(self._unskipped(parser.next()))
            elif self.readable:
                if parser.spool is not None and not self._has_room(parser.spool):
                    return
                size = BODY_READ_SIZE if (parser.left or 0) > READ_SIZE else READ_SIZE
                data = receive(self.sock, size)
                if data is None:
                    self.readable = False
                    return
                self._on_request(data, self._unskipped(parser.feed(data)), size)
            else:
                return
        self._come_back()

    def _on_request(self, data: bytes, request: Request | None, size: int = READ_SIZE) -> None:
        """`data` was received, of `size` bytes that were asked for, and completed `request`, or none."""
        self._note_read(data, size)
        if data:
            self._answer(request)
        elif self.parser.state in (State.HEAD, State.BODY):
            self.refuse(HTTPError(400, "the connection ended before the request did"))
        else:
            self.close()

    def _note_read(self, data: bytes, size: int = READ_SIZE) -> None:
        if self.tls is not None and self.tls.ended:
            self.half_closed = True  # also by the peer's word alone (RFC 8446, 6.1)
        # A short read has drained the socket (epoll(7)). But an end that was told already brings no further edge.
        self.readable = len(data) == size or self.half_closed

    def _answer(  # noqa: C901 - the straight way
        self,
        request: Request | None,
        answer: Response | bytes | Deferred | None = None,
        context: Context | None = None,
    ) -> None:
        """Answer a request, and those that came behind it, with one send. None: none is complete.

        answer: what the application gave already. context: what the request's code runs in; None: it hasn't begun.
        """
        if request is None:
            self._await_more()
            return
        shared, parser, instrument = self.shared, self.parser, self.instrument
        out: list[bytes] = []
        rest = None
        room = shared.settings.max_output
        try:
            while request is not None:
                if context is None:
                    context = shared.context.copy()
                if answer is None:
                    try:
                        answer = context.run(shared.answer, request)
                    except FAILURES as error:
                        answer = failure(request, error)
                head = None
                if request.plain and not shared.draining:
                    if type(answer) is bytes:
                        body = answer
                        head = _heads.get(len(body)) or json_head(len(body))
                    elif type(answer) is Response:
                        head, body = plain_head(answer), answer.body  # type: ignore[assignment]
                if head is not None:
                    out.append(head + body if instrument is None else instrument.plain(request, answer, head, body))  # type: ignore[arg-type]
                elif isinstance(answer, Deferred):
                    if self._begin_elsewhere(request, answer, context, bool(out)):
                        return
                    break
                elif request.plain and not out and not parser.pending and self._send_file(request, answer, context):
                    return
                else:
                    rest = context.run(self._encode, out, request, answer, Kind.INLINE)
                    if rest is not None:
                        break
                if not parser.pending:
                    break
                room -= len(out[-1])
                if room <= 0 or len(out) >= PIECES_PER_SEND:
                    break
                answer = context = None
                request = parser.next()
        except HTTPError as error:
            self.refuse(error, out)
            return
        except PeerError:
            rest = Rest(None, close=True)
        if rest is CLOSE and len(out) == 1 and self._send_last(out[0]):
            return
        if len(out) != 1 or rest is not None or self.exchange is not None or self.writer.buffers:
            self._deliver(out, rest, context)
            return
        try:
            sent = self.sock.send(out[0])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerGone from error
        if sent < len(out[0]):
            self.writer.buffers.append(memoryview(out[0])[sent:])
            self._enter(Phase.SENDING)
        elif parser.state or self.writer.end or self.writer.heartbeat:
            self._go_on()
        else:
            if instrument is not None:
                instrument.tell(End.KEPT, self.writer)
            self.phase = _IDLE
            self.deadline = shared.loop.now + shared.keep_alive

    def _send_last(self, answer: bytes) -> bool:
        """Send the only answer of a connection whose request came with it, and close. False: it isn't so simple."""
        parser = self.parser
        waits = self.readable or self.writer.buffers or parser.pending or self.exchange
        simple = not waits and not self.watched and self.tls is None
        if not simple or parser.state is not State.DONE or len(answer) > COPY_LIMIT:
            return False
        try:
            sent = self.sock.send(answer)
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerGone from error
        if sent < len(answer):
            self.writer.buffers.append(memoryview(answer)[sent:])
            self._enter(Phase.FINISHING)
            return True
        if self.instrument is not None:
            self.instrument.tell_end(End.CLIENT, self.writer)
        self.close()
        return True

    def _begin_elsewhere(self, request: Request, deferred: Deferred, context: Context, owed: bool) -> bool:
        """Have a handler work elsewhere. False: it begins when the answers before its are sent."""
        if owed or self.half_closed or not request.plain or self.parser.pending:
            self.exchange = Exchange(self, self.shared, request, deferred, context)
            return False
        # What `_start` does, without its calls.
        self.exchange = exchange = PlainExchange()
        exchange.connection, exchange.means = self, self.shared
        exchange.request, exchange.deferred, exchange.context = request, deferred, context
        self.phase = _WAITING
        self.deadline = NEVER
        exchange.start()
        return True

    def _ask(self, request: Request, context: Context) -> Response | bytes | Deferred:
        """Have the application answer. Whatever it raises is its answer, too."""
        try:
            return context.run(self.shared.answer, request)
        except FAILURES as error:
            return failure(request, error)

    def _encode(self, out: list[bytes], request: Request, response: Response | bytes, kind: Kind) -> Rest | None:
        """Encode a response; one that can't be sent becomes 500 to the client, its reason goes to the log."""
        begin, closing = len(out), self.shared.draining
        if isinstance(response, bytes):
            response = json_response(response)
        try:
            rest = encode(out, response, request, closing)
            if rest is not None and rest.async_stream is not None and kind is not Kind.ASYNC:
                raise TypeError("a body that is an async iterator needs an async def handler")
        except KeyboardInterrupt:
            raise
        except FAILURES as error:
            # ValueError and TypeError are encode's; a body's or a mapping's own code may raise anything.
            del out[begin:]
            rest = encode(out, unsendable(request, response, error), request, closing)
        if self.instrument is not None:
            self.writer.pulled = 0
            self.instrument.note(request, response, out, begin, request.size, b"")
        return rest

    def _await_more(self) -> None:
        """A request is incomplete: its phase runs."""
        if self.instrument is not None and self.parser.state in (State.HEAD, State.BODY):
            self.instrument.begin()
        phase = PHASES[self.parser.state]
        if phase is Phase.BODY and self.phase is Phase.SKIPPING:
            return  # its deadline is for all that is left
        if phase is not self.phase:
            self._begin(phase)
        elif phase is Phase.BODY:
            self._on_body_progress()

    def _begin(self, phase: Phase) -> None:
        """Enter the phase that the parser is in."""
        self._enter(phase)
        if phase is not Phase.BODY:
            return
        request, shared = self.parser.incoming, self.shared
        if request is not None and shared.streams(request):
            context = shared.context.copy()
            answer = self._ask(request, context)
            if isinstance(answer, Deferred):
                self._start(Exchange(self, shared, request, answer, context))
                return
            # Answered by its head alone: nobody wants the body.
            request.keep_alive = request.plain = False
            self._answer(request, answer, context)
            return
        if request is not None and shared.spools(request):
            self.parser.spool_into(Spool(shared.spool, max(1, shared.settings.max_body)))
        self._on_body_progress()

    def _on_body_progress(self) -> None:
        parser, settings, now = self.parser, self.shared.settings, self.shared.loop.now
        elapsed = now - self.since
        too_little = elapsed > settings.body_timeout and parser.received < settings.min_body_rate * elapsed
        if too_little and not self.readable:  # else more has come, and waits in the kernel
            self.refuse(too_slow())
            return
        self.deadline = now + settings.body_timeout
        request = parser.incoming
        if request is not None and parser.spool is None and not self._holds(request):
            self.refuse(no_room())
            return
        if request is not None and request.expects_continue:
            refusal = self.shared.application.refuses(request)
            if refusal is not None:
                self.refuse(refusal)
            elif parser.spool is not None and not self._has_room(parser.spool):
                return
            elif not self._continue(request):
                # Some of the 25 bytes wait: nothing is read until they are gone.
                self._enter(Phase.SENDING)

    def _holds(self, request: Request) -> bool:
        """Count what came of a body. Whether there is room for it; at first, for all that its length promises."""
        held, missing = request.held, 0
        if held is None:
            held, missing = Held(self.shared.bodies), self.parser.left or 0
            request.held = held
        return held.grow(self.parser.received, missing)

    def _has_room(self, spool: Spool) -> bool:
        """Whether the process has room for more of the body. If not, nothing is read until it has."""
        request = self.parser.incoming
        holds_back = request is not None and request.expects_continue
        size = request.section.length if request is not None and holds_back else None
        if spool.room >= (size or READ_SIZE):
            return True
        if spool.space.failing:
            self.refuse(no_room())
        elif self.parked_at is None:
            self.parked_at = self.shared.loop.now
            spool.space.wait(self._on_room)
        return False

    def _on_room(self) -> None:
        """Read on, if there is room by now. The time that this took isn't the client's."""
        if self.parked_at is not None and self.phase is Phase.BODY:
            self.guard(self._leave_park)

    def _leave_park(self) -> None:
        spool, parked_at = self.parser.spool, self.parked_at
        if spool is None or parked_at is None:
            return
        if self._has_room(spool):
            self.parked_at = None
            self.since += self.shared.loop.now - parked_at
            self._on_body_progress()
            self._come_back()
        elif self.parked_at is not None:  # it isn't refused
            spool.space.wait(self._on_room)

    def _continue(self, request: Request) -> bool:
        """Ask for the body that the client holds back (RFC 9110, 10.1.1), unless some of it has come.

        False: the asking itself has to wait.
        """
        request.expects_continue = False
        return bool(self.parser.received) or self.writer.write(self.sock, [CONTINUE])

    # a handler that works elsewhere

    def _start(self, exchange: Exchange) -> None:
        """Let a handler begin elsewhere. Until it has answered nothing else is handled."""
        self.exchange = exchange
        exchange.started = True
        self.phase = _WAITING
        self.deadline = NEVER
        exchange.start()
        if self.half_closed:
            self._doubt()

    def respond(self, answer: Response | bytes) -> None:
        """Send the answer of a handler that worked elsewhere. A connection that fails at it is closed."""
        exchange, instrument = self.exchange, self.instrument
        try:
            assert exchange is not None
            if instrument is not None:
                instrument.on_returned(exchange.request)
            head = None
            if type(exchange) is PlainExchange and not (self.readable or self.writer.buffers or self.shared.draining):
                if type(answer) is bytes:
                    head, body = _heads.get(len(answer)) or json_head(len(answer)), answer
                else:
                    head, body = plain_head(answer), answer.body  # type: ignore[arg-type, union-attr, assignment]
            if head is None:
                self._respond_with_care(exchange, answer)
                return
            payload = head + body if instrument is None else instrument.plain(exchange.request, answer, head, body)
            exchange.connection = self.exchange = None
            try:
                sent = self.sock.send(payload)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise PeerGone from error
            if sent == len(payload):
                if instrument is not None:
                    instrument.tell(End.KEPT, self.writer)
                self.phase = _IDLE
                self.deadline = self.shared.loop.now + self.shared.keep_alive
            else:
                self.writer.buffers.append(memoryview(payload)[sent:])
                self._enter(Phase.SENDING)
        except Exception as error:
            self._on_failure(error)

    def _respond_with_care(self, exchange: Exchange, answer: Response | bytes) -> None:
        if self.disarmed:
            self._rearm()
        body = b"" if isinstance(answer, bytes) else answer.body
        if self._lacks_body(exchange) and isinstance(body, (bytes, str, bytearray, memoryview)):
            exchange.end_connection()
        out: list[bytes] = []
        # A copy: the handler's thread, or the step of its task that sends this, may still be in the context itself.
        context = exchange.context.copy()
        rest = context.run(self._encode, out, exchange.request, answer, exchange.deferred.kind)
        if rest is None and self._lacks_body(exchange):
            rest = Rest(None, close=True)
        self._deliver(out, rest, context)
        if self.readable or self.parser.pending:
            # Not now: requests that came together must not be nested in each other.
            self._come_back()

    def _rearm(self) -> None:
        """Take edges again. What is ready by now is told."""
        self.disarmed = False
        self.shared.loop.rearm(self.sock.fileno(), oneshot=False)

    def _doubt(self) -> None:
        """The peer has ended its side: is it half-closed, or gone? The next tick asks."""
        waits = self.phase is _WAITING and self.exchange is not None and not self._takes_in()
        if waits and self.exchange and self.exchange.request.minor:
            self.deadline = self.shared.loop.now

    def _probe(self) -> None:
        """Ask whether the peer is still there, by an interim response, which means nothing (RFC 9110, 15.2).

        A FIN doesn't tell a half-close from a close. But a socket that was closed answers data with a reset.
        """
        self.deadline = NEVER
        self.guard(self.writer.write, self.sock, [CONTINUE])

    def _send_interim(self) -> None:
        """Send what waits while a handler is at work: interim answers only."""
        self.writer.write(self.sock, [])

    # a body that its handler takes as it comes

    def _takes_in(self) -> bool:
        return self.exchange is not None and self.exchange.intake is not None

    def on_demand(self) -> None:
        """The handler asks for more of the body."""
        if self._takes_in():
            self.guard(self._take_in)

    def _take_in(self) -> None:
        """Read for the handler: as much as it wants, and no more than a turn's."""
        exchange = self.exchange
        assert exchange is not None
        exchange.starve()
        if exchange.request.expects_continue and exchange.starved and self.phase is _WAITING:
            self._continue(exchange.request)
            self._send_interim()
        for _ in READS_PER_TURN:
            intake = exchange.intake
            if intake is None or not intake.wanting or not (self.readable or self.parser.pending):
                break
            self._receive_body(exchange)
        else:
            self._come_back()
        self._plan_deadline()
        if exchange.intake is None and not exchange.broken and self.half_closed and self.phase is _WAITING:
            self._doubt()

    def _receive_body(self, exchange: Exchange) -> None:
        """One read of a body that its handler takes, or one step through what was read before."""
        parser = self.parser
        try:
            if parser.pending:
                request = parser.next()
            else:
                data = receive(self.sock, READ_SIZE)
                if data is None:
                    self.readable = False
                    return
                self._note_read(data)
                if not data:
                    exchange.fail(ClientDisconnect("the connection ended before the request did"))
                    return
                request = parser.feed(data)
        except HTTPError as error:
            exchange.fail(error)
        else:
            exchange.feed(whole=request is not None)

    def _plan_deadline(self) -> None:
        """A handler is at work: until when the client may keep it waiting."""
        if self.phase is _WAITING or (self.writer.source is not None and not self.writer.buffers):
            starved = self.exchange is not None and self.exchange.starved
            self.deadline = self.shared.loop.now + self.shared.settings.body_timeout if starved else self._beat_at()

    def _beat_at(self) -> float:
        heartbeat = self.writer.heartbeat
        return NEVER if heartbeat is None else self.shared.loop.now + heartbeat.interval

    def _may_skip(self, exchange: Exchange) -> bool:
        """Whether what is left of a body is little, and will come."""
        left = self.parser.left
        return left is not None and left <= SKIP_LIMIT and not exchange.request.expects_continue

    def _unskipped(self, request: Request | None) -> Request | None:
        """What was parsed, but not the rest of a body whose request was answered."""
        if self.phase is not Phase.SKIPPING:
            return request
        self.parser.take()
        if request is None:
            return None
        self._enter(_IDLE)
        request = self.parser.next()
        if request is None and self.shared.draining and self.parser.state is State.START:
            self.drain()
        return request

    # the way out

    def _deliver(self, out: list[bytes], rest: Rest | None, context: Context | None) -> None:
        """Send answers; then go on with what `rest` says of the last of them, or with what came after it."""
        if rest is not None:
            if rest.close and self.instrument is not None and self.instrument.records:
                last = self.instrument.records[-1].request
                asked = last is not None and not last.keep_alive
                self.instrument.mark(End.DRAIN if self.shared.draining else End.CLIENT if asked else End.APPLICATION)
            self._enter(Phase.FINISHING if rest.close else Phase.SENDING)
            self.writer.source = self._source(rest, context)
            self.writer.heartbeat = None if rest.beat is None else Heartbeat(*rest.beat)
            self.writer.until_close = rest.until_close
            self.writer.end = rest.end
            self.writer.buffers += out
            if self.shared.drain.begun:
                self._end_stream()  # it would hold the drain as one does that began before it
            self._drive()
        elif self.writer.write(self.sock, out):
            self._go_on()
        else:
            self._enter(Phase.SENDING)
            if not self.writer.stalled:
                self._come_back()

    def _source(self, rest: Rest, context: Context | None) -> Source | None:
        """Where the pieces of a streamed body will come from."""
        if rest.async_stream is not None and self.exchange is not None:
            self.exchange.source = TaskSource(rest.async_stream, self._on_piece)
            return self.exchange.source
        if rest.part is not None:
            # A file is not sent from the page cache over TLS: it must be encrypted.
            return FileSource(rest.part) if self.tls is None else InlineSource(iter(rest.part), context)
        if rest.source is not None:
            rest.source.attach(self._on_piece)
            return rest.source
        return None if rest.stream is None else InlineSource(rest.stream, context)

    def _on_piece(self) -> None:
        """The source has something."""
        self.deadline = self.shared.loop.time() + self.shared.settings.write_timeout
        self._drive_on()

    def _drive(self) -> None:
        """Send what waits and pull what follows, until the kernel is full, all is sent, or the turn is over."""
        writer = self.writer
        outcome, progress = writer.drive(self.sock)
        began, writer.stalled = not writer.stalled, outcome is Outcome.FULL
        if progress or (writer.stalled and began):
            self.deadline = self.shared.loop.time() + self.shared.settings.write_timeout
        match outcome:
            case Outcome.DONE:
                self._on_sent()
            case Outcome.WAITING:
                self._plan_deadline()
            case Outcome.TURN:
                self._come_back()

    def _send_file(self, request: Request, response: Response | bytes | Deferred, context: Context) -> bool:
        """Send a whole file to a connection that goes on, in two calls. False: another way must be found.

        Rules 2 and 7 of the hot path; the benchmark's file row holds it.
        """
        shared, file = self.shared, None
        if type(response) is not Response or type(response.body) not in _FILES:
            return False
        if self.tls is None and self.instrument is None and not shared.draining:
            # What goes wrong is found again, and told, where there is time to.
            with contextlib.suppress(Exception):
                file = context.run(encode_file, request, response)
        if file is None:
            return False
        head, sock = file_head(file), self.sock
        sent = 0
        try:
            sent = sock.send(head, socket.MSG_MORE)
        except BlockingIOError:
            pass
        except OSError as error:
            raise PeerGone from error
        if sent == len(head):
            # An error comes again in `FileSource`, which finds out whose it is.
            with contextlib.suppress(OSError):
                sent += os.sendfile(sock.fileno(), file.fd, 0, min(file.size, SEND_SIZE))
        if sent == len(head) + file.size:
            self.phase = _IDLE
            self.deadline = shared.loop.now + shared.keep_alive
            return True
        self._enter(Phase.SENDING)
        if sent < len(head):
            self.writer.buffers.append(memoryview(head)[sent:])
        offset = max(sent - len(head), 0)
        self.writer.source = FileSource(Slice(file, offset, file.size - offset))
        if offset == SEND_SIZE:
            self._come_back()  # the others have their turn
        else:
            self._drive()
        return True

    def _drive_on(self) -> None:
        """`_drive` where no edge is the reason; requests behind this answer have their turn."""
        self.guard(self._drive)
        if self.phase < _WAITING and (self.readable or self.parser.pending):
            self._come_back()

    def _on_sent(self) -> None:
        """The answer is out. `_go_on`, or the end."""
        if self.phase is Phase.CLOSED:
            return
        if self.instrument is not None and self.instrument.records and self.phase is Phase.FINISHING:
            self.instrument.tell_end(End.APPLICATION, self.writer)
        if self.phase is Phase.SENDING and not (self.exchange and self._lacks_body(self.exchange)):
            self._go_on()
        else:
            self._finish()

    def _finish(self) -> None:
        """The answer that is the last is out: end, in a way that lets the peer read it."""
        if self.tls is not None:
            try:
                if not self.tls.notify_close():
                    return  # the writable edge leads here again
            except OSError as error:
                raise PeerGone from error
        self._end_exchange()
        parser = self.parser
        ends_it = (
            parser.state is State.DONE and parser.refused is None
        )  # the peer has sent its last request, and all of it
        if ends_it and not self.readable and not parser.pending and not self._owes_much():
            self.close()
        else:
            # More of the peer's is here, or may be under way: closing now would reset the connection under the answer.
            self._begin_to_linger()

    def _begin_to_linger(self) -> None:
        """End our side; read away what the peer still sends, so that it can read the answer (RFC 9112, 9.6)."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise PeerGone from error
        self._enter(Phase.LINGERING)
        lingering = self.shared.lingering
        lingering[self] = None
        if len(lingering) > MAX_LINGERING:
            next(iter(lingering)).close()  # the oldest
        if self.shared.drain.begun:
            self.deadline = min(self.deadline, self.since + LINGER_IN_DRAIN)
        self.readable = True
        self._linger()

    def _lacks_body(self, exchange: Exchange) -> bool:
        """Whether so much of the request's body is missing, or all of it ever, that the connection ends instead."""
        return exchange.broken or (exchange.intake is not None and not self._may_skip(exchange))

    def _owes_much(self) -> bool:
        """Whether the kernel still has much to send: what the peer may yet send would reset it (tcp(7), SIOCOUTQ)."""
        if self.sock.family == socket.AF_UNIX:
            return False
        unsent: int = struct.unpack("i", fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return unsent > COPY_LIMIT  # less fits every window, and is on its way

    def _end_exchange(self) -> bool:
        """The answer of a handler that worked elsewhere is sent. Whether some of its request's body is to come."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return False
        lacking = exchange.intake is not None
        exchange.end()
        return lacking

    def _go_on(self) -> None:
        """Nothing waits any more: take up what the parser is in the middle of."""
        if self.instrument is not None and self.instrument.records:
            self.instrument.tell(End.KEPT, self.writer)
        if self.exchange is not None and not self.exchange.started:
            self._start(self.exchange)  # the answers before its are sent
            return
        self.writer.begin_answer()
        if self._end_exchange():
            self._enter(Phase.SKIPPING)
            return
        phase = PHASES[self.parser.state]
        self._begin(phase)
        if phase is _IDLE and self.shared.draining and not self.parser.pending:
            # The answer was begun before the drain, and didn't say that it is the last.
            self.drain()

    def _linger(self) -> None:
        """Read away what a refused peer still sends, until it ends, is silent for long, or its time is over."""
        loop = self.shared.loop
        for _ in READS_PER_TURN:
            try:
                # MSG_TRUNC: nothing is copied (tcp(7)); a unix socket copies it all the same.
                count = self.sock.recv_into(self.shared.scratch, 0, socket.MSG_TRUNC)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self.close()
                return
            # In a drain the deadline stands since that, or the lingering, began.
            end = self.deadline if self.shared.drain.begun else self.since + LINGER_TIME
            self.deadline = min(end, loop.time() + LINGER_PAUSE)
        self._come_back()
