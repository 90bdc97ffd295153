"""What the servers under fault serve: small, big and endless answers, and a look at what the server holds."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from hypoll import Request, Response, Routes
from hypoll.http import RequestParser
from hypoll.server.connection import Connection
from hypoll.server.server import Server
from hypoll.websocket import Socket

MIB = 1024 * 1024

BIG = b"b" * (8 * MIB)
ONE = b"1" * MIB
PIECE = b"p" * (64 * 1024)

routes = Routes()
calls: Counter[str] = Counter()
servers: list[Server] = []


@routes.get("/")
def index(request: Request) -> str:
    return "ok"


@routes.get("/number/{number:int}")
def number(request: Request, number: int) -> str:
    return str(number)


@routes.get("/big")
def big(request: Request) -> Response:
    return Response(BIG)


@routes.get("/one")
def one(request: Request) -> Response:
    calls["one"] += 1
    return Response(ONE)


@routes.get("/stream/{pieces:int}")
def stream(request: Request, pieces: int) -> Response:
    return Response(_pieces(pieces))


def _pieces(count: int) -> Iterator[bytes]:
    calls["streams"] += 1
    try:
        for _ in range(count):
            yield PIECE
    finally:
        calls["streams"] -= 1


@routes.post("/upload")
def upload(request: Request) -> str:
    return str(len(request.body))


@routes.get("/memory")
def memory(request: Request) -> str:
    raise MemoryError


@routes.post("/collector/{state}")
def collector(request: Request, state: str) -> None:
    gc.collect()
    gc.disable() if state == "off" else gc.enable()


@routes.post("/trim")
def trim(request: Request) -> None:
    """Give back what the allocator keeps for later: what stays resident is in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


@routes.get("/counts")
def counts(request: Request) -> dict[str, Any]:
    """What the server holds, the connection of this request included."""
    if "collect" in request.query:
        gc.collect()
    objects = gc.get_objects()
    if not servers:
        servers.extend(found for found in objects if type(found) is Server)
    kinds = Counter(type(found) for found in objects)
    server = servers[0]
    return {
        "registered": len(server.loop.registered()),
        "connections": len(server.connections),
        "connection_objects": kinds[Connection],
        "parser_objects": kinds[RequestParser],
        "streams": calls["streams"],
        "objects": len(objects),
        "one": calls["one"],
    }


@routes.websocket("/echo")
async def echo(socket: Socket) -> None:
    async for message in socket:
        await socket.send(message)


@routes.websocket("/push")
async def push(socket: Socket) -> None:
    """Send without an end."""
    while True:
        await socket.send(PIECE)


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The same by ASGI: requests are those of `routes`."""
    await receive()
    if scope["type"] == "http":
        query = scope["query_string"]
        response = routes(Request(scope["method"], scope["raw_path"] + (b"?" + query if query else b"")))
        await send({"type": "http.response.start", "status": response.status})
        await send({"type": "http.response.body", "body": response.body})
        return
    await send({"type": "websocket.accept"})
    while scope["path"] == "/push":
        await send({"type": "websocket.send", "bytes": PIECE})
        await asyncio.sleep(0)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
