"""What a task does with a session: it waits for a message, or until less output waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hypoll.websocket.encoding import Message
from hypoll.websocket.session import Session

if TYPE_CHECKING:
    from hypoll.server.exchange import ExchangeContext

T = TypeVar("T")

SENDS_IN_A_ROW = 16
"""Messages that a task sends before the others on its event loop have their turn, unless it waits meanwhile."""


async def receive(session: Session, context: ExchangeContext, give: Callable[[Session, Message | None], T]) -> T:
    """Wait for the next message; a call that is cancelled has taken nothing.

    Args:
        session: of which WebSocket.
        context: what it is served by.
        give: makes of the message what is given, or raises; of None: it has ended.

    Raises:
        RuntimeError: When another task waits for one, too.
    """
    while True:
        message = session.take()
        if message is not None or session.ended is not None:
            return give(session, message)
        if session.reader is not None and not session.reader.done():
            raise RuntimeError("two tasks receive from one WebSocket")
        assert context.asyncio_bridge is not None
        session.in_a_row = 0
        session.reader = waiter = context.asyncio_bridge.asyncio.create_future()
        await waiter


async def send(session: Session, message: Message, context: ExchangeContext) -> None:
    """Send a message; wait while too much waits for the client. Raises `SocketClosed`, `TypeError`."""
    session.send(message)
    session.in_a_row += 1
    if session.in_a_row >= SENDS_IN_A_ROW or session.connection is None or session.connection.writer.buffers:
        await _give_way(session, context)


async def _give_way(session: Session, context: ExchangeContext) -> None:
    """Wait until less waits for the client, if that is too much; let the others have their turn in any case."""
    session.in_a_row = 0
    if not session.is_full:
        await asyncio.sleep(0)
        return
    assert context.asyncio_bridge is not None
    with context.waiting_output:
        while session.is_full:
            waiter = context.asyncio_bridge.asyncio.create_future()
            session.writers = [*(session.writers or ()), waiter]
            await waiter
