"""Pages of `routes.static`: those of directories, and the one of an application whose paths the browser knows."""

# ruff: noqa: A006 - as in the documentation's examples, a route's parameter is called id

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll import Request, RouteError, Routes
from hypoll.protocol.files import FILES
from tests.support.client import Answer, Client
from tests.support.server import running

HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
AXIOS = "application/json, text/plain, */*"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("dist")
    (root / "index.html").write_text("<app>")
    (root / "index.html.gz").write_bytes(b"gzipped")
    (root / "app.js").write_text("js")
    (root / "api").mkdir()
    (root / "api" / "schema.json").write_text("{}")
    (root / "docs").mkdir()
    (root / "docs" / "index.html").write_text("<docs>")
    (root / "docs" / "bare").mkdir()
    (root / "docs" / ".secret").mkdir()
    (root / "docs" / ".secret" / "index.html").write_text("no")
    return root


def application(root: Path, prefix: str = "/") -> Routes:
    routes, api = Routes(), Routes()
    api.get("/users")(lambda request, **params: "users")
    api.before(lambda request: setattr(request, "seen", True))
    api.after(lambda request, response: response.set_header("X-Api", "1"))
    routes.mount(prefix.rstrip("/") + "/api", api)
    routes.get(prefix.rstrip("/") + "/orders/{id:int}")(lambda request, id: f"order {id}")
    routes.post(prefix.rstrip("/") + "/login")(lambda request: "in")
    routes.static(prefix, root, index="index.html", fallback="index.html", cache_control="public, immutable")
    return routes


@pytest.fixture(scope="module", params=["/", "/shop"])
def client(request: pytest.FixtureRequest, root: Path) -> Iterator[tuple[Client, str]]:
    FILES.clear()
    with running(application(root, request.param)) as it:
        yield it.connect(), request.param.rstrip("/")
    FILES.clear()


