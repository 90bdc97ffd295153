"""Where the pieces of a response's body come from: the loop, a task, or a file. All are PULLED.

The connection pulls when nothing waits for the socket. A source that has nothing yet says so, and calls `ready` when it
has: then the connection pulls again. So at most one piece waits in memory. A thread's pieces are in a spool: see
`hypoll.server.thread_stream`.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextvars import Context, copy_context
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from hypoll.concurrency.forks import keep_out
from hypoll.protocol.current_request import current_request
from hypoll.protocol.messages import FAILURES, ClientDisconnect
from hypoll.protocol.serializer import COPY_LIMIT
from hypoll.protocol.slices import Slice
from hypoll.server.socket_io import SEND_SIZE, Buffers, PeerGone
from hypoll.web.results import close_body

if TYPE_CHECKING:
    import asyncio

PIECES_PER_PULL = range(64)
"""Pieces one pull takes at most: a body may give none but empty ones."""

PIECES_IN_A_ROW = 16
"""Pieces a task gives before the others on its event loop have their turn."""

_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors by which sendfile(2) says that it can't read such a file."""

log = logging.getLogger("hypoll.error")


class Pull(Enum):
    """What came of pulling."""

    MORE = "send what there is, and pull again"
    LATER = "the source calls `ready` when it has a piece"
    SENT = "the source has sent some itself, as much as a turn may: pull again in the next"
    FULL = "the kernel is full: pull again at the writable edge"
    END = "that was the last piece"


class Source(Protocol):
    """A body on its way to the socket.

    Attributes:
        mid_piece: whether the rest of a piece is to come: nothing else may be sent before it.
    """

    @property
    def mid_piece(self) -> bool:
        """See the class."""
        ...

    def pull(self, sock: socket.socket, output: Buffers) -> Pull:
        """Append the next piece, framed, to the output, or send it. Raises what the body raises."""
        ...

    def close(self) -> None:
        """Nobody will pull any more."""
        ...


class InlineSource:
    """An iterator whose `next` runs on the loop, in the context of its request. None: it runs no code but hypoll's."""

    mid_piece = False

    def __init__(self, stream: Iterator[bytes], context: Context | None = None) -> None:
        self._stream = stream
        self.context = copy_context() if context is None else context
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether it has raised, behind what was pulled."""
        return self._error is not None

    def taken(self) -> bytes:
        """What it has given and wasn't pulled: nothing."""
        return b""

    def pull(self, sock: socket.socket, output: Buffers) -> Pull:
        """Take the next pieces: few, since none may wait in memory for a slow reader."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        size = 0
        for _ in PIECES_PER_PULL:
            try:
                piece = self.context.run(next, self._stream, None)
            except FAILURES as failed:
                keep_out(failed)
                if not size or isinstance(failed, KeyboardInterrupt):
                    raise
                self._error = failed  # what came before it is owed
                return Pull.MORE
            if piece is None:
                return Pull.END
            if piece:
                output.append(piece)
            size += len(piece)
            if size >= COPY_LIMIT:
                break
        return Pull.MORE

    def close(self) -> None:
        """Close the iterator, if it can be."""
        # In a copy: what stops the server from within the iterator is in the context itself.
        self.context.copy().run(close_body, self._stream)


class FileSource:
    """Bytes of a file, which go from the page cache to the socket by sendfile(2). sent: how many have gone.

    context: the request's, for the log.
    """

    mid_piece = False

    def __init__(self, part: Slice, context: Context | None = None) -> None:
        self._part = part
        self.context = context
        self.sent = 0

    def pull(self, sock: socket.socket, output: Buffers) -> Pull:
        """Send a burst.

        Raises `PeerGone`; `TruncatedError` when the file has become shorter, `OSError` with its name when it can't be
        read.
        """
        part = self._part
        before = self.sent
        try:
            while part.count and self.sent - before < SEND_SIZE:
                self.sent += part.send(sock.fileno(), SEND_SIZE - self.sent + before)
        except BlockingIOError:
            # What was sent counts as the peer's progress: the next pull finds the kernel full, if it still is.
            if self.sent > before:
                return Pull.SENT
            part.probe()  # a file system in user space may say so, too, and then no edge would come
            return Pull.FULL
        except OSError as error:
            if error.errno in _NO_SENDFILE:
                output.append(part.read(SEND_SIZE))  # a file system that has none
                self.sent += len(output[-1])
                return Pull.MORE if part.count else Pull.END
            # sendfile(2) doesn't say whose error it is: the file's own comes again when it is read.
            part.probe()
            raise PeerGone from error
        if part.count:
            return Pull.SENT
        part.release()
        return Pull.END

    def close(self) -> None:
        """Let go of the file."""
        self._part.release()


class CutError(Exception):
    """A body failed before its end, which was logged."""


class TaskSource:
    """An async iterator, run by the task of its request."""

    mid_piece = False

    def __init__(self, stream: AsyncGenerator[bytes], ready: Callable[[], object]) -> None:
        self._stream = stream
        self._ready: Callable[[], object] | None = ready
        self._piece: bytes | None = b""
        self.failed = False
        """Whether it has raised, behind what was pulled."""
        self._waiter: asyncio.Future[None] | None = None

    def pull(self, sock: socket.socket, output: Buffers) -> Pull:
        """Give the piece that has come. Raises `CutError` when the iterator has failed behind it."""
        if self.failed:
            raise CutError
        piece = self._piece
        if piece is None:
            return Pull.END
        if not piece:
            return Pull.LATER
        output.append(piece)
        self._piece = b""
        self._wake()
        return Pull.MORE

    def taken(self) -> bytes:
        """What it has given and wasn't pulled."""
        piece, self._piece = self._piece, b""
        return piece or b""

    def close(self) -> None:
        """Nothing more is given on: the task closes the iterator, if it isn't cancelled."""
        self._ready = None
        self._wake()

    async def run(self) -> None:
        """Give one piece after the other. Raises what the iterator raises."""
        import asyncio  # it is loaded where a task runs: only the name is looked up

        try:
            row = 0
            async for piece in self._stream:
                if piece:
                    await self._give(piece)
                if self._ready is None:
                    return
                row += 1
                if row % PIECES_IN_A_ROW == 0:
                    await asyncio.sleep(0)  # an iterator that never waits must not keep the others from running
            self._notify(None)
        finally:
            await self._stream.aclose()

    async def drop(self) -> None:
        """Close the iterator, in place of `run`."""
        await self._stream.aclose()

    def fail(self, error: BaseException) -> None:
        """`run` has raised this: what came before it is sent, then the connection is cut."""
        log_cut(error)
        self.failed = True
        self._notify(b"")

    async def _give(self, piece: bytes) -> None:
        self._notify(piece)
        if self._piece and self._ready is not None:  # it wasn't taken: output waits for the peer
            import asyncio

            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _notify(self, piece: bytes | None) -> None:
        self._piece = piece
        if self._ready is not None:
            self._ready()


def log_cut(error: BaseException) -> None:
    """Say whose body ended before its end, and why, once; of a client that has gone there is nothing to say.

    In the context of its request, or of a copy.
    """
    keep_out(error)
    if not isinstance(error, (ClientDisconnect, CutError)):
        request = current_request()
        # The head is out: the missing end is all that can tell the client.
        if request is None:
            log.error("a response's body failed: the connection is cut", exc_info=error)
        else:
            where = f"{request.method} {request.route or request.raw_path}"
            extra = {"request_id": request.id}
            log.error("%s: a response's body failed: the connection is cut", where, exc_info=error, extra=extra)
    error.__traceback__ = None  # an application's constant would keep what it was raised in
