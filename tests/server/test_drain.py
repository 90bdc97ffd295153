"""Going away: no request of a pool is lost, streams without an end come to one, and the log says what is waited for."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from hypoll import Request, Response, Routes, sse
from hypoll.testing import TestClient
from tests.support.client import PATIENCE, Client, address_of
from tests.support.clock import Clock
from tests.support.gunicorn import GUNICORN, HYPOLL, Master, until
from tests.support.matrix import covering, some
from tests.support.server import running

LONG = 60.0
"""Seconds that nobody waits for."""

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


class Polled:
    """An inline stream, which is pulled whenever the socket can take more, and so never has nothing."""

    def __init__(self, closed: threading.Event) -> None:
        self.closed = closed

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return "first" + "." * 10_000

    def close(self) -> None:
        self.closed.set()


async def pause(request: Request) -> None:
    await asyncio.sleep(0)


def events(kind: str, closed: threading.Event, gate: queue.SimpleQueue[str]) -> Routes:
    """An event stream that waits for ever after its first event."""
    routes = Routes()

    def blocking() -> Iterator[str]:
        try:
            yield "first"
            while True:
                yield gate.get()
        finally:
            closed.set()

    async def waiting() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def stream(request: Request) -> Response:
        return sse(waiting())

    routes.get("/other")(lambda request: "other")
    if kind == "async":
        routes.get("/")(stream)
    elif kind in ("threaded", "hooked"):
        routes.get("/", threaded=True)(lambda request: sse(blocking()))
        if kind == "hooked":  # a task waits for what the thread does
            routes.before(pause)
    else:
        routes.get("/")(lambda request: sse(Polled(closed)))
    return routes


KINDS = ["threaded", "hooked", "async", "inline"]


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_an_event_stream_ends_cleanly_when_a_drain_begins(kind, minor, caplog):
    caplog.set_level("INFO")
    closed = threading.Event()
    gate: queue.SimpleQueue[str] = queue.SimpleQueue()
    with running(events(kind, closed, gate), graceful_timeout=1000.0) as it:
        client = it.connect(4096 if kind == "inline" else 0)
        client.send(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
        assert client.head()[0] == 200
        while b"first" not in client.data:
            assert client.more()
        it.on_loop(it.server.drain)
        rest = client.rest()
        client.close()
        assert rest.endswith(b"0\r\n\r\n" if minor else b"\n\n")
        if kind in ("async", "inline"):
            assert closed.wait(PATIENCE)
    # The server has stopped, though the thread still waits for its queue: that isn't waited for.
    gate.put("last")
    assert closed.wait(PATIENCE)
    assert [record.getMessage() for record in caplog.records] == ["draining: 1 stream"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_stream_that_is_asked_for_in_a_drain_ends_at_once(kind, caplog):
    """By an idle connection: a proxy passes on the request of the client whose stream has just ended."""
    closed = threading.Event()
    gate: queue.SimpleQueue[str] = queue.SimpleQueue()
    with running(events(kind, closed, gate), graceful_timeout=1000.0, drain_keep_alive=1000.0) as it:
        client = it.connect(4096 if kind == "inline" else 0)
        client.send(GET % b"other")
        assert client.answer().body == b"other"
        it.on_loop(it.server.drain)
        client.send(GET % b"")
        status, fields = client.head()
        assert (status, fields["connection"]) == (200, "close")
        assert client.rest().endswith(b"0\r\n\r\n")
        client.close()
    gate.put("last")
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


@pytest.mark.parametrize("kind", ["threaded", "async"])
def test_an_event_stream_whose_handler_was_at_work_when_a_drain_began_ends_at_once(kind):
    routes = Routes()
    entered, gate = threading.Event(), threading.Event()

    def blocking() -> Iterator[str]:
        yield "first"
        gate.clear()
        gate.wait(PATIENCE)

    async def waiting() -> AsyncIterator[str]:
        yield "first"
        await asyncio.Event().wait()

    async def stream(request: Request) -> Response:
        entered.set()
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return sse(waiting())

    def handler(request: Request) -> Response:
        entered.set()
        gate.wait(PATIENCE)
        return sse(blocking())

    routes.get("/", threaded=kind == "threaded")(handler if kind == "threaded" else stream)
    with running(routes, graceful_timeout=1000.0) as it:
        client = it.connect()
        client.send(GET % b"")
        assert entered.wait(PATIENCE)
        it.on_loop(it.server.drain)
        it.on_loop(gate.set)
        client.head()
        assert client.rest().endswith(b"0\r\n\r\n")
        client.close()
    gate.set()


@pytest.mark.parametrize(("kind", "minor"), covering(["threaded", "async", "inline"], [0, 1]))
def test_other_streams_are_told_and_cut_at_the_end_without_a_last_chunk(kind, minor, caplog):
    caplog.set_level("INFO")
    routes = Routes()
    seen: list[bool] = []

    def pieces(request: Request) -> Iterator[bytes]:
        while True:
            seen.append(request.draining)
            yield b"piece" * 1000

    async def awaited(request: Request) -> AsyncIterator[bytes]:
        while True:
            seen.append(request.draining)
            yield b"piece" * 1000
            await asyncio.sleep(0.001)

    async def stream(request: Request) -> Response:
        return Response(awaited(request))

    routes.get("/", threaded=kind == "threaded")(
        stream if kind == "async" else lambda request: Response(pieces(request))
    )
    with running(routes, clock=Clock(), graceful_timeout=1.0) as it:
        client = it.connect(4096)
        client.send(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
        client.head()
        assert client.take(5)
        it.on_loop(it.server.drain)
        while True not in seen:
            assert client.more()
        it.after(1.1)
        if minor:
            assert not client.rest().endswith(b"0\r\n\r\n")
        else:
            with pytest.raises(ConnectionResetError):  # its end would look like the body's
                list(iter(lambda: client.sock.recv(1 << 16), b""))
    assert True in seen
    assert "draining: 1 stream\n" in caplog.text
    assert "closing 1 connections: cut 1 stream\n" in caplog.text


def test_hooks_run_once_when_a_drain_begins_whatever_others_raise(caplog):
    routes, mounted = Routes(), Routes()
    drained: list[str] = []

    @routes.on_drain
    def leave() -> None:
        sys.exit("on purpose")  # which is no way to stop a server

    @routes.on_drain
    async def leave_later() -> None:
        sys.exit("on purpose, later")

    @routes.on_drain
    def note() -> None:
        drained.append("sync")

    @mounted.on_drain
    async def note_later() -> None:
        await asyncio.sleep(0)
        drained.append("async")

    routes.mount("/mounted", mounted)
    with running(routes, drain_keep_alive=1000.0, graceful_timeout=1000.0) as it:
        client = it.connect()
        client.send(GET % b"")
        client.answer()
        it.on_loop(it.server.drain)
        it.on_loop(it.server.drain)
        it.until(lambda: len(drained) == 2)
    assert drained == ["sync", "async"]
    assert caplog.text.count("the on_drain hook") == 2


def test_a_hook_without_an_end_is_named(caplog):
    routes = Routes()
    routes.get("/")(lambda request: "ok")

    @routes.on_drain
    async def wait() -> None:
        # Nobody else knows of the event, and the garbage collector comes by.
        asyncio.get_running_loop().call_soon(gc.collect)
        await asyncio.Event().wait()

    with running(routes, graceful_timeout=0.1):
        pass
    assert "graceful_timeout passed: closing 0 connections: cut 1 on_drain hook\n" in caplog.text


def test_a_stream_that_asks_ends_by_itself():
    routes = Routes()

    def pieces(request: Request) -> Iterator[bytes]:
        while not request.draining:
            yield b"piece"
            time.sleep(0.001)
        yield b"bye"

    routes.get("/", threaded=True)(lambda request: Response(pieces(request)))
    with running(routes, graceful_timeout=1000.0) as it:
        client = it.connect()
        client.send(GET % b"")
        client.head()
        assert client.chunk() == b"piece"
        it.on_loop(it.server.drain)
        assert client.rest().endswith(b"3\r\nbye\r\n0\r\n\r\n")
        client.close()


def test_the_log_says_what_a_drain_waits_for(caplog):
    caplog.set_level("INFO")
    routes = Routes()
    gate = threading.Event()
    entered = threading.Semaphore(0)

    @routes.get("/slow", threaded=True)
    def slow(request: Request) -> str:
        assert not request.draining
        entered.release()
        gate.wait(PATIENCE)
        return str(request.draining)

    with running(routes, graceful_timeout=PATIENCE) as it:
        clients = [it.connect() for _ in range(3)]
        for client in clients:
            client.send(GET % b"slow")
        assert all(entered.acquire(timeout=PATIENCE) for _ in clients)
        clients.pop().reset()
        it.until(lambda: len(it.server.connections) == 2)
        it.on_loop(it.server.drain)
        it.on_loop(lambda: None)
        gate.set()
        for client in clients:
            assert client.answer().body == b"True"
    assert "draining: 2 requests, 1 call that no client waits for" in caplog.text


def test_a_test_client_waits_for_no_idle_connection():
    routes = Routes()
    routes.get("/")(lambda request: "ok")
    begun = time.monotonic()
    with TestClient(routes, drain_keep_alive=LONG, graceful_timeout=LONG) as client:
        assert client.get("/").text == "ok"
        idle = Client(address_of(client.base_url))
        assert idle.get().body == b"ok"
    assert time.monotonic() - begun < LONG / 2
    idle.close()


def test_a_test_client_waits_for_no_stream():
    routes = Routes()

    def pieces() -> Iterator[bytes]:
        while True:
            yield b"piece"
            time.sleep(0.001)

    routes.get("/", threaded=True)(lambda request: Response(pieces()))
    begun = time.monotonic()
    with TestClient(routes, graceful_timeout=LONG) as client, client.get("/", stream=True) as answer:
        assert next(answer.iter_content(5)) == b"piece"
        client.__exit__()
    assert time.monotonic() - begun < LONG / 2


def test_a_test_client_waits_for_no_stream_whose_thread_waits_for_ever():
    routes = Routes()
    gate: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            yield b"piece"
            yield gate.get()
        finally:
            closed.set()

    routes.get("/", threaded=True)(lambda request: Response(pieces()))
    with TestClient(routes, graceful_timeout=1000.0) as client, client.get("/", stream=True) as answer:
        assert next(answer.iter_content(5)) == b"piece"
        client.__exit__()
    gate.put(b"last")
    assert closed.wait(PATIENCE)


@pytest.mark.parametrize("command", some([(HYPOLL,), (GUNICORN,)], 1))
def test_a_reload_waits_for_no_stream(tmp_path, command):
    if command is HYPOLL:
        pytest.importorskip("watchfiles")
    source = """
