"""One format for the server's lines and the application's, also where the application has configured logging itself.

Laws: a format that somebody has chosen wins, the application's before hypoll's default. Levels, handlers and where they
write stay as they were configured. What was decided is said once.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator

from hypoll.protocol.escaping import printable
from hypoll.telemetry.error_log import LogWriterHandler, QuietStreamHandler, message_of
from hypoll.telemetry.log_fields import RequestFields

log = logging.getLogger("hypoll.error")

_UNCHOSEN = (None, logging.BASIC_FORMAT, "%(message)s")
"""Formats of handlers to which nobody has given one: `logging.basicConfig()` has the second."""


class _ApplicationFormatter(logging.Formatter):
    """The application's own formatter, for the server's lines: where it fails on one, hypoll's writes that."""

    def __init__(self, chosen: logging.Formatter, fallback: logging.Formatter) -> None:
        super().__init__()
        self._chosen = chosen
        self._fallback = fallback

    def format(self, record: logging.LogRecord) -> str:
        """Give the lines, in whose first nothing of a client's is left that could begin another."""
        clean = copy.copy(record)
        clean.msg, clean.args = printable(message_of(record)), None
        try:
            return self._chosen.format(clean)
        except Exception:
            return self._fallback.format(record)


def share_format(server: logging.Handler, form: str, say: bool = True) -> None:
    """Let the server's handler and the application's write in one format: to be called when that has started.

    Args:
        server: the handler of the server's lines.
        form: what `log_format` is; what isn't its default was chosen.
        say: whether to log what was decided.
    """
    for handler in _all_handlers():
        if not any(isinstance(each, RequestFields) for each in handler.filters):
            handler.addFilter(RequestFields())
    own = server.formatter
    configured = [handler for handler in logging.getLogger().handlers if not isinstance(handler, _OURS)]
    if own is None or not configured:
        return
    chosen = [handler for handler in configured if not _is_unchosen(handler.formatter)]
    for handler in configured:
        if handler not in chosen and _is_standard_stream(handler):
            handler.setFormatter(own)
    if chosen and form == "text":
        assert chosen[0].formatter is not None
        server.setFormatter(_ApplicationFormatter(chosen[0].formatter, own))
        decision = "its format is the server's, too"
    elif chosen:
        decision = f"its lines have its format, the server's are {form} by log_format"
    else:
        decision = "it has chosen no format, and gets the server's"
    if say:
        log.info("the application has configured logging: %s", decision)


_OURS = (LogWriterHandler, QuietStreamHandler)


def _is_unchosen(formatter: logging.Formatter | None) -> bool:
    return formatter is None or (type(formatter) is logging.Formatter and formatter._fmt in _UNCHOSEN)


def _is_standard_stream(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return stream is not None and stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)


def _all_handlers() -> Iterator[logging.Handler]:
    """The handlers of all loggers there are."""
    yield from logging.getLogger().handlers
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield from logger.handlers
