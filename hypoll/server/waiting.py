"""A connection that waits: for its handler, which works elsewhere, or for the handshake of TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypoll.contracts import ConnectionState
from hypoll.loop import ERR, HUP, RDHUP
from hypoll.protocol.messages import Response
from hypoll.protocol.serializer import Remainder
from hypoll.server.exchange import Exchange
from hypoll.server.receiving import lacks_body
from hypoll.server.refusing import refuse_plain_text
from hypoll.server.sending import encode_or_fail
from hypoll.server.socket_io import PeerGone
from hypoll.server.transport import PlainTextError

if TYPE_CHECKING:
    from hypoll.server.connection import Connection


def respond_in_general(
    connection: Connection, exchange: Exchange, answer: Response | bytes, first: bytes = b""
) -> None:
    """Send an answer about which something is special. first: of a body that is streamed, what goes with its head."""
    if connection.input_disarmed:
        rearm(connection)
    body = b"" if isinstance(answer, bytes) else answer.body
    if lacks_body(connection, exchange) and isinstance(body, (bytes, str, bytearray, memoryview)):
        exchange.end_connection()
    out: list[bytes] = []
    # A copy: the handler's thread, or the step of its task that sends this, may still be in the context itself.
    context = exchange.context.copy()
    remainder = context.run(encode_or_fail, connection, out, exchange.request, answer, exchange.handler_call.run_on)
    if remainder is None and lacks_body(connection, exchange):
        remainder = Remainder(None, close=True)
    if first and remainder is not None and remainder.source is not None:
        out.append(first)
        connection.writer.pulled_bytes += len(first)
    connection.write(out, remainder, context)
    if connection.readable or connection.parser.pending:
        # Not now: requests that came together must not be nested in each other.
        connection.reschedule()


def rearm(connection: Connection) -> None:
    """Take edges again. What is ready by now is reported."""
    connection.input_disarmed = False
    connection.context.loop.rearm(connection.sock.fileno(), oneshot=False)


def continue_handshake(connection: Connection, events: int) -> None:
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
    except PlainTextError as error:
        refuse_plain_text(connection, connection.tls, error)
        return
    except OSError as error:
        raise PeerGone from error
    given = connection.deadline
    connection.enter_state(ConnectionState.NEW)
    if connection.context.draining:
        connection.deadline = min(connection.deadline, given)
    # What came with the handshake's last message brings no edge.
    connection.readable = True
    connection.process_input()
