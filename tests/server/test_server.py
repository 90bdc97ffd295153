"""The server from outside: listeners, accepting, too many connections, the drain; by requests, curl and sockets."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from hypoll import Response, Routes
from hypoll.contracts import ConnectionState
from hypoll.loop import Loop
from hypoll.server import capacity, listener
from hypoll.server import server as module
from hypoll.server.connection import Connection
from hypoll.server.server import Server, Status
from hypoll.server.sockets import BindError
from hypoll.settings import Settings
from tests.support.client import Client, address_of, request
from tests.support.clock import PATIENCE
from tests.support.leftovers import open_descriptors, settled_descriptors

KIB = 1024
MIB = 1024 * KIB
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Log(list[str]):
    """What an application saw of its own life."""


def application(log: Log | None = None) -> Routes:
    routes = Routes()
    seen = Log() if log is None else log

    @routes.get("/")
    def index(request):
        return "ok"

    @routes.get("/client")
    def client(request):
        return list(request.client)

    @routes.post("/echo")
    def echo(request):
        return request.body

    @routes.get("/stream")
    def stream(request):
        return Response(iter([b"a" * 10_000] * 10))

    routes.on_start(lambda: seen.append("start"))
    routes.on_stop(lambda: seen.append("stop"))
    return routes


@contextmanager
def running(*addresses: str, **settings: Any) -> Iterator[Server]:
    """A server on a loop in a thread of its own."""
    loop = Loop()
    server = Server(application(), Settings(bind=addresses, **settings), loop, on_stopped=loop.stop)
    server.start()
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(PATIENCE)
        loop.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with running("127.0.0.1:0") as server:
        yield server.addresses[0]


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def curl(*arguments: str, data: bytes | None = None) -> bytes:
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--noproxy", "*", *arguments]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


# real clients


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_requests_over_both_families(session, address):
    with running(address) as server:
        for _ in range(3):
            response = session.get(f"{server.addresses[0]}/")
            assert (response.status_code, response.text) == (200, "ok")
        assert len(server.connections) == 1, "one connection for all of them"
        host, port = session.get(f"{server.addresses[0]}/client").json()
        assert address.strip("[]").startswith(host)
        assert port > 0


def test_requests_sends_and_streams(base, session):
    body = os.urandom(3 * MIB)
    assert session.post(f"{base}/echo", data=body).content == body
    assert session.post(f"{base}/echo", data=iter([body[:1000], body[1000:]])).content == body
    assert len(session.get(f"{base}/stream").content) == 100_000


@pytest.mark.parametrize("chunked", [False, True])
def test_requests_can_read_the_413_in_the_middle_of_its_upload(base, session, chunked):
    piece = bytes(1 * MIB)
    data = iter([piece] * 20) if chunked else piece * 20
    response = session.post(f"{base}/echo", data=data)
    assert response.status_code == 413
    assert response.headers["Connection"] == "close"
    assert response.json()["title"] in ("Request Entity Too Large", "Content Too Large")


def test_curl(base):
    assert curl(f"{base}/") == b"ok"
    assert curl("--http1.0", f"{base}/") == b"ok"
    assert curl("--head", f"{base}/").startswith(b"HTTP/1.1 200 OK\r\n")
    assert curl(f"{base}/", f"{base}/", "--write-out", "%{num_connects}") == b"ok1ok0"


def test_curl_uploads_after_the_interim_answer(base):
    body = os.urandom(2 * MIB)
    arguments = ["--data-binary", "@-", "--header", "Expect: 100-continue", "--expect100-timeout", "9"]
    assert curl(*arguments, f"{base}/echo", data=body) == body
    assert curl(*arguments, "--header", "Transfer-Encoding: chunked", f"{base}/echo", data=body) == body


def test_curl_does_not_upload_what_is_refused(base):
    arguments = ["--data-binary", "@-", "--header", "Expect: 100-continue", "--expect100-timeout", "9"]
    out = curl(*arguments, "--write-out", " %{http_code} %{size_upload}", f"{base}/nowhere", data=bytes(2 * MIB))
    assert out.endswith(b" 404 0")


def test_curl_over_a_unix_socket(tmp_path):
    path = tmp_path / "s"
    with running(f"unix:{path}") as server:
        assert server.addresses == [f"unix:{path}"]
        assert curl("--unix-socket", str(path), "http://a/") == b"ok"
        assert curl("--unix-socket", str(path), "http://a/client") == b'["",0]'
    assert not path.exists(), "its file goes with it"


def test_several_addresses_at_once(session, tmp_path):
    with running("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path / 's'}") as server:
        first, second, _ = server.addresses
        assert session.get(first).text == session.get(second).text == "ok"
        assert curl("--unix-socket", str(tmp_path / "s"), "http://a/") == b"ok"


def test_an_inherited_descriptor(session):
    with socket.create_server(("127.0.0.1", 0)) as given, running(f"fd://{os.dup(given.fileno())}") as server:
        assert session.get(server.addresses[0]).text == "ok"


def test_two_servers_share_a_port(session):
    with running("127.0.0.1:0", reuse_port=True) as first:
        address = first.addresses[0]
        with running(address.removeprefix("http://"), reuse_port=True) as second:
            accepted: Counter[Server] = Counter()
            clients: list[Client] = []
            while len(accepted) < 2 and len(clients) < 100:
                before = {server: len(server.connections) for server in (first, second)}
                clients.append(Client(address_of(address)))
                assert clients[-1].ask(GET).status == 200
                accepted.update(server for server in before if len(server.connections) > before[server])
            for client in clients:
                client.close()
            assert set(accepted) == {first, second}


# on a loop that the test turns


class Clients:
    """Connections to a server whose loop the test turns."""

    def __init__(self, turner: Any) -> None:
        self.turner = turner
        self.opened: list[socket.socket] = []

    def connect(self, server: Server, data: bytes = b"", count: int = 1) -> list[socket.socket]:
        """Connect without turning the loop."""
        made = []
        for _ in range(count):
            client = socket.create_connection(server.listeners[0].sock.getsockname()[:2], PATIENCE)
            self.opened.append(client)
            client.sendall(data)
            client.setblocking(False)
            made.append(client)
        return made

    def read(self, client: socket.socket, enough: Callable[[bytes], object]) -> bytes:
        """Turn the loop until what was received is enough, or the end."""
        data = b""
        ended = False

        def read() -> bool:
            nonlocal data, ended
            try:
                piece = client.recv(1 << 20)
            except BlockingIOError:
                return bool(enough(data))
            ended = not piece
            data += piece
            return ended or bool(enough(data))

        self.turner.until(read)
        return data

    def answer(self, client: socket.socket) -> bytes:
        return self.read(client, lambda data: b"\r\n\r\n" in data)

    def to_end(self, client: socket.socket) -> bytes:
        return self.read(client, lambda data: False)


@pytest.fixture
def clients(turner: Any) -> Iterator[Clients]:
    clients = Clients(turner)
    yield clients
    for client in clients.opened:
        client.close()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def start(loop: Loop, log: Log) -> Iterator[Callable[..., Server]]:
    """Starts servers on the test's loop; they are stopped after it."""
    servers: list[Server] = []

    def start(app: Any = None, *, listeners: list[socket.socket] | None = None, **settings: Any) -> Server:
        settings = {"bind": ("127.0.0.1:0",), **settings}
        server = Server(
            app or application(log),
            Settings(**settings),
            loop,
            listeners=listeners,
            on_stopped=lambda: log.append("stopped"),
        )
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
        assert server.listeners == []
        assert server.connections == set()
    assert loop.registered() == []


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


