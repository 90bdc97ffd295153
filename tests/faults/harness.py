"""A server in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.client import PATIENCE, Client, request

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

MIB = 1024 * 1024
PAGE = resource.getpagesize()
TICKS = os.sysconf("SC_CLK_TCK")

Address = tuple[str, int]

HELD = ("registered", "connections", "connection_objects", "parser_objects", "streams")
"""What must be back to its baseline when the clients have gone."""


class Served:
    """`python -m hypoll` serving `app.py`, with a connection kept to ask it for its counts.

    app: another module beside `app.py`.
    attribute: the application's name in it.
    options: of the command line.
    descriptors: RLIMIT_NOFILE of the process, hard and soft.
    memory: its RLIMIT_AS in KiB.

    The listener is bound here and inherited, so clients can connect at once.
    """

    def __init__(
        self, *options: str, app: str = "app", attribute: str = "routes", descriptors: int = 0, memory: int = 0
    ) -> None:
        self.options = options
        self.app = f"{app}:{attribute}"
        self.limits = [f"ulimit -n {descriptors}"] * bool(descriptors) + [f"ulimit -v {memory}"] * bool(memory)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Served:
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            self.address: Address = listener.getsockname()
            command = [sys.executable, "-m", "hypoll", self.app, "--app-dir", str(HERE)]
            # A stall of a machine that is busy is no failure, and its stack looks like one.
            command += ["--bind", f"fd://{listener.fileno()}", "--slow-callback", "0", *self.options]
            if self.limits:
                command = ["sh", "-c", "; ".join([*self.limits, 'exec "$@"']), "sh", *command]
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=self._log, pass_fds=[listener.fileno()])
        self.control = Client(self.address)
        try:
            self.ask("/")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()
        self._log.close()

    def ask(self, path: str, method: str = "GET") -> bytes:
        """The answer to a request on the kept connection."""
        answer = self.control.ask(request(path, method))
        assert answer.status < 300, answer
        return answer.body

    def counts(self, query: str = "") -> dict[str, Any]:
        """What the server holds: see `app.counts`."""
        found: dict[str, Any] = json.loads(self.ask(f"/counts{query}"))
        return found

    def held(self) -> dict[str, int]:
        """What must not be left behind, after a collection, with the descriptors of the process."""
        counts = self.counts("?collect")
        return {name: counts[name] for name in HELD} | {"descriptors": self.descriptor_count()}

    def await_held(self, expected: dict[str, int], within: float = PATIENCE) -> None:
        """Ask until the server holds no more than `expected`: what clients did last may not have reached it yet."""
        self.await_that(lambda: self.held() == expected, within, lambda: f"{self.held()} instead of {expected}")

    def await_that(self, holds: Callable[[], bool], within: float, otherwise: Callable[[], object]) -> None:
        """Check until it holds; each check is to make a round trip through the server's loop."""
        deadline = time.monotonic() + within
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(otherwise())

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def descriptor_count(self) -> int:
        """Open descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log(self) -> str:
        """What the server has logged."""
        self._log.seek(0)
        return self._log.read()

    def assert_no_failure(self) -> None:
        """The server is alive, and nothing in it raised what nobody expected."""
        assert self.process.poll() is None, self.log()
        assert "Traceback" not in self.log(), self.log()
