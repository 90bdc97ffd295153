"""WebSockets of ASGI applications (ASGI WebSocket 2.4): scope, events in and out, refusals, the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.asgi.asgiapps import Message, Receive, Send, serving
from tests.support.client import PATIENCE
from tests.support.frames import BINARY, CLOSE, TEXT, close, frame
from tests.support.websocket import handshake, opened

ACCEPT = {"type": "websocket.accept"}
CONNECT = {"type": "websocket.connect"}


class Script:
    """An application that goes through a script: a dict is sent, a call is made with what was received, None receives.

    got: what it received; raised: what `send` raised.
    """

    def __init__(self, *steps: Message | Callable[[Message], Message | None] | None) -> None:
        self.steps = steps
        self.scope: Message = {}
        self.got: list[Message] = []
        self.raised: list[BaseException] = []
        self.ended = threading.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        self.scope = scope
        try:
            for step in self.steps:
                if step is None:
                    self.got.append(await receive())
                    continue
                try:
                    await send(step if isinstance(step, dict) else step(self.got[-1]))  # type: ignore[arg-type]
                except (OSError, RuntimeError, ValueError, TypeError) as error:
                    self.raised.append(error)
        finally:
            self.ended.set()

    def wait(self) -> None:
        assert self.ended.wait(PATIENCE)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    assert await receive() == CONNECT
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def test_an_echo():
    with serving(echo) as it:
        socket = opened(it, behind=frame(TEXT, b"first"))
        assert socket.frame() == (TEXT, b"first")
        for first, payload in ((TEXT, "µ€".encode()), (BINARY, b"\x00"), (BINARY, b"x" * 70_000)):
            socket.send(first, payload)
            assert socket.frame() == (first, payload)
        socket.client.send(close(4000))
        assert socket.close_code() == 4000
        assert socket.ended()


def test_the_scope():
    app = Script(None, ACCEPT)
    with serving(app) as it:
        opened(
            it, "/chat/%C3%A9?a=b", Sec_WebSocket_Protocol="x, y", X_Forwarded_Proto="https", X_Forwarded_For="9.9.9.9"
        )
    scope = app.scope
    assert "method" not in scope
    assert scope["type"] == "websocket"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert (scope["http_version"], scope["scheme"]) == ("1.1", "wss")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/chat/é", b"/chat/%C3%A9", b"a=b")
    assert (b"sec-websocket-version", b"13") in scope["headers"]
    assert scope["subprotocols"] == ["x", "y"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert (scope["client"][0], scope["server"][0]) == ("9.9.9.9", "127.0.0.1")
    assert scope["state"] == {}
    assert app.got == [CONNECT]


def test_accept_with_subprotocol_and_headers():
    app = Script(None, {**ACCEPT, "subprotocol": "y", "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})
    with serving(app) as it:
        client = it.connect()
        client.send(handshake(Sec_WebSocket_Protocol="x, y"))
        head = client.line(b"\r\n\r\n")
        assert b"\r\nSec-WebSocket-Protocol: y\r\n" in head
        assert head.count(b"\r\nx-a: ") == 2


@pytest.mark.parametrize(
    "accept",
    [
        {**ACCEPT, "subprotocol": "not-offered"},
        {**ACCEPT, "headers": [(b"a\r\nb", b"c")]},
        {**ACCEPT, "headers": [(b"a", b"c\r\nd: e")]},
        {**ACCEPT, "headers": [(b"connection", b"close")]},
        {**ACCEPT, "headers": [(b"Sec-WebSocket-Accept", b"x")]},
        {"type": "websocket.send", "text": "too early"},
        {"type": "http.response.start", "status": 200},
        {"type": 1},
    ],
)
def test_what_cant_be_an_answer(accept, caplog):
    app = Script(None, accept)
    with serving(app) as it:
        assert it.connect().ask(handshake()).status == 500
    assert len(app.raised) == 1
    assert len(errors_of(caplog)) == 1


def test_a_close_before_the_accept_is_403():
    app = Script(
        None, {"type": "websocket.close"}, None, {"type": "websocket.send", "text": "a"}, {"type": "websocket.close"}
    )
    with serving(app) as it:
        client = it.connect()
        assert client.ask(handshake()).status == 403
        assert client.ask(handshake()).status == 403
        app.wait()
    assert app.got[:2] == [CONNECT, {"type": "websocket.disconnect", "code": 1006, "reason": ""}]
    assert isinstance(app.raised[0], OSError)


def test_an_answer_of_its_own(caplog):
    app = Script(
        None,
        {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]},
        {"type": "websocket.http.response.body", "body": b"who ", "more_body": True},
        {"type": "websocket.http.response.body", "body": b"are you?"},
        None,
    )
    with serving(app) as it:
        client = it.connect()
        for _ in range(2):
            answer = client.ask(handshake())
            assert (answer.status, answer.fields["x-why"], answer.body) == (401, "because", b"who are you?")
    assert app.got[-1]["type"] == "websocket.disconnect"
    assert errors_of(caplog) == []


@pytest.mark.parametrize("upgraded", [False, True])
def test_an_application_that_raises(upgraded, caplog):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if upgraded:
            await send(ACCEPT)
        raise LookupError("of its own")

    with serving(app) as it:
        if upgraded:
            assert opened(it).close_code() == 1011
        else:
            assert it.connect().ask(handshake()).status == 500
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info


@pytest.mark.parametrize("upgraded", [False, True])
def test_an_application_that_returns(upgraded, caplog):
    app = Script(None, *[ACCEPT] * upgraded)
    with serving(app) as it:
        if upgraded:
            assert opened(it).close_code() == 1000
        else:
            assert it.connect().ask(handshake()).status == 500
    assert len(errors_of(caplog)) == (not upgraded)


@pytest.mark.parametrize(("sent", "code", "reason"), [(close(None), 1005, ""), (close(4001, "why"), 4001, "why")])
def test_the_client_closes(sent, code, reason, caplog):
    late = {"type": "websocket.send", "text": "late"}
    app = Script(None, ACCEPT, None, None, late, {"type": "websocket.close"}, None)
    with serving(app) as it:
        socket = opened(it, behind=frame(TEXT, b"a") + sent)
        assert socket.close_code() == code
        app.wait()
    gone = {"type": "websocket.disconnect", "code": code, "reason": reason}
    assert app.got == [CONNECT, {"type": "websocket.receive", "text": "a"}, gone, gone]
    assert [type(error).__mro__[1] for error in app.raised] == [ConnectionError]
    assert errors_of(caplog) == []


@pytest.mark.parametrize("answer", [close(4001, "ok"), b""])
def test_the_application_closes_and_is_told_of_the_end(answer):
    app = Script(
        None,
        ACCEPT,
        {"type": "websocket.close", "code": 4001, "reason": "enough"},
        {"type": "websocket.send", "text": ""},
        None,
    )
    with serving(app) as it:
        socket = opened(it)
        assert socket.frame() == (CLOSE, (4001).to_bytes(2, "big") + b"enough")
        if answer:
            socket.client.send(frame(TEXT, b"late") + answer)
            assert socket.ended()
        else:
            socket.client.close()
        app.wait()
    code, reason = (4001, "ok") if answer else (1006, "")
    assert app.got[1:] == [{"type": "websocket.disconnect", "code": code, "reason": reason}]
    assert isinstance(app.raised[0], OSError)


@pytest.mark.parametrize("upgraded", [False, True])
def test_the_client_goes(upgraded, caplog):
    begun = threading.Event()

    class Waiting(Script):
        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            begun.set()
            await super().__call__(scope, receive, send)

    app = Waiting(None, *[ACCEPT] * upgraded, None, {"type": "websocket.send", "text": "a"})
    with serving(app) as it:
        client = it.connect()
        client.send(handshake())
        assert begun.wait(PATIENCE)
        if upgraded:
            client.head()
        client.reset()
        app.wait()
    assert app.got[1:] == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
    assert isinstance(app.raised[0], OSError)
    assert errors_of(caplog) == []


def test_events_that_cant_be_sent():
    wrong: list[Any] = [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": "a", "bytes": b"b"},
        {"type": "websocket.send", "text": b"a"},
        {"type": "websocket.send", "bytes": "a"},
        {"type": "websocket.close", "code": 1005},
        {"type": "websocket.close", "code": "1000"},
        ACCEPT,
        {"type": "nonsense"},
        {},
    ]
    app = Script(None, ACCEPT, *wrong, {"type": "websocket.send", "text": "right"})
    with serving(app) as it:
        assert opened(it).frame() == (TEXT, b"right")
        app.wait()
    assert len(app.raised) == len(wrong)


def test_a_drain_says_1012_and_waits():
    app = Script(None, ACCEPT, {"type": "websocket.send", "text": "a"}, None)
    with serving(app, graceful_timeout=5.0) as it:
        socket = opened(it)
        socket.frame()
        it.on_loop(it.server.drain)
        assert socket.close_code() == 1012
        app.wait()
        assert app.got[-1]["code"] == 1012
        assert it.on_loop(lambda: len(it.server.connections)) == 1
        socket.client.send(close(1012))
        assert socket.ended()


def test_starlette():
    ended = []

    async def chat(websocket: WebSocket) -> None:
        if "no" in websocket.query_params:
            await websocket.send_denial_response(PlainTextResponse("no", 451))
            return
        await websocket.accept(subprotocol="a")
        try:
            while True:
                await websocket.send_json({"got": await websocket.receive_text()})
        except WebSocketDisconnect as error:
            ended.append((error.code, error.reason))

    app = Starlette(routes=[WebSocketRoute("/chat", chat)])
    with serving(app) as it:
        socket = opened(it, "/chat", Sec_WebSocket_Protocol="a")
        socket.send(TEXT, b"hi")
        assert socket.frame() == (TEXT, b'{"got":"hi"}')
        socket.client.send(close(1000, "bye"))
        assert socket.close_code() == 1000
        it.until(lambda: ended == [(1000, "bye")])
        assert it.connect().ask(handshake("/nowhere")).status == 403
        answer = it.connect().ask(handshake("/chat?no"))
        assert (answer.status, answer.body) == (451, b"no")


def test_a_malformed_handshake_isnt_the_applications():
    app = Script()
    with serving(app) as it:
        assert it.connect().ask(handshake(Sec_WebSocket_Version="8")).status == 426
        assert it.connect().ask(handshake(Sec_WebSocket_Key="x")).status == 400
    assert app.scope == {}


def test_scopes_that_stay_share_what_most_clients_send_and_nothing_else():
    scopes: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    fields: Message = {"User_Agent": "somebody/1", "Cookie": "a=b", "Authorization": "Bearer s3cret"}
    fields["Accept"] = "x" * 300
    with serving(app) as it:
        for _ in range(2):
            opened(it, "/", b"", 0, **fields)
        one, two = (dict(zip((name for name, _ in s["headers"]), s["headers"], strict=True)) for s in scopes)
    assert one == two
    assert scopes[0]["headers"] is not scopes[1]["headers"]
    shared = {name for name in one if one[name] is two[name]}
    assert shared == {b"host", b"upgrade", b"connection", b"sec-websocket-version", b"user-agent"}
