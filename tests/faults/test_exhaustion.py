"""Descriptors, connections and memory that run out: the server stays, and serves whom it can."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hypoll.server.connection
import hypoll.server.refusing
import hypoll.server.sending
import hypoll.server.server
import hypoll.server.writer
from hypoll import Request, Response, Routes
from hypoll.contracts import ConnectionState
from hypoll.http import RequestParser
from hypoll.proxy.forwarded import TrustedProxies
from tests.support.client import PATIENCE, Client

from .crowd import PROBE, Crowd, Peer
from .harness import Served
from .stage import Stage

pytestmark = pytest.mark.full

KEPT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
DESCRIPTORS = 256
CLIENTS = 400


def _answered(crowd: Crowd) -> list[Peer]:
    return [peer for peer in crowd.peers if peer.received.startswith(b"HTTP/1.1 200 ")]


def test_with_descriptors_exhausted_it_serves_those_inside_and_waits_without_spinning() -> None:
    # More connections allowed than descriptors: accept(2) itself has to fail.
    with Served("--max-connections", "10000", descriptors=DESCRIPTORS) as server, Crowd(server, probes=False) as crowd:
        for _ in range(CLIENTS):
            crowd.add(Peer(server.address, b"", dribble=iter([KEPT] * 1000)))
        crowd.run(lambda: server.descriptor_count() == DESCRIPTORS, PATIENCE)
        crowd.run(lambda: len(_answered(crowd)) > DESCRIPTORS - 32, PATIENCE)
        crowd.run_for(0.5)
        inside = _answered(crowd)
        assert len(inside) < DESCRIPTORS
        # Those outside fall silent, and one of those inside goes on.
        for peer in crowd.peers:
            peer.dribble = peer.dribble if peer is inside[0] else None
        answers = inside[0].received.count(b"HTTP/1.1 200 ")
        cpu, begun = server.cpu(), time.monotonic()
        crowd.run(lambda: inside[0].received.count(b"HTTP/1.1 200 ") >= answers + 25, PATIENCE)
        assert server.cpu() - cpu < 0.2 * (time.monotonic() - begun)
        assert len(_answered(crowd)) == len(inside)
        # As soon as one leaves, one comes in; not at the next tick only, of which these would take one each.
        begun = time.monotonic()
        for leaving in inside[1:21]:
            leaving.end()
            entered = len(_answered(crowd))
            crowd.run(lambda entered=entered: len(_answered(crowd)) > entered, PATIENCE)  # type: ignore[misc]
        assert time.monotonic() - begun < 10
        for peer in crowd.peers:
            peer.end()
        assert server.ask("/") == b"ok"
        server.assert_no_failure()
        assert server.log().count("accept:") < 5


def test_few_descriptors_are_shared_between_connections_refusals_and_the_application() -> None:
    with Served(descriptors=DESCRIPTORS) as server, Crowd(server, probes=False) as crowd:
        for _ in range(CLIENTS):
            crowd.add(Peer(server.address, KEPT))

        def seen_to() -> bool:
            return all(peer.received for peer in crowd.peers)

        crowd.run(seen_to, PATIENCE)
        assert len(_answered(crowd)) >= DESCRIPTORS // 3
        refused = [peer for peer in crowd.peers if peer.received.startswith(b"HTTP/1.1 503 ")]
        assert len(refused) + len(_answered(crowd)) == CLIENTS
        assert server.descriptor_count() < DESCRIPTORS
        server.assert_no_failure()


def test_a_connection_over_the_limit_is_told_to_come_back() -> None:
    with Served("--max-connections", "3") as server, Crowd(server, probes=False) as crowd:
        inside = [crowd.add(Peer(server.address, KEPT)) for _ in range(2)]
        crowd.run(lambda: all(peer.received for peer in inside), PATIENCE)
        refused = crowd.add(Peer(server.address, KEPT))
        crowd.run(lambda: refused.ended > 0, PATIENCE)
        assert refused.received.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in refused.received
        assert b"\r\nConnection: close\r\n" in refused.received
        inside[0].end()
        server.await_that(lambda: server.counts()["connections"] == 2, PATIENCE, server.counts)
        again = crowd.add(Peer(server.address, PROBE))
        crowd.run(lambda: again.ended > 0, PATIENCE)
        assert again.received.startswith(b"HTTP/1.1 200 ")
        server.assert_no_failure()


def test_a_handler_out_of_memory_is_a_500_and_its_connection_goes_on() -> None:
    with Served() as server, Client(server.address) as client:
        client.send(b"GET /memory HTTP/1.1\r\nHost: a\r\n\r\n" + PROBE)
        first, second = client.answer(), client.answer()
        assert first.status == 500
        assert "MemoryError" not in repr(first)
        assert (second.status, second.body) == (200, b"ok")
        assert client.ends()


@pytest.fixture
def stage() -> Iterator[Stage]:
    routes = Routes()

    @routes.get("/")
    def index(request: Request) -> str:
        return "ok"

    @routes.get("/stream")
    def stream(request: Request) -> Response:
        return Response(iter([b"p"] * 9))

    @routes.post("/upload")
    def upload(request: Request) -> str:
        return str(len(request.body))

    with Stage(routes) as stage:
        yield stage


class _Starved:
    """A callable that is out of memory the first time, and then passes its calls on."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original
        self.called = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.called:
            self.called = True
            raise MemoryError
        return self.original(*args, **kwargs)


