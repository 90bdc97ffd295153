"""The suite's own parts: a client that is lenient, or an expectation that anything meets, would find nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.conformance.asgi import report
from tests.conformance.asgi.case import MUST, SHOULD, Answer, Case, Check, Framing
from tests.conformance.asgi.cases import CASES
from tests.conformance.asgi.client import Client, Ended, ProtocolError, Response
from tests.conformance.asgi.peers import PEERS
from tests.conformance.asgi.run import Outcome, Result, check_response, matches


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def read(listener: socket.socket, raw: bytes, *, head: bool = False) -> tuple[Response, bytes]:
    """Have the client read what a server sends before it ends; and what it left."""
    client = Client(listener.getsockname())
    try:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(raw)
        return client.read_response(head=head), client.data
    finally:
        client.close()


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "content", "framing", "whole", "left"),
    [
        (LENGTH + b"more", b"ok", Framing.LENGTH, True, b"more"),
        (LENGTH[:-1], b"o", Framing.LENGTH, False, b"o"),
        (CHUNKED + b"1\r\no\r\n1;x\r\nk\r\n0\r\n\r\nmore", b"ok", Framing.CHUNKED, True, b"more"),
        (CHUNKED + b"1\r\no\r\n", b"o", Framing.CHUNKED, False, b""),
        (CHUNKED + b"1\r\no\r\n0\r\n", b"o", Framing.CHUNKED, False, b""),
        (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok", Framing.CLOSE, True, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\nmore", b"", Framing.NONE, True, b"more"),
    ],
)
def test_a_response_ends_where_its_framing_says(listener, raw, content, framing, whole, left):
    response, rest = read(listener, raw)
    assert (response.content, response.framing, response.whole) == (content, framing, whole)
    assert whole is False or rest == left


def test_a_response_to_head_has_no_content(listener):
    response, left = read(listener, LENGTH, head=True)
    assert (response.content, response.whole, left) == (b"", True, b"ok")


def test_interim_responses_and_trailers_are_kept_apart(listener):
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + CHUNKED + b"0\r\nX-A: b\r\n\r\n"
    response, _ = read(listener, raw)
    assert response.status == 200
    assert response.interims == [(103, [(b"link", b"<a>")])]
    assert response.trailers == [(b"x-a", b"b")]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"okHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\nX-B: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"x\r\n\r\n",
        CHUNKED + b"1\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A",
    ],
)
def test_what_is_no_response_is_reported(listener, raw):
    with pytest.raises(ProtocolError):
        read(listener, raw)


def test_an_end_without_a_response_is_told_from_one_within(listener):
    with pytest.raises(Ended):
        read(listener, b"")


def test_values_match_with_their_types():
    assert matches(1, 1)
    assert not matches(1, True)
    assert not matches("1", b"1")
    assert matches(Check("positive", lambda value: value > 0), 1)
    assert not matches(Check("positive", lambda value: value > 0), "x")


RESPONSE = Response("1.1", 200, [(b"x-a", b"1"), (b"x-a", b"2")], b"ok", Framing.CHUNKED, True, [], [])


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(201),
        Answer(200, b"no"),
        Answer(200, whole=False),
        Answer(200, framing=Framing.LENGTH),
        Answer(200, fields=((b"x-a", (b"1",)),)),
        Answer(200, fields=((b"x-b", (b"1",)),)),
        Answer(200, interims=(100,)),
        Answer(200, trailers=((b"x", b"y"),)),
    ],
)
def test_each_part_of_an_expectation_is_looked_at(wrong):
    right = Answer(200, b"ok", Framing.CHUNKED, ((b"x-a", (b"1", b"2")), (b"x-b", ())), interims=(), trailers=())
    assert list(check_response(RESPONSE, right)) == []
    assert len(list(check_response(RESPONSE, wrong))) == 1


def results(*outcomes: tuple[str, Outcome]) -> list[Result]:
    return [
        Result(Case(name, MUST if number % 2 == 0 else SHOULD, "source", ()), outcome, ("reason",))
        for number, (name, outcome) in enumerate(outcomes)
    ]


def test_levels_are_counted_apart_and_skips_are_not_failures():
    found = results(("a:1", Outcome.PASS), ("a:2", Outcome.FAIL), ("b:3", Outcome.SKIP), ("b:4", Outcome.PASS))
    assert [line.split() for line in report.table(found).split("\n")[2:]] == [
        ["a", "1", "0", "0", "0", "1", "0"],
        ["b", "0", "0", "1", "1", "0", "0"],
        ["all", "1", "0", "1", "1", "1", "0"],
    ]
    assert report.failures(found).split("\n") == ["should: a:2 (source)", "    reason"]
    assert (report.cell(found, MUST), report.cell(found, SHOULD)) == ("1 of 1", "1 of 2")
    assert report.cell(found, MUST, "b") == "-"


def test_each_case_expects_something():
    for case in CASES:
        expects = (case.answers, case.told, case.lifespan_told, case.scope, case.order, case.log, case.unlogged)
        assert any(expects) or case.calls is not None or case.lifespan, case.name
        assert case.source
        assert not case.variant or case.variant in PEERS["hypoll"]._fields
