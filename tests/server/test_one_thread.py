"""One request, one thread, one context: whatever an application keeps for a request, no other request meets it."""

from __future__ import annotations

import contextvars
import queue
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import trustme

from hypoll import HTTPError, Request, Response, Routes, sse
from hypoll.server.spool import OWN_LIMIT
from hypoll.testing import TestClient
from tests.support.client import PATIENCE, Answer, Client, address_of, fetch
from tests.support.server import running

CLIENTS = 40
FEW = 12
PIECES = 6

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
local = threading.local()


BLIND = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Of a client that believes any certificate."""
BLIND.check_hostname = False
BLIND.verify_mode = ssl.CERT_NONE


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


@contextmanager
def serving(application: Any, pem: str | None, **settings: Any) -> Iterator[Callable[[str], Answer]]:
    """Serve, and give what asks for a path; with `pem` over TLS."""
    with TestClient(application, threads=4, certfile=pem or "", **settings) as client:
        address = address_of(client.base_url)
        yield lambda path: fetch(address, path, tls=None if pem is None else BLIND)


def all_of(ask: Callable[[str], Answer], path: str, clients: int = CLIENTS) -> list[tuple[int, str]]:
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda number: (number, ask(f"{path}{number}")), range(clients)))
    assert [answer.status for _, answer in answers] == [200] * clients
    return [(number, answer.body.decode()) for number, answer in answers]


def pieces_of_thread_local() -> Iterator[bytes]:
    for _ in range(PIECES):
        yield local.number.encode() + b" "


def six_rows() -> sqlite3.Cursor:
    """Rows of a database in memory, which only the thread that made it may use."""
    database = sqlite3.connect(":memory:")
    return database.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 6) SELECT i FROM n")


def pieces_of_rows(rows: sqlite3.Cursor, number: str) -> Iterator[bytes]:
    try:
        for _ in rows:
            yield number.encode() + b" "
    finally:
        rows.connection.close()  # Python 3.13 warns of one that is left open


def pieces_of_cursor(number: str) -> Iterator[bytes]:
    yield from pieces_of_rows(six_rows(), number)


def pieces_of_context() -> Iterator[bytes]:
    for _ in range(PIECES):
        yield name.get().encode() + b" "


def hooked(hook: str) -> Routes:
    routes = Routes()
    if hook == "async":

        @routes.before
        async def before(request: Request) -> None:
            assert name.get() == "nobody"
    elif hook == "threaded":

        @routes.before
        def note(request: Request) -> None:
            assert name.get() == "nobody"

    return routes


def routes_of(hook: str) -> Routes:
    routes = hooked(hook)

    @routes.get("/local/{number}", threaded=True)
    def thread_local(request: Request, number: str) -> Response:
        local.number = number
        return Response(pieces_of_thread_local())

    @routes.get("/cursor/{number}", threaded=True)
    def cursor(request: Request, number: str) -> Response:
        return Response(pieces_of_rows(six_rows(), number))

    @routes.get("/context/{number}", threaded=True)
    def context(request: Request, number: str) -> Response:
        assert name.get() == "nobody"
        name.set(number)
        return Response(pieces_of_context())

    @routes.get("/inline/{number}")
    def inline(request: Request, number: str) -> Response:
        assert name.get() == "nobody"
        name.set(number)
        return Response(pieces_of_context())

    @routes.get("/async/{number}")
    async def awaiting(request: Request, number: str) -> Response:
        assert name.get() == "nobody"
        name.set(number)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in pieces_of_context():
                yield piece

        return Response(pieces())

    @routes.get("/mixed/{number}")
    async def mixed(request: Request, number: str) -> Response:
        assert name.get() == "nobody"
        name.set(number)
        return Response(pieces_of_context())

    return routes


@pytest.mark.parametrize(("hook", "tls"), [("none", False), ("threaded", False), ("async", False), ("none", True)])
def test_a_routes_request_meets_nothing_of_another(hook, tls, pem):
    with serving(routes_of(hook), pem if tls else None) as ask:
        for path in (
            ("local", "cursor", "context") if tls else ("local", "cursor", "context", "inline", "async", "mixed")
        ):
            for number, text in all_of(ask, f"/{path}/", FEW if tls else CLIENTS):
                assert text == f"{number} " * PIECES, path


def wsgi_application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    _, kind, number = environ["PATH_INFO"].split("/")
    assert name.get() == "nobody"
    name.set(number)
    local.number = number
    start_response("200 OK", [("Content-Type", "text/plain")])
    if kind == "local":
        return pieces_of_thread_local()
    return pieces_of_cursor(number) if kind == "cursor" else pieces_of_context()


class Middleware:
    """Closes what it has opened for the request, on the thread that it was opened on."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.faults: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        opener = threading.get_ident(), name.get()
        connection = sqlite3.connect(":memory:")
        pieces = self.application(environ, start_response)
        middleware = self

        class Closing:
            def __iter__(self) -> Iterator[bytes]:
                return iter(pieces)

            def close(self) -> None:
                closer = threading.get_ident(), name.get()
                if closer[0] != opener[0] or closer[1] != environ["PATH_INFO"].split("/")[2]:
                    middleware.faults.append(f"opened by {opener}, closed by {closer}")
                connection.close()

        return Closing()


