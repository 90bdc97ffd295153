"""What is done in gunicorn's master: early signals and those over a fork are kept, and the service's end is marked.

A signal that comes while a worker is being made would be lost: CPython forgets in a forked child what has come since
the fork, and until the worker has handlers of its own it has those of the master, which put the signal into a queue
that nobody reads there. The master then waits for a worker that was never asked to end.
"""

from __future__ import annotations

import functools
import mmap
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gunicorn.arbiter import Arbiter

from hypoll.deploy import admin_listener
from hypoll.telemetry import shared_counters

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1})
"""What the master, or a terminal, sends to workers and must not be lost. (ABRT may end a boot that is stuck.)"""


class _ForkSignals:
    """The signals of a worker, from its fork until its own handlers are there."""

    def __init__(self) -> None:
        self._mask: set[int] | None = None
        self._kept: list[int] = []

    def before_fork(self) -> None:
        """Hold the signals back, in the master, if it is a worker that is forked."""
        if sys._getframe(1).f_code is Arbiter.spawn_worker.__code__:
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def in_parent(self) -> None:
        """Let them come again."""
        mask, self._mask = self._mask, None
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def in_child(self) -> None:
        """Note what comes from now on. Not held back any longer: what the `post_fork` hook starts inherits the mask."""
        if self._mask is not None:
            for signum in SIGNALS:
                signal.signal(signum, self._keep)
        self.in_parent()

    @contextmanager
    def end(self) -> Iterator[None]:
        """Have the worker's handlers set in the block, and called for what has come before."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        kept, self._kept = self._kept, []
        for signum in kept:
            signal.raise_signal(signum)

    def _keep(self, signum: int, frame: object) -> None:
        self._kept.append(signum)


crossing = _ForkSignals()

os.register_at_fork(before=crossing.before_fork, after_in_parent=crossing.in_parent, after_in_child=crossing.in_child)

EARLY = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU})
"""Signals that ask something of a master, and by default end or stop a process."""


class _EarlySignals:
    """The signals that come to a master before it has handlers: it may be importing the application (`preload_app`)."""

    def __init__(self) -> None:
        self._master = 0
        self._kept: list[int] = []

    def hold(self, arbiter: type[Arbiter] = Arbiter) -> None:
        """Keep them until the master has handlers. TERM, INT and QUIT end it. Doing it twice does nothing."""
        init_signals = arbiter.init_signals
        if hasattr(init_signals, "__wrapped__") or threading.current_thread() is not threading.main_thread():
            return

        @functools.wraps(init_signals)
        def deliver(master: Any) -> None:
            init_signals(master)
            kept, self._kept = self._kept, []
            for signum in kept:
                signal.raise_signal(signum)

        arbiter.init_signals = deliver
        self._master = os.getpid()
        for signum in EARLY:
            if signal.getsignal(signum) is signal.SIG_DFL:
                signal.signal(signum, self._keep)

    def _keep(self, signum: int, frame: object) -> None:
        if os.getpid() == self._master:
            self._kept.append(signum)
        else:  # of a process that the application has forked
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)


early_signals = _EarlySignals()


def reexecute_modules(arbiter: type[Arbiter] = Arbiter) -> None:
    """Have USR2 execute `python -m gunicorn` as it was started. Doing it twice does nothing.

    By itself the master executes the module's file, whose directory then hides the standard library's http and more.
    """
    reexec = arbiter.reexec
    if hasattr(reexec, "__wrapped__"):
        return

    @functools.wraps(reexec)
    def reexec_module(self: Any) -> None:
        arguments = self.START_CTX["args"]
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None and arguments[:2] == [sys.executable, spec.origin]:
            self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        reexec(self)

    arbiter.reexec = reexec_module


_ending = mmap.mmap(-1, mmap.PAGESIZE)
"""Shared with the workers: its first byte is 1 once the master has begun to end the service."""


def service_ends() -> bool:
    """Whether the master ends the service, and not only this worker. (HUP, TTOU and a kill leave others to serve.)"""
    return _ending[0] != 0


def mark_end(arbiter: type[Arbiter] = Arbiter) -> None:
    """Have the master mark the service's end, before it tells its workers to go. Doing it twice does nothing."""
    stop = arbiter.stop
    if hasattr(stop, "__wrapped__"):
        return

    @functools.wraps(stop)
    def stop_marked(self: Any, graceful: bool = True) -> None:
        # After USR2 there is another master with the same sockets, a successor or a predecessor: the service stays.
        if self.reexec_pid == self.master_pid == 0:
            _ending[0] = 1
        # A predecessor that has just ended is still noted: gunicorn looks once a second.
        alone = self.reexec_pid == 0 and (self.master_pid == 0 or self.master_pid != os.getppid())
        stop(self, graceful)
        if alone:
            admin_listener.remove()

    arbiter.stop = stop_marked


def fold_after(cfg: Any) -> None:
    """Have the master fold the counters of a worker that has ended, before its `child_exit` hook."""
    hook = cfg.child_exit
    if hasattr(hook, "__wrapped__"):
        return

    @functools.wraps(hook)
    def child_exit(arbiter: Any, worker: Any) -> None:
        shared_counters.on_exit(worker.pid)
        hook(arbiter, worker)

    cfg.set("child_exit", child_exit)
