"""`Routes`: from a request to a response, with hooks and mounted routes, and no socket."""

# ruff: noqa: A002, A006 - as in the documentation's examples, a route's parameter is called id

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import enum
import http
import json
import logging
import uuid
from typing import Any
from unittest.mock import ANY

import pytest

import hypoll
from hypoll import HTTPError, Request, Response, RouteError, Routes
from hypoll.protocol.header_section import HeaderSection
from hypoll.runner import Runner, SetupError
from hypoll.settings import Settings
from hypoll.testing import TestClient


def ask(routes: Routes, method: str, target: str, body: bytes = b"") -> Response:
    request = Request(method, target.encode())
    request.body = body
    return routes(request)


def returning(value: Any) -> Response:
    """What becomes of a handler's return value."""
    routes = Routes()
    routes.get("/")(lambda request: value)
    return ask(routes, "GET", "/")


def problem(response: Response) -> dict[str, Any]:
    assert response.content_type == "application/problem+json"
    assert isinstance(response.body, bytes)
    document = json.loads(response.body)
    assert document["status"] == response.status
    return dict(document)


def traced(response: Response) -> str:
    """The problem's text, that must not tell of the code."""
    text = str(response.body)
    assert "Traceback" not in text
    assert ".py" not in text
    return text


def test_the_public_names():
    assert set(hypoll.__all__) == {
        "ClientDisconnect",
        "Event",
        "EventHub",
        "sse",
        "AsyncFormPart",
        "File",
        "Form",
        "FormPart",
        "HTTPError",
        "Headers",
        "MultiDict",
        "Request",
        "RequestFields",
        "Response",
        "ResponseHeaders",
        "RouteError",
        "Routes",
        "State",
        "StoredPart",
        "__version__",
        "api_key",
        "bearer",
        "html",
        "redirect",
        "run",
    }
    for name in hypoll.__all__:
        assert getattr(hypoll, name) is not None


# methods


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
@pytest.mark.parametrize("path", ["/x", "/{name}"])
def test_a_decorator_for_each_method(method, path):
    routes = Routes()

    @getattr(routes, method)(path)
    def handler(request, name="x"):
        return f"{request.method} {name}"

    assert ask(routes, method.upper(), "/x").body == f"{method.upper()} x".encode()
    assert ask(routes, method.upper(), "/x?a=1").status == 200
    assert callable(handler), "the decorated function stays what it is"
    assert handler(Request("GET", b"/")) == "GET x"


def test_route_takes_several_methods_and_get_without_any():
    routes = Routes()

    @routes.route("/x", methods=["put", "PATCH", "PUT"])
    def write(request):
        return request.method

    @routes.route("/y")
    def read(request):
        return "read"

    assert ask(routes, "PUT", "/x").body == b"PUT"
    assert ask(routes, "PATCH", "/x").body == b"PATCH"
    assert ask(routes, "GET", "/x").status == 405
    assert ask(routes, "GET", "/y").body == b"read"
    assert [route.methods for route in routes.table()] == [("PUT", "PATCH"), ("GET",)]


def test_head_is_answered_from_get_unless_it_has_a_route():
    routes = Routes()
    routes.get("/x")(lambda request: f"x for {request.method}")
    routes.get("/y")(lambda request: "y")
    routes.head("/y")(lambda request: Response(headers={"X-Own": "1"}))
    routes.get("/{name}/z")(lambda request, name: name)
    routes.post("/p")(lambda request: "p")
    assert ask(routes, "HEAD", "/x").body == b"x for HEAD"
    assert ask(routes, "HEAD", "/y").headers == {"X-Own": "1"}
    assert ask(routes, "HEAD", "/a/z").body == b"a"
    assert ask(routes, "HEAD", "/p").status == 405
    assert ask(routes, "HEAD", "/nothing").status == 404


def test_options_is_answered_with_allow_unless_it_has_a_route():
    routes = Routes()
    routes.get("/x")(lambda request: "x")
    routes.delete("/x")(lambda request: "x")
    routes.put("/{name}")(lambda request, name: name)
    routes.options("/y")(lambda request: "own")
    answer = ask(routes, "OPTIONS", "/x")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers == {"Allow": "DELETE, GET, HEAD, OPTIONS, PUT"}
    assert ask(routes, "OPTIONS", "/z").headers == {"Allow": "OPTIONS, PUT"}
    assert ask(routes, "OPTIONS", "/y").body == b"own"
    assert ask(routes, "OPTIONS", "/a/b").status == 404


@pytest.mark.parametrize("hooked", [False, True])
def test_options_of_the_server(hooked):
    routes = Routes()
    routes.get("/{rest:path}")(lambda request, rest: rest)
    if hooked:
        routes.before(lambda request: None)
    answer = ask(routes, "OPTIONS", "*")
    assert answer.status == 204
    assert answer.headers == {"Allow": "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"}


@pytest.mark.parametrize("hooked", [False, True])
def test_nothing_there_and_not_this_method(hooked):
    routes = Routes()
    routes.get("/x")(lambda request: "x")
    routes.post("/x")(lambda request: "x")
    if hooked:
        routes.before(lambda request: None)
    missing = ask(routes, "GET", "/nothing")
    assert missing.status == 404
    assert problem(missing) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is nothing at this path",
        "id": ANY,
    }
    refused = ask(routes, "DELETE", "/x")
    assert refused.status == 405
    assert refused.headers == {"Allow": "GET, HEAD, OPTIONS, POST"}
    assert problem(refused)["detail"] == "this path answers GET, HEAD, OPTIONS, POST"
    assert ask(routes, "PROPFIND", "/x").status == 405


