"""A connection that waits: for its handler, which works elsewhere, or for the handshake of TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypoll.contracts import Phase
from hypoll.encode import Rest
from hypoll.exchange import Exchange
from hypoll.loop import ERR, HUP, RDHUP
from hypoll.message import Response
from hypoll.output import PeerGone
from hypoll.receiving import lacks_body
from hypoll.sending import encode_or_fail

if TYPE_CHECKING:
    from hypoll.connection import Connection


def respond_with_care(connection: Connection, exchange: Exchange, answer: Response | bytes, first: bytes = b"") -> None:
    """Send an answer about which something is special. first: of a body that is streamed, what goes with its head."""
    if connection.disarmed:
        rearm(connection)
    body = b"" if isinstance(answer, bytes) else answer.body
    if lacks_body(connection, exchange) and isinstance(body, (bytes, str, bytearray, memoryview)):
        exchange.end_connection()
    out: list[bytes] = []
    # A copy: the handler's thread, or the step of its task that sends this, may still be in the context itself.
    context = exchange.context.copy()
    rest = context.run(encode_or_fail, connection, out, exchange.request, answer, exchange.deferred.kind)
    if rest is None and lacks_body(connection, exchange):
        rest = Rest(None, close=True)
    if first and rest is not None and rest.source is not None:
        out.append(first)
        connection.writer.pulled += len(first)
    connection.deliver(out, rest, context)
    if connection.readable or connection.parser.pending:
        # Not now: requests that came together must not be nested in each other.
        connection.come_back()


def rearm(connection: Connection) -> None:
    """Take edges again. What is ready by now is told."""
    connection.disarmed = False
    connection.shared.loop.rearm(connection.sock.fileno(), oneshot=False)


def shake(connection: Connection, events: int) -> None:
    """Go on with the handshake of TLS."""
    assert connection.tls is not None
    if events & (ERR | HUP):
        connection.close()
        return
    if events & RDHUP:
        connection.half_closed = True
    try:
        if not connection.tls.handshake():
            return
    except OSError as error:
        raise PeerGone from error
    given = connection.deadline
    connection.enter(Phase.NEW)
    if connection.shared.draining:
        connection.deadline = min(connection.deadline, given)
    # What came with the handshake's last message brings no edge.
    connection.readable = True
    connection.pump()
