"""The header section of a request: checked once, taken apart into fields when somebody asks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from hypoll.protocol.bounded import Bounded
from hypoll.protocol.peer import Client, Origin, Peer

BLANKS = b" \t"
"""What may stand around a field's value and is no part of it (RFC 9110, 5.6.3)."""

USER_AGENT, REFERER, REQUEST_ID, TRACEPARENT = 16, 17, 18, 19

FORWARDED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT = 20, 21, 22, 23, 24

INDEXED_FIELDS = {
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
"""The numbers of fields that logs, ids and the check of proxies ask for: for these the others needn't be taken
apart. Less than 16 are the meanings of names to framing."""

_INDEXED_NAMES = {number: name for name, number in INDEXED_FIELDS.items()}


ScopeParts = tuple[list[tuple[bytes, bytes]], Client | None, str | None]
"""The fields of a header section in bytes, and what trusted proxies say about client and scheme."""


_user_agents = Bounded[bytes, dict[int, bytes | None]](lambda value: {USER_AGENT: value}, size=256)
"""What is indexed where it is the client's program alone, by its name: requests that stay for long share it."""


class HeaderSection:
    """The header section of a request, once checked: what framing and persistence need to know of it.

    Attributes:
        host, length: the values of Host and Content-Length; None: there is none.
        chunked, close, keep_alive, expect: what Transfer-Encoding, Connection and Expect say.
        plain: persistent, without expectation or coding: framed in the plainest way.
    """

    host: str | None = None
    length: int | None = None
    chunked = False
    close = False
    keep_alive = False
    expect: str | None = None
    plain = False
    file_conditions: dict[str, str] | None = None
    """What the request asks of a file: see `hypoll.protocol.open_file.conditions_of`."""
    scope_parts: ScopeParts | None = None
    """What scopes of ASGI have of it: see `hypoll.asgi.scope`."""
    environ: tuple[Any, Peer, dict[str, Any]] | None = None
    """What it makes of WSGI's environment, for whom, and sent by whom: see `hypoll.wsgi.environ`."""
    origin: Origin | None = None
    """What proxies say in it, once a trusted one's was asked for: see `hypoll.proxy.forwarded`."""
    _fields: tuple[tuple[str, str], ...] | None = None
    indexed: dict[int, bytes | None]
    """Values of the fields of `INDEXED_FIELDS` that are there, by their number, with the blanks around them, latin-1;
    None: there are several."""
    block = b""
    """The field lines as they came, each behind its CR LF, from which the fields are made when they are asked for."""

    def __init__(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        self._fields = fields
        self.indexed = {}
        for name, value in fields:
            number = INDEXED_FIELDS.get(name)
            if number is not None:
                self.indexed[number] = None if number in self.indexed else value.encode("latin-1", "replace")

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """(lower-case name, value) of each field line, latin-1."""
        fields = self._fields
        if fields is None:
            if self.scope_parts is not None and not self.block:
                fields = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.scope_parts[0])
            else:
                fields = fields_of(self.block.decode("latin-1").split("\r\n")[1:])
            self._fields = fields
        return fields

    def compact(self) -> None:
        """Keep the fields as bytes alone: of a request that stays for long they are seldom asked for again.

        Where a scope of ASGI has them they are those of the scope.
        """
        if self.scope_parts is not None:
            self.block = b""
        elif self._fields is not None:
            self.block = "".join(f"\r\n{name}:{value}" for name, value in self._fields).encode("latin-1")
        self._fields = self.environ = None
        agent = self.indexed.get(USER_AGENT)
        if agent is not None and len(self.indexed) == 1:
            self.indexed = _user_agents[agent]

    @property
    def has_no_body(self) -> bool:
        """Whether no body comes after it."""
        return not self.chunked and not self.length

    def pick(self, names: Collection[str]) -> list[tuple[str, str]]:
        """(name, value) of those of some fields, by their lower-case names, that are there. All are in
        `INDEXED_FIELDS`.
        """
        found = []
        for number, value in self.indexed.items():
            name = _INDEXED_NAMES[number]
            if name in names:
                if value is None:
                    return [field for field in self.fields if field[0] in names]
                found.append((name, value.strip(BLANKS).decode("latin-1")))
        return found

    def last_value(self, number: int) -> str | None:
        """The last value of a field of `INDEXED_FIELDS`, by its number; None: there is none."""
        if number not in self.indexed:
            return None
        value = self.indexed[number]
        if value is not None:
            return value.strip(BLANKS).decode("latin-1")
        return [value for name, value in self.fields if name == _INDEXED_NAMES[number]][-1]


class RawHeaderSection(HeaderSection):
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


EMPTY_SECTION = HeaderSection()
