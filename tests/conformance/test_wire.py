"""The wire corpus against the parser, cut in every way, and against a connection, read by another HTTP library."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import h11
import pytest

from hypoll.http import HTTPError, Peer, PeerError, Request, RequestParser, Response, State, Vocabulary
from hypoll.loop import Loop
from hypoll.server.connection import Connection
from hypoll.server.context import ServerContext
from tests.conformance.wire import CASES, LIMITS, Case, End, Got
from tests.support.clock import Clock

MARKER = b"GET /marker HTTP/1.1\r\nHost: h\r\n\r\n"
MARKED = Got("GET", "/marker")

PLACES = 60
"""About how many places a stream is split at that is longer than twice that: the first and last, and some between."""

MORE_PLACES = 600
"""The same where there is time."""

every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


class Outcome(NamedTuple):
    """What a parser made of a stream. `detail`: what a refusal said."""

    requests: list[Request]
    end: int | End
    detail: str = ""

    def seen(self) -> tuple[list[tuple[object, ...]], int | End, str]:
        """All of it that must not depend on how the stream was cut."""
        requests: list[tuple[object, ...]] = [
            (
                *(request.method, request.target, request.body, request.keep_alive, request.minor, request.host),
                *(request.expects_continue, request.headers.raw),
            )
            for request in self.requests
        ]
        return requests, self.end, self.detail


ENDS = {
    State.START: End.OPEN,
    State.BLANK: End.OPEN,
    State.HEAD: End.WAITING,
    State.BODY: End.WAITING,
    State.DONE: End.LAST,
}


def parse(pieces: Iterable[bytes], known: Vocabulary | None = None) -> Outcome:
    """Feed a new parser, and after a refusal see to it that nothing is left in it."""
    parser = RequestParser(LIMITS, vocabulary=known)
    requests: list[Request] = []
    try:
        for piece in pieces:
            request = parser.feed(piece)
            while request is not None or parser.pending:
                if request is not None:
                    requests.append(request)
                request = parser.next()
    except (HTTPError, PeerError) as error:
        assert_silent(parser)
        if isinstance(error, PeerError):
            return Outcome(requests, End.SILENT)
        return Outcome(requests, error.status, error.detail)
    if parser.state is State.DONE:
        assert_silent(parser)
    return Outcome(requests, ENDS[parser.state])


def assert_silent(parser: RequestParser) -> None:
    assert parser.state is State.DONE
    assert parser.feed(MARKER) is None
    assert parser.next() is None
    assert not parser.pending
    assert parser.incoming is None


def one_by_one(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def splits(stream: bytes, places: int, end: int) -> Iterator[list[bytes]]:
    """The stream in two pieces, for every place up to `end`, or for about so many if there are twice as many."""
    step = 1 if end <= 2 * places else -(-3 * end // places)
    for at in range(1, end + 1):
        if at % step == 0 or at < places // 3 or end - at < places // 3:
            yield [stream[:at], stream[at:]]


def expected_end(case: Case) -> int | End:
    return End.WAITING if case.end is End.WAITING_CONTENT else case.end


def as_expected(case: Case, outcome: Outcome) -> bool:
    """Hold an outcome against a case. Raises `AssertionError`; True otherwise."""
    assert (outcome.end, outcome.detail) == (expected_end(case), outcome.detail)
    assert bool(outcome.detail) == isinstance(case.end, int), "a refusal says what was wrong"
    assert len(outcome.requests) == len(case.requests)
    for request, got in zip(outcome.requests, case.requests, strict=True):
        target = request.target.decode()
        assert (request.method, target, request.body, request.keep_alive) == got[:4]
        assert got.host is None or request.host == got.host
        assert got.fields is None or tuple(request.headers.raw) == got.fields
    return True


def marked(case: Case) -> Case:
    """The case with one request more behind it, which is only to be served when all before it was well."""
    goes_on = case.end is End.OPEN
    return case._replace(raw=case.raw + MARKER, requests=(*case.requests, MARKED) if goes_on else case.requests)


def can_be_followed(case: Case) -> bool:
    """What isn't whole goes on in whatever follows, so nothing can be said of a request behind it."""
    return expected_end(case) is not End.WAITING


FOLLOWED = [case for case in CASES if can_be_followed(case)]


def test_corpus_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@every_case
def test_a_case(case: Case, exchange: Exchanging) -> None:
    """In one test for the parser and a connection: a test itself takes as long as what either does for most cases."""
    check_however_it_is_cut(case)
    check_on_a_connection(case, exchange)


