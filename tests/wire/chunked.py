"""The chunked coding: sizes, extensions, data, trailers (RFC 9112, 7.1)."""

from tests.wire.case import EMPTY, HOST, POSTED, End, Got, case, head, post


def _chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def _posted(body: bytes) -> Got:
    return Got("POST", "/", body)


_TAKEN = {
    "one": (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "none": (b"0\r\n\r\n", b""),
    "two": (b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
    "of-one-byte": (b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
    "size-leading-zeros": (b"0003\r\nabc\r\n0\r\n\r\n", b"abc"),
    "size-many-leading-zeros": (b"0" * 100 + b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "size-lower-case": (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "size-upper-case": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "size-two-digits": (b"1F\r\n" + b"x" * 31 + b"\r\n0\r\n\r\n", b"x" * 31),
    "last-of-many-zeros": (b"3\r\nabc\r\n000\r\n\r\n", b"abc"),
    "data-line-ends": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "data-ends-in-cr": (b"1\r\n\r\r\n0\r\n\r\n", b"\r"),
    "data-ends-in-crlf": (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    "data-many-line-ends": (b"c8\r\n" + b"\r\n" * 100 + b"\r\n0\r\n\r\n", b"\r\n" * 100),
    "data-like-last-chunk": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    "data-like-request": (b"17\r\nGET /marker HTTP/1.1\r\n\r\r\n0\r\n\r\n", b"GET /marker HTTP/1.1\r\n\r"),
    "data-all-bytes": (b"100\r\n" + bytes(range(256)) + b"\r\n0\r\n\r\n", bytes(range(256))),
    "extension": (b"3;a\r\nabc\r\n0\r\n\r\n", b"abc"),
    "extension-value": (b"3;a=b\r\nabc\r\n0\r\n\r\n", b"abc"),
    "extension-quoted": (b'3;a="b c"\r\nabc\r\n0\r\n\r\n', b"abc"),
    "extension-quoted-semicolon": (b'3;a=";"\r\nabc\r\n0\r\n\r\n', b"abc"),
    "extensions": (b"3;a=b;c;d=e\r\nabc\r\n0\r\n\r\n", b"abc"),
    "extension-of-last": (b"3\r\nabc\r\n0;a=b\r\n\r\n", b"abc"),
    "trailer": (b"3\r\nabc\r\n0\r\nA: b\r\n\r\n", b"abc"),
    "trailers": (b"3\r\nabc\r\n0\r\nA: b\r\nC: d\r\nE:\r\n\r\n", b"abc"),
    "trailer-without-data": (b"0\r\nA: b\r\n\r\n", b""),
    "crlf-after": (b"3\r\nabc\r\n0\r\n\r\n\r\n", b"abc"),
}

# Whatever is wrong with the chunks, the message's end can't be known.
_REFUSED = {
    "size-missing": b"\r\nabc\r\n0\r\n\r\n",
    "size-not-hexadecimal": b"g\r\nabc\r\n0\r\n\r\n",
    "size-0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size-plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size-minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "size-minus-zero": b"-0\r\n\r\n",
    "size-fraction": b"3.0\r\nabc\r\n0\r\n\r\n",
    "size-underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "size-h": b"3h\r\nabc\r\n0\r\n\r\n",
    "size-comma": b"3,3\r\nabc\r\n0\r\n\r\n",
    "size-leading-space": b" 3\r\nabc\r\n0\r\n\r\n",
    "size-leading-tab": b"\t3\r\nabc\r\n0\r\n\r\n",
    "size-trailing-space": b"3 \r\nabc\r\n0\r\n\r\n",
    "size-trailing-tab": b"3\t\r\nabc\r\n0\r\n\r\n",
    "size-space-before-extension": b"3 ;a=b\r\nabc\r\n0\r\n\r\n",
    "size-nul": b"3\x00\r\nabc\r\n0\r\n\r\n",
    "size-8-bit": b"\xb2\r\nabc\r\n0\r\n\r\n",
    "size-quoted": b'"3"\r\nabc\r\n0\r\n\r\n',
    "size-over-64-bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "size-far-over-64-bits": b"f" * 64 + b"\r\nabc\r\n0\r\n\r\n",
    "size-bare-lf": b"3\nabc\r\n0\r\n\r\n",
    "size-bare-cr": b"3\rabc\r\n0\r\n\r\n",
    "size-two-crs": b"3\r\r\nabc\r\n0\r\n\r\n",
    "empty-line-first": b"\r\n3\r\nabc\r\n0\r\n\r\n",
    "data-too-long": b"3\r\nabcd\r\n0\r\n\r\n",
    "data-too-short": b"3\r\nab\r\n0\r\n\r\n",
    "data-no-line-end": b"3\r\nabc0\r\n\r\n",
    "data-bare-lf": b"3\r\nabc\n0\r\n\r\n",
    "data-bare-cr": b"3\r\nabc\r0\r\n\r\n",
    "data-two-line-ends": b"3\r\nabc\r\n\r\n0\r\n\r\n",
    "data-nul-for-line-end": b"3\r\nabc\x00\x000\r\n\r\n",
    "not-chunks": b"abc=def&ghi\r\n\r\n",
    "not-chunks-but-json": b'{"a": 1}\r\n\r\n',
    "next-request-instead": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "last-bare-lf": b"3\r\nabc\r\n0\n\n",
    "last-end-bare-lf": b"3\r\nabc\r\n0\r\n\n",
    "last-end-bare-cr": b"3\r\nabc\r\n0\r\n\rX",
    "last-followed-by-request": b"3\r\nabc\r\n0\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "last-followed-by-data": b"3\r\nabc\r\n0\r\nabc\r\n\r\n",
    "extension-nul": b"3;a\x00\r\nabc\r\n0\r\n\r\n",
    "extension-bare-lf": b"3;a\nabc\r\n0\r\n\r\n",
    "extension-bare-cr": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "extension-quoted-lf": b'3;a="\nabc\r\n0\r\n\r\n',
    "extension-quoted-crlf": b'3;a="\r\nabc\r\n0\r\n\r\n',
    "extension-without-semicolon": b"3 a\r\nabc\r\n0\r\n\r\n",
    "trailer-no-colon": b"0\r\nA\r\n\r\n",
    "trailer-name-empty": b"0\r\n: b\r\n\r\n",
    "trailer-space-before-colon": b"0\r\nA : b\r\n\r\n",
    "trailer-folded": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer-leading-space": b"0\r\n A: b\r\n\r\n",
    "trailer-bare-lf": b"0\r\nA: b\n\r\n",
    "trailer-bare-cr": b"0\r\nA: b\rC: d\r\n\r\n",
    "trailer-nul": b"0\r\nA: \x00\r\n\r\n",
    "trailer-end-bare-lf": b"0\r\nA: b\r\n\n",
}

_UNFINISHED = {
    "nothing": b"",
    "in-size": b"3",
    "after-size": b"3\r\n",
    "in-data": b"3\r\nab",
    "after-data": b"3\r\nabc",
    "after-data-cr": b"3\r\nabc\r",
    "after-chunk": b"3\r\nabc\r\n",
    "in-last": b"3\r\nabc\r\n0",
    "after-last": b"3\r\nabc\r\n0\r\n",
    "after-last-cr": b"3\r\nabc\r\n0\r\n\r",
    "in-trailer": b"0\r\nA: b",
    "after-trailer": b"0\r\nA: b\r\n",
    "in-extension": b"3;a",
}

_HEAD_FIELDS = (("host", "h"), ("transfer-encoding", "chunked"))


def _trailers(*lines: bytes) -> bytes:
    return _chunked(b"3\r\nabc\r\n0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


CASES = [
    *(
        case(f"chunked-{name}", "9112-7.1", _chunked(body), _posted(content))
        for name, (body, content) in _TAKEN.items()
    ),
    *(case(f"chunked-{name}", "9112-7.1", _chunked(body), 400) for name, body in _REFUSED.items()),
    *(case(f"chunked-unfinished-{name}", "9112-8", _chunked(body), End.WAITING) for name, body in _UNFINISHED.items()),
    # Trailer fields never become header fields, nor do they change what the head said.
    case("trailer-is-no-header", "9110-6.5.1", _trailers(b"X-A: b"), Got("POST", "/", b"abc", fields=_HEAD_FIELDS)),
    case(
        "trailer-host", "9110-6.5.1", _trailers(b"Host: evil"), Got("POST", "/", b"abc", host="h", fields=_HEAD_FIELDS)
    ),
    case("trailer-connection-close", "9110-6.5.1", _trailers(b"Connection: close"), POSTED),
    case("trailer-proxy-connection-close", "9110-6.5.1", _trailers(b"Proxy-Connection: close"), POSTED),
    case("trailer-upgrade", "9110-6.5.1", _trailers(b"Connection: upgrade", b"Upgrade: x"), POSTED),
    # What frames a message may not stand in its trailers at all: who sends that wants two servers to disagree.
    case("trailer-length", "9110-6.5.1", _trailers(b"Content-Length: 5"), 400),
    case("trailer-coding", "9110-6.5.1", _trailers(b"Transfer-Encoding: chunked"), 400),
    case("trailer-expect", "9110-6.5.1", _trailers(b"Expect: teapot"), POSTED),
    case("trailer-many-fields", "9110-6.5.1", _trailers(*[b"a: b"] * 50), POSTED),
    case(
        "trailer-announced",
        "9110-6.6.2",
        post(b"Transfer-Encoding: chunked", b"Trailer: A", body=b"0\r\nA: b\r\n\r\n"),
        EMPTY,
    ),
    case(
        "chunked-with-put",
        "9112-7.1",
        head(b"PUT /a HTTP/1.1", HOST, b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
        Got("PUT", "/a", b"abc"),
    ),
]
