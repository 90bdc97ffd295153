"""hypoll level-triggered, for comparison only: `python -m benchmarks.level benchmarks.app:hello --bind 127.0.0.1:0`.

The same code with three differences. A connection is registered for IN and RDHUP without EPOLLET. Being writable is
the ordinary state of a socket, so OUT can't be asked for all the time: when output has to wait the registration is
changed to OUT by EPOLL_CTL_MOD, and changed back when it is sent. IN is taken out meanwhile, since input that nobody
reads would be told again and again.
"""

from __future__ import annotations

from unittest import mock

from hypoll.cli import main
from hypoll.contracts import ConnectionState
from hypoll.loop import IN, OUT, RDHUP, EventCallback, Loop
from hypoll.server.connection import Connection

EDGE_INTEREST = IN | OUT | RDHUP


def interest(phase: ConnectionState) -> int:
    """What a connection waits for in a state."""
    return OUT if phase in (ConnectionState.SENDING, ConnectionState.FINISHING) else IN | RDHUP


class LevelLoop(Loop):
    """Registers level-triggered what hypoll registers for all of a connection's life."""

    def register(
        self,
        fd: int,
        callback: EventCallback,
        events: int = EDGE_INTEREST,
        *,
        edge: bool = True,
        oneshot: bool = False,
        exclusive: bool = False,
    ) -> None:
        """`Loop.register`."""
        if events == EDGE_INTEREST:
            events, edge = interest(ConnectionState.NEW), False
        super().register(fd, callback, events, edge=edge, oneshot=oneshot, exclusive=exclusive)


class LevelConnection(Connection):
    """Asks for OUT while output waits, and for IN otherwise."""

    def watch(self) -> None:
        """`Connection.watch`."""
        super().watch()
        if interest(self.state) != interest(ConnectionState.NEW):
            self.context.loop.rearm(self.sock.fileno(), interest(self.state), edge=False, oneshot=False)

    def enter_state(self, phase: ConnectionState) -> None:
        """`Connection.enter_state`."""
        if self.watched and self.state is not ConnectionState.CLOSED and interest(phase) != interest(self.state):
            self.context.loop.rearm(self.sock.fileno(), interest(phase), edge=False, oneshot=False)
        super().enter_state(phase)


if __name__ == "__main__":
    with (
        mock.patch("hypoll.runner.Loop", LevelLoop),
        mock.patch("hypoll.server.server.Connection", LevelConnection),
        # So that the hot path is taken: edge-triggered, a request comes with OUT.
        mock.patch("hypoll.server.connection._PLAIN_EDGE", IN),
    ):
        main()
