"""The application's periodic work, while a server serves.

Laws:

- It begins when the application has started, and nothing of it runs any more when that is stopped, unless
  `graceful_timeout` has passed: what is under way when the server begins to go away is waited for as a request is, and
  no pause is.
- A piece of work never runs twice at once. Runs that would have begun meanwhile are left out.
- A `def` has one thread of its own, which no request takes; an `async def` a task for each run.
- What a run raises is logged, once, and the next one comes all the same.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from hypoll.concurrency.forks import keep_out
from hypoll.contracts import Application, PeriodicWork
from hypoll.loop import Loop, Timer
from hypoll.protocol.messages import FAILURES
from hypoll.web.results import ends_task

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge

log = logging.getLogger("hypoll.error")


class Periodic:
    """Runs the periodic work of one application.

    Args:
        on_idle: called when the last run has ended after `stop`.

    Attributes:
        running: runs that are under way.
        tasks: those of them that are tasks.
    """

    def __init__(
        self,
        application: Application,
        loop: Loop,
        asyncio_bridge: AsyncioBridge | None,
        on_idle: Callable[[], object],
    ) -> None:
        self.loop = loop
        self.asyncio_bridge = asyncio_bridge
        self.running = self.tasks = 0
        self.stopped = False
        self.context = contextvars.copy_context()
        self._application = application
        self._on_idle = on_idle
        self._runs: list[_Run] = []

    def start(self, context: contextvars.Context) -> None:
        """Begin each work, in a turn of the loop to come. context: what each run begins in a copy of."""
        self.context = context
        for work in self._application.periodic:
            run = _TaskRun(self, work) if work.is_async else _ThreadRun(self, work)
            self._runs.append(run)
            run.plan(0.0)

    def stop(self) -> None:
        """Begin no run any more. Stopping twice does nothing."""
        self.stopped = True
        for run in self._runs:
            run.stop()

    def on_run_end(self) -> None:
        """A run has ended. On the loop's thread."""
        self.running -= 1
        if self.stopped and not self.running:
            self._on_idle()


class _Run:
    """One work, and the run of it that is under way, if one is."""

    def __init__(self, owner: Periodic, work: PeriodicWork) -> None:
        self._owner = owner
        self._work = work
        self._due = owner.loop.time()
        self._timer: Timer | None = None

    def plan(self, delay: float) -> None:
        """Begin after so many seconds."""
        self._timer = self._owner.loop.call_later(delay, self._begin)

    def stop(self) -> None:
        """Begin no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        self._owner.running += 1
        self._run(self._owner.context.copy())

    def _run(self, context: contextvars.Context) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """The run has ended. On the loop's thread."""
        owner = self._owner
        if not owner.stopped:
            late = owner.loop.time() - self._due
            self._due += self._work.seconds * (int(late / self._work.seconds) + 1)
            self.plan(max(0.0, self._due - owner.loop.time()))
        owner.on_run_end()

    def _log(self, error: BaseException) -> None:
        log.error("the periodic work %s failed", self._work.place, exc_info=error)
        error.__traceback__ = None  # an application's constant would keep what it was raised in


class _ThreadRun(_Run):
    _thread: threading.Thread | None = None

    def __init__(self, owner: Periodic, work: PeriodicWork) -> None:
        super().__init__(owner, work)
        self._contexts: queue.SimpleQueue[contextvars.Context | None] = queue.SimpleQueue()

    def stop(self) -> None:
        super().stop()
        self._contexts.put(None)

    def _run(self, context: contextvars.Context) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work_on, name=f"hypoll-every-{self._work.seconds:g}s", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left
                self._log(error)
                self._end()
                return
            self._thread = thread
        self._contexts.put(context)

    def _work_on(self) -> None:
        """What the thread does: runs, one after the other."""
        while (context := self._contexts.get()) is not None:
            try:
                context.run(self._call)
            except FAILURES as error:  # an interrupt, too: it isn't this thread that gets a signal's
                keep_out(error)
                self._log(error)
            else:
                keep_out()
            del context
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._owner.loop.call_soon_threadsafe(self._end)

    def _call(self) -> None:
        result = self._work.function()
        if isinstance(result, CoroutineType):
            result.close()
            raise TypeError("it gave something to await, and is no async def: declare it so")


class _TaskRun(_Run):
    def _run(self, context: contextvars.Context) -> None:
        bridge = self._owner.asyncio_bridge
        assert bridge is not None, "an application with anything async is served by asyncio"
        self._owner.tasks += 1
        context.run(partial(bridge.start, self._await()))

    async def _await(self) -> None:
        try:
            result: Any = self._work.function()
            await result
        except KeyboardInterrupt:  # a signal's: it means the process
            raise
        except FAILURES as error:
            keep_out(error)
            if ends_task(error) and self._owner.stopped:
                raise
            self._log(error)
        else:
            keep_out()
        finally:
            self._owner.tasks -= 1
            self._end()
