"""What `send` raises, and what of that is nobody's error."""

from __future__ import annotations


class DisconnectedError(ConnectionError):
    """Nobody will get what was sent: the client has gone, or the server goes (ASGI HTTP 2.5, "Disconnected Client")."""


def is_disconnect(error: BaseException) -> bool:
    """Whether an error is that of `send` to who has gone, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_disconnect, error.exceptions))
    return isinstance(error, DisconnectedError)
