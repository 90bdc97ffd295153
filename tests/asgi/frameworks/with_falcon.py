"""The service with Falcon. Its sessions are Starlette's middleware.

(Starlette's that compresses doesn't go with Falcon: it changes an event that Falcon has one of for all requests.)
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from typing import Any

import falcon
import falcon.asgi
from falcon.asgi import Request, Response, SSEvent
from falcon.media.multipart import MultipartFormHandler
from starlette.middleware.sessions import SessionMiddleware

from tests.asgi.frameworks import service
from tests.asgi.frameworks.service import EVENTS, FILE, FILES, ORIGIN, SECRET, TEXT, WORD


class Lifespan:
    """Falcon's middleware that knows of the lifespan."""

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        scope["state"]["word"] = WORD


class Compression:
    """Compresses what is large and whole."""

    async def process_response(self, req: Request, resp: Response, resource: Any, req_succeeded: bool) -> None:
        if resp.text and len(resp.text) > 1000 and "gzip" in (req.get_header("Accept-Encoding") or ""):
            resp.data, resp.text = gzip.compress(resp.text.encode()), None
            resp.set_header("Content-Encoding", "gzip")
            resp.append_header("Vary", "Accept-Encoding")


class Json:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = {"a": req.get_param_as_list("a"), "b": req.get_param("b"), "query": req.query_string}


class Path:
    async def on_get(self, req: Request, resp: Response, name: str, number: int) -> None:
        resp.media = {"name": name, "number": number, "path": req.path}


class Form:
    async def on_post(self, req: Request, resp: Response) -> None:
        resp.media = await req.get_media()


class Upload:
    async def on_post(self, req: Request, resp: Response) -> None:
        told = {}
        async for part in await req.get_media():
            data = await part.stream.read()
            told[part.name] = service.digest(data) if part.filename else data.decode()
        resp.media = told


class Raw:
    async def on_post(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = await service.digest_of(req.stream)


class Echo:
    async def on_post(self, req: Request, resp: Response) -> None:
        resp.content_type = "application/octet-stream"
        resp.stream = service.raised(req.stream)


class Stream:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.stream = service.lines()


class Events:
    async def on_get(self, req: Request, resp: Response) -> None:
        async def told() -> AsyncIterator[SSEvent]:
            for event in EVENTS:
                yield SSEvent(json=event)

        resp.sse = told()


class Background:
    async def on_get(self, req: Request, resp: Response) -> None:
        async def run() -> None:
            await service.background(WORD)

        resp.schedule(run)
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = "begun"

    async def on_get_ran(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = await service.wait_for_background()


class File:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_HTML
        resp.set_stream(_read(FILE), FILE.stat().st_size)


async def _read(path: Any) -> AsyncIterator[bytes]:
    yield path.read_bytes()


class Faults:
    async def on_get(self, req: Request, resp: Response) -> None:
        raise ValueError("secret")

    async def on_get_refused(self, req: Request, resp: Response) -> None:
        raise falcon.HTTPConflict(title="not now", headers={"X-Why": "because"})

    async def on_get_handled(self, req: Request, resp: Response) -> None:
        raise service.RefusedError("known")

    async def on_get_broken(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.stream = service.breaking()


async def on_refused(req: Request, resp: Response, error: Exception, params: Any) -> None:
    resp.status = falcon.HTTP_418
    resp.media = {"refused": str(error)}


class State:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = req.scope["state"]["word"]


class Session:
    async def on_get(self, req: Request, resp: Response) -> None:
        session = req.scope["session"]
        session["count"] = session.get("count", 0) + 1
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = str(session["count"])


class Large:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = TEXT


class Cookies:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = ";".join(f"{name}={value}" for name, value in sorted(req.cookies.items()))
        resp.set_cookie("one", "1", http_only=True, secure=False)
        resp.set_cookie("two", "2", secure=False)


class Redirect:
    async def on_get(self, req: Request, resp: Response) -> None:
        raise falcon.HTTPTemporaryRedirect("/elsewhere?a=b")


class Empty:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.status = falcon.HTTP_204


class Client:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = [req.remote_addr, req.scheme, req.user_agent]


def build() -> Any:
    middleware: list[Any] = [Lifespan(), Compression(), falcon.CORSMiddleware(allow_origins=ORIGIN)]
    app: Any = falcon.asgi.App(middleware=middleware)
    multipart = MultipartFormHandler()
    multipart.parse_options.max_body_part_buffer_size = 64 * 1024 * 1024
    app.req_options.media_handlers[falcon.MEDIA_MULTIPART] = multipart
    app.add_error_handler(service.RefusedError, on_refused)
    faults = Faults()
    app.add_route("/json", Json())
    app.add_route("/path/{name}/{number:int}", Path())
    app.add_route("/form", Form())
    app.add_route("/upload", Upload())
    app.add_route("/raw", Raw())
    app.add_route("/echo", Echo())
    app.add_route("/stream", Stream())
    app.add_route("/events", Events())
    app.add_route("/background", Background())
    app.add_route("/background/ran", Background(), suffix="ran")
    app.add_route("/file", File())
    app.add_route("/error", faults)
    app.add_route("/refused", faults, suffix="refused")
    app.add_route("/handled", faults, suffix="handled")
    app.add_route("/broken", faults, suffix="broken")
    app.add_route("/state", State())
    app.add_route("/session", Session())
    app.add_route("/large", Large())
    app.add_route("/cookies", Cookies())
    app.add_route("/redirect", Redirect())
    app.add_route("/empty", Empty())
    app.add_route("/client", Client())
    app.add_static_route("/static", FILES)
    return SessionMiddleware(app, secret_key=SECRET)


app = build()
