"""Where lines of a log go: a descriptor that is never waited for, and a bounded buffer before it.

Laws:

- Nothing here waits or raises once it is open: what can't be written waits in the buffer, what finds no room there is
  counted, and the count is said in a later line.
- No line is torn into another: a line that was begun is ended before the next, or taken back. Several processes may
  append to the same file or pipe.
- A sink owns its descriptor and forgets the number when it closes it: what is written after that fails, and reaches no
  stranger's descriptor of the same number.
- No flag of an inherited descriptor is changed. O_NONBLOCK belongs to the open file description (fcntl(2)), which the
  shell and other processes share: setting it on standard output makes their writes fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable

BUFFER_SIZE = 1024 * 1024
"""Bytes of lines that wait for a log that is slow or broken."""

WRITE_SIZE = 256 * 1024
"""Bytes of lines given to one write of a file or a terminal."""

FLUSH_TIME = 1.0
"""Seconds `close` waits for a slow reader to take what is left."""

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LogWriterError(Exception):
    """A log can't be opened; the message says why."""


class Sink:
    """A descriptor to append to.

    Attributes:
        piece: the most bytes that are worth giving to one write.
        failure: why the file that has the name now can't be opened; None: it could, or wasn't asked for.
    """

    piece = WRITE_SIZE
    failure: OSError | None = None

    def __init__(self, fd: int) -> None:
        self.fd = fd
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            # Of a pipe with other writers, up to so much is written whole or not at all (pipe(7)).
            self.piece = select.PIPE_BUF

    def write(self, data: bytes) -> int:
        """Write what goes without waiting, and give how much it was. Raises `OSError`."""
        return os.write(self.fd, data)

    def take_back(self, size: int) -> bool:
        """Undo the last `size` bytes of the last write, where that can be done."""
        return False

    def follow(self) -> bool:
        """Open the file anew if another has its name now; whether it was opened."""
        return False

    def reopen(self) -> bool:
        """Open the file of this name anew; whether that was done."""
        return False

    @property
    def closed(self) -> bool:
        """Whether it has no descriptor any more: writing raises `OSError`."""
        return self.fd < 0

    def close(self) -> None:
        """Let go of the descriptor. Doing so twice does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class FileSink(Sink):
    """A file, or a named pipe, by its path. Made when it isn't there. Raises `OSError`."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(self._open())

    def _open(self) -> int:
        return os.open(self.path, _FLAGS | os.O_CREAT, 0o640)

    def take_back(self, size: int) -> bool:
        """Cut off what was written of a line when the disk became full, if nobody has appended behind it."""
        try:
            end = os.lseek(self.fd, 0, os.SEEK_CUR)
            if os.fstat(self.fd).st_size != end:
                return False
            os.ftruncate(self.fd, end - size)
        except OSError:
            return False
        return True

    def follow(self) -> bool:
        """Look whether the file was renamed: two system calls."""
        try:
            found, own = os.stat(self.path), os.fstat(self.fd)
        except OSError:
            return self.reopen()
        return (found.st_ino, found.st_dev) != (own.st_ino, own.st_dev) and self.reopen()

    def reopen(self) -> bool:
        """Open the path again; where that fails the file that is open goes on."""
        try:
            fd = self._open()
        except OSError as error:
            self.failure = error
            return False
        self.failure = None
        before, self.fd = self.fd, fd
        if before >= 0:
            os.close(before)
        return True


class PolledSink(Sink):
    """A descriptor that can't be opened a second time: asked before each write whether it would wait.

    A pipe that says it has room takes PIPE_BUF bytes without waiting, unless another process is quicker.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.piece = select.PIPE_BUF
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: bytes) -> int:
        """Write at most PIPE_BUF bytes. Raises `OSError`."""
        if self.fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not self._poll.poll(0):
            raise BlockingIOError
        return os.write(self.fd, data[: self.piece])


class SocketSink(Sink):
    """A stream socket, as systemd's journal gives: one call can be asked not to wait."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._socket = socket.socket(fileno=fd)

    def write(self, data: bytes) -> int:
        """Send what goes without waiting. Raises `OSError`."""
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Close the socket."""
        self.fd = -1
        self._socket.close()


def open_file(path: str) -> Sink:
    """A file to append to. Raises `LogWriterError`."""
    try:
        return FileSink(path)
    except OSError as error:
        raise LogWriterError(f"{path} can't be written: {error.strerror}") from error


def open_standard(number: int) -> Sink:
    """Standard output (1) or standard error (2), by a description of its own where that can be had and is of use.

    A regular file never makes a writer wait, and is written by the description that is shared with print() and child
    processes: another would have an offset of its own, and each would overwrite the other's lines (open(2)).

    Closed at the start of the process, its number may be anyone's by now: then nothing is written anywhere.
    """
    if (sys.__stdout__ if number == 1 else sys.__stderr__) is None:
        return Sink(os.open(os.devnull, _FLAGS))
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISSOCK(mode):
            return SocketSink(os.dup(number))
        if stat.S_ISREG(mode):
            return Sink(os.dup(number))
    except OSError:
        return Sink(os.open(os.devnull, _FLAGS))
    try:
        return Sink(os.open(f"/proc/self/fd/{number}", _FLAGS))
    except OSError:  # EACCES: opened by another user. ENXIO: a pipe nobody reads. ENOENT: there is no /proc
        return PolledSink(os.dup(number))


def occupy_standard_descriptors() -> None:
    """Open /dev/null as 0, 1 and 2 where they are closed, so that no connection gets a number others write to."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


