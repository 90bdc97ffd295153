"""Applications of Flask and Django, the same under hypoll and under gunicorn's own threads; `Routes` under both."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import pytest
import requests
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings

from hypoll import Response, Routes
from hypoll.testing import TestClient
from hypoll.wsgi.application import WSGI
from tests.support.clock import PATIENCE
from tests.support.gunicorn import Master
from tests.wsgi import wsgiapps

pytestmark = pytest.mark.full

HERE = Path(__file__).resolve().parent.parent
DATA = hashlib.shake_256(b"data").digest(3_000_000)

OWN = ("date", "server", "connection", "keep-alive")
"""Fields that a server adds."""


def pieces() -> Iterator[bytes]:
    """A body sent in chunks."""
    for at in range(0, len(DATA), 100_000):
        yield DATA[at : at + 100_000]


REQUESTS: dict[str, dict[str, Any]] = {
    "GET /json?a=1&a=%20x&b=2": {},
    "HEAD /json": {},
    "GET /path/a%20b/%C3%A9//c": {},
    "POST /form": {"data": {"a": "1 2", "é": "ü&="}},
    "POST /form ": {"data": {}},
    "POST /upload": {"files": {"one": ("one.bin", DATA), "two": ("two.txt", b"two")}, "data": {"a": "b"}},
    "POST /raw": {"data": DATA},
    "POST /raw ": {"data": b""},
    "GET /stream": {},
    "HEAD /stream": {},
    "GET /file": {},
    "GET /cookies": {"cookies": {"x": "1", "y": "2"}},
    "GET /redirect": {"allow_redirects": False},
    "GET /empty": {},
    "GET /status": {},
    "GET /error": {},
    "GET /nowhere": {},
    "DELETE /json": {},
    "OPTIONS /json": {},
}
"""What is asked of both frameworks; trailing spaces only make names differ."""


@pytest.fixture(scope="module")
def gthread() -> Iterator[str]:
    """gunicorn's own worker with threads, serving the same."""
    command = [
        "-m",
        "gunicorn",
        "tests.wsgi.wsgiapps:app",
        "--threads",
        "2",
        "--bind",
        "127.0.0.1:0",
        "--no-control-socket",
    ]
    with Master(HERE.parent, command) as master:
        yield f"http://127.0.0.1:{master.port}"


@pytest.fixture(scope="module")
def hypoll() -> Iterator[str]:
    with TestClient(wsgiapps.app) as client:
        yield client.base_url


def ask(base: str, request: str, more: dict[str, Any]) -> tuple[Any, ...]:
    """Status, reason, fields and content, without what is each server's own."""
    method, target = request.split()
    # Named here, so that what tells the request's id tells the same.
    headers = {"X-Request-Id": "asked-by-the-test", **more.get("headers", {})}
    answer = requests.request(method, base + target, timeout=PATIENCE, **{**more, "headers": headers})
    # Flask's Allow is a set's order, which differs from process to process.
    fields = sorted((name.lower(), ", ".join(sorted(value.split(", ")))) for name, value in answer.raw.headers.items())
    told = [(name, value) for name, value in fields if name not in OWN]
    return answer.status_code, answer.reason, told, answer.content


@pytest.mark.parametrize("below", ["", "/django"])
@pytest.mark.parametrize("request_line", REQUESTS)
def test_the_answer_is_that_of_gthread(hypoll, gthread, below, request_line):
    more = REQUESTS[request_line]
    ours, theirs = (ask(base + below, request_line, more) for base in (hypoll, gthread))
    assert ours == theirs
    assert request_line != "GET /error" or b"secret" not in ours[3]


def test_flask_takes_a_chunked_upload(hypoll):
    """(Django goes by Content-Length.)"""
    answer = requests.post(hypoll + "/raw", data=pieces(), timeout=PATIENCE)
    assert answer.text == wsgiapps.digest(DATA)


# behind proxies


