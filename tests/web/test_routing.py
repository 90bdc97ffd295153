"""Paths and routes: what matches, what wins, and what can't be declared."""

# ruff: noqa: A002, A006 - as in the documentation's examples, a route's parameter is called id

from __future__ import annotations

import functools
import re
import uuid
from typing import Any

import pytest

from hypoll import HTTPError, Request, RouteError, Routes
from hypoll.contracts import RunOn
from hypoll.web.routing import CONVERTERS, Route, Table, parse_path

ID = "0b9f5f0c-5b1e-4c53-9d4e-0d6a3c0f7a11"


def table_of(*paths: str) -> Table:
    table = Table()
    for path in paths:
        table.add(Route(path, ("GET",), lambda request, **params: None))
    return table


def found(table: Table, path: str) -> list[tuple[str, dict[str, Any]]]:
    """The routes a path leads to, best first, with their parameters."""
    return [
        (methods["GET"].path, dict(zip(methods["GET"].names, values, strict=True)))
        for methods, values in table.find(path.encode())
    ]


@pytest.mark.parametrize(
    ("declared", "path", "params"),
    [
        ("/", "/", {}),
        ("/users", "/users", {}),
        ("/users/", "/users/", {}),
        ("/a//b", "/a//b", {}),
        ("/users/{name}", "/users/ann", {"name": "ann"}),
        ("/users/{name:str}", "/users/ann", {"name": "ann"}),
        ("/users/{name}/", "/users/ann/", {"name": "ann"}),
        ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("/n/{n:int}", "/n/0", {"n": 0}),
        ("/n/{n:int}", "/n/007", {"n": 7}),
        ("/n/{n:int}", "/n/" + "9" * 18, {"n": 10**18 - 1}),
        ("/n/{n:float}", "/n/1.5", {"n": 1.5}),
        ("/n/{n:float}", "/n/2", {"n": 2.0}),
        ("/n/{n:uuid}", f"/n/{ID}", {"n": uuid.UUID(ID)}),
        ("/n/{n:uuid}", f"/n/{ID.upper()}", {"n": uuid.UUID(ID)}),
        ("/files/{rest:path}", "/files/a/b/c.txt", {"rest": "a/b/c.txt"}),
        ("/files/{rest:path}", "/files/", {"rest": ""}),
        ("/files/{rest:path}", "/files//a/", {"rest": "/a/"}),
        ("/{rest:path}", "/", {"rest": ""}),
        # Cut into segments first, decoded then.
        ("/users/{name}", "/users/a%2Fb", {"name": "a/b"}),
        ("/users/{name}", "/users/a%2fb", {"name": "a/b"}),
        ("/users/{name}", "/users/%2F", {"name": "/"}),
        ("/users/{name}", "/users/100%25", {"name": "100%"}),
        ("/users/{name}", "/users/%252F", {"name": "%2F"}),
        ("/users/{name}", "/users/caf%C3%A9", {"name": "café"}),
        ("/users/{name}", "/users/a+b", {"name": "a+b"}),
        ("/users/{name}", "/users/%0A", {"name": "\n"}),
        ("/users/{name}", "/users/..", {"name": ".."}),
        ("/n/{n:int}", "/n/%31%32", {"n": 12}),
        ("/users", "/%75sers", {}),
        ("/café", "/caf%C3%A9", {}),
        ("/café", "/caf%c3%a9", {}),
        ("/a b", "/a%20b", {}),
        ("/a~b", "/a%7Eb", {}),
    ],
)
def test_matches(declared, path, params):
    assert found(table_of(declared), path) == [(declared, params)]


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ("/", "//"),
        ("/users", "/users/"),
        ("/users/", "/users"),
        ("/users", "/Users"),
        ("/a/b", "/a%2Fb"),
        ("/users/{name}", "/users"),
        ("/users/{name}", "/users/"),
        ("/users/{name}", "/users/a/b"),
        ("/n/{n:int}", "/n/-1"),
        ("/n/{n:int}", "/n/+1"),
        ("/n/{n:int}", "/n/1.0"),
        ("/n/{n:int}", "/n/1_0"),
        ("/n/{n:int}", "/n/%20" + "1"),
        ("/n/{n:int}", "/n/1%0A"),
        ("/n/{n:int}", "/n/%D9%A1"),  # an Arabic-Indic digit
        ("/n/{n:int}", "/n/" + "9" * 19),
        ("/n/{n:float}", "/n/nan"),
        ("/n/{n:float}", "/n/inf"),
        ("/n/{n:float}", "/n/1e5"),
        ("/n/{n:float}", "/n/.5"),
        ("/n/{n:float}", "/n/1."),
        ("/n/{n:uuid}", f"/n/{ID.replace('-', '')}"),
        ("/n/{n:uuid}", f"/n/{{{ID}}}"),
        ("/n/{n:uuid}", f"/n/{ID[:-1]}g"),
        ("/files/{rest:path}", "/files"),
    ],
)
def test_does_not_match(declared, path):
    assert found(table_of(declared), path) == []


