"""The name of a request, to follow it through logs: the one it came with, or a new one."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable

MAX_ID = 128
"""The most characters of a name that is taken over."""

_ID = re.compile(rf"[A-Za-z0-9._~+/=:@-]{{1,{MAX_ID}}}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_NAMED_BY = ("x-request-id", "traceparent")

_COUNTED = 0x1000000


class _Names:
    """New names: ten random digits of this process, and six that count.

    Measured, with Python 3.11: 0.2 µs a name, where `secrets.token_hex` asks the kernel and takes 0.8.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin with other random digits."""
        # Formatted by C code all the way, which no other thread gets in between.
        self._series = map(f"{secrets.token_hex(5)}%06x".__mod__, range(_COUNTED))

    def new(self) -> str:
        """A name no other request has, of this or another process: 16 hexadecimal digits. From any thread."""
        for name in self._series:
            return name
        self.renew()
        return self.new()


_names = _Names()
os.register_at_fork(after_in_child=_names.renew)

new_id = _names.new


def given_id(fields: Iterable[tuple[str, str]]) -> str | None:
    """The name a request's header fields give it, from (lower-case name, value) of each; None when there is none.

    X-Request-Id: up to 128 characters of letters, digits and `._~+/=:@-`. Else the trace-id of a `traceparent` (W3C
    Trace Context, 3.2). A field that is malformed, or is there twice, names nothing.
    """
    found: dict[str, str] = {}
    for name, value in fields:
        if name in _NAMED_BY:
            found[name] = "" if name in found else value
    if not found:
        return None
    identity = found.get("x-request-id", "")
    if _ID.fullmatch(identity):
        return identity
    return trace_id(found.get("traceparent", ""))


def trace_id(traceparent: str) -> str | None:
    """The trace-id of a `traceparent` field; None when the field isn't valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace, parent, more = match.groups()
    # ff is no version, 00 has nothing behind the flags, and zeros name nothing.
    if version == "ff" or (version == "00" and more is not None) or not trace.strip("0") or not parent.strip("0"):
        return None
    return trace


def id_of(fields: Iterable[tuple[str, str]]) -> str:
    """The name of a request with these header fields: `given_id`, or a new one."""
    return given_id(fields) or new_id()
