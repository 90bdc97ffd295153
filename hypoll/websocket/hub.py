"""Rooms: one message to all WebSockets in one.

Laws:

- A message is encoded once for all members that it goes to, and sent at once; nothing runs for a member that waits.
- What waits for a slow member is bounded, whatever is published. It costs neither the publisher nor the others time.
- A socket leaves by its end. Each member is served on its own loop's thread, from whichever thread a call comes.
- Of a large room so many get a message in one turn of the loop; messages stay in order.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from hypoll.loop import Loop
from hypoll.web.json_encoding import JSONEncoder
from hypoll.websocket.base_socket import BaseSocket
from hypoll.websocket.deflate import Deflate
from hypoll.websocket.encoding import Message, encode
from hypoll.websocket.frames import TRY_LATER, Close
from hypoll.websocket.session import Session

QUEUE = 64
"""Messages that may wait for a member, unless a hub is made for others."""

SENDS_PER_TURN = 256
"""Members that get a message before the other connections have their turn."""


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
        self._encoder = JSONEncoder()
        self._lock = threading.Lock()
        self._rooms: dict[str, dict[Session, _Post]] = {}
        self._rooms_of: dict[Session, dict[str, None]] = {}
        self._posts: dict[Loop, _Post] = {}

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
        with self._lock:
            loop = connection.context.loop
            post = self._posts.get(loop)
            if post is None or post.thread != threading.get_ident():
                post = self._posts[loop] = _Post(loop, self._limit, closes=self._closes)
            self._rooms.setdefault(room, {})[session] = post
            self._rooms_of.setdefault(session, {})[room] = None
        if session.on_end is None:
            session.on_end = []
        if self._forget not in session.on_end:
            session.on_end.append(self._forget)

    def leave(self, room: str, socket: BaseSocket) -> None:
        """Have a socket get no more of a room. One that isn't in it doesn't mind."""
        session = socket.session
        if session is not None:
            with self._lock:
                self._leave(room, session)

    def _leave(self, room: str, session: Session) -> None:
        members = self._rooms.get(room, {})
        if session in members:
            del members[session], self._rooms_of[session][room]
            if not members:
                del self._rooms[room]

    def _forget(self, session: Session) -> None:
        """A socket has ended."""
        with self._lock:
            for room in list(self._rooms_of.get(session, ())):
                self._leave(room, session)
            self._rooms_of.pop(session, None)
            if not self._rooms:
                self._posts.clear()

    def members(self, room: str) -> int:
        """How many sockets are in a room."""
        with self._lock:
            return len(self._rooms.get(room, ()))

    @property
    def rooms(self) -> list[str]:
        """The names of the rooms that have members."""
        with self._lock:
            return list(self._rooms)

    def publish(self, room: str, message: Message, *, skip: BaseSocket | None = None) -> int:
        """Send a message to all in a room: str as text, bytes as binary. It never waits, and any thread may call it.

        Args:
            room: whose members get it.
            message: what they get.
            skip: a member that doesn't, such as who has said it.

        Returns:
            How many members it is for.
        """
        if not isinstance(message, (str, bytes)):
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        skipped = None if skip is None else skip.session
        by_post: dict[_Post, list[Session]] = {}
        with self._lock:
            for session, post in self._rooms.get(room, {}).items():
                if session is not skipped:
                    by_post.setdefault(post, []).append(session)
        for post, sessions in by_post.items():
            post.deliver(message, sessions)
        return sum(map(len, by_post.values()))

    def publish_json(self, room: str, value: Any, *, skip: BaseSocket | None = None) -> int:
        """`publish` a value as JSON, in a text message."""
        return self.publish(room, self._encoder.encode(value).decode(), skip=skip)


class _Post:
    """What delivers to the members on one loop.

    Attributes:
        thread: the loop's.
    """

    def __init__(self, loop: Loop, limit: int, *, closes: bool) -> None:
        self.thread = threading.get_ident()
        self._loop = loop
        self._limit = limit
        self._closes = closes
        self._waiting: deque[tuple[Message, deque[Session]]] = deque()
        self._planned = False

    def deliver(self, message: Message, sessions: Iterable[Session]) -> None:
        """Deliver a message, behind those that are being delivered."""
        if threading.get_ident() == self.thread:
            self._deliver(message, deque(sessions))
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all members
                self._loop.call_soon_threadsafe(self._deliver, message, deque(sessions))

    def _deliver(self, message: Message, sessions: deque[Session]) -> None:
        self._waiting.append((message, sessions))
        if not self._planned:
            self._run()

    def _run(self) -> None:
        self._planned = False
        room = SENDS_PER_TURN
        while self._waiting and room > 0:
            message, sessions = self._waiting[0]
            encoded: dict[Deflate | None, list[bytes]] = {}
            while sessions and room > 0:
                room -= 1
                self._send(sessions.popleft(), message, encoded)
            if not sessions:
                self._waiting.popleft()
        if self._waiting:
            self._planned = True
            self._loop.call_soon(self._run)

    def _send(self, session: Session, message: Message, encoded: dict[Deflate | None, list[bytes]]) -> None:
        pieces = encoded.get(session.deflate)
        if pieces is None:
            pieces = encoded[session.deflate] = encode(message, session.deflate)
        if not session.offer(pieces, self._limit) and self._closes:
            session.end(Close(TRY_LATER, "too slow for what is sent here"))
