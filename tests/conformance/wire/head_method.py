"""Refusals of HEAD: no content behind their heads, whatever is wrong (RFC 9110, 9.3.2)."""

from tests.conformance.wire.case import HOST, ROOT, End, Got, case, get, head

_LINE = b"HEAD / HTTP/1.1"

_REFUSED = {
    "no-host": (head(_LINE), 400),
    "two-hosts": (head(_LINE, HOST, HOST), 400),
    "bad-host": (head(_LINE, b"Host: a b"), 400),
    "bad-field": (head(_LINE, HOST, b"no colon"), 400),
    "space-before-colon": (head(_LINE, HOST, b"A : b"), 400),
    "folded": (head(_LINE, HOST, b"A: b", b" c"), 400),
    "nul": (head(_LINE, HOST, b"A: \x00"), 400),
    "bare-lf": (b"HEAD / HTTP/1.1\nHost: h\r\n\r\n", 400),
    "bad-target": (head(b"HEAD /%zz HTTP/1.1", HOST), 400),
    "fragment": (head(b"HEAD /#a HTTP/1.1", HOST), 400),
    "no-version": (head(b"HEAD /", HOST), 400),
    "bad-version": (head(b"HEAD / http/1.1", HOST), 400),
    "two-spaces": (head(b"HEAD  / HTTP/1.1", HOST), 400),
    "control-character": (head(b"HEAD /\x01 HTTP/1.1", HOST), 400),
    "version-3.0": (head(b"HEAD / HTTP/3.0", HOST), 505),
    "expectation": (head(_LINE, HOST, b"Expect: a"), 417),
    "coding": (head(_LINE, HOST, b"Transfer-Encoding: gzip, chunked"), 501),
    "coding-unknown": (head(_LINE, HOST, b"Transfer-Encoding: gzip"), 400),
    "body-too-large": (head(_LINE, HOST, b"Content-Length: 1001"), 413),
    "chunked-too-large": (head(_LINE, HOST, b"Transfer-Encoding: chunked") + b"fff\r\n", 413),
    "chunked-malformed": (head(_LINE, HOST, b"Transfer-Encoding: chunked") + b"x\r\n", 400),
    "too-many-fields": (head(_LINE, HOST, *[b"A: b"] * 21), 431),
    "head-too-large": (head(_LINE, HOST, b"A: " + b"b" * 1024), 431),
    "target-too-long": (head(b"HEAD /" + b"a" * 1024 + b" HTTP/1.1", HOST), 414),
}

CASES = [
    *(case(f"head-{name}", "9110-9.3.2", raw, status, refused="HEAD") for name, (raw, status) in _REFUSED.items()),
    *(
        case(f"head-{name}-behind-another", "9110-9.3.2", get() + raw, ROOT, status, refused="HEAD")
        for name, (raw, status) in _REFUSED.items()
    ),
    case(
        "head-of-1.0-coding", "9110-9.3.2", head(b"HEAD / HTTP/1.0", b"Transfer-Encoding: chunked"), 400, refused="HEAD"
    ),
    case("head-line-alone", "9110-9.3.2", b"HEAD / HTTP/1.1\r\n", End.WAITING, refused="HEAD"),
    case("head-method-alone", "9110-9.3.2", b"HEAD ", End.WAITING, refused="HEAD"),
    case("head-body-cut", "9110-9.3.2", head(_LINE, HOST, b"Content-Length: 3") + b"ab", End.WAITING, refused="HEAD"),
    case("headless-has-content", "9110-9.3.2", head(b"HEADS / HTTP/1.1", HOST), 501),
    case("get-refused-behind-head", "9110-9.3.2", head(_LINE, HOST) + head(b"GET / HTTP/1.1"), Got("HEAD", "/"), 400),
]
