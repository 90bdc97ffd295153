"""Time in which the process didn't run: what arrived meanwhile is read first, and no deadline counts it."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll import Response, Routes
from hypoll import loop as module
from hypoll.concurrency.asyncio_bridge import AsyncioBridge
from hypoll.contracts import ConnectionState
from hypoll.loop import IN, LATE, TICK, Loop
from hypoll.runner import Runner
from hypoll.server.connection import Connection
from hypoll.server.context import READ_SIZE
from hypoll.server.server import Server
from hypoll.settings import Settings
from tests.support.client import Client
from tests.support.clock import PATIENCE, Turner
from tests.support.gunicorn import HYPOLL, Master, until

STOP = 3600.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK"
HALF = b"GET / HTTP/1.1\r\nHo"
UPLOAD = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


# the loop


class Interrupted:
    """An epoll whose next wait is interrupted by a stop: it gives nothing, whatever is ready (signal(7), PEP 475)."""

    def __init__(self, epoll: Any, stop: Callable[[], None]) -> None:
        self.epoll = epoll
        self.stop: Callable[[], None] | None = stop

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        if self.stop is not None:
            self.stop()
            self.stop = None
            return []
        events: list[tuple[int, int]] = self.epoll.poll(timeout, maxevents)
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self.epoll, name)


@pytest.mark.parametrize("seconds", [1.0, 1.0 + LATE / 2, STOP])
def test_what_is_ready_after_an_interrupted_wait_comes_before_the_timers(loop, clock, pair, monkeypatch, seconds):
    seen: list[str] = []
    loop.register(pair[0].fileno(), lambda events: seen.append("event"), IN)
    loop.call_later(1, seen.append, "timer")
    pair[1].send(b"a")
    monkeypatch.setattr(loop, "_epoll", Interrupted(loop._epoll, lambda: clock.advance(seconds)))
    loop.poll_once()
    loop.poll_once(0)
    assert seen == ["event", "timer"]


def test_all_batches_come_before_the_timers(loop, clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 4)
    pairs = [socket.socketpair() for _ in range(20)]
    seen: list[object] = []
    for ours, theirs in pairs:
        loop.register(ours.fileno(), lambda events: seen.append("event"), IN)
        theirs.send(b"a")
    loop.call_later(1, seen.append, "timer")
    loop.call_soon(seen.append, "soon")
    clock.advance(1)
    loop.poll_once(0)
    assert seen == ["event"] * 20 + ["soon", "timer"]
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_descriptors_that_are_always_ready_do_not_keep_timers_waiting(loop, clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 1)
    fired: list[str] = []
    ours, theirs = socket.socketpair()
    loop.register(ours.fileno(), lambda events: None, IN, edge=False)
    theirs.send(b"a")
    loop.call_later(1, fired.append, "timer")
    clock.advance(1)
    loop.poll_once(0)
    assert fired == ["timer"]
    ours.close()
    theirs.close()


def test_new_descriptors_that_come_without_end_do_not_keep_timers_waiting(loop, clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 1)
    fired: list[str] = []
    pairs: list[tuple[socket.socket, socket.socket]] = []

    def another(events: int) -> None:
        pairs.append(socket.socketpair())
        loop.register(pairs[-1][0].fileno(), another, IN)
        pairs[-1][1].send(b"a")

    another(0)
    loop.call_later(1, fired.append, "timer")
    clock.advance(1)
    loop.poll_once(0)
    assert fired == ["timer"]
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_timers_keep_what_was_left_of_their_time(loop, clock):
    fired: list[float] = []
    begun = clock.now
    for delay in (10.0, 2.0, 5.0):
        loop.call_later(delay, lambda: fired.append(clock.now - begun))
    clock.advance(1)
    loop.poll_once(0)
    loop.call_later(1, lambda: None)
    clock.advance(1 + STOP)  # of which it may have waited for one second
    loop.poll_once(0)
    assert fired == [2 + STOP]
    for _ in range(8):
        clock.advance(1)
        loop.poll_once(0)
    assert fired == [2 + STOP, 5 + STOP, 10 + STOP]


def test_a_pause_is_told_before_the_events(loop, clock, pair, caplog):
    seen: list[object] = []
    loop.on_tick(lambda: seen.append("tick"))
    loop.on_pause(seen.append)
    loop.register(pair[0].fileno(), lambda events: seen.append("event"), IN)
    pair[1].send(b"a")
    clock.advance(TICK + STOP)
    loop.poll_once(0)
    assert seen == [STOP, "event", "tick"]
    assert loop.lag == STOP, "the observers are told the truth"
    assert not caplog.text, "it may only begin to run"
    clock.advance(TICK + STOP)
    loop.poll_once(0)
    assert seen == [STOP, "event", "tick", STOP, "tick"]
    assert "the loop was kept from running for 3600.0 s: no deadline counts them" in caplog.text
    loop.off_pause(seen.append)
    clock.advance(TICK + STOP)
    loop.poll_once(0)
    assert seen == [STOP, "event", "tick", STOP, "tick", "tick"]


@pytest.mark.parametrize("computed", [0.9, 10.0])
def test_what_the_loop_has_computed_is_no_pause(clock, computed):
    cpu = [5.0]
    loop = Loop(clock, lambda: cpu[0])
    pauses: list[float] = []
    loop.on_tick(lambda: None)
    loop.on_pause(pauses.append)
    cpu[0] += computed  # in a callback, say
    clock.advance(10.0)
    loop.poll_once(0)
    # Up to a second of it may have been before the tick was due.
    assert pauses == ([9.0] if computed == 0.9 else [])
    loop.close()


def test_a_timer_that_is_asked_for_after_a_callback_slept_is_not_late(loop, clock):
    fired: list[float] = []

    def slow() -> None:
        clock.advance(10)
        loop.call_later(1, lambda: fired.append(clock.now))

    loop.on_tick(lambda: None)
    loop.call_soon(slow)
    loop.poll_once(0)
    ended = clock.now
    loop.poll_once(0)
    clock.advance(1)
    loop.poll_once(0)
    assert fired == [ended + 1]


@pytest.mark.parametrize("uvloop", [False, True])
def test_a_loop_that_asyncio_drives_pauses_too(clock, uvloop):
    if uvloop:
        pytest.importorskip("uvloop")
    loop = Loop(clock)
    tasks = AsyncioBridge(loop, uvloop=uvloop)
    seen: list[object] = []
    ours, theirs = socket.socketpair()

    def stop() -> None:
        clock.advance(100 + STOP)
        theirs.send(b"a")

    def on_event(events: int) -> None:
        seen.append("event")
        tasks.asyncio.call_soon(loop.stop)

    loop.on_pause(seen.append)
    loop.register(ours.fileno(), on_event, IN)
    loop.call_later(100, seen.append, "due")
    loop.call_later(100.1, seen.append, "not due")
    tasks.asyncio.call_soon(stop)
    tasks.run()
    assert seen == [STOP, "event", "due"]
    tasks.close()
    loop.close()
    ours.close()
    theirs.close()


# what a server checks


class World:
    """A server on a loop whose clock is the test's."""

    def __init__(self, loop: Loop, turner: Turner, server: Server) -> None:
        self.loop = loop
        self.turner = turner
        self.server = server
        self.clients: list[socket.socket] = []

    def connect(self, *sent: bytes, buffer: int = 0) -> socket.socket:
        client = socket.socket()
        self.clients.append(client)
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(PATIENCE)
        client.connect(self.server.listeners[0].sock.getsockname())
        for data in sent:
            client.sendall(data)
        self.turner.settle()
        return client


