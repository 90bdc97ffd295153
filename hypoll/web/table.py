"""Finding the route of a request: one dict for static paths, a tree of segments for patterns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from hypoll.protocol.messages import HTTPError, Request
from hypoll.protocol.refusals import nothing_here
from hypoll.web.handler_calls import options_route
from hypoll.web.routing import (
    CONVERTERS,
    METHODS,
    Files,
    Matches,
    Methods,
    Parameter,
    Route,
    RouteError,
    decoded_segments,
    parse_path,
)
from hypoll.web.scopes import ScopeTree
from hypoll.web.slashes import find_moved

_ORDER = list(CONVERTERS)


@dataclass
class _Node:
    """A place in the tree: the way to it says what has come so far."""

    methods: Methods = field(default_factory=dict)
    literals: dict[str, _Node] = field(default_factory=dict)
    parameters: dict[str, _Node] = field(default_factory=dict)
    files: Files | None = None


class Table:
    """The routes of an application by path.

    Args:
        scope_tree: the hooks of what has no route.

    Attributes:
        redirects: whether a path may be redirected to the one with, or without, a slash at its end.
    """

    redirects = False

    def __init__(self, scope_tree: ScopeTree) -> None:
        self._scope_tree = scope_tree
        # By the target as it is received, so a static route is found with one look-up.
        self.static: dict[bytes, Methods] = {}
        self._root = _Node()

    def reserve(self, path: str) -> _Node:
        """Have a path begin as routes do, though none is declared for it; gives its place. Raises `RouteError`."""
        node = self._root
        for segment in parse_path(path):
            if isinstance(segment, Parameter):
                node = node.parameters.setdefault(segment.converter.name, _Node())
            else:
                node = node.literals.setdefault(segment, _Node())
        return node

    def add(self, route: Route) -> None:
        """Declare a route. Raises `RouteError` when it collides with one declared before."""
        node = self.reserve(route.path)
        for method in route.methods:
            other = node.methods.get(method)
            if other is not None:
                raise RouteError(
                    f"{method} {route.path} ({route.place}) collides with {method} {other.path} ({other.place})"
                )
        for method in route.methods:
            node.methods[method] = route
        node.files = route.files or node.files
        if route.path and not route.names:
            self.static[quote(route.path, safe="/:@!$&'()*+,;=~").encode()] = node.methods

    def find_route(self, request: Request) -> Route:
        """The route of a request, its parameters set. Raises `HTTPError` 400, 404 or 405."""
        if request.target == b"*":
            return options_route(", ".join(METHODS), (self._scope_tree.hooks,))
        found = self.find(request.target.partition(b"?")[0])
        for methods, values in found:
            route = methods.get(request.method) or (methods.get("GET") if request.method == "HEAD" else None)
            if route is not None:
                request.route = route.path
                if values:
                    request.params = dict(zip(route.names, values, strict=True))
                return route
        allowed = {method for methods, values in found for method, route in methods.items() if route.has(values)}
        if not allowed:
            moved = find_moved(self.find, request) if self.redirects else None
            if moved is not None:
                return moved
            raise nothing_here()
        allow = ", ".join(sorted(allowed | {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())))
        if request.method == "OPTIONS":
            return options_route(allow, self._scope_tree.at(request.target))
        raise HTTPError(405, f"this path answers {allow}", {"Allow": allow})

    def find(self, path: bytes) -> Matches:
        """What a path leads to, as received and percent-encoded.

        The most special first: a static segment before int, float, uuid, str and path. Raises `HTTPError`
        400 when the path isn't UTF-8.
        """
        segments = decoded_segments(path)
        node = self._root
        values = []
        rest = iter(segments)
        for segment in rest:
            child = node.literals.get(segment)
            if child is None:
                if len(node.parameters) != 1:
                    break
                ((name, child),) = node.parameters.items()
                converter = CONVERTERS[name]
                text = "/".join((segment, *rest)) if name == "path" else segment
                if converter.pattern.fullmatch(text) is None:
                    break
                values.append(converter.convert(text))
            elif node.parameters:
                break
            node = child
        else:
            return [(node.methods, values)] if node.methods else []
        # There is more than one way, or none.
        return list(_walk(self._root, segments, 0, []))

    def routes(self) -> Iterator[Route]:
        """Every route once, static and pattern, by path."""
        seen: dict[int, Route] = {}
        stack = [self._root]
        while stack:
            node = stack.pop()
            seen.update({id(route): route for route in node.methods.values()})
            stack += [*node.literals.values(), *node.parameters.values()]
        return iter(sorted(seen.values(), key=lambda route: (route.path, route.methods)))


def _walk(node: _Node, segments: list[str], index: int, values: list[Any]) -> Iterator[tuple[Methods, list[Any]]]:
    if index == len(segments):
        if node.methods:
            yield node.methods, values
        return
    segment = segments[index]
    literal = node.literals.get(segment)
    if literal is not None:
        yield from _walk(literal, segments, index + 1, values)
    for name in _ORDER if node.parameters else ():
        child = node.parameters.get(name)
        if child is None:
            continue
        converter = CONVERTERS[name]
        text, following = ("/".join(segments[index:]), len(segments)) if name == "path" else (segment, index + 1)
        if child.files is not None and literal is not None and not child.files.has(text):
            continue  # what begins as other routes do is theirs, unless it is a file
        if converter.pattern.fullmatch(text):
            yield from _walk(child, segments, following, [*values, converter.convert(text)])
