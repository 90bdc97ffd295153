"""Rooms: who is in which, and one message to all members of one.

Laws:

- A member is served on its own loop's thread, from whichever thread a message comes.
- Messages reach each member in the order in which they were put, and in one turn of the loop so many members of a large
  room get one: the other connections have their turn in between.
- A member that goes is forgotten at the cost of its own rooms.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from hypoll.loop import Loop

SENDS_PER_TURN = 256
"""Members that get a message before the other connections have their turn."""

M = TypeVar("M")
T = TypeVar("T")


class Rooms(Generic[M, T]):
    """The members of each room, by the room's name. Any thread may call it, but for `join`.

    Args:
        deliver: `deliver(member, message)` gives a member a message, on the member's loop's thread.

    Attributes:
        lock: held while members are changed or looked up; may be held around several calls.
    """

    def __init__(self, deliver: Callable[[M, T], object]) -> None:
        self.lock = threading.RLock()
        self._deliver = deliver
        self._members: dict[str, dict[M, Post[M, T]]] = {}
        self._rooms_of: dict[M, dict[str, None]] = {}
        self._posts: dict[Loop, Post[M, T]] = {}

    def join(self, room: str, member: M, loop: Loop) -> None:
        """Have a member get what is published to a room. On the thread of its loop."""
        with self.lock:
            post = self._posts.get(loop)
            if post is None or post.thread != threading.get_ident():
                post = self._posts[loop] = Post(loop, self._deliver)
            self._members.setdefault(room, {})[member] = post
            self._rooms_of.setdefault(member, {})[room] = None

    def leave(self, room: str, member: M) -> None:
        """Have a member get no more of a room, if it is in it."""
        with self.lock:
            members = self._members.get(room, {})
            if member in members:
                del members[member], self._rooms_of[member][room]
                if not members:
                    del self._members[room]

    def forget(self, member: M) -> None:
        """Have a member get nothing more: it has ended."""
        with self.lock:
            for room in list(self._rooms_of.get(member, ())):
                self.leave(room, member)
            self._rooms_of.pop(member, None)
            if not self._members:
                self._posts.clear()

    def count(self, room: str) -> int:
        """How many members a room has."""
        with self.lock:
            return len(self._members.get(room, ()))

    @property
    def names(self) -> list[str]:
        """The rooms that have members."""
        with self.lock:
            return list(self._members)

    def put(self, room: str, message: T, *, skip: M | None = None) -> list[Post[M, T]]:
        """Put a message in the queues of a room's members, all but one; give the posts that are to `deliver` it.

        It sends nothing, so that the lock may be held.
        """
        by_post: dict[Post[M, T], deque[M]] = {}
        with self.lock:
            for member, post in self._members.get(room, {}).items():
                if member is not skip:
                    by_post.setdefault(post, deque()).append(member)
            for post, members in by_post.items():
                post.put(message, members)
        return list(by_post)

    def publish(self, room: str, message: T, *, skip: M | None = None) -> int:
        """Give a message to all members of a room but one; give how many it is for."""
        with self.lock:
            posts = self.put(room, message, skip=skip)
            members = self._members.get(room, {})
            count = len(members) - (skip in members)
        for post in posts:
            post.deliver()
        return count


class Post(Generic[M, T]):
    """What delivers to the members on one loop.

    Attributes:
        thread: the loop's.
    """

    def __init__(self, loop: Loop, deliver: Callable[[M, T], object]) -> None:
        self.thread = threading.get_ident()
        self._loop = loop
        self._deliver = deliver
        self._waiting: deque[tuple[T, deque[M]]] = deque()
        self._planned = False
        self._running = False

    def put(self, message: T, members: deque[M]) -> None:
        """Put a message behind those that are being delivered."""
        self._waiting.append((message, members))

    def deliver(self) -> None:
        """Deliver what waits: now where this is the loop's thread."""
        if threading.get_ident() != self.thread:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all members
                self._loop.call_soon_threadsafe(self.deliver)
        elif not self._planned and not self._running:
            self._run()

    def _run_planned(self) -> None:
        self._planned = False
        self._run()

    def _run(self) -> None:
        self._running = True  # what a delivery ends may publish something itself: that comes behind
        try:
            self._deliver_some(SENDS_PER_TURN)
        finally:
            self._running = False
        if self._waiting:
            self._planned = True
            self._loop.call_soon(self._run_planned)

    def _deliver_some(self, count: int) -> None:
        while self._waiting and count > 0:
            message, members = self._waiting[0]
            while members and count > 0:
                count -= 1
                self._deliver(members.popleft(), message)
            if not members:
                self._waiting.popleft()
