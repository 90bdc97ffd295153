"""What a route is declared with beside its path and its methods: what was given, and what its `Routes` says."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from hypoll.contracts import RunOn
from hypoll.option import parse_size
from hypoll.protocol.messages import Request
from hypoll.web.hooks import resolve
from hypoll.web.naming import is_async, place_of
from hypoll.web.routing import Handler, RouteError, check_hook, find_run_on

_UNSAID = float("nan")

BeforeHook = Callable[[Request], Any]


class RouteOptions(TypedDict, total=False):
    """What a route may be declared with, beside its path and methods; see `hypoll.app.Routes.route`."""

    threaded: bool
    stream: bool
    name: str | None
    max_body: int | str | None
    timeout: float | None
    before: Sequence[BeforeHook]


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a `Routes` says for those of its routes that don't say it themselves. Raises `RouteError`.

    Attributes:
        threaded: of each `def`.
        timeout: of each handler that one can be had for.
    """

    threaded: bool = False
    timeout: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.threaded, bool):
            raise RouteError(f"Routes: threaded is True or False, not {self.threaded!r}")
        _check_timeout("Routes", self.timeout)

    def run_on(self, where: str, handler: Handler, threaded: bool | None) -> RunOn:
        """Where a handler runs. threaded: as its route says; None: it doesn't."""
        if threaded is None:
            threaded = self.threaded and callable(handler) and not is_async(handler)
        return find_run_on(where, handler, threaded)


@dataclasses.dataclass(frozen=True)
class RoutePlan:
    """How a route is to be, its options and its `Routes`' defaults seen together.

    Attributes:
        handler: behind the hooks of the route's own.
        max_body: in bytes.
    """

    handler: Handler
    run_on: RunOn
    stream: bool
    name: str | None
    max_body: int | None
    timeout: float | None


def check_names(where: str, options: Mapping[str, Any]) -> None:
    """See that a route is given options that there are. Raises `RouteError` with the nearest."""
    for name in options:
        if name in RouteOptions.__annotations__:
            continue
        if name == "methods":
            raise RouteError(f"{where}: for several methods use routes.route(path, methods={options[name]!r})")
        near = difflib.get_close_matches(name, RouteOptions.__annotations__, 1, 0.5)
        known = f"is it {near[0]}?" if near else f"there are {', '.join(RouteOptions.__annotations__)}"
        raise RouteError(f"{where}: a route has no option {name}: {known}")


def plan_route(where: str, handler: Handler, options: RouteOptions, defaults: Defaults) -> RoutePlan:
    """See that a route's options fit its handler, and each other. Raises `RouteError`."""
    run_on = defaults.run_on(where, handler, options.get("threaded"))
    before = _checked_before(where, handler, run_on, options.get("before", ()))
    if before:
        handler = behind(before, handler)
        run_on = RunOn.TASK if is_async(handler) else run_on
    stream = options.get("stream", False)
    if stream and run_on is RunOn.LOOP:
        raise RouteError(f"{where}: stream=True needs a handler that may wait: threaded=True, or async def")
    timeout = options.get("timeout", _UNSAID)
    if timeout is _UNSAID:
        timeout = None if run_on is RunOn.LOOP else defaults.timeout
    _check_timeout(where, timeout)
    if timeout is not None and run_on is RunOn.LOOP:
        raise RouteError(f"{where}: a def on the loop can't be interrupted: timeout needs threaded=True, or async def")
    return RoutePlan(handler, run_on, stream, options.get("name"), _checked_size(where, options), timeout)


def _checked_size(where: str, options: RouteOptions) -> int | None:
    size = options.get("max_body")
    if isinstance(size, str):
        try:
            return parse_size(size)
        except ValueError as error:
            raise RouteError(f"{where}: max_body: {error}") from None
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise RouteError(f"{where}: max_body is a number of bytes or a size, as '10 MiB', not {size!r}")
    return size


def _check_timeout(where: str, timeout: float | None) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise RouteError(f"{where}: timeout is a number of seconds above 0, not {timeout!r}")


def _checked_before(
    where: str, handler: Handler, run_on: RunOn, before: Sequence[BeforeHook]
) -> tuple[BeforeHook, ...]:
    if not isinstance(before, (list, tuple)):
        raise RouteError(f"{where}: before takes a list of hooks, as in before=[check], not {before!r}")
    for hook in before:
        if check_hook(f"{where}: before", hook, "request") and run_on is RunOn.THREAD:
            raise RouteError(
                f"{where}: the hook {place_of(hook)} is an async def, and the handler runs on a thread: make the hook "
                "a def, which runs there, too, or the handler an async def"
            )
    return tuple(before)


def behind(hooks: Sequence[BeforeHook], handler: Handler) -> Handler:
    """The handler behind hooks of its own: what one gives, other than None, is the answer instead.

    It is of the handler's kind; of an inline one, where a hook is async, async.
    """

    def call(request: Request, **params: Any) -> Any:
        for hook in hooks:
            result = hook(request)
            if result is not None:
                return result
        return handler(request, **params)

    async def call_async(request: Request, **params: Any) -> Any:
        for hook in hooks:
            result = await resolve(hook(request))
            if result is not None:
                return result
        return await resolve(handler(request, **params))

    waits = is_async(handler) or any(is_async(hook) for hook in hooks)
    return functools.update_wrapper(call_async if waits else call, handler)
