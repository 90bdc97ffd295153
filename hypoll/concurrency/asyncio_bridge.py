"""asyncio on the loop's own thread: coroutines as tasks, and an asyncio event loop that drives a `Loop`.

An epoll descriptor is itself pollable (epoll(7), question 3). So asyncio watches hypoll's as it would a socket, and
turns hypoll's loop without waiting when it is readable: no second thread, and nothing is copied between the loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import inspect
import logging
import os
import select
import selectors
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from hypoll.concurrency.jobs import Call, Lease
from hypoll.loop import Loop

T = TypeVar("T")

CANCEL_TIME = 1.0
"""Seconds that tasks which are cancelled at the end may take to clean up."""

TOLD_TIME = 0.1
"""Seconds in which tasks that were notified of the end may come to theirs before they are cancelled."""

log = logging.getLogger("hypoll.error")


def new_event_loop(uvloop: bool) -> asyncio.AbstractEventLoop:
    """An asyncio event loop; uvloop's when it is wanted and installed."""
    if uvloop:
        try:
            made: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        except ModuleNotFoundError:
            pass
        else:
            return made
    return asyncio.new_event_loop()


def _epoll_sets() -> set[int]:
    """The descriptors of epoll instances that the process has; none where there is no /proc."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                    found.add(int(name))
    return found


class AsyncioBridge:
    """Runs a `Loop` from an asyncio event loop, and coroutines beside it.

    Args:
        keeps_others: whether tasks that aren't `begun` go on until what is to be done `at_end` was done.

    Attributes:
        new_task: makes a task of a coroutine, of the name it is given. Where Python can (3.12) it runs up to its first
            wait at once.
        make: the same, which has to be given the event loop, too: it spares a request a call.
        eager: whether a task runs up to its first wait when it is made.
        count: tasks under way, for who makes them to keep: a done callback would cost each a turn of asyncio.
        on_idle: for them to call when none is left.
        before_turn: called before each turn of the hypoll loop, and when `run` ends.
        begun: those of them that nobody else may hold: asyncio holds tasks weakly, and one that waits for what only it
            knows of would be collected.
    """

    def __init__(self, loop: Loop, *, uvloop: bool = True, keeps_others: bool = False) -> None:
        self.on_idle: Callable[[], object] = lambda: None
        self.before_turn: Callable[[], object] = lambda: None
        known = _epoll_sets()
        self.asyncio = new_event_loop(uvloop)
        self._epoll_sets = _epoll_sets() - known
        self._loop = loop
        self.count = 0
        self.make = _new_task
        self.eager = EAGER
        self._keeps_others = keeps_others
        self.new_task: Callable[..., asyncio.Task[None]] = partial(_new_task, loop=self.asyncio)
        self._soon = False
        self._wake_at = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.copy_context()
        """What turns run in, whoever plans them: that of a task would be kept by the timer, and with it its request."""
        self._at_end: list[Callable[[], object]] = []
        self._running = False
        self._stopping = False
        self._failure: BaseException | None = None
        self.begun: set[asyncio.Task[None]] = set()
        self.asyncio.add_reader(loop.fileno(), self._turn)
        loop.on_work = self._plan
        loop.on_abandon(self._abandon)
        # One owner for signals: asyncio's would take the wake-up descriptor, or lose it to the loop.
        self.asyncio.add_signal_handler = self._add_signal_handler  # type: ignore[method-assign,assignment]
        self.asyncio.remove_signal_handler = self._remove_signal_handler  # type: ignore[method-assign]

    def __len__(self) -> int:
        """Tasks under way."""
        return self.count

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end before or after `run`."""
        return self.asyncio.run_until_complete(coroutine)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, which must not fail, in a task that a drain waits for."""

        async def counted() -> None:
            try:
                await coroutine
            finally:
                self.on_task_end(None)

        self.count += 1
        task = self.new_task(counted())
        self.begun.add(task)
        task.add_done_callback(self.begun.discard)

    def on_task_end(self, task: asyncio.Task[None] | None) -> None:
        """A task that was counted is at its end. task: itself, where it is one of those `begun`."""
        if task is not None:
            self.begun.discard(task)
        self.count -= 1
        if not self.count:
            self.on_idle()

    async def in_thread(self, lease: Lease, call: Callable[[], T], context: contextvars.Context) -> T:
        """Await a call that is made on a thread of the pool, in a context. Raises what it raises."""
        future: asyncio.Future[tuple[T, BaseException | None]] = self.asyncio.create_future()
        job = lease.call(call, partial(_resolve_future, future), context)
        error = None
        try:
            result, error = await future
            if error is not None:
                raise error
            return result
        except asyncio.CancelledError:
            job.cancel()
            raise
        finally:
            del error, future, job  # the error's traceback leads back here

    def at_end(self, callback: Callable[[], object]) -> None:
        """Run `callback()` when `run` has ended, where it may use `complete`. Now when it isn't running."""
        self._at_end.append(callback)
        if not self._running:
            self._end()

    def run(self) -> None:
        """Run both loops until the hypoll one is stopped. Raises what a turn of it raises."""
        self._running, self._stopping = True, False
        try:
            if not self._loop.stopping:
                self._plan()
                self.asyncio.run_forever()
        finally:
            self._running = False
            self.before_turn()
            self._loop.stopped()
        failure, self._failure = self._failure, None
        if failure is not None:
            # The tasks are cancelled when their connections have been closed, so that none answers that.
            raise failure
        self._end()

    def close(self) -> None:
        """Give back what the asyncio event loop holds."""
        self._loop.on_work = None
        self.asyncio.remove_reader(self._loop.fileno())
        self._end()
        if self._keeps_others:
            self._cancel(asyncio.all_tasks(self.asyncio))
        self.asyncio.run_until_complete(self.asyncio.shutdown_asyncgens())
        self.asyncio.close()

    def _abandon(self, ended: Any) -> None:
        """In a forked child: have asyncio poll an empty set, not its parent's, and run nothing but `ended`.

        What uvloop has begun to run in this turn it can't be kept from: steps of tasks whose sockets are gone.
        """
        for fd in self._epoll_sets:
            with contextlib.suppress(OSError), select.epoll() as empty:
                os.dup2(empty.fileno(), fd, inheritable=False)
        ready = getattr(self.asyncio, "_ready", None)
        if isinstance(ready, deque):
            ready.clear()
        with contextlib.suppress(RuntimeError):  # it is closed
            self.asyncio.call_soon(ended)

    def _add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """What asyncio's method of this name does, by the loop's signals.

        Raises as that does: `TypeError`, `ValueError`, and `RuntimeError` for a signal that can't be handled, or where
        this isn't the main thread.
        """
        if asyncio.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check_signal(sig)
        context = contextvars.copy_context()

        def listener() -> None:
            self.asyncio.call_soon(partial(self._on_signal, callback, *args), context=context)

        try:
            self._loop.listen_to_signal(sig, listener)
        except (ValueError, OSError) as error:
            raise RuntimeError(f"sig {sig} cannot be caught: {error}") from error

    def _remove_signal_handler(self, sig: int) -> bool:
        """What asyncio's method of this name does."""
        _check_signal(sig)
        return self._loop.listen_to_signal(sig, None)

    def _on_signal(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            callback(*args)
        except (SystemExit, KeyboardInterrupt):  # which asyncio would end its loop by, and the server with it
            log.exception("the application's handler of a signal failed")

    def _turn(self) -> None:
        """A turn of hypoll's loop that doesn't wait."""
        try:
            self.before_turn()
            self._loop.poll_once(0)
        except BaseException as error:
            # asyncio would log it and go on, with a loop whose events of this turn are lost.
            self._failure = error
            self._stop()
        else:
            self._plan()

    def _plan(self) -> None:
        """See that the next turn comes when it is due; its events come by themselves."""
        loop = self._loop
        if loop.stopping:
            if self._running:
                self._stop()
        elif loop.wake_at == self._wake_at and not loop.ready:
            return
        elif loop.ready:
            if not self._soon:
                self._soon = True
                self.asyncio.call_soon(self._turn_soon, context=self._context)
        else:
            self._plan_timer(loop.wake_at)

    def _stop(self) -> None:
        """End `run`. Once: uvloop keeps a second call for whatever it runs next, and stops that."""
        if not self._stopping:
            self._stopping = True
            self.asyncio.stop()

    def _turn_soon(self) -> None:
        self._soon = False
        self._turn()

    def _plan_timer(self, when: float) -> None:
        self._wake_at = when
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when != float("inf"):
            delay = max(0.0, when - self._loop.time())
            self._timer = self.asyncio.call_later(delay, self._on_timer, context=self._context)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake_at = float("inf")
        self._turn()

    def _end(self) -> None:
        if not self._keeps_others:
            self._cancel(asyncio.all_tasks(self.asyncio))
        elif self.begun:
            # Their clients have gone, as they know by now: who listens ends by itself.
            _, pending = self.asyncio.run_until_complete(asyncio.wait(self.begun, timeout=TOLD_TIME))
            self._cancel(pending)
        callbacks, self._at_end = self._at_end, []
        for callback in callbacks:
            callback()

    def _cancel(self, tasks: set[asyncio.Task[None]]) -> None:
        """Cancel what is left, of the application's own tasks, too, and let it clean up."""
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = self.asyncio.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_TIME))
            if pending:
                log.warning("%d tasks did not end within %g s of being cancelled", len(pending), CANCEL_TIME)


_COROUTINE_MARK = getattr(asyncio.coroutines, "_is_coroutine", object())
"""What a function is marked by that makes coroutines and isn't `async def`, as asgiref did before Python 3.12."""


def _is_coroutine_function(callback: object) -> bool:
    """What `asyncio.iscoroutinefunction` says, which Python 3.14 warns of."""
    return inspect.iscoroutinefunction(callback) or getattr(callback, "_is_coroutine", None) is _COROUTINE_MARK


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _resolve_future(future: asyncio.Future[Any], call: Call) -> None:
    if not future.done():
        future.set_result((call.result, call.error))


_selector = getattr(selectors, "EpollSelector", selectors.SelectSelector)  # gevent may have taken it away

IDLE_CODE = frozenset({_selector.select.__code__, AsyncioBridge.run.__code__})
"""Where the thread rests while asyncio, or uvloop, whose own wait is no Python code, waits for events."""

EAGER = sys.version_info >= (3, 12)
"""Whether a task's first step is taken at once: a handler that never waits costs no turn of asyncio."""

_new_task: Callable[..., asyncio.Task[None]] = partial(asyncio.Task, eager_start=True) if EAGER else asyncio.Task  # type: ignore[call-arg]
