"""The PROXY protocol at the door of a real server: who may speak it, however it comes, and what follows it."""

from __future__ import annotations

import struct

import pytest

from hypoll import Routes
from hypoll.proxy.proxy_protocol import V2
from tests.support.client import Cut
from tests.support.server import TICK, running

REQUEST = b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n"
V4 = struct.pack("!4s4sHH", bytes((192, 0, 2, 1)), bytes((198, 51, 100, 9)), 4711, 443)

HEADERS = {
    "v1": (b"PROXY TCP4 192.0.2.1 198.51.100.9 4711 443\r\n", "192.0.2.1"),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", "192.0.2.1"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", "unknown"),
    "v2": (V2 + struct.pack("!BBH", 0x21, 0x11, len(V4)) + V4, "192.0.2.1"),
    "v2 of the largest size": (V2 + struct.pack("!BBH", 0x21, 0x11, 0xFFFF) + V4.ljust(0xFFFF, b"\0"), "192.0.2.1"),
    "v2 of nobody": (V2 + struct.pack("!BBH", 0x21, 0, 0), "unknown"),
    "v2 of the balancer's unix socket": (V2 + struct.pack("!BBH", 0x21, 0x31, 216) + bytes(216), "unknown"),
    "v2 of the balancer itself": (V2 + struct.pack("!BBH", 0x20, 0, 0), "127.0.0.1"),
}


@pytest.fixture(scope="module")
def routes() -> Routes:
    made = Routes()

    @made.get("/who")
    def who(request):
        return request.client[0]

    return made


@pytest.fixture(scope="module")
def server(routes):
    with running(routes, proxy_protocol=True) as server:
        yield server


@pytest.mark.parametrize("name", HEADERS)
def test_the_client_is_whom_the_header_names(server, name):
    header, host = HEADERS[name]
    client = server.connect()
    client.send(header + REQUEST * 2)
    assert [client.answer().body.decode() for _ in range(2)] == [host] * 2
    assert client.ask(REQUEST).body.decode() == host


@pytest.mark.parametrize("name", ["v1", "v2", "v2 of the balancer itself"])
def test_it_may_come_byte_by_byte(server, name):
    header, host = HEADERS[name]
    client = server.connect()
    for at in range(len(header)):
        client.send(header[at : at + 1])
        server.on_loop(lambda: None)
    assert client.ask(REQUEST).body.decode() == host


@pytest.mark.parametrize("data", [REQUEST, b"PROXY TCP4 nonsense\r\n", b"PROXY " + b"x" * 200, V2 + b"\x31"])
def test_what_is_no_header_is_closed_without_a_word(server, data):
    client = server.connect()
    client.send(data + REQUEST)
    assert client.rest() == b""


@pytest.mark.parametrize("data", [b"", b"PROXY TCP4 192", V2])
def test_a_peer_that_leaves_before_it_is_whole_is_forgotten(server, data):
    client = server.connect()
    client.send(data)
    client.half_close()
    assert client.rest() == b""
    server.until(lambda: not server.server._header_readers)


def test_a_header_that_does_not_come_has_the_time_of_a_head(routes):
    with running(routes, proxy_protocol=True, header_timeout=TICK) as server:
        client = server.connect()
        client.send(b"PROXY ")
        assert client.rest() == b""


def test_others_may_not_connect(routes):
    with running(routes, proxy_protocol=True, proxy_allow_ips=("192.0.2.0/24",)) as server:
        client = server.connect()
        with pytest.raises((Cut, OSError)):
            client.ask(HEADERS["v1"][0] + REQUEST)


def test_those_that_wait_for_their_header_count_as_connections(routes):
    with running(routes, proxy_protocol=True, max_connections=1) as server:
        server.connect()
        server.until(lambda: server.server._header_readers)
        second = server.connect()
        second.send(HEADERS["v1"][0] + REQUEST)
        assert second.answer().status == 503


def test_a_drain_does_not_wait_for_a_header(routes):
    with running(routes, proxy_protocol=True, graceful_timeout=30.0) as server:
        silent = server.connect()
        server.until(lambda: server.server._header_readers)
        server.on_loop(server.server.drain)
        assert silent.rest() == b""


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [("v2 of the balancer itself", 200, "6.6.6.6"), ("v1 unknown", 403, "unknown"), ("v2 of nobody", 403, "unknown")],
)
def test_whom_the_balancer_hides_is_not_the_balancer(routes, name, status, told):
    """Neither let in where the balancer is, nor believed what the balancer would be."""
    with running(routes, proxy_protocol=True, status="/-/status") as server:
        client = server.connect()
        client.send(HEADERS[name][0])
        assert client.ask(b"GET /-/status HTTP/1.1\r\nHost: a\r\n\r\n").status == status
        assert client.ask(REQUEST[:-2] + b"X-Forwarded-For: 6.6.6.6\r\n\r\n").body.decode() == told
