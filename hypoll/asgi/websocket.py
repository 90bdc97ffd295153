"""A WebSocket of an ASGI application (ASGI WebSocket 2.4): what `receive` and `send` do, from the handshake to the end.

Laws:

- The application is notified of the end, never cancelled: by `receive`, once what came before it was taken, and by what
  `send` raises.
- Until it accepts, what it raises is answered 500, and a close 403; afterwards it closes with 1011.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from hypoll.asgi.cycle import Cycle
from hypoll.asgi.errors import DisconnectedError, is_disconnect
from hypoll.asgi.start import Message
from hypoll.concurrency.forks import keep_out
from hypoll.protocol.bounded import Bounded
from hypoll.protocol.current_request import mark_current
from hypoll.protocol.fields import exact_bytes
from hypoll.protocol.messages import FAILURES, HTTPError, problem
from hypoll.web.results import ends_task, failure
from hypoll.websocket import tasks
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.exchange import SocketExchange
from hypoll.websocket.frames import ABNORMAL, INTERNAL_ERROR, NORMAL, Close, is_sendable
from hypoll.websocket.handshake import Handshake, read_handshake
from hypoll.websocket.session import Session

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge

DENIAL = "websocket.http.response"
"""The extension by which an application answers a handshake with a response of its own."""

_REPEATED = frozenset(
    b"host upgrade connection sec-websocket-version sec-websocket-extensions user-agent origin pragma cache-control "
    b"accept accept-encoding accept-language x-forwarded-proto x-forwarded-host".split()
)
"""Fields that most clients send alike. None of them is a secret, or one client's own."""

_SHARED_SIZE = 256

_shared = Bounded[tuple[bytes, bytes], tuple[bytes, bytes]](lambda field: field)
"""Such fields of open WebSockets, one object for all: that is a seventh of an idle one's memory."""

log = logging.getLogger("hypoll.error")


class SocketCycle(SocketExchange):
    """One WebSocket of an ASGI application.

    Attributes:
        handshake: what the client asks for.
        denial: the answer of the application's own that refuses it.
        connected: whether the application has received the connect.
    """

    handshake: Handshake | None = None
    denial: Cycle | None = None
    connected = False
    _refused = False
    _waiter: Any = None

    def start(self) -> None:
        """Call the application, if this is a handshake."""
        try:
            self.handshake = read_handshake(self.request, compress=self.server.settings.ws_compression)
        except HTTPError as error:
            assert self.connection is not None
            self.connection.respond(problem(error, self.request.id))
            return
        super().start()

    def abandon(self) -> None:
        """The client has gone before the handshake was answered."""
        self.end()

    def end(self) -> None:
        """The handshake is refused, or nobody waits for its answer."""
        self.connection = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _run(self, bridge: AsyncioBridge) -> None:
        mark_current(self.request)
        try:
            if self.connection is not None:
                await self.handler_call.call(self.request, self)
                self._on_returned()
        except FAILURES as error:
            self._on_raised(error)
        finally:
            task, self._task = self._task, None
            bridge.on_task_end(task)

    def _on_returned(self) -> None:
        session = self.session
        if session is not None:
            session.close(Close(NORMAL))
        elif self.denial is not None:
            if not self.denial.complete:
                self.denial.cut()
        elif self.connection is not None and not self._refused:
            log.error("%s returned before the handshake was answered, request %s", self._where, self.request.id)
            detail = "the server failed to answer; the log has the reason under this id"
            self.connection.respond(problem(HTTPError(500, detail), self.request.id))

    def _on_raised(self, error: BaseException) -> None:
        """Answer 500, or close with 1011; log it once, but not that the application has heard of the end."""
        keep_out(error)
        session = self.session
        if isinstance(error, KeyboardInterrupt):
            raise error
        if ends_task(error) and (session is None or session.ended is not None) and self.connection is None:
            raise error
        if self.connection is not None and self.denial is None and not self._refused:
            self.connection.respond(self._escaped(error) if ends_task(error) else failure(self.request, error))
            return
        if not is_disconnect(error):
            extra = {"request_id": self.request.id}
            log.error("%s failed, request %s", self._where, self.request.id, exc_info=error, extra=extra)
        error.__traceback__ = None  # it would keep what the error was raised in
        if session is not None:
            session.close(Close(INTERNAL_ERROR, "the server failed; the log has the reason"))
        elif self.denial is not None and not self.denial.complete:
            self.denial.cut()

    @property
    def _where(self) -> str:
        return f"WebSocket {self.request.raw_path}"

    # what it receives

    def receive_event(self) -> Coroutine[Any, Any, dict[str, Any]]:
        """Await the next event. A call that is cancelled has taken nothing."""
        if self.session is not None and self.connected:
            return tasks.receive(self.session, self.server, _event)
        return self._receive_first()

    async def _receive_first(self) -> dict[str, Any]:
        """The connect, and what comes before the handshake is answered."""
        if not self.connected:
            self.connected = True
            return {"type": "websocket.connect"}
        while self.session is None and self.connection is not None:
            await self._wait()
        if self.session is not None:
            return await tasks.receive(self.session, self.server, _event)
        return _disconnect(Close(ABNORMAL))

    async def _wait(self) -> None:
        """Wait until the handshake is answered, or the client has gone."""
        if self._waiter is None or self._waiter.done():
            assert self.server.asyncio_bridge is not None
            self._waiter = self.server.asyncio_bridge.asyncio.create_future()
        await self._waiter

    # what it sends

    async def send_event(self, message: Message) -> None:
        """Take an event, and wait while the client is too far behind.

        Raises `DisconnectedError` when the WebSocket has ended, `RuntimeError` for an event out of order, `ValueError`
        and `TypeError` for one that can't be sent.
        """
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise TypeError(f"send takes an event, a dict with its type, not {message!r:.60}") from None
        session = self.session
        if session is None:
            await self._answer_handshake(kind, message)
        elif kind == "websocket.send":
            try:
                await tasks.send(session, _content_of(message), self.server)
            except SocketClosed as closed:
                raise DisconnectedError(str(closed)) from None
        elif kind == "websocket.close":
            session.close(_close_of(message))
        else:
            raise RuntimeError(f"{kind!r:.60} can't be sent here: the WebSocket is accepted")

    async def _answer_handshake(self, kind: Any, message: Message) -> None:
        """Take an event that answers the handshake."""
        if self.denial is not None and isinstance(kind, str) and kind.startswith(DENIAL):
            await self.denial.send_event({**message, "type": kind.removeprefix("websocket.")})
            return
        if self.connection is None or self._refused:
            if kind == "websocket.close":
                return
            raise DisconnectedError("the client has gone, or the handshake is refused")
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._refused = True
            self.connection.respond(problem(HTTPError(403, "the WebSocket was refused"), self.request.id))
        elif kind == f"{DENIAL}.start":
            self._begin_denial()
            await self._answer_handshake(kind, message)
        else:
            raise RuntimeError(f"{kind!r:.60} can't be sent here: the WebSocket isn't accepted")

    def _accept(self, message: Message) -> None:
        assert self.handshake is not None
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ()]
        try:
            self.accept(self.handshake, message.get("subprotocol") or None, headers)
        except SocketClosed as closed:
            raise DisconnectedError(str(closed)) from None
        self.handshake = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begin_denial(self) -> None:
        """Have the connection's exchange be one of HTTP, which takes an answer with all that it may have."""
        connection = self.connection
        assert connection is not None
        self.denial = cycle = Cycle()
        cycle.connection, cycle.server, cycle.context = connection, self.server, self.context
        cycle.request, cycle.handler_call, cycle.started = self.request, self.handler_call, True
        connection.exchange = cycle
        self.end()


