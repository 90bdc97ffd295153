"""What a pool's threads do: jobs. A call is one, and so is a lease, which has a thread for several calls.

What holds for each stands with the pool: see `hypoll.concurrency.thread_pool`.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hypoll.concurrency.forks import keep_out

if TYPE_CHECKING:
    from hypoll.concurrency.thread_pool import ThreadPool


class Job:
    """Something to do on the pool: `run` on a thread, then `finish` on the loop's thread.

    Attributes:
        context: what it runs in; nothing else may be in it at that time.
        since: when it was submitted, by the loop's clock.
        waited: seconds it waited for a thread.
        detached: how many times its thread has left the pool, and not come back.
        abandoned: whether nobody waits for its end any more.
    """

    context: contextvars.Context
    since = 0.0
    waited = 0.0
    detached = 0
    abandoned = False

    def run(self) -> None:
        """Do it. On a thread; must not raise."""
        raise NotImplementedError

    def finish(self) -> None:
        """Take up what came of it. On the loop's thread."""

    def reject(self) -> None:
        """There is no thread to do it, and none can be started. On the loop's thread, in place of both."""

    def abandon(self) -> None:
        """Nobody waits for its end any more. On the loop's thread; if it ends all the same, `finish` comes later."""


class Call(Job):
    """A function's call. `result` or `error` is there when `done(call)` is called."""

    def __init__(self, function: Callable[[], Any], done: Callable[[Call], object]) -> None:
        self.context = contextvars.copy_context()
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._done = done

    def run(self) -> None:
        """Call the function."""
        try:
            self.result = self._function()
        except KeyboardInterrupt as error:  # no signal's, which the main thread alone gets: it mustn't end the server
            self.error = RuntimeError("KeyboardInterrupt was raised on a thread")
            self.error.__cause__ = error
        except BaseException as error:
            self.error = error

    def finish(self) -> None:
        """Tell who asked for it."""
        done, self._done = self._done, _nothing
        try:
            done(self)
        finally:
            self.error = None  # its traceback leads back here

    def cancel(self) -> None:
        """Nobody wants it any more: if it hasn't begun, it won't."""
        self._function = self._done = _nothing

    def reject(self) -> None:
        """Tell who asked for it by a `NoThreadError`."""
        self.error = NoThreadError("the system has no thread left")
        self.finish()


class NoThreadError(RuntimeError):
    """A call can't be made: no thread can be started."""


class Lease(Job):
    """One thread of the pool, held for several calls: they run on it one after the other, and nothing in between.

    Calls come back to the loop one by one. `release` ends it, after those that were asked for.

    Attributes:
        on_abandoned: called on the loop's thread when nobody waits any more for the call under way.
    """

    def __init__(self, pool: ThreadPool) -> None:
        self.context = contextvars.copy_context()
        self.on_abandoned: Callable[[], object] = _nothing
        self._pool = pool
        pool.leases += 1
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._released = False
        self._rejected = False
        pool.submit(self)

    def call(self, function: Callable[[], Any], done: Callable[[Call], object], context: contextvars.Context) -> Call:
        """Have `function()` called in a context, and `done(call)` on the loop's thread after it."""
        call = Call(function, done)
        call.context = context
        if self._rejected:
            self._pool.loop.call_soon(call.reject)
        else:
            self._calls.put(call)
        return call

    def release(self) -> None:
        """Let the thread go when the calls so far are made. Releasing twice does nothing."""
        if not self._released:
            self._released = True
            self._calls.put(None)

    def run(self) -> None:
        """Make the calls."""
        loop = self._pool.loop
        while (call := self._calls.get()) is not None:
            call.context.run(call.run)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(call.finish)
            del call
            keep_out()

    def finish(self) -> None:
        """The last call is made."""
        if not self.abandoned:
            self._pool.leases -= 1

    def abandon(self) -> None:
        """Tell who has it."""
        self._pool.leases -= 1
        self.on_abandoned()

    def reject(self) -> None:
        """Reject each call, and those to come."""
        self._pool.leases -= 1
        self._rejected = True
        self.release()
        while (call := self._calls.get()) is not None:
            call.reject()


def _nothing(*arguments: object) -> None:
    """Stand for a `finish` that was called, or a function that won't be."""
