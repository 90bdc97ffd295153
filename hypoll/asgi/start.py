"""The head of an answer, `http.response.start` (ASGI HTTP 2.5): checked once, and written.

Law: what is wrong with a head is raised to the application, by `send`. Nothing of it can break the framing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hypoll.protocol.fields import check_field, exact_int
from hypoll.protocol.messages import Response
from hypoll.protocol.serializer import BEGINNINGS, CONTENTLESS, begin_head

Message = Mapping[str, Any]

Fields = list[tuple[bytes, bytes]]

MAX_NAMES = 1024
"""Names of fields that are remembered as checked; further ones are checked each time."""

MAX_LINES = 1024
"""Lines of fields that are remembered; then all are forgotten."""

MAX_LINE = 256
"""Bytes of a line up to which it is."""

_PLAIN = frozenset(range(200, 600)).difference(CONTENTLESS)
"""Statuses that need no look at them."""

EVENTS = b"text/event-stream"
"""The media type of event streams, which have no end of their own."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_NO_PAIRS = (str, bytes, Mapping)
"""What can be iterated over, and gives no fields."""

# What a field means to framing, or to the head's own fields. 0: nothing.
_LENGTH, _TYPE, _CONNECTION, _ENCODING, _OWN, _SECRET = range(1, 7)
_MEANINGS = {
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
    b"connection": _CONNECTION,
    b"transfer-encoding": _ENCODING,
    b"server": _OWN,
    b"date": _OWN,
    b"set-cookie": _SECRET,  # not remembered
}


class _Names(dict[bytes, int]):
    """What names of fields mean, each checked once."""

    def __missing__(self, name: bytes) -> int:
        if not isinstance(name, bytes):
            raise TypeError(f"a field's name is {name!r}: it must be bytes")
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a field name: it must be a token")
        meaning = _MEANINGS.get(name.lower(), 0)
        if len(self) < MAX_NAMES:
            self[bytes(name)] = meaning
        return meaning


_names = _Names()

_lines: dict[tuple[bytes, bytes], bytes] = {}
"""Lines of fields that mean nothing here and were checked, by name and value: applications repeat themselves."""


