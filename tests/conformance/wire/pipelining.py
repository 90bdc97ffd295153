"""Several requests on one connection, and what a refusal among them does (RFC 9112, 9.3.2)."""

from tests.conformance.wire.case import HOST, POSTED, ROOT, End, Got, case, get, head, post

_LENGTH = post(b"Content-Length: 3", body=b"abc")
_CHUNKED = post(b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
_TRAILED = post(b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\nA: b\r\n\r\n")
_HEAD = head(b"HEAD / HTTP/1.1", HOST)
_OLD = head(b"GET / HTTP/1.0", b"Connection: keep-alive")
_UPGRADE = get(b"Connection: upgrade", b"Upgrade: x")
_LAST = ROOT._replace(keep_alive=False)


def _target(number: int) -> bytes:
    return head(b"GET /%d HTTP/1.1" % number, HOST)


CASES = [
    case("pipeline-two", "9112-9.3.2", get() * 2, ROOT, ROOT),
    case("pipeline-twenty", "9112-9.3.2", get() * 20, *[ROOT] * 20),
    case("pipeline-in-order", "9112-9.3.2", b"".join(map(_target, range(9))), *(Got("GET", f"/{n}") for n in range(9))),
    case("pipeline-lengths", "9112-9.3.2", _LENGTH * 3, POSTED, POSTED, POSTED),
    case("pipeline-chunked", "9112-9.3.2", _CHUNKED * 3, POSTED, POSTED, POSTED),
    case("pipeline-trailers", "9112-9.3.2", _TRAILED * 2, POSTED, POSTED),
    case(
        "pipeline-mixed",
        "9112-9.3.2",
        get() + _LENGTH + _HEAD + _CHUNKED + _OLD + _TRAILED + get(),
        *(ROOT, POSTED, Got("HEAD", "/"), POSTED, ROOT, POSTED, ROOT),
    ),
    case(
        "pipeline-empty-lines-between", "9112-2.2", get() + b"\r\n\r\n" + _LENGTH + b"\r\n" + get(), ROOT, POSTED, ROOT
    ),
    case("pipeline-upgrades", "9110-7.8", _UPGRADE * 3, ROOT, ROOT, ROOT),
    case(
        "pipeline-upgrade-and-bodies", "9110-7.8", _UPGRADE + _CHUNKED + _UPGRADE + _LENGTH, ROOT, POSTED, ROOT, POSTED
    ),
    case("pipeline-old-then-new", "9112-9.3", _OLD + get(), ROOT, ROOT),
    case(
        "pipeline-same-then-other-host",
        "9112-3.2",
        get() + head(b"GET / HTTP/1.1", b"Host: i"),
        ROOT._replace(host="h"),
        ROOT._replace(host="i"),
    ),
    case(
        "pipeline-same-fields-other-target",
        "9112-3.2",
        get() + head(b"GET http://i/ HTTP/1.1", HOST),
        ROOT._replace(host="h"),
        ROOT._replace(host="i"),
    ),
    case("pipeline-body-is-not-inherited", "9112-6.3", _LENGTH + post(), POSTED, Got("POST", "/")),
    case("pipeline-coding-is-not-inherited", "9112-6.3", _CHUNKED + get(), POSTED, ROOT),
    case("pipeline-close-is-last", "9112-9.6", get() + get(b"Connection: close") + get(), ROOT, _LAST),
    case("pipeline-old-is-last", "9112-9.3", get() + head(b"GET / HTTP/1.0") + get(), ROOT, _LAST),
    case("pipeline-after-close-malformed", "9112-9.6", get(b"Connection: close") + b"\x00\r\n", _LAST),
    case("pipeline-then-unfinished", "9112-8", get() + b"GET / HT", ROOT, End.WAITING),
    case("pipeline-then-unfinished-body", "9112-8", get() + post(b"Content-Length: 3", body=b"ab"), ROOT, End.WAITING),
    case("pipeline-then-malformed", "9112-2.2", get() + b"\x00\r\n\r\n" + get(), ROOT, 400),
    case("pipeline-then-no-host", "9112-3.2", get() + head(b"GET / HTTP/1.1") + get(), ROOT, 400),
    case(
        "pipeline-then-unknown-method", "9110-9.1", get() * 2 + head(b"FETCH / HTTP/1.1", HOST) + get(), ROOT, ROOT, 501
    ),
    case("pipeline-then-version", "9110-15.6.6", get() + head(b"GET / HTTP/3.0", HOST) + get(), ROOT, 505),
    case("pipeline-then-too-large", "9110-15.5.14", get() + post(b"Content-Length: 1001") + get(), ROOT, 413),
    case("pipeline-then-too-many", "6585-5", get() + get(*[b"a: b"] * 30) + get(), ROOT, 431),
    case("pipeline-then-too-long", "9110-15.5.15", get() + b"GET /" + b"a" * 1100, ROOT, 414),
    case("pipeline-then-expectation", "9110-10.1.1", get() + get(b"Expect: x") + get(), ROOT, 417),
    case(
        "pipeline-then-both",
        "9112-6.3",
        get() + post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        ROOT,
        400,
    ),
    case(
        "pipeline-then-bad-chunk",
        "9112-7.1",
        _CHUNKED + post(b"Transfer-Encoding: chunked", body=b"z\r\n"),
        POSTED,
        400,
    ),
    case("pipeline-then-preface", "9113-3.4", get() + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ROOT, End.SILENT),
    case("pipeline-then-connect", "9110-9.3.6", get() + head(b"CONNECT h:1 HTTP/1.1", b"Host: h:1") + get(), ROOT, 501),
    case("pipeline-then-host-repeated", "9112-3.2", get() + get(HOST) + get(), ROOT, 400),
    case("pipeline-then-fragment", "9112-3.2", get() + head(b"GET /#a HTTP/1.1", HOST), ROOT, 400),
    case("pipeline-then-bad-encoding", "3986-2.1", get() + head(b"GET /%zz HTTP/1.1", HOST), ROOT, 400),
    case("pipeline-then-bare-lf", "9112-2.2", get() + b"GET / HTTP/1.1\nHost: h\n\n", ROOT, 400),
]
