"""A WebSocket as a handler on a thread has it: the names of `Socket`, and what waits blocks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from hypoll.protocol.fields import HeaderSource
from hypoll.protocol.refusals import busy
from hypoll.websocket.base_socket import BaseSocket, end_session
from hypoll.websocket.encoding import Message
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.frames import ABNORMAL, NORMAL, Close

T = TypeVar("T")

_WAIT: Any = object()
"""What a step gives that has to be taken again."""


class _Steps:
    """A step that the loop takes for a thread, again and again until it gives something. It is what waits meanwhile."""

    def __init__(self, step: Callable[[_Steps], Any]) -> None:
        self._step = step
        self._over = threading.Lock()
        self._over.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether the thread waits no more."""
        return not self._over.locked()

    def set_result(self, result: None = None) -> None:
        """Take the step. On the loop's thread."""
        try:
            self._result = self._step(self)
        except BaseException as error:
            self._error = error
        if self._error is not None or self._result is not _WAIT:
            self._over.release()

    def wait(self) -> Any:
        """Wait for what it gives; raise what it raises. On the thread."""
        self._over.acquire()
        self._over.release()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result


class ThreadSocket(BaseSocket):
    """A WebSocket for a handler on a thread: the same names, and what waits blocks.

    Its thread is beside the pool once the handshake is answered: there may be `--stream-threads` such.
    """

    __slots__ = ()

    def on_loop(self, step: Callable[[_Steps], T]) -> T:
        """Give what a step gives on the loop's thread. Raises what it raises; `SocketClosed` when there is no loop."""
        steps = _Steps(step)
        try:
            self._exchange.server.loop.call_soon_threadsafe(steps.set_result)
        except RuntimeError:
            raise SocketClosed(Close(ABNORMAL)) from None
        result: T = steps.wait()
        return result

    def on_loop_thread(self, call: Callable[[], T]) -> T:
        """See `BaseSocket`."""
        self.accept()
        return self.on_loop(lambda steps: call())

    def accept(self, subprotocol: str | None = None, headers: HeaderSource | None = None) -> None:
        """Answer the handshake, if it isn't answered; see `Socket.accept`.

        Raises `HTTPError` 503, too, when too many threads are beside the pool.
        """
        if self._exchange.session is None:
            self._leave_pool()
            self.on_loop(lambda steps: self._accepted(subprotocol, headers))

    def _leave_pool(self) -> None:
        exchange = self._exchange
        if not exchange.refused and not exchange.server.thread_pool.detach(exchange._lease or exchange):
            raise busy()

    def receive(self) -> Message:
        """Give the next message: str, or bytes. Raises `SocketClosed` when there is none any more."""
        self.accept()
        return self.on_loop(self._take)

    def _take(self, steps: _Steps) -> Message:
        session = self._accepted()
        message = session.take()
        if message is not None:
            return message
        if session.ended is not None:
            raise SocketClosed(session.ended)
        if session.reader is not None and session.reader is not steps and not session.reader.done():
            raise RuntimeError("two threads receive from one WebSocket")
        session.reader = steps
        return _WAIT  # type: ignore[no-any-return]

    def receive_json(self) -> Any:
        """Give the next message, read as JSON; see `Socket.receive_json`."""
        return self._parse(self.receive())

    def send(self, message: Message) -> None:
        """Send a message: str as text, bytes as binary. Blocks while too much waits for the client.

        Raises `SocketClosed`.
        """
        self.accept()
        self.on_loop(partial(self._send, [message]))

    def _send(self, messages: list[Message], steps: _Steps) -> None:
        session = self._accepted()
        if messages:
            session.send(messages.pop())
        if not session.is_full:
            return None
        session.writers = [*(session.writers or ()), steps]
        return _WAIT  # type: ignore[no-any-return]

    def send_json(self, value: Any) -> None:
        """Send a value as JSON, in a text message. Raises `SocketClosed`, `TypeError`."""
        self.send(self._encoder.encode(value).decode())

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; see `Socket.ping`."""
        self.accept()
        self.on_loop(lambda steps: self._accepted().ping(payload))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, or refuse the opening one; see `Socket.close`."""
        with contextlib.suppress(SocketClosed):
            self.on_loop(lambda steps: self._close(code, reason))

    def _fail(self, close: Close) -> SocketClosed:
        return self.on_loop(lambda steps: end_session(self._accepted(), close))

    def __iter__(self) -> ThreadSocket:
        return self

    def __next__(self) -> Message:
        try:
            return self.receive()
        except SocketClosed:
            raise StopIteration from None
