"""A listener that several servers accept on: nothing that waits in its queue is lost, or left with who has no room."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypoll import Routes
from hypoll.loop import Loop
from hypoll.server.server import Server, Status
from hypoll.settings import Settings
from tests.support.clock import PATIENCE, Turner

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

routes = Routes()
routes.get("/")(lambda request: "ok")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def start(listener: socket.socket, clock: Any) -> Iterator[Callable[..., tuple[Server, Turner]]]:
    """Starts servers on copies of one listener, each with a loop of its own, as processes have."""
    servers: list[Server] = []

    def begin(**settings: Any) -> tuple[Server, Turner]:
        loop = Loop(clock)
        server = Server(routes, Settings(**settings), loop, listeners=[listener.dup()], shared=True)
        server.start()
        servers.append(server)
        return server, Turner(loop, clock)

    yield begin
    for server in servers:
        server.stop()
        server.loop.close()


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Callable[[], socket.socket]]:
    clients: list[socket.socket] = []

    def open_one() -> socket.socket:
        clients.append(socket.create_connection(listener.getsockname(), PATIENCE))
        clients[-1].sendall(GET)
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


def test_a_drain_serves_what_is_queued_and_leaves_the_queue_to_the_others(start, connect):
    (first, first_turner), (second, second_turner) = start(), start()
    queued = [connect() for _ in range(3)]
    first.drain()
    first_turner.settle()
    for client in queued:
        assert b"Connection: close" in client.recv(4096)
        client.close()
    first_turner.settle()
    assert first.status is Status.STOPPED
    later = connect()
    second_turner.settle()
    assert later.recv(4096).endswith(b"ok")
    assert len(second.connections) == 1


def test_who_has_no_room_leaves_a_connection_to_the_others(start, connect):
    (full, full_turner), (other, other_turner) = start(max_connections=1), start()
    connect()
    full_turner.settle()
    assert len(full.connections) == 1
    second = connect()
    full_turner.settle()
    assert len(full.connections) == 1, "it isn't accepted to be refused"
    other_turner.settle()
    assert second.recv(4096).endswith(b"ok")
    assert len(other.connections) == 1


def test_what_waits_is_accepted_when_there_is_room_again(start, connect):
    server, turner = start(max_connections=1)
    first, second = connect(), connect()
    turner.settle()
    assert len(server.connections) == 1
    assert first.recv(4096).endswith(b"ok")
    first.close()
    turner.settle()
    assert second.recv(4096).endswith(b"ok")


def test_a_drain_waits_for_room_to_serve_what_is_queued(start, connect):
    server, turner = start(max_connections=1)
    first, second = connect(), connect()
    turner.settle()
    server.drain()
    turner.settle()
    for client in (first, second):
        assert client.recv(4096).endswith(b"ok")
        client.close()
        turner.settle()
    assert server.status is Status.STOPPED


def test_a_connection_doesn_t_wake_all_who_wait(start, monkeypatch):
    told: list[Any] = []
    register = Loop.register

    def spy(*given: Any, **how: Any) -> None:
        told.append(how)
        register(*given, **how)

    monkeypatch.setattr(Loop, "register", spy)
    start()
    assert told[-1] == {"exclusive": True}


def test_an_inherited_descriptor_is_left_as_it_was(listener, connect, turner, loop):
    """The filter that closes a queue for good would stay on a socket that a supervisor hands to the next server."""
    for _ in range(2):
        server = Server(routes, Settings(bind=(f"fd://{os.dup(listener.fileno())}",)), loop)
        server.start()
        client = connect()
        turner.settle()
        assert client.recv(4096).endswith(b"ok")
        server.drain_at_once()
        turner.settle()
        assert server.status is Status.STOPPED


def test_a_process_that_its_parent_forked_has_itself_forked_none():
    """Else each close of a worker's connection would cost a system call more, for a child that isn't there."""
    code = """
import os, hypoll.loop as loop
for _ in range(2):  # the second inherits that the parent has forked before
    pid = os.fork()
    if not pid:
        os._exit(len(loop._forks))
    assert os.waitpid(pid, 0)[1] == 0, "the child takes itself for one that has forked"
assert loop._forks
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE * 3)
