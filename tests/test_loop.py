"""The loop against the kernel, with a fake clock: no test waits for time to pass."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import os
import re
import select
import signal
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.loop import ERR, HUP, IN, MAX_EVENTS, OUT, RDHUP, READY_TIME, TICK, Loop, LoopError, Timer
from tests.support.clock import PATIENCE
from tests.support.leftovers import open_descriptors, settled_descriptors


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    """Pipes to be closed after the test, by whoever appends them."""
    made: list[tuple[int, int]] = []
    yield made
    for pipe in made:
        for fd in pipe:
            with contextlib.suppress(OSError):
                os.close(fd)


def kernel_events(loop: Loop, fd: int) -> int:
    """The events and flags the kernel holds for a descriptor (proc(5), fdinfo)."""
    text = Path(f"/proc/self/fdinfo/{loop.fileno()}").read_text()
    found = re.search(rf"tfd:\s*{fd} events:\s*([0-9a-f]+)", text)
    assert found is not None, text
    return int(found[1], 16)


class Replaced:
    """Stands for the epoll object: every call raises, or poll plays an idle kernel."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.waits: list[float] = []
        self.clock: Callable[[float], None] = lambda seconds: None

    def _raise(self, *args: Any) -> None:
        if self.error is not None:
            raise self.error

    register = modify = unregister = _raise

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        self._raise()
        self.waits.append(timeout)
        self.clock(timeout)
        return []


def replace_epoll(loop: Loop, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> Replaced:
    fake = Replaced(error)
    monkeypatch.setattr(loop, "_epoll", fake)
    return fake


# readiness


def test_an_edge_is_told_once_until_there_is_more(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN | RDHUP)
    theirs.send(b"a")
    loop.poll_once(0)
    loop.poll_once(0)
    assert told == [IN]
    theirs.send(b"b")
    loop.poll_once(0)
    assert told == [IN, IN]


def test_a_level_is_told_for_as_long_as_it_lasts(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN, edge=False)
    theirs.send(b"a")
    loop.poll_once(0)
    loop.poll_once(0)
    assert told == [IN, IN]
    ours.recv(10)
    loop.poll_once(0)
    assert told == [IN, IN]


def test_the_default_events_tell_of_room_of_input_and_of_the_end(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append)
    loop.poll_once(0)
    theirs.send(b"a")
    loop.poll_once(0)
    theirs.shutdown(socket.SHUT_WR)
    loop.poll_once(0)
    theirs.close()
    loop.poll_once(0)
    assert told == [OUT, IN | OUT, IN | OUT | RDHUP, IN | OUT | RDHUP | HUP]


def test_a_reset_is_an_error_and_a_hang_up_whatever_was_asked(loop, tcp_pair):
    ours, theirs = tcp_pair()
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    loop.poll_once(5)
    assert told[0] & ERR
    assert told[0] & HUP


def test_a_writable_edge_comes_when_the_peer_has_made_room(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, OUT)
    loop.poll_once(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    loop.poll_once(0)
    assert told == [OUT]
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            theirs.recv(1 << 20)
    loop.poll_once(5)
    assert told[-1] == OUT
    assert len(told) >= 2


def test_a_oneshot_is_silent_until_it_is_rearmed(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN, oneshot=True)
    theirs.send(b"a")
    loop.poll_once(0)
    theirs.send(b"b")
    loop.poll_once(0)
    assert told == [IN]
    loop.rearm(ours.fileno(), IN)
    loop.poll_once(0)
    assert told == [IN, IN], "what was ready when it was armed is told"
    loop.poll_once(0)
    theirs.send(b"c")
    loop.poll_once(0)
    assert told == [IN, IN], "it was armed for one event"


def test_rearm_can_give_up_oneshot_and_edges(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN, oneshot=True)
    loop.rearm(ours.fileno(), IN, edge=False, oneshot=False)
    theirs.send(b"a")
    loop.poll_once(0)
    loop.poll_once(0)
    assert told == [IN, IN]


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, IN | select.EPOLLET),
        ({"edge": False}, IN),
        ({"oneshot": True}, IN | select.EPOLLET | select.EPOLLONESHOT),
        ({"exclusive": True}, IN | select.EPOLLET | select.EPOLLEXCLUSIVE),
    ],
)
def test_the_kernel_gets_the_flags_asked_for(loop, pair, options, flags):
    ours, _ = pair
    loop.register(ours.fileno(), print, IN, **options)
    # ERR and HUP are always in the kernel's set.
    assert kernel_events(loop, ours.fileno()) & ~(ERR | HUP) == flags


