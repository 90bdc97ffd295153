"""Where applications and the server meet: what answers requests, and what else may be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from hypoll.message import Deferred, HTTPError, Request, Response

Complete = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""

Answer = Callable[[Request], Response | bytes | Deferred]
"""What makes the answer of a request."""


class Application:
    """What answers requests. `Routes`, WSGI applications and the server's own endpoints are such; `answer` is all that
    one must have.
    """

    @property
    def asynchronous(self) -> bool:
        """Whether asyncio is needed."""
        return False

    @property
    def ready_checks(self) -> Sequence[Callable[[], Any]]:
        """What is asked whether requests are wanted."""
        return ()

    @property
    def drain_hooks(self) -> Sequence[Callable[[], Any]]:
        """What is called when the server begins to go away."""
        return ()

    def answer(self, request: Request) -> Response | bytes | Deferred:
        """Answer a request. bytes: of JSON, whose head the server makes. `Deferred`: that isn't made on the loop."""
        raise NotImplementedError

    def refuses(self, request: Request) -> HTTPError | None:
        """Give the refusal of a request whose head alone is known, if it has one."""
        return None

    def streams(self, request: Request) -> bool:
        """Whether its handler takes the body as it comes."""
        return False

    def spools(self, request: Request) -> bool:
        """Whether its body is to be received into a spool before it is answered."""
        return False

    def pattern(self, request: Request) -> str | None:
        """The path of its route as it was declared, for logs and metrics; None: there is none."""
        return None

    def startup(self, complete: Complete) -> None:
        """Run once before the first connection is accepted."""

    def shutdown(self, complete: Complete) -> None:
        """Run once after the last connection is closed."""


def adapted(given: Application | Callable[[Request], Any]) -> Application:
    """The application that something is, or that a callable is made into with what it has of an application's names.

    The one place that looks for those.
    """
    if isinstance(given, Application):
        return given
    found = {name: getattr(given, name) for name in vars(Application) if name[0] != "_" and hasattr(given, name)}
    methods = {name: staticmethod(one) if callable(one) else one for name, one in found.items()}
    made: Application = type("Adapted", (Application,), {"answer": staticmethod(given), **methods})()
    return made
