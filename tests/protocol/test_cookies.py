"""Cookies that are set: what browsers take, and what is refused since they wouldn't."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from http.cookiejar import CookieJar
from typing import Any
from urllib.request import Request as Asked
from urllib.request import Request as URLRequest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoll import Response
from hypoll.protocol.cookies import parse_cookies

NOON = datetime(2030, 1, 2, 12, 30, 40, tzinfo=UTC)
FLAGS = "Secure; HttpOnly; Partitioned; SameSite=None"
BARE: dict[str, Any] = {"path": None, "httponly": False, "samesite": None}


def lines(response: Response) -> list[str]:
    return response.headers.getall("Set-Cookie")


def cookie(name: str, value: str = "b", **attributes: Any) -> str:
    response = Response()
    response.set_cookie(name, value, **attributes)
    (line,) = lines(response)
    return line


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        ({}, "a=b; Path=/; HttpOnly; SameSite=Lax"),
        (BARE, "a=b"),
        ({**BARE, "max_age": 60}, "a=b; Max-Age=60"),
        ({**BARE, "max_age": 0}, "a=b; Max-Age=0"),
        ({**BARE, "max_age": -1}, "a=b; Max-Age=-1"),
        ({**BARE, "max_age": timedelta(days=1, milliseconds=900)}, "a=b; Max-Age=86400"),
        ({**BARE, "expires": NOON}, "a=b; Expires=Wed, 02 Jan 2030 12:30:40 GMT"),
        (
            {**BARE, "expires": NOON.astimezone(timezone(timedelta(hours=5)))},
            "a=b; Expires=Wed, 02 Jan 2030 12:30:40 GMT",
        ),
        ({**BARE, "domain": "example.org"}, "a=b; Domain=example.org"),
        ({**BARE, "domain": ".example.org"}, "a=b; Domain=example.org"),
        ({**BARE, "path": "/a b"}, "a=b; Path=/a b"),
        ({**BARE, "secure": True}, "a=b; Secure"),
        ({**BARE, "samesite": "strict"}, "a=b; SameSite=Strict"),
        ({**BARE, "samesite": "None", "secure": True}, "a=b; Secure; SameSite=None"),
        ({**BARE, "partitioned": True, "secure": True}, "a=b; Secure; Partitioned"),
        (
            {
                "max_age": 1, "expires": NOON, "domain": "a.b", "path": "/x", "secure": True, "partitioned": True,
                "samesite": "none",
            },
            "a=b; Max-Age=1; Expires=Wed, 02 Jan 2030 12:30:40 GMT; Domain=a.b; Path=/x; " + FLAGS,
        ),
    ],
)  # fmt: skip
def test_a_cookie(attributes: dict[str, Any], line: str) -> None:
    assert cookie("a", **attributes) == line


@pytest.mark.parametrize("value", ["", "!#$%&'()*+-./09:<=>?@AZ[]^_`az{|}~", '"quoted"', "x" * 4095])
def test_a_value_that_may_be_sent(value: str) -> None:
    assert cookie("a", value, **BARE) == f"a={value}"


BAD_NAMES = ("", "a b", "a=", "a;", "a,", "a\r\n", "ä", "a\0", '"a"')
BAD_VALUES = ("a b", "a;b", "a,b", "a\\b", 'a"b', '"a', "ä", "a\r\nb", "\0", "\x7f")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *((name, "b", "is no name for a cookie") for name in BAD_NAMES),
        *(("a", value, "has characters") for value in BAD_VALUES),
        ("a", "x" * 4096, "has 4097 bytes: browsers drop those over 4096"),
    ],
)  # fmt: skip
def test_a_name_or_value_that_browsers_drop(name: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cookie(name, value)


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("a", {"samesite": "None"}, r"has samesite='None', which browsers take with secure=True only"),
        ("a", {"samesite": "Loose"}, "must be Strict, Lax, None"),
        ("a", {"partitioned": True}, "has partitioned=True, which browsers take with secure=True only"),
        ("__Secure-a", {}, "has the prefix __Secure-, which browsers take with secure=True only"),
        ("__host-a", {}, "has the prefix __Host-, which browsers take with secure=True only"),
        ("__Host-a", {"secure": True, "path": "/x"}, "must have path='/' and no domain"),
        ("__Host-a", {"secure": True, "path": None}, "must have path='/' and no domain"),
        ("__HOST-a", {"secure": True, "domain": "a.b"}, "must have path='/' and no domain"),
        ("a", {"path": "x"}, "it must be a path that begins with a slash"),
        ("a", {"path": "/x;y"}, "without semicolons"),
        ("a", {"path": "/x\r\n"}, "it must be a path"),
        ("a", {"path": "/" + "x" * 1024}, "it must be a path"),
        ("a", {"domain": ""}, "it must be a host name"),
        ("a", {"domain": "a b"}, "it must be a host name"),
        ("a", {"domain": "a.b; Path=/"}, "it must be a host name"),
        ("a", {"domain": "bücher.example"}, "it must be a host name"),
        ("a", {"expires": datetime(2030, 1, 2)}, "must be a datetime with a time zone"),
    ],
)
def test_attributes_that_browsers_drop_the_cookie_for(name: str, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cookie(name, **attributes)


@pytest.mark.parametrize(
    ("name", "value", "attributes"),
    [(5, "b", {}), ("a", 5, {}), ("a", "b", {"max_age": "60"}), ("a", "b", {"max_age": True})],
)
def test_what_is_of_another_type(name: Any, value: Any, attributes: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be"):
        cookie(name, value, **attributes)


def test_prefixes_that_hold_what_they_promise() -> None:
    assert cookie("__Host-a", secure=True) == "__Host-a=b; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert cookie("__Secure-a", secure=True, domain="a.b", path="/x").startswith("__Secure-a=b; Domain=a.b; Path=/x;")


def test_a_cookie_takes_the_place_of_the_one_it_would_replace() -> None:
    response = Response(headers=[("Set-Cookie", "a=0; path=/"), ("X", "1"), ("set-cookie", "other=1")])
    response.set_cookie("a", "1", **{**BARE, "path": "/"})
    response.set_cookie("a", "2", **{**BARE, "path": "/x"})
    response.set_cookie("a", "3", **{**BARE, "path": "/", "domain": "a.b"})
    response.set_cookie("a", "4", **{**BARE, "path": "/", "domain": ".A.B"})
    assert lines(response) == ["other=1", "a=1; Path=/", "a=2; Path=/x", "a=4; Domain=A.B; Path=/"]
    assert response.headers["X"] == "1"


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("a", {}),
        ("a", {"path": "/x", "domain": "a.b"}),
        ("__Host-a", {}),
        ("__Secure-a", {"path": "/x"}),
        ("a", {"partitioned": True}),
    ],
)
def test_a_deletion_is_of_the_cookie_that_was_set(name: str, attributes: dict[str, Any]) -> None:
    response = Response()
    secure = name.startswith("__") or "partitioned" in attributes
    response.set_cookie(name, "b", secure=secure, **attributes)
    response.delete_cookie(name, **attributes)
    (line,) = lines(response)
    assert line.startswith(f"{name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; ")
    assert ("Secure" in line.split("; ")) is secure


class _Answer:
    def __init__(self, response: Response) -> None:
        self._lines = lines(response)

    def info(self) -> _Answer:
        return self

    def get_all(self, name: str, default: Any = None) -> list[str]:
        return self._lines if name == "Set-Cookie" else []


COOKIE_TEXT = st.from_regex(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", fullmatch=True)


@given(st.from_regex(r"[A-Za-z0-9_.~!#$&^`|*+-]{1,20}", fullmatch=True), COOKIE_TEXT)
def test_another_cookie_jar_keeps_it_and_it_comes_back_as_it_was(name: str, value: str) -> None:
    response = Response()
    response.set_cookie("x" + name, value)
    jar, asked = CookieJar(), URLRequest("http://example.org/")
    jar.extract_cookies(_Answer(response), asked)  # type: ignore[arg-type]
    again = Asked("http://example.org/")
    jar.add_cookie_header(again)
    assert parse_cookies(again.get_header("Cookie") or "")["x" + name] == value
