"""Answers of tasks that are sent in a row: which wait, for how long, and what ends the waiting."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from hypoll.contracts import ConnectionState
from hypoll.loop import Loop
from hypoll.server.answer_batch import HOLD_TIME, LATE_PAUSE, LATE_TIME, MOST_HELD, QUICK_TIME, AnswerBatch
from hypoll.server.connection import Connection
from hypoll.server.socket_io import PeerGone
from tests.asgi.asgiapps import GET, Receive, Send, body, serving, start
from tests.support.clock import Clock

PAUSE = 0.0001
"""Seconds of a task whose answer is held with others."""


class Bridge:
    """What runs the tasks, as far as a batch asks it."""

    eager = False

    def __init__(self) -> None:
        self.count = 2
        self.before_turn: Callable[[], object] = lambda: None


class Sink:
    """A connection that waits for its answer."""

    def __init__(self, name: int, log: list[int], error: BaseException | None = None) -> None:
        self.name, self.log, self.error = name, log, error
        self.state = ConnectionState.WAITING
        self.exchange: object = "a request"
        self.failure: Exception | None = None

    def send_whole(self, answer: bytes) -> None:
        assert self.exchange is None
        assert answer == b"%d" % self.name
        if self.error is not None:
            raise self.error
        self.log.append(self.name)

    def on_failure(self, error: Exception) -> None:
        self.failure = error


class Batch:
    """A batch, and what it has sent."""

    def __init__(self) -> None:
        self.clock, self.bridge, self.sent = Clock(), Bridge(), list[int]()
        self.loop = Loop(self.clock)
        self.batch = AnswerBatch(self.loop, self.bridge)  # type: ignore[arg-type]
        self.sinks: list[Sink] = []

    def answer(self, pause: float = PAUSE, error: BaseException | None = None) -> Sink:
        """Have the next answer made after so many seconds."""
        self.clock.advance(pause)
        sink = Sink(len(self.sinks), self.sent, error)
        self.sinks.append(sink)
        self.batch.send(sink, b"%d" % sink.name)  # type: ignore[arg-type]
        return sink


@pytest.fixture
def it():
    batch = Batch()
    yield batch
    batch.loop.close()


def test_the_first_is_sent_at_once_and_those_behind_it_with_the_last_of_the_tasks(it):
    for _ in range(4):
        it.answer()
    assert it.sent == [0]
    it.loop.poll_once(0)
    assert it.sent == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "pause", [0.0, QUICK_TIME * 0.9, HOLD_TIME * 1.1, 1.0], ids=["none", "short", "long", "a second"]
)
def test_what_comes_in_no_time_or_late_is_sent_at_once(it, pause):
    for number in range(1, 6):
        it.answer(pause)
        assert len(it.sent) == number
    assert not it.loop.ready


def test_who_is_alone_waits_for_nobody(it):
    it.bridge.count = 1
    for number in range(1, 6):
        it.answer()
        assert len(it.sent) == number
    it.bridge.eager = True  # such a task is often alone, though others are to come
    it.answer()
    assert len(it.sent) == 5


def test_so_many_are_sent_together(it):
    it.answer()
    it.answer()
    for _ in range(MOST_HELD - 2):
        it.answer(0.0)
    assert it.sent == [0]
    it.answer(0.0)
    assert it.sent == list(range(MOST_HELD + 1))


def test_none_waits_for_longer_than_a_moment_and_a_step(it):
    it.answer()
    it.answer()
    it.answer(HOLD_TIME * 0.5)
    assert it.sent == [0]
    it.answer(HOLD_TIME * 0.6)
    assert it.sent == [0, 1, 2, 3]
    it.answer()
    assert it.sent == [0, 1, 2, 3], "the next is the first of a new row"
    it.answer(5.0)
    assert it.sent == [0, 1, 2, 3, 4, 5], "a step that took long"


def test_none_waits_into_a_turn_of_the_loop_and_the_first_behind_it_is_sent_at_once(it):
    it.answer()
    it.answer()
    it.bridge.before_turn()
    assert it.sent == [0, 1]
    it.answer()
    assert it.sent == [0, 1, 2]
    it.answer()
    assert it.sent == [0, 1, 2]


def test_behind_a_row_that_was_late_none_is_held_for_a_while(it):
    it.answer()
    it.answer()
    it.clock.advance(LATE_TIME * 1.1)  # tasks that take long, and answer nothing
    it.loop.poll_once(0)
    for number in range(3, 8):
        it.answer()
        assert len(it.sent) == number
    it.clock.advance(LATE_PAUSE)
    it.answer()
    it.answer()
    assert len(it.sent) == 8
    it.clock.advance(LATE_TIME * 0.8)
    it.loop.poll_once(0)
    it.answer()
    it.answer()
    assert len(it.sent) == 10, "that was in time"


def test_a_connection_that_fails_is_closed_and_keeps_nobody_from_the_rest(it):
    gone, odd = PeerGone(), ValueError("x")
    errors = [None, gone, None, odd, None]
    for error in errors:
        it.answer(error=error)
    it.batch.flush()
    assert it.sent == [0, 2, 4]
    assert [sink.failure for sink in it.sinks] == errors
    it.clock.advance(1.0)
    assert it.answer(1.0, gone).failure is gone, "also where it isn't held"


def test_a_connection_that_was_closed_meanwhile_is_left_alone(it):
    it.answer()
    it.answer().state = ConnectionState.CLOSED
    it.answer()
    it.batch.flush()
    assert it.sent == [0, 2]


def test_what_interrupts_a_row_loses_nothing_of_it(it):
    it.answer()
    it.answer()
    it.answer(error=KeyboardInterrupt())
    it.answer()
    with pytest.raises(KeyboardInterrupt):
        it.batch.flush()
    it.batch.flush()
    assert it.sent == [0, 1, 3]


def test_a_forked_child_sends_nothing_that_is_held(it):
    it.answer()
    it.answer()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            it.batch.flush()
            os.write(writer, b"%d" % len(it.sent))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"1"
    os.close(reader)
    os.close(writer)
    it.batch.flush()
    assert it.sent == [0, 1]


class Gate:
    """An application whose tasks all wait, and then take a step of so many seconds each."""

    def __init__(self, clock: Clock, step: float) -> None:
        self.clock, self.step = clock, step
        self.waiting: list[asyncio.Future[None]] = []
        self.made: Callable[[str], object] = lambda path: None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]
        self.clock.advance(self.step)
        await send(start(200))
        self.made(scope["path"])
        await send(body(b"x"))

    def open(self) -> None:
        """Let all go on that wait, in their order. On the loop's thread."""
        for future in self.waiting:
            future.set_result(None)
        self.waiting.clear()


