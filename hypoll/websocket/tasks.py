"""What a task does with a session: it waits for a message, or until less output waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypoll.websocket.session import Message, Session

if TYPE_CHECKING:
    from hypoll.server.exchange import ExchangeContext

SENDS_IN_A_ROW = 16
"""Messages that a task sends before the others on its event loop have their turn, unless it waits meanwhile."""


async def receive(session: Session, context: ExchangeContext) -> Message | None:
    """Give the next message; None: it has ended. A call that is cancelled has taken nothing.

    Raises:
        RuntimeError: When another task waits for one, too.
    """
    while True:
        message = session.take()
        if message is not None or session.ended is not None:
            return message
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
