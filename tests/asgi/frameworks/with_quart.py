"""The service with Quart. CORS and compression are Starlette's middleware."""

from __future__ import annotations

from typing import Any

from quart import Quart, Response, current_app, jsonify, make_response, redirect, request, send_file, session
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from werkzeug.exceptions import HTTPException

from tests.asgi.frameworks import service
from tests.asgi.frameworks.service import FILE, FILES, ORIGIN, SECRET, TEXT, WORD

app = Quart(__name__, static_folder=str(FILES), static_url_path="/static")
app.secret_key = SECRET
app.config["MAX_CONTENT_LENGTH"] = None
app.config["MAX_FORM_MEMORY_SIZE"] = None
TEXT_TYPE = {"Content-Type": "text/plain; charset=utf-8"}


@app.before_serving
async def start() -> None:
    app.config["WORD"] = WORD


@app.get("/json")
async def json() -> Any:
    return jsonify(a=request.args.getlist("a"), b=request.args.get("b"), query=request.query_string.decode())


@app.get("/path/<name>/<int:number>")
def path(name: str, number: int) -> Any:  # on a thread
    return {"name": name, "number": number, "path": request.path}


@app.post("/form")
async def form() -> Any:
    return (await request.form).to_dict()


@app.post("/upload")
async def upload() -> Any:
    files, fields = await request.files, await request.form
    return {name: service.digest(file.read()) for name, file in files.items()} | fields.to_dict()


@app.post("/raw")
async def raw() -> Any:
    return await service.digest_of(request.body), TEXT_TYPE


@app.post("/echo")
async def echo() -> Any:
    return Response(service.raised(request.body), content_type="application/octet-stream")


@app.get("/stream")
async def stream() -> Any:
    return Response(service.lines(), content_type="text/plain")


@app.get("/events")
async def events() -> Any:
    return Response(service.events(), content_type="text/event-stream")


@app.get("/background")
async def background() -> Any:
    app.add_background_task(service.background, WORD)
    return "begun", TEXT_TYPE


@app.get("/background/ran")
async def background_ran() -> Any:
    return await service.wait_for_background(), TEXT_TYPE


@app.get("/file")
async def file() -> Any:
    return await send_file(FILE, conditional=True)


@app.get("/error")
async def error() -> Any:
    raise ValueError("secret")


class NotNowError(HTTPException):
    code = 409
    description = "not now"

    def get_headers(self, *arguments: Any, **named: Any) -> list[tuple[str, str]]:
        return [*super().get_headers(*arguments, **named), ("X-Why", "because")]


@app.get("/refused")
async def refused() -> Any:
    raise NotNowError


@app.get("/handled")
async def handled() -> Any:
    raise service.RefusedError("known")


@app.errorhandler(service.RefusedError)
async def on_refused(error: Exception) -> Any:
    return {"refused": str(error)}, 418


@app.get("/broken")
async def broken() -> Any:
    return Response(service.breaking(), content_type="text/plain")


@app.get("/state")
async def state() -> Any:
    return current_app.config["WORD"], TEXT_TYPE


@app.get("/session")
async def count() -> Any:
    session["count"] = session.get("count", 0) + 1
    return str(session["count"]), TEXT_TYPE


@app.get("/large")
async def large() -> Any:
    return TEXT, TEXT_TYPE


@app.get("/cookies")
async def cookies() -> Any:
    told = ";".join(f"{name}={value}" for name, value in sorted(request.cookies.items()))
    response = await make_response(told, TEXT_TYPE)
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


@app.get("/redirect")
async def elsewhere() -> Any:
    return redirect("/elsewhere?a=b", 307)


@app.get("/empty")
async def empty() -> Any:
    return "", 204


@app.get("/client")
async def client() -> Any:
    return jsonify([request.remote_addr, request.scheme, request.user_agent.string])


inner: Any = app.asgi_app
middleware: Any = CORSMiddleware(
    GZipMiddleware(inner, minimum_size=1000),
    allow_origins=[ORIGIN],
    allow_methods=["GET", "POST"],
    allow_headers=["X-Asked"],
)
app.asgi_app = middleware  # type: ignore[method-assign]
