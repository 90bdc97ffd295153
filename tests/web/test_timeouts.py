"""A route's time limit: what the client gets, what becomes of the handler, and what is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hypoll import HTTPError, Request, Response, RouteError, Routes
from hypoll.server.handler_timeout import TimedExchange
from hypoll.testing import TestClient
from tests.support.client import PATIENCE, Answer, Client
from tests.support.server import Running, running

SHORT, LONG = 0.05, 60.0


class Gate:
    """Where handlers wait until the test is done, and what became of them."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.closed = threading.Event()

    def wait(self) -> None:
        self.begun.set()
        assert self.open.wait(PATIENCE)
        self.ended.set()


def service(gate: Gate, hooks: str) -> Routes:
    """Handlers that take too long, of each kind, and others."""
    routes = Routes()

    @routes.get("/threaded", threaded=True, timeout=SHORT)
    @routes.get("/threaded/{n:int}", threaded=True, timeout=SHORT)
    def threaded(request, n=0):
        gate.wait()
        return "too late"

    @routes.get("/threaded/stream", threaded=True, timeout=SHORT)
    def stream(request):
        def pieces() -> Iterator[bytes]:
            try:
                yield b"too late"
                yield b"too late"
            finally:
                gate.closed.set()

        gate.wait()
        return Response(pieces())

    @routes.post("/threaded/body", threaded=True, stream=True, timeout=SHORT)
    def body(request):
        return request.stream.read()

    @routes.get("/async", timeout=SHORT)
    @routes.get("/async/{n:int}", timeout=SHORT)
    async def task(request, n=0):
        try:
            gate.begun.set()
            await asyncio.sleep(LONG)
        finally:
            gate.ended.set()

    @routes.post("/async/body", stream=True, timeout=SHORT)
    async def async_body(request):
        return await request.stream.read()

    @routes.get("/hangs", threaded=True, timeout=LONG)
    def hangs(request):
        gate.wait()

    add_others(routes)
    add_hooks(routes, hooks)
    return routes


def add_hooks(routes: Routes, hooks: str) -> None:
    if hooks == "hooks":
        routes.before(lambda request: None)
    elif hooks == "async hooks":

        @routes.before
        async def hook(request):
            await asyncio.sleep(0)

    elif hooks == "cors":
        routes.cors("https://app.example")


def add_others(routes: Routes) -> None:
    """Handlers that don't take too long."""

    @routes.get("/quick/threaded", threaded=True, timeout=LONG)
    def quick(request):
        return {"quick": True}

    @routes.get("/quick/async", timeout=LONG)
    async def quick_task(request):
        return {"quick": True}

    @routes.get("/quick/stream", threaded=True, timeout=LONG)
    def quick_stream(request):
        return Response(iter([b"a", b"b"]))

    @routes.get("/own/async", timeout=LONG)
    async def own(request):
        raise TimeoutError

    routes.get("/inline")(lambda request: "inline")


@pytest.fixture(params=["plain", "hooks", "async hooks", "cors"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Running, Gate]]:
    gate = Gate()
    with running(service(gate, request.param), threads=2) as it:
        try:
            yield it, gate
        finally:
            gate.open.set()
            it.until(lambda: not it.server.thread_pool.unfinished)
            assert it.on_loop(lambda: it.server.thread_pool.overdue) == 0


