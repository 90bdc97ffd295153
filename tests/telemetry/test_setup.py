"""What the settings ask to be observed, and the server's own paths before an application's."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from hypoll import Routes
from hypoll.contracts import CloseReason
from hypoll.protocol.messages import HTTPError, Request, Response
from hypoll.settings import Settings
from hypoll.telemetry.endpoints import Endpoints
from hypoll.telemetry.exposition import write
from hypoll.telemetry.log_writer import LogWriterError
from hypoll.telemetry.observer import Observer
from hypoll.telemetry.setup import Telemetry
from hypoll.testing import TestClient
from tests.support.records import a_record


@pytest.fixture
def routes() -> Routes:
    made = Routes()

    @made.get("/")
    def index(request):
        return {"own": True}

    @made.post("/metrics")
    def post(request):
        return "the application's"

    return made


def settings(**values: object) -> Settings:
    return Settings(**{"access_log": "off", **values})  # type: ignore[arg-type]


def test_nothing_asked_for_is_nothing_in_the_way(loop, routes):
    telemetry = Telemetry(settings(), loop)
    assert (telemetry.observers, telemetry.access_log, telemetry.metrics, telemetry.endpoints) == (None, None, None, {})
    assert telemetry.wrap(routes) is routes
    telemetry.reopen()


@pytest.mark.parametrize(
    ("values", "paths"),
    [
        ({"health": "/healthz"}, ["/healthz/live", "/healthz/ready"]),
        ({"health": "/"}, ["/live", "/ready"]),
        ({"metrics": "/metrics"}, ["/metrics"]),
        ({"status": "/-/status"}, ["/-/status", "/-/status.json"]),
        ({"status": "/-/status/"}, ["/-/status/", "/-/status.json"]),
    ],
)
def test_what_is_asked_for_answers(loop, routes, values, paths):
    telemetry = Telemetry(settings(**values), loop)
    telemetry.health.start()
    with TestClient(telemetry.wrap(routes)) as client:
        for path in paths:
            answer = client.get(path + "?query=/")
            assert answer.status_code == 200
            assert client.head(path).headers["Content-Type"] == answer.headers["Content-Type"]
            refused = client.post(path, data=b"x" * 100_000, headers={"Expect": "100-continue"})
            assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
            assert client.get(path + "/nothing").status_code == 404
        assert client.get("/").json() == {"own": True}
    assert list(telemetry.endpoints) == paths


def test_metrics_are_counted_through_the_hub_and_told_by_the_endpoint(loop, turner, routes):
    telemetry = Telemetry(settings(metrics="/metrics", status="/status"), loop)
    assert telemetry.observers is not None
    request = Request("GET", b"/")
    telemetry.observers.on_requests(
        [a_record(request, request.peer, None, 200, "/", 1, 2, 0.0, 0.0, 0.0, 0.01, CloseReason.KEPT)]
    )
    turner.settle()
    with TestClient(telemetry.wrap(routes)) as client:
        text = client.get("/metrics").text
        assert 'hypoll_requests_total{method="GET",route="/",status="200"} 1.0' in text
        assert client.get("/status.json").json()["requests"] == 1


def test_a_scrape_is_made_while_the_loop_serves_though_all_threads_are_at_work(monkeypatch):
    """With a queue that is full, too: it has a thread of its own."""
    release, at_work, scraping, scraped = (threading.Event() for _ in range(4))
    made = Routes()
    made.get("/")(lambda request: {"served": True})

    @made.get("/stuck", threaded=True)
    def hang(request: Request) -> str:
        at_work.set()
        assert release.wait(30)
        return "done"

    def write_when_told(*arguments: Any) -> Any:
        scraping.set()
        assert scraped.wait(30)
        return write(*arguments)

    monkeypatch.setattr("hypoll.telemetry.prometheus.write", write_when_told)
    with (
        TestClient(made, metrics="/metrics", status="/status", threads=1, queue=0) as client,
        ThreadPoolExecutor(2) as others,
    ):
        try:
            stuck = others.submit(requests.get, client.base_url + "/stuck", timeout=30)
            assert at_work.wait(30)
            assert client.get("/stuck", timeout=30).status_code == 503, "the one thread is at work"
            scrape = others.submit(requests.get, client.base_url + "/metrics", timeout=30)
            assert scraping.wait(30)
            assert client.get("/").json() == {"served": True}
            assert not scrape.done()
            scraped.set()
            assert 'route="/stuck",status="503"} 1.0' in scrape.result().text
            assert client.get("/status.json").json()["requests"] > 0
            assert client.head("/metrics").headers["Content-Type"].startswith("text/plain")
        finally:
            release.set()
            scraped.set()
        assert stuck.result().text == "done"


def test_the_log_follows_the_file_when_it_is_told(loop, turner, tmp_path):
    path = tmp_path / "log"
    telemetry = Telemetry(settings(access_log="json", access_log_file=str(path)), loop)
    assert telemetry.observers is not None
    path.rename(tmp_path / "old")
    telemetry.reopen()
    request = Request("GET", b"/")
    telemetry.observers.on_requests([a_record(request, request.peer, None, 200, "/", 1, 2, 0.0, 0.0, 0.0, 0.01)])
    telemetry.observers.on_stop()
    assert path.read_bytes().count(b"\n") == 1
    assert (tmp_path / "old").read_bytes() == b""


def test_checks_and_further_observers_are_taken(loop):
    told = []

    class Hooks(Observer):
        def on_shed(self, reason: str) -> None:
            told.append(reason)

    telemetry = Telemetry(settings(), loop, checks=[lambda: False], extra_observers=[Hooks()])
    telemetry.health.start()
    assert not telemetry.health.ready
    assert telemetry.observers is not None
    telemetry.observers.on_shed("full")
    assert told == ["full"]


@pytest.mark.parametrize(
    "values",
    [{"metrics": "/a", "status": "/a"}, {"metrics": "/a/live", "health": "/a"}, {"metrics": "/a.json", "status": "/a"}],
)
def test_two_endpoints_of_one_path_are_refused(loop, values):
    with pytest.raises(ValueError, match="give each a path of its own"):
        Telemetry(settings(**values), loop)


def test_metrics_without_prometheus_client_say_what_to_install(loop, routes, monkeypatch):
    monkeypatch.delitem(sys.modules, "hypoll.telemetry.prometheus", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hypoll\[metrics\]'"):
        Telemetry(settings(metrics="/metrics"), loop)
    telemetry = Telemetry(settings(status="/status", health="/healthz"), loop)
    with TestClient(telemetry.wrap(routes)) as client:
        (worker,) = client.get("/status.json").json()["workers"]
        assert worker["pid"] == os.getpid(), "it tells of its own process"


def test_a_log_that_can_not_be_opened_is_an_error_at_the_start(loop, tmp_path):
    with pytest.raises(LogWriterError):
        Telemetry(settings(access_log="text", access_log_file=str(tmp_path)), loop)


# endpoints


class App:
    """An application that isn't Routes, and answers everything."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, request: Request) -> Response:
        self.seen.append(request.method)
        return Response(b"the application's")

    def early_refusal(self, request: Request) -> HTTPError | None:
        return HTTPError(413, "the application's")

    def startup(self, complete: Any) -> None:
        self.seen.append("startup")

    def shutdown(self, complete: Any) -> None:
        self.seen.append("shutdown")