# descriptors that come and go


def test_a_descriptor_closed_earlier_in_the_batch_is_not_called(loop, caplog):
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def close_both(events):
        for ours, _ in pairs:
            called.append(ours.fileno())
            loop.unregister(ours.fileno())
            ours.close()

    for ours, theirs in pairs:
        loop.register(ours.fileno(), close_both, IN)
        theirs.send(b"a")
    loop.poll_once(0)
    assert len(called) == 2, "one callback, which closed both"
    assert caplog.records == []
    assert loop.registered() == []
    for _, theirs in pairs:
        theirs.close()


@pytest.mark.parametrize("how", ["unregister", "forget"])
def test_the_successor_of_a_number_does_not_get_the_predecessors_event(loop, how, pipes):
    """Two descriptors are ready in one batch; the first callback closes the second and opens another of its number."""
    pairs = [socket.socketpair() for _ in range(2)]
    told: list[tuple[str, int]] = []
    successors: list[socket.socket] = []

    def on_successor(events):
        told.append(("successor", events))

    def replace_other(me: int, events: int) -> None:
        other = pairs[1 - me][0]
        number = other.fileno()
        getattr(loop, how)(number)
        other.close()
        ours, theirs = socket.socketpair()
        if ours.fileno() != number:
            ours, theirs = theirs, ours
        assert ours.fileno() == number
        successors.extend((ours, theirs))
        loop.register(number, on_successor, IN)
        told.append(("replaced", events))

    for index, (ours, theirs) in enumerate(pairs):
        loop.register(ours.fileno(), lambda events, index=index: replace_other(index, events), IN)
        theirs.send(b"a")
    loop.poll_once(0)
    assert told == [("replaced", IN)]
    successors[1].send(b"b")
    loop.poll_once(0)
    assert told[1:] == [("successor", IN)], "and its own event isn't lost"
    for sock in [*successors, *pairs[0], *pairs[1]]:
        sock.close()


def test_a_successor_dropped_in_the_same_batch_stays_dropped(loop, pair):
    ours, theirs = pair
    called: list[int] = []

    def twice(events):
        loop.unregister(ours.fileno())
        loop.register(ours.fileno(), called.append, IN)
        loop.unregister(ours.fileno())

    loop.register(ours.fileno(), twice, IN)
    theirs.send(b"a")
    loop.poll_once(0)
    loop.poll_once(0)
    assert called == []
    assert loop.registered() == []


def test_registering_again_in_its_own_callback_tells_what_is_ready(loop, pair):
    ours, theirs = pair
    told: list[int] = []

    def again(events):
        loop.unregister(ours.fileno())
        loop.register(ours.fileno(), told.append, IN)

    loop.register(ours.fileno(), again, IN)
    theirs.send(b"a")
    loop.poll_once(0)
    assert told == []
    loop.poll_once(0)
    assert told == [IN]


def test_more_descriptors_than_there_was_place_for(loop, pipes):
    told: list[int] = []
    for _ in range(100):
        reader, writer = os.pipe()
        pipes.append((reader, writer))
        loop.register(reader, lambda events, reader=reader: told.append(reader), IN)
        os.write(writer, b"a")
    loop.poll_once(0)
    assert sorted(told) == sorted(reader for reader, _ in pipes)
    assert sorted(loop.registered()) == sorted(told)


def test_a_turn_takes_a_bounded_number_of_events(loop, pipes):
    told: list[int] = []
    for _ in range(MAX_EVENTS + 10):
        reader, writer = os.pipe()
        pipes.append((reader, writer))
        loop.register(reader, told.append, IN)
        os.write(writer, b"a")
    loop.poll_once(0)
    assert len(told) == MAX_EVENTS
    loop.poll_once(0)
    assert len(told) == MAX_EVENTS + 10


