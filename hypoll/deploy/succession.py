"""Workers that are replaced go on serving until their successors do: gunicorn's master asks no worker to go before.

If the successors can't start, the old ones are kept. A worker that has answered `max_requests` asks for a successor,
and serves until it is there.

By itself the master asks the old workers to go as soon as it has forked the new ones (HUP, TTOU), and nobody accepts
while the new code is imported and its `on_start` hooks run. So its own methods are wrapped, as `boot` does it: which
workers are too many is still gunicorn's rule (the oldest), when they are asked is decided here. What ends the service
(`Arbiter.stop`) asks all of them at once, as before.

What can't start ends the service with gunicorn's exit code and the reason in one line, unless others serve: a boot that
fails again and again costs the same, whoever is there, so it is tried seldom.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.sock import BaseSocket

from hypoll.deploy.checkpoint import Checkpoint, check_addresses, reason_of

RETRY_PAUSE = 10.0
"""Seconds in which no worker is started after one that couldn't start."""


START_TIME = 600.0
"""Seconds that a successor may take to start while old workers wait for it. (gunicorn's timeout counts from the first
heartbeat on: a worker without elders may take any time.)"""


class _Reloaded(Exception):  # noqa: N818 - nothing is wrong
    """Ends gunicorn's `reload` where it would wait for the old workers, deaf to signals."""


def leavers(workers: Iterable[Any], wanted: int) -> set[Any]:
    """The workers that can go now, of those that are too many and haven't been asked to go yet.

    Args:
        workers: those that live.
        wanted: how many are to stay: the youngest, and of those that retire none before the others. For each of these
            that hasn't started, one of the older that serve stays, too. One that hasn't started itself is of no use to
            anybody.
    """
    kept = (worker for worker in workers if not is_leaving(worker))
    staying = sorted(kept, key=lambda worker: (not is_retiring(worker), worker.age))
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


def is_retiring(worker: Any) -> bool:
    """Whether a worker serves only until it has a successor (`max_requests`)."""
    report = getattr(worker, "start_report", None)
    return report is not None and bool(report.retiring)


