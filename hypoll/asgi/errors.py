"""What `send` raises, what of that is nobody's error, and a failed start."""

from __future__ import annotations

STARTUP_FAILED = 3
"""The exit code of a process whose application fails to start: gunicorn's, at which its master halts, and uvicorn's."""


class StartupError(Exception):
    """The application says that it can't start, or doesn't say that it has; the message says why."""


class DisconnectedError(ConnectionError):
    """Nobody will get what was sent: the client has gone, or the server goes (ASGI HTTP 2.5, "Disconnected Client")."""


def is_disconnect(error: BaseException) -> bool:
    """Whether an error is that of `send` to who has gone, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_disconnect, error.exceptions))
    return isinstance(error, DisconnectedError)
