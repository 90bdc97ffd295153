"""Cross-origin resource sharing: who may read which answer, on every way that an answer takes."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll import File, HTTPError, Request, Response, RouteError, Routes, sse
from hypoll.protocol.header_section import HeaderSection
from hypoll.web.cors import Cors
from tests.support.client import Answer, Client
from tests.support.clock import PATIENCE
from tests.support.server import Running, running

APP = "https://app.example"
EVIL = "https://evil.example"
ALLOW, CREDENTIALS = "access-control-allow-origin", "access-control-allow-credentials"
EXPOSED = "access-control-expose-headers"


def policy(origins: Any, **options: Any) -> Cors:
    given: dict[str, Any] = {"methods": None, "headers": None, "credentials": False, "expose": (), "max_age": None}
    return Cors(origins, **(given | options))


# origins

NAMED = [APP, "http://localhost:3000"]
SUBDOMAINS = re.compile(r"https://[a-z0-9-]+\.app\.example")


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (APP, APP, True),
        (APP, "http://app.example", False),
        (APP, "https://app.example:8443", False),
        (APP, "https://app.example.evil.example", False),
        (APP, "https://evil.app.example", False),
        (APP, "https://app.exampl", False),
        (APP, f"{APP}, {EVIL}", False),
        (APP, "", False),
        (APP, "null", False),
        (NAMED, "http://localhost:3000", True),
        (NAMED, "http://localhost:3001", False),
        ("HTTPS://App.Example:443", APP, True),
        ("https://[::1]:8000", "https://[::1]:8000", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("null", "null", True),
        ("*", EVIL, True),
        ("*", "null", True),
        (SUBDOMAINS, "https://shop.app.example", True),
        (SUBDOMAINS, "https://shop.app.example.evil.example", False),
        (SUBDOMAINS, "https://evil.example/https://shop.app.example", False),
        ([APP, SUBDOMAINS], APP, True),
        ([APP, SUBDOMAINS], "https://shop.app.example", True),
        (lambda origin: origin.endswith(".example"), EVIL, True),
        (lambda origin: origin.endswith(".example"), "https://evil.test", False),
        (lambda origin: 1 / 0, APP, False),
    ],
)
def test_an_origin_is_allowed_as_a_whole_or_not_at_all(origins, origin, allowed):
    assert policy(origins).allows(origin) is allowed


@pytest.mark.parametrize("origins", [re.compile(r"null|https://app\.example"), lambda origin: True])
def test_null_is_never_allowed_with_credentials(origins):
    assert policy(origins, credentials=True).allows(APP)
    assert not policy(origins, credentials=True).allows("null")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"origins": "*", "credentials": True}, "with credentials=True the origins must be named"),
        ({"origins": [APP, "*"], "credentials": True}, "must be named"),
        ({"origins": "null", "credentials": True}, "must be named"),
        ({"origins": re.compile(".*"), "credentials": True}, "matches every origin"),
        ({"origins": re.compile("https://.*"), "credentials": True}, "matches every origin"),
        ({"origins": []}, "origins names none"),
        ({"origins": "https://app.example/"}, "no slash at the end"),
        ({"origins": "https://app.example/path"}, "is no origin"),
        ({"origins": "app.example"}, "is no origin"),
        ({"origins": "https://*.app.example"}, "for several hosts a compiled pattern"),
        ({"origins": "https://user@app.example"}, "is no origin"),
        ({"origins": "https://café.example"}, "is no origin"),
        ({"origins": [7]}, "an origin is a str or a compiled pattern, not 7"),
        ({"origins": APP, "methods": "GET"}, r"methods takes a list, as in methods=\['GET'\]"),
        ({"origins": APP, "headers": ["X-A, X-B"]}, "headers takes names, not 'X-A, X-B'"),
        ({"origins": APP, "expose": ["*"], "credentials": True}, r"a '\*' in expose is no wildcard"),
        ({"origins": APP, "max_age": -1}, "max_age is a whole number of seconds, not -1"),
        ({"origins": APP, "max_age": 1.5}, "max_age is a whole number"),
    ],
)
def test_what_can_not_be_a_policy(options, words):
    with pytest.raises(RouteError, match=words):
        Routes().cors(**options)


def test_a_function_that_is_asked_is_no_coroutine():
    async def asked(origin):
        return True

    with pytest.raises(RouteError, match="must be a def"):
        Routes().cors(asked)  # type: ignore[arg-type]


def test_there_is_one_policy():
    routes = Routes()
    routes.cors(APP)
    with pytest.raises(RouteError, match="one policy decides"):
        routes.cors(EVIL)


# answers


def ask(routes: Routes, method: str = "GET", target: str = "/x", **fields: str) -> dict[str, str]:
    """The fields of an answer, in lower case, without a server."""
    section = HeaderSection(tuple((name.replace("_", "-").lower(), value) for name, value in fields.items()))
    response = routes(Request(method, target.encode(), section))
    return {name.lower(): value for name, value in response.headers.items()} | {":status": str(response.status)}


def simple(origins: Any, **options: Any) -> Routes:
    routes = Routes()
    routes.get("/x")(lambda request: "x")
    routes.get("/own")(lambda request: Response("x", headers={"Access-Control-Allow-Origin": "https://own.example"}))
    routes.get("/vary")(lambda request: Response("x", headers={"Vary": "Cookie"}))
    routes.cors(origins, **options)
    return routes


@pytest.mark.parametrize(
    ("origins", "options", "origin", "wanted"),
    [
        (APP, {}, APP, {ALLOW: APP, "vary": "Origin"}),
        (APP, {}, EVIL, {"vary": "Origin"}),
        (APP, {}, None, {"vary": "Origin"}),
        (APP, {"credentials": True}, APP, {ALLOW: APP, "vary": "Origin", CREDENTIALS: "true"}),
        (APP, {"credentials": True}, EVIL, {"vary": "Origin"}),
        (APP, {"expose": ["X-A", "X-B"]}, APP, {ALLOW: APP, "vary": "Origin", EXPOSED: "X-A, X-B"}),
        (APP, {"expose": ["X-A"]}, EVIL, {"vary": "Origin"}),
        ("*", {}, EVIL, {ALLOW: "*"}),
        ("*", {}, None, {}),
    ],
)
def test_an_answer_says_who_may_read_it(origins, options, origin, wanted):
    fields = {} if origin is None else {"Origin": origin}
    assert ask(simple(origins, **options), **fields) == {":status": "200"} | wanted


def test_what_a_handler_set_stays():
    assert ask(simple(APP), target="/own", Origin=APP)[ALLOW] == "https://own.example"
    assert ask(simple(APP), target="/vary", Origin=APP)["vary"] == "Cookie, Origin"


def test_a_constant_response_is_not_changed():
    constant = Response("x")
    routes = Routes()
    routes.get("/x")(lambda request: constant)
    routes.cors([APP, EVIL])
    assert [ask(routes, Origin=origin)[ALLOW] for origin in (APP, EVIL)] == [APP, EVIL]
    assert constant.fields is None


# preflights

PREFLIGHT = {"Origin": APP, "Access_Control_Request_Method": "PUT"}
ASKED = PREFLIGHT | {"Access_Control_Request_Headers": "content-type,x-token"}
BOTH = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


@pytest.mark.parametrize(
    ("options", "fields", "wanted"),
    [
        ({}, ASKED, {"methods": "PUT", "headers": "content-type, x-token", "max-age": "600", "vary": BOTH}),
        ({}, PREFLIGHT, {"methods": "PUT", "max-age": "600", "vary": BOTH}),
        ({"max_age": None}, PREFLIGHT, {"methods": "PUT", "vary": BOTH}),
        ({"max_age": 0}, PREFLIGHT, {"methods": "PUT", "max-age": "0", "vary": BOTH}),
        (
            {"methods": ["get", "PUT"], "headers": ["X-Token"]},
            ASKED,
            {"methods": "GET, PUT", "headers": "X-Token", "max-age": "600", "vary": "Origin"},
        ),
        ({"headers": []}, ASKED, {"methods": "PUT", "max-age": "600", "vary": BOTH.rpartition(", ")[0]}),
        ({"expose": ["X-A"]}, PREFLIGHT, {"methods": "PUT", "max-age": "600", "vary": BOTH}),
        (
            {},
            PREFLIGHT | {"Access_Control_Request_Headers": "a b, ok,, \xe9"},
            {"methods": "PUT", "headers": "ok", "max-age": "600", "vary": BOTH},
        ),
    ],
)
def test_a_preflight_is_answered(options, fields, wanted):
    found = ask(simple(APP, **options), "OPTIONS", **fields)
    assert found.pop(":status") == "204"
    assert found.pop(ALLOW) == APP
    short = {name.removeprefix("access-control-").removeprefix("allow-"): value for name, value in found.items()}
    assert short == wanted


@pytest.mark.parametrize("target", ["/x", "/nothing", "/x?a=1", "*"])
def test_a_preflight_of_another_origin_is_told_nothing(target):
    assert ask(simple(APP), "OPTIONS", target, **(ASKED | {"Origin": EVIL})) == {":status": "204", "vary": "Origin"}


def test_an_options_that_is_no_preflight_has_its_own_answer():
    routes = simple(APP)
    routes.options("/own")(lambda request: Response("mine"))
    assert ask(routes, "OPTIONS", Origin=APP)["allow"] == "GET, HEAD, OPTIONS"
    assert ask(routes, "OPTIONS", "/own", Origin=APP)[":status"] == "200"
    assert ask(routes, "OPTIONS", "/own", **PREFLIGHT)[":status"] == "204"
    assert ask(routes, "OPTIONS", Access_Control_Request_Method="PUT")["allow"] == "GET, HEAD, OPTIONS"


def test_a_private_network_is_never_opened():
    fields = PREFLIGHT | {"Access_Control_Request_Private_Network": "true"}
    assert "access-control-allow-private-network" not in ask(simple(APP), "OPTIONS", **fields)


def test_of_mounted_routes_the_nearest_policy_decides():
    outer, inner, plain = simple(APP), simple(EVIL), Routes()
    plain.get("/x")(lambda request: "x")
    outer.mount("/in", inner)
    outer.mount("/plain", plain)
    for method, more in (("GET", {}), ("OPTIONS", {"Access_Control_Request_Method": "GET"})):
        for path in ("/in/x", "/in/nothing"):
            assert ask(outer, method, path, Origin=EVIL, **more)[ALLOW] == EVIL
            assert ALLOW not in ask(outer, method, path, Origin=APP, **more)
        assert ask(outer, method, "/plain/x", Origin=APP, **more)[ALLOW] == APP


def test_a_policy_of_mounted_routes_is_theirs_alone():
    outer, inner = Routes(), Routes()
    outer.get("/x")(lambda request: "x")
    outer.mount("/in", inner)
    inner.get("/x")(lambda request: "x")
    inner.cors(APP)
    assert ask(outer, target="/in/x", Origin=APP)[ALLOW] == APP
    assert ask(outer, target="/x", Origin=APP) == {":status": "200"}


# on a server


def service(directory: Path) -> tuple[Routes, threading.Event, threading.Event]:
    routes, inner = Routes(), Routes()
    started, gate = threading.Event(), threading.Event()
    (directory / "a.js").write_bytes(b"0" * 100_000)
    (directory / "a.js.gz").write_bytes(b"gz")
    routes.cors(APP, credentials=True)
    routes.static("/files", directory)
    for name, threaded in (("inline", False), ("threaded", True)):
        routes.get(f"/{name}", threaded=threaded)(lambda request: {"a": 1})
        routes.get(f"/{name}/stream", threaded=threaded)(lambda request: Response(iter([b"a", b"b"])))
        routes.get(f"/{name}/events", threaded=threaded)(lambda request: sse(["one"]))
        routes.get(f"/{name}/fails", threaded=threaded)(lambda request: 1 / 0)
        routes.get(f"/{name}/refuses", threaded=threaded)(lambda request: Response(status=1000))
        routes.post(f"/{name}", threaded=threaded)(lambda request: request.body)

    @routes.get("/async")
    async def plain(request):
        return {"a": 1}

    @routes.get("/async/stream")
    async def stream(request):
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return Response(pieces())

    @routes.get("/async/fails")
    async def fails(request):
        raise HTTPError(418, "no")

    @routes.get("/slow", threaded=True)
    def slow(request):
        started.set()
        assert gate.wait(PATIENCE)

    @routes.put("/taken", threaded=True, stream=True)
    def taken(request):
        return request.stream.read()

    @routes.get("/file")
    def file(request):
        return Response(File(directory / "a.js"), headers={"Vary": "Cookie"})

    @inner.before
    async def authenticate(request):
        raise HTTPError(401, "who are you?")

    inner.get("/x", threaded=True)(lambda request: "x")
    routes.mount("/private", inner)
    return routes, started, gate


Served = tuple[Running, threading.Event, threading.Event]


@pytest.fixture(scope="module")
def with_one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    routes, started, gate = service(tmp_path_factory.mktemp("files"))
    with running(routes, threads=1, queue=0, max_body=1000, max_headers=20, body_timeout=0.05) as it:
        yield it, started, gate


@pytest.fixture
def served(with_one_thread: Served) -> Served:
    it = with_one_thread[0]
    it.until(lambda: not it.server.thread_pool.full)  # the thread may be a moment behind its answer
    return with_one_thread


WHOLE = [
    ("GET", "/inline", 200),
    ("GET", "/threaded", 200),
    ("GET", "/async", 200),
    ("HEAD", "/inline", 200),
    ("HEAD", "/threaded", 200),
    ("HEAD", "/async", 200),
    ("GET", "/inline/stream", 200),
    ("GET", "/threaded/stream", 200),
    ("GET", "/async/stream", 200),
    ("GET", "/inline/events", 200),
    ("GET", "/threaded/events", 200),
    ("GET", "/inline/fails", 500),
    ("GET", "/threaded/fails", 500),
    ("GET", "/async/fails", 418),
    ("GET", "/inline/refuses", 500),
    ("GET", "/threaded/refuses", 500),
    ("GET", "/nothing", 404),
    ("PUT", "/inline", 405),
    ("GET", "/file", 200),
    ("HEAD", "/file", 200),
    ("GET", "/files/a.js", 200),
    ("GET", "/files/b.js", 404),
    ("GET", "/private/x", 401),
    ("GET", "/private/nothing", 401),
    ("OPTIONS", "/inline", 204),
    ("GET", "/%ff", 400),
]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("method", "path", "status"), WHOLE)
def test_every_answer_says_it(served, version, method, path, status):
    client: Client = served[0].connect()
    answer = client.ask(f"{method} {path} HTTP/{version}\r\nHost: a\r\nOrigin: {APP}\r\n\r\n".encode())
    assert (answer.status, answer.fields[ALLOW], answer.fields[CREDENTIALS]) == (status, APP, "true")
    assert "Origin" in answer.fields["vary"]


@pytest.mark.parametrize("path", ["/private/x", "/private/nothing", "/nothing", "/threaded", "/async"])
def test_a_preflight_comes_before_authentication(served, path):
    request = f"OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\nAccess-Control-Request-Method: GET\r\n\r\n"
    answer = served[0].connect().ask(request.encode())
    assert (answer.status, answer.fields[ALLOW], answer.fields["access-control-allow-methods"]) == (204, APP, "GET")


ORIGIN = f"Origin: {APP}\r\n"
REFUSED = {
    "413 by its length": (f"POST /inline HTTP/1.1\r\nHost: a\r\n{ORIGIN}Content-Length: 1001\r\n\r\n", 413),
    "413 of a stream": (f"PUT /taken HTTP/1.1\r\nHost: a\r\n{ORIGIN}Content-Length: 1001\r\n\r\n", 413),
    "413 by its chunks": (
        f"POST /inline HTTP/1.1\r\nHost: a\r\n{ORIGIN}Transfer-Encoding: chunked\r\n\r\n3e9\r\n",
        413,
    ),
    "408": (f"POST /inline HTTP/1.1\r\nHost: a\r\n{ORIGIN}Content-Length: 10\r\n\r\nabc", 408),
    "431 of too many fields": (f"GET /inline HTTP/1.1\r\nHost: a\r\n{ORIGIN}" + "X: 1\r\n" * 30 + "\r\n", 431),
    "417": (f"POST /inline HTTP/1.1\r\nHost: a\r\n{ORIGIN}Content-Length: 1\r\nExpect: more\r\n\r\n", 417),
    "404 by its head": (
        f"POST /nothing HTTP/1.1\r\nHost: a\r\n{ORIGIN}Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        404,
    ),
    "400 of chunks": (f"POST /inline HTTP/1.1\r\nHost: a\r\n{ORIGIN}Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_of_the_server_says_it_too(served, name):
    request, status = REFUSED[name]
    answer: Answer = served[0].connect().ask(request.encode())
    assert (answer.status, answer.fields[ALLOW]) == (status, APP)


@pytest.mark.parametrize("path", ["/threaded", "/threaded/stream", "/slow"])
def test_a_request_without_a_thread_says_it_too(served, path):
    it, started, gate = served
    busy: Client = it.connect()
    busy.send(f"GET /slow HTTP/1.1\r\nHost: a\r\n{ORIGIN}\r\n".encode())
    assert started.wait(PATIENCE)
    try:
        answer = it.connect().ask(f"GET {path} HTTP/1.1\r\nHost: a\r\n{ORIGIN}\r\n".encode())
        assert (answer.status, answer.fields[ALLOW]) == (503, APP)
    finally:
        gate.set()
    assert busy.answer().status == 204
    gate.clear()
    started.clear()


def test_a_file_keeps_what_its_answer_depends_on(served):
    client: Client = served[0].connect()
    request = f"GET /files/a.js HTTP/1.1\r\nHost: a\r\n{ORIGIN}"
    plain = client.ask(f"{request}\r\n".encode())
    assert {name.strip() for name in plain.fields["vary"].split(",")} == {"Origin", "Accept-Encoding"}
    for more, status in (
        (f"If-None-Match: {plain.fields['etag']}", 304),
        ("Range: bytes=0-9", 206),
        ("Range: bytes=200000-", 416),
        ('If-Match: "x"', 412),
    ):
        answer = client.ask(f"{request}{more}\r\n\r\n".encode())
        assert (answer.status, answer.fields[ALLOW]) == (status, APP)
        assert "Origin" in answer.fields["vary"]


def test_pipelined_answers_have_each_their_own(served):
    client: Client = served[0].connect()
    client.send(b"".join(f"GET /inline HTTP/1.1\r\nHost: a\r\nOrigin: {each}\r\n\r\n".encode() for each in (APP, EVIL)))
    assert [client.answer().fields.get(ALLOW) for _ in range(2)] == [APP, None]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [("GET", "/x", b"", "200 OK"), ("GET", "/nothing", b"", "404 Not Found"), ("POST", "/x", b"1" * 20_000_000, "413")],
)
def test_under_another_wsgi_server(method, path, body, status):
    routes = simple(APP)
    routes.post("/x")(lambda request: "x")
    found: list[tuple[str, list[tuple[str, str]]]] = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "HTTP_ORIGIN": APP,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
    }
    list(routes.wsgi(environ, lambda *head: found.append(head)))
    ((line, fields),) = found
    assert line.startswith(status)
    assert dict(fields)["Access-Control-Allow-Origin"] == APP