def ask(client: tuple[Client, str], target: str, method: str = "GET", **fields: str) -> Answer:
    connection, prefix = client
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return connection.ask(f"{method} {prefix}{target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())


PAGES: list[tuple[str, str, dict[str, str], int, bytes | None]] = [
    # target, method, fields, status, body
    ("/", "GET", {}, 200, b"<app>"),
    ("/index.html", "GET", {}, 200, b"<app>"),
    ("/app.js", "GET", {}, 200, b"js"),
    ("/settings/profile", "GET", {}, 200, b"<app>"),
    ("/settings/profile/", "GET", {}, 200, b"<app>"),
    ("/settings", "GET", {"Accept": HTML}, 200, b"<app>"),
    ("/settings", "GET", {"Accept": HTML, "Sec_Fetch_Mode": "navigate"}, 200, b"<app>"),
    ("/settings", "GET", {"Accept": "*/*"}, 200, b"<app>"),
    ("/settings?next=/a.b", "GET", {}, 200, b"<app>"),
    ("/v1.2/page", "GET", {}, 200, b"<app>"),
    ("/settings", "HEAD", {}, 200, b""),
    ("/settings", "GET", {"Accept_Encoding": "gzip"}, 200, b"gzipped"),
    # what a script, a style or a fetch asks for
    ("/settings", "GET", {"Accept": "*/*", "Sec_Fetch_Mode": "cors"}, 404, None),
    ("/settings", "GET", {"Accept": "image/avif,*/*;q=0.8", "Sec_Fetch_Mode": "no-cors"}, 404, None),
    ("/settings", "GET", {"Accept": AXIOS}, 404, None),
    ("/settings", "GET", {"Accept": "application/json"}, 404, None),
    ("/settings", "GET", {"Accept": "text/html;q=0, */*"}, 404, None),
    ("/settings", "GET", {"Accept": "image/png"}, 404, None),
    ("/missing.js", "GET", {}, 404, None),
    ("/assets/missing.js", "GET", {"Accept": HTML}, 404, None),
    # other methods, and what is of other routes
    ("/settings", "POST", {}, 404, None),
    ("/settings", "OPTIONS", {}, 404, None),
    ("/app.js", "POST", {}, 405, None),
    ("/api/nothing", "GET", {"Accept": HTML}, 404, None),
    ("/api", "GET", {}, 404, None),
    ("/%61pi/nothing", "GET", {}, 404, None),
    ("/api/users", "GET", {}, 200, b"users"),
    ("/api/users", "POST", {}, 405, None),
    ("/api/schema.json", "GET", {}, 200, b"{}"),
    ("/orders/7", "GET", {}, 200, b"order 7"),
    ("/orders/x", "GET", {}, 404, None),
    ("/login", "GET", {}, 405, None),
    # directories
    ("/docs/", "GET", {}, 200, b"<docs>"),
    ("/docs/bare/", "GET", {}, 200, b"<app>"),
    ("/docs/.secret/", "GET", {"Sec_Fetch_Mode": "cors"}, 404, None),
    # conditions and ranges
    ("/settings", "GET", {"Range": "bytes=1-3"}, 206, b"app"),
    ("/settings", "GET", {"Range": "bytes=9-"}, 416, None),
    ("/settings", "GET", {"If_Match": '"other"'}, 412, None),
]


@pytest.mark.parametrize(
    ("target", "method", "fields", "status", "body"), PAGES, ids=[f"{method} {path}" for path, method, *_ in PAGES]
)
def test_a_path_has_its_page_or_none(client, target, method, fields, status, body):
    answer = ask(client, target, method, **fields)
    assert answer.status == status
    if body is not None:
        assert answer.body == body
    elif method != "HEAD" and status not in (204, 304):
        assert answer.fields["content-type"] == "application/problem+json"


def test_a_404_of_mounted_routes_is_theirs(client):
    assert ask(client, "/api/nothing", Accept=HTML).fields["x-api"] == "1"
    assert "x-api" not in ask(client, "/missing.js").fields


def test_a_page_that_is_there_already_is_not_sent_again(client):
    first = ask(client, "/settings")
    again = ask(client, "/elsewhere", If_None_Match=first.fields["etag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    ("target", "wanted"),
    [("/", "no-cache"), ("/settings", "no-cache"), ("/docs/", "no-cache"), ("/app.js", "public, immutable")],
)
def test_a_page_is_asked_for_again_each_time(client, target, wanted):
    assert ask(client, target).fields["cache-control"] == wanted


def test_a_directory_without_its_slash_is_redirected(client):
    answer = ask(client, "/docs?a=1")
    assert (answer.status, answer.fields["location"]) == (308, client[1] + "/docs/?a=1")


def test_the_prefix_without_its_slash_is_redirected(root):
    answer = application(root, "/shop")(Request("GET", b"/shop?a=1"))
    assert (answer.status, dict(answer.headers or {})) == (308, {"Location": "/shop/?a=1"})


def test_pages_where_the_routes_are_mounted(root):
    outer, inner = Routes(), Routes()
    inner.static("/", root, fallback="index.html")
    outer.mount("/app", inner)
    outer.get("/app/own/{id:int}")(lambda request, id: None)
    asked = {path: outer(Request("GET", path.encode())).status for path in ("/app/x", "/app", "/app/own/y", "/x")}
    assert asked == {"/app/x": 200, "/app": 308, "/app/own/y": 404, "/x": 404}


@pytest.mark.parametrize("files_first", [True, False])
def test_a_mount_has_its_prefix_before_it_has_routes(root, files_first):
    outer, api, deep = Routes(), Routes(), Routes()
    if files_first:
        outer.static("/api/docs", root, fallback="index.html")
        outer.static("/", root, fallback="index.html")
        outer.mount("/api", api)
        api.mount("/docs/v1", deep)
    else:
        api.mount("/docs/v1", deep)
        outer.mount("/api", api)
        outer.static("/api/docs", root, fallback="index.html")
        outer.static("/", root, fallback="index.html")
    asked = {path: outer(Request("GET", path.encode())).status for path in ("/api/x", "/api/docs/v1/x", "/api/docs/x")}
    assert asked == {"/api/x": 404, "/api/docs/v1/x": 404, "/api/docs/x": 200}


def test_pages_of_another_wsgi_server(root):
    found: list[str] = []
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/settings", "HTTP_ACCEPT": HTML}
    environ |= {"wsgi.url_scheme": "http", "wsgi.input": io.BytesIO()}
    body = application(root).wsgi(environ, lambda status, fields: found.append(status))
    assert (found, b"".join(body)) == (["200 OK"], b"<app>")


def test_an_index_alone_has_no_page_for_what_is_missing(root):
    routes = Routes()
    routes.static("/", root, index="index.html")
    found = {path: routes(Request("GET", path.encode())).status for path in ("/", "/docs/", "/x", "/x/")}
    assert found == {"/": 200, "/docs/": 200, "/x": 404, "/x/": 404}
    assert routes(Request("POST", b"/x")).status == 405


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fallback": "nothing.html"}, r"there is no fallback 'nothing\.html' in "),
        ({"fallback": "../secret"}, "there is no fallback"),
        ({"index": ""}, "index is the name of a file"),
        ({"index": "a/index.html"}, "index is the name of a file"),
    ],
)
def test_what_can_not_be_a_page(root, options, words):
    with pytest.raises(RouteError, match=words):
        Routes().static("/", root, **options)


def test_no_directory_sends_to_another_host(root, tmp_path):
    (tmp_path / "\\evil.example").mkdir()
    (tmp_path / "\\evil.example" / "index.html").write_text("x")
    routes = Routes()
    routes.static("/", tmp_path, index="index.html")
    assert routes(Request("GET", b"/\\evil.example")).status == 404
    assert routes(Request("GET", b"/%5Cevil.example")).headers == {"Location": "/%5Cevil.example/"}
