"""URLs of routes by their names: what `Routes.url_for` gives.

Laws: what it gives leads to the route it was made of, with the same values, and stays on this server: no value adds a
segment, a query or a host.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

from hypoll.web.routing import Parameter, Route, RouteError, parse_path

Query = Mapping[str, Any] | Iterable[tuple[str, Any]]
"""Fields of a query. A list or tuple as a value is a field for each item; None: the field is left out."""

UNRESERVED = ":@!$&'()*+,;=~"
"""What stands in a segment as it is, beside letters, digits and `_.-` (RFC 3986, 3.3)."""

_QUERY = "query"
_DOTS = (".", "..")


class Names:
    """The named routes that a `Routes` has, its mounted ones included."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}

    def check(self, route: Route) -> None:
        """Raise `RouteError` when the route's name can't be its own."""
        name = route.url_name
        if name is None:
            return
        if not isinstance(name, str) or not name:
            raise RouteError(f"{route.path}: a route's name is a str that isn't empty, not {name!r}")
        if _QUERY in route.names:
            raise RouteError(f"{route.path}: url_for takes the query as {_QUERY!r}: call the parameter something else")
        other = self._routes.get(name)
        if other is not None and other.path != route.path:
            raise RouteError(
                f"the name {name!r} of {route.path} ({route.place}) is that of {other.path} ({other.place}) already; "
                "mount(prefix, other, name=...) sets the names of mounted routes apart"
            )

    def add(self, route: Route) -> None:
        """Know a route by its name, if it has one."""
        if route.url_name is not None:
            self._routes[route.url_name] = route

    def find(self, name: str) -> Route:
        """The route of this name. Raises `RouteError`, which names the nearest."""
        route = self._routes.get(name)
        if route is None:
            near = difflib.get_close_matches(str(name), self._routes, 1)
            known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(self._routes)) or 'none'}"
            raise RouteError(f"no route has the name {name!r}: {known}")
        return route


def make_url(name: str, path: str, params: Mapping[str, Any], query: Query | None) -> str:
    """The path, with values for its parameters, and the query; percent-encoded.

    Args:
        name: of the route, for errors.
        path: of the route, as it was declared.
        params: the values, by the parameters' names.
        query: fields behind the `?`.

    Raises:
        RouteError: For a parameter that is missing or unknown, and for a value that the route wouldn't take back.
    """
    segments = parse_path(path)
    wanted = [segment.name for segment in segments if isinstance(segment, Parameter)]
    for problem, names in (
        ("needs", [each for each in wanted if each not in params]),
        ("doesn't take", [each for each in params if each not in wanted]),
    ):
        if names:
            raise RouteError(f"the route {name!r}, {path}, {problem} {', '.join(map(repr, names))}")
    parts = [
        _fill(name, path, segment, params[segment.name]) if isinstance(segment, Parameter) else _encode(segment)
        for segment in segments
    ]
    url = "/" + "/".join(parts)
    if url.startswith("//"):
        url = "/%2F" + url[2:]  # two slashes would begin with a host (RFC 3986, 4.2)
    fields = query.items() if isinstance(query, Mapping) else query or ()
    text = urlencode([field for field in fields if field[1] is not None], doseq=True)
    return f"{url}?{text}" if text else url


def _fill(name: str, path: str, parameter: Parameter, value: Any) -> str:
    """The segment, or segments, that a parameter's value becomes."""
    converter = parameter.converter
    text = format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)
    fault = f"the route {name!r}, {path}: {parameter.name}={value!r}"
    if isinstance(value, bool) or value is None or converter.pattern.fullmatch(text) is None:
        raise RouteError(f"{fault} is no {converter.name} that the path takes")
    pieces = text.split("/") if converter.name == "path" else [text]
    if any(piece in _DOTS for piece in pieces):
        raise RouteError(f"{fault} can't be in a URL: clients take . and .. for a way through the path")
    try:
        return "/".join(map(_encode, pieces))
    except UnicodeEncodeError:
        raise RouteError(f"{fault} has a lone surrogate") from None


def _encode(text: str) -> str:
    return quote(text, safe=UNRESERVED)