def test_a_path_that_is_not_utf8_is_a_bad_request():
    routes = Routes()
    routes.get("/{name}")(lambda request, name: name)
    assert ask(routes, "GET", "/%ff").status == 400


@pytest.mark.parametrize("target", ["/caf%C3%A9", "/caf%c3%a9", "/c%61f%C3%A9?x=1"])
def test_a_static_path_is_found_however_it_was_encoded(target):
    routes = Routes()
    routes.get("/café")(lambda request: request.path)
    assert ask(routes, "GET", target).body == "/café".encode()


def test_parameters_reach_handler_and_request():
    routes = Routes()

    @routes.get("/users/{id:int}/{rest:path}")
    def handler(request, id, rest):
        assert request.params == {"id": id, "rest": rest}
        return {"id": id, "rest": rest}

    assert ask(routes, "GET", "/users/7/a%2Fb/c").body == b'{"id":7,"rest":"a/b/c"}'


@pytest.mark.parametrize("hooked", [False, True])
def test_what_a_handler_does_to_the_parameters_is_its_own_request_s(hooked):
    routes = Routes()

    @routes.get("/static")
    def static(request):
        request.params["left"] = "behind"
        return request.params

    @routes.get("/{name}")
    def pattern(request, name):
        request.params["left"] = "behind"
        return request.params

    routes.get("/none")(lambda request: request.params)
    if hooked:
        routes.before(lambda request: None)
    for _ in range(2):
        assert ask(routes, "GET", "/none").body == b"{}"
        assert ask(routes, "GET", "/static").body == b'{"left":"behind"}'
        assert ask(routes, "GET", "/x").body == b'{"name":"x","left":"behind"}'


@pytest.mark.parametrize("hooked", [False, True])
def test_an_http_error_raised_again_and_again_gathers_nothing(hooked):
    routes = Routes()
    constant = HTTPError(404)

    @routes.get("/")
    def handler(request):
        raise constant

    if hooked:
        routes.before(lambda request: None)
    for _ in range(2):
        assert ask(routes, "GET", "/").status == 404
        assert constant.__traceback__ is None


def test_without_parameters_the_request_has_none():
    routes = Routes()
    routes.get("/x")(lambda request: {"params": request.params})
    assert ask(routes, "GET", "/x").body == b'{"params":{}}'


# what a handler returns


class Colour(enum.Enum):
    RED = "red"


class Name(str):
    __slots__ = ()


@dataclasses.dataclass
class User:
    id: int
    name: str


JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


@pytest.mark.parametrize(
    ("value", "status", "body", "content_type"),
    [
        ("ok", 200, b"ok", TEXT),
        ("", 200, b"", TEXT),
        ("é", 200, "é".encode(), TEXT),
        (Name("a name"), 200, b"a name", TEXT),
        (b"\x00\xff", 200, b"\x00\xff", BYTES),
        (bytearray(b"ab"), 200, b"ab", BYTES),
        (memoryview(b"ab"), 200, b"ab", BYTES),
        (None, 204, b"", None),
        ({}, 200, b"{}", JSON),
        ({"a": [1, None, 1.5, True, "é"]}, 200, '{"a":[1,null,1.5,true,"é"]}'.encode(), JSON),
        ([], 200, b"[]", JSON),
        ([{"a": 1}], 200, b'[{"a":1}]', JSON),
        (7, 200, b"7", JSON),
        (1.5, 200, b"1.5", JSON),
        (False, 200, b"false", JSON),
        (User(7, "ann"), 200, b'{"id":7,"name":"ann"}', JSON),
        ([User(7, "ann")], 200, b'[{"id":7,"name":"ann"}]', JSON),
        (uuid.UUID(int=0), 200, b'"00000000-0000-0000-0000-000000000000"', JSON),
        (datetime.date(2026, 1, 2), 200, b'"2026-01-02"', JSON),
        (Colour.RED, 200, b'"red"', JSON),
        (("made", 201), 201, b"made", TEXT),
        (({"id": 7}, 201), 201, b'{"id":7}', JSON),
        ((None, 202), 202, b"", None),
        (("made", http.HTTPStatus.CREATED), 201, b"made", TEXT),
        ((b"", 200), 200, b"", BYTES),
    ],
)
def test_a_return_value_becomes_a_response(value, status, body, content_type):
    response = returning(value)
    assert (response.status, response.body, response.content_type) == (status, body, content_type)
    assert not response.headers


def test_status_and_headers_in_a_tuple():
    response = returning(({"id": 7}, 201, {"Location": "/users/7"}))
    assert (response.status, dict(response.headers)) == (201, {"Location": "/users/7"})
    assert response.body == b'{"id":7}'


def test_a_response_is_sent_as_it_is():
    given = Response("teapot", 418, {"X-A": "1"}, "text/x")
    assert returning(given) is given


