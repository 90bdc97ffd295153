"""A route's own limit on bodies, lower or higher than the server's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from hypoll import HTTPError, Request, Response, RouteError, Routes
from hypoll.testing import TestClient
from tests.support.client import Answer, Client
from tests.support.server import Running, running

SERVER = 1000
"""The server's own limit."""
LIMITS = {"low": 10, "none": 0, "high": 100_000, "own": SERVER}


def service() -> Routes:
    routes, inner = Routes(), Routes()
    for target in (routes, inner):
        for name, limit in LIMITS.items():
            given = None if name == "own" else limit
            target.post(f"/inline/{name}", max_body=given)(lambda request: str(len(request.body)))
            target.post(f"/threaded/{name}", threaded=True, max_body=given)(lambda request: str(len(request.body)))

            @target.post(f"/async/{name}", max_body=given)
            async def task(request):
                return str(len(request.body))

            @target.post(f"/stream/{name}", threaded=True, stream=True, max_body=given)
            def stream(request):
                return str(len(request.stream.read()))

    routes.put("/inline/low")(lambda request: str(len(request.body)))
    routes.get("/inline/{n:int}/more", max_body=5)(lambda request, n: str(len(request.body)))
    routes.mount("/in", inner)
    routes.after(lambda request, response: None)
    routes.cors("https://app.example")
    return routes


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(service(), max_body=SERVER) as it:
        yield it


def post(it: Running, path: str, size: int, framing: str, method: str = "POST", version: str = "1.1") -> Answer:
    client: Client = it.connect()
    head = f"{method} {path} HTTP/{version}\r\nHost: a\r\nOrigin: https://app.example\r\n"
    body = b"x" * size
    if framing == "chunked":
        client.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body))
    elif framing == "together":
        client.send(f"{head}Content-Length: {size}\r\n\r\n".encode() + body)
    else:
        client.send(f"{head}Content-Length: {size}\r\n\r\n".encode())
        client.send(body[: size // 2])
        client.send(body[size // 2 :])
    return client.answer()


@pytest.mark.parametrize("prefix", ["", "/in"])
@pytest.mark.parametrize("framing", ["together", "apart", "chunked"])
@pytest.mark.parametrize("kind", ["inline", "threaded", "async", "stream"])
@pytest.mark.parametrize("name", ["low", "high", "own"])
def test_a_body_up_to_the_limit_is_taken_and_a_larger_one_refused(served, name, kind, framing, prefix):
    limit = LIMITS[name]
    taken = post(served, f"{prefix}/{kind}/{name}", limit, framing)
    assert (taken.status, taken.body) == (200, str(limit).encode())
    refused = post(served, f"{prefix}/{kind}/{name}", limit + 1, framing)
    assert refused.status == 413
    assert f"larger than {limit} bytes" in refused.body.decode()
    assert refused.fields["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize("name", ["low", "none", "high", "own"])
def test_a_client_that_asks_is_refused_before_it_sends_the_body(served, name):
    client: Client = served.connect()
    head = f"POST /inline/{name} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: "
    client.send(f"{head}{LIMITS[name] + 1}\r\n\r\n".encode())
    assert client.head()[0] == 413
    if LIMITS[name]:
        client = served.connect()
        client.send(f"{head}{LIMITS[name]}\r\n\r\n".encode())
        assert client.head()[0] == 100
        client.send(b"x" * LIMITS[name])
        assert client.answer().status == 200


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("PUT", "/inline/low", 11, 200),  # another route of the path
        ("PUT", "/inline/low", SERVER + 1, 413),
        ("POST", "/nothing", SERVER, 404),
        ("POST", "/nothing", SERVER + 1, 413),
        ("GET", "/inline/7/more", 5, 200),
        ("GET", "/inline/7/more?x=1", 6, 413),
    ],
)
def test_it_is_of_the_method_and_the_path(served, method, path, size, status):
    for framing in ("together", "apart", "chunked"):
        assert post(served, path, size, framing, method).status == status


@pytest.mark.parametrize(("size", "status"), [(10, 200), (11, 413)])
def test_http_1_0(served, size, status):
    assert post(served, "/inline/low", size, "apart", version="1.0").status == status


def test_a_body_behind_another_is_held_to_its_own(served):
    client: Client = served.connect()
    one = "POST /inline/high HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n" + "x" * 20
    client.send((one + one.replace("high", "low")).encode())
    assert [client.answer().status for _ in range(2)] == [200, 413]


def test_without_a_server():
    routes = Routes()
    routes.post("/", max_body=3)(lambda request: request.body)
    routes.error(HTTPError)(lambda request, error: "never")
    for body, status in ((b"abc", 200), (b"abcd", 413)):
        request = Request("POST", b"/")
        request.body = body
        assert routes(request).status == status


def test_before_a_test_client():
    routes = Routes()
    routes.post("/", max_body=3)(lambda request: request.body)
    with TestClient(routes) as client:
        assert [client.post("/", data=body).status_code for body in (b"abc", b"abcd")] == [200, 413]


@pytest.mark.parametrize("kind", ["inline", "threaded", "stream"])
@pytest.mark.parametrize(("size", "declared", "status"), [(3, True, "200"), (4, True, "413"), (4, False, "413")])
def test_under_another_wsgi_server(kind, size, declared, status):
    routes = Routes()
    options: dict[str, Any] = {"threaded": kind != "inline", "stream": kind == "stream"}

    @routes.post("/", max_body=3, **options)
    def handler(request):
        return Response(request.stream.read() if kind == "stream" else request.body)

    body = io.BytesIO(b"x" * size)
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "wsgi.url_scheme": "http"}
    environ["wsgi.input"] = body
    environ |= {"CONTENT_LENGTH": str(size)} if declared else {"wsgi.input_terminated": True}
    found: list[str] = []
    list(routes.wsgi(environ, lambda line, fields: found.append(line)))
    assert found[0].startswith(status)
    if declared and size > 3:
        assert body.tell() == 0, "nothing is read of it"


@pytest.mark.parametrize("limit", [-1, 1.5, True])
def test_a_limit_is_a_number_of_bytes(limit):
    with pytest.raises(RouteError, match="max_body is a number of bytes"):
        Routes().post("/", max_body=limit)(lambda request: None)
