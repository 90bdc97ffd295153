"""The gunicorn worker: `gunicorn -k hypoll.gunicorn_worker.Worker app:routes`.

It only translates: gunicorn's settings to `Settings`, its signals and hooks to calls, its heartbeat to a timer. The
server is the one of `hypoll app:routes`. All that belongs to a process is made after the fork, in `run`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import ssl
import sys
import traceback
from collections.abc import Callable
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker as BaseWorker

from hypoll import hosting
from hypoll.asgi.errors import StartupError
from hypoll.concurrency.process_end import bound_exit
from hypoll.contracts import Application, HandlerCall, RequestHandler
from hypoll.deploy import admin_listener, start_report, watched
from hypoll.deploy.boot import crossing, early_signals, fold_after, mark_end, reexecute_modules, service_ends
from hypoll.deploy.failures import describe
from hypoll.deploy.gunicorn_config import (
    check,
    command_settings,
    counts_together,
    explicit_settings,
    spelling,
    tls_context,
    translate,
    validate,
    warn_of_ignored,
)
from hypoll.deploy.gunicorn_logging import dump_stacks, forward, is_used, observers_of, share_with, wrap_pre_request
from hypoll.deploy.heartbeat import Heartbeat
from hypoll.deploy.rehearsal import unknown_variables
from hypoll.deploy.succession import defer_listening, succession
from hypoll.loop import IN, TICK, Loop
from hypoll.option import name_options
from hypoll.protocol.messages import Request, Response
from hypoll.runner import Runner, SetupError
from hypoll.server.context import ServerContext
from hypoll.server.server import Server, Status
from hypoll.server.sockets import BindError
from hypoll.settings import Settings
from hypoll.telemetry import shared_counters
from hypoll.telemetry.log_writer import LogWriterError
from hypoll.telemetry.setup import validate_telemetry


class _Quit(KeyboardInterrupt):
    """Ends the loop at once, from within whatever runs on it: no handler may take it for a failure of its own."""


class _Abort(_Quit):
    """The loop is stuck: nothing of the application is run any more."""


class Worker(BaseWorker):
    """Serves a `Routes` object, or a WSGI or ASGI application, in one process of gunicorn's."""

    runner: Runner
    server: Server
    _quitting = False
    _aborting = False

    def __init__(self, age: int, ppid: int, sockets: Any, app: Any, timeout: float, cfg: Any, log: Logger) -> None:
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)  # still in the master
        self.tmp: Heartbeat = Heartbeat(self.tmp)
        self.start_report = start_report.StartReport()
        if "hypoll_given" not in vars(cfg):
            self._note_given(app)
        if counts_together(command_settings(cfg)):
            fold_after(cfg)

    def _note_given(self, app: Any) -> None:
        """Find out which settings were given, once for each configuration, and name those that aren't honoured."""
        self.cfg.hypoll_given = explicit_settings(app, self.cfg)
        warn_of_ignored(self.cfg.hypoll_given, self.log)

    @classmethod
    def setup(cls) -> None:
        """Called by the master when it has loaded this class, before it loads the application."""
        early_signals.hold()
        reexecute_modules()
        mark_end()
        # Whoever has just saved a file wants the new code's answer, or why there is none, and not the old one's.
        succession.install(Arbiter, keeps_old=not watched.is_watched())
        defer_listening(cls)
        if counts_together():
            shared_counters.prepare()

    @property
    def settings(self) -> Settings:
        """Gunicorn's settings as hypoll's. Raises `ValueError` for one that is out of range."""
        return translate(self.cfg, self.cfg.hypoll_given)

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """TLS, if the settings ask for it. Raises `hypoll.server.transport.TLSError`."""
        return tls_context(self.cfg, self.settings)

    @classmethod
    def validate(cls, cfg: Any) -> Settings:
        """Raise `ValueError` or `hypoll.server.transport.TLSError` for what can't be."""
        settings = validate(cfg)
        tls_context(cfg)
        return settings

    @classmethod
    def check_config(cls, cfg: Any, log: Logger) -> None:
        """Called once by the master: refuse what can't work with `RuntimeError`."""
        if command_settings(cfg) is None:  # else the command has done so
            for sentence in unknown_variables(os.environ):
                log.warning("%s", sentence)
        settings = cls.refuse(cfg)
        try:
            admin_listener.make(settings, cfg.env_orig)
        except BindError as error:
            raise RuntimeError(name_options(error, spelling(cfg))) from error
        if settings.metrics or settings.status:
            cls._count_together(cfg, log)

    @classmethod
    def refuse(cls, cfg: Any) -> Settings:
        """Raise `RuntimeError` for what can't work, at the first start and at each HUP. Nothing is changed."""
        check(cfg)
        try:
            settings = cls.validate(cfg)
            validate_telemetry(settings)
        except (ValueError, TypeError, BindError, LogWriterError, ModuleNotFoundError) as error:
            raise RuntimeError(name_options(error, spelling(cfg))) from error
        return settings

    @staticmethod
    def _count_together(cfg: Any, log: Logger) -> None:
        """Give the workers a place to count in, if there is none yet; name what that lacks."""
        late = shared_counters.directory() is None
        try:
            shared_counters.set_up()
            shared_counters.give_to(cfg.uid, cfg.gid)
        except ModuleNotFoundError:
            log.warning("the status page tells of one worker only: all of them need pip install 'hypoll[metrics]'")
        except OSError as error:
            log.warning("metrics tell of one worker only: there is no place to count together: %s", error)
        else:
            if late and cfg.preload_app:
                log.warning(
                    "the preloaded application's own metrics are of one process only: give HYPOLL_METRICS in the "
                    "environment, raw_env sets it too late"
                )

    def init_signals(self) -> None:
        """Set gunicorn's handlers until the loop has its own: TERM is noted, INT and QUIT end the process."""
        with crossing.end():
            super().init_signals()

    def handle_quit(self, sig: int, frame: object) -> None:
        """End the process, before the loop has handlers of its own."""
        self._quitting = True
        super().handle_quit(sig, frame)

    def init_process(self) -> None:
        """Start and serve. The master learns why that can't be."""
        try:
            super().init_process()
        except Exception as error:
            if not self.start_report.started:
                self.start_report.fail(self._reason_of(error))
            raise

    def _reason_of(self, error: Exception) -> str:
        if isinstance(error, SetupError):
            return name_options(error.__cause__ or error, spelling(self.cfg))
        return str(error) if isinstance(error, (AppImportError, StartupError, BindError)) else describe(error)

    def load_wsgi(self) -> None:
        """Load the application. What isn't one halts the master; while reloading, why is what is served."""
        try:
            self.wsgi = service_of(self.app.wsgi(), self.settings, multiprocess=self.cfg.workers > 1)
        except Exception as error:
            if self._quitting:  # whoever imports the application took the exit for its own
                sys.exit(0)
            if self.reloader is None:
                raise
            self.log.exception("the application can't be loaded")
            # What failed to be imported is no module, so the reloader would not watch it.
            files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
            for file in (*files, getattr(error, "filename", None)):
                if file and os.path.exists(file):
                    self.reloader.add_extra_file(file)
            self.wsgi = watched.failing_application("".join(traceback.format_exception(error)))

    def run(self) -> None:
        """Serve until a signal, `max_requests`, or the master's end."""
        # Until the loop turns, failures are such that the next worker would have them, too: the master halts. (gunicorn
        # has set this before, as its own workers start nothing here.)
        self.booted = False
        forward(self.log)
        settings = self.settings
        listener = admin_listener.listener_of(settings)
        self.runner = Runner(
            self.wsgi,
            settings,
            observers=observers_of(self),
            admin_listener=listener,
            admin_waits=start_report.somebody_serves(),
        )
        try:
            self._serve()
        except _Abort:
            bound_exit(1, 0.0)
            sys.exit(1)
        except _Quit:
            pass
        finally:
            faulthandler.disable()
            self.runner.close()
        # Threads of the application must not hold the exit; gunicorn's own hooks have this much at the least.
        bound_exit(0, max(self.server.seconds_left, TICK))

    def _serve(self) -> None:
        runner = self.runner
        alone = bool(self.cfg.reuse_port)
        sockets = [listener.sock for listener in self.sockets]
        self.server = runner.make_server(sockets, shared=not alone, own=alone, tls_context=self.tls_context)
        self._watch_signals(runner.loop)  # first, so that a handler which an on_start hook sets takes none away
        try:
            runner.start()
        except Exception as error:
            watched.report_failure(error)
            raise
        if self.age == 1:
            for sentence in runner.notices:
                self.log.warning("%s", sentence)
        share_with(self.log, self.runner.settings.log_format, say=self.age == 1)
        runner.loop.call_soon(self._begin)
        self._watch_requests(self.server.context)
        try:
            self._send_heartbeat()
            runner.run()
        except _Abort:
            raise
        except _Quit:
            self.server.stop()

    def _begin(self) -> None:
        """The loop turns: what fails from now on isn't sure to fail in the next worker, too."""
        self.booted = True
        self.start_report.mark_started()
        self._wake_master()  # predecessors can go

    def _wake_master(self) -> None:
        """Have the master look at its workers, which it does once a second by itself."""
        if self.ppid == os.getppid():
            with contextlib.suppress(PermissionError):  # with `user` it isn't the master's
                os.kill(self.ppid, signal.SIGCHLD)

    def _watch_requests(self, context: ServerContext) -> None:
        if self.max_requests < sys.maxsize:
            context.wrap(self._counted)
        if is_used(self.cfg, "pre_request"):
            context.wrap(lambda answer: wrap_pre_request(answer, self))

    def _counted(self, answer: RequestHandler) -> RequestHandler:
        """`answer`, that asks for a successor at the last request this worker is for."""

        def count(request: Request) -> Response | bytes | HandlerCall:
            self.nr += 1
            if self.nr == self.max_requests:
                self.log.info("Autorestarting worker: it has answered max_requests.")
                self._retire()
            return answer(request)

        return count

    def _watch_signals(self, loop: Loop) -> None:
        loop.add_signal_handler(signal.SIGTERM, self._begin_shutdown)
        loop.add_signal_handler(signal.SIGINT, self._drain, self._quit)
        loop.add_signal_handler(signal.SIGQUIT, self._drain, self._quit)
        faulthandler.disable()  # it would keep a handler of SIGABRT from before
        loop.add_signal_handler(signal.SIGABRT, self._drain, self._abort)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        dump_stacks(self.log)
        # gunicorn's reloader, in its thread, sets `alive` and writes here.
        loop.register(self.PIPE[0], self._on_pipe, IN)

    def _send_heartbeat(self) -> None:
        """Tell the master that the loop turns, at least every `timeout / 2`; leave when there is no master any more.

        A timer of the loop, never a thread: a loop that is stuck must be seen to be.
        """
        self.server.loop.call_later(min(TICK, self.timeout / 2) or TICK, self._send_heartbeat)
        if self.timeout:
            self.tmp.notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self._drain()
        elif not self.alive:
            self._drain()

    def _begin_shutdown(self) -> None:
        """TERM. Where the service ends, readiness tells so first; a worker that leaves others to serve goes at once."""
        if self.server.status is Status.STOPPED:
            self.alive = False  # it is starting: the first beat sees that
        elif service_ends() and self.reloader is None:
            self.runner.begin_shutdown()
        else:
            self._drain()

    def _drain(self) -> None:
        self.alive = False
        # The reloader's successor serves code that somebody has just changed by hand: nobody is to wait for it.
        if self.reloader is None:
            self.server.drain()
        else:
            self.server.drain_for_reload()

    def _retire(self) -> None:
        """Leave when there is a successor, which the master starts now. While reloading it starts one afterwards."""
        if succession.keeps_old and self.reloader is None:
            self.start_report.retire()
            self._wake_master()
        else:
            self._drain()

    def _quit(self) -> None:
        if self._quitting:
            sys.exit(0)  # the application's on_stop hooks hang
        self._quitting = True
        self._end_now(self.cfg.worker_int)
        raise _Quit

    def _abort(self) -> None:
        if self._aborting:
            raise _Abort
        self._aborting = True
        self._end_now(self.cfg.worker_abort)
        raise _Abort

    def _end_now(self, hook: Callable[[Any], object]) -> None:
        self.alive = False
        try:
            hook(self)
        except Exception:
            self.log.exception("a hook failed")

    def _reopen(self) -> None:
        self.log.reopen_files()
        self.runner.telemetry.reopen()
        dump_stacks(self.log)

    def _on_pipe(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.PIPE[0], 4096):
                pass
        if not self.alive:
            self._drain()


def service_of(application: Any, settings: Settings, multiprocess: bool = False) -> Application:
    """What serves an application. Raises `AppImportError`, at which gunicorn's master halts."""
    try:
        return hosting.service_of(application, settings, multiprocess=multiprocess)
    except TypeError as error:
        raise AppImportError(str(error)) from None
