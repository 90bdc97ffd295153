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
