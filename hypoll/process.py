"""One process, start to end: bind, serve, drain on TERM or INT, stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

from hypoll.loop import Loop
from hypoll.server import Server, Service, Status
from hypoll.settings import Settings

log = logging.getLogger("hypoll.error")


def run(
    routes: Service,
    bind: str | tuple[str, ...] = "127.0.0.1:8000",
    *,
    on_start: Callable[[Server], Any] | None = None,
    **settings: Any,
) -> None:
    """Serve `routes` until TERM or INT, from a script's main thread.

    bind: one address or several: `HOST:PORT`, `[::1]:PORT`, `unix:/PATH`, `fd://N`.
    settings: the fields of `Settings`.
    on_start: called with the server when it accepts.

    The first TERM or INT drains: requests under way are finished for up to `graceful_timeout` seconds. A second INT
    stops at once. Raises `BindError` when an address can't be listened on, `ValueError` and `TypeError` for settings.
    """
    addresses = (bind,) if isinstance(bind, str) else tuple(bind)
    serve(routes, Settings(bind=addresses, **settings), on_start)


def serve(routes: Service, settings: Settings, on_start: Callable[[Server], Any] | None = None) -> None:
    """`run` for ready `Settings`."""
    loop = Loop()
    try:
        server = Server(routes, settings, loop, on_stopped=loop.stop)
        server.start()
        try:
            loop.add_signal_handler(signal.SIGTERM, server.drain)
            loop.add_signal_handler(signal.SIGINT, lambda: _interrupt(server))
            if on_start is not None:
                on_start(server)
            loop.run()
        finally:
            server.stop()
    finally:
        loop.close()


def _interrupt(server: Server) -> None:
    if server.status is Status.DRAINING:
        log.warning("interrupted again: closing %d connections", len(server.connections))
        server.stop()
    else:
        server.drain()
