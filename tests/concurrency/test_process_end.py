"""How processes end: signals at any time give the documented exit codes, and no thread holds the exit."""

from __future__ import annotations

import os
import pty
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.client import Client, request
from tests.support.gunicorn import GUNICORN, HYPOLL, Launch, Master, family, gone, until
from tests.support.matrix import covering, some

pytestmark = pytest.mark.full

APP = """
import asyncio, atexit, concurrent.futures, os, signal, sys, threading, time
import hypoll

routes = hypoll.Routes()
gate = threading.Event()  # nobody opens it
pool = concurrent.futures.ThreadPoolExecutor(1)
pool.submit(int).result()  # and idles from here on
atexit.register(print, "at exit", flush=True)

def hold():
    gate.wait()

@routes.get("/")
def index(request):
    return "ok"

@routes.get("/idle")
async def idle(request):
    return await asyncio.to_thread(str)

@routes.get("/to_thread")
async def to_thread(request):
    print("begun", flush=True)
    await asyncio.to_thread(gate.wait)

@routes.get("/in_executor")
async def in_executor(request):
    asyncio.get_running_loop().run_in_executor(None, gate.wait)
    return "ok"

@routes.get("/executor")
def executor(request):
    pool.submit(gate.wait)
    return "ok"

@routes.get("/thread")
def thread(request):
    threading.Thread(target=hold, name="the application's").start()
    return "ok"

@routes.get("/exit_handler")
def exit_handler(request):
    atexit.register(gate.wait)
    return "ok"
"""

SOON = 15.0
"""Seconds that stand for at once: less than --graceful-timeout has by default, and enough for a busy machine."""

Start = Callable[..., Master]


@pytest.fixture
def start(launch: Launch) -> Start:
    def start(*arguments: str, app: str = APP, command: tuple[str, ...] = HYPOLL, **how: Any) -> Master:
        return launch([*command, "--bind", "127.0.0.1:0", *arguments], app=app, **how)

    return start


def ends(master: Master, signum: int = signal.SIGTERM, code: int = 0) -> float:
    """Signal it and wait for its end; gives the seconds that took."""
    begun = time.monotonic()
    master.signal(signum)
    assert master.wait() == code, master.lines
    return time.monotonic() - begun


# threads that outlive the drain


@pytest.mark.parametrize(
    "how", ["to_thread", *(pytest.param(how, marks=pytest.mark.full) for how in ("in_executor", "executor", "thread"))]
)
def test_threads_do_not_hold_the_exit_beyond_graceful_timeout(start, how):
    master = start("--graceful-timeout", "1")
    if how == "to_thread":
        client = Client(("127.0.0.1", master.port))
        client.send(request("/to_thread"))
        master.says("^begun$")
    else:
        assert master.get(f"/{how}")[0] == 200
    assert 1 <= ends(master) < SOON
    assert master.says("graceful_timeout passed: left behind: .* in .*, .*\\.py line"), "what was left, and where"
    assert "at exit" in master.lines
    if how == "to_thread":
        client.close()


def test_an_exit_handler_does_not_hold_the_exit_beyond_graceful_timeout(start):
    master = start("--graceful-timeout", "1")
    master.get("/exit_handler")
    assert 1 <= ends(master) < SOON
    assert master.says("graceful_timeout passed: left behind: MainThread in .*wait")


def test_idle_threads_hold_nothing(start):
    master = start()
    assert master.get("/idle")[0] == 200
    assert ends(master) < SOON
    assert not [line for line in master.lines if "left behind" in line]


