"""JSON of answers: what is encoded beside what orjson takes, what isn't, and how that is said."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import inspect
import json
import math
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest

from hypoll import Event, Request, Response, Routes, sse, testing
from hypoll.testing import TestClient
from hypoll.web.json_encoding import JSONEncoder, encode_json
from tests.support.kinds import declare

KINDS = ["inline", "threaded", "async"]
NAN = float("nan")


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Line:
    price: Any
    count: int = 1


class Struct(msgspec.Struct, rename="camel"):
    unit_price: Any
    tags: set[str] = msgspec.field(default_factory=set)


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    price: Any
    when: datetime.date = datetime.date(2030, 1, 2)
    tags: set[str] = set()


class Money:
    """What nobody knows but the application."""

    def __init__(self, cents: Any) -> None:
        self.cents = cents


def money(value: Any) -> Any:
    if isinstance(value, Money):
        return {"cents": value.cents}
    raise TypeError(f"no default for {type(value).__name__}")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": Decimal("1.10")}, '{"a":"1.10"}'),
        (Decimal("NaN"), '"NaN"'),
        ([{1}, frozenset(["a"])], '[[1],["a"]]'),
        (dict.fromkeys("cab", 0).keys() & {"c"}, '["c"]'),
        ({1: {2: 3}}, '{"1":{"2":3}}'),
        ({1.5: 1, None: 2, True: 3}, '{"1.5":1,"null":2,"true":3}'),
        ({datetime.date(2030, 1, 2): 1}, '{"2030-01-02":1}'),
        ({uuid.UUID(int=7): 1}, '{"00000000-0000-0000-0000-000000000007":1}'),
        ({Color.RED: Color.RED}, '{"red":"red"}'),
        (Line(Decimal(2)), '{"price":"2","count":1}'),
        (Struct(Decimal("1.5"), {"x"}), '{"unitPrice":"1.5","tags":["x"]}'),
        ({"in": [Struct(1)]}, '{"in":[{"unitPrice":1,"tags":[]}]}'),
        (Model(price=Decimal("1.5"), tags={"x"}), '{"price":"1.5","when":"2030-01-02","tags":["x"]}'),
        ([Line(Model(price=1))], '[{"price":{"price":1,"when":"2030-01-02","tags":[]},"count":1}]'),
        (Struct(Line(Decimal(1))), '{"unitPrice":{"price":"1","count":1},"tags":[]}'),
        (Struct(Model(price=2)), '{"unitPrice":{"price":2,"when":"2030-01-02","tags":[]},"tags":[]}'),
        ({"a": NAN, "b": [math.inf, -math.inf]}, '{"a":null,"b":[null,null]}'),
        ({1: Struct(NAN), 2: Model(price=NAN)},
         '{"1":{"unitPrice":null,"tags":[]},"2":{"price":null,"when":"2030-01-02","tags":[]}}'),
    ],
)  # fmt: skip
def test_what_is_encoded_beside_what_orjson_takes(value: Any, text: str) -> None:
    assert encode_json(value).decode() == text
    assert json.loads(text) is not ...


def with_itself() -> list[Any]:
    value: list[Any] = []
    value.append({"more": value})
    return value


def friends() -> Line:
    line = Line(None)
    line.price = line
    return line


def deep() -> Any:
    value: Any = 1
    for _ in range(300):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (object(), "$: object: return a Response"),
        ({"items": [{"price": Money(1)}]}, "$.items[0].price: Money"),
        ({"a": {"two words": {7: [0, Money(1)]}}}, "$.a['two words'][7][1]: Money"),
        ([{1, 2}, {"x": frozenset([Money(1)])}], "$[1].x[0]: Money"),
        ({"a": Line(Line(Money(1)))}, "$.a.price.price: Money"),
        ({"a": Struct([Money(1)])}, "$.a.unit_price[0]: Money"),
        ({"a": Model(price={"b": Money(1)})}, "$.a.price.b: Money"),
        ({"a": {(1, 2): 3}}, "$.a: a key that is a tuple, (1, 2)"),
        ({"a": {Decimal(1): 3}}, "$.a: a key that is a Decimal, Decimal('1')"),
        ({"a": [2**64]}, "$.a[0]: an int of more than 64 bits"),
        ({"a": ["\ud800"]}, "$.a[0]: a str with a lone surrogate"),
        ({"a": b"bytes"}, "$.a: bytes"),
        ({"a": 1j}, "$.a: complex"),
        ({"a": Line}, "$.a: type"),
        (with_itself(), "$[0].more: it refers to itself, by $"),
        ({"a": with_itself()}, "$.a[0].more: it refers to itself, by $.a"),
        ({"user": friends()}, "$.user.price: it refers to itself, by $.user"),
        ([{"shared": [1]}, {1j}], "$[1][0]: complex"),
        (deep(), "$[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0...: nested more than 254 deep"),
    ],
)
def test_what_can_not_be_encoded_is_named_by_its_path(value: Any, where: str) -> None:
    with pytest.raises(TypeError) as caught:
        encode_json(value)
    assert "the application gave what can't be JSON: $" in str(caught.value)
    assert where in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_default_is_asked_before_what_is_built_in() -> None:
    def in_cents(value: Any) -> Any:
        if isinstance(value, Decimal):
            return int(value * 100)
        raise TypeError

    routes = Routes(default=in_cents)
    routes.get("/")(lambda request: {"a": Decimal("1.5"), "b": {1}})
    assert routes(Request("GET", b"/")).body == b'{"a":150,"b":[1]}'


def test_what_a_default_gives_is_encoded_in_its_turn_and_named_when_it_can_not_be() -> None:
    encoder = JSONEncoder((Routes(default=money)._hooks,))
    assert encoder.encode([Money(5), Money(Decimal(1))]) == b'[{"cents":5},{"cents":"1"}]'
    with pytest.raises(TypeError, match=r"\$\[0\]\.cents: complex"):
        encoder.encode([Money(1j)])


def test_an_error_of_a_default_is_the_cause() -> None:
    def broken(value: Any) -> Any:
        raise ZeroDivisionError("own")

    with pytest.raises(TypeError, match=r"\$\.a: Money") as caught:
        JSONEncoder((Routes(default=broken)._hooks,)).encode({"a": Money(1)})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class PydanticV1:
    """What an object of pydantic's version 1 has."""

    __fields__: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def __get_validators__(cls) -> Any:
        raise NotImplementedError

    def json(self) -> str:
        return '{"version":1}'