def test_a_path_that_is_not_utf8():
    with pytest.raises(HTTPError) as caught:
        table_of("/{name}").find(b"/%ff")
    assert caught.value.status == 400
    assert "UTF-8" in caught.value.detail


def test_the_most_special_route_wins_whatever_the_order_of_declaration():
    paths = ["/v/{x:path}", "/v/{x}", f"/v/{ID}", "/v/{x:uuid}", "/v/{x:float}", "/v/{x:int}", "/v/7"]
    for order in (paths, paths[::-1]):
        table = table_of(*order)
        assert [path for path, _ in found(table, "/v/7")] == [
            "/v/7",
            "/v/{x:int}",
            "/v/{x:float}",
            "/v/{x}",
            "/v/{x:path}",
        ]
        assert [path for path, _ in found(table, f"/v/{ID}")] == [f"/v/{ID}", "/v/{x:uuid}", "/v/{x}", "/v/{x:path}"]
        assert [path for path, _ in found(table, "/v/7/8")] == ["/v/{x:path}"]


def test_a_way_that_ends_nowhere_is_gone_back():
    table = table_of("/a/b/c", "/a/{x}/d", "/{y}/b/e", "/{rest:path}")
    assert found(table, "/a/b/c")[0] == ("/a/b/c", {})
    assert found(table, "/a/b/d")[0] == ("/a/{x}/d", {"x": "b"})
    assert found(table, "/a/b/e")[0] == ("/{y}/b/e", {"y": "a"})
    assert found(table, "/a/b/f") == [("/{rest:path}", {"rest": "a/b/f"})]


def test_static_paths_are_keyed_as_they_are_received():
    table = table_of("/", "/a b", "/café", "/x:y@z;p=1,2", "/users/{id}")
    assert set(table.static) == {b"/", b"/a%20b", b"/caf%C3%A9", b"/x:y@z;p=1,2"}


def test_routes_come_sorted_by_path_and_once_each():
    table = table_of("/b", "/a/{x}", "/a")
    table.add(Route("/c", ("GET", "POST"), lambda request: None))
    assert [(route.path, route.methods) for route in table.routes()] == [
        ("/a", ("GET",)),
        ("/a/{x}", ("GET",)),
        ("/b", ("GET",)),
        ("/c", ("GET", "POST")),
    ]


def test_parameters_of_one_place_may_have_other_names_by_method():
    routes = Routes()

    @routes.get("/users/{name}")
    def read(request, name):
        return f"read {name}"

    @routes.delete("/users/{id}")
    def delete(request, id):
        return f"delete {id}"

    assert routes(Request("GET", b"/users/ann")).body == b"read ann"
    assert routes(Request("DELETE", b"/users/ann")).body == b"delete ann"


def test_a_method_is_looked_for_in_the_less_special_routes_too():
    routes = Routes()

    @routes.get("/users/me")
    def me(request):
        return "me"

    @routes.put("/users/{id:int}")
    def put(request, id):
        return "put"

    @routes.delete("/users/{name}")
    def delete(request, name):
        return f"delete {name}"

    assert routes(Request("GET", b"/users/me")).body == b"me"
    assert routes(Request("DELETE", b"/users/me")).body == b"delete me"
    assert routes(Request("DELETE", b"/users/5")).body == b"delete 5"
    assert routes(Request("PUT", b"/users/5")).body == b"put"
    refused = routes(Request("POST", b"/users/5"))
    assert refused.status == 405
    assert refused.headers == {"Allow": "DELETE, OPTIONS, PUT"}


