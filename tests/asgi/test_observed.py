"""What observers are notified of ASGI applications' requests: one record each, whatever became of it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from hypoll.asgi.errors import DisconnectedError
from hypoll.contracts import CloseReason
from hypoll.telemetry.observer import Observer, Record
from tests.asgi.asgiapps import GET, Message, Receive, Send, body, forever, saying, serving, start
from tests.support.client import PATIENCE


class Records(Observer):
    def __init__(self) -> None:
        self.records: list[Record] = []

    def on_requests(self, records: list[Record]) -> None:
        self.records += records


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        ([start(201, (b"x", b"y")), body(b"hello")], 5),
        ([start(201), body(b"he", True), body(b"llo")], 5 + 2 * 5 + 5),
        ([start(201), body(bytes(300_000))], 300_000),
        ([start(201, (b"content-length", b"5")), body(b"hello", True), body()], 5),
        ([start(204), body()], 0),
    ],
)
def test_an_answer_is_told_once_with_its_size(messages, size):
    observer = Records()
    with serving(saying(*messages), observers=[observer]) as it:
        client = it.connect()
        for _ in range(2):
            client.ask(GET)
        it.until(lambda: len(observer.records) == 2)
    for record in observer.records:
        assert record.status == messages[0]["status"]
        assert record.sent - record.head == size
        assert record.end is CloseReason.KEPT
        assert record.request is not None
        assert record.began <= record.called <= record.returned <= record.ended


def test_a_file_counts_with_its_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(500_000))

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        with path.open("rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file, "more_body": True})
        await send(body(b"end"))

    observer = Records()
    with serving(app, observers=[observer]) as it:
        it.connect().ask(GET)
        it.until(lambda: observer.records)
    record = observer.records[0]
    assert record.sent - record.head == len(b"7a120\r\n\r\n") + 500_000 + len(b"3\r\nend\r\n0\r\n\r\n")


def test_who_goes_and_who_fails_is_told():
    observer = Records()
    begun = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            begun.set()
            await receive()
            await receive()
            with pytest.raises(DisconnectedError):
                await send(start())
        elif scope["path"] == "/fail":
            raise ZeroDivisionError
        else:
            await send(start())
            await send(body(b"x", True))
            raise ZeroDivisionError

    with serving(app, observers=[observer]) as it:
        client = it.connect()
        client.send(GET.replace(b"/ ", b"/wait "))
        assert begun.wait(PATIENCE)
        client.reset()
        it.until(lambda: len(observer.records) == 1)
        assert it.connect().ask(GET.replace(b"/ ", b"/fail ")).status == 500
        it.until(lambda: len(observer.records) == 2)
        client = it.connect()
        client.send(GET)
        client.rest()
        it.until(lambda: len(observer.records) == 3)
    assert [(record.status, record.end) for record in observer.records] == [
        (499, CloseReason.ABORTED),
        (500, CloseReason.KEPT),
        (200, CloseReason.FAILED),
    ]


def test_the_access_log_the_metrics_and_health_work_as_for_others(tmp_path):
    log = tmp_path / "log"
    settings = {"access_log": "json", "access_log_file": str(log), "metrics": "/metrics", "health": "/healthz"}
    with serving(saying(start(), body(b"hello")), request_id=True, **settings) as it:
        client = it.connect()
        answer = client.ask(GET[:-2] + b"X-Request-Id: mine\r\n\r\n")
        assert answer.fields["x-request-id"] == "mine"
        assert client.ask(GET.replace(b"/ ", b"/healthz/live ")).status == 200
        assert b"hypoll_requests_total" in client.ask(GET.replace(b"/ ", b"/metrics ")).body
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0]["request_id"] == "mine"
    assert lines[0]["status"] == 200


def test_what_holds_the_loop_is_named(caplog):
    held = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end and not held.is_set():
            held.wait(0.01)
        await saying(start(), body(b"x"))(scope, receive, send)

    with serving(app, slow_callback=0.05) as it:
        it.connect().ask(GET.replace(b"/ ", b"/slow "))
    assert any("GET /slow has held the loop" in record.getMessage() for record in caplog.records)


def test_a_request_under_way_is_counted_by_a_drain(caplog):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", True))
        await forever()

    with serving(app, graceful_timeout=0.1) as it:
        client = it.connect()
        client.send(GET)
        client.head()
        it.on_loop(it.server.drain)
        client.rest()
    assert any("cut 1 stream" in record.getMessage() for record in caplog.records)


async def respond(request: Request) -> Response:
    if request.path_params.get("id") == 13:
        raise ZeroDivisionError
    return PlainTextResponse("hello")


inner = Starlette(routes=[Route("/items/{id:int}", respond), Mount("/files", PlainTextResponse("a file"))])

with_starlette = Starlette(
    routes=[
        Route("/users/{name}", respond),
        Route("/deep/{path:path}", respond),
        Mount("/shop", inner),
        Mount("/of/{owner}", inner),
        Mount("/number/{number:int}", inner),
    ]
)


@pytest.mark.parametrize("root_path", ["", "/root"])
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/users/ada", "/users/{name}"),
        ("/users/a%20b", "/users/{name}"),
        ("/deep/a/b", "/deep/{path:path}"),
        ("/shop/items/7", "/shop/items/{id:int}"),
        ("/shop/items/13", "/shop/items/{id:int}"),
        ("/of/shop/items/7", "/of/{owner}/items/{id:int}"),
        ("/of/of/items/7", "/of/{owner}/items/{id:int}"),
        ("/of/7/items/7", "/of/{owner}/items/{id:int}"),
        ("/number/7/items/8", "/number/{number}/items/{id:int}"),
        ("/number/007/items/8", ""),  # it can't be told
        ("/shop/files/any", "/shop/files"),
        ("/of/ada/nowhere", "/of/{owner}"),
        ("/nowhere", ""),
    ],
)
def test_the_route_of_starlette_is_told_and_nothing_that_a_client_chose(path, route, root_path):
    observer = Records()
    with serving(with_starlette, observers=[observer], script_name=root_path) as it:
        it.connect().ask(GET.replace(b"/ ", path.encode() + b" "))
        it.until(lambda: observer.records)
    assert observer.records[0].route == route


@pytest.mark.parametrize(
    ("left", "route"),
    [
        ({}, ""),
        ({"path_template": "/path/{name}"}, "/path/{name}"),
        ({"route": "/mine/{x}"}, "/mine/{x}"),
        ({"route": None}, ""),
        ({"route": object(), "path_template": 7, "path_params": None}, ""),
        ({"app_root_path": "", "root_path": "/static"}, "/static"),
        ({"app_root_path": "/else", "root_path": "/static"}, ""),
        ({"app_root_path": 1, "root_path": None}, ""),
    ],
)
def test_the_route_is_what_is_left_in_the_scope(left, route):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scope.update(left)
        await saying(start(), body(b"x", True), body(b"y"))(scope, receive, send)

    observer = Records()
    with serving(app, observers=[observer]) as it:
        it.connect().ask(GET)
        it.until(lambda: observer.records)
    assert observer.records[0].route == route


def test_a_scope_is_not_kept_where_nobody_observes():
    kept: list[Any] = []

    class App:
        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            kept.append(receive.__self__.request.application_data)  # type: ignore[attr-defined]
            await saying(start(), body())(scope, receive, send)

    with serving(App(), access_log="off") as it:
        it.connect().ask(GET)
    assert kept == [None]
