"""The parser's inner life: what it keeps, what it forgets, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httptools
import pytest

from hypoll import http
from hypoll.http import HTTPError, Peer, PeerError, Request, RequestParser, State, Vocabulary
from hypoll.protocol.bounded import WORD_SIZE, WORDS
from hypoll.protocol.chunked import CHUNKS_PER_STEP
from hypoll.protocol.header_section import INDEXED_FIELDS, RawHeaderSection
from hypoll.settings import Settings

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def known() -> Vocabulary:
    return Vocabulary(Settings())


@pytest.fixture
def parser(known: Vocabulary) -> RequestParser:
    return RequestParser(Settings(), vocabulary=known)


def feed(parser: RequestParser, data: bytes) -> Request:
    request = parser.feed(data)
    assert request is not None
    return request


# one request at a time


def test_a_second_request_is_not_looked_at_before_its_turn(parser: RequestParser) -> None:
    assert feed(parser, GET + b"\x00").target == b"/"
    assert parser.pending
    with pytest.raises(HTTPError, match="400"):
        parser.next()


def test_fed_while_requests_wait(parser: RequestParser) -> None:
    feed(parser, GET + POST)
    assert feed(parser, b"abc" + GET).body == b"abc"
    assert parser.next() is not None
    assert parser.next() is None
    assert not parser.pending


def test_nothing_is_nothing(parser: RequestParser) -> None:
    assert parser.feed(b"") is None
    assert parser.next() is None
    assert parser.state is State.START


def test_states_of_a_request_with_content(parser: RequestParser) -> None:
    states = [parser.state]
    for piece in (POST[:5], POST[5:], b"ab"):
        parser.feed(piece)
        states.append(parser.state)
    assert states == [State.START, State.HEAD, State.BODY, State.BODY]
    assert parser.incoming is not None
    assert parser.incoming.method == "POST"
    assert parser.received == 2
    request = feed(parser, b"c")
    assert request.body == b"abc"
    assert parser.state is State.START
    assert parser.incoming is None


def test_content_received_is_counted_decoded(parser: RequestParser) -> None:
    parser.feed(CHUNKED + b"3;extension=of-some-length\r\nab")
    assert parser.received == 2
    parser.feed(b"c\r\n2\r\nde\r\n")
    assert parser.received == 5


@pytest.mark.parametrize("rest", [b"\r\n", b"\r\n\r\n\r\n"])
def test_empty_lines_begin_no_request(parser: RequestParser, rest: bytes) -> None:
    """A client that sends CRLF too many after its request, and then nothing, is idle: it owes no head."""
    feed(parser, POST + b"abc" + rest)
    assert parser.next() is None
    assert parser.state is State.START
    for byte in rest:
        assert parser.feed(bytes([byte])) is None
    assert parser.state is State.START
    assert feed(parser, GET).plain


def test_half_an_empty_line_begins_no_request(parser: RequestParser) -> None:
    states = []
    for byte in (b"\r", b"\n"):
        parser.feed(byte)
        states.append(parser.state)
    assert states == [State.BLANK, State.START]
    assert feed(parser, GET).target == b"/"


def test_requests_carry_their_peer() -> None:
    peer = Peer(("192.0.2.1", 5), "https")
    parser = RequestParser(Settings(), peer)
    for _ in range(2):
        request = feed(parser, GET)
        assert (request.client, request.scheme) == (("192.0.2.1", 5), "https")


# the straight way


def goes_straight(data: bytes) -> bool:
    """Whether the one request of the data is taken without a parser of the connection's own."""
    parser = RequestParser(Settings())
    feed(parser, data)
    return parser._execute is None


