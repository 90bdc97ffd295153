"""What an ASGI application receives: its request's body, and that its client has gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any

import pytest

from hypoll.asgi.errors import DisconnectedError, is_disconnect
from tests.asgi.asgiapps import GET, Message, Receive, Send, body, forever, read, serving, start
from tests.support.client import PATIENCE
from tests.support.server import Running

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"


class Receiving:
    """An application that keeps what it receives until it is notified of a disconnect, and what `send` then raises.

    before: what it sends first.
    """

    def __init__(self, *before: Message) -> None:
        self.before = before
        self.got: list[Message] = []
        self.raised: list[BaseException] = []
        self.begun = threading.Event()
        self.ended = threading.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            for message in self.before:
                await send(message)
            self.begun.set()
            while not self.got or self.got[-1]["type"] != "http.disconnect":
                self.got.append(await receive())
            self.got.append(await receive())  # it is told again
            try:
                await send(body(b"late", True) if self.before else start())
            except OSError as error:
                self.raised.append(error)
                raise
        finally:
            self.ended.set()


GONE = {"type": "http.disconnect"}
NOTHING = {"type": "http.request", "body": b"", "more_body": False}


def errors_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("before", [[], [start()], [start(), body(b"x", True)]])
def test_a_client_that_goes_is_noticed_and_told_of_each_time(how, before, caplog):
    app = Receiving(*before)
    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        assert app.begun.wait(PATIENCE)
        if len(before) > 1:
            client.head()
        client.go(how)
        assert app.ended.wait(PATIENCE)
    assert app.got == [NOTHING, GONE, GONE]
    assert not errors_of(caplog)


@pytest.mark.parametrize("before", [[], [start()]])
def test_send_raises_an_oserror_which_isnt_logged(before, caplog):
    app = Receiving(*before)
    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        assert app.begun.wait(PATIENCE)
        client.reset()
        assert app.ended.wait(PATIENCE)
    assert [type(error) for error in app.raised] == [DisconnectedError]
    assert not errors_of(caplog)


def test_an_http_1_0_client_that_goes_behind_the_start_is_noticed():
    app = Receiving(start())
    with serving(app) as it:
        client = it.connect()
        client.send(OLD)
        assert app.begun.wait(PATIENCE)
        client.close()
        assert app.ended.wait(PATIENCE)
    assert app.got == [NOTHING, GONE, GONE]


def test_a_half_close_before_the_start_is_asked_about_and_answered():
    asked = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        assert await receive() == NOTHING
        await asked.wait()
        await send(start())
        listening = asyncio.ensure_future(receive())
        await send(body(b"he", True))
        await asyncio.sleep(0.05)
        assert not listening.done()
        await send(body(b"llo"))
        assert await listening == GONE

    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        client.half_close()
        status, _ = client.head()
        assert status == 100
        it.on_loop(asked.set)
        assert client.answer().body == b"hello"


def test_a_half_close_behind_the_start_is_told_while_sends_go_on(caplog):
    told = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        await send(body(b"he", True))
        assert await receive() == GONE
        told.set()
        await send(body(b"llo"))

    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        client.head()
        assert client.chunk() == b"he"
        client.half_close()
        assert client.chunk() == b"llo"
        assert client.chunk() == b""
    assert told.is_set()
    assert not errors_of(caplog)


def test_who_computes_learns_of_it_when_it_yields():
    computing, computed = threading.Event(), threading.Event()
    got: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        computing.set()
        assert computed.wait(PATIENCE)
        got.append(await asyncio.wait_for(receive(), PATIENCE))

    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        assert computing.wait(PATIENCE)
        client.reset()
        computed.set()
        it.until(lambda: got)
    assert got == [GONE]


def test_after_the_answer_a_disconnect_is_received():
    got: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        waiting = asyncio.ensure_future(receive()) if await receive() else None
        await asyncio.sleep(0)
        await send(start())
        await send(body(b"x"))
        assert waiting is not None
        got.extend([await waiting, await receive(), await receive()])

    with serving(app) as it:
        client = it.connect()
        assert client.ask(GET).body == b"x"
        assert client.ask(GET).body == b"x"
        it.until(lambda: len(got) == 6)
    assert got == [GONE] * 6


def test_what_wasnt_read_before_the_answer_isnt_received_after_it():
    got: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x"))
        got.append(await receive())

    with serving(app) as it:
        client = it.connect()
        assert client.ask(GET).body == b"x"
        assert client.ask(POST % 3 + b"abc").body == b"x"
        it.until(lambda: len(got) == 2)
    assert got == [GONE] * 2


class Reading:
    """An application that keeps the pieces of its request's body, and answers with it."""

    def __init__(self) -> None:
        self.pieces: list[Message] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.pieces = [await receive()]
        while self.pieces[-1].get("more_body"):
            self.pieces.append(await receive())
        await send(start())
        await send(body(b"".join(piece["body"] for piece in self.pieces)))


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 100_000, 1_000_000])
def test_a_body_comes_in_pieces_and_then_its_end(size):
    app = Reading()
    content = bytes(number % 251 for number in range(size))
    with serving(app) as it:
        client = it.connect()
        assert client.ask(POST % size + content).body == content
        assert [piece["more_body"] for piece in app.pieces[-1:]] == [False]
        assert all(type(piece["body"]) is bytes for piece in app.pieces)
        client.send(CHUNKED)
        for at in range(0, size, 10_000):
            piece = content[at : at + 10_000]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert client.ask(b"0\r\n\r\n").body == content
        assert client.ask(GET).body == b""


