"""Handlers that wait, in a server that is told to end; and bodies that flow to and from clients that are slow."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.client import PATIENCE, Client

from .crowd import Crowd, Peer
from .harness import MIB, Served

pytestmark = pytest.mark.full

KINDS = ["inline", "threaded", "async"]
CLIENTS = 200
ANSWER = 8 * MIB
FLOW = 64 * MIB
PIECE = 64 * 1024


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def refuses(address: tuple[str, int]) -> bool:
    """Whether nobody listens there any more."""
    with socket.socket() as sock:
        return sock.connect_ex(address) != 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["wait", "slow"])
def test_term_in_the_middle_of_an_answer_completes_it(kind: str, path: str) -> None:
    with Served(app="waiting") as served:
        with Client(served.address) as client:
            client.send(get(f"/{kind}/{path}"))
            if path == "slow":
                assert client.more(9)
            else:
                time.sleep(0.05)  # it is under way by now, or TERM finds it in the queue: answered in either case
            served.process.send_signal(signal.SIGTERM)
            answer = client.rest()
        if path == "slow":
            assert answer.count(b"piece") == 4
            assert answer.endswith(b"0\r\n\r\n")
        else:
            assert answer.endswith(b"waited")
            # While an inline one runs nobody has heard of the signal.
            assert (b"Connection: close" in answer) is (kind != "inline")
        assert served.process.wait(PATIENCE) == 0
        assert "Traceback" not in served.log()


def test_term_in_the_middle_of_a_file_completes_it() -> None:
    with Served(app="waiting") as served:
        with Client(served.address, PIECE) as client:  # the kernel has no room for all of it
            client.send(get(f"/file/stream/{ANSWER // PIECE}"))
            assert client.more(9)
            served.process.send_signal(signal.SIGTERM)
            served.await_that(lambda: refuses(served.address), PATIENCE, served.log)
            head, _, body = client.rest().partition(b"\r\n\r\n")
        assert f"Content-Length: {ANSWER}".encode() in head
        assert len(body) == ANSWER
        assert served.process.wait(PATIENCE) == 0
        assert "Traceback" not in served.log()


@pytest.mark.parametrize("kind", ["threaded", "async"])
@pytest.mark.parametrize("gone", [False, True])
def test_what_is_stuck_for_ever_does_not_stop_the_exit(kind: str, gone: bool) -> None:
    with Served("--graceful-timeout", "0.5", app="waiting") as served:
        client = Client(served.address)
        client.send(get(f"/{kind}/stuck"))
        served.ask("/")
        if gone:
            client.close()
        begun = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        assert time.monotonic() - begun < 15  # half of --graceful-timeout's default
        assert "Traceback" not in served.log()
        client.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served("--max-body", "1GiB", app="waiting") as served:
        yield served


@pytest.mark.parametrize("kind", [*KINDS, "file"])
def test_clients_that_do_not_read_what_they_asked_for(served: Served, kind: str) -> None:
    served.ask("/trim", "POST")
    before = served.memory()
    with Crowd(served) as crowd:
        for _ in range(CLIENTS):
            crowd.add(Peer(served.address, get(f"/{kind}/stream/{ANSWER // PIECE}"), reads=False))
        crowd.run_for(0.6)
        for _ in range(8):  # on a busy machine it takes longer until there is something to check by
            if len(crowd.latencies) <= 5:
                crowd.run_for(0.6)
        served.ask("/trim", "POST")
        grown = served.memory() - before
        assert grown < 60 * MIB, f"{grown / MIB:.0f} MiB"
        assert len(crowd.latencies) > 5
        assert crowd.percentile(0.9) < 0.1, crowd.report()
    served.assert_no_failure()


@pytest.mark.parametrize("kind", KINDS)
def test_much_flows_out_through_little_memory(served: Served, kind: str) -> None:
    served.ask("/trim", "POST")
    before, most, size = served.memory(), 0, 0
    with Client(served.address) as client:
        client.send(get(f"/{kind}/stream/{FLOW // PIECE}"))
        client.half_close()
        buffer = bytearray(MIB)
        seen = 0
        while count := client.sock.recv_into(buffer):
            size += count
            if size - seen > 16 * MIB:
                seen, most = size, max(most, served.memory())
    assert size > FLOW
    assert most - before < 32 * MIB


@pytest.mark.parametrize("kind", KINDS[1:])
def test_much_flows_in_through_little_memory(served: Served, kind: str) -> None:
    served.ask("/trim", "POST")
    before, most = served.memory(), 0
    block = bytes(MIB)
    with Client(served.address) as client:
        client.send(f"POST /{kind}/upload HTTP/1.1\r\nHost: a\r\nContent-Length: {FLOW}\r\n\r\n".encode())
        for number in range(FLOW // MIB):
            client.send(block)
            if number % 16 == 0:
                most = max(most, served.memory())
        client.half_close()
        assert client.rest().endswith(b"\r\n\r\n%d" % FLOW)
    assert most - before < 32 * MIB
