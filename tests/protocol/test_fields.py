"""Header fields on their way out: `ResponseHeaders`, and what may be one."""

from __future__ import annotations

from typing import Any

import pytest

from hypoll import Response
from hypoll.protocol.fields import ResponseHeaders


def headers() -> ResponseHeaders:
    return ResponseHeaders([("X-A", "1"), ("Set-Cookie", "a=1"), ("x-a", "2"), ("Set-Cookie", "b=2")])


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ((), []),
        ({}, []),
        ({"A": "1", "B": ["2", "3"]}, [("A", "1"), ("B", "2"), ("B", "3")]),
        ({"B": ("2", "3")}, [("B", "2"), ("B", "3")]),
        ([("A", "1"), ("a", "2")], [("A", "1"), ("a", "2")]),
        (iter([("A", "1")]), [("A", "1")]),
        (ResponseHeaders({"A": "1"}), [("A", "1")]),
    ],
)
def test_every_form_is_taken(source: Any, lines: list[tuple[str, str]]) -> None:
    assert list(ResponseHeaders(source).items()) == lines


def test_what_is_given_is_copied() -> None:
    given = {"A": "1"}
    response = Response(headers=given)
    other = Response(headers=response.headers)
    response.headers["A"] = "2"
    assert given == {"A": "1"}
    assert other.headers == {"A": "1"}


def test_it_is_a_mapping_by_name_in_any_case() -> None:
    found = headers()
    assert (found["x-A"], found["SET-COOKIE"]) == ("1, 2", "a=1")
    assert (found.get("X-a"), found.get("nothing"), found.get("nothing", "b")) == ("1, 2", None, "b")
    assert found.getall("set-cookie") == ["a=1", "b=2"]
    assert found.getall("nothing") == []
    assert "SET-cookie" in found
    assert "nothing" not in found
    assert 1 not in found  # type: ignore[comparison-overlap]
    assert list(found) == list(found.keys()) == ["X-A", "Set-Cookie"]
    assert len(found) == 2
    assert bool(found)
    assert not ResponseHeaders()
    assert dict(found) == {"X-A": "1, 2", "Set-Cookie": "a=1"}
    assert ("x-a", "2") in found.items()
    assert len(found.items()) == 4
    with pytest.raises(KeyError):
        found["nothing"]


def test_setting_replaces_every_line_and_adding_none() -> None:
    found = headers()
    found["X-a"] = "3"
    found.add("x-b", "4")
    found.add("X-B", "5")
    del found["set-cookie"]
    assert list(found.items()) == [("X-a", "3"), ("x-b", "4"), ("X-B", "5")]
    with pytest.raises(KeyError):
        del found["set-cookie"]


def test_the_rest_of_a_mutable_mapping() -> None:
    found = headers()
    assert found.setdefault("X-A", "9") == "1, 2"
    assert found.setdefault("X-C", "3") == "3"
    assert found.pop("x-a") == "1, 2"
    assert found.pop("x-a", "gone") == "gone"
    found.update({"SET-COOKIE": ["c=3", "d=4"]}, E="5")
    assert list(found.items()) == [("X-C", "3"), ("SET-COOKIE", "c=3"), ("SET-COOKIE", "d=4"), ("E", "5")]
    found.update([("e", "6")])
    found.update(ResponseHeaders([("X-C", "7"), ("x-c", "8")]))
    assert found == {"set-cookie": ["c=3", "d=4"], "E": "6", "x-c": ["7", "8"]}
    found.clear()
    assert list(found.items()) == []
    assert repr(found) == "ResponseHeaders([])"


def test_it_equals_whatever_has_the_same_fields() -> None:
    assert ResponseHeaders({"A": "1"}) == ResponseHeaders({"a": "1"}) == {"A": "1"}
    assert ResponseHeaders({"A": "1"}) != {"A": "2"}
    assert ResponseHeaders({"A": "1"}) != {1: "1"}
    assert ResponseHeaders() != 5
    with pytest.raises(TypeError, match="unhashable"):
        hash(ResponseHeaders())


@pytest.mark.parametrize(
    ("before", "names", "after"),
    [
        ({}, ["Origin"], "Origin"),
        ({}, [], None),
        ({"Vary": "Accept"}, ["Origin"], "Accept, Origin"),
        (
            {"vary": "accept, ORIGIN"},
            ["Origin", "Accept-Encoding", "accept-encoding"],
            "accept, ORIGIN, Accept-Encoding",
        ),
        ([("Vary", "A"), ("Vary", "B,")], ["C"], "A, B, C"),
        ({"Vary": "*"}, ["Origin"], "*"),
        ({}, ["*"], "*"),
    ],
)
def test_vary_names_each_field_once(before: Any, names: list[str], after: str | None) -> None:
    found = ResponseHeaders(before)
    found.vary(*names)
    assert found.get("Vary") == after


BAD = [
    ("X", "a\r\nSet-Cookie: b=c", ValueError, "the value of X can't be sent"),
    ("X", "a\0", ValueError, "the value of X can't be sent"),
    ("X", "Ā", ValueError, "the value of X can't be sent"),
    ("X Y", "a", ValueError, "'X Y' is not a field name"),
    ("X:", "a", ValueError, "is not a field name"),
    ("", "a", ValueError, "is not a field name"),
    (5, "a", ValueError, "5 is not a field name"),
    ("X", 5, TypeError, "the value of X is 5: it must be a str"),
    ("X", None, TypeError, "the value of X is None"),
]
WAYS: dict[str, Any] = {
    "setting": lambda found, name, value: found.__setitem__(name, value),
    "adding": lambda found, name, value: found.add(name, value),
    "update": lambda found, name, value: found.update([("Y", "1"), (name, value)]),
    "a response": lambda found, name, value: Response(headers={name: value}),
    "a response's lines": lambda found, name, value: Response(headers=[(name, value)]),
    "assigning": lambda found, name, value: setattr(Response(), "headers", {name: value}),
    "set_header": lambda found, name, value: Response().set_header(name, value),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_what_could_break_a_message_is_refused_where_it_is_set(way, name, value, error, message):
    found = headers()
    before = list(found.items())
    with pytest.raises(error, match=message):
        WAYS[way](found, name, value)
    assert list(found.items()) == before


def test_vary_refuses_what_is_no_name() -> None:
    with pytest.raises(ValueError, match="not a field name"):
        ResponseHeaders().vary("a, b")


def test_a_plain_response_is_no_longer_plain_when_it_has_fields_or_a_reason() -> None:
    response = Response("a")
    assert response.is_plain
    assert response.copy().is_plain
    response.reason = "Fine"
    assert not response.is_plain
    response.reason = None
    assert response.is_plain
    response.headers["X-A"] = "1"
    assert not response.is_plain


def test_a_copy_has_fields_of_its_own_and_the_class_of_its_original() -> None:
    class Own(Response):
        extra = 0

    for kind in (Response, Own):
        response = kind("a", 201, {"A": "1"}, "text/x")
        response.reason = "Fine"
        response.extra = 1  # type: ignore[attr-defined]
        other = response.copy()
        other.headers["A"] = "2"
        assert type(other) is kind
        assert (other.body, other.status, other.content_type, other.reason) == ("a", 201, "text/x", "Fine")
        assert other.extra == 1  # type: ignore[attr-defined]
        assert response.headers == {"A": "1"}
