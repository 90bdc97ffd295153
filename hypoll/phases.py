"""What a connection may be doing, and how long: one row a phase."""

from __future__ import annotations

from enum import Enum

from hypoll.exchange import too_slow
from hypoll.http import HTTPError, State

NEVER = float("inf")
"""The deadline of what has none."""

LINGER_PAUSE = 5.0
"""Seconds that a refused peer, whose input is read away, may pause."""


class Phase(Enum):
    """What a connection is doing. Of each: whether it takes input, whether a request is under way, and its deadline,
    as the setting that holds its seconds, with the refusal when they have passed. None: the connection is closed then,
    or it has no deadline by a setting.

    HANDSHAKE: TLS is being agreed upon. A plain connection begins in NEW.
    SKIPPING: the rest of a body comes whose handler has answered without reading it.
    WAITING: a handler is at work on a thread or in a task, for as long as it likes.
    LINGERING: what the peer still sends is read away, so that it can read the answer.
    """

    HANDSHAKE = 0, True, False, "header_timeout"
    NEW = 1, True, False, "keep_alive"
    IDLE = 2, True, False, "keep_alive"
    HEAD = 3, True, True, "header_timeout", HTTPError(408, "the request head took too long")
    BODY = 4, True, True, "body_timeout", too_slow()
    SKIPPING = 5, True, True, "body_timeout"
    WAITING = 6, False, True
    SENDING = 7, False, True, "write_timeout"
    FINISHING = 8, False, True, "write_timeout"
    LINGERING = 9, False, False
    CLOSED = 10, False, False

    def __init__(
        self, number: int, takes_input: bool, busy: bool, setting: str | None = None, refusal: HTTPError | None = None
    ) -> None:
        self.takes_input = takes_input
        self.busy = busy
        self.setting = setting
        self.refusal = refusal


PHASES = {
    State.START: Phase.IDLE,
    State.BLANK: Phase.IDLE,
    State.HEAD: Phase.HEAD,
    State.BODY: Phase.BODY,
    State.DONE: Phase.IDLE,
}
"""The phase for what the parser is in the middle of."""
