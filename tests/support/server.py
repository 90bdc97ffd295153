"""A server in a thread of its own, with ticks short enough for tests, and a client that sees each byte."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypoll.contracts import Application
from hypoll.runner import Runner
from hypoll.settings import Settings
from hypoll.telemetry.observer import Observer
from tests.support.client import PATIENCE, Client

TICK = 0.02


class Running:
    """The server, and its clients."""

    def __init__(self, engine: Runner) -> None:
        self.runner = engine
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
def running(routes: Application, *, observers: Sequence[Observer] = (), **settings: Any) -> Iterator[Running]:
    """Serve until the block ends. Nothing may be left of it then."""
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
        served.append(Running(engine))
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

    with mock.patch("hypoll.loop.TICK", TICK), load_unlogged():
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
