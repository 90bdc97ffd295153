"""The service with FastAPI."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware

from tests.asgi.frameworks import service
from tests.asgi.frameworks.service import FILE, FILES, ORIGIN, SECRET, TEXT, WORD
from tests.asgi.frameworks.with_starlette import Duplex


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    yield {"word": WORD}


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key=SECRET)
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], allow_methods=["GET", "POST"], allow_headers=["X-Asked"])
app.mount("/static", StaticFiles(directory=FILES, html=True))


@app.get("/json")
async def json(request: Request, a: Annotated[list[str], Query()], b: str) -> dict[str, Any]:
    return {"a": a, "b": b, "query": request.url.query}


@app.get("/path/{name}/{number}")
def path(request: Request, name: str, number: int) -> dict[str, Any]:  # on a thread
    return {"name": name, "number": number, "path": request.url.path}


@app.post("/form")
async def form(a: Annotated[str, Form()], é: Annotated[str, Form()]) -> dict[str, str]:
    return {"a": a, "é": é}


@app.post("/upload")
async def upload(one: UploadFile, two: UploadFile, a: Annotated[str, Form()]) -> dict[str, str]:
    return {"one": service.digest(await one.read()), "two": service.digest(await two.read()), "a": a}


@app.post("/raw", response_class=PlainTextResponse)
async def raw(request: Request) -> str:
    return await service.digest_of(request.stream())


@app.post("/echo")
async def echo(request: Request) -> Duplex:
    return Duplex(service.raised(request.stream()), media_type="application/octet-stream")


@app.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(service.lines(), media_type="text/plain")


@app.get("/events")
async def events() -> StreamingResponse:
    return StreamingResponse(service.events(), media_type="text/event-stream")


@app.get("/background", response_class=PlainTextResponse)
async def background(tasks: BackgroundTasks) -> str:
    tasks.add_task(service.background, WORD)
    return "begun"


@app.get("/background/ran", response_class=PlainTextResponse)
async def background_ran() -> str:
    return await service.wait_for_background()


@app.get("/file")
async def file() -> FileResponse:
    return FileResponse(FILE)


@app.get("/error")
async def error() -> None:
    raise ValueError("secret")


@app.get("/refused")
async def refused() -> None:
    raise HTTPException(409, "not now", {"X-Why": "because"})


@app.get("/handled")
async def handled() -> None:
    raise service.RefusedError("known")


@app.exception_handler(service.RefusedError)
async def on_refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"refused": str(error)}, 418)


@app.get("/broken")
async def broken() -> StreamingResponse:
    return StreamingResponse(service.breaking(), media_type="text/plain")


async def word_of(request: Request) -> AsyncIterator[str]:
    """A dependency that is ended behind the response."""
    yield request.state.word


@app.get("/state", response_class=PlainTextResponse)
async def state(word: Annotated[str, Depends(word_of)]) -> str:
    return word


@app.get("/session", response_class=PlainTextResponse)
async def session(request: Request) -> str:
    request.session["count"] = request.session.get("count", 0) + 1
    return str(request.session["count"])


@app.get("/large", response_class=PlainTextResponse)
async def large() -> str:
    return TEXT


@app.get("/cookies")
async def cookies(x: Annotated[str, Cookie()], y: Annotated[str, Cookie()]) -> PlainTextResponse:
    response = PlainTextResponse(f"x={x};y={y}")
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


@app.get("/redirect")
async def redirect() -> RedirectResponse:
    return RedirectResponse("/elsewhere?a=b")


@app.get("/empty", status_code=204)
async def empty() -> None: ...


@app.get("/client")
async def client(request: Request) -> list[str | None]:
    assert request.client is not None
    return [request.client.host, request.url.scheme, request.headers.get("user-agent")]
