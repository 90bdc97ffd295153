"""What a request builds when it is asked."""

from __future__ import annotations

from typing import Any, cast

import pytest

from hypoll.asgi.scope import scope_parts_of
from hypoll.http import Headers, HTTPError, MultiDict, Peer, Request, RequestParser
from hypoll.protocol.header_section import USER_AGENT, HeaderSection
from hypoll.protocol.peer import NOBODY
from hypoll.protocol.request import MAX_QUERY_FIELDS
from hypoll.settings import Settings


def received(target: str = "/", *fields: str, body: bytes = b"") -> Request:
    """A request as the parser gives it."""
    lines = [f"POST {target} HTTP/1.1", "Host: h", *fields, *([f"Content-Length: {len(body)}"] if body else []), "", ""]
    request = RequestParser(Settings()).feed("\r\n".join(lines).encode("latin-1") + body)
    assert request is not None
    return request


# laziness


@pytest.mark.parametrize("by_scope", [False, True])
def test_a_request_that_stays_answers_as_before(by_scope: bool) -> None:
    fields = ("Cookie: e=f", "User-Agent: somebody/1", "X-Name: \xe9", "X-Name:  twice ")
    one, other = received("/", *fields), received("/", *fields)
    assert one.cookies == {"e": "f"}
    if by_scope:
        scope_parts_of(one)
    one.compact()
    assert not {"_headers", "_cookies"} & {name for name, value in vars(one).items() if value is not None}
    assert (one.header_section.block == b"") is by_scope
    assert one.header_section.last_value(USER_AGENT) == "somebody/1"
    assert one.headers.raw == other.headers.raw
    assert one.cookies == other.cookies


def test_only_what_is_asked_for_is_built() -> None:
    request = received("/a%20b?c=d", "Cookie: e=f")
    built = {"_headers", "_query", "_cookies", "_id"}
    assert not built & vars(request).keys()
    assert (request.method, request.raw_path, request.path, request.body) == ("POST", "/a%20b", "/a b", b"")
    assert not built & vars(request).keys()
    assert request.query["c"] == "d"
    assert built & vars(request).keys() == {"_query"}
    assert request.headers["host"] == "h"
    assert built & vars(request).keys() == {"_query", "_headers"}
    assert request.cookies == {"e": "f"}
    assert len(request.id) == 16
    assert built <= vars(request).keys()


@pytest.mark.parametrize("name", ["headers", "query", "cookies"])
def test_what_is_built_is_built_once(name: str) -> None:
    request = received("/?a=b", "Cookie: c=d")
    assert getattr(request, name) is getattr(request, name)


def test_an_id_stays() -> None:
    request = received("/")
    assert request.id == request.id != received("/").id


def test_a_query_that_is_not_asked_for_costs_nothing() -> None:
    request = received("/?" + "a&" * (MAX_QUERY_FIELDS + 1))
    assert request.query_string.startswith("a&a&")
    with pytest.raises(HTTPError, match=f"400 .* more than {MAX_QUERY_FIELDS} fields"):
        _ = request.query


# target


@pytest.mark.parametrize(
    ("target", "raw_path", "path", "query_string"),
    [
        ("/", "/", "/", ""),
        ("/a/b", "/a/b", "/a/b", ""),
        ("/a?b=c", "/a", "/a", "b=c"),
        ("/a?", "/a", "/a", ""),
        ("/?a?b", "/", "/", "a?b"),
        ("/%41%20", "/%41%20", "/A ", ""),
        ("/a%2Fb", "/a%2Fb", "/a/b", ""),
        ("/caf%C3%A9", "/caf%C3%A9", "/café", ""),
        ("/%ff", "/%ff", "/\ufffd", ""),
        ("/a+b", "/a+b", "/a+b", ""),
        ("/%3Fa?b", "/%3Fa", "/?a", "b"),
        ("/%2e%2e", "/%2e%2e", "/..", ""),
        ("http://x/a?b", "/a", "/a", "b"),
    ],
)
def test_target_parts(target: str, raw_path: str, path: str, query_string: str) -> None:
    request = received(target)
    assert (request.raw_path, request.path, request.query_string) == (raw_path, path, query_string)


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("", {}),
        ("a=1", {"a": ["1"]}),
        ("a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
        ("a", {"a": [""]}),
        ("a=", {"a": [""]}),
        ("=a", {"": ["a"]}),
        ("a+b=c+d", {"a b": ["c d"]}),
        ("a=%26%3D%2B", {"a": ["&=+"]}),
        ("a=%C3%A9", {"a": ["é"]}),
        ("a=%ff", {"a": ["\ufffd"]}),
        ("a=b=c", {"a": ["b=c"]}),
        ("a;b", {"a;b": [""]}),
        ("&&a=1&&", {"a": ["1"]}),
    ],
)
def test_query(query: str, pairs: dict[str, list[str]]) -> None:
    found = received(f"/?{query}").query
    assert {key: found.getall(key) for key in found} == pairs


