"""WebSockets that are idle by the thousands, that read nothing, and that send what costs them little."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest

from benchmarks.idle import memory
from tests.support.client import Client
from tests.support.frames import BEGIN_TEXT, MORE, PING, TEXT, frame
from tests.support.websocket import SocketClient, handshake

from .crowd import Crowd
from .harness import MIB, Served

pytestmark = pytest.mark.full

IDLE = 5000
WARM = 200
KIND = pytest.mark.parametrize("kind", ["routes", "asgi"])
BROWSER = {
    "User_Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Origin": "http://h",
    "Accept_Encoding": "gzip, deflate, br, zstd",
    "Accept_Language": "en-US,en;q=0.9",
}
OFFER = {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}


def served(kind: str, descriptors: int = 0) -> Served:
    lifespan = ("--lifespan", "off") if kind == "asgi" else ()
    # No pings: their clients are silent for as long as the machine needs to open thousands, and don't answer them.
    own = ("--access-log", "off", "--ws-ping-interval", "0")
    return Served(*own, *lifespan, attribute=kind, descriptors=descriptors)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 1000:
        pytest.skip(f"a process may have {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_echo(server: Served, number: int, offer: dict[str, str]) -> SocketClient:
    """A WebSocket that has had one message, as of a browser: its cookie is its own."""
    opened = SocketClient(Client(server.address), "/echo", b"", Cookie=f"session={number:032}", **BROWSER, **offer)
    opened.send(TEXT, b"hello")
    assert opened.frame().payload
    return opened


@pytest.mark.parametrize(
    ("kind", "offer", "limit"),
    [
        ("routes", {}, 6 * 1024),
        ("asgi", {}, 6 * 1024),
        ("routes", OFFER, 16 * 1024),
        ("asgi", OFFER, 16 * 1024),
    ],
    ids=["routes", "asgi", "routes, deflate", "asgi, deflate"],
)
def test_5000_idle_sockets(many_descriptors: None, kind: str, offer: dict[str, str], limit: int) -> None:
    with served(kind, IDLE + 1000) as server, contextlib.ExitStack() as stack:
        for number in range(WARM):
            open_echo(server, number, offer).client.close()
        server.ask("/trim", "POST")
        before = memory(server.process.pid).rss  # the share in others' pages would depend on who else runs
        sockets = [open_echo(server, number, offer) for number in range(IDLE)]
        for each in sockets:
            stack.callback(each.client.close)
        server.ask("/trim", "POST")
        assert (memory(server.process.pid).rss - before) / IDLE < limit
        for each in sockets[:: IDLE // 50]:
            each.send(TEXT, b"still there?")
            assert each.frame().payload
        server.assert_no_failure()


@KIND
def test_200_that_read_nothing(kind: str) -> None:
    """Each is sent more and more: it costs what may wait for a client, and the others are served."""
    with served(kind) as server, contextlib.ExitStack() as stack:
        server.ask("/")
        before = server.memory()
        for _ in range(200):
            client = stack.enter_context(Client(server.address, 4096))
            client.send(handshake("/push"))
        with Crowd(server) as crowd:
            crowd.run(lambda: len(crowd.latencies) >= 100, 30)
            assert crowd.percentile(0.5) < 0.5, crowd.report()
        grown = server.memory()
        assert grown - before < 64 * MIB
        with Crowd(server) as crowd:
            crowd.run(lambda: len(crowd.latencies) >= 50, 30)
        assert server.memory() - grown < 4 * MIB, "it goes on growing"
        server.assert_no_failure()


@KIND
@pytest.mark.parametrize(
    "flood",
    [frame(PING, b"p" * 125) * 2000, frame(PING) * 8000, frame(MORE) * 8000],
    ids=["pings", "empty pings", "empty fragments"],
)
@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_of_small_frames(kind: str, flood: bytes, reads: bool) -> None:
    with served(kind) as server, socket.socket() as greedy:
        server.ask("/")
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect(server.address)
        greedy.sendall(handshake("/echo") + frame(BEGIN_TEXT, b"begun"))
        assert greedy.recv(4096).startswith(b"HTTP/1.1 101 ")
        greedy.setblocking(False)
        before, sent = server.memory(), 0
        with Crowd(server) as crowd:
            for probes in range(20, 220, 20):
                with contextlib.suppress(BlockingIOError):
                    for _ in range(4):
                        at = sent % len(flood)
                        sent += greedy.send(flood[at:])
                with contextlib.suppress(BlockingIOError):
                    while reads:
                        assert greedy.recv(MIB), "a flood is no fault"
                crowd.run(lambda probes=probes: len(crowd.latencies) >= probes, 30)  # type: ignore[misc]
            assert crowd.percentile(0.5) < 0.1, crowd.report()
        assert sent > len(flood)
        assert server.memory() - before < 8 * MIB
        with contextlib.suppress(BlockingIOError):
            assert greedy.recv(1), "a flood is no fault"
        server.assert_no_failure()
