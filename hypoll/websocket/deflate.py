"""permessage-deflate (RFC 7692): which offer of a client's is taken, and how messages are deflated and inflated.

Laws:

- No context is taken over from one message to the next, either way: an idle socket holds neither window. What that
  costs in compression is what 5,000 idle ones would cost in memory.
- A message is never inflated beyond its limit: the limit is given to zlib, which stops there.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

NAME = "permessage-deflate"

WINDOW_BITS = 12
"""Of both windows, where the client lets them be so small: 4 KiB."""

LEVEL, MEMORY_LEVEL = 1, 7
"""Of zlib. At level 6 a message of JSON is a tenth smaller, and takes seven times as long; with less memory what can't
be deflated takes twice as long.
"""

LARGEST_SIZE = 256 * 1024
"""Bytes up to which a message is deflated: everybody waits meanwhile, 10 ms for so much of what can't be."""

MOST_ENDS = 64
"""Final blocks that a message may have (RFC 7692, 7.2.3.4). Senders make one, at its end. Two bytes are enough for one,
and each costs a new inflater and a copy of all that is behind it."""

TAIL = b"\x00\x00\xff\xff"
"""What ends a deflated message, and isn't sent (RFC 7692, 7.2.1)."""

Extensions = list[tuple[str, dict[str, str | None]]]
"""Names of extensions with their parameters, in the order of a Sec-WebSocket-Extensions field."""


class Deflate(NamedTuple):
    """What was agreed upon.

    Attributes:
        bits: of the window that messages are deflated with.
        client_bits: of the client's.
        response: the value of the answer's Sec-WebSocket-Extensions field.
    """

    bits: int
    client_bits: int
    response: str

    def compress(self, data: bytes) -> bytes:
        """Deflate a message."""
        compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -self.bits, MEMORY_LEVEL)
        return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflater(self) -> Inflater:
        """What inflates the next message."""
        return Inflater(self.client_bits)


class Inflater:
    """Inflates one message, as its pieces come."""

    __slots__ = ("_ends", "_zlib")

    def __init__(self, bits: int) -> None:
        self._zlib = zlib.decompressobj(-bits)
        self._ends = 0

    def inflate(self, data: bytes, limit: int) -> bytes | None:
        """Inflate a piece; None: it would be more than `limit` bytes.

        Raises `zlib.error`, also for a message that ends its stream more than `MOST_ENDS` times.
        """
        inflated = self._zlib.decompress(data, limit + 1)
        while self._zlib.eof and len(inflated) <= limit:
            # A final block may come before the message's end (RFC 7692, 7.2.3.4): another stream begins.
            rest = self._zlib.unused_data
            self._ends += 1
            if self._ends > MOST_ENDS:
                raise zlib.error(f"the message ends its stream more than {MOST_ENDS} times")
            self._zlib = zlib.decompressobj(-15)
            inflated += self._zlib.decompress(rest, limit + 1 - len(inflated))
        return None if len(inflated) > limit else inflated


def negotiate(offers: Extensions) -> Deflate | None:
    """Take the first offer that can be taken (RFC 7692, 5.1); None: there is none."""
    for name, parameters in offers:
        if name == NAME:
            taken = _take(parameters)
            if taken is not None:
                return taken
    return None


def _take(parameters: dict[str, str | None]) -> Deflate | None:
    bits, client_bits = WINDOW_BITS, 15
    response = [NAME, "server_no_context_takeover", "client_no_context_takeover"]
    for name, value in parameters.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            given = _bits(value)
            if given is None or given < 9:  # zlib can't deflate into a window of 8 bits
                return None
            bits = min(bits, given)
        elif name == "client_max_window_bits":
            given = 15 if value is None else _bits(value)
            if given is None:
                return None
            client_bits = min(max(WINDOW_BITS, 9), given)
        else:
            return None  # an offer with an unknown parameter must be declined (RFC 7692, 5.1)
    response.append(f"server_max_window_bits={bits}")
    if "client_max_window_bits" in parameters:
        response.append(f"client_max_window_bits={client_bits}")
    return Deflate(bits, max(client_bits, 9), "; ".join(response))


def _bits(value: str | None) -> int | None:
    """A number of bits, 8 to 15, without leading zeros (RFC 7692, 7.1.2); None: it is none."""
    return int(value) if value in ("8", "9", "10", "11", "12", "13", "14", "15") else None
