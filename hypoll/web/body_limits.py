"""Whether bodies that routes allow can be received: what is kept whole has to fit into the memory for all bodies."""

from __future__ import annotations

from collections.abc import Iterable

from hypoll.option import OptionError
from hypoll.settings import Settings
from hypoll.web.routing import Route

BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose requests have a body as a rule (RFC 9110, 9.3; RFC 5789)."""

_ADVICE = "which a body that is kept whole has to fit into: give the one less, the other more, or the route stream=True"


def check_body_limits(table: Iterable[Route], settings: Settings) -> None:
    """Raise `OptionError` for the `max_body` of a route that is above `body_memory`: it is declared in vain."""
    memory = settings.body_memory
    for route in _keeping(table):
        if route.max_body is not None and route.max_body > memory:
            where = f"{route.path} ({route.place})"
            raise OptionError(f"max_body of {where} is {route.max_body}, and <body_memory> {memory}, {_ADVICE}")


def unreachable_limits(table: Iterable[Route], settings: Settings) -> list[str]:
    """A sentence where `max_body` of the server is above `body_memory` and a route keeps bodies up to it: 413 then.

    It counts where it is above its default only: who gives less memory than that is refused no body by it that would
    have come. It is no error, since it may be meant for the routes that stream.
    """
    limit, memory = settings.max_body, settings.body_memory
    if limit <= max(memory, Settings.max_body):
        return []
    wide = [r for r in _keeping(table) if r.max_body is None and BODY_METHODS.intersection(r.methods)]
    text = f"<max_body> is {limit}, and <body_memory> {memory}, {_ADVICE}: a larger one is 413"
    return [f"{OptionError(text)}, as of {wide[0].path} ({wide[0].place})"] if wide else []


def _keeping(table: Iterable[Route]) -> list[Route]:
    """The routes that keep bodies whole."""
    return [route for route in table if not route.stream and route.socket is None]
