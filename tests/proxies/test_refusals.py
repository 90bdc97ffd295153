"""A refusal that ends hypoll's connection while the client still sends: it arrives through each proxy, each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxies.fronts import PROXIES, proxy
from tests.support.client import Client
from tests.support.gunicorn import HYPOLL, Master

pytestmark = pytest.mark.full

TRIES = 12
PATIENCE = 20.0
MIB = 1024 * 1024

APP = """
from hypoll import Routes

routes = Routes()


@routes.post("/plain")
def plain(request):
    return str(len(request.body))


@routes.post("/stream", threaded=True, stream=True)
def stream(request):
    return str(sum(map(len, request.stream)))


@routes.post("/async", stream=True)
async def asynchronous(request):
    return str(sum([len(piece) async for piece in request.stream]))


def wsgi(environ, start_response):
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(size).encode()]
"""

HEAD = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"4000\r\n" + b"c" * 0x4000 + b"\r\n"
END = b"0\r\n\r\n"
TOO_LARGE = CHUNK * 64 + END  # a mebibyte, where 64 KiB are allowed
MALFORMED = CHUNK * 2 + b"nonsense\r\n" + CHUNK * 62 + END

KINDS = {
    "plain": ("app:routes", "/plain", ()),
    "stream": ("app:routes", "/stream", ()),
    "async": ("app:routes", "/async", ()),
    "wsgi": ("app:wsgi", "/", ()),
    "wsgi-stream": ("app:wsgi", "/", ("--wsgi-stream",)),
}
"""What is served, the path that takes the body, and options."""


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """The port of a hypoll that takes bodies up to 64 KiB, and the path that takes them."""
    application, path, options = KINDS[request.param]
    (tmp_path / "app.py").write_text(APP)
    command = [*HYPOLL[:2], application, "--bind", "127.0.0.1:0", "--max-body", "64KiB", *options]
    with Master(tmp_path, command) as master:
        yield master.port, path.encode()


def status_of(port: int, request: bytes) -> int | str:
    """The status a client gets that sends all it can before it reads; or how that ended without one."""
    with Client(("127.0.0.1", port), patience=PATIENCE) as client:
        with contextlib.suppress(ConnectionError):  # what has come before the end is read all the same
            client.send(request)
        try:
            return client.answer().status
        except ConnectionError as error:
            return repr(error)


@pytest.mark.parametrize("front", PROXIES)
def test_the_refusal_of_a_body_arrives(backend, front):
    port, path = backend
    with proxy(front, port) as through:
        assert [status_of(through, HEAD % path + TOO_LARGE) for _ in range(TRIES)] == [413] * TRIES


def test_the_refusal_of_a_body_arrives_where_no_proxy_is(backend):
    """A malformed body is refused by each proxy itself: hypoll never sees it."""
    port, path = backend
    assert [status_of(port, HEAD % path + TOO_LARGE) for _ in range(TRIES)] == [413] * TRIES
    assert [status_of(port, HEAD % path + MALFORMED) for _ in range(TRIES)] == [400] * TRIES
    assert status_of(port, HEAD % path + CHUNK * (64 * MIB // 0x4000) + END) == 413, (
        "all of 64 MiB, before anything is read"
    )
