"""`--admin-bind`: metrics, health and status on a listener of their own, to the end of the application's server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from hypoll import Routes, healthcheck
from hypoll.protocol.messages import Request
from hypoll.runner import Runner, SetupError
from hypoll.server.sockets import BindError
from hypoll.settings import Settings
from hypoll.testing import TestClient
from tests.support.client import address_of, fetch
from tests.support.gunicorn import GUNICORN, HYPOLL, Master, gone, until
from tests.support.leftovers import open_descriptors, settled_descriptors
from tests.support.matrix import some

OWN: dict[str, Any] = {"metrics": "/metrics", "health": "/healthz", "status": "/status"}
PATHS = ("/metrics", "/healthz/live", "/healthz/ready", "/status", "/status.json")

APP = """
from hypoll import Routes
routes = Routes()
routes.get("/")(lambda request: "served")
"""

WORDS = [word for name, path in OWN.items() for word in (f"--{name}", path)]


@pytest.fixture
def routes() -> Routes:
    made = Routes()
    made.get("/")(lambda request: "served")
    return made


def ask(address: str, path: str) -> tuple[int, bytes]:
    """Ask a server at an address as the log writes it."""
    answer = fetch(address.removeprefix("unix:") if address.startswith("unix:") else address_of(address), path)
    return answer.status, answer.body


def admin_of(client: TestClient) -> str:
    admin = client._runner.admin
    assert admin is not None
    return admin.addresses[0]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_server_s_own_paths_are_there_and_not_where_the_application_is(routes, tmp_path, kind):
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/admin"
    with TestClient(routes, admin_bind=address, **OWN) as client:
        admin = admin_of(client)
        assert [ask(admin, path)[0] for path in PATHS] == [200] * len(PATHS)
        assert [client.get(path).status_code for path in PATHS] == [404] * len(PATHS)
        assert client.get("/").text == "served"
        assert ask(admin, "/")[0] == 404
        assert b"/healthz/live" in ask(admin, "/")[1]
        # What is asked here is no request of the application's.
        found = re.findall(rb'hypoll_requests_total{.*route="(.*?)"', ask(admin, "/metrics")[1])
        assert set(found) == {b"none", b"/"}
    assert not (tmp_path / "admin").exists()


def test_it_answers_through_the_drain(routes):
    begun, release = threading.Event(), threading.Event()

    @routes.get("/slow", threaded=True)
    def slow(request: Request) -> str:
        begun.set()
        assert release.wait(30)
        return "done"

    with TestClient(routes, admin_bind="127.0.0.1:0", **OWN) as client:
        admin, answers = admin_of(client), []
        asking = threading.Thread(target=lambda: answers.append(requests.get(client.base_url + "/slow", timeout=30)))
        asking.start()
        assert begun.wait(30)
        client._loop.call_soon_threadsafe(client._runner.drain_at_once)
        until(lambda: ask(admin, "/healthz/ready")[0] == 503)
        assert ask(admin, "/healthz/live")[0] == 200
        assert ask(admin, "/metrics")[0] == 200
        release.set()
        asking.join()
        assert answers[0].text == "done"


def test_without_anything_to_answer_it_is_a_mistake(routes):
    with pytest.raises(SetupError, match="admin_bind has nothing to answer"):
        Runner(routes, Settings(admin_bind="127.0.0.1:0"))


def test_an_address_that_is_taken_is_said_before_the_application_starts(routes):
    started = []
    routes.on_start(lambda: started.append(True))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(BindError, match="in use"),
        TestClient(routes, admin_bind=f"127.0.0.1:{taken.getsockname()[1]}", **OWN),
    ):
        pass
    assert not started


def test_where_the_application_can_not_start_nothing_is_left(routes):
    @routes.on_start
    def fail() -> None:
        raise RuntimeError("the application's own")

    before = len(settled_descriptors())
    with pytest.raises(RuntimeError, match="own"), TestClient(routes, admin_bind="127.0.0.1:0", **OWN):
        pass
    assert len(open_descriptors()) <= before


# processes


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@contextlib.contextmanager
def serving(directory: Path, command: list[str], **environment: str) -> Iterator[Master]:
    with Master(directory, command, env=environment) as master:
        yield master


def admin_address(master: Master) -> str:
    return master.says(r"metrics, health, status: on (\S+)$")[1]


@pytest.mark.parametrize("kind", some(["tcp", "unix"], 1))
def test_all_workers_accept_from_one_listener(directory, kind, monkeypatch):
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{directory}/admin"
    command = [*HYPOLL, "--bind", "127.0.0.1:0", "--workers", "2", "--admin-bind", address, *WORDS]
    with serving(directory, command) as master:
        master.says("metrics, health, status: on", 2)
        admin = admin_address(master)
        assert {line.rpartition(" ")[2] for line in master.lines if "status: on" in line} == {admin}
        for _ in range(5):
            assert master.get()[0] == 200
            assert [ask(admin, path)[0] for path in PATHS] == [200] * len(PATHS)
        assert master.get("/metrics")[0] == 404
        until(lambda: b'route="/",status="200"} 5.0' in ask(admin, "/metrics")[1])
        master.signal(signal.SIGHUP)
        master.says("metrics, health, status: on", 4)
        assert ask(admin, "/healthz/ready")[0] == 200
        monkeypatch.setenv("HYPOLL_ADMIN_BIND", admin.removeprefix("http://"))
        monkeypatch.setenv("HYPOLL_HEALTH", "/healthz")
        assert healthcheck.main([]) == 0
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
        assert not (directory / "admin").exists()


@pytest.mark.parametrize("kind", some(["unix", "tcp"], 1))
def test_a_successor_takes_it_over(directory, kind):
    """USR2: both masters serve it, and the path of a unix socket stays when the first ends."""
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{directory}/admin"
    command = [*HYPOLL, "--bind", "127.0.0.1:0", "--workers", "1", "--admin-bind", address, *WORDS]
    with serving(directory, command) as master:
        admin = admin_address(master)
        master.signal(signal.SIGUSR2)
        master.says("metrics, health, status: on", 2)
        assert {line.rpartition(" ")[2] for line in master.lines if "status: on" in line} == {admin}
        successor = int(master.says(r"\[(\d+)\] INFO Starting gunicorn", 2)[1])
        master.signal(signal.SIGTERM)
        assert master.popen.wait(30) == 0
        try:
            assert ask(admin, "/healthz/ready")[0] == 200
        finally:
            os.kill(successor, signal.SIGTERM)
            until(lambda: gone(successor))
        assert not (directory / "admin").exists()


def test_under_gunicorn_it_is_a_variable(directory):
    variables = {"HYPOLL_ADMIN_BIND": "127.0.0.1:0", **{f"HYPOLL_{name.upper()}": path for name, path in OWN.items()}}
    with serving(directory, [*GUNICORN, "--bind", "127.0.0.1:0"], **variables) as master:
        assert [ask(admin_address(master), path)[0] for path in PATHS] == [200] * len(PATHS)
        assert master.get("/metrics")[0] == 404
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
