"""What an ASGI application is notified of its request."""

from __future__ import annotations

from typing import Any

import pytest

from hypoll.asgi.scope import Scopes, fields_of
from hypoll.http import RequestParser
from hypoll.protocol.peer import UNIX_CLIENT, UNKNOWN_CLIENT, Peer
from hypoll.settings import Settings
from tests.asgi.asgiapps import Message, Receive, Send, body, serving, start
from tests.support.client import fetch

PEER = Peer(("192.0.2.7", 4711), server=("192.0.2.1", 8000))


def scope_of(request: bytes, root_path: str = "", peer: Peer = PEER, **more: Any) -> Message:
    parsed = RequestParser(Settings(), peer).feed(request)
    assert parsed is not None
    return Scopes(root_path, {}, **more).of(parsed)


def get(target: str, *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/{version}", "Host: a", *fields, "", ""]).encode("latin-1")


def test_every_part_has_the_type_that_the_specification_says():
    scope = scope_of(get("/a/b?c=d"))
    assert scope.pop("headers") == [(b"host", b"a")]
    extensions = scope.pop("extensions")
    assert set(extensions) == {f"http.response.{name}" for name in ("pathsend", "zerocopysend", "trailers")}
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a/b",
        "raw_path": b"/a/b",
        "query_string": b"c=d",
        "root_path": "",
        "client": ("192.0.2.7", 4711),
        "server": ("192.0.2.1", 8000),
        "state": {},
    }


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        ("/", "/", b"/", b""),
        ("/?", "/", b"/", b""),
        ("/?a=%20b+c?d", "/", b"/", b"a=%20b+c?d"),
        ("/a%20b", "/a b", b"/a%20b", b""),
        ("/a+b", "/a+b", b"/a+b", b""),
        ("/%E4%BD%A0", "/你", b"/%E4%BD%A0", b""),
        ("/a%2Fb", "/a/b", b"/a%2Fb", b""),
        ("/%3F?x", "/?", b"/%3F", b"x"),
        ("/%FF", "/\ufffd", b"/%FF", b""),
        ("//a//b/../c", "//a//b/../c", b"//a//b/../c", b""),
        ("http://b/c?d", "/c", b"/c", b"d"),
    ],
)
def test_a_path_is_decoded_once_and_the_query_never(target, path, raw_path, query):
    scope = scope_of(get(target))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


@pytest.mark.parametrize(
    ("target", "path"), [("/shop", "/shop"), ("/shop/a", "/shop/a"), ("/a", "/shop/a"), ("/shopping", "/shop/shopping")]
)
def test_a_path_begins_with_the_root_path_once(target, path):
    scope = scope_of(get(target), "/shop")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/shop", path, target.encode())


def test_the_target_of_the_server_as_a_whole_is_no_path():
    scope = scope_of(get("*").replace(b"GET", b"OPTIONS"), "/shop")
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("OPTIONS", "*", b"*")


def test_fields_are_lower_case_bytes_in_order_with_repeats():
    sent = ["X-B: 1", "x-a:  two words \t", "X-B: \xe4\xff", "Cookie: a=b", "Cookie: c=d", "X-Empty:"]
    fields = scope_of(get("/", *sent))["headers"]
    assert fields == [
        (b"host", b"a"),
        (b"x-b", b"1"),
        (b"x-a", b"two words"),
        (b"x-b", b"\xe4\xff"),
        (b"cookie", b"a=b"),
        (b"cookie", b"c=d"),
        (b"x-empty", b""),
    ]
    assert all(type(part) is bytes for field in fields for part in field)


def test_fields_are_the_same_however_they_came():
    whole = get("/", "X-B: 1", "x-b: \xe9")
    parser = RequestParser(Settings())
    straight = parser.feed(whole)
    with_care = RequestParser(Settings())
    for at in range(len(whole) - 1):
        assert with_care.feed(whole[at : at + 1]) is None
    careful = with_care.feed(whole[-1:])
    assert straight is not None
    assert careful is not None
    assert fields_of(straight.header_section) == fields_of(careful.header_section)


def test_the_host_of_an_absolute_target_stands_in_place_of_the_field():
    assert scope_of(get("http://b:81/", "X: y"))["headers"] == [(b"host", b"b:81"), (b"x", b"y")]


def test_http_1_0_is_told():
    assert scope_of(get("/", version="1.0"))["http_version"] == "1.0"


@pytest.mark.parametrize("client", [UNIX_CLIENT, UNKNOWN_CLIENT])
def test_who_has_no_address_is_none(client):
    scope = scope_of(get("/"), peer=Peer(client))
    assert (scope["client"], scope["server"]) == (None, None)


def test_early_hints_are_offered_where_they_are_allowed():
    assert "http.response.early_hint" in scope_of(get("/"), early_hints=True)["extensions"]
    assert "http.response.early_hint" not in scope_of(get("/"))["extensions"]


def test_nothing_of_a_scope_is_another_requests():
    state = {"shared": ["x"]}
    scopes = Scopes("", state)
    parser = RequestParser(Settings())
    first, second = (parser.feed(get("/")) for _ in range(2))
    assert first is not None
    assert second is not None
    spoilt = scopes.of(first)
    assert spoilt["state"]["shared"] is state["shared"]  # a shallow copy
    spoilt["headers"].append((b"x", b"y"))
    for name in ("asgi", "state", "extensions"):
        spoilt[name]["spoilt"] = True
    spoilt["extensions"]["http.response.pathsend"]["spoilt"] = True
    fresh = scopes.of(second)
    assert "spoilt" not in repr(fresh)
    assert fresh["headers"] == [(b"host", b"a")]
    assert state == {"shared": ["x"]}


class Told:
    """An application that keeps the scopes of its requests."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await send(start(204))
        await send(body())


def test_trusted_proxies_tell_client_and_scheme():
    app = Told()
    with serving(app) as it:
        assert it.connect().ask(get("/", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")).status == 204
    assert (app.scopes[0]["client"], app.scopes[0]["scheme"]) == (("203.0.113.9", 0), "https")


def test_others_tell_nothing():
    app = Told()
    with serving(app, forwarded_allow_ips=("192.0.2.1",)) as it:
        client = it.connect()
        assert client.ask(get("/", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")).status == 204
        assert app.scopes[0]["client"] == client.sock.getsockname()
        assert app.scopes[0]["server"] == it.address
    assert app.scopes[0]["scheme"] == "http"


def test_over_a_unix_socket_there_is_neither_client_nor_server(tmp_path):
    app = Told()
    path = str(tmp_path / "socket")
    with serving(app, bind=("127.0.0.1:0", f"unix:{path}")):
        assert fetch(path).status == 204
    assert (app.scopes[0]["client"], app.scopes[0]["server"]) == (None, None)


def test_the_script_name_is_the_root_path(monkeypatch):
    app = Told()
    with serving(app, script_name="/shop/") as it:
        it.connect().ask(get("/shop/a"))
    monkeypatch.setenv("SCRIPT_NAME", "/env")
    with serving(app) as it:
        it.connect().ask(get("/env/a"))
    assert [(scope["root_path"], scope["path"]) for scope in app.scopes] == [("/shop", "/shop/a"), ("/env", "/env/a")]