@pytest.mark.parametrize("uvloop", [False, True])
@pytest.mark.parametrize(("step", "together"), [(PAUSE, True), (HOLD_TIME * 2, False), (0.0, False)])
def test_answers_of_an_application(monkeypatch, uvloop, step, together):
    events: list[str] = []
    send_whole = Connection.send_whole

    def sending(connection: Connection, answer: bytes) -> bool:
        events.append("sent")
        return send_whole(connection, answer)

    monkeypatch.setattr(Connection, "send_whole", sending)
    gate = Gate(Clock(), step)
    gate.made = lambda path: events.append("made")
    with serving(gate, clock=gate.clock, uvloop=uvloop) as it:
        clients = [it.connect() for _ in range(5)]
        for _ in range(2):  # each goes on
            events.clear()
            for client in clients:
                client.send(GET)
            it.until(lambda: len(gate.waiting) == 5)
            it.on_loop(gate.open)
            for client in clients:
                assert client.more()
                assert client.data.endswith(b"x")
                client.data = b""
            assert events == (["made", "sent", *["made"] * 4, *["sent"] * 4] if together else ["made", "sent"] * 5)


@pytest.mark.parametrize("end", ["drain_at_once", "stop", "stop soon"])
@pytest.mark.parametrize("uvloop", [False, True])
def test_what_is_held_when_the_server_ends_is_sent(end, uvloop):
    """Also where the tasks run within a turn of hypoll's loop, as from Python 3.12 on."""
    clock, held = Clock(), threading.Event()
    ends: list[Callable[[], object]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        clock.advance(PAUSE)
        await send(start(200))
        await send(body(b"x"))
        if scope["path"] == "/last":
            ends[0]()

    with serving(app, clock=clock, uvloop=uvloop, graceful_timeout=30.0) as it:
        soon = partial(it.runner.loop.call_soon, it.server.stop)
        ends.append(soon if end == "stop soon" else getattr(it.server, end))
        clients = [it.connect() for _ in range(5)]
        for client in clients:
            client.ask(GET)
        it.runner.loop.call_soon_threadsafe(held.wait, 30)  # they all come in one turn
        for client in clients:
            client.send(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n" if client is clients[-1] else GET)
        held.set()
        for client in clients:
            assert client.rest().count(b"200 OK") == 1


def test_what_is_held_when_the_loop_ends_is_sent():
    gate = Gate(Clock(), PAUSE)
    gate.made = lambda path: asyncio.get_running_loop().stop() if path == "/last" else None
    with serving(gate, clock=gate.clock) as it:
        clients = [it.connect() for _ in range(3)]
        for number, client in enumerate(clients, 1):
            path = b"/last" if number == len(clients) else b"/"
            client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            it.until(partial(lambda count: len(gate.waiting) == count, number))
        it.on_loop(gate.open)
        for client in clients:
            assert client.more()
            assert client.data.endswith(b"x")
