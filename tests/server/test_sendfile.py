"""Files on their way out: framing, pace, fairness, and files that change while they are sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypoll import File, HTTPError, Request, Response, RouteError, Routes
from hypoll.protocol.files import FILES
from hypoll.protocol.peer import NOBODY
from hypoll.protocol.serializer import COPY_LIMIT
from hypoll.server.connection import Connection
from hypoll.server.context import ServerContext
from hypoll.server.socket_io import SEND_SIZE
from hypoll.settings import Settings
from hypoll.testing import TestClient
from tests.support.clock import Turner
from tests.support.leftovers import open_descriptors, settled_descriptors

SIZES = [0, 1, COPY_LIMIT, COPY_LIMIT + 1, 64 * 1024, SEND_SIZE, SEND_SIZE + 1, 3 * 1024 * 1024]
LARGE = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    for size in SIZES:
        (root / f"{size}.bin").write_bytes(os.urandom(size))
    (root / "sub").mkdir()
    (root / ".hidden").write_bytes(b"x")
    (root / "page.html").write_bytes(b"<p>")
    (root / "page.html.gz").write_bytes(b"gzipped")
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    routes = Routes()
    routes.static("/assets", root, cache_control="max-age=60")

    @routes.get("/file/{name}")
    def file(request: Request, name: str) -> File:
        return File(root / name)

    @routes.get("/teapot")
    def teapot(request):
        return File(root / "1.bin"), 418, {"X": "1"}

    @routes.get("/broken")
    def broken(request):
        return Response(File(root / "1.bin"), headers={"X": "a\r\nb"})

    with TestClient(routes) as client:
        yield client


@pytest.mark.parametrize("prefix", ["/assets", "/file"])
@pytest.mark.parametrize("size", SIZES)
def test_files_of_every_size_are_sent_whole(client, root, prefix, size):
    content = (root / f"{size}.bin").read_bytes()
    for headers in ({}, {"Connection": "close"}, {"If-Match": "*"}):
        answer = client.get(f"{prefix}/{size}.bin", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["Content-Length"] == str(size)
        assert answer.content == content
    head = client.head(f"{prefix}/{size}.bin")
    assert (head.headers["Content-Length"], head.content) == (str(size), b"")
    if size:
        part = client.get(f"{prefix}/{size}.bin", headers={"Range": f"bytes={size // 2}-"})
        assert part.status_code == 206
        assert part.headers["Content-Length"] == str(size - size // 2)
        assert part.content == content[size // 2 :]


def test_the_plain_answer_and_the_careful_one_are_the_same(client):
    plain = client.get("/assets/65536.bin", headers={"Accept-Encoding": ""})
    careful = client.get("/assets/65536.bin", headers={"Accept-Encoding": "", "If-Match": "*"})
    assert dict(plain.headers) | {"Date": ""} == dict(careful.headers) | {"Date": ""}
    assert plain.headers["Cache-Control"] == "max-age=60"


def test_conditions_come_through(client):
    tag = client.get("/assets/65536.bin").headers["ETag"]
    unchanged = client.get("/assets/65536.bin", headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert "Content-Length" not in unchanged.headers
    assert unchanged.headers["Cache-Control"] == "max-age=60"
    beyond = client.get("/assets/65536.bin", headers={"Range": "bytes=65536-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */65536")
    assert client.get("/assets/65536.bin", headers={"If-Match": '"x"'}).status_code == 412


def test_a_precompressed_form_is_sent(client):
    raw = client.get("/assets/page.html", headers={"Accept-Encoding": "gzip"}, stream=True).raw
    assert raw.headers["Content-Encoding"] == "gzip"
    assert raw.read(decode_content=False) == b"gzipped"


STATUSES = {
    "/assets/": 404,
    "/assets": 404,
    "/assets/sub": 404,
    "/assets/.hidden": 404,
    "/assets/%2e%2e/x": 404,
    "/assets/..%2f..%2fetc%2fpasswd": 404,
    "/assets/1.bin%00": 404,
    "/assets/missing": 404,
    "/file/missing": 404,
    "/file/sub": 404,
    "/teapot": 418,
    "/broken": 500,
    "/assets/%31.bin?query": 200,
}


@pytest.mark.parametrize(("path", "status"), STATUSES.items())
def test_the_statuses(client, path, status):
    assert client.get(path).status_code == status


def test_other_methods_are_refused(client):
    answer = client.post("/assets/1.bin")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def test_hooks_see_files_and_their_absence(root):
    routes = Routes()
    routes.static("/", root)

    @routes.after
    def after(request, response):
        response.set_header("X", "after")

    @routes.error(HTTPError)
    def error(request, error):
        return f"oops {error.status}"

    outer = Routes()
    outer.mount("/below", routes)
    with TestClient(outer) as client:
        answer = client.get("/below/65536.bin")
        assert (len(answer.content), answer.headers["X"]) == (65536, "after")
        assert client.get("/below/nothing").text == "oops 404"


@pytest.mark.parametrize("options", [{"directory": "/nowhere"}, {"directory": "/", "prefix": "assets"}])
def test_what_cant_be_served_is_said_at_once(options):
    with pytest.raises(RouteError):
        Routes().static(**{"prefix": "/assets", **options})


# on one connection


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(LARGE))
    yield path
    FILES.clear()


@pytest.fixture
def shared(loop, large):
    routes = Routes()
    routes.static("/", large.parent)

    @routes.get("/text")
    def text(request):
        return "text"

    return ServerContext(loop, routes, Settings())


def take(sock: socket.socket) -> bytes:
    """What has arrived."""
    taken = bytearray()
    sock.setblocking(False)
    try:
        while data := sock.recv(1024 * 1024):
            taken += data
    except (BlockingIOError, ConnectionResetError):
        pass
    return bytes(taken)


GET = b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n"
TEXT = b"GET /text HTTP/1.1\r\nHost: x\r\n\r\n"


def all_of(turner: Turner, client: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []

    def whole() -> bool:
        parts.append(take(client))
        return sum(map(len, parts)) >= size

    turner.until(whole)
    return b"".join(parts)


def test_a_slow_client_gets_all_of_it_and_requests_behind_it_are_answered(shared, turner, tcp_pair, large):
    ours, client = tcp_pair()
    Connection(shared, ours, NOBODY)
    client.sendall(GET + GET + TEXT)
    turner.settle()
    said = all_of(turner, client, 2 * LARGE + 400)
    turner.settle()
    said += take(client)
    content = large.read_bytes()
    head, _, rest = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest[:LARGE] == content
    head, _, rest = rest[LARGE:].partition(b"\r\n\r\n")
    assert rest[:LARGE] == content
    assert rest[LARGE:].endswith(b"\r\n\r\ntext")


def test_a_client_that_reads_nothing_keeps_nobody_waiting_and_is_cut(shared, turner, tcp_pair):
    before = len(settled_descriptors())
    pairs = [tcp_pair() for _ in range(3)]
    for ours, client in pairs:
        Connection(shared, ours, NOBODY)
        client.sendall(GET)
    turner.settle()
    ours, client = tcp_pair()
    Connection(shared, ours, NOBODY)
    client.sendall(TEXT)
    turner.settle()
    assert take(client).endswith(b"text")
    for connection in list(shared.connections):
        if connection.writer.source is not None:
            connection.on_deadline()
    assert len(shared.connections) == 1
    FILES.clear()
    assert len(open_descriptors()) == before + 5  # the clients', and the one that was answered


def test_a_burst_is_bounded(shared, tcp_pair, turner, monkeypatch):
    sizes = []
    sendfile = os.sendfile

    def counting(out, file, offset, count):
        sizes.append(sendfile(out, file, offset, count))
        return sizes[-1]

    monkeypatch.setattr(os, "sendfile", counting)
    ours, client = tcp_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * SEND_SIZE)
    Connection(shared, ours, NOBODY)
    client.sendall(GET)
    turner.until(lambda: sizes)
    assert sum(sizes) <= 2 * SEND_SIZE  # one with the turn's events, one after them
    all_of(turner, client, LARGE)
    assert max(sizes) <= SEND_SIZE


def test_a_file_that_is_cut_short_cuts_the_connection(shared, turner, tcp_pair, large, caplog):
    ours, client = tcp_pair()
    Connection(shared, ours, NOBODY)
    client.sendall(GET)
    turner.settle()
    os.truncate(large, 100)
    said = [take(client)]

    def cut() -> bool:
        said.append(take(client))
        return bool(shared.lingering)

    turner.until(cut)
    said.append(take(client))
    assert len(b"".join(said)) < LARGE
    assert "became shorter while it was sent" in caplog.text


def test_a_replaced_file_is_sent_to_its_end(shared, turner, tcp_pair, large):
    content = large.read_bytes()
    ours, client = tcp_pair()
    Connection(shared, ours, NOBODY)
    client.sendall(GET)
    turner.settle()
    new = large.with_name("new")
    new.write_bytes(b"new")
    os.replace(new, large)
    client.sendall(GET)
    said = all_of(turner, client, LARGE + 500)
    turner.settle()
    said += take(client)
    assert said.partition(b"\r\n\r\n")[2].startswith(content)
    assert said.endswith(b"\r\n\r\nnew")


@pytest.mark.parametrize("when", ["before the answer", "in its middle"])
def test_a_client_that_goes_lets_the_file_go_and_is_nothing_to_tell(shared, turner, tcp_pair, caplog, when):
    before = len(settled_descriptors())
    ours, client = tcp_pair()
    Connection(shared, ours, NOBODY)
    client.sendall(GET)
    if when == "in its middle":
        turner.settle()
    client.close()
    turner.until(lambda: not shared.connections)
    FILES.clear()
    assert len(open_descriptors()) == before
    assert caplog.text == ""