def test_unregistered_between_turns_it_is_called_no_more(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN)
    assert loop.registered() == [ours.fileno()]
    theirs.send(b"a")
    loop.poll_once(0)
    loop.unregister(ours.fileno())
    assert loop.registered() == []
    theirs.send(b"b")
    loop.poll_once(0)
    assert told == [IN]


def test_registered_again_between_turns_it_is_told_at_the_next(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN)
    theirs.send(b"a")
    loop.poll_once(0)
    loop.unregister(ours.fileno())
    loop.register(ours.fileno(), told.append, IN)
    loop.poll_once(0)
    assert told == [IN, IN]


def test_forgetting_what_is_not_there_does_nothing(loop):
    own = list(loop._callbacks)
    loop.forget(-1)
    loop.forget(1_000_000)
    assert loop._callbacks == own


# what the kernel refuses


def test_a_closed_descriptor(loop):
    sock = socket.socket()
    number = sock.fileno()
    sock.close()
    calls: list[Callable[[int], None]] = [lambda fd: loop.register(fd, print), loop.rearm, loop.unregister]
    for call in calls:
        with pytest.raises(LoopError, match=f"descriptor {number}: the descriptor is closed") as caught:
            call(number)
        assert caught.value.errno == errno.EBADF


def test_a_closed_socket_object(loop):
    sock = socket.socket()
    sock.close()
    with pytest.raises(LoopError, match="descriptor is closed") as caught:
        loop.register(sock.fileno(), print)
    assert caught.value.errno == errno.EBADF


def test_registering_twice(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN)
    with pytest.raises(LoopError, match="registered already") as caught:
        loop.register(ours.fileno(), print, IN)
    assert caught.value.errno == errno.EEXIST
    theirs.send(b"a")
    loop.poll_once(0)
    assert told == [IN], "the first registration holds"


def test_what_was_not_registered(loop, pair):
    ours, _ = pair
    for call in (loop.unregister, loop.rearm):
        with pytest.raises(LoopError, match="not registered") as caught:
            call(ours.fileno())
        assert caught.value.errno == errno.ENOENT


def test_a_regular_file(loop):
    with tempfile.TemporaryFile() as file, pytest.raises(LoopError, match="regular file") as caught:
        loop.register(file.fileno(), print)
    assert caught.value.errno == errno.EPERM


def test_events_that_do_not_go_together(loop, pair):
    ours, _ = pair
    with pytest.raises(LoopError, match="don't go together") as caught:
        loop.register(ours.fileno(), print, IN | RDHUP, exclusive=True)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(LoopError, match="loop's own descriptor"):
        loop.register(loop.fileno(), print, IN)


@pytest.mark.parametrize(
    ("number", "meaning"),
    [(errno.ENOMEM, "out of memory"), (errno.ENOSPC, "max_user_watches"), (errno.EIO, os.strerror(errno.EIO))],
)
def test_refusals_the_kernel_is_not_made_to_give(loop, pair, monkeypatch, number, meaning):
    ours, _ = pair
    with monkeypatch.context() as patch:
        replace_epoll(loop, patch, OSError(number, "told by the kernel"))
        with pytest.raises(LoopError, match=meaning) as caught:
            loop.register(ours.fileno(), print)
    assert caught.value.errno == number
    assert loop.registered() == []


def test_an_epoll_descriptor_closed_under_the_loop():
    loop = Loop()
    os.close(loop.fileno())
    try:
        with pytest.raises(LoopError, match="closed") as caught:
            loop.run()
        assert caught.value.errno == errno.EBADF
    finally:
        loop.close()


def test_an_error_that_is_not_epolls_is_not_taken_for_one(loop, monkeypatch):
    with monkeypatch.context() as patch:
        replace_epoll(loop, patch, TimeoutError("raised by a signal handler of someone else's"))
        with pytest.raises(TimeoutError):
            loop.poll_once(0)


# call_soon


def test_call_soon_runs_in_order_after_the_events_of_the_turn(loop, pair):
    ours, theirs = pair
    order: list[object] = []
    loop.call_soon(order.append, 1)
    loop.call_soon(order.append, 2)
    loop.register(ours.fileno(), order.append, IN)
    theirs.send(b"a")
    loop.poll_once(0)
    assert order == [IN, 1, 2]


