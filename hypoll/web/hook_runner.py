"""The way of requests past hooks: on the loop, on a thread or in a task, as the handler and the hooks want it."""

from __future__ import annotations

from functools import partial
from typing import cast

from hypoll.contracts import HandlerCall, RunOn
from hypoll.protocol.messages import HTTPError, Request, Response
from hypoll.web.finishing import finish_refusal, pass_and_finish
from hypoll.web.handler_calls import as_it_is, call_at_once
from hypoll.web.hooks import Scopes, at_once, pass_hooks
from hypoll.web.results import failure
from hypoll.web.routing import Route
from hypoll.web.scopes import ScopeTree
from hypoll.web.table import Table


class HookRunner:
    """Answers requests with the hooks of a `Routes` and of what is mounted in it around their handlers.

    Attributes:
        finishes: whether anything is done to answers when the hooks are through: see `hypoll.web.finishing`.
    """

    def __init__(self, table: Table, scope_tree: ScopeTree) -> None:
        self._table = table
        self._scope_tree = scope_tree
        self.finishes = False

    def answer(self, request: Request) -> Response | HandlerCall:
        """Answer a request, or say how that is done elsewhere than on the loop."""
        route: Route | None
        missing: HTTPError | None = None
        try:
            route = self._table.find_route(request)
            scopes: Scopes = route.scopes
            run_on, stream, own = route.run_on, route.stream, route.handler_call
        except HTTPError as error:
            # Hooks see what has no route, too: an authentication hook stands there.
            route, missing = None, error
            scopes = self._scope_tree.at(request.target)
            run_on, stream, own = RunOn.LOOP, False, None
        passing = partial(pass_and_finish if self.finishes else pass_hooks, scopes, route, missing)
        waits = run_on is RunOn.TASK or any(scope.waits for scope in scopes)
        if not waits and run_on is RunOn.LOOP:
            return at_once(passing(request))
        if route is not None and route.socket is not None:
            return cast("HandlerCall", route.socket.handler_call(route.encoder, scopes))
        if waits:
            name = "hypoll" if own is None else own.name
            made = HandlerCall(RunOn.TASK, passing, as_it_is, self.answer_error, stream, run_on, name=name)
        else:
            made = HandlerCall(run_on, partial(call_at_once, passing), as_it_is, self.answer_error, stream)
        if own is not None and own.exchange is not None:
            made.exchange, made.plain_exchange = own.exchange, own.plain_exchange
        return made

    def answer_error(self, request: Request, error: BaseException) -> Response:
        """Answer an exception that no hook has."""
        return self.amend_refusal(request, failure(request, error))

    def amend_refusal(self, request: Request, response: Response) -> Response:
        """Finish an answer that no route has given."""
        if not self.finishes:
            return response
        return finish_refusal(self._scope_tree.at(request.target), request, response)
