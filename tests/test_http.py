"""The parser's inner life: what it keeps, what it forgets, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httptools
import pytest

from hypoll import http
from hypoll.chunked import CHUNKS_PER_STEP
from hypoll.http import HTTPError, Known, Peer, PeerError, Request, RequestParser, State
from hypoll.settings import Settings

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def parser(known: Known) -> RequestParser:
    return RequestParser(Settings(), known=known)


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


# the memory of request lines and header sections


def test_requests_with_equal_sections_share_one(parser: RequestParser, known: Known) -> None:
    first, second = feed(parser, GET), feed(parser, b"DELETE /other HTTP/1.1\r\nHost: h\r\n\r\n")
    assert first.section is second.section
    assert list(known.sections.values()) == [first.section]
    assert (second.method, second.target, second.body) == ("DELETE", b"/other", b"")


def test_parsers_share_a_memory(parser: RequestParser, known: Known) -> None:
    first = feed(parser, GET)
    assert feed(RequestParser(Settings(), known=known), GET).section is first.section


def test_without_a_memory_each_parser_has_its_own() -> None:
    assert feed(RequestParser(Settings()), GET).section is not feed(RequestParser(Settings()), GET).section


def test_what_a_handler_does_to_a_request_stays_there(parser: RequestParser) -> None:
    first = feed(parser, GET)
    first.headers.raw.append(("x", "y"))
    first.keep_alive = False
    first.body = b"changed"
    second = feed(parser, GET)
    assert second.headers.raw == [("host", "h")]
    assert (second.keep_alive, second.body) == (True, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        CHUNKED + b"0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * http.SECTION_SIZE + b"\r\n\r\n",
    ],
)
def test_only_plain_and_short_sections_are_kept(parser: RequestParser, known: Known, data: bytes) -> None:
    feed(parser, data)
    assert not known.sections


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET /# HTTP/1.1\r\nHost: h\r\n\r\n"]
)
def test_what_was_refused_is_not_kept(parser: RequestParser, known: Known, data: bytes) -> None:
    with pytest.raises(HTTPError):
        parser.feed(data)
    assert not known.sections


def test_the_memory_is_bounded(parser: RequestParser, known: Known) -> None:
    for number in range(http.SECTIONS * 2 + 5):
        feed(parser, b"GET / HTTP/1.1\r\nHost: h\r\nA: %d\r\n\r\n" % number)
        assert len(known.sections) <= http.SECTIONS


def test_lines_that_repeat_are_remembered(parser: RequestParser, known: Known) -> None:
    feed(parser, GET)
    for _ in range(2):
        request = feed(parser, b"PUT /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (request.method, request.target, request.plain) == ("PUT", b"/a?b=c", True)
    assert known.lines == {b"PUT /a?b=c": ("PUT", b"/a?b=c")}


def test_the_memory_of_lines_is_bounded_and_renewed(parser: RequestParser, known: Known) -> None:
    feed(parser, GET)
    for number in range(http.LINES * 2):
        assert feed(parser, b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number).target == b"/%d" % number
    assert len(known.lines) == http.LINES
    known.tidy()
    assert not known.lines
    feed(parser, GET)
    known.tidy()
    assert list(known.lines) == [b"GET /"]


def test_a_long_line_is_served_but_not_remembered(parser: RequestParser, known: Known) -> None:
    feed(parser, GET)
    for size in (http.LINE_SIZE, http.SIMPLE_LINE_SIZE, http.SIMPLE_LINE_SIZE + 1):
        target = b"/" + b"a" * size
        assert feed(parser, b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target).target == target
    assert not known.lines


@pytest.mark.parametrize("limits", [{"max_head": 1024}, {"max_line": 64}])
def test_what_is_known_passes_no_limit(known: Known, limits: dict[str, Any]) -> None:
    parser = RequestParser(Settings(**limits), known=known)
    feed(parser, GET)
    for target in (b"/", b"/" + b"a" * 49):
        for _ in range(2):
            assert feed(parser, b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target).target == target
    with pytest.raises(HTTPError, match="414"):
        feed(parser, b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * 1024))


def test_a_known_line_excuses_no_bad_section(parser: RequestParser) -> None:
    for _ in range(2):
        feed(parser, GET)
    with pytest.raises(HTTPError, match="400"):
        parser.feed(b"GET / HTTP/1.1\r\nHost: h\r\nA b\r\n\r\n")


def test_a_body_that_came_whole_with_its_head(parser: RequestParser) -> None:
    assert parser.quick(POST + b"abc") is None
    assert feed(parser, POST + b"abc").body == b"abc"
    for body in (b"abc", b"\r\n\r", b"\x00\n\xff"):
        request = parser.quick(POST + body)
        assert request is not None
        assert (request.method, request.body, request.plain) == ("POST", body, True)
    for more in (b"", b"ab", b"abcd", b"abc" + GET, b"abc" + POST + b"abc"):
        assert parser.quick(POST + more) is None
        assert (parser.state, parser.pending) == (State.START, b"")
    assert feed(parser, POST + b"abc" + GET).body == b"abc"
    assert parser.next() is not None
    feed(parser, GET)
    assert getattr(parser.quick(GET), "body", None) == b""


@pytest.mark.parametrize(("size", "quick"), [(http.QUICK_BODY, True), (http.QUICK_BODY + 1, False)])
def test_a_large_body_goes_the_long_way(parser: RequestParser, size: int, quick: bool) -> None:
    data = POST.replace(b": 3", b": %d" % size) + b"x" * size
    feed(parser, data)
    assert (parser.quick(data) is not None) == quick


def test_a_known_section_excuses_no_body_that_is_too_large(known: Known) -> None:
    feed(RequestParser(Settings(), known=known), POST + b"abc")
    with pytest.raises(HTTPError, match="413"):
        RequestParser(Settings(max_body=2), known=known).feed(POST + b"abc")


@pytest.mark.parametrize("failure", [MemoryError, KeyboardInterrupt])
def test_a_judgement_that_was_broken_off_spoils_no_other(known: Known, failure: type[BaseException]) -> None:
    """It is one for all connections."""
    parsers = [RequestParser(Settings(), known=known) for _ in range(2)]
    feed(parsers[0], GET)
    judge = known.execute

    def broken_off(data: Any) -> None:
        judge(data[:-2])
        raise failure

    known.execute = broken_off
    with pytest.raises(failure):
        parsers[0].quick(GET)
    assert all(parser.quick(GET) is not None for parser in parsers)


def test_quick_leaves_alone_what_it_does_not_give(parser: RequestParser) -> None:
    assert parser.quick(GET) is None
    assert parser.add(GET) is not None
    assert parser.quick(GET) is not None
    for data in (POST, GET + GET, GET[:-1], b"HEAD" + GET[3:], GET.replace(b"1.1", b"1.0")):
        assert parser.quick(data) is None
        assert (parser.state, parser.pending) == (State.START, b"")
    assert parser.add(POST) is None
    assert parser.quick(GET) is None  # it would be the body's


@pytest.mark.parametrize(
    "line",
    [
        b"GET /# HTTP/1.1",
        b"GET /%zz HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET a HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\t HTTP/1.1",
        b"GET /\r HTTP/1.1",
        b"GET /\n HTTP/1.1",
        b"FETCH / HTTP/1.1",
        b"CONNECT / HTTP/1.1",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1",
    ],
)
def test_a_known_section_excuses_no_bad_line(known: Known, line: bytes) -> None:
    fresh, knowing = RequestParser(Settings()), RequestParser(Settings(), known=known)
    feed(knowing, GET)
    with pytest.raises(HTTPError) as expected:
        fresh.feed(line + b"\r\nHost: h\r\n\r\n")
    with pytest.raises(HTTPError) as seen:
        knowing.feed(line + b"\r\nHost: h\r\n\r\n")
    assert str(seen.value) == str(expected.value)
    assert knowing.feed(GET) is None
    assert not known.lines


def test_a_known_section_and_one_that_is_not_to_be_persistent(parser: RequestParser) -> None:
    """Only the short way knows of a section by its bytes; the version stands before them."""
    feed(parser, GET)
    request = feed(parser, b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
    assert (request.minor, request.keep_alive, request.plain) == (0, False, False)


@pytest.mark.parametrize(("method", "plain"), [(b"GET", True), (b"HEAD", False), (b"POST", True)])
def test_plain_on_both_ways(parser: RequestParser, method: bytes, plain: bool) -> None:
    data = method + GET[3:]
    assert [feed(parser, data).plain for _ in range(2)] == [plain, plain]


def test_a_known_upgrade_is_parsed_each_time(parser: RequestParser) -> None:
    data = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    for _ in range(3):
        assert feed(parser, data).headers["upgrade"] == "x"
        assert feed(parser, GET).target == b"/"


def test_a_known_length_still_needs_its_content(parser: RequestParser) -> None:
    for _ in range(3):
        assert parser.feed(POST) is None
        assert feed(parser, b"abc").body == b"abc"


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

    monkeypatch.setattr(parser, "_execute", fail)
    with pytest.raises(MemoryError):
        parser.feed(GET)


def test_callback_error_without_a_reason_is_a_refusal(parser: RequestParser, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> None:
        raise httptools.HttpParserCallbackError("why")

    monkeypatch.setattr(parser, "_execute", fail)
    with pytest.raises(HTTPError, match=r"400 .*why"):
        parser.feed(GET)


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
    # Twice: the second finds the header section judged.
    assert len(in_parts(parser, head(80) * 2, size)) == 2
    with pytest.raises(HTTPError, match=f"{status} .* than 80 bytes"):
        in_parts(parser, head(81), size)


@pytest.mark.parametrize("head", [with_line, with_field], ids=["line", "field"])
def test_without_a_limit_of_its_own_a_part_may_be_as_large_as_the_head(head: Callable[[int], bytes]) -> None:
    assert len(in_parts(RequestParser(Settings()), head(16_000), 4096)) == 1
