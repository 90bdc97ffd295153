"""Whether the connection goes on: Connection options and versions (RFC 9112, 9.3 and 9.6; RFC 9110, 7.6.1)."""

from tests.conformance.wire.case import HOST, POSTED, ROOT, case, get, head, post

_LAST = ROOT._replace(keep_alive=False)

_CLOSING = {
    "close": (b"Connection: close",),
    "close-any-case": (b"cOnNeCtIoN: ClOsE",),
    "close-no-space": (b"Connection:close",),
    "close-whitespace": (b"Connection: \tclose\t ",),
    "close-listed-last": (b"Connection: a, close",),
    "close-listed-first": (b"Connection: close, a",),
    "close-listed-no-space": (b"Connection: a,close,b",),
    "close-listed-tabs": (b"Connection: a\t,\tclose",),
    "close-empty-elements": (b"Connection: ,, close ,",),
    "close-and-keep-alive": (b"Connection: keep-alive, close",),
    "close-before-keep-alive": (b"Connection: close, keep-alive",),
    "close-second-line": (b"Connection: keep-alive", b"Connection: close"),
    "close-first-line": (b"Connection: close", b"Connection: keep-alive"),
    "close-twice": (b"Connection: close", b"Connection: close"),
    "close-and-upgrade": (b"Connection: upgrade, close", b"Upgrade: x"),
    "close-for-a-proxy": (b"Proxy-Connection: close",),
}

_PERSISTENT = {
    "nothing": (),
    "keep-alive": (b"Connection: keep-alive",),
    "empty": (b"Connection:",),
    "other-option": (b"Connection: a",),
    "named-field": (b"Connection: A", b"A: b"),
    "closed-is-another": (b"Connection: closed",),
    "close-suffix-is-another": (b"Connection: close-it",),
    "close-prefix-is-another": (b"Connection: clos",),
    "close-prefixed-is-another": (b"Connection: x-close",),
    "close-quoted-is-another": (b'Connection: "close"',),
    "close-parameter-is-another": (b"Connection: close;a=b",),
    "close-two-words-is-another": (b"Connection: close it",),
    "close-second-word-is-another": (b"Connection: not close",),
    "close-in-another-field": (b"X-Connection: close",),
    "keep-alive-field": (b"Keep-Alive: timeout=5, max=1",),
    "keep-alive-for-a-proxy": (b"Proxy-Connection: keep-alive",),
    "upgrade-option-alone": (b"Connection: upgrade",),
    "upgrade-field-alone": (b"Upgrade: x",),
    "te": (b"Connection: TE", b"TE: trailers"),
}

_OLD_PERSISTENT = {
    "keep-alive": (b"Connection: keep-alive",),
    "keep-alive-any-case": (b"Connection: Keep-Alive",),
    "keep-alive-listed": (b"Connection: a, keep-alive",),
    "keep-alive-second-line": (b"Connection: a", b"Connection: keep-alive"),
    "keep-alive-and-field": (b"Connection: keep-alive", b"Keep-Alive: timeout=5"),
    "keep-alive-and-upgrade": (b"Connection: keep-alive, upgrade", b"Upgrade: x"),
    "keep-alive-and-host": (b"Connection: keep-alive", HOST),
}

_OLD_CLOSING = {
    "nothing": (),
    "host": (HOST,),
    "close": (b"Connection: close",),
    "other-option": (b"Connection: a",),
    "close-and-keep-alive": (b"Connection: keep-alive, close",),
    "keep-alive-and-close-lines": (b"Connection: keep-alive", b"Connection: close"),
    "keep-alive-for-a-proxy": (b"Proxy-Connection: keep-alive",),
    "keep-alive-two-words": (b"Connection: keep-alive please",),
    "keep-alive-field-alone": (b"Keep-Alive: timeout=5",),
}


def _old(*fields: bytes) -> bytes:
    return head(b"GET / HTTP/1.0", *fields)


CASES = [
    *(case(f"last-{name}", "9112-9.6", get(*fields), _LAST) for name, fields in _CLOSING.items()),
    *(case(f"persistent-{name}", "9112-9.3", get(*fields), ROOT) for name, fields in _PERSISTENT.items()),
    *(case(f"old-persistent-{name}", "9112-9.3", _old(*fields), ROOT) for name, fields in _OLD_PERSISTENT.items()),
    *(case(f"old-last-{name}", "9112-9.3", _old(*fields), _LAST) for name, fields in _OLD_CLOSING.items()),
    case(
        "last-with-length",
        "9112-9.6",
        post(b"Connection: close", b"Content-Length: 3", body=b"abc"),
        POSTED._replace(keep_alive=False),
    ),
    case("last-more-follows", "9112-9.6", get(b"Connection: close") + b"abc", _LAST),
    case("last-head", "9112-9.6", head(b"HEAD / HTTP/1.1", HOST, b"Connection: close"), _LAST._replace(method="HEAD")),
    case(
        "old-post-kept-twice",
        "9112-9.3",
        (head(b"POST / HTTP/1.0", b"Connection: keep-alive", b"Content-Length: 3") + b"abc") * 2,
        POSTED,
        POSTED,
    ),
    case(
        "old-head-kept", "9112-9.3", head(b"HEAD / HTTP/1.0", b"Connection: keep-alive"), ROOT._replace(method="HEAD")
    ),
]
