"""What an ASGI application sends, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

import pytest

from hypoll.protocol.messages import HTTPError
from hypoll.protocol.serializer import CONTINUE
from tests.asgi.asgiapps import GET, App, Message, Receive, Send, body, read, saying, serving, start
from tests.support.client import Cut

HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"


def raw(app: App, request: bytes = GET, **settings: Any) -> bytes:
    """All that comes back, up to the connection's end, without the interim answer by which a server may ask a client
    that has ended its side whether it is still there.
    """
    with serving(app, **settings) as it:
        client = it.connect()
        client.send(request)
        client.half_close()
        return client.rest().removeprefix(CONTINUE)


def test_start_and_body_go_in_one_send(monkeypatch):
    with serving(saying(start(200, (b"x", b"y")), body(b"hello"))) as it:
        client = it.connect()
        client.send(GET)
        assert client.more()
        head, _, content = client.data.partition(b"\r\n\r\n")
        assert content == b"hello"
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert b"x: y" in lines
    assert b"Content-Length: 5" in lines


@pytest.mark.parametrize("status", [200, 201, 299, 404, 500, 599, HTTPStatus.IM_A_TEAPOT])
def test_a_status_is_sent(status):
    with serving(saying(start(status), body(b"x"))) as it:
        assert it.connect().ask(GET).status == status


def test_fields_are_sent_in_order_with_repeats():
    fields = [(b"x-b", b"1"), (b"set-cookie", b"a=b"), (b"X-A", b"\xe4 b"), (b"set-cookie", b"c=d"), (b"x-b", b"")]
    for messages in ([start(200, *fields), body(b"x")], [start(200, *fields), body(b"x", True), body()]):
        head = raw(saying(*messages)).partition(b"\r\n\r\n")[0]
        lines = [line for line in head.split(b"\r\n")[1:] if line[:4].lower() in (b"x-b:", b"x-a:", b"set-")]
        assert lines == [b"%b: %b" % field for field in fields]


@pytest.mark.parametrize("pair", [list, tuple, iter])
@pytest.mark.parametrize("several", [list, tuple, iter])
@pytest.mark.parametrize("streamed", [False, True])
def test_fields_may_be_any_iterable_of_pairs(pair, several, streamed):
    fields = several([(b"a", b"b"), pair((b"x", b"y")), (b"v", b"w"), pair((b"x", b"z"))])
    messages = [body(b"x", True), body()] if streamed else [body(b"x")]
    head = raw(saying({"type": "http.response.start", "status": 200, "headers": fields}, *messages)).split(b"\r\n")
    assert [line for line in head if line[:3] in (b"a: ", b"x: ", b"v: ")] == [b"a: b", b"x: y", b"v: w", b"x: z"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("first", [[b"x", b"y"], (b"x", b"y")])
def test_fields_that_are_changed_behind_the_start_stay_as_they_were(first, streamed):
    fields: list[Any] = [first, [b"v", b"w"]]

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        fields[1][1] = b"changed\r\nInjected: 1"
        del fields[0]
        await send(body(b"z", streamed))
        if streamed:
            await send(body())

    head = raw(app).partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert [line for line in head if line[:3] in (b"x: ", b"v: ", b"Inj")] == [b"x: y", b"v: w"]


def test_what_may_be_missing_may_be_missing():
    with serving(saying({"type": "http.response.start", "status": 200}, {"type": "http.response.body"})) as it:
        answer = it.connect().ask(GET)
        assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"", "0")


def test_a_declared_length_is_sent_once():
    for messages in ([body(b"hello")], [body(b"he", True), body(b"llo")]):
        head = raw(saying(start(200, (b"content-length", b"5")), *messages)).partition(b"\r\n\r\n")[0].lower()
        assert head.count(b"content-length: 5") == 1
        assert b"transfer-encoding" not in head


def test_without_a_length_there_are_chunks():
    app = saying(start(), body(b"he", True), body(b"", True), body(b"llo", True), body())
    with serving(app) as it:
        client = it.connect()
        for _ in range(2):  # and the connection goes on
            client.send(GET)
            assert client.head()[1]["transfer-encoding"] == "chunked"
            assert b"".join(iter(client.chunk, b"")) == b"hello"


def test_http_1_0_gets_no_chunks():
    answer = raw(saying(start(), body(b"he", True), body(b"llo")), OLD)
    head, _, content = answer.partition(b"\r\n\r\n")
    assert content == b"hello"
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()


def test_http_1_0_may_go_on_with_a_length():
    with serving(saying(start(200, (b"content-length", b"2")), body(b"a", True), body(b"b"))) as it:
        client = it.connect()
        for _ in range(2):
            answer = client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (answer.body, answer.fields["connection"]) == (b"ab", "keep-alive")


def test_a_transfer_coding_of_the_applications_is_ignored():
    for messages in ([body(b"hello")], [body(b"hello", True), body()]):
        with serving(saying(start(200, (b"transfer-encoding", b"gzip, chunked")), *messages)) as it:
            client = it.connect()
            assert client.ask(GET).body == b"hello"
            assert client.ask(GET).body == b"hello"


def test_it_may_ask_for_the_connections_end():
    with serving(saying(start(200, (b"connection", b"Close")), body(b"x"))) as it:
        client = it.connect()
        answer = client.ask(GET)
        assert (answer.body, answer.fields["connection"]) == (b"x", "close")
        assert not client.more()


def test_date_and_server_may_be_its_own():
    app = saying(start(200, (b"server", b"mine"), (b"date", b"Mon, 01 Jan 2024 00:00:00 GMT")), body(b"x"))
    head = raw(app).partition(b"\r\n\r\n")[0].lower()
    assert (head.count(b"server:"), head.count(b"date:")) == (1, 1)
    assert b"server: mine" in head


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("messages", [[body(b"content")], [body(b"con", True), body(b"tent")], [body()]])
def test_statuses_without_content_have_none(status, messages):
    with serving(saying(start(status, (b"x", b"y")), *messages)) as it:
        client = it.connect()
        for _ in range(2):
            answer = client.ask(GET)
            assert (answer.status, answer.fields["x"]) == (status, "y")
            assert "content-length" not in answer.fields
            assert "transfer-encoding" not in answer.fields


@pytest.mark.parametrize("messages", [[body(b"hello")], [body(b"he", True), body(b"llo")], [body()]])
@pytest.mark.parametrize("fields", [[], [(b"content-length", b"5")]])
def test_head_gets_no_content(messages, fields):
    with serving(saying(start(200, *fields), *messages)) as it:
        client = it.connect()
        for _ in range(2):
            answer = client.ask(HEAD)
            assert answer.status == 200
            if fields:
                assert answer.fields["content-length"] == "5"
            else:
                assert answer.fields.get("content-length", "5") == "5"  # never that of nothing
        assert client.data == b""


@pytest.mark.parametrize(
    "content", [b"x" * 70_000, b"x" * 1_000_000, b"x" * 16_385, bytearray(b"x" * 10), memoryview(b"x" * 10)]
)
@pytest.mark.parametrize("more", [False, True])
def test_bodies_of_any_size_arrive(content, more):
    messages = [body(content, True), body()] if more else [body(content)]
    with serving(saying(start(), *messages)) as it:
        client = it.connect()
        for _ in range(2):
            answer = client.ask(GET)
            assert answer.body == bytes(content)
            assert ("content-length" in answer.fields) is not more


@pytest.mark.parametrize(
    "head",
    [
        start(200, (b"x", b"a\r\nSet-Cookie: b")),
        start(200, (b"x", b"a\nb")),
        start(200, (b"x", b"a\rb")),
        start(200, (b"x", b"a\0b")),
        start(200, (b"x: y\r\nz", b"a")),
        start(200, (b"x y", b"a")),
        start(200, (b"", b"a")),
        start(200, (b":status", b"200")),
        start(200, (b"x:", b"a")),
        start(200, (b"x\xe4", b"a")),
        start(200, (b"content-length", b"+5")),
        start(200, (b"content-length", b"5, 5")),
        start(200, (b"content-length", b"5"), (b"Content-Length", b"6")),
        start(200, (b"content-length", b"")),
        start(200, ("x", "y")),
        start(200, (b"x", "y")),
        start(200, (b"x", 1)),
        start(200, (b"x",)),
        start(200, b"xy"),
        start("200"),
        start(None),
        start(True),
        start(200.0),
        start(100),
        start(101),
        start(600),
        start(0),
        {"type": "http.response.start"},
        {"type": "http.response.start", "status": 200, "headers": {b"x": b"y"}},
        {"type": "http.response.start", "status": 200, "headers": 1},
        {"type": "http.response.start", "status": 200, "headers": b"ab"},
        {"type": "http.response.start", "status": 200, "headers": [1]},
        {"type": "http.response.start", "status": 200, "headers": [[b"a", b"b", b"c"]]},
        {"type": "http.response.start", "status": 200, "headers": ["ab"]},
        {"type": "http.response.start", "status": 200, "headers": "ab"},
    ],
)
def test_a_head_that_cant_be_sent_is_an_error_of_the_application(head):
    errors = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for _ in range(2):  # nothing is sent of it, and nothing is remembered
            try:
                await send(head)
            except (ValueError, TypeError) as error:
                errors.append(str(error))
        await send(start(200, (b"content-length", b"4")))
        await send(body(b"fine"))

    with serving(app) as it:
        assert it.connect().ask(GET).body == b"fine"
    assert len(errors) == 2
    assert all(errors)


@pytest.mark.parametrize("headers", [{b"x": b"y"}, b"x: y", "x: y", 1])
def test_headers_that_are_no_pairs_are_named_as_a_whole(headers):
    errors = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        except TypeError as error:
            errors.append(str(error))
        await send(start())
        await send(body())

    with serving(app) as it:
        assert it.connect().ask(GET).status == 200
    assert errors == [f"the headers are {headers!r}: they must be pairs of name and value, in bytes"]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([body(b"x")], RuntimeError),
        ([start(), start()], RuntimeError),
        ([{"type": "http.response.push", "path": "/"}], RuntimeError),
        ([{"type": "http.response.debug", "info": {}}], RuntimeError),
        ([{"type": "http.response.pathsend", "path": "/"}], RuntimeError),
        ([{"type": "http.response.trailers", "headers": []}], RuntimeError),
        ([{"type": "websocket.accept"}], RuntimeError),
        ([start(), {"type": "http.request"}], RuntimeError),
        ([start(), {"type": "http.response.trailers", "headers": []}], RuntimeError),
        ([start(trailers=True), {"type": "http.response.trailers"}], RuntimeError),
        ([{}], TypeError),
        ([{"type": 1}], RuntimeError),
        ([{"type": []}], RuntimeError),
        ([None], TypeError),
        (["http.response.start"], TypeError),
        ([start(), body("text")], TypeError),
        ([start(), body(None)], TypeError),
        ([start(), body(5)], TypeError),
        ([start(200, (b"content-length", b"4")), body(b"hello")], ValueError),
        ([start(200, (b"content-length", b"6")), body(b"hello")], ValueError),
        ([start(200, (b"content-length", b"4")), body(b"hello", True)], ValueError),
        ([start(200, (b"content-length", b"300000")), body(b"x" * 300_001)], ValueError),
    ],
)
def test_what_is_out_of_order_or_wrong_raises_and_is_500(messages, error, caplog):
    raised = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await saying(*messages)(scope, receive, send)
        except Exception as failed:
            raised.append(failed)
            raise

    with serving(app) as it:
        client = it.connect()
        for _ in range(2):  # and the connection goes on
            answer = client.ask(GET)
            assert answer.status == 500
            assert answer.fields["content-type"] == "application/problem+json"
    assert [type(one) for one in raised] == [error] * 2
    assert all(str(one) for one in raised)
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == 2


def test_a_length_is_held_when_the_head_is_out(caplog):
    too_long = [start(200, (b"content-length", b"4")), body(b"he", True), body(b"llo")]
    too_short = [start(200, (b"content-length", b"6")), body(b"he", True), body(b"llo")]
    for messages, came in ((too_long, b"he"), (too_short, b"he")):
        caplog.clear()
        answer = raw(saying(*messages))
        content = answer.partition(b"\r\n\r\n")[2]
        assert content.startswith(came)
        assert len(content) < 6
        assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def test_what_comes_behind_the_last_is_dropped():
    app = saying(start(), body(b"hello"), body(b"more"), start(500), body(b"x"))
    with serving(app) as it:
        client = it.connect()
        for _ in range(3):
            assert client.ask(GET).body == b"hello"
        assert client.data == b""
    app = saying(start(), body(b"he", True), body(b"llo"), body(b"more", True), body())
    with serving(app) as it:
        client = it.connect()
        for _ in range(3):
            assert client.ask(GET).body == b"hello"
        assert client.data == b""


class Failing:
    """An application that fails behind some messages."""

    def __init__(self, *messages: Message, error: BaseException | None = None) -> None:
        self.messages = messages
        self.error = error

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await saying(*self.messages)(scope, receive, send)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("messages", [[], [start(200, (b"content-length", b"5"))]])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("why"), SystemExit(1), asyncio.CancelledError(), GeneratorExit(), None]
)
def test_who_fails_before_the_first_piece_is_answered_500_with_its_id(messages, error, caplog):
    with serving(Failing(*messages, error=error), request_id=True) as it:
        client = it.connect()
        for name in ("one", "two"):
            answer = client.ask(GET[:-2] + f"X-Request-Id: {name}\r\n\r\n".encode())
            assert answer.status == 500
            assert name.encode() in answer.body
            assert answer.fields["x-request-id"] == name
            assert b"why" not in answer.body
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.__dict__["request_id"] for record in logged] == ["one", "two"]


@pytest.mark.parametrize("error", [ZeroDivisionError("why"), SystemExit(1), asyncio.CancelledError(), None])
@pytest.mark.parametrize("fields", [[], [(b"content-length", b"9")]])
def test_who_fails_behind_it_is_cut_and_logged_once(error, fields, caplog):
    with serving(Failing(start(200, *fields), body(b"hello", True), error=error)) as it:
        client = it.connect()
        with pytest.raises(Cut):
            client.ask(GET)
        assert not client.data.endswith(b"0\r\n\r\n")
        other = it.connect()  # others are served
        other.send(GET)
        assert other.head()[0] == 200
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == 2  # one for each request


def test_a_part_must_not_look_whole_to_http_1_0():
    with serving(Failing(start(), body(b"hello", True), error=ZeroDivisionError())) as it:
        client = it.connect()
        client.send(OLD)
        assert client.sock.recv(65536)
        with pytest.raises(ConnectionResetError):  # its end would be the body's
            client.sock.recv(65536)


def test_a_refusal_may_be_raised():
    with serving(Failing(error=HTTPError(403, "no"))) as it:
        answer = it.connect().ask(GET)
        assert (answer.status, b"no" in answer.body) == (403, True)


def test_pipelined_requests_are_answered_in_order():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for _ in range(int(scope["path"][1:])):
            await asyncio.sleep(0)
        await send(start())
        await send(body(scope["path"].encode(), scope["path"] == "/3"))
        if scope["path"] == "/3":
            await send(body())

    with serving(app) as it:
        client = it.connect()
        client.send(b"".join(GET.replace(b"/ ", b"/%d " % number) for number in (5, 3, 0, 9, 1)))
        assert [client.answer().body for _ in range(5)] == [b"/5", b"/3", b"/0", b"/9", b"/1"]


def test_a_message_may_be_sent_from_a_task():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await asyncio.create_task(send(start()))  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as group:
            group.create_task(send(body(b"he", True)))  # type: ignore[arg-type]
        await asyncio.wait_for(send(body(b"llo")), 1)

    with serving(app) as it:
        assert it.connect().ask(GET).body == b"hello"


def test_an_answer_may_come_before_the_body_was_read():
    with serving(saying(start(), body(b"early"))) as it:
        client = it.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert client.answer().body == b"early"
        client.send(b"67890" + GET)
        assert client.answer().body == b"early"


def test_an_answer_may_stream_while_the_body_comes():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(body(message["body"], more))

    with serving(app) as it:
        client = it.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"one", b"two", b"three"):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if piece == b"one":
                client.head()
            assert client.chunk() == piece
        client.send(b"0\r\n\r\n")
        assert client.chunk() == b""
        assert client.ask(GET).status == 200


def test_a_length_of_the_whole_is_told_also_of_a_large_one():
    with serving(saying(start(), body(b"x" * 3_000_000)), max_output=1000) as it:
        answer = it.connect().ask(GET)
        assert (answer.fields["content-length"], len(answer.body)) == ("3000000", 3_000_000)


def test_an_echo_of_any_body():
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        content = await read(receive)
        await send(start())
        await send(body(content))

    with serving(app) as it:
        client = it.connect()
        for content in (b"", b"x", b"y" * 5000, b"z" * 200_000):
            answer = client.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
            assert answer.body == content
