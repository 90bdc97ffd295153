"""One connection: readiness, phases and deadlines, output and back-pressure. Sockets and HTTP meet only here.

Its laws:

- An edge is told once. `readable` remembers it until a read comes back short, which for a stream socket means drained
  (epoll(7)); whoever stops before that comes back by `_come_back`, once a turn however many edges are told meanwhile.
- Registered once for IN, OUT and RDHUP, edge-triggered; that is the one `epoll_ctl` of a connection's life.
- While output waits for the peer, nothing is read and no request handled: the peer's own pace is the limit.
- One phase at a time; its deadline, status and reason stand in `RULES`. `_enter` is the one place that changes it.
- Every refusal goes through `refuse`; every end through `close`, and nothing leads out of CLOSED.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import struct
import termios
from collections.abc import Callable, Generator, Iterable
from enum import IntEnum
from typing import NamedTuple, Protocol

from hypoll.encode import CONTINUE, COPY_LIMIT, UNPARSED, encode_json, encode_plain
from hypoll.http import (
    FAILURES,
    HTTPError,
    Peer,
    PeerError,
    Request,
    RequestParser,
    Response,
    Rest,
    State,
    encode,
    problem,
)
from hypoll.loop import ERR, HUP, IN, OUT, RDHUP, Loop
from hypoll.message import Section, json_response
from hypoll.settings import Settings

READ_SIZE = 64 * 1024
"""Bytes asked for by one read. Fewer in the answer: the socket is drained."""

READS_PER_TURN = range(4)
"""Reads before a connection lets the others have their turn."""

PIECES_PER_SEND = 64
"""Pieces of pipelined answers, one or two each, made for one send: a handler's time is everybody's."""

LINGER_TIME = 30.0
"""Seconds a refused peer may go on sending, in all."""

LINGER_PAUSE = 5.0
"""Seconds it may pause."""

LINGER_BYTES = 32 * 1024 * 1024
"""Bytes of it that are read away, so that closing doesn't reset the connection under the refusal."""

SENDMSG_BUFFERS = 64
"""Buffers given to one sendmsg; the kernel takes up to IOV_MAX, 1024."""

JOIN_LIMIT = 64 * 1024
"""Answers up to this size are copied together for one send; larger ones go by sendmsg from where they are."""

SEND_SIZE = 256 * 1024
"""Bytes of the waiting output sent before the other connections have their turn. The kernel would take megabytes of a
large answer at once, and copies them while everybody waits."""

PIECES_PER_PULL = range(64)
"""Pieces one pull takes at most: a body may give none but empty ones."""

PULLS_PER_TURN = range(16)
"""Times a streamed body is pulled before the other connections have their turn."""

NEW_GRACE = 1.0
"""Seconds a connection that has not sent a byte is kept when a drain begins."""

log = logging.getLogger("hypoll.error")


class Phase(IntEnum):
    """What a connection is doing; each with a deadline in `RULES`. Up to BODY it takes input, from SENDING on not."""

    NEW = 0
    IDLE = 1
    HEAD = 2
    BODY = 3
    SENDING = 4
    FINISHING = 5
    LINGERING = 6
    CLOSED = 7


class Rule(NamedTuple):
    """A phase's deadline: the setting that holds its seconds, and the refusal when they have passed (None: none)."""

    setting: str
    refusal: HTTPError | None = None


_TOO_SLOW = HTTPError(408, "the request body took too long")

RULES = {
    Phase.NEW: Rule("keep_alive"),
    Phase.IDLE: Rule("keep_alive"),
    Phase.HEAD: Rule("header_timeout", HTTPError(408, "the request head took too long")),
    Phase.BODY: Rule("body_timeout", _TOO_SLOW),
    Phase.SENDING: Rule("write_timeout"),
    Phase.FINISHING: Rule("write_timeout"),
}

_PHASES = {
    State.START: Phase.IDLE,
    State.BLANK: Phase.IDLE,
    State.HEAD: Phase.HEAD,
    State.BODY: Phase.BODY,
    State.DONE: Phase.IDLE,
}

