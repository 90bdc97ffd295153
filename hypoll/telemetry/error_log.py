"""The error log: Python's `logging`, written to standard error as text or JSON.

Laws: a problem is one line; of text, its traceback follows in lines that begin with `MARGIN`, which no other line does.
What a client or an exception says can't begin a line. A standard error that is closed, full, or read by nobody holds
up nothing and raises nothing. Who reconfigures logging, at import or later, takes no line of the server's from it, but
by naming its loggers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import orjson

from hypoll.protocol.escaping import printable
from hypoll.telemetry.log_fields import RequestFields, as_json, as_text, extra_fields, request_fields
from hypoll.telemetry.log_writer import LogWriter, Sink, open_standard

MARGIN = "    | "

BUFFER_SIZE = 64 * 1024
"""Bytes of messages that wait for a standard error that is slow."""


def message_of(record: logging.LogRecord) -> str:
    """The message; one that doesn't go with its arguments is logged with them, and loses nobody's request.

    A record with a `stack`, as text, has it at the end of its message, for formatters of others: here it is left out.
    """
    stack = stack_of(record)
    try:
        return record.getMessage().removesuffix("\n" + stack if stack else "")
    except Exception:
        return f"{record.msg!r} was logged with {record.args!r}, which don't go together"


def stack_of(record: logging.LogRecord) -> str:
    """The stack that came with a record, as text."""
    return str(getattr(record, "stack", ""))


def _traceback(record: logging.LogRecord) -> list[str]:
    """The lines of its traceback, and of a stack that came with it; none where there is none."""
    text = ""
    if record.exc_info and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info))
    text += record.stack_info or stack_of(record)
    # At LF only: what else `splitlines` takes for an end is the exception's own, and is escaped.
    return [printable(line) for line in text.rstrip("\n").split("\n")] if text else []


def fields_text(record: logging.LogRecord) -> str:
    """The fields of a record as text, to stand behind its message: those of its request that the message lacks."""
    message, fields = message_of(record), request_fields(record)
    text = ""
    if "request_id" in fields and fields["request_id"] not in message:
        text += f", request {fields['request_id']}"
    if "trace_id" in fields:
        text += f", trace {fields['trace_id']} span {fields.get('span_id', '-')}"
    return text + "".join(f" {printable(name)}={as_text(value)}" for name, value in extra_fields(record).items())


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000 ERROR message, request ID key=value`, then the traceback, if there is one, behind a
    margin.

    Args:
        pids: the process's id before the level, where several write.
    """

    def __init__(self, pids: bool = False) -> None:
        super().__init__()
        self._pids = pids

    def format(self, record: logging.LogRecord) -> str:
        """Give the lines, without the last one's end."""
        message = printable(message_of(record)) + fields_text(record)
        process = f"[{record.process}] " if self._pids else ""
        first = f"{self.formatTime(record)} {process}{record.levelname} {message}"
        return "\n".join([first, *(MARGIN + line for line in _traceback(record))])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message; request_id, trace_id, span_id and traceback where there are
    any; and what `extra=` gave, a name that is taken with an underscore behind it.

    Args:
        pids: the process's id, too, where several write.
    """

    def __init__(self, pids: bool = False) -> None:
        super().__init__()
        self._pids = pids

    def format(self, record: logging.LogRecord) -> str:
        """Give the line, without its end."""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document: dict[str, Any] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(message_of(record)),
        }
        if self._pids:
            document["pid"] = record.process
        document |= request_fields(record)
        lines = _traceback(record)
        if lines:
            document["traceback"] = "\n".join(lines)
        for name, value in extra_fields(record).items():
            key = printable(name)
            document[key + "_" if key in document else key] = orjson.Fragment(as_json(value))
        return orjson.dumps(document).decode()


FORMATTERS: dict[str, type[TextFormatter] | type[JsonFormatter]] = {"text": TextFormatter, "json": JsonFormatter}


class LogWriterHandler(logging.Handler):
    """Writes records to an log writer at once, and leaves there what can't be written yet."""

    def __init__(self, log_writer: LogWriter, open_again: Callable[[], Sink] | None = None) -> None:
        super().__init__()
        self.log_writer = log_writer
        self._open_again = open_again

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or have it wait, or drop it: never raise.

        `logging.config` closes all handlers there are, and leaves them where they are: one that is used afterwards
        opens its log again.
        """
        try:
            if self.log_writer.sink.closed and self._open_again is not None:
                self.log_writer.sink = self._open_again()
            self.log_writer.put((self.format(record) + "\n").encode("utf-8", "backslashreplace"))
            self.log_writer.retry()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Try again what is left."""
        with self.lock or contextlib.nullcontext():
            self.log_writer.retry()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Count a record that is lost: there is nowhere to report it."""
        self.log_writer.dropped += 1

    def close(self) -> None:
        """Write what is left, for up to a second. Not while another thread writes: it holds the number."""
        with self.lock or contextlib.nullcontext():
            self.log_writer.close()
        super().close()


class QuietStreamHandler(logging.StreamHandler[Any]):
    """A stream that is no descriptor of ours; what it doesn't take is lost without a word."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Let it go: printing why would fail the same way, for every record."""


