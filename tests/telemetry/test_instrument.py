"""What an observed connection tells: each request once, with the bytes that were on the wire, and why it ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from hypoll import File, HTTPError, Response, Routes
from hypoll.contracts import CloseReason, ConnectionState, Timeout
from hypoll.telemetry import instrument
from hypoll.telemetry.observer import Observer, Record
from tests.support.client import Client
from tests.support.clock import PATIENCE
from tests.support.server import TICK, Running, running

LARGE = 4 * 1024 * 1024
PIECES = [b"a" * 1000, b"b" * 70_000]
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"


class Keeper(Observer):
    """Keeps all it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.opened = 0
        self.closes: list[CloseReason] = []
        self.timeouts: list[Timeout] = []

    def on_open(self) -> None:
        self.opened += 1

    def on_requests(self, records: list[Record]) -> None:
        self.records += records

    def on_close(self, end: CloseReason) -> None:
        self.closes.append(end)

    def on_timeout(self, timeout: Timeout) -> None:
        self.timeouts.append(timeout)


class Watched(NamedTuple):
    server: Running
    keeper: Keeper

    def connect(self) -> Client:
        return self.server.connect()

    def records(self, count: int) -> list[Record]:
        self.server.until(lambda: len(self.keeper.records) >= count, "it wasn't told")
        return self.keeper.records

    def ends(self) -> list[CloseReason]:
        self.server.until(lambda: len(self.keeper.closes) == self.keeper.opened, "the close wasn't told")
        return self.keeper.closes


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Routes:
    made = Routes()
    directory = tmp_path_factory.mktemp("files")
    (directory / "large").write_bytes(bytes(LARGE))
    made.get("/")(lambda request: {"a": 1})
    made.get("/text")(lambda request: "text")
    made.get("/users/{number:int}")(lambda request, number: {"id": number})
    made.post("/echo")(lambda request: request.body)
    made.get("/stream")(lambda request: Response(iter(PIECES)))
    made.get("/file")(lambda request: File(directory / "large"))
    made.get("/large")(lambda request: bytes(LARGE))
    made.get("/closing")(lambda request: Response(b"x", 200, {"Connection": "close"}))
    made.get("/threaded", threaded=True)(lambda request: "threaded")

    @made.get("/async")
    async def asynchronous(request):
        return "async"

    @made.get("/fails")
    def fails(request):
        raise HTTPError(418)

    @made.get("/cut")
    def cut(request):
        def pieces() -> Iterator[bytes]:
            yield b"x"
            raise RuntimeError("the body's own")

        return Response(pieces())

    return made


@contextlib.contextmanager
def watched(routes: Routes, /, **settings: Any) -> Iterator[Watched]:
    keeper = Keeper()
    with running(routes, observers=[keeper], **settings) as server:
        yield Watched(server, keeper)


@pytest.fixture
def told(routes):
    with watched(routes) as watcher:
        yield watcher


