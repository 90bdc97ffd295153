"""Server-sent events for many: one event to all streams that listen to a room.

Laws:

- A stream that waits for events has neither a thread nor a task: the loop sends each event when it is published.
- An event is encoded once for all, and what waits for a slow stream is bounded.
- A stream listens from when its answer is sent until that ends. An answer that is never sent leaves nothing behind.
- What is kept for those that come back and what goes to those that are here are of one order: nobody misses an event
  in between, or gets one twice.
"""

from __future__ import annotations

import copy
import itertools
import logging
import secrets
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from hypoll.loop import Loop
from hypoll.protocol.messages import Response, StreamedBody
from hypoll.protocol.serializer import COPY_LIMIT, HEARTBEAT_INTERVAL
from hypoll.server.response_body import Pull
from hypoll.server.socket_io import Buffers
from hypoll.web.events import Event, EventBody, as_event, event_response
from hypoll.web.rooms import Rooms
from hypoll.web.shared_encoder import SharedEncoder

QUEUE = 64
"""Events that may wait for a stream, unless a hub is made for others."""

log = logging.getLogger("hypoll.error")


class _Kept(NamedTuple):
    """An event that was published: bytes, or itself while no route is known to encode it."""

    number: int
    event: Event
    data: bytes | None


class EventHub:
    """Rooms of server-sent events by name, each with the streams that listen to it::

        hub = EventHub(replay=100)

        @routes.get("/orders/events")
        def follow(request):
            return hub.events("orders", last_event_id=request.headers.get("Last-Event-ID"))

        @routes.post("/orders", threaded=True)
        def create(request):
            order = save(request.json())
            hub.publish("orders", Event(order, event="created"))
            return order, 201

    A hub is of one process.

    Args:
        queue: events that may wait for a stream whose client takes them too slowly.
        slow: what becomes of it when one more comes: "drop": it doesn't get that one; "end": it ends behind what waits,
            so that the client comes back, and gets what it has missed if that is kept.
        replay: events that are kept of each room for clients that come back. Those without an id get one then.

    Raises:
        ValueError: For another word, a queue of none, or fewer events to keep than none.
    """

    def __init__(self, *, queue: int = QUEUE, slow: str = "drop", replay: int = 0) -> None:
        if slow not in ("drop", "end") or queue < 1 or replay < 0:
            raise ValueError(
                f"slow is {slow!r}, queue {queue}, replay {replay}: they must be drop or end, 1 at least, 0 at least"
            )
        self._queue = queue
        self._ends = slow == "end"
        self._replay = replay
        self._encoder = SharedEncoder()
        self._rooms: Rooms[EventStream, bytes] = Rooms(
            EventStream.deliver, size=len, overflow=EventStream.overflow if self._ends else None, queue=queue
        )
        self._kept: dict[str, deque[_Kept]] = {}
        self._numbers = itertools.count(1)
        self._prefix = ""

    def events(
        self, *rooms: str, last_event_id: str | None = None, keep_alive: float | None = HEARTBEAT_INTERVAL
    ) -> Response:
        """A response that sends what is published to some rooms: for a handler of any kind to return.

        It ends when the client goes, or the server does.

        Args:
            rooms: the names of one or more.
            last_event_id: what the client has sent as `Last-Event-ID`: it gets the events behind that first, of those
                that are kept; all of them where none has this id. None: those to come alone.
            keep_alive: seconds of silence after which a comment is sent, as by `hypoll.sse`; None: never.

        Raises:
            TypeError: Without a room, and for a name or an id that is no str.
        """
        if not rooms or not all(isinstance(room, str) for room in rooms):
            raise TypeError(f"events takes the names of rooms, as in hub.events('orders'), not {rooms!r}")
        if last_event_id is not None and not isinstance(last_event_id, str):
            raise TypeError(f"last_event_id is a str, as the client has sent it, not {last_event_id!r:.80}")
        body = EventStream(self, rooms, last_event_id, self._queue, ends=self._ends)
        return event_response(body, keep_alive)

    def publish(self, room: str, event: Event | str | dict[str, Any]) -> int:
        """Send an event to all that listen to a room. It never waits, and any thread may call it.

        What is published faster than the loop sends it waits: 1,024 events of a room (`queue`, where that is more) and
        32 MiB. One beyond that finds each stream of the room as slow: see `slow`.

        Args:
            room: whose listeners get it.
            event: an `Event`, a str (its data), or a dict of an `Event`'s fields, as `hypoll.sse` takes them.

        Returns:
            How many streams it is for.

        Raises:
            TypeError: For data that can't be JSON, with the line that published it.
        """
        event, data = as_event(event), None
        if not self._replay:
            if not self._encoder.is_known:
                return 0  # nobody has ever listened
            return self._rooms.publish(room, event.encode(self._encoder))
        with self._rooms.lock:
            number = next(self._numbers)
            if event.id is None:
                event = replace(event, id=self._id_of(number))
            if self._encoder.is_known:
                data = event.encode(self._encoder)
            else:
                event = replace(event, data=_as_it_is_now(event.data))
            self._kept.setdefault(room, deque(maxlen=self._replay)).append(_Kept(number, event, data))
            count = self._rooms.count(room)
            posts = [] if data is None else self._rooms.put(room, data)
        for post in posts:
            post.deliver()
        return count

    def _id_of(self, number: int) -> str:
        # Another process has other events of the same numbers. Not made before it is needed: one that forks would give
        # its own to all.
        self._prefix = self._prefix or secrets.token_hex(4)
        return f"{self._prefix}-{number}"

    def discard(self, room: str) -> None:
        """Keep the events of a room no longer: of one to which nobody will come back."""
        with self._rooms.lock:
            self._kept.pop(room, None)

    def listeners(self, room: str) -> int:
        """How many streams listen to a room."""
        return self._rooms.count(room)

    @property
    def rooms(self) -> list[str]:
        """The names of the rooms that somebody listens to."""
        return self._rooms.names

    def join(self, stream: EventStream, loop: Loop) -> list[bytes]:
        """Have a stream get what is published from now on; give what it has missed. On the loop's thread."""
        with self._rooms.lock:
            if not self._encoder.is_known:
                self._encoder.learn(stream.encoder)
                self._encode_kept()
            self._encoder.learn(stream.encoder)
            for room in stream.rooms:
                self._rooms.join(room, stream, loop)
            return [] if stream.last_event_id is None else self._missed(stream.rooms, stream.last_event_id)

    def _encode_kept(self) -> None:
        """Encode what was published before anybody listened. What can't be is logged, and dropped."""
        for room, kept in self._kept.items():
            encoded = []
            for each in kept:
                try:
                    encoded.append(each._replace(data=each.event.encode(self._encoder)))
                except (TypeError, ValueError):
                    log.exception("an event that was published to %r can't be sent", room)
            self._kept[room] = deque(encoded, maxlen=self._replay)

    def _missed(self, rooms: tuple[str, ...], last_event_id: str) -> list[bytes]:
        kept = sorted(each for room in dict.fromkeys(rooms) for each in self._kept.get(room, ()))
        sent = {last_event_id.strip(" \t"), _as_a_field(last_event_id)}
        last = max((each.number for each in kept if _as_a_field(each.event.id or "") in sent), default=0)
        return [each.data for each in kept if each.number > last and each.data is not None]

    def forget(self, stream: EventStream) -> None:
        """A stream has ended."""
        self._rooms.forget(stream)


