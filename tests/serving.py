"""A server in a thread of its own, with ticks short enough for tests, and a client that sees each byte."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from hypoll.contracts import Application
from hypoll.observe import Observer
from hypoll.process import Engine
from hypoll.settings import Settings

PATIENCE = 5.0
TICK = 0.02


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


class Cut(Exception):  # noqa: N818 - an end, not always an error
    """The connection ended before the answer did."""


class Client:
    """One connection: requests out as bytes, answers in."""

    def __init__(self, address: tuple[str, int], buffer: int = 0) -> None:
        self.sock = socket.socket()
        if buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self) -> bool:
        """Receive something. False: the connection ended."""
        try:
            piece = self.sock.recv(1 << 20)
        except ConnectionResetError:
            piece = b""
        self.data += piece
        return bool(piece)

    def take(self, size: int) -> bytes:
        while len(self.data) < size:
            if not self.more():
                raise Cut(self.data)
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def line(self, end: bytes = b"\r\n") -> bytes:
        while end not in self.data:
            if not self.more():
                raise Cut(self.data)
        line, _, self.data = self.data.partition(end)
        return line

    def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = self.line(b"\r\n\r\n").decode().split("\r\n")
        return int(first.split()[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def chunk(self) -> bytes:
        """The next chunk; b"": that was the last."""
        size = int(self.line(), 16)
        return self.take(size + 2)[:-2]

    def answer(self, method: str = "GET") -> Answer:
        """The next final answer. Raises `Cut`."""
        status, fields = self.head()
        while status < 200:
            status, fields = self.head()
        if method == "HEAD" or status in (204, 304):
            return Answer(status, fields, b"")
        if "content-length" in fields:
            return Answer(status, fields, self.take(int(fields["content-length"])))
        if "transfer-encoding" in fields:
            return Answer(status, fields, b"".join(iter(self.chunk, b"")))
        return Answer(status, fields, self.rest())

    def rest(self) -> bytes:
        """What comes until the connection ends."""
        while self.more():
            pass
        rest, self.data = self.data, b""
        return rest

    def ask(self, request: bytes) -> Answer:
        self.send(request)
        return self.answer(request.split(b" ")[0].decode())

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def go(self, how: str) -> None:
        self.reset() if how == "reset" else self.close()


class Running:
    """The server, and its clients."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.server = engine.server()
        self.clients: list[Client] = []
        self.address = ("", 0)
        self.failure: BaseException | None = None

    def connect(self, buffer: int = 0) -> Client:
        self.clients.append(Client(self.address, buffer))
        return self.clients[-1]

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """What `call()` gives on the loop's thread."""
        done = threading.Event()
        results: list[Any] = []

        def run() -> None:
            results.append(call())
            done.set()

        self.engine.loop.call_soon_threadsafe(run)
        assert done.wait(PATIENCE), "the loop is held"
        return results[0]

    def until(self, holds: Callable[[], object], what: str = "it didn't happen") -> None:
        """Wait for what no one tells of, by the loop's own view."""
        end = time.monotonic() + PATIENCE
        while not self.on_loop(holds):
            assert time.monotonic() < end, what
            time.sleep(0.002)


@contextmanager
def running(routes: Application, *, observers: Sequence[Observer] = (), **settings: Any) -> Iterator[Running]:
    """Serve until the block ends. Nothing may be left of it then."""
    settings = {
        "bind": ("127.0.0.1:0",),
        "slow_callback": 0.0,
        "graceful_timeout": 1.0,
        "drain_keep_alive": 0.05,
        **settings,
    }
    started = threading.Event()
    served: list[Running] = []

    def serve() -> None:
        engine = Engine(routes, Settings(**settings), observers=observers)
        served.append(Running(engine))
        try:
            served[0].server.start()
            served[0].address = served[0].server.listeners[0].sock.getsockname()
            engine.loop.call_soon(started.set)
            engine.run()
        except BaseException as error:
            served[0].failure = error
        finally:
            started.set()
            served[0].server.stop()
            engine.close()

    with mock.patch("hypoll.loop.TICK", TICK):
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert started.wait(PATIENCE)
        it = served[0]
        try:
            yield it
        finally:
            for client in it.clients:
                client.close()
            if thread.is_alive():
                with contextlib.suppress(RuntimeError):  # it has ended by itself in this moment
                    it.engine.loop.call_soon_threadsafe(it.server.drain)
            thread.join(PATIENCE)
        assert not thread.is_alive()
        if it.failure is not None:
            raise it.failure
        assert not it.server.connections