STRAIGHT = {
    "get": GET,
    "post": POST + b"abc",
    "head": b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
    "other": b"PURGE /a?b HTTP/1.1\r\nHost: h\r\n\r\n",
    "escaped": b"GET /%41?b=%20 HTTP/1.1\r\nHost: h\r\n\r\n",
    "close": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "keep-alive": b"GET / HTTP/1.1\r\nConnection: Keep-Alive\r\nHost: h\r\n\r\n",
    "case": b"GET / HTTP/1.1\r\nHOST: h\r\ncontent-length: 0\r\n\r\n",
    "tabs": b"GET / HTTP/1.1\r\nHost:\th\t\r\nA:\tb\t\r\nB:\r\n\r\n",
    "repeated": b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\na: c\r\nCookie: d\r\n\r\n",
    "latin-1": b"GET / HTTP/1.1\r\nHost: h\r\nA: \xe4\xff\r\n\r\n",
    "noted": b"GET / HTTP/1.1\r\nHost: h\r\nUSER-AGENT:\t\xe4 b \r\nReferer:\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    "noted twice": b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: a\r\nuser-agent: b\r\nTraceparent: c\r\n\r\n",
}
ODD = {
    "1.0": b"GET / HTTP/1.0\r\nHost: h\r\n\r\n",
    "chunked": CHUNKED + b"0\r\n\r\n",
    "expectation": b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
    "options": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, te\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nUpgrade: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "absolute": b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "no host's name": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "empty line": b"\r\n" + GET,
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_head_without_anything_odd_goes_the_straight_way(name: str) -> None:
    assert goes_straight(STRAIGHT[name])


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_leaves_it_for_as_long_as_it_is_odd(parser: RequestParser, name: str) -> None:
    assert not goes_straight(ODD[name])
    parser.feed(ODD[name])
    if parser.state is not State.DONE:
        assert type(feed(parser, GET).header_section) is RawHeaderSection


def test_a_head_in_pieces_is_taken_with_care_and_the_next_is_not(parser: RequestParser) -> None:
    assert parser.feed(GET[:9]) is None
    assert type(feed(parser, GET[9:]).header_section) is not RawHeaderSection
    assert type(feed(parser, GET).header_section) is RawHeaderSection


class Listener:
    """What httptools tells of a message by its callbacks."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))


@pytest.mark.parametrize("name", STRAIGHT)
def test_its_fields_are_those_that_httptools_tells_of(parser: RequestParser, name: str) -> None:
    listener = Listener()
    httptools.HttpRequestParser(listener).feed_data(STRAIGHT[name])
    assert feed(parser, STRAIGHT[name]).headers.raw == listener.fields


@pytest.mark.parametrize("name", STRAIGHT)
def test_byte_by_byte_it_is_the_same(parser: RequestParser, name: str) -> None:
    other = RequestParser(Settings())
    requests = [other.feed(bytes([byte])) for byte in STRAIGHT[name]]
    slow, straight = requests[-1], feed(parser, STRAIGHT[name])
    assert slow is not None
    for attribute in ("method", "target", "body", "plain", "keep_alive", "minor", "host", "size"):
        assert getattr(slow, attribute) == getattr(straight, attribute), attribute
    assert slow.headers.raw == straight.headers.raw
    for what in ("host", "length", "close", "has_no_body", "chunked"):
        assert getattr(slow.header_section, what) == getattr(straight.header_section, what), what
    assert slow.header_section.indexed.keys() == straight.header_section.indexed.keys()
    for number in INDEXED_FIELDS.values():
        assert slow.header_section.last_value(number) == straight.header_section.last_value(number)


def test_a_section_is_compared_with_the_connection_s_last_one(parser: RequestParser) -> None:
    first, second = feed(parser, GET), feed(parser, b"DELETE /other HTTP/1.1\r\nHost: h\r\n\r\n")
    assert first.header_section is second.header_section
    other = feed(parser, b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n")
    assert other.header_section is not first.header_section
    assert feed(RequestParser(Settings()), GET).header_section is not first.header_section, "another connection's"
    large = feed(parser, b"GET / HTTP/1.1\r\nHost: h\r\nA: %b\r\n\r\n" % (b"b" * http.COMPARED_SECTION))
    assert parser._section is other.header_section is not large.header_section


def test_what_a_handler_does_to_a_request_stays_there(parser: RequestParser) -> None:
    first = feed(parser, GET)
    first.headers.raw.append(("x", "y"))
    first.keep_alive = False
    first.body = b"changed"
    second = feed(parser, GET)
    assert (second.headers.raw, second.keep_alive, second.body) == ([("host", "h")], True, b"")


@pytest.mark.parametrize("bad", [b"A b", b"A : b", b" A: b", b"A: \x00", b"A: b\rc", b"A: b\nc", b": b"])
def test_one_that_was_refused_is_refused_again(bad: bytes) -> None:
    known = Vocabulary(Settings())
    for _ in range(2):
        with pytest.raises(HTTPError, match="400"):
            RequestParser(Settings(), vocabulary=known).feed(b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % bad)


def test_vocabularies_are_bounded(parser: RequestParser, known: Vocabulary) -> None:
    for number in range(WORDS * 2 + 5):
        feed(parser, b"GET / HTTP/1.1\r\nHost: h%d\r\nA%d: b\r\n\r\n" % (number, number))
        assert len(known.names) <= WORDS
        assert len(known.hosts) <= WORDS
    feed(parser, b"GET / HTTP/1.1\r\nHost: h\r\n%b: b\r\n\r\n" % (b"a" * 500))
    assert max(map(len, known.names)) <= WORD_SIZE


@pytest.mark.parametrize("limits", [{"max_head": 1024}, {"max_line": 64}])
def test_it_passes_no_limit(limits: dict[str, Any]) -> None:
    parser = RequestParser(Settings(**limits))
    for target in (b"/", b"/" + b"a" * 49):
        assert feed(parser, b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target).target == target
    with pytest.raises(HTTPError, match="414"):
        feed(parser, b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * 1024))


@pytest.mark.parametrize("size", [1, http.SMALL_BODY - 1, http.SMALL_BODY, http.SMALL_BODY + 1])
@pytest.mark.parametrize("behind", [b"", GET])
def test_a_body_that_came_with_its_head(parser: RequestParser, size: int, behind: bytes) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    request = feed(parser, POST.replace(b": 3", b": %d" % size) + body[:size] + behind)
    assert request.body == body[:size]
    assert type(request.body) is bytes
    if behind:
        following = parser.next()
        assert following is not None
        assert following.target == b"/"
    assert (parser.state, parser.pending) == (State.START, b"")


@pytest.mark.parametrize("failure", [MemoryError, KeyboardInterrupt])
def test_a_judgement_that_was_broken_off_spoils_no_other(known: Vocabulary, failure: type[BaseException]) -> None:
    """It is one for all connections."""
    parsers = [RequestParser(Settings(), vocabulary=known) for _ in range(2)]
    judge = known.validate

    def broken_off(data: Any) -> None:
        judge(data[:-2])
        raise failure

    known.validate = broken_off
    with pytest.raises(failure):
        parsers[0].feed(GET)
    assert feed(parsers[1], GET).target == b"/"


# limits


def test_default_limits() -> None:
    parser = RequestParser(Settings())
    with pytest.raises(HTTPError, match=r"414 .* 16384 bytes"):
        parser.feed(b"GET /" + b"a" * 17_000)
    parser = RequestParser(Settings())
    with pytest.raises(HTTPError, match=r"413 .* 16777216 bytes"):
        parser.feed(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 16777217\r\n\r\n")
    parser = RequestParser(Settings())
    with pytest.raises(HTTPError, match=r"431 .* more than 100 header fields"):
        parser.feed(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 100 + b"\r\n")


def test_a_length_of_thousands_of_digits(parser: RequestParser) -> None:
    """More than Python turns into a number."""
    data = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %b3\r\n\r\nabc" % (b"0" * 5000)
    assert feed(parser, data).body == b"abc"


def test_content_of_no_byte_when_none_is_allowed() -> None:
    parser = RequestParser(Settings(max_body=0))
    assert feed(parser, GET).body == b""
    assert feed(parser, CHUNKED + b"0\r\n\r\n").body == b""
    with pytest.raises(HTTPError, match="413"):
        parser.feed(CHUNKED + b"1\r\n")


def test_a_chunk_is_refused_before_it_is_sent() -> None:
    parser = RequestParser(Settings(max_body=10))
    with pytest.raises(HTTPError, match="413"):
        parser.feed(CHUNKED + b"b\r\n")


# faults


def test_memory_error_is_no_refusal(parser: RequestParser, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise httptools.HttpParserCallbackError from None  # its __context__ is what the callback raised

    parser.feed(CHUNKED)
    monkeypatch.setattr(parser, "_execute", fail)
    with pytest.raises(MemoryError):
        parser.feed(b"3\r\nabc\r\n")


def test_callback_error_without_a_reason_is_a_refusal(parser: RequestParser, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> None:
        raise httptools.HttpParserCallbackError("why")

    parser.feed(CHUNKED)
    monkeypatch.setattr(parser, "_execute", fail)
    with pytest.raises(HTTPError, match=r"400 .*why"):
        parser.feed(b"3\r\nabc\r\n")


@pytest.mark.parametrize("body", [b"3\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n"])
def test_a_disagreement_over_the_chunks_is_a_refusal(
    parser: RequestParser, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """Should llhttp ever find another end than the one that was counted, nothing behind it is trusted."""
    parser.feed(CHUNKED)
    complete = not body.endswith(b"0\r\n\r\n")

    def feed_otherwise(data: bytes) -> None:
        if complete:
            monkeypatch.setattr(parser, "_unfinished", [])

    monkeypatch.setattr(parser, "_execute", feed_otherwise)
    with pytest.raises(HTTPError, match=r"400 .* not in chunks"):
        parser.feed(body)
    assert parser.state is State.DONE


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_llhttp_gets_the_chunks_with_their_bare_size(
    parser: RequestParser, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """No extension, no whitespace, no trailer field: what it would make of them is of no interest."""
    parser.feed(CHUNKED)
    fed: list[bytes] = []
    execute = parser._execute
    assert execute is not None

    def record(data: bytes) -> None:
        fed.append(data)
        execute(data)

    monkeypatch.setattr(parser, "_execute", record)
    body = b'0003 ; a = "b;\\""\r\nabc\r\nA;c\r\n0123456789\r\n00;d\r\nConnection: close\r\nX: y\r\n\r\n'
    got = [parser.feed(body[at : at + size]) for at in range(0, len(body), size)]
    assert [request.body for request in got if request is not None] == [b"abc0123456789"]
    assert b"".join(fed) == b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"
    assert feed(parser, GET).target == b"/", "a trailer field ended the connection"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\r\n",
        CHUNKED + b"3\r\nabcX",
        CHUNKED + b"ffffffff\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"GET /" + b"a" * 20_000,
    ],
)
def test_nothing_is_left_of_a_refused_stream(parser: RequestParser, data: bytes) -> None:
    with pytest.raises((HTTPError, PeerError)):
        parser.feed(data + GET)
    assert parser.state is State.DONE
    for more in (GET, b"\r\n", POST + b"abc", b"\x00"):
        assert parser.feed(more) is None
        assert (parser.pending, parser.incoming) == (b"", None)


@pytest.mark.parametrize("count", [1, CHUNKS_PER_STEP - 2, CHUNKS_PER_STEP, 1000, 5 * CHUNKS_PER_STEP])
def test_many_chunks_are_passed_over_in_steps(parser: RequestParser, count: int) -> None:
    """What they cost is then not paid by the other connections at once."""
    stream = CHUNKED + b"1\r\na\r\n" * count + b"0\r\n\r\n" + GET
    got = [parser.feed(stream)]
    while parser.pending:
        assert parser.received <= CHUNKS_PER_STEP * len(got)
        got.append(parser.next())
    bodies = [request.body for request in got if request is not None]
    assert bodies == [b"a" * count, b""]
    assert got.count(None) == (count + 1) // CHUNKS_PER_STEP, "no step is smaller than it need be"


# cost


def cost(stream: bytes, size: int) -> float:
    """Seconds for a stream received in pieces of a size."""
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    parser = RequestParser(Settings())
    start = time.process_time()
    for piece in pieces:
        request = parser.feed(piece)
        while request is not None or parser.pending:
            request = parser.next()
    return time.process_time() - start


HOSTILE: dict[str, Callable[[int], tuple[bytes, int]]] = {
    "pipelined requests": lambda n: (GET * (n // 32), 64 * KIB),
    "empty lines": lambda n: (b"\r\n" * (n // 2), 64 * KIB),
    "chunk of empty lines": lambda n: (CHUNKED + b"%x\r\n" % n + b"\r\n" * (n // 2) + b"\r\n0\r\n\r\n", 64 * KIB),
    "chunks of one byte": lambda n: (CHUNKED + b"1\r\na\r\n" * (n // 6) + b"0\r\n\r\n", 64 * KIB),
    "chunks in one piece": lambda n: (CHUNKED + b"1\r\na\r\n" * (n // 6) + b"0\r\n\r\n", n * 2),
    "content in pieces of 16 bytes": lambda n: (CHUNKED + b"%x\r\n" % n + b"a" * n + b"\r\n0\r\n\r\n", 16),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_cost_is_linear_in_bytes(name: str) -> None:
    """Eight times the bytes may take eight times as long, with room for a busy machine, but not 64 times."""
    small = min(cost(*HOSTILE[name](32 * KIB)) for _ in range(3))
    large = min(cost(*HOSTILE[name](256 * KIB)) for _ in range(2))
    assert large < 24 * small + 0.02


@pytest.mark.parametrize(
    "stream",
    [
        b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 16_000 + b"\r\n\r\n",
        CHUNKED + b"0" * 16_000 + b"3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\nA: " + b"b" * 16_000 + b"\r\n\r\n",
    ],
    ids=["target", "field", "chunk size", "trailer"],
)
def test_a_dribbled_line_costs_little(stream: bytes) -> None:
    assert cost(stream, 1) < 2.0


# limits of the parts of a head


def in_parts(parser: RequestParser, data: bytes, size: int) -> list[bytes]:
    """Feed `data` in pieces; gives the targets of its requests."""
    found = []
    for at in range(0, len(data), size):
        request = parser.feed(data[at : at + size])
        while request is not None:
            found.append(request.target)
            request = parser.next()
    return found


def with_line(length: int) -> bytes:
    return b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * (length - len("GET / HTTP/1.1")))


def with_field(length: int) -> bytes:
    return GET[:-2] + b"A: %b\r\n\r\n" % (b"a" * (length - 3))


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(
    ("settings", "head", "status"),
    [(Settings(max_line=80), with_line, 414), (Settings(max_field=80), with_field, 431)],
    ids=["line", "field"],
)
def test_a_part_of_a_head_may_have_its_limit_and_no_byte_more(
    size: int, settings: Settings, head: Callable[[int], bytes], status: int
) -> None:
    parser = RequestParser(settings)
    # Twice: the second finds the header section checked.
    assert len(in_parts(parser, head(80) * 2, size)) == 2
    with pytest.raises(HTTPError, match=f"{status} .* than 80 bytes"):
        in_parts(parser, head(81), size)


@pytest.mark.parametrize("head", [with_line, with_field], ids=["line", "field"])
def test_without_a_limit_of_its_own_a_part_may_be_as_large_as_the_head(head: Callable[[int], bytes]) -> None:
    assert len(in_parts(RequestParser(Settings()), head(16_000), 4096)) == 1
