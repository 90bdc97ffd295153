"""What a client sent, asked for by name and as a type: the query, header fields, cookies; and what it lacks."""

from __future__ import annotations

import datetime
import enum
import functools
import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson
import pytest

from hypoll import HTTPError, MultiDict, Request, Routes, State
from hypoll.protocol.header_section import HeaderSection
from hypoll.testing import TestClient
from tests.support.kinds import declare

OWN: dict[str, str] = {}
KINDS = ["inline", "threaded", "async"]


class Color(enum.Enum):
    RED = "red"


class Level(enum.Enum):
    LOW = 1


class Status(enum.StrEnum):
    OPEN = "open"
    PAID = "paid"


Many: Any = enum.Enum("Many", [(f"V{number}", f"v{number}") for number in range(11)])  # type: ignore[misc]
MANY = ", ".join(f"v{number}" for number in range(10))


def page(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("pages are counted from 1")
    return number


def even(text: str) -> int:
    if int(text) % 2:
        raise ValueError
    return int(text)


class Percent:
    def __init__(self, text: str) -> None:
        if not 0 <= float(text) <= 100:
            raise ValueError("a percentage is from 0 to 100")

    @classmethod
    def parse(cls, text: str) -> Percent:
        return cls(text)


def request_with(name: str, values: list[str]) -> Request:
    """A request that has the values of a name in its query, its fields and, the first of them, its cookies."""
    query = "&".join(f"{name}={value.replace('+', '%2B')}" for value in values)
    fields = [(name, value) for value in values] + [("cookie", f"{name}={value}") for value in values[:1]]
    return Request("GET", f"/?{query}".encode(), HeaderSection(tuple(fields)))


SOURCES: dict[str, Callable[[Request], Any]] = {
    "query parameter": lambda request: request.query,
    "header field": lambda request: request.headers,
    "cookie": lambda request: request.cookies,
}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "7", 7),
        (int, "-07", -7),
        (int, "+7", 7),
        (int, "9" * 30, int("9" * 30)),
        (float, "1.5", 1.5),
        (float, "-1e3", -1000.0),
        (bool, "true", True),
        (bool, "Yes", True),
        (bool, "on", True),
        (bool, "1", True),
        (bool, "FALSE", False),
        (bool, "no", False),
        (bool, "off", False),
        (bool, "0", False),
        (str, "x", "x"),
        (Decimal, "1.10", Decimal("1.10")),
        (uuid.UUID, str(uuid.UUID(int=3)), uuid.UUID(int=3)),
        (datetime.date.fromisoformat, "2030-01-02", datetime.date(2030, 1, 2)),
        (Color, "red", Color.RED),
        (lambda text: text.split("."), "a.b", ["a", "b"]),
    ],
)
@pytest.mark.parametrize("what", SOURCES)
def test_a_value_as_a_type(what: str, kind: Any, text: str, value: Any) -> None:
    fields = SOURCES[what](request_with("name", [text]))
    assert fields.get("name", type=kind) == value
    assert fields.get("name", "default", type=kind) == value
    assert fields.get("nothing", "default", type=kind) == "default"
    assert fields.get("nothing", type=kind) is None
    assert fields.getall("name", type=kind) == [value]
    assert fields.getall("nothing", type=kind) == []
    assert type(fields.get("name", type=kind)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        *((int, text, "is no int") for text in ("", "x", "1.0", "1_000", "\uff11", "0x1", "--1", "1e3", "9" * 4001)),
        *((float, text, "is no float") for text in ("", "x", "nan", "inf", "-Infinity", "1e999", "1_0.0", "\uff11")),
        *((bool, text, "is no bool") for text in ("", "x", "2", "truee")),
        (Decimal, "x", "is no Decimal"),
        (uuid.UUID, "x", "is no UUID"),
        (Color, "blue", "is none of red"),
        (Status, "lost", "is none of open, paid"),
        (Many, "x", f"is none of {MANY}, ..."),
        (Level, "x", "is no Level"),
        (datetime.date.fromisoformat, "x", "is not valid"),
    ],
)
@pytest.mark.parametrize("what", ["query parameter", "header field"])
def test_a_value_that_is_not_of_the_type_is_a_400_that_names_it(what: str, kind: Any, text: str, fault: str) -> None:
    fields = SOURCES[what](request_with("name", [text]))
    for ask in (fields.get, fields.getall):
        with pytest.raises(HTTPError) as caught:
            ask("name", type=kind)
        assert caught.value.status == 400
        assert caught.value.detail.startswith(f"the {what} 'name' {fault}: '")
        assert len(caught.value.detail) < 120