class LogWriter:
    """Lines on their way to a sink.

    Args:
        notice: makes the line, with its LF, that says how many were dropped.
        on_failure: called with the reason when the sink begins to fail.
    """

    def __init__(
        self,
        sink: Sink,
        notice: Callable[[int], bytes],
        on_failure: Callable[[OSError], object] = lambda error: None,
        size: int = BUFFER_SIZE,
    ) -> None:
        self.sink = sink
        self.dropped = 0
        """Lines dropped and not yet reported."""
        self._notice = notice
        self._on_failure = on_failure
        self._limit = size
        self._lines: deque[bytes] = deque()
        self._size = 0
        # Lines taken together for a write, and how much of them was written.
        self._chunk = b""
        self._written = 0
        self._failing = False
        self._paused = False
        self._lost = False
        _log_writers.add(self)

    def discard(self) -> None:
        """Write nothing of what waits, in a forked child: the lines are its parent's."""
        self._lines.clear()
        self._size = self._written = self.dropped = 0
        self._chunk = b""

    def put(self, line: bytes) -> None:
        """Take a line with its LF, or count it as dropped."""
        # After a loss there is none until half of the buffer is free: else every other line would report one.
        room = self._limit // 2 if self.dropped else self._limit
        if self._size + len(line) > room:
            self.dropped += 1
            return
        if self.dropped:
            self._report_dropped()
        self._lines.append(line)
        self._size += len(line)

    def put_all(self, lines: list[bytes]) -> None:
        """`put` for several, in one step where there is room for all."""
        size = sum(map(len, lines))
        if self.dropped or self._size + size > self._limit:
            for line in lines:
                self.put(line)
        else:
            self._lines += lines
            self._size += size

    def drain(self) -> bool:
        """Write until nothing is left or it would wait. Whether all is written."""
        while not self._paused:
            if not self._chunk and not self._take():
                return True
            data = self._chunk[self._written :] if self._written else self._chunk
            if len(data) > self.sink.piece:
                data = _whole_lines(data, self.sink.piece)
            try:
                count = self.sink.write(data)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._fail(error)
                return False
            self._on_written(count, len(data))
        return False

    def retry(self) -> bool:
        """`drain` again after a failure; follow a file that was renamed. To be called about once a second."""
        self._paused = False
        self._on_asked(self.sink.follow())
        return self.drain()

    def reopen(self) -> None:
        """Write to the file that has the name now: what was begun isn't continued there."""
        self._on_asked(self.sink.reopen())
        self.retry()

    def close(self) -> None:
        """Write what is left, for up to a second, and close."""
        deadline = time.monotonic() + FLUSH_TIME
        # AttributeError: the application has patched `select`, see `hypoll.concurrency.monkey_patching`.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(self.sink.fd, select.POLLOUT)
            while not self.retry() and not self._failing and time.monotonic() < deadline:
                poll.poll(20)
        with contextlib.suppress(OSError):
            self.sink.close()

    def _take(self) -> bool:
        """Take whole lines for the next write."""
        lines = self._lines
        if not lines:
            if not self.dropped:
                return False
            self._report_dropped()
        if self._size <= self.sink.piece:
            self._chunk = b"".join(lines)
            lines.clear()
            return True
        taken = [lines.popleft()]
        room = self.sink.piece - len(taken[0])
        while lines and len(lines[0]) <= room:
            room -= len(lines[0])
            taken.append(lines.popleft())
        self._chunk = b"".join(taken)
        return True

    def _report_dropped(self) -> None:
        line = self._notice(self.dropped)
        self.dropped = 0
        self._lines.append(line)
        self._size += len(line)

    def _on_written(self, count: int, offered: int) -> None:
        self._written += count
        self._size -= count
        if self._written >= len(self._chunk):
            self._failing = False
            self._chunk, self._written = b"", 0
            return
        if count == offered:
            self._failing = False
            return
        torn = self._written - (self._chunk.rfind(b"\n", 0, self._written) + 1)
        if self.sink.take_back(torn):
            # A regular file takes less than all only when the disk is full.
            self._chunk, self._written = self._chunk[self._written - torn :], 0
            self._size += torn
            self._fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        else:
            self._failing = False

    def _fail(self, error: OSError) -> None:
        self._paused = True
        if not self._failing:
            self._failing = True
            self._on_failure(error)

    def _on_asked(self, reopened: bool) -> None:
        """The sink was asked to look for a new file."""
        if reopened:
            self._on_reopened()
        failure = self.sink.failure
        if failure is not None and not self._lost:
            self._on_failure(failure)
        self._lost = failure is not None

    def _on_reopened(self) -> None:
        if self._written and self._chunk[self._written - 1] != 10:
            end = self._chunk.find(b"\n", self._written) + 1
            self._size -= end - self._written
            self._written = end
            self.dropped += 1
        self._chunk, self._written = self._chunk[self._written :], 0


def _whole_lines(data: bytes, size: int) -> bytes:
    """As many whole lines of a record as go into one write of `size` bytes; at least one.

    A traceback may be longer than PIPE_BUF: written at once, a pipe takes some of it, and another writer's line may
    come in the middle of ours (pipe(7)).
    """
    end = data.rfind(b"\n", 0, size) + 1 or data.find(b"\n") + 1
    return data[:end] if end else data


_log_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _in_child() -> None:
    for log_writer in list(_log_writers):
        log_writer.discard()


os.register_at_fork(after_in_child=_in_child)
