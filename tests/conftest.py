"""Time, descriptors and connections under a test's control."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hypoll import testing
from hypoll.loop import Loop
from hypoll.settings import Settings, settings_of
from hypoll.telemetry import error_log
from tests.support.clock import PATIENCE, Clock, Turner
from tests.support.gunicorn import Launch, Master

_LOGGERS = [logging.getLogger(name) for name in (None, *error_log.SERVER_LOGGERS)]


@pytest.fixture(autouse=True)
def plain_logging() -> Iterator[None]:
    """Whatever a test has set up for the server's log is gone with it: a level that stays lets more into others."""
    levels = [logger.level for logger in _LOGGERS]
    yield
    error_log.reset()
    for logger, level in zip(_LOGGERS, levels, strict=True):
        if logger.level != level:
            logger.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def strict_by_default() -> Iterator[bool]:
    """Tests that are strict about JSON send requests past the hooks; those of hypoll are of the way of serving.

    Gives what the others have by default. Of the session: a fixture of each test costs more than many a test.
    """
    default = testing.STRICT_JSON
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "STRICT_JSON", False)
        yield default


@pytest.fixture(scope="session", autouse=True)
def stalls_unlogged() -> Iterator[None]:
    """Servers of a `TestClient` name no stall unless they are to: a busy machine has its own, in each test's log."""

    def without_watchdog(bind: str, options: dict[str, Any]) -> Settings:
        return settings_of(bind, {"slow_callback": 0.0, **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "settings_of", without_watchdog)
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    loop = Loop(clock)
    yield loop
    loop.close()


@pytest.fixture
def turner(loop: Loop, clock: Clock) -> Turner:
    return Turner(loop, clock)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts masters in the directory of the test; they are ended after it."""
    with contextlib.ExitStack() as stack:

        def launch(command: Sequence[str], *, app: str, config: str | None = None, **popen: Any) -> Master:
            (tmp_path / "app.py").write_text(app)
            if config is not None:
                (tmp_path / "gunicorn.conf.py").write_text(config)
            return stack.enter_context(Master(tmp_path, command, **popen))

        yield launch


@pytest.fixture
def tcp_pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes (server's, client's) ends of loopback connections; both are closed after the test."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
            made.append(client)
            accepted, _ = listener.accept()
        made.append(accepted)
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return accepted, client

    yield make
    for sock in made:
        sock.close()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In a run of the quick tests, leave the modules alone that are `full` as a whole: some import frameworks."""
    if config.option.markexpr != "not full" or collection_path.suffix != ".py":
        return None
    return "\npytestmark = pytest.mark.full\n" in collection_path.read_text() or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector: among tests it finds nothing, and takes an eighth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Keep the thousands of tests out of what the garbage collector looks through: many tests call it."""
    if "hypothesis" in sys.modules:
        # Its random numbers are to be there before: it warns when the collector can't tell what refers to them, and
        # of what is frozen that tells nothing (seen on Python 3.14).
        from hypothesis import find, strategies

        find(strategies.none(), lambda _: True)
    gc.collect()
    gc.freeze()
