"""The PROXY protocol, whole, byte by byte, and with what comes behind it."""

from __future__ import annotations

import contextlib
import ipaddress
import struct

import pytest

from hypoll.protocol.peer import UNKNOWN_CLIENT
from hypoll.proxy.proxy_protocol import V1_MAX, V2, ProxyError, ProxyHeader, parse

V4 = ("192.0.2.1", 56324), ("198.51.100.9", 443)
MAPPED = ("::ffff:192.0.2.1", 56324), ("::ffff:198.51.100.9", 443)
V6 = ("2001:db8::1", 1), ("2001:db8::2", 65535)


def v2(command: int = 0x21, family: int = 0x11, addresses: bytes = b"", tlvs: bytes = b"") -> bytes:
    return V2 + struct.pack("!BBH", command, family, len(addresses + tlvs)) + addresses + tlvs


def packed(ends: tuple[tuple[str, int], tuple[str, int]]) -> bytes:
    hosts = b"".join(ipaddress.ip_address(host).packed for host, _ in ends)
    return hosts + struct.pack("!HH", *(port for _, port in ends))


UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")
TLVS = b"\x01\x00\x02h2" + b"\x04\x00\x03\x00\x00\x00" + b"\xe0\x00\x00"

GOOD = {
    "v1 tcp4": (b"PROXY TCP4 192.0.2.1 198.51.100.9 56324 443\r\n", *V4),
    "v1 tcp6": (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 1 65535\r\n", *V6),
    "v1 longest": (
        b"PROXY TCP6 ffff:f:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        ("ffff:f:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    ),
    "v1 port 0": (b"PROXY TCP4 192.0.2.1 198.51.100.9 0 0\r\n", ("192.0.2.1", 0), ("198.51.100.9", 0)),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:c633:6409 56324 443\r\n", *V4),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", UNKNOWN_CLIENT, None),
    "v1 unknown with more": (b"PROXY UNKNOWN ffff:f 1 2 anything at all\r\n", UNKNOWN_CLIENT, None),
    "v1 unknown longest": (b"PROXY UNKNOWN " + b"x" * (V1_MAX - 16) + b"\r\n", UNKNOWN_CLIENT, None),
    "v2 inet": (v2(addresses=packed(V4)), *V4),
    "v2 inet with tlvs": (v2(addresses=packed(V4), tlvs=TLVS), *V4),
    "v2 inet6": (v2(family=0x21, addresses=packed(V6)), *V6),
    "v2 inet6 with tlvs": (v2(family=0x21, addresses=packed(V6), tlvs=TLVS), *V6),
    "v2 mapped": (v2(family=0x21, addresses=packed(MAPPED)), *V4),
    "v2 unix": (v2(family=0x31, addresses=UNIX, tlvs=TLVS), UNKNOWN_CLIENT, None),
    "v2 unspec": (v2(family=0x00), UNKNOWN_CLIENT, None),
    "v2 unspec with content": (v2(family=0x00, tlvs=b"whatever it is"), UNKNOWN_CLIENT, None),
    "v2 datagrams": (v2(family=0x12, addresses=packed(V4)), UNKNOWN_CLIENT, None),
    "v2 local": (v2(command=0x20, family=0x00), None, None),
    "v2 local with content": (v2(command=0x20, family=0x11, addresses=packed(V4)), None, None),
    "v2 local of a strange family": (v2(command=0x20, family=0xFF, tlvs=b"x"), None, None),
    "v2 largest": (v2(addresses=packed(V4), tlvs=bytes(65535 - 12)), *V4),
}

