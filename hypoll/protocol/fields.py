"""Header fields on their way out: what may be sent as one, and the fields of a response.

Law: what was checked is what is sent, whatever the classes of an application's strings do.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

HeaderSource = Mapping[str, Any] | Iterable[tuple[str, str]]
"""What fields may be given as: a mapping, whose values may be lists, or pairs where names repeat."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def exact_str(value: str) -> str:
    """The characters of a str, whatever the methods of its class say: what is checked must be what is sent."""
    return value if type(value) is str else str.__str__(value)


def exact_int(value: int) -> int:
    """The number that an int is, as `exact_str`."""
    return value if type(value) is int else int.__index__(value)


def exact_bytes(value: bytes | bytearray | memoryview) -> bytes:
    """The bytes that a buffer has, as `exact_str`: a copy, but of bytes."""
    return value if type(value) is bytes else memoryview(value).tobytes()


def is_token(text: str) -> bool:
    """Whether it is a token (RFC 9110, 5.6.2), as names are."""
    return _TOKEN.fullmatch(text) is not None


def check_field(name: str, value: str) -> tuple[str, str]:
    """The name and value to be sent, as exact strings.

    Raises:
        ValueError: For a field that could break the framing of a message (RFC 9110, 5.1 and 5.5).
        TypeError: For a name or value that is no str.
    """
    if not isinstance(name, str) or not _TOKEN.fullmatch(name := exact_str(name)):
        raise ValueError(f"{name!r} is not a field name: it must be a token")
    if not isinstance(value, str):
        raise TypeError(f"the value of {name} is {value!r}: it must be a str")
    value = exact_str(value)
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the value of {name} can't be sent, it has a control or non-latin-1 character: {value!r}")
    return name, value


def pairs(headers: HeaderSource | None) -> Iterator[tuple[str, str]]:
    """The (name, value) pairs of header fields, in whichever of their forms they are."""
    if headers is None:
        return
    for name, value in headers.items() if isinstance(headers, Mapping) else _unpacked(headers):
        if isinstance(value, (list, tuple)):
            for one in value:
                yield name, one
        else:
            yield name, value


def _unpacked(headers: Any) -> Iterator[tuple[str, Any]]:
    """The pairs of what is no mapping. Raises `TypeError` for what holds none."""
    advice = "header fields are a mapping or pairs, as {'X-Name': 'value'}"
    if isinstance(headers, (str, bytes)) or not hasattr(headers, "__iter__"):
        raise TypeError(f"{advice}, not {headers!r:.80}")
    for pair in headers:
        if isinstance(pair, (str, bytes)):
            raise TypeError(f"{advice}, not a {type(headers).__name__} that holds {pair!r:.80}")
        try:
            name, value = pair
        except (TypeError, ValueError):
            raise TypeError(f"{advice}, not a {type(headers).__name__} that holds {pair!r:.80}") from None
        yield name, value


def lines_of(headers: HeaderSource | None) -> Iterable[tuple[str, str]]:
    """The (name, value) pairs of header fields, checked. Raises as `check_field` does."""
    if type(headers) is ResponseHeaders:
        return headers._lines  # which were checked when they were set
    if headers is None:
        return ()
    if type(headers) is dict:  # the most common form, without a generator
        lines = [check_field(name, value) for name, value in headers.items() if type(value) is str]
        if len(lines) == len(headers):
            return lines
    return [check_field(*pair) for pair in pairs(headers)]


class ResponseHeaders(MutableMapping[str, str]):
    """The header fields of a response, by case-insensitive name: `response.headers`.

    Each field is checked when it is set. `[]` and `get` give the value; of a name with several lines, the values joined
    by a comma (RFC 9110, 5.3), or the first of Set-Cookie, which can't be joined. `getall` gives each line's value.
    Iterating, `len` and `in` are by name, each once; `items()` gives every line, names as they were given.

    Args:
        source: the fields: a mapping, whose values may be lists, or pairs where names repeat. They are copied.

    Raises:
        ValueError: For a name that is no token, or a value with a control or non-latin-1 character.
        TypeError: For a name or value that is no str.
    """

    def __init__(self, source: HeaderSource = ()) -> None:
        self._lines: list[tuple[str, str]] = list(lines_of(source))

    def add(self, name: str, value: str) -> None:
        """Add a line, beside those of its name."""
        self._lines.append(check_field(name, value))

    def getall(self, name: str) -> list[str]:
        """The value of each line of this name, in their order; none: an empty list."""
        name = name.lower()
        return [value for other, value in self._lines if other.lower() == name]

    def vary(self, *names: str) -> None:
        """Say that the answer depends on these fields of the request: add them to Vary (RFC 9110, 12.5.5).

        What is there already stays, and is not named twice; of no effect beside `*`.
        """
        listed = [name for line in self.getall("vary") for part in line.split(",") if (name := part.strip(" \t"))]
        known = {name.lower() for name in listed}
        if "*" in known:
            return
        for given in names:
            name, _ = check_field(given, "")
            if name.lower() not in known:
                known.add(name.lower())
                listed.append(name)
        if listed:
            self["Vary"] = ", ".join(listed)

    def copy(self) -> ResponseHeaders:
        """The same fields, for themselves."""
        return ResponseHeaders(self)

    def items(self) -> ItemsView[str, str]:
        """Every line's name, as it was given, and value, in their order."""
        return _Lines(self)

    def update(self, source: HeaderSource = (), /, **fields: str) -> None:  # type: ignore[override]
        """Set the fields of a mapping or of pairs, in place of those of their names; lines of one name stay together.

        Nothing is set when one of them can't be sent.
        """
        lines = [*ResponseHeaders(source)._lines, *ResponseHeaders(fields)._lines]
        replaced = {name.lower() for name, _ in lines}
        self._lines = [line for line in self._lines if line[0].lower() not in replaced] + lines

    def __getitem__(self, name: str) -> str:
        values = self.getall(name)
        if not values:
            raise KeyError(name)
        return values[0] if name.lower() == "set-cookie" else ", ".join(values)

    def __setitem__(self, name: str, value: str) -> None:
        line = check_field(name, value)
        lower = line[0].lower()
        self._lines = [*(other for other in self._lines if other[0].lower() != lower), line]

    def __delitem__(self, name: str) -> None:
        lower = name.lower()
        left = [line for line in self._lines if line[0].lower() != lower]
        if len(left) == len(self._lines):
            raise KeyError(name)
        self._lines = left

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.getall(name))

    def __iter__(self) -> Iterator[str]:
        names: dict[str, str] = {}
        for name, _ in self._lines:
            names.setdefault(name.lower(), name)
        return iter(names.values())

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._lines})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return _by_name(self) == _by_name(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ResponseHeaders({self._lines!r})"


class _Lines(ItemsView[str, str]):
    """Every line of the headers."""

    _mapping: ResponseHeaders

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._mapping._lines.copy())

    def __len__(self) -> int:
        return len(self._mapping._lines)

    def __contains__(self, line: object) -> bool:
        return line in self._mapping._lines


def _by_name(headers: Mapping[Any, Any]) -> dict[Any, list[Any]]:
    """The values of each name in lower case."""
    found: dict[Any, list[Any]] = {}
    for name, value in pairs(headers):
        found.setdefault(name.lower() if isinstance(name, str) else name, []).append(value)
    return found
