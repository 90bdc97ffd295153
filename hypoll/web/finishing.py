"""What is done to every answer when handlers and hooks are through: compression, security headers, CORS.

Laws: of each kind the innermost `Routes` that has it decides. An answer is finished once, also one that no handler
gave: a refusal of the server's own, a 404, a 500. What fails here is a 500, which is finished by the others.
"""

from __future__ import annotations

from hypoll.contracts import RunOn
from hypoll.protocol.messages import FAILURES, HTTPError, Request, Response
from hypoll.web.hooks import Finisher, InThread, Scopes, pass_hooks, run_after
from hypoll.web.results import failure
from hypoll.web.routing import Route


async def pass_and_finish(
    scopes: Scopes,
    route: Route | None,
    missing: HTTPError | None,
    request: Request,
    in_thread: InThread | None = None,
) -> Response:
    """`pass_hooks`, for routes some of whose answers are finished. A preflight is answered before any hook."""
    answer = None
    if request.method == "OPTIONS":
        cors = next((scope.cors for scope in reversed(scopes) if scope.cors is not None), None)
        answer = None if cors is None else cors.preflight(request)
    if answer is None:
        response = await pass_hooks(scopes, route, missing, request, in_thread)
    else:
        response = await run_after(scopes, request, answer, in_thread, scopes[0].encoder)
    on_thread = in_thread is None and route is not None and route.run_on is RunOn.THREAD
    return finish_answer(scopes, request, response, on_thread)


def finish_answer(scopes: Scopes, request: Request, response: Response, on_thread: bool) -> Response:
    """Finish an answer. on_thread: whether this isn't the loop, so that compressing may take long."""
    compression = next((scope.compression for scope in reversed(scopes) if scope.compression is not None), None)
    if compression is not None:
        try:
            response = compression.finish(request, response, on_thread)
        except FAILURES as error:
            response = failure(request, error)
    return finish_refusal(scopes, request, response)


def finish_refusal(scopes: Scopes, request: Request, response: Response) -> Response:
    """Finish an answer in all but its content."""
    security = next((scope.security for scope in reversed(scopes) if scope.security is not None), None)
    cors = next((scope.cors for scope in reversed(scopes) if scope.cors is not None), None)
    return _finish(cors, request, _finish(security, request, response))


def _finish(finisher: Finisher | None, request: Request, response: Response) -> Response:
    if finisher is None:
        return response
    try:
        return finisher.finish(request, response)
    except FAILURES as error:
        return failure(request, error)
