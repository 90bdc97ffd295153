"""The PROXY protocol, versions 1 and 2: a load balancer's word on who the client is, before the first request.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt; the numbers in comments are its sections. To be asked only
of peers that are trusted, and then it must be there: a server that guessed would believe anybody.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import NamedTuple

from hypoll.protocol.peer import UNKNOWN_CLIENT, Client
from hypoll.proxy.networks import parse_address

V1 = b"PROXY "
V2 = b"\r\n\r\n\x00\r\nQUIT\n"

V1_MAX = 107
"""Bytes of a version 1 header, CRLF included (2.1)."""

_V2_HEAD = struct.Struct("!12sBBH")

MAX_SIZE = _V2_HEAD.size + 0xFFFF
"""Bytes a header may have."""

_V1_TCP = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")

# 2.2: family and transport in one byte; how their addresses lie.
_INET, _INET6, _UNIX = 0x11, 0x21, 0x31
_ADDRESSES = {_INET: struct.Struct("!4s4sHH"), _INET6: struct.Struct("!16s16sHH"), _UNIX: struct.Struct("!108s108s")}
_LOCAL, _PROXY = 0x20, 0x21

# 2.2.6: type and length of a TLV; the one about TLS, whose first byte is flags.
_TLV = struct.Struct("!BH")
_SSL, _CLIENT_SSL = 0x20, 0x01


class ProxyError(Exception):
    """What came is no PROXY protocol header: the connection must be closed without an answer (2)."""


class ProxyHeader(NamedTuple):
    """A header, read.

    Attributes:
        client: whom the connection is from. None: the balancer itself, as in a health check (LOCAL): the real peer
            stands. `UNKNOWN_CLIENT`: the balancer speaks for somebody whom it doesn't name by an address of the
            internet. The document has receivers take the real peer (2.1, UNKNOWN); that is the balancer, which may be
            let in where the client isn't. A unix socket (2.2, AF_UNIX) is on the balancer's machine: it says nothing
            here.
        server: the address and port it was made to. None: it isn't known.
        size: how many bytes the header has.
        secure: whether the balancer says that the client came by TLS (2.2.6, PP2_CLIENT_SSL).
    """

    client: Client | None
    server: tuple[str, int] | None
    size: int
    secure: bool = False


def parse(data: bytes | bytearray) -> ProxyHeader | None:
    """The header that the data begins with; None while it isn't whole. Raises `ProxyError` when it can't be one."""
    if data[:1] == V2[:1]:
        return _parse_v2(data)
    if data[: len(V1)] != V1[: len(data)]:
        raise ProxyError("no PROXY protocol header came")
    return _parse_v1(data)


def _parse_v1(data: bytes | bytearray) -> ProxyHeader | None:
    end = data.find(b"\n", 0, V1_MAX) + 1
    if not end:
        if len(data) >= V1_MAX:
            raise ProxyError(f"the PROXY protocol header is longer than {V1_MAX} bytes")
        return None
    line = bytes(data[:end])
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(UNKNOWN_CLIENT, None, end)
    match = _V1_TCP.fullmatch(line)
    if match is None:
        raise ProxyError("the PROXY protocol header is malformed")
    kind = ipaddress.IPv4Address if match[1] == b"4" else ipaddress.IPv6Address
    try:
        client, server = (_normal(kind(text.decode())) for text in (match[2], match[3]))
    except ValueError as error:
        raise ProxyError(f"the PROXY protocol header has a bad address: {error}") from None
    ports = int(match[4]), int(match[5])
    if max(ports) > 65535:
        raise ProxyError("the PROXY protocol header has a bad port")
    return ProxyHeader((client, ports[0]), (server, ports[1]), end)


def _parse_v2(data: bytes | bytearray) -> ProxyHeader | None:
    if data[: len(V2)] != V2[: len(data)]:
        raise ProxyError("no PROXY protocol header came")
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise ProxyError("the PROXY protocol header has an unknown version or command")
    if len(data) < _V2_HEAD.size:
        return None
    _, command, family, length = _V2_HEAD.unpack_from(data)
    size = _V2_HEAD.size + length
    form = _ADDRESSES.get(family)
    if command == _PROXY and (family >> 4 > 3 or family & 15 > 2):
        raise ProxyError("the PROXY protocol header has an unknown family")
    if command == _PROXY and form is not None and length < form.size:
        raise ProxyError("the PROXY protocol header is shorter than its addresses")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(None, None, size)
    if form is None or family == _UNIX:
        return ProxyHeader(UNKNOWN_CLIENT, None, size)  # also of datagrams, which don't come over a stream (2.2)
    client, server, *ports = form.unpack_from(data, _V2_HEAD.size)
    client, server = (_normal(ipaddress.ip_address(packed)) for packed in (client, server))
    secure = _is_secure(bytes(data[_V2_HEAD.size + form.size : size]))
    return ProxyHeader((client, ports[0]), (server, ports[1]), size, secure)


def _is_secure(tlvs: bytes) -> bool:
    """Whether the TLVs behind the addresses name TLS. Others are passed over, and what is no TLV ends them."""
    at = 0
    while at + _TLV.size <= len(tlvs):
        kind, length = _TLV.unpack_from(tlvs, at)
        at += _TLV.size
        if kind == _SSL and 0 < length <= len(tlvs) - at:
            return bool(tlvs[at] & _CLIENT_SSL)
        at += length
    return False


def _normal(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(parse_address(str(address)))
