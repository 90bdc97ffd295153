"""The memory that bodies take, all of a process together: of requests, and of answers that clients don't take.

Law: memory is counted as it comes, never by what a Content-Length promises, for as long as the request that has it.
"""

from __future__ import annotations

from collections import deque

OUTPUT_MEMORY = 8 * 1024 * 1024
"""Bytes that may wait for all slow clients of streams before each is left less."""

LEAST_OUTPUT = 64 * 1024
"""Bytes that may wait for each of them in any case, if the settings allow that."""


class BodyMemory:
    """How much the bodies of all requests have. Only what is returned may come from any thread.

    Args:
        limit: bytes that they may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        # No lock: the garbage collector may return something in the middle of anything, also of what holds the lock.
        self._returned: deque[int] = deque()

    @property
    def used(self) -> int:
        """Bytes that they have."""
        returned = self._returned
        while returned:
            self._used -= returned.popleft()
        return self._used

    def take(self, size: int) -> None:
        """Count so many bytes more."""
        self._used += size

    def give_back(self, size: int) -> None:
        """Count so many bytes less: on any thread."""
        self._returned.append(size)


class BodyUsage:
    """What the body of one request has, until the request is gone. size: bytes."""

    __slots__ = ("_memory", "size")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = 0

    def grow(self, size: int, missing: int = 0) -> bool:
        """Note that the body has so many bytes now. False: there is no room for these, and those that are `missing`."""
        memory = self._memory
        memory.take(size - self.size)
        self.size = size
        return memory.used + missing <= memory.limit

    def __del__(self) -> None:
        self._memory.give_back(self.size)


class WaitingOutput:
    """How much may wait for each client that takes its stream too slowly: entered by who waits for one.

    Args:
        limit: bytes that may wait where only a few do.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiters = 0
        self.each = limit

    def __enter__(self) -> None:
        self._change(1)

    def __exit__(self, *exception: object) -> None:
        self._change(-1)

    def _change(self, by: int) -> None:
        self._waiters += by
        self.each = min(self._limit, max(LEAST_OUTPUT, OUTPUT_MEMORY // (self._waiters + 1)))
