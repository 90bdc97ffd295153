"""A connection under any sequence of what a peer can do, against a model of what it must get.

The peer is one end of a socketpair, time is a number, and every step ends when the loop has nothing left to do.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import h11
import hypothesis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hypoll.app import Routes
from hypoll.contracts import ConnectionState
from hypoll.http import Response
from hypoll.loop import TICK, Loop
from hypoll.server.ending import LINGER_TIME
from hypoll.server.server import Server
from hypoll.settings import Settings

KEEP_ALIVE, HEADER, BODY, WRITE = 7.0, 3.0, 5.0, 9.0
LIMITS = Settings(
    keep_alive=KEEP_ALIVE,
    header_timeout=HEADER,
    body_timeout=BODY,
    write_timeout=WRITE,
    min_body_rate=0,
    max_output=4096,
)
PATIENCE = {"idle": KEEP_ALIVE, "head": HEADER, "body": BODY, "blocked": WRITE, "ending": WRITE + LINGER_TIME}
"""Seconds a connection may be in a situation."""

BIG = 900_000
"""More than a socketpair buffers, which is more than the server sends in one turn."""

PIECE = 10_000
WALKS, STEPS = 60, 30

ENDING = (ConnectionState.FINISHING, ConnectionState.LINGERING, ConnectionState.CLOSED)

TURNS = 3_000
"""Turns a step may take: more is spinning."""

routes = Routes()


@routes.get("/small/{n:int}")
def small(request, n):
    return {"n": n}


@routes.get("/big/{n:int}")
def big(request, n):
    return b"%d:" % n + b"b" * BIG


@routes.get("/stream/{n:int}")
def stream(request, n):
    def pieces() -> Iterator[bytes]:
        yield b"%d:" % n
        for _ in range(BIG // PIECE):
            yield b"s" * PIECE

    return Response(pieces())


@routes.post("/echo/{n:int}")
def echo(request, n):
    return b"%d:" % n + request.body


@routes.get("/thread/{n:int}", threaded=True)
def thread(request, n):
    return {"n": n}


@routes.get("/flow/{n:int}", threaded=True)
def flow(request, n):
    return Response(piece for piece in (b"%d:" % n, b"f" * 100, b"", b"f" * 200))


@routes.get("/fail/{n:int}")
def fail(request, n):
    return Response("no", headers={"Bad\r\n": "name"})


class Owed(NamedTuple):
    """An answer a request must get."""

    method: bytes
    status: int
    content: bytes | None
    last: bool
    """Whether the connection ends behind it."""


class Ask(NamedTuple):
    """A request on its way: its bytes, where its head ends, and what it must get."""

    wire: bytes
    head: int
    owed: Owed


def ask(kind: str, number: int, close: bool, content: bytes) -> Ask:
    method = "POST" if kind == "echo" else "HEAD" if kind == "head" else "GET"
    path = f"/{'small' if kind == 'head' else kind}/{number}"
    length = f"Content-Length: {len(content)}\r\n" if kind == "echo" else ""
    end = "Connection: close\r\n" if close else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n{length}{end}\r\n".encode()
    name = b"%d:" % number
    answer = {
        "small": b'{"n":%d}' % number,
        "thread": b'{"n":%d}' % number,
        "head": b"",
        "big": name + b"b" * BIG,
        "stream": name + b"s" * (BIG // PIECE * PIECE),
        "flow": name + b"f" * 300,
        "echo": name + content,
    }.get(kind)
    wire = head + content if kind == "echo" else head
    status = {"fail": 500, "missing": 404}.get(kind, 200)
    return Ask(wire, len(head), Owed(method.encode(), status, answer, close))


KINDS = ["small", "big", "echo", "stream", "thread", "flow", "small", "echo", "thread", "head", "fail", "missing"]
asks = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from([False] * 19 + [True]), st.binary(max_size=40)),
    min_size=1,
    max_size=6,
)
BROKEN = [
    (b"\0", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"FOO / HTTP/1.1\r\n", 501),
    (b"GET / HTTP/2.0\r\n", 505),
    (b"GET  /\r\n\r\n", 400),
]


def first_answer(wire: bytes, method: bytes, ended: bool) -> tuple[int, bytes, bool, bytes] | None:
    """(status, content, whether it says close, what follows) of an answer, as h11 reads it; None: it isn't whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    if ended and wire:
        client.receive_data(b"")
    try:
        head = client.next_event()
        if head is h11.NEED_DATA:
            return None
        assert isinstance(head, h11.Response), head
        content: list[bytes] = []
        while isinstance(part := client.next_event(), h11.Data):
            content.append(bytes(part.data))
    except h11.RemoteProtocolError:
        assert ended
        return None
    if part is h11.NEED_DATA:
        return None
    assert isinstance(part, h11.EndOfMessage), part
    last = (b"connection", b"close") in list(head.headers)
    return head.status_code, b"".join(content), last, client.trailing_data[0]