def test_what_call_soon_asks_for_runs_a_turn_later(loop):
    turns: list[int] = []

    def again():
        turns.append(len(turns))
        loop.call_soon(again)

    loop.call_soon(again)
    loop.poll_once()
    assert turns == [0]
    loop.poll_once()
    assert turns == [0, 1]


def test_callbacks_that_take_long_let_events_have_their_turn(loop, clock, pair):
    ours, theirs = pair
    order: list[object] = []

    def slow(name: str) -> None:
        order.append(name)
        clock.advance(READY_TIME * 0.6)
        if name == "b":
            theirs.send(b"a")

    loop.register(ours.fileno(), order.append, IN)
    for name in "abcd":
        loop.call_soon(slow, name)
    loop.poll_once(0)
    assert order == ["a", "b"]
    assert loop.timeout() == 0.0, "the rest waits for no event"
    loop.poll_once()
    assert order == ["a", "b", IN, "c", "d"]


def test_one_that_always_comes_back_does_not_keep_events_out(loop, pair):
    ours, theirs = pair
    told: list[int] = []

    def again():
        loop.call_soon(again)

    loop.call_soon(again)
    loop.register(ours.fileno(), told.append, IN)
    theirs.send(b"a")
    loop.poll_once()
    assert told == [IN]


def test_work_that_waits_makes_the_wait_short(loop):
    assert loop.timeout() is None
    loop.call_soon(print)
    assert loop.timeout() == 0.0


# threads


def test_another_thread_wakes_the_loop(loop):
    woken = threading.Event()

    def ask():
        loop.call_soon_threadsafe(woken.set)

    thread = threading.Timer(0, ask)
    thread.start()
    loop.poll_once(10)
    thread.join()
    assert woken.is_set()


def test_many_calls_cost_one_wake_up(loop, monkeypatch):
    writes: list[int] = []
    write = os.eventfd_write

    def counted(fd: int, value: int) -> None:
        writes.append(value)
        write(fd, value)

    monkeypatch.setattr(os, "eventfd_write", counted)
    ran: list[int] = []

    def ask(first):
        for number in range(first, first + 100):
            loop.call_soon_threadsafe(ran.append, number)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop.poll_once(0)
    assert sorted(ran) == list(range(300))
    assert [number for number in ran if number < 100] == list(range(100)), "each thread's in its order"
    assert writes == [1]
    loop.call_soon_threadsafe(ran.append, 300)
    assert writes == [1, 1], "after the queue was emptied it takes another"
    loop.poll_once(0)
    assert ran[-1] == 300


def test_a_closed_loop_takes_no_calls_and_says_so():
    loop = Loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)


def test_a_wake_up_that_finds_nothing_is_harmless(loop):
    os.eventfd_write(loop._wakeup, 1)
    loop.poll_once(0)
    loop._on_wakeup(IN)
    assert loop.timeout() is None


# timers


def test_timers_run_when_due_in_the_order_of_their_times(loop, clock):
    ran: list[str] = []
    loop.call_later(2, ran.append, "b")
    loop.call_later(1, ran.append, "a")
    loop.call_later(3, ran.append, "c")
    loop.poll_once(0)
    assert ran == []
    assert loop.timeout() == 1
    clock.advance(1)
    assert loop.timeout() == 0
    loop.poll_once(0)
    assert ran == ["a"]
    assert loop.timeout() == 1
    clock.advance(1)
    loop.poll_once(0)
    assert ran == ["a", "b"]


def test_timers_of_one_turn_run_in_the_order_of_their_times(loop, clock):
    ran: list[str] = []
    loop.call_later(1.2, ran.append, "b")
    loop.call_later(1.1, ran.append, "a")
    clock.advance(1.2)
    loop.poll_once(0)
    assert ran == ["a", "b"]


def test_timers_of_one_time_run_in_the_order_asked(loop, clock):
    ran: list[int] = []
    for number in range(20):
        loop.call_later(1, ran.append, number)
    clock.advance(1)
    loop.poll_once(0)
    assert ran == list(range(20))


def test_a_cancelled_timer_neither_runs_nor_wakes(loop, clock):
    ran: list[str] = []
    timer = loop.call_later(1, ran.append, "cancelled")
    timer.cancel()
    timer.cancel()
    loop.call_later(5, ran.append, "later")
    assert loop.timeout() == 5
    clock.advance(5)
    loop.poll_once(0)
    assert ran == ["later"]


