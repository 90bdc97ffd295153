"""Handlers and bodies of each kind: on the loop, on a thread, in a task."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from hypoll import Request, Routes


def declare(routes: Routes, kind: str, path: str, handler: Callable[..., Any]) -> None:
    """Declare a handler as one of a kind: "async", "threaded", or another word for one on the loop."""

    async def task(request: Request, **params: Any) -> Any:
        return handler(request, **params)

    if kind == "async":
        routes.get(path)(task)
    else:
        routes.get(path, threaded=kind == "threaded")(handler)


def pieces() -> Iterator[bytes]:
    yield b"one "
    yield b"two"


async def async_pieces() -> AsyncIterator[bytes]:
    yield b"one "
    yield b"two"
