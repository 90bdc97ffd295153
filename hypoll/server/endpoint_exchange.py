"""Requests for the server's own paths whose answers are made on a thread, whatever the application's threads do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hypoll.server.context import ServerContext
from hypoll.server.exchange import Exchange


class EndpointExchange(Exchange):
    """A request that is answered on the thread of `ServerContext.for_endpoints`."""

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__

    def start(self) -> None:
        """Have the answer made there."""
        self.server = cast(ServerContext, self.server).for_endpoints
        super().start()


class PlainEndpointExchange(EndpointExchange):
    """One that is started where it is made; see `hypoll.server.exchange.PlainExchange`."""

    started = True


KINDS = (EndpointExchange, PlainEndpointExchange)
