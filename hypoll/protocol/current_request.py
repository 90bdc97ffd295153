"""Which request the running code belongs to, for whoever writes a log line.

Laws: a request that logs nothing pays nothing on the loop: there its handler is found on the stack, when somebody asks.
What runs on a thread, in a task, or later than its handler, as the pieces of a body, has the request in its context; so
has what that starts by `asyncio.create_task` or `asyncio.to_thread`, which copy the context.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, TypeVar

from hypoll.protocol.header_section import BLANKS, TRACEPARENT
from hypoll.protocol.messages import Request
from hypoll.protocol.request_id import trace_context

F = TypeVar("F", bound=Callable[..., Any])

_current: ContextVar[Request] = ContextVar("hypoll_request")

mark_current = _current.set
"""Have what runs in the present context belong to a request."""

_callers: set[CodeType] = set()


def calls_application(function: F) -> F:
    """Mark a function that calls code of the application for its parameter `request`."""
    _callers.add(function.__code__)
    return function


def is_inline(frame: FrameType) -> bool:
    """Whether a frame is that of a function which calls code of the application on the loop."""
    return frame.f_code in _callers


def current_request() -> Request | None:
    """The request that the running code belongs to; None: to none."""
    request = _current.get(None)
    if request is not None:
        return request
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _callers:
            found = frame.f_locals.get("request")
            return found if isinstance(found, Request) else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


def trace_of(request: Request) -> tuple[str, str] | None:
    """The trace-id and the parent-id of a request's `traceparent` (W3C Trace Context, 3.2); None: there is no valid
    one.
    """
    value = request.header_section.indexed.get(TRACEPARENT)
    return None if value is None else trace_context(value.strip(BLANKS))
