"""A request's body between its connection and its handler."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hypoll import HTTPError
from hypoll.http import ClientDisconnect
from hypoll.server.request_body import HIGH_WATER, SMALL, TaskRequestBody, ThreadRequestBody
from tests.support.clock import PATIENCE

KINDS = [ThreadRequestBody, TaskRequestBody]
FULL = bytes(HIGH_WATER)


class Demands:
    """Counts what the handler asked for, and meets it."""

    def __init__(self) -> None:
        self.count = 0
        self.meet: Callable[[], object] = lambda: None

    def __call__(self) -> None:
        self.count += 1
        self.meet()


@pytest.fixture
def demands() -> Demands:
    return Demands()


def take(intake: Any) -> Any:
    """The handler's next piece, in the way of its kind; None: the end."""
    if isinstance(intake, ThreadRequestBody):
        return next(intake, None)
    return asyncio.run(anext_or_none(intake))


async def anext_or_none(intake: TaskRequestBody) -> bytes | None:
    return await anext(intake, None)


def read(intake: Any) -> bytes:
    result: bytes = intake.read() if isinstance(intake, ThreadRequestBody) else asyncio.run(intake.read())
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_come_in_order_then_the_end_again_and_again(kind, demands):
    intake = kind(demands)
    first, second, third = (letter * SMALL for letter in (b"a", b"b", b"c"))
    intake.put([first, second])
    intake.put([third])
    intake.end()
    assert [take(intake) for _ in range(5)] == [first, second, third, None, None]
    assert demands.count == 0


@pytest.mark.parametrize("kind", KINDS)
def test_small_pieces_that_wait_are_joined(kind, demands):
    """However they came: many at once, or one by one."""
    intake = kind(demands)
    intake.put([b"ab"] * (HIGH_WATER // 8))
    for _ in range(HIGH_WATER // 8):
        intake.put([b"cd"])
    assert intake.size == HIGH_WATER // 2
    assert sum(sys.getsizeof(piece) for piece in intake._pieces) < 1.02 * intake.size
    intake.end()
    assert read(intake) == b"ab" * (HIGH_WATER // 8) + b"cd" * (HIGH_WATER // 8)


@pytest.mark.parametrize("kind", KINDS)
def test_read_gives_all_that_is_left(kind, demands):
    intake = kind(demands)
    intake.put([b"a" * SMALL])
    intake.put([b"b", b"c" * SMALL])
    intake.end()
    assert take(intake) == b"a" * SMALL
    assert read(intake) == b"b" + b"c" * SMALL
    assert read(intake) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wanted_before_the_first_read(kind, demands):
    intake = kind(demands)
    assert not intake.wants_more
    intake.put([b"a"])
    assert not intake.wants_more
    take(intake)
    assert intake.wants_more
    intake.end()
    assert not intake.wants_more


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_high_water_mark_nothing_more_is_wanted_until_it_falls(kind, demands):
    intake = kind(demands)
    intake.put([b"a", FULL, b"b"])
    take(intake)
    assert not intake.wants_more
    assert demands.count == 0
    take(intake)
    assert intake.wants_more
    assert demands.count == 1
    take(intake)
    assert demands.count == 1, "asked for again though nothing had stopped it"


@pytest.mark.parametrize("kind", KINDS)
def test_who_finds_nothing_asks_and_gets_what_comes(kind, demands):
    intake = kind(demands)
    seen: list[bool] = []

    def meet() -> None:
        seen.append(intake.waits_for_piece)
        if isinstance(intake, ThreadRequestBody):
            threading.Thread(target=intake.put, args=([b"came"],)).start()
        else:
            asyncio.get_running_loop().call_soon(intake.put, [b"came"])

    demands.meet = meet
    assert take(intake) == b"came"
    assert seen == [True]
    assert not intake.waits_for_piece


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ClientDisconnect("gone"), HTTPError(400, "malformed")])
def test_a_failure_comes_behind_the_pieces_and_each_time(kind, demands, error):
    intake = kind(demands)
    intake.put([b"a"])
    intake.fail(error)
    intake.fail(HTTPError(500))
    assert take(intake) == b"a"
    for _ in range(2):
        with pytest.raises(type(error), match=error.args[-1]):
            take(intake)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_behind_the_end_is_none(kind, demands):
    intake = kind(demands)
    intake.end()
    intake.fail(HTTPError(500))
    assert take(intake) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_wakes_who_waits(kind, demands):
    intake = kind(demands)

    def meet() -> None:
        if isinstance(intake, ThreadRequestBody):
            threading.Thread(target=intake.fail, args=(ClientDisconnect("gone"),)).start()
        else:
            asyncio.get_running_loop().call_soon(intake.fail, ClientDisconnect("gone"))

    demands.meet = meet
    with pytest.raises(ClientDisconnect):
        take(intake)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_that_was_raised_leaves_nothing_to_the_collector(kind, demands):
    intake = kind(demands)
    gone = weakref.ref(intake)
    gc.disable()
    try:
        try:
            raise ClientDisconnect("gone")  # with a traceback that leads to what holds the intake
        except ClientDisconnect as error:
            intake.fail(error)
        raised = False
        try:
            # Not by asyncio.run, which makes cycles of its own.
            next(intake) if isinstance(intake, ThreadRequestBody) else anext(intake).send(None)
        except ClientDisconnect:
            raised = True
        del intake
        assert raised
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_once_it_has_ended_nothing_is_asked_for_and_nobody_is_kept(kind):
    demands = Demands()
    gone = weakref.ref(demands)
    intake = kind(demands)
    intake.put([FULL, FULL])
    intake.end()
    assert read(intake) == FULL + FULL
    assert demands.count == 0
    del demands
    assert gone() is None


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def test_a_read_that_is_cancelled_no_longer_waits_and_loses_nothing(demands):
    intake = TaskRequestBody(demands)

    async def go() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(intake), 0.01)
        assert not intake.waits_for_piece
        assert demands.count == 2, "that it no longer waits was not told"
        intake.put([b"late"])
        assert await anext(intake) == b"late"

    run(go())


def test_two_readers_of_one_body_are_told(demands):
    intake = TaskRequestBody(demands)

    async def go() -> None:
        first = asyncio.ensure_future(anext_or_none(intake))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks"):
            await anext(intake)
        intake.put([b"a"])
        assert await first == b"a"

    run(go())


def test_threads_and_a_fast_client(demands):
    """Pieces and demands cross each other as they may: every byte comes once, and memory stays at the mark."""
    intake = ThreadRequestBody(demands)
    wanted = threading.Semaphore(0)
    demands.meet = wanted.release
    most = 0
    pieces = [b"%d " % number * 2000 for number in range(300)]

    def client() -> None:
        nonlocal most
        left = list(pieces)
        while left:
            assert wanted.acquire(timeout=PATIENCE)
            while left and intake.wants_more:
                intake.put([left.pop(0)])
                most = max(most, intake.size)
        intake.end()

    thread = threading.Thread(target=client)
    thread.start()
    assert intake.read() == b"".join(pieces)
    thread.join(PATIENCE)
    assert HIGH_WATER / 2 < most < HIGH_WATER + 16 * 1024
