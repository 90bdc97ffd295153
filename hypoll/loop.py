"""The event loop: descriptors, time, signals and wake-ups over Linux `epoll`. Nothing here knows HTTP.

Its laws:

- Every `epoll_ctl` and `epoll_wait` of hypoll is made in this file.
- Edge-triggered by default: readiness is reported once (epoll(7)). A callback that stops before EAGAIN or a short read
  must come back by itself with `call_soon`.
- A callback never runs for a descriptor that an earlier callback of the same batch unregistered, nor for the
  descriptor's successor of the same number.
- A callback that raises is logged; the loop goes on.
- One turn is: wait, events, what `call_soon` had asked for before their end, timers.
- Deadlines are checked last: a turn in which a timer is due takes all that is ready first, however many batches it is.
- Time in which the loop did not run counts for no timer; `on_pause` notifies others.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

IN = select.EPOLLIN
OUT = select.EPOLLOUT
RDHUP = select.EPOLLRDHUP
ERR = select.EPOLLERR
HUP = select.EPOLLHUP

TICK = 1.0
"""Seconds between two ticks: how coarse deadlines are."""

MAX_EVENTS = 512
"""Events taken by one `epoll_wait`: bounds a turn, so that timers and wake-ups get theirs."""

READY_TIME = 0.0005
"""Seconds after which callbacks that wait for their turn let events have theirs: what goes on with much to do makes
nobody wait who has just come."""

LATE = 0.25
"""Seconds by which a turn may come late: of more than these, what the thread did not compute in counts as a pause."""

CROWD = 64
"""Timers from which on the cancelled ones are looked for and dropped."""

log = logging.getLogger("hypoll.error")

EventCallback = Callable[[int], object]
Callback = Callable[..., object]

_MEANINGS = {
    errno.EBADF: "the descriptor is closed",
    errno.EEXIST: "the descriptor is registered already",
    errno.ENOENT: "the descriptor is not registered",
    errno.EPERM: "this kind of descriptor can't be polled (a regular file or a directory)",
    errno.ENOMEM: "the kernel is out of memory for another descriptor",
    errno.ENOSPC: "the limit fs.epoll.max_user_watches is reached",
    errno.EINVAL: "the events don't go together, or it is the loop's own descriptor",
}


_forks: list[None] = []
"""Not empty once the process has forked in Python. (subprocess closes the copies itself, before anything else.)"""


def has_forked() -> bool:
    """Whether a child may hold copies of this process's descriptors, so that closing one doesn't end what it is of."""
    return bool(_forks)


def _on_fork() -> None:
    if not _forks:
        _forks.append(None)


def _in_child() -> None:
    # A child begins without children of its own: a worker must not inherit that its master has forked before.
    _forks.clear()
    for signals in list(_signals):
        signals.forget()


def has_loops() -> bool:
    """Whether the process has a loop that isn't closed."""
    return any(not loop.closed for loop in list(_loops))


def abandon_loops(ended: Any) -> bool:
    """`Loop.abandon` for all. Whether there was any."""
    return sum(loop.abandon(ended) for loop in list(_loops)) > 0


def let_go(*fds: int) -> None:
    """Have numbers of the parent's descriptors be of /dev/null, in a forked child."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in fds:
            os.dup2(null, fd, inheritable=False)
        os.close(null)


_signals: weakref.WeakSet[_Signals] = weakref.WeakSet()
_loops: weakref.WeakSet[Loop] = weakref.WeakSet()

os.register_at_fork(after_in_parent=_on_fork, after_in_child=_in_child)


class LoopError(OSError):
    """`epoll` refused: `errno` is the kernel's, the message says what it means (epoll_ctl(2), epoll_wait(2))."""


class Timer:
    """A callback to come. `cancel()` it, or let it fire."""

    __slots__ = ("args", "callback", "order", "since", "when")

    def __init__(self, since: float, delay: float, order: int, callback: Callback, args: tuple[Any, ...]) -> None:
        self.since = since
        self.when = since + delay
        self.order = order
        self.callback: Callback | None = callback
        self.args = args

    def cancel(self) -> None:
        """Forget the callback. Cancelling twice, or after it fired, does nothing."""
        self.callback = None
        self.args = ()

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.order) < (other.when, other.order)


