"""The server's own paths, answered before the application's: metrics, health, the status page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hypoll.app import failure
from hypoll.message import FAILURES, HTTPError, Request, Response

Endpoint = Callable[[Request], Response]

METHODS = ("GET", "HEAD")


class Service(Protocol):
    """An application, with a beginning and an end."""

    def __call__(self, request: Request, /) -> Response:
        """Answer a request."""

    def refuses(self, request: Request, /) -> HTTPError | None:
        """Give the refusal of a request whose head alone is known, if it has one."""

    def startup(self) -> None:
        """Run once before the first connection is accepted."""

    def shutdown(self) -> None:
        """Run once after the last connection is closed."""


class Endpoints:
    """An application with some paths before it, which are answered without its hooks.

    endpoints: what answers GET and HEAD of a path; the path must be that of the request to the letter, without query.
    """

    def __init__(self, application: Service, endpoints: Mapping[str, Endpoint]) -> None:
        self.application = application
        self.endpoints = dict(endpoints)
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._answer: Callable[[Request], Response | bytes] = getattr(application, "answer", application.__call__)
        self.startup = application.startup
        self.shutdown = application.shutdown

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        endpoint = self._find(request)
        return self.application(request) if endpoint is None else _ask(endpoint, request)

    def answer(self, request: Request) -> Response | bytes:
        """Answer a request as serving does: `hypoll.Routes.answer`."""
        endpoint = self._find(request)
        return self._answer(request) if endpoint is None else _ask(endpoint, request)

    def refuses(self, request: Request) -> HTTPError | None:
        """The refusal a request can be given before its body is read."""
        if self._find(request) is None:
            return self.application.refuses(request)
        return None if request.method in METHODS else _not_allowed()

    def _find(self, request: Request) -> Endpoint | None:
        return self._endpoints.get(request.target.partition(b"?")[0])


def _ask(endpoint: Endpoint, request: Request) -> Response:
    request.route = request.raw_path
    try:
        if request.method not in METHODS:
            raise _not_allowed()
        return endpoint(request)
    except FAILURES as error:
        return failure(request, error)


def _not_allowed() -> HTTPError:
    allow = ", ".join(METHODS)
    return HTTPError(405, f"this path answers {allow}", {"Allow": allow})