# what can't be declared


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("users", "'users' must begin with a slash"),
        ("/\ud800", "has a lone surrogate"),
        ("/users/{id", "'{id': its } is missing"),
        ("/users/{id:int", "'{id:int': its } is missing"),
        ("/users/{id/orders", "'{id': its } is missing"),
        ("/users/x{id", "'x{id': its } is missing"),
        ("/users/{id:{int}", "'{id:{int}': its } is missing"),
        ("/users/id}", "'id}': its { is missing"),
        ("/users/id:int}", "'id:int}': its { is missing"),
        ("/users/{id}}", "'{id}}': its { is missing"),
        ("/users/}id{", "a whole segment, as in /users/{id:int}"),
        ("/users/x{id}", "a whole segment"),
        ("/users/{id}.json", "a whole segment"),
        ("/users/{}", "'' is no Python name"),
        ("/users/{1st}", "'1st' is no Python name"),
        ("/users/{user-id}", "'user-id' is no Python name"),
        ("/users/{id:integer}", "unknown converter 'integer': there are int, float, uuid, str, path"),
        ("/users/{id:}", "unknown converter ''"),
        ("/{id}/{id}", "'id' twice"),
        ("/{rest:path}/more", "'rest' must come last"),
        ("/a?b=1", "without %, query or fragment"),
        ("/a#b", "without %, query or fragment"),
        ("/a%20b", "written decoded"),
    ],
)
def test_a_bad_path_is_refused_with_its_reason(path, words):
    with pytest.raises(RouteError) as caught:
        Routes().get(path)
    assert words in str(caught.value)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/users/:id", "{id}"),
        ("/users/:id/orders", "{id}"),
        ("/users/:id(\\d+)", "{id}"),
        ("/:", "{name}"),
        ("/users/<id>", "{id}"),
        ("/users/<int:id>", "{id:int}"),
        ("/users/<uuid:id>", "{id:uuid}"),
        ("/users/<path:rest>", "{rest:path}"),
        ("/users/<string:name>", "{name}"),
        ("/users/<string(length=2):lang>", "{lang}"),
    ],
)
def test_a_parameter_as_others_write_it_is_refused_with_the_way_it_is_written_here(path, wanted):
    for declare in (parse_path, Routes().get, lambda prefix: Routes().mount(prefix, Routes())):
        with pytest.raises(RouteError, match=re.escape(wanted)):
            declare(path)


@pytest.mark.parametrize("path", ["/v1/users:batch", "/a:b/c", "/<", "/a<b>", "/<b>c", "/<a-b>"])
def test_a_colon_or_a_bracket_inside_a_segment_is_itself(path):
    assert found(table_of(path), path) == [(path, {})]


def test_a_decorator_without_its_path_is_refused():
    def index(request):
        return "never declared"

    with pytest.raises(RouteError, match=r"must be a str, as in @routes\.get\('/users'\), not <function"):
        Routes().get(index)  # type: ignore[arg-type]


def test_the_converters_are_those_of_the_documentation():
    assert set(CONVERTERS) == {"str", "int", "float", "uuid", "path"}


def test_parse_path_gives_literals_and_parameters():
    literal, parameter = parse_path("/users/{id:int}")
    assert literal == "users"
    assert parameter == ("id", CONVERTERS["int"])


def test_two_routes_of_one_path_and_method_collide():
    routes = Routes()

    @routes.route("/users/{id}", methods=["GET", "PUT"])
    def first(request, id):
        return ""

    with pytest.raises(RouteError) as caught:

        @routes.put("/users/{name}")
        def second(request, name):
            return ""

    text = str(caught.value)
    assert "PUT /users/{name}" in text
    assert "PUT /users/{id}" in text
    assert "first" in text
    assert "second" in text
    assert "test_routing.py line" in text


def test_of_a_colliding_route_nothing_is_declared():
    routes = Routes()
    routes.get("/x")(lambda request: "first")
    with pytest.raises(RouteError):
        routes.route("/x", methods=["POST", "GET"])(lambda request: "second")
    assert routes(Request("POST", b"/x")).status == 405


