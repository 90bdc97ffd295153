"""The last minute, kept whether or not somebody looks."""

from __future__ import annotations

import os

from hypoll import Routes
from hypoll.contracts import Gauges
from hypoll.protocol.messages import Request
from hypoll.settings import Settings
from hypoll.telemetry import setup
from hypoll.telemetry.history import BUCKETS, STEPS, History, Step, forget
from hypoll.telemetry.metrics import BOUNDS, Metrics
from hypoll.testing import TestClient
from tests.support.gunicorn import until
from tests.support.records import a_record

NOW = 1_800_000_000.0

NONE = [0] * BUCKETS


def numbers(history: History, now: float) -> list[tuple[float, float]]:
    """When each step ended, and how many requests it had."""
    return [(step.document()["time"] - NOW, step.requests) for step in history.read(now)]


def test_it_has_a_bucket_for_each_of_a_histogram():
    assert len(BOUNDS) + 1 == BUCKETS


def test_counts_of_a_step_are_added_up_and_those_of_the_minute_kept():
    history = History()
    for second in range(200):
        history.add(NOW + second, second, 0, 0, 0, NONE)
    found = numbers(history, NOW + 199)
    assert len(found) == STEPS
    assert found[-1] == (200, 198 + 199)
    assert found[0] == (140, 138 + 139)
    assert numbers(history, NOW + 230) == [each for each in found if each[0] >= 230 + 2 - 60]
    assert numbers(history, NOW + 1000) == []


def test_a_step_has_all_that_was_noted():
    history = History()
    history.add(NOW, 3, 1, 100, 2000, [1, 2, *NONE[2:]])
    history.note_connections(NOW + 1, 7)
    history.add(NOW + 1.5, 1, 0, 10, 20, [0, 1, *NONE[2:]])
    assert history.read(NOW) == [Step(int(NOW / 2), 4, 1, 110, 2020, 7, (1, 3, *NONE[2:]))]


def test_those_of_all_processes_are_added_up_until_one_has_ended(tmp_path, monkeypatch):
    own = History(str(tmp_path))
    own.add(NOW, 1, 0, 0, 0, NONE)
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    other = History(str(tmp_path))
    other.add(NOW, 10, 0, 0, 0, NONE)
    other.add(NOW + 2, 20, 0, 0, 0, NONE)
    assert numbers(own, NOW + 2) == [(2, 11), (4, 20)]
    (tmp_path / "history_4712").touch()  # of a process that is just making it
    assert numbers(other, NOW + 2) == [(2, 11), (4, 20)]
    forget(str(tmp_path), 4711)
    forget(str(tmp_path), 4713)
    assert numbers(own, NOW + 2) == [(2, 1)]
    own.close()
    assert numbers(own, NOW + 2) == []
    assert [path.name for path in tmp_path.iterdir()] == ["history_4712"]


def test_metrics_write_it_with_each_tick(monkeypatch):
    monkeypatch.setattr("hypoll.telemetry.metrics.time.time", lambda: NOW)
    history = History()
    metrics = Metrics(None, history)
    for status in (200, 500, 503):
        request = Request("GET", b"/")
        metrics.on_requests([a_record(request, request.peer, None, status, "/", 10, 100, 0.0, 0.0, 0.0, 0.0003)])
    metrics.on_tick(0.0, Gauges({"idle": 2, "head": 1}))
    metrics.on_tick(0.0, Gauges({"idle": 5}))
    (step,) = history.read(NOW)
    assert step[1:6] == (3, 2, 30, 300, 5)
    assert (sum(step.buckets), step.buckets[2]) == (3, 3)


def test_nobody_pays_for_it_without_the_page(tmp_path):
    with TestClient(Routes(), metrics="/metrics") as client:
        metrics = client._runner.telemetry.metrics
        assert metrics is not None
        assert metrics.history is None


def test_the_page_begins_with_it():
    routes = Routes()
    routes.get("/")(lambda request: "served")
    with TestClient(routes, status="/status") as client:
        client.get("/")

        def told() -> bool:
            steps = client.get("/status.json").json()["history"]
            return bool(sum(step["requests"] for step in steps) > 1)

        until(told)
        steps = client.get("/status.json").json()["history"]
        assert steps[-1].keys() >= {"time", "requests", "errors", "received", "sent", "connections", "buckets"}


def test_a_directory_that_takes_nothing_costs_the_history_only(tmp_path, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr("hypoll.telemetry.history.os.posix_fallocate", full)
    assert setup._history(Settings(status="/status")) is None
    assert "the status page has no history: " in caplog.text
