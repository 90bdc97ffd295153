"""A slash too many, or too few, at the end of a path."""

from __future__ import annotations

import io
from typing import Any

import pytest

from hypoll import Request, Response, RouteError, Routes
from hypoll.testing import TestClient


def sample(**options: Any) -> Routes:
    routes = Routes(**options)
    routes.get("/users")(lambda request: "users")
    routes.post("/users")(lambda request: request.body)
    routes.get("/shops/")(lambda request: "shops")
    routes.get("/both")(lambda request: "both")
    routes.get("/both/")(lambda request: "both/")
    routes.get("/n/{name}")(lambda request, name: name)
    return routes


MOVED = {
    "/users/": "/users",
    "/users/?": "/users?",
    "/users/?a=1&b=%2F//": "/users?a=1&b=%2F//",
    "/shops": "/shops/",
    "/shops?next=//evil.example": "/shops/?next=//evil.example",
    "/n/a%2Fb/": "/n/a%2Fb",
    "/n/caf%C3%A9/": "/n/caf%C3%A9",
}
STAYS = {
    "/users": 200,
    "/both": 200,
    "/both/": 200,
    "/": 404,
    "/users//": 404,
    "/n/": 404,
    "/a/b/c": 404,
}
HOSTS = {
    "/%2Fevil.example": "/%2Fevil.example/",
    "/%5Cevil.example": "/%5Cevil.example/",
    "/%09/evil.example/": "/%09/evil.example",
    "/\\evil.example": None,
    "/\\/evil.example/": None,
    "//evil.example/": None,
    "//evil.example//": None,
}


def location(response: Response) -> str | None:
    return dict(response.headers or ()).get("Location")


@pytest.mark.parametrize("target", MOVED)
def test_a_path_that_differs_by_a_slash_is_redirected(target):
    routes = sample(slashes="redirect")
    for method in ("GET", "HEAD"):
        response = routes(Request(method, target.encode()))
        assert (response.status, location(response)) == (308, MOVED[target])
    assert sample()(Request("GET", target.encode())).status == 404


@pytest.mark.parametrize("target", STAYS)
def test_other_paths_are_not(target):
    response = sample(slashes="redirect")(Request("GET", target.encode()))
    assert (response.status, location(response)) == (STAYS[target], None)


@pytest.mark.parametrize("target", HOSTS)
def test_nobody_is_sent_to_another_host(target):
    routes = Routes(slashes="redirect")
    routes.get("/{name}/")(lambda request, name: name)
    routes.get("/{name}/{more}")(lambda request, name, more: name)
    routes.get("//{name}")(lambda request, name: name)
    response = routes(Request("GET", target.encode()))
    assert (response.status, location(response)) == (308 if HOSTS[target] else 404, HOSTS[target])


@pytest.mark.parametrize(("method", "status"), [("POST", 308), ("PUT", 404), ("OPTIONS", 404)])
def test_only_for_a_method_that_the_other_path_answers(method, status):
    assert sample(slashes="redirect")(Request(method, b"/users/")).status == status


def test_a_client_follows_with_method_and_body():
    with TestClient(sample(slashes="redirect")) as client:
        answer = client.post("/users/", data=b"whole")
        assert (answer.content, [each.status_code for each in answer.history]) == (b"whole", [308])
        assert client.get("/shops", params={"a": "1"}).url.endswith("/shops/?a=1")


@pytest.mark.parametrize(("outer", "inner", "status"), [("redirect", None, 308), (None, "redirect", 308)])
@pytest.mark.parametrize("mounted_last", [True, False])
def test_mounted_routes_have_their_own_way_or_that_of_those_around_them(outer, inner, status, mounted_last):
    around, within = Routes(slashes=outer), sample(slashes=inner)
    middle = Routes()
    if mounted_last:
        middle.mount("/m", within)
        around.mount("/v1", middle)
    else:
        around.mount("/v1", middle)
        middle.mount("/m", within)
    around.get("/own")(lambda request: "own")
    response = around(Request("GET", b"/v1/m/users/?x"))
    assert (response.status, location(response)) == (status, "/v1/m/users?x")
    assert around(Request("GET", b"/own/")).status == (308 if outer else 404)


def test_the_hooks_of_the_other_path_stand_before_the_redirect():
    outer, inner = Routes(), sample(slashes="redirect")
    inner.before(lambda request: ("who are you?", 401))
    outer.mount("/api", inner)
    assert outer(Request("GET", b"/api/users/")).status == 401


def test_a_directory_of_files_is_no_page(tmp_path):
    routes = Routes(slashes="redirect")
    routes.static("/assets", tmp_path)
    assert routes(Request("GET", b"/assets")).status == 404


def test_under_another_server_the_path_that_it_mounts_at_is_kept():
    found: list[list[tuple[str, str]]] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/caf\xc3\xa9",
        "PATH_INFO": "/users/",
        "QUERY_STRING": "a=1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
    }
    list(sample(slashes="redirect").wsgi(environ, lambda status, fields: found.append(fields)))
    assert dict(found[0])["Location"] == "/caf%C3%A9/users?a=1"


def test_no_other_value():
    with pytest.raises(RouteError, match="slashes is 'redirect' or None, not 'strip'"):
        sample(slashes="strip")