class ResponseStart:
    """The head that an application has given.

    Raises `ValueError` and `TypeError` for a head that can't be sent.

    Attributes:
        lines: its field lines, but those of the connection.
        declared: the Content-Length; None: there is none.
        trailers: whether trailer fields are to come behind the body.
        is_events: whether the answer is an event stream.
        closes: whether the connection is to end with it.
    """

    closes = False

    def __init__(self, message: Message) -> None:
        self.declared: int | None = None
        self.trailers = self.is_events = False
        self.is_special = False
        """Whether its answer isn't framed in the plainest way."""
        status = message.get("status")
        if type(status) is not int or status not in _PLAIN:
            status = _checked_status(status)
            self.is_special = status in CONTENTLESS
        self.status = status
        if message.get("trailers", False):
            self.trailers = True
        headers = message.get("headers") or ()
        try:
            self._fields = fields = tuple(headers)  # a copy: a change after this doesn't count
        except TypeError:
            _check_pairs(headers)
            raise
        lines, left = b"", iter(fields)
        try:
            for pair in left:
                if type(pair) is tuple:
                    lines += _lines.get(pair) or self._line(*pair)
                else:
                    lines += self._lines_of_others([pair, *left])
        except (TypeError, ValueError, AttributeError) as error:
            raise (_no_pairs(headers) if isinstance(headers, _NO_PAIRS) else _explained(self._fields, error)) from None
        self.lines = lines

    def _lines_of_others(self, last: list[Any]) -> bytes:
        """The lines of the last fields, of which the first is no tuple: any iterable of two (ASGI HTTP 2.5)."""
        copies = tuple(map(tuple, last))
        self._fields = (*self._fields[: -len(last)], *copies)
        return b"".join([self._line(*pair) for pair in copies])

    def _line(self, name: bytes, value: bytes) -> bytes:
        """The line of a field; empty: it isn't to be sent. Raises `ValueError`, `TypeError`."""
        meaning = _names[name]
        if meaning == _LENGTH:
            if self.declared is not None or not value.isdigit():
                raise ValueError(f"Content-Length: {value!r} is not one decimal number")
            self.declared = int(value)
            return b"%b: %b\r\n" % (name, value)
        if meaning and self._note(meaning, value):
            return b""
        line = b"%b: %b\r\n" % (name, value)
        if line.count(b"\r") != 1 or line.count(b"\n") != 1 or _CONTROL.search(line):
            raise ValueError(f"the value of {name!r} can't be sent")
        if not meaning or (meaning == _TYPE and not self.is_events):
            if len(_lines) >= MAX_LINES:
                _lines.clear()
            if len(line) <= MAX_LINE:
                _lines[bytes(name), bytes(value)] = line
        return line

    def _note(self, meaning: int, value: bytes) -> bool:
        """Note what a field means. Whether it isn't to be sent."""
        if meaning == _TYPE:
            self.is_events = value[: len(EVENTS)].lower() == EVENTS
        elif meaning == _CONNECTION:
            # A field of the connection, not of the answer: the one thing an application may ask is its end.
            self.closes = self.closes or b"close" in [option.strip() for option in value.lower().split(b",")]
            self.is_special = self.is_special or self.closes
            return True
        elif meaning == _OWN:
            self.is_special = True
        return meaning == _ENCODING  # the server's to choose

    def has_content(self, method: str) -> bool:
        """Whether the answer to a request of this method has content, whatever the application gives."""
        return method != "HEAD" and self.status not in CONTENTLESS

    def whole(self, body: bytes) -> bytes | None:
        """The answer with this head, on a connection that goes on; None: it needs more thought."""
        if self.is_special:
            return None
        beginning = BEGINNINGS.get(self.status) or begin_head(self.status)
        if self.declared is None:
            return b"%b%bContent-Length: %d\r\n\r\n%b" % (beginning, self.lines, len(body), body)
        return b"%b%b\r\n%b" % (beginning, self.lines, body)

    def declare(self, length: int) -> None:
        """Declare the length of the body, if the application doesn't."""
        if self.declared is None:
            self.declared = length

    def response(self, body: Any) -> Response:
        """The response with this head and a body."""
        headers = []
        for name, value in self._fields:
            if _names[name] not in (_ENCODING, _CONNECTION, _LENGTH):
                headers.append((bytes(name).decode("latin-1"), bytes(value).decode("latin-1")))
        if self.declared is not None:
            headers.append(("Content-Length", str(self.declared)))
        if self.closes:
            headers.append(("Connection", "close"))
        return Response(body, self.status, headers, "")


def trailer_lines(headers: Any) -> bytes:
    """Trailer fields as lines. Raises `ValueError`, `TypeError`."""
    _check_pairs(headers or ())
    fields = list(headers or ())
    try:
        if any(_names[name] for name, _ in fields):
            raise ValueError("a field of framing or of the connection can't be a trailer field (RFC 9110, 6.5.1)")
        return field_lines(fields)
    except (TypeError, ValueError) as error:
        raise _explained(fields, error) from None


def field_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as lines. Raises `ValueError`, `TypeError`."""
    lines = []
    for name, value in fields:
        checked = check_field(name.decode("latin-1"), value.decode("latin-1"))
        lines.append("{}: {}\r\n".format(*checked).encode("latin-1"))
    return b"".join(lines)


def _check_pairs(headers: Any) -> None:
    """Check that fields are what pairs can be of. Raises `TypeError`."""
    if isinstance(headers, _NO_PAIRS) or not isinstance(headers, Iterable):
        raise _no_pairs(headers)


def _no_pairs(headers: Any) -> TypeError:
    return TypeError(f"the headers are {headers!r:.60}: they must be pairs of name and value, in bytes")


def _checked_status(status: Any) -> int:
    """A status that isn't plainly right. Raises `ValueError`, `TypeError`."""
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f"the status is {status!r}: it must be an int")
    number = exact_int(status)
    if not 200 <= number <= 599:
        raise ValueError(f"the status is {number}: that of a final answer is from 200 to 599")
    return number


def _explained(fields: Any, error: Exception) -> Exception:
    """What is wrong with the first field that is, for the application to read; the error itself if none is."""
    for pair in fields:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            return TypeError(f"a field is {pair!r:.60}: it must be a pair of name and value, in bytes")
        name, value = pair
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            return TypeError(f"a field is {pair!r:.60}: its name and value must be bytes")
        try:
            check_field(name.decode("latin-1"), value.decode("latin-1"))
        except ValueError as found:
            return found
    return error
