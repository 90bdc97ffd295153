"""How a connection ends: in a drain, by a deadline, in the middle of an answer, or so that the last word arrives."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from contextvars import copy_context
from typing import TYPE_CHECKING

from hypoll.contracts import LINGER_SILENCE, CloseReason, ConnectionState
from hypoll.http import State
from hypoll.protocol.serializer import COPY_LIMIT
from hypoll.server.context import READS_PER_TURN
from hypoll.server.response_body import FileSource, InlineSource, log_cut
from hypoll.server.socket_io import PeerGone, reset
from hypoll.server.writer import BodyError

if TYPE_CHECKING:
    from hypoll.server.connection import Connection

LINGER_TIME = 30.0
"""Seconds a refused peer may go on sending, in all."""

LINGER_IN_DRAIN = 2.0
"""The same while the server stops."""

MAX_LINGERING = 256
"""Connections whose input is read away at once; then the oldest is closed."""


def fail_body(connection: Connection, error: BodyError) -> None:
    """A body has failed: only the missing end can tell the client."""
    if error.__cause__ is not None:
        source = connection.writer.source
        # In a copy: what has failed may be in the context itself.
        context = source.context if isinstance(source, (InlineSource, FileSource)) else None
        (copy_context() if context is None else context.copy()).run(log_cut, error.__cause__)
    error.__traceback__ = error.__cause__ = None
    cut_answer(connection)


def cut_answer(connection: Connection) -> None:
    """End the connection where the answer under way has no end."""
    if connection.instrument is not None and connection.instrument.records:
        connection.instrument.report_end(CloseReason.FAILED, connection.writer)
    exchange, connection.exchange = connection.exchange, None
    if exchange is not None:
        exchange.abandon()
    if connection.writer.until_close:
        connection.close()
        return
    # Not at once: what the peer has sent and isn't read would reset the answers before this one.
    connection.writer.clear()
    connection.run_guarded(begin_linger, connection)


def time_out(connection: Connection) -> None:
    """A state has lasted too long: refuse, or close."""
    if connection.instrument is not None:
        connection.instrument.on_deadline(connection.state)
    if connection.state.refusal is not None:
        connection.refuse(connection.state.refusal)
        return
    if connection.writer.has_output:
        # After a FIN the kernel would keep what the peer doesn't take, megabytes, and probe for minutes.
        reset(connection.sock)
    connection.close()


def end_stream(connection: Connection) -> bool:
    """End the body under way, if it is one that ends with the server."""
    ended = connection.writer.end_source()
    if ended and connection.exchange is not None:
        connection.exchange.end_body()
    return ended


def end_idle(connection: Connection) -> None:
    """Close, unless a request has arrived that this turn has not come to."""
    connection.readable = True
    connection.on_events(0)
    if connection.state is ConnectionState.IDLE:
        connection.close()


def finish(connection: Connection) -> None:
    """The answer that is the last is out: end, in a way that lets the peer read it."""
    if connection.tls is not None:
        try:
            if not connection.tls.notify_close():
                return  # the writable edge leads here again
        except OSError as error:
            raise PeerGone from error
    connection.end_exchange()
    parser = connection.parser
    ends_it = parser.state is State.DONE and parser.refused is None  # the peer has sent its last request, and all of it
    if ends_it and not connection.readable and not parser.pending and not has_unsent_bytes(connection):
        connection.close()
    else:
        # More of the peer's is here, or may be under way: closing now would reset the connection under the answer.
        begin_linger(connection)


def begin_linger(connection: Connection) -> None:
    """End our side; read away what the peer still sends, so that it can read the answer (RFC 9112, 9.6)."""
    try:
        connection.sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        raise PeerGone from error
    connection.enter_state(ConnectionState.LINGERING)
    lingering = connection.context.lingering
    lingering[connection] = None
    if len(lingering) > MAX_LINGERING:
        next(iter(lingering)).close()  # the oldest
    if connection.context.drain.begun:
        connection.deadline = min(connection.deadline, connection.state_since + LINGER_IN_DRAIN)
    connection.readable = True
    discard_input(connection)


def has_unsent_bytes(connection: Connection) -> bool:
    """Whether the kernel still has much to send: what the peer may yet send would reset it (tcp(7), SIOCOUTQ)."""
    if connection.sock.family == socket.AF_UNIX:
        return False
    unsent: int = struct.unpack("i", fcntl.ioctl(connection.sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return unsent > COPY_LIMIT  # less fits every window, and is on its way


def discard_input(connection: Connection) -> None:
    """Read away what a refused peer still sends, until it ends, is silent for long, or its time is over."""
    loop = connection.context.loop
    for _ in READS_PER_TURN:
        try:
            # MSG_TRUNC: nothing is copied (tcp(7)); a unix socket copies it all the same.
            count = connection.sock.recv_into(connection.context.discard_buffer, 0, socket.MSG_TRUNC)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            connection.close()
            return
        # In a drain the deadline stands since that, or the lingering, began.
        end = connection.deadline if connection.context.drain.begun else connection.state_since + LINGER_TIME
        connection.deadline = min(end, loop.time() + LINGER_SILENCE)
    connection.reschedule()