def test_a_piece_comes_when_it_is_there():
    app = Reading()
    with serving(app) as it:
        client = it.connect()
        client.send(POST % 6 + b"ab")
        it.until(lambda: len(app.pieces) == 1 and app.pieces[0]["body"] == b"ab")
        client.send(b"cd")
        it.until(lambda: len(app.pieces) == 2)
        assert client.ask(b"ef").body == b"abcdef"
    assert [piece["more_body"] for piece in app.pieces] == [True, True, False]


def test_the_client_is_asked_for_the_body_at_the_first_receive():
    asked = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/refused":
            await send(start(403))
            await send(body(b"no"))
            return
        while not asked.is_set():
            await asyncio.sleep(0.001)
        content = await read(receive)
        await send(start())
        await send(body(content))

    expecting = b"POST /%b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with serving(app) as it:
        client = it.connect()
        client.send(expecting % b"")
        it.until(lambda: len(it.server.connections) == 1)
        client.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.more()
        client.sock.settimeout(PATIENCE)
        asked.set()
        assert client.head()[0] == 100
        assert client.ask(b"hello").body == b"hello"
        answer = client.ask(expecting % b"refused")
        assert (answer.status, answer.body) == (403, b"no")  # and no 100


def test_who_doesnt_read_holds_the_client_back():
    reading = threading.Event()
    sizes: list[int] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        first = await receive()
        while not reading.is_set():
            await asyncio.sleep(0.001)
        sizes.append(len(first["body"]) + len(await read(receive)))
        await send(start())
        await send(body())

    size = 30_000_000
    with serving(app, max_body=size) as it:
        client = it.connect()
        client.sock.settimeout(0.3)
        client.send(POST % size)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += client.sock.send(bytes(min(1_000_000, size - sent)))
        assert sent < size
        exchanges: list[Any] = it.on_loop(lambda: [connection.exchange for connection in it.server.connections])
        assert exchanges[0].request_body.size < 1_000_000
        client.sock.settimeout(PATIENCE)
        reading.set()
        client.send(bytes(size - sent))
        assert client.answer().status == 200
    assert sizes == [size]


def test_a_receive_that_is_cancelled_loses_nothing():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        content, more = b"", True
        while more:
            try:
                message = await asyncio.wait_for(receive(), 0.001)
            except TimeoutError:
                continue
            content += message["body"]
            more = message["more_body"]
        await send(start())
        await send(body(content))

    content = bytes(range(200))
    with serving(app) as it:
        client = it.connect()
        client.send(POST % 200)
        for at in range(0, 200, 10):
            client.send(content[at : at + 10])
            it.until(lambda: True)
        assert client.answer().body == content


def test_a_receive_that_is_cancelled_as_a_piece_comes_loses_nothing():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send(start())
        await send(body(b"ready", True))
        intake = receive.__self__.connection.exchange.request_body  # type: ignore[attr-defined]
        while not intake.size and not waiting.done():
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        message = await receive() if waiting.cancelled() else waiting.result()
        await send(body(message["body"]))

    with serving(app) as it:
        client = it.connect()
        client.send(POST % 5)
        client.head()
        assert client.chunk() == b"ready"
        client.send(b"hello")
        assert client.chunk() == b"hello"


def test_two_may_receive_at_once():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        got = await asyncio.gather(receive(), receive())
        await send(start())
        await send(body(b"".join(sorted(message["body"] for message in got))))

    with serving(app) as it:
        client = it.connect()
        client.send(POST % 4 + b"ab")
        it.until(lambda: True)
        client.send(b"cd")
        assert client.answer().body in (b"abcd",)


