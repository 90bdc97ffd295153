"""Sets of peers named by address: whom to believe, whom to let in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNIX = "unix"
"""Stands for the peers of unix sockets, which have no address."""

EVERYBODY = "*"

REMEMBERED = 1024
"""Addresses whose answer is remembered; then all are forgotten."""


def parse_address(text: str) -> Address | None:
    """The IP address a text is, an IPv4 one mapped into IPv6 as IPv4; None when it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None  # a zone means nothing to another machine
        return address.ipv4_mapped or address
    return address


class Networks:
    """Peers by address: `10.0.0.0/8`, `::1`, `unix` for those of unix sockets, `*` for everybody.

    `host in networks` takes an address as text, "" for a unix socket's peer; what is no address is in no network.
    Raises `ValueError` for a name that is none of these.
    """

    def __init__(self, names: Iterable[str]) -> None:
        networks = []
        self._everybody = False
        self._known: dict[str, bool] = {}
        self._unix = False
        for name in names:
            if name == EVERYBODY:
                self._everybody = True
            elif name == UNIX:
                self._unix = True
            else:
                networks.append(_network(name))
        self._networks = tuple(networks)

    def __contains__(self, host: str) -> bool:
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[host] = self._find(host)
        return known

    def _find(self, host: str) -> bool:
        if self._everybody:
            return True
        if not host:
            return self._unix
        address = parse_address(host)
        return address is not None and any(address in network for network in self._networks)


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(name)
    except ValueError as error:
        reason = str(error) if "host bits" in str(error) else "it is no IP address or network"
        raise ValueError(f"{name!r}: {reason}. Give an address, a network as 10.0.0.0/8, unix or *") from None
