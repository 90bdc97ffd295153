"""Mappings of what a request has, whose keys may have several values: fields of a query, and of a header section.

Those of a request answer for the client: what it lacks, or has of another type than was asked for, is a 400.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar, overload

from hypoll.protocol.errors import HTTPError, MissingFieldError

T = TypeVar("T")
D = TypeVar("D")

_INT = re.compile(r"[+-]?[0-9]{1,4000}")
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


_PYTHONS_OWN = ("invalid literal for ", "could not convert string ")
"""How the texts begin of what int() and float() raise within a function of the application."""

VALUES_SHOWN = 10
"""Values of an Enum that are named to a client which sent another one."""


def _to_int(text: str) -> int:
    if not _INT.fullmatch(text):  # int() takes blanks, underscores and other scripts' digits
        raise ValueError
    return int(text)


def _to_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or not text.isascii() or "_" in text or text != text.strip():
        raise ValueError
    return number


def _to_bool(text: str) -> bool:
    found = _BOOLS.get(text.lower())
    if found is None:
        raise ValueError
    return found


def convert(what: str, name: str, text: str, kind: Callable[[str], T]) -> T:
    """What a client sent, as what it is to be.

    Args:
        what: what it is, as "query parameter".
        name: of the field.
        text: its value.
        kind: int: a decimal number. float: a finite one. bool: true, 1, yes, on, or false, 0, no, off, in any case.
            Anything else is called with the text, and raises `ValueError` for one that isn't it, as `uuid.UUID`,
            `datetime.date.fromisoformat`, an Enum and `decimal.Decimal` do.

    Raises:
        HTTPError: 400, for a text that isn't it. It has the values of an Enum, and the text of a `ValueError` that a
            function or class of the application has raised.
    """
    call: Callable[[str], Any] = kind
    for known, function in ((int, _to_int), (float, _to_float), (bool, _to_bool)):
        if kind is known:
            call = function
    try:
        converted: T = call(text)
    except (ValueError, ArithmeticError) as error:  # the latter is decimal's
        said = _text_of(error, kind)
        raise HTTPError(400, f"the {what} {name!r} is {_fault_of(kind)}: {text!r:.60}{said}") from None
    return converted


def _fault_of(kind: Any) -> str:
    """What a text is that isn't of a kind."""
    if not isinstance(kind, type):
        return "not valid"
    values = [member.value for member in kind if isinstance(member.value, str)] if issubclass(kind, Enum) else []
    if not values:
        return f"no {kind.__qualname__}"
    shown = ", ".join(values[:VALUES_SHOWN])
    return f"none of {shown}{', ...' if len(values) > VALUES_SHOWN else ''}"


def _text_of(error: Exception, kind: Any) -> str:
    """What the application itself says of a text that it doesn't take, behind a colon; empty: nothing."""
    while isinstance(kind, functools.partial):
        kind = kind.func
    module = getattr(kind, "__module__", None) or "builtins"
    if module.partition(".")[0] in sys.stdlib_module_names or (isinstance(kind, type) and issubclass(kind, Enum)):
        return ""
    said = str(error)
    return "" if not said or said.startswith(_PYTHONS_OWN) else f": {said:.200}"


def missing(what: str, name: str) -> MissingFieldError:
    """The error of a request that lacks a field."""
    return MissingFieldError(400, f"the request has no {what} {name!r}")


