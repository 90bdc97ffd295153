"""`Routes`: from a `Request` to a `Response`. Nothing here sees a socket or a byte of the wire."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson

from hypoll.http import FAILURES, HTTPError, Request, Response, json_response, problem
from hypoll.routing import Handler, Route, RouteError, Table, check_handler, check_hook, check_inline, parse_path

__all__ = ["RouteError", "Routes"]

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
"""The methods a route may be declared for."""

log = logging.getLogger("hypoll.error")

H = TypeVar("H", bound=Callable[..., Any])


class Routes:
    """The routes and hooks of an application. Calling it with a `Request` gives the `Response`.

        routes = Routes()

        @routes.get("/users/{id:int}")
        def user(request, id):
            return {"id": id}

    A handler returns a `Response`, or what `to_response` makes one of.
    """

    def __init__(self) -> None:
        self._table = Table()
        self._static = self._table.static
        self._parents: list[tuple[str, Routes]] = []
        self._hooked = False
        self._before: list[Callable[[Request], Any]] = []
        self._after: list[Callable[[Request, Response], Any]] = []
        self._errors: dict[type[BaseException], Callable[[Request, Any], Any]] = {}
        self._on_start: list[Callable[[], Any]] = []
        self._on_stop: list[Callable[[], Any]] = []
        self._mounted: list[Routes] = []

    # declaring

    def route(self, path: str, methods: Iterable[str] = ("GET",), *, threaded: bool = False) -> Callable[[H], H]:
        """Declare the decorated function as the handler of `path` for `methods`.

        path: literal segments and parameters, `{name}` or `{name:converter}`; converters are str (the default), int,
        float, uuid and path.

        Raises `RouteError` when the path is malformed, collides with another route, or the handler doesn't take its
        parameters.
        """
        parse_path(path)
        if isinstance(methods, str):
            raise RouteError(f"{path}: methods takes a list, as in methods=[{methods!r}]")
        names = tuple(dict.fromkeys(method.upper() for method in methods))

        def declare(handler: H) -> H:
            self._declare(path, names, handler, threaded)
            return handler

        return declare

    def get(self, path: str, *, threaded: bool = False) -> Callable[[H], H]:
        """`route` for GET; it answers HEAD, too."""
        return self.route(path, ("GET",), threaded=threaded)

    def post(self, path: str, *, threaded: bool = False) -> Callable[[H], H]:
        """`route` for POST."""
        return self.route(path, ("POST",), threaded=threaded)

    def put(self, path: str, *, threaded: bool = False) -> Callable[[H], H]:
        """`route` for PUT."""
        return self.route(path, ("PUT",), threaded=threaded)

    def patch(self, path: str, *, threaded: bool = False) -> Callable[[H], H]:
        """`route` for PATCH."""
        return self.route(path, ("PATCH",), threaded=threaded)

    def delete(self, path: str, *, threaded: bool = False) -> Callable[[H], H]:
        """`route` for DELETE."""
        return self.route(path, ("DELETE",), threaded=threaded)

    def head(self, path: str, *, threaded: bool = False) -> Callable[[H], H]:
        """`route` for HEAD, where answering it from GET would cost too much."""
        return self.route(path, ("HEAD",), threaded=threaded)

    def options(self, path: str, *, threaded: bool = False) -> Callable[[H], H]:
        """`route` for OPTIONS, where the Allow field alone is not the answer."""
        return self.route(path, ("OPTIONS",), threaded=threaded)

    def mount(self, prefix: str, other: Routes) -> None:
        """Serve all of `other`, and what it declares later, below `prefix`. Its hooks apply to its routes only.

        Its route `/` becomes `prefix/`. A parameter in the prefix is given to its handlers, too.

        Raises `RouteError` for a prefix that doesn't begin with a slash or ends with one, when routes collide, and when
        a handler doesn't take the prefix's parameters.
        """
        if not isinstance(other, Routes):
            raise RouteError(f"mount({prefix!r}, ...) takes a Routes, not {other!r}")
        parse_path(prefix)
        if prefix.endswith("/"):
            raise RouteError(f"the prefix {prefix!r} must not end with a slash: its routes' paths begin with one")
        if other is self or self in other._descendants():
            raise RouteError(f"mounting at {prefix!r} would put the routes inside themselves")
        for route in other._table.routes():
            self._add_mounted(prefix, route)
        other._parents.append((prefix, self))
        self._mounted.append(other)
        if other._hooked:
            self._mark_hooked()

    def before(self, hook: H) -> H:
        """Run `hook(request)` before every handler. What it returns, other than None, is the answer instead.

        The outermost `Routes`' hooks run first. They see a request that has no route, too.
        """
        check_hook("before", hook, "request")
        self._before.append(hook)
        self._mark_hooked()
        return hook

    def after(self, hook: H) -> H:
        """Run `hook(request, response)` after every answer. What it returns, other than None, replaces it.

        The innermost `Routes`' hooks run first. One that raises makes the answer a 500, which the others see.
        """
        check_hook("after", hook, "request", "response")
        self._after.append(hook)
        self._mark_hooked()
        return hook

    def error(self, kind: type[BaseException]) -> Callable[[H], H]:
        """Answer exceptions of `kind` with what the decorated `hook(request, error)` returns.

        The innermost `Routes` with a hook wins, and of its hooks the nearest class. `HTTPError` may be given, which
        includes 404 and 405; a hook for `Exception` takes them, too, where there is none for `HTTPError`.
        """
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise RouteError(f"routes.error takes an exception class, not {kind!r}")

        def declare(hook: H) -> H:
            check_hook(f"error({kind.__name__})", hook, "request", "error")
            if kind in self._errors:
                raise RouteError(f"there is a hook for {kind.__name__} already: one answers it")
            self._errors[kind] = hook
            self._mark_hooked()
            return hook

        return declare

    def on_start(self, hook: H) -> H:
        """Run `hook()` once before the first connection is accepted, mounted routes' hooks after these.

        Serving doesn't begin when it raises.
        """
        check_hook("on_start", hook)
        self._on_start.append(hook)
        return hook

    def on_stop(self, hook: H) -> H:
        """Run `hook()` once after the last connection is closed, mounted routes' hooks before these."""
        check_hook("on_stop", hook)
        self._on_stop.append(hook)
        return hook

    # serving

    def __call__(self, request: Request) -> Response:
        """Answer a request. What a handler raises becomes its answer, `sys.exit()` too: it is no stop."""
        answer = self.answer(request)
        return answer if isinstance(answer, Response) else json_response(answer)

    def answer(self, request: Request) -> Response | bytes:
        """Answer a request as serving does: bytes are the body of a `json_response`, made of them only if need be."""
        if self._hooked:
            return self._with_hooks(request)
        try:
            methods = self._static.get(request.target)
            route = methods.get(request.method) if methods is not None else None
            if route is not None:
                result = route.handler(request)
            else:
                route = self._find(request)
                result = route.handler(request, **request.params)
            if type(result) is dict:
                return orjson.dumps(result)
            return to_response(result)
        except FAILURES as error:
            return failure(request, error)

    def refuses(self, request: Request) -> HTTPError | None:
        """The refusal a request can be given before its body is read: no such path, or not this method.

        None when there are hooks that see such requests: theirs may be another answer.
        """
        if self._before or self._after or self._errors:
            return None
        try:
            self._find(request)
        except HTTPError as error:
            return error
        return None

    def startup(self) -> None:
        """Run the `on_start` hooks, mounted routes' included. Raises what a hook raises, with a note of which."""
        for routes in (self, *self._descendants()):
            for hook in routes._on_start:
                try:
                    hook()
                except Exception as error:
                    error.add_note(f"in the on_start hook {hook!r}")
                    raise

    def shutdown(self) -> None:
        """Run the `on_stop` hooks. One that raises is logged and doesn't keep the others from running."""
        # What started last stops first: mounted routes may use what those around them opened.
        for routes in reversed((self, *self._descendants())):
            for hook in routes._on_stop:
                try:
                    hook()
                except Exception:
                    log.exception("the on_stop hook %r failed", hook)

    def table(self) -> list[Route]:
        """Every route, sorted by path."""
        return list(self._table.routes())

    def _declare(self, path: str, methods: tuple[str, ...], handler: Handler, threaded: bool) -> None:
        where = f"{'/'.join(methods)} {path}"
        if not methods:
            raise RouteError(f"the route {path!r} has no method: name one, as in methods=['GET']")
        for method in methods:
            if method not in METHODS:
                raise RouteError(f"{where}: the method must be one of {', '.join(METHODS)}")
        if threaded:
            raise RouteError(f"{where}: threaded=True is not available in this version of hypoll: leave it out")
        check_inline(where, handler)
        check_handler(path, handler)
        self._add(Route(path, methods, handler, (self,)))

    def _add(self, route: Route) -> None:
        self._table.add(route)
        for prefix, parent in self._parents:
            parent._add_mounted(prefix, route)

    def _add_mounted(self, prefix: str, route: Route) -> None:
        path = prefix + route.path
        check_handler(path, route.handler)
        self._add(Route(path, route.methods, route.handler, (self, *route.scopes)))

    def _mark_hooked(self) -> None:
        self._hooked = True
        for _, parent in self._parents:
            parent._mark_hooked()

    def _descendants(self) -> list[Routes]:
        """All mounted routes, each once."""
        found: dict[int, Routes] = {}
        waiting = list(self._mounted)
        while waiting:
            routes = waiting.pop(0)
            if id(routes) not in found:
                found[id(routes)] = routes
                waiting += routes._mounted
        return list(found.values())

    def _find(self, request: Request) -> Route:
        """The route of a request, its parameters set. Raises `HTTPError` 400, 404 or 405."""
        if request.target == b"*":
            return _options_route(", ".join(METHODS))
        allowed: set[str] = set()
        for methods, values in self._table.find(request.target.partition(b"?")[0]):
            route = methods.get(request.method) or (methods.get("GET") if request.method == "HEAD" else None)
            if route is not None:
                if values:
                    request.params = dict(zip(route.names, values, strict=True))
                return route
            allowed |= methods.keys()
        if not allowed:
            raise HTTPError(404, "there is nothing at this path")
        allow = ", ".join(sorted(allowed | {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())))
        if request.method == "OPTIONS":
            return _options_route(allow)
        raise HTTPError(405, f"this path answers {allow}", {"Allow": allow})

    def _with_hooks(self, request: Request) -> Response:
        scopes: tuple[Routes, ...] = (self,)
        missing: HTTPError | None = None
        try:
            route = self._find(request)
            scopes = route.scopes or scopes
        except HTTPError as error:
            # The outer hooks see what has no route, too: a CORS or an authentication hook stands there.
            missing = error
        try:
            response = _run_before(scopes, request)
            if response is None:
                if missing is not None:
                    raise missing
                response = to_response(route.handler(request, **request.params))
        except FAILURES as error:
            response = _recover(scopes, request, error)
        return _run_after(scopes, request, response)


