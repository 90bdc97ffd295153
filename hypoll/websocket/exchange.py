"""A request for a WebSocket, from its handshake to the end of the application's call.

Law: until it is accepted it is a request like any other: what the call gives is its answer. From then on the connection
is the session's, and the call goes on for as long as it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypoll.contracts import RunOn
from hypoll.protocol.current_request import mark_current
from hypoll.protocol.fields import HeaderSource
from hypoll.protocol.messages import FAILURES
from hypoll.server.exchange import Exchange
from hypoll.server.upgrade import hand_to
from hypoll.web.results import ends_task
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.frames import ABNORMAL, Close
from hypoll.websocket.handshake import Handshake, encode_answer
from hypoll.websocket.protocol import MessageParser
from hypoll.websocket.session import Session

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge
    from hypoll.server.connection import Connection


class SocketExchange(Exchange):
    """One request for a WebSocket, and what is known of its application's call.

    Attributes:
        session: the WebSocket, once it is accepted.
        subprotocol: the one that is spoken.
        refused: whether the handler has closed it before it was accepted.
    """

    connection: Connection | None
    session: Session | None = None
    subprotocol: str | None = None
    refused = False

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__

    def accept(self, handshake: Handshake, subprotocol: str | None, headers: HeaderSource | None = None) -> Session:
        """Answer the handshake with 101. On the loop's thread.

        Raises:
            SocketClosed: When the client has gone already.
            ValueError: For an answer that can't be sent; `TypeError`, too.
        """
        connection = self.connection
        if connection is None:
            raise SocketClosed(Close(ABNORMAL))
        head = encode_answer(handshake, subprotocol, headers)
        settings = connection.context.settings
        parser = MessageParser(settings.ws_max_message, settings.ws_max_queue, handshake.deflate)
        self.session = session = Session(connection, parser, handshake.deflate)
        self.subprotocol = subprotocol
        self.connection = None
        connection.run_guarded(hand_to, connection, self.request, head, session)
        self.request.compact()
        return session

    def start(self) -> None:
        """Have the application called, where it is to run."""
        bridge = self.server.asyncio_bridge
        if bridge is None or self.handler_call.run_on is not RunOn.TASK:
            super().start()
            return
        bridge.count += 1
        task = bridge.new_task(self._run(bridge), name=self.handler_call.name, context=self.context)
        if not task.done():
            self._task = None if self._has_answered else task
            bridge.begun.add(task)

    async def _run(self, bridge: AsyncioBridge) -> None:
        import asyncio  # it is loaded where a task runs: only the name is looked up

        self._begun = True
        mark_current(self.request)
        try:
            if self.connection is None:
                return  # the client has gone already
            answer = await self.handler_call.call(self.request, self)
            if answer is None:
                return
            # Nothing is to be cancelled: a client that goes ends neither the body's end nor the work.
            self._task, self._has_answered = None, True
            if self.connection is not None:
                self.connection.respond(answer)
            await self._finish_answer(answer, threaded=False)
        except FAILURES as error:
            if self.connection is None or not ends_task(error):
                raise
            self.connection.respond(self._escaped(error))  # nobody has cancelled it
        finally:
            if self._lease is not None:
                self._lease.release()
                self._lease = None
            self._task = None
            bridge.on_task_end(asyncio.current_task())