def test_a_timer_cancelled_by_another_of_its_turn_does_not_run(loop, clock):
    ran: list[str] = []
    seconds: list[Timer] = []
    loop.call_later(1, lambda: seconds[0].cancel())
    seconds.append(loop.call_later(1.1, ran.append, "second"))
    clock.advance(1.2)
    loop.poll_once(0)
    assert ran == []


def test_cancelling_after_it_ran_does_nothing(loop, clock):
    ran: list[str] = []
    timer = loop.call_later(0, ran.append, "once")
    loop.poll_once(0)
    timer.cancel()
    loop.poll_once(0)
    assert ran == ["once"]
    assert loop.timeout() is None


def test_a_timer_that_asks_for_another_without_delay_does_not_hold_the_turn(loop):
    ran: list[int] = []

    def again():
        ran.append(1)
        loop.call_later(-1, again)

    loop.call_later(0, again)
    loop.poll_once(0)
    assert ran == [1]
    loop.poll_once(0)
    assert ran == [1, 1]


def test_cancelled_timers_are_not_kept_until_their_time(loop):
    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    loop.call_later(3600, print, held).cancel()
    del held
    assert gone() is None
    loop.call_later(1, print)
    ran = loop.call_later(7200, print)
    for _ in range(10_000):
        loop.call_later(3600, print).cancel()
    assert len(loop._timers) < 200
    assert ran in loop._timers


def test_a_call_at_the_end_of_time_never_comes(loop):
    loop.call_later(float("inf"), print)
    assert loop.timeout() is None


def test_now_is_the_time_of_the_turn(loop, clock):
    seen: list[float] = []
    loop.call_later(5, lambda: seen.append(loop.now))
    clock.advance(7)
    assert loop.now == 1000
    loop.poll_once(0)
    assert seen == [1007]


# the tick


def test_a_tick_comes_once_a_second(loop, clock):
    ticks: list[float] = []
    loop.on_tick(lambda: ticks.append(clock.now))
    assert loop.timeout() == TICK
    for _ in range(50):
        clock.advance(0.1)
        loop.poll_once(0)
    assert len(ticks) in (4, 5)
    assert all(b - a >= TICK - 1e-9 for a, b in itertools.pairwise(ticks))


def test_ticks_missed_are_not_made_up_for(loop, clock):
    ticks: list[float] = []
    loop.on_tick(lambda: ticks.append(clock.now))
    clock.advance(60)
    loop.poll_once(0)
    loop.poll_once(0)
    assert len(ticks) == 1


def test_a_tick_taken_back_comes_no_more_and_no_longer_wakes(loop, clock):
    ticks: list[str] = []

    def first():
        ticks.append("first")
        loop.off_tick(second)

    def second():
        ticks.append("second")

    loop.on_tick(first)
    loop.on_tick(second)
    clock.advance(1)
    loop.poll_once(0)
    assert ticks == ["first"], "not even when it is taken back in the same tick"
    loop.off_tick(first)
    assert loop.timeout() is None


def test_an_idle_loop_waits_once_a_second(loop, clock, monkeypatch):
    ticks: list[int] = []
    fake = replace_epoll(loop, monkeypatch)
    fake.clock = clock.advance

    def tick():
        ticks.append(1)
        if len(ticks) == 10:
            loop.stop()

    loop.on_tick(tick)
    loop.run()
    monkeypatch.undo()
    assert fake.waits == pytest.approx([1.0, 0] * 10), "each with a look whether that is all"


def test_a_loop_with_nothing_planned_waits_without_end(loop, monkeypatch):
    with monkeypatch.context() as patch:
        fake = replace_epoll(loop, patch)
        fake.clock = lambda timeout: None
        loop.poll_once()
        loop.poll_once(7)
        loop.call_later(3, print)
        loop.poll_once(7)
        loop.poll_once(2)
    assert fake.waits == [None, 7, 3, 2]


# callbacks that raise