def test_accepted_sockets_are_non_blocking_without_delay_and_not_inherited(server, clients, turner):
    clients.connect(server)
    turner.until(lambda: server.connections)
    (connection,) = server.connections
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection.sock.getblocking() is False
    assert not connection.sock.get_inheritable()


def test_given_listeners_are_made_fit_for_the_loop(start, clients):
    given = socket.create_server(("127.0.0.1", 0))
    server = start(listeners=[given])
    assert given.getblocking() is False
    (client,) = clients.connect(server, GET)
    assert clients.answer(client).startswith(b"HTTP/1.1 200")


def test_a_burst_of_connections_is_accepted_in_shares(start, clients, loop, turner, monkeypatch):
    monkeypatch.setattr(listener, "ACCEPTS_PER_TURN", 8)
    server = start()
    made = clients.connect(server, GET, 50)
    loop.poll_once(PATIENCE)
    # A turn has its events and then what call_soon had asked for.
    assert len(server.connections) == 16
    turner.settle()
    assert len(server.connections) == 50
    for client in made:
        assert clients.answer(client).startswith(b"HTTP/1.1 200")


def test_readers_have_their_turn_in_a_burst(start, clients, loop, turner, monkeypatch):
    monkeypatch.setattr(listener, "ACCEPTS_PER_TURN", 4)
    server = start()
    (reader,) = clients.connect(server, GET)
    clients.answer(reader)
    clients.connect(server, b"", 60)
    reader.send(GET)
    accepted = 0

    def answered() -> bool:
        nonlocal accepted
        try:
            return bool(reader.recv(4096))
        except BlockingIOError:
            accepted = len(server.connections)
            return False

    turner.until(answered)
    assert accepted < 30