class Succession:
    """Decides in one master when a worker is asked to go."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, is_gone: Callable[[int], bool] | None = None
    ) -> None:
        self._clock = clock
        self._is_gone = is_gone or _is_gone
        self.keeps_old = False
        """Whether workers serve until their successors do."""
        self._reloading = False
        self._managing = False
        self._ending = False
        self._complete = False
        """Whether all workers that are wanted have started once."""
        self._reached = 0
        """How many workers that were wanted have served together."""
        self.replacing = False
        """Whether workers that are made now stand for others that have ended."""
        self._leavers: Collection[Any] = ()
        self._newest_old = 0
        """The age of the youngest worker that a HUP replaces; 0: there is none."""
        self._retry_at = 0.0

    def install(self, arbiter: type[Arbiter], *, keeps_old: bool = True) -> None:
        """Wrap the methods of gunicorn's master. Doing it twice does nothing.

        Args:
            arbiter: the master's class.
            keeps_old: whether old workers serve until the new ones do, and when those can't start.
        """
        if hasattr(arbiter.reap_workers, "__wrapped__"):
            return
        self.keeps_old = keeps_old
        always = {"stop": self.stop, "reap_workers": self.reap_workers}
        keeping = {
            "reload": self.reload,
            "setup": self.setup,
            "manage_workers": self.manage_workers,
            "kill_worker": self.kill_worker,
        }
        for name, method in (always | (keeping if keeps_old else {})).items():
            setattr(arbiter, name, _wrapped(getattr(arbiter, name), method))

    def reload(self, original: Any, arbiter: Any) -> None:
        """Start workers with the new configuration beside the old ones, which `manage_workers` asks to go later."""
        newest_old = arbiter.worker_age
        self._retry_at = 0.0
        self.replacing = False
        master = os.getpid()
        before = Checkpoint(arbiter)
        self._reloading = True
        try:
            original(arbiter)
        except _Reloaded:
            self._newest_old = newest_old
            before.discard()
        except (Exception, SystemExit) as error:
            if os.getpid() != master:
                raise  # a new worker ends
            self._keep_configuration(arbiter, before, newest_old, reason_of(error))
        finally:
            self._reloading = False

    def setup(self, original: Any, arbiter: Any, app: Any) -> None:
        """Take a configuration over; while serving, only one that can be used. Raises what says why it can't."""
        old = arbiter.address if self._reloading else ()
        original(arbiter, app)
        if self._reloading:
            check_addresses(arbiter.cfg.address, old)
            check = getattr(arbiter.worker_class, "refuse", None)
            if check is not None:
                check(arbiter.cfg)

    def _keep_configuration(self, arbiter: Any, before: Checkpoint, newest_old: int, reason: str) -> None:
        """Go on with the configuration and the workers from before. Some of the new ones may have been made."""
        before.restore()
        for pid, worker in list(arbiter.WORKERS.items()):
            if worker.age > newest_old:
                arbiter.kill_worker(pid, signal.SIGTERM)
        arbiter.log.error(
            "the new configuration can't be used, the old one and its workers serve on until another HUP: %s", reason
        )

    def manage_workers(self, original: Any, arbiter: Any) -> None:
        """Start the workers that are missing, and ask those to go that can."""
        if self._reloading:
            raise _Reloaded
        workers = arbiter.WORKERS
        missing = arbiter.num_workers - (len(workers) - len(self._old(arbiter)))
        if missing > 0 and self._clock() < self._retry_at and _serving(workers.values()):
            return
        self.replacing = not self._old(arbiter) and arbiter.num_workers <= self._reached
        if self._old(arbiter):
            # gunicorn counts the old ones, too; a successor that has died would be made up for by one of these.
            for _ in range(missing):
                arbiter.spawn_worker()
        else:
            self._newest_old = 0
            self._succeed_retiring(arbiter)
        self._end_late_successors(arbiter)
        if len(_serving(workers.values())) >= arbiter.num_workers:
            self._complete, self._reached = True, arbiter.num_workers
        self._leavers = leavers(workers.values(), arbiter.num_workers)
        self._managing = True
        try:
            original(arbiter)
            for worker in self._leavers:  # gunicorn asks the oldest
                if not is_leaving(worker):
                    arbiter.kill_worker(worker.pid, signal.SIGTERM)
        finally:
            self._managing = False

    def _succeed_retiring(self, arbiter: Any) -> None:
        """Start a successor of one that retires, the others wait for their turn: there is one worker more at most."""
        workers = arbiter.WORKERS
        retiring = any(is_retiring(worker) and not is_leaving(worker) for worker in workers.values())
        if retiring and len(workers) == arbiter.num_workers and self._clock() >= self._retry_at:
            replacing, self.replacing = self.replacing, False
            arbiter.spawn_worker()
            self.replacing = replacing

    def kill_worker(self, original: Any, arbiter: Any, pid: int, sig: int) -> None:
        """Send a signal to a worker, unless it is asked to go because it is too many and can't go yet, or again."""
        worker = arbiter.WORKERS.get(pid)
        if self._managing and sig == signal.SIGTERM and worker not in self._leavers:
            return
        if worker is not None and sig in (signal.SIGTERM, signal.SIGQUIT):
            worker.asked_to_go = True
        original(arbiter, pid, sig)

    def stop(self, original: Any, arbiter: Any, graceful: bool = True) -> None:
        """End the service. How those end that are still starting is no news."""
        self._ending = True
        original(arbiter, graceful)

    def reap_workers(self, original: Any, arbiter: Any) -> None:
        """Wait for the workers that have ended. Raises `HaltServer` with the reason when that is the service's end."""
        while True:
            before = dict(arbiter.WORKERS)
            try:
                original(arbiter)
            except HaltServer as halt:
                if not self._ending:
                    self._on_failed_start(arbiter, self._gone(before, arbiter), halt)
            else:
                break  # else there may be more that have ended
        failed = [worker for worker in self._gone(before, arbiter) if not (has_started(worker) or is_leaving(worker))]
        if failed and self._old(arbiter) and not self._ending:  # by a signal: killed for its silence, or out of memory
            self._keep_serving(arbiter, f"worker {failed[0].pid} has ended before it had started")

    def _on_failed_start(self, arbiter: Any, gone: list[Any], halt: HaltServer) -> None:
        reasons = [worker.start_report.failure for worker in gone if getattr(worker, "start_report", None) is not None]
        reason = next(filter(None, reasons), halt.reason)
        if not self._complete or not _serving(arbiter.WORKERS.values()):
            raise HaltServer(reason, halt.exit_status) from None
        for worker in gone:
            _finish(arbiter, worker)
        if not all(map(is_leaving, gone)):
            self._keep_serving(arbiter, reason)

    def _keep_serving(self, arbiter: Any, reason: str) -> None:
        """Have those serve on that do, though a worker can't start. Old ones stay where there is no new one."""
        self._retry_at = self._clock() + RETRY_PAUSE
        old = self._old(arbiter)
        new = {pid: worker for pid, worker in arbiter.WORKERS.items() if worker not in old}
        if not _serving(old) or _serving(new.values()):
            arbiter.log.error("a worker can't start, the others serve on and %g s pass: %s", RETRY_PAUSE, reason)
            return
        self._newest_old = 0
        for pid, worker in new.items():
            if not is_leaving(worker):
                arbiter.kill_worker(pid, signal.SIGTERM)
        arbiter.log.error("the new workers can't start, the old ones serve on until another HUP: %s", reason)

    def _end_late_successors(self, arbiter: Any) -> None:
        """Abort what will never start, it seems; what survives that is killed at the next look.

        One that was asked to go looks for that when it has started, and is counted as a worker until it has ended.
        """
        elders = self._old(arbiter) or any(map(is_retiring, arbiter.WORKERS.values()))
        for pid, worker in list(arbiter.WORKERS.items()):
            if has_started(worker) or self._clock() - worker.start_report.made_at < START_TIME:
                continue
            if not elders and not is_leaving(worker):
                continue
            if not worker.aborted:
                arbiter.log.critical("worker %d hasn't started in %g s: ending it", pid, START_TIME)
            arbiter.kill_worker(pid, signal.SIGKILL if worker.aborted else signal.SIGABRT)
            worker.aborted = True

    def _gone(self, before: dict[int, Any], arbiter: Any) -> list[Any]:
        """The workers that have ended. (gunicorn 25 halts before it forgets the one that it halts for.)"""
        for pid in before:
            if pid in arbiter.WORKERS and self._is_gone(pid):
                del arbiter.WORKERS[pid]
        return [worker for pid, worker in before.items() if pid not in arbiter.WORKERS]

    def _old(self, arbiter: Any) -> list[Any]:
        return [worker for worker in arbiter.WORKERS.values() if worker.age <= self._newest_old]


