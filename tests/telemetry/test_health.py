"""Live and ready: what a load balancer is told, and when."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request, Response
from hypoll.telemetry import health as module
from hypoll.telemetry.health import CHECK_TIME, MAX_CHECKS, Health, Readiness
from hypoll.web.routing import RouteError
from tests.support.clock import Clock


def ask(accept: str | None = None) -> Request:
    return Request("GET", b"/healthz/ready", HeaderSection(() if accept is None else (("accept", accept),)))


def told(response: Response) -> tuple[int, dict[str, Any]]:
    assert isinstance(response.body, bytes)
    assert response.headers == {"Cache-Control": "no-store"}
    return response.status, json.loads(response.body)


@pytest.fixture
def health(clock: Clock) -> Health:
    made = Health(clock)
    made.start()
    return made


def good() -> bool:
    return True


def silent() -> None:
    """Returns nothing, which is no complaint."""


def bad() -> bool:
    return False


def broken() -> bool:
    raise RuntimeError("password=secret")


def leaving() -> bool:
    raise SystemExit(1)


@pytest.mark.parametrize(
    ("steps", "status", "document"),
    [
        ([], 503, {"status": "fail", "output": "the application is starting"}),
        (["start"], 200, {"status": "pass"}),
        (["start", "drain"], 503, {"status": "fail", "output": "the server is stopping"}),
        (["drain"], 503, {"status": "fail", "output": "the server is stopping"}),
    ],
)
def test_ready_is_between_start_and_drain_and_live_is_always(steps, status, document):
    health = Health()
    for step in steps:
        getattr(health, step)()
    assert told(health.report(ask())) == (status, document)
    assert health.ready == (status == 200)
    assert told(health.live(ask())) == (200, {"status": "pass"})


@pytest.mark.parametrize(
    ("check", "output"),
    [(good, None), (silent, None), (bad, "failed"), (broken, "failed: RuntimeError"), (leaving, "failed: SystemExit")],
)
def test_the_application_s_checks_decide(health, check, output):
    health.add_check(good)
    health.add_check(check)
    status, document = told(health.report(ask()))
    assert health.ready == (output is None)
    assert (status, document["status"]) == ((200, "pass") if output is None else (503, "fail"))
    (found,) = list(document["checks"].values())[-1]
    assert found.get("output") == output
    assert found["status"] == document["status"]
    assert "secret" not in str(document), "what an exception says is for the log"
    assert told(health.live(ask()))[0] == 200


def test_a_drain_is_told_at_once_and_without_asking_the_checks(health):
    calls = []
    health.add_check(lambda: calls.append(1))
    assert health.ready
    health.drain()
    assert told(health.report(ask()))[0] == 503
    assert health.readiness is Readiness.DRAINING
    assert len(calls) == 1


def test_checks_run_once_a_second_however_many_ask(health, clock):
    calls = []
    health.add_check(lambda: calls.append(1))
    for _ in range(10):
        health.report(ask())
    assert len(calls) == 1
    clock.advance(0.999)
    health.report(ask())
    assert len(calls) == 1
    clock.advance(0.001)
    health.report(ask())
    assert len(calls) == 2


def test_a_check_that_is_added_is_asked_at_once(health):
    assert health.ready
    health.add_check(bad)
    assert not health.ready


def test_slow_checks_are_bounded_together(health, clock):
    ran = []

    def slow() -> None:
        ran.append("slow")
        clock.advance(CHECK_TIME)

    health.add_check(slow)
    health.add_check(lambda: ran.append("next"))
    status, document = told(health.report(ask()))
    assert ran == ["slow"]
    assert status == 503
    first, second = (found for (found,) in document["checks"].values())
    assert (first["status"], first["observedValue"], first["observedUnit"]) == ("pass", 1000, "ms")
    assert second["output"] == "not run: the checks before it took too long"


def test_a_failure_is_logged_once_until_it_passes_again(health, clock, caplog):
    fails = [True]

    def check() -> None:
        if fails[0]:
            raise RuntimeError("password=secret")

    health.add_check(check)
    with caplog.at_level(logging.INFO, "hypoll.error"):
        for state in (True, True, False, False, True):
            fails[0] = state
            health.report(ask())
            clock.advance(1.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert caplog.text.count("RuntimeError: password=secret") == 2


def test_a_check_that_says_no_is_logged_too(health, caplog):
    health.add_check(bad)
    health.report(ask())
    assert "test_health.bad fails: no requests are wanted" in caplog.text


def test_checks_of_one_name_are_told_apart(health):
    for _ in range(3):
        health.add_check(good)
    assert list(told(health.report(ask()))[1]["checks"]) == [f"{__name__}.good{end}" for end in ("", " 2", " 3")]


async def asynchronous() -> None: ...


@pytest.mark.parametrize("check", [5, lambda request: True, asynchronous], ids=["no function", "argument", "async"])
def test_what_is_no_check_is_refused(health, check):
    with pytest.raises(RouteError, match="on_ready_check"):
        health.add_check(check)


def test_there_is_an_end_to_the_checks(health):
    for _ in range(MAX_CHECKS):
        health.add_check(good)
    with pytest.raises(ValueError, match="there are 32 readiness checks already"):
        health.add_check(good)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, module.MEDIA_TYPE),
        ("*/*", module.MEDIA_TYPE),
        ("application/json", "application/json"),
        ("application/health+json", module.MEDIA_TYPE),
        ("application/health+json, application/json", module.MEDIA_TYPE),
    ],
)
def test_the_media_type(health, accept, media_type):
    assert health.report(ask(accept)).content_type == media_type
    assert health.live(ask(accept)).content_type == media_type
