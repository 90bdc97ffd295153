"""The listener of `--admin-bind` where several processes serve: the master makes one, and all workers accept from it.

It outlives every worker. A successor of the master (USR2) inherits it, as gunicorn's own listeners, by a variable.
"""

from __future__ import annotations

import contextlib
import os
import socket

from hypoll.server.sockets import listen, unix_paths
from hypoll.settings import Settings

VARIABLE = "HYPOLL_ADMIN_FD"
"""The descriptor's number, for the successor."""

_made: dict[str, socket.socket] = {}
"""In the master, and so in its workers: the listener, by its address."""


def make(settings: Settings, environ: dict[str, str]) -> None:
    """Have the listener that the settings ask for, and no other. Doing it twice does nothing.

    Args:
        settings: the workers'.
        environ: what a successor of the master gets as its environment.

    Raises:
        hypoll.server.sockets.BindError: When the address can't be listened on.
    """
    address = settings.admin_bind
    for old in [old for old in _made if old != address]:
        _made.pop(old).close()
        _unlink(old)
    if not address or address in _made:
        return
    inherited = os.environ.pop(VARIABLE, "")
    _made[address] = listener = listen(f"fd://{inherited}" if inherited else address, settings)
    listener.set_inheritable(True)  # by what the master executes in its place; subprocess closes it in others
    environ[VARIABLE] = str(listener.fileno())


def listener_of(settings: Settings) -> socket.socket | None:
    """In a worker: a descriptor of its own of what the master has made; None: there is none."""
    made = _made.get(settings.admin_bind)
    return None if made is None else made.dup()


def remove() -> None:
    """Remove the path of a unix socket, at the end of a master that has no successor and is none."""
    for address in _made:
        _unlink(address)


def _unlink(address: str) -> None:
    for path in unix_paths([address]):
        with contextlib.suppress(OSError):
            os.unlink(path)
