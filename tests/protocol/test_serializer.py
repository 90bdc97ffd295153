"""Responses as data: what stands in the head, and how the content is framed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import h11
import pytest

from hypoll.http import HTTPError, Request, RequestParser, Response, problem
from hypoll.protocol import serializer as encode_module
from hypoll.protocol.serializer import (
    COPY_LIMIT,
    PREFIXES,
    UNPARSED,
    Remainder,
    encode,
    inspect_fields,
    plain_head,
    refresh_date,
)
from hypoll.settings import Settings

SUNDAY = 784111777
"""The date RFC 9110 (5.6.7) writes as `Sun, 06 Nov 1994 08:49:37 GMT`."""

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.fixture(autouse=True)
def _fixed_date() -> Iterator[None]:
    refresh_date(SUNDAY)
    yield
    refresh_date()


def a_request(method: str = "GET", minor: int = 1, connection: str = "") -> Request:
    """A request as the parser gives it."""
    fields = b"Connection: %b\r\n" % connection.encode() if connection else b""
    request = RequestParser(Settings()).feed(b"%b / HTTP/1.%d\r\nHost: h\r\n%b\r\n" % (method.encode(), minor, fields))
    assert request is not None
    return request


class Sent(NamedTuple):
    """An encoded response taken apart."""

    line: str
    fields: dict[str, str]
    body: bytes
    rest: Remainder | None


def send(response: Response, request: Request | None = None, close: bool = False) -> Sent:
    """Encode, pull the stream to its end, and take apart what came."""
    out: list[bytes] = []
    rest = encode(out, response, request or a_request(), close)
    if rest is not None and rest.stream is not None:
        out += rest.stream
    head, _, body = b"".join(out).partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    fields = [field.split(": ", 1) for field in lines]
    assert len({name.lower() for name, _ in fields}) == len(fields), "no field is there twice"
    return Sent(line, dict(fields), body, rest)


def refused(response: Response, request: Request | None = None) -> str:
    """Why a response can't be sent. Nothing was appended then."""
    out: list[bytes] = []
    with pytest.raises((ValueError, TypeError)) as caught:
        encode(out, response, request or a_request(), False)
    assert not out
    return str(caught.value)


def refused_fields(headers: Any) -> str:
    """Why header fields can't be sent: what a response says where they are given, and the serializer of any."""
    with pytest.raises((ValueError, TypeError)) as caught:
        Response(b"a", headers=headers)
    with pytest.raises(type(caught.value), match=re.escape(str(caught.value))):
        inspect_fields(headers)
    return str(caught.value)


# status, method, version and body

BODIES: dict[str, Callable[[], Any]] = {
    "empty": lambda: b"",
    "bytes": lambda: b"abc",
    "str": lambda: "abc",
    "large": lambda: b"a" * (COPY_LIMIT + 1),
    "iterator": lambda: iter([b"a", b"", b"bc"]),
    "nothing to iterate": lambda: iter(()),
}

BODILESS = (204, 304)


def content_of(kind: str) -> bytes:
    body = BODIES[kind]()
    return body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b"".join(body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("status", [200, 201, 204, 205, 206, 301, 304, 400, 404, 500, 599])
def test_framing(status: int, method: str) -> None:
    for minor, kind in product((1, 0), BODIES):
        check_framing(status, method, minor, kind)


def check_framing(status: int, method: str, minor: int, kind: str) -> None:
    request = a_request(method, minor, "keep-alive")
    sent = send(Response(BODIES[kind](), status), request)
    streamed = not isinstance(BODIES[kind](), (bytes, str))
    silent = method == "HEAD" or status in (204, 205, 304)
    content = b"" if status == 205 else content_of(kind)
    until_close = streamed and not minor and not silent
    chunked = streamed and minor == 1 and not silent
    counted = status == 205 or (status not in BODILESS and not streamed)

    assert sent.fields.get("Content-Length") == (str(len(content)) if counted else None)
    assert sent.fields.get("Transfer-Encoding") == ("chunked" if chunked else None)
    assert sent.fields.get("Connection") == ("close" if until_close else None if minor else "keep-alive")
    assert (sent.rest is not None and sent.rest.close) == until_close
    assert (sent.rest is not None and sent.rest.stream is not None) == (streamed and not silent)
    assert sent.fields["Date"] == DATE
    assert sent.fields["Server"] == "hypoll"
    if silent:
        assert sent.body == b""
    elif not chunked:
        assert sent.body == content


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
def test_another_library_reads_the_same(status: int, method: str, kind: str) -> None:
    out: list[bytes] = []
    rest = encode(out, Response(BODIES[kind](), status), a_request(method), False)
    out += rest.stream if rest is not None and rest.stream is not None else ()
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"".join(out))
    head = client.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code == status
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert body == (b"" if method == "HEAD" or status in BODILESS else content_of(kind))
    assert client.trailing_data == (b"", False)


