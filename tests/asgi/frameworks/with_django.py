"""The service with Django: async views, its admin with static files. CORS is Starlette's middleware."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import django
from django.conf import settings

directory = tempfile.TemporaryDirectory(prefix="hypoll-django-")

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    USE_TZ=True,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{directory.name}/db.sqlite3",
            "OPTIONS": {"init_command": "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY"},  # it lasts for a test
        }
    },
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    SESSION_EXPIRE_AT_BROWSER_CLOSE=True,
    STATIC_URL="/static/",
    STATICFILES_DIRS=[Path(__file__).with_name("files")],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.middleware.gzip.GZipMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
)
django.setup(set_prefix=False)

from django.contrib import admin  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from starlette.middleware.cors import CORSMiddleware  # noqa: E402

from tests.asgi.frameworks import service  # noqa: E402
from tests.asgi.frameworks.service import FILE, ORIGIN, TEXT, WORD  # noqa: E402

call_command("migrate", verbosity=0)
User.objects.create_superuser("ada", password="lovelace")

tasks: set[asyncio.Task[None]] = set()


async def json(request: HttpRequest) -> HttpResponse:
    query = request.GET
    return JsonResponse({"a": query.getlist("a"), "b": query.get("b"), "query": request.META["QUERY_STRING"]})


def with_path(request: HttpRequest, name: str, number: int) -> HttpResponse:  # on a thread
    return JsonResponse({"name": name, "number": number, "path": request.path})


@csrf_exempt
async def form(request: HttpRequest) -> HttpResponse:
    return JsonResponse(request.POST.dict())


@csrf_exempt
async def upload(request: HttpRequest) -> HttpResponse:
    files = {name: service.digest(file.read()) for name, file in request.FILES.items()}
    return JsonResponse(files | request.POST.dict())


@csrf_exempt
async def raw(request: HttpRequest) -> HttpResponse:
    return HttpResponse(service.digest(request.body), content_type="text/plain")


async def stream(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(service.lines(), content_type="text/plain")


async def events(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(service.events(), content_type="text/event-stream")


async def background(request: HttpRequest) -> HttpResponse:
    task = asyncio.create_task(service.background(WORD))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return HttpResponse("begun", content_type="text/plain")


async def background_ran(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await service.wait_for_background(), content_type="text/plain")


async def file(request: HttpRequest) -> HttpResponse:
    return FileResponse(FILE.open("rb"))


async def error(request: HttpRequest) -> HttpResponse:
    raise ValueError("secret")


async def refused(request: HttpRequest) -> HttpResponse:
    return HttpResponse("not now", status=409, headers={"X-Why": "because"})


async def handled(request: HttpRequest) -> HttpResponse:
    try:
        raise service.RefusedError("known")
    except service.RefusedError as error:
        return JsonResponse({"refused": str(error)}, status=418)


async def broken(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(service.breaking(), content_type="text/plain")


async def state(request: HttpRequest) -> HttpResponse:
    return HttpResponse(WORD, content_type="text/plain")  # Django has no lifespan


async def session(request: HttpRequest) -> HttpResponse:
    count = await request.session.aget("count", 0) + 1
    await request.session.aset("count", count)
    return HttpResponse(str(count), content_type="text/plain")


async def large(request: HttpRequest) -> HttpResponse:
    return HttpResponse(TEXT, content_type="text/plain")


async def cookies(request: HttpRequest) -> HttpResponse:
    told = ";".join(f"{name}={value}" for name, value in sorted(request.COOKIES.items()))
    response = HttpResponse(told, content_type="text/plain")
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


async def redirect(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/elsewhere?a=b", status=307)


async def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204)


async def client(request: HttpRequest) -> HttpResponse:
    told = [request.META["REMOTE_ADDR"], request.scheme, request.META.get("HTTP_USER_AGENT")]
    return JsonResponse(told, safe=False)


urlpatterns = [
    path("json", json),
    path("path/<str:name>/<int:number>", with_path),
    path("form", form),
    path("upload", upload),
    path("raw", raw),
    path("stream", stream),
    path("events", events),
    path("background", background),
    path("background/ran", background_ran),
    path("file", file),
    path("error", error),
    path("refused", refused),
    path("handled", handled),
    path("broken", broken),
    path("state", state),
    path("session", session),
    path("large", large),
    path("cookies", cookies),
    path("redirect", redirect),
    path("empty", empty),
    path("client", client),
    path("admin/", admin.site.urls),
]

app = CORSMiddleware(
    ASGIStaticFilesHandler(get_asgi_application()),
    allow_origins=[ORIGIN],
    allow_methods=["GET", "POST"],
    allow_headers=["X-Asked"],
)