def test_a_response_in_a_tuple_is_not_changed():
    given = Response(b"ok", headers={"X-A": "1"}, content_type="text/x")
    response = returning((given, 201))
    assert (response.body, response.status, dict(response.headers)) == (b"ok", 201, {"X-A": "1"})
    assert response.content_type == "text/x"
    assert given.status == 200
    assert returning((given, 202, {"X-B": "2"})).headers == {"X-B": "2"}
    assert given.headers == {"X-A": "1"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "gave what can't be JSON: $: object: return a Response"),
        ([object()], "gave what can't be JSON: $[0]: object"),
        (HTTPError(404), "gave what can't be JSON: $: HTTPError: return a Response"),
        ({(1, 2): 2}, "$: a key that is a tuple, (1, 2)"),
        ({"n": 2**70}, "$.n: an int of more than 64 bits"),
        ((), "returned (): a tuple is (value, status) or (value, status, headers); a list is sent as JSON"),
        (("a",), "returned ('a',): a tuple is (value, status)"),
        (("a", "201"), "returned ('a', '201'): '201' is not the status of a final response"),
        (("a", 200, {}, 1), "a tuple is (value, status)"),
        (("a", None), "returned ('a', None): None is not the status"),
        (("a", True), "True is not the status"),
        (("a", 99), "99 is not the status of a final response, which is an int from 200 to 599"),
        (("a", 200.0), "200.0 is not the status"),
        ((404, {"detail": "gone"}), "{'detail': 'gone'} is not the status of a final response"),
        ((404, {"detail": "gone"}), "599; the status comes second"),
        (("a", 200, "X: 3"), "('a', 200, 'X: 3'): header fields are a mapping or pairs, as {'X-Name': 'value'}, not"),
        (("a", 200, ["X: 3"]), "header fields are a mapping or pairs, as {'X-Name': 'value'}, not a list that holds"),
        (("a", 200, ["ab"]), "not a list that holds 'ab'"),
        (("a", 200, [("X", "1", "2")]), "not a list that holds ('X', '1', '2')"),
        (("a", 200, 7), "header fields are a mapping or pairs, as {'X-Name': 'value'}, not 7"),
        (("a", 200, {"X": 3}), "the value of X is 3: it must be a str"),
        (("a", 200, {"X Y": "3"}), "'X Y' is not a field name"),
        ((("a", 200), 201), "a tuple in a tuple"),
        ("\udc80", "surrogates not allowed"),
    ],
)
def test_what_can_not_be_sent_is_a_logged_500(caplog, value, reason):
    response = returning(value)
    assert response.status == 500
    [record] = caplog.records
    assert record.getMessage().startswith("GET / failed")
    assert reason in caplog.text
    assert reason not in traced(response)


def test_what_is_wrong_with_a_tuple_names_the_function_that_returned_it(caplog):
    routes = Routes()

    def handler(request):
        return "a", "201"

    def hook(request):
        return 404, {"detail": "gone"}

    routes.get("/")(handler)
    routes.get("/threaded", threaded=True)(handler)
    inner = Routes()
    inner.get("/")(handler)
    inner.before(hook)
    routes.mount("/in", inner)
    assert [ask(routes, "GET", path).status for path in ("/", "/threaded", "/in/")] == [500] * 3
    for function, count in ((handler, 2), (hook, 1)):
        place = f"{function.__qualname__}, test_app.py line {function.__code__.co_firstlineno} returned ("
        assert caplog.text.count(place) == count


# refusing and failing


def test_an_http_error_is_its_own_answer(caplog):
    routes = Routes()

    @routes.get("/")
    def handler(request):
        raise HTTPError(409, "taken already", {"X-Taken": "yes"})

    response = ask(routes, "GET", "/")
    assert response.headers == {"X-Taken": "yes"}
    assert problem(response) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "taken already",
        "id": ANY,
    }
    assert not caplog.records


def test_an_http_error_may_say_no_more_than_its_status():
    routes = Routes()

    @routes.get("/")
    def handler(request):
        raise HTTPError(410)

    document = {"type": "about:blank", "title": "Gone", "status": 410, "id": ANY}
    assert problem(ask(routes, "GET", "/")) == document


def test_an_error_s_id_is_the_one_the_request_came_with():
    request = Request("GET", b"/nothing", HeaderSection((("x-request-id", "my-own"),)))
    assert problem(Routes()(request))["id"] == "my-own"


@pytest.mark.parametrize("status", [200, 302, 399, 600, 0])
def test_an_http_error_is_an_error(status):
    with pytest.raises(ValueError, match=str(status)):
        HTTPError(status)


@pytest.mark.parametrize("hooked", [False, True])
def test_an_exception_is_a_500_with_an_id_that_the_log_has(caplog, hooked):
    routes = Routes()

    @routes.get("/users/{id}")
    def handler(request, id):
        raise RuntimeError("the secret of the database")

    if hooked:
        routes.after(lambda request, response: None)
    response = ask(routes, "GET", "/users/7?token=abc")
    assert response.status == 500
    assert "secret" not in traced(response)
    document = problem(response)
    assert document["title"] == "Internal Server Error"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "hypoll.error"
    assert record.getMessage() == f"GET /users/7 failed, request {document['id']}"
    assert caplog.text.count("RuntimeError: the secret of the database") == 1
    assert "in handler" in caplog.text


class Unusual(BaseException):
    """What some libraries derive their time-outs and cancellations from."""


STRANGE = [MemoryError, RecursionError, StopIteration, SystemExit, GeneratorExit, asyncio.CancelledError, Unusual]


@pytest.mark.parametrize("where", ["handler", "before", "after", "error"])
@pytest.mark.parametrize("kind", STRANGE)
def test_whatever_application_code_raises_is_a_500(kind, where):
    routes = Routes()

    def fail(*args):
        raise kind

    @routes.get("/")
    def handler(request):
        if where in ("handler", "error"):
            raise LookupError if where == "error" else kind
        return "ok"

    if where == "error":
        routes.error(LookupError)(fail)
    elif where != "handler":
        getattr(routes, where)(fail)
    assert ask(routes, "GET", "/").status == 500


