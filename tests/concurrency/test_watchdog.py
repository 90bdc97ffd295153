"""Who holds the loop is named while it does; who doesn't costs nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hypoll import Request, Response, Routes
from hypoll.concurrency.watchdog import MAX_LINES, Subject, Watchdog
from hypoll.loop import Loop
from hypoll.telemetry.error_log import MARGIN, JsonFormatter, TextFormatter
from hypoll.testing import TestClient
from tests.support.clock import PATIENCE, Clock

routes = Routes()
seen: list[str] = []
"""What the watchdog has said. A list: looked at within `hold`, and not in a frame below it that would be seen."""


def hold(seconds: float) -> None:
    """Hold the thread until the watchdog has spoken, for at most `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not seen:
        sum(range(1000))


@routes.get("/inline/{number:int}")
def inline(request, number):
    hold(5)
    return "done"


@routes.get("/async/{number:int}")
async def coroutine(request, number):
    hold(5)
    return "done"


@routes.get("/stream/{number:int}")
def stream(request, number):
    def pieces() -> Iterator[bytes]:
        hold(5)
        yield b"done"

    return Response(pieces())


hooked = Routes()
hooked.before(lambda request: None)
hooked.get("/inline/{number:int}")(inline)
hooked.get("/async/{number:int}")(coroutine)
routes.mount("/hooked", hooked)


@routes.get("/deep")
def deep(request: Request, depth: int = 40) -> str:
    if depth:
        return deep(request, depth - 1)
    json.dumps({"a": Held()}, default=lambda held: held())
    return "done"


class Held:
    def __call__(self):
        hold(5)
        return "held"


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
                seen.append(record.getMessage())

    seen.clear()
    handler = Listener()
    logging.getLogger("hypoll.error").addHandler(handler)
    yield caplog
    logging.getLogger("hypoll.error").removeHandler(handler)


def of_requests(spoken: pytest.LogCaptureFixture) -> list[Any]:
    """What was logged of requests. On a busy machine the loop may also wait long for a thread to begin."""
    return [record for record in spoken.records if "in no request" not in record.getMessage()]


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("inline", "declare it threaded=True"),
        ("stream", "declare it threaded=True"),
        ("hooked/inline", "declare it threaded=True"),
        ("async", "await asyncio.to_thread"),
        ("hooked/async", "await asyncio.to_thread"),
    ],
)
def test_a_handler_that_holds_the_loop_is_named_with_its_route_and_stack(spoken, kind, advice):
    with TestClient(routes, slow_callback=0.05) as client:
        assert client.get(f"/{kind}/7", headers={"X-Request-Id": "its-id"}).text == "done"
        assert client.get("/threaded").text == "done"
    records = of_requests(spoken)
    stack = records[0].stack
    first, second = (TextFormatter().format(record).partition("WARNING ")[2] for record in records)
    assert re.match(rf"GET /{kind}/\{{number:int\}} has held the loop for \d+\.\d\d s, ", first)
    assert advice in first
    assert "threaded=True" not in first or advice.endswith("True")
    assert {record.request_id for record in records if hasattr(record, "stack")} == {"its-id"}
    assert first.endswith("It is stuck in:\n" + "\n".join(MARGIN + line for line in stack.split("\n")))
    assert "nobody else is served meanwhile (request its-id). " in first
    assert f"in hold\n{MARGIN}" in first, "the stack stands in lines of its own"
    assert "Traceback" not in first, "nothing was raised"
    assert "test_watchdog.py" in first
    assert "pytest" not in first, "the stack begins at the request"
    assert second.startswith(f"GET /{kind}/{{number:int}} held the loop for ")
    assert second.endswith(" s, request its-id")
    document = json.loads(JsonFormatter().format(records[0]))
    assert document["traceback"] == stack
    assert document["message"].endswith("It is stuck in:")
    plain = logging.Formatter("%(message)s").format(records[0])
    assert plain.endswith(f"It is stuck in:\n{stack}"), "in whatever log"


def test_it_can_be_off(spoken):
    with TestClient(routes, slow_callback=0) as client:
        seen.append("nobody will speak")
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
    assert any("hold, in no request, has held the loop for " in record.getMessage() for record in spoken.records)


@pytest.mark.parametrize("turns", [True, False])
def test_many_short_requests_are_no_stall(caplog, turns):
    """The next request often has the address of the one before; in another turn it is another all the same."""
    clock, look, looked, dogs = Clock(), threading.Barrier(2), threading.Barrier(2), []

    def answer(request: object) -> None:
        for _ in range(1 if turns else 10):
            look.wait(PATIENCE)
            looked.wait(PATIENCE)

    def serve() -> None:
        loop = Loop(clock)
        dogs.append(Watchdog(loop, 0.06, describe=lambda request: Subject("GET /")))
        for _ in range(10 if turns else 1):
            loop.call_soon(answer, routes)
            loop.poll_once(0)
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    for _ in range(10):
        look.wait(PATIENCE)
        for _ in range(2):
            dogs[0]._look()
            clock.advance(0.02)
        looked.wait(PATIENCE)
    thread.join()
    said = [record.getMessage().partition(" for ")[0] for record in caplog.records]
    assert said == ([] if turns else ["GET / has held the loop"])


def test_a_task_that_lets_the_others_run_is_no_stall(spoken):
    with TestClient(routes, slow_callback=0.2) as client:  # its turns take 15 ms each, and it 0.6 s
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


def test_a_deep_stack_is_cut_to_the_innermost_of_the_application(spoken):
    with TestClient(routes, slow_callback=0.05) as client:
        assert client.get("/deep").text == "done"
    lines = of_requests(spoken)[0].stack.split("\n")
    assert len(lines) <= MAX_LINES
    assert re.fullmatch(r"  \[\d+ more frames\]", lines[0])
    names = [line.rpartition(" in ")[2] for line in lines if line.startswith("  File")]
    assert names[-1] == "hold"
    assert {"__call__", "<lambda>", "deep"} >= set(names[:-1]) > {"__call__"}
    assert not any("json/" in line for line in lines), "what is Python's own is left out"


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    hold(5)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def test_an_asgi_application_is_given_its_own_advice(spoken):
    with TestClient(asgi, slow_callback=0.05, lifespan="off") as client:
        assert client.get("/").text == "done"
    assert "await asyncio.to_thread" in of_requests(spoken)[0].getMessage()


def test_while_the_process_stops_it_is_quiet(spoken):
    stopping = Routes()
    stopping.on_stop(lambda: hold(0.3))
    with TestClient(stopping, slow_callback=0.02):
        pass
    assert not [record for record in spoken.records if "in hold" in getattr(record, "stack", "")]
