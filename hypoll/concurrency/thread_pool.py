"""A pool of threads for what would hold the loop. It knows the loop and calls, nothing of HTTP.

Its laws:

- A job begins on the loop's thread (`submit`) and ends there (its `finish`), whatever became of it in between.
- Jobs of one turn are handed over together at its end, and what is done comes back together: a thread that takes a
  job goes on with the next ones without sleeping, and wakes the loop when none is left, or when no other thread is
  there to wake it. So a burst costs one wake-up each way, not one a job.
- Whoever takes a job while others wait wakes one more thread, unless one is waking already: calls that block soon have
  all threads.
- Calls that are shorter than the waking of a thread, as the last ones were, are done by one, without a fight for the
  interpreter's lock; should one of them block, the loop finds that out `LOOK_TIME` later. Measured: a twentieth of what
  a short request costs.
- The first threads sleep reading an eventfd each. Who writes to that lets go of the interpreter's lock, so the thread
  it wakes runs at once; the release of a lock wakes a thread that then waits for the interpreter's. Measured: a
  twentieth of a short call. A thread without a descriptor sleeps on a lock all the same.
- A job runs in its own `contextvars` context, so that nothing of it is left for the next one of its thread.
- A thread that waits for a client, or streams for long, leaves the pool until its job is done, and another takes its
  place: at most `streams` of them. Threads beyond the pool's size end with their job.
- A thread may be stuck for ever: all are daemons, and nothing waits for them at the process's end.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from hypoll.concurrency.forks import keep_out
from hypoll.concurrency.jobs import Call, Job
from hypoll.loop import Loop
from hypoll.settings import Settings

EVENTFDS = 8
"""Threads of a pool that have an eventfd: calls so short that waking is felt are done by few."""

LONG_STREAM = 1.0
"""Seconds after which a job that streams no longer counts against the pool's size."""

QUICK = 50e-6
"""Seconds on average, below which calls are quicker than the waking of another thread."""

LOOK_TIME = 0.001
"""Seconds after which the loop looks whether quick calls are under way still."""

END_GRACE = 1.0
"""Seconds for which a job is waited for when nobody wants more of it, as when its stream was ended by the server."""

NEVER = float("inf")

log = logging.getLogger("hypoll.error")


def default_size() -> int:
    """Threads when nobody says how many: what `concurrent.futures` has, the processors and 4, at most 32."""
    return min(32, len(os.sched_getaffinity(0)) + 4)


class _Sleeper:
    """Where a thread sleeps until it is woken: a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self) -> None:
        """Wait for `wake`, which may have been called before."""
        self._lock.acquire()

    def wake(self) -> None:
        """End the sleep, once."""
        self._lock.release()

    def close(self) -> None:
        """Give back what it has: nobody will be woken here any more."""


class _EventfdSleeper(_Sleeper):
    """The same over an eventfd. Raises `OSError` when there is none to be had."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC)

    def sleep(self) -> None:
        os.read(self._fd, 8)

    def wake(self) -> None:
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        os.close(self._fd)