@pytest.mark.parametrize("hooked", [False, True])
def test_an_interrupt_is_not_a_request_s_but_the_process_s(hooked):
    routes = Routes()

    @routes.get("/")
    def handler(request):
        raise KeyboardInterrupt

    if hooked:
        routes.after(lambda request, response: None)
    with pytest.raises(KeyboardInterrupt):
        ask(routes, "GET", "/")


def test_json_that_is_none_is_a_400_of_the_handler():
    routes = Routes()
    routes.post("/")(lambda request: request.json())
    assert ask(routes, "POST", "/", b'{"a":1}').body == b'{"a":1}'
    assert "not JSON" in problem(ask(routes, "POST", "/", b"{"))["detail"]


# before the body


def test_refuses_knows_paths_and_methods():
    routes = Routes()
    routes.post("/x/{id:int}")(lambda request, id: "")
    assert routes.early_refusal(Request("POST", b"/x/1")) is None
    assert routes.early_refusal(Request("OPTIONS", b"/x/1")) is None
    missing = routes.early_refusal(Request("POST", b"/x/one"))
    assert missing is not None
    assert missing.status == 404
    refused = routes.early_refusal(Request("PUT", b"/x/1"))
    assert refused is not None
    assert refused.status == 405
    assert refused.headers == {"Allow": "OPTIONS, POST"}


def test_refuses_runs_no_handler_and_no_hook():
    routes, other = Routes(), Routes()
    other.before(lambda request: pytest.fail("a hook ran"))
    other.post("/x")(lambda request: pytest.fail("a handler ran"))
    routes.mount("/other", other)
    assert routes.early_refusal(Request("POST", b"/other/x")) is None
    assert routes.early_refusal(Request("POST", b"/other/y")) is None, "the hooks of /other see it"
    assert routes.early_refusal(Request("POST", b"/y")) is not None


@pytest.mark.parametrize("kind", ["before", "after", "error"])
def test_refuses_leaves_to_the_hooks_what_they_would_see(kind):
    routes = Routes()
    if kind == "before":
        routes.before(lambda request: "anything")
    elif kind == "after":
        routes.after(lambda request, response: "anything")
    else:
        routes.error(HTTPError)(lambda request, error: "anything")
    assert routes.early_refusal(Request("POST", b"/nothing")) is None
    assert ask(routes, "POST", "/nothing").body == b"anything"


# hooks


def recording(name: str, log: list[str]) -> Routes:
    """Routes whose hooks note that they ran."""
    routes = Routes()
    routes.before(lambda request: log.append(f"{name} before"))
    routes.after(lambda request, response: log.append(f"{name} after {response.status}"))
    routes.on_start(lambda: log.append(f"{name} start"))
    routes.on_stop(lambda: log.append(f"{name} stop"))

    @routes.get("/x")
    def handler(request):
        log.append(f"{name} handler")
        return name

    return routes


def test_hooks_run_around_the_handler_in_the_order_of_declaration():
    log: list[str] = []
    routes = recording("one", log)
    routes.before(lambda request: log.append("second before"))
    routes.after(lambda request, response: log.append("second after"))
    assert ask(routes, "GET", "/x").body == b"one"
    assert log == ["one before", "second before", "one handler", "one after 200", "second after"]


def test_hooks_declared_after_the_routes_apply():
    routes = Routes()
    routes.get("/x")(lambda request: "handler")
    assert ask(routes, "GET", "/x").body == b"handler"
    routes.before(lambda request: "hook")
    assert ask(routes, "GET", "/x").body == b"hook"


def test_a_hook_is_given_back_by_its_decorator():
    routes = Routes()

    def before(request):
        return None

    def start():
        return None

    assert routes.before(before) is before
    assert routes.on_start(start) is start
    assert routes.error(ValueError)(lambda request, error: None) is not None


def test_before_may_answer_instead():
    log: list[str] = []
    routes = Routes()
    routes.before(lambda request: ("go away", 403) if "secret" in request.query else None)
    routes.before(lambda request: log.append("second"))
    routes.after(lambda request, response: log.append(f"after {response.status}"))
    routes.get("/x")(lambda request: log.append("handler"))
    refused = ask(routes, "GET", "/x?secret=1")
    assert (refused.status, refused.body) == (403, b"go away")
    assert log == ["after 403"]
    log.clear()
    assert ask(routes, "GET", "/x").status == 204
    assert log == ["second", "handler", "after 204"]


def test_before_sees_the_parameters_and_may_leave_something_on_the_request():
    routes = Routes()

    @routes.before
    def before(request):
        request.user = f"user {request.params['id']}"

    routes.get("/{id:int}")(lambda request, id: request.user)
    assert ask(routes, "GET", "/7").body == b"user 7"


def test_after_may_replace_the_answer_or_change_it():
    routes = Routes()

    @routes.after
    def stamp(request, response):
        response.headers = {"X-Stamp": "1"}

    @routes.after
    def replace(request, response):
        return ("replaced", 202, response.headers) if request.path == "/r" else None

    routes.get("/x")(lambda request: "x")
    routes.get("/r")(lambda request: "r")
    assert ask(routes, "GET", "/x").headers == {"X-Stamp": "1"}
    replaced = ask(routes, "GET", "/r")
    assert (replaced.body, replaced.status, dict(replaced.headers)) == (b"replaced", 202, {"X-Stamp": "1"})


