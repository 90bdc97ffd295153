"""Hooks around handlers, and the way of a request through them."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, Protocol

from hypoll.concurrency.forks import keep_out
from hypoll.contracts import RunOn
from hypoll.protocol.messages import FAILURES, HTTPError, Request, Response
from hypoll.web.background import check_work
from hypoll.web.json_encoding import Default, JSONEncoder
from hypoll.web.results import ends_task, failure, own_response, to_response
from hypoll.web.routing import Route

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Awaits what a blocking function gives, which is called on a thread."""

RunToCompletion = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""


class Finisher(Protocol):
    """What is done to an answer when the hooks are through."""

    def finish(self, request: Request, response: Response) -> Response:
        """The answer, changed or another one."""


class Compresses(Protocol):
    """What compresses an answer."""

    def finish(self, request: Request, response: Response, at_once: bool = False) -> Response:
        """The answer. at_once: whether this isn't the loop, so that it may take long."""


class Preflights(Finisher, Protocol):
    """The same that answers the preflights of CORS."""

    def preflight(self, request: Request) -> Response | None:
        """The answer to a preflight; None: the request is none."""


class Hooks:
    """The hooks of one `Routes`, and how it answers.

    Attributes:
        waits: whether any of them is async.
        redirects_slashes: whether a path that differs from a route's by a slash at its end is redirected.
        compression, security, cors: what finishes answers: see `hypoll.web.finishing`.
        default, strict_json: see `hypoll.web.json_encoding.JSONScope`.
        encoder: for what the hooks give that stand outermost.
    """

    compression: Compresses | None = None
    security: Finisher | None = None
    cors: Preflights | None = None

    def __init__(
        self, default: Default | None = None, strict_json: bool = False, redirects_slashes: bool = False
    ) -> None:
        self.default = default
        self.strict_json = strict_json
        self.redirects_slashes = redirects_slashes
        self.encoder = JSONEncoder((self,))
        self.before: list[Callable[[Request], Any]] = []
        self.after: list[Callable[[Request, Response], Any]] = []
        self.errors: dict[type[BaseException], Callable[[Request, Any], Any]] = {}
        self.waits = False

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.errors)

    @property
    def finishes(self) -> bool:
        """Whether anything is to finish answers."""
        return any(each is not None for each in (self.compression, self.security, self.cors))


Scopes = tuple[Hooks, ...]
"""The hooks of the `Routes` that a route was reached through, outermost first."""


async def pass_hooks(
    scopes: Scopes,
    route: Route | None,
    missing: HTTPError | None,
    request: Request,
    in_thread: InThread | None = None,
) -> Response:
    """The way through the hooks, the same for every kind: where none of them is async it never waits."""
    encoder = scopes[0].encoder if route is None else route.encoder
    try:
        response = await run_before(scopes, request, encoder)
        if response is None:
            if route is None:
                raise missing or HTTPError(404)
            call = partial(route.handler, request, **request.params)
            if route.run_on is RunOn.THREAD and in_thread is not None:
                response = own_response(await in_thread(call), encoder)
                check_work(response)
            else:
                response = own_response(await resolve(call()), encoder)
    except FAILURES as error:
        _let_end(error, in_thread)
        response = await recover(scopes, request, error, in_thread, encoder)
    return await run_after(scopes, request, response, in_thread, encoder)


def _let_end(error: BaseException, in_thread: InThread | None) -> None:
    """Raise what is no failure but the end of the task that this runs in, if it runs in one."""
    if in_thread is not None and ends_task(error):
        raise error


def at_once(coroutine: Coroutine[Any, Any, Response]) -> Response:
    """Run a coroutine that waits for nothing. A handler or hook that has it wait all the same has failed."""
    error = RuntimeError("a handler or hook returned something to await, and is no async def: declare it so")
    try:
        coroutine.send(None)
        coroutine.throw(error)  # where it waits: error hooks see that, too
    except StopIteration as end:
        response: Response = end.value
        return response
    coroutine.close()
    raise error


async def resolve(result: Any) -> Any:
    """What a handler or a hook has given, awaited if it is a coroutine."""
    return await result if isinstance(result, CoroutineType) else result


async def run_before(scopes: Scopes, request: Request, encoder: JSONEncoder) -> Response | None:
    """The answer that a hook gives in place of the handler; None: none does."""
    for scope in scopes:
        for hook in scope.before:
            result = await resolve(hook(request))
            if result is not None:
                return own_response(result, encoder.at(hook))
    return None


async def run_after(
    scopes: Scopes, request: Request, response: Response, in_thread: InThread | None, encoder: JSONEncoder
) -> Response:
    """Run the hooks after an answer, the innermost first; one that raises makes it a failure, which the others see."""
    for scope in reversed(scopes):
        for hook in scope.after:
            try:
                result = await resolve(hook(request, response))
                if result is not None and result is not response:
                    response = own_response(result, encoder.at(hook))
                elif type(response.body) is not bytes:
                    response = to_response(response, encoder.at(hook))  # it may have been given another body
            except FAILURES as error:
                _let_end(error, in_thread)
                response = failure(request, error)
    return response


async def recover(
    scopes: Scopes, request: Request, error: BaseException, in_thread: InThread | None, encoder: JSONEncoder
) -> Response:
    """Answer an exception by the innermost hook for its nearest class, or as `failure` does."""
    for scope in reversed(scopes):
        for kind in type(error).__mro__:
            hook = scope.errors.get(kind)
            if hook is not None:
                try:
                    return own_response(await resolve(hook(request, error)), encoder.at(hook))
                except FAILURES as another:
                    _let_end(another, in_thread)
                    return failure(request, another)
    return failure(request, error)


async def call_here(call: Callable[[], Any]) -> Any:
    """Stand for `in_thread` where the whole request has a thread of its own: call there, in a copy of the context."""
    return contextvars.copy_context().run(call)


def complete_here(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on an event loop of its own, where no server has one."""
    import asyncio  # only here: it takes as long to import as the rest of an application's side

    return asyncio.run(coroutine)


def run_hook(hook: Callable[[], Any], complete: RunToCompletion) -> None:
    """Call a hook of the application's start or end."""
    try:
        result = hook()
        if isinstance(result, CoroutineType):
            complete(result)
    except BaseException as error:
        keep_out(error)
        raise
    keep_out()