def test_a_callback_that_raises_is_logged_and_the_others_run(loop, clock, caplog):
    pairs = [socket.socketpair() for _ in range(3)]
    called: list[str] = []

    def fail(what: str) -> None:
        called.append(what)
        raise ValueError(what)

    for ours, theirs in pairs:
        loop.register(ours.fileno(), lambda events: fail("event"), IN)
        theirs.send(b"a")
    loop.call_soon(fail, "soon")
    loop.call_soon(fail, "soon")
    loop.call_later(1, fail, "timer")
    loop.call_later(1, fail, "timer")
    loop.on_tick(lambda: fail("tick"))
    loop.on_tick(lambda: fail("tick"))
    clock.advance(1)
    with caplog.at_level(logging.ERROR, "hypoll.error"):
        loop.poll_once(0)
    assert called == ["event"] * 3 + ["soon"] * 2 + ["timer"] * 2 + ["tick"] * 2
    assert len(caplog.records) == 9
    assert all(record.exc_info for record in caplog.records)
    assert loop.timeout() == 1, "and the next tick is planned"
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_an_interrupt_leaves_the_loop_usable(loop, pair):
    """KeyboardInterrupt goes through; afterwards a registration isn't put off to a batch that never ends."""
    ours, theirs = pair
    told: list[int] = []

    def interrupt(events):
        loop.unregister(ours.fileno())
        raise KeyboardInterrupt

    loop.register(ours.fileno(), interrupt, IN)
    theirs.send(b"a")
    with pytest.raises(KeyboardInterrupt):
        loop.poll_once(0)
    loop.register(ours.fileno(), told.append, IN)
    loop.poll_once(0)
    assert told == [IN]


# running


def test_stop_ends_the_run_after_the_turn(loop):
    ran: list[str] = []

    def stop():
        loop.stop()
        loop.call_soon(ran.append, "next turn")

    loop.call_soon(stop)
    loop.call_soon(ran.append, "same turn")
    loop.run()
    assert ran == ["same turn"]
    loop.call_soon(loop.stop)
    loop.run()
    assert ran == ["same turn", "next turn"], "and it can run again"


def test_a_stop_before_the_run_is_not_lost(loop):
    loop.stop()
    loop.run()
    loop.call_soon(loop.stop)
    loop.run()


def test_another_epoll_can_drive_it(loop, pair):
    ours, theirs = pair
    told: list[int] = []
    loop.register(ours.fileno(), told.append, IN)
    with select.epoll() as outer:
        outer.register(loop.fileno(), select.EPOLLIN)
        assert outer.poll(0) == []
        theirs.send(b"a")
        assert outer.poll(5) == [(loop.fileno(), select.EPOLLIN)]
        loop.poll_once(0)
        assert told == [IN]
        assert outer.poll(0) == []
        loop.call_soon_threadsafe(told.append, 0)
        assert outer.poll(5) == [(loop.fileno(), select.EPOLLIN)]
        loop.poll_once(0)
        assert told == [IN, 0]


def test_close_is_done_once_and_gives_everything_back():
    before = settled_descriptors()
    loop = Loop()
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.call_soon(print)
    loop.call_later(1, print)
    loop.on_tick(print)
    loop.close()
    loop.close()
    assert open_descriptors() == before
    with pytest.raises(LoopError):
        loop.poll_once(0)
    with pytest.raises(LoopError):
        loop.register(0, print)
    with pytest.raises(LoopError):
        loop.unregister(0)
    loop.forget(0)


def test_a_closed_loop_holds_nothing_and_needs_no_collector():
    class Held:
        def __call__(self, *args):
            pass

    held = Held()
    gone = weakref.ref(held)
    gc.disable()
    try:
        loop = Loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop.register(ours.fileno(), held)
            loop.call_soon(held)
            loop.call_later(1, held)
            loop.on_tick(held)
            loop.call_soon_threadsafe(held)
            loop.close()
        del held
        assert gone() is None
    finally:
        gc.enable()


# signals


@pytest.fixture
def quiet_signals() -> Iterator[None]:
    """Puts back what a failing test may have left, so that it fails alone."""
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for signum, handler in kept.items():
        signal.signal(signum, handler)
    signal.set_wakeup_fd(-1)


pytestmark = pytest.mark.usefixtures("quiet_signals")


def test_a_signal_before_the_wait_ends_the_wait(loop):
    """The race that epoll_pwait closes in C: the signal comes after the look and before the wait."""
    got: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: got.append("usr1"))
    signal.raise_signal(signal.SIGUSR1)
    assert got == [], "it runs as an event of the loop, not in the middle of something"
    loop.poll_once(10)
    assert got == ["usr1"]