def listens(master: Master) -> bool:
    try:
        socket.create_connection(("127.0.0.1", master.port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_interrupt_leaves_behind_what_holds_the_exit(start):
    master = start()
    master.get("/thread")
    master.signal(signal.SIGINT)
    until(lambda: not listens(master))
    assert ends(master, signal.SIGINT) < SOON
    assert master.says("left behind: .*the application's in hold, .*app.py line")


@pytest.mark.full
@pytest.mark.parametrize(("command", "arguments"), [(HYPOLL, ("--workers", "1")), (GUNICORN, ())])
def test_threads_do_not_hold_a_worker_s_exit(start, command, arguments):
    master = start(*arguments, "--graceful-timeout", "2", command=command)
    master.get("/thread")
    (old,) = master.workers()
    # A reload: the master would wait for the old one, and not kill it.
    master.signal(signal.SIGHUP)
    until(lambda: gone(old))
    assert master.says("graceful_timeout passed: left behind: the application's")
    assert "at exit" in master.lines
    ends(master)


# signals at any time


def test_a_term_after_the_drain_does_not_change_the_exit_code(start):
    """From the loop's end to that of the interpreter: in on_stop, while a thread is waited for, in exit handlers."""
    app = (
        APP
        + """
def term():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)  # so that it is handled

routes.on_stop(term)
atexit.register(term)
threading._register_atexit(term)
"""
    )
    master = start(app=app)
    master.get()
    ends(master)
    assert not [line for line in master.lines if "Traceback" in line]


@pytest.mark.parametrize(
    ("signum", "when"), covering([signal.SIGTERM, signal.SIGINT], ["import", "on_start", "async on_start"])
)
def test_a_signal_while_it_starts_ends_it_well(start, signum, when):
    waits = "    print('starting', flush=True)\n    gate.wait()\n"
    app = {
        "import": "if True:\n" + waits,
        "on_start": "@routes.on_start\ndef wait():\n" + waits,
        "async on_start": "@routes.on_start\nasync def wait():\n" + waits,
    }[when]
    master = start(app=APP + app)
    master.says("starting")
    assert ends(master, signum) < SOON
    assert master.says("asked to end before it served")
    assert not [line for line in master.lines if "Traceback" in line]


@pytest.mark.parametrize("hook", some(["@routes.on_start\ndef wait():\n    ", ""], 1))
def test_many_signals_while_it_starts_end_it_well(start, hook):
    # Not a lock: of many signals at once each may come just before it waits, or to another thread, and wake nobody.
    ends_slowly = (
        "try:\n{0} print('starting', flush=True)\n{0} while True: time.sleep(0.01)\n{0}finally: time.sleep(0.2)\n"
    )
    master = start(app=APP + hook + ends_slowly.format("    " if hook else ""))
    master.says("starting")
    for signum in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        master.signal(signum)
    ends(master, signal.SIGINT)
    assert not [line for line in master.lines if "Traceback" in line or "Aborted" in line]


def test_a_signal_that_the_import_catches_is_not_lost(start):
    app = """
try:
    print('starting', flush=True)
    gate.wait()
except BaseException:
    pass
"""
    master = start(app=APP + app)
    master.says("starting")
    ends(master)


def test_a_second_interrupt_in_on_stop_ends_it_well(start):
    app = "@routes.on_stop\ndef wait():\n    print('stopping', flush=True)\n    gate.wait()\n"
    master = start(app=APP + app)
    master.get()
    master.signal(signal.SIGINT)
    master.says("stopping")
    assert ends(master, signal.SIGINT) < SOON
    assert not [line for line in master.lines if "Traceback" in line]


def test_what_one_process_can_not_do_does_not_end_it(start):
    master = start()
    master.get()
    for signum, name in ((signal.SIGHUP, "HUP"), (signal.SIGUSR2, "USR2")):
        master.signal(signum)
        assert master.says(f"{name}: one process can't .*, `hypoll --workers 1` can; serving on")
        assert master.get()[0] == 200
    ends(master)


def test_hup_is_ignored_under_nohup(start):
    master = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    master.get()
    master.signal(signal.SIGHUP)
    assert master.get()[0] == 200
    ends(master)
    assert not [line for line in master.lines if "HUP" in line]


def test_the_end_of_its_terminal_ends_it(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, *HYPOLL, "--bind", "127.0.0.1:0"])
    try:
        said = b""
        while b"serves app:routes" not in said:
            said += os.read(terminal, 65536)
        os.close(terminal)
        until(lambda: gone(pid))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def test_everyone_is_gone(start):
    master = start("--workers", "2")
    master.get()
    pids = family(master.popen.pid)
    ends(master)
    until(lambda: all(map(gone, pids)))