def test_an_object_of_the_older_pydantic() -> None:
    assert encode_json({"a": PydanticV1()}) == b'{"a":{"version":1}}'


# through sockets


def texts(kind: str, values: list[Any]) -> Any:
    async def waited() -> AsyncIterator[Any]:
        for value in values:
            yield Event(value)

    def plain() -> Iterator[Any]:
        for value in values:
            yield Event(value)

    return waited() if kind == "async" else plain()


SHAPES: dict[str, Callable[[str, Any], Any]] = {
    "dict": lambda kind, value: {"a": value},
    "list": lambda kind, value: [value],
    "itself": lambda kind, value: value,
    "tuple": lambda kind, value: ({"a": value}, 202, {"X-A": "1"}),
    "response": lambda kind, value: Response({"a": value}, 202, {"X-A": "1"}),
    "dataclass": lambda kind, value: Response(Line(value)),
    "struct": lambda kind, value: Response(Struct(value)),
    "model": lambda kind, value: Response(Model(price=value)),
    "typed": lambda kind, value: Response({"a": value}, content_type="application/vnd.a+json"),
    "sse": lambda kind, value: sse(texts(kind, [{"a": value}])),
}
WHERES = ["handler", "before", "after", "after-body", "error", "missing"]


def serving(kind: str, where: str, value: Callable[[], Any], **options: Any) -> Routes:
    """Answer `/{shape}` with a value in that shape, from the handler or a hook; the routes are mounted."""
    routes, outer = Routes(), Routes(**options)

    def shaped(request: Request) -> Any:
        return SHAPES[request.path.rpartition("/")[2]](kind, value())

    def handler(request: Request, shape: str) -> Any:
        if where == "error":
            raise LookupError
        return shaped(request) if where == "handler" else "text"

    declare(routes, kind, "/{shape}", handler)
    outer.mount("/in", routes)
    if where == "before":
        routes.before(shaped)
    elif where == "after":
        routes.after(lambda request, response: shaped(request))
    elif where == "after-body":
        routes.after(lambda request, response: set_body(response, shaped(request)))
    elif where == "error":
        routes.error(LookupError)(lambda request, error: shaped(request))
    elif where == "missing":
        outer.error(Exception)(lambda request, error: shaped(request))
    return outer


