"""Server-sent events: what an event looks like on the wire, and that a silent stream is kept alive."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from hypoll import Event, Routes, sse
from hypoll.testing import TestClient
from hypoll.web.events import encode
from tests.support.clock import PATIENCE


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        ("text", "data: text"),
        ("", "data: "),
        ("one\ntwo", "data: one\ndata: two"),
        ("one\r\ntwo\rthree\n", "data: one\ndata: two\ndata: three\ndata: "),
        ("data: injected\n\nid: 1", "data: data: injected\ndata: \ndata: id: 1"),
        (Event("x", event="tick"), "event: tick\ndata: x"),
        (Event("x", id="7"), "id: 7\ndata: x"),
        (Event("x", id=""), "id: \ndata: x"),
        (Event("x", retry=0), "retry: 0\ndata: x"),
        (Event("x", "tick", "7", 2500), "event: tick\nid: 7\nretry: 2500\ndata: x"),
        (Event({"a": ["é", 1]}), 'data: {"a":["é",1]}'),
        ({"data": [1], "id": "2"}, "id: 2\ndata: [1]"),
        ("lone \ud800 surrogate", "data: lone ? surrogate"),
    ],
)
def test_an_event(event: Any, lines: str) -> None:
    assert encode(event) == f"{lines}\n\n".encode()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"event": "a\nb"}, "the event of an event must be a str of one line"),
        ({"event": "a\rb"}, "the event of an event must be a str of one line"),
        ({"id": "a\r\nb"}, "the id of an event must be a str of one line"),
        ({"id": "a\0b"}, "the id of an event must be a str of one line without NUL"),
        ({"id": 7}, "the id of an event must be a str of one line"),
        ({"retry": -1}, "a whole number of milliseconds, not -1"),
        ({"retry": 1.5}, "a whole number of milliseconds"),
        ({"retry": True}, "a whole number of milliseconds"),
    ],
)
def test_a_field_that_would_break_the_stream_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Event("data", **fields)


def test_what_is_no_event_is_refused():
    with pytest.raises(TypeError, match="name"):
        encode({"name": "x"})
    with pytest.raises(TypeError):
        encode(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        sse(5)  # type: ignore[arg-type]


def test_the_response_tells_everyone_on_the_way_not_to_keep_it():
    response = sse([])
    assert response.content_type == "text/event-stream; charset=utf-8"
    assert response.headers == {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


routes = Routes()
release = threading.Event()
closed: list[str] = []


@routes.get("/threaded", threaded=True)
def threaded(request):
    def events() -> Any:
        yield "first"
        release.wait(PATIENCE)
        yield Event("second", id="2")

    return sse(events(), keep_alive=0)


@routes.get("/async")
async def tasks(request):
    async def events() -> Any:
        yield "first"
        while not release.is_set():
            await asyncio.sleep(0.01)
        yield Event("second", id="2")

    return sse(events(), keep_alive=0)


@routes.get("/closed")
async def endless(request):
    async def events() -> Any:
        try:
            yield "first"
            await asyncio.sleep(60)
        finally:
            closed.append("async")

    return sse(events(), keep_alive=0)


@pytest.mark.parametrize("path", ["/threaded", "/async"])
def test_events_come_as_they_are_given_and_silence_is_filled(path):
    release.clear()
    with TestClient(routes) as client, client.get(path, stream=True) as response:
        lines = response.iter_lines(chunk_size=1, decode_unicode=True)
        assert [next(lines), next(lines)] == ["data: first", ""]
        assert [next(lines), next(lines)] == [": keep-alive", ""]
        release.set()
        rest = [line for line in lines if line and line != ": keep-alive"]
        assert rest == ["id: 2", "data: second"]


def test_a_client_that_goes_ends_the_events():
    closed.clear()
    with TestClient(routes) as client, client.get("/closed", stream=True) as response:
        assert next(response.iter_lines()) == b"data: first"
    # Leaving the client drains: it returns when the stream, which a comment every second finds broken, is closed.
    assert closed == ["async"]
