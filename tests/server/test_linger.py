"""The last word arrives: a client that writes all of a large body before it reads still reads why it was refused."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from hypoll import HTTPError, Request, Routes
from hypoll.contracts import ConnectionState
from hypoll.server.ending import LINGER_IN_DRAIN
from hypoll.wsgi.application import service_of
from tests.support.client import Client
from tests.support.server import Running, running

MIB = 1024 * 1024
AMOUNT = 64 * MIB
CHUNK = b"%x\r\n%b\r\n" % (MIB, bytes(MIB))
LIMIT = MIB // 2


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"read"]


def application(kind: str) -> Any:
    if kind in ("wsgi", "wsgi-stream"):
        return service_of(wsgi, stream=kind == "wsgi-stream")
    routes = Routes()
    if kind == "async-stream":

        async def take(request: Request) -> str:
            return str(len(await request.stream.read()))

        routes.post("/", stream=True)(take)
    elif kind == "threaded-stream":
        routes.post("/", stream=True, threaded=True)(lambda request: str(len(request.stream.read())))
    elif kind == "early":

        @routes.post("/", stream=True, threaded=True)
        def refuse(request: Request) -> str:
            raise HTTPError(403, "not you")
    else:
        routes.post("/")(lambda request: str(len(request.body)))
    return routes


class TLS:
    def __init__(self) -> None:
        authority = trustme.CA()
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)
        self.pem = authority.issue_cert("localhost").private_key_and_cert_chain_pem.bytes()


@pytest.fixture(scope="module")
def tls() -> TLS:
    return TLS()


@pytest.fixture(params=["plain", "unix", "tls"])
def way(request: pytest.FixtureRequest, tmp_path: Path, tls: TLS) -> tuple[dict[str, Any], Callable[[Running], Client]]:
    """The settings of a way to the server, and what connects by it."""
    if request.param == "unix":
        path = str(tmp_path / "socket")

        return {"bind": (f"unix:{path}",)}, lambda it: Client(path)
    if request.param == "plain":
        return {}, lambda it: Client(it.address)
    (tmp_path / "pem").write_bytes(tls.pem)
    settings = {"certfile": str(tmp_path / "pem")}
    return settings, lambda it: Client(it.address, tls=tls.context)


def pieces_of(case: str) -> Iterator[bytes]:
    if case == "length":
        yield b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % AMOUNT
        yield from [bytes(MIB)] * (AMOUNT // MIB)
    elif case == "head":
        yield b"POST / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000
        yield from [b"x" * MIB] * (AMOUNT // MIB)
    else:
        yield b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        if case == "malformed":
            yield b"5\r\nhello\r\nnonsense\r\n"
        yield from [CHUNK] * (AMOUNT // MIB)


@pytest.mark.parametrize(
    ("kind", "case", "status"),
    [
        ("plain", "length", 413),
        ("plain", "chunked", 413),
        ("plain", "malformed", 400),
        ("plain", "head", 431),
        ("wsgi", "length", 413),
        ("wsgi", "chunked", 413),
        ("wsgi", "malformed", 400),
        ("wsgi-stream", "chunked", 413),
        ("wsgi-stream", "malformed", 400),
        ("threaded-stream", "chunked", 413),
        ("threaded-stream", "malformed", 400),
        ("async-stream", "chunked", 413),
        ("async-stream", "malformed", 400),
        ("early", "chunked", 403),
    ],
)
def test_a_client_that_writes_all_before_it_reads_gets_its_answer(kind, case, status, way):
    settings, connect = way
    limit = 2 * AMOUNT if kind == "early" else LIMIT
    with running(application(kind), max_body=limit, **settings) as it, connect(it) as client:
        for piece in pieces_of(case):
            client.send(piece)
        assert client.answer().status == status
        assert client.ends()


def test_a_drain_waits_a_moment_for_who_still_sends():
    with running(application("plain"), graceful_timeout=60.0) as it:
        client = it.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n")
        it.until(lambda: [connection.state for connection in it.server.connections] == [ConnectionState.LINGERING])
        begun = it.on_loop(it.runner.loop.time)
        it.on_loop(it.server.drain)
        latest = begun + 1.25 * LINGER_IN_DRAIN
        it.until(lambda: all(connection.deadline < latest for connection in it.server.connections))
        assert client.answer().status == 413


def test_a_client_that_ends_its_side_first_is_closed_at_once():
    with running(application("plain")) as it:
        client = it.connect()
        client.send(b"nonsense\r\n\r\n")
        assert client.answer().status == 400
        client.half_close()
        it.until(lambda: not it.server.connections)
