"""The header section of a request: judged once, taken apart into fields when somebody asks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from hypoll.peer import Origin, Peer

USER_AGENT, REFERER, REQUEST_ID, TRACEPARENT = 16, 17, 18, 19

FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT = 20, 21, 22, 23, 24

NOTED = {
    "user-agent": USER_AGENT,
    "referer": REFERER,
    "x-request-id": REQUEST_ID,
    "traceparent": TRACEPARENT,
    "forwarded": FORWARDED,
    "x-forwarded-for": FORWARDED_FOR,
    "x-forwarded-proto": FORWARDED_PROTO,
    "x-forwarded-host": FORWARDED_HOST,
    "x-forwarded-port": FORWARDED_PORT,
}
"""The numbers of fields that logs, ids and the judgement of proxies ask for: for these the others needn't be taken
apart. Less than 16 are the meanings of names to framing."""

_NOTED_NAMES = {number: name for name, number in NOTED.items()}


class Section:
    """The header section of a request, once judged: what framing and persistence need to know of it.

    host, length: the values of Host and Content-Length; None: there is none. chunked, close, persist, expect: what
    Transfer-Encoding, Connection and Expect say. plain: persistent, without expectation or coding: framed in the
    plainest way.
    """

    host: str | None = None
    length: int | None = None
    chunked = False
    close = False
    persist = False
    expect: str | None = None
    plain = False
    asked: dict[str, str] | None = None
    """What the request asks of a file: see `hypoll.files.asked`."""
    environ: tuple[Any, Peer, dict[str, Any]] | None = None
    """What it makes of WSGI's environment, for whom, and sent by whom: see `hypoll.environ`."""
    origin: Origin | None = None
    """What proxies tell in it, once a trusted one's was asked for: see `hypoll.forwarded`."""
    _fields: tuple[tuple[str, str], ...] | None = None
    noted: dict[int, bytes | None]
    """Lines of the fields of `NOTED` that are there, by their number, latin-1; None: there are several."""
    block = b""
    """The field lines as they came, each behind its CR LF, from which the fields are made when they are asked for."""

    def __init__(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        self._fields = fields
        self.noted = {}
        for name, value in fields:
            number = NOTED.get(name)
            if number is not None:
                self.noted[number] = None if number in self.noted else f"{name}:{value}".encode("latin-1", "replace")

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """(lower-case name, value) of each field line, latin-1."""
        fields = self._fields
        if fields is None:
            fields = self._fields = fields_of(self.block.decode("latin-1").split("\r\n")[1:])
        return fields

    @property
    def bodiless(self) -> bool:
        """Whether no body comes after it."""
        return not self.chunked and not self.length

    def pick(self, names: Collection[str]) -> list[tuple[str, str]]:
        """(name, value) of those of some fields, by their lower-case names, that are there. All are in `NOTED`."""
        found = []
        for number, line in self.noted.items():
            name = _NOTED_NAMES[number]
            if name in names:
                if line is None:
                    return [field for field in self.fields if field[0] in names]
                found.append((name, value_of(line).decode("latin-1")))
        return found

    def last(self, number: int) -> str | None:
        """The last value of a field of `NOTED`, by its number; None: there is none."""
        line = self.noted.get(number, b"")
        if line:
            return line.partition(b":")[2].strip(b" \t").decode("latin-1")
        return [value for name, value in self.fields if name == _NOTED_NAMES[number]][-1] if line is None else None


def value_of(line: bytes) -> bytes:
    """The value of a field line."""
    return line.partition(b":")[2].strip(b" \t")


class HeadSection(Section):
    """One that is made of its bytes. Who makes one sets `block`, and what else there is: that spares a call."""

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__


def fields_of(lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(lower-case name, value) of each field line; each has a colon, and none is folded."""
    fields = []
    for line in lines:
        name, _, value = line.partition(":")
        fields.append((name.lower(), value.strip(" \t")))
    return tuple(fields)


NO_FIELDS = Section()
