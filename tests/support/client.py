"""A client that sees each byte: the one HTTP client of tests."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

PATIENCE = 5.0


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