def set_body(response: Response, value: Any) -> None:
    response.body = value
    response.content_type = None


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_shape_from_each_place_is_encoded_with_the_default(kind, where):
    prefix = "/missing/in/" if where == "missing" else "/in/"
    with TestClient(serving(kind, where, lambda: Money(7), default=money)) as client:
        for shape in SHAPES:
            if (where == "after-body" and shape not in ("dict",)) or (shape == "sse" and kind == "async" != where):
                continue
            answer = client.get(prefix + shape)
            assert '"cents":7' in answer.text, shape
            assert answer.status_code == (202 if shape in ("tuple", "response") else 200)
            if shape == "typed":
                assert answer.headers["Content-Type"] == "application/vnd.a+json"
            elif shape != "sse":
                assert answer.headers["Content-Type"] == "application/json"
            assert client.head(prefix + shape).status_code == answer.status_code


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_can_not_be_encoded_is_logged_with_who_gave_it_and_where(kind, where, caplog):
    prefix = "/missing/in/" if where == "missing" else "/in/"
    _, first = inspect.getsourcelines(serving)
    with TestClient(serving(kind, where, lambda: Money(7))) as client:
        answer = client.get(prefix + "dict")
    assert answer.status_code == 500
    assert answer.json()["id"] in caplog.text
    (record,) = caplog.records
    assert record.exc_info is not None
    text = str(record.exc_info[1])
    assert text.endswith("gave what can't be JSON: $.a: Money")
    if not (kind == "async" and where == "handler"):
        assert "test_json.py line " in text
        line = int(text.partition("test_json.py line ")[2].partition(" ")[0])
        assert first < line < first + 32


def test_a_stream_of_events_that_can_not_be_encoded_names_its_handler(caplog):
    routes = Routes()

    @routes.get("/", threaded=True)
    def events(request: Request) -> Response:
        return sse(texts("threaded", [{"a": 1}, {"a": Money(7)}]))

    with TestClient(routes) as client, pytest.raises(Exception, match=r"prematurely|IncompleteRead|Connection"):
        client.get("/")
    assert "events, test_json.py line" in caplog.text
    assert "$.a: Money" in caplog.text


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_null_or_an_error(kind, where, strict, caplog):
    prefix = "/missing/in/" if where == "missing" else "/in/"
    with TestClient(serving(kind, where, lambda: NAN, strict_json=strict)) as client:
        for shape in ("dict", "list", "itself", "tuple", "response", "dataclass", "struct", "model"):
            if where == "after-body" and shape != "dict":
                continue
            caplog.clear()
            answer = client.get(prefix + shape)
            assert answer.status_code == (500 if strict else 202 if shape in ("tuple", "response") else 200), shape
            if strict:
                assert "what is no JSON: $" in caplog.text
                assert ": nan. It would be null; strict_json, which tests have on" in caplog.text
            else:
                assert "null" in answer.text


