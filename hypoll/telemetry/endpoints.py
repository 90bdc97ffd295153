"""The server's own paths, answered before the application's: metrics, health, the status page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypoll.contracts import Application, HandlerCall, PeriodicWork, RequestHandler, RunOn, as_application
from hypoll.protocol.messages import FAILURES, HTTPError, Request, Response
from hypoll.protocol.refusals import nothing_here
from hypoll.web.results import failure

Endpoint = Callable[[Request], Response | HandlerCall]

METHODS = ("GET", "HEAD")


ExchangeKinds = tuple[Callable[[], Any] | None, Callable[[], Any] | None]
"""What runs an endpoint on a thread: `exchange` and `plain_exchange` of `HandlerCall`."""


class ThreadEndpoint:
    """An endpoint whose answer takes long to make: on a thread, while the loop serves.

    Args:
        begin: called on the loop with the request; may raise `HTTPError`.
        make: called on the thread: gives the answer.
        kinds: what runs it; None: threads of the application's pool.
    """

    def __init__(
        self,
        begin: Callable[[Request], object],
        make: Callable[[Request], Response],
        kinds: ExchangeKinds = (None, None),
    ) -> None:
        self._begin = begin
        exchange, plain = kinds
        self._call = HandlerCall(
            RunOn.THREAD, lambda request, _: make(request), _same, failure, exchange=exchange, plain_exchange=plain
        )

    def __call__(self, request: Request) -> HandlerCall:
        """Begin, and give what makes the answer. Raises what `begin` raises."""
        self._begin(request)
        return self._call


def _same(response: Response) -> Response:
    return response


class Endpoints(Application):
    """An application with some paths before it, which are answered without its hooks.

    Args:
        endpoints: what answers GET and HEAD of a path; the path must be that of the request to the letter, without
            query.
    """

    def __init__(self, application: Application | Callable[[Request], Any], endpoints: Mapping[str, Endpoint]) -> None:
        self.application = application = as_application(application)
        self.endpoints = dict(endpoints)
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self.answer = self._before(application.answer)  # type: ignore[method-assign, assignment]
        self.startup = application.startup  # type: ignore[method-assign]
        self.shutdown = application.shutdown  # type: ignore[method-assign]
        self.wants_stream = application.wants_stream  # type: ignore[method-assign]
        self.wants_spool = application.wants_spool  # type: ignore[method-assign]
        self.amend_refusal = application.amend_refusal  # type: ignore[method-assign]
        self.max_body_of = application.max_body_of  # type: ignore[method-assign]

    @property
    def uses_asyncio(self) -> bool:
        """The application's."""
        return self.application.uses_asyncio

    @property
    def least_max_body(self) -> int | None:
        """The application's."""
        return self.application.least_max_body

    @property
    def uses_threads(self) -> bool:
        """The application's."""
        return self.application.uses_threads

    @property
    def keeps_tasks(self) -> bool:
        """The application's."""
        return self.application.keeps_tasks

    @property
    def ready_checks(self) -> Sequence[Callable[[], Any]]:
        """The application's."""
        return self.application.ready_checks

    @property
    def drain_hooks(self) -> Sequence[Callable[[], Any]]:
        """The application's."""
        return self.application.drain_hooks

    @property
    def periodic(self) -> Sequence[PeriodicWork]:
        """See `Application`."""
        return self.application.periodic

    def _before(self, handler: RequestHandler) -> RequestHandler:
        endpoints, paths = self._endpoints, tuple(self._endpoints)

        def answer(request: Request) -> Response | bytes | HandlerCall:
            # Before every request: names of its own are found sooner than attributes.
            target = request.target
            if target.startswith(paths):
                endpoint = endpoints.get(target.partition(b"?")[0])
                if endpoint is not None:
                    return _ask(endpoint, request)
            return handler(request)

        return answer

    def early_refusal(self, request: Request) -> HTTPError | None:
        """The refusal a request can be given before its body is read."""
        if self._find(request) is None:
            return self.application.early_refusal(request)
        return None if request.method in METHODS or self._find(request) is missing else _not_allowed()

    def pattern(self, request: Request) -> str | None:
        """The path of a request's route as it was declared; None when there is none."""
        endpoint = self._find(request)
        if endpoint is missing:
            return None
        return self.application.pattern(request) if endpoint is None else request.raw_path

    def _find(self, request: Request) -> Endpoint | None:
        return self._endpoints.get(request.target.partition(b"?")[0])


def missing(request: Request) -> Response:
    """An endpoint that isn't there, for any method: what stands in the way of a page that answers whatever is asked."""
    raise nothing_here()


class Nothing(Application):
    """What stands behind endpoints that have a listener of their own: there is nothing else.

    Args:
        paths: of the endpoints, for who asks for another.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._missing = f"there is nothing at this path; there is {', '.join(paths)}"

    @property
    def uses_threads(self) -> bool:
        """No."""
        return False

    def answer(self, request: Request) -> Response:
        """404, with what there is."""
        return failure(request, HTTPError(404, self._missing))

    def early_refusal(self, request: Request) -> HTTPError | None:
        """The same."""
        return HTTPError(404, self._missing)


def _ask(endpoint: Endpoint, request: Request) -> Response | HandlerCall:
    try:
        if request.method not in METHODS and endpoint is not missing:
            raise _not_allowed()
        return endpoint(request)
    except FAILURES as error:
        return failure(request, error)


def _not_allowed() -> HTTPError:
    allow = ", ".join(METHODS)
    return HTTPError(405, f"this path answers {allow}", {"Allow": allow})
