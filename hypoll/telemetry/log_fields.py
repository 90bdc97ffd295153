"""What a log line says beside its message: the request it belongs to, its trace, and what `extra=` gave."""

from __future__ import annotations

import logging
from typing import Any

import orjson

from hypoll.protocol.current_request import current_request, trace_of
from hypoll.protocol.escaping import printable

REQUEST_FIELDS = ("request_id", "trace_id", "span_id")

STACK = "stack"
"""An `extra` of the server's own: a stack that came with the record, as text."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", STACK, *REQUEST_FIELDS}


class RequestFields(logging.Filter):
    """Gives each record the id of the request it was made for, and its trace: None where there is none.

    So `%(request_id)s`, `%(trace_id)s` and `%(span_id)s` are there for every format. Must run where the record is made:
    a handler's filters do, before it hands the record on to another thread.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass."""
        fields = record.__dict__
        if "trace_id" in fields and "request_id" in fields:
            return True
        request = current_request()
        trace = None if request is None else trace_of(request)
        fields.setdefault("request_id", None if request is None else request.id)
        fields.setdefault("trace_id", None if trace is None else trace[0])
        fields.setdefault("span_id", None if trace is None else trace[1])
        return True


def request_fields(record: logging.LogRecord) -> dict[str, str]:
    """The fields of the request that a record has, each fit for a line."""
    found = ((name, record.__dict__.get(name)) for name in REQUEST_FIELDS)
    return {name: printable(str(value)) for name, value in found if value is not None}


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What `extra=` has given a record."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def as_text(value: object) -> str:
    """A value of `extra=` in a line of text: as JSON where it is no plain word."""
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' ="'):
        return value
    return as_json(value).decode()


def as_json(value: object) -> bytes:
    """A value as JSON, printable; what JSON has no form of, as `str` gives it."""
    try:
        text = orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a circle, a lone surrogate, a number too large
        return orjson.dumps(printable(_text(value)))
    # JSON escapes none but the first 32 characters: a terminal obeys others, too.
    return (text if text.isprintable() else "".join(map(_printable_in_json, text))).encode()


def _printable_in_json(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"{type(value).__name__} without text: {type(error).__name__}"
