"""Clients that take their time: each is cut at its deadline, and nobody else waits for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.client import PATIENCE

from .crowd import Crowd, Peer
from .harness import MIB, Served

pytestmark = pytest.mark.full

TICK = 1.0
SLACK = 1.5
"""Seconds for the machine, on top of a deadline and the tick that sees to it."""

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BIG = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def server() -> Iterator[Served]:
    with Served("--header-timeout", "1", "--body-timeout", "1", "--write-timeout", "1") as served:
        yield served
        served.assert_no_failure()


def test_dribbled_heads_and_bodies_and_unread_answers_are_cut_while_others_are_served(server: Served) -> None:
    before = server.held()
    memory = server.memory()
    with Crowd(server) as crowd:
        crowd.run(lambda: len(crowd.latencies) >= 20, PATIENCE)
        heads = [crowd.add(Peer(server.address, HEAD, dribble=itertools.repeat(b"x"), beat=0.2)) for _ in range(500)]
        bodies = [crowd.add(Peer(server.address, UPLOAD, dribble=itertools.repeat(b"x"), beat=0.2)) for _ in range(200)]
        unread = [crowd.add(Peer(server.address, BIG, reads=False)) for _ in range(200)]
        peak = 0

        def all_cut() -> bool:
            nonlocal peak
            peak = max(peak, server.memory())
            return crowd.open == 0

        crowd.run(all_cut, 20)  # less than they have by default
        for peer in heads + bodies:
            assert peer.received.startswith(b"HTTP/1.1 408 "), peer.received
            assert 1.0 <= peer.lasted < 1.0 + TICK + SLACK + crowd.delay()
        assert all(peer.was_reset for peer in unread)
        assert peak - memory < 64 * MIB
        assert crowd.percentile(0.99) < 0.050, crowd.report()
    server.await_held(before)


def test_only_progress_that_counts_keeps_a_request_alive(server: Served) -> None:
    with Crowd(server, probes=False) as crowd:
        # Bytes on the wire without content of the body.
        extension = itertools.chain([b"1;"], itertools.repeat(b"x"))
        dribbled = crowd.add(Peer(server.address, CHUNKED, dribble=extension))
        # Twice the body's time-out, and well over the least rate.
        steady = crowd.add(Peer(server.address, UPLOAD, dribble=itertools.repeat(b"x" * 5000, 20)))
        # Half of the head's time-out.
        paused = crowd.add(Peer(server.address, HEAD, dribble=iter([b"x\r\n\r\n"]), beat=0.5))
        # The time of a head runs from its first byte, not from the connection.
        late = crowd.add(Peer(server.address, b"", dribble=iter([HEAD + b"x\r\n\r\n"]), beat=2.2))

        def all_seen_to() -> bool:
            return dribbled.ended > 0 and all(peer.received for peer in (steady, paused, late))

        crowd.run(all_seen_to, 20)
    assert dribbled.received.startswith(b"HTTP/1.1 408 ")
    assert steady.received.endswith(b"\r\n\r\n100000")
    assert paused.received.endswith(b"\r\n\r\nok")
    assert late.received.endswith(b"\r\n\r\nok")
