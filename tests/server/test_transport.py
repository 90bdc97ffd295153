"""TLS: real clients over loopback, and a client in memory whose records and edges a test has in its hand."""

from __future__ import annotations

import array
import contextlib
import itertools
import logging
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import trustme
from cryptography.hazmat.primitives import serialization
from gunicorn.config import Config

from hypoll import File, Request, Response, Routes, healthcheck
from hypoll.contracts import CloseReason, ConnectionState, Timeout
from hypoll.deploy.gunicorn_config import tls_context
from hypoll.loop import Loop
from hypoll.server import transport as module
from hypoll.server.context import READ_SIZE
from hypoll.server.server import Server
from hypoll.server.transport import (
    AHEAD_SIZE,
    CONTENT_SIZE,
    ENCRYPT_SIZE,
    TLSError,
    TLSSocket,
    context_of,
    make_context,
    steps,
)
from hypoll.settings import Settings
from hypoll.telemetry.observer import Observer, Observers, Record, combine_observers
from hypoll.testing import TestClient
from tests.support.client import Client
from tests.support.clock import PATIENCE, Turner
from tests.support.gunicorn import GUNICORN, HYPOLL, Master

KIB = 1024
MIB = 1024 * KIB
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


# certificates


class Files(NamedTuple):
    """Paths of PEM files."""

    ca: str
    cert: str
    key: str
    both: str
    client: str
    stranger: str

    @property
    def settings(self) -> dict[str, Any]:
        return {"certfile": self.cert, "keyfile": self.key}

    def client_context(self, version: ssl.TLSVersion | None = None, certificate: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(root / "ca.pem"))
    server = authority.issue_cert("localhost", "127.0.0.1")
    (root / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(str(root / "key.pem"))
    server.private_key_and_cert_chain_pem.write_to_path(str(root / "both.pem"))
    for name, issuer in (("client", authority), ("stranger", trustme.CA())):
        issuer.issue_cert("someone@example.org").private_key_and_cert_chain_pem.write_to_path(str(root / f"{name}.pem"))
    return Files(*(str(root / f"{name}.pem") for name in ("ca", "cert", "key", "both", "client", "stranger")))


# what is served


def application(root: Path) -> Routes:
    routes = Routes()

    @routes.get("/")
    def index(request: Request) -> dict[str, str]:
        return {"scheme": request.scheme}

    @routes.get("/size/{size:int}")
    def size(request: Request, size: int) -> bytes:
        return pattern(size)

    @routes.post("/echo")
    def echo(request: Request) -> bytes:
        return request.body

    add_streams(routes)
    routes.static("/static", root)

    @routes.get("/file")
    def file(request: Request) -> File:
        return File(root / "file.bin")

    return routes


def add_streams(routes: Routes) -> None:
    """Bodies that flow, both ways, and handlers of each kind."""

    @routes.get("/iterator")
    def iterator(request: Request) -> Response:
        return Response(iter([pattern(70_000)] * 10))

    @routes.get("/threaded", threaded=True)
    def threaded(request: Request) -> bytes:
        return pattern(700_000)

    @routes.get("/threaded-iterator", threaded=True)
    def threaded_iterator(request: Request) -> Response:
        return Response(iter([pattern(70_000)] * 10))

    @routes.get("/async")
    async def asynchronous(request: Request) -> bytes:
        return pattern(700_000)

    @routes.get("/async-iterator")
    async def async_iterator(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield pattern(70_000)

        return Response(pieces())

    @routes.post("/stream", threaded=True, stream=True)
    def stream(request: Request) -> str:
        return str(sum(map(len, request.stream)))

    @routes.post("/async-stream", stream=True)
    async def async_stream(request: Request) -> str:
        return str(sum([len(piece) async for piece in request.stream]))


def pattern(size: int) -> bytes:
    """Bytes that show when some are missing or in the wrong place."""
    return array.array("I", range(size // 4 + 1)).tobytes()[:size]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    (root / "file.bin").write_bytes(pattern(3 * MIB))
    return root


@pytest.fixture(scope="module")
def client(files: Files, root: Path) -> Iterator[TestClient]:
    with TestClient(application(root), **files.settings) as client:
        client.verify = files.ca
        yield client


def port_of(client: TestClient) -> int:
    return int(client.base_url.rpartition(":")[2])


@contextlib.contextmanager
def connected(client: TestClient, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with Client(("127.0.0.1", port_of(client)), tls=context) as secured:
        assert isinstance(secured.sock, ssl.SSLSocket)
        yield secured.sock


def openssl(client: TestClient, said: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """What `openssl s_client` tells of a conversation."""
    command = ["openssl", "s_client", "-connect", client.base_url.removeprefix("https://"), *arguments]
    return subprocess.run(
        command, input=said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False
    )


# real clients


def test_the_address_and_the_requests_are_https(client):
    assert client.base_url.startswith("https://127.0.0.1:")
    assert client.get("/").json() == {"scheme": "https"}


def test_the_health_check(client, files, capsys, monkeypatch):
    address = client.base_url.removeprefix("https://")
    assert healthcheck.main([address]) == 1
    assert healthcheck.main([address, "--tls"]) == 0
    monkeypatch.setenv("HYPOLL_CERTFILE", files.cert)
    assert healthcheck.main([address]) == 0
    assert capsys.readouterr().out.endswith("with 204\n")


def test_curl(client, files):
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", files.ca, client.base_url + "/"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b'{"scheme":"https"}'


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_ten_mebibytes_up_and_down(client, files, version):
    body = pattern(10 * MIB)
    with connected(client, files.client_context(version)) as sock:
        assert sock.version() == version.name.replace("_", ".")
        sock.sendall(b"POST /echo HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        received = b"".join(iter(lambda: sock.recv(MIB), b""))
    assert received.partition(b"\r\n\r\n")[2] == body


def test_versions_before_1_2_are_refused(client, files):
    context = files.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)version"), connected(client, context):
        pass


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/size/0", 0),
        (f"/size/{CONTENT_SIZE}", CONTENT_SIZE),
        (f"/size/{5 * CONTENT_SIZE + 1}", 5 * CONTENT_SIZE + 1),
        ("/iterator", 700_000),
        ("/threaded", 700_000),
        ("/threaded-iterator", 700_000),
        ("/async", 700_000),
        ("/async-iterator", 700_000),
        ("/file", 3 * MIB),
        ("/static/file.bin", 3 * MIB),
    ],
)
def test_bodies_of_each_kind_arrive_whole(client, path, size):
    piece = pattern(70_000) if "iterator" in path else pattern(size)
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content == piece * (size // len(piece) if piece else 1)


def test_part_of_a_file(client):
    answer = client.get("/static/file.bin", headers={"Range": "bytes=1000000-"})
    assert answer.status_code == 206
    assert answer.content == pattern(3 * MIB)[1_000_000:]


@pytest.mark.parametrize("path", ["/stream", "/async-stream"])
def test_a_body_that_its_handler_takes_as_it_comes(client, path):
    assert client.post(path, data=bytes(3 * MIB)).text == str(3 * MIB)
    assert client.post(path, data=iter([bytes(100_000)] * 10)).text == "1000000"


def test_a_session_is_resumed(client, files):
    context = files.client_context()
    with connected(client, context) as sock:
        sock.sendall(GET)
        assert sock.recv(KIB)
        session = sock.session
    with socket.create_connection(("127.0.0.1", port_of(client)), timeout=PATIENCE) as sock:
        again = context.wrap_socket(sock, server_hostname="localhost", session=session)
        assert again.session_reused
        again.close()


@pytest.mark.parametrize(("offered", "chosen"), [("h2,http/1.1", "http/1.1"), ("h2", None)])
def test_http_1_1_is_what_is_agreed_upon(client, files, offered, chosen):
    context = files.client_context()
    context.set_alpn_protocols(offered.split(","))
    with connected(client, context) as sock:
        assert sock.selected_alpn_protocol() == chosen


@pytest.mark.full
def test_renegotiation_is_refused(client):
    told = openssl(client, b"R\n", "-tls1_2").stdout
    assert b"RENEGOTIATING" in told
    assert b"no renegotiation" in told
    assert client.get("/").status_code == 200


@pytest.mark.full
def test_keys_are_updated_in_the_middle(client):
    """`K`: the client has new keys, and asks for the server's."""
    command = ["openssl", "s_client", "-connect", client.base_url.removeprefix("https://"), "-tls1_3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as popen:
        assert popen.stdin is not None
        assert popen.stdout is not None
        for said, answer in ((b"K\n", b"KEYUPDATE"), (GET, b'{"scheme":"https"}')):
            popen.stdin.write(said)
            popen.stdin.flush()
            told = b""
            while answer not in told:
                told += popen.stdout.read(1) or pytest.fail(f"it ended: {told!r}")
        popen.kill()


def test_plain_http_is_told_and_closed_at_once(client):
    with Client(("127.0.0.1", port_of(client))) as plain:
        plain.send(GET)
        assert plain.answer().status == 400
        assert plain.ends()


def test_a_server_with_no_room_closes_without_a_word(files, root):
    with TestClient(application(root), **files.settings, max_connections=1) as client:
        context = files.client_context()
        with connected(client, context), pytest.raises(OSError), connected(client, context):  # noqa: PT011
            pass


# clients' certificates


@pytest.mark.parametrize(
    ("cert_reqs", "certificate", "served"),
    [
        ("required", "client", True),
        ("required", "stranger", False),
        ("required", None, False),
        ("optional", "client", True),
        ("optional", "stranger", False),
        ("optional", None, True),
        ("none", "stranger", True),
    ],
)
def test_clients_certificates(files, root, cert_reqs, certificate, served):
    authorities = {} if cert_reqs == "none" else {"ca_certs": files.ca}
    with TestClient(application(root), **files.settings, cert_reqs=cert_reqs, **authorities) as client:
        client.verify = files.ca
        client.cert = getattr(files, certificate) if certificate else None
        if served:
            assert client.get("/").status_code == 200
        else:
            with pytest.raises(requests.ConnectionError):
                client.get("/")


# several processes, and who observes

APP = """
from hypoll import Routes

routes = Routes()

@routes.get("/")
def index(request):
    return {"scheme": request.scheme}
"""

HOOK = """
def ssl_context(config, make):
    context = make()
    context.maximum_version = context.minimum_version
    return context
"""


@pytest.mark.parametrize("command", [GUNICORN, (*HYPOLL, "--workers", "1")], ids=["gunicorn", "hypoll"])
def test_workers(files, tmp_path, command):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "gunicorn.conf.py").write_text(HOOK)
    of_tls: tuple[str, ...] = ("--certfile", files.cert, "--keyfile", files.key)
    if command is not GUNICORN:
        of_tls += ("--cert-reqs", "required", "--ca-certs", files.ca)
    with Master(tmp_path, (*command, "--bind", "127.0.0.1:0", *of_tls)) as master:
        context = files.client_context(certificate=files.client)
        with Client(("127.0.0.1", master.port), tls=context) as secured:
            assert isinstance(secured.sock, ssl.SSLSocket)
            assert secured.sock.version() == ("TLSv1.2" if command is GUNICORN else "TLSv1.3")
            assert secured.ask(GET).body == b'{"scheme":"https"}'


@pytest.mark.parametrize(
    ("command", "code"), [(GUNICORN, 1), ((*HYPOLL, "--workers", "1"), 2)], ids=["gunicorn", "hypoll"]
)
def test_a_master_does_not_start_without_a_certificate(tmp_path, command, code):
    (tmp_path / "app.py").write_text(APP)
    with Master(tmp_path, (*command, "--bind", "127.0.0.1:0", "--certfile", "app.py")) as master:
        assert master.wait() == code
    words = "Error: app.py has no certificate in PEM form, which begins with BEGIN CERTIFICATE"
    assert [line for line in master.lines if "Error" in line] == [words]


def test_gunicorn_s_settings():
    given = Config()
    assert tls_context(given) is None
    given.set("keyfile", "key.pem")
    with pytest.raises(TLSError, match="no certfile"):
        tls_context(given)


class Seen(Observer):
    """What an observer was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_requests(self, records: Sequence[Record]) -> None:
        self.told += [(record.status, record.sent, record.peer.scheme) for record in records]

    def on_timeout(self, timeout: Timeout) -> None:
        self.told.append(timeout)

    def on_close(self, end: CloseReason) -> None:
        self.told.append(end)


def test_who_observes_is_told_the_same_as_of_plain_connections(serve, loop):
    seen = Seen()
    observers = combine_observers([seen], loop)
    wire, silent = serve(hub=observers), serve()
    wire.shake()
    wire.send(GET)
    received = wire.await_answers(1)
    wire.turner.after(11)
    assert silent.state is ConnectionState.CLOSED
    wire.put(wire.peer.farewell())
    wire.await_state(ConnectionState.CLOSED)
    wire.turner.settle()
    assert seen.told == [(200, len(received), "https"), Timeout.HEAD, CloseReason.TIMEOUT, CloseReason.CLIENT]


# a client in memory


class Peer:
    """The client's end: what it says is encrypted apart from being sent."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.received = b""
        self.raw = 0
        self.secured = self.goodbye = self.ended = self.was_reset = False

    def encrypt(self, data: bytes) -> bytes:
        """Records with this content."""
        for at in range(0, len(data), CONTENT_SIZE):
            self.tls.write(data[at : at + CONTENT_SIZE])
        return self.outgoing.read()

    def farewell(self) -> bytes:
        """The record of a goodbye."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self.outgoing.read()

    def collect(self, limit: int = 1 << 30) -> None:
        """Read what is there, up to `limit` bytes of the wire."""
        while limit > 0 and not self.ended:
            try:
                data = self.sock.recv(min(limit, 64 * KIB))
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.ended = self.was_reset = True
                break
            self.ended = not data
            self.raw += len(data)
            limit -= len(data)
            self.incoming.write(data)
        if self.secured:
            self._decrypt()

    def _decrypt(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            while not self.goodbye:
                content = self.tls.read(64 * KIB)
                self.received += content
                self.goodbye = not content


class Wire:
    """A connection of a server on a loop with a fake clock, and its client."""

    def __init__(self, server: Server, turner: Turner, pair: tuple[socket.socket, socket.socket], peer: Peer) -> None:
        self.server, self.turner, self.peer = server, turner, peer
        before = set(server.connections)
        server.admit(pair[0], ("127.0.0.1", 4711))
        (self.connection,) = server.connections - before

    @property
    def state(self) -> Any:  # not State: mypy would take it for one that doesn't change
        return self.connection.state

    def put(self, data: bytes) -> None:
        """Send raw bytes, turning the loop as often as that needs."""
        view = memoryview(data)

        def sent() -> bool:
            nonlocal view
            with contextlib.suppress(BlockingIOError):
                view = view[self.peer.sock.send(view) :]
            return not view

        self.turner.until(sent)

    def shake(self) -> None:
        """The handshake."""
        peer = self.peer

        def done() -> bool:
            try:
                peer.tls.do_handshake()
                peer.secured = True
            except ssl.SSLWantReadError:
                pass
            self.put(peer.outgoing.read() or b"") if peer.outgoing.pending else None
            peer.collect()
            return peer.secured

        self.turner.until(done)
        self.turner.settle()
        peer.collect()

    def send(self, data: bytes) -> None:
        self.put(self.peer.encrypt(data))

    def await_state(self, state: ConnectionState) -> None:
        self.turner.until(lambda: self.state is state)

    def await_answers(self, count: int) -> bytes:
        """What was received once it has so many answers of `/`."""

        def came() -> bool:
            self.peer.collect()
            return self.peer.received.count(b'{"scheme":"https"}') >= count

        self.turner.until(came)
        return self.peer.received

    def await_end(self) -> Peer:
        def over() -> bool:
            self.peer.collect()
            return self.peer.ended

        self.turner.until(over)
        return self.peer


Serve = Callable[..., Wire]


@pytest.fixture
def serve(loop: Loop, turner: Turner, tcp_pair: Any, files: Files, root: Path) -> Iterator[Serve]:
    servers: list[Server] = []
    small_ones: list[socket.socket] = []

    def start(
        *, small: bool = False, version: ssl.TLSVersion | None = None, hub: Observers | None = None, **settings: Any
    ) -> Wire:
        if not servers or settings:
            options = Settings(**files.settings, **settings)
            servers.append(Server(inline(), options, loop, listeners=[], observers=hub))
            servers[-1].start()
        if small:
            # What a unix socket holds is its sender's buffer: there are no windows that open late.
            pair = socket.socketpair()
            pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
            small_ones.append(pair[1])
        else:
            pair = tcp_pair()
        return Wire(servers[-1], turner, pair, Peer(pair[1], files.client_context(version)))

    yield start
    for sock in small_ones:
        sock.close()
    for server in servers:
        server.stop()
        assert server.connections == set()
    assert loop.registered() == []


def inline() -> Routes:
    routes = Routes()

    @routes.get("/")
    def index(request: Request) -> dict[str, str]:
        return {"scheme": request.scheme}

    @routes.get("/size/{size:int}")
    def size(request: Request, size: int) -> bytes:
        return pattern(size)

    @routes.post("/echo")
    def echo(request: Request) -> bytes:
        return request.body

    @routes.get("/broken")
    def broken(request: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b"a" * 50_000
            raise ValueError

        return Response(pieces())

    return routes


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def wire(serve: Serve, request: pytest.FixtureRequest) -> Wire:
    wire = serve(version=request.param)
    wire.shake()
    return wire


# the handshake


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_handshake_byte_by_byte(serve, version):
    wire = serve(version=version)
    put = wire.put
    wire.put = lambda data: [put(data[at : at + 1]) for at in range(len(data))]
    wire.shake()
    assert wire.state is ConnectionState.NEW
    wire.send(GET)
    wire.await_answers(1)


@pytest.mark.parametrize("part", [0, 1, 100, None])
def test_a_half_open_handshake_has_the_time_of_a_head(serve, part):
    wire = serve(header_timeout=10.0)
    with contextlib.suppress(ssl.SSLWantReadError):
        wire.peer.tls.do_handshake()
    hello = wire.peer.outgoing.read()[:part]
    if hello:
        wire.put(hello)
    wire.turner.after(9)
    assert wire.connection in wire.server.connections
    wire.turner.after(2)
    assert wire.state is ConnectionState.CLOSED
    assert wire.await_end().raw == 0 or part is None


def test_a_handshake_does_not_count_the_time_in_which_the_process_did_not_run(serve, clock):
    wire = serve(header_timeout=10.0)
    clock.advance(3600)
    wire.turner.settle()
    wire.shake()
    assert wire.state is ConnectionState.NEW


def test_hundreds_of_half_open_handshakes_hold_up_nobody(serve, loop):
    wires = [serve() for _ in range(150)]
    for wire in wires:
        with contextlib.suppress(ssl.SSLWantReadError):
            wire.peer.tls.do_handshake()
        wire.peer.sock.send(wire.peer.outgoing.read())
    last = serve()
    last.shake()
    last.send(GET)
    last.await_answers(1)
    last.turner.after(11)
    assert {wire.state for wire in wires} == {ConnectionState.CLOSED}
    assert last.state is ConnectionState.IDLE


@pytest.mark.parametrize("data", [b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000, b"\x80" * 10_000])
def test_garbage_in_place_of_a_handshake_is_closed_at_once(serve, data):
    wire = serve()
    wire.put(data)
    wire.await_state(ConnectionState.CLOSED)
    assert wire.peer.received == b""


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_peer_that_goes_in_the_handshake(serve, how):
    wire = serve()
    wire.put(b"\x16\x03\x01")
    wire.turner.settle()
    if how == "reset":
        wire.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.peer.sock.close()
    wire.await_state(ConnectionState.CLOSED)


def test_a_flight_the_kernel_does_not_take_at_once_goes_on_at_the_writable_edge(serve, monkeypatch):
    wire = serve()
    taken = []

    def trickle(self: socket.socket, data: bytes) -> int:
        if not isinstance(self, TLSSocket):
            return self.sendmsg([data])
        taken.append(data)
        return socket.socket.sendmsg(self, [data[:100]])

    monkeypatch.setattr(socket.socket, "send", trickle)
    with contextlib.suppress(ssl.SSLWantReadError):
        wire.peer.tls.do_handshake()
    wire.put(wire.peer.outgoing.read())
    wire.turner.settle()
    assert len(taken) == 1, "a short send means a full kernel"
    monkeypatch.undo()
    wire.connection.on_events(4)  # EPOLLOUT
    wire.shake()
    assert wire.state is ConnectionState.NEW


def test_a_request_that_came_with_the_last_of_the_handshake_is_answered(serve):
    wire = serve()
    peer = wire.peer
    for _ in range(2):
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
            peer.secured = True
        if not peer.secured:
            wire.put(peer.outgoing.read())
            wire.turner.settle()
            peer.collect()
    wire.put(peer.outgoing.read() + peer.encrypt(GET))
    wire.await_answers(1)


# records and edges


@pytest.mark.parametrize("count", [1, 2, 50])
def test_pipelined_requests_in_one_record(wire, count):
    wire.send(GET * count)
    wire.await_answers(count)
    assert wire.state is ConnectionState.IDLE


@pytest.mark.parametrize("step", [1, 7, 40])
def test_pipelined_requests_split_over_records(wire, step):
    data = GET * 3
    wire.put(b"".join(wire.peer.encrypt(data[at : at + step]) for at in range(0, len(data), step)))
    wire.await_answers(3)


def test_pipelined_requests_byte_by_byte(wire):
    data = wire.peer.encrypt(GET) + wire.peer.encrypt(GET)
    for at in range(len(data)):
        wire.peer.sock.send(data[at : at + 1])
        wire.turner.loop.poll_once(0)
    wire.await_answers(2)


@pytest.mark.parametrize("size", [1, CONTENT_SIZE, READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 300_000, MIB])
def test_a_body_larger_than_a_read_comes_without_another_edge(wire, size):
    wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + pattern(size))

    def came() -> bool:
        wire.peer.collect()
        return bool(wire.peer.received.endswith(pattern(size)[-100:]))

    wire.turner.until(came)
    assert wire.peer.received.partition(b"\r\n\r\n")[2] == pattern(size)


def test_a_request_costs_one_recv_and_one_send(wire, monkeypatch):
    wire.send(GET)
    wire.await_answers(1)
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(socket.socket, name)

        def call(self: socket.socket, *arguments: Any) -> Any:
            if isinstance(self, TLSSocket):
                calls.append(name)
            return plain(self, *arguments)

        return call

    for name in ("recv", "send", "sendmsg"):
        monkeypatch.setattr(socket.socket, name, counted(name))
    wire.send(GET)
    wire.await_answers(2)
    assert calls == ["recv", "send"]


def shaken(
    pair: tuple[socket.socket, socket.socket], files: Files, outgoing: ssl.MemoryBIO | None = None
) -> tuple[TLSSocket, Peer]:
    """A socket after its handshake, and its peer."""
    accepted, client = pair
    sock = TLSSocket(accepted, make_context(files.cert, files.key), outgoing)
    peer = Peer(client, files.client_context())
    end = time.monotonic() + PATIENCE
    while not (sock.secured and peer.secured) and time.monotonic() < end:
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
            peer.secured = True
        if peer.outgoing.pending:
            client.send(peer.outgoing.read())
        sock.secured or sock.handshake()
        peer.collect()
    return sock, peer


@pytest.fixture
def ends(tcp_pair: Any, files: Files) -> Iterator[tuple[TLSSocket, Peer]]:
    """A socket after its handshake, and its peer."""
    sock, peer = shaken(tcp_pair(), files)
    yield sock, peer
    sock.close()


def put_all(peer: Peer, data: bytes) -> None:
    peer.sock.setblocking(True)
    peer.sock.sendall(data)
    peer.sock.setblocking(False)


@pytest.mark.parametrize("size", [1, 999, CONTENT_SIZE, CONTENT_SIZE + 1, READ_SIZE, READ_SIZE + 1, 200_000])
@pytest.mark.parametrize("room", [1000, READ_SIZE])
def test_a_short_read_has_drained_the_kernel_and_tls(ends, size, room):
    sock, peer = ends
    put_all(peer, peer.encrypt(pattern(size)))
    received = b""
    while len(received) < size:
        with contextlib.suppress(BlockingIOError):  # some of it may still be on its way
            data = sock.recv(room)
            received += data
            assert len(data) <= room
            if len(data) < room:
                with pytest.raises(BlockingIOError):
                    socket.socket.recv(sock, 1, socket.MSG_PEEK)
                assert len(received) == size or size > 100_000, "on loopback it comes at once"
    assert received == pattern(size)
    with pytest.raises(BlockingIOError):
        sock.recv(room)


def test_what_the_kernel_does_not_take_counts_as_not_sent(ends):
    sock, peer = ends
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
    data = memoryview(pattern(2 * MIB))
    sent = sock.send(data)
    assert 0 < sent < len(data)
    refused = False
    for _ in range(8):  # the kernel may have found room for a little more
        try:
            sent += sock.send(data[sent:])
        except BlockingIOError:
            refused = True
            break
    assert refused
    while sent < len(data):
        peer.collect(64 * KIB)
        with contextlib.suppress(BlockingIOError):
            sent += sock.sendmsg([data[sent : sent + 10], data[sent + 10 : sent + 500_000]])
    while len(peer.received) < len(data):
        peer.collect()
    assert peer.received == data


@pytest.mark.parametrize(
    "sizes", [[2] * 500, [1, CONTENT_SIZE] * 3, [CONTENT_SIZE] * 4, [CONTENT_SIZE] * 3 + [CONTENT_SIZE - 1, 1, 100]]
)
def test_a_read_takes_the_content_of_many_records(ends, sizes):
    sock, peer = ends
    data = pattern(sum(sizes))
    starts = itertools.accumulate(sizes, initial=0)
    put_all(peer, b"".join(peer.encrypt(data[at : at + size]) for at, size in zip(starts, sizes, strict=False)))
    received = sock.recv(READ_SIZE)
    assert received == data[:READ_SIZE]
    if len(data) > READ_SIZE:
        assert sock.recv(READ_SIZE) == data[READ_SIZE:], "what there was no room for brings no edge"
    with pytest.raises(BlockingIOError):
        sock.recv(READ_SIZE)


@pytest.mark.parametrize(
    ("sizes", "skipped", "wanted"),
    [
        ([], 0, []),
        ([300], 0, [300]),
        ([100, 200], 0, [300]),
        ([100, 200], 150, [150]),
        ([100, 200], 300, []),
        ([300, 400_000], 0, [CONTENT_SIZE, *[ENCRYPT_SIZE] * 2, 400_300 - CONTENT_SIZE - 2 * ENCRYPT_SIZE]),
        ([300, 400_000], 300, [*[ENCRYPT_SIZE] * 3, 400_000 - 3 * ENCRYPT_SIZE]),
        ([20_000, 300, 20_000], 0, [20_000, CONTENT_SIZE, 20_300 - CONTENT_SIZE]),
        ([1000] * 40, 0, [CONTENT_SIZE, CONTENT_SIZE, 40_000 - 2 * CONTENT_SIZE]),
    ],
)
def test_content_is_encrypted_in_steps_and_small_buffers_share_a_record(sizes, skipped, wanted):
    data = pattern(sum(sizes))
    starts = itertools.accumulate(sizes, initial=0)
    buffers: list[bytes | memoryview] = [data[at : at + size] for at, size in zip(starts, sizes, strict=False)]
    pieces = list(steps(buffers, skipped))
    assert b"".join(pieces) == data[skipped:]
    assert [len(piece) for piece in pieces] == wanted
    copied = [piece for piece in pieces if isinstance(piece, bytes)]
    assert all(len(piece) <= CONTENT_SIZE for piece in copied), "large buffers are not copied"


def test_what_is_encrypted_ahead_of_the_kernel_is_bounded_and_goes_in_one_call(ends, monkeypatch):
    sock, peer = ends
    offered: list[int] = []
    plain = socket.socket.sendmsg

    def sendmsg(self: socket.socket, buffers: list[Any], *arguments: Any) -> int:
        if self is sock:
            offered.append(sum(map(len, buffers)))
        return plain(self, buffers, *arguments)

    monkeypatch.setattr(socket.socket, "sendmsg", sendmsg)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
    data = pattern(4 * MIB)
    sent = sock.send(data)
    assert AHEAD_SIZE < max(offered) < 1.01 * (AHEAD_SIZE + ENCRYPT_SIZE)
    while sent < len(data):
        peer.collect(64 * KIB)
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(memoryview(data)[sent:])
    while len(peer.received) < len(data):
        peer.collect()
    assert peer.received == data
    assert max(offered) < 1.01 * (AHEAD_SIZE + ENCRYPT_SIZE)


@pytest.mark.parametrize("size", [1, CONTENT_SIZE + 1, 3 * MIB])
def test_sockets_that_share_the_memory_for_what_tls_writes_get_their_own(tcp_pair, files, size):
    outgoing = ssl.MemoryBIO()
    both = [shaken(tcp_pair(), files, outgoing) for _ in range(2)]
    contents = [pattern(size), pattern(size)[::-1]]
    sent = [0, 0]
    while not all(len(peer.received) == size for _, peer in both):
        for number, (sock, peer) in enumerate(both):
            outgoing.write(b"what a socket left that failed")
            with contextlib.suppress(BlockingIOError):
                sock.recv(READ_SIZE)
            outgoing.write(b"what a socket left that failed")
            with contextlib.suppress(BlockingIOError):
                if sent[number] < size:
                    sent[number] += sock.send(memoryview(contents[number])[sent[number] :])
            peer.collect()
    assert [peer.received for _, peer in both] == contents
    for sock, peer in both:
        outgoing.write(b"what a socket left that failed")
        assert sock.notify_close()
        sock.close()
        while not peer.ended:
            peer.collect()
        assert peer.goodbye


def test_many_large_answers_make_nobody_wait_who_has_just_come(serve, clock, monkeypatch):
    busy = [serve() for _ in range(5)]
    fresh = serve()
    for wire in (*busy, fresh):
        wire.shake()
    encrypted = [0]
    seen: list[int] = []

    def slow(buffers: Any, skipped: int) -> Iterator[Any]:
        for piece in steps(buffers, skipped):
            encrypted[0] += len(piece)
            clock.advance(len(piece) / MIB * 0.001)
            yield piece

    def settled() -> bool:
        for wire in busy:
            wire.peer.collect()
        fresh.peer.collect()
        if not seen and b"https" in fresh.peer.received:
            seen.append(encrypted[0])
        return all(len(wire.peer.received) > 3 * MIB for wire in busy)

    monkeypatch.setattr("hypoll.server.transport.steps", slow)
    for wire in busy:  # all are there before the loop's next turn
        put_all(wire.peer, wire.peer.encrypt(b"GET /size/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (3 * MIB)))
    put_all(fresh.peer, fresh.peer.encrypt(GET))
    fresh.turner.until(settled)
    assert seen[0] < 3 * MIB
    assert all(wire.peer.received.endswith(pattern(3 * MIB)) for wire in busy)


@pytest.mark.parametrize("what", ["handshakes", "uploads"])
def test_much_to_decrypt_makes_nobody_wait_who_asks_for_little(serve, clock, monkeypatch, what):
    quick, busy = serve(), [serve() for _ in range(6)]
    quick.shake()
    quick.send(GET)
    quick.await_answers(1)  # it is idle now
    body = bytes(20 * KIB)
    for wire in busy:
        if what == "uploads":
            wire.shake()
            wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (2 * len(body)) + body)
            wire.await_state(ConnectionState.BODY)
    name = "handshake" if what == "handshakes" else "recv"
    done, seen, call = [0], [], getattr(TLSSocket, name)

    def slow(sock: TLSSocket, *arguments: Any) -> Any:
        if sock is not quick.connection.sock:
            done[0] += 1
            clock.advance(0.001)
        return call(sock, *arguments)

    def answered() -> bool:
        quick.peer.collect()
        seen.append(done[0])
        return bool(quick.peer.received.count(b"https") > 1)

    monkeypatch.setattr(TLSSocket, name, slow)
    for wire in busy:  # all are there before the loop's next turn
        if what == "uploads":
            put_all(wire.peer, wire.peer.encrypt(body))
        else:
            with contextlib.suppress(ssl.SSLWantReadError):
                wire.peer.tls.do_handshake()
            put_all(wire.peer, wire.peer.outgoing.read())
    put_all(quick.peer, quick.peer.encrypt(GET))
    quick.turner.until(answered)
    assert seen[-1] <= 3
    if what == "uploads":
        quick.turner.until(lambda: [wire.peer.collect() for wire in busy] and all(w.peer.received for w in busy))
        assert all(wire.peer.received.endswith(2 * body) for wire in busy)
    else:
        for wire in busy:
            wire.shake()
            wire.send(GET)
            wire.await_answers(1)


def test_who_sends_records_without_content_is_cut_off(ends, monkeypatch):
    sock, peer = ends
    put_all(peer, peer.encrypt(b"x"))
    assert sock.recv(READ_SIZE) == b"x"
    monkeypatch.setattr(module, "FRUITLESS_SIZE", 3500)
    records = peer.encrypt(bytes(1500)) + peer.encrypt(bytes(10_000))
    put_all(peer, records[:3000])
    assert len(sock.recv(READ_SIZE)) == 1500, "content takes the count back"
    put_all(peer, records[3000:6600])
    with pytest.raises(ConnectionAbortedError):
        sock.recv(READ_SIZE)


def test_records_that_are_none_are_closed(wire):
    wire.put(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
    wire.await_state(ConnectionState.CLOSED)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        wire.await_end()


# slow readers


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_slow_reader_gets_all_of_a_large_answer(serve, version):
    wire = serve(small=True, version=version)
    wire.shake()
    wire.send(b"GET /size/%d HTTP/1.1\r\nHost: a\r\n\r\n" % MIB + GET)
    wire.await_state(ConnectionState.SENDING)
    for _ in range(4):
        wire.turner.after(25)
        assert wire.state is ConnectionState.SENDING
        before = wire.peer.raw
        wire.turner.until(lambda before=before: wire.peer.collect(64 * KIB) or wire.peer.raw > before)
    head, _, rest = wire.await_answers(1).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert rest[:MIB] == pattern(MIB)


def test_a_reader_that_takes_nothing_is_given_up_without_a_goodbye(serve):
    wire = serve(small=True)
    wire.shake()
    wire.send(b"GET /size/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (4 * MIB))
    wire.await_state(ConnectionState.SENDING)
    wire.turner.after(32)
    assert wire.state is ConnectionState.CLOSED
    assert not wire.await_end().goodbye


@pytest.mark.parametrize("size", [100, 4 * MIB])
def test_the_last_answer_is_followed_by_a_goodbye(serve, size):
    wire = serve(small=size > KIB)
    wire.shake()
    wire.send(b"GET /size/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % size)
    peer = wire.await_end()
    assert peer.goodbye
    assert peer.received.partition(b"\r\n\r\n")[2] == pattern(size)


def test_a_body_that_fails_has_no_goodbye(serve, caplog):
    wire = serve()
    wire.shake()
    wire.send(b"GET /broken HTTP/1.0\r\n\r\n")
    with contextlib.suppress(ssl.SSLEOFError):
        wire.await_end()
    assert wire.peer.received.endswith(b"a" * 50_000)
    assert not wire.peer.goodbye
    assert "body failed" in caplog.text


# ends


def test_an_idle_connection_is_closed_with_a_goodbye(wire):
    wire.send(GET)
    wire.await_answers(1)
    wire.turner.after(77)
    assert wire.await_end().goodbye


@pytest.mark.parametrize("together", [True, False])
def test_the_peer_s_goodbye_is_its_end(wire, together):
    """TCP's end doesn't follow: no edge will tell."""
    if together:
        wire.send(GET)
        wire.await_answers(1)  # from here on the hot path
        wire.put(wire.peer.encrypt(GET) + wire.peer.farewell())
        wire.turner.settle()
    else:
        wire.put(wire.peer.farewell())
    wire.await_state(ConnectionState.CLOSED)
    assert wire.server.connections == set()


def test_a_request_that_a_goodbye_cuts_off_is_no_request(wire):
    wire.put(wire.peer.encrypt(GET[:-1]) + wire.peer.farewell())
    wire.await_state(ConnectionState.LINGERING)
    wire.peer.sock.shutdown(socket.SHUT_WR)
    wire.await_state(ConnectionState.CLOSED)


@pytest.mark.parametrize("begun", [b"", GET[:10], b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_peer_that_goes_without_a_goodbye(wire, begun, how):
    if begun:
        wire.send(begun)
        wire.turner.settle()
    if how == "reset":
        wire.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.peer.sock.close()
    wire.await_state(ConnectionState.CLOSED)


def test_a_half_closed_peer_gets_its_answer(wire):
    wire.put(wire.peer.encrypt(GET))
    wire.peer.sock.shutdown(socket.SHUT_WR)
    wire.await_answers(1)
    assert wire.await_end().goodbye


def test_a_refusal_is_read_before_the_end(serve):
    wire = serve(max_body=1000)
    wire.shake()
    wire.put(wire.peer.encrypt(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n" + bytes(50_000)))
    wire.await_state(ConnectionState.LINGERING)
    wire.put(wire.peer.encrypt(bytes(40_000)))
    wire.peer.sock.shutdown(socket.SHUT_WR)
    peer = wire.await_end()
    assert peer.received.startswith(b"HTTP/1.1 413 ")
    assert peer.goodbye
    assert not peer.was_reset


def test_a_drain(serve):
    idle, busy, halfway, silent = serve(), serve(small=True), serve(), serve()
    idle.shake()
    busy.shake()
    idle.send(GET)
    idle.await_answers(1)
    busy.send(b"GET /size/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (4 * MIB))
    busy.await_state(ConnectionState.SENDING)
    idle.server.drain_at_once()
    idle.turner.settle()
    assert [wire.state for wire in (idle, busy)] == [ConnectionState.CLOSED, ConnectionState.SENDING]
    assert idle.await_end().goodbye
    halfway.shake()
    halfway.send(GET)
    assert b"Connection: close" in halfway.await_answers(1)
    halfway.turner.after(2)
    assert silent.state is ConnectionState.CLOSED
    assert busy.await_end().received.partition(b"\r\n\r\n")[2] == pattern(4 * MIB)
    for wire in (halfway, busy):
        wire.peer.sock.close()
        wire.await_state(ConnectionState.CLOSED)


def test_failures_of_peers_are_told_to_nobody_but_debug(serve, caplog):
    with caplog.at_level(logging.DEBUG):
        wire = serve()
        wire.put(b"\x80" * 10_000)
        wire.await_state(ConnectionState.CLOSED)
    assert "('127.0.0.1', 4711) closed: " in caplog.text
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PATCH", "OPTIONS", "CONNECT", "PRI", "BREW"])
@pytest.mark.parametrize("way", ["whole", "by bytes", "upload"])
def test_plain_http_is_answered_by_plain_http(serve, loop, caplog, method, way):
    head = f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {MIB}\r\n\r\n".encode()
    with caplog.at_level(logging.DEBUG):
        seen = Seen()
        wire = serve(hub=combine_observers([seen], loop))
        for piece in [head[at : at + 1] for at in range(len(head))] if way == "by bytes" else [head]:
            wire.put(piece)
            wire.turner.settle()
        assert wire.state is ConnectionState.LINGERING
        if way == "upload":
            wire.put(bytes(MIB))
        peer = wire.await_end()
    assert not peer.was_reset
    received = peer.incoming.read()
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in received
    assert b"TLS is spoken here: ask by https://, not http://" in received
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    (told,) = [record for record in caplog.records if record.getMessage().endswith("the peer speaks without TLS")]
    assert f'"id":"{told.request_id}"'.encode() in received
    peer.sock.close()
    wire.await_state(ConnectionState.CLOSED)
    wire.turner.settle()
    assert seen.told == [(400, len(received), "https"), CloseReason.REFUSED]


@pytest.mark.parametrize("first", [b"\x00", b"\x16", b"\x80", b"@", b"[", b"\r\n", b"get / HTTP/1.1\r\n"])
def test_what_is_neither_tls_nor_http_is_closed_without_a_word(serve, first):
    wire = serve()
    wire.put(first + b"\x16" * 64)
    wire.await_state(ConnectionState.CLOSED)
    peer = wire.await_end()
    assert b"HTTP" not in peer.incoming.read()


# certificates that can't be used


@pytest.fixture
def paths(files: Files, tmp_path: Path) -> dict[str, str]:
    """Files with something wrong about them."""
    other = trustme.CA().issue_cert("localhost")
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    contents = {
        "other": other.private_key_pem.bytes(),
        "encrypted": encrypted,
        "text": b"no certificate",
        "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {**files._asdict(), **{name: str(tmp_path / name) for name in (*contents, "missing")}}


WRONG = [
    ({"certfile": "missing"}, "can't read the certificate {missing}: No such file or directory"),
    ({"certfile": "cert", "keyfile": "missing"}, "can't read the key {missing}: No such file or directory"),
    ({"certfile": "text"}, "{text} has no certificate in PEM form, which begins with BEGIN CERTIFICATE"),
    ({"certfile": "cert"}, "{cert} has no key in PEM form, which begins with BEGIN PRIVATE KEY"),
    ({"certfile": "key", "keyfile": "cert"}, "{key} has no certificate in PEM form"),
    (
        {"certfile": "cert", "keyfile": "other"},
        "can't use the certificate {cert}: the key in {other} is not that of the certificate",
    ),
    (
        {"certfile": "cert", "keyfile": "encrypted"},
        "the key in {encrypted} is encrypted, and can't be used so: decrypt it with `openssl pkey`",
    ),
    ({"certfile": "broken", "keyfile": "key"}, "can't use the certificate {broken}: it is damaged, or of a kind"),
    (
        {"certfile": "both", "ca_certs": "missing", "cert_reqs": "required"},
        "can't read the certificate {missing}: No such file or directory",
    ),
    (
        {"certfile": "both", "ca_certs": "broken", "cert_reqs": "required"},
        "can't use the certificates in {broken}: it is damaged",
    ),
    (
        {"certfile": "both", "cert_reqs": "required"},
        "cert_reqs asks for clients' certificates: name those they must lead to with ca_certs",
    ),
    (
        {"certfile": "both", "ca_certs": "ca"},
        "ca_certs is given, but cert_reqs is none: no client is asked for a certificate",
    ),
    ({"keyfile": "key"}, "keyfile is given, but no certfile: TLS needs a certificate"),
    ({"cert_reqs": "required"}, "cert_reqs asks for clients' certificates, but there is no certfile: TLS needs one"),
    ({"certfile": "both", "ciphers": "none"}, "ciphers is 'none': OpenSSL knows none of them, see `openssl ciphers`"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_what_can_not_be_used_is_told_in_a_sentence(paths, given, words):
    names = ("certfile", "keyfile", "ca_certs")
    settings = {key: paths[value] if key in names else value for key, value in given.items()}
    with pytest.raises(TLSError) as caught:
        context_of(Settings(**settings))
    assert str(caught.value).startswith(words.format(**paths))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--certfile", "missing.pem"], 2, "can't read the certificate missing.pem: No such file or directory"),
        (["--keyfile", "key.pem"], 2, "--keyfile is given, but no --certfile: TLS needs a certificate"),
    ],
)
def test_the_command_ends_with_a_sentence(tmp_path, arguments, code, words):
    (tmp_path / "app.py").write_text("from hypoll import Routes\nroutes = Routes()\n")
    command = [sys.executable, "-m", "hypoll", "app:routes", "--bind", "127.0.0.1:0", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stderr) == (code, f"Error: {words}\n")


def test_a_certificate_and_its_key_may_share_a_file_and_ciphers_be_chosen(files):
    settings = Settings(certfile=files.both, ciphers="ECDHE+AESGCM")
    context = context_of(settings)
    assert context is not None
    names = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert names
    assert all(name.startswith("ECDHE") and "GCM" in name for name in names)
    assert context_of(Settings()) is None
