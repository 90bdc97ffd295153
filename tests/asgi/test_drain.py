"""What ASGI applications are told when the server goes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from hypoll.asgi.errors import DisconnectedError
from tests.asgi.asgiapps import GET, Message, Receive, Send, body, forever, saying, serving, start
from tests.support.client import PATIENCE, Cut

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class Stream:
    """An application that streams until it is notified of the end.

    listens: whether it waits for `receive`; else for the error of `send`.
    """

    def __init__(self, *fields: tuple[bytes, bytes], listens: bool = True, first: bytes = b"data: 1\n\n") -> None:
        self.fields = fields
        self.listens = listens
        self.first = first
        self.begun = threading.Event()
        self.told = threading.Event()
        self.ended: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await receive()
            await send(start(200, *self.fields))
            if self.first:
                await send(body(self.first, True))
            self.begun.set()
            if self.listens:
                assert await receive() == {"type": "http.disconnect"}
                self.told.set()
                await send(body(b"late", True))
            else:
                while True:
                    await asyncio.sleep(0.01)
                    await send(body(b"data: more\n\n", True))
        except BaseException as error:
            self.ended.append(type(error).__name__)
            self.told.set()
            raise


@pytest.mark.parametrize("listens", [True, False])
def test_an_event_stream_ends_at_once_and_is_told(listens, caplog):
    app = Stream(EVENTS, listens=listens)
    with serving(app, graceful_timeout=30.0) as it:
        client = it.connect()
        client.send(GET)
        client.head()
        assert client.chunk() == b"data: 1\n\n"
        assert app.begun.wait(PATIENCE)
        it.on_loop(it.server.drain)
        assert app.told.wait(PATIENCE)
        assert not client.rest().endswith(b"0\r\n\r\n")
    assert app.ended == [DisconnectedError.__name__]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_an_event_stream_without_an_event_has_a_head_and_ends_too():
    app = Stream(EVENTS, first=b"")
    with serving(app, graceful_timeout=30.0) as it:
        client = it.connect()
        client.send(GET)
        status, fields = client.head()  # before there is an event
        assert (status, fields["content-type"]) == (200, EVENTS[1].decode())
        it.on_loop(it.server.drain)
        assert app.told.wait(PATIENCE)
        assert client.rest() == b""


def test_an_event_stream_that_begins_in_the_drain_ends_too():
    go = asyncio.Event()
    app = Stream(EVENTS)

    async def waiting(scope: Message, receive: Receive, send: Send) -> None:
        await go.wait()
        await app(scope, receive, send)

    with serving(waiting, graceful_timeout=30.0) as it:
        client = it.connect()
        client.send(GET)
        it.until(lambda: it.runner.asyncio_bridge.count)  # type: ignore[union-attr]
        it.on_loop(it.server.drain)
        it.until(lambda: not it.server.listeners)
        it.on_loop(go.set)
        assert app.told.wait(PATIENCE)
        client.head()
        assert client.chunk() == b"data: 1\n\n"
        with pytest.raises(Cut):
            client.chunk()


def test_over_http_1_0_the_end_of_an_event_stream_is_no_end_of_a_body():
    app = Stream(EVENTS)
    with serving(app, graceful_timeout=30.0) as it:
        client = it.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        client.head()
        assert app.begun.wait(PATIENCE)
        it.on_loop(it.server.drain)
        assert app.told.wait(PATIENCE)
        with pytest.raises(ConnectionResetError):
            client.sock.recv(65536)


def test_other_streams_go_on_until_graceful_timeout():
    app = Stream((b"content-type", b"text/plain"))
    with serving(app, graceful_timeout=0.4) as it:
        client = it.connect()
        client.send(GET)
        assert app.begun.wait(PATIENCE)
        drained = time.monotonic()
        it.on_loop(it.server.drain)
        assert app.told.wait(PATIENCE)
        assert time.monotonic() - drained >= 0.4
        assert not client.rest().endswith(b"0\r\n\r\n")
    assert app.ended == [DisconnectedError.__name__]  # told, not cancelled


def test_a_stream_that_ends_in_time_ends_whole():
    go = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"he", True))
        await go.wait()
        await send(body(b"llo"))

    with serving(app, graceful_timeout=PATIENCE) as it:
        client = it.connect()
        client.send(GET)
        client.head()
        it.on_loop(it.server.drain)
        it.until(lambda: not it.server.listeners)
        it.on_loop(go.set)
        assert client.chunk() + client.chunk() + client.chunk() == b"hello"


def test_who_neither_returns_nor_raises_is_cancelled():
    ended: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", True))
        try:
            await forever()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with serving(app, graceful_timeout=0.1) as it:
        client = it.connect()
        client.send(GET)
        client.head()
        it.on_loop(it.server.drain)
    assert ended == ["cancelled"]


def test_answers_under_way_are_finished_and_say_that_they_are_the_last():
    go = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await go.wait()
        await saying(start(), body(b"hello"))(scope, receive, send)

    with serving(app, graceful_timeout=PATIENCE) as it:
        client = it.connect()
        client.send(GET)
        it.until(lambda: it.runner.asyncio_bridge.count)  # type: ignore[union-attr]
        it.on_loop(it.server.drain)
        it.until(lambda: not it.server.listeners)
        it.on_loop(go.set)
        answer = client.answer()
        assert (answer.body, answer.fields["connection"]) == (b"hello", "close")
