"""Server-sent events (WHATWG HTML, 9.2): a response whose body goes on for as long as there are events."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from dataclasses import dataclass, fields
from typing import Any, cast

from hypoll.protocol.fields import exact_str
from hypoll.protocol.messages import Response
from hypoll.protocol.serializer import HEARTBEAT_INTERVAL
from hypoll.web.json_encoding import PLAIN, EncodesJSON, JSONEncoder

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        data: str, each of its lines sent as one; anything else is sent as JSON.
        event: its type; the client takes it for `message` when there is none.
        id: what the client names in `Last-Event-ID` when it connects again; an empty one forgets the last.
        retry: milliseconds after which the client shall connect again.

    Raises:
        ValueError: For an event type or id with a line end, an id with NUL, or a retry that is no whole number.
    """

    data: Any = ""
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def __post_init__(self) -> None:
        for name in ("event", "id"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or _LINE_END.search(value) or "\0" in value):
                raise ValueError(f"the {name} of an event must be a str of one line without NUL, not {value!r}")
            if value is not None:
                object.__setattr__(self, name, exact_str(value))
        if self.retry is not None and (type(self.retry) is not int or self.retry < 0):
            raise ValueError(f"the retry of an event is a whole number of milliseconds, not {self.retry!r}")

    def encode(self, encoder: EncodesJSON = PLAIN) -> bytes:
        """The event's lines, and the empty one that ends it. encoder: of its data, if that is no str."""
        data = exact_str(self.data) if isinstance(self.data, str) else encoder.encode(self.data).decode()
        named = [("event", self.event), ("id", self.id), ("retry", self.retry)]
        lines = [f"{name}: {value}" for name, value in named if value is not None]
        lines += [f"data: {line}" for line in _LINE_END.split(data)]
        return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


Events = Iterable[Event | str | dict[str, Any]] | AsyncIterable[Event | str | dict[str, Any]]


def sse(events: Events, *, keep_alive: float | None = HEARTBEAT_INTERVAL) -> Response:
    """A response that sends each event when it comes, until there is none, the client goes, or the server does.

    When the server begins to drain the stream ends cleanly, so that clients connect again, to another.

    Args:
        events: an iterable for a threaded handler, an async iterable for an `async def` one. Each event is an `Event`,
            a str (its data), or a dict of an `Event`'s fields.
        keep_alive: seconds of silence after which a comment is sent, so that nothing on the way takes the connection
            for dead; None: never.

    Raises:
        TypeError: For what can't be iterated over.
    """
    if isinstance(events, AsyncIterable):
        return event_response(_AsyncBody(events), keep_alive)
    if isinstance(events, (str, bytes, dict, Event)) or not isinstance(events, Iterable):
        what = "one event" if isinstance(events, (str, bytes, dict, Event)) else type(events).__name__
        raise TypeError(f"sse takes the events, as a generator gives them, not {what}")
    return event_response(_Body(events), keep_alive)


def event_response(body: EventBody, keep_alive: float | None) -> Response:
    """The response of a stream of events, which is kept alive as `sse` says."""
    if keep_alive is not None:
        body.heartbeat = b": keep-alive\n\n"
        body.interval = keep_alive
    # X-Accel-Buffering: nginx would collect the events otherwise.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(cast("Any", body), 200, headers, "text/event-stream; charset=utf-8")


def as_event(event: Event | str | dict[str, Any]) -> Event:
    """The event that one in any of its forms is. Raises `TypeError`, `ValueError`."""
    if isinstance(event, dict):
        try:
            return Event(**event)
        except TypeError:
            known = ", ".join(field.name for field in fields(Event))
            advice = f"a dict is an event's fields, {known}: Event({{...}}) sends it as data"
            raise TypeError(f"{event!r:.80} is no event: {advice}") from None
    return event if isinstance(event, Event) else Event(event)


def encode(event: Event | str | dict[str, Any], encoder: EncodesJSON = PLAIN) -> bytes:
    """The bytes of an event in any of its forms. Raises `TypeError`, `ValueError`."""
    return as_event(event).encode(encoder)


class EventBody:
    """A body with something to say while it has nothing to say: `hypoll.protocol.serializer.Remainder.heartbeat`.

    Attributes:
        encoder: of its events' data; that of its route, from when it is known.
    """

    encoder: JSONEncoder = PLAIN

    heartbeat: bytes | None = None
    interval: float | None = HEARTBEAT_INTERVAL
    ends_with_server = True


class _Body(EventBody):
    def __init__(self, events: Iterable[Event | str | dict[str, Any]]) -> None:
        self._events = iter(events)

    def __iter__(self) -> Generator[bytes]:
        try:
            for event in self._events:
                yield encode(event, self.encoder)
        finally:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()


class _AsyncBody(EventBody):
    def __init__(self, events: AsyncIterable[Event | str | dict[str, Any]]) -> None:
        self._events = aiter(events)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async for event in self._events:
                yield encode(event, self.encoder)
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