def test_other_paths_are_the_application_s():
    app = App()
    endpoints = Endpoints(app, {"/own": lambda request: Response(b"own")})
    endpoints.startup(print)
    for target in (b"/", b"/own/", b"/Own", b"/ow%6e", b"*"):
        request = Request("GET", target)
        assert isinstance(endpoints.answer(request), Response)
        answer = endpoints.answer(request)
        assert isinstance(answer, Response)
        assert answer.body == b"the application's"
        refusal = endpoints.early_refusal(request)
        assert refusal is not None
        assert refusal.status == 413
        assert endpoints.pattern(request) is None
    endpoints.shutdown(print)
    assert app.seen == ["startup", *["GET"] * 10, "shutdown"]


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
def test_an_endpoint_is_only_read(method):
    response = Endpoints(App(), {"/own": lambda request: Response(b"own")}).answer(Request(method, b"/own"))
    assert isinstance(response, Response)
    assert (response.status, dict(response.headers)) == (405, {"Allow": "GET, HEAD"})


def test_an_endpoint_is_its_own_route_and_its_failure_is_a_problem():
    def fails(request: Request) -> Response:
        raise RuntimeError("the endpoint's own")

    endpoints = Endpoints(App(), {"/own": fails})
    request = Request("GET", b"/own?a=b")
    answer = endpoints.answer(request)
    assert isinstance(answer, Response)
    assert answer.status == 500
    assert endpoints.pattern(request) == "/own"
    assert endpoints.early_refusal(request) is None
