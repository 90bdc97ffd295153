"""ASGI answers that come in pieces: back-pressure, what goes on after the last, and context."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from typing import Any
from unittest import mock

import pytest

from hypoll.asgi.response_body import ResponseBody
from tests.asgi.asgiapps import GET, Message, Receive, Send, body, forever, saying, serving, start
from tests.support.client import PATIENCE, Client
from tests.support.server import Running

KIB = 1024


class Endless:
    """An application that sends pieces without end, each of its own making.

    sent: bytes that `send` has taken.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0
        self.ended = threading.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await send(start())
            while True:
                await send(body(bytes(self.size), True))
                self.sent += self.size
        finally:
            self.ended.set()


def waiting(it: Running) -> int:
    """Bytes that wait for the clients. On the loop."""
    total = 0
    for connection in it.server.connections:
        assert isinstance(connection.writer.source, ResponseBody)
        total += sum(map(len, connection.writer.buffers)) + connection.writer.source.waiting
    return total


@pytest.mark.parametrize("size", [100, 10 * KIB, 300 * KIB])
@pytest.mark.parametrize("limit", [1000, 256 * KIB, 1024 * KIB])
def test_send_waits_while_more_than_max_output_waits(size, limit):
    app = Endless(size)
    with serving(app, max_output=limit) as it:
        client = it.connect(buffer=4096)
        client.send(GET)
        client.head()
        it.until(lambda: waiting(it) > limit)
        assert it.on_loop(lambda: waiting(it)) <= limit + 2 * (size + 16)
        before = app.sent
        taken = 0
        while app.sent == before:  # and goes on when the client reads
            taken += len(client.chunk())
            assert taken < 50_000_000
        client.close()
        assert app.ended.wait(PATIENCE)


def test_many_slow_clients_are_left_less_each():
    app = Endless(32 * KIB)
    with serving(app, max_output=256 * KIB) as it, mock.patch("hypoll.server.body_memory.OUTPUT_MEMORY", 512 * KIB):
        clients: list[Client] = []
        output = it.server.context.waiting_output
        for _ in range(20):
            clients.append(it.connect(buffer=4096))
            clients[-1].send(GET)
            clients[-1].head()
            it.until(lambda: output._waiters == len(clients))
        assert it.on_loop(lambda: output.each) == 64 * KIB
        assert it.on_loop(lambda: waiting(it)) < 20 * 256 * KIB * 3 // 4  # those that came first were left all of it
        for client in clients:
            client.close()
        it.until(lambda: not it.server.connections)
        it.until(lambda: output.each == 256 * KIB)


def test_a_slow_client_holds_nobody_else():
    app = Endless(64 * KIB)

    async def both(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await app(scope, receive, send)
        else:
            await saying(start(), body(b"quick"))(scope, receive, send)

    with serving(both) as it:
        it.connect().send(GET)
        it.until(lambda: app.sent)
        client = it.connect()
        for _ in range(20):
            assert client.ask(GET.replace(b"/ ", b"/quick ")).body == b"quick"


def test_a_fast_client_holds_nobody_else():
    app = Endless(10)
    done = threading.Event()

    async def both(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await app(scope, receive, send)
        else:
            await saying(start(), body(b"quick"))(scope, receive, send)

    def swallow(client: Any) -> None:
        while not done.is_set():
            client.sock.recv(1 << 20)

    with serving(both) as it:
        greedy = it.connect()
        greedy.send(GET)
        thread = threading.Thread(target=swallow, args=(greedy,))
        thread.start()
        try:
            it.until(lambda: app.sent > 1000)
            client = it.connect()
            for _ in range(20):
                assert client.ask(GET.replace(b"/ ", b"/quick ")).body == b"quick"
        finally:
            done.set()
            thread.join()


def test_a_whole_body_waits_for_its_client_too():
    sent = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(bytes(20_000_000)))
        sent.set()

    with serving(app) as it:
        client = it.connect(buffer=1 << 18)
        client.send(GET)
        client.head()
        assert not sent.wait(0.1)
        assert len(client.take(20_000_000)) == 20_000_000
        assert sent.wait(PATIENCE)


def test_who_waits_for_a_client_that_goes_gets_the_error():
    errors: list[BaseException] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await Endless(64 * KIB)(scope, receive, send)
        except OSError as error:
            errors.append(error)
            raise

    with serving(app) as it:
        client = it.connect(buffer=4096)
        client.send(GET)
        client.head()
        client.reset()
        it.until(lambda: errors)


def test_a_client_that_goes_behind_the_last_piece_is_no_error(caplog):
    ended = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await send(start())
            await send(body(bytes(100_000), True))
            await send(body(bytes(20_000_000)))
        finally:
            ended.set()

    with serving(app) as it:
        client = it.connect(buffer=4096)
        client.send(GET)
        client.head()
        client.reset()
        assert ended.wait(PATIENCE)
    assert not caplog.records


def test_a_client_that_takes_nothing_is_cut():
    app = Endless(64 * KIB)
    with serving(app, write_timeout=0.1) as it:
        client = it.connect(buffer=4096)
        client.send(GET)
        client.head()
        assert app.ended.wait(PATIENCE)
        it.until(lambda: not it.server.connections)


def test_a_silent_stream_has_no_deadline():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"he", True))
        await asyncio.sleep(0.3)
        await send(body(b"llo"))

    with serving(app, write_timeout=0.1, keep_alive=0.1) as it:
        assert it.connect().ask(GET).body == b"hello"


