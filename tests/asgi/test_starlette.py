"""What Starlette makes of being told of clients that go: its streams end, and that isn't the server's error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.asgi.asgiapps import GET, serving
from tests.support.client import PATIENCE


class Queue:
    """A stream that waits on a queue which stays empty. first: what it gives before."""

    def __init__(self, first: bytes, media_type: str) -> None:
        self.first = first
        self.media_type = media_type
        self.begun = threading.Event()
        self.ended = threading.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            if self.first:
                yield self.first
            self.begun.set()
            yield await asyncio.Queue[bytes]().get()
        finally:
            self.ended.set()

    async def __call__(self, request: Request) -> Response:
        return StreamingResponse(self.pieces(), media_type=self.media_type)


def application(endpoint: Any) -> Starlette:
    async def respond(request: Request) -> Response:
        response: Response = await endpoint(request)
        return response

    return Starlette(routes=[Route("/", respond, methods=["GET", "POST"])])


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("first", [b"", b"x"])
def test_a_stream_that_waits_ends_with_its_client(first, how, version, caplog):
    queue = Queue(first, "text/plain")
    with serving(application(queue)) as it:
        client = it.connect()
        client.send(GET.replace(b"1.1", version))
        assert queue.begun.wait(PATIENCE)
        client.go(how)
        assert queue.ended.wait(PATIENCE)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@pytest.mark.parametrize("first", [b"", b"data: x\n\n"])
def test_an_event_stream_that_waits_ends_with_the_drain(first, caplog):
    queue = Queue(first, "text/event-stream")
    with serving(application(queue), graceful_timeout=30.0) as it:
        it.connect().send(GET)
        assert queue.begun.wait(PATIENCE)
        it.on_loop(it.server.drain)
        assert queue.ended.wait(PATIENCE)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_background_task_holds_no_connection():
    go = asyncio.Event()
    ended = threading.Event()

    async def later() -> None:
        await go.wait()
        ended.set()

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("hello", background=BackgroundTask(later))

    with serving(application(endpoint), graceful_timeout=PATIENCE) as it:
        client = it.connect()
        for _ in range(3):
            assert client.ask(GET).body == b"hello"
        assert not ended.is_set()
        it.on_loop(go.set)
    assert ended.is_set()


def test_a_body_is_read_whole_and_as_a_stream():
    async def endpoint(request: Request) -> Response:
        if request.query_params.get("stream"):
            content = b"".join([piece async for piece in request.stream()])
        else:
            content = await request.body()
        return Response(content)

    with serving(application(endpoint)) as it:
        client = it.connect()
        for size in (0, 10, 300_000):
            for query in (b"", b"?stream=1"):
                head = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (query, size)
                assert client.ask(head + bytes(size)).body == bytes(size)
