"""What to say of code that holds the loop: whose it is, and what to do against it."""

from __future__ import annotations

from collections.abc import Iterable
from types import FrameType

from hypoll.concurrency.watchdog import Subject
from hypoll.contracts import Application
from hypoll.protocol.current_request import is_inline
from hypoll.protocol.messages import Request
from hypoll.server.response_body import InlineSource

_IS_COROUTINE = 0x80
"""CO_COROUTINE of inspect, which isn't loaded for it."""

INLINE = "If it waits or computes, declare it threaded=True."

TASK = "An async def must not block: have what blocks run by `await asyncio.to_thread(...)`."

ELSE = "Have what blocks run on a thread."


def describe(application: Application, request: object) -> Subject | None:
    """Method and route of a request, and its id; None: it is none."""
    if not isinstance(request, Request):
        return None
    return Subject(f"{request.method} {application.pattern(request) or request.raw_path}", request.id)


def advise(frames: Iterable[FrameType]) -> str:
    """Say what to do, given the frames of the loop's thread, from the innermost on.

    A handler on the loop may be called by coroutines of hypoll's own, for its hooks: who has called all that tells.
    """
    coroutine = False
    for frame in frames:
        if is_inline(frame) or frame.f_code is InlineSource.pull.__code__:
            return INLINE
        coroutine |= bool(frame.f_code.co_flags & _IS_COROUTINE)
    return TASK if coroutine else ELSE