@pytest.mark.parametrize(
    ("kind", "text", "detail"),
    [
        (page, "0", "is not valid: '0': pages are counted from 1"),
        (page, "x", "is not valid: 'x'"),
        (functools.partial(page), "0", "is not valid: '0': pages are counted from 1"),
        (lambda text: page(text), "-1", "is not valid: '-1': pages are counted from 1"),
        (even, "1", "is not valid: '1'"),
        (Percent, "101", "is no Percent: '101': a percentage is from 0 to 100"),
        (Percent, "x", "is no Percent: 'x'"),
        (Percent.parse, "101", "is not valid: '101': a percentage is from 0 to 100"),
        (uuid.UUID, "x", "is no UUID: 'x'"),
        (Decimal, "x", "is no Decimal: 'x'"),
        (datetime.date.fromisoformat, "x", "is not valid: 'x'"),
        (Status, "lost", "is none of open, paid: 'lost'"),
    ],
)
def test_what_the_application_says_of_a_value_reaches_the_client(kind, text, detail):
    with pytest.raises(HTTPError) as caught:
        request_with("name", [text]).query.get("name", type=kind)
    assert caught.value.detail == f"the query parameter 'name' {detail}"


def test_other_errors_of_a_type_are_not_the_client_s() -> None:
    fields = request_with("name", ["x"]).query
    with pytest.raises(TypeError):
        fields.get("name", type=abs)  # type: ignore[arg-type]
    with pytest.raises(KeyError) as caught:
        fields.get("name", type={"a": 1}.__getitem__)
    assert not isinstance(caught.value, HTTPError)


@pytest.mark.parametrize("what", SOURCES)
def test_what_is_missing_is_a_400_that_names_it_and_a_key_error(what: str) -> None:
    fields = SOURCES[what](request_with("name", ["x"]))
    with pytest.raises(KeyError) as caught:
        fields["nothing"]
    error: Any = caught.value
    assert isinstance(error, HTTPError)
    assert (error.status, error.detail) == (400, f"the request has no {what} 'nothing'")
    assert str(error) == f"400 Bad Request: the request has no {what} 'nothing'"
    assert fields["name"] == "x"
    assert "name" in fields
    assert "nothing" not in fields
    assert fields.get("nothing") is None
    assert fields.get("nothing", 5) == 5


def test_several_values() -> None:
    request = request_with("n", ["1", "2"])
    assert (request.query["n"], request.query.getall("n", type=int)) == ("1", [1, 2])
    assert (request.headers["n"], request.headers.getall("n", type=int)) == ("1, 2", [1, 2])
    assert list(request.query) == ["n"]
    assert dict(request.query) == {"n": "1"}
    assert isinstance(request.query, MultiDict)


def test_cookies_are_a_dict_still() -> None:
    cookies = request_with("n", ["1"]).cookies
    assert cookies == {"n": "1"}
    assert orjson.dumps(cookies) == b'{"n":"1"}'


def test_a_mapping_of_ones_own_raises_as_any() -> None:
    with pytest.raises(KeyError) as caught:
        MultiDict()["x"]
    assert not isinstance(caught.value, HTTPError)


# through sockets


