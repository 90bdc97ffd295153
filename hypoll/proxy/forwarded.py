"""Who a request is really from, when it came through proxies: X-Forwarded-* and Forwarded (RFC 7239).

Laws:

- Only a trusted peer's fields are looked at. What the client itself has sent is to the left of what proxies appended,
  so the addresses are walked from right to left, as long as each is a trusted one's. The first that isn't is the
  client; where all are, the leftmost. (Who trusts `*` believes anybody.)
- A proxy that wrote one of the fields speaks for somebody else. Where it names no address, or hides it, the client is
  unknown. It never counts as the proxy, which may be let in where others are not.
- When both kinds of fields are there and name different clients, neither is believed: proxies write one kind and
  pass on the other, which anybody can have sent. The client is unknown then, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from socket import AF_INET, inet_pton
from typing import NamedTuple

from hypoll.protocol.header_section import (
    BLANKS,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PORT,
    FORWARDED_PROTO,
    HeaderSection,
)
from hypoll.protocol.messages import HTTPError
from hypoll.protocol.peer import NO_DRAIN, NO_ORIGIN, NO_SERVER, UNKNOWN_CLIENT, Client, Drain, Origin, Peer
from hypoll.protocol.validation import check_host
from hypoll.proxy.networks import Networks, parse_node

MAX_HOPS = 32
"""Proxies walked through; behind more the client is unknown."""

NAMES = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded")

SCHEMES = ("http", "https")

_SCHEMES: dict[bytes | None, str | None] = {b"http": "http", b"https": "https", b"": None}
"""What X-Forwarded-Proto says; nothing is said where there is none. None, several, is no key."""

_OTHERS = frozenset({FORWARDED, FORWARDED_HOST, FORWARDED_PORT})
"""Fields by which proxies say more."""

Fields = Iterable[tuple[str, str]]
"""(lower-case name, value) of each field line, in the order received."""

# RFC 7239, 4 without commas and semicolons in quoted strings, which no address, scheme or host has.
_PAIR = re.compile(
    r"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=([!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"(?:[^\"\\,;]|\\[^,;])*\")[ \t]*"
)
_BACKSLASHED = re.compile(r"\\(.)")


UNKNOWN = Origin(UNKNOWN_CLIENT)
"""Of a request that proxies have forwarded, and that nothing is known of."""


# A plain number: as a member of an Enum it is converted in each call.
_IPV4 = int(AF_INET)


class _Hop(NamedTuple):
    """What one proxy says: whom it had the request from, and how that was sent to it."""

    client: Client | None = None
    scheme: str | None = None
    host: str | None = None
    port: int | None = None


class TrustedProxies:
    """Whose word on the client is taken, and what it comes to.

    Args:
        allowed: the trusted ones, as `Networks` takes them.
        secure: `FIELD=VALUE` of each further field by which they say that the client came by https.
    """

    def __init__(self, allowed: Iterable[str], secure: Iterable[str] = ()) -> None:
        self._trusted = Networks(allowed)
        pairs = (text.partition("=") for text in secure)
        self._secure = {name.lower(): value for name, _, value in pairs}
        self._find_origin = self._origin_of_section  # one object, so that peers can be compared by it

    def peer(self, client: Client, scheme: str, server: tuple[str, int] = NO_SERVER, drain: Drain = NO_DRAIN) -> Peer:
        """The peer of a connection, that says whether it is believed. server: the address that it was made to."""
        return Peer(client, scheme, self._find_origin if client[0] in self._trusted else None, server, drain)

    def _origin_of_section(self, section: HeaderSection) -> Origin:
        noted = section.indexed
        node = noted.get(FORWARDED_FOR)
        if node and not self._secure and _OTHERS.isdisjoint(noted):
            # One proxy that names an IPv4 address and maybe a scheme, as nearly all do.
            text = node.strip(BLANKS).decode("latin-1")
            proto = noted.get(FORWARDED_PROTO, b"")
            scheme = _SCHEMES.get(proto and proto.strip(BLANKS), "")
            if scheme != "":
                try:
                    inet_pton(_IPV4, text)  # which takes the one form that an address is written in
                except (OSError, ValueError):
                    pass
                else:
                    # Without the named tuple's own constructor, which is Python code.
                    return tuple.__new__(Origin, ((text, 0), scheme, None, None))
        origin = origin_of(section.pick(NAMES), self._trusted)
        secure = secure_scheme(section.fields, self._secure) if self._secure else None
        return origin if secure is None else origin._replace(client=origin.client or UNKNOWN_CLIENT, scheme=secure)


def origin_of(fields: Fields, trusted: Networks) -> Origin:
    """Who a trusted proxy's request is from, and what scheme and host it was sent to."""
    proxy_fields = [field for field in fields if field[0] in NAMES]
    if not proxy_fields:
        return NO_ORIGIN
    values: dict[str, list[str]] = {}
    for name, value in proxy_fields:
        values.setdefault(name, []).append(value)
    one = _walk(_hops_of_x_forwarded(values), trusted)
    if "forwarded" not in values:
        return one
    other = _walk(_hops_of_forwarded(values["forwarded"]), trusted)
    if len(values) == 1:
        return other
    return _agreed(one, other)


