"""What waits for the peer of one connection: one queue, in order, and the source that fills it.

It knows buffers and sockets; what a request is, and what comes after an answer, it doesn't know.

Laws:

- Whatever is written goes behind what waits already. Nothing is dropped but by `clear`.
- A source is pulled only when nothing waits, so that a peer that doesn't read costs one piece.
- An error of the socket is a `PeerGone`; what a source raises, whatever its type, is a `BodyError` with that as its
  cause.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from hypoll.protocol.messages import FAILURES, ClientDisconnect, StreamedBody
from hypoll.server.response_body import FileSource, InlineSource, Pull, Source, TaskSource
from hypoll.server.socket_io import JOIN_LIMIT, SEND_SIZE, Buffers, PeerGone, flush, send_one

PULLS_PER_TURN = range(16)
"""Times a source is pulled before the other connections have their turn."""


class BodyError(Exception):
    """A body failed before its end; its cause says why."""


class Outcome(Enum):
    """What stopped the writer."""

    DONE = "all is sent, and the source is at its end"
    FULL = "the kernel takes no more: go on at the writable edge"
    WAITING = "nothing waits for the peer, and the source has nothing yet"
    TURN = "there is more to do: go on when the others had their turn"


class Heartbeat(NamedTuple):
    """What is sent while a source is silent: `data`, framed, after each `interval` seconds."""

    interval: float
    data: bytes


class Writer:
    """The output of one connection.

    Attributes:
        buffers: what the kernel didn't take yet.
        source: where the rest of a body comes from.
        heartbeat: for a silent one.
        until_close: whether the end of the body is marked by the connection's end, so that a part would look whole.
        end: gives what ends the source's body, where that may be ended when the server goes away.
        send_size: bytes sent before the other connections have their turn.
        stalled: whether the kernel took nothing more when it was asked last.
        pulled_bytes: bytes that sources have given. To be set back by who wants to know.
    """

    __slots__ = ("buffers", "end", "heartbeat", "pulled_bytes", "send_size", "source", "stalled", "until_close")

    def __init__(self) -> None:
        self.buffers: Buffers = []
        self.source: Source | None = None
        self.heartbeat: Heartbeat | None = None
        self.end: Callable[[], bytes] | None = None
        self.until_close = False
        self.send_size = SEND_SIZE
        self.stalled = False
        self.pulled_bytes = 0

    @property
    def has_output(self) -> bool:
        """Whether something is owed to the peer."""
        return bool(self.buffers) or self.source is not None

    def write(self, sock: socket.socket, pieces: list[bytes]) -> bool:
        """Send the pieces, behind what waits. True: nothing waits any more. False: go on at the writable edge if it is
        `stalled`, else when the others had their turn. Raises `PeerGone`.
        """
        buffers = self.buffers
        if not buffers:
            self.stalled = True
            if len(pieces) == 1:
                return send_one(sock, buffers, pieces[0])
            if sum(map(len, pieces)) <= JOIN_LIMIT:
                return not pieces or send_one(sock, buffers, b"".join(pieces))
        buffers += pieces
        sent = flush(sock, buffers, self.send_size)
        self.stalled = sent < self.send_size
        return not buffers

    def resume(self, sock: socket.socket) -> tuple[Outcome, bool]:
        """Send what waits and pull what follows. Gives why it stopped, and whether the peer's kernel took anything.

        Raises `PeerGone`, `BodyError`.
        """
        total = 0
        for _ in PULLS_PER_TURN:
            # The head of a file goes with its beginning.
            more = socket.MSG_MORE if type(self.source) is FileSource else 0
            sent = flush(sock, self.buffers, self.send_size, more)
            total += sent
            if self.buffers:
                return (Outcome.TURN if sent >= self.send_size else Outcome.FULL), total > 0
            if self.source is None:
                return Outcome.DONE, total > 0
            if total >= self.send_size:
                break
            match self._pull(sock, self.source):
                case Pull.LATER:
                    return Outcome.WAITING, total > 0
                case Pull.FULL:
                    return Outcome.FULL, total > 0
                case Pull.SENT:
                    return Outcome.TURN, True
                case Pull.END:
                    self.source = None
        return Outcome.TURN, total > 0

    def write_heartbeat(self) -> None:
        """Write the heartbeat, if the source is between two pieces."""
        if self.heartbeat is not None and not (self.source is not None and self.source.mid_piece):
            self.buffers.append(self.heartbeat.data)

    def end_source(self) -> bool:
        """End the body of the source here, as if there were no more of it. False: it isn't one that may be ended so."""
        source, end = self.source, self.end
        if source is None or end is None:
            return False
        if isinstance(source, (InlineSource, TaskSource)):
            if source.failed:
                return False  # no end makes it whole: it is cut when what came before is sent
            # What a task has given already is owed, too.
            self.buffers += [piece for piece in (source.taken(), end()) if piece]
            self.source = None
            source.close()
        elif isinstance(source, StreamedBody):
            source.end()
        self.end = None
        return True

    def begin_answer(self) -> None:
        """The next answer has nothing of the last."""
        self.heartbeat = self.end = None
        self.until_close = False

    def clear(self) -> None:
        """Drop all that waits: nobody will read it."""
        self.buffers.clear()
        source, self.source = self.source, None
        if source is not None:
            source.close()

    def _pull(self, sock: socket.socket, source: Source) -> Pull:
        before = source.sent if isinstance(source, (FileSource, StreamedBody)) else 0
        try:
            pull = source.pull(sock, self.buffers)
            if isinstance(source, (FileSource, StreamedBody)):
                self.pulled_bytes += source.sent - before
            if type(source) is not FileSource:
                self.pulled_bytes += sum(map(len, self.buffers))
            return pull
        except (KeyboardInterrupt, PeerGone):
            raise
        except ClientDisconnect as error:
            # Of a body that waits for its request's body, which will not come.
            raise PeerGone from error
        except FAILURES as error:
            raise BodyError from error
