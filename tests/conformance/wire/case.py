"""What a case of the wire corpus says, and the words it is written in."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from hypoll.settings import Settings

LIMITS = Settings(max_head=1024, max_headers=20, max_body=1000)
"""The limits that hold for every case: small, so that the cases beyond them are short."""

HOST = b"Host: h"


class Got(NamedTuple):
    """A request that is expected. `host` and `fields` are looked at when given."""

    method: str
    target: str
    body: bytes = b""
    keep_alive: bool = True
    host: str | None = None
    fields: tuple[tuple[str, str], ...] | None = None


class End(Enum):
    """How a connection ends, or doesn't, when no refusal is sent."""

    OPEN = "the next request is served"
    LAST = "the last answer says so, and the connection is closed"
    SILENT = "closed without an answer"
    WAITING = "the message isn't whole"
    WAITING_CONTENT = "the message isn't whole, and its content was asked for by 100 (Continue)"


class Case(NamedTuple):
    """Bytes on the wire and what comes of them: requests, then a refusal's status or another end.

    refused: the method of what is refused, on which it depends whether the answer has content.
    """

    name: str
    section: str
    raw: bytes
    requests: tuple[Got, ...]
    end: int | End
    refused: str = "GET"


def case(name: str, section: str, raw: bytes, *outcome: Got | int | End, refused: str = "GET") -> Case:
    """Write a case. Without an end, it is `LAST` or `OPEN` as the last request has it."""
    requests = tuple(item for item in outcome if isinstance(item, Got))
    ends = [item for item in outcome if not isinstance(item, Got)]
    if not ends:
        ends = [End.LAST if requests and not requests[-1].keep_alive else End.OPEN]
    assert len(ends) == 1
    assert outcome[: len(requests)] == requests
    return Case(name, section, raw, requests, ends[0], refused)


def head(line: bytes, *fields: bytes) -> bytes:
    """A request line, field lines, the empty line."""
    return b"\r\n".join((line, *fields, b"", b""))


def get(*fields: bytes) -> bytes:
    return head(b"GET / HTTP/1.1", HOST, *fields)


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return head(b"POST / HTTP/1.1", HOST, *fields) + body


ROOT = Got("GET", "/")
POSTED = Got("POST", "/", b"abc")
EMPTY = Got("POST", "/")