class Background:
    """An application that goes on after its answer, until it is let end."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages or (start(), body(b"hello"))
        self.calls = 0
        self.ended = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.calls += 1
        await saying(*self.messages)(scope, receive, send)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1


@pytest.mark.parametrize("messages", [(start(), body(b"hello")), (start(), body(b"he", True), body(b"llo"))])
def test_after_the_last_piece_the_connection_serves_its_next_request(messages):
    app = Background(*messages)
    with serving(app, graceful_timeout=PATIENCE) as it:
        client = it.connect()
        for _ in range(5):
            assert client.ask(GET).body == b"hello"
        assert (app.calls, app.ended) == (5, 0)
        client.close()
        it.until(lambda: not it.server.connections)
        it.on_loop(it.server.drain)
        it.until(lambda: not it.server.listeners)
        assert it.on_loop(lambda: it.server.status.value) == "draining"  # it waits for them
        it.on_loop(app.go.set)
    assert (app.ended, app.cancelled) == (5, 0)


def test_what_goes_on_for_too_long_is_cancelled():
    app = Background()
    with serving(app, graceful_timeout=0.1) as it:
        assert it.connect().ask(GET).body == b"hello"
    assert (app.ended, app.cancelled) == (0, 1)


def test_what_fails_after_the_answer_is_logged(caplog):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await saying(start(), body(b"hello"))(scope, receive, send)
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with serving(app) as it:
        client = it.connect()
        for _ in range(2):
            assert client.ask(GET).body == b"hello"
    assert ["after its answer" in record.getMessage() for record in caplog.records] == [True, True]


def test_each_request_has_a_task_and_a_context_of_its_own():
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    tasks = []
    seen = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        seen.append(variable.get())
        variable.set(len(tasks))
        await asyncio.sleep(0)
        assert variable.get() == len(tasks)
        async with asyncio.timeout(PATIENCE):
            assert asyncio.current_task() is tasks[-1]
            await asyncio.create_task(send(start()))  # type: ignore[arg-type]
        await send(body(b"x"))
        variable.set(-1)

    with serving(app) as it:
        client = it.connect()
        for _ in range(3):
            assert client.ask(GET).body == b"x"
    assert len(set(tasks)) == 3
    assert None not in tasks
    assert seen == [0, 0, 0]


@pytest.mark.parametrize("uvloop", [True, False])
def test_an_application_runs_at_once_up_to_its_first_wait_where_python_can(uvloop):
    """From Python 3.12 on (eager_start): what never waits is answered in the turn of its request."""
    happened: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        happened.append("called")
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        happened.append("continued")
        await saying(start(), body(b"x"))(scope, receive, send)

    with serving(app, uvloop=uvloop) as it:
        client = it.connect()
        assert client.ask(GET).body == b"x"  # from now on its socket is registered
        (connection,) = it.server.connections
        callbacks, fd = it.runner.loop._callbacks, connection.sock.fileno()
        on_events = connection.on_events

        def watched(events: int) -> None:
            happened.append("edge")
            on_events(events)
            happened.append("edge taken")

        happened.clear()
        it.on_loop(lambda: callbacks.__setitem__(fd, watched))
        assert client.ask(GET).body == b"x"
    eager = ["edge", "called", "edge taken", "continued"]
    assert happened[:4] == (eager if sys.version_info >= (3, 12) else ["edge", "edge taken", "called", "continued"])


def test_a_timeout_ends_what_it_is_around():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(0.01):
                await forever()
        except TimeoutError:
            await send(start(504))
        await send(body(b"late"))

    with serving(app) as it:
        assert it.connect().ask(GET).status == 504


def test_a_task_that_nobody_else_holds_isnt_collected():
    ended = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x"))
        future = asyncio.get_running_loop().create_future()
        waiters.append(weakref.ref(future))
        await future
        ended.set()

    waiters: list[Any] = []
    with serving(app, graceful_timeout=PATIENCE) as it:
        assert it.connect().ask(GET).body == b"x"
        it.until(lambda: waiters)
        it.on_loop(gc.collect)
        it.on_loop(lambda: waiters[0]().set_result(None))
        assert ended.wait(PATIENCE)


@pytest.mark.parametrize("access_log", ["off", "text"])
def test_nothing_is_left_of_a_request(access_log):
    held: list[Any] = []

    class Mark:
        pass

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scope["mark"] = mark = Mark()
        held.append(weakref.ref(mark))
        await receive()
        await saying(start(), body(b"x", True), body())(scope, receive, send)

    def left() -> int:
        return sum(one() is not None for one in held)

    with serving(app, access_log=access_log) as it:
        client = it.connect()
        gc.disable()
        try:
            for _ in range(5):
                client.ask(GET)
            it.until(lambda: not it.runner.asyncio_bridge.count)  # type: ignore[union-attr]
            assert it.on_loop(left) <= 1  # without the collector's help
        finally:
            gc.enable()


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.full, id="many")])
def test_many_wait_at_once(count):
    under_way, all_wait = 0, asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal under_way
        under_way += 1
        if under_way == count:
            all_wait.set()
        await all_wait.wait()
        await saying(start(), body(b"x"))(scope, receive, send)

    with serving(app) as it:
        clients = [it.connect() for _ in range(count)]
        for client in clients:
            client.send(GET)
        assert {client.answer().body for client in clients} == {b"x"}
