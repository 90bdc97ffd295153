"""The rows' application for other servers, by WSGI and by ASGI, and how each of them is started.

`python peer_apps.py SERVER INTERFACE [CERTFILE KEYFILE] [--app MODULE:ATTRIBUTE]` serves on a free port and prints its
URL. It imports nothing of hypoll.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

JSON = ("Content-Type", "application/json")


@cache
def content(size: int) -> bytes:
    """As many bytes, made once."""
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def answer(method: str, path: str, body: bytes) -> bytes:
    """What `benchmarks.app.rows` answers."""
    if path == "/json":
        return json.dumps({"message": "Hello, World!"}, separators=(",", ":")).encode()
    if path.startswith("/users/"):
        return json.dumps({"user": int(path[7:]), "name": "Ada"}, separators=(",", ":")).encode()
    if path.startswith("/download/"):
        return content(int(path[10:]))
    if path == "/upload":
        return b'{"bytes":%d}' % len(body)
    return json.dumps(json.loads(body), separators=(",", ":")).encode()


def wsgi(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """A WSGI application without a framework."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else b""
    found = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], body)
    start_response("200 OK", [JSON, ("Content-Length", str(len(found)))])
    return [found]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """An ASGI application without a framework."""
    if scope["type"] != "http":
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        return
    pieces = []
    if scope["method"] == "POST":
        while True:
            message = await receive()
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
    found = answer(scope["method"], scope["path"], b"".join(pieces))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(found))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": found})


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def command(server: str, interface: str, port: int, app: str) -> list[str]:
    """The command line of a server. Raises `KeyError`."""
    where = str(port)
    binary = str(Path(sys.executable).parent)
    uvicorn = [
        *(f"{binary}/uvicorn", app, "--port", where, "--no-access-log", "--loop", "uvloop", "--http", "httptools"),
    ]
    called = f"import peer_apps; from {server} import {{}} as serve; serve(peer_apps.{interface}, "
    return {
        "uvicorn": uvicorn,
        "uvicorn-sansio": [*uvicorn, "--ws", "websockets-sansio"],
        "granian": [f"{binary}/granian", app, "--interface", interface, "--port", where, "--no-access-log"],
        "bjoern": [sys.executable, "-c", called.format("run") + f"'127.0.0.1', {where})"],
        "fastpysgi": [f"{binary}/fastpysgi", app, "--host", "127.0.0.1", "--port", where, "--loglevel", "1"],
        "freastal": [sys.executable, "-c", called.format("serve") + f"host='127.0.0.1', port={where})"],
        "peregrine": [f"{binary}/peregrine", app, "--port", where, "--protocol", interface],
        "h2corn": [f"{binary}/h2corn", app, "--bind", f"127.0.0.1:{where}"],
        "hypercorn": [f"{binary}/hypercorn", app, "--bind", f"127.0.0.1:{where}", "--worker-class", "uvloop"],
        "gunicorn": [
            *(f"{binary}/gunicorn", app, "-k", "asgi", "--bind", f"127.0.0.1:{where}", "--no-control-socket"),
        ],
        "gthread": [
            *(f"{binary}/gunicorn", app, "--bind", f"127.0.0.1:{where}", "--threads", "4", "--no-control-socket"),
        ],
    }[server]


TLS_OPTIONS = {"uvicorn": ("--ssl-certfile", "--ssl-keyfile"), "granian": ("--ssl-certificate", "--ssl-keyfile")}
"""The options of a server that name the certificate and its key."""


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server listens, and goes on: some do so for a moment to try. Raises `RuntimeError` if it ends."""
    count = 0
    while count < 20:
        with socket.socket() as sock:
            count = 0 if sock.connect_ex(("127.0.0.1", port)) else count + 1
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} has ended with {process.returncode}")
        time.sleep(0.05)


def main() -> int:
    """Run a server until TERM."""
    port = free_port()
    quiet = subprocess.DEVNULL  # some tell their URL before they accept
    arguments = argparse.ArgumentParser()
    arguments.add_argument("server")
    arguments.add_argument("interface")
    arguments.add_argument("files", nargs="*")
    arguments.add_argument("--app")
    chosen = arguments.parse_args()
    server, interface, files = chosen.server, chosen.interface, chosen.files
    started = command(server, interface, port, chosen.app or f"peer_apps:{interface}")
    for option, file in zip(TLS_OPTIONS[server] if files else (), files, strict=True):
        started += [option, file]
    # A group of its own, to be killed as a whole: the workers of a master that is killed alone would go on.
    process = subprocess.Popen(started, cwd=Path(__file__).parent, stdout=quiet, stderr=quiet, process_group=0)
    signal.signal(signal.SIGTERM, lambda signum, frame: os.killpg(process.pid, signal.SIGKILL))
    wait_for(port, process)
    print(f"{'https' if files else 'http'}://127.0.0.1:{port}", flush=True)
    process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