# too many


def test_one_connection_too_many_is_told_so(start, clients, turner):
    server = start(max_connections=2)
    inside = clients.connect(server, GET, 2)
    for client in inside:
        assert clients.answer(client).startswith(b"HTTP/1.1 200")
    (outside,) = clients.connect(server, GET)
    answer = clients.to_end(outside)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert b"too many connections" in answer
    outside.close()
    inside.pop().close()
    turner.until(lambda: len(server.connections) == 1)
    (another,) = clients.connect(server, GET)
    assert clients.answer(another).startswith(b"HTTP/1.1 200"), "service resumes"
    inside[0].send(GET)
    assert clients.answer(inside[0]).startswith(b"HTTP/1.1 200")


def test_the_refusal_survives_a_request_sent_late(start, clients):
    server = start(max_connections=1)
    clients.connect(server)
    (outside,) = clients.connect(server)
    answer = clients.answer(outside)
    outside.sendall(GET)
    assert (answer + clients.to_end(outside)).startswith(b"HTTP/1.1 503 ")


def test_beyond_the_refusals_connections_wait_until_one_leaves(start, clients, turner, monkeypatch):
    monkeypatch.setattr(capacity, "REFUSALS", 1)
    server = start(max_connections=1)
    (inside,) = clients.connect(server, GET)
    clients.answer(inside)
    (refused,) = clients.connect(server)
    assert clients.to_end(refused).startswith(b"HTTP/1.1 503 ")
    (waiting,) = clients.connect(server, GET)
    turner.settle()
    assert len(server.connections) == 2
    inside.close()
    assert clients.answer(waiting).startswith(b"HTTP/1.1 200")


def test_those_that_were_refused_and_stay_take_no_place(start, clients, turner):
    server = start(max_connections=1)
    (inside,) = clients.connect(server, GET)
    clients.answer(inside)
    for refused in clients.connect(server, b"", 5):
        assert clients.answer(refused).startswith(b"HTTP/1.1 503 ")
    inside.close()
    turner.until(lambda: len(server.connections) == 5)
    (client,) = clients.connect(server, GET)
    assert clients.answer(client).startswith(b"HTTP/1.1 200")
    turner.after(7)
    assert len(server.connections) == 1
    assert server._refused == set()


def test_the_limit_follows_from_the_descriptors(start, monkeypatch):
    for descriptors, expected in [(20_000, 20_000 - 64 - 128 - 256), (256, 128), (1, 1)]:
        monkeypatch.setattr(module, "raise_descriptor_limit", lambda descriptors=descriptors: descriptors)
        server = start()
        assert server._limit == expected
        server.stop()
    assert start(max_connections=7)._limit == 7