@pytest.mark.parametrize(
    ("path", "handler"),
    [
        ("/users/{id}", lambda request: ""),
        ("/users/{id}", lambda request, name: ""),
        ("/users/{id}", lambda: ""),
        ("/users", lambda request, id: ""),
        ("/users", lambda: ""),
        ("/users/{id}", lambda request, id, more: ""),
    ],
)
def test_a_handler_that_does_not_take_its_parameters(path, handler):
    with pytest.raises(RouteError, match=r"must take \(request") as caught:
        Routes().get(path)(handler)
    assert repr(path) in str(caught.value)
    assert "<lambda>" in str(caught.value)


@pytest.mark.parametrize(
    "handler",
    [
        lambda request, id: id,
        lambda request, **params: params["id"],
        lambda request, /, id, more=1: id,
        lambda *request, id: id,
    ],
)
def test_a_handler_may_take_its_parameters_in_any_way(handler):
    routes = Routes()
    routes.get("/users/{id}")(handler)
    assert routes(Request("GET", b"/users/ann")).body == b"ann"


async def coroutine(request):
    """An async handler."""


async def async_generator(request):
    yield b""


def generator(request):
    yield b""


class AsyncCallable:
    async def __call__(self, request):
        """An async handler as an object."""


@pytest.mark.parametrize("handler", [coroutine, functools.partial(coroutine), AsyncCallable()])
def test_an_async_handler_is_a_task_and_no_threads(handler):
    routes = Routes()
    routes.get("/x")(handler)
    assert routes.table()[0].run_on is RunOn.TASK
    assert routes.uses_asyncio
    with pytest.raises(RouteError, match=r"GET /y: an async def handler awaits on the loop: leave threaded=True out"):
        routes.get("/y", threaded=True)(handler)


@pytest.mark.parametrize("handler", [generator, async_generator])
def test_a_generator_as_handler_is_refused(handler):
    name = rf"{handler.__name__}, test_routing\.py line {handler.__code__.co_firstlineno}"
    with pytest.raises(RouteError, match=rf"GET /x: .*\.{name} must not yield: return Response\(generator\(\)\)"):
        Routes().get("/x")(handler)


def test_a_def_handler_runs_on_the_loop_or_on_a_thread():
    routes = Routes()
    routes.get("/inline")(lambda request: "")
    routes.get("/threaded", threaded=True)(lambda request: "")
    assert [route.run_on for route in routes.table()] == [RunOn.LOOP, RunOn.THREAD]
    assert not routes.uses_asyncio


def test_a_handler_on_the_loop_can_not_stream():
    with pytest.raises(RouteError, match="POST /x: stream=True needs a handler that may wait: threaded=True, or async"):
        Routes().post("/x", stream=True)(lambda request: "")


def test_a_handler_that_can_not_be_called():
    with pytest.raises(RouteError, match="GET /x: 'text' can't be called"):
        Routes().get("/x")("text")  # type: ignore[type-var]


def test_an_unknown_method():
    with pytest.raises(RouteError, match="FETCH /x: the method must be one of GET, POST"):
        Routes().route("/x", methods=["FETCH"])(lambda request: "")


@pytest.mark.parametrize("methods", [None, [1], 5])
def test_methods_are_names(methods):
    with pytest.raises(RouteError, match=r"/x: methods takes a list of names, as in methods=\['GET'\], not "):
        Routes().route("/x", methods=methods)


def test_no_method():
    with pytest.raises(RouteError, match=r"'/x' has no method: name one"):
        Routes().route("/x", methods=[])(lambda request: "")


def test_methods_given_as_a_text():
    with pytest.raises(RouteError, match=r"/x: methods takes a list, as in methods=\['GET'\]"):
        Routes().route("/x", methods="GET")


def test_a_built_in_is_a_handler():
    routes = Routes()
    routes.get("/x")(repr)
    routes.get("/y")(print)  # its signature can't be known in every version of Python
    assert routes(Request("GET", b"/x")).body == b"<Request GET /x>"
    assert [route.name for route in routes.table()] == ["builtins.repr", "builtins.print"]


def test_a_route_declared_later_is_found_where_a_path_was_looked_for_before():
    table = table_of("/files/{path:path}")
    assert found(table, "/files/1") == [("/files/{path:path}", {"path": "1"})] == found(table, "/files/1")
    table.add(Route("/files/{id:int}", ("GET",), lambda request, id: None))
    assert [path for path, _ in found(table, "/files/1")] == ["/files/{id:int}", "/files/{path:path}"]
