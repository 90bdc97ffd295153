"""What somebody reads who writes something that other frameworks have, or almost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hypoll import HTTPError, Request, RouteError, Routes, api_key, bearer
from hypoll.http import RequestParser, StreamedRequest
from hypoll.protocol.messages import PlainRequest
from hypoll.settings import Settings
from tests.support.client import request as head
from tests.support.server import running


def parsed() -> Request:
    found = RequestParser(Settings()).feed(head("/a?b=c"))
    assert isinstance(found, PlainRequest)
    return found


def streamed() -> Request:
    found = parsed()
    found.__class__ = StreamedRequest
    return found


KINDS = {"made": lambda: Request("GET", b"/a?b=c"), "parsed": parsed, "streamed": streamed}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("args", ": use query"),
        ("get_json", ": use json()"),
        ("url", ": use path and query_string, and scheme and host for the rest of it"),
        ("files", ": use form().files"),
        ("remote_addr", ": use client[0]"),
        ("path_params", ": use params"),
        ("GET", ": use query"),
        ("user", ": use state, where a before hook notes it"),
        ("hedaers", ": is it headers?"),
        ("cookie", ": is it cookies?"),
        ("nothing_of_the_kind", ""),
        ("__nothing__", ""),
    ],
)
def test_an_attribute_that_a_request_doesnt_have(kind, name, advice):
    request = KINDS[kind]()
    with pytest.raises(AttributeError) as caught:
        getattr(request, name)
    assert str(caught.value) == f"Request has no attribute {name!r}{advice}"
    assert not hasattr(request, name)
    assert getattr(request, name, 7) == 7
    setattr(request, name, 8)
    assert getattr(request, name) == 8


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_request_is_called_so_and_says_no_less_of_what_it_has(kind):
    request = KINDS[kind]()
    assert type(request).__name__ == "Request"
    assert request.query["b"] == "c"

    class Broken:
        def __init__(self) -> None:
            self.origin = None
            self.fields = ()

    request.header_section = Broken()  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="'Broken' object has no attribute 'indexed'"):
        assert request.id


def json_of(request: Request) -> Any:
    return request.json["a"]  # type: ignore[index]


def form_of(request: Request) -> Any:
    return request.form["a"]  # type: ignore[index]


def other(request: Request) -> Any:
    return request.json.__call__["a"]  # type: ignore[operator]


async def json_in_a_task(request: Request) -> Any:
    return json_of(request)


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize(
    ("handler", "note"),
    [
        (json_of, "json is a method of a request: call it, as in request.json()[...]"),
        (json_in_a_task, "json is a method of a request: call it, as in request.json()[...]"),
        (form_of, "form is a method of a request: call it, as in request.form()[...]"),
    ],
)
def test_a_method_that_wasnt_called_is_noted_in_the_log(handler, note, threaded, caplog):
    routes = Routes()
    routes.get("/", threaded=threaded and handler is not json_in_a_task)(handler)
    with running(routes) as it:
        assert it.connect().get("/").status == 500
    assert "'method' object is not subscriptable" in caplog.text
    assert note in caplog.text


def test_nothing_is_noted_of_what_may_be_anything(caplog):
    routes = Routes()
    routes.get("/")(other)
    assert routes(Request("GET", b"/")).status == 500
    assert "call it" not in caplog.text


HOOKS: dict[str, Callable[[Routes], Any]] = {
    "before": lambda routes: routes.before(),
    "after": lambda routes: routes.after(),
    "on_start": lambda routes: routes.on_start(),
    "on_stop": lambda routes: routes.on_stop(),
    "on_drain": lambda routes: routes.on_drain(),
    "on_ready_check": lambda routes: routes.on_ready_check(),
}


@pytest.mark.parametrize("name", list(HOOKS))
def test_a_decorator_that_stands_without_parentheses(name):
    with pytest.raises(RouteError, match=f"@routes.{name} stands without parentheses"):
        HOOKS[name](Routes())


@pytest.mark.parametrize("maker", [bearer, api_key])
def test_what_makes_a_hook_is_none(maker):
    name = maker.__name__
    with pytest.raises(RouteError, match=rf"{name} is no hook, it makes one: {name}\(check\)"):
        Routes().before(maker)
    with pytest.raises(RouteError, match=rf"{name} is no hook"):
        Routes().get("/", before=[maker])(lambda request: "")
    routes = Routes()
    routes.before(maker("s3cret"))
    assert routes(Request("GET", b"/")).status == 401


def test_an_unhashable_hook_is_one():
    class Hook(dict[str, Any]):
        def __call__(self, request: Request) -> None:
            raise HTTPError(403)

    routes = Routes()
    routes.before(Hook())
    assert routes(Request("GET", b"/")).status == 403