def check_however_it_is_cut(case: Case) -> None:
    """Whole, byte by byte, in two; and the first of the two alone gives no request that the whole doesn't have.

    The same with a request behind it, which is where a split shows whether all before it was well.
    """
    outcome = parse([case.raw])
    assert as_expected(case, outcome)
    assert parse(one_by_one(case.raw)).seen() == outcome.seen()
    if not can_be_followed(case):
        check_in_two(case, PLACES)
        return
    followed = marked(case)
    whole = parse([followed.raw])
    assert as_expected(followed, whole)
    assert parse(one_by_one(followed.raw)).seen() == whole.seen()
    check_in_two(followed, PLACES, len(case.raw))


@pytest.mark.full
@every_case
def test_with_nothing_behind_it_and_in_the_request_behind_it(case: Case) -> None:
    """The places that are left: those of a case by itself, and those of what follows it."""
    check_in_two(case, MORE_PLACES)
    if can_be_followed(case):
        check_in_two(marked(case), 200)


def check_in_two(case: Case, places: int, end: int | None = None) -> None:
    """Split a case at places up to `end`, by default at its own end."""
    whole = parse([case.raw]).seen()
    for pieces in splits(case.raw, places, end or len(case.raw) - 1):
        assert parse(pieces).seen() == whole, pieces
        begun = parse(pieces[:1]).seen()[0]
        assert begun == whole[0][: len(begun)], pieces[0]


def test_what_is_remembered_changes_nothing() -> None:
    """Every case after every other, with one memory of lines and sections, as the connections of a server have."""
    known = Vocabulary(LIMITS)
    for case in CASES + CASES[::-1]:
        alone = parse([case.raw])
        # Cut behind each head, so that what is remembered is what is looked at.
        for pieces in ([case.raw], [part + b"\r\n\r\n" for part in case.raw.split(b"\r\n\r\n")]):
            fresh = parse(pieces)
            for _ in range(2):
                assert parse(pieces, known).seen() == fresh.seen(), case.name
        assert parse([case.raw], known).seen() == alone.seen(), case.name


# The same on a connection.


class Echo:
    """Answers everything with what it was asked."""

    def __call__(self, request: Request) -> Response:
        seen = {"method": request.method, "target": request.target.decode(), "body": request.body.decode("latin-1")}
        return Response(json.dumps(seen).encode(), content_type="application/json")

    def early_refusal(self, request: Request) -> HTTPError | None:
        return None


class Answer(NamedTuple):
    """A response as h11 reads it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Exchange:
    """A connection of a server, its client's end of the socket, and what the client was sent."""

    def __init__(self, loop: Loop, shared: ServerContext) -> None:
        self.loop = loop
        self.server, self.client = socket.socketpair()
        self.server.setblocking(False)
        self.client.setblocking(False)
        self.connection = Connection(shared, self.server, Peer(("test", 1)))
        self.received = b""
        self.ended = False

    def send(self, data: bytes) -> None:
        """Send, if the server still takes anything."""
        while data and self.server.fileno() >= 0:
            try:
                data = data[self.client.send(data) :]
            except BrokenPipeError:
                break
            self.turn()

    def half_close(self) -> None:
        if self.server.fileno() >= 0:
            self.client.shutdown(socket.SHUT_WR)
            self.turn()

    def turn(self) -> None:
        """Let the server do all it can, and receive."""
        self.loop.poll_once(0)
        while self.loop.timeout() == 0.0:
            self.loop.poll_once(0)
        while not self.ended:
            try:
                data = self.client.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:  # what was sent after the end of an answer that the peer has
                data = b""
            self.received += data
            self.ended = not data

    def close(self) -> None:
        self.connection.close()
        self.client.close()


Exchanging = Callable[[list[bytes]], Exchange]


@pytest.fixture(scope="module")
def shared() -> Iterator[ServerContext]:
    loop = Loop(Clock())  # no time passes: thousands of bytes one by one may take longer than a body may
    yield ServerContext(loop, Echo(), LIMITS)
    loop.close()


@pytest.fixture
def exchange(shared: ServerContext) -> Iterator[Exchanging]:
    """Makes a connection that was sent the pieces, one at a time, and then the end."""
    made: list[Exchange] = []

    def make(pieces: list[bytes]) -> Exchange:
        exchange = Exchange(shared.loop, shared)
        made.append(exchange)
        for piece in pieces:
            exchange.send(piece)
        exchange.half_close()
        return exchange

    yield make
    for exchange in made:
        exchange.close()


