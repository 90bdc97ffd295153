"""Three hypolls behind a real HAProxy, configured as documented: they are replaced one by one, and no request fails."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.client import Client

CONFIGURATION = Path(__file__).parent.parent.parent / "deploy" / "haproxy.cfg"
PATIENCE = 15.0
CLIENTS = 4
PACE = 0.002
"""Seconds between two requests of a client: load enough to hit every gap, and no more."""

APP = """
import os
import hypoll

routes = hypoll.Routes()

@routes.route("/", methods=["GET", "POST"])
def who(request):
    return str(os.getpid())
"""

pytestmark = pytest.mark.full


class Backend:
    """One hypoll, and after a `replace` another on the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.start()

    def start(self) -> None:
        drain = ["--health", "/healthz", "--drain-wait", "0.5"]
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "hypoll", "app:routes", "--bind", f"127.0.0.1:{self.port}", *drain],
            cwd=self.directory,
            env={key: value for key, value in os.environ.items() if not key.startswith("HYPOLL_")},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            if started := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(started[1])
                return
        pytest.fail("it didn't start")

    def end(self) -> int:
        self.popen.terminate()
        status = self.popen.wait(PATIENCE)
        assert self.popen.stderr is not None
        self.popen.stderr.close()
        return status


class Asker(threading.Thread):
    """Sends requests on a connection of its own until told to stop."""

    def __init__(self, port: int, methods: tuple[str, ...], stopping: threading.Event) -> None:
        super().__init__()
        self.port = port
        self.methods = methods
        self.stopping = stopping
        self.answers: list[int] = []
        self.failures: list[str] = []

    def run(self) -> None:
        client: Client | None = None
        while not self.stopping.wait(PACE):
            try:
                client = client or Client(("127.0.0.1", self.port), patience=PATIENCE)
                if self.ask(client, self.methods[len(self.answers) % len(self.methods)]):
                    continue
            except OSError as error:
                self.failures.append(repr(error))
            if client is not None:
                client.close()
                client = None
        if client is not None:
            client.close()

    def ask(self, client: Client, method: str) -> bool:
        """Whether the connection goes on."""
        content = {"POST": "Content-Length: 1\r\n\r\nx"}.get(method, "\r\n")
        answer = client.ask(f"{method} / HTTP/1.1\r\nHost: a\r\n{content}".encode())
        if answer.status == 200:
            self.answers.append(int(answer.body))
        else:
            self.failures.append(f"{method}: {answer.status}")
        return answer.fields.get("connection") != "close"


class Crowd:
    """Clients that ask as long as the block lasts; then none of them may have failed."""

    def __init__(self, port: int, *methods: str) -> None:
        self.stopping = threading.Event()
        self.clients = [Asker(port, methods, self.stopping) for _ in range(CLIENTS)]

    def __enter__(self) -> Crowd:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        for client in self.clients:
            client.join()
        if exception[0] is None:
            assert [failure for client in self.clients for failure in client.failures[:3]] == []

    @property
    def answers(self) -> list[int]:
        """The process of each answer."""
        return [pid for client in self.clients for pid in client.answers]

    def until_answered_by(self, backend: Backend) -> None:
        until(lambda: backend.popen.pid in self.answers)

    def until_answered_more(self, count: int) -> None:
        enough = len(self.answers) + count
        until(lambda: len(self.answers) >= enough)


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[list[Backend]]:
    (tmp_path / "app.py").write_text(APP)
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(3):
            started.append(Backend(tmp_path))
            stack.callback(started[-1].end)
        yield started


def configuration() -> str:
    """The documented one, ten times as fast."""
    text = CONFIGURATION.read_text()
    assert " inter 1s " in text
    return text.replace(" inter 1s ", " inter 100ms ")


@pytest.fixture
def haproxy(tmp_path: Path, backends: list[Backend]) -> Iterator[int]:
    """The port of HAProxy before the backends."""
    (tmp_path / "haproxy.cfg").write_text(configuration())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = {f"HYPOLL{number}": f"127.0.0.1:{one.port}" for number, one in enumerate(backends, 1)}
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")],
            env={**os.environ, **variables, "FRONTEND": f"fd@{listener.fileno()}"},
            pass_fds=(listener.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield listener.getsockname()[1]
        process.terminate()
        process.wait(PATIENCE)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it didn't happen"
        time.sleep(0.01)


def test_no_request_fails_while_one_after_the_other_is_replaced(backends, haproxy):
    with Crowd(haproxy, "GET", "POST") as crowd:
        for backend in backends:
            crowd.until_answered_by(backend)
        for backend in backends:
            assert backend.end() == 0
            backend.start()
            crowd.until_answered_by(backend)
    assert len(set(crowd.answers)) == 6


def test_no_get_fails_when_one_dies(backends, haproxy):
    with Crowd(haproxy, "GET") as crowd:
        for backend in backends:
            crowd.until_answered_by(backend)
        backends[0].popen.kill()
        crowd.until_answered_more(200)