@pytest.mark.parametrize(
    ("minor", "connection", "close", "told"),
    [
        (1, "", False, None),
        (1, "keep-alive", False, None),
        (1, "close", False, "close"),
        (1, "", True, "close"),
        (0, "", False, "close"),
        (0, "keep-alive", False, "keep-alive"),
        (0, "keep-alive", True, "close"),
        (0, "close", False, "close"),
    ],
)
@pytest.mark.parametrize("status", [200, 204, 404])
def test_persistence_is_told(status: int, minor: int, connection: str, close: bool, told: str | None) -> None:
    sent = send(Response(b"" if status == 204 else b"a", status), a_request("GET", minor, connection), close)
    assert sent.fields.get("Connection") == told
    assert sent.rest == (Remainder(None, close=True) if told == "close" else None)


def test_a_request_that_was_not_parsed() -> None:
    sent = send(problem(HTTPError(400, "why")), UNPARSED, close=True)
    assert sent.line == "HTTP/1.1 400 Bad Request"
    assert sent.fields["Connection"] == "close"
    assert sent.fields["Content-Type"] == "application/problem+json"
    assert sent.rest == Remainder(None, close=True)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, "HTTP/1.1 200 OK"),
        (404, "HTTP/1.1 404 Not Found"),
        (299, "HTTP/1.1 299 "),
        (599, "HTTP/1.1 599 "),
        (418, "HTTP/1.1 418 I'm a Teapot"),
    ],
)
def test_status_line(status: int, line: str) -> None:
    assert send(Response(b"", status)).line == line


@pytest.mark.parametrize("status", [0, 100, 101, 199, 600, 1000, -1, "200", None, 200.0, True])
def test_status_refused(status: Any) -> None:
    response = Response()
    response.status = status
    assert "status" in refused(response)


# content type


@pytest.mark.parametrize(
    ("body", "given", "sent"),
    [
        (b"", None, None),
        ("", None, "text/plain; charset=utf-8"),
        ("a", None, "text/plain; charset=utf-8"),
        (b"a", None, "application/octet-stream"),
        (bytearray(b"a"), None, "application/octet-stream"),
        (memoryview(b"a"), None, "application/octet-stream"),
        ([b"a"], None, "application/octet-stream"),
        ("a", "text/html", "text/html"),
        (b"", "text/css", "text/css"),
        ([b"a"], "text/csv", "text/csv"),
    ],
)
def test_content_type(body: Any, given: str | None, sent: str | None) -> None:
    assert send(Response(body, content_type=given)).fields.get("Content-Type") == sent


def test_content_type_in_the_headers_goes_first() -> None:
    sent = send(Response("a", headers={"content-type": "text/html"}, content_type="text/css"))
    assert sent.fields["content-type"] == "text/html"
    assert "Content-Type" not in sent.fields


@pytest.mark.parametrize("status", BODILESS)
def test_no_content_no_type(status: int) -> None:
    assert "Content-Type" not in send(Response("a", status, content_type="text/html")).fields


@pytest.mark.parametrize(
    ("body", "content"),
    [("é", b"\xc3\xa9"), (bytearray(b"ab"), b"ab"), (memoryview(b"ab"), b"ab")],
)
def test_what_a_body_may_be(body: Any, content: bytes) -> None:
    sent = send(Response(body))
    assert sent.body == content
    assert sent.fields["Content-Length"] == str(len(content))


@pytest.mark.parametrize("body", [None, 3, object(), {"a": 1}, {b"a": b"b"}])
def test_body_refused(body: Any) -> None:
    response = Response()
    response.body = body
    assert type(body).__name__ in refused(response)


# fields


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "b", "X-C": "d"},
        [("X-A", "b"), ("X-C", "d")],
        (pair for pair in (("X-A", "b"), ("X-C", "d"))),
    ],
)
def test_where_fields_may_come_from(headers: Any) -> None:
    fields = send(Response(b"", headers=headers)).fields
    assert list(fields.items())[-3:] == [("X-A", "b"), ("X-C", "d"), ("Content-Length", "0")]


@pytest.mark.parametrize("values", [["a=1", "b=2"], ("a=1", "b=2")])
def test_a_line_for_each_value(values: Iterable[str]) -> None:
    out: list[bytes] = []
    encode(out, Response(b"", headers={"Set-Cookie": values}), a_request(), False)
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in out[0]


