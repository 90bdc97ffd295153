"""Whose hooks see a request that no route answers."""

from __future__ import annotations

import pytest

from hypoll import HTTPError, Request, RouteError, Routes
from hypoll.testing import TestClient
from tests.support.client import Client
from tests.support.server import running


def noting(name: str, seen: list[str]) -> Routes:
    """Routes with an /x, whose hooks note that they were called."""
    routes = Routes()
    routes.get("/x")(lambda request, **params: name)
    routes.before(lambda request: seen.append(name))
    return routes


@pytest.fixture(scope="module")
def tree() -> tuple[Routes, list[str]]:
    seen: list[str] = []
    outer = noting("outer", seen)
    api, public, tenant, admin = (noting(name, seen) for name in ("api", "public", "tenant", "admin"))
    api.mount("/admin", admin)
    outer.mount("/api", api)
    outer.mount("/api/public", public)
    outer.mount("/t/{name}", tenant)
    outer.mount("/both", noting("first", seen))
    second = Routes()
    second.before(lambda request: seen.append("second"))
    outer.mount("/both", second)
    return outer, seen


PATHS = {
    "/nothing": ["outer"],
    "/apiary": ["outer"],
    "/api": ["outer", "api"],
    "/api/": ["outer", "api"],
    "/api/nothing?x=/api/public": ["outer", "api"],
    "/api/x/more": ["outer", "api"],
    "/%61pi/nothing": ["outer", "api"],
    "/api%2Fnothing": ["outer"],
    "/api/admin/nothing": ["outer", "api", "admin"],
    "/api/public/nothing": ["outer", "public"],
    "/t/acme/nothing": ["outer", "tenant"],
    "/t//nothing": ["outer"],
    "/both/nothing": ["outer", "first", "second"],
    "/%ff": ["outer"],
}


@pytest.mark.parametrize("target", PATHS)
def test_the_hooks_of_the_prefix_see_what_has_no_route(tree, target):
    routes, seen = tree
    for method in ("GET", "POST", "OPTIONS"):
        seen.clear()
        assert routes(Request(method, target.encode())).status in (400, 404)
        assert seen == PATHS[target]


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("OPTIONS", 204), ("GET", 200)])
@pytest.mark.parametrize(
    ("target", "hooks"),
    [("/api/x", ["outer", "api"]), ("/api/admin/x", ["outer", "api", "admin"]), ("/t/a/x", ["outer", "tenant"])],
)
def test_they_see_other_methods_of_a_route_too(tree, target, hooks, method, status):
    routes, seen = tree
    seen.clear()
    assert routes(Request(method, target.encode())).status == status
    assert seen == hooks


def test_an_error_hook_of_mounted_routes_answers_a_404_below_them():
    inner, outer = Routes(), Routes()
    inner.error(HTTPError)(lambda request, error: (f"inner {error.status}", error.status))
    outer.mount("/api", inner)
    assert outer(Request("GET", b"/api/nothing")).body == b"inner 404"
    assert outer(Request("GET", b"/nothing")).content_type == "application/problem+json"


def test_an_async_hook_of_mounted_routes_sees_it_on_a_server():
    inner, outer = Routes(), Routes()

    @inner.before
    async def authenticate(request):
        raise HTTPError(401, "who are you?")

    outer.mount("/api", inner)
    with TestClient(outer) as client:
        statuses = [client.get(path).status_code for path in ("/api/nothing", "/api", "/nothing")]
    assert statuses == [401, 401, 404]


@pytest.mark.parametrize(("path", "asked"), [(b"/api/nothing", True), (b"/nothing", False)])
def test_a_body_is_refused_by_the_head_only_where_no_hook_might_answer(path, asked):
    inner, outer = Routes(), Routes()
    inner.before(lambda request: f"{len(request.body)} bytes")
    outer.mount("/api", inner)
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n" % path
    with running(outer) as it:
        client: Client = it.connect()
        client.send(head)
        status, _ = client.head()
        assert status == (100 if asked else 404)
        if asked:
            client.send(b"hello")
            assert client.answer().body == b"5 bytes"


def test_a_prefix_is_a_path():
    with pytest.raises(RouteError, match="must not end with a slash"):
        Routes().mount("/", Routes())
