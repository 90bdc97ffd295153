"""A client of WebSockets that sees each byte, on a server of a test's own."""

from __future__ import annotations

import struct
from typing import Any

from tests.support.client import Client, Cut
from tests.support.frames import CLOSE, Frame, frame
from tests.support.server import Running

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455, 1.3."""

FIELDS = {
    "Host": "h",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def handshake(path: str = "/", line: str = "", **changed: Any) -> bytes:
    """A handshake's request. changed: fields by name, with _ for -; None: without it."""
    fields = dict(FIELDS)
    for name, value in changed.items():
        known = {field.lower(): field for field in fields}
        field = known.get(name.replace("_", "-").lower(), name.replace("_", "-"))
        if value is None:
            fields.pop(field, None)
        else:
            fields[field] = value
    lines = [line or f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


class SocketClient:
    """One WebSocket, opened."""

    def __init__(self, client: Client, path: str = "/", behind: bytes = b"", **fields: Any) -> None:
        self.client = client
        client.send(handshake(path, **fields) + behind)
        status, self.fields = client.head()
        assert status == 101, (status, client.data)
        assert self.fields["sec-websocket-accept"] == ACCEPT

    def send(self, first: int, payload: bytes = b"") -> None:
        self.client.send(frame(first, payload))

    def frame(self) -> Frame:
        """The next frame. Raises `Cut` when the connection has ended."""
        first, size = self.client.take(2)
        if size == 126:
            size = int.from_bytes(self.client.take(2), "big")
        elif size == 127:
            size = int.from_bytes(self.client.take(8), "big")
        return Frame(first, self.client.take(size))

    def close_code(self) -> int:
        """The code of the close frame that comes next; 1005: it has none; 1006: the connection ended without one."""
        try:
            got = self.frame()
        except Cut:
            return 1006
        assert got.first == CLOSE, got
        return struct.unpack("!H", got.payload[:2])[0] if got.payload else 1005

    def ended(self) -> bool:
        """Whether the connection ends with nothing more."""
        return self.client.rest() == b""


def opened(it: Running, path: str = "/", behind: bytes = b"", buffer: int = 0, **fields: Any) -> SocketClient:
    """A WebSocket at a running server."""
    return SocketClient(it.connect(buffer), path, behind, **fields)