def test_server_and_date_may_be_given() -> None:
    fields = send(Response(b"", headers={"server": "mine", "DATE": "today"})).fields
    assert (fields["server"], fields["DATE"]) == ("mine", "today")
    assert "Server" not in fields
    assert "Date" not in fields


def test_values_are_sent_as_latin_1() -> None:
    out: list[bytes] = []
    encode(out, Response(b"", headers={"A": "caf\xe9\t\x80"}), a_request(), False)
    assert b"\r\nA: caf\xe9\t\x80\r\n" in out[0]


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r", "A\n", "A\r\nB", "A\x00", "caf\xe9", "A(", "\x7f", "Ā", " A"])
def test_field_name_refused(name: str) -> None:
    assert "is not a field name" in refused_fields({name: "b"})


@pytest.mark.parametrize("name", [b"A", None, 3])
def test_field_name_of_another_type_refused(name: Any) -> None:
    assert "is not a field name" in refused_fields({name: "b"})


@pytest.mark.parametrize(
    "value", ["\r", "\n", "\r\n", "a\r\nX: b", "a\nb", "\x00", "\x01", "\x0b", "\x1f", "\x7f", "Ā", "😀"]
)
def test_field_value_refused(value: str) -> None:
    for name in ("A", "Location", "Content-Type", "Connection", "Content-Length", "Server"):
        assert "can't be sent" in refused_fields({name: value}), name


@pytest.mark.parametrize("value", [b"a", 3, None, [3], 1.5])
def test_field_value_of_another_type_refused(value: Any) -> None:
    assert "must be a str" in refused_fields({"A": value})


@pytest.mark.parametrize("content_type", ["text/html\r\nX: y", "a\nb", "a\x00", "Ā"])
def test_content_type_refused(content_type: str) -> None:
    for body in (b"a", "a", [b"a"]):
        assert "can't be sent" in refused(Response(body, content_type=content_type))


@pytest.mark.parametrize("name", ["Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING"])
@pytest.mark.parametrize("value", ["chunked", "gzip", "identity", ""])
def test_transfer_encoding_refused(name: str, value: str) -> None:
    assert "Transfer-Encoding is the server's to set" in refused(Response(b"a", headers={name: value}))


@pytest.mark.parametrize(
    ("value", "closes"),
    [("close", True), ("Close", True), ("x, close", True), ("keep-alive", False), ("upgrade", False), ("", False)],
)
def test_a_handler_may_ask_for_the_connections_end_and_nothing_else(value: str, closes: bool) -> None:
    sent = send(Response(b"a", headers={"Connection": value}))
    assert sent.fields.get("Connection") == ("close" if closes else None)
    assert sent.rest == (Remainder(None, close=True) if closes else None)


# a declared Content-Length


def test_declared_length_of_bytes() -> None:
    sent = send(Response(b"abc", headers={"content-length": "3"}))
    assert (sent.fields["Content-Length"], sent.body) == ("3", b"abc")


def test_declared_length_of_an_iterator() -> None:
    for minor in (1, 0):
        sent = send(
            Response(iter([b"ab", b"c"]), headers={"Content-Length": "3"}), a_request("GET", minor, "keep-alive")
        )
        assert (sent.fields["Content-Length"], sent.body) == ("3", b"abc")
        assert "Transfer-Encoding" not in sent.fields
        assert sent.rest is not None
        assert not sent.rest.close


@pytest.mark.parametrize("body", [b"", [b"abc"]])
def test_declared_length_of_a_head(body: Any) -> None:
    sent = send(Response(body, headers={"Content-Length": "1000"}), a_request("HEAD"))
    assert (sent.fields["Content-Length"], sent.body, sent.rest) == ("1000", b"", None)


@pytest.mark.parametrize("status", BODILESS)
def test_declared_length_of_no_content_is_dropped(status: int) -> None:
    assert "Content-Length" not in send(Response(b"", status, {"Content-Length": "0"})).fields


@pytest.mark.parametrize("body", [b"", b"a", [b"a"]])
def test_reset_content_has_none(body: Any) -> None:
    sent = send(Response(body, 205, {"Content-Length": "1"}))
    assert (sent.fields["Content-Length"], sent.body) == ("0", b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_wrong_declared_length_refused(method: str) -> None:
    assert "declares Content-Length: 4" in refused(Response(b"abc", headers={"Content-Length": "4"}), a_request(method))


@pytest.mark.parametrize("value", ["-1", "+1", "1.0", "", "a", "1,1", "0x1", " 1", "\xb2"])
def test_malformed_declared_length_refused(value: str) -> None:
    assert "is not one decimal number" in refused(Response(b"a", headers={"Content-Length": value}))


def test_repeated_declared_length_refused() -> None:
    headers = [("Content-Length", "1"), ("content-length", "1")]
    assert "is not one decimal number" in refused(Response(b"a", headers=headers))


def streamed(response: Response, minor: int = 1) -> Iterator[bytes]:
    rest = encode([], response, a_request("GET", minor), False)
    assert rest is not None
    assert isinstance(rest.stream, Generator)
    return rest.stream


def test_a_stream_longer_than_declared_ends_before_a_byte_too_many() -> None:
    stream = streamed(Response([b"ab", b"cd"], headers={"Content-Length": "3"}))
    assert next(stream) == b"ab"
    with pytest.raises(ValueError, match="longer than its Content-Length: 3"):
        next(stream)


def test_a_stream_shorter_than_declared_fails() -> None:
    stream = streamed(Response([b"ab"], headers={"Content-Length": "3"}))
    assert next(stream) == b"ab"
    with pytest.raises(ValueError, match="ended after 2 bytes, its Content-Length is 3"):
        next(stream)


# streams


def test_chunks() -> None:
    pieces: Any = [b"a", b"", b"0123456789abcdef", memoryview(b"z"), bytearray(b"y")]
    body = send(Response(pieces)).body
    assert body == b"1\r\na\r\n10\r\n0123456789abcdef\r\n1\r\nz\r\n1\r\ny\r\n0\r\n\r\n"


def test_a_stream_that_fails_has_no_last_chunk() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("lost")

    stream = streamed(Response(pieces()))
    assert next(stream) == b"1\r\na\r\n"
    with pytest.raises(RuntimeError, match="lost"):
        next(stream)
    assert list(stream) == []


@pytest.mark.parametrize("piece", ["a", 1, None, [b"a"]])
@pytest.mark.parametrize("minor", [1, 0])
def test_a_piece_that_is_not_bytes(minor: int, piece: Any) -> None:
    stream = streamed(Response(iter([piece])), minor)
    with pytest.raises(TypeError, match=f"gives bytes, not {type(piece).__name__}"):
        next(stream)


@pytest.mark.parametrize("minor", [1, 0])
def test_pieces_are_pulled_one_at_a_time(minor: int) -> None:
    pulled = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            pulled.append(number)
            yield b"%d" % number

    stream = streamed(Response(pieces()), minor)
    assert pulled == []
    for number in range(3):
        next(stream)
        assert pulled == list(range(number + 1))


class Closing:
    """An iterator that knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return b"a"

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("pulls", [0, 1, 5])
@pytest.mark.parametrize("minor", [1, 0])
def test_a_stream_that_is_let_go_closes_its_body(minor: int, pulls: int) -> None:
    """Even one that was never pulled: a client may be gone before the first byte."""
    body = Closing()
    rest = encode([], Response(body), a_request("GET", minor), False)
    assert rest is not None
    assert isinstance(rest.stream, Generator)
    for _ in range(pulls):
        next(rest.stream)
    assert body.closed == 0
    rest.stream.close()
    assert body.closed == 1


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 205), ("GET", 304)])
def test_a_body_that_is_not_sent_is_closed(method: str, status: int) -> None:
    body = Closing()
    encode([], Response(body, status), a_request(method), False)
    assert body.closed == 1


def test_a_file_is_an_iterator() -> None:
    file = io.BytesIO(b"a\nb")
    assert send(Response(file)).body == b"2\r\na\n\r\n1\r\nb\r\n0\r\n\r\n"
    assert file.closed


# the date, and what is prebuilt


def test_date_is_imf_fixdate() -> None:
    refresh_date()
    date = send(Response(b"")).fields["Date"]
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)


def test_date_is_that_of_the_last_refresh() -> None:
    response = Response(b"{}", content_type="application/json")
    for second in range(3):
        refresh_date(SUNDAY + second)
        for _ in range(2):
            assert send(response).fields["Date"] == f"Sun, 06 Nov 1994 08:49:{37 + second} GMT"


@pytest.mark.parametrize("content_type", ["application/json", "text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("size", [0, 1, 1000, COPY_LIMIT, COPY_LIMIT + 1, 1024 * 1024])
@pytest.mark.parametrize("status", [200, 201, 299, 404, 500])
@pytest.mark.parametrize("close", [False, True])
def test_prebuilt_and_general_way_give_equal_bytes(content_type: str, size: int, status: int, close: bool) -> None:
    refresh_date()
    encode([], Response(b"a", 202, content_type=content_type), a_request(), False)
    response = Response(b"a" * size, status, content_type=content_type)
    assert plain_head(response) is None
    general: list[bytes] = []
    remainder = encode(general, response, a_request(), close)
    prebuilt: list[bytes] = []
    assert encode(prebuilt, response, a_request(), close) == remainder
    assert (remainder is not None) == close
    assert b"".join(prebuilt) == b"".join(general)
    assert len(prebuilt) == 1 + (size > COPY_LIMIT)
    head = plain_head(response)
    assert (head is None) == (size > COPY_LIMIT)
    if head is not None and not close:
        assert prebuilt == [head + b"a" * size]


@pytest.mark.parametrize(
    "response",
    [
        Response(b"a", 201, content_type="text/a"),
        Response(b"a", 202, {"X": "y"}, "text/a"),
        Response(b"a", 200, {"X": "y"}, "text/a"),
        Response("a", content_type="text/a"),
        Response(b"a" * (COPY_LIMIT + 1), content_type="text/a"),
        Response(memoryview(b"a"), content_type="text/a"),
        Response([b"a"], content_type="text/a"),
        Response(b"", 204, content_type="text/a"),
        Response(b"a", content_type="text/b"),
        Response(b"a"),
    ],
)
def test_what_is_not_plain_needs_thought(response: Response) -> None:
    for status in (200, 202):
        encode([], Response(b"a", status, content_type="text/a"), a_request(), False)
        assert plain_head(Response(b"a", status, content_type="text/a")) is not None
    assert plain_head(response) is None


@pytest.mark.parametrize("status", [204, 205, 304])
def test_an_answer_without_content_has_no_head_for_others(status: int) -> None:
    refresh_date()
    for _ in range(2):
        response = Response(b"", status, content_type="text/a")
        encode([], response, a_request(), False)
        assert plain_head(response) is None


@pytest.mark.parametrize(
    ("response", "request_", "close"),
    [
        (Response(b"a", content_type="text/a"), a_request("HEAD"), False),
        (Response(b"a", 404, content_type="text/a"), a_request(), False),
        (Response(b"a", 200, {"X-Private": "y"}, "text/a"), a_request(), False),
        (Response([b"a"], content_type="text/a"), a_request(), False),
        (Response(b"a", 200, {"Connection": "close"}, "text/a"), a_request(), False),
    ],
)
def test_only_plain_answers_are_remembered(response: Response, request_: Request, close: bool) -> None:
    encode([], response, request_, close)
    assert plain_head(Response(b"a", content_type="text/a")) is None


def test_a_prebuilt_head_is_for_plain_requests_only() -> None:
    response = Response(b"a", content_type="text/a")
    encode([], response, a_request(), False)
    assert send(response, a_request("HEAD")).body == b""
    assert send(response, a_request("GET", 0)).fields["Connection"] == "close"
    assert send(response, a_request(), close=True).fields["Connection"] == "close"


def test_prebuilt_heads_are_bounded() -> None:
    for number in range(PREFIXES * 2):
        encode([], Response(b"a", content_type=f"text/{number}"), a_request(), False)
    assert len(encode_module._prefixes) == PREFIXES
    assert send(Response(b"a", content_type=f"text/{PREFIXES + 1}")).fields["Content-Type"] == f"text/{PREFIXES + 1}"
    refresh_date(SUNDAY)
    assert not encode_module._prefixes


def test_small_bodies_are_copied_and_large_ones_are_not() -> None:
    large = b"a" * (COPY_LIMIT + 1)
    for _ in range(2):  # the second has a prebuilt head
        out: list[bytes] = []
        encode(out, Response(large), a_request(), False)
        assert len(out) == 2
        assert out[1] is large


@pytest.mark.parametrize("body", [b"x", "x", iter([b"x"]), b""])
def test_no_content_type_where_none_is_wanted(body):
    assert "Content-Type" not in send(Response(body, content_type="")).fields


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [(200, "Fine", "HTTP/1.1 200 Fine"), (404, "", "HTTP/1.1 404 "), (299, "\xe9", "HTTP/1.1 299 \xe9")],
)
def test_a_reason_of_its_own(status, reason, line):
    response = Response(b"x", status, content_type="text/plain")
    send(Response(b"x", content_type="text/plain"))  # a prebuilt head has another
    response.reason = reason
    assert send(response).line == line
    assert send(Response(b"x", content_type="text/plain")).line == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("reason", ["a\r\nX: y", "\u20ac"])
def test_a_reason_that_would_break_the_head_is_refused(reason):
    response = Response(b"x")
    response.reason = reason
    with pytest.raises(ValueError, match="the value of reason can't be sent"):
        send(response)
