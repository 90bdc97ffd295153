"""The way from a master to its workers: signals that come meanwhile, starts that can't succeed, whose end an end is."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.gunicorn import GUNICORN, HYPOLL, Launch, Master, family, until, wait_for_end
from tests.support.matrix import covering, some

pytestmark = pytest.mark.full

APP = """
import os
from hypoll import Routes

routes = Routes()

@routes.get("/")
def index(request):
    return str(os.getpid())
"""

READY = ("--health", "/healthz", "--drain-wait", "60")
TELLS_FIRST = "readiness tells already"

Start = Callable[..., Master]


@pytest.fixture
def start(launch: Launch) -> Start:
    """Starts masters: start(*command, app=source, config=source)."""

    def start(*command: str, app: str = APP, config: str = "", **how: Any) -> Master:
        return launch((*command, "--bind", "127.0.0.1:0"), app=app, config=config, **how)

    return start


# a signal that comes while a worker is made

FIRST_ONLY = """
import os, signal

forks = 0

def count():
    global forks
    forks += 1

def end_first():
    if not forks:
        os.kill(os.getpid(), signal.{signal})

os.register_at_fork(after_in_parent=count)
"""
AT_FORK = FIRST_ONLY + "os.register_at_fork(after_in_child=end_first)  # before anything of hypoll's was imported\n"
POST_FORK = FIRST_ONLY + "def post_fork(server, worker): end_first()\n"


@pytest.mark.parametrize(("config", "name"), covering([AT_FORK, POST_FORK], ["SIGTERM", "SIGQUIT"]))
def test_an_end_that_comes_before_a_worker_has_handlers_is_not_lost(start, config, name):
    master = start(*GUNICORN, config=config.format(signal=name))
    first = int(master.says(r"Booting worker with pid: (\d+)")[1])
    assert int(master.says(r"Worker exiting \(pid: (\d+)\)")[1]) == first
    assert int(master.get()[1]) != first


def test_what_a_worker_starts_while_it_boots_is_not_deaf_to_signals(start):
    config = """
import signal

def post_fork(server, worker):
    worker.log.info("held back: %s", signal.pthread_sigmask(signal.SIG_BLOCK, []))

def pre_fork(server, worker): post_fork(server, worker)
def post_worker_init(worker): post_fork(None, worker)
"""
    master = start(*GUNICORN, config=config)
    for count in (1, 2, 3):
        assert master.says("held back: (.*)", count)[1] == "set()"


# signals before the first start is complete

SLOW = (
    """
import os

os.write(1, b"importing %d\\n" % os.getpid())
with open("gate") as gate:
    gate.read()
"""
    + APP
)

ASKING = ["HUP", "USR1", "USR2", "TTIN", "TTOU", "WINCH"]

COMMANDS = [(*HYPOLL, "--workers", "1"), GUNICORN, (*GUNICORN, "--preload")]


@pytest.mark.parametrize(("command", "name"), covering(COMMANDS, ASKING))
def test_a_signal_while_the_application_is_imported_neither_ends_the_service_nor_is_lost(
    start, tmp_path, command, name
):
    os.mkfifo(tmp_path / "gate")
    master = start(*command, app=SLOW)
    master.says("importing")
    with (tmp_path / "gate").open("w"):  # it reads by now
        master.signal(getattr(signal, f"SIG{name}"))
        if "--preload" not in command:
            master.says(f"Handling signal: {name.lower()}")
        (tmp_path / "gate").rename(tmp_path / "opened")
        (tmp_path / "gate").write_text("")
    assert master.get()[0] == 200
    if name != "WINCH":  # which by default does nothing
        master.says(f"Handling signal: {name.lower()}")
    assert master.popen.poll() is None
    for pid in family(master.popen.pid):  # a second master would outlive the first
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("command", "name"), covering(COMMANDS[:2], ["TERM", "INT", "QUIT"]))
def test_an_end_while_the_application_is_imported_is_a_clean_one(start, tmp_path, command, name):
    os.mkfifo(tmp_path / "gate")
    master = start(*command, app=SLOW)
    master.says("importing")
    with (tmp_path / "gate").open("w"):
        master.signal(getattr(signal, f"SIG{name}"))
        master.says("Handling signal")
        if name != "TERM":
            assert master.wait() == 0
    assert master.wait() == 0
    assert not any(re.search("ERROR|exits when it is imported|Traceback", line) for line in master.lines)


def test_a_child_of_a_preloaded_application_has_the_signals_defaults(start):
    app = f"""
import os, signal

ready, begun = os.pipe()
child = os.fork()
if not child:
    os.write(begun, b"1")
    signal.pause()
    os._exit(0)
