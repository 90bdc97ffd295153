"""Bytes that wait for a reader: in memory first, then in a file without a name, within bounds for the process.

Laws:

- What is put in comes out in the same order. Memory is never filled while the file holds something.
- A file is a ring of at most `limit` bytes (O_TMPFILE, open(2)): an endless stream doesn't make it grow.
- Bytes are counted by what they weigh. Small pieces are joined, so that a piece of two bytes doesn't cost fifty.
- A disk that fails is reported once in `PAUSE` seconds, and isn't asked again before.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hypoll.loop import Loop
from hypoll.option import MIB
from hypoll.protocol.messages import BodyStore
from hypoll.settings import Settings

OWN_LIMIT = 16 * MIB
"""Bytes that a response may be ahead of its client."""

MEMORY_SHARE = MIB // 2
"""Bytes of one spool that are kept in memory; what comes behind them goes to the file."""

FREE_SIZE = 64 * 1024
"""Bytes of a response that are kept whatever the process holds already: who has room for no more still goes on."""

SMALL = 4 * 1024
"""A piece below this size is joined with those before it."""

JOINED = 16 * 1024
"""The size up to which small pieces are joined."""

PAUSE = 10.0
"""Seconds that a disk which failed isn't tried again."""

log = logging.getLogger("hypoll.error")


def directory_of(settings: Settings) -> str:
    """Where the files of the spools are."""
    return settings.spool_dir or os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - no name is taken there


class SpoolSpace:
    """What all spools of a process may hold, and who waits for some of it. Used from any thread.

    Attributes:
        memory, disk: bytes that are in use.
        directory: where the files are.
        turn: held for a moment by a thread that is far ahead of its client: such threads go on one at a time.
    """

    def __init__(self, loop: Loop, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.memory = 0
        self.disk = 0
        self.directory = directory_of(settings)
        self._memory_limit = settings.spool_memory
        self._disk_limit = settings.spool_disk
        self._loop = loop
        self._clock = clock
        # Reentrant: the collector may close a forgotten spool in the middle of what is done under it.
        self._lock = threading.RLock()
        self.turn = threading.Lock()
        self._waiters: list[Callable[[], object]] = []
        self._planned = False
        self._retry_at = 0.0
        self._warned_at = -PAUSE

    def take_memory(self, size: int) -> int:
        """Take up to `size` bytes; give how many there were."""
        with self._lock:
            taken = min(size, self.memory_left)
            self.memory += taken
            return taken

    def take_disk(self, size: int) -> int:
        """Take up to `size` bytes; give how many there were."""
        with self._lock:
            taken = min(size, self.disk_left)
            self.disk += taken
            return taken

    def give_back(self, memory: int, disk: int) -> None:
        """Return what was taken. Who waits for room is called on the loop."""
        if not (memory or disk):
            return
        with self._lock:
            self.memory -= memory
            self.disk -= disk
            wakes = bool(self._waiters) and not self._planned
            self._planned |= wakes
        if wakes:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self.wake)

    @property
    def memory_left(self) -> int:
        """Bytes of memory that may be taken."""
        return max(0, self._memory_limit - self.memory)

    @property
    def disk_left(self) -> int:
        """Bytes of disk that may be taken."""
        return 0 if self.failing else max(0, self._disk_limit - self.disk)

    @property
    def failing(self) -> bool:
        """Whether the disk has failed lately."""
        return self._clock() < self._retry_at

    def wait(self, callback: Callable[[], object]) -> None:
        """Call `callback()` once, on the loop, when there may be room. It may be too little: then wait again."""
        with self._lock:
            self._waiters.append(callback)

    def wake(self) -> None:
        """Call all who wait. On the loop's thread: when room was returned, and once a second."""
        with self._lock:
            self._planned = False
            waiters, self._waiters = self._waiters, []
        for callback in waiters:
            callback()

    def open_file(self) -> int:
        """Open a file that has no name, for reading and writing. Raises `OSError`."""
        try:
            return os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if not os.path.isdir(self.directory) or not os.access(self.directory, os.W_OK):
                raise
            # EOPNOTSUPP, or EISDIR of an old kernel: the file system has no O_TMPFILE (open(2)).
            fd, path = tempfile.mkstemp(prefix="hypoll-", dir=self.directory)
            os.unlink(path)
            del error
            return fd

    def on_failure(self, error: OSError) -> None:
        """Note that the disk has failed."""
        now = self._clock()
        self._retry_at = now + PAUSE
        if now - self._warned_at >= PAUSE:
            self._warned_at = now
            log.error(
                "the spool in %s can't be written: %s. Until it can, large uploads get 503 and threads wait for slow "
                "clients: make room, or choose another directory with --spool-dir",
                self.directory,
                error.strerror,
            )


