"""Workers that are replaced go on serving until their successors do: gunicorn's master asks no worker to go before.

By itself the master asks the old workers to go as soon as it has forked the new ones (HUP, TTOU), and nobody accepts
while the new code is imported and its `on_start` hooks run. So its own methods are wrapped, as `boot` does it: which
workers are too many is still gunicorn's rule (the oldest), when they are asked is decided here. What ends the service
(`Arbiter.stop`) asks all of them at once, as before.
"""

from __future__ import annotations

import functools
import signal
import socket
from collections.abc import Collection, Iterable
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.sock import BaseSocket


class _Reloaded(Exception):  # noqa: N818 - nothing is wrong
    """Ends gunicorn's `reload` where it would wait for the old workers, deaf to signals."""


def leavers(workers: Iterable[Any], wanted: int) -> set[Any]:
    """The workers that can go now, of those that are too many and haven't been asked to go yet.

    Args:
        workers: those that live.
        wanted: how many are to stay: the youngest. For each of these that hasn't started, one of the older that serve
            stays, too. One that hasn't started itself is of no use to anybody.
    """
    staying = sorted((worker for worker in workers if not is_leaving(worker)), key=lambda worker: worker.age)
    split = max(0, len(staying) - wanted)
    surplus, successors = staying[:split], staying[split:]
    unfinished = sum(not has_started(worker) for worker in successors)
    serving = [worker for worker in surplus if has_started(worker)]
    return set(surplus) - set(serving[max(0, len(serving) - unfinished) :])


def has_started(worker: Any) -> bool:
    """Whether a worker accepts. One of another class, which a new configuration names, doesn't report it."""
    report = getattr(worker, "start_report", None)
    return report is None or bool(report.started)


def is_leaving(worker: Any) -> bool:
    """Whether the master has asked a worker to go."""
    return bool(getattr(worker, "asked_to_go", False))


class Succession:
    """Decides in one master when a worker is asked to go."""

    def __init__(self) -> None:
        self._reloading = False
        self._managing = False
        self._leavers: Collection[Any] = ()
        self._newest_old = 0
        """The age of the youngest worker that a HUP replaces; 0: there is none."""

    def install(self, arbiter: type[Arbiter]) -> None:
        """Wrap the methods of gunicorn's master. Doing it twice does nothing."""
        if hasattr(arbiter.manage_workers, "__wrapped__"):
            return
        for name in ("reload", "manage_workers", "kill_worker"):
            setattr(arbiter, name, _wrapped(getattr(arbiter, name), getattr(self, name)))

    def reload(self, original: Any, arbiter: Any) -> None:
        """Start workers with the new configuration beside the old ones, which `manage_workers` asks to go later."""
        newest_old = arbiter.worker_age
        self._reloading = True
        try:
            original(arbiter)
        except _Reloaded:
            self._newest_old = newest_old
        finally:
            self._reloading = False

    def manage_workers(self, original: Any, arbiter: Any) -> None:
        """Start the workers that are missing, and ask those to go that can."""
        if self._reloading:
            raise _Reloaded
        old = [worker for worker in arbiter.WORKERS.values() if worker.age <= self._newest_old]
        if not old:
            self._newest_old = 0
        # gunicorn counts the old ones, too; a successor that has died would be made up for by one of these.
        for _ in range(arbiter.num_workers - (len(arbiter.WORKERS) - len(old)) if old else 0):
            arbiter.spawn_worker()
        self._leavers = leavers(arbiter.WORKERS.values(), arbiter.num_workers)
        self._managing = True
        try:
            original(arbiter)
        finally:
            self._managing = False

    def kill_worker(self, original: Any, arbiter: Any, pid: int, sig: int) -> None:
        """Send a signal to a worker, unless it is asked to go because it is too many and can't go yet, or again."""
        worker = arbiter.WORKERS.get(pid)
        if self._managing and sig == signal.SIGTERM and worker not in self._leavers:
            return
        if worker is not None and sig in (signal.SIGTERM, signal.SIGQUIT):
            worker.asked_to_go = True
        original(arbiter, pid, sig)


def _wrapped(original: Any, method: Any) -> Any:
    @functools.wraps(original)
    def call(self: Any, *arguments: Any) -> Any:
        return method(original, self, *arguments)

    return call


succession = Succession()
"""Of the master that this process is."""


class _Bound(socket.socket):
    """A socket that is bound and doesn't listen, whoever asks it to."""

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing."""


def defer_listening(worker_class: type) -> None:
    """Have gunicorn only bind the listeners of workers with `reuse_port`. Doing it twice does nothing.

    The kernel would give connections to a worker that is still starting, which answers them when it has started: a
    worker listens by itself, see `hypoll.server.server.Server.start`.

    Args:
        worker_class: the workers that do.
    """
    set_options = BaseSocket.set_options
    if hasattr(set_options, "__wrapped__"):
        return

    @functools.wraps(set_options)
    def bind(self: Any, sock: socket.socket, bound: bool = False) -> socket.socket:
        if bound or not self.conf.reuse_port or not issubclass(self.conf.worker_class, worker_class):
            return set_options(self, sock, bound)  # type: ignore[no-any-return]
        made = set_options(self, _Bound(fileno=sock.detach()), bound)
        return socket.socket(fileno=made.detach())

    BaseSocket.set_options = bind
