"""`--reload`: a process that watches the application's files and has another serve it, anew after each change."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from hypoll.imports import FOUND_IN_PRESENT_DIRECTORY, split_command

PAUSE = 0.2
"""Seconds without a change after which it is looked whether the server has ended."""

log = logging.getLogger("hypoll")


def watcher() -> Any:
    """The module `watchfiles`. Raises `ImportError` that says how to get it."""
    try:
        return importlib.import_module("watchfiles")
    except ImportError as error:
        raise ImportError("--reload needs watchfiles: pip install 'hypoll[reload]'") from error


class Reloader:
    """Runs a command, and again whenever a Python file below a directory changes.

    command: serves on the descriptors `fds`, which it inherits: they outlive it, so no connection is refused.
    on_change: the signal that has it serve anew. TERM: it ends and is started again; else it does so by itself.
    patience: seconds it may take to end after TERM before it is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        fds: Iterable[int],
        on_change: signal.Signals,
        patience: float,
    ) -> None:
        self._command = list(command)
        self._patience = patience
        self._directory = directory
        self._fds = tuple(fds)
        self._on_change = on_change
        self._ending = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Serve until TERM or INT; gives the last server's exit code."""
        watchfiles = watcher()
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # its "1 change detected" says less than ours
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self._ending.set())
        changes = watchfiles.watch(
            self._directory,
            watch_filter=watchfiles.PythonFilter(),
            stop_event=self._ending,
            rust_timeout=int(PAUSE * 1000),
            yield_on_timeout=True,
        )
        self._start()
        with contextlib.closing(changes):
            for changed in changes:
                self._turn([path for _, path in changed])
        return self._end()

    def _turn(self, changed: list[str]) -> None:
        if self._child is not None and self._child.poll() is not None:
            log.warning("the server has ended with code %d: waiting for a change", self._child.returncode)
            self._child = None
        if changed:
            log.info("%s changed", os.path.relpath(min(changed), self._directory))
            if self._child is None:
                self._start()
            elif self._on_change is signal.SIGTERM:
                self._end()
                self._start()
            else:
                self._child.send_signal(self._on_change)

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "HYPOLL_RELOAD"}
        self._child = subprocess.Popen(self._command, pass_fds=self._fds, env=environment)  # noqa: S603 - our own

    def _end(self) -> int:
        """Let the server finish its requests."""
        if self._child is None:
            return 0
        self._child.terminate()
        try:
            return self._child.wait(self._patience)
        except subprocess.TimeoutExpired:
            log.warning("the server doesn't end: killing it")
            self._child.kill()
            return self._child.wait()


def command_of(arguments: Sequence[str]) -> list[str]:
    """What runs `hypoll` with these arguments by the present interpreter, with the options that it was given.

    -P: or `-m` would put the present directory, and an application's `types.py`, before the standard library.
    """
    options, _ = split_command(sys.orig_argv)
    if not FOUND_IN_PRESENT_DIRECTORY:
        options.append("-P")
    return [sys.executable, *options, "-m", "hypoll", *arguments]
