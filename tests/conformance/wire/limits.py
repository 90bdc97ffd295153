"""The limits: 414, 431 by bytes and by count, 413 (RFC 9112, 3; RFC 9110, 15.5.14 and 15.5.15; RFC 6585, 5)."""

from tests.conformance.wire.case import HOST, LIMITS, End, Got, case, get, head, post

_HEAD = LIMITS.max_head
_BODY = LIMITS.max_body
_FIELDS = LIMITS.max_headers
_TARGET_ROOM = _HEAD - len(head(b"GET / HTTP/1.1", HOST))
_VALUE_ROOM = _HEAD - len(get(b"A: "))


def _target(length: int) -> bytes:
    return head(b"GET /%b HTTP/1.1" % (b"a" * length), HOST)


def _value(length: int) -> bytes:
    return get(b"A: " + b"b" * length)


def _length(number: int, body: bytes = b"") -> bytes:
    return post(b"Content-Length: %d" % number, body=body)


def _chunks(*sizes: int) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, b"a" * size) for size in sizes)
    return post(b"Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n")


_A3 = Got("POST", "/", b"abc")

# Chunk extensions, trailer fields, and zeros before a size beyond the first 16: together at most `max_head` bytes.
_EXTRA: dict[str, tuple[bytes, Got | int]] = {
    "chunk-extension-fills": (b"3;" + b"e" * 1023 + b"\r\nabc\r\n0\r\n\r\n", _A3),
    "chunk-extension-one-more": (b"3;" + b"e" * 1024 + b"\r\nabc\r\n0\r\n\r\n", 431),
    "chunk-extension-endless": (b"3;" + b"e" * 5000, 431),
    "chunk-extension-quoted-endless": (b'3;a="' + b"e" * 5000, 431),
    "chunk-whitespace-endless": (b"3" + b" " * 5000, 431),
    "chunk-extensions-of-many-fill": (b"1;eee\r\na\r\n" * 256 + b"0\r\n\r\n", Got("POST", "/", b"a" * 256)),
    "chunk-extensions-of-many": (b"1;eee\r\na\r\n" * 256 + b"0;e\r\n\r\n", 431),
    "chunk-extensions-short-of-many": (b"1;e\r\na\r\n" * 600 + b"0\r\n\r\n", 431),
    "chunk-extension-after-much-content": (b"1f4\r\n" + b"a" * 500 + b"\r\n1;" + b"e" * 1100 + b"\r\na\r\n", 431),
    "chunk-extension-fault-at-limit": (b"3;" + b"e" * 1023 + b"\x00", 400),
    "chunk-zeros": (b"0" * 1040 + b"3\r\nabc\r\n0\r\n\r\n", _A3),
    "chunk-zeros-one-more": (b"0" * 1041 + b"3\r\nabc\r\n0\r\n\r\n", 431),
    "chunk-zeros-endless": (b"0" * 5000, 431),
    "chunk-zeros-then-too-many-digits": (b"0" * 1040 + b"f" * 17, 400),
    "chunk-zeros-few-of-many": (b"0000001\r\na\r\n" * 500 + b"0\r\n\r\n", Got("POST", "/", b"a" * 500)),
    "chunk-zeros-many-of-many": (b"0" * 40 + b"1\r\na\r\n" + (b"0" * 40 + b"1\r\na\r\n") * 50, 431),
    "chunk-largest-number": (b"f" * 16 + b"\r\n", 413),
    "chunk-one-digit-more": (b"1" + b"0" * 16 + b"\r\n", 400),
    "trailers-fill": (b"0\r\nA: " + b"b" * 1019 + b"\r\n\r\n", Got("POST", "/")),
    "trailer-too-long": (b"0\r\nA: " + b"b" * 1020 + b"\r\n\r\n", 431),
    "trailers-too-many": (b"0\r\n" + b"A: b\r\n" * 300 + b"\r\n", 431),
    "trailers-endless": (b"0\r\n" + b"A: b\r\n" * 300, 431),
    "trailer-name-endless": (b"0\r\n" + b"A" * 5000, 431),
    "trailers-after-much-content": (b"1f4\r\n" + b"a" * 500 + b"\r\n0\r\n" + b"A: b\r\n" * 300 + b"\r\n", 431),
    "trailers-after-extensions": (b"3;" + b"e" * 1000 + b"\r\nabc\r\n0\r\nA: " + b"b" * 30 + b"\r\n\r\n", 431),
}

