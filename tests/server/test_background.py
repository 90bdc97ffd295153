"""`Response.background`: work after the answer, of every kind of handler and answer, through real sockets."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from hypoll import File, Request, Response, Routes, redirect
from tests.support.client import Client
from tests.support.clock import PATIENCE
from tests.support.kinds import async_pieces, declare, pieces
from tests.support.server import Running, running

KINDS = ["inline", "threaded", "async"]

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: asked\r\n\r\n".encode()


BODIES: dict[str, Callable[[str], Response]] = {
    "plain": lambda kind: Response("text"),
    "json": lambda kind: Response({"a": 1}),
    "empty": lambda kind: redirect("/"),
    "large": lambda kind: Response(bytes(1 << 20)),
    "file": lambda kind: Response(File(Path(__file__))),
    "unchanged": lambda kind: Response(b"", 304),
    "stream": lambda kind: Response(async_pieces() if kind == "async" else pieces()),
}


LARGE = 32 * 1024 * 1024
"""Bytes that no socket buffer takes."""


class Work:
    """Background work that is watched."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.held = threading.Event()
        self.held.set()
        self.began = threading.Event()
        self.runs: list[tuple[threading.Thread, str, bool]] = []

    def __call__(self) -> None:
        self._begin(False)
        assert self.held.wait(PATIENCE)
        self.done.set()

    async def awaited(self) -> None:
        self._begin(True)
        while not self.held.is_set():
            await asyncio.sleep(0.001)
        self.done.set()

    def _begin(self, in_task: bool) -> None:
        self.runs.append((threading.current_thread(), name.get(), in_task and asyncio.current_task() is not None))
        self.began.set()


def working(kind: str, work: Work, hooks: str) -> Routes:
    """Answer `/{body}` with that body, and work after it. hooks: "sync" or "async" ones are around it."""
    routes = Routes()
    background = work.awaited if kind == "async" else work

    def handler(request: Request, body: str) -> Response:
        name.set("somebody")
        response = BODIES[body](kind)
        response.background = background
        return response

    declare(routes, kind, "/{body}", handler)
    declare(routes, kind, "/", lambda request: "next")
    if hooks == "sync":
        routes.after(lambda request, response: response.headers.__setitem__("X", "1"))
    elif hooks == "async":

        @routes.after
        async def after(request: Request, response: Response) -> None:
            await asyncio.sleep(0)

    return routes