def _agreed(one: Origin, other: Origin) -> Origin:
    """What is left of two kinds of fields: nothing that they contradict each other in."""
    if one.client is None or other.client is None or one.client[0] != other.client[0]:
        return UNKNOWN
    scheme, host = _same(one.scheme, other.scheme), _same(one.host, other.host)
    return Origin(max(one.client, other.client), scheme, host, one.port)


def _same(one: str | None, other: str | None) -> str | None:
    return (one or other) if None in (one, other) or one == other else None


def _walk(hops: Iterator[_Hop], trusted: Networks) -> Origin:
    """Go from proxy to proxy, the nearest first, and give what the last one that is trusted says."""
    origin = NO_ORIGIN
    for count, hop in enumerate(hops):
        if count == MAX_HOPS:
            return origin._replace(client=UNKNOWN_CLIENT)
        client = hop.client or UNKNOWN_CLIENT
        # What a proxy doesn't say of scheme, host and port, the one nearer to here may have.
        origin = Origin(client, hop.scheme or origin.scheme, hop.host or origin.host, hop.port or origin.port)
        if client[0] not in trusted:
            break
    return origin


def _hops_of_x_forwarded(values: Mapping[str, list[str]]) -> Iterator[_Hop]:
    """The hops of the X-Forwarded fields, from right to left.

    Proxies that append do so to each field; of one that some of them only pass on, the leftmost value goes for all
    hops behind it. An empty address is a hop, whose proxy didn't know it.
    """
    clients, schemes, hosts, ports = (_items(values.get(name)) for name in NAMES[:4])
    for index in range(1, max(len(clients), 1) + 1):
        yield _Hop(
            parse_node(clients[-index]) if clients else None,
            _scheme(_from_right(schemes, index)),
            _host(_from_right(hosts, index)),
            _port(_from_right(ports, index)),
        )


def _items(lines: list[str] | None) -> list[str]:
    return [_unquoted(item.strip(" \t")) for item in ",".join(lines).split(",")] if lines else []


def _unquoted(text: str) -> str:
    """A quoted string's text (RFC 9110, 5.6.4); any other as it is."""
    return _BACKSLASHED.sub(r"\1", text[1:-1]) if len(text) > 1 and text[0] == text[-1] == '"' else text


def _from_right(items: list[str], index: int) -> str:
    return items[-min(index, len(items))] if items else ""


def _hops_of_forwarded(lines: list[str]) -> Iterator[_Hop]:
    """The hops of Forwarded, from right to left. A malformed element is the last, and says nothing.

    Empty elements are none (RFC 9110, 5.6.1.2), but a field of nothing else was written by a proxy all the same.
    """
    elements = [element for element in ",".join(lines).split(",") if element.strip(" \t")]
    for element in reversed(elements or [""]):
        pairs = _pairs(element)
        if pairs is None:
            yield _Hop()
            return
        yield _Hop(parse_node(pairs.get("for", "")), _scheme(pairs.get("proto", "")), _host(pairs.get("host", "")))


def _pairs(element: str) -> dict[str, str] | None:
    """The parameters of an element, by lower-case name; None: it is malformed, or has one twice."""
    pairs: dict[str, str] = {}
    for text in element.split(";"):
        if not text.strip(" \t"):
            continue  # RFC 7239, 4: a pair may be left out
        match = _PAIR.fullmatch(text)
        if match is None or match[1].lower() in pairs:
            return None
        pairs[match[1].lower()] = _unquoted(match[2])
    return pairs


def _scheme(text: str) -> str | None:
    text = text.lower()
    return text if text in SCHEMES else None


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536 else None


def _host(text: str) -> str | None:
    if not text:
        return None
    try:
        check_host(text)
    except HTTPError:
        return None
    return text


def secure_scheme(fields: Fields, secure_headers: Mapping[str, str]) -> str | None:
    """`https` when a named field has its value, else http; None: none of the fields is there.

    Args:
        fields: of the request.
        secure_headers: lower-case names, and the values that mean https. Of a trusted peer's fields only. Where two
            contradict each other it is http: nobody is taken to be secure by half a word.
    """
    found = {value == secure_headers[name] for name, value in fields if name in secure_headers}
    return ("https" if False not in found else "http") if found else None
