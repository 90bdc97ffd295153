"""The status page: who may see it, what it tells, and how a browser draws it."""

from __future__ import annotations

import html.parser
import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from hypoll import Routes
from hypoll.contracts import CloseReason, Gauges, Timeout
from hypoll.protocol.messages import HTTPError, Request
from hypoll.protocol.peer import NOBODY, Peer
from hypoll.proxy.networks import Networks
from hypoll.telemetry.metrics import BOUNDS, CONNECTIONS, Histogram, Metrics, Snapshot, WorkerGauges
from hypoll.telemetry.status_page import StatusPage, page_headers
from hypoll.testing import TestClient
from hypoll.version import __version__
from tests.support.browser import browse, needs_browser
from tests.support.records import a_record

NOW = 1_800_000_000.0

HOSTILE = "/<img src=x onerror=alert(1)>/&amp;\"'</script>"


def ask(client: str = "127.0.0.1") -> Request:
    return Request("GET", b"/-/status", peer=Peer((client, 1)))


def count(metrics: Metrics, route: str, *durations: float, method: str = "GET", status: int = 200) -> None:
    for duration in durations:
        request = Request(method, b"/") if method else None
        metrics.on_requests([a_record(request, NOBODY, None, status, route, 300, 1500, 0.0, 0.1, 0.1, duration)])


def document(page: StatusPage) -> dict[str, Any]:
    page.begin_json(ask())
    response = page.json(ask())
    assert isinstance(response.body, bytes)
    assert response.content_type == "application/json"
    return json.loads(response.body)  # type: ignore[no-any-return]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def page(metrics: Metrics) -> StatusPage:
    return StatusPage(metrics, Networks(["127.0.0.0/8", "unix"]), lambda: NOW)


@pytest.mark.parametrize(
    ("client", "seen"), [("127.0.0.1", True), ("127.9.9.9", True), ("", True), ("192.0.2.1", False), ("unknown", False)]
)
def test_only_those_who_are_let_in_see_it(page, client, seen):
    for answer in (page.html, page.begin_json):
        if seen:
            answer(ask(client))
        else:
            with pytest.raises(HTTPError, match="--status-allow") as caught:
                answer(ask(client))
            assert caught.value.status == 403


def test_before_the_first_request_there_is_nothing_to_tell_and_that_is_told(page):
    told = document(page)
    assert (told["version"], told["time"], told["requests"], told["routes"]) == (__version__, NOW, 0, [])
    assert told["lag"] == {"mean": 0, "p50": 0, "p95": 0, "p99": 0}
    assert [worker["pid"] for worker in told["workers"]] == [os.getpid()]


def test_what_is_told(page, metrics):
    count(metrics, "/users/{id:int}", *[0.0008] * 99, 0.8)
    count(metrics, "/users/{id:int}", 0.0008, status=404)
    count(metrics, "/", 0.003, method="POST", status=500)
    count(metrics, "", 0.003, method="", status=400)
    metrics.on_open()
    metrics.on_shed("full")
    metrics.on_timeout(Timeout.WRITE)
    metrics.on_close(CloseReason.DRAIN)
    metrics.on_wait(0.01)
    metrics.on_tick(0.001, Gauges({"idle": 3, "body": 1}, 5, 2))
    told = document(page)
    routes = {(route["method"], route["route"]): route for route in told["routes"]}
    assert told["requests"] == 103
    assert routes.keys() == {("GET", "/users/{id:int}"), ("POST", "/"), ("other", "none")}
    users = routes["GET", "/users/{id:int}"]
    assert (users["requests"], users["statuses"]) == (101, {"2xx": 100, "4xx": 1})
    assert users["mean"] == pytest.approx((100 * 0.0008 + 0.8) / 101)
    assert users["p50"] < 0.001
    assert users["p95"] < 0.001 < users["p99"] + 0.001
    assert sum(users["buckets"]) == 101
    assert len(users["buckets"]) == len(told["bounds"]) + 1 == len(BOUNDS) + 1
    assert (told["received"], told["sent"]) == (103 * 300, 103 * 1500)
    assert told["connections"] == {"idle": 3, "body": 1}
    assert told["workers"][0]["connections"] == {"idle": 3, "body": 1}
    assert (told["accepted"], told["closed"]["drain"], told["timeouts"]["write"]) == (1, 1, 1)
    assert told["shed"] == {"full": 1}
    assert (told["pool"]["queue"], told["pool"]["threads"], told["pool"]["wait"]["mean"]) == (5, 2, 0.01)
    assert told["lag"]["mean"] == 0.001


