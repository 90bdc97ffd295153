"""The last minute in steps of two seconds, kept whether or not somebody looks: what the status page begins with.

Each process adds to a ring of its own, 6 KiB, once a second. Where several count together the rings are files in their
directory (`hypoll.telemetry.shared_counters`), and who is asked adds them up. A number may be read while it is written:
then one step is off by a second's counts.
"""

from __future__ import annotations

import contextlib
import glob
import mmap
import os
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

STEP = 2.0
"""Seconds of a step: the page asks as often."""

STEPS = 31
"""A minute, and the step that has begun."""

BUCKETS = 17
"""Of `hypoll.telemetry.metrics.Histogram`."""

_SLOT = struct.Struct(f"={6 + BUCKETS}d")
_PREFIX = "history_"


class Step(NamedTuple):
    """What came in one step.

    Attributes:
        number: of the step: seconds since 1970 by `STEP`.
        requests, errors: how many there were, and how many of them were answered with a status of 500 or more.
        received, sent: bytes.
        connections: how many were open, when that was last looked at.
        buckets: durations, by bucket.
    """

    number: int
    requests: float
    errors: float
    received: float
    sent: float
    connections: float
    buckets: tuple[float, ...]

    def document(self) -> dict[str, Any]:
        """The step as the page has it; `time`: when it ended."""
        return self._asdict() | {"time": (self.number + 1) * STEP}


class History:
    """The ring of this process.

    Args:
        directory: where others look for it; None: it is this process's alone.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        self._path: str | None = None
        size = _SLOT.size * STEPS
        if directory is None:
            self._ring = mmap.mmap(-1, size)
            return
        self._path = os.path.join(directory, f"{_PREFIX}{os.getpid()}")
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(fd, 0, size)  # now: a page the file system has no room for would end us by SIGBUS
            self._ring = mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def add(self, now: float, requests: int, errors: int, received: int, sent: int, buckets: Iterable[int]) -> None:
        """Add what came since the last time, to the present step. now: seconds since 1970."""
        before = self._present(now)
        counts = (requests, errors, received, sent)
        sums = [one + more for one, more in zip(before[1:5], counts, strict=True)]
        durations = [one + more for one, more in zip(before.buckets, buckets, strict=True)]
        self._write(before.number, *sums, before.connections, *durations)

    def note_connections(self, now: float, connections: int) -> None:
        """Note how many are open."""
        before = self._present(now)
        self._write(*before[:5], connections, *before.buckets)

    def _present(self, now: float) -> Step:
        number = int(now / STEP)
        step = _step(self._ring, number % STEPS)
        return step if step.number == number else Step(number, 0, 0, 0, 0, 0, (0,) * BUCKETS)

    def _write(self, number: float, *values: float) -> None:
        _SLOT.pack_into(self._ring, int(number) % STEPS * _SLOT.size, number, *values)

    def read(self, now: float) -> list[Step]:
        """The steps of the last minute in which something was noted, of all processes together, in their order."""
        first = int(now / STEP) - STEPS
        found: dict[int, Step] = {}
        for ring in self._rings():
            for index in range(STEPS):
                step = _step(ring, index)
                if step.number > first:
                    known = found.get(step.number)
                    found[step.number] = step if known is None else _sum(known, step)
        return [found[number] for number in sorted(found)]

    def _rings(self) -> list[bytes | mmap.mmap]:
        if self._directory is None:
            return [self._ring]
        rings: list[bytes | mmap.mmap] = []
        for path in glob.glob(os.path.join(glob.escape(self._directory), _PREFIX + "*")):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                data = file.read()
                if len(data) == _SLOT.size * STEPS:  # else it is just made
                    rings.append(data)
        return rings

    def close(self) -> None:
        """Let nobody read what doesn't go on."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def _step(ring: bytes | mmap.mmap, index: int) -> Step:
    number, requests, errors, received, sent, connections, *buckets = _SLOT.unpack_from(ring, index * _SLOT.size)
    return Step(int(number), requests, errors, received, sent, connections, tuple(buckets))


def _sum(one: Step, other: Step) -> Step:
    sums = (first + second for first, second in zip(one[1:6], other[1:6], strict=True))
    requests, errors, received, sent, connections = sums
    buckets = tuple(map(sum, zip(one.buckets, other.buckets, strict=True)))
    return Step(one.number, requests, errors, received, sent, connections, buckets)


def forget(directory: str, pid: int) -> None:
    """Remove the ring of a process that has ended, however it did."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, f"{_PREFIX}{pid}"))
