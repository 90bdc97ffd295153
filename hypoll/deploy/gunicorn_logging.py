"""What gunicorn's logger and hooks get: requests in gunicorn's terms, hypoll's log, the stacks of a stuck loop."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import sys
from datetime import timedelta
from typing import Any

from gunicorn.glogging import Logger

from hypoll.concurrency.forks import keep_out
from hypoll.contracts import HandlerCall, RequestHandler
from hypoll.protocol.messages import FAILURES, JSON, Request, Response, reason
from hypoll.telemetry import error_log
from hypoll.telemetry.log_fields import REQUEST_FIELDS, STACK, RequestFields, extra_fields
from hypoll.telemetry.log_sharing import share_format
from hypoll.telemetry.observer import Observer, Record
from hypoll.version import __version__
from hypoll.web.results import failure
from hypoll.wsgi.environ import Environs, unambiguous

log = logging.getLogger("hypoll.error")


class Forward(logging.Handler):
    """Hands records to gunicorn's logger by its own methods: its subclasses count them there."""

    def __init__(self, log: Logger) -> None:
        super().__init__()
        self._log = log
        # Gunicorn's own formats have the message alone.
        self._has_fields = isinstance(formatter_of(log), (error_log.TextFormatter, error_log.JsonFormatter))
        self.addFilter(RequestFields())

    def emit(self, record: logging.LogRecord) -> None:
        """Log it as gunicorn would."""
        if record.name.startswith("gunicorn."):
            return  # from a logger of its own, which a configuration lets give to the root's handlers, too
        name = "exception" if record.exc_info and record.levelno >= logging.ERROR else record.levelname.lower()
        write = getattr(self._log, name, self._log.info)
        details: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        extra = {name: getattr(record, name) for name in (*REQUEST_FIELDS, STACK) if hasattr(record, name)}
        extra |= extra_fields(record)
        if extra:
            details["extra"] = extra
        message, stack = error_log.message_of(record), error_log.stack_of(record)
        text = message if self._has_fields else message + error_log.fields_text(record)
        write("%s", f"{text}\n{stack}" if stack else text, **details)


def forward(log: Logger) -> None:
    """Let hypoll's log go to gunicorn's, from its level on; one that a `logconfig` names goes where that says.

    The application's own configuration takes neither hypoll's lines from gunicorn's log, nor gunicorn's own. An
    application that has none has its lines in gunicorn's log, too.
    """
    handler, root = Forward(log), logging.getLogger()
    error_log.set_up_server(logging.getLevelName(_level(log)), handler)
    if not root.handlers:
        root.addHandler(handler)
        root.setLevel(_level(log))
    for logger in (getattr(log, "error_log", None), getattr(log, "access_log", None)):
        if isinstance(logger, logging.Logger):
            error_log.keep(logger)


def formatter_of(log: Logger) -> logging.Formatter | None:
    """What gunicorn's error log is written by."""
    handlers = getattr(log, "error_log", logging.root).handlers
    return handlers[0].formatter if handlers else None


def share_with(log: Logger, form: str, say: bool) -> None:
    """Let the server's lines and the application's have one format, where the server's is hypoll's own."""
    for handler in getattr(log, "error_log", logging.root).handlers:
        if isinstance(handler.formatter, (error_log.TextFormatter, error_log.JsonFormatter)):
            share_format(handler, form, say)


def _level(log: Logger) -> int:
    level: int = Logger.LOG_LEVELS.get(log.cfg.loglevel.lower(), logging.INFO)
    return level


def dump_stacks(log: Logger) -> None:
    """Write every thread's stack to the error log when SIGABRT or a fault such as SIGSEGV comes.

    To be called when SIGABRT has its handler, and again when the log was reopened. The write is made in C, so it shows
    a thread that is stuck in C, too, which no handler in Python would interrupt.
    """
    # A stream that is closed, or has no descriptor: no stacks then.
    with contextlib.suppress(ValueError, OSError, AttributeError, RuntimeError):
        faulthandler.enable(_stream(log), all_threads=True)


def _stream(log: Logger) -> Any:
    for handler in getattr(log, "error_log", logging.root).handlers:
        stream = getattr(handler, "stream", None)
        if stream is not None:
            return stream
    return sys.stderr


