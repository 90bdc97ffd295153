"""Clients that want too much at once: what the server holds for them is bounded, and everybody has a turn."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator

import pytest

from hypoll import Request, Response, Routes
from tests.support.client import PATIENCE, Client

from .crowd import PROBE, Crowd, Peer
from .harness import MIB, Served
from .stage import Stage

pytestmark = pytest.mark.full

REQUESTS = 20_000
TORRENT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 4000
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"1\r\na\r\n" * 16_000


@pytest.fixture
def server() -> Iterator[Served]:
    with Served() as served:
        yield served
        served.assert_no_failure()


def _number(number: int) -> bytes:
    return b"GET /number/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number


def _send_what_goes(sock: socket.socket, data: memoryview) -> memoryview:
    """Send until the kernel takes no more; give the rest."""
    try:
        while data:
            data = data[sock.send(data) :]
    except BlockingIOError:
        pass
    return data


def test_20000_pipelined_requests_of_a_client_that_does_not_read_are_answered_when_it_does(server: Served) -> None:
    with Crowd(server) as crowd, socket.socket() as flood:
        crowd.run(lambda: len(crowd.latencies) >= 50, PATIENCE)
        memory = server.memory()
        flood.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flood.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        flood.connect(server.address)
        flood.setblocking(False)
        rest = _send_what_goes(flood, memoryview(b"".join(map(_number, range(REQUESTS)))))
        # While it doesn't read, the others are served, and no more is taken from it.
        for served in range(150, 400, 50):
            crowd.run(lambda served=served: len(crowd.latencies) >= served, PATIENCE)  # type: ignore[misc]
            rest = _send_what_goes(flood, rest)
        assert rest, "the server has read all that a client sent which reads nothing"
        assert server.memory() - memory < 4 * MIB
        assert crowd.percentile(0.99) < 0.050, crowd.report()
        answers = b""
        flood.settimeout(PATIENCE)
        while answers.count(b"HTTP/1.1 ") < REQUESTS or not answers.endswith(b"\r\n\r\n%d" % (REQUESTS - 1)):
            answers += flood.recv(1 << 20)
            flood.setblocking(False)
            rest = _send_what_goes(flood, rest)
            flood.settimeout(PATIENCE)
        numbers = re.findall(rb"HTTP/1\.1 200 OK\r\n(?:[^\r]+\r\n)+\r\n(\d+)", answers)
        assert [int(number) for number in numbers] == list(range(REQUESTS))
        assert server.memory() - memory < 4 * MIB


def test_200_pipelined_requests_for_a_mebibyte_each_are_handled_as_the_client_reads(server: Served) -> None:
    count, held = 200, 8
    memory = server.memory()
    with Client(server.address, 65536) as client:
        client.send(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n" * count)
        server.await_that(lambda: server.counts()["one"] > 0, PATIENCE, server.counts)
        assert max(server.counts()["one"] for _ in range(20)) <= held
        buffer = bytearray(MIB)
        received = checks = 0
        while received < count * MIB:
            if received >= checks * 4 * MIB:
                checks += 1
                assert server.counts()["one"] <= received // MIB + held
                assert server.memory() - memory < 16 * MIB
            received += client.sock.recv_into(buffer)
        assert server.counts()["one"] == count


def test_5000_connections_reset_in_the_middle_of_a_request_leave_nothing(server: Served) -> None:
    openings = (
        b"",
        b"GET / HTTP/1.1\r\nHo",
        b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\nsome",
        b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nso",
        b"GET /stream/99 HTTP/1.1\r\nHost: a\r\n\r\n",
    )

    def reset_many(count: int) -> None:
        for index in range(count):
            client = Client(server.address)
            client.send(openings[index % len(openings)])
            client.reset()
            if index % 500 == 499:
                server.ask("/")

    before = server.held()
    reset_many(500)
    server.await_held(before)
    memory = server.memory()
    reset_many(5000)
    server.await_held(before)
    assert server.memory() - memory < 2 * MIB


STREAM = b"GET /stream/1000000 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "greedy", [[(b"", TORRENT), (STREAM, b"")], [(CHUNKED, CHUNKS)]], ids=["requests and answers", "chunks"]
)
def test_a_client_at_full_speed_does_not_starve_the_others(server: Served, greedy: list[tuple[bytes, bytes]]) -> None:
    with Crowd(server) as crowd:
        for first, more in greedy:
            dribble = itertools.repeat(more) if more else None
            crowd.add(Peer(server.address, first, dribble=dribble, beat=0.001, keeps=False))
        crowd.run(lambda: len(crowd.latencies) >= 100, PATIENCE)
        assert crowd.percentile(0.99) < 0.100, crowd.report()


def _stage() -> Stage:
    routes = Routes()

    @routes.get("/")
    def index(request: Request) -> str:
        stage.calls += 1
        return "ok"

    @routes.get("/big")
    def big(request: Request) -> bytes:
        return b"b" * (8 * MIB)

    stage = Stage(routes)
    return stage


def test_an_accept_burst_lets_readers_have_their_turn() -> None:
    with _stage() as stage:
        reader = stage.connect()
        stage.turn_until(lambda: len(stage.server.connections) == 1)
        waiting = [stage.connect() for _ in range(400)]
        reader.sendall(PROBE)
        stage.loop.poll_once(0)
        assert len(stage.server.connections) < 200
        assert reader.recv(4096).startswith(b"HTTP/1.1 200 ")
        stage.turn_until(lambda: len(stage.server.connections) == len(waiting))


def test_pipelined_requests_take_turns_with_the_other_connections() -> None:
    with _stage() as stage:
        flood, other = stage.connect(), stage.connect()
        stage.turn_until(lambda: len(stage.server.connections) == 2)
        flood.setblocking(False)
        sent = 0
        for _ in range(4):
            sent += flood.send(TORRENT)
        other.sendall(PROBE)
        most = 0
        for _ in range(20):
            before = stage.calls
            stage.loop.poll_once(0)
            most = max(most, stage.calls - before)
        assert most <= 700
        assert stage.calls >= 700
        other.settimeout(PATIENCE)
        assert other.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_large_answer_takes_turns_with_the_other_connections() -> None:
    with _stage() as stage:
        reader = stage.connect()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        reader.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        reader.setblocking(False)
        buffer = bytearray(8 * MIB)
        received = most = 0
        while received < 8 * MIB:
            stage.loop.poll_once(1)
            try:
                count = reader.recv_into(buffer)
            except BlockingIOError:
                continue
            most = max(most, count)
            received += count
        assert most <= MIB


@pytest.mark.parametrize("path", [b"/stream", b"/big"])
def test_edges_bring_no_further_turn_to_who_is_waiting_for_one(path: bytes) -> None:
    routes = Routes()
    produced = 0

    def pieces() -> Iterator[bytes]:
        nonlocal produced
        for _ in range(2000):
            produced += 1
            yield b"p" * 16384

    routes.get("/stream")(lambda request: Response(pieces()))
    routes.get("/big")(lambda request: b"b" * (32 * MIB))
    with Stage(routes) as stage:
        peer = stage.connect()
        peer.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        peer.setblocking(False)
        amounts = []
        for _ in range(60):
            stage.loop.poll_once(1)
            received = 0
            try:
                peer.send(b"G")  # an edge
                while count := len(peer.recv(MIB)):
                    received += count
            except BlockingIOError:
                pass
            if received:
                amounts.append(received)
        # The first turns have the edge of the request, and the kernel's as it finds how much the peer can take.
        assert len(amounts) > 20
        assert max(amounts) <= MIB
        assert sorted(amounts)[len(amounts) // 2] <= 300_000
