"""The rows' application for other servers, by WSGI and by ASGI, and how each of them is started.

`python peer_apps.py SERVER INTERFACE` serves on a free port and prints its URL. It imports nothing of hypoll.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

JSON = ("Content-Type", "application/json")


def answer(method: str, path: str, body: bytes) -> bytes:
    """What `benchmarks.app.rows` answers."""
    if path == "/json":
        return json.dumps({"message": "Hello, World!"}, separators=(",", ":")).encode()
    if path.startswith("/users/"):
        return json.dumps({"user": int(path[7:]), "name": "Ada"}, separators=(",", ":")).encode()
    if path == "/upload":
        return b'{"bytes":%d}' % len(body)
    return json.dumps(json.loads(body), separators=(",", ":")).encode()


def wsgi(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """A WSGI application without a framework."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else b""
    content = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], body)
    start_response("200 OK", [JSON, ("Content-Length", str(len(content)))])
    return [content]


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
    content = answer(scope["method"], scope["path"], b"".join(pieces))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def command(server: str, interface: str, port: int) -> list[str]:
    """The command line of a server. Raises `KeyError`."""
    where, app = str(port), f"peer_apps:{interface}"
    binary = str(Path(sys.executable).parent)
    called = f"import peer_apps; from {server} import {{}} as serve; serve(peer_apps.{interface}, "
    return {
        "uvicorn": [f"{binary}/uvicorn", app, "--port", where, "--no-access-log"],
        "granian": [f"{binary}/granian", app, "--interface", interface, "--port", where, "--no-access-log"],
        "bjoern": [sys.executable, "-c", called.format("run") + f"'127.0.0.1', {where})"],
        "fastpysgi": [f"{binary}/fastpysgi", app, "--host", "127.0.0.1", "--port", where, "--loglevel", "1"],
        "freastal": [sys.executable, "-c", called.format("serve") + f"host='127.0.0.1', port={where})"],
        "peregrine": [f"{binary}/peregrine", app, "--port", where, "--protocol", interface],
        "h2corn": [f"{binary}/h2corn", app, "--bind", f"127.0.0.1:{where}"],
        "gthread": [
            *(f"{binary}/gunicorn", app, "--bind", f"127.0.0.1:{where}", "--threads", "4", "--no-control-socket"),
        ],
    }[server]


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
    started = command(sys.argv[1], sys.argv[2], port)
    process = subprocess.Popen(started, cwd=Path(__file__).parent, stdout=quiet, stderr=quiet)
    signal.signal(signal.SIGTERM, lambda signum, frame: process.kill())
    wait_for(port, process)
    print(f"http://127.0.0.1:{port}", flush=True)
    process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
