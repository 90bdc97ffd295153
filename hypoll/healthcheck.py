"""Ask the hypoll of this machine how it is: `python -m hypoll.healthcheck`, for a container's HEALTHCHECK.

Exit status 0 and a line to standard output when it is well, 1 and a line when it isn't, 2 for a mistake in the command.
The standard library does: an image needs no curl.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import socket
import ssl
import sys
from collections.abc import Sequence

from hypoll.settings import Settings

TIMEOUT = 3.0
"""Seconds to wait for an answer."""

_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  these are where it isn't asked
"""Where a server that listens on all addresses can be asked."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, and print what was found: the exit status."""
    asked = _parser().parse_args(arguments)
    health = asked.health.rstrip("/")
    method, path = ("GET", f"{health}/{asked.probe}") if health else ("OPTIONS", "*")
    try:
        status = ask(asked.address, method, path, asked.timeout, tls=asked.tls)
    except ValueError as error:
        print(error)  # noqa: T201
        return 2
    except (OSError, http.client.HTTPException) as error:
        print(f"{asked.address} doesn't answer: {_reason(error)}")  # noqa: T201
        return 1
    print(f"{asked.address} answers {method} {path} with {status}")  # noqa: T201
    return 0 if 200 <= status < 300 else 1


def ask(address: str, method: str, path: str, timeout: float, *, tls: bool = False) -> int:
    """The status that a server gives: at `HOST:PORT`, `[::1]:PORT` or `unix:/PATH`.

    Args:
        address: where the server listens, as `--bind` takes it.
        method: of the request.
        path: of the request.
        timeout: seconds.
        tls: it speaks TLS. Its certificate isn't looked at: it is the machine's own, and made for another name.

    Raises:
        ValueError: When it isn't such an address.
        OSError: When it can't be reached.
        HTTPException: When there is no answer.
    """
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(_connect(address, timeout))
        if tls:
            sock = stack.enter_context(_unverified().wrap_socket(sock))
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = sock
        connection.request(method, path, headers={"Connection": "close", "User-Agent": "hypoll-healthcheck"})
        return connection.getresponse().status


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connect(address: str, timeout: float) -> socket.socket:
    if address.startswith("unix:"):
        return _connect_unix(address.removeprefix("unix:").removeprefix("//"), timeout)
    host, colon, port = address.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port):
        raise ValueError(f"{address!r} can't be asked: give HOST:PORT, [::1]:PORT or unix:/PATH")
    host = host.removeprefix("[").removesuffix("]")
    return socket.create_connection((_EVERY_ADDRESS.get(host, host), int(port)), timeout)


def _connect_unix(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hypoll.healthcheck", description="Ask a hypoll how it is. Exit status 0: well, 1: not."
    )
    admin = os.environ.get("HYPOLL_ADMIN_BIND", "") if os.environ.get("HYPOLL_HEALTH") else ""
    bind = admin.split() or os.environ.get("HYPOLL_BIND", "").split()
    parser.add_argument(
        "address",
        nargs="?",
        default=(bind or Settings().bind)[0],
        help="where: HOST:PORT, [::1]:PORT or unix:/PATH (default: HYPOLL_ADMIN_BIND, or the first of "
        "HYPOLL_BIND, now %(default)s)",
    )
    parser.add_argument(
        "--health",
        default=os.environ.get("HYPOLL_HEALTH", ""),
        metavar="PATH",
        help="the server's --health (default: HYPOLL_HEALTH; without, any answer to OPTIONS * will do)",
    )
    parser.add_argument(
        "--probe",
        default="live",
        choices=("live", "ready"),
        help="live: whether it runs (default); ready: whether it wants requests, which it doesn't while it drains",
    )
    parser.add_argument(
        "--tls",
        action="store_true",
        default=bool(os.environ.get("HYPOLL_CERTFILE")) and not admin,
        help="the server speaks TLS (default: if HYPOLL_CERTFILE is set, and HYPOLL_ADMIN_BIND isn't)",
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds to wait (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