def test_the_hooks_see_what_has_no_route_below_their_prefix():
    log: list[str] = []
    routes = recording("outer", log)
    routes.mount("/in", recording("inner", log))
    assert ask(routes, "GET", "/nothing").status == 404
    assert ask(routes, "PUT", "/x").status == 405
    assert ask(routes, "GET", "/in/nothing").status == 404
    assert log == [
        "outer before",
        "outer after 404",
        "outer before",
        "outer after 405",
        "outer before",
        "inner before",
        "inner after 404",
        "outer after 404",
    ]


def test_a_before_hook_may_answer_what_has_no_route():
    routes = Routes()
    routes.before(lambda request: "found" if request.path == "/nothing" else None)
    assert ask(routes, "GET", "/nothing").body == b"found"
    assert ask(routes, "GET", "/other").status == 404


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_hook_that_fails_is_a_500_and_the_other_after_hooks_run(caplog, kind):
    log: list[str] = []
    routes = Routes()

    def failing(request, response=None):
        raise RuntimeError("the hook's own")

    getattr(routes, kind)(failing)
    routes.after(lambda request, response: log.append(f"after {response.status}"))
    routes.get("/x")(lambda request: "x")
    response = ask(routes, "GET", "/x")
    assert response.status == 500
    assert "the hook's own" not in traced(response)
    assert caplog.text.count("RuntimeError: the hook's own") == 1
    assert log == ["after 500"]


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_hook_may_raise_an_http_error(caplog, kind):
    routes = Routes()

    def refusing(request, response=None):
        raise HTTPError(401, "who are you?", {"WWW-Authenticate": "Basic"})

    getattr(routes, kind)(refusing)
    routes.get("/x")(lambda request: "x")
    response = ask(routes, "GET", "/x")
    assert (response.status, dict(response.headers)) == (401, {"WWW-Authenticate": "Basic"})
    assert not caplog.records


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_hook_that_returns_what_can_not_be_sent_is_a_logged_500(caplog, kind):
    routes = Routes()

    def hook(request, response=None):
        return object()

    getattr(routes, kind)(hook)
    routes.get("/x")(lambda request: "x")
    assert ask(routes, "GET", "/x").status == 500
    assert f"test_app.py line {hook.__code__.co_firstlineno} gave what can't be JSON: $: object" in caplog.text


def test_an_error_hook_answers_its_class_and_those_below(caplog):
    routes = Routes()
    routes.error(LookupError)(lambda request, error: (f"lookup {error}", 404))
    routes.error(KeyError)(lambda request, error: (f"key {error.args[0]}", 404))

    @routes.get("/{kind}")
    def handler(request, kind):
        raise {"key": KeyError, "index": IndexError, "other": ValueError}[kind]("gone")

    assert ask(routes, "GET", "/key").body == b"key gone"
    assert ask(routes, "GET", "/index").body == b"lookup gone"
    assert not caplog.records, "an answered exception is the application's to log"
    assert ask(routes, "GET", "/other").status == 500


def test_an_error_hook_for_http_error_includes_404_and_405():
    routes = Routes()
    routes.get("/x")(lambda request: "x")
    routes.error(HTTPError)(lambda request, error: (f"<h1>{error.status}</h1>", error.status, error.headers))
    assert ask(routes, "GET", "/nothing").body == b"<h1>404</h1>"
    refused = ask(routes, "PUT", "/x")
    assert (refused.body, refused.status) == (b"<h1>405</h1>", 405)
    assert refused.headers == {"Allow": "GET, HEAD, OPTIONS"}


def test_an_error_hook_for_exception_takes_http_errors_unless_they_have_one():
    routes = Routes()
    routes.error(Exception)(lambda request, error: (type(error).__name__, 500))
    assert ask(routes, "GET", "/nothing").body == b"HTTPError"
    routes.error(HTTPError)(lambda request, error: ("refused", error.status))
    assert ask(routes, "GET", "/nothing").body == b"refused"


def test_an_error_hook_answers_the_before_hooks_too():
    routes = Routes()

    @routes.before
    def before(request):
        raise KeyError("session")

    routes.error(KeyError)(lambda request, error: ("log in", 401))
    routes.get("/x")(lambda request: "x")
    assert ask(routes, "GET", "/x").status == 401


def test_an_error_hook_that_fails_is_a_500_with_both_reasons_logged_once(caplog):
    routes = Routes()

    @routes.error(ValueError)
    def hook(request, error):
        raise RuntimeError("the hook's own")

    @routes.get("/x")
    def handler(request):
        raise ValueError("the handler's")

    assert ask(routes, "GET", "/x").status == 500
    assert caplog.text.count("RuntimeError: the hook's own") == 1
    assert caplog.text.count("ValueError: the handler's") == 1


def test_an_error_hook_may_turn_an_exception_into_an_http_error(caplog):
    routes = Routes()

    @routes.error(KeyError)
    def hook(request, error):
        raise HTTPError(404, "no such thing")

    routes.get("/x")(lambda request: request.params["key"])
    assert problem(ask(routes, "GET", "/x"))["detail"] == "no such thing"
    assert not caplog.records


@pytest.mark.parametrize("kind", [BaseException, KeyboardInterrupt, 404, "ValueError", lambda request: None])
def test_an_error_hook_is_for_an_exception_class(kind):
    with pytest.raises(RouteError, match=r"routes\.error takes an exception class, not"):
        Routes().error(kind)


def test_a_status_is_no_class():
    with pytest.raises(RouteError, match=r"not 404 \(HTTPError for all statuses"):
        Routes().error(404)  # type: ignore[arg-type]