@pytest.mark.parametrize("hooks", ["none", "sync", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_once_after_each_answer_in_the_kind_and_context_of_its_handler(kind, hooks):
    work = Work()
    with running(working(kind, work, hooks)) as it:
        loop_thread = it.on_loop(threading.current_thread)
        client = it.connect()
        for body in BODIES:
            for method in ("GET", "HEAD"):
                work.done.clear()
                answer = client.ask(get(f"/{body}", method))
                assert answer.status in (200, 303, 304), body
                assert work.done.wait(PATIENCE), body
                assert client.ask(get("/")).body == b"next"
        assert len(work.runs) == 2 * len(BODIES)
        for thread, who, in_task in work.runs:
            assert (thread is loop_thread) is (kind != "threaded")
            assert in_task is (kind == "async")
            if not (hooks == "async" and kind == "threaded"):  # the thread has a copy of the task's context then
                assert who == "somebody"
        assert name.get() == "nobody"


@pytest.mark.parametrize("kind", ["threaded", "async"])
@pytest.mark.parametrize("body", BODIES)
def test_the_answer_does_not_wait_for_it(kind, body):
    work = Work()
    work.held.clear()
    with running(working(kind, work, "none")) as it:
        client = it.connect()
        assert client.ask(get(f"/{body}")).status < 400
        assert client.ask(get("/")).body == b"next"
        assert work.began.wait(PATIENCE)
        assert not work.done.is_set()
        work.held.set()
        assert work.done.wait(PATIENCE)


def test_inline_work_comes_when_the_answer_is_sent_and_before_the_next_request():
    order: list[str] = []
    routes = Routes()

    @routes.get("/{number}")
    def handler(request: Request, number: str) -> Response:
        order.append(f"answer {number}")
        return Response(number, background=lambda: order.append(f"work {number}"))

    with running(routes) as it:
        client = it.connect()
        client.send(get("/1") + get("/2") + get("/3"))
        assert [client.answer().body for _ in range(3)] == [b"1", b"2", b"3"]
        it.until(lambda: len(order) == 6)
    assert order == ["answer 1", "work 1", "answer 2", "work 2", "answer 3", "work 3"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_drain_waits_for_it(kind, caplog):
    work = Work()
    work.held.clear()
    caplog.set_level("INFO")
    with running(working(kind, work, "none"), graceful_timeout=PATIENCE) as it:
        client = it.connect()
        client.send(get("/plain"))
        if kind != "inline":  # which holds the loop
            assert client.answer().body == b"text"
        assert work.began.wait(PATIENCE)
        client.close()
        it.runner.loop.call_soon_threadsafe(it.server.drain)
        work.held.set()
    assert work.done.is_set()


def test_the_drain_says_what_it_waits_for(caplog):
    work = Work()
    work.held.clear()
    caplog.set_level("INFO")
    with running(working("threaded", work, "none"), graceful_timeout=PATIENCE) as it:
        client = it.connect()
        client.ask(get("/plain"))
        client.close()
        it.until(lambda: not it.server.connections)
        it.on_loop(it.server.drain)
        it.until(lambda: "1 call that no client waits for" in caplog.text)
        work.held.set()
    assert work.done.is_set()


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_raises_is_logged_once_with_route_and_request(kind, caplog):
    routes = Routes()

    def fail() -> None:
        raise ZeroDivisionError("own")

    async def fail_later() -> None:
        await asyncio.sleep(0)
        fail()

    failing = fail_later if kind == "async" else fail
    declare(routes, kind, "/items/{id}", lambda request, id: Response("fine", background=failing))  # noqa: A006
    with running(routes) as it:
        client = it.connect()
        assert client.ask(get("/items/7")).body == b"fine"
        it.until(lambda: caplog.records)
        assert client.ask(get("/items/8")).body == b"fine"
        it.until(lambda: len(caplog.records) == 2)
    assert caplog.records[0].request_id == "asked"
    text = caplog.records[0].getMessage()
    assert text.startswith("GET /items/{id}: the background work ")
    assert f"{failing.__name__} failed, request asked" in text
    assert len(caplog.records) == 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["threaded"])
def test_whatever_it_raises_on_a_thread_ends_nothing(kind, error, caplog):
    routes = Routes()

    def fail() -> None:
        raise error

    declare(routes, kind, "/", lambda request: Response("fine", background=fail))
    with running(routes) as it:
        client = it.connect()
        assert client.ask(get("/")).body == b"fine"
        it.until(lambda: caplog.records)
        assert client.ask(get("/")).body == b"fine"


async def send_mail(to: str = "ada") -> None:
    raise AssertionError("nobody awaits it")


class Mailer:
    async def __call__(self) -> None:
        await send_mail()


ASYNC_WORK: dict[str, Callable[[], Any]] = {
    "a function": send_mail,
    "a partial": functools.partial(send_mail, "bob"),
    "a partial of one": functools.partial(functools.partial(send_mail, to="bob")),
    "an object": Mailer(),
    "a method": Mailer().__call__,
}


@pytest.mark.parametrize("hooks", ["none", "sync", "async"])
@pytest.mark.parametrize("kind", ["inline", "threaded"])
@pytest.mark.parametrize(
    ("form", "body"), list(zip(ASYNC_WORK, ["plain", "json", "stream", "file", "plain"], strict=True))
)
def test_an_async_def_that_nobody_awaits_is_a_500(kind, hooks, form, body, caplog):
    if (kind, hooks) == ("inline", "async"):
        pytest.skip("the request is a task then, which awaits it")
    routes = Routes()
    closed: list[str] = []

    def body_of(kind: str) -> Response:
        def give() -> Iterator[bytes]:
            try:
                yield b"one"
            finally:
                closed.append(kind)

        if body != "stream":
            return BODIES[body](kind)
        given = give()
        next(given)
        return Response(given)

    def handler(request: Request) -> Response:
        response = body_of(kind)
        response.status, response.background = 201, ASYNC_WORK[form]
        return response

    declare(routes, kind, "/", handler)
    if hooks == "sync":
        routes.after(lambda request, response: None)
    elif hooks == "async":

        async def after(request: Request, response: Response) -> None:
            pass

        routes.after(after)
    with running(routes) as it:
        client = it.connect()
        assert [client.ask(get("/")).status for _ in range(2)] == [500, 500]
    assert "is an async def: that goes with the answer of an async def handler" in caplog.text
    assert len(caplog.records) == 2
    assert closed == [kind] * 2 * (body == "stream")


@pytest.mark.parametrize("kind", ["inline", "threaded"])
def test_the_refusal_of_async_work_is_one_of_the_application(kind):
    routes = Routes()
    routes.cors("https://app.example")
    declare(routes, kind, "/", lambda request: Response("fine", background=send_mail))
    with running(routes) as it:
        answer = it.connect().ask(get("/").replace(b"Host", b"Origin: https://app.example\r\nHost"))
    assert (answer.status, answer.fields["access-control-allow-origin"]) == (500, "https://app.example")


def test_other_servers_refuse_async_work_too(caplog):
    routes = Routes()
    routes.get("/")(lambda request: Response("fine", 201, background=send_mail))
    begun: list[str] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    routes.wsgi(environ, lambda status, fields: begun.append(status))
    assert begun == ["500 Internal Server Error"]
    assert "send_mail, test_background.py line" in caplog.text


@pytest.mark.parametrize("kind", ["inline", "threaded"])
def test_what_only_turns_out_to_be_async_is_logged(kind, caplog):
    routes = Routes()
    declare(routes, kind, "/", lambda request: Response("fine", background=lambda: send_mail()))
    with running(routes) as it:
        assert it.connect().ask(get("/")).body == b"fine"
        it.until(lambda: caplog.records)
    assert "it is an async def: that goes with the answer of an async def handler" in caplog.text


def test_a_def_is_for_async_handlers_too():
    work = Work()
    routes = Routes()
    declare(routes, "async", "/", lambda request: Response("fine", background=work))
    with running(routes) as it:
        assert it.connect().ask(get("/")).body == b"fine"
        assert work.done.wait(PATIENCE)
        assert work.runs[0][0] is it.on_loop(threading.current_thread)


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_when_the_client_has_gone(kind):
    work = Work()
    gone, entered = threading.Event(), threading.Event()
    routes = Routes()

    def endless(request: Request) -> Response:
        def give() -> Iterator[bytes]:
            while True:
                entered.set()
                yield bytes(1 << 16)

        async def give_async() -> AsyncIterator[bytes]:
            for piece in give():
                await asyncio.sleep(0)
                yield piece

        background = work.awaited if kind == "async" else work
        return Response(give_async() if kind == "async" else give(), background=background)

    declare(routes, kind, "/", endless)
    with running(routes) as it:
        client = it.connect()
        client.send(get("/"))
        assert entered.wait(PATIENCE)
        client.reset()
        assert work.done.wait(PATIENCE)
        gone.set()
    assert len(work.runs) == 1


class LongWork:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self._begun, self._go, self._ended = threading.Event(), threading.Event(), threading.Event()

    async def run(self) -> None:
        self._begun.set()
        while not self._go.is_set():
            await asyncio.sleep(0.002)
        self._ended.set()

    def ends_after(self, client: Client, it: Running) -> None:
        """See it come to its end though the client has gone before."""
        assert self._begun.wait(PATIENCE)
        client.reset()
        it.until(lambda: not it.server.connections)
        self._go.set()
        assert self._ended.wait(PATIENCE)


def test_it_goes_on_when_the_client_goes_that_has_not_read_the_body():
    work, routes = LongWork(), Routes()

    @routes.get("/")
    async def large(request):
        async def give() -> AsyncIterator[bytes]:
            yield bytes(LARGE)

        return Response(give(), headers={"Content-Length": str(LARGE)}, background=work.run)

    with running(routes) as it:
        client = it.connect(4096)
        client.send(get("/"))
        work.ends_after(client, it)


def test_that_of_a_refused_handshake_goes_on_when_the_client_goes():
    work, routes = LongWork(), Routes()

    @routes.before
    async def refuse(request):
        return Response("no", 403, background=work.run)

    @routes.websocket("/")
    async def chat(socket):
        raise AssertionError

    with running(routes) as it:
        client = it.connect()
        client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert client.answer().status == 403
        work.ends_after(client, it)


@pytest.mark.parametrize("kind", KINDS)
def test_it_belongs_to_the_response_that_is_sent(kind):
    first, second = Work(), Work()
    routes = Routes()
    declare(routes, kind, "/", lambda request: Response("one", background=first))
    routes.after(lambda request, response: Response("two", background=second))
    with running(routes) as it:
        assert it.connect().ask(get("/")).body == b"two"
        assert second.done.wait(PATIENCE)
    assert not first.runs
    assert len(second.runs) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("body", "field", "status"),
    [
        ("text", "X-None: 1", 200),
        ("text", "If-None-Match: *", 304),
        ("file", "X-None: 1", 200),
        ("file", "If-None-Match: *", 304),
        ("file", "Range: bytes=0-9", 206),
        ("file", "Range: bytes=9000-", 416),
    ],
)
def test_it_runs_whatever_the_server_makes_of_a_compressed_answer(kind, body, field, status, tmp_path):
    (tmp_path / "file.txt").write_bytes(b"x" * 2000)
    work = Work()
    routes = Routes()
    routes.compress()

    def answer(request: Request) -> Response:
        made: Any = File(tmp_path / "file.txt") if body == "file" else "x" * 2000
        tag = {"ETag": '"1"'} if body == "text" else {}
        return Response(made, headers=tag, background=work.awaited if kind == "async" else work)

    declare(routes, kind, "/", answer)
    with running(routes) as it:
        client = it.connect()
        came = client.ask(f"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n{field}\r\n\r\n".encode())
        assert came.status == status
        assert work.done.wait(PATIENCE)
    assert len(work.runs) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_response_leaves_its_work_each_time(kind):
    work = Work()
    constant = Response("text", background=work)
    routes = Routes()
    declare(routes, kind, "/", lambda request: constant)
    declare(routes, kind, "/tuple", lambda request: (constant, 201))
    with running(routes) as it:
        client = it.connect()
        for path in ("/", "/", "/tuple"):
            work.done.clear()
            assert client.ask(get(path)).body == b"text"
            assert work.done.wait(PATIENCE)
    assert len(work.runs) == 3


def test_what_can_not_be_called_is_refused():
    response: Any = Response()
    with pytest.raises(TypeError, match="called without arguments"):
        response.background = 5
    with pytest.raises(TypeError, match="called without arguments"):
        Response(background="x")  # type: ignore[arg-type]


def test_a_direct_call_gives_it_and_does_not_run_it():
    work = Work()
    routes = Routes()
    routes.get("/")(lambda request: Response("text", background=work))
    response = routes(Request("GET", b"/"))
    assert not work.runs
    assert response.background is work


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("body", ["plain", "file", "stream", "unchanged"])
@pytest.mark.parametrize("threaded", [False, True])
def test_under_wsgi_it_runs_when_the_server_closes_the_answer(threaded, body, method):
    work = Work()
    routes = working("threaded" if threaded else "inline", work, "none")
    environ = {"REQUEST_METHOD": method, "PATH_INFO": f"/{body}", "wsgi.url_scheme": "http", "wsgi.input": None}
    answer: Any = routes.wsgi(environ, lambda status, headers: None)
    sent = b"".join(answer)
    assert bool(sent) is (method == "GET" and body != "unchanged")
    assert not work.runs
    answer.close()
    answer.close()
    assert [who for _, who, _ in work.runs] == ["somebody"]


def test_it_costs_no_connection_when_many_ask():
    work = Work()
    with running(working("threaded", work, "none"), threads=2) as it:
        clients = [it.connect() for _ in range(8)]
        for client in clients:
            client.send(get("/plain"))
        assert {client.answer().body for client in clients} == {b"text"}
        end = time.monotonic() + PATIENCE
        while len(work.runs) < 8:
            assert time.monotonic() < end
            time.sleep(0.002)
