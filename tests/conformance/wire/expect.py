"""The Expect field (RFC 9110, 10.1.1)."""

from tests.conformance.wire.case import EMPTY, POSTED, ROOT, End, Got, case, get, head, post

_LENGTH = b"Content-Length: 3"
_CONTINUE = b"Expect: 100-continue"

CASES = [
    case("expect-continue", "9110-10.1.1", post(_CONTINUE, _LENGTH, body=b"abc"), POSTED),
    case("expect-continue-any-case", "9110-10.1.1", post(b"eXpEcT: 100-Continue", _LENGTH, body=b"abc"), POSTED),
    case("expect-continue-whitespace", "9110-10.1.1", post(b"Expect: \t100-continue\t", _LENGTH, body=b"abc"), POSTED),
    case(
        "expect-continue-chunked",
        "9110-10.1.1",
        post(_CONTINUE, b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
        POSTED,
    ),
    case("expect-continue-no-content", "9110-10.1.1", post(_CONTINUE), EMPTY),
    case("expect-continue-length-zero", "9110-10.1.1", post(_CONTINUE, b"Content-Length: 0"), EMPTY),
    case("expect-continue-get", "9110-10.1.1", get(_CONTINUE), ROOT),
    case("expect-continue-waits", "9110-10.1.1", post(_CONTINUE, _LENGTH), End.WAITING_CONTENT),
    case(
        "expect-continue-waits-chunked",
        "9110-10.1.1",
        post(_CONTINUE, b"Transfer-Encoding: chunked"),
        End.WAITING_CONTENT,
    ),
    case("expect-continue-some-content", "9110-10.1.1", post(_CONTINUE, _LENGTH, body=b"a"), End.WAITING),
    case("expect-continue-twice-in-pipeline", "9110-10.1.1", post(_CONTINUE, _LENGTH, body=b"abc") * 2, POSTED, POSTED),
    case("expect-continue-too-large", "9110-10.1.1", post(_CONTINUE, b"Content-Length: 1001"), 413),
    case("expect-continue-bad-length", "9110-10.1.1", post(_CONTINUE, b"Content-Length: x"), 400),
    case(
        "expect-continue-close",
        "9110-10.1.1",
        post(_CONTINUE, _LENGTH, b"Connection: close", body=b"abc"),
        POSTED._replace(keep_alive=False),
    ),
    case(
        "expect-continue-upgrade",
        "9110-10.1.1",
        post(_CONTINUE, _LENGTH, b"Connection: upgrade", b"Upgrade: x", body=b"abc"),
        POSTED,
    ),
    case("expect-unknown", "9110-10.1.1", post(b"Expect: teapot", _LENGTH, body=b"abc"), 417),
    case("expect-unknown-get", "9110-10.1.1", get(b"Expect: teapot"), 417),
    case("expect-100", "9110-10.1.1", post(b"Expect: 100", _LENGTH, body=b"abc"), 417),
    case("expect-continue-parameter", "9110-10.1.1", post(b"Expect: 100-continue;a=b", _LENGTH, body=b"abc"), 417),
    case(
        "expect-continue-and-unknown", "9110-10.1.1", post(b"Expect: 100-continue, teapot", _LENGTH, body=b"abc"), 417
    ),
    case("expect-unknown-second-line", "9110-10.1.1", post(_CONTINUE, b"Expect: teapot", _LENGTH, body=b"abc"), 417),
    case("expect-continue-misspelt", "9110-10.1.1", post(b"Expect: 100-continues", _LENGTH, body=b"abc"), 417),
    case(
        "expect-of-1.0",
        "9110-10.1.1",
        head(b"POST / HTTP/1.0", _CONTINUE, _LENGTH) + b"abc",
        POSTED._replace(keep_alive=False),
    ),
    case("expect-of-1.0-waits", "9110-10.1.1", head(b"POST / HTTP/1.0", _CONTINUE, _LENGTH), End.WAITING),
    case(
        "expect-unknown-of-1.0",
        "9110-10.1.1",
        head(b"GET / HTTP/1.0", b"Expect: teapot"),
        Got("GET", "/", keep_alive=False),
    ),
]