def test_an_inline_handler_that_waits_has_failed_once(caplog):
    routes = Routes()
    routes.after(lambda request, response: response.headers.add("X-Seen", "yes"))
    routes.get("/")(lambda request: asyncio.sleep(0))
    answer = ask(routes, "GET", "/")
    assert (answer.status, answer.headers["X-Seen"]) == (500, "yes")
    (record,) = caplog.records
    assert "no async def: declare it so" in str(record.exc_info[1])


def test_one_that_goes_on_waiting_fails_all_the_same():
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(RuntimeError):
                await asyncio.sleep(0)

    routes = Routes()
    routes.before(lambda request: None)
    routes.get("/")(lambda request: stubborn())
    with pytest.raises(RuntimeError, match="declare it so"):
        ask(routes, "GET", "/")


def test_two_error_hooks_for_one_class_collide():
    routes = Routes()
    routes.error(KeyError)(lambda request, error: "first")
    with pytest.raises(RouteError, match="a hook for KeyError already"):
        routes.error(KeyError)(lambda request, error: "second")


@pytest.mark.parametrize("kind", ["before", "after", "on_start", "on_stop"])
def test_a_hook_must_return_and_take_its_arguments(kind):
    declare = getattr(Routes(), kind)
    with pytest.raises(
        RouteError, match=rf"the {kind} hook .*<lambda>, test_app.py line .* must take \(.*\), but takes \(one, two, th"
    ):
        declare(lambda one, two, three: None)
    with pytest.raises(RouteError, match=rf"the {kind} hook '/x': '/x' can't be called"):
        declare("/x")


def test_an_error_hook_takes_request_and_error():
    with pytest.raises(RouteError, match=r"the error\(KeyError\) hook .* must take \(request, error\)"):
        Routes().error(KeyError)(lambda request: None)


# start and stop


def test_start_goes_inwards_and_stop_outwards():
    log: list[str] = []
    outer, inner, innermost = (recording(name, log) for name in ("outer", "inner", "innermost"))
    outer.on_start(lambda: log.append("outer second start"))
    outer.on_stop(lambda: log.append("outer second stop"))
    inner.mount("/most", innermost)
    outer.mount("/in", inner)
    outer.mount("/again", inner)
    outer.startup()
    assert log == ["outer start", "outer second start", "inner start", "innermost start"]
    log.clear()
    outer.shutdown()
    assert log == ["innermost stop", "inner stop", "outer stop", "outer second stop"]


def test_an_on_start_hook_that_fails_is_named_and_ends_the_start():
    log: list[str] = []
    routes = Routes()

    @routes.on_start
    def open_database():
        raise OSError("no such disk")

    routes.on_start(lambda: log.append("second"))
    with pytest.raises(OSError, match="no such disk") as caught:
        routes.startup()
    assert not log
    assert "in the on_start hook" in caught.value.__notes__[0]
    assert "open_database" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", [OSError, SystemExit])
def test_an_on_stop_hook_that_fails_is_logged_and_the_others_run(caplog, kind):
    log: list[str] = []
    routes = Routes()

    @routes.on_stop
    def close_database():
        raise kind("no such disk")

    routes.on_stop(lambda: log.append("second"))
    routes.shutdown()
    assert log == ["second"]
    assert "close_database" in caplog.text
    assert f"{kind.__name__}: no such disk" in caplog.text


# mounting


def test_mounted_routes_are_found_below_their_prefix():
    outer, inner = Routes(), Routes()
    inner.get("/")(lambda request: "index")
    inner.get("/x")(lambda request: "x")
    inner.get("/users/{id:int}")(lambda request, id: f"user {id}")
    outer.get("/x")(lambda request: "outer x")
    outer.mount("/api/v1", inner)
    assert ask(outer, "GET", "/api/v1/").body == b"index"
    assert ask(outer, "GET", "/api/v1/x").body == b"x"
    assert ask(outer, "GET", "/api/v1/users/7").body == b"user 7"
    assert ask(outer, "GET", "/x").body == b"outer x"
    assert ask(outer, "GET", "/api/v1").status == 404
    assert ask(outer, "GET", "/users/7").status == 404
    assert ask(inner, "GET", "/x").body == b"x", "they can still be used by themselves"


@pytest.mark.parametrize("declared", ["before the mount", "after it"])
def test_a_mounts_own_path(declared):
    log: list[str] = []
    outer, orders, lines = Routes(), Routes(), Routes()

    def declare() -> None:
        orders.get("", name="orders")(lambda request: "all")
        orders.post("")(lambda request: ("made", 201))
        orders.get("/{id:int}")(lambda request, id: f"order {id}")
        lines.get("")(lambda request, id=0: f"lines of {id}")

    if declared == "before the mount":
        declare()
    orders.before(lambda request: log.append(request.path))
    orders.mount("/{id:int}/lines", lines)
    outer.mount("/orders", orders)
    if declared == "after it":
        declare()
    assert ask(outer, "GET", "/orders").body == b"all"
    assert ask(outer, "GET", "/orders?page=2").body == b"all"
    assert ask(outer, "HEAD", "/orders").status == 200
    assert ask(outer, "POST", "/orders").status == 201
    assert ask(outer, "GET", "/orders/7").body == b"order 7"
    assert ask(outer, "GET", "/orders/7/lines").body == b"lines of 7"
    assert ask(outer, "PUT", "/orders").headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert [ask(outer, "GET", path).status for path in ("/orders/", "/", "/orders//")] == [404, 404, 404]
    assert log == ["/orders"] * 4 + ["/orders/7", "/orders/7/lines", "/orders", "/orders/", "/orders//"]
    assert outer.url_for("orders", query={"page": 2}) == "/orders?page=2"
    assert "/orders" in [route.path for route in outer.table()]