def test_query_of_as_many_fields_as_may_be() -> None:
    assert len(received("/?" + "&".join(f"a{n}" for n in range(MAX_QUERY_FIELDS))).query) == MAX_QUERY_FIELDS


@pytest.mark.parametrize(
    ("request_", "host"),
    [
        (received("/"), "h"),
        (received("http://x:1/"), "x:1"),
        (Request("GET", b"/"), ""),
    ],
)
def test_host(request_: Request, host: str) -> None:
    assert request_.host == host


# fields


def test_headers_by_any_case() -> None:
    headers = received("/", "X-Thing: a").headers
    assert headers["X-Thing"] == headers["x-thing"] == headers["X-THING"] == "a"
    assert headers.get("X-THING") == "a"
    assert "X-tHiNg" in headers
    assert "x" not in headers
    assert cast(str, 3) not in headers
    assert headers.get("x") is None
    with pytest.raises(KeyError, match="x"):
        headers["x"]


def test_headers_of_several_lines() -> None:
    headers = received("/", "A: b", "Cookie: c=1", "a: d, e", "Cookie: f=2").headers
    assert headers["a"] == "b, d, e"
    assert headers.getall("A") == ["b", "d, e"]
    assert headers["cookie"] == "c=1; f=2"
    assert headers.getall("z") == []
    assert list(headers) == ["host", "a", "cookie"]
    assert len(headers) == 3
    assert dict(headers) == {"host": "h", "a": "b, d, e", "cookie": "c=1; f=2"}
    assert headers.raw == [("host", "h"), ("a", "b"), ("cookie", "c=1"), ("a", "d, e"), ("cookie", "f=2")]


def test_headers_are_latin_1() -> None:
    assert received("/", "A: caf\xe9").headers["a"] == "caf\xe9"


def test_headers_tell_what_they_hold() -> None:
    assert repr(Headers([("a", "b")])) == "Headers([('a', 'b')])"


def test_multi_dict() -> None:
    values = MultiDict([("a", "1"), ("b", "2"), ("a", "3")])
    assert values["a"] == values.get("a") == "1"
    assert values.getall("a") == ["1", "3"]
    assert values.getall("c") == []
    assert (list(values), len(values), "a" in values, "c" in values) == (["a", "b"], 2, True, False)
    assert repr(values) == "MultiDict({'a': ['1', '3'], 'b': ['2']})"
    values.getall("a").append("4")
    assert values.getall("a") == ["1", "3"]
    assert len(MultiDict()) == 0


@pytest.mark.parametrize(
    ("lines", "cookies"),
    [
        ([], {}),
        (["a=1"], {"a": "1"}),
        (["a=1; b=2"], {"a": "1", "b": "2"}),
        (["a=1;b=2"], {"a": "1", "b": "2"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a=1; a=2"], {"a": "1"}),
        (['a="1 2"'], {"a": "1 2"}),
        (['a="'], {"a": '"'}),
        (['a=""'], {"a": ""}),
        (["a="], {"a": ""}),
        (["a=b=c"], {"a": "b=c"}),
        (["a"], {}),
        (["=a"], {}),
        (["; ;a=1;"], {"a": "1"}),
        (["a=%20"], {"a": "%20"}),
    ],
)
def test_cookies(lines: list[str], cookies: dict[str, str]) -> None:
    assert received("/", *(f"Cookie: {line}" for line in lines)).cookies == cookies


# content


@pytest.mark.parametrize(("body", "value"), [(b"{}", {}), (b"[1]", [1]), (b'"\xc3\xa9"', "é"), (b" null ", None)])
def test_json(body: bytes, value: Any) -> None:
    assert received("/", body=body).json() == value


@pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b'"\xff"', b"1 2", b"NaN", b"[" * 2000])
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(HTTPError, match=r"the body is not JSON: .") as caught:
        received("/", body=body).json()
    assert caught.value.status == 400


# the rest of a request


def test_ids_differ() -> None:
    first, second = received(), received()
    assert first.id != second.id
    assert len(bytes.fromhex(first.id)) == 8


def test_a_request_made_by_hand() -> None:
    request = Request("GET", b"/a?b=c")
    assert (request.client, request.scheme, request.body, request.params) == (("", 0), "http", b"", {})
    assert (request.keep_alive, request.minor, request.plain) == (True, 1, False)
    assert request.headers.raw == []
    assert request.peer is NOBODY
    assert repr(request) == "<Request GET /a?b=c>"


def test_a_request_of_a_peer() -> None:
    request = Request("GET", b"/", HeaderSection(), Peer(("::1", 5), "https"))
    assert (request.client, request.scheme) == (("::1", 5), "https")


def test_attributes_last_as_long_as_the_request() -> None:
    request: Any = received()
    request.user = "a"
    assert request.user == "a"
    assert not hasattr(received(), "user")