ANSWERED: dict[str, tuple[bytes, list[tuple[int, str, int | None]]]] = {
    # requests, then of each: status, route, bytes of the request
    "json": (GET % b"/", [(200, "/", None)]),
    "text": (GET % b"/text?a=b", [(200, "/text", None)]),
    "parameters": (GET % b"/users/7", [(200, "/users/{number:int}", None)]),
    "nothing there": (GET % b"/nothing", [(404, "", None)]),
    "an error": (GET % b"/fails", [(418, "/fails", None)]),
    "a body": (POST, [(200, "/echo", None)]),
    "chunks": (CHUNKED, [(200, "/echo", None)]),
    "pipelined": (GET % b"/" + POST + CHUNKED + GET % b"/users/12", [(200, "/", len(GET % b"/")),
        (200, "/echo", len(POST)), (200, "/echo", len(CHUNKED)),
        (200, "/users/{number:int}", len(GET % b"/users/12"))]),
    "a stream": (GET % b"/stream", [(200, "/stream", None)]),
    "a file": (GET % b"/file", [(200, "/file", None)]),
    "more than the kernel takes": (GET % b"/large", [(200, "/large", None)]),
    "a thread": (GET % b"/threaded", [(200, "/threaded", None)]),
    "a task": (GET % b"/async", [(200, "/async", None)]),
    "a thread and what comes behind it": (
        GET % b"/threaded" + GET % b"/", [(200, "/threaded", len(GET % b"/threaded")), (200, "/", len(GET % b"/"))]
    ),
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize("name", ANSWERED)
def test_each_request_is_told_once_with_its_bytes(told, name, step, first):
    data, expected = ANSWERED[name]
    client = told.connect()
    if not first:
        client.ask(GET % b"/")  # the second may take the hot path
        told.records(1)
        told.keeper.records.clear()
    for at in range(0, len(data), step or len(data)):
        client.send(data[at : at + (step or len(data))])
        if step:
            told.server.on_loop(lambda: None)
    size = 0
    for _ in expected:
        head_end = client.line(b"\r\n\r\n")
        size += len(head_end) + 4
        size += rest_of(client, head_end)
    records = told.records(len(expected))
    assert [(record.status, record.route) for record in records] == [(status, route) for status, route, _ in expected]
    assert sum(record.received for record in records) == len(data)
    assert sum(record.sent for record in records) == size
    for record, (_, _, received) in zip(records, expected, strict=True):
        assert len(expected) == 1 or record.received == received
        assert record.began <= record.called <= record.returned <= record.ended
        assert (record.end, record.peer) == (CloseReason.KEPT, record.request.peer)
    client.close()
    assert told.ends() == [CloseReason.CLIENT]


def test_bytes_are_told_of_the_request_they_are_of(told):
    """Whichever way each takes: with fields never seen, seen before, with a body, and together with others."""
    get = GET % b"/text"
    new = [get[:-2] + b"New: %b\r\n\r\n" % (b"n" * number) for number in range(1, 4)]
    asked = [get, get, new[0], POST, new[1], new[2], POST, get]
    client = told.connect()
    known = len(told.keeper.records)
    for one in asked:
        client.send(one)
        rest_of(client, client.line(b"\r\n\r\n"))
    client.send(get + new[0] + get)
    for _ in range(3):
        rest_of(client, client.line(b"\r\n\r\n"))
    records = told.records(known + len(asked) + 3)[known:]
    assert [record.received for record in records] == [len(one) for one in (*asked, get, new[0], get)]


def test_each_is_told_as_what_it_was():
    """On one connection, of every method and with two sections of fields; `/` is an object that they have in common."""
    own = Routes()
    for method in ("GET", "POST", "PUT", "DELETE"):
        own.route("/", methods=[method])(lambda request: request.method)
        own.route("/{name}", methods=[method])(lambda request, name: [request.method, name])
    own.get("/teapot")(lambda request: ({"pot": 1}, 418))
    targets = [b"/", b"/a", b"/b"]
    lines = [b"%b %b" % (method, target) for target in targets for method in (b"GET", b"DELETE", b"POST", b"PUT")]
    fields = b" HTTP/1.1\r\nHost: h\r\nUser-Agent: %b\r\n\r\n"
    asked = [line + fields % agent for agent in (b"x", b"y") for line in lines]
    asked = [*asked, *asked, *asked[::5], *[b"GET /teapot" + fields % b"x"] * 3]
    with watched(own) as told:
        client = told.connect()
        for one in asked:
            client.send(one)
            rest_of(client, client.line(b"\r\n\r\n"))
        found = []
        for record in told.records(len(asked)):
            assert record.request is not None
            line = b"%b %b" % (record.request.method.encode(), record.request.target)
            found.append((line, record.request.headers["user-agent"], record.route, record.client))
    for one, (line, agent, route, address) in zip(asked, found, strict=True):
        assert one.startswith(line + b" ")
        assert one.endswith(b" %b\r\n\r\n" % agent.encode())
        assert route == {b"/": "/", b"/teapot": "/teapot"}.get(line.split()[1], "/{name}")
        assert address == "127.0.0.1"
    assert len({record.id for record in told.keeper.records}) == len(asked)
    assert [record.status for record in told.keeper.records[-4:]] == [200, 418, 418, 418]


def rest_of(client: Client, head: bytes) -> int:
    """Take the content that belongs to a head; gives its bytes on the wire."""
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        return len(client.take(int(fields[b"content-length"])))
    size = 0
    while True:
        line = client.line()
        chunk = client.take(int(line, 16) + 2)
        size += len(line) + 2 + len(chunk)
        if line == b"0":
            return size


ENDS = {
    "the client asks for it": (CLOSE % b"/", 200, CloseReason.CLIENT),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", 200, CloseReason.CLIENT),
    "the application asks for it": (GET % b"/closing", 200, CloseReason.APPLICATION),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, CloseReason.REFUSED),
    "too large": (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 20_000, 431, CloseReason.REFUSED),
    "the body fails": (GET % b"/cut", 200, CloseReason.FAILED),
}


