"""The answers of the json and unique rows as an ASGI application without a framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

Message = dict[str, Any]

HEADERS = [(b"content-type", b"application/json")]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer with what `floor.c` answers to such a request."""
    if scope["type"] != "http":
        raise NotImplementedError("it has no lifespan")
    path = scope["path"]
    if path.startswith("/users/"):
        body = orjson.dumps({"user": int(path[7:]), "name": "Ada"})
    else:
        body = orjson.dumps({"message": "Hello, World!"})
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": body})
