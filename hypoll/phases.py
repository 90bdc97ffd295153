"""What a connection may be doing, and how long: one row a phase."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from hypoll.exchange import too_slow
from hypoll.http import HTTPError, State

NEVER = float("inf")
"""The deadline of what has none."""

LINGER_PAUSE = 5.0
"""Seconds that a refused peer, whose input is read away, may pause."""


class Phase(IntEnum):
    """What a connection is doing; each with a deadline in `RULES`. Up to SKIPPING it takes input, from WAITING on not.

    HANDSHAKE: TLS is being agreed upon. A plain connection begins in NEW.
    SKIPPING: the rest of a body comes whose handler has answered without reading it.
    WAITING: a handler is at work on a thread or in a task, for as long as it likes.
    """

    HANDSHAKE = 0
    NEW = 1
    IDLE = 2
    HEAD = 3
    BODY = 4
    SKIPPING = 5
    WAITING = 6
    SENDING = 7
    FINISHING = 8
    LINGERING = 9
    CLOSED = 10


class Rule(NamedTuple):
    """A phase's deadline: the setting that holds its seconds, and the refusal when they have passed (None: none)."""

    setting: str
    refusal: HTTPError | None = None


RULES = {
    Phase.HANDSHAKE: Rule("header_timeout"),
    Phase.NEW: Rule("keep_alive"),
    Phase.IDLE: Rule("keep_alive"),
    Phase.HEAD: Rule("header_timeout", HTTPError(408, "the request head took too long")),
    Phase.BODY: Rule("body_timeout", too_slow()),
    Phase.SKIPPING: Rule("body_timeout"),
    Phase.SENDING: Rule("write_timeout"),
    Phase.FINISHING: Rule("write_timeout"),
}

PHASES = {
    State.START: Phase.IDLE,
    State.BLANK: Phase.IDLE,
    State.HEAD: Phase.HEAD,
    State.BODY: Phase.BODY,
    State.DONE: Phase.IDLE,
}
"""The phase for what the parser is in the middle of."""
