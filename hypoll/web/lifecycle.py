"""What an application has done at its start and end, and meanwhile: the hooks of a `Routes` that no request runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hypoll.contracts import PeriodicWork
from hypoll.protocol.messages import FAILURES
from hypoll.web.hooks import RunToCompletion, run_hook
from hypoll.web.naming import place_of
from hypoll.web.routing import RouteError, check_hook

log = logging.getLogger("hypoll.error")

Hook = Callable[[], Any]


class Lifecycle:
    """The hooks, in the order in which they were declared.

    Attributes:
        start, stop, drain: see `Routes.on_start`, `on_stop`, `on_drain`.
        ready_checks: see `Routes.on_ready_check`.
        periodic: see `Routes.every`.
        is_async: whether any of them is.
    """

    def __init__(self) -> None:
        self.start: list[Hook] = []
        self.stop: list[Hook] = []
        self.drain: list[Hook] = []
        self.ready_checks: list[Hook] = []
        self.periodic: list[PeriodicWork] = []
        self.is_async = False

    def add(self, name: str, hooks: list[Hook], hook: Hook) -> None:
        """Add a hook to one of the lists. Raises `RouteError` for what is none."""
        self.is_async |= check_hook(name, hook)
        hooks.append(hook)

    def add_ready_check(self, hook: Hook) -> None:
        """Add an `on_ready_check` hook. Raises `RouteError`."""
        if check_hook("on_ready_check", hook):
            raise RouteError(f"the on_ready_check hook {place_of(hook)} must be a def: it is asked on the loop")
        self.ready_checks.append(hook)

    def add_periodic(self, seconds: float, function: Hook) -> None:
        """Add periodic work. Raises `RouteError`."""
        is_async = check_hook("every", function)
        self.is_async |= is_async
        self.periodic.append(PeriodicWork(seconds, function, is_async, place_of(function)))


def check_seconds(seconds: Any) -> None:
    """See that periodic work has a period. Raises `RouteError`."""
    if callable(seconds):
        raise RouteError(f"every takes the seconds, as in @routes.every(60), and {place_of(seconds)} has none")
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < float("inf"):
        raise RouteError(f"every takes a number of seconds above 0, not {seconds!r}")


def run_start(lifecycles: Iterable[Lifecycle], complete: RunToCompletion) -> None:
    """Run the `on_start` hooks. Raises what a hook raises, with a note of which."""
    for hook in _each(lifecycle.start for lifecycle in lifecycles):
        try:
            run_hook(hook, complete)
        except Exception as error:
            error.add_note(f"in the on_start hook {place_of(hook)}")
            raise


def run_stop(lifecycles: Iterable[Lifecycle], complete: RunToCompletion) -> None:
    """Run the `on_stop` hooks. One that raises is logged and doesn't keep the others from running."""
    for hook in _each(lifecycle.stop for lifecycle in lifecycles):
        try:
            run_hook(hook, complete)
        except KeyboardInterrupt:
            raise
        except FAILURES:
            log.exception("the on_stop hook %s failed", place_of(hook))


def _each(lists: Iterable[list[Hook]]) -> Iterator[Hook]:
    return (hook for hooks in lists for hook in hooks)
