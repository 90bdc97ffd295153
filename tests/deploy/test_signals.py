"""Whose a signal is: the server's own stay its own, and the application's handlers are called, too."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.concurrency.asyncio_bridge import AsyncioBridge
from hypoll.loop import Loop
from tests.support.gunicorn import GUNICORN, HYPOLL, Launch, Master, until
from tests.support.matrix import covering, some

APP = """
import asyncio, os, signal, sys
from hypoll import Routes

routes = Routes()

def note(name):
    with open("noted", "a") as file:
        file.write(f"{name}\\n")

@routes.get("/")
def index(request):
    return str(os.getpid())

@routes.get("/take")
def take(request):
    signal.signal(signal.SIGTERM, lambda *_: (note("TERM taken while serving"), sys.exit(5)))
    return "taken"

@routes.on_stop
def stopped():
    note("on_stop")
"""

ASYNC = """
@routes.on_start
async def listen():
    loop = asyncio.get_running_loop()
    for name in ("WINCH", "USR2", "USR1", "TERM"):
        loop.add_signal_handler(getattr(signal, f"SIG{name}"), note, name)
    loop.add_signal_handler(signal.SIGALRM, note, "ALRM")
    assert loop.remove_signal_handler(signal.SIGALRM)
    assert not loop.remove_signal_handler(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda *_: note("ALRM by signal.signal"))
