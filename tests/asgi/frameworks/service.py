"""One small service that `with_*` beside this have written again, each with a framework: what they share.

It answers the requests of `asked.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

FILES = Path(__file__).with_name("files")
"""What is served below /static."""

FILE = FILES / "page.html"

SECRET = "of a test that is in the open: 0123456789abcdef"

WORD = "from the lifespan"
"""What the startup leaves for the requests."""

TEXT = "".join(f"a line that can be compressed, {number}\n" for number in range(1000))

ORIGIN = "https://shop.example"
"""Whose pages may ask."""

ran = asyncio.Event()
"""Set by the background task."""

EVENTS = ("one", "two\nlines", "three")


class RefusedError(Exception):
    """What the application has an exception handler for."""


async def background(word: str) -> None:
    """Be the background task: it ends after its response."""
    await asyncio.sleep(0)
    if word == WORD:
        ran.set()


async def wait_for_background() -> str:
    """Wait until the background task has run."""
    async with asyncio.timeout(5):
        await ran.wait()
    ran.clear()
    return "it ran"


def digest(data: bytes) -> str:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


async def digest_of(pieces: AsyncIterable[bytes]) -> str:
    """The digest of a body that is read piece by piece, and never held."""
    size, found = 0, hashlib.sha256()
    async for piece in pieces:
        size += len(piece)
        found.update(piece)
    return f"{size} {found.hexdigest()}"


async def lines() -> AsyncIterator[bytes]:
    for number in range(100):
        yield b"line %d\n" % number
        if number % 10 == 0:
            await asyncio.sleep(0)


async def breaking() -> AsyncIterator[bytes]:
    """A body that fails in its middle."""
    yield b"the first piece"
    await asyncio.sleep(0.05)  # it is on its way, alone
    raise ValueError("secret")


async def received(receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[bytes]:
    """The pieces of a body, for who has no framework's word for that."""
    more = True
    while more:
        message = await receive()
        yield message["body"]
        more = message["more_body"]


async def raised(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Pieces of a body in upper case, as they come."""
    async for piece in pieces:
        if piece:
            yield piece.upper()


async def events() -> AsyncIterator[bytes]:
    """Server-sent events, written by hand."""
    for event in EVENTS:
        yield b"".join(b"data: %b\n" % line.encode() for line in event.split("\n")) + b"\n"
        await asyncio.sleep(0)
