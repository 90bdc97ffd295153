"""An answer's body that its application sends piece by piece, on the loop's thread.

Law: nothing is dropped but by `close`; whoever gives more than the client takes is to wait, see `waiting`.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from hypoll.loop import Loop
from hypoll.protocol.messages import StreamedBody
from hypoll.protocol.serializer import Framer
from hypoll.protocol.slices import FilePart
from hypoll.server.response_body import CutError, FileSource, Pull
from hypoll.server.socket_io import SEND_SIZE, Buffers

SMALL = 4096
"""Bytes below which a piece that waits is joined with the next: each object costs some 40 bytes beside its content."""


class ResponseBody(StreamedBody):
    """The pieces of one answer's body on their way to its connection.

    Args:
        framer: what frames them.
        on_room: called when some were taken.

    Attributes:
        waiting: bytes that were given and not yet taken.
        sent: bytes of files that the kernel took.
    """

    def __init__(self, framer: Framer, on_room: Callable[[], object], *, encrypted: bool = False) -> None:
        self.framer = framer
        self.waiting = 0
        self.sent = 0
        self.closed = False
        self._on_room = on_room
        self._encrypted = encrypted
        self._pieces: deque[bytes | FilePart] = deque()
        self._file: FileSource | None = None
        self._part: FilePart | None = None
        self._ready: Callable[[], object] | None = None
        self._hungry = False
        self._ended = False
        self._failed = False

    # the application's side

    def put(self, piece: bytes) -> None:
        """Give a piece, framed already."""
        if self.closed or not piece:
            return
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytes) and len(last) + len(piece) < SMALL:
            self._pieces[-1] = last + piece
        else:
            self._pieces.append(piece)
        self.waiting += len(piece)

    def put_file(self, part: FilePart) -> None:
        """Give a part of a file as a piece."""
        if self.closed or not part.count:
            part.release()
            return
        before, behind = self.framer.wrap(part.count)
        self.put(before)
        self._pieces.append(part)
        self.waiting += part.count
        self.put(behind)

    def finish(self) -> None:
        """That was the last piece."""
        self._ended = True

    def fail(self) -> None:
        """The body will never be whole: what came of it is sent, then the connection is cut."""
        self._failed = True

    def flush(self) -> None:
        """Have the connection take what is here, if it waits for that."""
        if self._hungry and self._ready is not None:
            self._hungry = False
            self._ready()

    # the connection's side

    def attach(self, ready: Callable[[], object], loop: Loop) -> None:
        """Call `ready()` when a pull that found nothing would find something."""
        self._ready = ready

    def pull(self, sock: socket.socket, output: Buffers) -> Pull:
        """Append what is here, or send what is of a file. Raises `CutError` behind what came of a body that failed."""
        pull = self._pull_file(sock, output) if self._part is not None else self._pull_pieces(output)
        self._on_room()
        return pull

    def _pull_pieces(self, output: Buffers) -> Pull:
        pieces, size = self._pieces, 0
        while pieces and size < SEND_SIZE:
            piece = pieces.popleft()
            if not isinstance(piece, bytes):
                self._part = piece
                if not self._encrypted:
                    self._file = FileSource(piece)
                return Pull.MORE
            output.append(piece)
            size += len(piece)
            self.waiting -= len(piece)
        if pieces:
            return Pull.MORE
        if self._failed and not size:
            raise CutError
        if self._ended:
            return Pull.END
        if size:
            return Pull.MORE
        self._hungry = True
        return Pull.LATER

    def _pull_file(self, sock: socket.socket, output: Buffers) -> Pull:
        part, file = self._part, self._file
        assert part is not None
        left = part.count
        if file is None:  # over TLS it must be encrypted
            output.append(part.read(SEND_SIZE))
            pull = Pull.MORE if part.count else Pull.END
        else:
            pull = file.pull(sock, output)
        self.waiting -= left - part.count
        self.sent += 0 if output else left - part.count
        if pull is Pull.END:
            part.release()
            self._part = self._file = None
            return Pull.MORE
        return pull

    def close(self) -> None:
        """Nobody will pull any more."""
        self.closed = True
        self._ready = None
        for piece in (self._part, *self._pieces):
            if isinstance(piece, FilePart):
                piece.release()
        self._pieces.clear()
        self._part = self._file = None
        self.waiting = 0
        self._on_room()