def _serving(workers: Iterable[Any]) -> list[Any]:
    """Those that have started and weren't asked to go."""
    return [worker for worker in workers if has_started(worker) and not is_leaving(worker)]


def _is_gone(pid: int) -> bool:
    """Whether there is no such process any more; one that nobody has waited for yet is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # with `user` it isn't the master's
    return False


def _finish(arbiter: Any, worker: Any) -> None:
    """Do for a worker that has ended what gunicorn doesn't where it means to halt. Doing it twice does nothing."""
    try:
        worker.tmp.fileno()
    except ValueError:
        return  # it is closed: gunicorn has done so
    worker.tmp.close()
    arbiter.cfg.child_exit(arbiter, worker)


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

    One that stands for another that has ended listens at once, since there may be nobody else: where all reach
    `max_requests` together, or the only one was killed.

    Args:
        worker_class: the workers that do.
    """
    set_options = BaseSocket.set_options
    if hasattr(set_options, "__wrapped__"):
        return

    @functools.wraps(set_options)
    def bind(self: Any, sock: socket.socket, bound: bool = False) -> socket.socket:
        deferred = self.conf.reuse_port and not succession.replacing
        if bound or not deferred or not issubclass(self.conf.worker_class, worker_class):
            return set_options(self, sock, bound)  # type: ignore[no-any-return]
        made = set_options(self, _Bound(fileno=sock.detach()), bound)
        return socket.socket(fileno=made.detach())

    BaseSocket.set_options = bind
