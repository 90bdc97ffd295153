"""One connection to a server, which reads its responses as strictly as RFC 9112 has them."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import time
from typing import NamedTuple

from tests.conformance.asgi.case import Framing

PATIENCE = 10.0
"""Seconds after which something that was to happen is given up."""

STALLED = 0.4
"""Seconds for which a server takes nothing until it counts as not taking any more."""

Address = tuple[str, int] | str


class ProtocolError(Exception):
    """The server's bytes are no HTTP/1.1 message."""


class Silence(Exception):  # noqa: N818 - what happened, or rather didn't
    """Nothing came in time."""


class Ended(Exception):  # noqa: N818 - an end, not always an error
    """The connection ended before there was anything of a response."""


class Response(NamedTuple):
    """A final response, as far as it came."""

    version: str
    status: int
    fields: list[tuple[bytes, bytes]]
    content: bytes
    framing: Framing
    whole: bool
    interims: list[tuple[int, list[tuple[bytes, bytes]]]]
    trailers: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> tuple[bytes, ...]:
        return tuple(value for key, value in self.fields if key == name)


_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")


class Client:
    """The connection: bytes out, responses in."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = socket.socket(family)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = tls.wrap_socket(sock, server_hostname="127.0.0.1") if tls else sock
        self.name = self.sock.getsockname()
        self.peer = self.sock.getpeername()
        self.data = b""
        self.ended = False
        self.was_reset = False
        self.unsent = 0
        self.closed = False

    # out

    def write(self, raw: bytes) -> None:
        """Send it. A server that doesn't listen any more may have answered all the same."""
        try:
            self.sock.sendall(raw)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except TimeoutError:
            raise Silence("the server doesn't take what the client sends") from None

    def flood(self, size: int) -> int:
        """Send up to so many bytes, until the server takes no more of them."""
        piece = b"x" * (1 << 16)
        sent = 0
        self.sock.settimeout(STALLED)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        try:
            while sent < size:
                sent += self.sock.send(piece[: size - sent])
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.sock.settimeout(PATIENCE)
        self.unsent = size - sent
        return sent

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.closed = True
        self.sock.close()

    # in

    def more(self) -> bool:
        """Receive something. False: the connection has ended."""
        if self.ended:
            return False
        try:
            piece = self.sock.recv(1 << 18)
        except TimeoutError:
            raise Silence(f"nothing more came after {self.data[-80:]!r}") from None
        except OSError:
            piece = b""
            self.was_reset = True
        self.data += piece
        self.ended = not piece
        return bool(piece)

    def until(self, raw: bytes) -> bool:
        """Receive until these bytes are there; False: the connection ended before."""
        deadline = time.monotonic() + PATIENCE
        while raw not in self.data:
            if time.monotonic() > deadline:
                raise Silence(f"{raw!r} didn't come, but {self.data[-80:]!r}")
            if not self.more():
                return False
        return True

    def has_ended(self) -> bool:
        """Whether the connection ends in time, without a further byte."""
        deadline = time.monotonic() + PATIENCE
        try:
            while self.more():
                if time.monotonic() > deadline:
                    return False
        except Silence:
            return False
        return True

    def read_response(self, *, head: bool = False) -> Response:
        """Receive the next final response.

        Raises: Ended, Silence, or ProtocolError when it is malformed.
        """
        interims: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        while True:
            version, status, fields = self._read_head()
            if status >= 200:
                break
            interims.append((status, fields))
        framing, size = _framing(status, fields, head=head)
        trailers: list[tuple[bytes, bytes]] = []
        if framing is Framing.CHUNKED:
            content, whole, trailers = self._read_chunks()
        elif framing is Framing.CLOSE:
            while self.more():
                pass
            content, whole, self.data = self.data, True, b""
        else:
            whole = self._have(size)
            content, self.data = self.data[:size], self.data[size:]
        return Response(version, status, fields, content, framing, whole, interims, trailers)

    def _read_head(self) -> tuple[str, int, list[tuple[bytes, bytes]]]:
        while b"\r\n\r\n" not in self.data:
            if not self.more():
                if self.data:
                    raise ProtocolError(f"the connection ended within a header section: {self.data[:80]!r}")
                raise Ended("the connection ended without a response")
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise ProtocolError(f"no status line: {first[:80]!r}")
        return match[1].decode(), int(match[2]), _fields(lines)

    def _have(self, size: int) -> bool:
        while len(self.data) < size:
            if not self.more():
                return False
        return True

    def _line(self) -> bytes | None:
        while b"\r\n" not in self.data:
            if not self.more():
                return None
        line, _, self.data = self.data.partition(b"\r\n")
        return line

    def _read_chunks(self) -> tuple[bytes, bool, list[tuple[bytes, bytes]]]:
        pieces: list[bytes] = []
        while True:
            line = self._line()
            if line is None:
                return b"".join(pieces), False, []
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}(?:[ \t]*;.*)?", line):
                raise ProtocolError(f"no chunk size: {line[:80]!r}")
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            if not self._have(size + 2):
                return b"".join([*pieces, self.data[:size]]), False, []
            if self.data[size : size + 2] != b"\r\n":
                raise ProtocolError(f"no CRLF after a chunk: {self.data[size : size + 20]!r}")
            pieces.append(self.data[:size])
            self.data = self.data[size + 2 :]
        lines: list[bytes] = []
        while line := self._line():
            lines.append(line)
        return b"".join(pieces), line is not None, _fields(lines)


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in lines:
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(f"no field line: {line[:80]!r}")
        fields.append((match[1].lower(), match[2]))
    return fields


def _framing(status: int, fields: list[tuple[bytes, bytes]], *, head: bool) -> tuple[Framing, int]:
    """How the content ends, and after how many bytes if that is said (RFC 9112, 6.3)."""
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    if codings and codings != [b"chunked"]:
        raise ProtocolError(f"Transfer-Encoding: {codings}")
    if codings and lengths:
        raise ProtocolError("both Transfer-Encoding and Content-Length")
    if len(lengths) > 1 or any(not re.fullmatch(rb"\d+", value) for value in lengths):
        raise ProtocolError(f"Content-Length: {lengths}")
    if head or status in (204, 304):
        return Framing.NONE, 0
    if codings:
        return Framing.CHUNKED, 0
    if lengths:
        return Framing.LENGTH, int(lengths[0])
    return Framing.CLOSE, 0
