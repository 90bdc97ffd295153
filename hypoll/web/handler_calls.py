"""Handler calls: those of routes, also where these are mounted, and calls that are made here and now."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from copy import copy
from functools import partial
from typing import Any

from hypoll.contracts import HandlerCall, RunOn
from hypoll.protocol.messages import FAILURES, Request, Response
from hypoll.web.hooks import InThread, Scopes, at_once, call_here, complete_here
from hypoll.web.json_encoding import JSONEncoder
from hypoll.web.naming import name_of
from hypoll.web.results import failure, to_answer
from hypoll.web.routing import Handler, Route


def call_at_once(passing: Callable[[Request], Coroutine[Any, Any, Response]], request: Request, _: object) -> Response:
    """Pass hooks none of which waits, on a thread."""
    return at_once(passing(request))


def as_it_is(response: Any) -> Any:
    """Stand for `to_response` where hooks have made a response already."""
    return response


def deferred(
    handler: Handler, run_on: RunOn, stream: bool, encoder: JSONEncoder
) -> tuple[HandlerCall | None, HandlerCall | None]:
    """How a handler of this kind is called, if not on the loop; with parameters, and without."""
    if run_on is RunOn.LOOP:
        return None, None

    def call(request: Request, in_thread: InThread) -> Any:
        return handler(request, **request.params)

    name, answer_of = name_of(handler), partial(to_answer, encoder)
    handler_call = HandlerCall(run_on, call, answer_of, failure, stream, name=name)
    return handler_call, HandlerCall(run_on, call, answer_of, failure, stream, direct=handler, name=name)


def below(handler_call: HandlerCall | None, encoder: JSONEncoder) -> HandlerCall | None:
    """The same call where its route is mounted, and what it gives is encoded as those above say."""
    if handler_call is None:
        return None
    mounted = copy(handler_call)
    mounted.to_answer = partial(to_answer, encoder)
    return mounted


def make_answer(request: Request, handler_call: HandlerCall) -> Response | bytes:
    """Make the answer of a handler call here and now."""
    try:
        result = handler_call.call(request, call_here)
        return handler_call.to_answer(result if handler_call.run_on is RunOn.THREAD else complete_here(result))
    except FAILURES as error:
        return handler_call.answer_error(request, error)


def options_route(allow: str, scopes: Scopes) -> Route:
    """The route that answers OPTIONS by the methods of a path."""

    def answer(request: Request, **params: Any) -> Response:
        return Response(status=204, headers={"Allow": allow})

    return Route("*", ("OPTIONS",), answer, scopes)
