"""The pool of threads: who wakes whom, what is refused, and how what was done comes back to the loop."""

from __future__ import annotations

import contextvars
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from hypoll.concurrency.jobs import Call, Lease, NoThreadError
from hypoll.concurrency.thread_pool import EVENTFDS, LOOK_TIME, QUICK, ThreadPool, _Sleeper, default_size
from hypoll.loop import Loop
from tests.support.clock import PATIENCE, Clock
from tests.support.leftovers import open_descriptors, settled_descriptors


class Pool:
    """A pool, and the loop it is of, turned by the test."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.loop = Loop(clock)
        self.gate = threading.Event()
        self.pools: list[ThreadPool] = []
        self.idled = 0

    def make(self, size: int, queue: int = 0) -> ThreadPool:
        self.pools.append(ThreadPool(self.loop, size, queue, self._on_idle))
        return self.pools[-1]

    def _on_idle(self) -> None:
        self.idled += 1

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "it didn't happen"
            self.loop.poll_once(0.02)

    def block(self, pool: ThreadPool, count: int = 1) -> list[Call]:
        """Jobs that hold a thread each until the gate opens."""
        entered = threading.Semaphore(0)

        def wait() -> bool:
            entered.release()
            return self.gate.wait(PATIENCE)

        calls = [pool.call(wait, _nothing) for _ in range(count)]
        self.loop.poll_once(0)
        for _ in range(min(count, pool.size)):
            self.until(partial(entered.acquire, blocking=False))
        return calls

    def close(self) -> None:
        self.gate.set()
        for pool in self.pools:
            pool.close()
        self.loop.close()


def _nothing(call: Call) -> None:
    pass


@pytest.fixture
def it() -> Iterator[Pool]:
    it = Pool()
    yield it
    it.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quick(clock: Clock) -> Iterator[tuple[Pool, ThreadPool]]:
    """A pool of four threads whose calls have taken no time so far."""
    it = Pool(clock)
    pool = it.make(4, queue=100)
    pool.call(lambda: None, _nothing)
    it.until(lambda: pool.unfinished == 0 and pool._sleepers)  # before it sleeps another would be started
    yield it, pool
    it.close()


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("hypoll-")}


def test_a_call_comes_back_on_the_loops_thread(it):
    pool = it.make(1)
    seen: list[tuple[object, threading.Thread]] = []
    pool.call(threading.current_thread, lambda call: seen.append((call.result, threading.current_thread())))
    it.until(lambda: seen)
    ((worker, finisher),) = seen
    assert finisher is threading.current_thread()
    assert worker is not finisher
    assert worker.daemon  # type: ignore[attr-defined]
    assert pool.unfinished == 0
    assert it.idled == 1


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ValueError, ValueError),
        (SystemExit, SystemExit),
        (GeneratorExit, GeneratorExit),
        (KeyboardInterrupt, RuntimeError),  # on the loop's thread it would end the process
    ],
)
def test_whatever_a_call_raises_is_told_and_its_thread_goes_on(it, raised, told):
    pool = it.make(1)
    errors: list[BaseException | None] = []

    def fail() -> None:
        raise raised

    pool.call(fail, lambda call: errors.append(call.error))
    pool.call(lambda: None, lambda call: errors.append(call.error))
    it.until(lambda: len(errors) == 2)
    assert type(errors[0]) is told
    assert told is raised or isinstance(errors[0].__cause__, raised)  # type: ignore[union-attr]
    assert errors[1] is None


def test_a_failed_call_leaves_nothing_to_the_collector(it):
    pool = it.make(1)
    gone: list[weakref.ref[Call]] = []

    def fail() -> None:
        raise ValueError

    gc.disable()
    try:
        gone.append(weakref.ref(pool.call(fail, _nothing)))
        it.until(lambda: pool.unfinished == 0)
        it.until(lambda: gone[0]() is None)
    finally:
        gc.enable()


def test_a_finish_that_fails_is_logged_and_the_others_come(it, caplog):
    pool = it.make(1)
    done: list[int] = []

    def fail(call: Call) -> None:
        raise ValueError

    pool.call(lambda: 1, fail)
    pool.call(lambda: 2, lambda call: done.append(call.result))
    it.until(lambda: done)
    assert "taking up what a thread did failed" in caplog.text
    assert pool.unfinished == 0


def test_threads_are_started_when_they_are_needed_and_not_more_than_its_size(it):
    before = names()
    pool = it.make(3, queue=10)
    assert names() == before
    for _ in range(5):  # calls that follow each other need one
        done: list[int] = []
        pool.call(lambda: 1, lambda call: done.append(1))  # noqa: B023
        it.until(lambda: done and pool._sleepers)  # noqa: B023
    assert pool._started == 1
    it.block(pool, 8)
    assert pool._started == 3
    assert pool.waiting == 5
    it.gate.set()
    it.until(lambda: pool.unfinished == 0)
    assert pool._started == 3


def test_calls_of_one_turn_that_block_soon_have_all_threads(it):
    """Each that takes a job wakes the next: they meet at a barrier that needs all of them, twice."""
    pool = it.make(8, queue=100)
    for _ in range(2):
        barrier = threading.Barrier(8)
        for _ in range(8):
            pool.call(lambda: barrier.wait(PATIENCE), _nothing)  # noqa: B023
        it.until(lambda: pool.unfinished == 0)
        assert not barrier.broken


def test_calls_that_were_quick_are_done_by_one_thread(quick):
    it, pool = quick
    threads: set[object] = set()
    for _ in range(3):
        for _ in range(20):
            pool.call(threading.current_thread, lambda call: threads.add(call.result))
        it.until(lambda: pool.unfinished == 0 and pool._sleepers)
    assert len(threads) == pool._started == 1


def test_calls_that_took_their_time_have_all_threads_again(quick, clock):
    it, pool = quick
    pool.call(lambda: clock.advance(2 * QUICK), _nothing)
    it.until(lambda: pool.unfinished == 0)
    barrier = threading.Barrier(4)
    for _ in range(4):
        pool.call(lambda: barrier.wait(PATIENCE), _nothing)
    it.until(lambda: pool.unfinished == 0)
    assert not barrier.broken


def test_one_that_blocks_among_quick_calls_holds_up_none_for_long(quick, clock):
    it, pool = quick
    entered = threading.Event()
    done: list[int] = []

    def block() -> None:
        entered.set()
        assert it.gate.wait(PATIENCE)

    for number in range(6):
        pool.call(block if number == 2 else lambda: None, lambda call, number=number: done.append(number))
    it.loop.poll_once(0)
    assert entered.wait(PATIENCE)
    clock.advance(LOOK_TIME)
    it.until(lambda: len(done) == 5)
    assert sorted(done) == [0, 1, 3, 4, 5]  # each by whichever thread was the first
    assert pool.unfinished == 1


def test_what_is_done_before_the_last_one_that_blocks_comes_back(quick, clock):
    it, pool = quick
    entered = threading.Event()
    done: list[int] = []

    def block() -> None:
        entered.set()
        assert it.gate.wait(PATIENCE)

    pool.call(lambda: None, lambda call: done.append(1))
    pool.call(block, lambda call: done.append(2))
    it.loop.poll_once(0)
    assert entered.wait(PATIENCE)
    clock.advance(LOOK_TIME)
    it.until(lambda: done)
    assert done == [1]


def test_a_single_quick_call_plans_nothing(quick):
    it, pool = quick
    pool.call(lambda: None, _nothing)
    it.loop.poll_once(0)
    assert it.loop.timeout() is None
    it.until(lambda: pool.unfinished == 0)


def test_the_queue_has_room_for_as_many_as_it_says(it):
    pool = it.make(2, queue=3)
    it.block(pool, 2)
    assert not pool.full
    for _ in range(3):
        assert not pool.full
        pool.call(lambda: None, _nothing)
    assert pool.full
    assert pool.waiting == 3
    it.gate.set()
    it.until(lambda: pool.unfinished == 0)
    assert not pool.full


def test_without_a_queue_each_thread_takes_one(it):
    pool = it.make(2, queue=0)
    assert not pool.full
    pool.call(it.gate.wait, _nothing)
    assert not pool.full  # before any thread has begun
    pool.call(it.gate.wait, _nothing)
    assert pool.full


def test_what_is_withdrawn_is_not_done(it):
    pool = it.make(1, queue=10)
    (held,) = it.block(pool)
    ran: list[int] = []
    first = pool.call(lambda: ran.append(1), lambda call: ran.append(-1))
    pool.call(lambda: ran.append(2), _nothing)
    assert pool.withdraw(first)
    assert not pool.withdraw(first)
    assert not pool.withdraw(held), "a thread has it"
    assert pool.unfinished == 2
    it.gate.set()
    it.until(lambda: pool.unfinished == 0)
    assert ran == [2]


def test_withdrawing_the_last_one_is_idle(it):
    pool = it.make(1)
    assert pool.withdraw(pool.call(lambda: None, _nothing))
    assert it.idled == 1
    it.loop.poll_once(0)
    assert pool._started == 0


def test_what_is_done_meanwhile_comes_by_one_wake(it, monkeypatch):
    pool = it.make(4, queue=100)
    writes: list[int] = []
    write = os.eventfd_write

    def counted(fd: int, value: int) -> None:
        writes.append(fd)
        write(fd, value)

    finished: list[int] = []
    waits: list[float] = []
    pool.on_wait = waits.append
    monkeypatch.setattr(os, "eventfd_write", counted)
    for number in range(100):
        pool.call(lambda: None, lambda call, number=number: finished.append(number))
    it.loop.poll_once(0)
    end = time.monotonic() + PATIENCE
    while len(pool._finished) < 100 and time.monotonic() < end:
        time.sleep(0.001)  # the loop is held, as by a handler
    assert len(writes) == 1
    # The wake-up, and the call it brings.
    it.loop.poll_once(0)
    assert len(finished) == 100
    assert len(waits) == 100
    assert min(waits) >= 0


def test_closing_lets_idle_threads_end_and_waits_for_none(it):
    pool = it.make(2, queue=5)
    threads = set(threading.enumerate())
    it.block(pool)
    done: list[int] = []
    pool.call(lambda: None, lambda call: done.append(1))
    it.until(lambda: done)
    stuck, idle = (thread for thread in threading.enumerate() if thread not in threads)
    dropped: list[int] = []
    pool.call(lambda: dropped.append(1), _nothing)
    before = time.monotonic()
    pool.close()
    assert time.monotonic() - before < PATIENCE / 2, "the stuck one would be waited for so long"
    idle.join(PATIENCE)
    assert not idle.is_alive()
    assert stuck.is_alive()
    it.gate.set()
    stuck.join(PATIENCE)
    assert not stuck.is_alive()
    assert not dropped


def test_a_thread_that_comes_back_after_the_loops_end_is_no_failure(it):
    pool = it.make(1)
    it.block(pool)
    pool.close()
    it.loop.close()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("hypoll-")]
    it.gate.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_threads_leave_no_descriptor_behind(it):
    before = settled_descriptors()
    for _ in range(3):
        pool = it.make(4, queue=10)
        it.block(pool, 4)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("hypoll-")]
        assert len(open_descriptors()) > len(before)
        it.gate.set()
        pool.close()
        for thread in threads:
            thread.join(PATIENCE)
        it.gate.clear()
    assert open_descriptors() == before


def test_a_forked_child_wakes_no_thread_of_its_parent(it):
    pool = it.make(2, queue=10)
    calls = it.block(pool, 2)
    it.gate.set()
    it.until(lambda: len(pool._sleepers) == 2)
    child = os.fork()
    if not child:
        pool.close()
        os._exit(len(pool._sleepers))
    assert os.waitpid(child, 0)[1] == 0
    assert len(pool._sleepers) == len(set(pool._sleepers)) == 2
    assert all(call.result for call in calls)


def test_a_thread_without_a_descriptor_does_its_work_all_the_same(it, monkeypatch, caplog):
    def none_left(*arguments: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "eventfd", none_left)
    pool = it.make(2, queue=10)
    done: list[int] = []
    for number in range(20):
        pool.call(lambda number=number: number, lambda call: done.append(call.result))
        it.until(lambda number=number: len(done) == number + 1)
    assert done == list(range(20))
    assert not caplog.records


def test_few_threads_have_a_descriptor(it):
    before = len(settled_descriptors())
    it.block(it.make(EVENTFDS + 8), EVENTFDS + 8)
    assert len(open_descriptors()) == before + EVENTFDS


def test_a_job_is_unfinished_until_it_was_taken_up(it):
    pool = it.make(1, queue=10)
    left: list[int] = []
    it.block(pool)
    for _ in range(3):
        pool.call(lambda: None, lambda call: left.append(pool.unfinished))
    it.loop.poll_once(0)
    it.gate.set()
    it.until(lambda: len(left) == 3)
    assert left == [3, 2, 1]


def test_a_thread_that_cannot_be_started_leaves_it_to_the_others(it, monkeypatch, caplog):
    pool = it.make(4, queue=10)
    it.block(pool)
    monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start")))
    done: list[int] = []
    pool.call(lambda: None, lambda call: done.append(1))
    it.loop.poll_once(0)
    assert "can't start another thread" in caplog.text
    it.gate.set()
    it.until(lambda: done)
    assert pool._started == 1


def test_without_any_thread_jobs_are_rejected_and_the_next_are_tried_again(it, monkeypatch, caplog):
    pool = it.make(4, queue=10)
    told: list[BaseException | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start")))
        for _ in range(3):
            pool.call(lambda: None, lambda call: told.append(call.error))
        it.loop.poll_once(0)
        assert "going on with 0" in caplog.text
        assert [type(error) for error in told] == [NoThreadError] * 3
        assert pool.unfinished == 0
    pool.call(lambda: None, lambda call: told.append(call.error))
    it.until(lambda: len(told) == 4)
    assert told[3] is None


def test_a_lease_that_got_no_thread_rejects_what_is_asked_of_it_later_too(it, monkeypatch):
    pool = it.make(1, queue=10)
    told: list[BaseException | None] = []
    context = contextvars.copy_context()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start")))
        lease = Lease(pool)
        lease.call(lambda: None, lambda call: told.append(call.error), context)
        it.until(lambda: len(told) == 1)
    lease.call(lambda: None, lambda call: told.append(call.error), context)
    it.until(lambda: len(told) == 2)
    assert [type(error) for error in told] == [NoThreadError] * 2


def test_one_who_falls_asleep_while_another_looks_in_vain_is_woken(it):
    """The job that came in that moment was left to the one who looked, who goes off to a long job of its own."""
    pool = it.make(2, queue=10)
    it.block(pool, 2)
    bed = _Sleeper()
    start = pool._start

    def start_in_vain() -> bool:
        assert not start()
        if not pool._sleepers:
            pool._sleepers.append(bed)  # as `_work` does at that moment, having found no job
        return False

    pool._start = start_in_vain
    pool.call(lambda: None, _nothing)
    it.loop.poll_once(0)
    assert bed._lock.acquire(blocking=False), "nobody woke it"


@pytest.mark.parametrize("size", [1, 2, 8])
def test_no_wake_up_is_lost(it, size):
    """10,000 jobs of as many turns, some with a pause long enough for threads to fall asleep."""
    pool = it.make(size, queue=100)
    finished: list[int] = []

    def one(number: int) -> None:
        pool.call(lambda: number, lambda call: finished.append(call.result))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(10_000 // 3):
            one(number)
            it.loop.poll_once(0)
            if number % 50 == 0:
                it.until(lambda number=number: len(finished) == number + 1)
        it.until(lambda: pool.unfinished == 0)
    finally:
        sys.setswitchinterval(before)
    assert sorted(finished) == list(range(10_000 // 3))
    assert pool._started <= size


def test_the_default_size_is_the_processors_and_four():
    assert default_size() == min(32, len(os.sched_getaffinity(0)) + 4)


@pytest.mark.parametrize("late", [True, False])
def test_a_job_that_is_soon_left_is_counted_down_once(it, monkeypatch, late):
    monkeypatch.setattr("hypoll.concurrency.thread_pool.END_GRACE", 0.0 if late else 1000.0)
    pool = it.make(1)
    (call,) = it.block(pool)
    pool.abandon_soon(call)
    pool.abandon_soon(call)
    if late:
        it.until(lambda: pool.unfinished == 0)
        assert it.idled == 1
    it.gate.set()
    ended: list[Call] = []
    pool.call(lambda: None, ended.append)
    it.until(lambda: ended)
    pool.abandon_streams(0.0)
    it.loop.poll_once(0.01)
    assert pool.unfinished == 0


def test_who_has_a_lease_is_told_that_its_call_is_waited_for_no_longer(it, monkeypatch):
    monkeypatch.setattr("hypoll.concurrency.thread_pool.END_GRACE", 0.0)
    pool = it.make(1)
    lease, left = Lease(pool), []
    lease.on_abandoned = lambda: left.append(pool.leases)
    lease.call(lambda: it.gate.wait(PATIENCE), _nothing, contextvars.copy_context())
    it.until(lambda: pool.busy)
    assert pool.leases == 1
    pool.abandon_soon(lease)
    it.until(lambda: left)
    assert left == [0]
    lease.release()
    it.gate.set()
    ended: list[Call] = []
    pool.call(lambda: None, ended.append)
    it.until(lambda: ended)
    assert (pool.unfinished, pool.leases) == (0, 0)