@pytest.mark.parametrize("name", ENDS)
def test_why_the_connection_ends_is_told_with_the_last_request(told, name):
    data, status, end = ENDS[name]
    client = told.connect()
    client.send(data)
    answer = client.rest()
    client.close()
    (record,) = told.records(1)
    assert (record.status, record.end, record.sent) == (status, end, len(answer))
    assert record.request is not None, "its line is whole"
    assert b"%b %b " % (record.request.method.encode(), record.request.target) == data[: data.index(b"HTTP/")]
    assert told.ends() == [end]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_answer_that_is_not_taken_is_told_as_far_as_it_was_sent(told, how):
    client = told.connect()
    client.send(GET % b"/large")
    client.head()
    client.go(how)
    (record,) = told.records(1)
    assert record.status == 200
    assert 0 < record.sent < LARGE
    assert record.end is CloseReason.ABORTED
    assert told.ends() == [CloseReason.ABORTED]


def test_a_client_that_leaves_before_there_is_an_answer_is_told_as_499():
    holding, entered = threading.Event(), threading.Event()
    held = Routes()

    @held.get("/", threaded=True)
    def hold(request):
        entered.set()
        holding.wait(PATIENCE)

    with watched(held) as told:
        client = told.connect()
        client.send(GET % b"/")
        assert entered.wait(PATIENCE)
        client.reset()
        (record,) = told.records(1)
        assert (record.status, record.sent, record.end) == (499, 0, CloseReason.ABORTED)
        holding.set()


UPLOAD = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000


@pytest.mark.parametrize("target", ["/threaded", "/async", "/inline"])
def test_of_a_body_that_is_not_whole_what_came_is_told(target):
    """Its handler answers by what came of it, and the client sends no more."""
    own = Routes()
    own.post("/threaded", stream=True, threaded=True)(lambda request: "enough")
    own.post("/inline")(lambda request: "never")

    @own.post("/async", stream=True)
    async def asynchronous(request):
        return "enough"

    data = UPLOAD % target.encode()
    with watched(own, body_timeout=TICK) as told:
        client = told.connect()
        client.send(data)
        told.server.until(lambda: told.keeper.records or told.keeper.timeouts)
        (record,) = told.records(1)
        assert (record.status, record.received) == (408 if target == "/inline" else 200, len(data))
        client.close()


