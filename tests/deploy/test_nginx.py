"""hypoll behind a real nginx, with the configuration of docs/deployment/nginx.md as it stands but for its ports."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from hypoll import Routes, sse
from tests.proxies.fronts import Sides, nginx, proxy
from tests.support.client import PATIENCE, Client
from tests.support.server import Running, running

CONFIGURATION = (Path(__file__).parent.parent.parent / "deploy" / "nginx.conf").read_text()

pytestmark = pytest.mark.full

routes = Routes()
silent = asyncio.Event()


@routes.get("/who")
def who(request):
    return {"client": request.client[0], "scheme": request.scheme, "host": request.host, "id": request.id}


@routes.post("/size")
def size(request):
    return str(len(request.body))


@routes.get("/events")
async def events(request):
    async def said() -> AsyncIterator[str]:
        yield "first"
        await silent.wait()

    return sse(said())


def site(sides: Sides) -> list[str]:
    """The command of an nginx with the documented configuration, between the ports of a test."""
    text = CONFIGURATION.replace("listen 80;", "listen 127.0.0.1:{FRONT};").replace(
        "127.0.0.1:8000;", "127.0.0.1:{BACK};"
    )
    assert "{FRONT}" in text
    assert "{BACK}" in text
    return nginx(sides, text)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(routes, request_id=True, health="/healthz") as it:
        yield it


@pytest.fixture(scope="module")
def port(server: Running) -> Iterator[int]:
    with proxy(site, server.address[1]) as front:
        yield front


def ask(port: int, **fields: str) -> dict[str, Any]:
    answer = requests.get(f"http://127.0.0.1:{port}/who", headers=fields, timeout=PATIENCE)
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"] == answer.json()["id"]
    return dict(answer.json())


def test_the_client_is_told_by_nginx_alone(port):
    claimed = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.2;proto=https", "X-Forwarded-Proto": "https"}
    for fields in ({}, claimed):
        said = ask(port, Host="service.example:81", **fields)
        assert said["client"] == "127.0.0.1"
        assert said["scheme"] == "http"
        assert said["host"] == "service.example:81"


def test_nginx_gives_the_id(port):
    said = ask(port, **{"X-Request-Id": "the-clients-own"})
    assert re.fullmatch("[0-9a-f]{32}", said["id"])


def test_connections_to_hypoll_are_kept(server, port):
    ask(port)
    before = server.on_loop(lambda: len(server.server.connections))
    for _ in range(20):
        ask(port)
    assert server.on_loop(lambda: len(server.server.connections)) == before


@pytest.mark.parametrize(("length", "status"), [(16 << 20, 200), ((16 << 20) + 1, 413)])
def test_the_limit_is_hypolls(port, length, status):
    answer = requests.post(f"http://127.0.0.1:{port}/size", data=bytes(length), timeout=PATIENCE)
    assert answer.status_code == status
    assert status != 200 or answer.text == str(length)


def test_events_come_at_once(port):
    client = Client(("127.0.0.1", port))
    client.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.head()[0] == 200
    assert b"first" in client.chunk()  # or its patience is at an end
    client.close()


def test_health_is_not_for_the_world(port):
    assert requests.get(f"http://127.0.0.1:{port}/healthz/ready", timeout=PATIENCE).status_code == 403
