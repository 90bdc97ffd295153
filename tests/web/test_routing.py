"""Routes: what can't be declared, and which methods and kinds of handlers there are."""

# ruff: noqa: A002, A006 - as in the documentation's examples, a route's parameter is called id

from __future__ import annotations

import functools
import re

import pytest

from hypoll import Request, RouteError, Routes
from hypoll.contracts import RunOn
from hypoll.web.routing import CONVERTERS, parse_path


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
