"""Time, descriptors and connections under a test's control."""

from __future__ import annotations

import gc
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from hypoll import errorlog
from hypoll.loop import Loop

PATIENCE = 3.0
"""Seconds after which something that was to happen is given up."""

QUIET = 0.002
"""Seconds without an event after which nothing more is expected."""

TURNS = 20_000
"""Turns of a loop after which it is taken to be spinning."""


@pytest.fixture(autouse=True)
def plain_logging() -> Iterator[None]:
    """Whatever a test has set up for the server's log is gone with it."""
    yield
    errorlog.reset()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Turner:
    """Turns a loop, so long as there is something to do."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self.loop = loop
        self.clock = clock

    def settle(self) -> None:
        """Turn until nothing happens any more."""
        for _ in range(TURNS):
            if self.loop.timeout() != 0.0 and not select.select([self.loop], [], [], QUIET)[0]:
                return
            self.loop.poll_once(0)
        raise AssertionError("the loop spins")

    def until(self, holds: Callable[[], object]) -> None:
        """Turn until `holds()`."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "it didn't happen"
            self.loop.poll_once(0.01)

    def after(self, seconds: float) -> None:
        """Let fake time pass, with a turn for each second of it."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            seconds -= 1.0
            self.settle()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    loop = Loop(clock)
    yield loop
    loop.close()


@pytest.fixture
def turner(loop: Loop, clock: Clock) -> Turner:
    return Turner(loop, clock)


@pytest.fixture
def tcp_pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes (server's, client's) ends of loopback connections; both are closed after the test."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
            made.append(client)
            accepted, _ = listener.accept()
        made.append(accepted)
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return accepted, client

    yield make
    for sock in made:
        sock.close()


def pytest_collection_finish() -> None:
    """Keep the thousands of tests out of what the garbage collector looks through: many tests call it."""
    gc.collect()
    gc.freeze()
