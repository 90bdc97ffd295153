"""An ASGI application's startup and shutdown."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from hypoll.asgi.errors import StartupError
from hypoll.asgi.lifespan import Lifespan
from hypoll.testing import TestClient
from tests.asgi.asgiapps import GET, Message, Receive, Send, body, forever, saying, serving, start
from tests.support.client import PATIENCE


class Living:
    """An application with a lifespan, that notes what happens."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.scope: Message = {}
        self.worker: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(scope, receive, send)
            return
        self.events.append(scope["state"].get("number"))
        scope["state"]["number"] = "changed"
        scope["state"]["list"].append(len(self.events))
        await saying(start(), body(repr(scope["state"]["list"]).encode()))(scope, receive, send)

    async def live(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope = dict(scope)
        assert await receive() == {"type": "lifespan.startup"}
        await asyncio.sleep(0)
        scope["state"].update(number=1, list=[])
        self.worker = asyncio.create_task(self.work())
        self.events.append("started")
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        assert self.worker is not None
        assert not self.worker.done()  # its own tasks are its own to end
        self.worker.cancel()
        await asyncio.wait([self.worker])
        self.events.append("stopped")
        await send({"type": "lifespan.shutdown.complete"})

    async def work(self) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_startup_comes_before_the_first_request_and_shutdown_after_the_last(mode):
    app = Living()
    with serving(app, lifespan=mode) as it:
        assert app.events == ["started"]
        client = it.connect()
        assert client.ask(GET).body == b"[2]"
        assert client.ask(GET).body == b"[2, 3]"
        assert app.events == ["started", 1, 1]
    assert app.events == ["started", 1, 1, "cancelled", "stopped"]
    assert app.scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert set(app.scope) == {"type", "asgi", "state"}


def test_off_asks_nothing():
    app = Living()

    async def both(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["state"] == {}
            await saying(start(), body(b"x"))(scope, receive, send)
        else:
            await app(scope, receive, send)

    with serving(both, lifespan="off") as it:
        assert it.connect().ask(GET).body == b"x"
    assert app.events == []


async def raising(scope: Message, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http", "no lifespan here"
    await saying(start(), body(b"x"))(scope, receive, send)


async def raising_later(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await receive()
        raise ValueError("no\nlifespan here")
    await saying(start(), body(b"x"))(scope, receive, send)


async def returning(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await saying(start(), body(b"x"))(scope, receive, send)


@pytest.mark.parametrize("app", [raising, raising_later, returning])
def test_an_application_without_lifespan_is_served_all_the_same(app, caplog):
    caplog.set_level(logging.INFO)
    with serving(app, lifespan="auto") as it:
        assert it.connect().ask(GET).body == b"x"
    said = [record for record in caplog.records if "lifespan" in record.getMessage()]
    assert [(record.levelname, record.exc_info) for record in said] == [("INFO", None)]
    assert "\n" not in said[0].getMessage()


@pytest.mark.parametrize("app", [raising, raising_later, returning])
def test_with_on_it_must_have_one(app):
    with pytest.raises(StartupError, match="lifespan"), serving(app, lifespan="on"):
        pass


async def failing(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def failing_loudly(scope: Message, receive: Receive, send: Send) -> None:
    await failing(scope, receive, send)
    raise RuntimeError("no database")


async def failing_silently(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed"})
    await forever()


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("app", [failing, failing_loudly])
def test_a_failed_start_ends_the_process_with_its_message(app, mode):
    with pytest.raises(StartupError, match="no database"), serving(app, lifespan=mode):
        pass


def test_a_failed_start_without_message_is_one_too():
    with pytest.raises(StartupError, match="failed to start"), serving(failing_silently, lifespan="auto"):
        pass


def test_a_lifespan_that_ends_early_stops_nothing(caplog):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            raise ZeroDivisionError
        await saying(start(), body(b"x"))(scope, receive, send)

    with serving(app, lifespan="on") as it:
        assert it.connect().ask(GET).body == b"x"
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize("ending", ["failed", "raise", "return", "silent"])
def test_a_shutdown_that_fails_is_logged_and_ends(ending, caplog):
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if ending == "failed":
            await send({"type": "lifespan.shutdown.failed", "message": "why not"})
        elif ending == "raise":
            raise ValueError("why not")
        elif ending == "silent":
            await send({"type": "lifespan.shutdown.complete"})
            await receive()

    with serving(app, lifespan="on"):
        pass
    said = " ".join(str(record.exc_info or "") + record.getMessage() for record in caplog.records)
    assert ("why not" in said) is (ending in ("failed", "raise"))


def test_shutdown_waits_for_what_goes_on_after_its_answer():
    events: list[str] = []
    go = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            events.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await saying(start(), body(b"x"))(scope, receive, send)
        await go.wait()
        events.append("background")

    with serving(app, lifespan="on", graceful_timeout=PATIENCE) as it:
        client = it.connect()
        assert client.ask(GET).body == b"x"
        client.close()
        it.on_loop(it.server.drain)
        it.until(lambda: not it.server.connections and not it.server.listeners)
        assert events == []
        it.on_loop(go.set)
    assert events == ["background", "shutdown"]


@pytest.mark.parametrize(
    "message", [{"type": "lifespan.shutdown.complete"}, {"type": "http.response.start"}, {}, None, {"type": []}]
)
def test_what_is_out_of_order_raises(message):
    errors: list[BaseException] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await send(message)
        except (RuntimeError, TypeError) as error:
            errors.append(error)
        await send({"type": "lifespan.startup.complete"})
        try:
            await send({"type": "lifespan.startup.complete"})
        except RuntimeError as error:
            errors.append(error)

    async def live() -> None:
        lifespan = Lifespan(app, "on")
        await lifespan.startup()
        await lifespan.shutdown()

    asyncio.run(live())
    assert len(errors) == 2


def test_a_test_client_runs_it_each_time_it_is_entered():
    app = Living()
    client = TestClient(app)
    for _ in range(2):
        app.events.clear()
        with client:
            assert client.get("/").text == "[2]"
        assert app.events == ["started", 1, "cancelled", "stopped"]


def test_a_test_client_raises_what_the_start_does():
    with pytest.raises(StartupError, match="no database"), TestClient(failing):
        pass


def test_the_command_ends_with_the_message_and_a_code_of_its_own(tmp_path):
    (tmp_path / "main.py").write_text(
        textwrap.dedent("""
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
        """)
    )
    command = [sys.executable, "-m", "hypoll", "main:app", "--bind", "127.0.0.1:0", "--app-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 3
    assert "no database" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_shutdown_is_run_also_where_requests_had_to_be_cancelled():
    app = Living()
    cancelled = threading.Event()

    async def both(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        try:
            await forever()
        finally:
            cancelled.set()

    with serving(both, lifespan="on", graceful_timeout=0.1) as it:
        it.connect().send(GET)
        it.until(lambda: it.runner.asyncio_bridge.count)  # type: ignore[union-attr]
    assert cancelled.is_set()
    assert app.events[-1] == "stopped"
