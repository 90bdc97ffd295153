"""The wire corpus: raw requests, and what must come of them, by topic."""

from __future__ import annotations

from tests.conformance.wire import (
    chunked,
    expect,
    fields,
    framing,
    head_method,
    host,
    limits,
    persistence,
    pipelining,
    request_line,
    target,
    upgrade,
)
from tests.conformance.wire.case import LIMITS, Case, End, Got

__all__ = ["CASES", "LIMITS", "Case", "End", "Got"]

_TOPICS = (
    request_line,
    target,
    host,
    fields,
    limits,
    framing,
    chunked,
    pipelining,
    persistence,
    expect,
    upgrade,
    head_method,
)

CASES: list[Case] = [case for topic in _TOPICS for case in topic.CASES]
