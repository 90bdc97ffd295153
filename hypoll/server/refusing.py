"""Refusals: what a client is told whose request can't be taken, and how its connection ends by that."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hypoll.contracts import CloseReason, ConnectionState
from hypoll.protocol.messages import HTTPError, problem
from hypoll.protocol.request_id import new_id
from hypoll.protocol.serializer import UNPARSED, encode
from hypoll.server.ending import begin_linger
from hypoll.server.socket_io import PeerGone
from hypoll.server.writer import BodyError

if TYPE_CHECKING:
    from hypoll.server.connection import Connection
    from hypoll.server.transport import TLSSocket

log = logging.getLogger("hypoll.error")


def refuse(connection: Connection, error: HTTPError, owed: Iterable[bytes]) -> None:
    """Say why, and close: the one function that writes refusals of requests. `owed`: the answers before it, encoded."""
    if connection.instrument is not None:
        connection.instrument.set_close_reason(CloseReason.REFUSED)
    if connection.state is ConnectionState.HANDSHAKE:  # nothing can be said yet
        log.debug("%s closed: %s", connection.parser.peer.client, error)
        connection.close()
        return
    request = connection.parser.subject
    name = new_id() if request is None else request.id
    log.debug("%s refused: %s", connection.parser.peer.client, error, extra={"request_id": name})
    error.__traceback__ = None  # its frames may hold the error, and the parser: a cycle
    spool, connection.parser.spool = connection.parser.spool, None
    if spool is not None:
        spool.close()  # now: the client may go on sending for long
    connection.paused_at = None
    if connection.state is ConnectionState.SKIPPING:
        connection.close()  # its request was answered: this would be taken for the answer to another
        return
    try:
        out = list(owed)
        begin = len(out)
        response = problem(error, name)
        if request is not None:
            response = connection.context.application.amend_refusal(request, response)
        encode(out, response, request or UNPARSED, True)
        if connection.instrument is not None:
            connection.instrument.record(request, response, out, begin, name.encode())
        connection.enter_state(ConnectionState.FINISHING)
        # More may come, and must be read away before closing, or the kernel resets the connection under the answer.
        connection.readable = True
        connection.writer.buffers += out
        connection.resume_writing()
    except (BodyError, PeerGone, MemoryError):
        connection.close()


def refuse_plain_text(connection: Connection, sock: TLSSocket, error: OSError) -> None:
    """Say to who speaks HTTP where TLS is spoken what is wrong, in the way that it can read. Raises `PeerGone`."""
    name = new_id()
    log.debug("%s closed: %s", connection.parser.peer.client, error, extra={"request_id": name})
    response = problem(HTTPError(400, "TLS is spoken here: ask by https://, not http://"), name)
    out: list[bytes] = []
    encode(out, response, UNPARSED, True)
    if connection.instrument is not None:
        connection.instrument.set_close_reason(CloseReason.REFUSED)
        connection.instrument.record(None, response, out, 0, name.encode())
    try:
        sock.send_plain(b"".join(out))
    except OSError as failure:
        raise PeerGone from failure
    if connection.instrument is not None:
        connection.instrument.report(CloseReason.REFUSED, connection.writer)
    begin_linger(connection)
