"""Whether bodies that routes allow can be received: what is kept whole has to fit into the memory for all bodies."""

from __future__ import annotations

from collections.abc import Iterable

from hypoll.settings import OptionError, Settings
from hypoll.web.routing import Route

BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose requests have a body as a rule (RFC 9110, 9.3; RFC 5789)."""

_ADVICE = "which a body that is kept whole has to fit into: give the one less, the other more, or the route stream=True"


def check_body_limits(table: Iterable[Route], settings: Settings) -> None:
    """Raise `OptionError` for a limit on bodies that is above `body_memory`, of a route that doesn't stream.

    `max_body` counts where it is above its default only: who gives less memory than that is refused no body by it that
    would have come.
    """
    memory = settings.body_memory
    common = settings.max_body > max(memory, Settings.max_body)
    for route in table:
        if route.stream or route.socket is not None:
            continue
        where = f"{route.path} ({route.place})"
        if route.max_body is not None:
            if route.max_body > memory:
                raise OptionError(f"max_body of {where} is {route.max_body}, and <body_memory> {memory}, {_ADVICE}")
        elif common and BODY_METHODS.intersection(route.methods):
            raise OptionError(f"<max_body> is {settings.max_body}, and <body_memory> {memory}, {_ADVICE}: so {where}")
