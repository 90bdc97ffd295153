"""A WebSocket on its connection: what is read and when, what waits, pings and deadlines, and how it ends.

Its laws:

- While a message waits for the application nothing is read; nor while more output waits for the peer than may. The
  peer's own pace, and the application's, is the limit.
- A peer that isn't read isn't blamed for its silence.
- Nothing is sent behind a close frame. The peer's is answered when the application has taken the messages before it,
  so that it can answer those, and then the server ends the connection first (RFC 6455, 7.1.1).
- `ended` is set once: from then on the application gets the messages that were whole before, and then that.
- It knows no asyncio: who waits gives something with `done()` and `set_result(None)`, such as a future.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hypoll.contracts import NEVER, CloseReason, ConnectionState, Upgrade
from hypoll.loop import ERR, HUP, IN, OUT, RDHUP
from hypoll.server.context import BODY_READ_SIZE
from hypoll.server.socket_io import PeerGone, receive, reset, send_one
from hypoll.server.upgrade import give_back
from hypoll.server.writer import Outcome
from hypoll.telemetry.observer import Traffic
from hypoll.websocket.deflate import Deflate
from hypoll.websocket.encoding import Message, encode
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.frames import ABNORMAL, CLOSE, FIN, PING, RESTART, Close, serialize
from hypoll.websocket.protocol import MessageParser

if TYPE_CHECKING:
    from hypoll.server.connection import Connection

CLOSE_TIME = 10.0
"""Seconds that the peer has to answer a close frame."""

FRAME_READ_SIZE = 80 * 1024
"""Bytes asked for by one read, so that a frame of 64 KiB may come as a whole: it is decoded once then."""

HELD_SIZE = 64 * 1024
"""Bytes of frames that are held for one send while further messages wait for the application."""

_INPUT = IN | RDHUP | HUP
_PLAIN_EDGE = IN | OUT


class Waiter(Protocol):
    """What waits: an asyncio future is one."""

    def done(self) -> bool:
        """Whether it waits no more."""

    def set_result(self, result: None, /) -> None:
        """Wake it."""


class Session(Upgrade):
    """See the module.

    Args:
        connection: its connection, which is handed to it afterwards.
        parser: what takes apart what comes.
        deflate: how messages are deflated; None: they aren't.

    Attributes:
        connection: None when it has ended, and what was to be said is said.
        ended: why; None: it hasn't, as far as the application is to know.
        closing: whether a close frame was sent, and nothing can be sent any more.
        reader: what waits for a message.
        writers: those that wait until less output waits.
        on_end: called once with the session when nothing can be sent any more, where somebody wants to know.
        sent: messages.
        in_a_row: those that a task has sent since it waited last; see `hypoll.websocket.tasks`.
        bytes_received, bytes_sent: all that is on the wire, behind the handshake.
    """

    __slots__ = (
        "_close_by", "_heard", "_held", "_held_size", "_ping_at", "_pong_by", "_reported", "_write_by",
        "bytes_received", "bytes_sent", "closing", "connection", "deflate", "ended", "in_a_row", "on_end", "parser",
        "reader", "sent", "writers",
    )  # fmt: skip

    def __init__(self, connection: Connection, parser: MessageParser, deflate: Deflate | None = None) -> None:
        self.connection: Connection | None = connection
        self.parser = parser
        self.ended: Close | None = None
        self.closing = False
        self.reader: Waiter | None = None
        self.writers: list[Waiter] | None = None
        self.on_end: list[Callable[[Session], object]] | None = None
        self.in_a_row = self.sent = self.bytes_received = self.bytes_sent = 0
        self.deflate = deflate
        self._heard = True
        self._held: list[bytes] | None = None
        self._held_size = 0
        self._reported: Traffic | None = None
        settings = connection.context.settings
        self._ping_at = connection.context.loop.now + settings.ws_ping_interval if settings.ws_ping_interval else NEVER
        self._pong_by = self._write_by = self._close_by = NEVER

    # what the connection calls

    def begin(self, data: bytes) -> None:
        """Take the connection."""
        self._plan()
        connection = self._connected
        if connection.writer.buffers:
            self._on_stall(connection)
        if data:
            self._feed(connection, data)
        if self.connection is not None:
            connection.readable = True  # what came meanwhile brings no edge
            self._read(connection)

    def on_events(self, events: int) -> None:
        """Take an edge."""
        connection = self._connected
        if events != _PLAIN_EDGE:
            if events & ERR:
                raise PeerGone
            half_closes = events & (RDHUP | HUP) and not connection.half_closed
            if half_closes:
                connection.half_closed = True
            if events & _INPUT:
                connection.readable = True
            if connection.rescheduled and events and not half_closes:
                return  # it had its turn
        elif connection.rescheduled:
            connection.readable = True
            return
        else:
            connection.readable = True
        if connection.writer.buffers:
            self._resume_writing(connection)
        if self.connection is not None:
            self._read(connection)

    def on_deadline(self) -> None:
        """Ping the peer, or give it up."""
        connection = self._connected
        now = connection.context.loop.now
        if min(self._pong_by, self._ping_at) <= now and (self._heard or self._is_paused()):
            self._pong_by = NEVER
        if self._close_by <= now and self.parser.ended is not None:
            self._end_by(connection, self.parser.ended)  # the application doesn't take what came before
            return
        if min(self._pong_by, self._write_by, self._close_by) <= now:
            if connection.instrument is not None:
                connection.instrument.on_deadline(
                    ConnectionState.SENDING if self._write_by <= now else ConnectionState.UPGRADED
                )
            if connection.writer.buffers:
                reset(connection.sock)
            connection.close()
            return
        settings = connection.context.settings
        if self._ping_at <= now:
            self._report(connection)
            self._ping_at = now + settings.ws_ping_interval
            if self._pong_by == NEVER and not self.closing:
                self._heard = False
                self._pong_by = now + (settings.ws_ping_timeout or NEVER)
                self.ping()
        self._plan()

    def extend_deadline(self, seconds: float) -> None:
        """Let the peer have so many seconds more."""
        self._ping_at += seconds
        self._pong_by += seconds
        self._write_by += seconds
        self._close_by += seconds

    def on_drain(self) -> None:
        """The server goes away: say so, and wait for the closing handshake."""
        self.end(Close(RESTART, "the server is going away"))

    def on_close(self) -> None:
        """The connection is closed."""
        self._leave(Close(ABNORMAL))

    # reading

    def _is_paused(self) -> bool:
        """Whether the peer isn't read."""
        return bool(self.parser.messages and not self.closing) or self.is_full

    def _read(self, connection: Connection) -> None:
        """Read once, if somebody wants more, and see to what came."""
        parser = self.parser
        if self._is_paused() or parser.ended is not None:
            return
        if parser.waits:
            self._feed(connection, b"")
        elif connection.readable:
            size = FRAME_READ_SIZE if parser.left <= FRAME_READ_SIZE else BODY_READ_SIZE
            data = receive(connection.sock, size)
            if data is None:
                connection.readable = False
                return
            connection.note_read(data, size)
            if not data:
                connection.close()  # without a close frame
                return
            self._feed(connection, data)
        if self.connection is not None and (connection.readable or parser.waits):
            self.want_more()

    def _feed(self, connection: Connection, data: bytes) -> None:
        parser = self.parser
        self._heard = True
        self.bytes_received += len(data)
        parser.feed(data)
        if parser.messages and self.reader is not None:
            self._wake_reader()
        if parser.replies:
            replies, parser.replies = parser.replies, []
            if not self.closing:
                self._write(b"".join(replies))
        if parser.ended is not None:
            if parser.failed or self.closing or not parser.messages:
                self._end_by(connection, parser.ended)
            else:
                self._close_by = connection.context.loop.time() + CLOSE_TIME
                self._plan()

    def want_more(self) -> None:
        """Read on in a turn to come, unless that would be too early then."""
        connection = self.connection
        if connection is not None and (connection.readable or self.parser.waits):
            connection.reschedule()

    def take(self) -> Message | None:
        """Take the next message; None: none is here."""
        messages = self.parser.messages
        if not messages:
            if self._held is not None:
                self._send_held()
            connection, ended = self.connection, self.parser.ended
            if ended is not None and connection is not None:
                connection.run_guarded(self._end_by, connection, ended)
            return None
        message = messages.pop(0)
        if not messages:
            self.want_more()
        return message

    # writing

    def send(self, message: Message) -> None:
        """Send a message, or put it behind what waits. Raises `SocketClosed`, `TypeError`."""
        if self.closing or self.connection is None:
            raise self.closed
        pieces = encode(message, self.deflate)
        self.sent += 1
        if len(pieces) == 1:
            self._write(pieces[0])
        else:
            self.put(pieces)

    def offer(self, pieces: list[bytes], limit: int) -> bool:
        """Send an encoded message, unless so many buffers wait already. False: it wasn't sent, since they do."""
        connection = self.connection
        if connection is None or self.closing:
            return True  # nobody waits for it
        if len(connection.writer.buffers) >= limit:
            return False
        self.sent += 1
        self.put(pieces)
        return True

    def put(self, pieces: list[bytes]) -> None:
        """Send some bytes of frames."""
        connection = self.connection
        if connection is None:
            return
        if self._held is not None:
            self._send_held()
        self.bytes_sent += sum(map(len, pieces))
        if connection.writer.buffers:
            connection.writer.buffers += pieces
        else:
            self._put_at_once(connection, pieces)

    def _put_at_once(self, connection: Connection, pieces: list[bytes]) -> None:
        try:
            if not connection.writer.write(connection.sock, pieces):
                self._on_stall(connection)
        except PeerGone as error:
            connection.run_guarded(_raise, error)

    def _write(self, frame: bytes) -> None:
        """Send a small frame; hold it for a moment where more are likely to come."""
        connection = self.connection
        if connection is None:
            return
        self.bytes_sent += len(frame)
        if self.parser.messages:
            self._hold(connection, frame)
            return
        if self._held is not None:
            self._held.append(frame)
            self._send_held()
            return
        buffers = connection.writer.buffers
        if buffers:
            buffers.append(frame)
            return
        try:
            if not send_one(connection.sock, buffers, frame):
                connection.writer.stalled = True
                self._on_stall(connection)
        except PeerGone as error:
            connection.run_guarded(_raise, error)

    def _hold(self, connection: Connection, frame: bytes) -> None:
        """Hold a frame until the application has seen the messages that wait, or the turn ends: one send for all."""
        if self._held is None:
            self._held, self._held_size = [], 0
            connection.context.loop.call_soon(self._send_held)
        self._held.append(frame)
        self._held_size += len(frame)
        if self._held_size > HELD_SIZE:
            self._send_held()

    def _send_held(self) -> None:
        held, self._held = self._held, None
        connection = self.connection
        if held is not None and connection is not None:
            self._put_at_once(connection, held)

    def _on_stall(self, connection: Connection) -> None:
        """Some output waits."""
        if not connection.writer.stalled:
            connection.reschedule()
        if self._write_by == NEVER:
            self._write_by = connection.context.loop.time() + connection.context.settings.write_timeout
            self._plan()

    def _resume_writing(self, connection: Connection) -> None:
        outcome, progress = connection.writer.resume(connection.sock)
        connection.writer.stalled = outcome is Outcome.FULL
        if outcome is Outcome.DONE:
            self._write_by = NEVER
        elif progress:
            self._write_by = connection.context.loop.time() + connection.context.settings.write_timeout
        if outcome is Outcome.TURN:
            connection.reschedule()
        self._plan()
        if self.writers is not None and not self.is_full:
            self._wake_writers()

    @property
    def is_full(self) -> bool:
        """Whether so much output waits that who sends more has to wait."""
        connection = self.connection
        if connection is None:
            return False
        buffers = connection.writer.buffers
        return bool(buffers) and sum(map(len, buffers)) > connection.context.waiting_output.each

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping. Raises `ValueError` for more than 125 bytes."""
        if len(payload) > 125:
            raise ValueError("a ping has at most 125 bytes")
        if self.connection is not None and not self.closing:
            self._write(serialize(FIN | PING, payload))

    # the end

    @property
    def closed(self) -> SocketClosed:
        """What is raised to who sends to a closed WebSocket, or waits for more."""
        return SocketClosed(self.ended or Close(ABNORMAL))

    def close(self, close: Close) -> None:
        """Begin the closing handshake, for the application: messages that wait are dropped."""
        if self.connection is not None and not self.closing:
            self.parser.messages.clear()
            self._send_close(close)

    def end(self, close: Close) -> None:
        """Begin the closing handshake, and let the application know."""
        if self.connection is not None and not self.closing:
            self.ended = self.ended or close
            self._send_close(close)
            self._wake_reader()
            self._wake_writers()

    def _send_close(self, close: Close) -> None:
        connection = self._connected
        if self._held is not None:
            self._send_held()
        self.closing = self.parser.discarding = True
        self._close_by = connection.context.loop.time() + CLOSE_TIME
        self._plan()
        self.put([serialize(FIN | CLOSE, close.payload)])
        self._notify_end()
        self.want_more()

    def _end_by(self, connection: Connection, close: Close) -> None:
        """End, since the peer has sent a close frame or broken the parser."""
        failed = self.parser.failed
        if not self.closing:
            self.closing = True
            if self._held is not None:
                self._send_held()
            self.put([serialize(FIN | CLOSE, close.payload)])
        if self.connection is None:
            return
        if connection.instrument is not None:
            connection.instrument.set_close_reason(
                CloseReason.REFUSED
                if failed
                else CloseReason.DRAIN
                if connection.context.drain.begun
                else CloseReason.CLIENT
            )
        self._leave(close)
        give_back(connection, linger=failed)

    def _leave(self, close: Close) -> None:
        """Nothing more comes or goes."""
        connection, self.connection = self.connection, None
        self._held = None
        self.ended = self.ended or self.parser.ended or close
        if connection is not None and connection.instrument is not None:
            total = self._report(connection)
            connection.instrument.on_upgrade_end(*self.ended, total)
        self._wake_reader()
        self._wake_writers()
        self._notify_end()

    def _notify_end(self) -> None:
        callbacks, self.on_end = self.on_end, None
        for callback in callbacks or ():
            callback(self)

    def _report(self, connection: Connection) -> Traffic:
        """Report what went over it since the last time; give all that did."""
        total = Traffic(self.parser.received, self.sent, self.bytes_received, self.bytes_sent)
        if connection.instrument is not None:
            before, self._reported = self._reported or Traffic(0, 0, 0, 0), total
            connection.instrument.on_traffic(Traffic(*map(operator.sub, total, before)))
        return total

    def _wake_reader(self) -> None:
        reader, self.reader = self.reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _wake_writers(self) -> None:
        writers, self.writers = self.writers, None
        for writer in writers or ():
            if not writer.done():
                writer.set_result(None)

    # small things

    @property
    def _connected(self) -> Connection:
        connection = self.connection
        assert connection is not None
        return connection

    def _plan(self) -> None:
        """Set the connection's deadline."""
        if self.connection is not None:
            self.connection.deadline = min(self._ping_at, self._pong_by, self._write_by, self._close_by)


def _raise(error: PeerGone) -> None:
    raise error