class Elements(html.parser.HTMLParser):
    """What a page loads, and what of it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attributes if name in ("src", "href", "action", "data")]
        self.inline += [name for name, _ in attributes if name.startswith("on") or name == "style"]


def test_the_page_loads_nothing_and_its_policy_lets_nothing_else_run(page):
    response = page.html(ask())
    assert response.content_type == "text/html; charset=utf-8"
    text = response.body.decode()
    elements = Elements()
    elements.feed(text)
    assert elements.loaded == ["#"]
    assert elements.inline == []
    assert re.findall(r"(?:https?:)?//[a-z][^\s\"']*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert response.headers == page_headers(response.body)
    assert page_headers(response.body + b"<script>more</script>") != response.headers


# in a browser


class Scene:
    """Four workers with traffic that rises and falls, two seconds of it with each question."""

    TRAFFIC = (
        ("GET", "/", 900, 0.0002),
        ("GET", "/users/{id:int}", 420, 0.0011),
        ("GET", "/orders/{id:uuid}", 210, 0.0024),
        ("POST", "/orders", 130, 0.006),
        ("PUT", "/users/{id:int}", 45, 0.008),
        ("DELETE", "/sessions/{token}", 24, 0.003),
        ("GET", "/reports/{year:int}", 12, 0.31),
        ("GET", HOSTILE, 12, 0.0004),
    )

    def __init__(self) -> None:
        self.workers = [Metrics() for _ in range(4)]
        self.counters, self.history = self, None
        self.page = StatusPage(self, Networks(["127.0.0.1"]), lambda: NOW + 2 * self.steps)  # type: ignore[arg-type]
        self.steps = 0
        self.chance = random.Random(7)
        self.traffic = list(self.TRAFFIC)

    def snapshot(self) -> Snapshot:
        """All workers together."""
        found = Snapshot()
        for number, worker in enumerate(self.workers):
            own = worker.snapshot()
            for name, series in own.counters.items():
                for labels, value in series.items():
                    found.counters[name][labels] = found.counters[name].get(labels, 0) + value
            for name, gauges in own.gauges.items():
                for labels, each in gauges.items():
                    found.gauges[name][labels] = found.gauges[name].get(labels, 0) + each
            for name, histograms in own.histograms.items():
                for labels, histogram in histograms.items():
                    found.histograms[name].setdefault(labels, Histogram()).add(histogram)
            connections = {labels[0]: int(value) for labels, value in own.gauges[CONNECTIONS].items()}
            found.workers.append(WorkerGauges(4711 + number, NOW - 200_000 + 3 * number, connections))
        return found

    def step(self) -> None:
        self.steps += 1
        at, chance = self.steps, self.chance
        for worker in self.workers:
            for kind, (method, route, volume, duration) in enumerate(self.traffic):
                wanted = volume / 10 * (1 + 0.3 * math.sin(at / 8 + kind)) * chance.uniform(0.85, 1.15)
                for _ in range(int(wanted + chance.random())):
                    status = chance.choices([201 if method == "POST" else 200, 304, 404, 500], [960, 25, 14, 1])[0]
                    taken = duration * chance.lognormvariate(0.0, 0.6)
                    count(worker, route, taken, method=method, status=status)
            for _ in range(chance.randrange(4)):
                worker.on_open()
            connections = {"idle": 150 + round(25 * math.sin(at / 9)) + chance.randrange(12)}
            busy = {state: chance.randrange(7) for state in ("head", "body", "sending")}
            worker.on_tick(chance.expovariate(2000), Gauges(connections | busy, 0, chance.randrange(3)))
        # The first of each at once, so that the page has something to show.
        if at == 1 or chance.random() < 0.3:
            worker.on_timeout(chance.choices([Timeout.IDLE, Timeout.HEAD, Timeout.WRITE], [5, 3, 1])[0])
        if at == 1 or chance.random() < 0.2:
            status = chance.choices([400, 408, 413, 431], [5, 3, 2, 1])[0]
            refused = a_record(None, NOBODY, None, status, "", 9, 180, 0.0, 0.0, 0.0, 0.01, CloseReason.REFUSED)
            worker.on_requests([refused])

    def routes(self) -> Routes:
        routes = Routes()
        routes.get("/-/status")(self.page.html)

        @routes.get("/-/status.json")
        def twin(request):
            self.step()
            return self.page.json(request)

        return routes


@pytest.fixture
def scene() -> Scene:
    return Scene()


@needs_browser
def test_a_browser_draws_it(scene, tmp_path):
    """HYPOLL_SCREENSHOT=FILE.png takes the picture of the documentation, with some more traffic."""
    picture = os.environ.get("HYPOLL_SCREENSHOT")
    if picture:
        scene.traffic.pop()
    with TestClient(scene.routes()) as client:
        page = client.base_url + "/-/status"
        seen = browse(page, tmp_path, seconds=120 if picture else 7, picture=Path(picture) if picture else None)
    drawn, said = seen.markup.partition("<script>")[0], seen.said
    assert 'id="lamp" class="on"' in drawn, said
    assert "CONSOLE" not in said, "the policy or the script has complained"
    rows = re.search(r'<tbody id="routes">(.*?)</tbody>', drawn, re.DOTALL)
    assert rows is not None
    assert rows[1].count("<tr>") == len(scene.traffic) + 1
    assert rows[1].count('class="stroke"') == len(scene.traffic) + 1
    assert "/users/{id:int}" in rows[1]
    assert picture or "&lt;img src=x onerror=alert(1)&gt;/&amp;amp;" in rows[1], "a route is text"
    assert "<img" not in drawn
    assert re.search(r"workers <b>4</b>", drawn)
    assert re.search(r"up <b>2 d 7 h</b>", drawn)
    assert re.search(r'<div id="timeouts"><dl><dt>(idle|head|write)', drawn)
    assert re.search(r'<div id="refusals"><dl><dt>(malformed|timeout|body too large|head too large)', drawn)
    assert all(str(4711 + number) in drawn for number in range(1, 4))
