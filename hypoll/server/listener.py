"""One listening socket on the loop: accepting in bursts, and waiting for room when there is none."""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

from hypoll.loop import IN
from hypoll.server.sockets import refuse_new, server_of

if TYPE_CHECKING:
    from hypoll.server.server import Server

ACCEPTS_PER_TURN = 64
"""Connections accepted from one listener before the others have their turn."""

WARNING_PAUSE = 10.0
"""Seconds between two warnings that a listener can't accept."""

# accept(2): errors of the one connection that was to be accepted.
_GONE = (
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENONET,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EPROTO,
)

log = logging.getLogger("hypoll.error")


class Listener:
    """One listening socket on the loop.

    Args:
        shared: other processes accept on it, too. The kernel wakes one that waits (EPOLLEXCLUSIVE), so who has no room
            takes the listener out of the epoll set: the wake-up is to be another's. For the same reason none is refused
            as one too many.
        own: made by this process, and ends with it: a drain may close its queue for good.
    """

    def __init__(self, server: Server, sock: socket.socket, *, shared: bool, own: bool) -> None:
        self.server = server
        self.sock = sock
        self.shared = shared
        self.own = own
        self.watched = False
        self.waits_for_room = False
        self.warned_at = -WARNING_PAUSE
        self.name = server_of(sock)
        self._family = sock.family

    def watch(self) -> None:
        """Watch for connections; those that wait already are reported at once (epoll_ctl(2))."""
        self.server.loop.register(self.sock.fileno(), self.on_events, IN, exclusive=self.shared)
        self.watched = True

    def on_events(self, events: int) -> None:
        """Accept what is queued, a burst a turn: the edge is reported once, so what is left is come back for."""
        for _ in range(ACCEPTS_PER_TURN):
            if not self.accept():
                return
        self.server.loop.call_soon(self.retry)

    def accept(self) -> bool:
        """Accept one connection. False when there is none, or no room for another."""
        if self._full:
            self._wait_for_room()
            return False
        if self.sock.fileno() < 0:
            return False  # a handler of what was accepted before has stopped the server
        try:
            fd, address = self.sock._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return False
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in _GONE:
                return True
            # No descriptors or no memory, most likely. The edge is spent: come back when a connection closes or a tick
            # passes, and don't spin until then.
            self._wait_for_room()
            self._warn(error)
            return False
        # What `socket.accept` does, without asking the kernel for what is known.
        try:
            sock = socket.socket(self._family, socket.SOCK_STREAM, 0, fd)
        except BaseException:
            os.close(fd)
            raise
        try:
            self.server.admit(sock, address, self.name)
        except BaseException:  # an interrupt: it may have come before anybody had the socket
            sock.close()
            raise
        if self.shared and self._full:
            self._wait_for_room()  # before the next connection wakes this process and no other
            return False
        return True

    def retry(self) -> None:
        """Accept again, if the listener is still served."""
        if self.sock.fileno() < 0 or self not in self.server.listeners:
            return
        self.waits_for_room = False
        if self.watched:
            self.on_events(IN)
        elif not self._full:
            self.watch()
        else:
            self.waits_for_room = True

    def empty_queue(self) -> None:
        """Accept what is queued and nothing that comes later; `waits_for_room` when not all of it has room."""
        if self.own:
            refuse_new(self.sock)
        self.waits_for_room = False
        for _ in range(self.server.settings.backlog + 1):  # what a queue holds (listen(2))
            if not self.accept():
                return

    def close(self) -> None:
        """Stop listening."""
        self._unwatch()
        self.sock.close()

    @property
    def _full(self) -> bool:
        return self.server.at_limit if self.shared else self.server.full

    def _wait_for_room(self) -> None:
        self.waits_for_room = True
        if self.shared:
            self._unwatch()

    def _unwatch(self) -> None:
        if self.watched:
            self.server.loop.unregister(self.sock.fileno())
            self.watched = False

    def _warn(self, error: OSError | MemoryError) -> None:
        now = self.server.loop.now
        if now - self.warned_at >= WARNING_PAUSE:
            self.warned_at = now
            reason = error.strerror if isinstance(error, OSError) else "out of memory"
            log.warning("accept: %s; serving the %d there are", reason, len(self.server.connections))
