"""Paths that two answer: the server's own, and those of an application's routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypoll.web.routing import CONVERTERS, Parameter, Route, parse_path

FindRoute = Callable[[str], Route | None]
"""Gives the route that a path leads to, for whichever method; None: none."""


def is_fallback(route: Route) -> bool:
    """Whether a route takes all paths below another, and so those that nobody has thought of."""
    last = parse_path(route.path)[-1]
    return isinstance(last, Parameter) and last.converter is CONVERTERS["path"]


def hidden_routes(paths: Iterable[str], find: FindRoute) -> list[str]:
    """A sentence for each route that can't be reached, since the server answers its path before."""
    found = [(path, route) for path in paths if (route := find(path)) is not None and not is_fallback(route)]
    return [
        f"the server's own {path} hides the application's {route.path} ({route.place}): give one of them another path"
        for path, route in found
    ]


def fallen_back(paths: Iterable[str], find: FindRoute) -> list[str]:
    """Those of the paths that only a fallback answers, with a page that is there for any other."""
    return [path for path in paths if (route := find(path)) is not None and is_fallback(route)]
