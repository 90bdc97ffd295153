"""A process from its start to its end: signals drain it, and everything is given back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hypoll
from hypoll import Response, Routes
from hypoll.runner import _StopSignals
from hypoll.server.server import Server, Status
from hypoll.server.sockets import BindError
from hypoll.testing import TestClient
from tests.support.client import Client
from tests.support.clock import PATIENCE
from tests.support.leftovers import open_descriptors, settled_descriptors

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def routes() -> Routes:
    routes = Routes()

    @routes.get("/")
    def index(request):
        return "ok"

    @routes.get("/endless")
    def endless(request):
        return Response(iter(lambda: bytes(65536), None))

    return routes


class Visitor:
    """What happens to a served process from outside, in a thread of its own."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.server: Server | None = None

    def comes(self, visit: Callable[[Server, tuple[str, int]], None]) -> Callable[[Server], None]:
        def begin(server: Server) -> None:
            self.server = server
            address = server.listeners[0].sock.getsockname()
            self.thread = threading.Thread(target=self._run, args=(visit, server, address))
            self.thread.start()

        return begin

    def _run(self, visit: Callable[..., None], server: Server, address: Any) -> None:
        try:
            visit(server, address)
        except BaseException as error:
            self.failure = error
            server.loop.call_soon_threadsafe(server.stop)

    def leaves(self) -> None:
        if self.thread is not None:
            self.thread.join(PATIENCE)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    visitor = Visitor()
    yield visitor
    visitor.leaves()


