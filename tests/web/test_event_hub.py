"""Events for many: who gets what, what comes again to whom, and what becomes of slow listeners."""

from __future__ import annotations

import resource
import threading
from functools import partial
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from hypoll import Event, EventHub, Request, Response, Routes
from hypoll.server.event_hub import EventStream
from hypoll.testing import TestClient
from tests.support.client import Client, request
from tests.support.clock import PATIENCE
from tests.support.kinds import declare
from tests.support.server import Running, running

KINDS = ("inline", "threaded", "async")


def app(hub: EventHub, keep_alive: float | None = None, **options: Any) -> Routes:
    routes = Routes(**options)

    def follow(request: Request, rooms: str) -> Response:
        return hub.events(*rooms.split("+"), last_event_id=request.headers.get("Last-Event-ID"), keep_alive=keep_alive)

    for kind in KINDS:
        declare(routes, kind, f"/{kind}/{{rooms}}", follow)
    return routes


def listening(it: Running, path: str, fields: dict[str, str] | None = None, version: str = "1.1") -> Client:
    """A client whose stream has begun."""
    client = it.connect()
    client.send(request(path, fields=fields or {}).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
    status, head = client.head()
    assert (status, head["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return client


def events_of(client: Client, count: int) -> list[str]:
    """The data of so many events, however they were sent together."""
    data = b""
    while data.count(b"\n\n") < count:
        data += client.chunk()
    assert data.count(b"\n\n") == count
    return [event.partition("data: ")[2] for event in data.decode().split("\n\n")[:-1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_an_event_goes_to_all_that_listen_and_nobody_else(kind, where):
    hub = EventHub()
    with running(app(hub)) as it:
        one, two, other = (listening(it, f"/{kind}/{room}") for room in ("a", "a", "b"))
        it.until(lambda: hub.listeners("a") == 2)
        assert (hub.listeners("b"), sorted(hub.rooms)) == (1, ["a", "b"])
        publish = hub.publish if where == "thread" else lambda *event: it.on_loop(lambda: hub.publish(*event))
        assert (publish("a", "first"), publish("a", {"data": [1]}), publish("b", Event("x"))) == (2, 2, 1)
        for client in (one, two):
            assert events_of(client, 2) == ["first", "[1]"]
        assert events_of(other, 1) == ["x"]
        assert publish("nowhere", "x") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_has_neither_a_thread_nor_a_task(kind):
    hub = EventHub()
    with running(app(hub), threads=1) as it:
        clients = [listening(it, f"/{kind}/a") for _ in range(3)]
        it.until(lambda: hub.listeners("a") == 3 and not it.server.thread_pool.unfinished)
        assert not it.on_loop(lambda: it.server.asyncio_bridge and len(it.server.asyncio_bridge))
        hub.publish("a", "x")
        assert [events_of(client, 1) for client in clients] == [["x"]] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_who_goes_listens_no_more(kind, how):
    hub = EventHub()
    with running(app(hub, keep_alive=0.02)) as it:
        client = listening(it, f"/{kind}/a+b")
        it.until(lambda: hub.listeners("b") == 1)
        client.go(how)
        it.until(lambda: hub.rooms == [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_streams_end_with_the_server(kind, version):
    hub = EventHub()
    with running(app(hub), graceful_timeout=10) as it:
        client = listening(it, f"/{kind}/a", version=version)
        it.until(lambda: hub.listeners("a") == 1)
        hub.publish("a", "last")
        it.on_loop(it.server.drain)
        if version == "1.1":
            assert events_of(client, 1) == ["last"]
            assert client.chunk() == b""
        else:
            assert client.rest() == b"data: last\n\n"
    assert hub.rooms == []


def test_one_that_begins_while_the_server_goes_ends_at_once():
    hub, routes, entered, leave = EventHub(replay=2), Routes(), threading.Event(), threading.Event()

    @routes.get("/", threaded=True)
    def follow(request):
        entered.set()
        leave.wait(PATIENCE)
        return hub.events("a", last_event_id="")

    hub.publish("a", "kept")
    with running(routes, graceful_timeout=10) as it:
        client = it.connect()
        client.send(request())
        assert entered.wait(PATIENCE)
        it.on_loop(it.server.drain)
        leave.set()
        assert client.head()[0] == 200
        assert events_of(client, 1) == ["kept"]
        assert client.chunk() == b""
    assert hub.rooms == []


@pytest.mark.parametrize("kind", KINDS)
def test_silence_is_filled(kind):
    hub = EventHub()
    with running(app(hub, keep_alive=0.02)) as it:
        client = listening(it, f"/{kind}/a")
        assert client.chunk() == b": keep-alive\n\n"
        hub.publish("a", "x")
        while (chunk := client.chunk()) == b": keep-alive\n\n":
            pass
        assert chunk == b"data: x\n\n"


@pytest.mark.parametrize("kind", KINDS)
def test_what_isnt_sent_leaves_nothing_behind(kind):
    hub = EventHub()
    routes = app(hub)

    @routes.after
    def replace(request, response):
        if request.headers.get("x-other"):
            return "another answer"
        response.headers["X-Hook"] = "seen"
        return None

    with running(routes) as it:
        assert it.connect().get(f"/{kind}/a", {"X-Other": "1"}).body == b"another answer"
        assert it.connect().ask(request(f"/{kind}/a", "HEAD")).fields["x-hook"] == "seen"
        assert hub.rooms == []
        assert listening(it, f"/{kind}/a") is not None
        it.until(lambda: hub.listeners("a") == 1)


@pytest.mark.parametrize("slow", ["drop", "end"])
def test_a_slow_listener_costs_so_much_and_the_others_nothing(slow):
    hub = EventHub(queue=4, slow=slow)
    text = "x" * 200_000
    with running(app(hub), max_output=64 * 1024) as it:
        reader = listening(it, "/inline/a")
        sleeper = it.connect(buffer=4096)
        sleeper.send(request("/inline/a"))
        it.until(lambda: hub.listeners("a") == 2)
        for _ in range(60):
            it.on_loop(lambda: hub.publish("a", text))
            assert events_of(reader, 1) == [text]
        assert hub.listeners("a") == (1 if slow == "end" else 2)
        streams = [one.writer.source for one in it.server.connections]
        assert max(len(stream._waiting) for stream in streams if isinstance(stream, EventStream)) <= 4
        if slow == "end":
            assert sleeper.answer().body.count(b"data: ") < 60


class Money:
    pass


def default(value: Any) -> Any:
    if isinstance(value, Money):
        return "money"
    raise TypeError


@pytest.mark.parametrize("begun", ["listened before", "published before"])
def test_data_is_encoded_as_the_routes_do(begun):
    hub, other = EventHub(replay=5), EventHub()
    routes = app(hub, default=default)
    if begun == "published before":
        hub.publish("a", Event({"price": Money()}))
        assert other.publish("a", Event(Money())) == 0
    with running(routes) as it:
        client = listening(it, "/inline/a", {"Last-Event-ID": "none"})
        if begun == "listened before":
            it.until(lambda: hub.listeners("a") == 1)
            hub.publish("a", Event({"price": Money()}))
        assert events_of(client, 1) == ['{"price":"money"}']


@pytest.mark.parametrize("begun", [False, True])
def test_data_is_sent_as_it_was_when_it_was_published(begun):
    hub, state = EventHub(replay=3), {"users": ["ada"]}
    with running(app(hub)) as it:
        if begun:
            listening(it, "/inline/a")
            it.until(partial(hub.listeners, "a"))
        hub.publish("a", Event(state))
        state["users"].append("grace")
        hub.publish("a", Event(state))
        seen = events_of(listening(it, "/inline/a", {"Last-Event-ID": ""}), 2)
    assert seen == ['{"users":["ada"]}', '{"users":["ada","grace"]}']


def test_what_cant_be_json_names_who_published_it():
    hub = EventHub()
    with running(app(hub)) as it:
        listening(it, "/inline/a")
        it.until(lambda: hub.listeners("a") == 1)
        with pytest.raises(TypeError, match=r"test_event_hub.py line \d+, gave what can't be JSON: \$\.a: Money"):
            hub.publish("a", Event({"a": Money()}))


def test_what_cant_be_json_and_nobody_has_heard_is_logged(caplog):
    hub = EventHub(replay=2)
    hub.publish("a", Event(Money()))
    hub.publish("a", "good")
    with running(app(hub)) as it:
        assert events_of(listening(it, "/inline/a", {"Last-Event-ID": "?"}), 1) == ["good"]
    assert "an event that was published to 'a' can't be sent" in caplog.text


# coming back


def ids_of(data: bytes) -> list[str]:
    return [line[4:] for line in data.decode().splitlines() if line.startswith("id: ")]


@pytest.mark.parametrize("kind", KINDS)
def test_who_comes_back_gets_what_is_missing_and_then_what_comes(kind):
    hub = EventHub(replay=3)
    with running(app(hub)) as it:
        for number in range(5):
            hub.publish("a", Event(str(number), id=f"id {number}"))
        back = listening(it, f"/{kind}/a", {"Last-Event-ID": "id 3"})
        late = listening(it, f"/{kind}/a", {"Last-Event-ID": "id 0"})
        new = listening(it, f"/{kind}/a")
        it.until(lambda: hub.listeners("a") == 3)
        hub.publish("a", "5")
        assert events_of(back, 2) == ["4", "5"]
        assert events_of(late, 4) == ["2", "3", "4", "5"], "all that is kept"
        assert events_of(new, 1) == ["5"]


@pytest.mark.parametrize("event_id", ["é1", "\N{SNOWMAN}", " b ", "c\t", "ÿ", "a b", "\ud800"])
def test_who_comes_back_is_known_by_an_id_of_whatever_characters(event_id):
    """As the bytes of a header field, which begin and end without blanks, and as a str from elsewhere."""
    hub = EventHub(replay=3)
    hub.publish("a", Event("seen", id=event_id))
    hub.publish("a", Event("missed", id="2"))
    field = event_id.encode("utf-8", "replace")
    routes = app(hub)
    routes.get("/elsewhere")(lambda request: hub.events("a", last_event_id=event_id))
    with running(routes) as it:
        for head in (b"/inline/a HTTP/1.1\r\nLast-Event-ID: " + field, b"/elsewhere HTTP/1.1"):
            client = it.connect()
            client.send(b"GET " + head + b"\r\nHost: a\r\n\r\n")
            client.head()
            assert events_of(client, 1) == ["missed"]


def test_events_without_an_id_get_one_that_no_other_hub_has():
    hubs = [EventHub(replay=3), EventHub(replay=3)]
    found: list[list[str]] = []
    for hub in hubs:
        with running(app(hub)) as it:
            client = listening(it, "/inline/a")
            it.until(partial(hub.listeners, "a"))
            hub.publish("a", "one")
            hub.publish("a", {"data": "two", "id": "mine"})
            data = client.chunk()
            found.append(ids_of(data + (client.chunk() if b"two" not in data else b"")))
            assert events_of(listening(it, "/inline/a", {"Last-Event-ID": found[-1][0]}), 1) == ["two"]
    assert [ids[1] for ids in found] == ["mine", "mine"]
    assert found[0][0] != found[1][0]


def test_several_rooms_come_in_the_order_in_which_they_were_published():
    hub = EventHub(replay=10)
    for number in range(6):
        hub.publish("ab"[number % 2], Event(str(number), id=str(number)))
    with running(app(hub)) as it:
        assert events_of(listening(it, "/inline/a+b+a", {"Last-Event-ID": "2"}), 3) == ["3", "4", "5"]
        assert events_of(listening(it, "/inline/a", {"Last-Event-ID": "2"}), 1) == ["4"]


def test_more_than_the_queue_may_come_again():
    hub = EventHub(queue=1, slow="end", replay=500)
    for number in range(500):
        hub.publish("a", str(number))
    with running(app(hub)) as it:
        client = listening(it, "/inline/a", {"Last-Event-ID": "?"})
        assert events_of(client, 500) == [str(number) for number in range(500)]


def test_nobody_misses_an_event_or_gets_one_twice_while_others_publish():
    hub, stop = EventHub(replay=100_000, queue=100_000), threading.Event()

    def publish() -> None:
        for number in range(100_000):  # more would push the first ones out
            if stop.is_set():
                break
            hub.publish("a", str(number))

    with running(app(hub)) as it:
        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            it.until(lambda: hub._kept)
            for _ in range(5):
                client = it.connect()
                client.send(request("/threaded/a", fields={"Last-Event-ID": "?"}))
                assert client.head()[0] == 200
                data = b""
                while data.count(b"\n\n") < 50:
                    data += client.chunk()
                got = [int(event.partition("data: ")[2]) for event in data.decode().split("\n\n")[:-1]]
                assert got == list(range(len(got)))
        finally:
            stop.set()
            publisher.join()


def test_a_room_may_be_discarded():
    hub = EventHub(replay=5)
    hub.publish("a", "x")
    hub.discard("a")
    hub.discard("b")
    hub.publish("a", "y")
    with running(app(hub)) as it:
        assert events_of(listening(it, "/inline/a", {"Last-Event-ID": "?"}), 1) == ["y"]


def test_a_test_client_follows():
    hub, routes = EventHub(), Routes()

    @routes.get("/events")
    async def follow(request):
        return hub.events("a")

    @routes.post("/")
    def publish(request):
        return {"listeners": hub.publish("a", "hello")}

    with TestClient(routes) as client, client.get("/events", stream=True) as response:
        assert client.post("/").json() == {"listeners": 1}
        assert next(response.iter_lines()) == b"data: hello"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EventHub(slow="close"), ValueError, "drop or end"),
        (lambda: EventHub(queue=0), ValueError, "1 at least"),
        (lambda: EventHub(replay=-1), ValueError, "0 at least"),
        (lambda: EventHub().events(), TypeError, "names of rooms"),
        (lambda: EventHub().events(["a"]), TypeError, "names of rooms"),  # type: ignore[arg-type]
        (lambda: EventHub().events("a", last_event_id=7), TypeError, "last_event_id is a str"),  # type: ignore[arg-type]
        (lambda: EventHub().publish("a", {"order": 7}), TypeError, r"data, event, id, retry: Event\(\{\.\.\.\}\)"),
        (lambda: EventHub().publish("a", {"id": 7}), ValueError, "the id of an event must be a str"),
    ],
)
def test_what_cant_be(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_other_servers_cant_send_it(caplog):
    hub, routes = EventHub(), Routes()
    routes.get("/")(lambda request: hub.events("a"))
    begun: list[str] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    routes.wsgi(environ, lambda status, fields: begun.append(status))
    assert begun == ["500 Internal Server Error"]
    assert "needs hypoll's own server" in caplog.text
    assert hub.rooms == []


def test_a_stream_that_a_flood_ends_gets_what_was_kept_when_it_comes_back():
    hub = EventHub(queue=3000, slow="end", replay=5000)
    with running(app(hub)) as it:
        client = listening(it, "/inline/a")
        other = listening(it, "/inline/b")
        it.until(lambda: len(hub.rooms) == 2)

        def flood() -> None:  # while the loop is held
            publisher = threading.Thread(target=lambda: [hub.publish("a", str(number)) for number in range(3100)])
            publisher.start()
            publisher.join()

        it.on_loop(flood)
        got = b"".join(iter(client.chunk, b"")).decode()
        assert "data: 2999\n" in got
        assert "data: 3000\n" not in got
        last = got.rpartition("id: ")[2].partition("\n")[0]
        back = listening(it, "/inline/a", {"Last-Event-ID": last})
        assert events_of(back, 100) == [str(number) for number in range(3000, 3100)]
        hub.publish("b", "x")
        assert events_of(other, 1) == ["x"]


@pytest.mark.full
def test_a_thread_that_publishes_in_a_tight_loop_takes_bounded_memory():
    hub, peak, count = EventHub(), 0, 50_000

    def memory() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    with running(app(hub)) as it:
        clients = [listening(it, "/inline/a") for _ in range(200)]
        it.until(lambda: hub.listeners("a") == len(clients))
        before = memory()
        for number in range(count):
            hub.publish("a", str(number))
            if number % 1000 == 0:
                peak = max(peak, memory())
        assert peak - before < count * len(clients) * 8 / 2, "half of a reference to each event for each listener"
        for _ in range(300):
            hub.publish("a", "x" * 2**20)
            peak = max(peak, memory())
    assert peak - before < 250 * 2**20
