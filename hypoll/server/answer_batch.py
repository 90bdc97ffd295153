"""Answers that tasks make one soon after the other, sent in a row.

A request of FastAPI, of some 50 microseconds, costs a seventh less when not each answer is sent before the next task
runs: a client, or a proxy, that is woken once finds several, and each waking costs the server, too.

Laws:

- Who is alone waits for nobody: the first answer after a turn of hypoll's loop is sent where it is made, and one that
  comes `HOLD_TIME` or more after another, or from the only task under way. So is one that comes within `QUICK_TIME`:
  code so light gains nothing.
- No answer is held for longer than `HOLD_TIME` where tasks go on answering, nor behind more than `MOST_HELD` others,
  nor into the events of hypoll's loop, a drain or the server's end: what comes of a connection finds its answer sent.
- Where tasks that are ready take long without an answer, a row goes out late, behind them. Then none is held for
  `LATE_PAUSE`.
- No task waits for its answer to be sent. (Tried: many that are suspended make the garbage collector's work double.)
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from hypoll.contracts import ConnectionState
from hypoll.loop import Loop

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge
    from hypoll.server.connection import Connection

QUICK_TIME = 0.00003
"""Seconds between two answers, below which they are sent one by one."""

HOLD_TIME = 0.0005
"""Seconds for which an answer may wait for those behind it, and between two answers that are sent together."""

MOST_HELD = 16
"""Answers that are sent together."""

LATE_TIME = 0.002
"""Seconds after its first answer from which on a row is late."""

LATE_PAUSE = 1.0
"""Seconds without a row behind one that was late."""


class AnswerBatch:
    """The whole answers of tasks, each of which is the only thing its connection has to send.

    Args:
        loop: whose clock it goes by.
        bridge: what runs the tasks.
    """

    def __init__(self, loop: Loop, bridge: AsyncioBridge) -> None:
        self._loop = loop
        self._bridge = bridge
        self._clock = loop.clock
        self._held: deque[tuple[Connection, bytes]] = deque()
        self._since = 0.0
        """When the first of those held was made."""
        self._last = float("-inf")
        """When the last answer since hypoll's loop had its turn was made."""
        self._none_until = float("-inf")
        """Until when none is held."""
        bridge.before_turn = self._before_turn
        loop.on_abandon(self._abandon)

    def send(self, connection: Connection, answer: bytes) -> None:
        """Send an answer, now or with those that follow. A connection that fails at it is closed."""
        now = self._clock()
        pause = now - self._last
        self._last = now
        held = self._held
        if held:
            held.append((connection, answer))
            if len(held) == MOST_HELD or now - self._since >= HOLD_TIME:
                self.flush()
        elif (
            QUICK_TIME < pause < HOLD_TIME
            and (self._bridge.count > 1 or self._bridge.eager)
            and now >= self._none_until
        ):
            held.append((connection, answer))
            self._since = now
            self._loop.call_soon(self.flush)
        else:
            _send(connection, answer)

    def flush(self) -> None:
        """Send what is held."""
        held = self._held
        if held and (now := self._clock()) - self._since > LATE_TIME:
            self._none_until = now + LATE_PAUSE
        while held:
            _send(*held.popleft())

    def _before_turn(self) -> None:
        self._last = float("-inf")
        self.flush()

    def _abandon(self, ended: Any) -> None:
        """In a forked child: these answers are its parent's."""
        self._held.clear()


def _send(connection: Connection, answer: bytes) -> None:
    if connection.state is not ConnectionState.WAITING:
        return  # it was closed meanwhile
    connection.exchange = None
    try:
        connection.send_whole(answer)
    except Exception as error:
        connection.on_failure(error)
