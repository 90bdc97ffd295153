"""Peers that leave at every state, by FIN, by RST and by half-closing: nothing of them is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.support.client import PATIENCE, Client

from .harness import MIB, Served

pytestmark = pytest.mark.full

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
TOO_LARGE = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n"

NOWHERE = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"

Phase = Callable[[Client], None]


def _sent(data: bytes, await_answer: bytes = b"") -> Phase:
    """A state a client is in when it has sent this and, if anything is named, got that much of the answer."""

    def enter(client: Client) -> None:
        client.send(data)
        while await_answer not in client.data:
            assert client.more(4096)
        client.data = b""

    return enter


BIG = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"
STREAM = b"GET /stream/100 HTTP/1.1\r\nHost: a\r\n\r\n"

STATES: dict[str, tuple[Phase, int, bytes]] = {
    "new": (_sent(b""), 0, b""),
    "idle": (_sent(GET, b"\r\n\r\nok"), 0, b""),
    "empty lines": (_sent(b"\r\n\r\n"), 0, b""),
    "head": (_sent(GET[:-6]), 400, b"}"),
    "body": (_sent(UPLOAD + b"some"), 400, b"}"),
    "body not begun": (_sent(UPLOAD), 400, b"}"),
    "body waited for": (
        _sent(UPLOAD.replace(b"Host", b"Expect: 100-continue\r\nHost"), b" 100 Continue\r\n\r\n"),
        400,
        b"}",
    ),
    "chunk": (_sent(CHUNKED + b"a\r\nsome"), 400, b"}"),
    "trailers": (_sent(CHUNKED + b"0\r\nA: "), 400, b"}"),
    "sending": (_sent(BIG, b"bbb"), 0, b"b" * MIB),
    "last answer": (_sent(BIG.replace(b"Host", b"Connection: close\r\nHost"), b"bbb"), 0, b"b" * MIB),
    "stream": (_sent(STREAM, b"ppp"), 0, b"p\r\n0\r\n\r\n"),
    "pipelined": (_sent(BIG + GET * 3 + NOWHERE, b"bbb"), 404, b"}"),
    "pipelined stream": (_sent(STREAM + GET * 3 + NOWHERE, b"ppp"), 404, b"}"),
    "pipelined, cut": (_sent(BIG + GET * 3 + GET[:-6], b"bbb"), 400, b"}"),
    "lingering": (_sent(TOO_LARGE + b"u" * 4096, b'"}'), 0, b""),
}
"""How a client gets into the state; and when it half-closes there, the last status it still gets and the last bytes."""


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with Served() as served:
        served.held()
        yield served
        served.assert_no_failure()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["fin", "rst"])
def test_a_peer_that_leaves_leaves_nothing(server: Served, state: str, leave: Callable[[Client], None]) -> None:
    before = server.held()
    enter = STATES[state][0]
    clients = [Client(server.address, 65536) for _ in range(3)]
    for client in clients:
        enter(client)
    server.await_that(lambda: server.counts()["connections"] == before["connections"] + 3, PATIENCE, server.counts)
    for client in clients:
        leave(client)
    server.await_held(before)


@pytest.mark.parametrize("state", STATES)
def test_a_peer_that_half_closes_gets_what_is_owed_and_leaves_nothing(server: Served, state: str) -> None:
    before = server.held()
    enter, status, end = STATES[state]
    with Client(server.address, 65536) as client:
        enter(client)
        client.half_close()
        answer = client.rest()
    statuses = [int(found) for found in re.findall(rb"HTTP/1\.1 (\d+)", answer)]
    assert (statuses or [0])[-1] == status
    assert answer.endswith(end) if end else answer == b""
    server.await_held(before)


@pytest.mark.parametrize("state", STATES)
def test_a_peer_that_half_closes_and_then_resets_leaves_nothing(server: Served, state: str) -> None:
    before = server.held()
    client = Client(server.address, 65536)
    STATES[state][0](client)
    client.half_close()
    client.reset()
    server.await_held(before)


SHORT = (
    (GET.replace(b"Host", b"Connection: close\r\nHost"), b"HTTP/1.1 200 "),
    (GET, b"HTTP/1.1 200 "),
    (b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nsome", b"HTTP/1.1 200 "),
    (CHUNKED + b"4\r\nsome\r\n0\r\n\r\n", b"HTTP/1.1 200 "),
    (b"GET /stream/1 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 "),
    (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", b"HTTP/1.1 200 "),
    (NOWHERE, b"HTTP/1.1 404 "),
    (b"GET / HTTP/1.1\r\nbroken\r\n\r\n", b"HTTP/1.1 400 "),
    (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
    (TOO_LARGE, b"HTTP/1.1 413 "),
    (CHUNKED + b"x\r\n", b"HTTP/1.1 400 "),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    (GET[:-6], b""),
    (UPLOAD + b"so", b""),
)
"""Requests in full, refused and broken off, and how the answer begins that is waited for."""


def test_with_the_collector_off_10000_connections_leave_no_objects(server: Served) -> None:
    def come_and_go(count: int) -> None:
        for index in range(count):
            request, begin = SHORT[index % len(SHORT)]
            client = Client(server.address)
            client.send(request)
            if begin:
                assert client.more()
                assert client.data.startswith(begin)
            client.reset()
            if index % 500 == 499:
                server.ask("/")

    before = server.held()
    come_and_go(500)
    server.await_held(before)
    server.ask("/collector/off", "POST")
    try:
        objects = server.counts()["objects"]
        come_and_go(10_000)
        live = ("connections", "connection_objects", "parser_objects", "streams")
        server.await_that(
            lambda: all(server.counts()[name] == before[name] for name in live), 5, lambda: (server.counts(), before)
        )
        assert server.counts()["objects"] - objects < 200
    finally:
        server.ask("/collector/on", "POST")
    server.await_held(before)
