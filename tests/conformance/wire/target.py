"""The request target in its forms (RFC 9112, 3.2; RFC 3986, 3.3 and 3.4)."""

from tests.conformance.wire.case import End, Got, case, head


def _get(target: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target


def _options(target: bytes) -> bytes:
    return b"OPTIONS %b HTTP/1.1\r\nHost: h\r\n\r\n" % target


_TAKEN = {
    "path": b"/a/b/c",
    "path-only-slashes": b"///",
    "path-two-leading-slashes": b"//evil.example/x",
    "path-empty-segments": b"/a//b/",
    "path-dot-segments": b"/a/../../etc/./passwd",
    "path-unreserved": b"/azAZ09-._~",
    "path-sub-delims": b"/!$&'()*+,;=",
    "path-colon-and-at": b"/:@",
    "path-like-a-uri": b"/http://x/y",
    "path-encoded": b"/%41%62",
    "path-encoded-slash": b"/a%2Fb",
    "path-encoded-nul": b"/%00",
    "path-encoded-crlf": b"/%0d%0aX:%20y",
    "path-encoded-percent": b"/%2541",
    "path-encoded-not-utf-8": b"/%ff%fe",
    "path-encoded-overlong": b"/%c0%af",
    "path-of-500": b"/" + b"a" * 500,
    "query": b"/?a=1&b=2",
    "query-empty": b"/?",
    "query-two-question-marks": b"/??a?b",
    "query-with-slashes": b"/?a=/b/../c",
    "query-encoded": b"/?a=%20b+c%26",
    "query-semicolon": b"/?a;b",
    "query-plus": b"/?a+b",
}

_REFUSED = {
    "no-slash": b"a",
    "dot": b".",
    "query-alone": b"?a",
    "semicolon": b";",
    "backslash-first": b"\\a",
    "star-with-get": b"*",
    "star-and-path": b"*/a",
    "path-star": b"**",
    "fragment": b"/a#b",
    "fragment-empty": b"/#",
    "fragment-after-query": b"/?a#b",
    "fragment-in-absolute": b"http://h/#a",
    "percent-alone": b"/%",
    "percent-one-digit": b"/%4",
    "percent-bad-digit": b"/%4g",
    "percent-bad-digits": b"/%zz",
    "percent-u": b"/%u0041",
    "percent-in-query": b"/?a=100%",
    "percent-percent": b"/%%41",
    "nul": b"/\x00",
    "bell": b"/\x07",
    "escape": b"/\x1b[31m",
    "delete": b"/\x7f",
    "8-bit": b"/caf\xe9",
    "utf-8": "/café".encode(),
    "8-bit-in-query": b"/?\xe9",
    "authority-form-get": b"h:80",
    "authority-without-port": b"example.org",
    "scheme-ftp": b"ftp://h/",
    "scheme-file": b"file:///etc/passwd",
    "scheme-ws": b"ws://h/",
    "scheme-without-slashes": b"http:/a",
    "scheme-alone": b"http:",
    "scheme-missing": b"://h/",
    "absolute-no-host": b"http:///a",
    "absolute-only-port": b"http://:80/a",
    "absolute-nothing": b"http://",
    "absolute-userinfo": b"http://u@h/",
    "absolute-password": b"http://u:p@h/",
    "absolute-bad-port": b"http://h:x/",
    "absolute-port-too-large": b"http://h:65536/",
    "absolute-two-ports": b"http://h:1:2/",
    "absolute-bad-bracket": b"http://[::1/",
    "absolute-bad-address": b"http://[::g]/",
    "absolute-comma": b"http://a,b/",
    "absolute-backslash": b"http://h\\a/",
    "absolute-bad-encoding": b"http://h/%zz",
}


def _absolute(name: str, target: bytes, origin: str, host: str) -> tuple[str, bytes, Got]:
    return name, _get(target), Got("GET", origin, host=host)


_ABSOLUTE = [
    _absolute("absolute", b"http://example.org/a?b", "/a?b", "example.org"),
    _absolute("absolute-overrides-host", b"http://other/", "/", "other"),
    _absolute("absolute-port", b"http://example.org:8080/a", "/a", "example.org:8080"),
    _absolute("absolute-empty-port", b"http://h:/a", "/a", "h:"),
    _absolute("absolute-no-path", b"http://example.org", "/", "example.org"),
    _absolute("absolute-query-without-path", b"http://example.org?q", "/?q", "example.org"),
    _absolute("absolute-https", b"https://example.org/a", "/a", "example.org"),
    _absolute("absolute-upper-case-scheme", b"HTTP://h/a", "/a", "h"),
    _absolute("absolute-ipv4", b"http://127.0.0.1:80/", "/", "127.0.0.1:80"),
    _absolute("absolute-ipv6", b"http://[::1]:80/", "/", "[::1]:80"),
    _absolute("absolute-at-in-path", b"http://h/@", "/@", "h"),
    _absolute("absolute-two-slashes-path", b"http://h//a", "//a", "h"),
]

CASES = [
    *(case(f"target-{name}", "9112-3.2.1", _get(raw), Got("GET", raw.decode())) for name, raw in _TAKEN.items()),
    *(case(f"target-{name}", "9112-3.2", _get(raw), 400) for name, raw in _REFUSED.items()),
    *(case(f"target-{name}", "9112-3.2.2", raw, got) for name, raw, got in _ABSOLUTE),
    case("target-star", "9112-3.2.4", _options(b"*"), Got("OPTIONS", "*", host="h")),
    case("target-star-post", "9112-3.2.4", head(b"POST * HTTP/1.1", b"Host: h"), 400),
    case("target-star-query", "9112-3.2.4", _options(b"*?a"), 400),
    case("target-options-path", "9110-9.3.7", _options(b"/a"), Got("OPTIONS", "/a")),
    case("target-options-absolute", "9112-3.2.4", _options(b"http://x"), Got("OPTIONS", "*", host="x")),
    case("target-options-absolute-slash", "9112-3.2.4", _options(b"http://x/"), Got("OPTIONS", "/", host="x")),
    case("target-options-absolute-query", "9112-3.2.4", _options(b"http://x?a"), Got("OPTIONS", "/?a", host="x")),
    case("target-absolute-without-host", "9112-3.2.2", head(b"GET http://h/ HTTP/1.1"), 400),
    case("target-absolute-bad-host-field", "9112-3.2.2", head(b"GET http://h/ HTTP/1.1", b"Host: a/b"), 400),
    case(
        "target-absolute-1.0",
        "9112-3.2.2",
        head(b"GET http://h/a HTTP/1.0"),
        Got("GET", "/a", keep_alive=False, host="h"),
    ),
    case("target-begins-like-method", "9112-3", b"GET GET HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    case("target-unfinished", "9112-3", b"GET /abc", End.WAITING),
]
