"""The limits: 414, 431 by bytes and by count, 413 (RFC 9112, 3; RFC 9110, 15.5.14 and 15.5.15; RFC 6585, 5)."""

from tests.wire.case import HOST, LIMITS, End, Got, case, get, head, post

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
    case(
        "limit-chunk-extension-long",
        "9112-7.1.1",
        post(b"Transfer-Encoding: chunked", body=b"3;" + b"e" * 1000 + b"\r\nabc\r\n0\r\n\r\n"),
        Got("POST", "/", b"abc"),
    ),
    case(
        "limit-chunk-extension-too-long",
        "9112-7.1.1",
        post(b"Transfer-Encoding: chunked", body=b"3;" + b"e" * 1024 + b"\r\nabc\r\n0\r\n\r\n"),
        431,
    ),
    case(
        "limit-chunk-extension-endless",
        "9112-7.1.1",
        post(b"Transfer-Encoding: chunked", body=b"3;" + b"e" * 5000),
        431,
    ),
    case(
        "limit-chunk-extensions-of-many",
        "9112-7.1.1",
        post(b"Transfer-Encoding: chunked", body=b"1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\na\r\n" * 100 + b"0\r\n\r\n"),
        431,
    ),
    case(
        "limit-chunk-extension-after-much-content",
        "9112-7.1.1",
        post(
            b"Transfer-Encoding: chunked",
            body=b"1f4\r\n" + b"a" * 500 + b"\r\n1;" + b"e" * 1100 + b"\r\na\r\n0\r\n\r\n",
        ),
        431,
    ),
    case(
        "limit-chunk-size-zeros-endless",
        "9112-7.1",
        post(b"Transfer-Encoding: chunked", body=b"0" * 1100),
        431,
    ),
    case(
        "limit-trailers-long",
        "9112-7.1.2",
        post(b"Transfer-Encoding: chunked", body=b"0\r\nA: " + b"b" * 900 + b"\r\n\r\n"),
        Got("POST", "/"),
    ),
    case(
        "limit-trailer-too-long",
        "9112-7.1.2",
        post(b"Transfer-Encoding: chunked", body=b"0\r\nA: " + b"b" * 1100 + b"\r\n\r\n"),
        431,
    ),
    case(
        "limit-trailers-too-many",
        "9112-7.1.2",
        post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"A: b\r\n" * 300 + b"\r\n"),
        431,
    ),
    case(
        "limit-trailers-after-much-content",
        "9112-7.1.2",
        post(b"Transfer-Encoding: chunked", body=b"1f4\r\n" + b"a" * 500 + b"\r\n0\r\n" + b"A: b\r\n" * 300 + b"\r\n"),
        431,
    ),
    case("limit-tiny-chunks", "9112-7.1", _chunks(*[1] * 1000), Got("POST", "/", b"a" * 1000)),
    case("limit-after-limit", "9110-15.5.14", _length(1001, b"a" * 1001) + get(), 413),
]
