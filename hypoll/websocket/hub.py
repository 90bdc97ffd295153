"""Rooms: one message to all WebSockets in one.

Laws:

- A message is encoded once for all members that it goes to, and sent at once; nothing runs for a member that waits.
- What waits for a slow member is bounded, whatever is published. It costs neither the publisher nor the others time.
- A socket leaves by its end. Each member is served on its own loop's thread, from whichever thread a call comes.
- Who is in which room, and the order of messages: see `hypoll.web.rooms`.
"""

from __future__ import annotations

import sys
from typing import Any

from hypoll.web.rooms import Rooms
from hypoll.web.shared_encoder import SharedEncoder
from hypoll.websocket.base_socket import BaseSocket
from hypoll.websocket.deflate import Deflate
from hypoll.websocket.encoding import Message, encode
from hypoll.websocket.frames import TRY_LATER, Close
from hypoll.websocket.session import Session

QUEUE = 64
"""Messages that may wait for a member, unless a hub is made for others."""


class Hub:
    """Rooms by name, each with its members::

        hub = Hub()

        @routes.websocket("/chat/{room}")
        async def chat(socket, room):
            hub.join(room, socket)
            async for message in socket:
                hub.publish(room, message)

    Args:
        queue: messages that may wait for a member that takes them too slowly.
        slow: what becomes of it when one more comes: "drop": it doesn't get that one; "close": it is closed with 1013.

    Raises:
        ValueError: For another word, or a queue of none.
    """

    def __init__(self, *, queue: int = QUEUE, slow: str = "drop") -> None:
        if slow not in ("drop", "close") or queue < 1:
            raise ValueError(f"slow is {slow!r}, queue {queue}: it must be drop or close, and 1 at least")
        self._limit = queue
        self._closes = slow == "close"
        self._encoder = SharedEncoder()
        self._rooms: Rooms[Session, _Encoded] = Rooms(
            self._send, size=_Encoded.size, overflow=_end_slow if self._closes else None, queue=queue
        )

    def join(self, room: str, socket: BaseSocket) -> None:
        """Have a socket get what is published to a room, until it ends or leaves. It is accepted by that.

        Raises `SocketClosed` when it has ended.
        """
        socket.on_loop_thread(lambda: self._join(room, socket))

    def _join(self, room: str, socket: BaseSocket) -> None:
        session = socket.accepted_session()
        connection = session.connection
        if connection is None or session.closing:
            raise session.closed
        self._encoder.learn(socket.encoder)
        self._rooms.join(room, session, connection.context.loop)
        if session.on_end is None:
            session.on_end = []
        if self._rooms.forget not in session.on_end:
            session.on_end.append(self._rooms.forget)

    def leave(self, room: str, socket: BaseSocket) -> None:
        """Have a socket get no more of a room. One that isn't in it doesn't mind."""
        session = socket.session
        if session is not None:
            self._rooms.leave(room, session)

    def members(self, room: str) -> int:
        """How many sockets are in a room."""
        return self._rooms.count(room)

    @property
    def rooms(self) -> list[str]:
        """The names of the rooms that have members."""
        return self._rooms.names

    def publish(self, room: str, message: Message, *, skip: BaseSocket | None = None) -> int:
        """Send a message to all in a room: str as text, bytes as binary. It never waits, and any thread may call it.

        What is published faster than the loop sends it waits: 1,024 messages of a room (`queue`, where that is more)
        and 32 MiB. One beyond that finds each member as slow: see `slow`.

        Args:
            room: whose members get it.
            message: what they get.
            skip: a member that doesn't, such as who has said it.

        Returns:
            How many members it is for.
        """
        if not isinstance(message, (str, bytes)):
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        return self._rooms.publish(room, _Encoded(message), skip=None if skip is None else skip.session)

    def publish_json(self, room: str, value: Any, *, skip: BaseSocket | None = None) -> int:
        """`publish` a value as JSON, in a text message, encoded as the members' routes say: see `Routes(default=...)`.

        Raises `TypeError` for what can't be encoded, and `ValueError` as `strict_json` has it.
        """
        if not self._encoder.is_known:
            return 0  # nobody has ever been in a room
        return self.publish(room, self._encoder.encode(value).decode(), skip=skip)

    def _send(self, session: Session, message: _Encoded) -> None:
        if not session.offer(message.pieces(session.deflate), self._limit) and self._closes:
            _end_slow(session)


def _end_slow(session: Session) -> None:
    session.end(Close(TRY_LATER, "too slow for what is sent here"))


class _Encoded:
    """A message, and the pieces it is sent as to each that speaks the same compression."""

    __slots__ = ("_message", "_pieces")

    def __init__(self, message: Message) -> None:
        self._message = message
        self._pieces: dict[Deflate | None, list[bytes]] = {}

    def size(self) -> int:
        """The memory that the message takes, in bytes."""
        return sys.getsizeof(self._message)

    def pieces(self, deflate: Deflate | None) -> list[bytes]:
        """The buffers of its frames."""
        pieces = self._pieces.get(deflate)
        if pieces is None:
            pieces = self._pieces[deflate] = encode(self._message, deflate)
        return pieces
