"""An answer 101: the connection is handed to another protocol, and may be given back to be ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypoll.contracts import CloseReason, ConnectionState, Upgrade
from hypoll.protocol.messages import Request, Response
from hypoll.server.waiting import rearm

if TYPE_CHECKING:
    from hypoll.server.connection import Connection


def hand_to(connection: Connection, request: Request, head: bytes, upgrade: Upgrade) -> None:
    """Answer a request, whose handler is at work elsewhere, with 101. Raises `PeerGone`.

    Args:
        connection: the connection.
        request: what is answered; nothing behind it was handled.
        head: the answer.
        upgrade: what takes the connection from there on.
    """
    if connection.input_disarmed:
        rearm(connection)
    connection.exchange = None
    connection.upgrade = upgrade
    connection.enter_state(ConnectionState.UPGRADED)
    data = connection.parser.release()
    out = [head]
    writer = connection.writer
    writer.begin_answer()
    if connection.instrument is not None:
        switching = Response()
        switching.status = 101  # which no handler can make: it isn't a final one
        connection.instrument.record(request, switching, out, 0)
        connection.instrument.on_upgrade()
    if not writer.write(connection.sock, out) and not writer.stalled:
        connection.reschedule()
    if connection.instrument is not None:
        connection.instrument.report(CloseReason.KEPT, writer)
    upgrade.begin(data)


def give_back(connection: Connection, *, linger: bool) -> None:
    """Send what waits of another protocol, then end the connection. Raises `PeerGone`.

    Args:
        connection: the connection.
        linger: whether the peer may still be sending: that is read away, so that it can read the last word.
    """
    connection.upgrade = None
    connection.enter_state(ConnectionState.FINISHING)
    connection.readable = connection.readable or linger
    connection.resume_writing()
