"""Extensions of ASGI's HTTP specification: files, trailer fields, early hints, TLS."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hypoll.asgi.tls import name_of
from hypoll.protocol.slices import FilePart
from tests.asgi.asgiapps import GET, App, Message, Receive, Send, body, saying, serving, start

HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
TRAILERS = b"GET / HTTP/1.1\r\nHost: a\r\nTE: gzip;q=0.5, Trailers\r\nConnection: TE\r\n\r\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(number % 251 for number in range(300_000)))
    return path


def sending_path(path: Any, *fields: Any) -> App:
    return saying(start(200, *fields), {"type": "http.response.pathsend", "path": path})


@pytest.mark.parametrize("size", [0, 1, 20_000, 300_000])
@pytest.mark.parametrize("declares", [False, True])
def test_a_path_is_sent(file, size, declares):
    os.truncate(file, size)
    fields = [(b"content-length", b"%d" % size)] if declares else []
    with serving(sending_path(str(file), *fields)) as it:
        client = it.connect()
        for _ in range(2):
            answer = client.ask(GET)
            assert answer.body == file.read_bytes()
            assert answer.fields["content-length"] == str(size)
            assert client.ask(HEAD).fields["content-length"] == str(size)
        assert it.connect().ask(OLD).body == file.read_bytes()


def test_a_large_file_goes_by_sendfile(file, monkeypatch):
    sent = []
    send = FilePart.send

    def noted(part: FilePart, socket: int, size: int) -> int:
        sent.append(send(part, socket, size))
        return sent[-1]

    monkeypatch.setattr(FilePart, "send", noted)
    with serving(sending_path(str(file))) as it:
        assert it.connect().ask(GET).body == file.read_bytes()
    assert sum(sent) == 300_000


def test_a_path_cant_be_mixed_with_pieces(file, caplog):
    app = saying(start(), body(b"x", True), {"type": "http.response.pathsend", "path": str(file)})
    with serving(app) as it:
        client = it.connect()
        client.send(GET)
        assert not client.rest().endswith(b"0\r\n\r\n")
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_path_where_no_file_is_is_an_error(path, tmp_path):
    with serving(sending_path(str(tmp_path / path))) as it:
        assert it.connect().ask(GET).status == 500


def test_the_length_of_a_path_is_held(file):
    with serving(sending_path(str(file), (b"content-length", b"5"))) as it:
        assert it.connect().ask(GET).status == 500


@pytest.mark.parametrize("path", [None, 5, b"/file"])
def test_a_path_is_a_str(path):
    with serving(sending_path(path)) as it:
        assert it.connect().ask(GET).status == 500


def zero_copy(file: Any, **more: Any) -> Message:
    return {"type": "http.response.zerocopysend", "file": file, **more}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("declares", [False, True])
@pytest.mark.parametrize("request_bytes", [GET, OLD, HEAD])
def test_files_may_be_mixed_with_pieces(file, declares, request_bytes):
    content = file.read_bytes()
    expected = b"before" + content[10:20] + b"between" + content + content[299_990:] + content[:5]

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        fields = [(b"content-length", b"%d" % len(expected))] if declares else []
        await send(start(200, *fields))
        await send(body(b"before", True))
        with file.open("rb") as opened:
            await send(zero_copy(opened, offset=10, count=10, more_body=True))
            await send(body(b"between", True))
            await send(zero_copy(opened, offset=0, more_body=True))
            opened.seek(299_990)
            await send(zero_copy(opened, more_body=True))
            await send(zero_copy(opened.fileno(), offset=0, count=5))

    with serving(app) as it:
        before = it.on_loop(descriptors)
        client = it.connect()
        answer = client.ask(request_bytes)
        assert answer.body == (b"" if request_bytes is HEAD else expected)
        if request_bytes is GET:
            assert client.ask(GET).body == expected
        client.close()
        it.until(lambda: not it.server.connections)
        assert it.on_loop(descriptors) <= before


def test_a_file_alone_is_sent_with_its_length(file):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        with file.open("rb") as opened:
            await send(zero_copy(opened, offset=5, count=100))

    with serving(app) as it:
        answer = it.connect().ask(GET)
        assert (answer.fields["content-length"], answer.body) == ("100", file.read_bytes()[5:105])


def test_a_slow_client_of_a_file_is_waited_for_and_its_descriptor_given_back(file):
    os.truncate(file, 50_000_000)
    ended = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await send(start())
            with file.open("rb") as opened:
                for _ in range(10):
                    await send(zero_copy(opened, offset=0, more_body=True))
                    ended.append("sent")
        except OSError:
            ended.append("gone")
            raise

    with serving(app) as it:
        before = it.on_loop(descriptors)
        client = it.connect(buffer=4096)
        client.send(GET)
        client.head()
        client.take(100_000)
        assert not ended
        client.reset()
        it.until(lambda: ended == ["gone"])
        it.until(lambda: not it.server.connections)
        assert it.on_loop(descriptors) <= before


@pytest.mark.parametrize("made", ["text", "none", "pipe", "beyond", "negative"])
def test_a_file_that_cant_be_sent_is_an_error(file, made):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start())
        ends = os.pipe()
        try:
            with file.open("rb") as opened:
                messages = {
                    "text": zero_copy("file"),
                    "none": {"type": "http.response.zerocopysend"},
                    "pipe": zero_copy(ends[0]),
                    "beyond": zero_copy(opened, offset=299_999, count=2),
                    "negative": zero_copy(opened, offset=-1),
                }
                await send(messages[made])
        finally:
            for end in ends:
                os.close(end)

    with serving(app) as it:
        assert it.connect().ask(GET).status == 500


def trailers(*fields: Any, more: bool = False) -> Message:
    return {"type": "http.response.trailers", "headers": list(fields), "more_trailers": more}


@pytest.mark.parametrize(
    "messages", [[body(b"hello")], [body(b"he", True), body(b"llo")], [body(b"hello", True), body()]]
)
def test_trailer_fields_go_to_who_takes_them(messages):
    fields = start(200, (b"trailer", b"x"), trailers=True)
    app = saying(fields, *messages, trailers((b"x", b"1"), more=True), trailers((b"y", b"2")))
    with serving(app) as it:
        client = it.connect()
        for _ in range(2):
            client.send(TRAILERS)
            head = client.head()
            assert head[1]["trailer"] == "x"
            content = b""
            while (size := int(client.line(), 16)) != 0:
                content += client.take(size + 2)[:-2]
            assert content == b"hello"
            assert client.line(b"\r\n\r\n") == b"x: 1\r\ny: 2"
        assert client.ask(GET).body == b"hello"  # who didn't ask gets none
        assert it.connect().ask(OLD).body == b"hello"
        assert it.connect().ask(HEAD).status == 200
        assert it.connect().ask(GET).body == b"hello"


def test_with_a_length_there_are_no_trailer_fields():
    app = saying(start(200, (b"content-length", b"5"), trailers=True), body(b"hello"), trailers((b"x", b"1")))
    with serving(app) as it:
        client = it.connect()
        for _ in range(2):
            assert client.ask(TRAILERS).body == b"hello"
        assert client.data == b""


@pytest.mark.parametrize(
    "field", [(b"x", b"a\r\nb"), ("x", "y"), (b"content-length", b"5"), (b"transfer-encoding", b"x")]
)
def test_trailer_fields_are_checked(field):
    errors: list[BaseException] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start(trailers=True))
        await send(body(b"x"))
        try:
            await send(trailers(field))
        except (ValueError, TypeError) as error:
            errors.append(error)
        await send(trailers())

    with serving(app) as it:
        assert it.connect().ask(TRAILERS).body == b"x"
    assert len(errors) == 1


def test_who_tells_of_trailer_fields_and_sends_none_is_cut():
    with serving(saying(start(trailers=True), body(b"hello"))) as it:
        client = it.connect()
        client.send(GET)
        assert not client.rest().endswith(b"0\r\n\r\n")


HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}


@pytest.mark.parametrize("messages", [[start(), HINT, body(b"x")], [HINT, start(), body(b"x")]])
def test_early_hints_come_before_the_head(messages):
    with serving(saying(*messages), early_hints=True) as it:
        client = it.connect()
        for _ in range(2):
            client.send(GET)
            lines = client.line(b"\r\n\r\n").split(b"\r\n")
            assert lines == [b"HTTP/1.1 103 Early Hints", *(b"Link: " + link for link in HINT["links"])]  # type: ignore[operator]
            assert client.answer().body == b"x"
        assert it.connect().ask(OLD).body == b"x"  # which knows no interim response


@pytest.mark.parametrize("messages", [[start(), HINT, body(b"x")], [start(), body(b"x", True), HINT, body()]])
def test_early_hints_are_dropped_where_they_cant_be(messages):
    with serving(saying(*messages), early_hints=messages[1] is not HINT) as it:
        client = it.connect()
        client.send(GET)
        assert client.head()[0] == 200


@pytest.mark.parametrize("links", [["</a>"], b"</a>", [b"</a>\r\nX: y"], 5])
def test_early_hints_are_checked(links):
    with serving(saying(start(), {**HINT, "links": links}, body(b"x")), early_hints=True) as it:
        assert it.connect().ask(GET).status == 500


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ([[("countryName", "DE")], [("organizationName", "A, B")], [("commonName", "c")]], "CN=c,O=A\\, B,C=DE"),
        ([[("commonName", "#x "), ("userId", "u+v")]], "CN=\\#x\\ +UID=u\\+v"),
        ([], None),
    ],
)
def test_a_name_is_written_as_rfc_4514_has_it(subject, name):
    assert name_of({"subject": subject}) == name
