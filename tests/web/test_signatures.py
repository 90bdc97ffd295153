"""A handler's annotations are held against what its route gives, when it is declared."""

from __future__ import annotations

import enum
import functools
import sys
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pytest

from hypoll import RouteError, Routes
from hypoll.asgi.recognition import is_asgi
from hypoll.protocol.messages import Request
from hypoll.testing import TestClient
from hypoll.web.signatures import contradiction

if typing.TYPE_CHECKING:
    pass

UserId = NewType("UserId", int)


class Color(enum.StrEnum):
    RED = "red"


def handler(annotation: Any) -> Callable[..., Any]:
    def answer(request: Request, x: Any) -> str:
        return ""

    answer.__annotations__["x"] = annotation
    return answer


FITS: list[tuple[str, Any]] = [
    ("int", int),
    ("int", "int"),
    ("int", float),
    ("int", "int | None"),
    ("int", Union[str, int]),  # noqa: UP007
    ("int", Optional[int]),  # noqa: UP045
    ("int", UserId),
    ("int", "UserId"),
    ("int", Annotated[int, "positive"]),
    ("int", object),
    ("int", Any),
    ("int", Literal[1, 2]),
    ("int", "Hashable"),  # a name that only a type checker has
    ("int", "not an annotation"),
    ("float", float),
    ("float", complex),
    ("uuid", uuid.UUID),
    ("uuid", "uuid.UUID"),
    ("str", str),
    ("path", str),
]

CONTRADICTS: list[tuple[str, Any, str]] = [
    ("int", str, "str, but {x:int} gives int"),
    ("int", "str", "str, but {x:int} gives int"),
    ("int", "str | None", "str | None, but {x:int} gives int"),
    ("int", bool, "bool, but {x:int} gives int"),
    ("float", int, "int, but {x:float} gives float"),
    ("float", Decimal, "but {x:float} gives float"),
    ("uuid", str, "str, but {x:uuid} gives UUID"),
    ("str", int, "int, but {x:str} gives str"),
    ("str", uuid.UUID, "but {x:str} gives str"),
    ("str", Color, "but {x:str} gives str"),
    ("str", UserId, "but {x:str} gives str"),
    ("str", bytes, "bytes, but {x:str} gives str"),
    ("path", int, "int, but {x:path} gives str"),
]


@pytest.mark.parametrize(("converter", "annotation"), FITS)
def test_what_may_be_right_is_taken(converter, annotation):
    Routes().get(f"/{{x:{converter}}}")(handler(annotation))


@pytest.mark.parametrize(("converter", "annotation", "said"), CONTRADICTS)
def test_what_can_not_be_right_is_refused_with_route_file_and_line(converter, annotation, said):
    with pytest.raises(RouteError) as caught:
        Routes().get(f"/{{x:{converter}}}")(handler(annotation))
    message = str(caught.value)
    line = handler.__code__.co_firstlineno + 1
    assert f"handler.<locals>.answer, test_signatures.py line {line} of '/{{x:{converter}}}' takes x: " in message
    assert message.endswith(said)


class Called:
    def __call__(self, request: Request, x: str) -> str:
        return x

    def method(self, request: Request, x: str) -> str:
        return x


@functools.wraps(Called.method)
def wrapper(*args: Any, **kwargs: Any) -> Any:
    return None


UNTYPED = functools.partial(lambda prefix, request, x: x, "a")


@pytest.mark.parametrize("function", [Called(), Called().method, UNTYPED, functools.partial(Called()), wrapper])
def test_it_is_found_in_whatever_is_called(function):
    found = contradiction(function, "x", int)
    assert found == ("" if getattr(function, "args", ()) else "str")
    assert contradiction(function, "x", str) == ""
    assert contradiction(function, "y", int) == ""


@pytest.mark.parametrize("parameters", ["", "id, more", "identity"])
def test_missing_and_superfluous_parameters_name_file_and_line(parameters):
    names: dict[str, Any] = {}
    exec(compile(f"\n\ndef user(request, {parameters}): pass", "shop.py", "exec"), names)
    with pytest.raises(RouteError, match=r"user, shop\.py line 3 of '/users/\{id\}' must take \(request, id\)"):
        Routes().get("/users/{id}")(names["user"])


def test_so_are_those_of_a_prefix():
    inner, outer = Routes(), Routes()

    @inner.get("/")
    def index(request: Request, shop: str = "") -> str:
        return shop

    with pytest.raises(RouteError, match=r"takes shop: str, but \{shop:int\} gives int"):
        outer.mount("/{shop:int}", inner)


LATE = "Checked" if sys.version_info >= (3, 14) else "'Checked'"
"""An annotation that names what only a type checker imports, in quotes where it would be evaluated at once."""

TYPED = f"""
async def app(scope: {LATE}, receive: {LATE}, send: {LATE}) -> {LATE}:
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": b"served"}})

def double(scope: {LATE}) -> {LATE}: ...

def wsgi(environ: {LATE}, start_response: {LATE}) -> {LATE}:
    start_response("200 OK", [])
    return [b"served"]

def handler(request: {LATE}, id: {LATE}) -> {LATE}:
    return "served"

def hook(request: {LATE}) -> {LATE}: ...

def wrong(request: {LATE}, other: {LATE}) -> {LATE}: ...
"""


@pytest.fixture
def typed() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "typed"}
    exec(compile(TYPED, "typed.py", "exec", dont_inherit=True), names)
    return names


def test_a_handler_may_be_annotated_with_what_only_a_type_checker_imports(typed):
    routes = Routes()
    routes.before(typed["hook"])
    routes.get("/{id:int}")(typed["handler"])
    with TestClient(routes) as client:
        assert client.get("/1").text == "served"
    with pytest.raises(RouteError, match=r"must take \(request, id\), but takes \(request: '?Checked'?, other: "):
        routes.get("/other/{id:int}")(typed["wrong"])


@pytest.mark.parametrize("name", ["app", "wsgi"])
def test_so_may_an_application(typed, name):
    with TestClient(typed[name], lifespan="off") as client:
        assert client.get("/").text == "served"


def test_so_may_an_application_of_asgi_2(typed):
    assert is_asgi(typed["double"])
