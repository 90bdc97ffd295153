"""`Routes`: from a `Request` to a `Response`. Nothing here sees a socket or a byte of the wire."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar, Unpack

from orjson import dumps

from hypoll.contracts import Application, HandlerCall, PeriodicWork, RunOn
from hypoll.protocol.messages import FAILURES, HTTPError, Request, Response, json_response
from hypoll.protocol.refusals import body_too_large
from hypoll.protocol.state import State
from hypoll.web.compression import MIN_SIZE, TYPES, Compression
from hypoll.web.cors import Cors, Origins
from hypoll.web.handler_calls import deferred, make_answer
from hypoll.web.hooks import Hooks, RunToCompletion, complete_here
from hypoll.web.json_encoding import Default, JSONEncoder
from hypoll.web.lifecycle import check_seconds, run_start, run_stop
from hypoll.web.results import failure, to_response
from hypoll.web.route_options import Defaults, RouteOptions, check_names, plan_route
from hypoll.web.routing import (
    METHODS,
    WITHOUT_HOOK,
    Handler,
    Methods,
    Route,
    RouteError,
    check_handler,
    check_hook,
    parse_path,
)
from hypoll.web.security import SecureHeaders
from hypoll.web.static import Static
from hypoll.web.tree import RouteTree
from hypoll.web.urls import Query, make_url
from hypoll.wsgi.adapter import WSGIAdapter

__all__ = ["RouteError", "Routes"]

_NO_METHODS: Methods = {}

H = TypeVar("H", bound=Callable[..., Any])


class Routes(Application):
    """The routes and hooks of an application. Calling it with a `Request` gives the `Response`::

        routes = Routes()

        @routes.get("/users/{id:int}")
        def user(request, id):
            return {"id": id}

    A handler returns a `Response`, or what `to_response` makes one of.

    Args:
        slashes: "redirect": where no route has a path, but one has it with, or without, a slash at its end, the answer
            is 308 to that, the query kept; of mounted routes, too. None: it is 404.
        default: gives what is sent as JSON in place of a value that hypoll can't encode; raises `TypeError` for what it
            doesn't know. Of mounted routes the innermost default that knows a value wins.
        strict_json: make NaN and the infinities in JSON errors; they are null otherwise. `TestClient` does by itself.
        threaded: run each `def` handler that doesn't say it itself on a thread, files excepted.
        timeout: the `timeout` of each threaded and async handler that doesn't say one, or None, itself.

    Attributes:
        state: for what the application opens when it starts, as attributes: `routes.state.db = ...`.

    Raises:
        RouteError: For another value of `slashes`.
    """

    def __init__(
        self,
        *,
        slashes: Literal["redirect"] | None = None,
        default: Default | None = None,
        strict_json: bool = False,
        threaded: bool = False,
        timeout: float | None = None,
    ) -> None:
        if slashes not in (None, "redirect"):
            raise RouteError(f"slashes is 'redirect' or None, not {slashes!r}")
        self.state = State()
        self._defaults = Defaults(threaded, timeout)
        self._hooks = Hooks(default, strict_json, redirects_slashes=slashes is not None)
        self._tree = RouteTree(self._hooks, self._on_change)
        self._table, self._hook_runner = self._tree.table, self._tree.hook_runner
        self._static = self._table.static
        self._wsgi_adapter: WSGIAdapter | None = None
        self._tree.update()

    def _on_change(self) -> None:
        self._hooked, self._streams = self._tree.hooked, self._tree.streams

    # declaring

    def route(
        self,
        path: str,
        methods: Iterable[str] = ("GET",),
        **options: Unpack[RouteOptions],
    ) -> Callable[[H], H]:
        """Declare the decorated function as the handler of `path` for `methods`.

        Args:
            methods: the methods that it answers, upper case; HEAD comes with GET.
            path: literal segments and parameters, `{name}` or `{name:converter}`; converters are str (the default),
                int, float, uuid and path. "": that of the mount, for routes that are to be mounted.
            threaded: run it on a thread of the pool: for a handler that blocks. A `def` runs on the loop otherwise, an
                `async def` as an asyncio task. Default: as the `Routes` says.
            stream: begin when the head of the request is whole; the body is `request.stream`. For the threaded and
                async.
            name: what `url_for` makes URLs of it by.
            max_body: bytes that a body may have, or a size as "10 MiB", fewer or more than `--max-body`. A larger one
                is 413, by its head if that has its length.
            timeout: seconds until the handler has answered, of a stream until its head; then the answer is 504. An
                async handler is cancelled; a thread goes on, and what it gives is dropped.
            before: hooks as of `before`, for this route alone, behind those of its `Routes`. They run where the handler
                does; those of a threaded one are no `async def`.

        Raises:
            RouteError: When the path is malformed, collides with another route, or the handler doesn't take its
                parameters, or doesn't fit the options.
        """
        parse_path(path)
        check_names(path, options)
        if isinstance(methods, str):
            raise RouteError(f"{path}: methods takes a list, as in methods=[{methods!r}]")
        try:
            names = tuple(dict.fromkeys(method.upper() for method in methods))
        except (TypeError, AttributeError):
            raise RouteError(f"{path}: methods takes a list of names, as in methods=['GET'], not {methods!r}") from None

        def declare(handler: H) -> H:
            self._declare(path, names, handler, options)
            return handler

        return declare

    def get(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """`route` for GET; it answers HEAD, too."""
        return self._declaring(path, "GET", options)

    def post(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """`route` for POST."""
        return self._declaring(path, "POST", options)

    def put(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """`route` for PUT."""
        return self._declaring(path, "PUT", options)

    def patch(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """`route` for PATCH."""
        return self._declaring(path, "PATCH", options)

    def delete(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """`route` for DELETE."""
        return self._declaring(path, "DELETE", options)

    def head(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """`route` for HEAD, where answering it from GET would cost too much."""
        return self._declaring(path, "HEAD", options)

    def options(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[H], H]:
        """`route` for OPTIONS, where the Allow field alone is not the answer."""
        return self._declaring(path, "OPTIONS", options)

    def _declaring(self, path: str, method: str, options: RouteOptions) -> Callable[[H], H]:
        check_names(f"{method} {path}", options)
        return self.route(path, (method,), **options)

    def websocket(
        self,
        path: str,
        *,
        threaded: bool | None = None,
        subprotocols: Sequence[str] = (),
        origins: Sequence[str] | None = None,
    ) -> Callable[[H], H]:
        """Declare the decorated `handler(socket)` as what speaks to the WebSockets that clients open at `path`.

        Args:
            path: as of `route`; the handler gets its parameters behind the socket.
            threaded: run a `def` on a thread, with a socket that blocks; see `hypoll.websocket.ThreadSocket`. Else it
                is an `async def`, which gets a `hypoll.websocket.Socket`. Default: as the `Routes` says.
            subprotocols: those that it speaks, its favourite first.
            origins: the origins whose pages may open it, as `https://example.org`; "*": any. None: those of the host
                that it is opened at, by the word of trusted proxies. Who names no origin is no page.

        Raises:
            RouteError: As `route` does.
        """
        parse_path(path)
        if isinstance(subprotocols, str) or isinstance(origins, str):
            raise RouteError(f"{path}: subprotocols and origins take lists, not a string")

        def declare(handler: H) -> H:
            from hypoll.websocket.route import SocketRoute  # only here: it brings the server's side along

            run_on = self._defaults.run_on(f"WebSocket {path}", handler, threaded)
            if run_on is RunOn.LOOP:
                raise RouteError(f"WebSocket {path}: its handler must be an async def, or have threaded=True")
            check_handler(path, handler, "socket")
            socket = SocketRoute(handler, threaded=run_on is RunOn.THREAD, subprotocols=subprotocols, origins=origins)
            encoder = JSONEncoder((self._hooks,), handler)
            call = socket.handler_call(encoder)
            plain = Route(path, ("GET",), handler, (self._hooks,), run_on, handler_call=call, direct=call)
            self._tree.add(dataclasses.replace(plain, encoder=encoder, socket=socket))
            return handler

        return declare

    def static(
        self,
        prefix: str,
        directory: str | os.PathLike[str],
        *,
        cache_control: str | None = None,
        precompressed: bool = True,
        index: str | None = None,
        fallback: str | None = None,
        name: str | None = None,
    ) -> None:
        """Serve the files below `directory` at the paths below `prefix`, to GET and HEAD. See `Static`.

        Args:
            prefix: a path; "/" for all paths.
            directory: one that exists; a relative one is below the working directory of the process.
            cache_control: the Cache-Control of every file but pages.
            precompressed: whether `name.br` and `name.gz` stand for `name`.
            index: the file that is a directory's page, as "index.html". None: directories have none.
            fallback: the file that is the page of paths which have no file, for an application whose paths the browser
                knows. Only to GET and HEAD of a page (see `is_navigation`), and not below the first segment of another
                route or mount: those 404s stay what they are.
            name: `url_for(name, path="app.js")` gives a file's URL then.

        Raises:
            RouteError: As `route` does, for a directory or fallback that there isn't, and for a Cache-Control that
                can't be sent.
        """
        handler = Static(
            directory, cache_control=cache_control, precompressed=precompressed, index=index, fallback=fallback
        )
        self._declare(prefix.rstrip("/") + "/{path:path}", ("GET",), handler, {"threaded": False, "name": name})

    def mount(self, prefix: str, other: Routes, *, name: str | None = None) -> None:
        """Serve all of `other`, and what it declares later, below `prefix`. Its hooks apply there, and only there.

        Its route "" is the prefix itself, its route `/` becomes `prefix/`. A parameter in the prefix is given to its
        handlers, too.

        Args:
            prefix: a path that doesn't end with a slash.
            other: what is mounted; several times, if need be.
            name: what its routes' names begin with here, with a dot behind it. None: they are the same.

        Raises:
            RouteError: For a prefix that doesn't begin with a slash or ends with one, when routes or their names
                collide, and when a handler doesn't take the prefix's parameters.
        """
        if not isinstance(other, Routes):
            raise RouteError(f"mount({prefix!r}, ...) takes a Routes, not {other!r}")
        self._tree.mount(prefix, name, other._tree)

    def before(self, hook: H = WITHOUT_HOOK) -> H:
        """Run `hook(request)` before every handler. What it returns, other than None, is the answer instead.

        The outermost `Routes`' hooks run first. They see a request that has no route, too: those of mounted routes
        what is below their prefix.
        """
        is_async = check_hook("before", hook, "request")
        self._hooks.before.append(hook)
        self._tree.on_hook(is_async)
        return hook

    def after(self, hook: H = WITHOUT_HOOK) -> H:
        """Run `hook(request, response)` after every answer. What it returns, other than None, replaces it.

        The innermost `Routes`' hooks run first. One that raises makes the answer a 500, which the others see.
        """
        is_async = check_hook("after", hook, "request", "response")
        self._hooks.after.append(hook)
        self._tree.on_hook(is_async)
        return hook

    def error(self, kind: type[BaseException]) -> Callable[[H], H]:
        """Answer exceptions of `kind` with what the decorated `hook(request, error)` returns.

        The innermost `Routes` with a hook wins, and of its hooks the nearest class. `HTTPError` may be given, which
        includes 404 and 405; a hook for `Exception` takes them, too, where there is none for `HTTPError`.
        """
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            status = " (HTTPError for all statuses: the hook gets error.status)" if isinstance(kind, int) else ""
            raise RouteError(f"routes.error takes an exception class, not {kind!r}{status}")

        def declare(hook: H) -> H:
            is_async = check_hook(f"error({kind.__name__})", hook, "request", "error")
            if kind in self._hooks.errors:
                raise RouteError(f"there is a hook for {kind.__name__} already: one answers it")
            self._hooks.errors[kind] = hook
            self._tree.on_hook(is_async)
            return hook

        return declare

    def cors(
        self,
        origins: Origins,
        *,
        methods: Iterable[str] | None = None,
        headers: Iterable[str] | None = None,
        credentials: bool = False,
        expose: Iterable[str] = (),
        max_age: int | None = 600,
    ) -> None:
        """Let pages of other origins read the answers: to these routes, to what has none here, and refusals, too.

        Preflights are answered before any hook. Of mounted routes with their own, those decide.

        Args:
            origins: "https://app.example", a list of such, a compiled pattern that must match as a whole, a function of
                the origin that gives a bool, or "*": every one.
            methods: that a page may use. None: whichever it asks for; a path still answers its own alone.
            headers: that a page may send. None: whichever it asks for.
            credentials: whether browsers send cookies along and let the page read what comes of them. Never with "*".
            expose: response fields that a page may read, beside the few that Fetch lists (3.2.6).
            max_age: seconds for which a browser needn't ask again. None: as the browser has it, 5.

        Raises:
            RouteError: For "*" with credentials, what is no origin, and where there is a policy already.
        """
        if self._hooks.cors is not None:
            raise RouteError("cors() was called already: one policy decides")
        self._hooks.cors = Cors(origins, methods, headers, credentials, expose, max_age)
        self._tree.update()

    def compress(self, *, min_size: int = MIN_SIZE, types: Iterable[str] = TYPES) -> None:
        """Compress answers for clients that take it: by zstd, br or gzip, as they prefer.

        zstd needs Python 3.14 or the extra `zstd`, br the extra `brotli`. Streams are flushed with each piece.
        What has a Content-Encoding, `Cache-Control: no-transform` or a digest, and parts (206), are sent as they are;
        files that aren't compressed still go by sendfile. An entity tag becomes a weak one.

        Args:
            min_size: bytes below which an answer isn't compressed.
            types: media types to compress: as `text/html`, `text/*` or `*+json`.

        Raises:
            RouteError: For another size or type, and where it was called already.
        """
        if self._hooks.compression is not None:
            raise RouteError("compress() was called already")
        self._hooks.compression = Compression(min_size, types)
        self._tree.update()

    def secure_headers(
        self,
        *,
        hsts: str | None = "max-age=31536000",
        referrer_policy: str | None = "strict-origin-when-cross-origin",
        frame_ancestors: str | None = "'none'",
        content_security_policy: str | None = None,
        opener_policy: str | None = "same-origin",
        resource_policy: str | None = None,
        permissions_policy: str | None = None,
    ) -> None:
        """Have browsers guard what is answered: set these fields where an answer doesn't have them, refusals included.

        `X-Content-Type-Options: nosniff` is always among them. None leaves a field out.

        Args:
            hsts: Strict-Transport-Security, over https only.
            referrer_policy: Referrer-Policy.
            frame_ancestors: who may show the pages in a frame, in Content-Security-Policy, and in X-Frame-Options if
                that can say it.
            content_security_policy: the rest of Content-Security-Policy.
            opener_policy: Cross-Origin-Opener-Policy.
            resource_policy: Cross-Origin-Resource-Policy.
            permissions_policy: Permissions-Policy.

        Raises:
            RouteError: For what can't be sent, and where it was called already.
        """
        if self._hooks.security is not None:
            raise RouteError("secure_headers() was called already")
        self._hooks.security = SecureHeaders(
            hsts=hsts,
            referrer_policy=referrer_policy,
            frame_ancestors=frame_ancestors,
            content_security_policy=content_security_policy,
            opener_policy=opener_policy,
            resource_policy=resource_policy,
            permissions_policy=permissions_policy,
        )
        self._tree.update()

    def on_start(self, hook: H = WITHOUT_HOOK) -> H:
        """Run `hook()` once before the first connection is accepted, mounted routes' hooks after these.

        Serving doesn't begin when it raises.
        """
        self._tree.lifecycle.add("on_start", self._tree.lifecycle.start, hook)
        self._tree.check_wsgi()
        return hook

    def on_stop(self, hook: H = WITHOUT_HOOK) -> H:
        """Run `hook()` once after the last connection is closed, mounted routes' hooks before these."""
        self._tree.lifecycle.add("on_stop", self._tree.lifecycle.stop, hook)
        self._tree.check_wsgi()
        return hook

    def on_drain(self, hook: H = WITHOUT_HOOK) -> H:
        """Run `hook()` once when the server begins to go away: while it waits for the requests under way.

        For streams without an end, which had better come to one: see `Request.draining`, too. An `async def` runs as a
        task that is waited for.
        """
        self._tree.lifecycle.add("on_drain", self._tree.lifecycle.drain, hook)
        return hook

    def on_ready_check(self, hook: H = WITHOUT_HOOK) -> H:
        """Ask `hook()` whether the application wants requests: it does unless this returns False, or raises.

        Readiness (`--health`) asks it at most once a second, on the loop: look at what is known, don't go and ask.
        """
        self._tree.lifecycle.add_ready_check(hook)
        return hook

    def every(self, seconds: float) -> Callable[[H], H]:
        """Run the decorated `function()` again and again, once in each process that serves.

        The first run begins when the `on_start` hooks are through, each further one `seconds` after the beginning of
        the last; those that would begin before it has ended are left out. A `def` runs on a thread of its own, where it
        may block, an `async def` in a task. What it raises is logged, and the next run comes all the same. A server
        that is stopped waits for a run that is under way, as for a request, but for no pause.

        Raises:
            RouteError: For a number of seconds that is none, and what can't be called without arguments.
        """
        check_seconds(seconds)

        def declare(function: H) -> H:
            self._tree.lifecycle.add_periodic(seconds, function)
            self._tree.check_wsgi()
            return function

        return declare

    # serving

    @property
    def strict_json(self) -> bool:
        """Whether NaN and the infinities in the JSON of these routes' answers are errors. May be set at any time."""
        return self._hooks.strict_json

    @strict_json.setter
    def strict_json(self, strict: bool) -> None:
        self._hooks.strict_json = strict
        self._tree.refresh_encoders()
        self._tree.update()

    @property
    def ready_checks(self) -> list[Callable[[], Any]]:
        """The `on_ready_check` hooks, mounted routes' included."""
        return [hook for lifecycle in self._tree.lifecycles() for hook in lifecycle.ready_checks]

    @property
    def drain_hooks(self) -> list[Callable[[], Any]]:
        """The `on_drain` hooks, mounted routes' included."""
        return [hook for lifecycle in self._tree.lifecycles() for hook in lifecycle.drain]

    @property
    def periodic(self) -> list[PeriodicWork]:
        """The work of `every`, mounted routes' included."""
        return self._tree.periodic

    def __call__(self, request: Request, *of_others: object) -> Response:
        """Answer a request, here and now, whatever kind its handler is. What a handler raises becomes its answer,
        `sys.exit()` too: it is no stop.

        Args:
            request: what to answer.
            of_others: what a server gives to an application of another kind.

        Raises:
            RuntimeError: For an async handler while an event loop is running on this thread.
            TypeError: When another server calls this as a WSGI or ASGI application.
        """
        if of_others or isinstance(request, dict):
            raise TypeError(
                "Routes are no WSGI or ASGI application: serve routes.wsgi, or with gunicorn give "
                "-k hypoll.gunicorn_worker.Worker"
            )
        limit = self.max_body_of(request) if request.body else None
        if limit is not None and len(request.body) > limit:
            return self._hook_runner.answer_error(request, body_too_large(limit))
        answer = self.answer(request)
        if isinstance(answer, HandlerCall):
            answer = make_answer(request, answer)
        return answer if isinstance(answer, Response) else json_response(answer)

    def answer(self, request: Request) -> Response | bytes | HandlerCall:
        """Answer a request as serving does.

        bytes are the body of a `json_response`, made of them only if need be. `HandlerCall`: the handler is not of the
        kind that runs on the loop.
        """
        if self._hooked:
            return self._hook_runner.answer(request)
        try:
            route = self._static.get(request.target, _NO_METHODS).get(request.method)
            if route is None:
                route = self._table.find_route(request)
                if route.handler_call is not None:
                    return route.handler_call
                result = route.handler(request, **request.params)
            elif route.direct is not None:
                return route.direct
            else:
                handler = route.handler
                result = handler(request)
            if type(result) is dict:
                try:
                    return dumps(result)
                except TypeError:
                    return route.encoder.encode(result)
            return to_response(result, route.encoder)
        except FAILURES as error:
            return failure(request, error)

    @property
    def uses_asyncio(self) -> bool:
        """Whether asyncio is needed: a handler or a hook is an `async def`."""
        return self._tree.uses_asyncio

    @property
    def uses_threads(self) -> bool:
        """Whether a handler is threaded."""
        return any(route.run_on is RunOn.THREAD for route in self.table())

    @property
    def least_max_body(self) -> int | None:
        """The smallest of the routes' own limits on bodies; None: none has one."""
        return min((route.max_body for route in self.table() if route.max_body is not None), default=None)

    def max_body_of(self, request: Request) -> int | None:
        """Bytes that the body of a request may have by its route; None: that says nothing."""
        try:
            return self._table.find_route(request).max_body
        except HTTPError:
            return None

    def wants_stream(self, request: Request) -> bool:
        """Whether a request, whose head alone is known, goes to a handler that takes the body as it comes."""
        if not self._streams:
            return False
        try:
            return self._table.find_route(request).stream
        except HTTPError:
            return False

    def early_refusal(self, request: Request) -> HTTPError | None:
        """The refusal a request can be given before its body is read: no such path, or not this method.

        None when there are hooks that see such requests: theirs may be another answer.
        """
        try:
            self._table.find_route(request)
        except HTTPError as error:
            return None if any(self._tree.scope_tree.at(request.target)) else error
        return None

    def amend_refusal(self, request: Request, response: Response) -> Response:
        """Finish an answer that the server gives by itself, as those of these routes are finished."""
        return self._hook_runner.amend_refusal(request, response)

    def check(self) -> None:
        """See that these routes can be served as they are. Raises `RouteError`."""
        for route in self.table():
            if not route.path:
                raise RouteError(
                    f"{'/'.join(route.methods)} '' ({route.place}) is the path that its routes are mounted at, and "
                    "they are served at the root: mount them, as in outer.mount('/orders', routes), or write '/'"
                )

    def startup(self, complete: RunToCompletion = complete_here) -> None:
        """Run the `on_start` hooks, mounted routes' included. Raises what a hook raises, with a note of which.

        Args:
            complete: runs a coroutine to its end.
        """
        run_start(self._tree.lifecycles(), complete)

    def shutdown(self, complete: RunToCompletion = complete_here) -> None:
        """Run the `on_stop` hooks. One that raises is logged and doesn't keep the others from running."""
        # What started last stops first: mounted routes may use what those around them opened.
        run_stop(reversed(self._tree.lifecycles()), complete)

    def pattern(self, request: Request) -> str | None:
        """The path of a request's route as it was declared; None when there is none. May be asked from any thread."""
        try:
            static = self._static.get(request.target, _NO_METHODS).get(request.method)
            if static is not None:
                return static.path
            for methods, _ in self._table.find(request.target.partition(b"?")[0]):
                for method in (request.method, "GET" if request.method == "HEAD" else ""):
                    if method in methods:
                        return methods[method].path
        except HTTPError:
            pass
        return None

    @property
    def wsgi(self) -> WSGIAdapter:
        """These routes as a WSGI application (PEP 3333), for any server of such: `application = routes.wsgi`.

        Raises:
            RouteError: Which names all that is async in them: there is no event loop. What is declared async afterwards
                raises it, too.
        """
        if self._wsgi_adapter is None:
            self.check()
            self._tree.serve_wsgi()
            self._wsgi_adapter = WSGIAdapter(self)
        return self._wsgi_adapter

    def table(self) -> list[Route]:
        """Every route, sorted by path."""
        return list(self._table.routes())

    def route_at(self, path: str) -> Route | None:
        """The route that a path leads to, for whichever method; None: none."""
        return next((route for methods, _ in self._table.find(path.encode()) for route in methods.values()), None)

    def url_for(self, name: str, /, *, query: Query | None = None, **params: Any) -> str:
        """The path of the route that was declared with this `name=`, its values percent-encoded, and a query.

            routes.url_for("user", id=7, query={"full": 1})  # /users/7?full=1

        Where these routes are mounted, the prefix is before it, whose parameters are to be given, too.

        Args:
            name: of the route; of one that is mounted with a name of its own, `mount.route`.
            query: a mapping, or pairs; a list as a value is a field for each item, None none.
            params: a value for each parameter of the path.

        Raises:
            RouteError: For a name that no route has, a parameter that is missing or unknown, a value that the route
                would not take back, and for routes that are mounted at several places.
        """
        return make_url(name, self._tree.path_of(name), params, query)

    def _declare(self, path: str, methods: tuple[str, ...], handler: Handler, options: RouteOptions) -> None:
        where = f"{'/'.join(methods)} {path}"
        if not methods:
            raise RouteError(f"the route {path!r} has no method: name one, as in methods=['GET']")
        for method in methods:
            if method not in METHODS:
                raise RouteError(f"{where}: the method must be one of {', '.join(METHODS)}")
        plan = plan_route(where, handler, options, self._defaults)
        handler, run_on = plan.handler, plan.run_on
        check_handler(path, handler)
        if plan.timeout is not None and run_on is RunOn.TASK:
            from hypoll.server.handler_timeout import limit_task  # only declaring routes loads no server

            handler = limit_task(handler, plan.timeout)
        files = handler if isinstance(handler, Static) else None
        encoder = JSONEncoder((self._hooks,), handler)
        handler_call, direct = deferred(handler, run_on, plan.stream, encoder)
        if plan.timeout is not None and run_on is RunOn.THREAD:
            from hypoll.server.handler_timeout import limit_calls

            limit_calls(plan.timeout, handler_call, direct)
        route = Route(
            *(path, methods, handler, (self._hooks,), run_on, plan.stream),
            url_name=plan.name,
            redirects=None if files is None else files.has_pages,
            files=None if files is None or files.fallback is None else files,
            max_body=plan.max_body,
            handler_call=handler_call,
            direct=direct,
            encoder=encoder,
        )
        self._tree.add(route)
