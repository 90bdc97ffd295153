"""A server in a thread of its own, with ticks short enough for tests, and a client that sees each byte."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from hypoll.contracts import Application
from hypoll.loop import Loop
from hypoll.runner import Runner
from hypoll.server.server import Status
from hypoll.settings import Settings
from hypoll.telemetry.observer import Observer
from tests.support.client import PATIENCE, Client
from tests.support.clock import Clock

TICK = 0.02


class Running:
    """The server, and its clients.

    clock: the server's time, where the test moves it.
    """

    def __init__(self, engine: Runner, clock: Clock | None = None) -> None:
        self.runner = engine
        self.clock = clock
        self.server = engine.make_server()
        self.clients: list[Client] = []
        self.address = ("", 0)
        self.failure: BaseException | None = None

    def connect(self, buffer: int = 0) -> Client:
        self.clients.append(Client(self.address, buffer))
        return self.clients[-1]

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """What `call()` gives on the loop's thread."""
        done = threading.Event()
        results: list[Any] = []

        def run() -> None:
            results.append(call())
            done.set()

        self.runner.loop.call_soon_threadsafe(run)
        assert done.wait(PATIENCE), "the loop is held"
        return results[0]

    def until(self, holds: Callable[[], object], what: str = "it didn't happen") -> None:
        """Wait for what no one tells of, by the loop's own view."""
        end = time.monotonic() + PATIENCE
        while not self.on_loop(holds):
            assert time.monotonic() < end, what
            time.sleep(0.002)

    def after(self, seconds: float) -> None:
        """Let the time of the test's clock pass, with a turn for each tick, unless the server stops before."""
        assert self.clock is not None, "its time is the machine's"
        end = self.clock.now + seconds
        while self.clock.now < end and self.server.status is not Status.STOPPED:
            self.clock.advance(min(TICK, end - self.clock.now))
            for _ in range(2):  # the timers of a turn run behind what the first of these asks for
                self._turn()

    def _turn(self) -> None:
        """Wait for a turn of the loop, or for the server's end."""
        done = threading.Event()
        end = time.monotonic() + PATIENCE
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.runner.loop.call_soon_threadsafe(done.set)
        while not done.wait(TICK) and self.server.status is not Status.STOPPED:
            assert time.monotonic() < end, "the loop is held"


@contextmanager
def load_unlogged() -> Iterator[None]:
    """Leave out of the log that the loop was kept from running: with short ticks a loaded machine does that."""

    def is_of_the_server(record: logging.LogRecord) -> bool:
        return "the loop was kept from running" not in str(record.msg)

    log = logging.getLogger("hypoll.error")
    log.addFilter(is_of_the_server)
    try:
        yield
    finally:
        log.removeFilter(is_of_the_server)


@contextmanager
def running(
    routes: Application, *, observers: Sequence[Observer] = (), clock: Clock | None = None, **settings: Any
) -> Iterator[Running]:
    """Serve until the block ends. Nothing may be left of it then.

    clock: the server's time, moved by `Running.after`: where a deadline of the client's must not depend on how soon the
        machine lets a test go on.
    """
    settings = {
        "bind": ("127.0.0.1:0",),
        "slow_callback": 0.0,
        "graceful_timeout": 1.0,
        "drain_keep_alive": 0.05,
        **settings,
    }
    started = threading.Event()
    served: list[Running] = []

    def serve() -> None:
        engine = Runner(routes, Settings(**settings), observers=observers)
        served.append(Running(engine, clock))
        try:
            served[0].server.start()
            served[0].address = served[0].server.listeners[0].sock.getsockname()
            engine.loop.call_soon(started.set)
            engine.run()
        except BaseException as error:
            served[0].failure = error
        finally:
            started.set()
            served[0].server.stop()
            engine.close()

    with (
        mock.patch("hypoll.loop.TICK", TICK),
        mock.patch("hypoll.runner.Loop", partial(Loop, clock or time.monotonic)),
        load_unlogged(),
    ):
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert started.wait(PATIENCE)
        it = served[0]
        try:
            yield it
        finally:
            for client in it.clients:
                client.close()
            if thread.is_alive():
                with contextlib.suppress(RuntimeError):  # it has ended by itself in this moment
                    it.runner.loop.call_soon_threadsafe(it.server.drain)
            thread.join(PATIENCE)
        assert not thread.is_alive()
        if it.failure is not None:
            raise it.failure
        assert not it.server.connections