@pytest.mark.parametrize(
    "value",
    [
        *(math.inf, [1, -math.inf], {"a": (NAN,)}, {1: {NAN}}, Line(NAN), Struct(NAN), [Model(price=NAN)]),
        [datetime.date(2030, 1, 2), NAN],  # behind what nobody has to convert
    ],
)
def test_strict_finds_it_wherever_it_is(value):
    encoder = JSONEncoder((Routes(strict_json=True)._hooks,))
    with pytest.raises(ValueError, match=r"is no JSON: \$[^:]*: -?(nan|inf)\."):
        encoder.encode(value)
    assert encoder.encode({"a": None, "b": [1.5, "null"]}) == b'{"a":null,"b":[1.5,"null"]}'


def test_strict_finds_what_a_default_gives():
    encoder = JSONEncoder((Routes(strict_json=True, default=money)._hooks,))
    with pytest.raises(ValueError, match=r"\$\[0\]\.cents: nan"):
        encoder.encode([Money(NAN)])


def test_a_client_of_tests_is_strict_while_it_runs(monkeypatch, strict_by_default):
    assert strict_by_default
    monkeypatch.setattr(testing, "STRICT_JSON", True)  # hypoll's own tests are not
    inner, routes = Routes(), Routes()
    inner.get("/")(lambda request: {"a": NAN})
    routes.mount("/in", inner)
    for given, status in ((None, 500), (True, 500), (False, 200)):
        with TestClient(routes, strict_json=given) as client:
            assert client.get("/in/").status_code == status
        assert routes.strict_json is False
        assert routes(Request("GET", b"/in/")).body == b'{"a":null}'
    with TestClient(Routes(strict_json=True)) as client:
        assert client.get("/").status_code == 404


def test_mounted_routes_that_are_strict_stay_so_where_the_others_are_not():
    inner, routes = Routes(strict_json=True), Routes()
    inner.get("/")(lambda request: {"a": NAN})
    routes.get("/")(lambda request: {"a": NAN})
    routes.mount("/in", inner)
    assert routes(Request("GET", b"/in/")).status == 500
    assert routes(Request("GET", b"/")).status == 200
    inner.strict_json = False
    assert routes(Request("GET", b"/in/")).status == 200
    routes.strict_json = True
    assert routes(Request("GET", b"/in/")).status == 500
    assert inner(Request("GET", b"/")).status == 200


def test_the_innermost_default_that_knows_a_value_wins():
    def outermost(value: Any) -> Any:
        return f"outer {type(value).__name__}"

    inner, routes = Routes(default=money), Routes(default=outermost)
    inner.get("/")(lambda request: [Money(1), 1j])
    routes.mount("/in", inner)
    assert routes(Request("GET", b"/in/")).body == b'[{"cents":1},"outer complex"]'
    assert inner(Request("GET", b"/")).status == 500


def test_a_list_as_a_body_is_its_pieces_and_the_log_says_what_to_do(caplog):
    routes = Routes()
    routes.get("/")(lambda request: Response([{"a": 1}]))  # type: ignore[list-item]
    routes.get("/iterator")(lambda request: Response(iter([{"a": 1}])))  # type: ignore[arg-type]
    with TestClient(routes) as client:
        assert client.get("/").status_code == 500
        assert "a list as a response's body is its pieces, bytes each, not {'a': 1}: to send JSON return" in caplog.text
        with pytest.raises(Exception, match=r"prematurely|IncompleteRead|Connection"):
            client.get("/iterator")
    assert "gives bytes, not dict" in caplog.text


def test_under_wsgi_and_in_direct_calls():
    routes = Routes(default=money)
    routes.get("/{shape}")(lambda request, shape: SHAPES[shape]("inline", Money(7)))
    routes.get("/threaded/{shape}", threaded=True)(lambda request, shape: SHAPES[shape]("inline", Money(7)))
    for prefix in ("/", "/threaded/"):
        for shape in ("dict", "list", "itself", "tuple", "response", "sse"):
            environ = {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": prefix + shape,
                "wsgi.url_scheme": "http",
                "wsgi.input": None,
            }
            assert b'"cents":7' in b"".join(routes.wsgi(environ, lambda status, headers: None))
            body = routes(Request("GET", f"{prefix}{shape}".encode())).body
            assert isinstance(body, bytes) is (shape != "sse")
