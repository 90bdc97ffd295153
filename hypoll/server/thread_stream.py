"""A response's body that a thread makes: it runs ahead of its client into a spool, and waits only when that is full.

Laws:

- The pieces are made, and the body closed, on the one thread that its request runs on, in the request's context.
- The loop pulls what is here. It never waits for the thread, nor for a lock that the thread holds while it works or
  writes to a disk.
- A thread that waits for its client doesn't count against the pool's size; see `hypoll.concurrency.thread_pool`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from hypoll.concurrency.forks import keep_out
from hypoll.concurrency.jobs import Job
from hypoll.concurrency.thread_pool import ThreadPool
from hypoll.loop import Loop
from hypoll.protocol.messages import ClientDisconnect, StreamedBody
from hypoll.protocol.serializer import Framer
from hypoll.server.response_body import CutError, Pull, log_cut
from hypoll.server.socket_io import Buffers
from hypoll.server.spool import MEMORY_SHARE, Spool, SpoolSpace

PULL_SIZE = 64 * 1024
"""Bytes given to the socket's queue at once."""


_NO_JOB = Job()


class ThreadStream(StreamedBody):
    """The body of one response on its way from its thread to its connection.

    Args:
        job: what the thread works on.
        framer: what frames the pieces.

    Attributes:
        trailer: `trailer(written)` gives what the body itself ends with where the server ends it. None: a piece is on
            its way, unless that was written, and has to come before.
    """

    trailer: Callable[[bool], bytes | None] | None = None

    def __init__(self, job: Job, pool: ThreadPool, space: SpoolSpace, framer: Framer) -> None:
        self.job = job
        self.framer = framer
        self._pool = pool
        self._spool = Spool(space, free=PULL_SIZE)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._ready: Callable[[], object] | None = None
        self._loop_waits = False
        self._ended = False
        self._closed = False
        self._mid_piece = False
        """Whether a piece is here whose rest is to come."""
        self._ending = False
        """Whether the body ends with the piece that is coming."""
        self._last = b""
        self._failed = False

    # the thread's side

    def write(self, piece: bytes) -> None:
        """Take a piece; wait while the client is too far behind.

        Raises:
            ClientDisconnect: When it has gone.
            TypeError: For what isn't bytes.
            ValueError: When there is more than the response declares.
        """
        keep_out()  # a forked child shares the spool's file
        framed: bytes | memoryview = self.framer.piece(piece)
        while True:
            taken = self._put(framed)
            if taken == len(framed):
                if self._spool.size > MEMORY_SHARE:
                    # Far ahead of the client: such threads go on one at a time, or they would all fight the loop for
                    # the interpreter.
                    with self._spool.space.turn:
                        time.sleep(0)  # lets the loop have it
                return
            framed = memoryview(framed)[taken:]
            self._wait_for_room()

    def _put(self, framed: bytes | memoryview) -> int:
        with self._lock:
            if self._closed or self._ended:
                raise ClientDisconnect("the client has gone")
            self._mid_piece = True  # until it is known to be whole: `end` may come in between
        taken = self._spool.put(framed)  # not under the lock: a disk may be slow
        with self._lock:
            self._mid_piece = taken < len(framed)
            if taken and self._loop_waits:
                self._wake_loop()
            if self._ending and not self._mid_piece and not self._ended:
                self._end_here(written=True)
        return taken

    def finish(self) -> None:
        """The body is whole. Raises `ValueError` when it is shorter than the response declares."""
        end = self.framer.end()
        with self._lock:
            self._last = end
        self._end(None)

    def fail(self, error: BaseException) -> None:
        """The body will never be whole: what came of it is sent, then the connection is cut."""
        if isinstance(error, KeyboardInterrupt):  # no signal's, which the main thread alone gets
            interrupt, error = error, RuntimeError("KeyboardInterrupt was raised on a thread")
            error.__cause__ = interrupt
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        keep_out(error)
        with self._lock:
            job, self.job = self.job, _NO_JOB  # which leads back here
        self._pool.end_stream(job)
        if error is not None and not (self._ended or self._closed):
            log_cut(error)  # now: the client may never read so far
        with self._lock:
            if self._ended or self._closed:
                return
            self._ended = True
            self._failed = error is not None
            if self._loop_waits:
                self._wake_loop()

    def _wake_loop(self) -> None:
        self._loop_waits = False
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._pool.loop.call_soon_threadsafe(self._notify_ready)

    def _wait_for_room(self) -> None:
        """Wait for the client, or for room in the process's spools."""
        outside = self._pool.detach(self.job)
        try:
            with self._lock:
                if self._closed or self._has_room:
                    return
                if self._spool.size < self._spool.limit:
                    self._spool.space.wait(self._notify)
                self._room.wait()
        finally:
            if outside:
                self._pool.attach(self.job)

    @property
    def _has_room(self) -> bool:
        spool = self._spool
        return spool.size < spool.limit and (spool.room > 0 or spool.size < spool.free)

    def _notify(self) -> None:
        with self._lock:
            self._room.notify()

    # the loop's side

    def attach(self, ready: Callable[[], object], loop: Loop) -> None:
        """Call `ready()` on the loop when a pull that found nothing would find something."""
        self._ready = ready

    def pull(self, sock: socket.socket, output: Buffers) -> Pull:
        """Append what is here, framed.

        Raises:
            CutError: Behind the pieces of a body that failed.
            OSError: When the spool can't be read.
        """
        data = self._spool.take(PULL_SIZE)
        with self._lock:
            if data:
                if self._spool.size <= self._spool.limit // 2:
                    self._room.notify()
                output.append(data)
                return Pull.MORE
            if self._spool.size:
                return Pull.MORE  # it came in between
            if not self._ended:
                self._loop_waits = True
                return Pull.LATER
        if self._failed:
            raise CutError
        if self._last:
            output.append(self._last)
        self.close()
        return Pull.END

    @property
    def mid_piece(self) -> bool:
        """Whether the rest of a piece is to come, or may be."""
        return self._mid_piece

    def end(self) -> None:
        """End the body here, or with the piece that is coming, as if it were whole: what follows is dropped.

        Of no effect where its length was declared, and where it has ended already. Its thread may wait for its next
        piece for ever: nobody waits for that.
        """
        with self._lock:
            if self._ended or self.framer.declared is not None:
                return
            self._ending = True
            if not self._mid_piece:
                self._end_here(written=False)
        self.detach()

    def detach(self) -> None:
        """Wait no longer than for a moment for the thread, which is only to clean up."""
        with self._lock:
            job = self.job
        if job is not _NO_JOB:
            self._pool.abandon_soon(job)

    def _end_here(self, written: bool) -> None:
        """End the body behind what the spool has; `written`: that is all that its thread has made of it."""
        last = b"" if self.trailer is None else self.trailer(written)
        if last is None:
            return  # with the piece that is coming
        self._last = self.framer.piece(last) + self.framer.end()
        self._ended = True
        self._loop_waits = False

    def close(self) -> None:
        """Nobody will pull any more: the thread learns of it with its next piece."""
        self._ready = None
        with self._lock:
            self._closed = True
            self._spool.close()
            self._room.notify()

    def _notify_ready(self) -> None:
        if self._ready is not None:
            self._ready()
