"""The other end of a connection: its own address, what proxies say about a client behind it, and what it came to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hypoll.protocol.header_section import HeaderSection

Client = tuple[str, int]
"""(address, port) of a client. The port is 0 where it isn't known."""

UNIX_CLIENT: Client = ("", 0)
"""The other end of a unix socket, which has no address."""

UNKNOWN_CLIENT: Client = ("unknown", 0)
"""A client that isn't named, or not by an address (RFC 7239, 6.2 and 6.3)."""


class Origin(NamedTuple):
    """What trusted proxies say about a request. None: they don't."""

    client: Client | None = None
    """The port is 0 where it isn't known. `UNKNOWN_CLIENT`: proxies sent the request, and don't name the client."""
    scheme: str | None = None
    host: str | None = None
    """Host and port as the client named them."""
    port: int | None = None
    """The port that the client connected to."""


NO_ORIGIN = Origin()

NO_SERVER = ("", 0)
"""The address of what has none: a unix socket's listener, or no socket at all."""


class Drain:
    """Whether the server of a request is going away.

    Attributes:
        begun: whether it is.
        keeps_idle: whether idle connections are kept yet, for one more request.
    """

    __slots__ = ("begun", "keeps_idle")

    def __init__(self) -> None:
        self.begun = False
        self.keeps_idle = False


NO_DRAIN = Drain()


class Peer(NamedTuple):
    """The other end of a connection, as its requests show it.

    Attributes:
        client: the address as `hypoll.proxy.networks` writes it; `UNIX_CLIENT` over a unix socket; `UNKNOWN_CLIENT`
            when a PROXY protocol header hides it.
        origin: what to believe of a header section that comes from there; None: nothing, it is no trusted proxy.
        server: the address and port that the connection was made to.
        drain: of the server that it is connected to.
    """

    client: Client
    scheme: str = "http"
    origin: Callable[[HeaderSection], Origin] | None = None
    server: tuple[str, int] = NO_SERVER
    drain: Drain = NO_DRAIN


NOBODY = Peer(UNIX_CLIENT)
"""The peer of a request that came over no socket."""
