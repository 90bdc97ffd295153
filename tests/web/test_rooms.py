"""Rooms without sockets: who is a member, and the order of what is delivered."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hypoll.loop import Loop
from hypoll.web.rooms import SENDS_PER_TURN, Rooms


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_members_come_and_go(loop):
    got: list[tuple[str, str]] = []
    rooms: Rooms[str, str] = Rooms(lambda member, message: got.append((member, message)))
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

    rooms: Rooms[str, str] = Rooms(deliver)
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

    rooms: Rooms[str, str] = Rooms(deliver)
    rooms.join("a", "one", loop)
    with pytest.raises(ValueError, match="bad"):
        rooms.publish("a", "bad")
    rooms.publish("a", "good")
    assert got == ["good"]


def test_a_large_room_takes_several_turns_and_keeps_the_order(loop):
    got: list[tuple[int, str]] = []
    rooms: Rooms[int, str] = Rooms(lambda member, message: got.append((member, message)))
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
