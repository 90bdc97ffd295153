"""A server whose loop a test turns by hand, in its own thread."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from hypoll.contracts import Application
from hypoll.loop import Loop
from hypoll.server.server import Server
from hypoll.settings import Settings
from tests.support.client import PATIENCE


class Stage:
    """A server on a free port that does nothing but what `loop.poll_once` is called for.

    settings: the fields of `Settings`.
    """

    def __init__(self, routes: Application, **settings: float) -> None:
        self.calls = 0
        self.loop = Loop()
        chosen = Settings(bind=("127.0.0.1:0",), **settings)  # type: ignore[arg-type]
        self.server = Server(routes, chosen, self.loop)
        self.clients: list[socket.socket] = []

    def __enter__(self) -> Stage:
        self.server.start()
        self.address = self.server.listeners[0].sock.getsockname()
        return self

    def __exit__(self, *exception: object) -> None:
        for client in self.clients:
            client.close()
        self.server.stop()
        self.loop.close()

    def connect(self) -> socket.socket:
        """A client. The kernel's queue takes it; the server hears of it at its next turn."""
        client = socket.create_connection(self.address, timeout=PATIENCE)
        self.clients.append(client)
        return client

    def turn_until(self, holds: Callable[[], bool], within: float = PATIENCE) -> None:
        """Turn the loop until it holds."""
        deadline = time.monotonic() + within
        while not holds():
            assert time.monotonic() < deadline, "it never came"
            self.loop.poll_once(0.05)

    def answer(self, request: bytes) -> bytes:
        """What a fresh client gets until the server closes."""
        client = self.connect()
        client.sendall(request)
        return self.read_to_end(client)

    def read_to_end(self, client: socket.socket) -> bytes:
        """What a client gets until the server closes or resets."""
        client.setblocking(False)
        received = bytearray()

        def ended() -> bool:
            try:
                while data := client.recv(65536):
                    received.extend(data)
            except BlockingIOError:
                return False
            except ConnectionError:
                pass
            return True

        self.turn_until(ended)
        return bytes(received)
