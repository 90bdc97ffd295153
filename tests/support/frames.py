"""Frames as a client writes them, and what a server's frames say."""

from __future__ import annotations

import struct
from typing import NamedTuple

KEY = b"\x37\xfa\x21\x3d"

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
"""First bytes of frames that are whole messages."""

BEGIN_TEXT, BEGIN_BINARY, MORE, LAST = 0x01, 0x02, 0x00, 0x80
"""First bytes of fragments."""


class Frame(NamedTuple):
    """A frame of the server's. first: its first byte."""

    first: int
    payload: bytes


def frame(first: int, payload: bytes = b"", key: bytes | None = KEY, width: int = 0) -> bytes:
    """A frame. key: None: it isn't masked. width: bytes of the extended length, 0: as few as do."""
    size = len(payload)
    masked = 0 if key is None else 0x80
    if not width:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    length = {0: bytes([masked | size & 127]), 2: bytes([masked | 126]), 8: bytes([masked | 127])}[width]
    if width:
        length += size.to_bytes(width, "big")
    if key is None:
        return bytes([first]) + length + payload
    return bytes([first]) + length + key + mask(payload, key)


def mask(data: bytes, key: bytes = KEY) -> bytes:
    """The data with its mask, byte by byte."""
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(data))


def close(code: int | None, reason: str = "") -> bytes:
    """A close frame of the client's."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def frames_in(data: bytes) -> list[Frame]:
    """The frames that a server has sent. None may be cut."""
    found = []
    while data:
        size, at = data[1], 2
        assert size < 128, "a server masks nothing"
        if size > 125:
            at += 2 if size == 126 else 8
            size = int.from_bytes(data[2:at], "big")
        assert len(data) >= at + size, data
        found.append(Frame(data[0], data[at : at + size]))
        data = data[at + size :]
    return found
