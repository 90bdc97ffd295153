"""A connection that must begin with a PROXY protocol header, until that is whole.

Nothing is taken from the socket before (MSG_PEEK), so that who comes next finds just what follows the header, be it a
request or a TLS handshake.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from hypoll.loop import ERR, HUP, IN, RDHUP, Loop
from hypoll.protocol.peer import Client
from hypoll.proxy.proxy_protocol import MAX_SIZE, ProxyError, ProxyHeader, parse

_ENDED = RDHUP | HUP | ERR

log = logging.getLogger("hypoll.error")

Ended = Callable[["ProxyHeaderReader", ProxyHeader | None, str], object]


class ProxyHeaderReader:
    """One accepted, non-blocking socket whose client isn't known yet.

    Raises `OSError`.

    Args:
        client: the address and port of the peer, who is trusted.
        server: those that it connected to.
        seconds: how long the header may take.
        on_end: called once: with the header, which is taken from the socket, or with None and why there is none.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        client: Client,
        server: tuple[str, int],
        seconds: float,
        on_end: Ended,
    ) -> None:
        self.sock = sock
        self.client = client
        self.server = server
        self.deadline = loop.now + seconds
        self._loop = loop
        self._on_end = on_end
        loop.register(sock.fileno(), self._on_events, IN | RDHUP)

    def on_deadline(self) -> None:
        """The header took too long."""
        self._end(None, "timeout")

    def close(self) -> None:
        """Close the socket."""
        self._loop.forget(self.sock.fileno())
        self.sock.close()

    def _on_events(self, events: int) -> None:
        try:
            # All that has come so far is looked at again: pieces of a header are few.
            data = self.sock.recv(MAX_SIZE, socket.MSG_PEEK)
            announced = parse(data) if data else None
            if announced is not None:
                self.sock.recv(announced.size)
        except BlockingIOError:
            return
        except (OSError, ProxyError) as error:
            log.debug("%s refused: %s", self.client, error)
            self._end(None, "proxy_protocol")
            return
        if announced is not None:
            self._loop.unregister(self.sock.fileno())
            self._end(announced, "")
        elif events & _ENDED:
            self._end(None, "proxy_protocol")

    def _end(self, announced: ProxyHeader | None, reason: str) -> None:
        if announced is None:
            self.close()
        self._on_end(self, announced, reason)
