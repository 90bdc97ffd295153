"""The server's own paths, answered before the application's: metrics, health, the status page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypoll.answers import failure
from hypoll.message import FAILURES, Deferred, HTTPError, Request, Response
from hypoll.server import Service

Endpoint = Callable[[Request], Response]

METHODS = ("GET", "HEAD")


class Endpoints:
    """An application with some paths before it, which are answered without its hooks.

    endpoints: what answers GET and HEAD of a path; the path must be that of the request to the letter, without query.
    """

    def __init__(self, application: Service, endpoints: Mapping[str, Endpoint]) -> None:
        self.application = application
        self.endpoints = dict(endpoints)
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._answer: Callable[[Request], Response | bytes | Deferred] = getattr(
            application, "answer", application.__call__
        )
        self.startup = application.startup
        self.shutdown = application.shutdown
        self.asynchronous: bool = getattr(application, "asynchronous", False)
        self.streams: Callable[[Request], bool] = getattr(application, "streams", lambda request: False)
        self._pattern: Callable[[Request], str | None] = getattr(application, "pattern", lambda request: None)

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        endpoint = self._find(request)
        return self.application(request) if endpoint is None else _ask(endpoint, request)

    def answer(self, request: Request) -> Response | bytes | Deferred:
        """Answer a request as serving does: `hypoll.Routes.answer`."""
        target = request.target
        if target not in self._endpoints and 63 not in target:  # ? as a number: `in` is faster so
            return self._answer(request)
        endpoint = self._find(request)
        return self._answer(request) if endpoint is None else _ask(endpoint, request)

    def refuses(self, request: Request) -> HTTPError | None:
        """The refusal a request can be given before its body is read."""
        if self._find(request) is None:
            return self.application.refuses(request)
        return None if request.method in METHODS else _not_allowed()

    def pattern(self, request: Request) -> str | None:
        """The path of a request's route as it was declared; None when there is none."""
        return self._pattern(request) if self._find(request) is None else request.raw_path

    def _find(self, request: Request) -> Endpoint | None:
        return self._endpoints.get(request.target.partition(b"?")[0])


def _ask(endpoint: Endpoint, request: Request) -> Response:
    try:
        if request.method not in METHODS:
            raise _not_allowed()
        return endpoint(request)
    except FAILURES as error:
        return failure(request, error)


def _not_allowed() -> HTTPError:
    allow = ", ".join(METHODS)
    return HTTPError(405, f"this path answers {allow}", {"Allow": allow})
