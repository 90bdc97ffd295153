"""A client that blocks, for tests: `TestClient.websocket` gives one. It has the names of a handler's socket."""

from __future__ import annotations

import base64
import io
import os
import socket
from collections.abc import Iterable, Mapping
from http.client import HTTPMessage, parse_headers
from typing import Any

import orjson

from hypoll.websocket.encoding import Message
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.frames import (
    ABNORMAL,
    BINARY,
    CLOSE,
    FIN,
    MASKED,
    NORMAL,
    PING,
    TEXT,
    Close,
    apply_mask,
    header_of,
)
from hypoll.websocket.protocol import MessageParser

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes that a message may have."""

RECEIVE_SIZE = 64 * 1024


class HandshakeRefused(Exception):  # noqa: N818 - what a test may want
    """The handshake was answered by something else than 101.

    Attributes:
        status: the status.
        headers: the fields.
        body: the content.
    """

    def __init__(self, status: int, headers: HTTPMessage, body: bytes) -> None:
        super().__init__(f"the handshake was answered {status}: {body[:200].decode('utf-8', 'replace')}")
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """The content, read as JSON."""
        return orjson.loads(self.body)


class ClientSocket:
    """A WebSocket from the client's side. It is closed when its context is left.

    Args:
        sock: a connected socket, with a timeout.
        host: the value of Host.
        target: the path, with its query.
        headers: further fields.
        subprotocols: those to offer.

    Attributes:
        headers: the fields of the answer.
        subprotocol: the one that is spoken; None: none.
        close_code, close_reason: why it has ended, once it has.

    Raises:
        HandshakeRefused: When it isn't accepted.
    """

    def __init__(
        self, sock: socket.socket, host: str, target: str, headers: Mapping[str, str], subprotocols: Iterable[str] = ()
    ) -> None:
        self._sock = sock
        self._parser = MessageParser(MAX_MESSAGE, client=True)
        self._closing = False
        fields = {
            **headers,
            "Host": host,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        }
        if subprotocols:
            fields["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        sock.sendall("\r\n".join(lines).encode("latin-1"))
        self.headers = self._read_answer()
        self.subprotocol: str | None = self.headers.get("Sec-WebSocket-Protocol")

    def _read_answer(self) -> HTTPMessage:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._sock.recv(RECEIVE_SIZE)
            if not piece:
                raise SocketClosed(Close(ABNORMAL, "the connection ended before the handshake was answered"))
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        headers = parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
        status = int(line.split(b" ")[1])
        if status != 101:
            raise HandshakeRefused(status, headers, self._read_body(headers, rest))
        self._parser.feed(rest)
        return headers

    def _read_body(self, headers: HTTPMessage, body: bytes) -> bytes:
        length = headers.get("Content-Length")
        while length is None or len(body) < int(length):
            piece = self._sock.recv(RECEIVE_SIZE)
            if not piece:
                break
            body += piece
        return body

    @property
    def close_code(self) -> int | None:
        """Why it has ended; None: it hasn't."""
        return None if self._parser.ended is None else self._parser.ended.code

    @property
    def close_reason(self) -> str:
        """The same for people to read."""
        return "" if self._parser.ended is None else self._parser.ended.reason

    def send(self, message: Message) -> None:
        """Send a message: str as text, bytes as binary."""
        if isinstance(message, str):
            self._send(FIN | TEXT, message.encode())
        else:
            self._send(FIN | BINARY, message)

    def send_json(self, value: Any) -> None:
        """Send a value as JSON, in a text message."""
        self._send(FIN | TEXT, orjson.dumps(value))

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping."""
        self._send(FIN | PING, payload)

    def receive(self) -> Message:
        """Give the next message. Raises `SocketClosed` when there is none any more, `TimeoutError`."""
        parser = self._parser
        while not parser.messages:
            if parser.ended is not None:
                raise SocketClosed(parser.ended)
            if parser.waits:
                parser.feed(b"")
            else:
                self._receive()
        return parser.messages.pop(0)

    def receive_json(self) -> Any:
        """Give the next message, read as JSON. Raises as `receive` does."""
        return orjson.loads(self.receive())

    def __iter__(self) -> ClientSocket:
        return self

    def __next__(self) -> Message:
        try:
            return self.receive()
        except SocketClosed:
            raise StopIteration from None

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close it, and wait until the server has answered. What it still sends is dropped."""
        if not self._closing:
            self._closing = True
            try:
                if self._parser.ended is None:
                    self._send(FIN | CLOSE, Close(code, reason).payload)
                self._parser.discarding = True
                while self._parser.ended is None:
                    self._receive()
            except (ConnectionError, TimeoutError):
                pass
            finally:
                self._sock.close()

    def __enter__(self) -> ClientSocket:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _send(self, first: int, payload: bytes) -> None:
        key = os.urandom(4)
        self._sock.sendall(header_of(first, len(payload), MASKED) + key + apply_mask(payload, key))

    def _receive(self) -> None:
        parser = self._parser
        data = self._sock.recv(RECEIVE_SIZE)
        if not data:
            parser.fail(Close(ABNORMAL, "the connection ended without a close frame"))
            return
        parser.feed(data)
        replies, parser.replies = parser.replies, []
        for reply in replies:  # a pong, which the parser writes as a server does: without a mask
            self._send(reply[0], reply[2:])
        if parser.ended is not None and not self._closing and not parser.failed:
            self._closing = True
            self._send(FIN | CLOSE, parser.ended.payload)
            self._sock.close()