import time
from hypoll import Response, Routes
routes = Routes()
def pieces():
    while True:
        yield b"piece"
        time.sleep(0.01)
routes.get("/stream", threaded=True)(lambda request: Response(pieces()))
routes.get("/")(lambda request: "first")
"""
    (tmp_path / "app.py").write_text(source)
    with (
        Master(tmp_path, (*command, "--bind", "127.0.0.1:0", "--reload")) as master,
        Client(("127.0.0.1", master.port)) as client,
    ):
        client.send(GET % b"stream")
        assert client.head()[0] == 200
        assert client.chunk() == b"piece"
        (tmp_path / "app.py").write_text(source.replace("first", "second"))
        if command is GUNICORN:  # whose watcher takes what it sees first for unchanged: now or in a moment

            def has_noticed() -> bool:
                os.utime(tmp_path / "app.py")
                return sum("Booting worker" in line for line in master.lines) > 1

            until(has_noticed)
        else:
            master.says("serves app:routes on", 2)


APP = """
from hypoll import Routes
routes = Routes()
routes.get("/")(lambda request: "ok")
routes.post("/")(lambda request: request.body.decode())
"""


class Pool(threading.Thread):
    """A proxy's pool: connections that are used at least once a second, and requests that are never sent twice.

    It closes a connection when an answer says close, or when it finds it at its end before it uses it: as proxies do.
    """

    def __init__(self, address: str, connections: int) -> None:
        super().__init__()
        self.address = address_of(address)
        self.ending = threading.Event()
        self.answered = 0
        self.lost: list[str] = []
        self.clients: list[Client | None] = [None] * connections

    def run(self) -> None:
        number = 0
        while not self.ending.is_set():
            at = number % len(self.clients)
            client = self.clients[at] = self.usable(self.clients[at])
            body = b"%d" % number
            request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            closes = True
            try:
                answer = client.ask(request if number % 2 else GET % b"")
                closes = answer.fields.get("connection") == "close"
                if (answer.status, answer.body) == (200, body if number % 2 else b"ok"):
                    self.answered += 1
                else:
                    self.lost.append(f"{number}: {answer!r}")
            except OSError as error:
                self.lost.append(f"{number}: {error!r}")
            if closes:
                client.close()
                self.clients[at] = None
            number += 1
            self.ending.wait(0.002)
        for each in self.clients:
            if each is not None:
                each.close()

    def usable(self, client: Client | None) -> Client:
        if client is not None:
            if not client.has_ended():
                return client
            client.close()
        return Client(self.address)


@pytest.mark.parametrize("command", some([(GUNICORN,), (HYPOLL,)], 1))
def test_a_pool_loses_no_request_over_hups(tmp_path, command):
    (tmp_path / "app.py").write_text(APP)
    with Master(tmp_path, (*command, "--bind", "127.0.0.1:0", "--workers", "2")) as master:
        address = master.says(r"(?:Listening at:|serves app:routes on) (http://[0-9.:]+)")[1]
        pool = Pool(address, 20)
        pool.start()
        try:
            for count in range(1, 4):
                master.popen.send_signal(signal.SIGHUP)
                master.says("Hang up: Master", count)
                master.says("Booting worker", 2 + 2 * count)
                master.says("Worker exiting", 2 * count)
        finally:
            pool.ending.set()
            pool.join()
    assert pool.lost == []
    assert pool.answered > 100


@pytest.mark.full
def test_one_worker_that_is_due_serves_until_its_successor_does(tmp_path):
    """With `--max-requests` alone nobody would accept in between."""
    (tmp_path / "app.py").write_text(APP)
    options = ("-b", "127.0.0.1:0", "--max-requests", "3", "--keep-alive", "60")
    with Master(tmp_path, (*GUNICORN, *options), env={"HYPOLL_DRAIN_KEEP_ALIVE": "8"}) as master:
        with Client(("127.0.0.1", master.port)) as idle:
            end = time.monotonic() + PATIENCE
            while (answer := idle.get()).fields.get("connection") != "close":
                assert answer.status == 200
                assert master.get() == (200, b"ok")
                assert time.monotonic() < end, "it goes on for ever"
            # That was the last it has waited for: it doesn't wait for more.
            master.says("Worker exiting")
        assert master.get() == (200, b"ok")


def test_term_gives_a_pool_its_time_and_then_ends(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with Master(tmp_path, (*HYPOLL, "--bind", "127.0.0.1:0"), env={"HYPOLL_DRAIN_KEEP_ALIVE": "2"}) as master:
        address = master.says(r"serves app:routes on (http://[0-9.:]+)")[1]
        clients = [Client(address_of(address)) for _ in range(2)]
        for client in clients:
            assert client.get().status == 200
        master.popen.send_signal(signal.SIGTERM)
        master.says("draining")  # the proxy knows nothing of the TERM
        assert clients[0].get().fields["connection"] == "close"
        assert clients[0].ends()
        assert clients[1].ends()  # at the end of that time
        for client in clients:
            client.close()
        assert master.popen.wait(PATIENCE) == 0
