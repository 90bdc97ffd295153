"""Records of requests for tests, as a connection's instrument makes them."""

from __future__ import annotations

from typing import Any

from hypoll.telemetry.observer import Record

NAMES = (
    *("request", "peer", "response", "status", "route", "received", "sent"),
    *("began", "called", "returned", "ended", "end", "head", "name"),
)


def a_record(*values: Any, **named: Any) -> Record:
    """A record with these fields, in the order of `NAMES` or by name. The request has the times of its handler."""
    record = Record()
    for name, value in (dict(zip(NAMES, values, strict=False)) | named).items():
        if name not in ("called", "returned"):
            setattr(record, name, value)
        elif record.request is not None:
            setattr(record.request, name, value)
    return record
