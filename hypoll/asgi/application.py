"""ASGI applications (ASGI 3.0) as what a server serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from hypoll.asgi.cycle import Cycle, PlainCycle
from hypoll.asgi.lifespan import Lifespan
from hypoll.asgi.recognition import ASGIApplication, single_callable
from hypoll.asgi.route_pattern import pattern_of
from hypoll.asgi.scope import Scopes, scope_parts_of
from hypoll.asgi.tls import Certificates
from hypoll.asgi.websocket import SocketCycle, share_fields, socket_scope
from hypoll.contracts import Application, HandlerCall, RunOn, RunToCompletion
from hypoll.protocol.messages import Request
from hypoll.web.results import failure, to_response

if TYPE_CHECKING:
    from hypoll.settings import Settings


class ASGI(Application):
    """An ASGI application as what a server serves: each request a task, with `receive` and `send`.

    Args:
        application: called with scope, receive and send; one of ASGI 2 is called with the scope first.
        settings: of the server: `script_name` is the application's `root_path`; `lifespan`, `early_hints`.
    """

    def __init__(self, application: Callable[..., Any], settings: Settings) -> None:
        self.application: ASGIApplication = single_callable(application)
        self.lifespan = Lifespan(self.application, settings.lifespan)
        self._scopes = Scopes(settings.script_name.rstrip("/"), self.lifespan.state, early_hints=settings.early_hints)
        self._certificates = Certificates(settings.certfile)
        name = getattr(application, "__qualname__", type(application).__name__)
        self._deferred = HandlerCall(
            RunOn.TASK, self._call, to_response, failure, name=name, exchange=Cycle, plain_exchange=PlainCycle
        )
        self._socket_call = HandlerCall(
            RunOn.TASK, self._call_socket, to_response, failure, name=name, exchange=SocketCycle
        )

    @property
    def uses_asyncio(self) -> bool:
        """Always."""
        return True

    @property
    def uses_threads(self) -> bool:
        """Nothing of hypoll's does."""
        return False

    @property
    def keeps_tasks(self) -> bool:
        """Whether its own tasks go on until its shutdown: that is where it ends them."""
        return True

    def answer(self, request: Request) -> HandlerCall:
        """Answer a request in a task of its own."""
        return self._socket_call if request.upgrade else self._deferred

    def wants_stream(self, request: Request) -> bool:
        """Whether the body is taken as it comes: always."""
        return True

    def pattern(self, request: Request) -> str | None:
        """The path of its route as it was declared, where the application's framework leaves that in the scope."""
        scope = request.application_data
        return None if scope is None else pattern_of(scope)

    def startup(self, complete: RunToCompletion) -> None:
        """Begin the lifespan. Raises `StartupError`."""
        complete(self.lifespan.startup())

    def shutdown(self, complete: RunToCompletion) -> None:
        """End the lifespan."""
        complete(self.lifespan.shutdown())

    def _call_socket(self, request: Request, cycle: SocketCycle) -> Awaitable[None]:
        connection, handshake = cycle.connection, cycle.handshake
        assert handshake is not None
        sock = None if connection is None else connection.tls
        fields = scope_parts_of(request)[0]
        share_fields(fields)
        scope = self._scopes.of(request, None if sock is None else self._certificates.of(sock))
        if request.authority is None:
            scope["headers"] = fields  # no other request of the connection will have it: one list is enough
        return self.application(socket_scope(scope, handshake.subprotocols), cycle.receive_event, cycle.send_event)

    def _call(self, request: Request, cycle: Cycle) -> Awaitable[None]:
        connection = cycle.connection
        assert connection is not None
        sock = connection.tls
        scope = self._scopes.of(request, None if sock is None else self._certificates.of(sock))
        if connection.instrument is not None:
            request.application_data = scope  # where `pattern` looks
        return self.application(scope, cycle.receive_event, cycle.send_event)
