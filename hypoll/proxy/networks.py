"""Addresses of peers, normalised, and sets of them: whom to believe, whom to let in.

Laws:

- An address has one form, wherever it comes from: an accepted socket, a field of a proxy, a PROXY protocol header, an
  option. What is compared, logged and given to applications is that form.
- A client is known by its address, or is the other end of a unix socket of this server's own, which is on this machine.
  Any other is unknown, and in no network, not even in `*`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from hypoll.protocol.bounded import Bounded
from hypoll.protocol.peer import UNIX_CLIENT, Client

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Stands for the peers of unix sockets."""

EVERYBODY = "*"

MAPPED = 96
"""Bits before the IPv4 address in an IPv6 one that holds it (RFC 4291, 2.5.5.2)."""

# RFC 7239, 6: an address, IPv6 in brackets where a port follows; a port may be made up. X-Forwarded-For has the same
# nodes, and IPv6 addresses without brackets.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[^\]]+)?)\]|([0-9.]+))(?::(?:([0-9]{1,5})|_[0-9A-Za-z._\-]+))?")


def parse_address(text: str) -> Address | None:
    """The IP address a text is; None when it is none.

    An IPv4 address in an IPv6 one is the IPv4 address. A zone (RFC 4007, 11) is left out: it names a link of the
    machine that wrote it, and is no part of the address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or (address if address.scope_id is None else ipaddress.IPv6Address(int(address)))


def peer_client(address: object) -> Client:
    """The client at the other end of an accepted socket. address: as `accept` gives it."""
    if not isinstance(address, tuple):
        return UNIX_CLIENT
    host, port = address[0], address[1]
    if ":" in host:  # the kernel writes IPv4 addresses in one form only
        host = str(parse_address(host) or host)
    return host, port


def parse_node(text: str) -> Client | None:
    """Address and port of what a proxy calls a client; None for `unknown`, a made-up name, and what is no address.

    The port is 0 where none is known, or a made-up one.
    """
    address, port = parse_address(text), "0"
    if address is None:
        match = _NODE.fullmatch(text)
        if match is None:
            return None
        bracketed, plain, port = match[1], match[2], match[3] or "0"
        address = parse_address(bracketed or plain)
        if address is None or (bracketed and ":" not in bracketed) or int(port) > 65535:
            return None
    return str(address), int(port)


class Networks:
    """Peers by address: `10.0.0.0/8`, `::1`, `unix` for those of unix sockets, `*` for everybody who is known.

    `host in networks` takes the host of a `Client`. What is no address is in no network.
    Raises `ValueError` for a name that is none of these.
    """

    def __init__(self, names: Iterable[str]) -> None:
        networks = []
        self._everybody = False
        self._known: Bounded[str, bool] = Bounded(self._find)
        self._unix = False
        for name in names:
            if name == EVERYBODY:
                self._everybody = True
            elif name == UNIX:
                self._unix = True
            else:
                networks.append(parse_network(name))
        self._networks = tuple(networks)

    def __contains__(self, host: str) -> bool:
        return self._known[host]

    def _find(self, host: str) -> bool:
        if host == UNIX_CLIENT[0]:
            return self._unix or self._everybody
        address = parse_address(host)
        return address is not None and (self._everybody or any(address in network for network in self._networks))

    def overlaps(self, other: Networks) -> bool:
        """Whether a peer can be in both."""
        if self._everybody or other._everybody:
            return bool(self) and bool(other)
        if self._unix and other._unix:
            return True
        return any(_meet(one, two) for one in self._networks for two in other._networks)

    def __bool__(self) -> bool:
        return self._everybody or self._unix or bool(self._networks)


def _meet(one: Network, two: Network) -> bool:
    return one.version == two.version and one.overlaps(two)


def parse_network(name: str) -> Network:
    """The network a text names, one of IPv4 addresses in IPv6 ones as IPv4. Raises `ValueError`, which says why not."""
    try:
        network = ipaddress.ip_network(name)
    except ValueError as error:
        reason = str(error) if "host bits" in str(error) else "it is no IP address or network"
        raise ValueError(f"{name!r}: {reason}. Give an address, a network as 10.0.0.0/8, unix or *") from None
    if "%" in name:
        raise ValueError(f"{name!r}: a zone isn't compared. Give the address without it")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - MAPPED))
    return network