def kill(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(routes, visitor, signum):
    def visit(server: Server, address: tuple[str, int]) -> None:
        with Client(address) as idle, Client(address) as busy:
            for peer in (idle, busy):
                assert peer.ask(GET).status == 200
            busy.send(GET[:10])
            busy_is_seen(server)
            kill(signum)
            assert idle.ends()
            answer = busy.ask(GET[10:])
            assert answer.status == 200
            assert answer.fields["connection"] == "close"
            assert busy.ends()
        with pytest.raises(ConnectionRefusedError):
            Client(address)

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    hypoll.run(routes, "127.0.0.1:0", on_start=visitor.comes(visit), drain_keep_alive=0.05)
    assert visitor.server is not None
    assert visitor.server.status is Status.STOPPED
    assert {one: signal.getsignal(one) for one in before} == before
    assert signal.set_wakeup_fd(-1) == -1


def busy_is_seen(server: Server) -> None:
    """Wait until the loop has taken what was sent to it before."""
    for _ in range(3):
        seen = threading.Event()
        server.loop.call_soon_threadsafe(seen.set)
        assert seen.wait(PATIENCE)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_interrupt_stops_at_once(routes, visitor, capsys, first):
    def visit(server: Server, address: tuple[str, int]) -> None:
        with Client(address) as peer:
            peer.send(GET.replace(b"/ ", b"/endless "))
            assert peer.more()
            kill(first)
            with contextlib.suppress(
                ConnectionRefusedError, ConnectionResetError
            ):  # the latter while it is being closed
                while True:
                    Client(address).close()
            assert server.status is Status.DRAINING
            kill(signal.SIGINT)
            assert not peer.rest().endswith(b"0\r\n\r\n")

    hypoll.run(routes, "127.0.0.1:0", on_start=visitor.comes(visit), write_timeout=1000.0)
    assert "interrupted again" in capsys.readouterr().err


def test_a_handler_that_catches_everything_delays_a_second_interrupt_no_further(routes, visitor, monkeypatch):
    begun, heard = threading.Event(), threading.Event()
    original = _StopSignals.on_interrupt
    main = threading.main_thread().ident
    assert main is not None

    def on_interrupt(self: _StopSignals) -> None:
        try:
            original(self)
        finally:
            heard.set()

    monkeypatch.setattr(_StopSignals, "on_interrupt", on_interrupt)

    @routes.get("/stubborn")
    def stubborn(request):
        begun.set()
        with contextlib.suppress(BaseException):
            for _ in range(1000):  # short: a signal that comes just before a sleep doesn't wake it
                time.sleep(PATIENCE / 1000)
        return "ok"

    def visit(server: Server, address: tuple[str, int]) -> None:
        with Client(address) as busy, Client(address) as peer:
            busy.send(GET[:10])
            busy_is_seen(server)
            peer.send(GET.replace(b"/ ", b"/stubborn "))
            assert begun.wait(PATIENCE)
            signal.pthread_kill(main, signal.SIGINT)  # a thread's own kill may reach itself, and wake nobody
            assert heard.wait(PATIENCE)
            signal.pthread_kill(main, signal.SIGINT)
            assert busy.rest() == b""

    start = time.monotonic()
    hypoll.run(routes, "127.0.0.1:0", on_start=visitor.comes(visit))
    assert time.monotonic() - start < PATIENCE


def test_a_second_term_does_not_hurry(routes, visitor):
    def visit(server: Server, address: tuple[str, int]) -> None:
        with Client(address) as peer:
            peer.send(GET[:10])
            busy_is_seen(server)
            kill(signal.SIGTERM)
            kill(signal.SIGTERM)
            busy_is_seen(server)
            assert peer.ask(GET[10:]).status == 200

    hypoll.run(routes, "127.0.0.1:0", on_start=visitor.comes(visit))


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_an_end_asked_for_at_the_start_is_not_lost(routes, how):
    hypoll.run(routes, "127.0.0.1:0", on_start=lambda server: getattr(server, how)())


def test_hooks_run_around_it_all(routes, visitor):
    ran: list[str] = []
    routes.on_start(lambda: ran.append("start"))
    routes.on_stop(lambda: ran.append("stop"))

    def on_start(server: Server) -> None:
        ran.append("serving")
        server.drain()

    hypoll.run(routes, ("127.0.0.1:0", "[::1]:0"), on_start=on_start)
    assert ran == ["start", "serving", "stop"]


def test_an_on_start_that_raises_stops_the_server(routes):
    ran: list[str] = []
    routes.on_stop(lambda: ran.append("stop"))

    def fail(server: Server) -> None:
        raise LookupError

    before = len(settled_descriptors())
    with pytest.raises(LookupError):
        hypoll.run(routes, "127.0.0.1:0", on_start=fail)
    assert ran == ["stop"]
    assert len(open_descriptors()) == before


def test_an_address_in_use_leaves_nothing(routes):
    with socket.create_server(("127.0.0.1", 0)) as other:
        before = len(settled_descriptors())
        with pytest.raises(BindError, match="in use"):
            hypoll.run(routes, ("127.0.0.1:0", f"127.0.0.1:{other.getsockname()[1]}"))
        assert len(open_descriptors()) == before


@pytest.mark.parametrize(
    ("bind", "settings", "said"),
    [
        (8712, {}, "bind is 8712: it must be HOST:PORT, as '127.0.0.1:8712', or several in a tuple"),
        (None, {}, "bind is None: it must be HOST:PORT, as '127.0.0.1:8000', or several in a tuple"),
        ("127.0.0.1:0", {"bindd": "x"}, "there is no option 'bindd': is it bind?"),
        ("127.0.0.1:0", {"max_bodi": 1}, "there is no option 'max_bodi': is it max_body?"),
        ("127.0.0.1:0", {"qqqqqqq": 1}, "there is no option 'qqqqqqq'"),
    ],
)
def test_what_is_no_option_is_said_as_the_command_does(routes, bind, settings, said):
    with pytest.raises(TypeError) as caught:
        hypoll.run(routes, bind, **settings)
    assert str(caught.value) == said
    if isinstance(bind, str):
        with pytest.raises(TypeError) as caught:
            TestClient(routes, **settings)
        assert str(caught.value) == said


def test_a_script_is_told_of_variables_that_are_the_command_s(routes, monkeypatch, capsys):
    monkeypatch.setenv("HYPOLL_THREADS", "3")
    monkeypatch.setenv("HYPOLL_BACKLOG", "")
    hypoll.run(routes, "127.0.0.1:0", on_start=lambda server: kill(signal.SIGINT))
    said = [line for line in capsys.readouterr().err.splitlines() if "HYPOLL_" in line]
    assert len(said) == 1
    assert "WARNING hypoll.run doesn't read HYPOLL_THREADS: give it arguments, or run the command hypoll" in said[0]


@pytest.mark.parametrize(("settings", "error"), [({"backlog": 0}, ValueError), ({"nonsense": 1}, TypeError)])
def test_settings_that_are_wrong(routes, settings, error):
    with pytest.raises(error):
        hypoll.run(routes, "127.0.0.1:0", **settings)