def test_a_signal_during_the_wait_ends_it(loop):
    got: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: got.append("usr1"))
    sender = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    sender.start()
    loop.poll_once(10)
    sender.join()
    assert got == ["usr1"]


def test_each_signal_counts_and_finds_its_own_handler(loop, caplog):
    got: list[str] = []

    def fail():
        got.append("usr2")
        raise ValueError

    loop.add_signal_handler(signal.SIGUSR1, lambda: got.append("old"))
    loop.add_signal_handler(signal.SIGUSR1, lambda: got.append("usr1"))
    loop.add_signal_handler(signal.SIGUSR2, fail)
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        signal.raise_signal(signum)
    loop.poll_once(10)
    assert got == ["usr1", "usr2", "usr1"]
    assert "failed" in caplog.text


def test_a_signal_nobody_asked_for_wakes_the_loop_and_no_more(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    got: list[int] = []
    signal.signal(signal.SIGUSR2, lambda signum, frame: got.append(signum))
    signal.raise_signal(signal.SIGUSR2)
    loop.poll_once(10)
    assert got == [signal.SIGUSR2]


def test_an_interrupted_wait_goes_on(loop, pair):
    """EINTR: a signal that is none of the loop's neither ends the wait with an error nor without its event."""
    ours, theirs = pair
    told: list[int] = []
    handled = threading.Event()
    signal.signal(signal.SIGUSR2, lambda signum, frame: handled.set())
    loop.register(ours.fileno(), told.append, IN)

    def disturb():
        os.kill(os.getpid(), signal.SIGUSR2)
        handled.wait(PATIENCE)
        theirs.send(b"a")

    thread = threading.Timer(0.02, disturb)
    thread.start()
    loop.poll_once(10)
    thread.join()
    assert told == [IN]


def test_close_restores_handlers_and_the_wake_up_descriptor(pair):
    ours, _ = pair

    def before(signum, frame):
        pass

    signal.signal(signal.SIGUSR1, before)
    signal.set_wakeup_fd(ours.fileno())
    loop = Loop()
    loop.add_signal_handler(signal.SIGUSR1, print)
    assert signal.getsignal(signal.SIGUSR1) is not before
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == ours.fileno()


def test_a_handler_that_python_did_not_install_becomes_the_default(loop, monkeypatch):
    other = Loop()
    monkeypatch.setattr(signal, "signal", lambda signum, handler: None)
    other.add_signal_handler(signal.SIGUSR1, print)
    monkeypatch.undo()
    other.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_loops_may_be_closed_in_any_order():
    first, second = Loop(), Loop()
    got: list[str] = []
    first.add_signal_handler(signal.SIGUSR1, print)
    second.add_signal_handler(signal.SIGUSR2, lambda: got.append("usr2"))
    first.close()
    signal.raise_signal(signal.SIGUSR2)
    second.poll_once(5)
    assert got == ["usr2"], "the first hasn't taken the second's wake-up descriptor with it"
    second.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_a_childs_signals_are_its_own(loop):
    """Not the parent's: the two share the wake-up descriptor and the handlers when the child begins."""
    told: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: told.append("loop"), lambda: told.append("urgent"))
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(done, b"x")
        signal.pause()
        os._exit(1)  # it had a handler
    os.read(ready, 1)
    os.kill(child, signal.SIGUSR1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGUSR1
    loop.poll_once(0)
    assert told == []
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.poll_once(5)
    assert told == ["urgent", "loop"], "the parent has its handlers still"
    os.close(ready)
    os.close(done)


def test_signals_are_for_the_main_thread(loop):
    raised: list[BaseException] = []

    def add():
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except ValueError as error:
            raised.append(error)

    before = len(settled_descriptors())
    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    assert len(raised) == 1
    assert len(open_descriptors()) == before


def test_a_wait_that_finds_no_memory_is_not_the_end(loop, clock, monkeypatch):
    ticks: list[int] = []
    loop.on_tick(lambda: ticks.append(1))
    clock.advance(1)
    with monkeypatch.context() as patch:
        replace_epoll(loop, patch, MemoryError())
        loop.poll_once(0)
    assert ticks == [1]
