"""Rooms: who gets what, from whichever thread it is published, and what becomes of slow members."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from hypoll import Routes
from hypoll.websocket import Hub
from tests.support.frames import TEXT, close, frame
from tests.support.server import running
from tests.support.websocket import opened


def chat(hub: Hub) -> Routes:
    routes = Routes()

    @routes.websocket("/async/{room}")
    async def task(socket, room):
        hub.join(room, socket)
        await socket.send("joined")
        async for message in socket:
            if message == "leave":
                hub.leave(room, socket)
                await socket.send("left")
            elif message == "again":
                hub.join(room, socket)
                await socket.send("again")
            else:
                hub.publish(room, message, skip=socket)

    @routes.websocket("/threaded/{room}", threaded=True)
    def thread(socket, room):
        hub.join(room, socket)
        socket.send("joined")
        for message in socket:
            hub.publish(room, message, skip=socket)

    @routes.post("/{room}", threaded=True)
    def publish_from_a_thread(request, room):
        return {"members": hub.publish_json(room, request.json())}

    @routes.put("/{room}")
    def publish_on_the_loop(request, room):
        return {"members": hub.publish(room, request.body)}

    return routes


def test_a_message_goes_to_all_in_the_room_and_nobody_else():
    hub = Hub()
    with running(chat(hub)) as it:
        one, two, three = (opened(it, path) for path in ("/async/a", "/threaded/a", "/async/b"))
        for socket in (one, two, three):
            assert socket.frame() == (TEXT, b"joined")
        assert (hub.members("a"), hub.members("b"), sorted(hub.rooms)) == (2, 1, ["a", "b"])
        one.send(TEXT, b"from one")
        assert two.frame() == (TEXT, b"from one")
        two.send(TEXT, b"from two")
        assert one.frame() == (TEXT, b"from two")
        post = b'POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n{"a":1}'
        assert it.connect().ask(post).body == b'{"members":2}'
        assert it.connect().ask(post.replace(b"POST", b"PUT")).body == b'{"members":2}'
        for socket in (one, two):
            assert [socket.frame(), socket.frame()] == [(TEXT, b'{"a":1}'), (0x82, b'{"a":1}')]
        one.send(TEXT, b"leave")
        assert one.frame() == (TEXT, b"left")
        assert it.connect().ask(post.replace(b"POST", b"PUT")).body == b'{"members":1}'
        assert two.frame() == (0x82, b'{"a":1}'), "and not for one"
        one.send(TEXT, b"again")
        assert one.frame() == (TEXT, b"again")
        for socket in (one, two, three):
            socket.client.send(close(1000))
            assert socket.close_code() == 1000
        it.until(lambda: hub.rooms == [])


@pytest.mark.parametrize("how", ["reset", "close"])
def test_who_goes_has_left(how):
    hub = Hub()
    with running(chat(hub)) as it:
        socket = opened(it, "/async/a")
        socket.frame()
        socket.client.go(how)
        it.until(lambda: hub.rooms == [])


@pytest.mark.parametrize("slow", ["drop", "close"])
def test_a_slow_member_costs_so_much_and_the_others_nothing(slow):
    hub = Hub(queue=4, slow=slow)
    with running(chat(hub), max_output=64 * 1024) as it:
        reader, sleeper = opened(it, "/async/a"), opened(it, "/async/a", buffer=4096)
        for socket in (reader, sleeper):
            socket.frame()
        message = b"x" * 500_000
        for _ in range(40):
            it.on_loop(lambda: hub.publish("a", message))
            assert len(reader.frame().payload) == len(message)
        if slow == "close":
            it.until(lambda: hub.members("a") == 1)
        else:
            assert hub.members("a") == 2
        waiting = it.on_loop(lambda: max(sum(map(len, one.writer.buffers)) for one in it.server.connections))
        assert waiting <= 5 * (len(message) + 100)


def test_a_large_room_gets_its_messages_in_order():
    hub = Hub(queue=10_000)
    with running(chat(hub)) as it:
        sockets = [opened(it, "/async/a") for _ in range(300)]
        for socket in sockets:
            socket.frame()
        publisher = threading.Thread(target=lambda: [hub.publish("a", str(number)) for number in range(20)])
        publisher.start()
        for socket in sockets:
            assert [socket.frame().payload for _ in range(20)] == [b"%d" % number for number in range(20)]
        publisher.join()


def test_members_with_and_without_compression_get_the_same():
    hub = Hub()
    with running(chat(hub)) as it:
        plain = opened(it, "/async/a")
        deflating = opened(it, "/async/a", Sec_WebSocket_Extensions="permessage-deflate")
        plain.frame()
        deflating.frame()
        it.on_loop(lambda: hub.publish("a", "x" * 1000))
        assert plain.frame() == (TEXT, b"x" * 1000)
        first, payload = deflating.frame()
        assert (first, len(payload) < 100) == (TEXT | 0x40, True)


def test_who_goes_leaves_its_own_rooms_and_looks_at_no_others():
    hub, looked_at = Hub(), []
    routes = Routes()

    class Rooms(dict[str, Any]):
        def items(self):
            looked_at.append("all")
            return super().items()

    @routes.websocket("/{room}")
    async def join(socket, room):
        hub.join(room, socket)
        hub.join("all", socket)
        hub.join("left", socket)
        hub.leave("left", socket)
        await socket.send("joined")
        async for _ in socket:
            pass

    hub._rooms._members = Rooms()
    with running(routes) as it:
        one, two = opened(it, "/one"), opened(it, "/two")
        for socket in (one, two):
            assert socket.frame() == (TEXT, b"joined")
        one.client.send(close(1000))
        assert one.close_code() == 1000
        it.until(lambda: hub.members("all") == 1)
        assert sorted(hub.rooms) == ["all", "two"]
        two.client.reset()
        it.until(lambda: not hub.rooms)
        assert (looked_at, hub._rooms._rooms_of) == ([], {})


def test_what_cant_be():
    with pytest.raises(ValueError, match="drop or close"):
        Hub(slow="wait")
    with pytest.raises(ValueError, match="1 at least"):
        Hub(queue=0)
    with pytest.raises(TypeError, match="str or bytes"):
        Hub().publish("a", 1)  # type: ignore[arg-type]
    assert Hub().publish("nowhere", "a") == 0


def test_one_process_may_serve_several_times():
    hub = Hub()
    for _ in range(2):
        with running(chat(hub)) as it:
            socket = opened(it, "/async/a", frame(TEXT, b"x"))
            assert socket.frame() == (TEXT, b"joined")
            assert it.on_loop(lambda: hub.publish("a", "hi")) == 1
            assert socket.frame() == (TEXT, b"hi")
    assert hub.rooms == []


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


def money(value: Any) -> Any:
    if isinstance(value, Money):
        return {"cents": value.cents}
    raise TypeError


def rooms_of(hub: Hub, default: Any = None) -> Routes:
    routes = Routes(default=default)

    @routes.websocket("/{room}")
    async def join(socket, room):
        hub.join(room, socket)
        await socket.send("joined")
        async for _ in socket:
            pass

    return routes


@pytest.mark.parametrize("where", ["the routes", "those around them", "those mounted", "another member's"])
def test_json_is_as_the_routes_of_the_members_encode_it(where):
    hub = Hub()
    routes = rooms_of(hub, money if where == "the routes" else None)
    outer = Routes(default=money if where == "those around them" else None)
    outer.mount("/in", routes)
    outer.mount("/money", rooms_of(hub, money if where == "those mounted" else None))
    outer.mount("/other", rooms_of(hub, money if where == "another member's" else None))
    with running(outer) as it:
        sockets = [opened(it, path) for path in ("/in/a", "/money/a", "/other/a")]
        for socket in sockets:
            assert socket.frame() == (TEXT, b"joined")
        assert it.on_loop(lambda: hub.publish_json("a", {"price": Money(5)})) == 3
        for socket in sockets:
            assert socket.frame() == (TEXT, b'{"price":{"cents":5}}')


def test_what_cant_be_json_names_who_published_it():
    hub = Hub()
    assert hub.publish_json("a", {"price": Money(5)}) == 0, "nobody knows how it is encoded, and nobody gets it"
    failures: list[str] = []

    def publish() -> None:
        try:
            hub.publish_json("a", {"price": [Money(5)]})
        except TypeError as error:
            failures.append(str(error))

    with running(rooms_of(hub)) as it:
        socket = opened(it, "/a")
        socket.frame()
        it.on_loop(publish)
    line = publish.__code__.co_firstlineno + 2
    place = f"{__name__}.test_what_cant_be_json_names_who_published_it.<locals>.publish, test_hub.py line {line},"
    assert failures == [f"{place} gave what can't be JSON: $.price[0]: Money"]


def test_strict_json_holds_for_what_is_published():
    hub = Hub()
    routes = rooms_of(hub)
    routes.strict_json = True
    failures: list[Exception] = []

    def publish() -> None:
        try:
            hub.publish_json("a", {"rate": float("nan")})
        except ValueError as error:
            failures.append(error)

    with running(routes) as it:
        socket = opened(it, "/a")
        socket.frame()
        it.on_loop(publish)
    assert "test_hub.py line" in str(failures[0])


@pytest.mark.parametrize("slow", ["drop", "close"])
def test_a_flood_while_the_loop_is_held_meets_the_members_fate(slow):
    hub = Hub(queue=3000, slow=slow)
    with running(chat(hub)) as it:
        one = opened(it, "/async/a")
        assert one.frame() == (TEXT, b"joined")

        def flood() -> None:
            publisher = threading.Thread(target=lambda: [hub.publish("a", str(number)) for number in range(3100)])
            publisher.start()
            publisher.join()

        it.on_loop(flood)
        assert [one.frame() for _ in range(3000)] == [(TEXT, str(number).encode()) for number in range(3000)]
        if slow == "close":
            assert one.close_code() == 1013
        else:
            hub.publish("a", "later")
            assert one.frame() == (TEXT, b"later")
