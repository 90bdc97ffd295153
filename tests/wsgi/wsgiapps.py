"""One small service, written twice: with Flask and with Django. And `Routes`, to be served by any WSGI server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import flask
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path, re_path
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from hypoll import HTTPError, Response, Routes
from hypoll.protocol.files import File

FILE = Path(__file__)


def digest(data: bytes) -> str:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def lines() -> Iterator[str]:
    for number in range(100):
        yield f"line {number}\n"


# Flask

with_flask = flask.Flask(__name__)
with_flask.config["MAX_FORM_MEMORY_SIZE"] = None


@with_flask.route("/json")
def _json() -> Any:
    return {"query": flask.request.args.getlist("a"), "url": flask.request.base_url.rpartition(":")[0]}


@with_flask.route("/believed")
def _believed() -> Any:
    request = flask.request
    return {"client": request.remote_addr, "root": request.url_root, "secure": request.is_secure}


@with_flask.route("/path/<path:rest>")
def _path(rest: str) -> Any:
    return f"{rest} {flask.request.script_root}"


@with_flask.route("/form", methods=["POST"])
def _form() -> Any:
    return "&".join(f"{name}={value}" for name, value in flask.request.form.items())


@with_flask.route("/upload", methods=["POST"])
def _upload() -> Any:
    return {name: digest(file.read()) for name, file in flask.request.files.items()} | dict(flask.request.form)


@with_flask.route("/raw", methods=["POST", "PUT"])
def _raw() -> Any:
    return digest(flask.request.stream.read())


@with_flask.route("/stream")
def _stream() -> Any:
    return flask.Response(lines(), mimetype="text/plain")


@with_flask.route("/file")
def _file() -> Any:
    return flask.send_file(FILE, mimetype="text/x-python")


@with_flask.route("/cookies")
def _cookies() -> Any:
    response = flask.make_response(";".join(sorted(flask.request.cookies)))
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


@with_flask.route("/redirect")
def _redirect() -> Any:
    return flask.redirect("/elsewhere")


@with_flask.route("/empty")
def _empty() -> Any:
    return "", 204


@with_flask.route("/status")
def _status() -> Any:
    return "short", "299 My Own Words"


@with_flask.route("/error")
def _error() -> Any:
    raise ValueError("secret")


# Django

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    LOGGING_CONFIG=None,
)
django.setup(set_prefix=False)

urlpatterns = [
    path("json", lambda request: JsonResponse({"query": request.GET.getlist("a"), "host": request.scheme})),
    path(
        "believed",
        lambda request: JsonResponse(
            {
                "client": request.META["REMOTE_ADDR"],
                "root": request.build_absolute_uri("/"),
                "secure": request.is_secure(),
            }
        ),
    ),
    re_path("^path/(.*)$", lambda request, rest: HttpResponse(f"{rest} {request.META['SCRIPT_NAME']}")),
    path("form", lambda request: HttpResponse("&".join(f"{name}={value}" for name, value in request.POST.items()))),
    path(
        "upload",
        lambda request: JsonResponse(
            {name: digest(file.read()) for name, file in request.FILES.items()} | request.POST.dict()
        ),
    ),
    path("raw", lambda request: HttpResponse(digest(request.read()))),
    path("stream", lambda request: StreamingHttpResponse(lines(), content_type="text/plain")),
    path("file", lambda request: FileResponse(FILE.open("rb"), content_type="text/x-python")),
    path("cookies", lambda request: _with_cookies(HttpResponse(";".join(sorted(request.COOKIES))))),
    path("redirect", lambda request: HttpResponseRedirect("/elsewhere")),
    path("empty", lambda request: HttpResponse(status=204)),
    path("status", lambda request: HttpResponse("short", status=299, reason="My Own Words")),
    path("error", lambda request: 1 / 0),
]


def _with_cookies(response: HttpResponse) -> HttpResponse:
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


with_django = WSGIHandler()

app = DispatcherMiddleware(with_flask, {"/django": with_django})

# hypoll's own

routes = Routes()
served = routes.wsgi


@routes.get("/inline/{number:int}")
def inline(request, number):
    return {"id": number, "query": dict(request.query), "cookies": request.cookies, "path": request.raw_path}


@routes.get("/threaded", threaded=True)
def threaded(request):
    return "threaded", 201, {"X-Kind": ["a", "b"]}


@routes.post("/echo")
def echo(request):
    return digest(request.body)


@routes.post("/take", threaded=True, stream=True)
def take(request):
    return digest(b"".join(request.stream))


@routes.get("/lines", threaded=True)
def give(request):
    return Response((line.encode() for line in lines()), content_type="text/plain")


@routes.get("/file")
def file(request):
    return File(str(FILE), "text/x-python")


@routes.get("/refused")
def refused(request):
    raise HTTPError(409, "not now", {"X-Why": "because"})


@routes.get("/fails")
def fails(request):
    raise ValueError("secret")


@routes.delete("/nothing")
def nothing(request):
    return None