class ConnectionMachine(RuleBasedStateMachine):
    """What was sent stands in `asks` and `sent`; what must come back follows from them, `end` and `cut`."""

    @initialize(calm=st.integers(0, 12), deaf=st.booleans())
    def connect(self, calm: int, deaf: bool) -> None:
        # Whether the peer ends without reading what it was sent.
        self.deaf = deaf
        # Requests before anything may happen that ends the connection.
        self.calm = calm
        self.now = 1000.0
        self.loop = Loop(lambda: self.now)
        self.server = Server(routes, LIMITS, self.loop, listeners=[])
        self.server.start()
        self.client, accepted = socket.socketpair()
        self.client.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.server.admit(accepted, ("127.0.0.1", 1))
        (self.connection,) = self.server.connections
        self.asks: list[Ask] = []
        self.sent = 0
        self.received = b""
        self.checked = 0
        # The status of the refusal that ends the connection; 0: it ends without one; None: it goes on.
        self.end: int | None = None
        self.cut = False
        self.half_closed = False
        self.eof = False
        self.gone = False
        self.situation = ("idle", 0)
        self.entered = self.state_since = self.now
        self.settle()

    # the model

    def place(self) -> tuple[str, int]:
        """Where in which request the bytes sent so far end."""
        at = self.sent
        for number, request in enumerate(self.asks):
            if at < len(request.wire):
                return ("idle" if at == 0 else "head" if at < request.head else "body"), number
            at -= len(request.wire)
        return "idle", len(self.asks)

    def expected(self) -> list[Owed]:
        """Every answer the peer must get."""
        _, whole = self.place()
        answers: list[Owed] = []
        for request in self.asks[:whole]:
            answers.append(request.owed)
            if request.owed.last:
                return answers
        return [*answers, Owed(self.method_under_way(whole), self.end, None, True)] if self.end else answers

    def method_under_way(self, whole: int) -> bytes:
        """What the refusal of a request is an answer to: as far as it came, it may be a HEAD."""
        came = self.sent - sum(len(request.wire) for request in self.asks[:whole])
        return b"HEAD" if whole < len(self.asks) and self.asks[whole].wire[:came].startswith(b"HEAD ") else b"GET"

    @property
    def over(self) -> bool:
        """Whether the connection ends behind what is expected."""
        return self.end is not None or any(owed.last for owed in self.expected())

    def edge(self) -> None:
        """A blocked connection hears of the peer, and finds the room that reads too small for an edge have made."""
        if self.situation[0] in ("blocked", "ending"):
            self.state_since = self.now

    def settle(self) -> None:
        """Let the loop do all it has to do, and see what that makes of the connection."""
        for _ in range(TURNS):
            working = self.server.thread_pool.unfinished
            if self.loop.timeout() != 0.0 and not working and not select.select([self.loop.fileno()], [], [], 0)[0]:
                break
            if working and self.loop.timeout() != 0.0:
                select.select([self.loop.fileno()], [], [], 0.01)  # what a thread has done wakes the loop
            self.loop.poll_once(0)
        else:
            raise AssertionError("the loop spins")
        state = self.connection.state
        situation = ("ending", 0) if state in ENDING else ("blocked", 0)
        if state is not ConnectionState.SENDING and state not in ENDING:
            situation = self.place()
        if situation != self.situation:
            self.situation = situation
            self.entered = self.state_since = self.now

    def tick(self) -> None:
        """A second passes: the deadline of the situation holds to the tick."""
        kind, _ = self.situation
        state = self.connection.state
        self.now += TICK
        early, late = self.now < self.state_since + PATIENCE[kind], self.now >= self.state_since + PATIENCE[kind] + TICK
        if kind == "blocked":
            early = self.now < self.entered + PATIENCE[kind]
        self.settle()
        if state is ConnectionState.CLOSED:
            return
        ended = (
            self.connection.state in ENDING
            if kind in ("head", "body")
            else self.connection.state is ConnectionState.CLOSED
        )
        assert not (ended and early and kind != "ending"), f"{kind} was cut before its time"
        assert ended or not late, f"{kind} was not cut in time"
        if ended and not self.over:
            self.end = 408 if kind in ("head", "body") else 0
        if ended and (kind == "blocked" or state is ConnectionState.FINISHING):
            self.cut = True

    # what a peer can do

    @precondition(lambda self: self.may_send)
    @rule(parts=asks, whole=st.sampled_from([True, True, False]))
    def ask(self, parts: list[tuple[str, bool, bytes]], whole: bool) -> None:
        """Compose requests behind those on their way; send all, or leave them to `send` and `dribble`."""
        first = len(self.asks)
        self.asks += [ask(kind, first + at, close, body) for at, (kind, close, body) in enumerate(parts)]
        if whole:
            self.transmit_asked(len(self.waiting))

    @precondition(lambda self: self.may_send and not self.over)
    @rule(kind=st.sampled_from(["big", "stream"]), parts=asks, less=st.integers(0, 60))
    def pile_up(self, kind: str, parts: list[tuple[str, bool, bytes]], less: int) -> None:
        """Ask for more than the kernel holds, and behind it, unread, for more, the last of it not whole."""
        self.ask([(kind, False, b"")], whole=True)
        self.ask(parts, whole=False)
        self.transmit_asked(max(0, len(self.waiting) - less))

    @precondition(lambda self: self.may_send and self.waiting)
    @rule(where=st.sampled_from(["head", "body", "end", "all"]), less=st.integers(1, 30))
    def send(self, where: str, less: int) -> None:
        """Send up to somewhere in the request under way, or all that was asked."""
        _, number = self.place()
        request = self.asks[number]
        begin = sum(len(request.wire) for request in self.asks[:number])
        stops = {"head": request.head - less, "body": len(request.wire) - less, "end": len(request.wire), "all": 10**9}
        self.transmit_asked(max(0, begin + stops[where] - self.sent))

    @precondition(lambda self: self.may_send and len(self.waiting) > 1)
    @rule(seconds=st.integers(2, 8))
    def dribble(self, seconds: int) -> None:
        """A byte a second."""
        for _ in range(seconds):
            if self.may_send:
                self.transmit_asked(1)
                self.tick()

    @precondition(lambda self: self.may_send and not self.over and self.ripe)
    @rule(broken=st.sampled_from(BROKEN))
    def break_the_grammar(self, broken: tuple[bytes, int]) -> None:
        """In one turn with the requests before."""
        wire, status = broken
        whole = self.waiting
        sent = self.transmit(whole + wire)
        self.sent += min(sent, len(whole))
        if sent == len(whole + wire) and not self.over:
            self.end = status
        self.settle()

    @precondition(lambda self: not self.half_closed and not self.gone and self.ripe)
    @rule(patience=st.integers(0, 4))
    def half_close(self, patience: int) -> None:
        if len(self.asks) < self.calm + 2 * patience:
            return
        # In one turn with the last of the bytes, as far as the kernel takes them.
        self.sent += self.transmit(self.waiting) if self.end is None else 0
        self.half_closed = True
        if not self.over:
            self.end = 0 if self.place()[0] == "idle" else 400
        self.edge()
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)
        self.settle()

    @precondition(lambda self: not self.gone)
    @rule(count=st.sampled_from([1, 1000, 50_000, 1_000_000]))
    def read(self, count: int) -> None:
        if self.receive(count):
            self.edge()
        self.settle()

    @precondition(lambda self: not self.gone)
    @rule()
    def read_all(self) -> None:
        while self.receive(1_000_000):
            self.settle()
        self.check_answers()

    @precondition(lambda self: self.asks)
    @rule(seconds=st.sampled_from([1, 2, 4, 9]))
    def wait(self, seconds: int) -> None:
        for _ in range(seconds if self.ripe else 1):
            self.tick()

    @precondition(lambda self: not self.gone and self.asks and self.ripe)
    @rule(patience=st.integers(0, 4))
    def reset(self, patience: int) -> None:
        if len(self.asks) < self.calm + 2 * patience:
            return
        self.gone = True
        self.client.close()
        self.settle()
        assert self.connection.state is ConnectionState.CLOSED, "a connection outlived its peer"

    # how it is done

    @property
    def ripe(self) -> bool:
        return len(self.asks) >= self.calm

    @property
    def may_send(self) -> bool:
        return not self.half_closed and not self.gone and self.end is None

    @property
    def waiting(self) -> bytes:
        return b"".join(request.wire for request in self.asks)[self.sent :]

    def transmit_asked(self, count: int) -> None:
        sent = self.transmit(self.waiting[:count])
        self.sent += sent
        if sent and self.place() == self.situation and self.situation[0] == "body":
            self.state_since = self.now
        self.settle()

    def transmit(self, data: bytes) -> int:
        self.edge()
        try:
            return self.client.send(data)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            assert self.over, "the server closed a connection that was to go on"
            return 0

    def receive(self, count: int) -> int:
        try:
            data = self.client.recv(count)
        except BlockingIOError:
            return 0
        except ConnectionResetError:
            data = b""
        self.eof = self.eof or not data
        self.received += data
        return len(data)

    def check_answers(self) -> None:
        """All that is expected has come, whole and in order, and nothing else."""
        for owed in self.expected()[self.checked :]:
            answer = first_answer(self.received, owed.method, self.eof)
            if answer is None:
                assert self.cut, f"no answer: {owed}"
                return
            status, content, last, self.received = answer
            assert status == owed.status
            assert owed.content is None or content == owed.content
            assert last or not owed.last, "the last answer doesn't say so"
            self.checked += 1
        assert self.received == b""
        assert self.eof == self.over

    @invariant()
    def a_closed_connection_leaves_nothing(self) -> None:
        closed = self.connection.state is ConnectionState.CLOSED
        assert self.server.connections == (set() if closed else {self.connection})
        assert len(self.loop.registered()) == (0 if closed else 1)
        assert not closed or (self.connection.writer.buffers == [] and self.connection.writer.source is None)

    def teardown(self) -> None:
        try:
            if not self.gone and not self.deaf:
                self.read_all()
            for _ in range(int(sum(PATIENCE.values()))):
                self.tick()
            assert self.connection.state is ConnectionState.CLOSED, "a silent peer is kept for ever"
            self.a_closed_connection_leaves_nothing()
        finally:
            self.client.close()
            self.server.stop()
            self.loop.close()