CASES = [
    case("limit-target-fills-head", "9112-3", _target(_TARGET_ROOM), Got("GET", "/" + "a" * _TARGET_ROOM)),
    case("limit-target-one-more", "6585-5", _target(_TARGET_ROOM + 1), 431),
    case("limit-target-too-long", "9110-15.5.15", _target(_HEAD), 414),
    case("limit-target-much-too-long", "9110-15.5.15", _target(_HEAD * 5), 414),
    case("limit-target-endless", "9110-15.5.15", b"GET /" + b"a" * _HEAD, 414),
    case("limit-target-just-fits-unfinished", "9110-15.5.15", b"GET /" + b"a" * (_HEAD - 5), End.WAITING),
    case("limit-query-too-long", "9110-15.5.15", b"GET /?" + b"a=b&" * _HEAD, 414),
    case("limit-method-endless", "9110-15.5.15", b"A" * (_HEAD + 1), 414),
    case("limit-method-unknown-too-long-target", "9110-15.5.15", b"FETCH /" + b"a" * _HEAD, 414),
    case("limit-absolute-too-long", "9110-15.5.15", b"GET http://h/" + b"a" * _HEAD, 414),
    case("limit-absolute-host-too-long", "9110-15.5.15", b"GET http://" + b"h" * _HEAD, 414),
    case("limit-value-fills-head", "6585-5", _value(_VALUE_ROOM), Got("GET", "/")),
    case("limit-value-one-more", "6585-5", _value(_VALUE_ROOM + 1), 431),
    case("limit-value-endless", "6585-5", b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * _HEAD, 431),
    case("limit-value-blank-endless", "6585-5", b"GET / HTTP/1.1\r\nHost: h\r\nA:" + b" " * _HEAD, 431),
    case("limit-name-endless", "6585-5", b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a" * _HEAD, 431),
    case("limit-host-endless", "6585-5", b"GET / HTTP/1.1\r\nHost: " + b"h" * _HEAD, 431),
    case("limit-length-endless", "6585-5", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"0" * _HEAD, 431),
    case("limit-many-short-fields", "6585-5", get(*[b"a:"] * _HEAD), 431),
    case("limit-large-and-bad-host", "6585-5", head(b"GET / HTTP/1.1", b"Host: a/b", b"A: " + b"b" * _HEAD), 431),
    case("limit-fields-full", "6585-5", get(*[b"a: b"] * (_FIELDS - 1)), Got("GET", "/")),
    case("limit-fields-one-more", "6585-5", get(*[b"a: b"] * _FIELDS), 431),
    case("limit-fields-many", "6585-5", get(*[b"a: b"] * 100), 431),
    case("limit-empty-lines-do-not-count", "9112-2.2", b"\r\n" * _HEAD + _value(_VALUE_ROOM), Got("GET", "/")),
    case("limit-second-request", "6585-5", get() + _value(_VALUE_ROOM + 1), Got("GET", "/"), 431),
    case("limit-each-request-anew", "6585-5", _value(_VALUE_ROOM) * 3, *[Got("GET", "/")] * 3),
    # content
    case("limit-body-full", "9110-15.5.14", _length(_BODY, b"a" * _BODY), Got("POST", "/", b"a" * _BODY)),
    case("limit-body-one-more", "9110-15.5.14", _length(_BODY + 1, b"a" * (_BODY + 1)), 413),
    case("limit-body-announced", "9110-15.5.14", _length(_BODY + 1), 413),
    case("limit-body-huge", "9110-15.5.14", _length(2**63), 413),
    case("limit-body-largest-number", "9110-15.5.14", _length(2**64 - 1), 413),
    case("limit-body-with-get", "9110-15.5.14", get(b"Content-Length: 1001"), 413),
    case("limit-body-of-1.0", "9110-15.5.14", head(b"POST / HTTP/1.0", b"Content-Length: 1001"), 413),
    case("limit-body-and-close", "9110-15.5.14", post(b"Connection: close", b"Content-Length: 1001"), 413),
    case(
        "limit-body-and-upgrade",
        "9110-15.5.14",
        post(b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 1001"),
        413,
    ),
    case("limit-chunked-full", "9110-15.5.14", _chunks(_BODY), Got("POST", "/", b"a" * _BODY)),
    case("limit-chunked-one-more", "9110-15.5.14", _chunks(_BODY + 1), 413),
    case("limit-chunked-full-in-two", "9110-15.5.14", _chunks(1, _BODY - 1), Got("POST", "/", b"a" * _BODY)),
    case("limit-chunked-one-more-in-two", "9110-15.5.14", _chunks(_BODY, 1), 413),
    case("limit-chunked-many", "9110-15.5.14", _chunks(*[10] * 101), 413),
    case("limit-chunk-announced", "9110-15.5.14", post(b"Transfer-Encoding: chunked", body=b"3e9\r\n"), 413),
    case("limit-chunk-huge", "9110-15.5.14", post(b"Transfer-Encoding: chunked", body=b"fffffffffffffff\r\n"), 413),
    case(
        "limit-chunk-then-fault",
        "9110-15.5.14",
        post(b"Transfer-Encoding: chunked", body=b"3e8\r\n" + b"a" * 1000 + b"\r\n1\r\nab"),
        413,
    ),
    case(
        "limit-fault-then-chunk",
        "9112-7.1",
        post(b"Transfer-Encoding: chunked", body=b"1\r\nabc\r\n3e9\r\n"),
        400,
    ),
    # what chunks may cost besides
    *(
        case(f"limit-{name}", "9112-7.1.1", post(b"Transfer-Encoding: chunked", body=body), outcome)
        for name, (body, outcome) in _EXTRA.items()
    ),
    case("limit-tiny-chunks", "9112-7.1", _chunks(*[1] * 1000), Got("POST", "/", b"a" * 1000)),
    case("limit-after-limit", "9110-15.5.14", _length(1001, b"a" * 1001) + get(), 413),
]
