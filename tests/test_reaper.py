"""A container's PID 1, in a PID namespace of its own: orphans are reaped, the application's own children left to it."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 10.0

NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")

APP = """
import os, signal, subprocess
import hypoll

routes = hypoll.Routes()

@routes.get("/orphan")
def orphan(request):
    "Leave a process without its parent: its pid."
    return subprocess.run(["sh", "-c", "true & echo $!"], capture_output=True, text=True).stdout.strip()

@routes.get("/there/{pid:int}")
def there(request, pid):
    return {"there": os.path.exists(f"/proc/{pid}")}

@routes.get("/own")
def own(request):
    "Have a child that ends, and ask how it did only after others have been reaped."
    child = subprocess.Popen(["sh", "-c", "exit 7"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    orphan(request)
    return {"status": child.wait(), "ppid": os.getppid()}

@routes.get("/die")
def die(request):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _namespaces_work(), reason="PID namespaces can't be made here")


class Container:
    """hypoll as PID 1."""

    def __init__(self, directory: Path) -> None:
        (directory / "app.py").write_text(APP)
        self.outer = subprocess.Popen(
            [*NAMESPACE, sys.executable, "-m", "hypoll", "app:routes", "--bind", "127.0.0.1:0"],
            cwd=directory,
            env={key: value for key, value in os.environ.items() if not key.startswith("HYPOLL_")},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.outer.stderr is not None
        for line in self.outer.stderr:
            if started := re.search(r"http://127\.0\.0\.1:(\d+), pid (\d+)", line):
                self.port, self.server_pid = int(started[1]), int(started[2])
                break

    @property
    def pid_1(self) -> int:
        """Its number outside."""
        return int(Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text())

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def end(self) -> None:
        self.outer.kill()
        self.outer.wait(PATIENCE)
        assert self.outer.stderr is not None
        self.outer.stderr.close()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    container = Container(tmp_path)
    yield container
    container.end()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it didn't happen"


def test_pid_1_reaps_orphans_and_nobody_else(container):
    assert container.server_pid != 1
    orphan = container.get("/orphan")
    until(lambda: container.get(f"/there/{orphan}") == '{"there":false}')
    assert container.get("/own") == '{"status":7,"ppid":1}'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_pid_1_drains_the_server(container, number):
    os.kill(container.pid_1, number)
    assert container.outer.stderr is not None
    assert container.outer.stderr.read().endswith("INFO stopped\n")
    assert container.outer.wait(PATIENCE) == 0


def test_a_server_that_is_killed_ends_the_container(container):
    with pytest.raises(http.client.RemoteDisconnected):
        container.get("/die")
    assert container.outer.wait(PATIENCE) == 128 + signal.SIGKILL