def _event(session: Session, message: str | bytes | None) -> dict[str, Any]:
    if message is None:
        return _disconnect(session.ended or Close(ABNORMAL))
    return {"type": "websocket.receive", "text" if type(message) is str else "bytes": message}


def _disconnect(close: Close) -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}


def _content_of(message: Message) -> str | bytes:
    """What a `websocket.send` has. Raises `ValueError`, `TypeError`."""
    text, data = message.get("text"), message.get("bytes")
    if (text is None) is (data is None):
        raise ValueError("websocket.send takes either text or bytes")
    if text is not None:
        if not isinstance(text, str):
            raise TypeError(f"the text of websocket.send is {text!r:.60}: it must be a str")
        return text
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"the bytes of websocket.send are {data!r:.60}: they must be bytes")
    return exact_bytes(data)


def _close_of(message: Message) -> Close:
    """What a `websocket.close` says. Raises `ValueError`, `TypeError`."""
    code, reason = message.get("code"), message.get("reason")
    code = NORMAL if code is None else code
    if not isinstance(code, int) or not is_sendable(code):
        raise ValueError(f"the code of websocket.close is {code!r}: it can't be sent")
    if not isinstance(reason or "", str):
        raise TypeError(f"the reason of websocket.close is {reason!r:.60}: it must be a str")
    return Close(code, reason or "")


def share_fields(fields: list[tuple[bytes, bytes]]) -> None:
    """Replace fields that other open WebSockets have, too, by theirs."""
    for index, field in enumerate(fields):
        if field[0] in _REPEATED and len(field[1]) <= _SHARED_SIZE:
            fields[index] = _shared[field]


def socket_scope(scope: dict[str, Any], subprotocols: Iterable[str]) -> dict[str, Any]:
    """The scope of a WebSocket, made of that of its request."""
    del scope["method"]
    extensions: dict[str, Any] = {DENIAL: {}}
    if "tls" in scope["extensions"]:
        extensions["tls"] = scope["extensions"]["tls"]
    scope["type"] = "websocket"
    scope["asgi"]["spec_version"] = "2.4"
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["extensions"] = extensions
    scope["subprotocols"] = list(subprotocols)
    return scope
