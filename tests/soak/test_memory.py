"""The nastiest shapes of traffic, in short form: the memory that they cost the server is bounded."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.harness import MIB, Address, Served
from tests.support.client import Client

pytestmark = pytest.mark.full

PATIENCE = 30.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@contextlib.contextmanager
def connected(address: Address, count: int) -> Iterator[list[Client]]:
    """So many connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(address, patience=PATIENCE)) for _ in range(count)]


def stuff(clients: list[Client], data: Callable[[int], bytes]) -> None:
    """Send until the server takes no more of any of them; `data` makes more of it for one of them."""
    socks = [client.sock for client in clients]
    for sock in socks:
        sock.setblocking(False)
    quiet = 0
    while quiet < 3:
        _, writable, _ = select.select([], socks, [], 0.5)
        quiet = 0 if writable else quiet + 1
        for sock in writable:
            with contextlib.suppress(BlockingIOError):
                sock.send(data(socks.index(sock)))


def grown(server: Served, before: int) -> float:
    """MiB of memory that came on top."""
    return (server.memory() - before) / MIB


def test_slow_readers_of_long_answers_cost_the_spool_and_no_more():
    """64 clients ask for 8 MiB each, made on threads, and read none of it."""
    options = ("--spool-memory", "4MiB", "--spool-disk", "16MiB", "--write-timeout", "60")
    with Served(*options, app="nasty") as server:
        before = server.memory()
        with connected(server.address, 64) as clients:
            for client in clients:
                client.send(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
            for client in clients:
                assert client.sock.recv(12) == b"HTTP/1.1 200"
            assert server.ask("/") == b"ok"
            # 4 MiB of spool, and for each of them a thread, its piece of 64 KiB and what its connection holds.
            assert grown(server, before) < 4 + 64 * 0.5
        server.assert_no_failure()


def test_tiny_chunks_that_a_handler_does_not_take_weigh_what_they_are():
    """64 clients send chunks of 2 bytes to handlers that take none: 64 KiB of content are read ahead for each."""
    chunks = b"2\r\nab\r\n" * 4096
    with Served("--threads", "64", "--body-timeout", "60", app="nasty") as server:
        before = server.memory()
        with connected(server.address, 64) as clients:
            for client in clients:
                client.send(b"POST /ignored HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            stuff(clients, lambda number: chunks)
            # A thread, and 64 KiB with what they were received in.
            assert grown(server, before) < 64 * 0.4
        server.assert_no_failure()


def test_header_sections_that_never_repeat_are_not_kept_by_the_access_log():
    """3,000 requests with 95 short fields, and 3,000 with 12 KiB of them, no two alike; the handler looks at all."""
    numbers = itertools.count()
    with Served("--access-log", "json", "--access-log-file", "/dev/null", "--request-id", app="nasty") as server:
        assert server.ask("/") == b"ok"
        before = server.memory()
        with connected(server.address, 10) as clients:
            for client, _ in itertools.product(clients, range(300)):
                number = next(numbers)
                short = "".join(f"x{field}: {number}\r\n" for field in range(95))
                long = f"User-Agent: {'u' * 200}{number}\r\nX-Filler: {'x' * 11_000}{number}\r\n"
                for fields in (short, long):
                    line = f"GET /fields?{'q' * 100}{number} HTTP/1.1\r\n"
                    assert client.ask(f"{line}Host: a\r\n{fields}\r\n".encode()).body.endswith(b"all")
            assert grown(server, before) < 8
        server.assert_no_failure()


def test_uploads_of_600_bytes_a_second_cost_what_has_come_of_them():
    """200 clients of a WSGI application send their first 600 bytes of 16 MiB, and some more each tenth of a second."""
    with Served("--threads", "4", app="nasty", attribute="wsgi") as server:
        before = server.memory()
        with connected(server.address, 200) as clients:
            for client in clients:
                client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (16 * MIB - 1))
            for _ in range(30):
                for client in clients:
                    client.send(b"u" * 60)
                assert server.ask("/") == b"0", "no thread is held by them"
                time.sleep(0.1)  # their pace: nothing tells that it is time to send
            assert grown(server, before) < 200 * 0.05
        server.assert_no_failure()


def drained(sock: socket.socket) -> int:
    """How many bytes of an answer in chunks come until its last one."""
    count, end = 0, b""
    while not end.endswith(b"\r\n0\r\n\r\n"):
        piece = sock.recv(1 << 20)
        assert piece, "the connection ended before the answer did"
        count += len(piece)
        end = (end + piece)[-16:]
    return count


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_gib_to_and_from_an_asgi_application_is_never_held(framing):
    size, piece = 1024 * MIB, bytes(MIB)
    with Served("--max-body", "2GiB", app="nasty", attribute="asgi") as server, connected(server.address, 2) as clients:
        before, most = server.memory(), 0
        up, down = clients
        head = b"Content-Length: %d" % size if framing == "length" else b"Transfer-Encoding: chunked"
        up.send(b"POST /take HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % head)
        for _ in range(1024):
            up.send(piece if framing == "length" else b"100000\r\n%b\r\n" % piece)
            most = max(most, server.memory())
        up.send(b"" if framing == "length" else b"0\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\n%d" % size):
            more = up.sock.recv(65536)
            assert more, answer
            answer += more
        down.send(b"GET /give/1024 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert drained(down.sock) > size
        most = max(most, server.memory())
        assert (most - before) / MIB < 32
        server.assert_no_failure()


def test_clients_that_read_nothing_of_an_endless_stream_cost_what_waits_for_them():
    """200 clients of an ASGI application, until it can't send to any of them."""
    with Served("--write-timeout", "60", app="nasty", attribute="asgi") as server:
        before = server.memory()
        with connected(server.address, 200) as clients:
            for client in clients:
                client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            for client in clients:
                assert client.sock.recv(12) == b"HTTP/1.1 200"
            while True:
                used = server.cpu()
                assert server.ask("/") == b"ok"
                time.sleep(0.1)
                if server.cpu() - used < 0.02:
                    break  # it sends no more
            assert grown(server, before) < 60
        server.assert_no_failure()
