"""What is an ASGI application, and of which version."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from hypoll.web.signatures import signature_of

ASGIApplication = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def is_asgi(application: Any) -> bool:
    """Whether something is called as an ASGI application is.

    It is a coroutine function of that many arguments, or an object whose `__call__` is one, or takes scope, receive and
    send; or it takes the scope alone, by that name, as in ASGI 2: a handler of one request does nearly so.
    """
    return is_single(application) or (is_double(application) and _first_name(application) == "scope")


def is_single(application: Any) -> bool:
    """Whether it is called with scope, receive and send (ASGI 3)."""
    if not callable(application) or inspect.isclass(application):
        return False
    call = application.__call__
    if inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(call):
        return binds(application, 3)
    return binds(application, 3) and not binds(application, 2)


def is_double(application: Any) -> bool:
    """Whether it is called with the scope, and gives what is called with receive and send (ASGI 2)."""
    if not callable(application) or is_single(application):
        return False
    return binds(application, 1) and not binds(application, 0) and not binds(application, 2)


def _first_name(application: Any) -> str:
    return next(iter(signature_of(application).parameters), "")


def single_callable(application: Callable[..., Any]) -> ASGIApplication:
    """The application as one of ASGI 3."""
    if not is_double(application):
        return application
    double: Any = application

    @functools.wraps(double, updated=())
    async def single(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await double(scope)(receive, send)

    return single


def binds(application: Any, count: int) -> bool:
    """Whether it can be called with so many arguments, as far as it says."""
    try:
        signature_of(application).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True