@pytest.mark.parametrize(
    ("owner", "name", "request_"),
    [
        (RequestParser, "feed", PROBE),
        (RequestParser, "__init__", PROBE),
        (hypoll.server.sending, "encode", PROBE),
        (hypoll.server.refusing, "problem", b"GET /\x00\r\n\r\n"),
        (hypoll.server.writer.Writer, "_pull", b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"),
        (hypoll.server.writer.Writer, "resume", b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"),
        (hypoll.server.connection.Connection, "_on_request", PROBE),
        (hypoll.server.connection.Connection, "__init__", PROBE),
        (TrustedProxies, "peer", PROBE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_connection_the_server_has_no_memory_for_is_shed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, request_: bytes
) -> None:
    assert stage.answer(PROBE).endswith(b"ok")
    starved = _Starved(getattr(owner, name))
    # In a class, a plain function: it has to be bound.
    replacement = (lambda *args, **named: starved(*args, **named)) if isinstance(owner, type) else starved
    monkeypatch.setattr(owner, name, replacement)
    answer = stage.answer(request_)
    assert not answer.endswith((b"ok", b"0\r\n\r\n")), "the shortage wasn't met"
    assert starved.called
    assert stage.answer(PROBE).endswith(b"ok")
    assert len(stage.server.connections) == 0
    assert stage.loop.registered() == [stage.server.listeners[0].sock.fileno()]


@pytest.mark.parametrize("name", ["plain_head", "RequestParser.feed"])
def test_a_warm_connection_the_server_has_no_memory_for_is_shed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    client = stage.connect()
    client.sendall(KEPT)
    client.setblocking(False)
    stage.turn_until(lambda: len(stage.server.connections) == 1)
    stage.turn_until(lambda: any(connection.state == ConnectionState.IDLE for connection in stage.server.connections))
    assert client.recv(65536).endswith(b"ok")
    owner, _, method = name.rpartition(".")
    target: Any = RequestParser if owner else hypoll.server.connection
    starved = _Starved(getattr(target, method))
    monkeypatch.setattr(target, method, (lambda *args, **named: starved(*args, **named)) if owner else starved)
    client.sendall(KEPT)
    assert stage.read_to_end(client) == b""
    assert starved.called
    assert stage.answer(PROBE).endswith(b"ok")


def test_a_shortage_while_the_failure_is_logged_does_not_end_the_loop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestParser, "feed", _Starved(RequestParser.feed))
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger("hypoll.error"), "makeRecord", _no_memory)
        assert stage.answer(PROBE) == b""
    assert len(stage.server.connections) == 0


def _no_memory(*args: object, **kwargs: object) -> None:
    raise MemoryError


def test_a_shortage_while_accepting_leaves_the_listener_served(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = stage.server.listeners[0]
    starved = _Starved(listener.sock._accept)  # type: ignore[attr-defined]

    class Accepting:
        _accept = starved
        fileno = listener.sock.fileno
        close = listener.sock.close
        family = listener.sock.family
        getsockname = listener.sock.getsockname

    monkeypatch.setattr(listener, "sock", Accepting)
    # The edge of this client is spent by the shortage: it must be served all the same, at the next tick at the latest.
    assert stage.answer(PROBE).endswith(b"ok")
    assert starved.called


def test_a_shortage_in_epoll_wait_does_not_end_the_loop(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage.loop._epoll
    starved = _Starved(real.poll)

    class Polling:
        poll = starved
        register = real.register
        unregister = real.unregister
        close = real.close
        fileno = real.fileno

    monkeypatch.setattr(stage.loop, "_epoll", Polling)
    client = stage.connect()
    client.sendall(PROBE)
    stage.loop.call_later(0.2, stage.loop.stop)
    stage.loop.run()
    assert starved.called
    assert stage.read_to_end(client).endswith(b"ok")


def test_an_address_space_that_ends_costs_connections_not_the_server() -> None:
    with Served(memory=256 * 1024) as server:
        body = b"u" * (8 << 20)
        head = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(body) + 1)
        with Crowd(server, probes=False) as crowd:
            # Each uploads all but the last byte, so that all are held at once.
            for _ in range(40):
                crowd.add(Peer(server.address, b"", upload=head + body))
            crowd.run(lambda: any(peer.ended for peer in crowd.peers), PATIENCE)
            crowd.run(lambda: all(peer.uploaded or peer.ended for peer in crowd.peers), PATIENCE)
        assert server.process.poll() is None, server.log()
        with Crowd(server) as crowd:
            crowd.run(lambda: len(crowd.latencies) >= 5, PATIENCE)