@pytest.mark.parametrize("threaded", [True, False])
def test_a_handler_that_its_body_kept_waiting_is_told_as_a_timeout(threaded):
    own = Routes()
    if threaded:
        own.post("/", stream=True, threaded=True)(lambda request: str(len(b"".join(request.stream))))
    else:

        @own.post("/", stream=True)
        async def take(request):
            return str(len(await request.stream.read()))

    with watched(own, body_timeout=TICK) as told:
        client = told.connect()
        client.send(UPLOAD % b"/")
        assert client.answer().status == 408
        (record,) = told.records(1)
        assert (record.status, record.end) == (408, CloseReason.TIMEOUT)
        assert told.keeper.timeouts == [Timeout.BODY]
        client.close()
        assert told.ends() == [CloseReason.TIMEOUT]


def test_of_a_body_in_the_middle_of_which_the_client_leaves_what_came_is_told():
    own = Routes()
    taken = threading.Event()

    @own.post("/", stream=True, threaded=True)
    def take(request):
        for _ in request.stream:
            taken.set()

    data = UPLOAD % b"/"
    with watched(own) as told:
        client = told.connect()
        client.send(data)
        assert taken.wait(PATIENCE)
        client.reset()
        (record,) = told.records(1)
        assert (record.status, record.received) == (499, len(data))


def test_what_comes_of_a_body_behind_the_head_of_its_answer_is_told():
    own = Routes()

    @own.post("/", stream=True, threaded=True)
    def echo(request):
        return Response(request.stream)

    data = UPLOAD % b"/"
    with watched(own) as told:
        client = told.connect()
        client.send(data)
        client.line(b"\r\n\r\n")
        client.send(bytes(99_000))
        client.take(99_000)
        (record,) = told.records(1)
        assert (record.status, record.received) == (200, len(data) + 99_000)
        client.close()


