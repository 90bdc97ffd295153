"""Frames (RFC 6455, 5.2): their numbers, how they are written, and the mask.

Law: a frame is written in one piece, unless its payload is so large that copying it would cost more than a second
buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

FIN, RSV1, MASKED = 0x80, 0x40, 0x80
"""Bits of the first byte, and of the second."""

MAX_CONTROL = 125
"""Bytes of payload that a control frame has at most (RFC 6455, 5.5)."""

MAX_REASON = MAX_CONTROL - 2
"""Bytes of UTF-8 that the reason of a close may have."""

COPY_LIMIT = 16 * 1024
"""Bytes of payload up to which it is copied behind its header."""

INT_LIMIT = 4 * 1024
"""Bytes up to which the mask is applied by one XOR of integers: above, translating every fourth byte is faster."""

NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED = 1000, 1001, 1002, 1003
NO_STATUS, ABNORMAL, INVALID_DATA, POLICY = 1005, 1006, 1007, 1008
TOO_BIG, INTERNAL_ERROR, RESTART, TRY_LATER = 1009, 1011, 1012, 1013
"""Codes of closes (RFC 6455, 7.4.1, and IANA's registry). 1005 and 1006 are never sent."""


class Close(NamedTuple):
    """Why a WebSocket ends: the code, and a reason for people to read."""

    code: int
    reason: str = ""

    @property
    def payload(self) -> bytes:
        """What a close frame carries. The reason is cut where it is too long."""
        if self.code == NO_STATUS:
            return b""
        reason = self.reason.encode("utf-8", "replace")
        if len(reason) > MAX_REASON:
            reason = reason[:MAX_REASON].decode("utf-8", "ignore").encode()
        return self.code.to_bytes(2, "big") + reason


def is_sendable(code: int) -> bool:
    """Whether a close frame may have this code: one that is registered for the wire, or one of an application's."""
    return (1000 <= code <= 1014 and code not in (1004, NO_STATUS, ABNORMAL)) or 3000 <= code <= 4999


def header_of(first: int, size: int, masked: int = 0) -> bytes:
    """The header of a frame, without a masking key. first: its first byte. size: of the payload, in bytes."""
    if size < 126:
        return bytes((first, masked | size))
    if size < 65536:
        return bytes((first, masked | 126, size >> 8, size & 255))
    return bytes((first, masked | 127)) + size.to_bytes(8, "big")


def serialize(first: int, payload: bytes) -> bytes:
    """A whole frame of the server's, which isn't masked. first: its first byte."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    return header_of(first, size) + payload


_tables: list[bytes] = []


def _translate(data: bytes, key: bytes) -> bytes:
    if not _tables:
        _tables.extend(bytes(number ^ byte for number in range(256)) for byte in range(256))
    unmasked = bytearray(len(data))
    for offset in range(4):
        unmasked[offset::4] = data[offset::4].translate(_tables[key[offset]])
    return bytes(unmasked)


def apply_mask_in_python(data: bytes, key: bytes) -> bytes:
    """XOR the data with the four bytes of the key, again and again (RFC 6455, 5.3)."""
    size = len(data)
    if size > INT_LIMIT:
        return _translate(data, key)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


def _find_apply_mask() -> Callable[[bytes, bytes], bytes]:
    """`websockets` has the mask in C, which is a hundred times faster for large messages."""
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        return apply_mask_in_python
    return apply_mask


apply_mask: Callable[[bytes, bytes], bytes] = _find_apply_mask()
"""Mask, or unmask, some bytes with a key of four."""