class Walker:
    """Takes rules of the machine at random: long walks, where hypothesis prefers short ones that it can shrink."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.machine = ConnectionMachine()

    def parts(self) -> list[tuple[str, bool, bytes]]:
        kinds = self.choice.choices(KINDS, k=self.choice.randint(1, 4))
        return [(kind, self.choice.random() < 0.02, b"x" * self.choice.randint(0, 40)) for kind in kinds]

    def walk(self, steps: int) -> None:
        self.machine.connect(calm=0, deaf=self.choice.random() < 0.3)
        ways = {self.talk: 20.0, self.read_all: 6, self.read: 6, self.wait: 2, self.end: 0.4, self.reset: 0.2}
        try:
            for step in self.choice.choices(list(ways), list(ways.values()), k=steps):
                if not self.machine.gone:
                    step()
                    self.machine.a_closed_connection_leaves_nothing()
            if self.machine.deaf and self.machine.may_send and not self.machine.over:
                self.pile_up()
        finally:
            self.machine.teardown()

    def talk(self) -> None:
        if self.machine.may_send and not self.machine.over:
            self.choice.choice((self.ask, self.pile_up, self.send, self.dribble, self.upload))()

    def ask(self) -> None:
        self.machine.ask(self.parts(), whole=self.choice.random() < 0.5)

    def pile_up(self) -> None:
        self.machine.pile_up(self.choice.choice(["big", "stream"]), self.parts(), self.choice.randint(0, 80))

    def send(self) -> None:
        if self.machine.waiting:
            self.machine.send(self.choice.choice(["head", "body", "end", "all"]), self.choice.randint(1, 30))

    def dribble(self) -> None:
        if len(self.machine.waiting) > 1:
            self.machine.dribble(self.choice.choice([1, 2, 2, 8]))

    def upload(self) -> None:
        if self.machine.waiting:
            self.machine.send("all", 1)
        self.machine.ask([("echo", False, b"x" * 40)], whole=False)
        self.machine.send("body", 30)
        self.machine.dribble(self.choice.randint(2, 8))

    def read_all(self) -> None:
        self.machine.read_all()

    def read(self) -> None:
        self.machine.read(self.choice.choice([1, 50_000, 400_000, 1_000_000]))

    def wait(self) -> None:
        self.machine.wait(self.choice.choice([1, 1, 1, 1, 9]))

    def end(self) -> None:
        """Half-close or break, in one turn with requests."""
        if self.machine.may_send and not self.machine.over:
            self.machine.ask(self.parts(), whole=False)
            if self.choice.random() < 0.5:
                self.machine.half_close(patience=0)
            else:
                self.machine.break_the_grammar(self.choice.choice(BROKEN))

    def reset(self) -> None:
        self.machine.reset(patience=0)


@pytest.mark.parametrize("seed", range(WALKS))
def test_a_random_walk(seed):
    Walker(seed).walk(STEPS)


ConnectionMachine.TestCase.settings = settings(
    max_examples=70,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    # Without shrinking: that takes longer than a test may.
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestConnection = ConnectionMachine.TestCase
