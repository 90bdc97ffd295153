"""An answer made on the loop that leaves work behind: it is sent, then the work is done, on the loop.

The other kinds do theirs where their handler ran: see `hypoll.server.exchange`.
"""

from __future__ import annotations

import contextvars
from typing import Any

from hypoll.contracts import HandlerCall, RunOn
from hypoll.protocol.messages import Request, Response
from hypoll.server.exchange import Exchange, ExchangeConnection, ExchangeContext
from hypoll.web.background import Background, run_background
from hypoll.web.results import failure


class AnsweredExchange(Exchange):
    """A request that is answered, until the answer is sent or its client has gone: then its work is done."""

    def __init__(
        self,
        connection: ExchangeConnection,
        server: ExchangeContext,
        request: Request,
        response: Response,
        context: contextvars.Context,
    ) -> None:
        super().__init__(connection, server, request, _ANSWERED, context)
        self._response: Response | None = response
        self._background: Background | None = response.background

    def start(self) -> None:
        """Send the answer: those before it are sent."""
        response, self._response = self._response, None
        if self.connection is not None and response is not None:
            self.connection.respond(response)

    def abandon(self) -> None:
        """The client has gone."""
        super().abandon()
        self._work()

    def end(self) -> None:
        """The answer is sent, or nobody will read it."""
        super().end()
        self._work()

    def _work(self) -> None:
        background, self._background = self._background, None
        if background is not None:
            # In a copy: what ends a connection may be code in the context itself.
            self.context.copy().run(run_background, self.request, background)


def _made(*_: Any) -> Any:
    raise RuntimeError("the answer is there already")


_ANSWERED = HandlerCall(RunOn.LOOP, _made, _made, failure)