def test_the_descriptor_limit_is_raised_to_what_is_allowed(monkeypatch):
    limits = [(100, 500)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    assert capacity.raise_descriptor_limit() == 500
    assert limits[1:] == [(500, 500)]
    assert capacity.raise_descriptor_limit() == 500
    assert len(limits) == 2

    def refuse(which: int, new: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    limits[:] = [(100, 500)]
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert capacity.raise_descriptor_limit() == 100


class Failing:
    """A listening socket whose accept fails as it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.failures: list[BaseException] = []
        self.always: BaseException | None = None
        self.calls = 0

    def _accept(self) -> Any:
        self.calls += 1
        if self.always is not None:
            raise self.always
        if self.failures:
            raise self.failures.pop(0)
        return self.sock._accept()  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


def failing(server: Server) -> Failing:
    (listener,) = server.listeners
    listener.sock = Failing(listener.sock)  # type: ignore[assignment]
    return listener.sock  # type: ignore[return-value]


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EPERM])
def test_a_connection_that_failed_in_the_queue_does_not_stop_the_others(server, clients, number, caplog):
    failing(server).failures = [error(number)] * 3
    for client in clients.connect(server, GET, 2):
        assert clients.answer(client).startswith(b"HTTP/1.1 200")
    assert caplog.records == []


OUT = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL]


@pytest.mark.parametrize("number", OUT)
def test_without_descriptors_it_waits_for_the_tick_and_does_not_spin(server, clients, turner, number, caplog):
    sock = failing(server)
    sock.always = error(number)
    (client,) = clients.connect(server, GET)
    turner.settle()
    assert sock.calls == 1
    turner.after(3)
    assert sock.calls == 4, "once a tick"
    assert len(caplog.records) == 1
    assert os.strerror(number) in caplog.text
    sock.always = None
    turner.after(1)
    assert clients.answer(client).startswith(b"HTTP/1.1 200")
    sock.always = error(number)
    clients.connect(server)
    turner.after(17)
    assert len(caplog.records) == 3, "a warning every ten seconds"


def test_a_connection_that_closes_makes_room_for_one_that_waits(server, clients, turner):
    (inside,) = clients.connect(server, GET)
    clients.answer(inside)
    sock = failing(server)
    sock.failures = [error(errno.EMFILE)]
    (waiting,) = clients.connect(server, GET)
    turner.settle()
    assert len(server.connections) == 1
    inside.close()
    assert clients.answer(waiting).startswith(b"HTTP/1.1 200"), "without a tick: the clock stands still"


def test_a_connection_the_loop_cannot_take_is_shed(server, clients, loop, monkeypatch, caplog):
    register = loop.register

    def refuse(fd: int, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(loop, "register", register)
        raise error(errno.ENOSPC)

    monkeypatch.setattr(loop, "register", refuse)
    first, second = clients.connect(server, b"", 2)
    assert clients.to_end(first) == b""
    assert "shed" in caplog.text
    second.send(GET)
    assert clients.answer(second).startswith(b"HTTP/1.1 200")


OUT_OF_DESCRIPTORS = """
import resource, sys, time
from hypoll import Routes, run
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
routes = Routes()
routes.get("/cpu")(lambda request: str(time.process_time()))
run(routes, "fd://" + sys.argv[1], max_connections=1000)
"""


def test_a_process_out_of_descriptors_serves_those_inside_and_rests():
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        address = listener.getsockname()
        command = [sys.executable, "-c", OUT_OF_DESCRIPTORS, str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
    opened: list[Client] = []

    def cpu(client: Client) -> float:
        return float(client.get("/cpu").body)

    try:
        opened += [Client(address) for _ in range(60)]
        inside, stuck = opened[0], opened[-1]
        before = cpu(inside)
        stuck.send(request("/cpu"))
        stuck.sock.settimeout(1.0)
        with pytest.raises(TimeoutError):
            stuck.more()
        assert cpu(inside) - before < 0.2
        for client in opened[1:-1]:
            client.close()
        stuck.sock.settimeout(PATIENCE)
        assert stuck.answer().status == 200
    finally:
        process.kill()
        process.wait()
        for client in opened:
            client.close()


# the end


def has_stopped(server: Server) -> bool:
    return server.status is Status.STOPPED


def test_a_drain_empties_the_queue_before_it_closes_the_listener(start, clients, turner, monkeypatch):
    monkeypatch.setattr(listener, "ACCEPTS_PER_TURN", 4)
    server = start()
    made = clients.connect(server, GET, 20)
    server.drain()
    for client in made:
        answer = clients.to_end(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nConnection: close\r\n" in answer
        client.close()
    assert server.listeners == []
    turner.until(lambda: has_stopped(server))


def test_a_drain_has_the_kernel_refuse_new_ones(start, turner, monkeypatch):
    refused: list[socket.socket] = []
    monkeypatch.setattr(listener, "refuse_new", refused.append)
    server = start()
    own = [listener.sock for listener in server.listeners]
    server.drain()
    turner.until(lambda: has_stopped(server))
    assert refused == own


@pytest.mark.parametrize("how", ["given", "inherited"])
def test_a_shared_listener_serves_the_next_server(start, clients, turner, how):
    """The socket outlives the server: whatever a drain does to it must not."""
    with socket.create_server(("127.0.0.1", 0)) as shared:
        for _ in range(2):
            copy = shared.dup()
            server = start(listeners=[copy]) if how == "given" else start(bind=(f"fd://{copy.detach()}",))
            (client,) = clients.connect(server, GET)
            assert clients.answer(client).startswith(b"HTTP/1.1 200")
            server.drain_at_once()
            turner.until(lambda server=server: has_stopped(server))


def test_who_finds_room_in_a_drain_has_no_longer_than_the_others(start, clients, turner, monkeypatch):
    monkeypatch.setattr(capacity, "REFUSALS", 1)
    server = start(max_connections=1)
    (inside,) = clients.connect(server, GET[:10])
    turner.until(lambda: any(one.state is ConnectionState.HEAD for one in server.connections))
    (refused,) = clients.connect(server)
    assert clients.to_end(refused).startswith(b"HTTP/1.1 503 ")
    (waiting,) = clients.connect(server)
    turner.settle()
    server.drain()
    inside.send(GET[10:])
    assert clients.to_end(inside).startswith(b"HTTP/1.1 200")
    for client in (inside, refused):
        client.close()
    turner.until(lambda: not server.listeners)
    turner.after(3)
    assert clients.to_end(waiting) == b""
    assert has_stopped(server)


def test_a_drained_server_takes_no_more_connections(server, clients, turner, log):
    address = server.listeners[0].sock.getsockname()
    (busy,) = clients.connect(server, GET[:10])
    turner.until(lambda: any(one.state is ConnectionState.HEAD for one in server.connections))
    server.drain()
    assert not has_stopped(server)
    turner.settle()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE)
    assert log == ["start"]
    busy.send(GET[10:])
    assert clients.to_end(busy).startswith(b"HTTP/1.1 200")
    busy.close()
    turner.until(lambda: has_stopped(server))
    assert log == ["start", "stop", "stopped"]


def test_a_drain_in_haste_cuts_what_is_not_over_soon(start, clients, turner, caplog):
    server = start(header_timeout=100.0)
    clients.connect(server, GET[:10])
    turner.until(lambda: any(one.state is ConnectionState.HEAD for one in server.connections))
    server.drain_for_reload()
    turner.after(0.9)
    assert not has_stopped(server)
    turner.after(0.2)
    assert has_stopped(server)
    assert "1 s passed: closing 1 connections: cut 1 request" in caplog.text


def test_a_drain_without_connections_ends_at_once(server, turner, log):
    server.drain()
    turner.settle()
    assert has_stopped(server)
    assert log == ["start", "stop", "stopped"]
    server.drain()
    server.stop()
    turner.settle()
    assert log == ["start", "stop", "stopped"], "once"


def test_a_stop_overtakes_a_drain(server, clients, turner, log):
    (client,) = clients.connect(server, GET)
    clients.answer(client)
    server.drain()
    server.stop()
    assert clients.to_end(client) == b""
    turner.settle()
    assert log == ["start", "stop", "stopped"]


def test_a_handler_that_stops_the_server_ends_the_accepting(start, clients, turner, caplog):
    """It may be called where its connection was accepted: the next one is not asked for from a closed listener."""
    routes = Routes()
    server = start(routes)
    routes.get("/")(lambda request: server.stop() or "last")
    first, _ = clients.connect(server, GET, 2)
    turner.settle()
    assert has_stopped(server)
    assert clients.to_end(first) == b""
    assert caplog.text == ""


def test_graceful_timeout_bounds_the_drain(start, clients, turner, log, caplog):
    server = start(graceful_timeout=5.0, header_timeout=100.0)
    (client,) = clients.connect(server, GET[:10])
    turner.until(lambda: any(one.state is ConnectionState.HEAD for one in server.connections))
    server.drain()
    turner.after(4)
    assert not has_stopped(server)
    turner.after(2)
    assert has_stopped(server)
    assert "graceful_timeout passed: closing 1 connections" in caplog.text
    assert clients.to_end(client) == b""


def test_a_shutdown_that_raises_still_ends_the_server(start, loop, log):
    class Stubborn:
        def __call__(self, request: Any) -> Response:
            return Response()

        def early_refusal(self, request: Any) -> None:
            return None

        def startup(self, complete: Any) -> None:
            pass

        def shutdown(self, complete: Any) -> None:
            raise LookupError

    server = start(Stubborn())
    with pytest.raises(LookupError):
        server.stop()
    assert log == ["stopped"]
    assert loop.timeout() is None


def test_a_startup_that_raises_leaves_nothing(loop, tmp_path):
    routes = application()

    @routes.on_start
    def fail():
        raise LookupError

    before = settled_descriptors()
    path = tmp_path / "s"
    with pytest.raises(LookupError):
        Server(routes, Settings(bind=("127.0.0.1:0", f"unix:{path}")), loop).start()
    assert open_descriptors() == before
    assert not path.exists()
    assert loop.registered() == []


def test_an_address_that_cannot_be_had_leaves_nothing(loop, tmp_path, log):
    before = settled_descriptors()
    path = tmp_path / "s"
    server = Server(application(log), Settings(bind=(f"unix:{path}", "unix:/nowhere/at/all")), loop)
    with pytest.raises(BindError):
        server.start()
    assert open_descriptors() == before
    assert not path.exists()
    assert log == []


def test_a_unix_file_that_is_gone_already_is_no_matter(start, tmp_path):
    path = tmp_path / "s"
    server = start(bind=(f"unix:{path}",))
    path.unlink()
    server.stop()


def test_the_port_can_be_bound_again_at_once(start, clients, turner):
    server = start()
    address = server.addresses[0].removeprefix("http://")
    (client,) = clients.connect(server, GET)
    clients.answer(client)
    server.stop()
    again = start(bind=(address,))
    (client,) = clients.connect(again, GET)
    assert clients.answer(client).startswith(b"HTTP/1.1 200")


def test_a_retry_that_comes_after_the_end_does_nothing(server, clients, loop, turner):
    (listener,) = server.listeners
    loop.call_soon(listener.retry)
    server.stop()
    turner.settle()
    assert server.connections == set()


def test_hundreds_of_connections_leave_nothing(server, clients, turner, loop):
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            for client in clients.connect(server, GET, 60):
                clients.answer(client)
                client.close()
        turner.until(lambda: not server.connections)
        turner.settle()
        assert len(loop.registered()) == 1
        assert [thing for thing in gc.get_objects() if isinstance(thing, Connection)] == []
    finally:
        gc.enable()


def test_an_idle_server_wakes_once_a_second(server, clock, loop, monkeypatch):
    waits: list[float] = []

    class Idle:
        def __init__(self, epoll: Any) -> None:
            self.epoll = epoll

        def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
            waits.append(timeout)
            clock.advance(timeout)
            return []

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoll", Idle(loop._epoll))
        for _ in range(10):
            loop.poll_once()
    assert waits == pytest.approx([1.0, 0] * 10), "each with a look whether that is all"


def test_the_date_is_refreshed_by_the_tick(server, clients, turner, monkeypatch):
    refreshed: list[int] = []
    monkeypatch.setattr(module, "refresh_date", lambda: refreshed.append(threading.get_ident()))
    turner.after(3)
    assert refreshed.count(threading.get_ident()) == 3, "a server in another thread has its own ticks"
