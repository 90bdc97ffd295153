"""A WebSocket as an `async def` handler has it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hypoll.protocol.fields import HeaderSource
from hypoll.websocket.base_socket import BaseSocket, end_session
from hypoll.websocket.encoding import Message
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.frames import NORMAL, Close
from hypoll.websocket.session import Session
from hypoll.websocket.tasks import receive, send

T = TypeVar("T")


def _message(session: Session, message: Message | None) -> Message:
    if message is None:
        raise session.closed
    return message


def _next_message(session: Session, message: Message | None) -> Message:
    if message is None:
        raise StopAsyncIteration
    return message


class Socket(BaseSocket):
    """A WebSocket for an `async def` handler."""

    __slots__ = ()

    async def accept(self, subprotocol: str | None = None, headers: HeaderSource | None = None) -> None:
        """Answer the handshake, if it isn't answered.

        Args:
            subprotocol: one that the client offers. None: the first of the route's that it does, if any.
            headers: further fields of the answer.

        Raises:
            SocketClosed: When the client has gone.
            ValueError: For what can't be sent.
        """
        self._accepted(subprotocol, headers)

    def receive(self) -> Coroutine[Any, Any, Message]:
        """Await the next message: str, or bytes. Raises `SocketClosed` when there is none any more."""
        return receive(self._exchange.session or self._accepted(), self._exchange.server, _message)

    async def receive_json(self) -> Any:
        """Give the next message, read as JSON. One that is none closes the WebSocket with 1007.

        Raises `SocketClosed` then, too.
        """
        return self._parse(await self.receive())

    async def send(self, message: Message) -> None:
        """Send a message: str as text, bytes as binary. Waits while too much waits for the client.

        Raises `SocketClosed`.
        """
        await send(self._exchange.session or self._accepted(), message, self._exchange.server)

    async def send_json(self, value: Any) -> None:
        """Send a value as JSON, in a text message. Raises `SocketClosed`, `TypeError`."""
        await self.send(self._encoder.encode(value).decode())

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping; the server sends its own from time to time. Raises `ValueError` for more than 125 bytes."""
        (self._exchange.session or self._accepted()).ping(payload)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, or refuse the opening one with 403. Closing twice does nothing.

        Raises `ValueError` for a code that can't be sent.
        """
        self._close(code, reason)

    def on_loop_thread(self, call: Callable[[], T]) -> T:
        """See `BaseSocket`."""
        return call()

    def _fail(self, close: Close) -> SocketClosed:
        return end_session(self._exchange.session or self._accepted(), close)

    def __aiter__(self) -> Socket:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Message]:
        return receive(self._exchange.session or self._accepted(), self._exchange.server, _next_message)