BAD = {
    "http": b"GET / HTTP/1.1\r\n",
    "tls": b"\x16\x03\x01\x02\x00",
    "lower case": b"proxy TCP4 192.0.2.1 198.51.100.9 1 2\r\n",
    "v1 udp": b"PROXY UDP4 192.0.2.1 198.51.100.9 1 2\r\n",
    "v1 bare lf": b"PROXY TCP4 192.0.2.1 198.51.100.9 1 2\n",
    "v1 unknown, bare lf": b"PROXY UNKNOWN\n",
    "v1 unknown, cr inside": b"PROXY UNKNOWN a\rb\r\n",
    "v1 two spaces": b"PROXY TCP4  192.0.2.1 198.51.100.9 1 2\r\n",
    "v1 more": b"PROXY TCP4 192.0.2.1 198.51.100.9 1 2 3\r\n",
    "v1 less": b"PROXY TCP4 192.0.2.1 198.51.100.9 1\r\n",
    "v1 mixed": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "v1 mixed the other way": b"PROXY TCP6 192.0.2.1 198.51.100.9 1 2\r\n",
    "v1 address": b"PROXY TCP4 192.0.2.256 198.51.100.9 1 2\r\n",
    "v1 leading zero": b"PROXY TCP4 192.0.02.1 198.51.100.9 1 2\r\n",
    "v1 port": b"PROXY TCP4 192.0.2.1 198.51.100.9 65536 2\r\n",
    "v1 port with zero": b"PROXY TCP4 192.0.2.1 198.51.100.9 01 2\r\n",
    "v1 negative port": b"PROXY TCP4 192.0.2.1 198.51.100.9 -1 2\r\n",
    "v1 zone": b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
    "v1 too long": b"PROXY UNKNOWN " + b"x" * (V1_MAX - 15) + b"\r\n",
    "v1 without end": b"PROXY UNKNOWN " + b"x" * 100_000,
    "v2 signature": V2[:-1] + b"X" + b"\x21\x11\x00\x0c" + packed(V4),
    "v2 version": v2(command=0x11, addresses=packed(V4)),
    "v2 command": v2(command=0x22, addresses=packed(V4)),
    "v2 family": v2(family=0x41, addresses=packed(V4)),
    "v2 transport": v2(family=0x13, addresses=packed(V4)),
    "v2 short inet": v2(addresses=packed(V4)[:-1]),
    "v2 short inet6": v2(family=0x21, addresses=packed(V4)),
    "v2 short unix": v2(family=0x31, addresses=UNIX[:-1]),
    "v2 no addresses": v2(),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_header_is_read_and_no_byte_behind_it(name):
    data, client, server = GOOD[name]
    for behind in (b"", b"G", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", data):
        assert parse(data + behind) == ProxyHeader(client, server, len(data))


@pytest.mark.parametrize("name", GOOD)
def test_a_header_is_read_when_it_is_whole_and_not_before(name):
    data, client, server = GOOD[name]
    for at in {*range(min(len(data), 60)), len(data) - 1}:
        assert parse(data[:at]) is None
    assert parse(data + b"GET") == ProxyHeader(client, server, len(data))


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_refused_however_it_comes(name):
    data = BAD[name]
    with pytest.raises(ProxyError):
        parse(data)
    for size in range(len(data)):
        with contextlib.suppress(ProxyError):
            assert parse(data[:size]) is None


@pytest.mark.parametrize(("data", "enough"), [(b"GET / HTTP", 1), (b"PROXX", 5), (b"\r\nGET", 3), (V2 + b"\x31", 13)])
def test_it_is_refused_as_soon_as_it_can_be_none(data, enough):
    assert parse(data[: enough - 1]) is None
    with pytest.raises(ProxyError):
        parse(data[:enough])


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


@pytest.mark.parametrize(
    ("tlvs", "secure"),
    [
        (b"", False),
        (TLVS, False),
        (tlv(0x20, b"\x01" + bytes(4)), True),
        (TLVS + tlv(0x20, b"\x07" + bytes(4) + tlv(0x21, b"TLSv1.3")) + TLVS, True),
        (tlv(0x20, b"\x06" + bytes(4)), False),
        (tlv(0xE0, tlv(0x20, b"\x01" + bytes(4))), False),
        (tlv(0x20, b""), False),
        (tlv(0x20, b"\x01")[:-1], False),
        (b"\x20\xff\xff\x01", False),
        (b"\x20\x00", False),
    ],
)
@pytest.mark.parametrize(("family", "ends"), [(0x11, V4), (0x21, V6)])
def test_whether_the_client_came_by_tls(family, ends, tlvs, secure):
    data = v2(family=family, addresses=packed(ends), tlvs=tlvs)
    assert parse(data + b"\x20\x00\x01\x01") == ProxyHeader(ends[0], ends[1], len(data), secure)
