"""`hypoll --workers N`: several processes under gunicorn's arbiter. There is no process manager of our own."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import gunicorn.sock
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger
from gunicorn.sock import TCP6Socket

from hypoll.deploy.cpus import cpu_count, least_used, pin
from hypoll.deploy.failures import exit_code_of
from hypoll.deploy.gunicorn_config import counts_together
from hypoll.deploy.reload import command_of
from hypoll.hosting import Servable
from hypoll.server.sockets import listen, resolved, unix_paths
from hypoll.server.transport import context_of
from hypoll.settings import Processes, Settings
from hypoll.telemetry import shared_counters
from hypoll.telemetry.error_log import LogWriterHandler, QuietStreamHandler, make_handler

_INHERITED = "127.0.0.1:0"
"""An address that gunicorn doesn't bind, since it has listeners: beside them one that is named by its descriptor, as
fd://3, would be taken twice."""

WORKER = "hypoll.gunicorn_worker.Worker"
"""Gunicorn imports it by this name, as for anybody: it stands above this module."""

MEMORY = "/dev/shm"  # noqa: S108 - the file system in memory of every Linux


class ClusterLogger(Logger):
    """Gunicorn's log, written as the error log of one process is."""

    form: str

    def setup(self, cfg: Any) -> None:
        """Let gunicorn set it up, and take its stream's place."""
        super().setup(cfg)
        for handler in self.error_log.handlers[:]:
            if type(handler) is logging.StreamHandler:
                self.error_log.removeHandler(handler)
        if not any(isinstance(handler, _OURS) for handler in self.error_log.handlers):
            self.error_log.addHandler(make_handler(self.form, pids=True))


_OURS = (LogWriterHandler, QuietStreamHandler)


class _Arbiter(Arbiter):
    """Gunicorn's, which removes the paths of unix sockets when it ends. paths: those that are the command's own."""

    paths: list[str]

    def stop(self, graceful: bool = True) -> None:
        """Leave the path of a socket that was inherited: whoever made it goes on listening there."""
        for listener in self.LISTENERS[:]:
            name = listener.getsockname()
            if isinstance(name, str) and name not in self.paths:
                listener.close()
                self.LISTENERS.remove(listener)
        super().stop(graceful)


class _TCP6Socket(TCP6Socket):
    """Gunicorn's, for IPv6 alone as `hypoll.server.sockets` has it: where each worker binds its own, gunicorn does
    that.
    """

    def bind(self, sock: socket.socket) -> None:
        """Bind, for IPv6 alone."""
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().bind(sock)


class _Cluster(BaseApplication):
    """What gunicorn's arbiter runs."""

    def __init__(
        self,
        load: Callable[[], Servable],
        settings: Settings,
        options: dict[str, Any],
        paths: list[str],
    ) -> None:
        self._load = load
        self._settings = settings
        self._options = options
        self._paths = paths
        super().__init__(prog="hypoll")

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)
        # What workers are set by: all that counts was given to the command.
        self.cfg.hypoll_command = self._settings
        self.cfg.hypoll_given = frozenset()

    def load(self) -> Servable:
        return self._load()

    def run(self) -> None:
        if counts_together(self._settings):
            shared_counters.prepare()
        try:
            arbiter = _Arbiter(self)
            arbiter.paths = self._paths
            # What USR2 executes. Gunicorn would give __main__.py by its path, whose directory then hides http and more.
            arbiter.START_CTX["args"] = command_of(sys.argv[1:])
            arbiter.run()
        except RuntimeError as error:
            sys.stderr.write(f"Error: {error}\n")
            raise SystemExit(exit_code_of(error.__cause__ or error)) from None


def serve(
    name: str,
    load: Callable[[], Servable],
    settings: Settings,
    processes: Processes,
    log_level: str,
) -> None:
    """Serve with workers until TERM or INT; ends in `SystemExit`, as gunicorn does.

    Raises `hypoll.server.sockets.BindError`.

    Args:
        settings: the options of the server.
        processes: the options of its processes.
        log_level: of the error log.
        name: of the application, for the processes' titles.
        load: imports the application, in each worker. What it raises halts the master.
    """
    gunicorn.sock.TCP6Socket = _TCP6Socket
    context_of(settings)  # each worker makes its own; what can't be used is reported before there are any
    options = {
        "default_proc_name": name,
        "bind": bound(settings),
        "backlog": settings.backlog,
        "reuse_port": settings.reuse_port,
        "workers": cpu_count() if processes.workers == "auto" else processes.workers,
        "worker_class": WORKER,
        "certfile": settings.certfile or None,
        "keyfile": settings.keyfile or None,
        "timeout": processes.worker_timeout,
        "graceful_timeout": math.ceil(settings.graceful_timeout + settings.drain_wait),
        "max_requests": processes.max_requests,
        "max_requests_jitter": processes.max_requests_jitter,
        "loglevel": log_level,
        "logger_class": type("log", (ClusterLogger,), {"form": settings.log_format}),
        # The workers' heartbeats are files: a slow disk would hold up the loop (and may be read-only).
        "worker_tmp_dir": MEMORY if os.access(MEMORY, os.W_OK) else None,
        "pre_fork": _assign_cpu if processes.cpu_affinity == "auto" else None,
        "post_fork": _go_to_cpu if processes.cpu_affinity == "auto" else None,
        # A socket in the user's directory, of which every cluster would have the same.
        "control_socket_disable": True,
    }
    given = {name: value for name, value in options.items() if value is not None}
    _Cluster(_reporting_failures(load), settings, given, unix_paths(settings.bind)).run()


def bound(settings: Settings) -> list[str]:
    """The addresses for gunicorn: of listeners bound here, so that what can't be bound is reported at once and clearly.

    Those of SO_REUSEPORT each worker binds by itself. The successor of another master (USR2) inherits that one's.
    """
    if "GUNICORN_FD" in os.environ:
        return [_INHERITED]
    if settings.reuse_port:
        return [address if address.startswith(("unix:", "fd://")) else resolved(address) for address in settings.bind]
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        del os.environ["LISTEN_PID"]  # the command says where to listen, and gunicorn would listen there instead
    return [f"fd://{listen(address, settings).detach()}" for address in settings.bind]


def addresses_of(settings: Settings) -> Config:
    """A configuration of gunicorn's with the addresses that the workers are to bind with `reuse_port`."""
    cfg = Config()
    cfg.set("bind", bound(settings))
    return cfg


def _reporting_failures(load: Callable[[], Servable]) -> Callable[[], Servable]:
    """`load`, telling gunicorn that it is the application that can't be loaded."""

    def load_or_tell() -> Servable:
        try:
            return load()
        except Exception as error:
            raise AppImportError(getattr(error, "message", error)) from error

    return load_or_tell


def _assign_cpu(arbiter: Any, worker: Any) -> None:
    taken = [cpu for other in arbiter.WORKERS.values() if (cpu := getattr(other, "cpu", None)) is not None]
    worker.cpu = least_used(os.sched_getaffinity(0), taken)


def _go_to_cpu(arbiter: Any, worker: Any) -> None:
    """Go to the worker's CPU before the application is loaded: memory is local to the CPU that touches it first."""
    pin(worker.cpu, [listener.sock for listener in worker.sockets] if worker.cfg.reuse_port else ())
