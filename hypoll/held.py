"""The memory that request bodies take, all of a process together.

Law: memory is counted as it comes, never by what a Content-Length promises, for as long as the request that has it.
"""

from __future__ import annotations

import threading


class BodyMemory:
    """How much the bodies of all requests have. limit: bytes that they may have."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()  # a request may end on a thread

    def add(self, size: int) -> None:
        """Count so many bytes more, or less."""
        with self._lock:
            self.used += size


class Held:
    """What the body of one request has, until the request is gone. size: bytes."""

    __slots__ = ("_memory", "size")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = 0

    def grow(self, size: int, missing: int = 0) -> bool:
        """Note that the body has so many bytes now. False: there is no room for these, and those that are `missing`."""
        memory = self._memory
        memory.add(size - self.size)
        self.size = size
        return memory.used + missing <= memory.limit

    def __del__(self) -> None:
        self._memory.add(-self.size)