ASKED: dict[str, Callable[[Request], Any]] = {
    "query": lambda request: request.query["x"],
    "typed": lambda request: request.query.get("y", type=int),
    "header": lambda request: request.headers["X-Missing"],
    "cookie": lambda request: request.cookies["x"],
}


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_client_gets_a_400_and_the_log_nothing(kind, hooked, caplog):
    routes = Routes()
    for name, ask in ASKED.items():
        declare(routes, kind, f"/{name}", ask)
    declare(routes, kind, "/own", lambda request: OWN["x"])
    if hooked:
        routes.after(lambda request, response: None)
    with TestClient(routes) as client:
        for name in ASKED:
            answer = client.get(f"/{name}?y=z")
            assert answer.status_code == 400, name
            assert "'x'" in answer.text or "'y' is no int" in answer.text or "'X-Missing'" in answer.text
        assert not caplog.records
        assert client.get("/own").status_code == 500
    assert "KeyError: 'x'" in caplog.text


def test_hooks_for_errors_see_it_by_the_nearest_class():
    routes = Routes()
    routes.get("/")(lambda request: request.query["x"])
    routes.error(KeyError)(lambda request, error: ("key", 404))
    with TestClient(routes) as client:
        assert client.get("/").text == "key"
    routes.error(HTTPError)(lambda request, error: (f"http {error.detail}", error.status))
    with TestClient(routes) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.text) == (400, "http the request has no query parameter 'x'")


# state


def test_a_state_takes_any_attribute_and_says_what_it_has() -> None:
    state = State()
    assert repr(state) == "State()"
    with pytest.raises(AttributeError, match="'db' isn't set in this state, which has: nothing"):
        state.db  # noqa: B018
    state.db = 5
    state.cache = "c"
    assert (state.db, state.cache, hasattr(state, "db"), getattr(state, "other", None)) == (5, "c", True, None)
    assert repr(state) == "State(db=5, cache='c')"
    del state.db
    with pytest.raises(AttributeError, match="which has: cache"):
        state.db  # noqa: B018
    with pytest.raises(AttributeError):
        del state.db


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_leave_their_state_to_the_handler_and_each_request_has_its_own(kind):
    inner, routes = Routes(), Routes()
    seen: list[bool] = []

    @routes.on_start
    def start() -> None:
        routes.state.db = "open"

    @inner.on_start
    def start_inner() -> None:
        inner.state.db = "inner"

    @routes.before
    def before(request: Request) -> None:
        seen.append(hasattr(request.state, "user"))
        request.state.user = request.query["user"]

    declare(inner, kind, "/", lambda request: [request.state.user, routes.state.db, inner.state.db])
    routes.mount("/in", inner)
    with TestClient(routes) as client:
        assert client.get("/in/?user=a").json() == ["a", "open", "inner"]
        assert client.get("/in/?user=b").json() == ["b", "open", "inner"]
    assert seen == [False, False]


SNIPPET = """
import uuid
from hypoll import Request, Response, Routes, State, html, redirect

routes = Routes()


@routes.on_start
def start() -> None:
    routes.state.db = open("/dev/null")


@routes.before
def before(request: Request) -> None:
    request.state.user = "ada"
    del request.state.user


@routes.get("/")
def index(request: Request) -> Response:
    reveal_type(request.state.user)
    reveal_type(request.query.get("page"))
    reveal_type(request.query.get("page", "1"))
    reveal_type(request.query.get("page", type=int))
    reveal_type(request.query.get("page", 1, type=int))
    reveal_type(request.query.getall("id", type=uuid.UUID))
    reveal_type(request.headers.get("x", None, type=float))
    reveal_type(request.cookies.get("x", 0, type=int))
    response = Response({"a": 1}, headers={"X": "1"}, background=lambda: None)
    reveal_type(response.headers)
    response.headers = [("X", "2")]
    response.set_cookie("a", "b", max_age=5)
    return response
"""
REVEALED = [
    "Any",
    "str | None",
    "str",
    "int | None",
    "int",
    "list[uuid.UUID]",
    "float | None",
    "int",
    "hypoll.protocol.fields.ResponseHeaders",
]


@pytest.mark.full
def test_a_type_checker_takes_it_all_in_strict_mode(tmp_path):
    (tmp_path / "user.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", str(tmp_path)]
    done = subprocess.run([*command, "user.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    *found, last = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert [line.partition('"')[2].rstrip('"').replace("builtins.", "") for line in found] == REVEALED, done.stdout
    assert "error" not in last
