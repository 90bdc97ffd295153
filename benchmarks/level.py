"""hypoll level-triggered, for comparison only: `python -m benchmarks.level benchmarks.app:hello --bind 127.0.0.1:0`.

The same code with three differences. A connection is registered for IN and RDHUP without EPOLLET. Being writable is
the ordinary state of a socket, so OUT can't be asked for all the time: when output has to wait the registration is
changed to OUT by EPOLL_CTL_MOD, and changed back when it is sent. IN is taken out meanwhile, since input that nobody
reads would be told again and again.
"""

from __future__ import annotations

from unittest import mock

from hypoll.cli import main
from hypoll.connection import Connection
from hypoll.contracts import Phase
from hypoll.loop import IN, OUT, RDHUP, EventCallback, Loop

EDGE_INTEREST = IN | OUT | RDHUP


def interest(phase: Phase) -> int:
    """What a connection waits for in a phase."""
    return OUT if phase in (Phase.SENDING, Phase.FINISHING) else IN | RDHUP


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
            events, edge = interest(Phase.NEW), False
        super().register(fd, callback, events, edge=edge, oneshot=oneshot, exclusive=exclusive)


class LevelConnection(Connection):
    """Asks for OUT while output waits, and for IN otherwise."""

    def watch(self) -> None:
        """`Connection.watch`."""
        super().watch()
        if interest(self.phase) != interest(Phase.NEW):
            self.shared.loop.rearm(self.sock.fileno(), interest(self.phase), edge=False, oneshot=False)

    def enter(self, phase: Phase) -> None:
        """`Connection.enter`."""
        if self.watched and self.phase is not Phase.CLOSED and interest(phase) != interest(self.phase):
            self.shared.loop.rearm(self.sock.fileno(), interest(phase), edge=False, oneshot=False)
        super().enter(phase)


if __name__ == "__main__":
    with (
        mock.patch("hypoll.process.Loop", LevelLoop),
        mock.patch("hypoll.server.Connection", LevelConnection),
        # So that the hot path is taken: edge-triggered, a request comes with OUT.
        mock.patch("hypoll.connection._PLAIN_EDGE", IN),
    ):
        main()