def test_a_mounts_own_path_and_the_one_with_a_slash_are_two():
    outer, orders = Routes(slashes="redirect"), Routes()
    orders.get("")(lambda request: "all")
    outer.mount("/orders", orders)
    assert ask(outer, "GET", "/orders/").headers["Location"] == "/orders"
    orders.get("/")(lambda request: "slash")
    assert [ask(outer, "GET", path).body for path in ("/orders", "/orders/")] == [b"all", b"slash"]


def test_a_mounts_own_path_collides_like_any_other():
    outer, orders = Routes(), Routes()
    outer.get("/orders")(lambda request: "outer")
    orders.get("")(lambda request: "all")
    with pytest.raises(RouteError, match=r"GET /orders .*collides with GET /orders"):
        outer.mount("/orders", orders)
    with pytest.raises(RouteError, match=r"GET  .*collides with GET "):
        orders.get("")(lambda request: "again")


@pytest.mark.parametrize(
    "serve",
    [
        Routes.check,
        lambda routes: routes.wsgi,
        lambda routes: TestClient(routes).__enter__(),
        lambda routes: Runner(routes, Settings()),
    ],
    ids=["check", "wsgi", "tests", "serving"],
)
def test_a_mounts_own_path_at_the_root_is_an_error_that_says_what_to_do(serve):
    routes = Routes()
    routes.get("")(lambda request: "all")
    assert ask(routes, "GET", "/").status == 404
    message = r"GET '' \(.*test_app.py line \d+\) is the path .*: mount them, as in outer.mount\('/orders', routes\)"
    with pytest.raises((RouteError, SetupError), match=message):
        serve(routes)


def test_what_is_declared_later_is_served_too_at_every_level():
    outer, middle, inner = Routes(), Routes(), Routes()
    outer.mount("/m", middle)
    middle.mount("/i", inner)
    inner.get("/late")(lambda request: "late")
    assert ask(outer, "GET", "/m/i/late").body == b"late"
    assert ask(middle, "GET", "/i/late").body == b"late"
    innermost = Routes()
    innermost.get("/later")(lambda request: "later")
    inner.mount("/n", innermost)
    assert ask(outer, "GET", "/m/i/n/later").body == b"later"
    assert [route.path for route in outer.table()] == ["/m/i/late", "/m/i/n/later"]


def test_one_may_be_mounted_at_several_places():
    outer, inner = Routes(), Routes()
    outer.mount("/a", inner)
    outer.mount("/b", inner)
    inner.get("/x")(lambda request: request.path)
    assert ask(outer, "GET", "/a/x").body == b"/a/x"
    assert ask(outer, "GET", "/b/x").body == b"/b/x"


def test_hooks_apply_to_their_own_routes_and_those_within():
    log: list[str] = []
    outer, inner, innermost = (recording(name, log) for name in ("outer", "inner", "innermost"))
    inner.mount("/most", innermost)
    outer.mount("/in", inner)

    def ran(target: str) -> list[str]:
        log.clear()
        assert ask(outer, "GET", target).status == 200
        return list(log)

    assert ran("/x") == ["outer before", "outer handler", "outer after 200"]
    assert ran("/in/x") == ["outer before", "inner before", "inner handler", "inner after 200", "outer after 200"]
    assert ran("/in/most/x") == [
        "outer before",
        "inner before",
        "innermost before",
        "innermost handler",
        "innermost after 200",
        "inner after 200",
        "outer after 200",
    ]


def test_hooks_declared_on_mounted_routes_later_apply():
    outer, middle, inner = Routes(), Routes(), Routes()
    inner.get("/x")(lambda request: "handler")
    middle.mount("/i", inner)
    outer.mount("/m", middle)
    assert ask(outer, "GET", "/m/i/x").body == b"handler"
    inner.before(lambda request: "hook")
    assert ask(outer, "GET", "/m/i/x").body == b"hook"


def test_a_static_path_of_the_outer_routes_is_not_given_to_the_inner_hooks():
    outer, inner = Routes(), Routes()
    inner.before(lambda request: "inner hook")
    inner.get("/x")(lambda request: "inner x")
    outer.mount("/in", inner)
    outer.get("/x")(lambda request: "x")
    assert ask(outer, "GET", "/x").body == b"x"
    assert ask(outer, "GET", "/in/x").body == b"inner hook"


def test_the_innermost_error_hook_wins():
    outer, inner = Routes(), Routes()
    outer.error(ValueError)(lambda request, error: "outer value")
    outer.error(KeyError)(lambda request, error: "outer key")
    inner.error(ValueError)(lambda request, error: "inner value")

    @inner.get("/{kind}")
    def handler(request, kind):
        raise {"value": ValueError, "key": KeyError}[kind]

    outer.mount("/in", inner)
    assert ask(outer, "GET", "/in/value").body == b"inner value"
    assert ask(outer, "GET", "/in/key").body == b"outer key"


def test_a_prefix_may_have_parameters_that_the_handlers_take():
    outer, inner = Routes(), Routes()

    @inner.get("/x/{id:int}")
    def handler(request, id, tenant=None):
        return {"id": id, "tenant": tenant}

    outer.mount("/tenants/{tenant}", inner)
    assert ask(outer, "GET", "/tenants/a/x/7").body == b'{"id":7,"tenant":"a"}'
    with pytest.raises(RouteError, match=r"of '/tenants/\{tenant\}/y' must take \(request, tenant\)"):
        inner.get("/y")(lambda request: "y")
    with pytest.raises(RouteError, match=r"missing a required argument: 'tenant'; a parameter .* needs a default"):
        inner.get("/z")(lambda request, tenant: "z")