@pytest.mark.parametrize("tls", [False, True])
def test_a_wsgi_request_meets_nothing_of_another(tls, pem):
    middleware = Middleware(wsgi_application)
    with serving(middleware, pem if tls else None) as ask:
        for path in ("local", "cursor", "context"):
            for number, text in all_of(ask, f"/{path}/", FEW if tls else CLIENTS):
                assert text == f"{number} " * PIECES, path
    assert middleware.faults == []


def test_flask_streams_with_its_request_context():
    import flask

    app = flask.Flask(__name__)

    @app.get("/<number>")
    def stream(number: str) -> Any:
        flask.g.number = number

        def pieces() -> Iterator[str]:
            for _ in range(PIECES):
                yield f"{flask.g.number}-{flask.request.view_args['number']} "  # type: ignore[index]

        return flask.Response(flask.stream_with_context(pieces()))

    with serving(app, None) as ask:
        for number, text in all_of(ask, "/"):
            assert text == f"{number}-{number} " * PIECES


@pytest.mark.parametrize("kind", ["wsgi", "threaded"])
@pytest.mark.parametrize("end", ["whole", "reset", "unread"])
def test_a_body_is_closed_once_on_its_own_thread_and_in_its_context(kind, end):
    threads: list[Any] = []
    closed = threading.Event()
    gate = threading.Event()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(3):
                threads.append((threading.get_ident(), name.get()))
                yield b"x" * 10
                if end != "whole":
                    gate.wait(PATIENCE)

        def close(self) -> None:
            threads.append((threading.get_ident(), name.get()))
            closed.set()

    def application(environ: Any, start_response: Any) -> Body:
        name.set("mine")
        start_response("200 OK", [])
        return Body()

    routes = Routes()

    @routes.get("/", threaded=True)
    def handler(request: Request) -> Response:
        name.set("mine")
        return Response(Body())

    with TestClient(application if kind == "wsgi" else routes) as client:
        host, port = client.base_url.removeprefix("http://").split(":")
        peer = Client((host, int(port)))
        peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        peer.head()
        if end == "whole":
            assert peer.rest().endswith(b"0\r\n\r\n")
        elif end == "reset":
            peer.reset()
            server = client._server
            done = time.monotonic() + PATIENCE
            while server.connections and time.monotonic() < done:
                time.sleep(0.001)
        gate.set()
        assert closed.wait(PATIENCE)
        peer.close()
    assert len(set(threads)) == 1
    assert threads[0][1] == "mine"


def endless(steps: queue.SimpleQueue[bytes]) -> Iterator[bytes]:
    while True:
        yield steps.get()


