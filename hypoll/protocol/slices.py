"""Bytes of files that are to be sent, and the descriptors they are sent from.

Law: a descriptor lives as long as anything may still send from it. Nothing is read here but for `Slice.read`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypoll.protocol.open_file import OpenFile

PIECE_SIZE = 64 * 1024
"""Bytes of a piece of a `Slice` that is iterated over."""


class TruncatedError(Exception):
    """A file has become shorter than the part of it that was promised: the connection must be cut."""


class Slice:
    """Bytes of an open file that are to be sent: the body of a response.

    Attributes:
        fd, offset, count: what is left of them. `send` and `read` take from the beginning.
    """

    __slots__ = ("_file", "count", "fd", "offset")

    def __init__(self, file: OpenFile, offset: int, count: int) -> None:
        self._file: OpenFile | None = file
        self.fd = file.fd
        self.offset = offset
        self.count = count

    @property
    def path(self) -> str | None:
        """Where the file was found, if that is known."""
        return None if self._file is None else self._file.path

    def probe(self) -> None:
        """Raise what reading the file raises, with its name; nothing is taken."""
        try:
            os.pread(self.fd, 1, self.offset)
        except OSError as error:
            raise self._named(error) from error

    def _named(self, error: OSError) -> OSError:
        return error if error.filename or self.path is None else OSError(error.errno, error.strerror, self.path)

    def send(self, socket: int, size: int) -> int:
        """Send up to `size` bytes through the socket of this descriptor by sendfile(2); give how many were taken.

        Raises:
            BlockingIOError: When the socket takes none.
            TruncatedError: When the file has none any more.
        """
        return self._on_taken(os.sendfile(socket, self.fd, self.offset, min(size, self.count)))

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, where sendfile can't be used. Raises `TruncatedError`."""
        try:
            data = os.pread(self.fd, min(size, self.count), self.offset)
        except OSError as error:
            raise self._named(error) from error
        self._on_taken(len(data))
        return data

    def _on_taken(self, count: int) -> int:
        if not count and self.count:
            name = self.path or "a file"
            raise TruncatedError(
                f"{name} became shorter while it was sent: {self.count} bytes of the answer are missing"
            )
        self.offset += count
        self.count -= count
        return count

    def __iter__(self) -> Generator[bytes]:
        """What is left, in pieces, for whom an iterator of bytes is a body. Raises `TruncatedError`."""
        while self.count:
            yield self.read(PIECE_SIZE)

    def release(self) -> None:
        """Let go of the file: nothing more is sent. Doing so twice does nothing."""
        self._file = None
        self.fd = -1

    close = release


class FilePart(Slice):
    """What is to be sent of an application's file, from a descriptor of its own: the application may close the file."""

    __slots__ = ("_path",)

    def __init__(self, fd: int, offset: int, count: int, path: str | None) -> None:
        self._file = None
        self._path = path
        self.fd = os.dup(fd)
        self.offset = offset
        self.count = count

    @property
    def path(self) -> str | None:
        """The name that the application opened the file by, if it is known."""
        return self._path

    def release(self) -> None:
        """Close the descriptor, once."""
        fd = self.fd
        super().release()
        if fd >= 0:
            os.close(fd)

    close = release

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # By a name of its own: at the interpreter's end modules are emptied.
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            close(fd)