class ThreadPool:
    """At most `size` threads, started when they are needed, and a queue of at most `queue` jobs before them.

    A pool with a queue of 0 still takes a job for each of its threads.

    Args:
        on_idle: called on the loop's thread whenever no job is left.
        streams: threads that may be outside the pool, see `detach`.
    """

    def __init__(
        self,
        loop: Loop,
        size: int,
        queue: int,
        on_idle: Callable[[], object] = lambda: None,
        *,
        streams: int = Settings.stream_threads,
    ) -> None:
        self.loop = loop
        self.size = size
        self.streams = streams
        self.detached = 0
        """Threads that have left the pool."""
        self.room = self._room = size + queue
        """Jobs there may be before another request is one too many; those outside the pool take no room."""
        self.on_idle = on_idle
        self.unfinished = 0
        """Jobs whose `finish` has not been called, cancelled ones that run included."""
        self.leases = 0
        """Those of them that are leases, which belong to tasks."""
        self.overdue = 0
        """Threads at work for requests that were answered without them."""
        self.on_wait: Callable[[float], object] | None = None
        """Called with the seconds that a job waited for a thread."""
        self._jobs: deque[Job] = deque()
        self._finished: deque[Job] = deque()
        self._sleepers: deque[_Sleeper] = deque()
        """Who takes one out must wake the thread in it, which keeps it until then."""
        self._eventfds = EVENTFDS
        self._started = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._streams: dict[Job, float] = {}
        """Jobs that stream, and when they will have done so for long."""
        self._abandoning: set[Job] = set()
        """Jobs that are soon waited for no longer."""
        self._planned = self._waking = self._collecting = self._looking = False
        self._quick = False
        """Whether the calls that a thread made last were. For threads to write."""
        self._alone = False
        """Whether who takes a job wakes nobody: calls are quick. For the loop to write, who looks after them then."""
        self._closed = False
        _pools.add(self)

    @property
    def waiting(self) -> int:
        """Jobs no thread has taken yet."""
        return len(self._jobs)

    @property
    def busy(self) -> int:
        """Threads at work in the pool."""
        return max(0, min(self.size, self.unfinished - len(self._jobs) - self.detached))

    @property
    def full(self) -> bool:
        """Whether all threads are at work and the queue has no room for another request."""
        return self.unfinished >= self.room

    def submit(self, job: Job) -> None:
        """Have a job done. Never refused: whether there is room for another request is for `full` to say."""
        job.since = self.loop.now
        self.unfinished += 1
        self._jobs.append(job)
        if not self._planned:
            self._planned = True
            # At the turn's end: waking a thread now would have it fight this one for the interpreter at each recv.
            self.loop.call_soon(self._hand_over)

    def call(self, function: Callable[[], Any], done: Callable[[Call], object]) -> Call:
        """Have `function()` called on a thread, and `done(call)` on the loop's thread after it."""
        job = Call(function, done)
        self.submit(job)
        return job

    def withdraw(self, job: Job) -> bool:
        """Take a job out of the queue. False: a thread has it, or has had it."""
        try:
            self._jobs.remove(job)
        except ValueError:
            return False
        self._count_finished()
        return True

    def close_in_child(self) -> None:
        """Be closed, in a forked child: its copies of the eventfds would wake the threads of its parent."""
        self._closed = True
        self._sleepers.clear()
        self._jobs.clear()
        self._finished.clear()
        self._lock = threading.Lock()
        self._started = self.unfinished = self.leases = self.detached = self.overdue = 0
        self.room = self._room
        self._streams.clear()
        self._abandoning.clear()
        self._waking = self._planned = self._collecting = self._looking = False

    def detach(self, job: Job) -> bool:
        """Let the thread at work on `job` no longer count against the pool's size: another may take its place.

        False: `streams` threads are outside already, so this one goes on counting. To be taken back by `attach` as
        often as it was true, or by the job's end.
        """
        with self._lock:
            left = self._detach(job)
        if left:
            self._replace()
        return left

    def _detach(self, job: Job) -> bool:
        if not job.detached:
            if self.detached >= self.streams:
                return False
            self.detached += 1
            self.room += 1
        job.detached += 1
        return True

    def _replace(self) -> None:
        """See that another thread takes the place of one that has left."""
        if self._jobs and not self._wake():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._hand_over)

    def attach(self, job: Job) -> None:
        """Let the thread at work on `job` count again."""
        with self._lock:
            job.detached -= 1
            if not job.detached:
                self.detached -= 1
                self.room -= 1

    def begin_stream(self, job: Job) -> bool:
        """Note that the thread at work on `job` begins to stream. False: so many do that one more is refused."""
        with self._lock:
            if self.detached >= self.streams:
                return False
            self._streams[job] = self.loop.now + LONG_STREAM
            return True

    def end_stream(self, job: Job) -> None:
        """Note that a stream has ended. On its thread, before its job ends."""
        with self._lock:
            self._streams.pop(job, None)

    def abandon_soon(self, job: Job) -> None:
        """Wait for a job that a thread is at for `END_GRACE` at most: it is only to clean up. On the loop's thread."""
        if job not in self._abandoning:
            self._abandoning.add(job)
            self.loop.call_later(END_GRACE, partial(self._abandon, job))

    def abandon_streams(self, seconds: float) -> None:
        """Wait for those that are soon left for `seconds` at most."""
        for job in self._abandoning:
            self.loop.call_later(seconds, partial(self._abandon, job))

    def _abandon(self, job: Job) -> None:
        if job in self._abandoning:
            self._abandoning.discard(job)
            job.abandoned = True
            job.abandon()
            self._count_finished()

    def tick(self, now: float) -> None:
        """Let those leave that have streamed for long: to be called once a second, with the loop's time."""
        left = False
        with self._lock:
            for job, until in list(self._streams.items()):
                if until <= now and self._detach(job):
                    self._streams[job] = NEVER
                    left = True
        if left:
            self._replace()

    def close(self) -> None:
        """Let idle threads end. Those at work end when they are done; nobody waits for them."""
        self._closed = True
        self._jobs.clear()
        while self._wake_sleeper():
            pass

    def _hand_over(self) -> None:
        self._planned = False
        self._alone = self._quick
        if self._alone and self.unfinished > 1 and not self._looking:
            self._looking = True
            self.loop.call_later(LOOK_TIME, self._look)
        self._wake()
        if self._jobs and self._started <= self.detached and not self._sleepers:
            # The system has no thread for them, and none will come by later.
            jobs = list(self._jobs)
            for job in jobs:
                if self.withdraw(job):
                    job.reject()

    def _look(self) -> None:
        """See whether a thread got stuck among quick calls."""
        self._looking = False
        if self._jobs or self._finished:
            self._alone = self._quick = False
            self._collect()
            self._wake()

    def _wake(self) -> bool:
        """See that a thread looks at the queue soon. False: all are at work, and look again when they are done."""
        while self._jobs and not self._waking:
            self._waking = True
            if self._wake_sleeper() or self._start():
                return True
            self._waking = False
            if not self._sleepers:
                return False
            # One fell asleep in between, and who brought a job meanwhile took it to be waking.
        return self._waking

    def _wake_sleeper(self) -> bool:
        try:
            sleeper = self._sleepers.pop()  # the last to sleep: its memory is warm
        except IndexError:
            return False
        sleeper.wake()
        return True

    def _start(self) -> bool:
        with self._lock:
            if self._started - self.detached >= self.size:
                return False
            self._started += 1
        try:
            threading.Thread(target=self._work, name=f"hypoll-{next(self._numbers)}", daemon=True).start()
        except RuntimeError as error:  # the system has no thread left: the others will come to it
            with self._lock:
                self._started -= 1
            log.warning("can't start another thread: %s; going on with %d", error, self._started)
            return False
        return True

    def _work(self) -> None:
        """What a thread does: sleep, and take jobs as long as there are any."""
        sleeper = self._make_sleeper()
        try:
            self._take_jobs(sleeper)
        finally:
            sleeper.close()
            keep_out(sys.exc_info()[1])

    def _make_sleeper(self) -> _Sleeper:
        with self._lock:
            has_eventfd = self._eventfds > 0
            self._eventfds -= 1
        if has_eventfd:
            with contextlib.suppress(OSError):
                return _EventfdSleeper()
        return _Sleeper()

    def _take_jobs(self, sleeper: _Sleeper) -> None:
        jobs, finished, clock = self._jobs, self._finished, self.loop.time
        while not self._closed:
            self._waking = False  # before the look at the queue: what comes after it wakes again
            if finished and not self._collecting:
                self._collect_soon()
            began = clock()
            taken = self._empty_queue()
            if taken is None:
                self._collect_soon()
                return
            if taken:
                self._quick = clock() - began < QUICK * taken
            if finished and not self._collecting:
                self._collect_soon()
            self._sleepers.append(sleeper)
            # A job may have come between the last look and that line, or the end, and found nobody asleep.
            if not (jobs or self._closed) or not self._end_sleep(sleeper):
                sleeper.sleep()

    def _empty_queue(self) -> int | None:
        """Do jobs until none is left; give how many they were. None: another thread has the place of this one."""
        jobs, finished, clock = self._jobs, self._finished, self.loop.time
        take, put = jobs.popleft, finished.append
        taken = 0
        while True:
            try:
                job = take()
            except IndexError:
                return taken
            taken += 1
            # The next call may block, so what is done must not wait for it. But telling the loop now would have it
            # fight this thread for the interpreter: where another thread is coming, that one wakes the loop.
            comes = self._alone or (jobs and (self._waking or self._wake()))
            if not comes and finished and not self._collecting:
                self._collect_soon()
            if self.on_wait is not None:
                job.waited = clock() - job.since
            job.context.run(job.run)
            put(job)
            if job.detached and not self._return(job):
                return None
            del job  # a sleeping thread keeps nothing of a request

    def _return(self, job: Job) -> bool:
        """Come back with a job's end. False: another thread has taken the place of this one, which ends."""
        with self._lock:
            job.detached = 0
            self.detached -= 1
            self.room -= 1
            surplus = self._started - self.detached > self.size
            self._started -= surplus
        if surplus and self._jobs:
            self._wake()
        return not surplus

    def _end_sleep(self, sleeper: _Sleeper) -> bool:
        """Whether this thread has taken itself back from the sleepers. False: someone is waking it."""
        try:
            self._sleepers.remove(sleeper)
        except ValueError:
            return False
        return True

    def _collect_soon(self) -> None:
        self._collecting = True
        # RuntimeError: the loop is closed, and the server has given up on what is left.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        """Finish the jobs that are done; on the loop's thread."""
        self._collecting = False  # before the look at the queue, as above
        finished, on_wait = self._finished, self.on_wait
        for _ in range(len(finished)):
            job = finished.popleft()
            if on_wait is not None:
                on_wait(job.waited)
            try:
                job.finish()
            except Exception:
                log.exception("taking up what a thread did failed")
            if not job.abandoned:
                self.unfinished -= 1
                if self._abandoning:
                    self._abandoning.discard(job)
        if not self.unfinished:
            self.on_idle()

    def _count_finished(self) -> None:
        self.unfinished -= 1
        if not self.unfinished:
            self.on_idle()


_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _in_child() -> None:
    for pool in list(_pools):
        pool.close_in_child()


os.register_at_fork(after_in_child=_in_child)
