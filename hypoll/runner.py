"""One process, start to end: bind, serve, drain on TERM or INT, stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from types import CodeType
from typing import TYPE_CHECKING, Any, Unpack

from hypoll.app import Routes
from hypoll.concurrency import monkey_patching
from hypoll.concurrency.process_end import Ended, has_terminal
from hypoll.concurrency.watchdog import Watchdog
from hypoll.contracts import Application
from hypoll.hosting import Servable, service_of
from hypoll.loop import Loop
from hypoll.server import endpoint_exchange, stalls
from hypoll.server.admin import admin_server
from hypoll.server.server import Server, Status
from hypoll.settings import ServerOptions, Settings, options, settings_of, variable
from hypoll.telemetry import error_log
from hypoll.telemetry.log_sharing import share_format
from hypoll.telemetry.log_writer import LogWriterError, occupy_standard_descriptors
from hypoll.telemetry.observer import Observer
from hypoll.telemetry.setup import Telemetry
from hypoll.version import __version__
from hypoll.web.body_limits import check_body_limits, unreachable_limits
from hypoll.web.overlaps import fallen_back, hidden_routes

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge

log = logging.getLogger("hypoll.error")


class SetupError(Exception):
    """What is asked for can't be had, as a log file, metrics, or a server without epoll; the message says why."""


def run(
    routes: Servable,
    bind: str | tuple[str, ...] = "127.0.0.1:8000",
    *,
    on_start: Callable[[Server], Any] | None = None,
    **settings: Unpack[ServerOptions],
) -> None:
    """Serve `routes`, or a WSGI or ASGI application, until TERM or INT, from a script's main thread.

    A thread of the application that is no daemon, or a call of `asyncio.to_thread` that doesn't return, holds the end
    of the script, as of any; that of the command `hypoll` it doesn't, beyond `graceful_timeout`.

    The first TERM or INT drains: requests under way are finished for up to `graceful_timeout` seconds. An INT after it
    stops at once. The server's own lines go to standard error; those of the application, too, unless the script has set
    up logging. Raises `BindError` when an
    address can't be listened on, `hypoll.asgi.errors.StartupError` when an ASGI application says that it can't start,
    `SetupError` when a log can't be written or metrics not be had, `ValueError` and
    `TypeError` for settings.

    Args:
        routes: the application: `Routes`, or one of WSGI or ASGI.
        bind: one address or several: `HOST:PORT`, `[::1]:PORT`, `unix:/PATH`, `fd://N`.
        settings: the fields of `Settings`. Variables as `HYPOLL_BACKLOG` are the command's: a warning names them.
        on_start: called with the server when it accepts.
    """
    chosen = settings_of(bind, settings)
    service = service_of(routes, chosen)
    occupy_standard_descriptors()
    if logging.getLogger().hasHandlers():
        error_log.set_up_server("info", error_log.make_handler(chosen.log_format))
    else:
        error_log.set_up("info", chosen.log_format)

    ignored = [name for option in options() if os.environ.get(name := variable(option.name))]
    if ignored:
        log.warning("hypoll.run doesn't read %s: give it arguments, or run the command hypoll", ", ".join(ignored))

    def announce(server: Server) -> None:
        log.info("hypoll %s serves on %s, pid %d", __version__, ", ".join(server.addresses), os.getpid())
        if on_start is not None:
            on_start(server)

    serve(service, chosen, announce)
    log.info("stopped")


def serve(routes: Servable, settings: Settings, on_start: Callable[[Server], Any] | None = None) -> float:
    """`run` for ready `Settings`. Gives the seconds that the process's exit may take: what a drain has left over."""
    runner = Runner(routes, settings)
    try:
        return _serve(runner, on_start)
    except KeyboardInterrupt:  # `Ended`, or an INT that came while that was taken up
        log.info("asked to end before it served")
        return 0.0
    finally:
        _finish(runner.close)


def _serve(runner: Runner, on_start: Callable[[Server], Any] | None) -> float:
    server = runner.make_server()
    server.drain_advice = "; interrupt again to stop at once"
    stopping = _StopSignals(server)
    _watch_signals(runner, stopping)
    left = 0.0
    try:
        runner.start()
        for sentence in runner.notices:
            log.warning("%s", sentence)
        handler = error_log.server_handler()
        if handler is not None:
            share_format(handler, runner.settings.log_format)
        stopping.serving = True
        if on_start is not None:
            on_start(server)
        runner.run()
        left = server.seconds_left
    except _StopNow:
        log.warning("interrupted again: closing %d connections", len(server.connections))
    finally:
        _finish(server.stop)
    return left