@pytest.mark.parametrize("below", ["", "/django"])
@pytest.mark.parametrize(
    ("fields", "client", "root"),
    [
        ({"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}, "192.0.2.1", "https://{host}/"),
        ({"X-Forwarded-For": "6.6.6.6, ::ffff:192.0.2.1, 127.0.0.1"}, "192.0.2.1", "http://{host}/"),
        ({"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "shop.example"}, "192.0.2.1", "http://shop.example/"),
        (
            {"Forwarded": 'for="[2001:db8::1]:4711";proto=https;host="shop.example:8443"'},
            "2001:db8::1",
            "https://shop.example:8443/",
        ),
        ({"X_Forwarded_For": "6.6.6.6", "X_Forwarded_Proto": "https"}, "127.0.0.1", "http://{host}/"),
        ({"Forwarded": "for=_hidden;proto=https"}, "", "https://{host}/"),
    ],
    ids=str,
)
def test_frameworks_know_what_trusted_proxies_tell(hypoll, below, fields, client, root):
    told = requests.get(f"{hypoll}{below}/believed", headers=fields, timeout=PATIENCE).json()
    host = hypoll.removeprefix("http://")
    assert told["client"] == client
    assert told["root"].replace("/django", "") == root.format(host=host)
    assert told["secure"] is root.startswith("https")


@pytest.fixture(scope="module")
def redirecting() -> Iterator[str]:
    """Django, made to redirect what isn't secure, behind a proxy that it isn't notified of."""
    security = "django.middleware.security.SecurityMiddleware"
    with (
        override_settings(SECURE_SSL_REDIRECT=True, MIDDLEWARE=[security]),
        TestClient(WSGIHandler()) as client,
    ):
        yield client.base_url


@pytest.mark.parametrize(
    "secure", [{"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}, {"Forwarded": "for=_x;proto=https"}]
)
def test_django_s_redirect_to_https_ends(redirecting, secure):
    host = redirecting.removeprefix("http://")
    plain = requests.get(f"{redirecting}/json", allow_redirects=False, timeout=PATIENCE)
    assert (plain.status_code, plain.headers["Location"]) == (301, f"https://{host}/json")
    assert (
        requests.get(f"{redirecting}/json", headers=secure, allow_redirects=False, timeout=PATIENCE).status_code == 200
    )


# Routes, served by others


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None: ...


@contextmanager
def wsgiref(application: Any) -> Iterator[str]:
    """The standard library's server."""
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module", params=["wsgiref", "sync", "gthread", "hypoll"])
def base(request: pytest.FixtureRequest) -> Iterator[str]:
    """Servers of WSGI applications, serving `routes.wsgi`; hypoll as the WSGI application that it is, too."""
    if request.param == "wsgiref":
        with wsgiref(validator(wsgiapps.served)) as url:
            yield url
    elif request.param == "hypoll":
        with TestClient(WSGI(wsgiapps.served)) as client:
            yield client.base_url
    else:
        command = ["-m", "gunicorn", "tests.wsgi.wsgiapps:served", "-k", request.param, "--bind", "127.0.0.1:0"]
        with Master(HERE.parent, [*command, "--no-control-socket"]) as master:
            yield f"http://127.0.0.1:{master.port}"


@pytest.fixture(scope="module")
def direct() -> Iterator[str]:
    with TestClient(wsgiapps.routes) as client:
        yield client.base_url


ASKED: dict[str, dict[str, Any]] = {
    "GET /inline/7?a=1&b=%20": {"cookies": {"x": "1"}},
    "GET /inline/x": {},
    "HEAD /inline/7": {},
    "GET /threaded": {},
    "POST /echo": {"data": DATA},
    "POST /take": {"data": DATA},
    "POST /take ": {"data": b""},
    "GET /lines": {},
    "GET /file": {},
    "GET /file ": {"headers": {"Range": "bytes=5-9"}},
    "HEAD /file": {},
    "GET /refused": {},
    "DELETE /nothing": {},
    "GET /nowhere": {},
    "PUT /echo": {},
    "OPTIONS /echo": {},
}


@pytest.mark.parametrize("request_line", ASKED)
def test_routes_answer_the_same_under_any_server(base, direct, request_line):
    ours, theirs = (ask(url, request_line, ASKED[request_line]) for url in (direct, base))
    assert ours[:2] + ours[3:] == theirs[:2] + theirs[3:]
    # How the end of a body is told, or that there is none, is the server's affair.
    framing = {("transfer-encoding", "chunked"), ("content-length", "0")}
    assert set(ours[2]) - framing == set(theirs[2]) - framing


def test_a_failure_is_500_with_an_id_and_no_reason(base):
    answer = requests.get(base + "/fails", timeout=PATIENCE)
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert len(answer.json()["id"]) == 16
    assert "secret" not in answer.text


def call(routes: Routes, **environ: Any) -> tuple[str, list[tuple[str, str]], Any]:
    """Call `routes.wsgi` as a server would."""
    told: list[Any] = []
    base = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http", "wsgi.input": Ends()}
    body = routes.wsgi(base | environ, lambda status, fields: told.extend((status, fields)))
    return told[0], told[1], body


def test_hooks_of_the_start_run_once_before_the_first_request(monkeypatch):
    routes = Routes()
    order: list[str] = []
    ends: list[Any] = []
    monkeypatch.setattr("hypoll.wsgi.adapter.atexit.register", lambda *call: ends.append(call))
    routes.on_stop(lambda: order.append("stop"))
    routes.on_start(lambda: order.append("start"))
    routes.get("/")(lambda request: order.append("request"))
    call(routes)
    call(routes)
    assert order == ["start", "request", "request"]
    ((stop, *arguments),) = ends
    stop(*arguments)
    assert order == ["start", "request", "request", "stop"]


def test_bodies_are_closed_once():
    routes = Routes()
    ended: list[bool] = []

    @routes.get("/", threaded=True)
    def index(request):
        def pieces() -> Iterator[bytes]:
            try:
                yield b"one"
                yield b"two"
            finally:
                ended.append(True)

        return Response(pieces())

    _, _, body = call(routes)
    assert next(iter(body)) == b"one"
    assert not ended
    body.close()
    body.close()
    assert ended == [True]
    assert call(routes, REQUEST_METHOD="HEAD")[2] == []


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"PATH_INFO": "/a b"}, "/a%20b"),
        ({"PATH_INFO": "/\xc3\xa9"}, "/%C3%A9"),
        ({"PATH_INFO": "/a/b", "RAW_URI": "/a%2Fb?x=1", "QUERY_STRING": "x=1"}, "/a%2Fb"),
        ({"PATH_INFO": "/b", "RAW_URI": "/shop/b", "SCRIPT_NAME": "/shop"}, "/b"),
        ({"PATH_INFO": "/rewritten", "REQUEST_URI": "/sent"}, "/rewritten"),
        ({"PATH_INFO": ""}, "/"),
    ],
)
def test_the_path_is_the_one_that_was_sent_where_that_is_known(environ, path):
    routes = Routes()
    routes.get("/{rest:path}")(lambda request, rest: request.raw_path)
    status, _, body = call(routes, **environ)
    assert (status, b"".join(body)) == ("200 OK", path.encode())


class Ends:
    """Input that ends too early, or fails."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error

    def read(self, size: int) -> bytes:
        if self.error is not None:
            raise self.error
        return b""


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"CONTENT_LENGTH": "x"}, "400"),
        ({"CONTENT_LENGTH": "3", "wsgi.input": Ends()}, "400"),
        ({"CONTENT_LENGTH": "3", "wsgi.input": Ends(ConnectionResetError())}, "400"),
        ({"wsgi.input_terminated": True}, "204"),
        ({}, "204"),
    ],
)
def test_bodies_that_are_wrong(environ, status):
    routes = Routes()
    routes.post("/")(lambda request: None)
    told, _, _ = call(routes, REQUEST_METHOD="POST", **environ)
    assert told[:3] == status


def test_a_body_over_the_limit_is_413(monkeypatch):
    monkeypatch.setattr("hypoll.wsgi.adapter.MAX_BODY", 10)
    routes = Routes()
    routes.post("/")(lambda request: None)

    class Endless:
        def read(self, size: int) -> bytes:
            return b"x" * size

    environ = {"wsgi.input": Endless(), "wsgi.input_terminated": True, "REQUEST_METHOD": "POST"}
    assert call(routes, **environ)[0].startswith("413 ")


@pytest.mark.parametrize(
    "response",
    [
        Response(b"abc", headers={"Content-Length": "4"}),
        Response(object()),  # type: ignore[arg-type]
    ],
)
def test_a_response_that_cannot_be_sent_is_500(response, caplog):
    routes = Routes()
    routes.get("/")(lambda request: response)
    status, _, body = call(routes)
    assert status == "500 Internal Server Error"
    assert b"the server failed to answer" in b"".join(body)
    assert "GET / failed" in caplog.text
