"""Paths of the server's own endpoints that the application answers, too: one hides the other, or a page both."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypoll import Routes
from hypoll.deploy.rehearsal import faults
from hypoll.runner import Runner
from hypoll.settings import Processes, Settings
from hypoll.testing import TestClient
from tests.support.gunicorn import GUNICORN, HYPOLL

OWN: dict[str, Any] = {"metrics": "/metrics", "health": "/healthz", "status": "/status"}
PATHS = ("/metrics", "/healthz/live", "/healthz/ready", "/status", "/status.json")


def page(request, **params):
    return "page"


async def async_page(request, **params):
    return "page"


def with_files(routes: Routes, directory: Path) -> None:
    (directory / "index.html").write_text("page")
    routes.static("/", str(directory), fallback="index.html")


FALLBACKS: dict[str, Callable[[Routes, Path], object]] = {
    "static": with_files,
    "route": lambda routes, _: routes.route("/{path:path}", methods=["GET", "POST"])(page),
    "threaded": lambda routes, _: routes.get("/{path:path}", threaded=True)(page),
    "async": lambda routes, _: routes.get("/{path:path}")(async_page),
}


@pytest.fixture(params=FALLBACKS)
def routes(request: pytest.FixtureRequest, tmp_path: Path) -> Routes:
    """An application that answers every path."""
    made = Routes()
    FALLBACKS[request.param](made, tmp_path)
    return made


@pytest.mark.parametrize("hooked", [False, True])
def test_a_fallback_answers_no_path_that_is_elsewhere(routes, tmp_path, hooked):
    if hooked:
        routes.before(lambda request: None)
    with TestClient(routes, admin_bind=f"unix:{tmp_path}/admin", **OWN) as client:
        for path in PATHS:
            for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
                answer = client.request(method, path, headers={"Accept": "text/html"})
                assert answer.status_code == 404, (method, path)
            assert client.get(path + "?a=1").status_code == 404
            assert "page" not in client.get(path).text
        for path in ("/", "/metricsx", "/healthz", "/healthz/live/x"):
            assert client.get(path, headers={"Accept": "text/html"}).text == "page"


def test_what_is_the_application_s_own_is_answered_beside_a_listener_elsewhere(routes, tmp_path):
    routes.get("/metrics")(lambda request: "own")
    routes.get("/healthz/{probe}")(lambda request, probe: probe)
    with TestClient(routes, admin_bind=f"unix:{tmp_path}/admin", **OWN) as client:
        assert [client.get(path).text for path in ("/metrics", "/healthz/live")] == ["own", "live"]
        assert client.get("/status").status_code == 404
        assert client._runner.notices == []


def test_without_a_listener_elsewhere_the_server_answers(routes):
    with TestClient(routes, **OWN) as client:
        assert [client.get(path).status_code for path in PATHS] == [200] * len(PATHS)
        assert client._runner.notices == [], "a fallback isn't meant to have them"


def test_without_a_fallback_nothing_stands_before_the_application(tmp_path):
    routes = Routes()
    routes.get("/metrics")(page)
    runner = Runner(routes, Settings(admin_bind=f"unix:{tmp_path}/admin", access_log="off", **OWN))
    assert runner.application is routes
    runner.close()


def mounted(prefix: str, path: str) -> Routes:
    routes, inner = Routes(), Routes()
    inner.get(path)(page)
    routes.mount(prefix, inner)
    return routes


def declared(path: str, method: str = "GET") -> Routes:
    routes = Routes()
    routes.route(path, methods=[method])(page)
    return routes


@pytest.mark.parametrize(
    ("routes", "path", "hidden"),
    [
        (declared("/metrics"), "/metrics", ["/metrics"]),
        (declared("/status", "POST"), "/status", ["/status"]),
        (declared("/healthz/{probe}"), "/healthz/{probe}", ["/healthz/live", "/healthz/ready"]),
        (mounted("/healthz", "/live"), "/healthz/live", ["/healthz/live"]),
        (mounted("/{tenant}", "/live"), "/{tenant}/live", ["/healthz/live"]),
        (declared("/metrics/"), "", []),
        (declared("/healthz"), "", []),
        (declared("/{path:path}"), "", []),
    ],
)
def test_a_route_that_is_hidden_is_named_by_the_check_and_the_start(routes, path, hidden):
    place = f"tests.web.test_overlaps.page, test_overlaps.py line {page.__code__.co_firstlineno}"
    said = [
        f"the server's own {own} hides the application's {path} ({place}): give one of them another path"
        for own in hidden
    ]
    settings = Settings(bind=("127.0.0.1:0",), access_log="off", **OWN)
    assert faults(routes, settings, Processes(), str) == ([], said)


@pytest.mark.parametrize("command", [HYPOLL, (*HYPOLL, "-w", "2"), GUNICORN])
def test_the_start_says_so_once(launch, command):
    app = "from hypoll import Routes\nroutes = Routes()\nroutes.get('/healthz/live')(lambda request: 'own')\n"
    master = launch((*command, "--bind", "127.0.0.1:0"), app=app, env={"HYPOLL_HEALTH": "/healthz"})
    assert b"pass" in master.get("/healthz/live")[1]
    master.says("WARNING.* the server's own /healthz/live hides the application's /healthz/live")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert sum("hides" in line for line in master.lines) == 1