class TypedLookup:
    """`get` and `getall` of what a client sent, which may be asked for as a type.

    Attributes:
        what: what an entry is, to the client.
    """

    what = "field"

    def _find(self, name: str) -> str | None:
        """The value of a name; None: it has none."""
        raise NotImplementedError

    def _find_all(self, name: str) -> list[str]:
        """Each value of a name."""
        raise NotImplementedError

    @overload
    def get(self, name: str, default: None = None) -> str | None: ...
    @overload
    def get(self, name: str, default: D) -> str | D: ...
    @overload
    def get(self, name: str, default: None = None, *, type: Callable[[str], T]) -> T | None: ...
    @overload
    def get(self, name: str, default: D, *, type: Callable[[str], T]) -> T | D: ...

    def get(self, name: str, default: Any = None, *, type: Callable[[str], Any] | None = None) -> Any:  # noqa: A002
        """The value, or the default where there is none; of several in a query or form, the first.

        Args:
            name: of the entry.
            default: what is given where there is none; it isn't converted.
            type: what the value is to be: see `convert`. None: a str.

        Raises:
            HTTPError: 400, which names it, for a value that isn't of the type.
        """
        value = self._find(name)
        if value is None:
            return default
        return value if type is None else convert(self.what, name, value, type)

    @overload
    def getall(self, name: str) -> list[str]: ...
    @overload
    def getall(self, name: str, *, type: Callable[[str], T]) -> list[T]: ...

    def getall(self, name: str, *, type: Callable[[str], Any] | None = None) -> list[Any]:  # noqa: A002
        """Each value of a name, in the order received; none: an empty list. Of a `type`, as with `get`."""
        values = self._find_all(name)
        return values if type is None else [convert(self.what, name, value, type) for value in values]


class MultiDict(Mapping[str, str]):
    """A mapping whose keys may have several values: `[]` and `get` give the first, `getall` gives each."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for key, value in pairs:
            self._values.setdefault(key, []).append(value)

    def getall(self, key: str) -> list[str]:
        """Every value of `key` in the order received; none: an empty list."""
        return list(self._values.get(key, ()))

    def __getitem__(self, key: str) -> str:
        return self._values[key][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"


class RequestFields(TypedLookup, MultiDict):
    """Fields that a client sent: `request.query`, the fields of `request.form()`.

    `[]` of one that isn't there raises what is a 400 to the client and a `KeyError` to the application.
    """

    def __getitem__(self, name: str) -> str:
        values = self._values.get(name)
        if values is None:
            raise missing(self.what, name)
        return values[0]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def _find(self, name: str) -> str | None:
        values = self._values.get(name)
        return None if values is None else values[0]

    def _find_all(self, name: str) -> list[str]:
        return list(self._values.get(name, ()))


class QueryFields(RequestFields):
    """The fields of a query."""

    what = "query parameter"


class FormFields(RequestFields):
    """The fields of a form that are text."""

    what = "form field"


class Cookies(TypedLookup, dict[str, str]):
    """The cookies of a request, by name. `[]` of one that isn't there raises as that of `RequestFields` does."""

    what = "cookie"

    def __missing__(self, name: str) -> str:
        raise missing(self.what, name)

    def _find(self, name: str) -> str | None:
        return dict.get(self, name)

    def _find_all(self, name: str) -> list[str]:
        return [self[name]] if name in self else []


class Headers(TypedLookup, Mapping[str, str]):
    """The fields of a message by case-insensitive name.

    `[]` and `get` give the value; of a field sent in several lines, the values joined by a comma (RFC 9110, 5.3).
    `getall` gives each line's value. `raw` is the list of (lower-case name, value) in the order received. `[]` of one
    that isn't there raises as that of `RequestFields` does.
    """

    what = "header field"

    def __init__(self, raw: list[tuple[str, str]]) -> None:
        self.raw = raw

    def _find(self, name: str) -> str | None:
        values = self._find_all(name)
        return (", " if name.lower() != "cookie" else "; ").join(values) if values else None

    def _find_all(self, name: str) -> list[str]:
        name = name.lower()
        return [value for key, value in self.raw if key == name]

    def __getitem__(self, name: str) -> str:
        value = self._find(name)
        if value is None:
            raise missing(self.what, name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key == name.lower() for key, _ in self.raw)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.raw))

    def __len__(self) -> int:
        return len(dict(self.raw))

    def __repr__(self) -> str:
        return f"Headers({self.raw!r})"
