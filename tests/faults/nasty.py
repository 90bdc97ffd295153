"""What the servers of tests/soak/test_memory.py serve: bodies that nobody reads, and ones that nobody sends on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from hypoll import Request, Response, Routes

PIECE = b"p" * 65536
BLOCKED = threading.Event()

routes = Routes()


@routes.get("/")
def index(request: Request) -> str:
    return "ok"


@routes.get("/fields")
def fields(request: Request) -> str:
    """Look at each field."""
    return f"{sum(len(value) for _, value in request.headers.items())} in all"


@routes.get("/long", threaded=True)
def long(request: Request) -> Response:
    """8 MiB, made on a thread."""
    return Response(_pieces())


def _pieces() -> Iterator[bytes]:
    for _ in range(128):
        yield PIECE


@routes.post("/ignored", threaded=True, stream=True)
def ignored(request: Request) -> str:
    """Takes one piece of the body, and no more of it."""
    next(iter(request.stream))
    BLOCKED.wait()
    return "ok"


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Takes the whole body, as most applications do."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(body)]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application: an endless stream, one of so many MiB, and one that reads all and counts it."""
    if scope["type"] != "http":
        return
    _, name, *rest = scope["path"].split("/")
    size = -1
    if name == "take":
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    left = float("inf") if name == "endless" else int(rest[0]) * 16 if name == "give" else 0
    while left > 0:
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        left -= 1
    await send({"type": "http.response.body", "body": b"%d" % size if name == "take" else b"ok" if not name else b""})