TIMEOUTS: dict[str, tuple[dict[str, object], bytes, Timeout, int | None]] = {
    "idle": ({"keep_alive": TICK}, b"", Timeout.IDLE, None),
    "head": ({"header_timeout": TICK}, b"GET / HT", Timeout.HEAD, 408),
    "body": ({"body_timeout": TICK}, POST[:-1], Timeout.BODY, 408),
    "write": ({"write_timeout": TICK}, GET % b"/large", Timeout.WRITE, 200),
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_whose_deadline_passed_is_told(routes, name):
    settings, data, timeout, status = TIMEOUTS[name]
    with watched(routes, **settings) as told:
        client = told.server.connect(4096)
        client.send(data)
        told.server.until(lambda: told.keeper.timeouts)
        assert told.keeper.timeouts == [timeout]
        if status:
            (record,) = told.records(1)
            assert (record.status, record.end) == (status, CloseReason.TIMEOUT)
        client.close()
        assert told.ends() == [CloseReason.TIMEOUT]


def test_a_drain_is_told_as_the_end(routes):
    with watched(routes) as told:
        client = told.connect()
        client.ask(GET % b"/")
        told.server.on_loop(told.server.server.drain)
        assert client.rest() == b""
    assert told.keeper.closes == [CloseReason.DRAIN]


def test_with_request_ids_what_is_sent_counts_them_and_an_application_s_own_stands():
    own = Routes()
    own.get("/own")(lambda request: Response(b"x", 200, {"X-Request-ID": "mine"}))
    own.get("/")(lambda request: "")
    fine = Response(b"x", content_type="text/plain; charset=utf-8")
    fine.reason = "Fine"
    own.get("/fine")(lambda request: fine)
    own.get("/json")(lambda request: {})
    with watched(own, request_id=True) as told:
        client = told.connect()
        for count, target in enumerate((b"/own", b"/", b"/", b"/fine", b"/json", b"/json"), 1):
            client.send(GET % target)
            head = client.line(b"\r\n\r\n") + b"\r\n\r\n"
            size = rest_of(client, head[:-4])
            record = told.records(count)[-1]
            assert (record.sent, record.head) == (len(head) + size, len(head))
            name = b"mine" if target == b"/own" else record.id.encode()
            assert head.lower().count(b"x-request-id: ") == 1
            assert b": " + name + b"\r\n" in head
            assert (b" Fine\r\n" in head) == (target == b"/fine")


ID = b"X-Request-Id: abc-123\r\n"
MINE = "abc-123"
AGENT = b"User-Agent: it\r\n"
REFUSED: dict[str, tuple[bytes, int, str, str]] = {
    # a request, and what is notified of it: status, its line, its id where it is known
    "too long": (b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n%b\r\n", 413, "PUT /echo", MINE),
    "too large by its chunks": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n%b\r\nffff\r\n", 413, "POST /echo", MINE,
    ),
    "an expectation": (b"POST /echo?a HTTP/1.1\r\nHost: a\r\nExpect: b\r\n%b\r\n", 417, "POST /echo?a", MINE),
    "a coding": (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br, chunked\r\n%b\r\n", 501, "PUT /", MINE),
    "a method": (b"BREW /pot HTTP/1.1\r\nHost: a\r\n%b\r\n", 501, "BREW /pot", ""),
    "a version": (b"GET / HTTP/1.9\r\nHost: a\r\n%b\r\n", 505, "GET /", ""),
    "no host": (b"GET / HTTP/1.1\r\n%b\r\n", 400, "GET /", MINE),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n%b\r\n", 400, "GET /", MINE),
    "a target": (b"GET /%%zz HTTP/1.1\r\nHost: a\r\n%b\r\n", 400, "GET /%zz", MINE),
    "chunks": (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n%b\r\nx\r\n", 400, "POST /echo", MINE),
    "many fields": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 200 + b"%b\r\n", 431, "GET /", MINE),
    "a bad field": (b"GET /text HTTP/1.1\r\nHost: a\r\nno colon\r\n%b\r\n", 400, "GET /text", ""),
    "a large head": (b"GET /text HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 70_000 + b"\r\n%b\r\n", 431, "GET /text", ""),
    "HEAD": (b"HEAD / HTTP/1.1\r\n%b\r\n", 400, "HEAD /", MINE),
}  # fmt: skip


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_told_with_its_request(routes, name, named):
    data, status, line, identity = REFUSED[name]
    with watched(routes, max_body=1000, request_id=named) as told:
        client = told.connect()
        sent = data % (ID + AGENT)
        client.send(sent)
        answer = client.rest()
        client.close()
        (record,) = told.records(1)
    assert (record.status, record.end, record.sent) == (status, CloseReason.REFUSED, len(answer))
    assert record.received == len(sent) or 64 * 1024 <= record.received < len(sent), "it may be refused before all came"
    request = record.request
    assert request is not None
    assert f"{request.method} {request.target.decode()}" == line
    if identity:
        assert (record.id, request.headers["user-agent"]) == (identity, "it")
    assert answer.count(record.id.encode()) == named + (request.method != "HEAD")


def test_of_what_is_no_request_nothing_is_told_but_its_end(routes):
    with watched(routes) as told:
        client = told.connect()
        client.send(b"hello\r\n\r\n")
        answer = client.rest()
        client.close()
        (record,) = told.records(1)
    assert (record.request, record.status, record.sent) == (None, 400, len(answer))
    assert record.received == len(b"hello\r\n\r\n")


def test_a_head_that_does_not_come_is_told_by_what_came(routes):
    with watched(routes, header_timeout=TICK) as told:
        client = told.connect()
        client.send(b"HEAD /text HT")
        answer = client.rest()
        client.close()
        (record,) = told.records(1)
    assert record.request is not None
    assert (record.request.method, record.request.target, record.status, record.route) == ("HEAD", b"", 408, "")
    assert answer.endswith(b"\r\n\r\n"), "no content"


def test_each_deadline_of_a_state_counts_as_a_timeout():
    assert {state for state in ConnectionState if state.setting is not None} <= instrument.TIMEOUTS.keys()
    assert ConnectionState.LINGERING in instrument.TIMEOUTS, "whose seconds no setting holds"