def answers_of(received: bytes, requests: tuple[Got, ...], refused: str = "GET") -> tuple[list[Answer], int]:
    """The answers, each read by a client that asked what it answers, and how many were 100 (Continue).

    refused: the method of what has no answer but a refusal.
    """
    answers = []
    interim = 0
    methods = [request.method for request in requests]
    while received:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=methods.pop(0) if methods else refused, target="/", headers=[("Host", "h")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        client.receive_data(b"")
        body = b""
        head: h11.Response | None = None
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.InformationalResponse):
                assert event.status_code == 100
                interim += 1
            else:
                assert isinstance(event, h11.Data), event
                body += bytes(event.data)
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        assert len(headers) == len(head.headers), "no field is there twice"
        answers.append(Answer(head.status_code, headers, body))
        received = client.trailing_data[0]
    return answers, interim


def assert_answered(case: Case, exchange: Exchange) -> None:
    """The answers to the requests in order, then the refusal, then the end."""
    requests = case.requests
    answers, interim = answers_of(exchange.received, requests, case.refused)
    refusal = case.end if isinstance(case.end, int) else 400 if expected_end(case) is End.WAITING else None
    assert [answer.status for answer in answers] == [200] * len(requests) + [refusal] * (refusal is not None)
    for request, answer in zip(requests, answers, strict=False):
        assert answer.headers["server"] == "hypoll"
        told = {"method": request.method, "target": request.target, "body": request.body.decode("latin-1")}
        if request.method == "HEAD":
            assert int(answer.headers["content-length"]) == len(json.dumps(told))
        else:
            assert json.loads(answer.body) == told
    if refusal is not None:
        assert answers[-1].headers["content-type"] == "application/problem+json"
        if case.refused == "HEAD":
            assert int(answers[-1].headers["content-length"]) > 0
        else:
            document = json.loads(answers[-1].body)
            assert document["status"] == refusal
            assert document["detail"]
    closing = [answer.headers.get("connection") == "close" for answer in answers]
    ends_with_answer = refusal is not None or case.end is End.LAST
    assert closing == [False] * (len(answers) - 1) + [ends_with_answer] * bool(answers)
    if case.end is End.WAITING_CONTENT:
        assert interim == 1
    elif b"100-continue" not in case.raw.lower():
        assert interim == 0
    assert exchange.ended
    assert exchange.server.fileno() == -1


def check_on_a_connection(case: Case, exchange: Exchanging) -> None:
    """Byte by byte, and whole: with a request behind it where there can be one."""
    assert_answered(case, exchange(one_by_one(case.raw)))
    whole = marked(case) if can_be_followed(case) else case
    assert_answered(whole, exchange([whole.raw]))


@pytest.mark.full
@pytest.mark.parametrize("case", FOLLOWED, ids=[case.name for case in FOLLOWED])
def test_on_a_connection_whole_without_more_and_before_more(case: Case, exchange: Exchanging) -> None:
    assert_answered(case, exchange([case.raw]))
    assert_answered(marked(case), exchange([case.raw, MARKER]))


CONTINUE_ONCE = ["expect-continue", "expect-continue-any-case", "expect-continue-chunked", "expect-continue-upgrade"]


@pytest.mark.parametrize("name", CONTINUE_ONCE)
def test_continue_is_said_once_and_only_before_the_content(name: str, exchange: Exchanging) -> None:
    (case,) = [case for case in CASES if case.name == name]
    assert answers_of(exchange([case.raw]).received, case.requests)[1] == 0
    assert answers_of(exchange(one_by_one(case.raw)).received, case.requests)[1] == 1


@pytest.mark.parametrize(
    "name", ["expect-unknown", "expect-continue-too-large", "expect-of-1.0", "expect-continue-no-content"]
)
def test_continue_is_not_said(name: str, exchange: Exchanging) -> None:
    (case,) = [case for case in CASES if case.name == name]
    assert answers_of(exchange(one_by_one(case.raw)).received, case.requests)[1] == 0


def test_half_close_anywhere(exchange: Exchanging) -> None:
    """A peer that sends no more gets the answers to what was whole, and is told when the last was not."""
    stream = (
        b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        b"POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    whole = parse([stream]).requests
    for at in range(len(stream) + 1):
        begun = parse([stream[:at]])
        requests = tuple(Got(r.method, r.target.decode(), r.body) for r in begun.requests)
        assert requests == tuple(Got(r.method, r.target.decode(), r.body) for r in whole[: len(requests)])
        assert_answered(Case(f"cut at {at}", "9112-8", stream[:at], requests, begun.end), exchange([stream[:at]]))