class HookRequest:
    """A request as gunicorn's hooks know it. `request` is hypoll's own."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.method = request.method or "-"
        self.uri = request.target.decode("latin-1") or "-"
        self.path = request.raw_path
        self.query = request.query_string
        self.version = (1, request.minor)
        self.scheme = request.scheme
        self.remote_addr = request.client
        # As gunicorn's `header_map` has it by default.
        self.headers = [(name.upper(), value) for name, value in unambiguous(request.header_section.fields)]


class HookResponse:
    """A response as gunicorn's hooks know it. `sent`: the bytes of its content."""

    def __init__(self, record: Record) -> None:
        self.status = f"{record.status} {reason(record.status)}"
        self.status_code = record.status
        self.sent = self.response_length = max(0, record.sent - record.head)
        self.headers = [("Content-Type", JSON)] if record.response is None else _pairs(record.response)


def _pairs(response: Response) -> list[tuple[str, str]]:
    pairs = [] if response.content_type is None else [("Content-Type", response.content_type)]
    if response.fields is not None:
        pairs += response.fields.items()
    return pairs


def environ_of(request: HookRequest) -> dict[str, Any]:
    """The variables of a request, less the body: what gunicorn's access log can name, and `post_request` is given.

    PATH_INFO is the whole path, as gunicorn's log has it.
    """
    # Of a request that was refused before it was whole, gunicorn's log has dashes.
    return _environs.of(request.request) | {"REQUEST_METHOD": request.method, "RAW_URI": request.uri}


_environs = Environs({"SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": f"hypoll/{__version__}", "SCRIPT_NAME": ""})


def is_used(cfg: Any, hook: str) -> bool:
    """Whether the configuration has a hook of its own."""
    setting = cfg.settings[hook]
    return bool(setting.get() is not setting.default)


def observers_of(worker: Any) -> list[Observer]:
    """What gunicorn's access log and `post_request` get requests from, as far as they are in use."""
    log = worker.log
    logs = type(log).access is not Logger.access or log.access_log_enabled
    hooked = is_used(worker.cfg, "post_request")
    return [_HookObserver(worker, logs, hooked)] if logs or hooked else []


def wrap_pre_request(answer: RequestHandler, worker: Any) -> RequestHandler:
    """`answer`, after the `pre_request` hook: one that fails is the end of the request, as under gunicorn."""

    def answer_after_hook(request: Request) -> Response | bytes | HandlerCall:
        try:
            worker.cfg.pre_request(worker, _hook_request(request))
        except FAILURES as error:
            return failure(request, error)
        return answer(request)

    return answer_after_hook


def _hook_request(request: Request) -> HookRequest:
    """The same for both hooks: one may leave something on it for the other."""
    found = getattr(request, "hook_request", None)
    if found is None:
        found = request.hook_request = HookRequest(request)  # type: ignore[attr-defined]
    return found


class _HookObserver(Observer):
    """Logs answers, and calls the `post_request` hook with them."""

    def __init__(self, worker: Any, logs: bool, hooked: bool) -> None:
        self._worker = worker
        self._logs = logs
        self._hooked = hooked

    def on_requests(self, records: list[Record]) -> None:
        """Each answer, in the turn in which its last byte was sent."""
        for record in records:
            asked = _hook_request(record.request or Request("", b"", peer=record.peer))
            environ = environ_of(asked)
            answered = HookResponse(record)
            if self._logs:
                # No field of a line is empty, but gunicorn has a dash only for a variable that isn't there.
                named = environ | {"REMOTE_ADDR": environ["REMOTE_ADDR"] or "-"}
                self._worker.log.access(answered, asked, named, timedelta(seconds=record.ended - record.began))
            if self._hooked and record.called:  # else it was refused, and `pre_request` was not called, either
                self._call(asked, environ, answered)

    def _call(self, asked: HookRequest, environ: dict[str, Any], answered: HookResponse) -> None:
        """Call `post_request`. One that fails takes nothing from the others of the turn."""
        try:
            self._worker.cfg.post_request(self._worker, asked, environ, answered)
        except KeyboardInterrupt:
            raise
        except FAILURES as error:
            keep_out(error)
            log.exception("the post_request hook failed")
        keep_out()
