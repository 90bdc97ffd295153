"""Content codings (RFC 9110, 8.4.1): gzip, and brotli and Zstandard where they are installed.

Levels are those that cost the loop little: 64 KiB of JSON take under half a millisecond in each of them.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

GZIP_LEVEL = 4
BROTLI_QUALITY = 4
ZSTD_LEVEL = 3
"""Its window is 2 MiB, well below the 8 that clients must take (RFC 9659)."""

_GZIP = 31
"""zlib's number for the gzip format with the largest window."""

_LAST_BLOCK = b"\1\0\0"
"""Zstandard's last block, which is an empty raw one (RFC 8878, 3.1.1.2)."""

_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


class Encoder(Protocol):
    """One representation on its way into a coding."""

    def begin(self) -> bytes:
        """What stands before all content."""

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        """The next bytes; `flush`: all of them, so that the client can read what it has got."""

    def end(self, data: bytes = b"") -> bytes:
        """The last bytes."""


class Coding(NamedTuple):
    """A content coding.

    Attributes:
        name: as in Content-Encoding.
        make: makes an encoder.
        silence: bytes that say nothing, between two flushed pieces: what a heartbeat is inside a coding.
    """

    name: str
    make: Callable[[], Encoder]
    silence: bytes


class GzipEncoder:
    """gzip, by zlib (RFC 1952)."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP)

    def begin(self) -> bytes:
        """The header, and an empty block."""
        return self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        """See `Encoder`."""
        encoded = self._compressor.compress(data)
        return encoded + self._compressor.flush(zlib.Z_SYNC_FLUSH) if flush else encoded

    def end(self, data: bytes = b"") -> bytes:
        """See `Encoder`."""
        return self._compressor.compress(data) + self._compressor.flush()


class BrotliEncoder:
    """br, by the package brotli (RFC 7932)."""

    def __init__(self, brotli: Any) -> None:
        self._compressor = brotli.Compressor(quality=BROTLI_QUALITY)

    def begin(self) -> bytes:
        """The window's size."""
        begun: bytes = self._compressor.flush()
        return begun

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        """See `Encoder`."""
        encoded: bytes = self._compressor.process(data)
        return encoded + self._compressor.flush() if flush else encoded

    def end(self, data: bytes = b"") -> bytes:
        """See `Encoder`."""
        ended: bytes = self._compressor.process(data) + self._compressor.finish()
        return ended


class ZstdEncoder:
    """zstd, by the standard library or backports.zstd (RFC 8878).

    Args:
        header: what its frame begins with, which the compressor gives no sooner than the first content.
    """

    def __init__(self, zstd: Any, header: bytes) -> None:
        self._compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)
        self._header = header
        self._sent_header = False

    def begin(self) -> bytes:
        """The frame's header."""
        self._sent_header = True
        return self._header

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        """See `Encoder`."""
        compressor = self._compressor
        return self._given(compressor.compress(data, compressor.FLUSH_BLOCK if flush else compressor.CONTINUE))

    def end(self, data: bytes = b"") -> bytes:
        """See `Encoder`."""
        if not self._sent_header:
            ended: bytes = self._compressor.compress(data, self._compressor.FLUSH_FRAME)
            return ended
        # A frame that is compressed as a whole has another header than the one that is sent.
        return self.encode(data, flush=True) + self.end() if data else _LAST_BLOCK

    def _given(self, encoded: bytes) -> bytes:
        if self._sent_header and encoded:
            self._sent_header = False
            return encoded.removeprefix(self._header)
        return encoded


def find_codings() -> tuple[Coding, ...]:
    """The codings that can be made here, the ones worth most for their time first."""
    found = []
    zstd, brotli = _imported(_ZSTD), _imported("brotli")
    if zstd is not None:
        probe = zstd.ZstdCompressor(level=ZSTD_LEVEL)
        # Magic number, descriptor and window (RFC 8878, 3.1.1.1): six bytes where neither size nor dictionary is named.
        header = probe.compress(b"x", probe.FLUSH_BLOCK)[:6]
        found.append(Coding("zstd", lambda: ZstdEncoder(zstd, header), b"\0\0\0"))  # an empty raw block (3.1.1.2)
    if brotli is not None:
        found.append(Coding("br", lambda: BrotliEncoder(brotli), b"\x06"))  # an empty metadata block (RFC 7932, 9.2)
    found.append(Coding("gzip", GzipEncoder, b"\0\0\0\xff\xff"))  # an empty stored block (RFC 1951, 3.2.4)
    return tuple(found)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
