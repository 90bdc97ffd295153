"""What a HUP changes in gunicorn's master, kept so that it can be put back: what can't be used ends no service.

By itself the master ends with a configuration file that can't be read, a value or hook of it that fails, or an address
that is in use: each is a `SystemExit` or an error in the middle of `Arbiter.reload`, with some of the new values taken.
"""

from __future__ import annotations

import ast
import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Collection
from typing import Any

from gunicorn.config import make_settings

from hypoll.deploy.failures import describe

_CONFIGURED = ("cfg", "worker_class", "address", "_num_workers", "timeout", "proc_name", "LISTENERS", "pidfile")
"""What `Arbiter.setup` and `Arbiter.reload` assign in the master."""

_FILE = "__config__"
"""The module that gunicorn makes of its configuration file."""


_kept: list[socket.socket] = []
"""Listeners of checkpoints. A worker that is forked meanwhile has them, too, and would keep an address for nobody."""


def _close_kept() -> None:
    while _kept:
        _kept.pop().close()


os.register_at_fork(after_in_child=_close_kept)


class Checkpoint:
    """The state of a master that serves. Its listeners stay open until `restore` or `discard`."""

    def __init__(self, arbiter: Any) -> None:
        self._arbiter = arbiter
        self._attributes = {name: value for name in _CONFIGURED if (value := getattr(arbiter, name, None)) is not None}
        self._app = dict(vars(arbiter.app))
        self._environ = dict(os.environ)
        self._directory = os.getcwd()
        self._path = sys.path[:]
        self._module = sys.modules.get(_FILE)
        self._listeners = [(listener, listener.sock.dup()) for listener in arbiter.LISTENERS]
        _kept.extend(kept for _, kept in self._listeners)

    def discard(self) -> None:
        """Forget it: what has come in its place is used."""
        _close_kept()

    def restore(self) -> None:
        """Put everything back. Addresses that were bound since are given up."""
        arbiter = self._arbiter
        former = [listener for listener, _ in self._listeners]
        for listener in arbiter.LISTENERS:
            if listener not in former:
                listener.close()
        for name, value in self._attributes.items():
            setattr(arbiter, name, value)
        vars(arbiter.app).clear()
        vars(arbiter.app).update(self._app)
        for name in set(os.environ) - set(self._environ):
            del os.environ[name]
        os.environ.update(self._environ)
        with contextlib.suppress(OSError):  # it may be gone, and only a relative name would need it
            os.chdir(self._directory)
        sys.path[:] = self._path
        if self._module is not None:
            sys.modules[_FILE] = self._module
        for listener, kept in self._listeners:
            if listener.sock is None:
                listener.sock = kept.dup()
                listener.sock.set_inheritable(True)  # by a second master (USR2)
        self.discard()
        if arbiter.log.cfg is not arbiter.cfg:
            arbiter.log.setup(arbiter.cfg)
        if arbiter.pidfile is not None:
            with contextlib.suppress(OSError, RuntimeError):
                arbiter.pidfile.create(arbiter.pid)


def check_addresses(addresses: Collection[Any], old: Collection[Any]) -> None:
    """Raise `RuntimeError` for an address that the master couldn't bind in place of those it has.

    It binds all of them, if one is another, and closes its old listeners before; it would try for five seconds.

    Args:
        addresses: gunicorn's: a host and a port, a path, or a descriptor.
        old: those that the workers listen on.
    """
    if list(addresses) == list(old):
        return
    for address in addresses:
        if isinstance(address, str):
            directory = os.path.dirname(address) or "."
            if not address.startswith("\0") and not os.access(directory, os.W_OK | os.X_OK):
                raise RuntimeError(f"can't listen on unix:{address}: no socket can be made in {directory}")
        elif isinstance(address, tuple):
            _check_free(address, kept=address in old)


def _check_free(address: tuple[str, int], *, kept: bool) -> None:
    host, port = address
    if kept and port:
        raise RuntimeError(
            f"{host}:{port} can't be kept while other addresses change: the old workers listen there. "
            "Restart the service for that"
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise RuntimeError(f"can't listen on {host}:{port}: {error.strerror or error}") from error


def reason_of(error: BaseException) -> str:
    """Why a configuration can't be used, in one line that names the file, and the line of the fault.

    To be called before the former one is restored.
    """
    # Gunicorn exits while it handles what it has printed.
    cause = error.__context__ if isinstance(error, SystemExit) and error.__context__ is not None else error
    file: str = getattr(sys.modules.get(_FILE), "__file__", None) or ""
    if not file and isinstance(cause, RuntimeError):
        return " ".join(str(cause).split())  # a sentence of its own: the command has no such file
    if isinstance(cause, SyntaxError) or not file:
        return describe(cause)
    text = f"{type(cause).__name__}: {cause}"
    lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if _same(frame.filename, file)]
    if not lines:
        setting, text = _refused_setting(file) or ("", str(cause))
        lines = [_line_of(setting, file)]
    at = f", {file}" + (f" line {lines[-1]}" if lines[-1] else "")
    return " ".join(text.split()) + at


def _same(first: str, second: str) -> bool:
    return os.path.abspath(first) == os.path.abspath(second)


def _refused_setting(file: str) -> tuple[str, str] | None:
    """The first setting of the configuration file that gunicorn doesn't take, and why."""
    settings = make_settings()
    for name, value in vars(sys.modules[_FILE]).items():
        if name in settings:
            try:
                settings[name].set(value)
            except Exception as error:
                return name, f"{name} = {value!r}: {error}"
    return None


def _line_of(name: str, file: str) -> int:
    """Where the file gives a name its value for the last time; 0: it doesn't, or can't be read."""
    with contextlib.suppress(OSError, SyntaxError, ValueError), open(file, encoding="utf-8") as source:
        return max((_assigned_at(node, name) for node in ast.walk(ast.parse(source.read()))), default=0)
    return 0


def _assigned_at(node: ast.AST, name: str) -> int:
    """The line of a node that gives the name its value; 0: it doesn't."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
        return node.lineno
    return node.lineno if isinstance(node, ast.FunctionDef) and node.name == name else 0
