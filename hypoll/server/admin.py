"""The server's own paths on a listener of their own: a server beside the application's, on the same loop.

It answers from the start of the application's server to its end, in a drain as well, and asks for little: few
connections, no TLS, no access log, no body.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable

from hypoll.contracts import Application
from hypoll.loop import Loop
from hypoll.option import KIB
from hypoll.server.server import Server
from hypoll.settings import Settings

MAX_CONNECTIONS = 64
"""A load balancer, some scrapers, and people who look."""

END_TIME = 1.0
"""Seconds that an answer under way has when the application's server has ended."""


def admin_server(
    application: Application,
    settings: Settings,
    loop: Loop,
    listeners: list[socket.socket] | None,
    on_stopped: Callable[[], object],
) -> Server:
    """The server of `settings.admin_bind`, not started.

    Args:
        application: the endpoints.
        settings: those of the application's server.
        loop: what it runs on.
        listeners: sockets to serve instead of binding, which other processes serve, too.
        on_stopped: called when it has stopped.
    """
    own = dataclasses.replace(
        settings,
        bind=(settings.admin_bind,),
        reuse_port=False,
        max_connections=MAX_CONNECTIONS,
        max_body=64 * KIB,
        graceful_timeout=END_TIME,
        certfile="",
        keyfile="",
        cert_reqs="none",
        ca_certs="",
        ciphers="",
        proxy_protocol=False,
    )
    return Server(application, own, loop, listeners=listeners, shared=listeners is not None, on_stopped=on_stopped)