class Loop:
    """An edge-triggered event loop over one `epoll` instance, used from one thread.

    `now` is the clock's reading at the start of the present turn: coarse time that costs an attribute read.

    Args:
        clock: gives seconds that never go back; tests put a fake one. CLOCK_MONOTONIC stands still while the machine is
            suspended, as deadlines should; CLOCK_BOOTTIME would not (clock_gettime(2)).
        cpu: gives the seconds that the loop's thread has computed.
    """

    lag = 0.0
    """Seconds by which the last tick came late."""
    stopping = False
    """Whether `stop` was asked for and `run` has not returned."""
    on_work: Callable[[], object] | None = None
    """Called outside of a turn when one has become due sooner: who drives the loop by `poll_once` plans by it."""
    on_busy: Callable[[], object] | None = None
    """Called before the events of a turn are: who watches the loop sets it to be woken, and takes it back then."""
    _paused = 0.0
    """Seconds that were lost since the last tick."""
    _dispatching = False
    _has_dispatched = False
    _turning = False
    _closed = False
    _wakeup_sent = False
    _ended: Any = None
    """Called for whatever comes back to a loop that a forked child has abandoned."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = self.clock = clock
        self._cpu = cpu
        self._epoll = select.epoll()
        # The list stands for the `epoll_data` pointer of C: the kernel gives back the descriptor, and one index finds
        # who waits for it.
        self._callbacks: list[EventCallback | None] = [None] * 64
        self._freed: list[int] = []
        self._late: dict[int, EventCallback] = {}
        self._ready: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._timers: list[Timer] = []
        self._order = itertools.count()
        self._crowd = CROWD
        self._tick_callbacks: list[Callback] = []
        self._pause_callbacks: list[Callable[[float], object]] = []
        self.now = clock()
        self._turn_before = self.now
        self._timed_at = self.now
        """When the timers were last run, by the clock, and what the thread had computed by then."""
        self._computed = cpu()
        self._next_tick = self.now + TICK
        self.wake_at = self.now
        """When a timer or a tick is due, by `time`; infinity when none is planned."""
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Held by who writes to the eventfd, so that none writes to a stranger's descriptor of its number after close.
        # Reentrant: a signal handler may call while its own thread is in there.
        self._wakeup_lock = threading.RLock()
        self._from_threads: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self.register(self._wakeup, self._on_wakeup, IN)
        self._signals = _Signals(self)
        self._abandon_callbacks: list[Callable[[Any], object]] = []
        _loops.add(self)
        self._plan_wake()

    # descriptors

    def register(
        self,
        fd: int,
        callback: EventCallback,
        events: int = IN | OUT | RDHUP,
        *,
        edge: bool = True,
        oneshot: bool = False,
        exclusive: bool = False,
    ) -> None:
        """Call `callback(events)` whenever `fd` becomes ready. ERR and HUP always are reported.

        Args:
            fd: the descriptor.
            callback: is called with the events that are ready.
            events: those to wait for; ERR and HUP always are.
            edge: report each readiness once (EPOLLET); otherwise for as long as it lasts.
            oneshot: disarm after one event (EPOLLONESHOT), until `rearm`.
            exclusive: of several processes waiting on a shared descriptor, wake one (EPOLLEXCLUSIVE, IN and OUT only).

        Raises:
            LoopError: When the kernel refuses.
        """
        flags = events
        flags |= select.EPOLLET if edge else 0
        flags |= select.EPOLLONESHOT if oneshot else 0
        flags |= select.EPOLLEXCLUSIVE if exclusive else 0
        try:
            self._epoll.register(fd, flags)
        except (OSError, ValueError) as error:
            raise _explained(error, fd) from error
        if fd >= len(self._callbacks):
            self._callbacks.extend([None] * (fd + 1 - len(self._callbacks) + 64))
        if self._dispatching and fd in self._freed:
            # This batch may still hold an event of the descriptor's predecessor. A new edge is reported by the next
            # epoll_wait at the earliest, so nothing is missed by waiting for the batch to end.
            self._late[fd] = callback
        else:
            self._callbacks[fd] = callback

    def rearm(self, fd: int, events: int = IN | OUT | RDHUP, *, edge: bool = True, oneshot: bool = True) -> None:
        """Arm a oneshot registration again. What is ready by then is reported at once. Raises `LoopError`."""
        flags = events | (select.EPOLLET if edge else 0) | (select.EPOLLONESHOT if oneshot else 0)
        try:
            self._epoll.modify(fd, flags)
        except (OSError, ValueError) as error:
            raise _explained(error, fd) from error

    def unregister(self, fd: int) -> None:
        """Forget `fd`: call this before closing it. Raises `LoopError` when it wasn't registered."""
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError) as error:
            raise _explained(error, fd) from error
        self.forget(fd)

    def forget(self, fd: int) -> None:
        """`unregister` without its system call, for a descriptor that is closed at once.

        Closing takes it out of the epoll set, unless a forked child holds a copy (epoll(7), question 6): its events
        would then reach whoever has the number next. So once the process has forked, the system call is made.
        """
        if not 0 <= fd < len(self._callbacks):
            return  # closed already, or the loop is
        if _forks:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(fd)
        self._callbacks[fd] = None
        self._late.pop(fd, None)
        if self._dispatching:
            self._freed.append(fd)

    def registered(self) -> list[int]:
        """The descriptors someone registered and nobody unregistered, without the loop's own."""
        own = {self._wakeup, self._signals.fileno()}
        return [fd for fd, callback in enumerate(self._callbacks) if callback is not None and fd not in own]

    def time(self) -> float:
        """The clock's reading at this moment: for what a callback that took long must not have used up."""
        return self._clock()

    # what runs later

    def call_soon(self, callback: Callback, *args: Any) -> None:
        """Run `callback(*args)` after the events of this turn; what it asks for in its turn runs a turn later."""
        self._ready.append((callback, args))
        if self.on_work is not None and not self._turning:
            self.on_work()

    def call_soon_threadsafe(self, callback: Callback, *args: Any) -> None:
        """`call_soon` from another thread: wakes the loop through its eventfd. Many calls cost one wake-up.

        Raises:
            RuntimeError: When the loop is closed.
        """
        with self._wakeup_lock:
            if self._closed:
                raise RuntimeError("the loop is closed")
            self._from_threads.append((callback, args))
            if not self._wakeup_sent:
                self._wakeup_sent = True
                os.eventfd_write(self._wakeup, 1)

    def call_later(self, delay: float, callback: Callback, *args: Any) -> Timer:
        """Run `callback(*args)` in `delay` seconds, or at the next turn after. Gives a `Timer` to cancel it by.

        Timers of the same time run in the order they were asked for.
        """
        if len(self._timers) >= self._crowd:
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._crowd = max(CROWD, 2 * len(self._timers))
        timer = Timer(self._clock(), max(0.0, delay), next(self._order), callback, args)
        heapq.heappush(self._timers, timer)
        self._plan_wake()
        return timer

    def on_tick(self, callback: Callback) -> None:
        """Run `callback()` about once a second, for as long as the loop runs: where deadlines are looked after."""
        if not self._tick_callbacks:
            self._next_tick = self._clock() + TICK
        self._tick_callbacks.append(callback)
        self._plan_wake()

    def off_tick(self, callback: Callback) -> None:
        """Take back an `on_tick`."""
        self._tick_callbacks.remove(callback)
        self._plan_wake()

    def on_pause(self, callback: Callable[[float], object]) -> None:
        """Run `callback(seconds)` when the loop was kept from running, before the events that waited meanwhile.

        The process was stopped (SIGSTOP, a frozen cgroup), its machine paused or too busy for it, or a callback slept.
        Timers count on from there by themselves; the callback is for deadlines that are kept elsewhere.
        """
        self._pause_callbacks.append(callback)

    def off_pause(self, callback: Callable[[float], object]) -> None:
        """Take back an `on_pause`."""
        self._pause_callbacks.remove(callback)

    def add_signal_handler(
        self, signum: int, callback: Callback, urgent: Callable[[], None] | None = None, *, yields: bool = False
    ) -> None:
        """Run `callback()` on the loop when the process gets the signal. Main thread only (`ValueError` elsewhere).

        A handler that the application has set is called after it, on the loop, too; see `hold_signals`.

        Args:
            signum: the signal's number.
            callback: is called in the loop's turn.
            urgent: run at once, in the middle of whatever the thread is doing; what it raises is raised there. For what
                can't wait for a callback that doesn't return.
            yields: an application's handler is called instead of `callback`.
        """
        self._signals.add(signum, callback, urgent, yields)

    def listen_to_signal(self, signum: int, listener: Callback | None) -> bool:
        """Run `listener()` on the loop when the process gets the signal, after what else is to; None: no longer.

        For the application: a signal has one listener, and a server's own handler of it stays. Whether there was one
        before. Main thread only (`ValueError` elsewhere).
        """
        return self._signals.listen(signum, listener)

    def hold_signals(self) -> None:
        """Take back the signals that the application has set a handler of (signal(2)) since `add_signal_handler`.

        Its handler is called after the server's own, unless the latter yields to it. To be called about once a second.
        """
        self._signals.hold()

    # running

    def run(self) -> None:
        """Turn until `stop`. Raises `LoopError` when the epoll descriptor was closed under the loop."""
        try:
            while not self.stopping:
                self.poll_once()
        finally:
            self.stopped()

    def stop(self) -> None:
        """Let `run` return after the present turn; one that hasn't begun returns at once."""
        self.stopping = True
        if self.on_work is not None and not self._turning:
            self.on_work()

    def stopped(self) -> None:
        """Take back a `stop`: whoever runs the loop has ended."""
        if self._ended is not None:
            self._ended(sys.exc_info()[1])
        self.stopping = False

    def fileno(self) -> int:
        """The epoll descriptor. It is pollable itself: readable when events wait. `timeout` reports all else."""
        return self._epoll.fileno()

    @property
    def ready(self) -> bool:
        """Whether `call_soon` has work for a turn."""
        return bool(self._ready)

    def timeout(self) -> float | None:
        """Seconds until a timer or a tick is due, 0 when work waits already, None when nothing is planned."""
        if self._ready:
            return 0.0
        return None if self.wake_at == _NEVER else max(0.0, self.wake_at - self._clock())

    def poll_once(self, timeout: float | None = None) -> None:
        """One turn: wait for events at most `timeout` seconds (None: until something is due), then run all of it.

        Raises:
            LoopError: When the epoll descriptor is gone.
        """
        due = self.timeout()
        if timeout is None or (due is not None and due < timeout):
            timeout = due
        events = self._poll(timeout)
        self._turn_before = self.now
        self.now = self._clock()
        self._turning = True
        try:
            if self.now >= self.wake_at:
                self._catch_up(events)
            elif events:
                if self.on_busy is not None:
                    self.on_busy()
                self._dispatch(events)
            if self._ready:
                self._run_ready()
            if self.now >= self.wake_at:
                self._run_timers()
        finally:
            self._turning = False

    @property
    def closed(self) -> bool:
        """Whether it is closed, or abandoned."""
        return self._closed

    def on_abandon(self, callback: Callable[[Any], object]) -> None:
        """Run `callback(ended)` when a forked child abandons the loop: for what else would go on there."""
        self._abandon_callbacks.append(callback)

    def abandon(self, ended: Any) -> bool:
        """Be of no use any more, in a forked child of the process that the loop is of. False: it was closed before.

        The epoll set, the descriptors in it and what was to run are the parent's: the child lets go of its copies of
        the former without a trace (closing a copy of a descriptor takes none out of an epoll set, epoll(7)), and
        forgets the latter. A number that belonged to the parent's server is /dev/null, so that its late users in the
        child harm nobody, and no file that the child opens has it.

        Args:
            ended: is called in place of the next callback or turn.
        """
        if self._closed:
            return False
        self._closed = True
        with contextlib.suppress(OSError):
            self._epoll.close()
        let_go(*self.registered(), *self._late, self._wakeup)
        self._epoll = self._ended = ended
        self._callbacks[:] = [ended] * len(self._callbacks)
        self._ready.clear()
        self._ready.append((ended, ()))
        for forgotten in (self._timers, self._tick_callbacks, self._pause_callbacks, self._from_threads, self._late):
            forgotten.clear()
        self._wakeup_lock = threading.RLock()  # a thread that isn't here may hold the other
        self.on_work = self.on_busy = None
        callbacks, self._abandon_callbacks = self._abandon_callbacks, []
        for callback in callbacks:
            callback(ended)
        return True

    def close(self) -> None:
        """Give back the loop's own descriptors and signal handlers. The registered ones stay their owners'."""
        if self._closed:
            return
        with self._wakeup_lock:
            self._closed = True
            os.close(self._wakeup)
        self._signals.close()
        with contextlib.suppress(OSError):
            self._epoll.close()  # EBADF: someone else did
        self._callbacks = []
        self._ready.clear()
        self._from_threads.clear()
        self._timers.clear()
        self._tick_callbacks.clear()
        self._pause_callbacks.clear()
        self._abandon_callbacks.clear()

    def _poll(self, timeout: float | None) -> list[tuple[int, int]]:
        try:
            # A signal handler's EINTR is retried inside (PEP 475); the wake-up fd then ends the wait.
            return self._epoll.poll(timeout, MAX_EVENTS)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EBADF, errno.EINVAL):
                raise  # a foreign signal handler's own
            raise LoopError(errno.EBADF, "the loop's epoll descriptor was closed: the loop can't go on") from error
        except MemoryError:
            return []  # an edge lost here costs its connection the rest of its deadline, not the loop

    def _catch_up(self, events: list[tuple[int, int]]) -> None:
        """Take all that is ready, so that what is due is checked by it.

        `events` may lack some of it: a batch is full at `MAX_EVENTS`, and a wait that a stop interrupts (signal(7))
        gives none at all once its time has passed, since Python doesn't look again. An edge is reported once, so all
        that was ready when this began comes within the rounds that the number of descriptors asks for, whatever is
        added.
        """
        late = self.now - self.wake_at
        if late > LATE:
            self._discount(late)
        for _ in range(len(self._callbacks) // MAX_EVENTS + 2):
            if events:
                if self.on_busy is not None:
                    self.on_busy()
                self._dispatch(events)
                if len(events) < MAX_EVENTS:
                    return
            events = self._poll(0)
            if not events:
                return

    def _discount(self, late: float) -> None:
        """A turn comes `late` seconds after something was due: move all that is planned by the time lost.

        What the thread computed since then isn't lost: a loop that is busy must not stretch its own deadlines. Up to
        when something was due it may have waited, so that much of what it computed may have been before.
        """
        computed = self._cpu() - self._computed - (self.wake_at - self._timed_at)
        lost = late - max(0.0, computed)
        if lost <= LATE:
            return
        for timer in self._timers:
            if timer.since <= self._turn_before:  # else it was asked for after what held the turn before
                timer.when += lost
        heapq.heapify(self._timers)
        self._next_tick += lost
        self._paused += lost
        self._plan_wake()
        if lost >= TICK and self._has_dispatched:  # before, the application may have been long to start
            log.warning("the loop was kept from running for %.1f s: no deadline counts them", lost)
        for callback in list(self._pause_callbacks):
            _run(callback, lost)

    def _dispatch(self, events: list[tuple[int, int]]) -> None:
        callbacks = self._callbacks
        remaining = iter(events)
        self._dispatching = True
        try:
            while True:
                try:
                    for fd, event in remaining:
                        callback = callbacks[fd]
                        if callback is not None:
                            callback(event)
                    break
                except Exception:
                    _log_failure("a callback for descriptor %d failed", fd)
        finally:
            self._dispatching = False
            self._has_dispatched = True
            if self._freed:
                self._freed.clear()
                for fd, late in self._late.items():
                    callbacks[fd] = late
                self._late.clear()

    def _run_ready(self) -> None:
        ready, clock = self._ready, self._clock
        end = clock() + READY_TIME
        for _ in range(len(ready)):
            callback, args = ready.popleft()
            _run(callback, *args)
            if clock() > end:
                break

    def _run_timers(self) -> None:
        due = []
        while self._timers and self._timers[0].when <= self.now:
            due.append(heapq.heappop(self._timers))
        # Taken out first: a timer that asks for another without delay must not keep the turn from ending.
        for timer in due:
            if timer.callback is not None:
                _run(timer.callback, *timer.args)
        if self._tick_callbacks and self.now >= self._next_tick:
            self.lag = self.now - self._next_tick + self._paused
            self._paused = 0.0
            self._next_tick = self.now + TICK
            for callback in list(self._tick_callbacks):
                if callback in self._tick_callbacks:
                    _run(callback)
        self._timed_at, self._computed = self.now, self._cpu()
        self._plan_wake()

    def _plan_wake(self) -> None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        wake = self._timers[0].when if self._timers else _NEVER
        self.wake_at = min(wake, self._next_tick) if self._tick_callbacks else wake
        if self.on_work is not None and not self._turning:
            self.on_work()

    def _on_wakeup(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakeup)
        # Before the queue is emptied: a thread that appends after this line writes again, so what is here now is
        # enough, and threads that never stop asking don't hold the turn.
        self._wakeup_sent = False
        for _ in range(len(self._from_threads)):
            self._ready.append(self._from_threads.popleft())


_NEVER = float("inf")


class _Signals:
    """Signals as loop events.

    C would unblock signals only inside `epoll_pwait`, so that none can slip in between the look at a flag and the
    wait. Python has no `epoll_pwait`: `signal.set_wakeup_fd` closes the same race, since a signal that comes before
    the wait has already made a registered descriptor readable. The byte only ends the wait; it is the interpreter's
    handler, run then, that asks for the callback. So it also works where another event loop drives this one and has
    the wake-up descriptor for itself.

    A forked child shares that descriptor, so it is closed there, and the signals do what they do by default: what the
    child gets would be reported to the parent's loop, and `terminate()` of a worker process would end the server
    instead.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._previous_wakeup_fd = -1
        self._previous: dict[int, Any] = {}
        self._kept: dict[int, _Signal] = {}

    def fileno(self) -> int:
        return -1 if self._reader is None else self._reader.fileno()

    def add(self, signum: int, callback: Callback, urgent: Callable[[], None] | None, yields: bool) -> None:
        kept = self._keep(signum)
        kept.callback, kept.urgent, kept.yields = callback, urgent, yields

    def listen(self, signum: int, listener: Callback | None) -> bool:
        if listener is not None:
            kept = self._keep(signum)
        elif signum not in self._kept:
            return False
        else:
            kept = self._kept[signum]
        before, kept.listener = kept.listener, listener
        if kept.callback is None and listener is None:
            self._release(signum)
        return before is not None

    def hold(self) -> None:
        for signum, kept in list(self._kept.items()):
            present = signal.getsignal(signum)
            if present == kept.handle:
                continue
            if kept.callback is None or kept.yields:
                del self._kept[signum]  # it is the application's alone
                continue
            kept.follow(present)
            signal.signal(signum, kept.handle)
            name = signal.Signals(signum).name
            log.warning("%s stays the server's: the application's handler is called after it", name)
        if self._writer is not None and self._kept and self._loop.on_work is None:
            # An event loop that the application has run meanwhile may have taken it. One that drives this one has it.
            signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        if self._reader is None or self._writer is None or self._writer.fileno() < 0:
            return
        for signum in list(self._kept):
            self._release(signum)
        present = signal.set_wakeup_fd(-1)
        before = self._previous_wakeup_fd if present == self._writer.fileno() else present
        # ValueError, OSError: whoever owned the one before is gone.
        with contextlib.suppress(ValueError, OSError):
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        self._reader.close()
        self._writer.close()

    def forget(self) -> None:
        """Be without handlers, in a forked child. Of those from before only the application's are put back."""
        for signum, kept in self._kept.items():
            default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
            self._previous[signum] = kept.follower or default
        self._previous_wakeup_fd = -1
        self.close()

    def _keep(self, signum: int) -> _Signal:
        """Have the signal handled here."""
        if self._reader is None:
            self._open()
        kept = self._kept.get(signum) or _Signal(self._loop, signum)
        # Without SA_RESTART, as Python does it: a lock that the thread waits for would be waited on, and no handler run
        # (signal(7), siginterrupt(3)). What a signal interrupts Python itself takes up again (PEP 475).
        previous = signal.signal(signum, kept.handle)
        if previous != kept.handle:
            kept.follow(previous)
            self._previous.setdefault(signum, previous)
        self._kept[signum] = kept
        return kept

    def _release(self, signum: int) -> None:
        """Put back the handler from before, if nobody has set another meanwhile."""
        kept, previous = self._kept.pop(signum), self._previous.pop(signum, None)
        if signal.getsignal(signum) == kept.handle:
            # None: it was installed from C, and can't be put back by Python.
            signal.signal(signum, signal.SIG_DFL if previous is None else previous)

    def _open(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        try:
            self._previous_wakeup_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        except ValueError:
            reader.close()
            writer.close()
            raise
        self._reader, self._writer = reader, writer
        _signals.add(self)
        self._loop.register(reader.fileno(), self._on_readable, IN)

    def _on_readable(self, events: int) -> None:
        """The byte has done its work by ending the wait: the handlers have run before this does."""
        assert self._reader is not None
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass


class _Signal:
    """One signal, and who is to know of it: the server first, then the application.

    Attributes:
        callback, urgent, yields: the server's; see `Loop.add_signal_handler`.
        follower: what the application has set by `signal.signal`.
        listener: what it has asked an event loop for.
    """

    def __init__(self, loop: Loop, signum: int) -> None:
        self._loop = loop
        self._signum = signum
        self.callback: Callback | None = None
        self.urgent: Callable[[], None] | None = None
        self.yields = False
        self.follower: Callable[[int, Any], object] | None = None
        self.listener: Callback | None = None

    def follow(self, handler: Any) -> None:
        """Call a handler after the server's, if it is the application's."""
        self.follower = handler if _is_of_application(handler) else None

    def handle(self, signum: int, frame: object) -> None:
        """What the interpreter runs in the main thread between two of its instructions."""
        try:
            if self.urgent is not None:
                self.urgent()
        finally:  # what it raises may be caught by whoever is interrupted
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        if self.callback is not None and not (self.yields and (self.follower or self.listener)):
            _run(self.callback)
        if self.follower is not None:
            _contain(self.follower, self._signum, None)
        if self.listener is not None:
            _contain(self.listener)


def _is_of_application(handler: Any) -> bool:
    """Whether a handler is the application's: none of Python's own, gunicorn's or hypoll's."""
    if not callable(handler) or handler is signal.default_int_handler:
        return False
    owner = getattr(handler, "__self__", None)
    modules = (
        [getattr(handler, "__module__", None)] if owner is None else [kind.__module__ for kind in type(owner).__mro__]
    )
    return not any(str(module).partition(".")[0] in ("hypoll", "gunicorn") for module in modules)


def _contain(handler: Callback, *args: Any) -> None:
    """Call an application's handler of a signal. Whatever it raises, the server ends by its own rules."""
    try:
        handler(*args)
    except BaseException:
        log.exception("the application's handler of a signal failed")


def _run(callback: Callback, *args: Any) -> None:
    try:
        callback(*args)
    except Exception:
        _log_failure("the callback %r failed", callback)


def _log_failure(message: str, subject: object) -> None:
    # There may be no memory to say so, which must not end the loop.
    with contextlib.suppress(MemoryError):
        log.exception(message, subject)


def _explained(error: OSError | ValueError, fd: int) -> LoopError:
    # Python's own ValueError: a negative descriptor, as closed sockets have, or a closed epoll object.
    number = (error.errno or 0) if isinstance(error, OSError) else errno.EBADF
    return LoopError(number, f"epoll refused descriptor {fd}: {_MEANINGS.get(number, os.strerror(number))}")
