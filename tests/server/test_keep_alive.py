"""Connections without keep-alive: one request each, for which a client still has its time."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from hypoll import Routes
from hypoll.http import Peer
from hypoll.server.connection import Connection
from hypoll.server.server import Server
from hypoll.settings import Settings

routes = Routes()
routes.get("/")(lambda request: {"a": 1})


@pytest.fixture
def client(loop: Any, turner: Any, tcp_pair: Any) -> Any:
    server = Server(routes, Settings(keep_alive=0), loop, listeners=[])
    server.start()
    accepted, client = tcp_pair()
    Connection(server.context, socket.socket(fileno=accepted.detach()), Peer(("", 0)))
    yield client
    server.stop()


def test_the_first_answer_is_the_last(client, turner):
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    turner.settle()
    assert b"\r\nConnection: close\r\n" in client.recv(4096)
    assert client.recv(4096) == b""


def test_a_client_may_take_its_time_to_ask(client, turner):
    turner.after(5)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    turner.settle()
    assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_one_that_never_asks_is_closed(client, turner):
    turner.after(Settings().header_timeout + 1)
    assert client.recv(1) == b""
