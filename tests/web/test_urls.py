"""`url_for`: from a name and values to a URL that leads back to them."""

# ruff: noqa: A006 - as in the documentation's examples, a route's parameter is called id

from __future__ import annotations

import uuid
from typing import Any

import pytest

from hypoll import Request, Response, RouteError, Routes

ID = "0b9f5f0c-5b1e-4c53-9d4e-0d6a3c0f7a11"


def one(path: str) -> Routes:
    """Routes whose only one gives the values it got."""
    routes = Routes()
    routes.get(path, name="it")(lambda request, **params: Response(repr(params)))
    return routes


@pytest.mark.parametrize(
    ("path", "params", "url"),
    [
        ("/", {}, "/"),
        ("/users/", {}, "/users/"),
        ("/café/a b", {}, "/caf%C3%A9/a%20b"),
        ("/v1/users:batch", {}, "/v1/users:batch"),
        ("/users/{id:int}", {"id": 7}, "/users/7"),
        ("/users/{id:int}", {"id": "7"}, "/users/7"),
        ("/n/{n:float}", {"n": 1.5}, "/n/1.5"),
        ("/n/{n:float}", {"n": 2}, "/n/2"),
        ("/n/{n:float}", {"n": 1e-7}, "/n/0.0000001"),
        ("/n/{n:float}", {"n": 1e16}, "/n/10000000000000000"),
        ("/n/{n:uuid}", {"n": uuid.UUID(ID)}, f"/n/{ID}"),
        ("/n/{n:uuid}", {"n": ID}, f"/n/{ID}"),
        ("/users/{name}", {"name": "ann"}, "/users/ann"),
        ("/users/{name}", {"name": "a/b?c#d%e"}, "/users/a%2Fb%3Fc%23d%25e"),
        ("/users/{name}", {"name": "ü ber\n"}, "/users/%C3%BC%20ber%0A"),
        ("/users/{name}", {"name": "..."}, "/users/..."),
        ("/users/{name}", {"name": "a@b:c+d"}, "/users/a@b:c+d"),
        ("/{name}", {"name": "/evil.example"}, "/%2Fevil.example"),
        ("/{rest:path}", {"rest": "a/b c.js"}, "/a/b%20c.js"),
        ("/{rest:path}", {"rest": ""}, "/"),
        ("/files/{rest:path}", {"rest": "/a//b/"}, "/files//a//b/"),
        # Two slashes at the beginning would name a host.
        ("/{rest:path}", {"rest": "/evil.example/x"}, "/%2Fevil.example/x"),
        ("/{rest:path}", {"rest": "//evil.example"}, "/%2F/evil.example"),
        ("/{a}/{b:int}/{c:path}", {"c": "x/y", "b": 1, "a": "z"}, "/z/1/x/y"),
    ],
)
def test_a_url_leads_back_to_its_values(path, params, url):
    routes = one(path)
    assert routes.url_for("it", **params) == url
    answer = routes(Request("GET", url.encode()))
    kinds: dict[str, Any] = {"int": int, "float": float, "uuid": lambda value: uuid.UUID(str(value))}
    wanted = {
        name: kinds.get(path.partition(name + ":")[2].partition("}")[0], str)(value) for name, value in params.items()
    }
    assert answer.status == 200
    assert answer.body in (repr(wanted), repr({name: wanted[name] for name in sorted(wanted)}))


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (None, ""),
        ({}, ""),
        ({"page": 2}, "?page=2"),
        ({"q": "a b&c=ü/?"}, "?q=a+b%26c%3D%C3%BC%2F%3F"),
        ({"tag": ["a", "b"], "page": None}, "?tag=a&tag=b"),
        ([("tag", "a"), ("x", 1), ("tag", "b")], "?tag=a&x=1&tag=b"),
    ],
)
def test_a_query_is_encoded(query, text):
    assert one("/users/{id:int}").url_for("it", id=7, query=query) == "/users/7" + text


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "the route 'it', /users/{id:int}, needs 'id'"),
        ({"id": 7, "page": 2}, "doesn't take 'page'"),
        ({"id": -7}, "id=-7 is no int that the path takes"),
        ({"id": "7x"}, "id='7x' is no int"),
        ({"id": True}, "id=True is no int"),
        ({"id": None}, "id=None is no int"),
        ({"id": 10**18}, "is no int"),
        ({"id": 7.5}, "id=7.5 is no int"),
    ],
)
def test_what_the_route_would_not_take_is_an_error(params, words):
    with pytest.raises(RouteError) as caught:
        one("/users/{id:int}").url_for("it", **params)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("/{v}", "", "is no str that the path takes"),
        ("/{v}", "..", r"clients take \. and \.\."),
        ("/{v:path}", "a/../b", r"clients take \. and \.\."),
        ("/{v:path}", "./b", r"clients take \. and \.\."),
        ("/{v}", "\ud800", "has a lone surrogate"),
        ("/{v:float}", float("nan"), "is no float"),
        ("/{v:float}", -1.5, "is no float"),
        ("/{v:uuid}", "0b9f5f0c", "is no uuid"),
    ],
)
def test_a_value_that_no_url_carries_back_is_an_error(path, value, words):
    with pytest.raises(RouteError, match=words):
        one(path).url_for("it", v=value)


