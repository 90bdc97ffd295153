"""What handlers have of a WebSocket: what is the same for a task and for a thread.

Laws:

- The first `receive`, `send` or step of an iteration answers the handshake; until then it can be refused.
- `receive` gives what came before the end, then raises `SocketClosed`; an iteration ends there. `send` raises it as
  soon as nothing can be sent any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from hypoll.protocol.fields import HeaderSource
from hypoll.protocol.messages import Request
from hypoll.web.json_encoding import JSONEncoder
from hypoll.websocket.encoding import Message
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.exchange import SocketExchange
from hypoll.websocket.frames import INVALID_DATA, POLICY, Close, is_sendable
from hypoll.websocket.handshake import Handshake, choose_subprotocol
from hypoll.websocket.session import Session

T = TypeVar("T")


class BaseSocket:
    """What both have. See the module.

    Attributes:
        request: the handshake's request.
    """

    __slots__ = ("_encoder", "_exchange", "_handshake", "_subprotocols", "request")

    def __init__(
        self, exchange: SocketExchange, handshake: Handshake, subprotocols: Sequence[str], encoder: JSONEncoder
    ) -> None:
        self.request: Request = exchange.request
        self._exchange = exchange
        self._encoder = encoder
        self._handshake: Handshake | None = handshake
        self._subprotocols = subprotocols

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that is spoken, once the handshake is answered; None: none."""
        return self._exchange.subprotocol

    @property
    def accepted(self) -> bool:
        """Whether the handshake is answered by 101."""
        return self._exchange.session is not None

    @property
    def closed(self) -> bool:
        """Whether it is closed, or being closed."""
        session = self._exchange.session
        return self._exchange.refused if session is None else session.ended is not None or session.closing

    @property
    def close_code(self) -> int | None:
        """Why it has ended (RFC 6455, 7.1.5); None: it hasn't."""
        session = self._exchange.session
        return None if session is None or session.ended is None else session.ended.code

    @property
    def close_reason(self) -> str:
        """The reason that came with the code, for people to read."""
        session = self._exchange.session
        return "" if session is None or session.ended is None else session.ended.reason

    def _accepted(self, subprotocol: str | None = None, headers: HeaderSource | None = None) -> Session:
        """The session, accepted now if it isn't yet. On the loop's thread."""
        session, handshake = self._exchange.session, self._handshake
        if session is not None:
            return session
        if self._exchange.refused:
            raise SocketClosed(Close(POLICY, "the handshake is refused"))
        assert handshake is not None
        if subprotocol is None:
            subprotocol = choose_subprotocol(self._subprotocols, handshake.subprotocols)
        session = self._exchange.accept(handshake, subprotocol, headers)
        self._handshake = None
        return session

    @property
    def encoder(self) -> JSONEncoder:
        """What encodes the JSON that is sent over it: that of its route."""
        return self._encoder

    @property
    def session(self) -> Session | None:
        """What it speaks to; None: the handshake isn't answered."""
        return self._exchange.session

    def accepted_session(self) -> Session:
        """The session, accepted now if it isn't yet. On the loop's thread. Raises `SocketClosed`."""
        return self._accepted()

    def on_loop_thread(self, call: Callable[[], T]) -> T:
        """Give what a call gives that has to be made on the loop's thread. Raises what it raises."""
        raise NotImplementedError

    def _close(self, code: int, reason: str) -> None:
        if not isinstance(code, int) or not is_sendable(code):
            raise ValueError(f"{code!r} is no code of a close frame: use 1000, or 3000 to 4999 for one of your own")
        session = self._exchange.session
        if session is None:
            self._exchange.refused = True
        else:
            session.close(Close(code, reason))

    def _parse(self, message: Message) -> Any:
        """A message as JSON. One that is none closes with 1007; raises `SocketClosed`."""
        try:
            return orjson.loads(message)
        except orjson.JSONDecodeError as error:
            close = Close(INVALID_DATA, f"the message is not JSON: {error}")
        raise self._fail(close)

    def _fail(self, close: Close) -> SocketClosed:
        raise NotImplementedError


def end_session(session: Session, close: Close) -> SocketClosed:
    """End a session with a close of the server's own; give what is raised to its handler."""
    session.end(close)
    return SocketClosed(close)
