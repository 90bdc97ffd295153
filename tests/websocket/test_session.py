"""What waits for whom: back-pressure, pings, deadlines, the closing handshake, drains, over every kind of socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trustme

from hypoll import Routes
from hypoll.websocket import SocketClosed
from hypoll.websocket.session import FRAME_READ_SIZE
from hypoll.websocket.socket import Socket
from tests.support.client import PATIENCE, Client
from tests.support.clock import Clock
from tests.support.frames import BEGIN_BINARY, BINARY, CLOSE, LAST, MORE, PING, PONG, TEXT, close, frame, frames_in
from tests.support.server import Running, running
from tests.support.websocket import SocketClient, handshake, opened

KINDS = ["async", "threaded"]


class App:
    """Handlers that wait for a test: `gate` lets them go on."""

    def __init__(self) -> None:  # noqa: C901 - the handlers of all tests, both kinds of each
        self.routes = Routes()
        self.gate = threading.Event()
        self.seen: list[object] = []
        self.sent = 0
        routes = self.routes

        @routes.websocket("/async/echo")
        async def echo(socket):
            async for message in socket:
                await socket.send(message)

        @routes.websocket("/threaded/echo", threaded=True)
        def thread_echo(socket):
            for message in socket:
                socket.send(message)

        @routes.websocket("/async/push")
        async def push(socket):
            await self.push_async(socket)

        @routes.websocket("/threaded/push", threaded=True)
        def thread_push(socket):
            try:
                while True:
                    socket.send(b"x" * 10_000)
                    self.sent += 1
            except SocketClosed as closed:
                self.seen.append(closed.code)

        @routes.websocket("/threaded/late", threaded=True)
        def late(socket):
            socket.accept()
            self.gate.wait(PATIENCE)
            for message in socket:
                self.seen.append(message)
            self.seen.append(socket.close_code)

        @routes.websocket("/async/late")
        async def late_async(socket):
            await socket.accept()
            while not self.gate.is_set():
                await asyncio.sleep(0.002)
            async for message in socket:
                self.seen.append(message)
            self.seen.append(socket.close_code)

        @routes.get("/")
        def index(request):
            return "served"

    async def push_async(self, socket: Socket) -> None:
        try:
            while True:
                await socket.send(b"x" * 10_000)
                self.sent += 1
        except SocketClosed as closed:
            self.seen.append(closed.code)


@pytest.fixture
def app() -> App:
    return App()


def served(it: Running) -> bool:
    return it.connect().ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").body == b"served"


def waiting(it: Running) -> int:
    """Bytes that wait for clients. On the loop."""
    return sum(sum(map(len, one.writer.buffers)) for one in it.server.connections)


def fill(socket: SocketClient, data: bytes) -> int:
    """Send the data again and again, until the server takes no more. Gives the bytes sent."""
    socket.client.sock.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += socket.client.sock.send(data[sent % len(data) :])
    socket.client.sock.settimeout(PATIENCE)
    return sent


# back-pressure


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_while_a_message_waits(app, kind):
    with running(app.routes, ws_max_queue=3) as it:
        socket = opened(it, f"/{kind}/late")
        data = frame(BINARY, b"x" * 60_000) * 2
        sent = fill(socket, data)
        (connection,) = it.on_loop(lambda: list(it.server.connections))
        upgrade = connection.upgrade
        it.until(lambda: upgrade.parser.messages)
        # Frames are read until one is whole, and what came behind it in the read that made it so.
        assert it.on_loop(lambda: upgrade.bytes_received) < len(data) // 2 + FRAME_READ_SIZE
        assert served(it)
        app.gate.set()
        rest = len(data) - sent % len(data)
        socket.client.send(data[sent % len(data) :] + close(1000))
        assert socket.close_code() == 1000
        it.until(lambda: app.seen and app.seen[-1] == 1000)
        assert len(app.seen) - 1 == (sent + rest) // (len(data) // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_who_sends_waits_for_a_slow_client(app, kind):
    with running(app.routes, max_output=100_000) as it:
        socket = opened(it, f"/{kind}/push", buffer=4096)
        it.until(lambda: waiting(it) > 100_000)
        assert it.on_loop(lambda: waiting(it)) <= 100_000 + 10_010
        sent = app.sent
        assert served(it)
        for _ in range(sent + 50):  # it goes on
            assert len(socket.frame().payload) == 10_000
        socket.client.reset()
        it.until(lambda: app.seen == [1006])


def test_pongs_are_bounded_by_what_the_client_takes(app):
    with running(app.routes, max_output=50_000) as it:
        socket = opened(it, "/async/late", buffer=4096)
        fill(socket, frame(PING, b"x" * 125) * 100)
        assert it.on_loop(lambda: waiting(it)) <= 50_000 + FRAME_READ_SIZE  # a pong is shorter than its ping
        assert served(it)


def send_until_reset(socket: SocketClient, data: bytes) -> None:
    with contextlib.suppress(OSError):
        socket.client.send(data)


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING) * 20_000,
        frame(PONG) * 20_000,
        frame(BEGIN_BINARY) + frame(MORE) * 20_000,
        frame(BEGIN_BINARY) + frame(MORE, b"x") * 20_000,
        frame(TEXT) * 20_000,
    ],
    ids=["pings", "pongs", "empty-fragments", "small-fragments", "empty-messages"],
)
def test_floods_hold_nobody_up(app, flood):
    with running(app.routes) as it:
        socket = opened(it, "/async/echo")
        sender = threading.Thread(target=send_until_reset, args=(socket, flood))
        sender.start()
        for _ in range(10):
            assert served(it)
        socket.client.reset()
        sender.join()


def test_small_fragments_cost_what_they_hold(app):
    with running(app.routes) as it:
        socket = opened(it, "/async/echo")
        socket.client.send(frame(BEGIN_BINARY, b"x") + frame(MORE, b"x") * 50_000)
        (connection,) = it.on_loop(lambda: list(it.server.connections))
        it.until(lambda: len(connection.upgrade.parser._message) == 50_001)
        socket.client.send(frame(LAST))
        assert socket.frame() == (BINARY, b"x" * 50_001)


# pings and deadlines


def test_pings_come_and_an_answer_keeps_it_open(app):
    with running(app.routes, clock=Clock(), ws_ping_interval=1.0, ws_ping_timeout=2.0) as it:
        socket = opened(it, "/async/echo")
        for _ in range(4):
            it.after(1.1)
            assert socket.frame() == (PING, b"")
            socket.send(PONG)
            socket.send(TEXT, b"still here")
            assert socket.frame() == (TEXT, b"still here")


def test_pings_come_in_their_interval_however_long_an_answer_may_take(app):
    with running(app.routes, ws_ping_interval=0.05, ws_ping_timeout=600.0) as it:
        socket = opened(it, "/async/echo")
        for _ in range(4):
            assert socket.frame() == (PING, b"")
            socket.send(PONG)


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_client_is_given_up(app, kind):
    with running(app.routes, ws_ping_interval=0.05, ws_ping_timeout=0.1) as it:
        socket = opened(it, f"/{kind}/late")
        app.gate.set()
        assert set(frames_in(socket.client.rest())) == {(PING, b"")}
        it.until(lambda: app.seen == [1006])


def test_any_byte_is_a_sign_of_life(app):
    with running(app.routes, clock=Clock(), ws_ping_interval=1.0, ws_ping_timeout=2.0) as it:
        socket = opened(it, "/async/echo")
        (connection,) = it.on_loop(lambda: list(it.server.connections))
        upgrade = connection.upgrade
        for byte in frame(BINARY, b"x"):
            it.after(1.1)
            assert socket.frame() == (PING, b"")
            socket.client.send(bytes([byte]))
            it.until(lambda: upgrade._heard)
        assert socket.frame() == (BINARY, b"x")


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_isnt_read_isnt_blamed(app, kind):
    """Its pongs wait in the kernel behind its messages."""
    with running(app.routes, ws_ping_interval=0.05, ws_ping_timeout=0.05) as it:
        socket = opened(it, f"/{kind}/late", frame(TEXT, b"1") + frame(TEXT, b"2"))
        for _ in range(5):
            assert socket.frame() == (PING, b"")
        socket.client.send(frame(PONG) + close(1000))
        app.gate.set()
        it.until(lambda: app.seen == ["1", "2", 1000])


def test_without_an_interval_no_ping_comes(app):
    with running(app.routes, ws_ping_interval=0.0) as it:
        opened(it, "/async/echo")
        (connection,) = it.on_loop(lambda: list(it.server.connections))
        assert connection.deadline == float("inf")


def test_a_client_that_takes_nothing_is_given_up(app):
    with running(app.routes, write_timeout=0.1) as it:
        opened(it, "/async/push", buffer=4096)
        it.until(lambda: app.seen == [1006])
        assert not it.on_loop(lambda: it.server.connections)


@pytest.mark.parametrize("kind", KINDS)
def test_a_close_that_isnt_answered_ends_all_the_same(app, kind):
    routes = app.routes

    @routes.websocket("/async/close")
    async def close_it(socket):
        await socket.close(4000)
        with pytest.raises(SocketClosed):
            await socket.receive()
        app.seen.append(socket.close_code)

    @routes.websocket("/threaded/close", threaded=True)
    def close_on_thread(socket):
        socket.accept()
        socket.close(4000)
        with pytest.raises(SocketClosed):
            socket.receive()
        app.seen.append(socket.close_code)

    @routes.websocket("/async/accepted")
    async def accepted(socket):
        await socket.accept()
        await socket.close(4000)
        with pytest.raises(SocketClosed):
            await socket.receive()
        app.seen.append(socket.close_code)

    with mock.patch("hypoll.websocket.session.CLOSE_TIME", 0.1), running(routes) as it:
        path = "/async/accepted" if kind == "async" else "/threaded/close"
        socket = opened(it, path)
        socket.client.send(frame(TEXT, b"not an answer"))
        assert socket.close_code() == 4000
        assert socket.ended()
        it.until(lambda: app.seen == [1006])
        assert it.connect().ask(handshake("/async/close")).status == 403


def test_a_close_behind_messages_that_nobody_takes_is_answered_in_time(app):
    with mock.patch("hypoll.websocket.session.CLOSE_TIME", 0.1), running(app.routes) as it:
        socket = opened(it, "/async/late", frame(TEXT, b"a") + close(4000))
        assert socket.close_code() == 4000
        assert socket.ended()
        app.gate.set()
        it.until(lambda: app.seen == ["a", 4000])


# drains


@pytest.mark.parametrize("kind", KINDS)
def test_a_drain_says_1012_and_waits_for_the_answer(app, kind, caplog):
    caplog.set_level(logging.INFO)
    with running(app.routes, graceful_timeout=PATIENCE) as it:
        app.gate.set()
        socket = opened(it, f"/{kind}/late")
        it.on_loop(it.server.drain)
        assert socket.frame() == (CLOSE, (1012).to_bytes(2, "big") + b"the server is going away")
        it.until(lambda: app.seen == [1012])
        assert it.on_loop(lambda: len(it.server.connections)) == 1
        socket.client.send(frame(TEXT, b"too late") + close(1012))
        assert socket.ended()
    assert "draining: 1 WebSocket" in [record.getMessage() for record in caplog.records]


def test_a_handshake_in_a_drain_is_refused(app):
    with running(app.routes, graceful_timeout=PATIENCE, drain_keep_alive=PATIENCE) as it:
        client = it.connect()
        assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
        holder = opened(it, "/async/echo")
        it.on_loop(it.server.drain)
        assert client.ask(handshake("/async/echo")).status == 503
        holder.client.send(close(1012))


def test_a_drain_that_takes_too_long_cuts(app):
    with running(app.routes, graceful_timeout=0.2) as it:
        app.gate.set()
        socket = opened(it, "/async/late")
        it.on_loop(it.server.drain)
        assert socket.close_code() == 1012
        assert socket.ended()
    assert app.seen == [1012]


# every kind of socket


def test_over_a_unix_socket(app, tmp_path):
    with running_at(app, tmp_path / "socket") as (_, client):
        socket = SocketClient(client, "/async/echo", frame(TEXT, b"a") + frame(BINARY, b"x" * 100_000) + close(1000))
        assert [socket.frame(), socket.frame()] == [(TEXT, b"a"), (BINARY, b"x" * 100_000)]
        assert socket.close_code() == 1000
        assert socket.ended()


@contextlib.contextmanager
def running_at(app: App, path: Path) -> Iterator[tuple[Running, Client]]:
    """A server that listens on a unix socket, and a client of it."""
    with running(app.routes, bind=(f"unix:{path}", "127.0.0.1:0")) as it, Client(str(path)) as client:
        yield it, client


def test_a_last_word_over_a_unix_socket_is_read_though_the_client_has_gone(app, tmp_path):
    app.gate.set()
    with running_at(app, tmp_path / "socket") as (it, client):
        socket = SocketClient(client, "/async/late")
        client.send(frame(TEXT, b"a") + close(4000))
        client.close()
        assert socket.fields
        it.until(lambda: app.seen == ["a", 4000])


@pytest.mark.parametrize("kind", KINDS)
def test_over_tls(app, kind, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings: dict[str, Any] = {"certfile": str(tmp_path / "cert.pem"), "keyfile": str(tmp_path / "key.pem")}
    with running(app.routes, **settings) as it:
        client = it.connect()
        client.sock = context.wrap_socket(client.sock, server_hostname="127.0.0.1")
        socket = SocketClient(client, f"/{kind}/echo", frame(TEXT, b"first"), Origin="https://h")
        assert socket.frame() == (TEXT, b"first")
        for size in (1, 20_000, 300_000):
            socket.send(BINARY, b"x" * size)
            assert socket.frame() == (BINARY, b"x" * size)
        socket.client.send(frame(PING, b"p") + close(1000))
        assert socket.frame() == (PONG, b"p")
        assert socket.close_code() == 1000
        assert socket.ended()


def test_behind_a_proxy_header():
    routes = Routes()

    @routes.websocket("/")
    async def who(socket):
        await socket.send(socket.request.client[0])

    with running(routes, proxy_protocol=True) as it:
        client = it.connect()
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n")
        assert SocketClient(client).frame() == (TEXT, b"192.0.2.7")


def test_threads_beside_the_pool_are_bounded(app):
    app.gate.set()
    with running(app.routes, stream_threads=2, threads=1) as it:
        for _ in range(2):
            opened(it, "/threaded/echo")
        assert it.connect().ask(handshake("/threaded/echo")).status == 503
        assert served(it)


def test_a_thread_that_hears_of_the_end_when_the_server_is_gone_has_not_failed(caplog):
    routes, gone = Routes(), threading.Event()
    threads: list[threading.Thread] = []

    @routes.websocket("/", threaded=True)
    def late(socket):
        threads.append(threading.current_thread())
        socket.send("a")
        assert gone.wait(PATIENCE)
        socket.send("b")

    with running(routes, graceful_timeout=0.05) as it:
        assert opened(it, "/").frame() == (TEXT, b"a")
    gone.set()
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
    assert [record for record in caplog.records if record.levelno == logging.ERROR] == []
