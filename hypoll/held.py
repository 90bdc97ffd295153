"""The memory that request bodies take, all of a process together.

Law: memory is counted as it comes, never by what a Content-Length promises, for as long as the request that has it.
"""

from __future__ import annotations

from collections import deque


class BodyMemory:
    """How much the bodies of all requests have. Only what is returned may come from any thread.

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


class Held:
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