os.read(ready, 1)
os.kill(child, signal.SIGHUP)
os.write(1, b"ended by %d\\n" % os.WTERMSIG(os.waitpid(child, 0)[1]))
{APP}"""
    master = start(*GUNICORN, "--preload", app=app)
    assert int(master.says(r"ended by (\d+)")[1]) == signal.SIGHUP


def test_usr2_executes_a_module_as_it_was_started(start):
    config = "def when_ready(server): server.log.info('ready %s', __import__('http').__file__)"
    master = start(*GUNICORN, config=config)
    old = int(master.get()[1])
    master.signal(signal.SIGUSR2)
    assert "gunicorn" not in master.says("ready (.*)", 2)[1]
    new = int(master.says(r"Booting worker with pid: (\d+)", 2)[1])
    successor = int(master.says(r"\[(\d+)\] \[INFO\] ready", 2)[1])
    until(lambda: new in family(successor))
    master.signal(signal.SIGTERM)
    master.says(rf"Worker exiting \(pid: {old}\)")
    assert int(master.get()[1]) == new
    os.kill(successor, signal.SIGTERM)
    assert master.wait() == 0


# whether the service ends


def leaves_at_once(master: Master, before: list[int]) -> None:
    master.says("Worker exiting")
    until(lambda: set(before) - set(master.workers()))
    assert not any(TELLS_FIRST in line for line in master.lines)


@pytest.mark.parametrize(("command", "how"), covering([(*HYPOLL, *READY), GUNICORN], ["TTOU", "HUP", "kill"]))
def test_a_worker_that_leaves_others_to_serve_does_not_tell_that_it_ends(start, command, how):
    variables = {"HYPOLL_HEALTH": "/healthz", "HYPOLL_DRAIN_WAIT": "20"}
    master = start(*command, "--workers", "2", env=variables if command is GUNICORN else {})
    master.says("Booting worker", 2)
    until(lambda: master.get("/healthz/ready")[0] == 200)
    before = master.workers()
    if how == "kill":
        os.kill(before[0], signal.SIGTERM)
    else:
        master.signal(signal.Signals[f"SIG{how}"])
    leaves_at_once(master, before)


def test_a_master_that_has_a_successor_does_not_tell_that_the_service_ends(start):
    master = start(*HYPOLL, *READY, "--workers", "1")
    master.get()
    master.signal(signal.SIGUSR2)
    master.says(r"Listening at: ", 2)
    successor = int(master.says(r"\[(\d+)\] INFO Starting gunicorn", 2)[1])
    master.says("Booting worker", 2)
    master.signal(signal.SIGTERM)
    try:
        master.says("Shutting down: Master")
        assert not any(TELLS_FIRST in line for line in master.lines)
    finally:
        os.kill(successor, signal.SIGKILL)
    assert wait_for_end(master.popen, lambda: master.lines) == 0


def test_a_service_that_ends_tells_so_first(start):
    master = start(*HYPOLL, *READY, "--workers", "1")
    until(lambda: master.get("/healthz/ready")[0] == 200)
    master.signal(signal.SIGTERM)
    master.says(TELLS_FIRST)


# starts that can't succeed

NO_THREADS = """
import threading

def refuse(self):
    raise RuntimeError("can't start new thread")  # as under RLIMIT_NPROC or pids.max

threading.Thread.start = refuse
"""


@pytest.mark.parametrize("workers", some([(("--workers", "1"),), ((),)], 1))
def test_without_a_thread_for_the_watchdog_there_is_a_service(start, workers):
    master = start(*HYPOLL, *workers, app=NO_THREADS + APP)
    assert master.get()[0] == 200
    master.says("WARNING no handler that holds the loop will be named: can't start new thread")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert sum("Booting worker" in line for line in master.lines) <= 1


FAILS_LATE = """
from hypoll.runner import Runner

def fail(self):
    raise OSError("no descriptor is left")

Runner.run = fail
"""


def test_a_worker_that_can_t_begin_to_turn_halts_the_master(start):
    master = start(*HYPOLL, "--workers", "1", app=FAILS_LATE + APP)
    assert master.wait() == 3
    master.says("no descriptor is left")
    assert sum("Booting worker" in line for line in master.lines) == 1


# the tests' own means


def test_a_process_that_does_not_end_fails_its_test_with_its_stacks():
    code = "import time\ndef stuck(): print('in it', flush=True); time.sleep(60)\nstuck()"
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        stdout = process.stdout
        assert stdout.readline() == "in it\n"

        def read() -> list[str]:
            said.extend(stdout.read().splitlines())
            return said

        with pytest.raises(AssertionError, match=r"in stuck"):
            wait_for_end(process, read, patience=0.1)
