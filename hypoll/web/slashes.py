"""Paths that differ from a route's by the slash at their end, and are sent there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypoll.protocol.messages import Request, Response
from hypoll.protocol.refusals import nothing_here
from hypoll.web.hooks import Scopes
from hypoll.web.routing import Matches, Route

STATUS = 308
"""Permanent Redirect: unlike 301 it has the client repeat method and body (RFC 9110, 15.4.9)."""

_HOST_BEGINS = (b"//", b"/\\")
"""What clients take for the beginning of a host: such a path is never sent back to them (RFC 3986, 4.2; browsers take a
backslash for a slash)."""


def find_moved(find: Callable[[bytes], Matches], request: Request) -> Route | None:
    """The route that redirects a request to the path with, or without, a slash at its end; None: it isn't to be.

    find: gives the routes of a path, see `hypoll.web.table.Table.find`.
    """
    path = request.target.partition(b"?")[0]
    other = path[:-1] if path.endswith(b"/") else path + b"/"
    if not other or path.startswith(_HOST_BEGINS):
        return None
    for methods, _ in find(other):
        route = methods.get(request.method) or (methods.get("GET") if request.method == "HEAD" else None)
        if route is not None:
            scopes: Scopes = route.scopes
            wanted = any(scope.redirects_slashes for scope in scopes) if route.redirects is None else route.redirects
            return Route("*", ("GET",), partial(_answer, other), scopes) if wanted else None
    return None


def _answer(path: bytes, request: Request, **params: Any) -> Response:
    return redirect(request, path)


def redirect(request: Request, path: bytes) -> Response:
    """Redirect to a path of this server, percent-encoded, with the request's query. Raises `HTTPError` 404."""
    if path.startswith(_HOST_BEGINS):
        raise nothing_here()
    _, mark, query = request.target.partition(b"?")
    location = request.script_name + (path + mark + query).decode("latin-1")
    return Response(status=STATUS, headers={"Location": location})
