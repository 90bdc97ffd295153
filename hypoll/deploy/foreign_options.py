"""Options of other servers' command lines, and what they are here: for the message about an option that isn't known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_ADDRESS = ("--host", "--port", "-p")

FOREIGN_OPTIONS = {
    "--uds": "--bind unix:PATH",
    "--fd": "--bind fd://NUMBER",
    "--root-path": "--script-name PATH",
    "--proxy-headers": "--forwarded-allow-ips NETWORK; nothing for 127.0.0.1, ::1 and unix sockets, which are trusted",
    "--no-access-log": "--access-log off",
    "--log-config": "logging.config.dictConfig(...) in the application: what it says of the logger hypoll wins",
    "--loop": "--no-uvloop for asyncio's; uvloop's is taken where it is installed",
    "--timeout-keep-alive": "--keep-alive SECONDS",
    "--timeout-graceful-shutdown": "--graceful-timeout SECONDS",
    "--timeout-worker-healthcheck": "--worker-timeout NUMBER",
    "--limit-concurrency": "--max-connections NUMBER",
    "--limit-max-requests": "--max-requests NUMBER, with --workers",
    "--limit-max-requests-jitter": "--max-requests-jitter NUMBER, with --workers",
    "--reload-dir": "--app-dir DIRECTORY, below which --reload looks",
    "--ssl-certfile": "--certfile FILE",
    "--ssl-keyfile": "--keyfile FILE",
    "--ssl-ca-certs": "--ca-certs FILE",
    "--ssl-cert-reqs": "--cert-reqs none|optional|required",
    "--ssl-ciphers": "--ciphers CIPHERS",
    "--ws-max-size": "--ws-max-message SIZE",
    "--ws-per-message-deflate": "--no-ws-compression for none",
    "--h11-max-incomplete-event-size": "--max-head SIZE",
}
"""What to give in place of uvicorn's options."""


def replacement_of(name: str, arguments: Sequence[str]) -> str | None:
    """What to give in place of an option; None: it is nobody's. arguments: all of the command line's."""
    return _bind_for(arguments) if name in _ADDRESS else FOREIGN_OPTIONS.get(name)


def _bind_for(arguments: Sequence[str]) -> str:
    """The `--bind` that arguments with another server's `--host` or `--port` mean."""
    host, port = "127.0.0.1", "8000"
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for name, value in itertools.pairwise(words):
        if name == "--host":
            host = value
        elif name in _ADDRESS:
            port = value
    return f"--bind {f'[{host}]' if ':' in host else host}:{port}"
