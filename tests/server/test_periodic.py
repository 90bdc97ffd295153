"""Periodic work: when it begins and ends, that it never runs twice at once, and what a failure costs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hypoll import RouteError, Routes
from hypoll.testing import TestClient
from tests.support.clock import PATIENCE
from tests.support.server import running

KINDS = ["threaded", "async"]
LONG = 3600.0

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


def declare(routes: Routes, kind: str, seconds: float, function: Callable[[], Any]) -> None:
    """Declare what is called periodically, as a def or in an async def."""

    async def task() -> None:
        function()
        await asyncio.sleep(0)

    routes.every(seconds)(task if kind == "async" else function)


class Count:
    """Counts its calls. reached: is set when there were as many as it waits for."""

    def __init__(self, wanted: int) -> None:
        self.threads: list[threading.Thread] = []
        self.names: list[str] = []
        self.wanted = wanted
        self.reached = threading.Event()

    def __call__(self) -> None:
        self.threads.append(threading.current_thread())
        self.names.append(name.get())
        name.set("somebody")
        if len(self.threads) >= self.wanted:
            self.reached.set()


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_again_and_again_where_it_may(kind, mounted):
    routes, count = Routes(), Count(3)
    declare(routes, kind, 0.01, count)
    outer = Routes()
    outer.mount("/a", routes)
    outer.mount("/b", routes)
    outer.on_start(lambda: name.set("started"))
    with running(outer if mounted else routes) as it:
        assert count.reached.wait(PATIENCE)
        loop_thread = it.on_loop(threading.current_thread)
    threads = set(count.threads)
    assert len(threads) == 1
    assert (threads == {loop_thread}) is (kind == "async")
    assert set(count.names) == {"started" if mounted else "nobody"}, "each run has a context of its own"


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_behind_the_start_and_has_ended_before_the_end(kind):
    routes, log, done = Routes(), [], threading.Event()

    def work() -> None:
        log.append("work")
        done.set()

    routes.on_start(lambda: log.append("start"))
    routes.on_stop(lambda: log.append("stop"))
    declare(routes, kind, 0.005, work)
    with TestClient(routes):
        assert done.wait(PATIENCE)
    assert (log[0], log[1], log[-1], log.count("stop")) == ("start", "work", "stop", 1)
    seen = len(log)
    with TestClient(routes):
        pass
    assert log[seen] == "start", "a server after another begins anew"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_waits_for_no_pause(kind):
    routes, count = Routes(), Count(1)
    declare(routes, kind, LONG, count)
    with running(routes, graceful_timeout=LONG):
        assert count.reached.wait(PATIENCE)
    assert len(count.threads) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_waits_for_a_run_that_is_under_way(kind, caplog):
    routes, begun, leave, log = Routes(), threading.Event(), threading.Event(), []

    def thread() -> None:
        begun.set()
        leave.wait(PATIENCE)
        log.append("done")

    async def task() -> None:
        begun.set()
        while not leave.is_set():
            await asyncio.sleep(0.001)
        log.append("done")

    routes.every(LONG)(task if kind == "async" else thread)
    routes.on_stop(lambda: log.append("stop"))
    with running(routes, graceful_timeout=LONG) as it, caplog.at_level(logging.INFO, "hypoll.error"):
        assert begun.wait(PATIENCE)
        it.on_loop(it.server.drain)
        it.until(lambda: caplog.messages)
        leave.set()
    assert log == ["done", "stop"]
    assert caplog.messages[0] == "draining: 1 run of periodic work"


@pytest.mark.parametrize("kind", KINDS)
def test_what_doesnt_end_is_waited_for_as_long_as_a_request(kind):
    routes, begun, leave, log = Routes(), threading.Event(), threading.Event(), []

    def thread() -> None:
        begun.set()
        leave.wait(PATIENCE)

    async def task() -> None:
        begun.set()
        try:
            await asyncio.sleep(LONG)
        finally:
            log.append("cancelled")

    routes.every(LONG)(task if kind == "async" else thread)
    routes.on_stop(lambda: log.append("stop"))
    with running(routes, graceful_timeout=0.05):
        assert begun.wait(PATIENCE)
    leave.set()
    assert log == (["cancelled", "stop"] if kind == "async" else ["stop"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_never_runs_twice_at_once_and_catches_nothing_up(kind):
    routes, leave, runs, most = Routes(), threading.Event(), [], []
    reached = threading.Event()

    def begin() -> None:
        runs.append(1)
        most.append(len(runs))
        reached.set()

    def thread() -> None:
        begin()
        leave.wait(PATIENCE)
        runs.pop()

    async def task() -> None:
        begin()
        while not leave.is_set():
            await asyncio.sleep(0.001)
        runs.pop()

    routes.every(0.002)(task if kind == "async" else thread)
    with running(routes) as it:
        assert reached.wait(PATIENCE)
        ticks = it.on_loop(it.runner.loop.time)
        it.until(lambda: it.runner.loop.time() > ticks + 0.05)
        assert most == [1]
        reached.clear()
        leave.set()
        assert reached.wait(PATIENCE)
    assert set(most) == {1}


def fail() -> None:
    raise ValueError("no such luck")


def leave_all() -> None:
    raise SystemExit(3)


async def fail_later() -> None:
    fail()


async def cancel() -> None:
    raise asyncio.CancelledError


FAILING: dict[str, Callable[[], Any]] = {
    "def": fail,
    "exit": leave_all,
    "partial": functools.partial(fail),
    "async": fail_later,
    "cancelled": cancel,
    "awaitable": lambda: fail_later(),
}


@pytest.mark.parametrize("form", list(FAILING))
def test_a_failure_is_logged_once_and_the_next_run_comes(form, caplog):
    routes, count = Routes(), Count(3)
    failing = FAILING[form]
    routes.every(0.005)(failing)
    routes.every(0.005)(count)
    routes.get("/")(lambda request: "fine")
    with running(routes) as it:
        it.until(lambda: len([one for one in caplog.records if one.exc_info]) >= 3)
        assert count.reached.wait(PATIENCE)
        assert it.connect().get("/").body == b"fine"
        runs = it.on_loop(lambda: len(caplog.records))
    assert runs >= 3
    where = r"the periodic work functools.partial" if form == "partial" else "test_periodic.py line"
    assert all(where in one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR)


def test_work_beside_the_pool_takes_no_thread_of_it():
    routes, begun, leave = Routes(), threading.Barrier(3), threading.Event()

    def hold() -> None:
        begun.wait(PATIENCE)
        leave.wait(PATIENCE)

    routes.every(LONG)(hold)
    routes.every(LONG)(functools.partial(hold))
    routes.get("/", threaded=True)(lambda request: "fine")
    with running(routes, threads=1) as it:
        begun.wait(PATIENCE)
        assert it.connect().get("/").body == b"fine"
        leave.set()


def test_a_start_that_fails_begins_none():
    routes, count = Routes(), Count(1)

    @routes.on_start
    def refuse():
        raise RuntimeError("no database")

    routes.every(0.001)(count)
    with pytest.raises(RuntimeError, match="no database"), TestClient(routes):
        pass
    assert not count.threads


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (fail, r"as in @routes.every\(60\), and .*fail, test_periodic.py line \d+ has none"),
        (0, "a number of seconds above 0, not 0"),
        (-1, "above 0, not -1"),
        ("60", "above 0, not '60'"),
        (float("nan"), "above 0"),
        (float("inf"), "above 0"),
        (True, "above 0"),
        (None, "above 0"),
    ],
)
def test_what_is_no_period(seconds, words):
    with pytest.raises(RouteError, match=words):
        Routes().every(seconds)


def test_what_cant_be_called_so():
    with pytest.raises(RouteError, match=r"the every hook .* must take \(\)"):
        Routes().every(1)(lambda request: None)
    with pytest.raises(RouteError, match="can't be called"):
        Routes().every(1)("work")  # type: ignore[type-var]


@pytest.mark.parametrize("when", ["before", "after"])
def test_other_servers_have_none_of_it_done(when):
    routes = Routes()
    declare = routes.every(1)
    if when == "after":
        assert routes.wsgi is not None
    else:
        declare(fail)
    with pytest.raises(RouteError, match=r"no periodic work done, and there is some: .*fail, test_periodic.py line"):
        declare(fail) if when == "after" else routes.wsgi


def test_asyncio_is_needed_for_async_work_alone():
    routes = Routes()
    routes.every(1)(fail)
    assert not routes.uses_asyncio
    routes.every(1)(fail_later)
    assert routes.uses_asyncio
