"""The service with BlackSheep."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from blacksheep import Application, Content, Cookie, Request, Response, StreamedContent
from blacksheep import file as file_response
from blacksheep import json as json_response
from blacksheep.server.compression import use_gzip_compression
from blacksheep.server.responses import ContentDispositionType, no_content, temporary_redirect, text
from blacksheep.server.sse import ServerSentEvent, ServerSentEventsResponse
from blacksheep.sessions.cookies import CookieSessionStore

from tests.asgi.frameworks import service
from tests.asgi.frameworks.service import EVENTS, FILE, FILES, ORIGIN, SECRET, TEXT, WORD

app = Application()
app.use_cors(allow_origins=ORIGIN, allow_methods="GET POST", allow_headers="X-Asked")
app.use_sessions(CookieSessionStore(SECRET))
use_gzip_compression(app)
app.serve_files(FILES, root_path="static")
route = app.router

words: list[str] = []
tasks: set[asyncio.Task[None]] = set()


@app.on_start
async def start(application: Application) -> None:
    words.append(WORD)


def _stream_of(request: Request) -> Any:
    """The pieces of the body. (The method is an async generator, which its types don't say.)"""
    return request.stream()


@route.get("/json")
async def json(request: Request) -> Response:
    query = request.query
    return json_response({"a": query["a"], "b": query["b"][0], "query": (request.url.query or b"").decode()})


@route.get("/path/{str:name}/{int:number}")
async def path(request: Request, name: str, number: int) -> Response:
    return json_response({"name": name, "number": number, "path": unquote(request.path)})


@route.post("/form")
async def form(request: Request) -> Response:
    return json_response(await request.form())


@route.post("/upload")
async def upload(request: Request) -> Response:
    told = {}
    for part in await request.multipart() or ():
        told[part.name.decode()] = service.digest(part.data) if part.file_name else part.data.decode()
    return json_response(told)


@route.post("/raw")
async def raw(request: Request) -> Response:
    return text(await service.digest_of(_stream_of(request)))


@route.post("/echo")
async def echo(request: Request) -> Response:
    async def pieces() -> Any:
        async for piece in service.raised(_stream_of(request)):
            yield piece

    return Response(200, content=StreamedContent(b"application/octet-stream", pieces))


@route.get("/stream")
async def stream() -> Response:
    return Response(200, content=StreamedContent(b"text/plain", service.lines))


@route.get("/events")
async def events() -> Response:
    async def told() -> Any:
        for event in EVENTS:
            yield ServerSentEvent({"event": event})

    return ServerSentEventsResponse(told)


@route.get("/background")
async def background() -> Response:
    task = asyncio.create_task(service.background(WORD))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return text("begun")


@route.get("/background/ran")
async def background_ran() -> Response:
    return text(await service.wait_for_background())


@route.get("/file")
async def file() -> Response:
    return file_response(str(FILE), "text/html", content_disposition=ContentDispositionType.INLINE)


@route.get("/error")
async def error() -> Response:
    raise ValueError("secret")


@route.get("/refused")
async def refused() -> Response:
    return Response(409, [(b"X-Why", b"because")], Content(b"text/plain", b"not now"))


@route.get("/handled")
async def handled() -> Response:
    raise service.RefusedError("known")


async def on_refused(app: Application, request: Request, error: Exception) -> Response:
    return json_response({"refused": str(error)}, 418)


app.exceptions_handlers[service.RefusedError] = on_refused


@route.get("/broken")
async def broken() -> Response:
    return Response(200, content=StreamedContent(b"text/plain", service.breaking))


@route.get("/state")
async def state() -> Response:
    return text(words[0])


@route.get("/session")
async def session(request: Request) -> Response:
    request.session["count"] = request.session.get("count", 0) + 1
    return text(str(request.session["count"]))


@route.get("/large")
async def large() -> Response:
    return text(TEXT)


@route.get("/cookies")
async def cookies(request: Request) -> Response:
    response = text(";".join(f"{name}={value}" for name, value in sorted(request.cookies.items())))
    response.set_cookie(Cookie("one", "1", http_only=True))
    response.set_cookie(Cookie("two", "2"))
    return response


@route.get("/redirect")
async def redirect() -> Response:
    return temporary_redirect("/elsewhere?a=b")


@route.get("/empty")
async def empty() -> Response:
    return no_content()


@route.get("/client")
async def client(request: Request) -> Response:
    agent = request.headers.get_first(b"user-agent")
    return json_response([request.client_ip, request.scheme, None if agent is None else agent.decode()])
