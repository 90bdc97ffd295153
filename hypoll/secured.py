"""A connection over TLS: its handshake before the first request, files by reading them, its goodbye at the end.

All else is `Connection`'s; `hypoll.tls.TLSSocket` is why that can be.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Iterable
from contextvars import Context
from typing import cast

from hypoll.bodies import InlineSource, Source
from hypoll.connection import NEW_GRACE, Connection
from hypoll.http import Deferred, HTTPError, Peer, Request, Response, Rest
from hypoll.loop import ERR, HUP, RDHUP
from hypoll.output import PeerGone
from hypoll.phases import Phase
from hypoll.shared import Shared
from hypoll.tls import TLSSocket

log = logging.getLogger("hypoll.error")


def secured(kind: type[Connection]) -> type[Connection]:
    """The class of connection that is `kind` over TLS: its socket must be a `TLSSocket`."""
    return cast(type[Connection], type(f"Secured{kind.__name__}", (Secured, kind), {"__slots__": ()}))


class Secured(Connection):
    """What is different over TLS, to be put before a class of connection."""

    __slots__ = ()

    sock: TLSSocket

    def __init__(self, shared: Shared, sock: socket.socket, peer: Peer) -> None:
        super().__init__(shared, sock, peer)
        self._enter(Phase.HANDSHAKE)

    def on_events(self, events: int) -> None:
        """Take an edge, as `Connection.on_events`."""
        if self.phase is Phase.HANDSHAKE:
            self.guard(self._shake, events)
            return
        super().on_events(events)
        if self.sock.ended and not self.half_closed and self.phase is not Phase.CLOSED:
            # The hot path has read the peer's goodbye together with its request: no edge of it will come.
            self.half_closed = self.readable = True
            self._doubt()
            self._come_back()

    def drain(self) -> None:
        """As `Connection.drain`: one that hasn't got so far as to say what it wants is waited for a moment."""
        if self.phase is Phase.HANDSHAKE:
            self.deadline = min(self.deadline, self.shared.loop.now + NEW_GRACE)
        else:
            super().drain()

    def refuse(self, error: HTTPError, owed: Iterable[bytes] = ()) -> None:
        """As `Connection.refuse`, where that can be said: before the handshake is over nothing can."""
        if self.phase is Phase.HANDSHAKE:
            log.debug("%s closed: %s", self.parser.peer.client, error)
            self.close()
        else:
            super().refuse(error, owed)

    def close(self) -> None:
        """As `Connection.close`. Where something of an answer is missing there is no goodbye: that tells the peer."""
        if self.phase is not Phase.CLOSED and not self.writer.unfinished:
            with contextlib.suppress(OSError):
                self.sock.notify_close()
        super().close()

    def _shake(self, events: int) -> None:
        """Go on with the handshake."""
        if events & (ERR | HUP):
            self.close()
            return
        if events & RDHUP:
            self.half_closed = True
        try:
            if not self.sock.handshake():
                return
        except OSError as error:
            raise PeerGone from error
        given = self.deadline
        self._enter(Phase.NEW)
        if self.shared.draining:
            self.deadline = min(self.deadline, given)
        # What came with the handshake's last message brings no edge.
        self.readable = True
        self.pump()

    def _on_failure(self, error: Exception) -> None:
        if isinstance(error, PeerGone) and isinstance(error.__cause__, OSError):
            log.debug("%s closed: %s", self.parser.peer.client, _told(error.__cause__))
        super()._on_failure(error)

    def _note_read(self, data: bytes) -> None:
        if self.sock.ended:
            self.half_closed = True  # also by the peer's word alone (RFC 8446, 6.1)
        super()._note_read(data)

    def _send_file(self, request: Request, response: Response | bytes | Deferred, context: Context) -> bool:
        """No file is sent from the page cache: it must be encrypted."""
        return False

    def _source(self, rest: Rest, context: Context | None) -> Source | None:
        return super()._source(rest, context) if rest.part is None else InlineSource(iter(rest.part), context)

    def _finish(self) -> None:
        try:
            if not self.sock.notify_close():
                return  # the writable edge leads here again
        except OSError as error:
            raise PeerGone from error
        super()._finish()


def _told(error: OSError) -> str:
    """Why it failed, in OpenSSL's own words."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error)