def _run_before(scopes: tuple[Routes, ...], request: Request) -> Response | None:
    for scope in scopes:
        for hook in scope._before:
            result = hook(request)
            if result is not None:
                return to_response(result)
    return None


def _run_after(scopes: tuple[Routes, ...], request: Request, response: Response) -> Response:
    for scope in reversed(scopes):
        for hook in scope._after:
            try:
                result = hook(request, response)
                response = response if result is None else to_response(result)
            except FAILURES as error:
                response = failure(request, error)
    return response


def _recover(scopes: tuple[Routes, ...], request: Request, error: BaseException) -> Response:
    """Answer an exception by the innermost hook for its nearest class, or as `failure` does."""
    for scope in reversed(scopes):
        for kind in type(error).__mro__:
            hook = scope._errors.get(kind)
            if hook is not None:
                try:
                    return to_response(hook(request, error))
                except FAILURES as another:
                    return failure(request, another)
    return failure(request, error)


def _options_route(allow: str) -> Route:
    return Route("*", ("OPTIONS",), lambda request, **params: Response(status=204, headers={"Allow": allow}))


def failure(request: Request, error: BaseException) -> Response:
    """What the client is told of an exception: an `HTTPError` as it is, anything else as 500, its traceback logged."""
    if isinstance(error, HTTPError):
        return problem(error)
    log.error("%s %s failed, request %s", request.method, request.raw_path, request.id, exc_info=error)
    return problem(HTTPError(500, "the server failed to answer; the log has the reason under this id"), request.id)