def _as_it_is_now(value: Any) -> Any:
    """What is to be JSON, without what becomes of it later; itself, if only the routes know how to encode it."""
    if isinstance(value, str):
        return value
    try:
        orjson.dumps(value)  # plain values alone: who knows what else is in an object
        return copy.deepcopy(value)
    except (TypeError, ValueError):
        return value


def _as_a_field(event_id: str) -> str:
    """An id as a field's value that is read: browsers send UTF-8 (WHATWG HTML, 9.2.3), a head is latin-1."""
    return event_id.encode("utf-8", "replace").decode("latin-1").strip(" \t")


class EventStream(EventBody, StreamedBody):
    """The body of one answer, which the loop sends the hub's events by. All of it is called on the loop's thread."""

    def __init__(
        self, hub: EventHub, rooms: tuple[str, ...], last_event_id: str | None, limit: int, *, ends: bool
    ) -> None:
        self.rooms = rooms
        self.last_event_id = last_event_id
        self._hub = hub
        self._limit = limit
        self._ends = ends
        self._missed: deque[bytes] = deque()
        self._waiting: deque[bytes] = deque()
        self._ready: Callable[[], object] | None = None
        self._idle = False
        self._ended = False

    def attach(self, ready: Callable[[], object], loop: Any) -> None:
        """Listen. Call `ready()` when there is something to pull."""
        self._ready = ready
        self._missed += self._hub.join(self, loop)

    def deliver(self, data: bytes) -> None:
        """Take an event, if not too many wait."""
        if self._ended or self._ready is None:
            return
        if len(self._waiting) < self._limit:
            self._waiting.append(data)
        elif self._ends:
            self.end()
        self._wake()

    def overflow(self) -> None:
        """End behind what waits: more was published than the loop could send."""
        if not self._ended and self._ready is not None:
            self.end()
            self._wake()

    def _wake(self) -> None:
        if self._idle and self._ready is not None:
            self._idle = False
            self._ready()

    def pull(self, sock: socket.socket, output: Buffers) -> Pull:
        """Append the events that wait, some at once."""
        pieces, size = [], 0
        for queue in (self._missed, self._waiting):
            while queue and size < COPY_LIMIT:
                pieces.append(queue.popleft())
                size += len(pieces[-1])
        if pieces:
            output.append(self.framer.piece(b"".join(pieces)))
            return Pull.MORE
        if self._ended:
            output += filter(None, [self.framer.end()])
            self.close()
            return Pull.END
        self._idle = True
        return Pull.LATER

    def end(self) -> None:
        """Come to an end behind what waits."""
        self._ended = True
        self._hub.forget(self)

    def close(self) -> None:
        """Nobody will pull any more."""
        self._ready = None
        self._missed.clear()
        self._waiting.clear()
        self._hub.forget(self)
