"""What the application is given with a request: its scope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.conformance.asgi.case import (
    ABSENT,
    MUST,
    OK,
    SHOULD,
    Answer,
    Case,
    Check,
    Until,
    Write,
    get,
    post,
    raw,
    request,
)
from tests.conformance.asgi.peers import ROOT_PATH
from tests.conformance.asgi.script import ANSWER, do, script

SCOPE = "HTTP 2.5, Connection scope"
MAIN = "ASGI 3.0, Connection scope"

ACCEPTED = Answer((200, 400))
VERSIONS = ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5")


def is_types(scope: dict[str, Any]) -> bool:
    """Every key of HTTP 2.5 that is there has its type."""
    kinds: dict[str, tuple[type, ...]] = {
        "type": (str,),
        "http_version": (str,),
        "method": (str,),
        "scheme": (str,),
        "path": (str,),
        "raw_path": (bytes, type(None)),
        "query_string": (bytes,),
        "root_path": (str,),
        "asgi": (dict,),
    }
    needed = ("type", "http_version", "method", "path", "query_string", "headers", "asgi")
    return all(name in scope for name in needed) and all(
        type(scope[name]) in kind for name, kind in kinds.items() if name in scope
    )


def is_address(value: object) -> bool:
    return isinstance(value, tuple) and [type(item) for item in value] == [str, int]


def is_socket(value: Any) -> bool:
    return value in (None, ABSENT) or (value[0].endswith("/socket") and value[1:] == (None,))


def is_fields(fields: list[tuple[object, object]]) -> bool:
    return all(len(field) == 2 and {type(item) for item in field} == {bytes} for field in fields)


def is_versions(asgi: dict[str, Any]) -> bool:
    return asgi["version"] in ("3.0", "3") and type(asgi["version"]) is str


def values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def has(*fields: tuple[bytes, bytes]) -> Check:
    """The values of each of these names, in their order; that of the names is free."""
    return Check(f"fields {fields}", lambda got: all(values(got, name) == values(fields, name) for name, _ in fields))


def target(name: str, sent: str, level: Any = MUST, **scope: Any) -> Case:
    """A request target, and what comes of it in the scope."""
    return Case(name, level, SCOPE, get(ANSWER, target=sent), (OK,), scope=scope)


def fields(name: str, level: Any, lines: tuple[bytes, ...], want: Check, source: str = SCOPE) -> Case:
    """Field lines, and what comes of them."""
    return Case(name, level, source, get(ANSWER, *lines), (OK,), scope={"headers": want})


TYPES = [
    Case("dict", MUST, MAIN, get(ANSWER), (OK,), scope={"<dict>": True, "<not dicts>": [], "type": "http"}),
    Case("types", MUST, SCOPE, get(ANSWER), (OK,), scope={"": Check("of the types required", is_types)}),
    Case("asgi-version", MUST, MAIN, get(ANSWER), (OK,), scope={"asgi": Check("version 3.0", is_versions)}),
    Case(
        "spec-version",
        MUST,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"asgi": Check("a known spec_version", lambda asgi: asgi.get("spec_version", "2.0") in VERSIONS)},
    ),
    Case("http-1.1", MUST, SCOPE, get(ANSWER), (OK,), scope={"http_version": "1.1"}),
    Case(
        "http-1.0",
        MUST,
        SCOPE,
        (Write(request(ANSWER, version="HTTP/1.0")),),
        (OK,),
        scope={"http_version": "1.0"},
    ),
    Case(
        "http-1.0-without-host",
        MUST,
        "RFC 9112, 3.2",
        (Write(raw(b"GET /p HTTP/1.0")),),
        (Answer(200, b"hello"),),
        scope={"http_version": "1.0", "path": "/p"},
    ),
    *(
        Case(
            f"method-{method}",
            MUST if method != "PURGE" else SHOULD,
            SCOPE,
            (Write(request(ANSWER, b"Content-Length: 0", method=method)),),
            (OK,),
            scope={"method": method},
        )
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE")
    ),
    Case(
        "scheme",
        MUST,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"scheme": Check("'http' or left out", lambda scheme: scheme in ("http", ABSENT))},
    ),
    Case(
        "extensions-are-dicts",
        MUST,
        "ASGI 3.0, Extensions",
        get(ANSWER),
        (OK,),
        scope={
            "": Check(
                "with dicts as its extensions",
                lambda scope: all(type(value) is dict for value in (scope.get("extensions") or {}).values()),
            )
        },
    ),
    Case(
        "no-tls-extension-without-tls",
        MUST,
        "TLS 0.2, When to use this extension",
        get(ANSWER),
        (OK,),
        scope={"": Check("without 'tls'", lambda scope: "tls" not in (scope.get("extensions") or {}))},
    ),
]

TARGETS = [
    target("path", "/a/b.txt", path="/a/b.txt", query_string=b""),
    target("path-space", "/a%20b", path="/a b"),
    target("path-plus", "/a+b", path="/a+b"),
    target("path-utf-8", "/caf%C3%A9/%E2%82%AC", path="/caf\xe9/\u20ac"),
    target("path-slash", "/a%2Fb", path="/a/b"),
    target("path-percent", "/100%25", path="/100%"),
    target("path-decoded-once", "/%2541", path="/%41"),
    target("path-question-mark", "/a%3Fb?c", path="/a?b", query_string=b"c"),
    target("path-semicolon", "/a;b=c", path="/a;b=c"),
    target("path-empty-segments", "//a//b/", path="//a//b/"),
    target("path-dots", "/a/../b/./c", SHOULD, path="/a/../b/./c"),
    *(
        Case(
            f"path-{name}-no-failure",
            SHOULD,
            SCOPE,
            (Write(raw(b"GET " + path + b" HTTP/1.1", b"Host: h")),),
            (ACCEPTED,),
        )
        for name, path in (
            ("invalid-utf-8", b"/%FF%C3"),
            ("nul", b"/a%00b"),
            ("invalid-percent", b"/a%zzb%"),
            ("not-ascii", b"/\xe9\xff"),
        )
    ),
    target("raw-path", "/a%20b?c=%20", SHOULD, raw_path=b"/a%20b"),
    Case(
        "raw-path-exact-if-there",
        MUST,
        SCOPE,
        get(ANSWER, target="/%7Ea%2fb?c=d"),
        (OK,),
        scope={"raw_path": Check("b'/%7Ea%2fb'", lambda value: value in (b"/%7Ea%2fb", None, ABSENT))},
    ),
    target("query", "/?a=1&b=%20x", query_string=b"a=1&b=%20x"),
    target("query-empty", "/p?", path="/p", query_string=b""),
    target("query-question-mark", "/p?a?b", path="/p", query_string=b"a?b"),
    target("query-plus-and-utf-8", "/p?a+b=%C3%A9", query_string=b"a+b=%C3%A9"),
    target("query-slash", "/p?/a/../b", path="/p", query_string=b"/a/../b"),
    target("long-target", "/" + "a" * 3900, path="/" + "a" * 3900),
    Case(
        "request-line-of-8000",
        SHOULD,
        "RFC 9112, 3",
        (Write(raw(b"GET /" + b"a" * 7980 + b" HTTP/1.1", b"Host: h")),),
        (Answer(200, b"hello"),),
    ),
    Case(
        "absolute-form",
        MUST,
        "RFC 9112, 3.2.2",
        get(ANSWER, target="http://h/a%20b?c"),
        (OK,),
        scope={"query_string": b"c"},
    ),
    target("absolute-form-path", "http://h/a%20b?c", SHOULD, path="/a b"),
    Case(
        "options-asterisk",
        SHOULD,
        "RFC 9112, 3.2.4",
        (Write(request(ANSWER, method="OPTIONS", target="*")),),
        (OK,),
        scope={"path": "*"},
    ),
    Case(
        "root-path-empty",
        MUST,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"root_path": Check("'' or left out", lambda value: value in ("", ABSENT))},
    ),
    Case(
        "root-path",
        MUST,
        SCOPE,
        get(ANSWER, target=ROOT_PATH + "/x"),
        (OK,),
        scope={"root_path": ROOT_PATH},
        variant="root_path",
    ),
    Case(
        "root-path-begins-path",
        MUST,
        "HTTP 2.5, WSGI compatibility",
        get(ANSWER, target=ROOT_PATH + "/x"),
        (OK,),
        scope={"": Check("with a path below its root_path", lambda it: it["path"].startswith(it["root_path"] + "/"))},
        variant="root_path",
    ),
    Case(
        "root-path-not-twice",
        SHOULD,
        SCOPE,
        get(ANSWER, target=ROOT_PATH + "/x"),
        (OK,),
        scope={"path": ROOT_PATH + "/x"},
        variant="root_path",
    ),
]

FIELDS = [
    fields("field-types", MUST, (b"A: b",), Check("pairs of bytes", is_fields)),
    fields(
        "field-names-lower-case",
        SHOULD,
        (b"X-UPPER: Value",),
        Check("names in lower case", lambda got: all(name == name.lower() for name, _ in got)),
    ),
    fields(
        "field-values-in-order",
        MUST,
        (b"X-A: 1", b"X-B: 2", b"X-A: 3", b"x-a: 2"),
        has((b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"), (b"x-a", b"2")),
    ),
    fields("field-not-split", MUST, (b"X-A: 1, 2",), has((b"x-a", b"1, 2"))),
    fields("field-cookies", MUST, (b"Cookie: a=b; c=d",), has((b"cookie", b"a=b; c=d"))),
    fields("field-white-space", MUST, (b"X-A:  \t 1 2 \t ",), has((b"x-a", b"1 2")), "RFC 9112, 5.1"),
    fields("field-no-white-space", MUST, (b"X-A:1",), has((b"x-a", b"1")), "RFC 9112, 5.1"),
    fields("field-empty", MUST, (b"X-A:", b"X-B: "), has((b"x-a", b""), (b"x-b", b""))),
    fields("field-bytes-as-sent", MUST, (b"X-A: \xe9\xff\xc3\xa9",), has((b"x-a", b"\xe9\xff\xc3\xa9"))),
    fields("field-colon-in-value", MUST, (b"X-A: http://h:80/",), has((b"x-a", b"http://h:80/"))),
    fields(
        "field-name-of-symbols", SHOULD, (b"X!#$%&'*+.^`|~9: 1",), has((b"x!#$%&'*+.^`|~9", b"1")), "RFC 9110, 5.6.2"
    ),
    fields("field-underscore", SHOULD, (b"X_A: 1",), has((b"x_a", b"1"))),
    fields("field-of-7000", SHOULD, (b"X-A: " + b"v" * 7000,), has((b"x-a", b"v" * 7000))),
    fields("field-host", MUST, (), has((b"host", b"h"))),
    fields(
        "many-fields",
        SHOULD,
        tuple(b"X-%d: v" % number for number in range(80)),
        Check("81 fields", lambda got: len(got) == 81),
    ),
    Case(
        "field-content-length",
        MUST,
        SCOPE,
        (Write(post(script(do("read"), ANSWER), b"abc", b"Content-Type: text/plain")),),
        (OK,),
        scope={"headers": has((b"content-type", b"text/plain"), (b"content-length", b"3"))},
    ),
]

ADDRESSES = [
    Case(
        "client-type",
        MUST,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"client": Check("(str, int) or None", lambda it: it in (None, ABSENT) or is_address(it))},
    ),
    Case(
        "client",
        SHOULD,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"": Check("with the client's address", lambda scope: scope["client"] == scope["<client>"])},
    ),
    Case(
        "server-type",
        MUST,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"server": Check("(str, int) or None", lambda it: it in (None, ABSENT) or is_address(it))},
    ),
    Case(
        "server",
        SHOULD,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"": Check("with the listener's address", lambda scope: scope["server"] == scope["<server>"])},
    ),
    Case(
        "unix-client",
        MUST,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"client": Check("None or (str, int)", lambda it: it in (None, ABSENT) or is_address(it))},
        variant="unix",
    ),
    Case(
        "unix-client-unknown",
        SHOULD,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"client": Check("None", lambda it: it in (None, ABSENT))},
        variant="unix",
    ),
    Case(
        "unix-server",
        MUST,
        SCOPE,
        get(ANSWER),
        (OK,),
        scope={"server": Check("(path, None) or None", is_socket)},
        variant="unix",
    ),
]

SHARING = [
    Case(
        "state-is-a-dict",
        SHOULD,
        "Lifespan 2.0, Lifespan state",
        get(ANSWER),
        (OK,),
        scope={"state": Check("a dict with what startup put there", lambda state: state["number"] == 7)},
    ),
    Case(
        "state-is-a-copy-for-each-request",
        MUST,
        "Lifespan 2.0, Lifespan state",
        (Write(request(script(do("touch_state"), ANSWER))), Until(b"ok"), Write(request(ANSWER))),
        (OK, OK),
        scope={"state": Check("without what another request put into it", lambda state: "own" not in state)},
        needs=("state",),
    ),
    Case(
        "state-is-a-shallow-copy",
        MUST,
        "Lifespan 2.0, Lifespan state",
        (Write(request(script(do("touch_state"), ANSWER))), Until(b"ok"), Write(request(ANSWER))),
        (OK, OK),
        scope={
            "state": Check("with the list that all share", lambda it: "scope:state-is-a-shallow-copy" in it["shared"])
        },
        needs=("state",),
    ),
    Case(
        "scope-of-its-own",
        MUST,
        SCOPE,
        (Write(request(script(do("touch_scope"), ANSWER), target="/same") + request(ANSWER, target="/same")),),
        (OK, OK),
        scope={"path": "/same", "touched": ABSENT},
    ),
]

CASES = [*TYPES, *TARGETS, *FIELDS, *ADDRESSES, *SHARING]