def get(path: str, version: str = "1.1", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: a\r\nOrigin: https://app.example\r\n\r\n".encode()


def until_overdue(it: Running) -> None:
    """Each job that is left is one that nobody waits for. On a busy machine a thread may not have begun in time."""
    it.until(lambda: it.server.thread_pool.unfinished == it.server.thread_pool.overdue)


def time_out(it: Running, client: Client, gate: Gate, path: str = "/hangs") -> Answer:
    """Ask, and let the time be over when the handler is at work."""
    client.send(get(path))
    assert gate.begun.wait(PATIENCE)
    (exchange,) = (each.exchange for each in it.server.connections if isinstance(each.exchange, TimedExchange))
    it.on_loop(exchange._on_timeout)
    return client.answer()


@pytest.mark.parametrize("path", ["/threaded", "/threaded/1", "/threaded/stream", "/async", "/async/1"])
def test_the_client_is_answered_and_its_connection_goes_on(served, path):
    it, gate = served
    client: Client = it.connect()
    answer = client.ask(get(path))
    assert (answer.status, answer.fields["content-type"]) == (504, "application/problem+json")
    assert b"longer than 0.05 s" in answer.body
    assert client.ask(get("/inline")).body == b"inline"
    if path.startswith("/async"):
        assert gate.ended.wait(PATIENCE), "it is cancelled"
    else:
        assert not gate.ended.is_set()
        until_overdue(it)


def test_what_a_thread_still_gives_is_dropped(served):
    it, gate = served
    client: Client = it.connect()
    for path in ("/threaded", "/threaded/stream"):
        gate.open.clear()
        assert client.ask(get(path)).status == 504
        until_overdue(it)
        gate.open.set()
        it.until(lambda: not it.server.thread_pool.unfinished)
        assert client.ask(get("/quick/threaded")).body == b'{"quick":true}'
    assert client.data == b""


@pytest.mark.parametrize("path", ["/quick/threaded", "/quick/async", "/quick/stream"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_who_is_in_time_is_not_disturbed(served, path, version):
    it, _ = served
    answer = it.connect().ask(get(path, version))
    assert (answer.status, answer.body) == (200, b"ab" if path.endswith("stream") else b'{"quick":true}')
    assert "_on_timeout" not in timers(it)


def test_a_timeout_of_the_handlers_own_is_its_failure(served):
    assert served[0].connect().ask(get("/own/async")).status == 500


@pytest.mark.parametrize("path", ["/threaded/body", "/async/body"])
def test_a_body_that_does_not_come_counts_too(served, path):
    client: Client = served[0].connect()
    client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegun".encode())
    assert client.answer().status == 504
    assert client.rest() == b""  # the rest isn't waited for: the connection ends


@pytest.mark.parametrize(("version", "method"), [("1.0", "GET"), ("1.1", "HEAD")])
@pytest.mark.parametrize("path", ["/threaded", "/async"])
def test_other_versions_and_head(served, path, version, method):
    answer = served[0].connect().ask(get(path, version, method))
    assert answer.status == 504
    assert bool(answer.body) is (method == "GET")


def test_a_client_that_goes_before_leaves_no_timer(served):
    it, gate = served
    client: Client = it.connect()
    client.send(get("/hangs"))
    assert gate.begun.wait(PATIENCE)
    client.reset()
    it.until(lambda: not it.server.connections)
    gate.open.set()
    assert gate.ended.wait(PATIENCE)
    assert "_on_timeout" not in timers(it)


def timers(it: Running) -> set[str]:
    """The names of what the loop is to call later."""
    waiting = it.on_loop(lambda: [timer.callback for timer in it.runner.loop._timers if timer.callback is not None])
    return {getattr(callback, "__name__", "") for callback in waiting}


def test_a_request_in_the_queue_is_taken_out():
    gate, ran = Gate(), threading.Event()
    routes = Routes()
    routes.get("/busy", threaded=True)(lambda request: gate.wait())
    routes.get("/late", threaded=True, timeout=SHORT)(lambda request: ran.set())
    with running(routes, threads=1) as it:
        busy = it.connect()
        busy.send(get("/busy"))
        assert gate.begun.wait(PATIENCE)
        assert it.connect().ask(get("/late")).status == 504
        assert it.on_loop(lambda: (it.server.thread_pool.overdue, it.server.thread_pool.unfinished)) == (0, 1)
        gate.open.set()
        assert busy.answer().status == 204
    assert not ran.is_set()


def test_pipelined_requests_keep_their_order():
    gate = Gate()
    with running(service(gate, "plain")) as it:
        client = it.connect()
        client.send(get("/inline") + get("/threaded") + get("/inline") + get("/async") + get("/inline"))
        assert [client.answer().status for _ in range(5)] == [200, 504, 200, 504, 200]
        gate.open.set()


def test_cors_and_hooks_see_the_504():
    gate, seen = Gate(), []
    routes = service(gate, "cors")
    routes.after(lambda request, response: seen.append(response.status))
    routes.error(HTTPError)(lambda request, error: (f"error hook: {error.status}", error.status))
    with running(routes) as it:
        for path in ("/threaded", "/async"):
            answer = it.connect().ask(get(path))
            assert (answer.status, answer.fields["access-control-allow-origin"]) == (504, "https://app.example")
        assert answer.body == b"error hook: 504"
        assert seen == [504]  # of the task; those of a thread run on it
        gate.open.set()


def test_the_log_says_that_a_thread_goes_on(caplog):
    gate = Gate()
    with running(service(gate, "plain")) as it:
        assert time_out(it, it.connect(), gate).status == 504
        assert it.connect().ask(get("/async")).status == 504
        gate.open.set()
    (line,) = (line for line in caplog.messages if "took longer" in line)
    assert line.startswith("GET /hangs took longer than 60 s: its thread goes on, request ")


def test_a_thread_that_waits_for_a_body_is_told_and_has_not_failed(caplog):
    routes = Routes()
    routes.post("/", threaded=True, stream=True, timeout=SHORT)(lambda request: request.stream.read())
    with running(routes) as it:
        client = it.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegun")
        assert client.answer().status == 504
        it.until(lambda: not it.server.thread_pool.unfinished)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("body", ["bytes", "pieces"])
def test_the_answer_in_place_of_a_thread_has_all_that_it_may_have(body):
    gate, done = Gate(), threading.Event()
    routes = service(gate, "async hooks")

    @routes.error(HTTPError)
    async def show(request, error):
        made = b"ab" if body == "bytes" else iter([b"a", b"b"])
        return Response(made, error.status, background=done.set)

    with running(routes, threads=2) as it:
        client = it.connect()
        answer = client.ask(get("/threaded"))
        assert (answer.status, answer.body) == (504, b"ab")
        assert done.wait(PATIENCE)
        assert client.ask(get("/inline")).body == b"inline"
        assert it.on_loop(lambda: it.server.thread_pool.overdue) == 1, "the thread was waited for"
        gate.open.set()
        it.until(lambda: not it.server.thread_pool.unfinished)
        assert it.on_loop(lambda: (it.server.thread_pool.overdue, it.server.thread_pool.leases)) == (0, 0)


def test_a_stream_has_its_time_until_its_head():
    routes, go = Routes(), threading.Event()

    @routes.get("/", threaded=True, timeout=LONG)
    def threaded(request):
        def pieces() -> Iterator[bytes]:
            yield b"a"
            assert go.wait(PATIENCE)
            yield b"b"

        return Response(pieces())

    with running(routes) as it:
        client = it.connect()
        client.send(get("/"))
        assert client.head()[0] == 200
        assert "_on_timeout" not in timers(it)
        go.set()
        assert b"".join(iter(client.chunk, b"")) == b"ab"


def test_mounted_and_called_without_a_server():
    inner, outer = Routes(), Routes()

    @inner.get("/async", timeout=SHORT)
    async def task(request):
        await asyncio.sleep(LONG)

    gate = threading.Event()
    inner.get("/quick", threaded=True, timeout=SHORT)(lambda request: "x")
    inner.get("/threaded", threaded=True, timeout=SHORT)(lambda request: gate.wait(PATIENCE))
    outer.mount("/in", inner)
    assert outer(Request("GET", b"/in/async")).status == 504
    assert outer(Request("GET", b"/in/quick")).body == b"x"
    with TestClient(outer) as client:
        assert [client.get(f"/in/{kind}").status_code for kind in ("async", "threaded")] == [504, 504]
        gate.set()


def test_work_behind_the_answer_is_done_though_nobody_gets_it():
    gate, done = Gate(), threading.Event()
    routes = Routes()

    @routes.get("/", threaded=True, timeout=LONG)
    def late(request):
        gate.wait()
        return Response("late", background=done.set)

    with running(routes) as it:
        client = it.connect()
        assert time_out(it, client, gate, "/").status == 504
        gate.open.set()
        assert done.wait(PATIENCE)
        it.until(lambda: not it.server.thread_pool.unfinished)
        assert client.data == b""


def test_the_metrics_and_the_status_page_count_overdue_threads():
    gate = Gate()
    with running(service(gate, "plain"), metrics="/metrics", status="/status") as it:
        assert time_out(it, it.connect(), gate).status == 504
        assert it.on_loop(lambda: it.server.thread_pool.overdue) == 1
        it.on_loop(it.server._tick)
        assert b"\nhypoll_overdue_threads 1.0\n" in it.connect().ask(get("/metrics")).body
        assert b'"overdue":1' in it.connect().ask(get("/status.json")).body
        gate.open.set()


@pytest.mark.parametrize("timeout", [0, -1, "5", True, float("inf"), float("nan")])
def test_a_timeout_is_a_number_of_seconds(timeout):
    options: dict[str, Any] = {"timeout": timeout}
    with pytest.raises(RouteError, match="timeout is a number of seconds above 0"):
        Routes().get("/", threaded=True, **options)(lambda request: None)


def test_a_handler_on_the_loop_can_have_none():
    with pytest.raises(RouteError, match="GET /: a def on the loop can't be interrupted: timeout needs threaded=True"):
        Routes().get("/", timeout=1)(lambda request: None)


def test_the_route_shows_the_handler_itself():
    routes = Routes()

    @routes.get("/", timeout=1)
    async def index(request):
        return None

    (route,) = routes.table()
    assert "index, test_timeouts.py line " in route.place
