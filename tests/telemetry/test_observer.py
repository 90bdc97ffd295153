"""Telling observers, each what it wants."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from hypoll.contracts import CloseReason, Gauges, Timeout
from hypoll.protocol.messages import Request
from hypoll.protocol.peer import NOBODY
from hypoll.telemetry.observer import Observer, Observers, Record, SocketRecord, Traffic, combine_observers
from tests.support.records import a_record

FIELDS = (None, NOBODY, None, 400, "", 1, 2, 0.0, 0.0, 0.0, 1.0, CloseReason.REFUSED, 130, b"a")

RECORD = a_record(*FIELDS)

SOCKET = SocketRecord(Request("GET", b"/"), "/", 1000, "", Traffic(1, 2, 3, 4), 0.0, 1.0)

CALLS = {
    "on_open": (),
    "on_shed": ("full",),
    "on_timeout": (Timeout.HEAD,),
    "on_close": (CloseReason.CLIENT,),
    "on_wait": (0.5,),
    "on_tick": (0.0, Gauges({"idle": 1})),
    "on_requests": ([RECORD],),
    "on_traffic": (Traffic(1, 2, 3, 4),),
    "on_sockets": ([SOCKET],),
    "on_stop": (),
}


class Turn:
    """A loop whose turn ends when told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[..., object]] = []

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self.calls.append(callback)

    def end(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@pytest.fixture
def turn() -> Turn:
    return Turn()


def hub_of(turn: Turn, *observers: Observer) -> Observers:
    hub = combine_observers(observers, turn)
    assert hub is not None
    return hub


def tell_all(hub: Observers, turn: Turn) -> None:
    for name, arguments in CALLS.items():
        if name == "on_requests":
            hub.on_requests([RECORD])
            turn.end()
        elif name == "on_sockets":
            hub.on_socket(SOCKET)
            turn.end()
        else:
            getattr(hub, name)(*arguments)


def test_every_method_is_tried_here():
    assert sorted(CALLS) == sorted(name for name in vars(Observer) if name.startswith("on_"))


def test_nobody_is_none(turn):
    assert combine_observers([], turn) is None


@pytest.mark.parametrize("name", CALLS)
def test_who_has_a_method_is_told_and_the_others_are_not_asked(turn, name):
    told = []
    kind = type("One", (Observer,), {name: lambda self, *arguments: told.append((self, arguments))})
    first, second = kind(), kind()
    tell_all(hub_of(turn, first, Observer(), second), turn)
    assert told == [(first, CALLS[name]), (second, CALLS[name])]


def test_what_observers_do_not_have_is_told_to_nobody(turn):
    tell_all(hub_of(turn, Observer()), turn)


class Keeper(Observer):
    def __init__(self) -> None:
        self.told: list[object] = []

    def on_requests(self, records: list[Record]) -> None:
        self.told.append([record.status for record in records])

    def on_stop(self) -> None:
        self.told.append("stop")


def test_the_exchanges_of_a_turn_are_told_together_at_its_end(turn):
    keeper = Keeper()
    observers = hub_of(turn, keeper)
    for statuses in ([200, 404], [500]):
        for status in statuses:
            observers.on_requests([a_record(*FIELDS, status=status)])
        assert len(turn.calls) == 1
        turn.end()
    turn.end()
    assert keeper.told == [[200, 404], [500]]


def test_those_of_the_last_turn_are_told_before_the_end(turn):
    keeper = Keeper()
    observers = hub_of(turn, keeper)
    observers.on_requests([RECORD])
    observers.on_stop()
    turn.end()
    assert keeper.told == [[400], "stop"]


def test_one_that_raises_is_logged_and_the_next_is_told(turn, caplog):
    told = []

    class Bad(Observer):
        def on_open(self) -> None:
            raise RuntimeError("the observer's own")

    class Good(Observer):
        def on_open(self) -> None:
            told.append("open")

    with caplog.at_level(logging.ERROR, "hypoll.error"):
        hub_of(turn, Bad(), Good()).on_open()
    assert told == ["open"]
    assert [record.getMessage() for record in caplog.records] == ["on_open failed"]
    assert "the observer's own" in caplog.text
