"""Field lines: names, values, whitespace, folding (RFC 9112, 5; RFC 9110, 5)."""

from tests.conformance.wire.case import HOST, ROOT, End, Got, case, get, head


def _fields(*fields: tuple[str, str]) -> Got:
    return Got("GET", "/", fields=(("host", "h"), *fields))


CASES = [
    # values
    case("field", "9112-5", get(b"A: b"), _fields(("a", "b"))),
    case("field-empty-value", "9110-5.5", get(b"A:"), _fields(("a", ""))),
    case("field-blank-value", "9110-5.5", get(b"A: \t "), _fields(("a", ""))),
    case("field-no-space", "9112-5.1", get(b"A:b"), _fields(("a", "b"))),
    case("field-whitespace-around", "9112-5.1", get(b"A: \t b c \t "), _fields(("a", "b c"))),
    case("field-tab-inside", "9110-5.5", get(b"A: b\tc"), _fields(("a", "b\tc"))),
    case("field-colons-in-value", "9112-5", get(b"A: b: c:d"), _fields(("a", "b: c:d"))),
    case("field-quoted-value", "9110-5.6.4", get(b'A: "b, c\\" d"'), _fields(("a", '"b, c\\" d"'))),
    case(
        "field-visible-ascii",
        "9110-5.5",
        get(b"A: " + bytes(range(33, 127))),
        _fields(("a", bytes(range(33, 127)).decode())),
    ),
    case("field-obs-text", "9110-5.5", get(b"A: caf\xe9"), _fields(("a", "caf\xe9"))),
    case("field-utf-8-stays-latin-1", "9110-5.5", get("A: café".encode()), _fields(("a", "cafÃ©"))),
    case(
        "field-all-obs-text",
        "9110-5.5",
        get(b"A: x" + bytes(range(0x80, 0x100))),
        _fields(("a", "x" + bytes(range(0x80, 0x100)).decode("latin-1"))),
    ),
    case("field-nbsp-is-not-whitespace", "9110-5.6.3", get(b"A: \xa0b\xa0"), _fields(("a", "\xa0b\xa0"))),
    case("field-next-line-is-no-line-end", "9110-5.5", get(b"A: b\x85c"), _fields(("a", "b\x85c"))),
    case("field-value-of-500", "9110-5.4", get(b"A: " + b"b" * 500), _fields(("a", "b" * 500))),
    # names
    case("field-name-token", "9110-5.6.2", get(b"!#$%&'*+-.^_`|~09azAZ: b"), _fields(("!#$%&'*+-.^_`|~09azaz", "b"))),
    case("field-name-digit", "9110-5.1", get(b"1: b"), _fields(("1", "b"))),
    case("field-name-any-case", "9110-5.1", get(b"X-aBc: D"), _fields(("x-abc", "D"))),
    case("field-name-of-500", "9110-5.4", get(b"a" * 500 + b": b"), _fields(("a" * 500, "b"))),
    case("field-twice", "9110-5.3", get(b"A: b", b"A: c"), _fields(("a", "b"), ("a", "c"))),
    case(
        "field-twice-other-case",
        "9110-5.3",
        get(b"A: b", b"B: x", b"a: c"),
        _fields(("a", "b"), ("b", "x"), ("a", "c")),
    ),
    case("field-underscore-is-not-dash", "9110-5.1", get(b"X_A: b", b"X-A: c"), _fields(("x_a", "b"), ("x-a", "c"))),
    case(
        "field-underscore-length-is-none",
        "9112-6.3",
        get(b"Content_Length: 3"),
        _fields(("content_length", "3")),
    ),
    case(
        "field-underscore-coding-is-none",
        "9112-6.1",
        get(b"Transfer_Encoding: chunked"),
        _fields(("transfer_encoding", "chunked")),
    ),
    case(
        "field-before-host",
        "9110-5.3",
        head(b"GET / HTTP/1.1", b"A: b", HOST),
        Got("GET", "/", fields=(("a", "b"), ("host", "h"))),
    ),
    case("field-proxy-stays-a-field", "9110-5.1", get(b"Proxy: x"), _fields(("proxy", "x"))),
    # refused names
    case("field-no-colon", "9112-5", get(b"A"), 400),
    case("field-no-colon-last", "9112-5", head(b"GET / HTTP/1.1", b"Host"), 400),
    case("field-name-empty", "9112-5", get(b": b"), 400),
    case("field-colon-alone", "9112-5", get(b":"), 400),
    case("field-space-before-colon", "9112-5.1", get(b"A : b"), 400),
    case("field-tab-before-colon", "9112-5.1", get(b"A\t: b"), 400),
    case("field-space-in-name", "9112-5", get(b"A b: c"), 400),
    case("field-name-8-bit", "9110-5.1", get(b"caf\xe9: b"), 400),
    case("field-name-nul", "9110-5.1", get(b"A\x00: b"), 400),
    case("field-name-nul-first", "9110-5.1", get(b"\x00A: b"), 400),
    case("field-name-control", "9110-5.1", get(b"A\x01B: b"), 400),
    case("field-name-delete", "9110-5.1", get(b"A\x7f: b"), 400),
    case("field-name-vertical-tab", "9110-5.1", get(b"A\x0b: b"), 400),
    *(
        case(f"field-name-{ord(char):#x}", "9110-5.6.2", get(b"A%bB: c" % char.encode()), 400)
        for char in '"(),/;<=>?@[\\]{}'
    ),
    # refused values
    *(
        case(f"field-value-{code:#04x}", "9110-5.5", get(b"A: b%cc" % code), 400)
        for code in (0, 1, 7, 8, 0x0B, 0x0C, 0x0E, 0x1B, 0x1F, 0x7F)
    ),
    case("field-value-nul-first", "9110-5.5", get(b"A: \x00"), 400),
    case("field-value-nul-last", "9110-5.5", get(b"A: b\x00"), 400),
    # line ends and folding
    case("field-bare-lf", "9112-2.2", b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n", 400),
    case("field-bare-lf-last", "9112-2.2", b"GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
    case("field-bare-cr", "9112-2.2", get(b"A: b\rC: d"), 400),
    case("field-bare-cr-in-name", "9112-2.2", get(b"A\rB: c"), 400),
    case("field-bare-cr-before-space", "9112-2.2", get(b"A: b\r c"), 400),
    case("field-two-crs", "9112-2.2", b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", 400),
    case("field-empty-line-bare-lf", "9112-2.2", b"GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
    case("field-empty-line-bare-cr", "9112-2.2", b"GET / HTTP/1.1\r\nHost: h\r\n\rX", 400),
    case("field-lf-cr", "9112-2.2", b"GET / HTTP/1.1\r\nHost: h\n\r\n\r", 400),
    case("field-folded-space", "9112-5.2", get(b"A: b\r\n c"), 400),
    case("field-folded-tab", "9112-5.2", get(b"A: b\r\n\tc"), 400),
    case("field-folded-blank", "9112-5.2", get(b"A: b\r\n "), 400),
    case("field-folded-empty-value", "9112-5.2", get(b"A:\r\n b"), 400),
    case("field-folded-first", "9112-2.2", head(b"GET / HTTP/1.1", b" Host: h"), 400),
    case("field-first-blank", "9112-2.2", head(b"GET / HTTP/1.1", b" ", HOST), 400),
    case("field-first-tab", "9112-2.2", head(b"GET / HTTP/1.1", b"\tA: b", HOST), 400),
    case("field-like-a-request-line", "9112-5", head(b"GET / HTTP/1.1", HOST, b"GET /marker HTTP/1.1"), 400),
    case("field-like-a-chunk", "9112-5", get(b"5"), 400),
    case("field-unfinished-name", "9112-8", b"GET / HTTP/1.1\r\nHos", End.WAITING),
    case("field-unfinished-value", "9112-8", b"GET / HTTP/1.1\r\nHost: h", End.WAITING),
    case("field-unfinished-line-end", "9112-8", b"GET / HTTP/1.1\r\nHost: h\r", End.WAITING),
    case("field-unfinished-section", "9112-8", b"GET / HTTP/1.1\r\nHost: h\r\n", End.WAITING),
    case("field-unfinished-empty-line", "9112-8", b"GET / HTTP/1.1\r\nHost: h\r\n\r", End.WAITING),
    case("field-none-of-1.0", "9112-5", b"GET / HTTP/1.0\r\n\r\n", Got("GET", "/", keep_alive=False, fields=())),
    case("field-accepted-after-empty-lines", "9112-2.2", b"\r\n" + get(b"A: b"), _fields(("a", "b"))),
    case(
        "field-cookie-lines",
        "6265-4.2",
        get(b"Cookie: a=1", b"Cookie: b=2"),
        _fields(("cookie", "a=1"), ("cookie", "b=2")),
    ),
    case("field-line-of-root", "9112-5", get(), ROOT),
]