"""

AT_IMPORT = """
signal.signal(signal.SIGTERM, lambda signum, frame: (note(f"TERM {signum}"), sys.exit(5)))
signal.signal(signal.SIGUSR2, lambda *_: note("USR2"))
"""

MODES = {
    "one process": HYPOLL,
    "workers": (*HYPOLL, "--workers", "1"),
    "gunicorn": GUNICORN,
}

Start = Callable[..., Master]


@pytest.fixture
def start(launch: Launch) -> Start:
    def start(*command: str, app: str, **how: Any) -> Master:
        return launch((*command, "--bind", "127.0.0.1:0"), app=app, **how)

    return start


def noted(directory: Path) -> list[str]:
    file = directory / "noted"
    return file.read_text().split("\n")[:-1] if file.exists() else []


@pytest.mark.parametrize(("mode", "uvloop"), covering([*MODES], ["1", "0"]))
def test_asyncio_s_signal_handlers_that_an_on_start_hook_sets_are_called(start, tmp_path, mode, uvloop):
    master = start(*MODES[mode], app=APP + ASYNC, env={"HYPOLL_UVLOOP": uvloop})
    pid = int(master.get()[1])
    expected = []
    for name in ("WINCH", "USR2", "USR1", "ALRM"):
        os.kill(pid, signal.Signals[f"SIG{name}"])
        expected.append(name if name != "ALRM" else "ALRM by signal.signal")
        until(lambda: noted(tmp_path) == expected, f"{name} isn't told")
    assert master.get()[0] == 200
    assert not any("one process can't" in line for line in master.lines), "the application has a use for USR2"
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert noted(tmp_path) == [*expected, "TERM", "on_stop"]


@pytest.mark.parametrize("mode", some(["workers", "gunicorn", "one process"], 1))
def test_a_handler_that_the_application_set_before_is_called_and_ends_nothing(start, tmp_path, mode):
    master = start(*MODES[mode], app=APP + AT_IMPORT)
    os.kill(int(master.get()[1]), signal.SIGUSR2)
    until(lambda: noted(tmp_path) == ["USR2"])
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert noted(tmp_path) == ["USR2", "TERM 15", "on_stop"]
    master.says("the application's handler of a signal failed")


@pytest.mark.parametrize("mode", some(["one process", "gunicorn", "workers"], 1))
def test_a_signal_that_is_taken_while_serving_is_taken_back(start, tmp_path, mode):
    master = start(*MODES[mode], app=APP)
    assert master.get("/take") == (200, b"taken")
    master.says("SIGTERM stays the server's: the application's handler is called after it")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert noted(tmp_path) == ["TERM taken while serving", "on_stop"]


# the loop's side


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise error

    return fail


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_the_server_s_handler_comes_first(loop, turner, handlers):
    told: list[Any] = []
    signal.signal(signal.SIGUSR1, lambda *arguments: told.append(arguments))
    loop.add_signal_handler(signal.SIGUSR1, lambda: told.append("server"), lambda: told.append("urgent"))
    loop.listen_to_signal(signal.SIGUSR1, lambda: told.append("listener"))
    signal.raise_signal(signal.SIGUSR1)
    assert told == ["urgent"]
    turner.settle()
    assert told == ["urgent", "server", (signal.SIGUSR1, None), "listener"]


def test_a_handler_that_yields_is_called_where_there_is_no_other(loop, turner, handlers):
    told: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: told.append("server"), yields=True)
    for listener in (None, lambda: told.append("listener"), None):
        loop.listen_to_signal(signal.SIGUSR1, listener)
        signal.raise_signal(signal.SIGUSR1)
        turner.settle()
    assert told == ["server", "listener", "server"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), ValueError()])
def test_what_an_application_s_handler_raises_keeps_nothing_from_being_called(loop, turner, handlers, caplog, error):
    told: list[str] = []
    signal.signal(signal.SIGUSR1, raising(error))
    loop.add_signal_handler(signal.SIGUSR1, lambda: told.append("server"))
    loop.listen_to_signal(signal.SIGUSR1, lambda: told.append("listener"))
    signal.raise_signal(signal.SIGUSR1)
    turner.settle()
    assert told == ["server", "listener"]
    assert [record.message for record in caplog.records] == ["the application's handler of a signal failed"]


def test_a_signal_of_the_application_s_alone_is_not_taken_back(loop, turner, handlers):
    told: list[str] = []
    loop.listen_to_signal(signal.SIGUSR1, lambda: told.append("listener"))
    loop.add_signal_handler(signal.SIGUSR2, lambda: told.append("server"), yields=True)
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, lambda *_: told.append("application"))
    loop.hold_signals()
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        signal.raise_signal(signum)
    turner.settle()
    assert told == ["application"] * 2


def test_python_s_and_gunicorn_s_handlers_are_not_the_application_s(loop, turner, handlers):
    told: list[str] = []

    class Arbiter:
        def handle(self, *arguments: object) -> None:
            told.append("gunicorn's")

    Arbiter.__module__ = "gunicorn.arbiter"
    signal.signal(signal.SIGUSR1, Arbiter().handle)
    signal.signal(signal.SIGUSR2, signal.default_int_handler)
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(signum, lambda: told.append("server"))
        signal.raise_signal(signum)
        turner.settle()
    assert told == ["server"] * 2


def test_the_wake_up_descriptor_is_taken_back(loop, handlers):
    loop.add_signal_handler(signal.SIGUSR1, print)
    ours = signal.set_wakeup_fd(-1)
    loop.hold_signals()
    assert signal.set_wakeup_fd(ours, warn_on_full_buffer=False) == ours


def test_a_listener_that_is_gone_leaves_the_handler_from_before(loop, handlers):
    signal.signal(signal.SIGUSR1, print)
    loop.listen_to_signal(signal.SIGUSR1, print)
    assert loop.listen_to_signal(signal.SIGUSR1, None)
    assert signal.getsignal(signal.SIGUSR1) is print


async def nothing() -> None: ...


def marked() -> None:
    """As asgiref marks what makes coroutines, before Python 3.12."""


marked._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


@pytest.mark.parametrize("uvloop", [True, False])
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((signal.SIGUSR1, nothing), TypeError),
        ((signal.SIGUSR1, marked), TypeError),
        (("USR1", print), TypeError),
        ((4096, print), ValueError),
        ((signal.SIGKILL, print), RuntimeError),
    ],
)
def test_what_asyncio_refuses_is_refused(uvloop, arguments, error, loop):
    tasks = AsyncioBridge(loop, uvloop=uvloop)
    with pytest.raises(error):
        tasks.asyncio.add_signal_handler(*arguments)
    tasks.close()


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_listener_that_exits_does_not_end_the_loop(uvloop, handlers, caplog):
    loop = Loop()
    tasks = AsyncioBridge(loop, uvloop=uvloop)
    tasks.asyncio.add_signal_handler(signal.SIGUSR1, raising(SystemExit(1)))
    signal.raise_signal(signal.SIGUSR1)
    loop.call_later(0.05, loop.stop)
    tasks.run()
    assert [record.message for record in caplog.records] == ["the application's handler of a signal failed"]
    tasks.close()
    loop.close()
