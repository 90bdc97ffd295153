"""Who holds the loop is named while it does; who doesn't costs nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time

import pytest

from hypoll import Routes
from hypoll.concurrency.watchdog import Watchdog
from hypoll.loop import Loop
from hypoll.telemetry.error_log import MARGIN, JsonFormatter, TextFormatter
from hypoll.testing import TestClient
from tests.support.clock import PATIENCE

routes = Routes()
seen = threading.Event()


def hold(seconds: float) -> None:
    """Hold the thread until the watchdog has spoken, for at most `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not seen.is_set():
        sum(range(1000))


@routes.get("/inline/{number:int}")
def inline(request, number):
    hold(5)
    return "done"


@routes.get("/async/{number:int}")
async def coroutine(request, number):
    hold(5)
    return "done"


@routes.get("/busy")
async def busy(request):
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        pause = time.monotonic() + 0.015
        while time.monotonic() < pause:
            pass
        await asyncio.sleep(0)
    return "done"


@routes.get("/threaded", threaded=True)
def threaded(request):
    hold(0.2)
    return "done"


@pytest.fixture
def spoken(caplog):
    """Ends `hold` when the watchdog has logged."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has held the loop" in record.getMessage():
                seen.set()

    seen.clear()
    handler = Listener()
    logging.getLogger("hypoll.error").addHandler(handler)
    yield caplog
    logging.getLogger("hypoll.error").removeHandler(handler)


@pytest.mark.parametrize("kind", ["inline", "async"])
def test_a_handler_that_holds_the_loop_is_named_with_its_route_and_stack(spoken, kind):
    with TestClient(routes, slow_callback=0.05) as client:
        assert client.get(f"/{kind}/7").text == "done"
        assert client.get("/threaded").text == "done"
    stack = spoken.records[0].stack
    first, second = (TextFormatter().format(record).partition("WARNING ")[2] for record in spoken.records)
    assert first.startswith(f"GET /{kind}/{{number:int}} has held the loop for 0.")
    assert "declare it threaded=True" in first
    assert first.endswith("It is stuck in:\n" + "\n".join(MARGIN + line for line in stack.split("\n")))
    assert f"in hold\n{MARGIN}" in first, "the stack stands in lines of its own"
    assert "Traceback" not in first, "nothing was raised"
    assert "test_watchdog.py" in first
    assert "pytest" not in first, "the stack begins at the request"
    assert second.startswith(f"GET /{kind}/{{number:int}} held the loop for ")
    assert second.endswith(" s")
    document = json.loads(JsonFormatter().format(spoken.records[0]))
    assert document["traceback"] == stack
    assert document["message"].endswith("It is stuck in:")
    plain = logging.Formatter("%(message)s").format(spoken.records[0])
    assert plain.endswith(f"It is stuck in:\n{stack}"), "in whatever log"


def test_it_can_be_off(spoken):
    with TestClient(routes, slow_callback=0) as client:
        seen.set()  # nobody will
        assert client.get("/inline/7").text == "done"
        assert not [thread for thread in threading.enumerate() if thread.name == "hypoll-watchdog"]
    assert not spoken.records


def test_what_is_no_request_is_named_too(spoken):
    loop = Loop()
    watchdog = Watchdog(loop, 0.05)
    loop.call_soon(hold, 5.0)
    loop.call_soon_threadsafe(loop.stop)  # an event: by those the watchdog is woken
    watchdog.start()
    loop.run()
    watchdog.stop()
    loop.close()
    assert "hold, in no request, has held the loop for 0." in spoken.records[0].getMessage()


def test_many_short_requests_are_no_stall(spoken):
    """The next request often has the address of the one before; it is another all the same."""
    with TestClient(routes, slow_callback=0.02) as client:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            assert client.get("/nothing").status_code == 404
    assert not spoken.records


def test_a_task_that_lets_the_others_run_is_no_stall(spoken):
    with TestClient(routes, slow_callback=0.05) as client:
        assert client.get("/busy").text == "done"
    assert not spoken.records


def test_an_idle_loop_lets_it_sleep():
    loop = Loop()
    watchdog = Watchdog(loop, 0.004)
    watchdog.start()
    loop.call_soon_threadsafe(lambda: None)
    loop.poll_once(1)
    end = time.monotonic() + PATIENCE
    while loop.on_busy is None:  # it looks for a while, and then asks to be woken
        assert time.monotonic() < end, "it keeps an idle loop awake"
        loop.poll_once(0.1)  # longer than its looks take together
    asleep = loop.on_busy
    loop.call_soon_threadsafe(lambda: None)
    loop.poll_once(1)
    assert loop.on_busy is None or asleep is not None
    watchdog.stop()
    loop.close()
