"""Rooms without sockets: who is a member, and the order of what is delivered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from hypoll.loop import Loop
from hypoll.web import rooms as bounds
from hypoll.web.rooms import SENDS_PER_TURN, Rooms


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_members_come_and_go(loop):
    got: list[tuple[str, str]] = []
    rooms: Rooms[str, str] = Rooms(lambda member, message: got.append((member, message)), size=len)
    for room, member in [("a", "one"), ("a", "two"), ("b", "two"), ("a", "two")]:
        rooms.join(room, member, loop)
    assert (rooms.count("a"), rooms.count("b"), rooms.count("c"), rooms.names) == (2, 1, 0, ["a", "b"])
    assert (rooms.publish("a", "x"), rooms.publish("a", "y", skip="one"), rooms.publish("c", "z")) == (2, 1, 0)
    assert rooms.publish("b", "v", skip="one") == 1
    assert got == [("one", "x"), ("two", "x"), ("two", "y"), ("two", "v")]
    rooms.leave("a", "one")
    rooms.leave("a", "nobody")
    rooms.leave("c", "two")
    rooms.forget("two")
    rooms.forget("two")
    assert (rooms.names, rooms.publish("a", "x")) == ([], 0)


def test_what_a_delivery_publishes_comes_behind_what_is_being_delivered(loop):
    got: list[tuple[str, str]] = []

    def deliver(member: str, message: str) -> None:
        if not got:
            rooms.publish("a", "second")
        got.append((member, message))

    rooms: Rooms[str, str] = Rooms(deliver, size=len)
    for member in ("one", "two"):
        rooms.join("a", member, loop)
    rooms.publish("a", "first")
    assert got == [("one", "first"), ("two", "first"), ("one", "second"), ("two", "second")]


def test_a_delivery_that_fails_keeps_no_later_one_from_coming(loop):
    got: list[str] = []

    def deliver(member: str, message: str) -> None:
        if message == "bad":
            raise ValueError(message)
        got.append(message)

    rooms: Rooms[str, str] = Rooms(deliver, size=len)
    rooms.join("a", "one", loop)
    with pytest.raises(ValueError, match="bad"):
        rooms.publish("a", "bad")
    rooms.publish("a", "good")
    assert got == ["good"]


def test_a_large_room_takes_several_turns_and_keeps_the_order(loop):
    got: list[tuple[int, str]] = []
    rooms: Rooms[int, str] = Rooms(lambda member, message: got.append((member, message)), size=len)
    members = range(SENDS_PER_TURN + 10)
    for member in members:
        rooms.join("a", member, loop)
    publisher = threading.Thread(target=lambda: [rooms.publish("a", text) for text in ("x", "y")])
    publisher.start()
    publisher.join()
    assert got == []
    loop.poll_once(0)
    assert len(got) == SENDS_PER_TURN
    while len(got) < 2 * len(members):
        loop.poll_once(0)
    assert got == [(member, text) for text in ("x", "y") for member in members]


def on_a_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize("bound", ["messages", "bytes"])
@pytest.mark.parametrize("ends", [False, True])
def test_what_waits_for_a_held_loop_is_bounded_and_a_fate_comes_in_order(loop, monkeypatch, bound, ends):
    monkeypatch.setattr(bounds, "WAITING_MESSAGES", 3 if bound == "messages" else 1000)
    monkeypatch.setattr(bounds, "WAITING_BYTES", 3 if bound == "bytes" else 1000)
    got: list[tuple[str, str]] = []
    rooms: Rooms[str, str] = Rooms(
        lambda member, message: got.append((member, message)),
        size=len,
        overflow=(lambda member: got.append((member, "ends"))) if ends else None,
    )
    for room, member in [("a", "one"), ("a", "two"), ("b", "two"), ("b", "three")]:
        rooms.join(room, member, loop)
    on_a_thread(lambda: [rooms.publish("a", text) for text in "12345"])
    on_a_thread(lambda: rooms.publish("b", "x"))
    assert got == []
    loop.poll_once(0)
    of = {name: [message for member, message in got if member == name] for name in ("one", "two", "three")}
    fate = ["ends"] if ends else []
    assert of == {"one": [*"123", *fate], "two": [*"123", *(fate or "x")], "three": ["x"]}
    assert rooms.count("a") == (0 if ends else 2)
    on_a_thread(lambda: rooms.publish("b", "y"))
    loop.poll_once(0)
    assert got[-1] == ("three", "y"), "what was delivered has made space"


def test_a_held_loop_is_woken_once_and_takes_nothing_from_another(loop, monkeypatch):
    monkeypatch.setattr(bounds, "WAITING_MESSAGES", 3)
    woken: list[object] = []
    wake = loop.call_soon_threadsafe

    def counted(call: Callable[[], object]) -> None:
        woken.append(call)
        wake(call)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    got: list[tuple[str, int]] = []
    rooms: Rooms[str, int] = Rooms(lambda member, message: got.append((member, message)), size=lambda message: 1)
    rooms.join("a", "held", loop)

    def other() -> None:
        with_own = Loop()
        rooms.join("a", "other", with_own)
        for number in range(10):
            rooms.publish("a", number)
        with_own.close()

    on_a_thread(other)
    assert got == [("other", number) for number in range(10)]
    assert len(woken) == 1
    loop.poll_once(0)
    assert got[10:] == [("held", number) for number in range(3)]
    on_a_thread(lambda: rooms.publish("a", 11))
    assert len(woken) == 2


def test_one_message_to_each_of_many_rooms_is_within_the_bound(loop, monkeypatch):
    monkeypatch.setattr(bounds, "WAITING_MESSAGES", 1)
    got: list[int] = []
    rooms: Rooms[int, str] = Rooms(lambda member, message: got.append(member), size=len)
    for number in range(100):
        rooms.join(str(number), number, loop)
    on_a_thread(lambda: [rooms.publish(str(number), "x") for number in range(100)])
    loop.poll_once(0)
    assert got == list(range(100))


def test_of_all_rooms_only_so_many_bytes_wait(loop, monkeypatch):
    monkeypatch.setattr(bounds, "WAITING_BYTES", 10)
    got: list[int] = []
    rooms: Rooms[int, str] = Rooms(lambda member, message: got.append(member), size=len)
    for number in range(100):
        rooms.join(str(number), number, loop)
    on_a_thread(lambda: [rooms.publish(str(number), "x" * 10) for number in range(100)])
    loop.poll_once(0)
    assert got == list(range(bounds.ROOMS_AT_ONCE))