def to_response(result: Any) -> Response:
    """Make a `Response` of what a handler returned.

    str: text/plain as UTF-8. bytes: application/octet-stream. None: 204. A tuple: (value, status) or
    (value, status, headers). Anything else: application/json by orjson, which takes dict, list, numbers, dataclasses,
    datetimes and UUIDs. Raises `TypeError` for what it doesn't take.
    """
    kind = type(result)
    if kind is not dict and kind is not list:
        if isinstance(result, Response):
            return result
        if isinstance(result, str):
            return Response(result.encode(), 200, None, "text/plain; charset=utf-8")
        if isinstance(result, (bytes, bytearray, memoryview)):
            return Response(bytes(result), 200, None, "application/octet-stream")
        if result is None:
            return Response(b"", 204)
        if kind is tuple:
            return _from_tuple(result)
    try:
        return json_response(orjson.dumps(result))
    except TypeError as error:
        raise TypeError(
            f"a handler returned {kind.__name__}, which can't be sent: return a Response, str, bytes, None, "
            f"(value, status) or something that can be JSON ({error})"
        ) from None


def _from_tuple(result: tuple[Any, ...]) -> Response:
    match result:
        case (value, int(status)):
            headers = None
        case (value, int(status), headers):
            pass
        case _:
            raise TypeError("a tuple from a handler must be (value, status) or (value, status, headers)")
    if isinstance(value, tuple):
        raise TypeError("a handler returned a tuple in a tuple: only (value, status, headers) has a meaning")
    # A new one: a Response given here may be a constant of the application.
    response = to_response(value)
    return Response(response.body, status, response.headers if headers is None else headers, response.content_type)
