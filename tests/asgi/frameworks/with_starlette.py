"""The service with Starlette."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from tests.asgi.frameworks import service
from tests.asgi.frameworks.service import FILE, FILES, ORIGIN, SECRET, TEXT, WORD


class Duplex(StreamingResponse):
    """A stream that reads its request's body, and leaves that to nobody else.

    `StreamingResponse` listens for the client's end meanwhile, and drops the pieces of the body that it receives so.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
    yield {"word": WORD}


async def json(request: Request) -> Response:
    query = request.query_params
    return JSONResponse({"a": query.getlist("a"), "b": query.get("b"), "query": request.url.query})


async def path(request: Request) -> Response:
    return JSONResponse(dict(request.path_params) | {"path": request.url.path})


async def form(request: Request) -> Response:
    async with request.form() as found:
        return JSONResponse({name: str(value) for name, value in found.items()})


async def upload(request: Request) -> Response:
    told: dict[str, str] = {}
    async with request.form() as found:
        for name, value in found.items():
            told[name] = service.digest(await value.read()) if isinstance(value, UploadFile) else value
    return JSONResponse(told)


async def raw(request: Request) -> Response:
    return PlainTextResponse(await service.digest_of(request.stream()))


async def echo(request: Request) -> Response:
    return Duplex(service.raised(request.stream()), media_type="application/octet-stream")


async def stream(request: Request) -> Response:
    return StreamingResponse(service.lines(), media_type="text/plain")


async def events(request: Request) -> Response:
    return StreamingResponse(service.events(), media_type="text/event-stream")


async def background(request: Request) -> Response:
    return PlainTextResponse("begun", background=BackgroundTask(service.background, WORD))


async def background_ran(request: Request) -> Response:
    return PlainTextResponse(await service.wait_for_background())


async def file(request: Request) -> Response:
    return FileResponse(FILE)


async def error(request: Request) -> Response:
    raise ValueError("secret")


async def refused(request: Request) -> Response:
    raise HTTPException(409, "not now", {"X-Why": "because"})


async def handled(request: Request) -> Response:
    raise service.RefusedError("known")


async def broken(request: Request) -> Response:
    return StreamingResponse(service.breaking(), media_type="text/plain")


async def state(request: Request) -> Response:
    return PlainTextResponse(request.state.word)


async def session(request: Request) -> Response:
    request.session["count"] = request.session.get("count", 0) + 1
    return PlainTextResponse(str(request.session["count"]))


async def large(request: Request) -> Response:
    return PlainTextResponse(TEXT)


async def cookies(request: Request) -> Response:
    response = PlainTextResponse(";".join(f"{name}={value}" for name, value in sorted(request.cookies.items())))
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


async def redirect(request: Request) -> Response:
    return RedirectResponse("/elsewhere?a=b")


async def empty(request: Request) -> Response:
    return Response(status_code=204)


async def client(request: Request) -> Response:
    assert request.client is not None
    return JSONResponse([request.client.host, request.url.scheme, request.headers.get("user-agent")])


async def on_refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"refused": str(error)}, 418)


app = Starlette(
    lifespan=lifespan,
    exception_handlers={service.RefusedError: on_refused},
    middleware=[
        Middleware(CORSMiddleware, allow_origins=[ORIGIN], allow_methods=["GET", "POST"], allow_headers=["X-Asked"]),
        Middleware(GZipMiddleware, minimum_size=1000),
        Middleware(SessionMiddleware, secret_key=SECRET),
    ],
    routes=[
        Route("/json", json),
        Route("/path/{name}/{number:int}", path),
        Route("/form", form, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/raw", raw, methods=["POST"]),
        Route("/echo", echo, methods=["POST"]),
        Route("/stream", stream),
        Route("/events", events),
        Route("/background", background),
        Route("/background/ran", background_ran),
        Route("/file", file),
        Route("/error", error),
        Route("/refused", refused),
        Route("/handled", handled),
        Route("/broken", broken),
        Route("/state", state),
        Route("/session", session),
        Route("/large", large),
        Route("/cookies", cookies),
        Route("/redirect", redirect),
        Route("/empty", empty),
        Route("/client", client),
        Mount("/static", StaticFiles(directory=FILES, html=True)),
    ],
)