def _watch_signals(runner: Runner, stopping: _StopSignals) -> None:
    loop = runner.loop
    # Before the start: what comes in an on_start hook is no less asked for.
    loop.add_signal_handler(signal.SIGTERM, runner.begin_shutdown, stopping.on_term)
    loop.add_signal_handler(signal.SIGINT, runner.drain_at_once, stopping.on_interrupt)
    loop.add_signal_handler(signal.SIGUSR1, runner.telemetry.reopen)
    # Signals that a gunicorn master acts on; the kernel's default would end the process with its requests.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else: nohup, or the script's own
        had_terminal = has_terminal()
        loop.add_signal_handler(signal.SIGHUP, lambda: _on_hangup(runner, had_terminal), yields=True)
    if signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
        loop.add_signal_handler(signal.SIGUSR2, lambda: _refuse("USR2", "make room for a successor"), yields=True)


def _on_hangup(runner: Runner, had_terminal: bool) -> None:
    if had_terminal and not has_terminal():
        log.info("the terminal is gone")
        runner.begin_shutdown()
    else:
        _refuse("HUP", "reload its application")


def _refuse(name: str, what: str) -> None:
    log.warning("%s: one process can't %s, `hypoll --workers 1` can; serving on", name, what)


def _finish(call: Callable[[], object]) -> None:
    """Finish, unless that takes too long for who interrupts once more."""
    try:
        call()
    except _StopNow:
        log.warning("interrupted again: what was still to be done is left")


def _no_route(path: str) -> None:
    """Of applications whose routes are their framework's."""


def _fit_service(application: Servable, settings: Settings) -> Application:
    """What serves the application. Raises `SetupError` where it can't, with these settings or in this process."""
    service = service_of(application, settings)
    fault = monkey_patching.find_fault(threads=service.uses_threads)
    if fault:
        raise SetupError(fault)
    if monkey_patching.has_patched_threads():
        log.warning("%s", monkey_patching.THREADS_ADVICE)
    try:
        service.check()
        if isinstance(service, Routes):
            check_body_limits(service.table(), settings)
    except ValueError as error:
        raise SetupError(str(error)) from error
    return service


