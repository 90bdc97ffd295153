"""asyncio, or uvloop, driving a loop: each has its turns, and both end together."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from hypoll.concurrency.asyncio_bridge import AsyncioBridge, new_event_loop
from hypoll.concurrency.jobs import Lease
from hypoll.concurrency.thread_pool import ThreadPool
from hypoll.loop import IN, Loop, Timer
from tests.support.clock import PATIENCE
from tests.support.leftovers import open_descriptors, settled_descriptors


class Driven:
    """A loop, the tasks that drive it, and a pool."""

    def __init__(self, uvloop: bool) -> None:
        self.loop = Loop()
        self.tasks = AsyncioBridge(self.loop, uvloop=uvloop)
        self.threads = ThreadPool(self.loop, 2, 10)
        self.gate = threading.Event()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        async def counted() -> None:
            try:
                await coroutine
            finally:
                self.tasks.count -= 1
                if not self.tasks.count:
                    self.tasks.on_idle()

        self.tasks.count += 1
        return self.tasks.new_task(counted())

    def run(self) -> None:
        """Run until someone stops it; not for ever."""
        late: list[int] = []

        def give_up() -> None:
            late.append(1)
            self.loop.stop()

        timer = self.loop.call_later(PATIENCE, give_up)
        self.tasks.run()
        timer.cancel()
        assert not late, "nobody stopped it"

    def close(self) -> None:
        self.gate.set()
        self.threads.close()
        self.tasks.close()
        self.loop.close()


async def in_thread(it: Driven, call: Callable[[], Any]) -> Any:
    """Await a call on a thread of its own."""
    lease = Lease(it.threads)
    try:
        return await it.tasks.in_thread(lease, call, contextvars.copy_context())
    finally:
        lease.release()


@pytest.fixture(params=["asyncio", "uvloop"])
def it(request: pytest.FixtureRequest) -> Iterator[Driven]:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    it = Driven(request.param == "uvloop")
    assert type(it.tasks.asyncio).__module__.startswith("uvloop") is (request.param == "uvloop")
    yield it
    it.close()


def test_without_uvloop_asyncio_is_taken(monkeypatch):
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    loop = new_event_loop(True)
    loop.close()
    assert type(loop).__module__.startswith("asyncio")


def test_timers_fire_in_order_and_in_time(it):
    fired: list[str] = []
    timers: dict[str, Timer] = {}
    begun = time.monotonic()

    def fire(name: str) -> None:
        fired.append(name)
        if len(fired) == 3:
            it.loop.stop()

    def ask(name: str, seconds: float) -> None:
        timers[name] = it.loop.call_later(seconds, fire, name)

    ask("late", 0.06)
    ask("early", 0.02)
    it.loop.call_later(0.03, fire, "never").cancel()
    # When a busy machine holds this up it is due behind the early one, or the late.
    it.loop.call_later(0.0, ask, "asked for as it runs", 0.01)
    it.run()
    assert fired == sorted(timers, key=timers.__getitem__)
    assert time.monotonic() - begun >= 0.06


def test_a_timer_that_is_asked_for_in_a_task_fires(it):
    async def ask() -> None:
        await asyncio.sleep(0.01)
        it.loop.call_later(0.01, it.loop.stop)

    it.loop.call_soon(lambda: it.start(ask()))
    it.run()


def test_what_a_task_has_planned_runs_outside_of_its_context(it):
    """Else the timer keeps that context, with the request in it, and so does each turn that the turn plans."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    seen: list[str] = []

    def see() -> None:
        seen.append(name.get())
        if len(seen) == 3:
            it.loop.stop()

    async def ask() -> None:
        name.set("task")
        await asyncio.sleep(0)
        it.loop.call_soon(see)
        it.loop.call_later(0.01, see)
        it.loop.call_later(0.01, it.loop.call_soon, see)

    it.loop.call_soon(lambda: it.start(ask()))
    it.run()
    assert seen == ["nobody", "nobody", "nobody"]


def test_call_soon_from_a_task_runs_without_an_event(it):
    async def ask() -> None:
        await asyncio.sleep(0.01)
        it.loop.call_soon(it.loop.call_soon, it.loop.stop)

    it.start(ask())
    it.run()


