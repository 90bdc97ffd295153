"""A request's body as it comes: what a `stream=True` handler iterates over.

The connection puts in what it receives, on the loop's thread; the handler takes out, on a thread of the pool or in a
task. While `HIGH_WATER` bytes wait here the connection doesn't read, and TCP holds the client back.

Law: what waits weighs little more than its bytes. Many small pieces are joined, since one of two bytes weighs fifty.
"""

from __future__ import annotations

import contextlib
import copy
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

HIGH_WATER = 64 * 1024
"""Bytes that wait for the handler before the connection stops reading; one read more may come."""

SMALL = 4096
"""Bytes below which a piece that waits is joined with what comes behind it: each object costs some 40 bytes beside its
content, which for chunks of 2 bytes is 20 times as much."""


class RequestBody:
    """The pieces of a body on their way to a handler.

    Args:
        on_wanted: called when the handler wants more than is here; from whatever thread the handler runs on.

    Attributes:
        ended: whether the body is here to its end, or will never be.
    """

    def __init__(self, on_wanted: Callable[[], object]) -> None:
        self.on_wanted = on_wanted
        self.ended = False
        self.size = 0
        self.waits_for_piece = False
        """Whether the handler waits for a piece now."""
        self.begun = False
        """Whether the handler has asked for a piece yet."""
        self._pieces: deque[bytes] = deque()
        self._error: BaseException | None = None

    # the connection's side

    @property
    def wants_more(self) -> bool:
        """Whether the connection should read on."""
        return self.begun and not self.ended and self.size < HIGH_WATER

    def put(self, pieces: list[bytes]) -> None:
        """Give what was received."""
        if not pieces:
            return
        came = sum(map(len, pieces))
        self.size += came
        if came < SMALL * len(pieces):
            pieces = [b"".join(pieces)]
        if self._pieces and len(self._pieces[-1]) + len(pieces[0]) < SMALL:
            self._pieces[-1] += pieces[0]
            pieces = pieces[1:]
        self._pieces.extend(pieces)
        self._wake_reader()

    def end(self) -> None:
        """The body is whole."""
        self.ended = True
        self.on_wanted = _nothing
        self._wake_reader()

    def fail(self, error: BaseException) -> None:
        """The body will never be whole: the handler gets `error` behind what came."""
        if not self.ended:
            error.__traceback__ = None  # it would keep what raised it
            self._error = error
            self.end()

    def _wake_reader(self) -> None:
        """Wake the handler, if it waits."""

    @property
    def raises_soon(self) -> bool:
        """Whether the handler was woken to be raised an error to, and has not had its turn since."""
        return False

    # the handler's side

    def _take(self) -> bytes | None:
        """The next piece; b"": none is here yet; None: that was all. Raises what the connection failed with."""
        if self._pieces:
            piece = self._pieces.popleft()
            before = self.size
            self.size -= len(piece)
            if before >= HIGH_WATER > self.size and not self.ended:
                self.on_wanted()
            return piece
        if self.ended:
            if self._error is not None:
                raise copy.copy(self._error)  # a traceback would lead back here
            return None
        return b""


class ThreadRequestBody(RequestBody):
    """The body for a threaded handler: an iterator of bytes that waits for the client.

    outside: a context in which the thread waits; see `hypoll.concurrency.thread_pool`.
    """

    def __init__(
        self,
        on_wanted: Callable[[], object],
        leave_pool: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        super().__init__(on_wanted)
        self._changed = threading.Condition()
        self._leave_pool: Callable[[], AbstractContextManager[object]] = leave_pool

    def put(self, pieces: list[bytes]) -> None:
        """`RequestBody.put`."""
        with self._changed:
            super().put(pieces)

    def end(self) -> None:
        """`RequestBody.end`."""
        self._leave_pool = contextlib.nullcontext  # the other leads back here
        with self._changed:
            super().end()

    def _wake_reader(self) -> None:
        self.waits_for_piece = False
        self._changed.notify()

    def __iter__(self) -> ThreadRequestBody:
        return self

    def __next__(self) -> bytes:
        """The next piece of the body, never empty.

        Raises:
            ClientDisconnect: When the client breaks off.
            HTTPError: When the body is malformed, too large or too slow.
        """
        self.begun = True
        while True:
            with self._changed:
                piece = self._take()
                if piece is None:
                    raise StopIteration
                if piece:
                    return piece
                self.waits_for_piece = True
                self.on_wanted()
            with self._leave_pool(), self._changed:
                while self.waits_for_piece:
                    self._changed.wait()

    def read(self) -> bytes:
        """All that is left of the body."""
        return joined(self)


class TaskRequestBody(RequestBody):
    """The body for an `async def` handler: an async iterator of bytes."""

    def __init__(self, on_wanted: Callable[[], object]) -> None:
        super().__init__(on_wanted)
        self._waiter: asyncio.Future[None] | None = None

    def _wake_reader(self) -> None:
        self.waits_for_piece = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def raises_soon(self) -> bool:
        """See `RequestBody`."""
        return self._error is not None and self._waiter is not None and self._waiter.done()

    def __aiter__(self) -> TaskRequestBody:
        return self

    async def __anext__(self) -> bytes:
        """The next piece of the body, never empty. Raises as `ThreadRequestBody.__next__` does."""
        self.begun = True
        while True:
            piece = self._take()
            if piece is None:
                raise StopAsyncIteration
            if piece:
                return piece
            await self._more()

    async def _more(self) -> None:
        import asyncio  # it is loaded where a task runs: only the name is looked up

        if self._waiter is not None:
            raise RuntimeError("two tasks iterate over one request.stream")
        self._waiter = asyncio.get_running_loop().create_future()
        self.waits_for_piece = True
        try:
            self.on_wanted()
            await self._waiter
        except asyncio.CancelledError:
            self.waits_for_piece = False
            self.on_wanted()  # nothing, for now: the client's time ends
            raise
        finally:
            self.waits_for_piece = False
            self._waiter = None

    async def read(self) -> bytes:
        """All that is left of the body."""
        whole = io.BytesIO()
        async for piece in self:
            whole.write(piece)
        return whole.getvalue()


def joined(pieces: Iterable[bytes]) -> bytes:
    """The pieces in one. Unlike `bytes.join` it keeps no list of them, which weighs many times what small ones hold."""
    whole = io.BytesIO()
    for piece in pieces:
        whole.write(piece)
    return whole.getvalue()


def _nothing() -> None:
    """Stand for a demand that nobody meets any more."""