# Plain names: an Enum's attribute costs the hot path two look-ups more.
_IDLE = Phase.IDLE
_SENDING = Phase.SENDING

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: close by a reset (socket(7))."""

_GONE = ERR | HUP
_INPUT = IN | RDHUP
_PLAIN_EDGE = IN | OUT


class Application(Protocol):
    """What answers requests."""

    def __call__(self, request: Request, /) -> Response:
        """Answer a request."""
        ...

    def refuses(self, request: Request, /) -> HTTPError | None:
        """Give the refusal of a request whose head alone is known, if it has one."""
        ...


class Shared:
    """What the connections of one server have in common."""

    def __init__(self, loop: Loop, application: Application, settings: Settings) -> None:
        self.loop = loop
        self.application = application
        # Bound once: calling an object by its class's __call__ costs a look-up. An application may have an `answer`
        # that is the same, but gives bytes where that saves making a `json_response` of them.
        self.answer: Callable[[Request], Response | bytes] = getattr(application, "answer", application.__call__)
        self.settings = settings
        self.seconds = {phase: getattr(settings, rule.setting) for phase, rule in RULES.items()}
        self.seconds[Phase.LINGERING] = LINGER_PAUSE
        self.keep_alive = settings.keep_alive
        self.sections: dict[bytes, Section] = {}
        self.draining = False
        self.connections: set[Connection] = set()
        self.on_close: Callable[[Connection], object] = lambda connection: None
        self.scratch = bytearray(READ_SIZE)


class Connection:
    """One accepted, non-blocking stream socket, from its registration to its close."""

    __slots__ = (
        "deadline",
        "half_closed",
        "lingered",
        "output",
        "parser",
        "phase",
        "planned",
        "readable",
        "shared",
        "since",
        "sock",
        "stream",
    )

    def __init__(self, shared: Shared, sock: socket.socket, peer: Peer) -> None:
        self.shared = shared
        self.sock = sock
        self.parser = RequestParser(shared.settings, peer, shared.sections)
        self.phase = Phase.NEW
        self.since = shared.loop.now
        self.deadline = self.since + shared.keep_alive
        self.readable = False
        self.half_closed = False
        self.planned = False
        self.output: list[bytes | memoryview] = []
        self.stream: Generator[bytes] | None = None
        self.lingered = 0
        shared.loop.register(sock.fileno(), self.on_events)
        shared.connections.add(self)

    # edges

    def on_events(self, events: int) -> None:
        """Take an edge. A connection that fails is closed, never left behind."""
        try:
            if events != _PLAIN_EDGE or self.phase is not _IDLE:
                self._on_edge(events)
                return
            # The hot path: a request that came in one read to an idle connection, an answer that goes in one send.
            # Whatever is different takes the general path, which tells the client when the answer is the last, too.
            data = self.sock.recv(READ_SIZE)
            request = self.parser.feed(data)
            if request is None or not request.plain or self.parser.pending or len(data) == READ_SIZE:
                self._on_request(data, request)
                self.pump()
                return
            shared = self.shared
            response = shared.answer(request)
            payload = encode_json(response) if isinstance(response, bytes) else encode_plain(response)
            if payload is None or shared.draining:
                self._answer(request, response)
                self.pump()
                return
            try:
                sent = self.sock.send(payload)
            except BlockingIOError:
                sent = 0
            if sent == len(payload):
                # Rule 5 of the hot path: a deadline costs one write.
                self.deadline = shared.loop.now + shared.keep_alive
            else:
                self._keep(payload, sent)
                self._enter(Phase.SENDING)
        except BlockingIOError:
            self.readable = False
        except HTTPError as error:
            self.refuse(error)
        except (OSError, PeerError):
            self.close()  # the peer is gone, or speaks something else
        except Exception:
            self.close()
            log.exception("a connection failed")

    def on_deadline(self) -> None:
        """The phase has lasted too long: refuse, or close."""
        rule = RULES.get(self.phase)
        if rule is None or rule.refusal is None:
            if self.output:
                # After a FIN the kernel would keep what the peer doesn't take, megabytes, and probe for minutes.
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()
        else:
            self.refuse(rule.refusal)

    def refuse(self, error: HTTPError, owed: Iterable[bytes] = ()) -> None:
        """Say why, and close: the one function that writes refusals. `owed`: the answers before it, encoded."""
        log.debug("%s refused: %s", self.parser.peer.client, error)
        error.__traceback__ = None  # its frames may hold the error, and the parser: a cycle
        try:
            out = list(owed)
            encode(out, problem(error), UNPARSED, True)
            self._enter(Phase.FINISHING)
            # More may come, and must be read away before closing, or the kernel resets the connection under the answer.
            self.readable = True
            self.output += out
            self._drive()
        except (OSError, MemoryError):
            self.close()

    def drain(self) -> None:
        """The server is stopping: go at once when idle, else after the answer under way."""
        if self.phase in (Phase.NEW, Phase.IDLE):
            # A request may have arrived that this turn has not come to.
            self.readable = True
            self.on_events(0)
        if self.phase is Phase.IDLE:
            self.close()
        elif self.phase is Phase.NEW:
            # Accepted and not heard from: its first request is likely on the way.
            self.deadline = min(self.deadline, self.shared.loop.now + NEW_GRACE)

    def close(self) -> None:
        """Close the socket and let go of everything. Closing twice does nothing."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        self.shared.loop.forget(self.sock.fileno())
        self.sock.close()
        self.output.clear()
        self.shared.connections.discard(self)
        stream, self.stream = self.stream, None
        if stream is not None:
            _close_stream(stream)
        self.shared.on_close(self)

    # the way in

    def _on_edge(self, events: int) -> None:
        if events & _GONE and self.phase is not Phase.LINGERING:
            # Both directions are gone: nobody will read an answer. (A lingering connection has shut down its own, and
            # the peer's end is what it waits for.)
            self.close()
            return
        if events & RDHUP:
            # A half-close: the peer still reads what is owed.
            self.half_closed = True
        if events & _INPUT:
            self.readable = True
        if self.planned and events:
            # It had its turn: a peer that makes edges must not get one more for each.
            return
        if self.phase < _SENDING:
            self.pump()
        elif self.phase is Phase.LINGERING:
            self._linger()
        elif self.phase is not Phase.CLOSED:
            self._drive()
            self.pump()

    def pump(self) -> None:
        """Receive, handle and answer until drained, blocked on output, or out of turn."""
        parser = self.parser
        for _ in READS_PER_TURN:
            if self.phase >= _SENDING:
                return
            if parser.pending:
                self._answer(parser.next())
            elif self.readable:
                data = self.sock.recv(READ_SIZE)
                self._on_request(data, parser.feed(data))
            else:
                return
        self._come_back()

    def _come_back(self) -> None:
        """Go on when the other connections had their turn: no edge will tell."""
        if not self.planned:
            self.planned = True
            self.shared.loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.planned = False
        self.on_events(0)

    def _on_request(self, data: bytes, request: Request | None) -> None:
        """`data` was received and completed `request`, or none."""
        # A short read has drained the socket (epoll(7)). But an end that was told already brings no further edge.
        self.readable = len(data) == READ_SIZE or self.half_closed
        if data:
            self._answer(request)
        elif self.parser.state in (State.HEAD, State.BODY):
            self.refuse(HTTPError(400, "the connection ended before the request did"))
        else:
            self.close()

    def _answer(self, request: Request | None, response: Response | bytes | None = None) -> None:
        """Answer a request, and those that came behind it, with one send. None: none is complete."""
        shared = self.shared
        parser = self.parser
        out: list[bytes] = []
        rest = None
        room = shared.settings.max_output
        try:
            while request is not None:
                begin = len(out)
                rest = self._encode(out, request, shared.answer(request) if response is None else response)
                room -= sum(map(len, out[begin:]))
                if rest is not None or not parser.pending or room <= 0 or len(out) >= PIECES_PER_SEND:
                    break
                response = None
                request = parser.next()
        except HTTPError as error:
            self.refuse(error, out)
            return
        except PeerError:
            rest = Rest(None, close=True)
        if rest is not None:
            self._enter(Phase.FINISHING if rest.close else Phase.SENDING)
            self.stream = rest.stream
            self.output += out
            self._drive()
        elif not out:
            self._await_more()
        elif not self._send(out):
            self._enter(Phase.SENDING)
        elif parser.state:
            self._enter(_PHASES[parser.state])
            self._await_more()
        else:
            # Rule 5 of the hot path: the deadline costs one write.
            self.phase = _IDLE
            self.deadline = shared.loop.now + shared.keep_alive

    def _encode(self, out: list[bytes], request: Request, response: Response | bytes) -> Rest | None:
        """Encode a response; one that can't be sent becomes 500 to the client, its reason goes to the log."""
        begin = len(out)
        if isinstance(response, bytes):
            response = json_response(response)
        try:
            return encode(out, response, request, self.shared.draining)
        except FAILURES:
            # ValueError and TypeError are encode's; a body's or a mapping's own code may raise anything.
            del out[begin:]
            where = f"{request.method} {request.raw_path}"
            log.exception("%s: the response can't be sent, request %s", where, request.id)
            error = HTTPError(500, "the response could not be sent; the log has the reason under this id")
            return encode(out, problem(error, request.id), request, self.shared.draining)

    def _await_more(self) -> None:
        """A request is incomplete: its phase runs."""
        phase = _PHASES[self.parser.state]
        if phase is not self.phase:
            self._enter(phase)
        if phase is Phase.BODY:
            self._on_body_progress()

    def _on_body_progress(self) -> None:
        parser, settings, now = self.parser, self.shared.settings, self.shared.loop.now
        elapsed = now - self.since
        if elapsed > settings.body_timeout and parser.received < settings.min_body_rate * elapsed:
            self.refuse(_TOO_SLOW)
            return
        self.deadline = now + settings.body_timeout
        request = parser.incoming
        if request is not None and request.expects_continue:
            request.expects_continue = False
            refusal = self.shared.application.refuses(request)
            if refusal is not None:
                self.refuse(refusal)
            elif not parser.received and not self._send([CONTINUE]):
                # Some of the 25 bytes wait: nothing is read until they are gone.
                self._enter(Phase.SENDING)

    # the way out

    def _send(self, out: list[bytes]) -> bool:
        """Send now; keep what the kernel doesn't take. False when some waits."""
        if len(out) == 1:
            return self._send_one(out[0])
        if sum(map(len, out)) <= JOIN_LIMIT:
            return self._send_one(b"".join(out))
        self.output += out
        return self._flush()

    def _send_one(self, data: bytes) -> bool:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._keep(data, sent)
        return False

    def _keep(self, data: bytes, sent: int) -> None:
        """The kernel is full: the rest goes at the writable edge."""
        self.output.append(memoryview(data)[sent:])

    def _flush(self) -> bool:
        """Send what waits. False when some still does: it goes at the writable edge (epoll(7)), or in the next turn."""
        output = self.output
        room = SEND_SIZE
        while output and room > 0:
            offered = _up_to(room, output)
            try:
                sent = self.sock.sendmsg(offered)
            except BlockingIOError:
                return False
            self.deadline = self.shared.loop.now + self.shared.settings.write_timeout
            _drop(output, sent)
            room -= sent
            if sent < sum(map(len, offered)):
                return False  # the kernel is full
        if output:
            self._come_back()
        return not output

    def _drive(self) -> None:
        """Send what waits and pull what follows, until the kernel is full, all is sent, or the turn is over."""
        for _ in PULLS_PER_TURN:
            if not self._flush():
                return
            if self.stream is None:
                self._on_sent()
                return
            self._pull()
        self._come_back()

    def _pull(self) -> None:
        """Take the next pieces of the stream: few, since none may wait in memory for a slow reader."""
        stream = self.stream
        assert stream is not None
        size = 0
        try:
            for _ in PIECES_PER_PULL:
                piece = next(stream)
                if piece:
                    self.output.append(piece)
                size += len(piece)
                if size >= COPY_LIMIT:
                    break
        except StopIteration:
            self.stream = None
        except FAILURES:
            # The head is out: the missing end is all that can tell the client.
            log.exception("a response's body failed: the connection is cut")
            self.close()

    def _on_sent(self) -> None:
        if self.phase is Phase.CLOSED:
            return
        if self.phase is Phase.SENDING:
            self._go_on()
        elif self.readable or self.parser.pending or self.parser.state is not State.DONE or self._owes_much():
            # More of the peer's is here, or, since the end is not the peer's own wish, may be under way.
            self.sock.shutdown(socket.SHUT_WR)
            self._enter(Phase.LINGERING)
            self._linger()
        else:
            self.close()

    def _owes_much(self) -> bool:
        """Whether the kernel still has much to send: what the peer may yet send would reset it (tcp(7), SIOCOUTQ)."""
        if self.sock.family == socket.AF_UNIX:
            return False
        unsent: int = struct.unpack("i", fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return unsent > COPY_LIMIT  # less fits every window, and is on its way

    def _go_on(self) -> None:
        """Nothing waits any more: take up what the parser is in the middle of."""
        phase = _PHASES[self.parser.state]
        self._enter(phase)
        if phase is Phase.BODY:
            # The expectation of a request that came behind the answers hasn't been met yet.
            self._on_body_progress()
        elif self.shared.draining and not self.parser.pending:
            # The answer was begun before the drain, and didn't say that it is the last.
            self.drain()

    def _linger(self) -> None:
        """Read away what a refused peer still sends, a bounded amount of it."""
        for _ in READS_PER_TURN:
            try:
                count = self.sock.recv_into(self.shared.scratch)
            except BlockingIOError:
                return
            self.lingered += count
            if not count or self.lingered > LINGER_BYTES:
                self.close()
                return
            now = self.shared.loop.now
            self.deadline = min(self.since + LINGER_TIME, now + LINGER_PAUSE)
        self._come_back()

    def _enter(self, phase: Phase) -> None:
        if self.phase is Phase.CLOSED:
            return  # a handler has stopped the server under its own request
        self.phase = phase
        self.since = self.shared.loop.now
        self.deadline = self.since + self.shared.seconds[phase]


def _up_to(size: int, buffers: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """What one sendmsg is given of the buffers: at most `size` bytes."""
    chosen: list[bytes | memoryview] = []
    for buffer in buffers[:SENDMSG_BUFFERS]:
        chosen.append(buffer if len(buffer) <= size else memoryview(buffer)[:size])
        size -= len(buffer)
        if size <= 0:
            break
    return chosen


def _drop(buffers: list[bytes | memoryview], count: int) -> None:
    """Take the first `count` bytes away."""
    whole = 0
    for buffer in buffers:
        if count < len(buffer):
            break
        count -= len(buffer)
        whole += 1
    del buffers[:whole]
    if count:
        buffers[0] = memoryview(buffers[0])[count:]


def _close_stream(stream: Generator[bytes]) -> None:
    try:
        stream.close()
    except Exception:
        log.exception("closing a response's body failed")
