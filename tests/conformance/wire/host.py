"""The Host field: once, and of the grammar `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 9112, 3.2)."""

from tests.conformance.wire.case import Got, case, head

_TAKEN = {
    "name": b"example.org",
    "single-label": b"h",
    "upper-case": b"EXAMPLE.ORG",
    "port": b"example.org:8080",
    "port-five-digits": b"example.org:65535",
    "port-zero": b"example.org:0",
    "port-leading-zeros": b"h:00080",
    "port-empty": b"example.org:",
    "trailing-dot": b"example.org.",
    "underscore": b"my_service",
    "hyphen-first": b"-a",
    "digits": b"12345",
    "ipv4": b"127.0.0.1",
    "ipv4-port": b"127.0.0.1:80",
    "ipv4-out-of-range-is-a-name": b"999.1.1.1",
    "ipv6": b"[2001:db8::1]",
    "ipv6-loopback": b"[::1]",
    "ipv6-any-port": b"[::]:80",
    "ipv6-full": b"[1:2:3:4:5:6:7:8]",
    "ipv6-with-ipv4": b"[::ffff:1.2.3.4]",
    "ip-future": b"[v1.a:b]",
    "percent-encoded": b"caf%C3%A9.example",
    "sub-delims": b"a!$&'()*+;=b",
    "empty": b"",
}

_REFUSED = {
    "space-inside": b"a b",
    "tab-inside": b"a\tb",
    "comma": b"a,b",
    "comma-space": b"a, b",
    "path": b"h/a",
    "slash-last": b"h/",
    "query": b"h?a",
    "fragment": b"h#a",
    "userinfo": b"u@h",
    "password": b"u:p@h",
    "scheme": b"http://h",
    "backslash": b"h\\a",
    "quotes": b'"h"',
    "angle-brackets": b"<h>",
    "braces": b"{h}",
    "pipe": b"a|b",
    "caret": b"a^b",
    "backtick": b"a`b",
    "8-bit": b"caf\xe9",
    "utf-8": "café".encode(),
    "percent-alone": b"a%",
    "percent-bad-digits": b"a%zz",
    "port-letters": b"h:http",
    "port-space": b"h: 80",
    "port-signed": b"h:+80",
    "port-negative": b"h:-1",
    "port-65536": b"h:65536",
    "port-six-digits": b"h:000080",
    "port-huge": b"h:" + b"9" * 400,
    "two-ports": b"h:80:80",
    "two-colons": b"h::80",
    "ipv6-bare": b"::1",
    "ipv6-unclosed": b"[::1",
    "ipv6-unopened": b"::1]",
    "ipv6-empty": b"[]",
    "ipv6-bad-digit": b"[::g]",
    "ipv6-too-long": b"[1:2:3:4:5:6:7:8:9]",
    "ipv6-two-elisions": b"[1::2::3]",
    "ipv6-zone": b"[fe80::1%25eth0]",
    "ipv6-zone-raw": b"[fe80::1%eth0]",
    "ipv6-prefix-length": b"[::1/64]",
    "ipv6-text-after": b"[::1]a",
    "ipv6-text-before": b"a[::1]",
    "ipv6-space": b"[ ::1]",
    "ipv6-bad-port": b"[::1]:x",
    "ipv6-two-literals": b"[::1][::1]",
    "ipv4-in-brackets": b"[127.0.0.1]",
    "name-in-brackets": b"[h]",
    "ip-future-no-dot": b"[v1]",
    "ip-future-empty": b"[v1.]",
    "nul": b"h\x00",
    "control": b"h\x01",
    "delete": b"h\x7f",
}


def _get(value: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value


def _fields(*fields: bytes) -> bytes:
    return head(b"GET / HTTP/1.1", *fields)


CASES = [
    *(
        case(f"host-{name}", "9110-7.2", _get(value), Got("GET", "/", host=value.decode()))
        for name, value in _TAKEN.items()
    ),
    *(case(f"host-{name}", "9110-7.2", _get(value), 400) for name, value in _REFUSED.items()),
    case("host-missing", "9112-3.2", _fields(), 400),
    case("host-missing-other-fields", "9112-3.2", _fields(b"Accept: */*", b"X-Host: h"), 400),
    case("host-forwarded-is-no-host", "9112-3.2", _fields(b"X-Forwarded-Host: h"), 400),
    case("host-twice", "9112-3.2", _fields(b"Host: h", b"Host: h"), 400),
    case("host-twice-different", "9112-3.2", _fields(b"Host: a", b"Host: b"), 400),
    case("host-twice-other-case", "9112-3.2", _fields(b"Host: h", b"HOST: h"), 400),
    case("host-twice-apart", "9112-3.2", _fields(b"Host: h", b"A: b", b"Host: h"), 400),
    case("host-twice-one-empty", "9112-3.2", _fields(b"Host:", b"Host: h"), 400),
    case("host-last", "9112-3.2", _fields(b"Accept: */*", b"Host: h"), Got("GET", "/", host="h")),
    case("host-lower-case-name", "9110-5.1", _fields(b"host: h"), Got("GET", "/", host="h")),
    case("host-upper-case-name", "9110-5.1", _fields(b"HOST: h"), Got("GET", "/", host="h")),
    case("host-no-space", "9112-5", _fields(b"Host:h"), Got("GET", "/", host="h")),
    case("host-whitespace-around", "9112-5", _fields(b"Host: \t h \t"), Got("GET", "/", host="h")),
    case("host-space-before-colon", "9112-5.1", _fields(b"Host : h"), 400),
    case("host-1.0-missing", "9112-3.2", head(b"GET / HTTP/1.0"), Got("GET", "/", keep_alive=False, host="")),
    case(
        "host-1.0-given",
        "9112-3.2",
        head(b"GET / HTTP/1.0", b"Host: a.b:1"),
        Got("GET", "/", keep_alive=False, host="a.b:1"),
    ),
    case("host-1.0-bad", "9112-3.2", head(b"GET / HTTP/1.0", b"Host: a/b"), 400),
    case("host-1.0-twice", "9112-3.2", head(b"GET / HTTP/1.0", b"Host: a", b"Host: a"), 400),
    case("host-folded", "9112-5.2", _fields(b"Host: a\r\n .b"), 400),
    case("host-first-folded", "9112-5.2", _fields(b"Host:\r\n h"), 400),
]