def test_ticks_go_on(it, monkeypatch):
    monkeypatch.setattr("hypoll.loop.TICK", 0.01)
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 5:
            it.loop.stop()

    it.loop.on_tick(tick)
    it.run()


def test_events_are_told_while_tasks_run(it):
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        got: list[bytes] = []

        def on_events(events: int) -> None:
            if events & IN:
                got.append(reader.recv(100))
            if len(got) == 3:
                it.loop.stop()

        async def write() -> None:
            for number in range(3):
                await asyncio.sleep(0.005)
                writer.send(b"%d" % number)

        it.loop.register(reader.fileno(), on_events)
        it.start(write())
        it.run()
        it.loop.unregister(reader.fileno())
    assert got == [b"0", b"1", b"2"]


def test_a_busy_task_lets_events_through(it):
    reader, writer = socket.socketpair()
    with reader, writer:
        it.loop.register(reader.fileno(), lambda events: events & IN and it.loop.stop())

        async def spin() -> None:
            writer.send(b"x")
            while True:
                await asyncio.sleep(0)

        it.start(spin())
        it.run()
        it.loop.unregister(reader.fileno())


def test_a_signal_is_told(it):
    it.loop.add_signal_handler(signal.SIGUSR1, it.loop.stop)
    killer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    killer.start()
    it.run()
    killer.join()


@pytest.mark.parametrize("where", ["waiting", "callback", "task"])
def test_an_urgent_signal_ends_it_whatever_runs(it, where):
    class Hurry(KeyboardInterrupt):
        pass

    def raise_it() -> None:
        raise Hurry

    killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))

    def hang() -> None:
        killer.start()  # not before: it must find the loop in here
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(0.001)

    async def hang_in_task() -> None:
        hang()

    it.loop.add_signal_handler(signal.SIGUSR1, lambda: None, raise_it)
    if where != "task":
        it.loop.call_soon(hang if where == "callback" else killer.start)
    task = it.start(hang_in_task()) if where == "task" else None
    begun = time.monotonic()
    with pytest.raises(Hurry):
        it.run()
    assert time.monotonic() - begun < PATIENCE / 2
    killer.join()
    if task is not None:
        task.exception()


def test_a_turn_that_fails_ends_it(it):
    """As `Loop.run` does; asyncio alone would log it and go on without."""

    class Fatal(BaseException):
        pass

    def fail() -> None:
        raise Fatal

    it.loop.call_later(0.01, fail)
    with pytest.raises(Fatal):
        it.run()


def test_a_stop_from_a_task(it):
    after: list[int] = []

    async def stop() -> None:
        await asyncio.sleep(0)
        it.loop.stop()

    it.start(stop())
    it.run()
    it.loop.call_soon(after.append, 1)
    it.loop.call_soon(it.loop.stop)
    it.run()  # it may run again
    assert after == [1]


def test_a_stop_before_it_runs(it):
    it.loop.stop()
    it.run()
    assert not it.loop.stopping


def test_a_stop_before_it_runs_does_not_keep_the_end_from_waiting(it):
    """What is run to its end after it takes more than a turn of asyncio."""
    ended: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0.01)
            ended.append("background")

    async def start() -> None:
        it.background = asyncio.ensure_future(background())
        await asyncio.sleep(0)

    async def hook() -> None:
        await asyncio.sleep(0.01)
        ended.append("hook")

    it.tasks.complete(start())
    it.loop.stop()
    it.tasks.at_end(lambda: it.tasks.complete(hook()))
    assert ended == ["background", "hook"]
    it.run()


def test_tasks_are_counted_and_their_end_is_told(it):
    counts: list[int] = []

    def idle() -> None:
        counts.append(len(it.tasks))
        it.loop.stop()

    it.tasks.on_idle = idle

    async def wait(seconds: float) -> None:
        counts.append(len(it.tasks))
        await asyncio.sleep(seconds)

    it.start(wait(0.01))
    it.start(wait(0.02))
    assert len(it.tasks) == 2
    it.run()
    assert counts == [2, 2, 0]


