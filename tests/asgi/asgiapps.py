"""What ASGI applications of the tests are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, cast

from tests.support.server import Running, running

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def serving(app: Any, **settings: Any) -> AbstractContextManager[Running]:
    """`running`, for an application without lifespan."""
    return running(cast(Any, app), **{"lifespan": "off", **settings})


def start(status: Any = 200, *headers: Any, **more: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(content: Any = b"", more_body: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more_body}


def saying(*messages: Message) -> App:
    """An application that sends these."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def read(receive: Receive) -> bytes:
    """All of a request's body."""
    pieces = []
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


async def forever() -> None:
    await asyncio.Event().wait()
