"""Rooms: who is in which, and one message to all members of one.

Laws:

- A member is served on its own loop's thread, from whichever thread a message comes.
- Messages reach each member in the order in which they were put, and in one turn of the loop so many members of a large
  room get one: the other connections have their turn in between.
- A member that goes is forgotten at the cost of its own rooms.
- What waits until a loop delivers it is bounded, of each room and of all, however fast others publish. What comes
  beyond meets a member as if its own queue were full. It wakes the loop once, not once for each message.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hypoll.loop import Loop

SENDS_PER_TURN = 256
"""Members that get a message before the other connections have their turn."""

WAITING_MESSAGES = 1024
"""Messages of one room that may wait until a loop delivers them, at least: far more than a handler sends in a row."""

WAITING_BYTES = 32 * 1024 * 1024
"""Bytes of one room that may wait so. A larger message may where nothing of the room waits."""

ROOMS_AT_ONCE = 4
"""So many times the bytes of one room, and the square of it the messages, may wait of all rooms: one room that is
flooded doesn't take the others' share."""

M = TypeVar("M")
T = TypeVar("T")


class Rooms(Generic[M, T]):
    """The members of each room, by the room's name. Any thread may call it, but for `join`.

    Args:
        deliver: `deliver(member, message)` gives a member a message, on the member's loop's thread.
        size: `size(message)` is the memory that it takes, in bytes.
        overflow: `overflow(member)` ends a member behind what waits for it when more messages wait for its loop than
            may, on the loop's thread. It is in no room from then on. None: it doesn't get that message.
        queue: messages that may wait for one member: of a room at least so many may wait for a loop.

    Attributes:
        lock: held while members are changed or looked up; may be held around several calls.
    """

    def __init__(
        self,
        deliver: Callable[[M, T], object],
        *,
        size: Callable[[T], int],
        overflow: Callable[[M], object] | None = None,
        queue: int = 0,
    ) -> None:
        self.lock = threading.RLock()
        self._deliver = deliver
        self._size = size
        self._overflow = overflow
        self._limit = max(queue, WAITING_MESSAGES)
        self._members: dict[str, dict[M, Post[M, T]]] = {}
        self._rooms_of: dict[M, dict[str, None]] = {}
        self._posts: dict[Loop, Post[M, T]] = {}

    def join(self, room: str, member: M, loop: Loop) -> None:
        """Have a member get what is published to a room. On the thread of its loop."""
        with self.lock:
            post = self._posts.get(loop)
            if post is None or post.thread != threading.get_ident():
                post = self._posts[loop] = Post(loop, self._deliver, self._overflow, self._limit)
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
            if not self._members:  # a post in which something waits keeps its order, and its bound
                self._posts = {loop: post for loop, post in self._posts.items() if post.waits}

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
            size = self._size(message)
            for post, members in by_post.items():
                if not post.put(room, message, size, members) and self._overflow is not None:
                    for member in tuple(members):
                        self.forget(member)
                    post.put_overflow(members)
        return list(by_post)

    def publish(self, room: str, message: T, *, skip: M | None = None) -> int:
        """Give a message to all members of a room but one; give how many it is for."""
        with self.lock:
            members = self._members.get(room, {})
            count = len(members) - (skip in members)
            posts = self.put(room, message, skip=skip)
        for post in posts:
            post.deliver()
        return count


@dataclass(slots=True)
class _Tally:
    """How much waits."""

    messages: int = 0
    bytes: int = 0

    def add(self, messages: int, size: int) -> None:
        self.messages += messages
        self.bytes += size


@dataclass(slots=True)
class _Waiting(Generic[M, T]):
    """A message and who is still to get it. Without one: members that are to end."""

    room: str
    messages: tuple[T, ...]
    size: int
    members: deque[M]


class Post(Generic[M, T]):
    """What delivers to the members on one loop.

    Attributes:
        thread: the loop's.
    """

    def __init__(
        self, loop: Loop, deliver: Callable[[M, T], object], overflow: Callable[[M], object] | None, limit: int
    ) -> None:
        self.thread = threading.get_ident()
        self._loop = loop
        self._deliver = deliver
        self._overflow = overflow
        self._limit = limit
        self._waiting: deque[_Waiting[M, T]] = deque()
        self._lock = threading.RLock()
        self._total = _Tally()
        self._tallies: dict[str, _Tally] = {}
        self._wakeup = threading.Lock()
        """Held from when another thread wakes the loop until it is awake."""
        self._planned = False
        self._running = False

    @property
    def waits(self) -> bool:
        """Whether something is still to be delivered."""
        return bool(self._waiting)

    def put(self, room: str, message: T, size: int, members: deque[M]) -> bool:
        """Put a message behind those that are being delivered. False: too much waits, and it isn't put."""
        with self._lock:
            tally = self._tallies.get(room)
            if not self._has_space(tally, size):
                return False
            if tally is None:
                tally = self._tallies[room] = _Tally()
            tally.add(1, size)
            self._total.add(1, size)
            self._waiting.append(_Waiting(room, (message,), size, members))
            return True

    def _has_space(self, tally: _Tally | None, size: int) -> bool:
        total = self._total
        if total.messages and total.bytes + size > WAITING_BYTES * ROOMS_AT_ONCE:
            return False
        if tally is None:
            return True  # one message to each of many rooms: there are no more than members have joined
        return (
            tally.messages < self._limit
            and tally.bytes + size <= WAITING_BYTES
            and total.messages < self._limit * ROOMS_AT_ONCE**2
        )

    def put_overflow(self, members: deque[M]) -> None:
        """End some members behind what waits for them. They are in no room any more: it comes once for each."""
        self._waiting.append(_Waiting("", (), 0, members))

    def deliver(self) -> None:
        """Deliver what waits: now where this is the loop's thread."""
        if threading.get_ident() != self.thread:
            if not self._planned and self._wakeup.acquire(blocking=False):
                with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all members
                    self._loop.call_soon_threadsafe(self._run_woken)
        elif not self._planned and not self._running:
            self._run()

    def _run_woken(self) -> None:
        self._wakeup.release()  # before it looks: what is put from now on wakes it again
        self.deliver()

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
            waiting = self._waiting[0]
            members = waiting.members
            try:
                while members and count > 0:
                    count -= 1
                    self._give(waiting, members.popleft())
            finally:
                if not members:
                    self._take(waiting)

    def _give(self, waiting: _Waiting[M, T], member: M) -> None:
        for message in waiting.messages:
            self._deliver(member, message)
        if not waiting.messages and self._overflow is not None:
            self._overflow(member)

    def _take(self, waiting: _Waiting[M, T]) -> None:
        with self._lock:
            self._waiting.popleft()
            if waiting.messages:
                self._total.add(-1, -waiting.size)
                tally = self._tallies[waiting.room]
                tally.add(-1, -waiting.size)
                if not tally.messages:
                    del self._tallies[waiting.room]