def test_what_is_left_is_cancelled_at_the_end_and_may_clean_up(it):
    said: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            said.append("cancelled")
            await asyncio.sleep(0.01)
            said.append("cleaned up")
            raise

    async def begin() -> None:
        it.background = asyncio.create_task(background())
        await asyncio.sleep(0.01)
        it.tasks.at_end(lambda: said.append("end"))
        it.loop.stop()

    it.start(begin())
    it.run()
    assert said == ["cancelled", "cleaned up", "end"]


def test_who_does_not_end_when_cancelled_is_left_behind(it, monkeypatch, caplog):
    monkeypatch.setattr("hypoll.concurrency.asyncio_bridge.CANCEL_TIME", 0.02)
    go_on = True

    async def stubborn() -> None:
        while go_on:
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                continue

    async def begin() -> None:
        it.background = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        it.loop.stop()

    it.start(begin())
    it.run()
    assert "1 tasks did not end within 0.02 s of being cancelled" in caplog.text
    go_on = False


# calls in threads


def complete(it: Driven, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a task beside the loop and give what it gives."""
    results: list[Any] = []

    async def wrapped() -> None:
        try:
            results.append(await coroutine)
        finally:
            it.loop.stop()

    task = it.start(wrapped())
    it.run()
    if not results:
        task.result()
    return results[0]


def test_a_call_in_a_thread_is_awaited(it):
    ran, loops = complete(it, in_thread(it, threading.current_thread)), threading.current_thread()
    assert ran is not loops


def test_a_call_in_a_thread_is_made_in_the_context_of_who_awaits_it(it):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")

    async def ask() -> tuple[str, str]:
        variable.set("mine")
        mine = await in_thread(it, variable.get)
        variable.set("another")
        return mine, await in_thread(it, variable.get)

    assert complete(it, ask()) == ("mine", "another")
    assert variable.get() == "nobody's"


@pytest.mark.parametrize("raised", [ValueError, SystemExit])
def test_what_a_call_in_a_thread_raises_is_raised_and_leaves_nothing(it, raised):
    class Held:
        pass

    gone: list[weakref.ref[Held]] = []

    def fail() -> None:
        held = Held()
        gone.append(weakref.ref(held))
        raise raised("no")

    async def ask() -> str:
        try:
            await in_thread(it, fail)
        except (ValueError, SystemExit) as error:
            return f"{type(error).__name__} {error}"
        return "nothing"

    gc.collect()
    gc.disable()
    try:
        assert complete(it, ask()) == f"{raised.__name__} no"
        end = time.monotonic() + PATIENCE
        while gone[0]() is not None:
            assert time.monotonic() < end, "it waits for the collector"
            it.loop.poll_once(0.01)
    finally:
        gc.enable()


@pytest.mark.parametrize("begun", [True, False])
def test_a_call_whose_task_is_cancelled_is_not_made_if_it_has_not_begun(it, begun):
    ran: list[int] = []
    entered = threading.Event()

    def call() -> None:
        ran.append(1)
        entered.set()
        it.gate.wait(PATIENCE)

    def hold() -> None:
        it.gate.wait(PATIENCE)

    async def ask() -> str:
        others = [] if begun else [asyncio.ensure_future(in_thread(it, hold)) for _ in range(2)]
        asked = asyncio.ensure_future(in_thread(it, call))
        while begun and not entered.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        asked.cancel()
        try:
            await asked
        except asyncio.CancelledError:
            answer = "cancelled"
        else:
            answer = "came"
        it.gate.set()
        await asyncio.gather(*others)
        while it.threads.unfinished:
            await asyncio.sleep(0.001)
        return answer

    assert complete(it, ask()) == "cancelled"
    assert ran == [1] * begun


def test_many_calls_in_threads(it):
    async def ask() -> list[int]:
        return list(await asyncio.gather(*(in_thread(it, _square(n)) for n in range(200))))

    assert complete(it, ask()) == [n * n for n in range(200)]


def _square(number: int) -> Callable[[], int]:
    return lambda: number * number


def test_it_gives_back_all_descriptors(it):
    before = len(settled_descriptors())
    other = Driven(type(it.tasks.asyncio).__module__.startswith("uvloop"))
    other.loop.call_soon(other.loop.stop)
    other.run()
    other.close()
    assert len(open_descriptors()) == before
