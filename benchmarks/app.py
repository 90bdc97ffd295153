"""The applications that are measured."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypoll import Request, Response, Routes
from hypoll.websocket import Socket

LARGE = bytes(8 * 1024 * 1024)
"""More than a socket's send buffer takes at once."""

hello = Routes()
"""The two-route application of the inline row."""


@hello.get("/")
def index(request: Request) -> str:
    """Answer with text."""
    return "Hello, World!"


@hello.get("/json")
def message(request: Request) -> dict[str, Any]:
    """Answer with what `floor.c` answers."""
    return {"message": "Hello, World!"}


shop = Routes()
"""Parameters, bodies and large answers."""


@shop.get("/users/{id:int}/orders/{order}")
def order(request: Request, id: int, order: str) -> dict[str, Any]:  # noqa: A002 - the parameter's name
    """Answer with the path's parameters."""
    return {"user": id, "order": order}


@shop.post("/orders")
def create(request: Request) -> tuple[dict[str, Any], int]:
    """Take an order as JSON."""
    document = request.json()
    return {"id": document["id"], "lines": len(document["lines"])}, 201


@shop.get("/large")
def large(request: Request) -> Response:
    """Answer with 8 MiB."""
    return Response(LARGE, content_type="application/octet-stream")


threads = Routes()
"""The inline row's JSON, from the pool."""


@threads.get("/json", threaded=True)
def threaded_message(request: Request) -> dict[str, Any]:
    """Answer as `message` does."""
    return {"message": "Hello, World!"}


rows = Routes()
"""What the rows of the table ask for, inline."""

rows.get("/json")(message)


@rows.get("/users/{id:int}")
def user(request: Request, id: int) -> dict[str, Any]:  # noqa: A002 - the parameter's name
    """Answer with the path's number."""
    return {"user": id, "name": "Ada"}


@rows.post("/orders")
def order_back(request: Request) -> Any:
    """Decode an order, and encode it."""
    return request.json()


@rows.post("/upload")
def upload(request: Request) -> dict[str, int]:
    """Take a body."""
    return {"bytes": len(request.body)}


@cache
def content(size: int) -> bytes:
    """As many bytes, made once."""
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@rows.get("/download/{size:int}")
def download(request: Request, size: int) -> Response:
    """Answer with as many bytes."""
    return Response(content(size), content_type="application/octet-stream")


tasks = Routes()
"""The inline row's JSON, from asyncio tasks."""


@tasks.get("/json")
async def async_message(request: Request) -> dict[str, Any]:
    """Answer as `message` does."""
    return {"message": "Hello, World!"}


echo = Routes()
"""The echo of the WebSocket rows."""


@echo.websocket("/")
async def send_back(socket: Socket) -> None:
    """Send each message back."""
    async for message in socket:
        await socket.send(message)
