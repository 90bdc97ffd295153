"""Where a command listens: the same addresses mean the same in all of its modes, and whose they are is left theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import pytest

from tests.support.client import Client, serves
from tests.support.gunicorn import HYPOLL, PATIENCE, Launch, Master, until
from tests.support.matrix import covering, some

APP = """
import os
from hypoll import Routes
routes = Routes()
routes.get("/")(lambda request: str(os.getpid()))
"""

MODES = {
    "one process": (),
    "workers": ("--workers", "1"),
    "reload": ("--reload",),
    "workers and reload": ("--workers", "1", "--reload"),
}
WITH_REUSE_PORT = {f"{name}, reuse_port": (*options, "--reuse-port") for name, options in MODES.items()}


@pytest.fixture
def start(launch: Launch) -> Launch:
    def start(*arguments: str, command: tuple[str, ...] = HYPOLL, **how: Any) -> Master:
        return launch((*command, *arguments), app=APP, **how)

    return start


def options_of(mode: str) -> tuple[str, ...]:
    if "reload" in mode:
        pytest.importorskip("watchfiles")
    return (MODES | WITH_REUSE_PORT)[mode]


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def beginning(*cases: Any, others: Iterable[Any]) -> list[Any]:
    return [*cases, *(case for case in others if case not in cases)]


@pytest.mark.parametrize(
    "mode", some(beginning("one process", "workers, reuse_port", others=MODES | WITH_REUSE_PORT), 2)
)
def test_an_address_means_the_same_in_every_mode(start, mode):
    """[::] is IPv6 alone, a name with addresses of both families its IPv4 one, no host every IPv4 address."""
    six, name, none = free_port("::"), free_port(), free_port()
    start(*options_of(mode), "--bind", f"[::]:{six}", "--bind", f"localhost:{name}", "--bind", f":{none}")
    until(lambda: serves(("::1", six)) and serves(("127.0.0.1", none)))
    assert not serves(("127.0.0.1", six)), "IPv6 alone"
    assert serves(("127.0.0.1", name))
    assert not serves(("::1", name))
    assert serves(("127.0.0.2", none))


SOCKETS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@contextlib.contextmanager
def inherited(sock: socket.socket) -> Iterator[int]:
    number = os.dup(sock.fileno())
    os.set_inheritable(number, True)
    try:
        yield number
    finally:
        os.close(number)


@pytest.mark.parametrize(("mode", "given"), covering(["one process", "workers"], [False, True]))
def test_what_the_command_says_goes_before_the_sockets_that_are_passed(start, mode, given):
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as passed, inherited(passed) as number:
        bind = ("--bind", f"127.0.0.1:{port}") if given else ()
        start(str(number), *HYPOLL, *options_of(mode), *bind, command=("-c", SOCKETS), pass_fds=(number,))
        until(lambda: serves(("127.0.0.1", port)) if given else serves(passed.getsockname()))
        if given:
            passed.setblocking(False)
            with Client(passed.getsockname()):
                until(lambda: accepted(passed), "somebody else took it")
        else:
            assert not serves(("127.0.0.1", port))


def accepted(listener: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        listener.accept()[0].close()
        return True
    return False


@pytest.mark.full
@pytest.mark.parametrize("how", ["passed", "fd", "tcp"])
def test_the_successor_of_a_master_takes_its_sockets_wherever_they_are_from(start, how):
    with socket.create_server(("127.0.0.1", 0)) as given, inherited(given) as number:
        address = given.getsockname()
        if how == "fd":
            master = start("--workers", "1", "--bind", f"fd://{number}", pass_fds=(number,))
        elif how == "passed":
            master = start(str(number), *HYPOLL, "--workers", "1", command=("-c", SOCKETS), pass_fds=(number,))
        else:
            address = ("127.0.0.1", free_port())
            master = start("--workers", "1", "--bind", f"127.0.0.1:{address[1]}")
        until(lambda: serves(address))
        master.signal(signal.SIGUSR2)
        successor = int(master.says(r"\[(\d+)\] INFO Starting gunicorn", 2)[1])
        try:
            master.says("Booting worker", 2)
            master.signal(signal.SIGTERM)
            assert master.popen.wait(PATIENCE) == 0
            assert serves(address)
        finally:
            os.kill(successor, signal.SIGTERM)
        assert master.wait() == 0


@pytest.mark.parametrize(
    ("mode", "own"),
    some(beginning(("workers", True), ("reload", False), others=product(MODES, [False, True])), 2),
)
def test_the_path_of_a_unix_socket_is_removed_by_who_made_it(start, tmp_path, mode, own):
    path = str(tmp_path / "socket")
    options = options_of(mode)
    with contextlib.ExitStack() as stack:
        if own:
            master = start(*options, "--bind", f"unix:{path}")
        else:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            listener.listen()
            number = stack.enter_context(inherited(listener))
            master = start(*options, "--bind", f"fd://{number}", pass_fds=(number,))
        until(lambda: serves(path))
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
    assert os.path.exists(path) is not own
