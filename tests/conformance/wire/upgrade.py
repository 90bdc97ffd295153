"""Upgrade, which an HTTP/1.1 server may ignore, and must then parse on as HTTP/1.1 (RFC 9110, 7.8)."""

from tests.conformance.wire.case import EMPTY, HOST, POSTED, ROOT, End, Got, case, get, head, post

_UPGRADE = (b"Connection: upgrade", b"Upgrade: x")
_H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
_WEBSOCKET = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)
_CHUNKED = b"Transfer-Encoding: chunked"

CASES = [
    case("upgrade", "9110-7.8", get(*_UPGRADE), ROOT),
    case("upgrade-h2c", "9110-7.8", get(*_H2C), ROOT),
    case("upgrade-websocket", "9110-7.8", get(*_WEBSOCKET), ROOT),
    case(
        "upgrade-tls",
        "2817-3.1",
        head(b"OPTIONS * HTTP/1.1", HOST, b"Connection: Upgrade", b"Upgrade: TLS/1.0"),
        Got("OPTIONS", "*"),
    ),
    case("upgrade-http-2.0", "9110-7.8", get(b"Connection: Upgrade", b"Upgrade: HTTP/2.0"), ROOT),
    case("upgrade-list", "9110-7.8", get(b"Connection: Upgrade", b"Upgrade: a/1, b/2"), ROOT),
    case("upgrade-any-case", "9110-7.8", get(b"CONNECTION: UPGRADE", b"UPGRADE: X"), ROOT),
    case("upgrade-field-first", "9110-7.8", get(b"Upgrade: x", b"Connection: upgrade"), ROOT),
    case("upgrade-listed", "9110-7.8", get(b"Connection: keep-alive, Upgrade", b"Upgrade: x"), ROOT),
    case("upgrade-without-option", "9110-7.8", get(b"Upgrade: h2c"), ROOT),
    case("upgrade-without-field", "9110-7.8", get(b"Connection: upgrade"), ROOT),
    case("upgrade-empty", "9110-7.8", get(b"Connection: upgrade", b"Upgrade:"), ROOT),
    case("upgrade-for-a-proxy", "9110-7.8", get(b"Proxy-Connection: upgrade", b"Upgrade: x"), ROOT),
    case("upgrade-length", "9110-7.8", post(*_UPGRADE, b"Content-Length: 3", body=b"abc"), POSTED),
    case("upgrade-length-zero", "9110-7.8", post(*_UPGRADE, b"Content-Length: 0"), EMPTY),
    case(
        "upgrade-length-like-request",
        "9110-7.8",
        post(*_UPGRADE, b"Content-Length: 24", body=b"GET /marker HTTP/1.1\r\n\r\n"),
        Got("POST", "/", b"GET /marker HTTP/1.1\r\n\r\n"),
    ),
    case("upgrade-get-length", "9110-7.8", get(*_H2C, b"Content-Length: 3") + b"abc", Got("GET", "/", b"abc")),
    case("upgrade-chunked", "9110-7.8", post(*_UPGRADE, _CHUNKED, body=b"3\r\nabc\r\n0\r\n\r\n"), POSTED),
    case(
        "upgrade-chunked-trailer", "9110-7.8", post(*_UPGRADE, _CHUNKED, body=b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"), POSTED
    ),
    case("upgrade-chunked-bad", "9110-7.8", post(*_UPGRADE, _CHUNKED, body=b"z\r\n"), 400),
    case("upgrade-chunked-too-large", "9110-7.8", post(*_UPGRADE, _CHUNKED, body=b"3e9\r\n"), 413),
    case("upgrade-unfinished-length", "9110-7.8", post(*_UPGRADE, b"Content-Length: 4", body=b"abc"), End.WAITING),
    case("upgrade-unfinished-chunked", "9110-7.8", post(*_UPGRADE, _CHUNKED, body=b"3\r\nab"), End.WAITING),
    case("upgrade-followed", "9110-7.8", get(*_UPGRADE) + get(), ROOT, ROOT),
    case(
        "upgrade-length-followed", "9110-7.8", post(*_UPGRADE, b"Content-Length: 3", body=b"abc") + get(), POSTED, ROOT
    ),
    case(
        "upgrade-chunked-followed",
        "9110-7.8",
        post(*_UPGRADE, _CHUNKED, body=b"3\r\nabc\r\n0\r\n\r\n") + get(),
        POSTED,
        ROOT,
    ),
    case("upgrade-followed-by-preface", "9113-3.4", get(*_H2C) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ROOT, End.SILENT),
    case("upgrade-followed-by-frames", "6455-5.2", get(*_WEBSOCKET) + b"\x81\x85\x37\xfa\x21\x3d", ROOT, 400),
    case(
        "upgrade-close", "9112-9.6", get(b"Connection: upgrade, close", b"Upgrade: x"), ROOT._replace(keep_alive=False)
    ),
    case("upgrade-of-1.0", "9110-7.8", head(b"GET / HTTP/1.0", *_UPGRADE), ROOT._replace(keep_alive=False)),
    case(
        "upgrade-of-1.0-kept",
        "9110-7.8",
        head(b"GET / HTTP/1.0", b"Connection: keep-alive, upgrade", b"Upgrade: x"),
        ROOT,
    ),
    case("upgrade-without-host", "9112-3.2", head(b"GET / HTTP/1.1", *_UPGRADE), 400),
    case("upgrade-expects-unknown", "9110-10.1.1", get(*_UPGRADE, b"Expect: x"), 417),
    case("upgrade-and-both-framings", "9112-6.3", post(*_UPGRADE, b"Content-Length: 3", _CHUNKED, body=b"abc"), 400),
    case(
        "upgrade-and-coding", "9112-6.1", post(*_UPGRADE, b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501
    ),
    case("upgrade-head", "9110-7.8", head(b"HEAD / HTTP/1.1", HOST, *_UPGRADE), Got("HEAD", "/")),
]