class Spool:
    """Bytes in the order they came, for one who puts and one who takes, each on any thread.

    Args:
        limit: bytes it may hold.
        free: bytes in memory that aren't counted against the process's.

    Attributes:
        size: bytes it holds.
    """

    __slots__ = ("__weakref__", "_charged", "_closed", "_fd", "_high", "_in_file", "_in_memory", "_lock", "_pieces",
                 "_read", "_using", "_write", "free", "limit", "size", "space")  # fmt: skip

    def __init__(self, space: SpoolSpace, limit: int = OWN_LIMIT, free: int = 0) -> None:
        self.space = space
        self.limit = limit
        self.free = free
        self.size = 0
        self._lock = threading.Lock()
        self._pieces: deque[bytes | bytearray] = deque()
        self._in_memory = 0
        self._charged = 0
        self._fd = -1
        self._in_file = 0
        self._read = self._write = self._high = 0
        # How many read or write the file at this moment, without the lock: a disk may be slow.
        self._using = 0
        self._closed = False

    def __del__(self) -> None:
        # Of one whose owner has forgotten it, or whose __init__ has failed.
        if not getattr(self, "_closed", True):
            try:
                self.close()
            except (AttributeError, TypeError):
                self._closed = True  # at the interpreter's end modules are emptied, and descriptors close by themselves

    def put(self, data: bytes | memoryview) -> int:
        """Take the beginning of the data; give how many bytes of it there was room for."""
        with self._lock:
            wanted = 0 if self._closed else min(len(data), self.limit - self.size)
            taken = self._put_in_memory(data, min(wanted, MEMORY_SHARE - self._in_memory)) if wanted else 0
        while taken < wanted:
            rest = memoryview(data)[taken:wanted]
            step = self._put_in_file(rest)
            if not step:
                with self._lock:  # where the disk does nothing, the memory has to do
                    return taken + self._put_in_memory(rest, len(rest))
            taken += step
        return taken

    @property
    def room(self) -> int:
        """Bytes that the process has left for it."""
        return self.space.disk_left + (0 if self._in_file else self.space.memory_left)

    @property
    def failing(self) -> bool:
        """Whether its disk has failed lately."""
        return self.space.failing

    def wait(self, callback: Callable[[], object]) -> None:
        """Call `callback()` once, on the loop, when there may be room: see `SpoolSpace.wait`."""
        self.space.wait(callback)

    def force(self, data: bytes) -> None:
        """Take all of the data: what has no room elsewhere in memory, since it was received already.

        Raises:
            OSError: When it must go to the file, and can't.
        """
        taken = self.put(data)
        with self._lock:
            if taken < len(data) and self._in_file:
                raise OSError(errno.ENOSPC, "the spool has no room")
            if taken < len(data) and not self._closed:
                self._append(memoryview(data)[taken:])

    def take(self, size: int) -> bytes:
        """The next bytes, at most `size`; b"": it holds none. Raises `OSError` when the file can't be read."""
        with self._lock:
            if self._pieces:
                return self._take_from_memory(size)
            count = min(size, self._in_file, self.limit - self._read)
            if not count:
                return b""
            self._using += 1
        data = b""
        try:
            data = os.pread(self._fd, count, self._read)
        finally:
            with self._lock:
                if not self._closed:
                    self._read = (self._read + len(data)) % self.limit
                    self._in_file -= len(data)
                    self.size -= len(data)
                self._stop_using()
        if not data:
            raise OSError(errno.EIO, "the spool's file has become shorter")
        return data

    def close(self) -> None:
        """Forget all it holds. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            self._pieces.clear()
            self._in_memory = self._in_file = self.size = 0
            self._return_memory()
            self._using += 1
            self._stop_using()

    # what follows needs the lock

    def _put_in_memory(self, data: bytes | memoryview, taken: int) -> int:
        if self._in_file or self._closed or taken <= 0:
            return 0
        charge = max(0, self._in_memory + taken - self.free) - self._charged
        if charge > 0:
            granted = self.space.take_memory(charge)
            self._charged += granted
            # What was forced in is charged now, if there is room for it: it comes first.
            taken = max(0, taken - (charge - granted))
        if taken:
            self._append(data if taken == len(data) else memoryview(data)[:taken])
        return taken

    def _append(self, data: bytes | memoryview) -> None:
        size = len(data)
        self.size += size
        self._in_memory += size
        last = self._pieces[-1] if self._pieces else None
        if type(last) is bytearray and len(last) + size <= JOINED:
            last += data
        elif size < SMALL:
            self._pieces.append(bytearray(data))
        else:
            self._pieces.append(bytes(data))

    def _take_from_memory(self, size: int) -> bytes:
        found: list[bytes | bytearray | memoryview] = []
        left = size
        while self._pieces and left:
            piece = self._pieces.popleft()
            if len(piece) > left:
                self._pieces.appendleft(bytes(memoryview(piece)[left:]))
                found.append(memoryview(piece)[:left])
                left = 0
            else:
                found.append(piece)
                left -= len(piece)
        self._in_memory -= size - left
        self.size -= size - left
        self._return_memory()
        return bytes(found[0]) if len(found) == 1 else b"".join(found)

    def _return_memory(self) -> None:
        charged = max(0, self._in_memory - self.free)
        if charged < self._charged:
            over, self._charged = self._charged - charged, charged
            self.space.give_back(over, 0)

    def _stop_using(self) -> None:
        """Give the disk back where nothing of the file is wanted any more, and nobody is at it."""
        self._using -= 1
        if self._using or self._in_file:
            return
        self._read = self._write = 0
        if self._closed and self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
        elif self._fd >= 0:
            os.ftruncate(self._fd, 0)
        high, self._high = self._high, 0
        self.space.give_back(0, high)

    # without it

    def _put_in_file(self, data: memoryview) -> int:
        """Write as much as there is room for up to the ring's end. 0: there is none, or the disk has failed."""
        with self._lock:
            step = min(len(data), self.limit - self._write)
            new = max(0, self._write + step - self._high)
            granted = self.space.take_disk(new)
            self._high += granted
            step -= new - granted
            if self._closed or not step:
                return 0
            self._using += 1
        written = 0
        try:
            if self._fd < 0:
                self._fd = self.space.open_file()
            written = os.pwrite(self._fd, data[:step], self._write)
        except OSError as error:
            self.space.on_failure(error)
        with self._lock:
            if not self._closed:
                self._write = (self._write + written) % self.limit
                self._in_file += written
                self.size += written
            self._stop_using()
        return written


class SpoolReader(io.RawIOBase):
    """What a spool holds, as a file to read once from its beginning: what was read takes no room any more."""

    def __init__(self, spool: BodyStore) -> None:
        self._spool = spool

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Take what comes next. Raises `OSError` when the file can't be read."""
        data = self._spool.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)
