"""The service with Litestar."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Litestar, Request, asgi, get, post
from litestar.background_tasks import BackgroundTask
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.datastructures import Cookie, State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.params import Body
from litestar.response import File, Redirect, Response, ServerSentEvent, Stream
from litestar.static_files import create_static_files_router
from litestar.types import Receive, Scope, Send

from tests.asgi.frameworks import service
from tests.asgi.frameworks.service import EVENTS, FILE, FILES, ORIGIN, SECRET, TEXT, WORD

Asked = Request[Any, Any, State]


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.word = WORD
    yield


@get("/json")
async def json(request: Asked, a: list[str], b: str) -> dict[str, Any]:
    return {"a": a, "b": b, "query": request.url.query}


@get("/path/{name:str}/{number:int}", sync_to_thread=True)
def path(request: Asked, name: str, number: int) -> dict[str, Any]:
    return {"name": name, "number": number, "path": request.url.path}


@post("/form", status_code=200)
async def form(data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]) -> dict[str, str]:
    return data


@post("/upload", status_code=200, request_max_body_size=None)
async def upload(data: Annotated[dict[str, Any], Body(media_type=RequestEncodingType.MULTI_PART)]) -> dict[str, str]:
    return {
        name: service.digest(await value.read()) if isinstance(value, UploadFile) else value
        for name, value in data.items()
    }


@post("/raw", status_code=200, request_max_body_size=None, media_type="text/plain")
async def raw(request: Asked) -> str:
    return await service.digest_of(request.stream())


@asgi("/echo", copy_scope=False)
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Without `Stream`, which listens for the client's end, and drops the pieces of the body that it receives so."""
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for piece in service.raised(service.received(receive)):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@get("/stream")
async def stream() -> Stream:
    return Stream(service.lines(), media_type="text/plain")


@get("/events")
async def events() -> ServerSentEvent:
    async def told() -> AsyncIterator[str]:
        for event in EVENTS:
            yield event

    return ServerSentEvent(told())


@get("/background")
async def background() -> Response[str]:
    return Response("begun", media_type="text/plain", background=BackgroundTask(service.background, WORD))


@get("/background/ran", media_type="text/plain")
async def background_ran() -> str:
    return await service.wait_for_background()


@get("/file")
async def file() -> File:
    return File(FILE, media_type="text/html", content_disposition_type="inline")


@get("/error")
async def error() -> None:
    raise ValueError("secret")


@get("/refused")
async def refused() -> None:
    raise HTTPException("not now", status_code=409, headers={"X-Why": "because"})


@get("/handled")
async def handled() -> None:
    raise service.RefusedError("known")


def on_refused(request: Asked, error: service.RefusedError) -> Response[dict[str, str]]:
    return Response({"refused": str(error)}, status_code=418)


@get("/broken")
async def broken() -> Stream:
    return Stream(service.breaking(), media_type="text/plain")


@get("/state", media_type="text/plain")
async def state(request: Asked) -> str:
    word: str = request.app.state.word
    return word


@get("/session", media_type="text/plain")
async def session(request: Asked) -> str:
    count = request.session.get("count", 0) + 1
    request.set_session({"count": count})
    return str(count)


@get("/large", media_type="text/plain")
async def large() -> str:
    return TEXT


@get("/cookies")
async def cookies(request: Asked) -> Response[str]:
    told = ";".join(f"{name}={value}" for name, value in sorted(request.cookies.items()))
    both = [Cookie("one", value="1", httponly=True), Cookie("two", value="2")]
    return Response(told, media_type="text/plain", cookies=both)


@get("/redirect", status_code=307)
async def redirect() -> Redirect:
    return Redirect("/elsewhere?a=b", status_code=307)


@get("/empty", status_code=204)
async def empty() -> None: ...


@get("/client")
async def client(request: Asked) -> list[str | None]:
    assert request.client is not None
    return [request.client.host, request.url.scheme, request.headers.get("user-agent")]


app = Litestar(
    [
        *(json, path, form, upload, raw, echo, stream, events, background, background_ran, file, error, refused),
        *(handled, broken, state, session, large, cookies, redirect, empty, client),
        create_static_files_router("/static", [FILES], html_mode=True),
    ],
    lifespan=[lifespan],
    exception_handlers={service.RefusedError: on_refused},
    middleware=[CookieBackendConfig(secret=SECRET[:16].encode()).middleware],
    cors_config=CORSConfig(allow_origins=[ORIGIN], allow_methods=["GET", "POST"], allow_headers=["X-Asked"]),
    compression_config=CompressionConfig(backend="gzip", minimum_size=1000),
)