@pytest.fixture
def make(loop: Loop, turner: Turner) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**settings: Any) -> World:
        routes = Routes()
        routes.get("/")(lambda request: "ok")
        routes.post("/echo")(lambda request: request.body)
        routes.get("/large")(lambda request: Response(bytes(16 << 20)))
        server = Server(routes, Settings(bind=("127.0.0.1:0",), **settings), loop)
        server.start()
        made.append(World(loop, turner, server))
        return made[-1]

    yield make
    for world in made:
        world.server.stop()
        for client in world.clients:
            client.close()


SITUATIONS: dict[str, tuple[list[bytes], ConnectionState, float]] = {
    "new": ([], ConnectionState.NEW, Settings.keep_alive),
    "kept": ([GET], ConnectionState.IDLE, Settings.keep_alive),
    "half a head": ([HALF], ConnectionState.HEAD, Settings.header_timeout),
    "half a body": ([UPLOAD], ConnectionState.BODY, Settings.body_timeout),
    "slow reader": ([b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"], ConnectionState.SENDING, Settings.write_timeout),
    "refused": ([b"GET / HTTP/1.1\r\n\r\n", bytes(5)], ConnectionState.LINGERING, 5.0),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_no_deadline_of_a_connection_counts_a_pause(make, clock, turner, name):
    sent, state, seconds = SITUATIONS[name]
    world = make()
    world.connect(*sent, buffer=4096)
    (connection,) = world.server.connections
    assert connection.state is state
    for _ in range(3):
        clock.advance(TICK + STOP)
        turner.settle()
    assert connection.state is state, "three seconds have passed for it"
    turner.after(seconds - 4)
    assert connection.state is state
    turner.after(3)
    assert connection.state is not state


def test_a_connection_whose_deadline_fails_is_closed_and_takes_no_other_s(make, turner, monkeypatch, caplog):
    world = make()
    for _ in range(3):
        world.connect(HALF)
    broken = [*world.server.connections]
    real = Connection.on_deadline

    def on_deadline(connection: Connection) -> None:
        if connection in broken[:2]:
            raise KeyError("nosuch")
        real(connection)

    monkeypatch.setattr(Connection, "on_deadline", on_deadline)
    turner.after(Settings.header_timeout + 1)
    assert [connection.state for connection in broken[:2]] == [ConnectionState.CLOSED] * 2
    assert broken[2].state is not ConnectionState.HEAD
    assert caplog.text.count("a connection failed") == 2


def test_a_proxy_header_does_not_count_a_pause(make, clock, turner):
    world = make(proxy_protocol=True)
    world.connect(b"PROXY ")
    clock.advance(TICK + STOP)
    turner.settle()
    assert len(world.server._header_readers) == 1
    turner.after(Settings.header_timeout + 1)
    assert not world.server._header_readers


def test_a_slow_body_is_judged_without_the_pause(make, clock, turner):
    world = make()
    client = world.connect(UPLOAD[:-5])
    clock.advance(TICK + STOP)
    client.sendall(b"12345")
    turner.settle()
    client.sendall(b"67890")
    turner.settle()
    assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_body_is_not_judged_while_more_of_it_waits(make, clock, turner, loop):
    """The loop was busy, which is no pause, while all of the body came."""
    world = make()
    size = READ_SIZE + 100
    client = world.connect(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    (connection,) = world.server.connections
    client.sendall(bytes(size))
    connection.state_since -= 1000  # so long ago that a first read of it looks like a trickle
    turner.settle()
    assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_has_not_had_its_turn_is_not_judged(make, clock, turner, loop):
    world = make()
    world.connect(GET)
    (connection,) = world.server.connections
    connection.reschedule()
    connection.deadline = loop.now
    world.server._tick()
    assert world.server.connections == {connection}
    turner.settle()
    world.server._tick()
    assert not world.server.connections


def test_the_date_after_a_pause_is_not_that_before_it(make, clock, turner, monkeypatch):
    world = make()
    client = world.connect(GET)
    client.recv(4096)
    monkeypatch.setattr("hypoll.protocol.serializer.time.time", lambda: 2_000_000_000.0)
    client.sendall(GET)
    clock.advance(TICK + STOP)
    turner.loop.poll_once(0)
    assert b"Date: Wed, 18 May 2033 03:33:20 GMT\r\n" in client.recv(4096)


def test_graceful_timeout_does_not_count_a_pause(make, clock, turner):
    world = make(graceful_timeout=10.0)
    client = world.connect(UPLOAD)
    world.server.drain()
    turner.settle()
    clock.advance(TICK + STOP)
    turner.settle()
    assert world.server.status.value == "draining"
    client.sendall(b"67890")
    turner.settle()
    assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    client.close()
    turner.settle()
    assert world.server.status.value == "stopped"


def test_graceful_timeout_ends_after_a_pause(make, clock, turner):
    world = make(graceful_timeout=10.0)
    world.connect(UPLOAD)
    world.server.drain()
    turner.settle()
    clock.advance(TICK + STOP)
    turner.after(8)
    assert world.server.status.value == "draining"
    turner.after(2)
    assert world.server.status.value == "stopped"


def test_the_wait_before_a_drain_does_not_count_a_pause(monkeypatch, clock):
    monkeypatch.setattr("hypoll.runner.Loop", lambda: Loop(clock))
    runner = Runner(Routes(), Settings(bind=("127.0.0.1:0",), drain_wait=5.0, slow_callback=0.0))
    server = runner.start()
    runner.begin_shutdown()
    clock.advance(TICK + STOP)
    Turner(runner.loop, clock).settle()
    assert server.status.value == "serving"
    Turner(runner.loop, clock).after(5)
    assert server.status.value == "stopped"
    runner.close()


# real processes

APP = """
import hypoll
routes = hypoll.Routes()

@routes.get("/")
{kind} index(request):
    return "ok"

@routes.post("/echo")
def echo(request):
    return request.body
"""

SHORT = ("--keep-alive", "1", "--header-timeout", "1", "--body-timeout", "1", "--bind", "127.0.0.1:0")


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    made: list[Client] = []
    yield made
    for client in made:
        client.close()


@contextlib.contextmanager
def stopped(master: Master) -> Iterator[None]:
    """Stop a process for longer than its deadlines, and a tick: the machine's own time must pass."""
    master.signal(signal.SIGSTOP)
    until(lambda: Path(f"/proc/{master.popen.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    yield
    time.sleep(2.5)
    master.signal(signal.SIGCONT)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_stopped_process_loses_nobody(tmp_path, clients, kind):
    (tmp_path / "app.py").write_text(APP.format(kind=kind))
    with Master(tmp_path, [*HYPOLL, *SHORT]) as master:
        clients += [Client(("127.0.0.1", master.port)) for _ in range(51)]
        kept, whole, heads, halves, bodies = (clients[at : at + 10] for at in range(0, 50, 10))
        for client in (*kept, *whole):
            assert client.ask(GET).status == 200
        for client in (*heads, *halves):
            client.send(HALF)
        for client in bodies:
            client.send(UPLOAD)
        assert clients[50].ask(GET).status == 200  # so all before it were read
        with stopped(master):
            for client in whole:
                client.send(GET)
            for client in heads:
                client.send(GET[len(HALF) :])
        answers = [client.answer() for client in (*whole, *heads)]
        answers += [client.ask(GET) for client in kept]
        answers += [client.ask(GET[len(HALF) :]) for client in halves]
        answers += [client.ask(b"67890") for client in bodies]
        assert [answer.status for answer in answers] == [200] * 50
        assert master.says(r"the loop was kept from running for \d\.\d s")
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
