"""What the parsers of one server share: small vocabularies in bounded memory, and what checks whole heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import httptools

from hypoll.protocol.bounded import Bounded
from hypoll.protocol.header_section import INDEXED_FIELDS
from hypoll.protocol.messages import HTTPError, Request
from hypoll.protocol.validation import check_host

HOST, LENGTH, CONNECTION, UNUSUAL = 1, 2, 3, 4
"""What a field's name means to framing; 0: nothing. `UNUSUAL`: the head is to be checked with care. What is greater
means nothing to it, and is a number of `INDEXED_FIELDS`."""

_MEANINGS = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"connection": CONNECTION,
    b"transfer-encoding": UNUSUAL,
    b"expect": UNUSUAL,
    b"proxy-connection": UNUSUAL,
    b"upgrade": UNUSUAL,
    **{name.encode(): number for name, number in INDEXED_FIELDS.items()},
}


def field_meaning(name: bytes) -> int:
    """What a field's name means to framing. That it is a name at all httptools has to say."""
    return _MEANINGS.get(name.lower(), 0)


def _host(value: bytes) -> str:
    """A value of Host, if it is well-formed; else nothing."""
    host = value.strip(b" \t").decode("latin-1")
    try:
        check_host(host)
    except HTTPError:
        return ""
    return host


class Limits(Protocol):
    """What requests are held to: the fields of `hypoll.settings.Settings` that are of a parser's concern. 0 for a line
    or a field: as long as a head.
    """

    @property
    def max_head(self) -> int:
        """Bytes of a head."""

    @property
    def max_line(self) -> int:
        """Bytes of a request line."""

    @property
    def max_field(self) -> int:
        """Bytes of a field line."""

    @property
    def max_headers(self) -> int:
        """Field lines of a head."""

    @property
    def max_body(self) -> int:
        """Bytes of a body, decoded."""


class Vocabulary:
    """See the module.

    Attributes:
        names: the meaning of field names, by their bytes.
        hosts: values of Host; empty: it is to be checked with care.
        short_head: bytes of a head without the empty line that pass every limit.
        most_fields, largest_body: limits; a larger body is to be checked with care.
        max_body_of: gives the limit of a request's own, None if it has none; None: no request has one.
        validate: httptools' check of bytes that begin with a request and have no part of another. It has no callbacks.
    """

    __slots__ = (
        "_longest_field",
        "_longest_head",
        "_longest_line",
        "_max_body",
        "hosts",
        "largest_body",
        "max_body_of",
        "most_fields",
        "names",
        "short_head",
        "validate",
    )

    def __init__(self, limits: Limits) -> None:
        self.names: Bounded[bytes, int] = Bounded(field_meaning)
        self.hosts: Bounded[bytes, str] = Bounded(_host)
        self._longest_head = limits.max_head
        self._longest_line = limits.max_line or limits.max_head
        self._longest_field = limits.max_field or limits.max_head
        self.short_head = min(limits.max_head - 4, self._longest_line, self._longest_field)
        self.most_fields = limits.max_headers
        self.largest_body = self._max_body = limits.max_body
        self.max_body_of: Callable[[Request], int | None] | None = None
        self.renew_parser()

    def limit_bodies(self, least: int | None, max_body_of: Callable[[Request], int | None]) -> None:
        """Have requests' own limits on their bodies, of which `least` is the smallest; None: there are none."""
        self.max_body_of = None if least is None else max_body_of
        self.largest_body = self._max_body if least is None else min(least, self._max_body)

    def within_limits(self, head: bytes) -> bool:
        """Whether a head, without the empty line, passes the limits of its parts. One up to `short_head` does."""
        line, *fields = map(len, head.split(b"\r\n"))
        return (
            len(head) + 4 <= self._longest_head
            and line <= self._longest_line
            and max(fields, default=0) <= self._longest_field
        )

    def renew_parser(self) -> None:
        """Begin with another parser: one that has raised, or is in the middle of a message, is of no further use."""
        self.validate = httptools.HttpRequestParser(None).feed_data