def test_an_endless_stream_on_a_thread_is_flushed_as_it_comes_and_leaves_the_pool():
    routes = Routes()
    steps: list[queue.SimpleQueue[bytes]] = []

    @routes.get("/stream", threaded=True)
    def stream(request: Request) -> Response:
        steps.append(queue.SimpleQueue())
        return Response(endless(steps[-1]))

    routes.get("/other", threaded=True)(lambda request: "other")
    with running(routes, threads=1, stream_threads=2) as it:
        streams = []
        for number in range(2):
            client = it.connect()
            client.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.head()[0] == 200
            steps[number].put(b"piece")
            assert client.chunk() == b"piece"
            streams.append(client)
            it.on_loop(lambda: it.server.thread_pool.tick(it.runner.loop.now + 10))  # it has gone on for long
            assert it.on_loop(lambda: it.server.thread_pool.detached) == number + 1
        other = it.connect()
        assert other.ask(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").body == b"other"
        # There is no room for a third: it is told before its head, and its body closed.
        assert other.ask(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").status == 503
        assert other.ask(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").body == b"other"
        streams[0].reset()
        it.until(lambda: len(it.server.connections) == 2)
        steps[0].put(b"nobody reads it")
        it.until(lambda: it.server.thread_pool.detached == 1)
        other.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.head()[0] == 200
        streams[1].reset()
        other.reset()
        it.until(lambda: not it.server.connections)
        for step in steps:
            step.put(b"x")


def test_a_slow_reader_holds_no_thread_up_to_the_spools_mark_and_beyond_it_none_that_counts():
    routes = Routes()
    made: list[int] = []
    piece = bytes(256 * 1024)

    @routes.get("/big/{size:int}", threaded=True)
    def big(request: Request, size: int) -> Response:
        def pieces() -> Iterator[bytes]:
            for _ in range(size // len(piece)):
                made.append(1)
                yield piece

        return Response(pieces())

    routes.get("/other", threaded=True)(lambda request: "other")
    # Whoever waits for its turn to be read below isn't blamed for that, however long the other takes.
    with running(routes, threads=1, write_timeout=1000.0) as it:
        reader = it.connect(4096)
        reader.send(b"GET /big/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (OWN_LIMIT // 2))
        reader.head()
        it.until(lambda: it.server.thread_pool.unfinished == 0)  # its thread has gone on, and is done
        assert it.server.context.spool_space.disk > 0
        waiting = it.connect(4096)
        waiting.send(b"GET /big/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (4 * OWN_LIMIT))
        waiting.head()
        it.until(lambda: it.server.thread_pool.detached == 1)
        assert it.connect().ask(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").body == b"other"
        for client in (reader, waiting):  # from here on they read fast
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, len(piece))
        assert sum(len(reader.chunk()) for _ in range(OWN_LIMIT // 2 // len(piece))) == OWN_LIMIT // 2
        assert reader.chunk() == b""
        assert len(made) < (4 * OWN_LIMIT) // len(piece)
        for _ in range(4 * OWN_LIMIT // len(piece)):
            assert len(waiting.chunk()) == len(piece)
        assert waiting.chunk() == b""
        it.until(lambda: it.server.thread_pool.unfinished == it.server.thread_pool.detached == 0)
        assert (it.server.context.spool_space.memory, it.server.context.spool_space.disk) == (0, 0)


def test_a_thread_that_waits_for_an_upload_leaves_the_pool():
    routes = Routes()
    routes.post("/", threaded=True, stream=True)(lambda request: str(len(request.stream.read())))
    routes.get("/other", threaded=True)(lambda request: "other")
    with running(routes, threads=1) as it:
        slow = it.connect()
        slow.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        it.until(lambda: it.server.thread_pool.detached == 1)
        assert it.connect().ask(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").body == b"other"
        slow.send(b"67890")
        assert slow.answer().body == b"10"
        it.until(lambda: it.server.thread_pool.detached == it.server.thread_pool.unfinished == 0)


def test_slow_uploads_hold_no_thread_of_a_wsgi_application():
    called: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        called.append(environ["REQUEST_METHOD"])
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    with TestClient(application, threads=2) as client:
        host, port = client.base_url.removeprefix("http://").split(":")
        slow = [Client((host, int(port))) for _ in range(8)]
        for peer in slow:
            peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + bytes(100))
        assert client.get("/").status_code == 200
        assert called == ["GET"]
        for peer in slow:
            peer.send(bytes(299_900))
        for peer in slow:
            assert len(peer.answer().body) == 300_000
            peer.close()
        space = client._server.context.spool_space
        assert (space.memory, space.disk) == (0, 0)


def test_a_request_that_gets_no_thread_is_503(monkeypatch):
    routes = Routes()
    routes.get("/", threaded=True)(lambda request: "threaded")

    @routes.get("/inline")
    def inline(request: Request) -> str:
        return "inline"

    with running(routes) as it:
        client = it.connect()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start")))
            assert client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 503
            assert client.ask(b"GET /inline HTTP/1.1\r\nHost: a\r\n\r\n").body == b"inline"
        assert client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"threaded"


def test_a_hook_that_awaits_and_a_threaded_handler_share_one_thread_and_pass_copies():
    """As `asyncio.to_thread` does: what the hook sets the handler sees, what the handler sets the hook doesn't."""
    routes = Routes()
    seen: list[Any] = []

    @routes.before
    async def before(request: Request) -> None:
        name.set("hook")

    @routes.after
    async def after(request: Request, response: Response) -> None:
        seen.append(name.get())

    @routes.get("/", threaded=True)
    def handler(request: Request) -> Response:
        seen.append((threading.get_ident(), name.get()))
        name.set("handler")

        def pieces() -> Iterator[bytes]:
            yield b"x"
            seen.append((threading.get_ident(), name.get()))

        return Response(pieces())

    with running(routes) as it:
        assert it.connect().ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"x"
        it.until(lambda: not it.server.thread_pool.unfinished)
        loop = it.on_loop(threading.get_ident)
    handled, hooked, streamed = seen
    assert handled[1] == "hook"
    assert hooked == "hook"
    assert streamed == (handled[0], "handler")
    assert handled[0] != loop


def test_events_of_a_thread_have_heartbeats_between_them():
    routes = Routes()
    gate = threading.Event()

    @routes.get("/", threaded=True)
    def events(request: Request) -> Response:
        def pieces() -> Iterator[str]:
            yield "first"
            gate.wait(PATIENCE)
            yield "second"

        return sse(pieces(), keep_alive=0.05)

    with running(routes) as it:
        client = it.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.head()
        assert client.chunk() == b"data: first\n\n"
        assert client.chunk() == b": keep-alive\n\n"
        assert client.chunk() == b": keep-alive\n\n"
        gate.set()
        while (chunk := client.chunk()) == b": keep-alive\n\n":
            pass
        assert chunk == b"data: second\n\n"
        assert client.chunk() == b""


def test_a_handler_that_answers_503_for_want_of_streams_has_its_body_closed():
    routes = Routes()
    closed = threading.Event()

    @routes.get("/", threaded=True)
    def stream(request: Request) -> Response:
        class Body:
            def __iter__(self) -> Iterator[bytes]:
                raise HTTPError(500)

            def close(self) -> None:
                closed.set()

        return Response(Body())

    with running(routes, stream_threads=0) as it:
        assert it.connect().ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 503
        assert closed.wait(PATIENCE)


def test_a_file_wrappers_file_is_closed_while_a_slow_reader_still_gets_it(tmp_path, pem):
    path = tmp_path / "large"
    path.write_bytes(bytes(8 * 1024 * 1024))
    closed = threading.Event()

    class Watched:
        def __init__(self) -> None:
            self.file = path.open("rb")
            self.read = self.file.read

        def close(self) -> None:
            self.file.close()
            closed.set()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](Watched())

    for certfile in ("", pem):
        closed.clear()
        with (
            TestClient(application, certfile=certfile) as client,
            Client(address_of(client.base_url), tls=BLIND if certfile else None) as peer,
        ):
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert closed.wait(PATIENCE)
            assert len(peer.rest()) > 8 * 1024 * 1024
