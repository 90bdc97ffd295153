"""Telling observers, each what it wants."""

from __future__ import annotations

import logging

import pytest

from hypoll.message import NOBODY
from hypoll.observe import End, Exchange, Gauges, Observer, Timeout, combine, make_exchange

FIELDS = (None, NOBODY, None, 400, "", 1, 2, 0.0, 0.0, 0.0, 1.0, End.REFUSED)

CALLS = {
    "on_open": (),
    "on_request": (object(),),
    "on_exchange": (Exchange(*FIELDS),),
    "on_shed": ("full",),
    "on_timeout": (Timeout.HEAD,),
    "on_close": (End.CLIENT,),
    "on_wait": (0.5,),
    "on_tick": (0.0, Gauges({"idle": 1})),
    "on_stop": (),
}


def test_every_method_is_tried_here():
    assert sorted(CALLS) == sorted(name for name in vars(Observer) if name.startswith("on_"))


def test_nobody_is_none():
    assert combine([]) is None


@pytest.mark.parametrize("name", CALLS)
def test_who_has_a_method_is_told_and_the_others_are_not_asked(name):
    told = []
    kind = type("One", (Observer,), {name: lambda self, *arguments: told.append((self, arguments))})
    first, second = kind(), kind()
    everybody = combine([first, Observer(), second])
    assert everybody is not None
    for each, arguments in CALLS.items():
        getattr(everybody, each)(*arguments)
    assert told == [(first, CALLS[name]), (second, CALLS[name])]


def test_one_that_raises_is_logged_and_the_next_is_told(caplog):
    told = []

    class Bad(Observer):
        def on_open(self) -> None:
            raise RuntimeError("the observer's own")

    class Good(Observer):
        def on_open(self) -> None:
            told.append("open")

    everybody = combine([Bad(), Good()])
    assert everybody is not None
    with caplog.at_level(logging.ERROR, "hypoll.error"):
        everybody.on_open()
    assert told == ["open"]
    assert [record.getMessage() for record in caplog.records] == ["on_open failed"]
    assert "the observer's own" in caplog.text


def test_a_record_is_made_of_its_fields():
    made = make_exchange(FIELDS)
    assert made == Exchange(*FIELDS)
    assert type(made) is Exchange
