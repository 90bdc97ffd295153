"""What a route is declared with: defaults of its `Routes`, hooks of its own, and options that there aren't."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from hypoll import HTTPError, Request, Response, RouteError, Routes
from hypoll.contracts import RunOn
from hypoll.testing import TestClient
from tests.support.clock import PATIENCE


def plain(request: Request) -> str:
    return threading.current_thread().name


async def task(request: Request) -> str:
    return threading.current_thread().name


class Callables:
    def __call__(self, request: Request) -> str:
        return plain(request)


class AsyncCallables:
    async def __call__(self, request: Request) -> str:
        return plain(request)


# defaults of a Routes


@pytest.mark.parametrize(
    ("handler", "default", "given", "run_on"),
    [
        (plain, False, {}, RunOn.LOOP),
        (plain, True, {}, RunOn.THREAD),
        (plain, True, {"threaded": False}, RunOn.LOOP),
        (plain, False, {"threaded": True}, RunOn.THREAD),
        (plain, True, {"stream": True}, RunOn.THREAD),
        (partial(plain), True, {}, RunOn.THREAD),
        (Callables(), True, {}, RunOn.THREAD),
        (task, True, {}, RunOn.TASK),
        (partial(task), True, {}, RunOn.TASK),
        (AsyncCallables(), True, {}, RunOn.TASK),
        (task, True, {"threaded": False}, RunOn.TASK),
    ],
)
def test_where_a_handler_runs_by_default(handler, default, given, run_on):
    routes = Routes(threaded=default)
    routes.get("/", **given)(handler)
    assert [route.run_on for route in routes.table()] == [run_on]
    assert routes.uses_threads is (run_on is RunOn.THREAD)


def test_a_default_is_of_a_routes_and_no_other(tmp_path):
    (tmp_path / "file").write_text("file")
    outer, inner = Routes(threaded=True), Routes()
    for routes in (outer, inner):
        routes.get("/x")(plain)
        routes.static("/files", tmp_path)
    outer.mount("/in", inner)
    found = {route.path: route.run_on for route in outer.table()}
    files = dict.fromkeys(["/files/{path:path}", "/in/files/{path:path}"], RunOn.LOOP)
    assert found == {"/x": RunOn.THREAD, "/in/x": RunOn.LOOP, **files}
    with TestClient(outer) as client:
        assert client.get("/x").text.startswith("hypoll-")
        assert client.get("/in/x").text == "hypoll.testing"
        assert client.get("/files/file").text == "file"


def test_a_threaded_default_holds_for_websockets():
    routes = Routes(threaded=True)

    @routes.websocket("/echo")
    def echo(socket):
        for message in socket:
            socket.send(message)

    @routes.websocket("/task")
    async def task(socket):
        await socket.send("hello")

    with TestClient(routes) as client, client.websocket("/echo") as one, client.websocket("/task") as two:
        one.send("a")
        assert (one.receive(), two.receive()) == ("a", "hello")


@pytest.mark.parametrize("kind", ["threaded", "async"])
@pytest.mark.parametrize(
    ("given", "status"), [({}, 504), ({"timeout": None}, 200), ({"timeout": 20.0}, 200), ({"timeout": 0.01}, 504)]
)
def test_a_default_timeout(kind, given, status):
    limit = 20.0 if given.get("timeout") == 0.01 else 0.01
    routes, leave = Routes(timeout=limit, threaded=kind == "threaded"), threading.Event()

    pause = 0.1 if status == 200 else PATIENCE  # on a busy machine a short one is over before its request's time is

    def thread(request: Request) -> str:
        leave.wait(pause)
        return "late"

    async def wait(request: Request) -> str:
        import asyncio

        await asyncio.sleep(pause)
        return "late"

    routes.get("/", **given)(thread if kind == "threaded" else wait)
    with TestClient(routes) as client:
        assert client.get("/").status_code == status
        leave.set()


def test_a_default_timeout_passes_over_what_cant_be_interrupted():
    routes = Routes(timeout=1)
    routes.get("/")(plain)
    assert routes(Request("GET", b"/")).status == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": 0}, "timeout is a number of seconds above 0, not 0"),
        ({"timeout": "5"}, "timeout is a number of seconds above 0, not '5'"),
        ({"timeout": float("inf")}, "timeout is a number of seconds above 0"),
        ({"timeout": True}, "timeout is a number of seconds above 0"),
        ({"threaded": "yes"}, "threaded is True or False, not 'yes'"),
    ],
)
def test_a_default_that_is_none(options, words):
    with pytest.raises(RouteError, match=words):
        Routes(**options)


# hooks of one route


def refuse(request: Request) -> None:
    if request.headers.get("x-who") is None:
        raise HTTPError(401, "who are you?")


def answer(request: Request) -> Any:
    return {"cached": True} if "cached" in request.query else None


async def refuse_later(request: Request) -> None:
    refuse(request)


async def answer_later(request: Request) -> Any:
    return answer(request)


HOOKS: dict[str, list[Callable[[Request], Any]]] = {
    "def": [refuse, answer],
    "async": [refuse_later, answer_later],
    "mixed": [refuse, answer_later],
    "partial": [partial(refuse), partial(answer)],
}


@pytest.mark.parametrize("around", ["none", "def", "async"])
@pytest.mark.parametrize("kind", ["inline", "threaded", "async"])
@pytest.mark.parametrize("hooks", list(HOOKS))
def test_hooks_of_one_route(hooks, kind, around):
    if kind == "threaded" and hooks in ("async", "mixed"):
        pytest.skip("it is an error when it is declared")
    inner, outer = Routes(), Routes()
    seen: list[Any] = []

    def handler(request: Request, id: int = 0) -> Any:  # noqa: A002
        seen.append(id)
        return {"id": id, "thread": threading.current_thread().name}

    async def later(request: Request, id: int = 0) -> Any:  # noqa: A002
        return handler(request, id)

    for path in ("/guarded", "/guarded/{id:int}"):
        if kind == "async":
            inner.get(path, before=HOOKS[hooks])(later)
        else:
            inner.get(path, before=HOOKS[hooks], threaded=kind == "threaded")(handler)
    inner.get("/open")(lambda request: "open")
    if around == "def":
        inner.before(lambda request: seen.append("before"))
    elif around == "async":

        async def before(request: Request) -> None:
            seen.append("before")

        inner.before(before)
    outer.mount("/in", inner)
    with TestClient(outer) as client:
        assert client.get("/in/open").text == "open"
        for path, number in [("/in/guarded", 0), ("/in/guarded/7", 7)]:
            seen.clear()
            refused = client.get(path)
            assert (refused.status_code, refused.json()["detail"]) == (401, "who are you?")
            client.headers["X-Who"] = "ada"
            assert client.get(path, params={"cached": "1"}).json() == {"cached": True}
            assert number not in seen
            given = client.get(path).json()
            assert given["id"] == number
            assert given["thread"].startswith("hypoll-") is (kind == "threaded")
            assert seen == ([] if around == "none" else ["before"] * 3) + [number]
            del client.headers["X-Who"]


def test_they_run_behind_those_of_the_routes_in_their_order_and_errors_are_answered_as_others():
    log: list[str] = []
    routes = Routes()
    routes.before(lambda request: log.append("routes"))
    routes.after(lambda request, response: log.append(f"after {response.status}"))
    routes.error(KeyError)(lambda request, error: ("sorry", 409))

    def fail(request: Request) -> None:
        raise KeyError("x")

    routes.get("/a", before=[lambda request: log.append("first"), lambda request: log.append("second")])(plain)
    routes.get("/b", before=(fail,))(plain)
    assert routes(Request("GET", b"/a")).status == 200
    assert log == ["routes", "first", "second", "after 200"]
    assert routes(Request("GET", b"/b")).status == 409


def test_a_stream_begins_behind_them():
    routes = Routes()

    @routes.put("/", threaded=True, stream=True, before=[refuse])
    def upload(request):
        return str(len(request.stream.read()))

    with TestClient(routes) as client:
        assert client.put("/", data=b"x" * 100_000).status_code == 401
        assert client.put("/", data=b"x" * 100_000, headers={"X-Who": "a"}).text == "100000"


def test_the_handler_is_still_what_it_is_called():
    routes = Routes()
    routes.get("/a/{id:int}", before=[refuse])(lambda request, **params: "")
    (route,) = routes.table()
    assert route.place.startswith("tests.web.test_route_options.test_the_handler_is_still_what_it_is_called")
    assert "test_route_options.py line" in route.place
    with pytest.raises(RouteError, match=r"must take \(request, id\)"):
        routes.get("/b/{id:int}", before=[refuse])(plain)
    with pytest.raises(RouteError, match="must not yield"):
        routes.get("/c", before=[refuse])(generator)


def generator(request: Request) -> Any:
    yield b""


async def check(request: Request) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"before": refuse}, r"GET /: before takes a list of hooks, as in before=\[check\]"),
        ({"before": [lambda: None]}, r"the GET /: before hook .* must take \(request\)"),
        ({"before": ["check"]}, "'check' can't be called"),
        ({"before": [generator]}, "must not yield"),
        ({"before": [check], "threaded": True}, r"the hook .*check, test_route_options.py line \d+ is an async def"),
    ],
)
def test_what_is_no_hook(options, words):
    with pytest.raises(RouteError, match=words):
        Routes().get("/", **options)(plain)


# options that there aren't, and sizes


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["POST"]}, r"for several methods use routes.route\(path, methods=\['POST'\]\)"),
        ({"thread": True}, "a route has no option thread: is it threaded?"),
        ({"maxbody": 5}, "no option maxbody: is it max_body?"),
        ({"time_out": 5}, "no option time_out: is it timeout?"),
        ({"endpoint": "x"}, "no option endpoint: there are threaded, stream, name, max_body, timeout, before"),
    ],
)
def test_an_option_that_there_is_not(method, options, words):
    with pytest.raises(RouteError, match=f"{method.upper()} /a: .*{words}"):
        getattr(Routes(), method)("/a", **options)


def test_route_has_no_other_options_either():
    with pytest.raises(RouteError, match=r"/a: a route has no option thread: is it threaded\?"):
        Routes().route("/a", ["GET"], thread=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("size", "limit"), [("2 MiB", 2 << 20), ("2MiB", 2 << 20), ("10k", 10240), ("0", 0), ("7", 7), (7, 7)]
)
def test_a_size_as_the_command_line_takes_it(size, limit):
    routes = Routes()
    routes.post("/", max_body=size)(lambda request: Response())
    assert routes.least_max_body == limit


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("2 MIBS", "max_body: '2 MIBS' is not a size"),
        ("-1", "max_body: '-1' is not a size"),
        ("", "max_body: '' is not a size"),
        (-1, "max_body is a number of bytes or a size, as '10 MiB', not -1"),
        (1.5, "max_body is a number of bytes or a size"),
        (True, "max_body is a number of bytes or a size"),
    ],
)
def test_what_is_no_size(size, words):
    with pytest.raises(RouteError, match=f"POST /: {words}"):
        Routes().post("/", max_body=size)(plain)
