"""A clock that a test moves, and what turns a loop by it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from hypoll.loop import Loop

PATIENCE = 30.0
"""Seconds after which something that was to happen is given up: a busy machine may be many times slower."""

QUIET = 0.002
"""Seconds without an event after which nothing more is expected."""

TURNS = 20_000
"""Turns of a loop after which it is taken to be spinning."""


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