def test_an_unknown_name_is_an_error_that_shows_the_nearest():
    routes = one("/")
    routes.get("/users", name="users")(lambda request: None)
    with pytest.raises(RouteError, match=r"no route has the name 'user': did you mean 'users'\?"):
        routes.url_for("user")
    with pytest.raises(RouteError, match="no route has the name 'zzz': there are it, users"):
        routes.url_for("zzz")
    with pytest.raises(RouteError, match="there are none"):
        Routes().url_for("it")


def test_the_methods_of_one_path_may_have_one_name():
    routes = Routes()
    routes.get("/users/{id:int}", name="user")(lambda request, id: None)
    routes.put("/users/{id:int}", name="user")(lambda request, id: None)
    assert routes.url_for("user", id=1) == "/users/1"
    with pytest.raises(RouteError, match=r"'user' of /other \(.*\) is that of /users/\{id:int\} \(.*test_urls"):
        routes.post("/other", name="user")(lambda request: None)
    assert routes(Request("POST", b"/other")).status == 404  # nothing of it is declared


@pytest.mark.parametrize("name", ["", 7])
def test_a_name_is_a_text(name):
    with pytest.raises(RouteError, match="a route's name is a str that isn't empty"):
        Routes().get("/", name=name)(lambda request: None)


def test_a_parameter_of_a_named_route_is_not_called_query():
    with pytest.raises(RouteError, match="call the parameter something else"):
        Routes().get("/{query}", name="search")(lambda request, query: None)


def test_static_files_have_a_name(tmp_path):
    routes, outer = Routes(), Routes()
    routes.static("/assets", tmp_path, name="assets")
    assert routes.url_for("assets", path="js/app.js", query={"v": 3}) == "/assets/js/app.js?v=3"
    outer.mount("/shop", routes)
    assert outer.url_for("assets", path="app.js") == routes.url_for("assets", path="app.js") == "/shop/assets/app.js"


# mounted


def users() -> Routes:
    routes = Routes()
    routes.get("/users/{id:int}", name="user")(lambda request, **params: None)
    return routes


def test_a_mounted_route_has_its_prefix_wherever_it_is_asked_for():
    inner, middle, outer = users(), Routes(), Routes()
    middle.mount("/v1", inner)
    outer.mount("/t/{tenant}", middle)
    for routes in (inner, middle, outer):
        assert routes.url_for("user", tenant="a/b", id=7) == "/t/a%2Fb/v1/users/7"
        with pytest.raises(RouteError, match="needs 'tenant'"):
            routes.url_for("user", id=7)


def test_what_is_declared_after_the_mount_has_a_name_too():
    inner, outer = Routes(), Routes()
    outer.mount("/in", inner, name="in")
    inner.get("/late", name="late")(lambda request: None)
    assert outer.url_for("in.late") == inner.url_for("late") == "/in/late"


def test_names_of_the_same_routes_mounted_twice_are_set_apart():
    inner, outer = users(), Routes()
    outer.mount("/v1", inner, name="v1")
    outer.mount("/v2", inner, name="v2")
    assert outer.url_for("v1.user", id=1) == "/v1/users/1"
    assert outer.url_for("v2.user", id=1) == "/v2/users/1"
    with pytest.raises(RouteError, match="the routes of 'user' are mounted at /v1, /v2: ask the Routes around them"):
        inner.url_for("user", id=1)


def test_names_that_collide_by_a_mount_are_an_error_that_says_what_to_do():
    outer = Routes()
    outer.mount("/a", users())
    with pytest.raises(RouteError, match=r"the name 'user' .* mount\(prefix, other, name=\.\.\.\)"):
        outer.mount("/b", users())
