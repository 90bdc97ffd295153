"""`--reload`: what can't be loaded is answered with the reason, and a server doesn't outlive its watcher."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Cut
from tests.support.gunicorn import HYPOLL, Launch, Master, children, family, gone, until
from tests.support.matrix import covering, some

APP = """
import os, threading
import hypoll
routes = hypoll.Routes()

@routes.get("/")
def index(request):
    return f"pid {os.getpid()}"
"""

HANGS = "print('importing', flush=True)\nthreading.Event().wait()\n"

pytest.importorskip("watchfiles")

Start = Callable[..., Master]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return tmp_path / "app.py"


@pytest.fixture
def start(launch: Launch) -> Start:
    def start(text: str, *arguments: str, **how: Any) -> Master:
        return launch([*HYPOLL, "--bind", "127.0.0.1:0", "--reload", *arguments], app=text, **how)

    return start


def port_of(master: Master) -> int:
    """Where it listens, from the kernel: a server that can't start doesn't tell."""
    until(lambda: listeners(master.popen.pid))
    return listeners(master.popen.pid)[0]


def listeners(pid: int) -> list[int]:
    inodes = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


BROKEN = {
    "a syntax error": ("routes = (", "'(' was never closed, {app} line 1"),
    "an exception": (APP + "1 / 0\n", "ZeroDivisionError: division by zero, {app} line 9"),
    "a missing name": ("paths = 1", "has no attribute 'routes'"),
    "a crash": ("import os\nos._exit(7)", "the server has ended with code"),
    "an on_start hook": (APP + "routes.on_start(lambda: 1 / 0)\n", "ZeroDivisionError: division by zero"),
}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[Master], tuple[int, bytes]]:
    monkeypatch.setattr(Master, "port", property(cache(port_of)))

    def ask(master: Master) -> tuple[int, bytes]:
        try:
            return master.get()
        except (Cut, ConnectionResetError):  # the server ended between the connection and the request: a client retries
            return master.get()

    return ask


@pytest.mark.parametrize("workers", some(["0", "1"], 1))
def test_what_can_not_be_loaded_is_answered_with_the_reason_until_it_is_mended(start, app, ask, workers):
    kinds = [BROKEN[name] for name in (BROKEN if workers == "0" else ("an exception", "an on_start hook"))]
    master = start(kinds[0][0], "--workers", workers)
    for text, reason in kinds:
        app.write_text(text)
        said = reason.format(app=app).encode()
        until(lambda said=said: said in ask(master)[1])
        assert ask(master)[0] == 500
    app.write_text(APP)
    until(lambda: ask(master)[0] == 200)
    app.write_text("routes = (")
    until(lambda: ask(master)[0] == 500)
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    master.says("the server has ended with code [1-9]: waiting for a change", len(kinds))


def test_a_stand_in_that_can_not_start_is_told_of(start, app):
    master = start(APP, "--certfile", "nowhere")
    assert master.says("requests wait meanwhile: they can't be answered with the reason: can't read the certificate")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


@pytest.mark.parametrize("arguments", some([(("--workers", "1"),), ((),)], 1))
def test_a_watcher_that_is_killed_takes_its_server_along(start, arguments):
    master = start(APP, *arguments)
    master.get()
    below = family(master.popen.pid)[1:]
    master.signal(signal.SIGKILL)
    until(lambda: all(map(gone, below)))


def test_a_watcher_that_is_killed_takes_a_server_along_that_hangs_in_its_start(start):
    master = start(APP + HANGS)
    master.says("importing")
    (server,) = children(master.popen.pid)
    master.signal(signal.SIGKILL)
    until(lambda: gone(server))


@pytest.mark.parametrize(("text", "times"), covering([APP, APP + HANGS], [1, 2]))
def test_an_interrupt_of_both_ends_them_well(start, text, times):
    master = start(text, start_new_session=True)
    master.says("serves" if text == APP else "importing")
    for _ in range(times):
        os.killpg(master.popen.pid, signal.SIGINT)
    assert master.wait() == 0
    assert not [line for line in master.lines if "Traceback" in line]


def test_a_second_interrupt_of_the_watcher_reaches_the_server(start):
    hook = "@routes.on_stop\ndef stop():\n    print('stopping', flush=True)\n    threading.Event().wait()\n"
    master = start(APP + hook, start_new_session=True)  # without a terminal, which would tell both
    master.get()
    master.signal(signal.SIGINT)
    master.says("stopping")
    master.signal(signal.SIGINT)
    assert master.wait() == 0
    assert master.says("interrupted again")


def test_a_server_that_is_killed_has_the_exit_code_of_a_shell(start):
    master = start(APP + "import signal\nroutes.on_stop(lambda: os.kill(os.getpid(), signal.SIGKILL))\n")
    master.get()
    master.signal(signal.SIGTERM)
    assert master.wait() == 137


def test_hup_serves_anew(start):
    master = start(APP)
    first = master.get()
    master.signal(signal.SIGHUP)
    until(lambda: master.get() != first)
    assert master.says("HUP: serving anew")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