def test_who_listens_all_the_time_leaves_the_body_to_who_reads():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        heard: list[Message] = []

        async def listen() -> None:
            while not heard or heard[-1]["type"] != "http.disconnect":
                heard.append(await receive())

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await send(start())
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(body(message["body"], more))
        await listening
        assert heard == [GONE]

    with serving(app) as it:
        client = it.connect()
        client.send(POST % 6)
        it.until(lambda: it.runner.asyncio_bridge.count)  # type: ignore[union-attr]
        client.send(b"abc")
        client.head()
        assert client.chunk() == b"abc"
        client.send(b"def")
        assert client.chunk() == b"def"


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
def test_a_body_that_is_broken_off_is_a_disconnect(how):
    app = Receiving()
    with serving(app) as it:
        client = it.connect()
        client.send(POST % 10 + b"12345")
        assert app.begun.wait(PATIENCE)
        it.until(lambda: app.got)
        getattr(client, how)()
        if how == "half_close":
            assert client.answer().status == 400  # nothing is made of half a body
        assert app.ended.wait(PATIENCE)
    assert app.got == [{"type": "http.request", "body": b"12345", "more_body": True}, GONE, GONE]


@pytest.mark.parametrize(
    ("pieces", "status"),
    [([b"6\r\n123456\r\n6\r\n123456\r\n"], 413), ([b"x\r\n"], 400), ([b"3\r\nabcd"], 400)],
)
def test_a_body_that_is_wrong_is_refused_and_a_disconnect(pieces, status):
    app = Receiving()
    with serving(app, max_body=10) as it:
        client = it.connect()
        client.send(CHUNKED)
        assert app.begun.wait(PATIENCE)
        for piece in pieces:
            client.send(piece)
        assert client.answer().status == status
        assert app.ended.wait(PATIENCE)
    assert app.got[-2:] == [GONE, GONE]


def test_a_body_that_is_too_large_by_its_length_never_reaches_the_application():
    app = Receiving()
    with serving(app, max_body=10) as it:
        assert it.connect().ask(POST % 11).status == 413
    assert not app.begun.is_set()


def test_a_body_that_doesnt_come_is_refused():
    app = Receiving()
    with serving(app, body_timeout=0.1) as it:
        client = it.connect()
        client.send(POST % 10 + b"1")
        assert client.answer().status == 408
        assert app.ended.wait(PATIENCE)
    assert app.got[-1] == GONE


def test_who_doesnt_ask_for_the_body_may_take_its_time():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.3)
        content = await read(receive)
        await send(start())
        await send(body(content))

    with serving(app, body_timeout=0.1) as it:
        assert it.connect().ask(POST % 5 + b"hello").body == b"hello"


def test_who_waits_in_a_group_of_tasks_may_let_the_error_out(caplog):
    ended = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        async def stream() -> None:
            await send(start())
            while True:
                await send(body(b"x" * 1000, True))
                await asyncio.sleep(0.001)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(stream())
                group.create_task(forever())
        finally:
            ended.set()

    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        client.head()
        client.reset()
        assert ended.wait(PATIENCE)
    assert not errors_of(caplog)


def test_which_errors_are_of_a_disconnect():
    gone = DisconnectedError("gone")
    assert isinstance(gone, OSError)
    assert is_disconnect(ExceptionGroup("", [gone, ExceptionGroup("", [gone])]))
    assert not is_disconnect(ExceptionGroup("", [gone, ValueError()]))
    assert not is_disconnect(OSError())


def test_a_client_that_has_gone_before_its_turn_costs_no_call():
    calls: list[Any] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        calls.append(scope)
        await send(start())
        await send(body())

    def hold(it: Running, client: Any) -> None:
        client.send(GET)
        client.reset()

    with serving(app) as it:
        client = it.connect()
        it.on_loop(lambda: hold(it, client))
        it.until(lambda: not it.server.connections)
    assert len(calls) <= 1


@pytest.mark.parametrize("error", [ValueError("of its own"), RuntimeError()])
def test_what_an_application_makes_of_a_disconnect_is_no_error_of_the_servers(error, caplog):
    caplog.set_level(logging.INFO)

    begun = threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        raise error

    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        assert begun.wait(PATIENCE)
        client.reset()
        it.until(lambda: not it.runner.asyncio_bridge.count)  # type: ignore[union-attr]
    assert not errors_of(caplog)
    assert any("client had gone" in record.getMessage() for record in caplog.records)


def test_an_error_of_who_hasnt_heard_of_the_disconnect_is_logged(caplog):
    begun, gone = threading.Event(), threading.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        begun.set()
        while not gone.is_set():
            await asyncio.sleep(0.001)
        raise ZeroDivisionError

    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        assert begun.wait(PATIENCE)
        client.reset()
        it.until(lambda: not it.server.connections)
        gone.set()
        it.until(lambda: not it.runner.asyncio_bridge.count)  # type: ignore[union-attr]
    assert len(errors_of(caplog)) == 1
