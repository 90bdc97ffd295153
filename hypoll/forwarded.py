"""Who a request is really from, when it came through proxies: X-Forwarded-* and Forwarded (RFC 7239).

Laws:

- Only a trusted peer's fields are looked at. What the client itself has sent is to the left of what proxies appended,
  so the addresses are walked from right to left, as long as each is a trusted one's. The first that isn't is the
  client; where all are, the leftmost. (Who trusts `*` believes anybody.)
- What is malformed, or hides its address, ends the walk at the last address that was known.
- When both kinds of fields are there and tell of different clients, neither is believed: proxies write one kind and
  pass on the other, which anybody can have sent. The client is then nobody's address, and not the proxy's own either,
  which may be let in where others are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from hypoll.head import check_host
from hypoll.message import NOTHING, HTTPError, Origin, Peer, Section
from hypoll.networks import Networks, parse_address

MAX_REMEMBERED = 256
"""Characters of the fields whose result is remembered, if they come again."""

MAX_HOPS = 32
"""Proxies walked through."""

NAMES = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded")

SCHEMES = ("http", "https")

Fields = Iterable[tuple[str, str]]
"""(lower-case name, value) of each field line, in the order received."""

# RFC 7239, 4 without commas and semicolons in quoted strings, which no address, scheme or host has.
_PAIR = re.compile(
    r"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=([!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"(?:[^\"\\,;]|\\[^,;])*\")[ \t]*"
)
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")
_BACKSLASHED = re.compile(r"\\(.)")


UNKNOWN = Origin(("unknown", 0))
"""Of a request that nothing is known of (RFC 7239, 6.2)."""


class _Hop(NamedTuple):
    """What one proxy told: whom it had the request from, and how that was sent to it."""

    client: tuple[str, int] | None
    scheme: str | None = None
    host: str | None = None


class Proxies:
    """Whose word on the client is taken, and what it comes to.

    allowed: the trusted ones, as `Networks` takes them.
    secure: `FIELD=VALUE` of each further field by which they tell that the client came by https.
    """

    def __init__(self, allowed: Iterable[str], secure: Iterable[str] = ()) -> None:
        self._trusted = Networks(allowed)
        pairs = (text.partition("=") for text in secure)
        self._secure = {name.lower(): value for name, _, value in pairs}

    def peer(self, client: tuple[str, int], scheme: str) -> Peer:
        """The peer of a connection, that says whether it is believed. client: ("", 0) for a unix socket's."""
        return Peer(client, scheme, self._judge if client[0] in self._trusted else None)

    def _judge(self, section: Section) -> Origin:
        origin = origin_of(section.fields, self._trusted)
        scheme = secure_scheme(section.fields, self._secure) if self._secure else None
        return origin if scheme is None else origin._replace(scheme=scheme)


def origin_of(fields: Fields, trusted: Networks) -> Origin:
    """Who a trusted proxy's request is from, and what scheme and host it was sent to."""
    told = tuple([field for field in fields if field[0] in NAMES])
    if not told:
        return NOTHING
    # Clients send more than one request, mostly.
    size = sum([len(value) for _, value in told])
    return _remembered(told, trusted) if size <= MAX_REMEMBERED else _weigh(told, trusted)


def _weigh(told: tuple[tuple[str, str], ...], trusted: Networks) -> Origin:
    values: dict[str, list[str]] = {}
    for name, value in told:
        values.setdefault(name, []).append(value)
    one = _walk(_hops_of_x_forwarded(values), trusted)
    if "forwarded" not in values:
        return one
    other = _walk(_hops_of_forwarded(values["forwarded"]), trusted)
    if len(values) == 1:
        return other
    return one if _same_client(one, other) else UNKNOWN


_remembered = lru_cache(maxsize=1024)(_weigh)


def _same_client(one: Origin, other: Origin) -> bool:
    return (one.client or ("", 0))[0] == (other.client or ("", 0))[0]


def _walk(hops: Iterator[_Hop], trusted: Networks) -> Origin:
    """Go from proxy to proxy, the nearest first, and give what the last one that is trusted tells."""
    origin = NOTHING
    for _, hop in zip(range(MAX_HOPS), hops, strict=False):
        # What a proxy doesn't tell of scheme and host, the one nearer to here may have.
        origin = Origin(hop.client or origin.client, hop.scheme or origin.scheme, hop.host or origin.host)
        if hop.client is None or hop.client[0] not in trusted:
            break
    return origin


def _hops_of_x_forwarded(values: Mapping[str, list[str]]) -> Iterator[_Hop]:
    """The hops of the X-Forwarded fields, from right to left.

    Proxies that append do so to each field; of one that some of them only pass on, the leftmost value goes for all
    hops behind it.
    """
    clients, schemes, hosts = (_items(values.get(name)) for name in NAMES[:3])
    for index in range(1, max(len(clients), 1) + 1):
        client = _node(clients[-index]) if clients else None
        yield _Hop(client, _scheme(_from_right(schemes, index)), _host(_from_right(hosts, index)))


def _items(lines: list[str] | None) -> list[str]:
    return [item.strip(" \t") for item in ",".join(lines).split(",")] if lines else []


def _from_right(items: list[str], index: int) -> str:
    return items[-min(index, len(items))] if items else ""


def _hops_of_forwarded(lines: list[str]) -> Iterator[_Hop]:
    """The hops of Forwarded, from right to left; a malformed element is the end."""
    for element in reversed(",".join(lines).split(",")):
        pairs: dict[str, str] = {}
        for text in element.split(";"):
            match = _PAIR.fullmatch(text)
            if match is None or match[1].lower() in pairs:
                return
            value = match[2]
            pairs[match[1].lower()] = _BACKSLASHED.sub(r"\1", value[1:-1]) if value[0] == '"' else value
        yield _Hop(_node(pairs.get("for", "")), _scheme(pairs.get("proto", "")), _host(pairs.get("host", "")))


def _node(text: str) -> tuple[str, int] | None:
    """Address and port of a node; None for `unknown`, for a made-up name, and for what is none."""
    address = parse_address(text)  # X-Forwarded-For has IPv6 addresses without brackets
    if address is not None:
        return str(address), 0
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    bracketed, plain, port = match.groups()
    address = parse_address(bracketed or plain)
    if address is None or (bracketed and ":" not in bracketed) or int(port or 0) > 65535:
        return None
    return str(address), int(port or 0)


def _scheme(text: str) -> str | None:
    text = text.lower()
    return text if text in SCHEMES else None


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

    secure_headers: lower-case names, and the values that mean https. Of a trusted peer's fields only. Where two
    contradict each other it is http: nobody is taken to be secure by half a word.
    """
    found = {value == secure_headers[name] for name, value in fields if name in secure_headers}
    return ("https" if False not in found else "http") if found else None
