"""Real gunicorn masters for tests: started on a free port, their log read line by line, ended by pid."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.client import Client, fetch

PATIENCE = 30.0
"""Seconds after which something that was to happen is given up: a busy machine may be many times slower."""

GUNICORN = ("-m", "gunicorn", "-k", "hypoll.gunicorn_worker.Worker", "app:routes", "--no-control-socket")
HYPOLL = ("-m", "hypoll", "app:routes")

ROOT = Path(__file__).resolve().parent.parent.parent


class Master(contextlib.AbstractContextManager["Master"]):
    """A process that serves with workers, and all it has said so far. As a context manager it is ended by that."""

    def __init__(self, directory: Path, command: Sequence[str], prefix: Sequence[str] = (), **popen: object) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HYPOLL_")}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "1"}
        environment |= {"HYPOLL_DRAIN_KEEP_ALIVE": "0.2"}
        environment.update(popen.pop("env", {}))  # type: ignore[call-overload]
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, *command],
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **popen,  # type: ignore[call-overload]
        )
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __exit__(self, *exception: object) -> None:
        self.end()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()

    def says(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until it has said this, `count` times; gives the last of them."""
        found: list[re.Match[str]] = []

        def enough() -> bool:
            found[:] = [match for match in (re.search(pattern, line) for line in self.lines) if match]
            return len(found) >= count

        with self._said:
            assert self._said.wait_for(enough, PATIENCE), f"it didn't say {pattern!r}:\n" + "\n".join(self.lines)
        return found[count - 1]

    @property
    def port(self) -> int:
        """Where it listens; once this is known a worker may still be starting."""
        return int(self.says(r"(?:Listening at: |serves .* on )https?://127\.0\.0\.1:(\d+)")[1])

    def workers(self) -> list[int]:
        """Its workers' pids."""
        return children(self.popen.pid)

    def get(self, path: str = "/") -> tuple[int, bytes]:
        """Ask over a connection of its own."""
        answer = fetch(("127.0.0.1", self.port), path, patience=PATIENCE)
        return answer.status, answer.body

    def signal(self, signum: int) -> None:
        self.popen.send_signal(signum)

    def wait(self) -> int:
        """Its exit code; all it said is in `lines` then. Fails with the stacks of its processes if it doesn't end."""
        code = wait_for_end(self.popen, lambda: self.lines)
        self._reader.join(PATIENCE)
        return code

    def end(self) -> None:
        """End it and all it has started, whatever state they are in: parents first, so that none starts another."""
        for pid in family(self.popen.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


Launch = Callable[..., Master]
"""What starts masters: launch(command, app=source of app.py, config=source of gunicorn.conf.py, **popen)."""


def wait_for_end(popen: subprocess.Popen[Any], said: Callable[[], list[str]], patience: float = PATIENCE) -> int:
    """The exit code of a process. Fails when it doesn't end, with all it said.

    The stacks of its processes are the last of that: it is to run with PYTHONFAULTHANDLER=1.
    """
    try:
        return popen.wait(patience)
    except subprocess.TimeoutExpired:
        members = family(popen.pid)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        with contextlib.suppress(AssertionError):  # it may be stuck beyond that
            until(lambda: popen.poll() is not None and all(map(gone, members)))
        raise AssertionError("it doesn't end:\n" + "\n".join(said())) from None


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(member for child in children(pid) for member in family(child))]


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(holds: object, message: str = "it didn't happen") -> None:
    """Look again and again, a little apart: for what another process does without telling."""
    assert callable(holds)
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, message
        time.sleep(0.01)


class Load:
    """Clients that ask again and again: on a new connection each time, or on one they keep.

    A request that meets the close of a kept connection is asked again, once, as clients do.
    """

    def __init__(self, port: int, new: int = 2, kept: int = 2) -> None:
        self.port = port
        self.answers: Counter[bytes] = Counter()
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(at < kept,)) for at in range(new + kept)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, keep: bool) -> None:
        client: Client | None = None
        while not self._over.is_set():
            kept = client
            answered, client = self._ask(kept)
            if not answered and kept is not None:
                _, client = self._ask(None)
            if client is not None and not keep:
                client.close()
                client = None
        if client is not None:
            client.close()

    def _ask(self, kept: Client | None) -> tuple[bool, Client | None]:
        """Ask once; gives whether it was answered, and the connection if it can be kept."""
        client = kept
        try:
            client = client or Client(("127.0.0.1", self.port), patience=PATIENCE)
            answer = client.get()
        except OSError as error:
            if client is not None:
                client.close()
            if kept is None:
                self.failures.append(repr(error))
            return False, None
        self.answers[answer.body] += 1
        if answer.status != 200:
            self.failures.append(f"{answer.status} {answer.body!r}")
        if answer.fields.get("connection") == "close":
            client.close()
            return True, None
        return True, client
