"""What the servers under fault serve whose handlers wait, and whose bodies flow."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator

from hypoll import File, Request, Response, Routes

PIECE = b"p" * (64 * 1024)

_file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - it goes with the process
_file.truncate(128 * len(PIECE))

routes = Routes()


@routes.get("/")
def index(request: Request) -> str:
    return "ok"


@routes.get("/inline/wait")
def inline_wait(request: Request) -> str:
    time.sleep(0.3)
    return "waited"


@routes.get("/threaded/wait", threaded=True)
def threaded_wait(request: Request) -> str:
    time.sleep(0.3)
    return "waited"


@routes.get("/async/wait")
async def async_wait(request: Request) -> str:
    await asyncio.sleep(0.3)
    return "waited"


@routes.get("/threaded/stuck", threaded=True)
def threaded_stuck(request: Request) -> None:
    threading.Event().wait()


@routes.get("/async/stuck")
async def async_stuck(request: Request) -> None:
    await asyncio.Event().wait()


@routes.get("/inline/stream/{pieces:int}")
def inline_stream(request: Request, pieces: int) -> Response:
    return Response(_pieces(pieces))


@routes.get("/threaded/stream/{pieces:int}", threaded=True)
def threaded_stream(request: Request, pieces: int) -> Response:
    return Response(_pieces(pieces))


@routes.get("/async/stream/{pieces:int}")
async def async_stream(request: Request, pieces: int) -> Response:
    return Response(_apieces(pieces))


@routes.get("/file/stream/{pieces:int}")
def file(request: Request, pieces: int) -> File:
    return File(_file.name)


@routes.get("/inline/slow")
def inline_slow(request: Request) -> Response:
    return Response(_slow())


@routes.get("/threaded/slow", threaded=True)
def threaded_slow(request: Request) -> Response:
    return Response(_slow())


@routes.get("/async/slow")
async def async_slow(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"piece"
            await asyncio.sleep(0.1)

    return Response(pieces())


def _slow() -> Iterator[bytes]:
    for _ in range(4):
        yield b"piece"
        time.sleep(0.1)


def _pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield PIECE


async def _apieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PIECE


@routes.post("/threaded/upload", threaded=True, stream=True)
def threaded_upload(request: Request) -> str:
    return str(sum(map(len, request.stream)))


@routes.post("/async/upload", stream=True)
async def async_upload(request: Request) -> str:
    size = 0
    async for piece in request.stream:
        size += len(piece)
    return str(size)


@routes.post("/trim")
def trim(request: Request) -> None:
    """Give back what the allocator keeps for later: what stays resident is in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
