"""Routes of WebSockets: the way from a handshake through hooks to the handler, and to its end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from types import CoroutineType
from typing import Any

from hypoll.concurrency.forks import keep_out
from hypoll.contracts import HandlerCall, RunOn
from hypoll.protocol.messages import FAILURES, HTTPError, Request, Response
from hypoll.web.finishing import finish_answer
from hypoll.web.handler_calls import as_it_is
from hypoll.web.hooks import Scopes, at_once, recover, run_after, run_before
from hypoll.web.json_encoding import JSONEncoder
from hypoll.web.naming import name_of
from hypoll.web.results import ends_task, failure, to_response
from hypoll.websocket.base_socket import BaseSocket
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.exchange import SocketExchange
from hypoll.websocket.frames import INTERNAL_ERROR, NORMAL, Close
from hypoll.websocket.handshake import is_same_origin, read_handshake
from hypoll.websocket.session import Session

log = logging.getLogger("hypoll.error")

Handler = Callable[..., Any]


class SocketRoute:
    """How the handler of a WebSocket's route is called.

    Args:
        handler: `handler(socket, **params)`, an `async def`, or a def that runs on a thread.
        threaded: whether it is the latter.
        subprotocols: those that it speaks, its favourite first.
        origins: whose pages may open it; None: those of the request's own host.
    """

    def __init__(
        self, handler: Handler, *, threaded: bool, subprotocols: Sequence[str], origins: Sequence[str] | None
    ) -> None:
        self._handler = handler
        self._threaded = threaded
        self._kind = _kind_of(threaded)
        self._subprotocols = tuple(subprotocols)
        self._origins = None if origins is None else tuple(origins)

    def handler_call(self, encoder: JSONEncoder, scopes: Scopes = ()) -> HandlerCall:
        """What runs it, through the hooks of some scopes; `encoder` makes the JSON that it sends."""
        name = name_of(self._handler)
        call: Callable[[Request, Any], Any] = partial(self._serve, encoder, scopes)
        run_on = RunOn.TASK
        if self._threaded and not any(scope.waits for scope in scopes):
            run_on = RunOn.THREAD
            call = partial(_at_once, call)
        return HandlerCall(run_on, call, as_it_is, failure, name=name, exchange=SocketExchange)

    async def _serve(self, encoder: JSONEncoder, scopes: Scopes, request: Request, exchange: Any) -> Response | None:
        """The answer of the handshake; None: it was 101, and all is over."""
        in_task = isinstance(exchange, SocketExchange) and exchange.handler_call.run_on is RunOn.TASK
        in_thread = exchange.in_thread if in_task else None
        try:
            response = await run_before(scopes, request, encoder)
            if response is None:
                socket = self._open(encoder, request, exchange)
                if self._threaded and in_thread is not None:
                    result = await in_thread(partial(self._handler, socket, **request.params))
                else:
                    result = self._handler(socket, **request.params)
                    del socket  # which is for as long as the handler wants it
                    if isinstance(result, CoroutineType):
                        result = await result
                response = self._end(encoder, exchange, result)
        except FAILURES as error:
            if in_task and ends_task(error):
                raise
            session = getattr(exchange, "session", None)
            if session is not None:
                on_loop(exchange, partial(end_by_error, session, request, error))
                return None
            if isinstance(error, SocketClosed) and _is_over(exchange):
                error.__traceback__ = None  # what it has closed by itself, or its client, is no failure of the handler
                error = _refusal()
            response = await recover(scopes, request, error, in_thread, encoder)
        if response is None:
            return None
        response = await run_after(scopes, request, response, in_thread, encoder)
        return finish_answer(scopes, request, response, not in_task)

    def _open(self, encoder: JSONEncoder, request: Request, exchange: Any) -> BaseSocket:
        """What the handler gets. Raises `HTTPError` for what isn't to be accepted, whatever the handler thinks."""
        if not isinstance(exchange, SocketExchange):
            read_handshake(request)
            raise HTTPError(501, "a WebSocket needs hypoll's own server")
        handshake = read_handshake(request, compress=exchange.server.settings.ws_compression)
        if not is_same_origin(request, self._origins):
            raise HTTPError(403, "pages of this origin may not open this WebSocket")
        return self._kind(exchange, handshake, self._subprotocols, encoder)

    def _end(self, encoder: JSONEncoder, exchange: SocketExchange, result: Any) -> Response | None:
        """The handler has returned. Gives the answer of a handshake that it didn't accept."""
        session = exchange.session
        if session is not None:
            on_loop(exchange, partial(session.close, Close(NORMAL)))
            return None
        if result is None:
            raise _refusal()
        return to_response(result, encoder)


def _is_over(exchange: Any) -> bool:
    """Whether a handshake can't be accepted any more: its handler has closed it, or its client has gone."""
    return isinstance(exchange, SocketExchange) and (exchange.refused or exchange.connection is None)


def _refusal() -> HTTPError:
    return HTTPError(403, "the WebSocket was refused")


def _kind_of(threaded: bool) -> Callable[..., BaseSocket]:
    """The kind of socket that a handler gets. asyncio is loaded for what is async."""
    if threaded:
        from hypoll.websocket.thread_socket import ThreadSocket

        return ThreadSocket
    from hypoll.websocket.socket import Socket

    return Socket


def _at_once(call: Callable[[Request, Any], Coroutine[Any, Any, Any]], request: Request, exchange: Any) -> Any:
    return at_once(call(request, exchange))


def on_loop(exchange: SocketExchange, call: Callable[[], object]) -> None:
    """Call something on the loop's thread, from a handler of whichever kind."""
    if exchange.handler_call.run_on is RunOn.TASK:
        call()
    else:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the WebSocket with it
            exchange.server.loop.call_soon_threadsafe(call)


def end_by_error(session: Session, request: Request, error: BaseException) -> None:
    """Close a WebSocket whose application has raised, and log that once; but not that it has heard of the end."""
    keep_out(error)
    if not (isinstance(error, SocketClosed) and (session.ended is not None or session.closing)):
        where, name = f"WebSocket {request.raw_path}", request.id
        log.error("%s failed, request %s", where, name, exc_info=error, extra={"request_id": name})
    error.__traceback__ = None  # an application's constant would keep what it was raised in
    session.close(Close(INTERNAL_ERROR, "the server failed; the log has the reason"))