def test_colliding_mounts():
    outer, inner = Routes(), Routes()
    outer.get("/in/x")(lambda request: "outer")
    inner.get("/x")(lambda request: "inner")
    with pytest.raises(RouteError, match=r"GET /in/x \(.*\) collides with GET /in/x"):
        outer.mount("/in", inner)


def test_a_later_route_of_mounted_routes_may_collide():
    outer, inner = Routes(), Routes()
    outer.get("/in/x")(lambda request: "outer")
    outer.mount("/in", inner)
    with pytest.raises(RouteError, match="collides"):
        inner.get("/x")(lambda request: "inner")


def test_routes_are_not_mounted_inside_themselves():
    outer, inner, innermost = Routes(), Routes(), Routes()
    inner.mount("/most", innermost)
    outer.mount("/in", inner)
    for parent, child in ((outer, outer), (inner, outer), (innermost, outer), (innermost, inner)):
        with pytest.raises(RouteError, match="'/loop' would put the routes inside themselves"):
            parent.mount("/loop", child)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("", "must begin with a slash, as in mount"),
        ("api", "'api' must begin with a slash"),
        ("/", "'/' must not end with a slash"),
        ("/api/", "'/api/' must not end with a slash"),
        ("/a?b", "without %, query or fragment"),
    ],
)
def test_a_bad_prefix(prefix, words):
    with pytest.raises(RouteError) as caught:
        Routes().mount(prefix, Routes())
    assert words in str(caught.value)


def test_a_path_parameter_does_not_go_into_a_prefix():
    inner = Routes()
    inner.get("/x")(lambda request, rest="": "x")
    with pytest.raises(RouteError, match="'rest' must come last"):
        Routes().mount("/{rest:path}", inner)


def test_mount_takes_routes():
    with pytest.raises(RouteError, match=r"mount\('/api', \.\.\.\) takes a Routes, not"):
        Routes().mount("/api", lambda request: None)  # type: ignore[arg-type]


# a request as the handler sees it


def test_the_request_s_names():
    routes = Routes()
    seen: list[Request] = []

    @routes.post("/a/{name}")
    def handler(request, name):
        seen.append(request)
        return request.json()

    with TestClient(routes) as client:
        answer = client.post(
            "/a/%C3%A9%2F?q=1&q=2&empty=&plus=a+b",
            json={"n": 1},
            headers={"X-Twice": "one", "Cookie": 'a=1; b="2"'},
        )
        port = int(client.base_url.rpartition(":")[2])
    assert answer.json() == {"n": 1}
    [request] = seen
    assert request.method == "POST"
    assert request.path == "/a/é/"
    assert request.raw_path == "/a/%C3%A9%2F"
    assert request.params == {"name": "é/"}
    assert request.query_string == "q=1&q=2&empty=&plus=a+b"
    assert request.query["q"] == "1"
    assert request.query.getall("q") == ["1", "2"]
    assert request.query.get("empty") == ""
    assert request.query.get("missing") is None
    assert request.query["plus"] == "a b"
    assert request.headers["x-TWICE"] == "one"
    assert ("x-twice", "one") in request.headers.raw
    assert "X-Missing" not in request.headers
    assert request.body == b'{"n": 1}'
    assert request.json() == {"n": 1}
    assert request.cookies == {"a": "1", "b": "2"}
    assert request.client[0] == "127.0.0.1"
    assert request.client[1] != port
    assert request.scheme == "http"
    assert request.host == f"127.0.0.1:{port}"
    assert len(request.id) == 16
    assert request.id == request.id


def test_an_iterator_as_body_is_sent_in_pieces():
    routes = Routes()
    routes.get("/rows")(lambda request: Response((b"%d\n" % n for n in range(3)), content_type="text/csv"))
    with TestClient(routes) as client:
        answer = client.get("/rows")
    assert answer.content == b"0\n1\n2\n"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers["Content-Type"] == "text/csv"


def test_a_response_that_can_not_be_sent_is_a_logged_500(caplog):
    routes = Routes()
    routes.get("/header")(lambda request: Response("x", headers={"X-A": "1\r\nX-B: 2"}))
    routes.get("/status")(lambda request: ("x", 999))
    with TestClient(routes) as client:
        answers = [client.get("/header"), client.get("/status")]
    for answer in answers:
        assert answer.status_code == 500
        assert "X-B" not in answer.headers
        assert f"request {answer.json()['id']}" in caplog.text


def test_the_class_of_an_error_hook_may_be_named():
    routes = Routes()
    routes.error(kind=KeyError)(lambda request, error: ("no key", 404))
    routes.get("/")(lambda request: dict[str, str]()["key"])
    assert routes(Request("GET", b"/")).status == 404


@pytest.mark.parametrize(
    "arguments",
    [({"REQUEST_METHOD": "GET"}, print), ({"type": "http"}, print, print), ({"type": "http"},), ({}, print)],
)
def test_another_server_that_calls_it_is_told_what_to_serve(arguments):
    advice = r"serve routes\.wsgi, or with gunicorn give -k hypoll\.gunicorn_worker\.Worker"
    with pytest.raises(TypeError, match=advice):
        Routes()(*arguments)
