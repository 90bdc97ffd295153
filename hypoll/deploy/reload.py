"""`--reload`: a process that watches the application's files and has another serve it, anew after each change."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from hypoll.concurrency.process_end import has_terminal
from hypoll.deploy.imports import FOUND_IN_PRESENT_DIRECTORY, split_command
from hypoll.deploy.watched import WatchedServer, failing_application
from hypoll.runner import Runner
from hypoll.settings import Settings

PAUSE = 0.2
"""Seconds without a change after which it is looked whether the server has ended."""

log = logging.getLogger("hypoll")


def watcher() -> Any:
    """The module `watchfiles`. Raises `ImportError` that says how to get it."""
    try:
        return importlib.import_module("watchfiles")
    except ImportError as error:
        raise ImportError("--reload needs watchfiles: pip install 'hypoll[reload]'") from error


class StandIn:
    """Answers in the place of a server that can't start: 500, with the reason. It runs in a thread of its own.

    Args:
        listeners: the watcher's, which stay open when this ends; empty: it binds what the settings say.
    """

    def __init__(self, settings: Settings, listeners: Sequence[socket.socket], reason: str) -> None:
        # Nothing of what observes the application, and nothing that waits.
        plain = dataclasses.replace(
            settings,
            access_log="off",
            metrics="",
            health="",
            status="",
            admin_bind="",
            slow_callback=0.0,
            drain_wait=0.0,
            graceful_timeout=PAUSE,
        )
        self.runner = Runner(failing_application(reason), plain)
        try:
            self._server = self.runner.make_server([listener.dup() for listener in listeners] or None)
            self.runner.start()
        except BaseException:
            self.runner.close()
            raise
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer what is under way, and end."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.runner.loop.call_soon_threadsafe(self._server.drain)
        self._thread.join()

    def _run(self) -> None:
        try:
            self.runner.run()
        finally:
            self._server.stop()
            self.runner.close()


class Reloader:
    """Runs a command, and again whenever a Python file below a directory changes.

    Args:
        command: serves on the listeners, which it inherits as descriptors: they outlive it, so no connection is
            refused.
        on_change: the signal that has it serve anew. TERM: it ends and is started again; else it does so by itself.
        patience: seconds it may take to end after TERM before it is killed.
        settings: what is served by, in its place, when it has ended by itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        listeners: Sequence[socket.socket],
        on_change: signal.Signals,
        patience: float,
        settings: Settings,
    ) -> None:
        self._command = list(command)
        self._patience = patience
        self._directory = directory
        self._listeners = listeners
        self._on_change = on_change
        self._settings = settings
        self._ending = threading.Event()
        self._had_terminal = has_terminal()
        self._asked = False
        self._child: WatchedServer | None = None
        self._stand_in: StandIn | None = None

    def run(self) -> int:
        """Serve until TERM or INT; gives the last server's exit code."""
        watchfiles = watcher()
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # its "1 change detected" says less than ours
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_end)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else: nohup
            signal.signal(signal.SIGHUP, self._on_hangup)
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

    def _on_end(self, signum: int, frame: FrameType | None) -> None:
        child = self._child
        if self._ending.is_set() and signum == signal.SIGINT and child is not None and not self._had_terminal:
            child.process.send_signal(signum)  # a terminal sends it to both
        self._ending.set()

    def _on_hangup(self, signum: int, frame: FrameType | None) -> None:
        if self._had_terminal and not has_terminal():
            self._ending.set()
        else:
            self._asked = True

    def _turn(self, changed: list[str]) -> None:
        if self._child is not None and self._child.code is not None:
            self._stand_in_for(self._child)
            self._child = None
        asked, self._asked = self._asked, False
        if changed:
            log.info("%s changed", os.path.relpath(min(changed), self._directory))
        elif asked:
            log.info("HUP: serving anew")
        else:
            return
        if self._child is None or self._on_change is signal.SIGTERM:
            self._end()
            self._start()
        else:
            self._child.process.send_signal(self._on_change)

    def _stand_in_for(self, child: WatchedServer) -> None:
        log.warning("the server has ended with code %d: waiting for a change", child.code)
        reason = child.failure() or f"the server has ended with code {child.code}; its log says why"
        child.close()
        try:
            self._stand_in = StandIn(self._settings, self._listeners, reason)
        except Exception as error:
            log.warning("requests wait meanwhile: they can't be answered with the reason: %s", error)

    def _start(self) -> None:
        self._child = WatchedServer(self._command, [listener.fileno() for listener in self._listeners])

    def _end(self) -> int:
        """Let the server finish its requests."""
        if self._stand_in is not None:
            self._stand_in.stop()
            self._stand_in = None
        child = self._child
        if child is None:
            return 0
        try:
            return self._wait_for(child)
        finally:
            self._child = None
            child.close()

    def _wait_for(self, child: WatchedServer) -> int:
        child.process.terminate()
        try:
            child.process.wait(self._patience)
        except subprocess.TimeoutExpired:
            log.warning("the server doesn't end: killing it")
            child.process.kill()
            child.process.wait()
        return child.code or 0


def command_of(arguments: Sequence[str]) -> list[str]:
    """What runs `hypoll` with these arguments by the present interpreter, with the options that it was given.

    -P: or `-m` would put the present directory, and an application's `types.py`, before the standard library.
    """
    options, _ = split_command(sys.orig_argv)
    if not FOUND_IN_PRESENT_DIRECTORY:
        options.append("-P")
    return [sys.executable, *options, "-m", "hypoll", *arguments]