def make_handler(form: str, pids: bool = False) -> logging.Handler:
    """The handler for standard error, or for what stands for it; `form` is `text` or `json`.

    Args:
        form: text or json.
        pids: whether each message says which process it is from.
    """
    formatter = FORMATTERS[form](pids)
    handler: logging.Handler
    if sys.stderr is not sys.__stderr__:
        handler = QuietStreamHandler(sys.stderr)  # a test's, or a program's that collects what is said
    else:

        def notice(count: int) -> bytes:
            record = logging.LogRecord("hypoll.error", logging.WARNING, "", 0, "%d messages were lost", (count,), None)
            return (formatter.format(record) + "\n").encode()

        sink = open_standard(2)
        # Not by its number, which may be another's by then.
        spare = type(sink)(os.dup(sink.fd))
        handler = LogWriterHandler(LogWriter(sink, notice, size=BUFFER_SIZE), lambda: type(spare)(os.dup(spare.fd)))
    handler.setFormatter(formatter)
    handler.addFilter(RequestFields())
    return handler


class ServerLogger(logging.Logger):
    """A logger of the server's own lines: they go to `own`, and not to the root's handlers.

    A configuration that names the logger and gives it handlers wins. One that disables all loggers it doesn't name, or
    sets the root's handlers or level, doesn't.
    """

    own: logging.Handler | None = None
    own_level = logging.NOTSET

    @property
    def disabled(self) -> bool:
        """False: that is what `disable_existing_loggers` sets, which isn't meant for this one."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        """Do nothing."""

    @property
    def is_named(self) -> bool:
        """Whether a configuration has given handlers to this logger, or to `hypoll`, whose children the others are."""
        parent = self.parent
        return bool(self.handlers or (parent is not None and parent is not self.root and parent.handlers))

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        """As `logging.Logger`; with `own`, by the level this logger or `hypoll` was given, or else by own's."""
        if self.own is None or self.is_named:
            return super().isEnabledFor(level)
        parent = self.parent
        above = parent.level if parent is not None and parent is not self.root else logging.NOTSET
        return level >= (self.level or above or self.own_level)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Give the record to `own`, or to the handlers of a configuration."""
        if self.own is None or self.is_named:
            super().callHandlers(record)
        else:
            self.own.handle(record)


SERVER_LOGGERS = ("hypoll", "hypoll.error")
"""The loggers of the server's own lines."""


def keep(logger: logging.Logger, own: logging.Handler | None = None, level: int = logging.NOTSET) -> None:
    """Make a `ServerLogger` of a logger, whoever has made it. own: where its lines go; None: to its handlers."""
    logger.__class__ = ServerLogger
    assert isinstance(logger, ServerLogger)
    logger.own, logger.own_level = own, level


def set_up(level: str, form: str = "text", pids: bool = False) -> None:
    """Log to standard error, from `level` on, in place of whatever was set up before.

    Args:
        level: the least severe messages that are written.
        form: text or json.
        pids: whether each message says which process it is from.
    """
    handler = make_handler(form, pids)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    set_up_server(level, handler)


def set_up_server(level: str, handler: logging.Handler) -> None:
    """Have the server's own lines go to a handler, from `level` on, whatever the application configures."""
    for name in SERVER_LOGGERS:
        keep(logging.getLogger(name), handler, logging.getLevelName(level.upper()))


def server_handler() -> logging.Handler | None:
    """Where the server's own lines go; None: nothing was set up."""
    logger = logging.getLogger("hypoll.error")
    return logger.own if isinstance(logger, ServerLogger) else None


def reset() -> None:
    """Let the server's own lines go where `logging` sends them again."""
    for name in SERVER_LOGGERS:
        keep(logging.getLogger(name))