class Runner:
    """What turns, and what is around the application: a `Loop`, run by itself, or by asyncio where the application has
    anything async; the observers and the server's own paths that the settings ask for.

    Raises `SetupError`.

    Args:
        observers: further ones.
        admin_listener: the socket of `admin_bind`, if the master has made it for all workers.
        admin_waits: whether another process answers there already: this one doesn't before the application has started.
    """

    def __init__(
        self,
        application: Servable,
        settings: Settings,
        *,
        observers: Iterable[Observer] = (),
        admin_listener: socket.socket | None = None,
        admin_waits: bool = False,
    ) -> None:
        service = _fit_service(application, settings)
        self.settings = settings
        self.loop = Loop()
        try:
            checks = service.ready_checks
            self.telemetry = Telemetry(
                settings, self.loop, checks=checks, extra_observers=observers, kinds=endpoint_exchange.KINDS
            )
        except (LogWriterError, ModuleNotFoundError, ValueError) as error:
            self.loop.close()
            raise SetupError(str(error)) from error
        paths = list(self.telemetry.endpoints)
        find = service.route_at if isinstance(service, Routes) else _no_route
        self.application = self.telemetry.wrap(service, fallen_back(paths, find))
        self.notices = [] if settings.admin_bind else hidden_routes(paths, find)
        """What is served and most likely not meant so: a sentence each."""
        if isinstance(service, Routes):
            self.notices += unreachable_limits(service.table(), settings)
        self.asyncio_bridge: AsyncioBridge | None = None
        self._rests: frozenset[CodeType] = frozenset()
        if service.uses_asyncio:
            from hypoll.concurrency.asyncio_bridge import IDLE_CODE, AsyncioBridge  # loads asyncio

            self._rests = IDLE_CODE
            self.asyncio_bridge = AsyncioBridge(self.loop, uvloop=settings.uvloop, keeps_others=service.keeps_tasks)
        self._server: Server | None = None
        self.admin: Server | None = None
        """What serves the endpoints, where they have a listener of their own."""
        endpoints = self.telemetry.admin_application()
        if endpoints is not None:
            listeners = None if admin_listener is None else [admin_listener]
            self.admin = admin_server(endpoints, settings, self.loop, listeners, self.loop.stop)
        self._admin_waits = admin_waits
        self._shutting_down = False

    def make_server(
        self,
        listeners: list[socket.socket] | None = None,
        *,
        shared: bool = False,
        own: bool = False,
        tls_context: ssl.SSLContext | None = None,
    ) -> Server:
        """The server of the application on this loop, which it stops when it has stopped.

        Args:
            listeners: sockets to serve instead of binding.
            shared: whether other processes serve them, too.
            own: whether they end with this process.
            tls_context: TLS for all of them, in place of what the settings ask for.
        """
        self._server = Server(
            self.application,
            self.settings,
            self.loop,
            asyncio_bridge=self.asyncio_bridge,
            listeners=listeners,
            shared=shared,
            own=own,
            observers=self.telemetry.observers,
            tls_context=tls_context,
            on_stopped=self._on_stopped,
        )
        return self._server

    def _on_stopped(self) -> None:
        """The application's server has stopped: end the other, if there is one, and then the loop."""
        if self.admin is None or self.admin.status is Status.STOPPED:
            self.loop.stop()
        else:
            self.admin.drain_at_once()

    def start(self) -> Server:
        """Start the server, and say that it is ready. Raises as `Server.start` does."""
        server = self._server or self.make_server()
        if self.admin is not None and not self._admin_waits:
            self.admin.start()  # first: where it can't listen, the application needn't start
        try:
            server.start()
            if self.admin is not None and self._admin_waits:
                self.admin.start()
        except BaseException:
            if self.admin is not None:
                self.admin.stop()
            raise
        self.telemetry.health.start()
        if self.admin is not None:
            there = [name for name in ("metrics", "health", "status") if getattr(self.settings, name)]
            log.info("%s: on %s", ", ".join(there), ", ".join(self.admin.addresses))
        return server

    def begin_shutdown(self) -> None:
        """Drain, after `drain_wait` in which readiness tells that no more is wanted; at once when asked again."""
        assert self._server is not None
        self.telemetry.health.drain()
        if self._shutting_down or not self.settings.drain_wait:
            self._server.drain()
        else:
            self._shutting_down = True
            log.info("draining in %g s: readiness tells already", self.settings.drain_wait)
            self.loop.call_later(self.settings.drain_wait, self._server.drain)

    def drain_at_once(self) -> None:
        """Drain without waiting for who has asked for nothing; readiness tells that no more is wanted."""
        assert self._server is not None
        self.telemetry.health.drain()
        self._server.drain_at_once()

    def run(self) -> None:
        """Turn until the loop is stopped; what holds it meanwhile is named in the log."""
        limit = self.settings.slow_callback
        watchdog = None
        if limit:
            what = partial(stalls.describe, self.application)
            watchdog = Watchdog(self.loop, limit, what, self._rests, stalls.advise, lambda: not self._is_serving)
        if watchdog is not None:
            watchdog.start()
        try:
            if self.asyncio_bridge is None:
                self.loop.run()
            else:
                self.asyncio_bridge.run()
        finally:
            if watchdog is not None:
                watchdog.stop()

    @property
    def _is_serving(self) -> bool:
        return self._server is None or self._server.status is Status.SERVING

    def close(self) -> None:
        """Give back what the logs and both loops hold."""
        try:
            if self.asyncio_bridge is not None:
                self.asyncio_bridge.close()
        finally:
            if self.admin is not None:
                self.admin.stop()
            self.telemetry.close()
            self.loop.close()


class _StopNow(KeyboardInterrupt):
    """Ends the loop from within whatever runs on it."""


class _StopSignals:
    """TERM and the first INT drain; an INT after either ends the loop, even in the middle of a handler that hangs.

    Before the server serves, each ends the start, in the middle of whatever it is at.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._asked = False
        self.serving = False

    def on_term(self) -> None:
        if not self.serving and not self._asked:
            self._asked = True
            raise Ended
        self._asked = True

    def on_interrupt(self) -> None:
        if self._asked or self.server.status is Status.DRAINING:
            self.server.loop.stop()  # for a handler that catches everything: then its turn is the last
            raise _StopNow
        self.on_term()
