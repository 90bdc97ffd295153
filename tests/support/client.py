"""A client that sees each byte: the one HTTP client of tests."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PATIENCE = 30.0
"""Seconds after which what was to come is given up: a busy machine may be many times slower."""
NOTHING: Mapping[str, str] = {}


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


class Cut(ConnectionError):  # noqa: N818 - an end, not always an error
    """The connection ended before the answer did."""


def request(path: str = "/", method: str = "GET", fields: Mapping[str, str] = NOTHING) -> bytes:
    """A request without content, for HTTP/1.1."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in {"Host": "a", **fields}.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a URL, as sockets take them."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN (socket(7), SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fetch(address: Any, path: str = "/", fields: Mapping[str, str] = NOTHING, **how: Any) -> Answer:
    """The answer to a request on a connection of its own. how: see `Client`. Raises `OSError`, as `Cut`."""
    with Client(address, **how) as client:
        return client.get(path, fields)


def serves(address: Any) -> bool:
    """Whether who listens there answers."""
    with contextlib.suppress(OSError):
        return fetch(address, "/", {"Connection": "close"}).status == 200
    return False


class Client(contextlib.AbstractContextManager["Client"]):
    """One connection: requests out as bytes, answers in.

    address: where to; a string is the path of a unix socket.
    buffer: bytes that the kernel keeps of what comes in; 0: as many as it likes.
    tls: the context of a client, for a server of the name localhost.
    source: the address to come from.
    patience: seconds to wait for anything.
    """

    def __init__(
        self,
        address: Any,
        buffer: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        source: str = "",
        patience: float = PATIENCE,
    ) -> None:
        family = (
            socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
        self.sock = socket.socket(family)
        self.patience = patience
        self.data = b""
        try:
            if buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            if source:
                self.sock.bind((source, 0))
            self.sock.settimeout(patience)
            self.sock.connect(address)
            if family != socket.AF_UNIX:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        except BaseException:
            self.sock.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self, size: int = 1 << 20) -> bool:
        """Receive something, and at most so many bytes. False: the connection ended."""
        try:
            piece = self.sock.recv(size)
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
        first, *lines = self.line(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}

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

    def get(self, path: str = "/", fields: Mapping[str, str] = NOTHING) -> Answer:
        return self.ask(request(path, fields=fields))

    def ends(self) -> bool:
        """Whether the server has ended the connection, and well: nothing comes but that. Raises what a reset does."""
        return not self.data and self.sock.recv(1) == b""

    def has_ended(self) -> bool:
        """Whether the end of the connection is here by now, by itself or as a reset. Nothing is received."""
        self.sock.setblocking(False)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.sock.settimeout(self.patience)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        reset(self.sock)

    def go(self, how: str) -> None:
        self.reset() if how == "reset" else self.close()
