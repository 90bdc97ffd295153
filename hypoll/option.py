"""What an option is: the kinds of its values, how they are read, and what is said of one that can't be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE = re.compile(r"([0-9]+)\s*(?:([KMGkmg])(?:[Ii]?[Bb])?|[Bb])?")
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}

_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a str"),
}

_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def parse_size(text: str) -> int:
    """A number of bytes from text like `65536`, `64KiB` or `16M` (powers of 1024).

    Raises:
        ValueError: Naming the text when it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: give bytes, or a number with KiB, MiB or GiB")
    return int(match[1]) * _UNITS[(match[2] or "").upper()]


def format_size(size: int) -> str:
    """The shortest text that `parse_size` takes for this number of bytes."""
    for name, unit in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


class OptionError(ValueError):
    """What an option can't be. Its text has the names that options have in Python, as `keep_alive`.

    Args:
        text: with each name of an option in angle brackets, as `<keep_alive> is -1: it must be at least 0`.
    """

    def __init__(self, text: str) -> None:
        super().__init__(_name(text, str))
        self.text = text


def name_options(error: BaseException, spell: Callable[[str], str]) -> str:
    """What an error says, its options named as whoever typed them knows them.

    Args:
        error: of any kind; one whose `text` has names in angle brackets, as `OptionError`.
        spell: makes a name of the one that an option has in Python.
    """
    return _name(getattr(error, "text", str(error)), spell)


def _name(text: str, spell: Callable[[str], str]) -> str:
    return _OPTION.sub(lambda match: spell(match[1]), text)


_OPTION = re.compile(r"<([a-z_]+)>")


@dataclass(frozen=True)
class Option:
    """What the faces need to know of one setting.

    Attributes:
        least: the smallest number, or the fewest items of a tuple.
        choices: the values there are; none: any.
        metavar: what a value is, in a word, where its kind doesn't tell.
        check: raises `ValueError` for a value that can't be.
    """

    name: str
    default: Any
    help: str
    unit: str = ""
    least: float = 0
    choices: tuple[str, ...] = ()
    """The words it may be; beside them a number, if its default is one."""
    metavar: str = ""
    check: Callable[[Any], object] | None = None

    def validate(self, value: Any) -> None:
        """See that the option may have a value. Raises `TypeError`, `OptionError`."""
        (self._check_items if isinstance(self.default, tuple) else self._check_value)(value)
        if self.check is not None:
            try:
                self.check(value)
            except ValueError as error:
                raise OptionError(f"<{self.name}> is {value!r}: {error}") from None

    def _check_value(self, value: Any) -> None:
        kinds, name = _KINDS[type(self.default)]
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(self.default, bool):
            raise TypeError(f"{self.name} is {value!r}: it must be {name}")
        if self.choices and value not in self.choices:
            raise OptionError(f"<{self.name}> is {value!r}: it must be one of {', '.join(self.choices)}")
        if not isinstance(value, str) and not value >= self.least:  # NaN is refused so, too
            raise OptionError(f"<{self.name}> is {value}: it must be at least {self.least:g}")

    def _check_items(self, value: Any) -> None:
        kind = self.metavar.lower()
        if isinstance(value, str):
            raise TypeError(f"{self.name} takes a sequence, one item a {kind}, not the string {value!r}")
        for item in value:
            if not isinstance(item, str):
                raise TypeError(f"{self.name} is {value!r}: each {kind} must be a str")
        if len(value) < self.least:
            raise OptionError(f"<{self.name}> is empty: give at least one {kind}")

    def parse(self, text: str) -> Any:
        """The value that a variable of the environment says. Raises `ValueError`, `KeyError`."""
        if isinstance(self.default, tuple):
            return tuple(text.split())
        if isinstance(self.default, bool):
            return _SWITCH[text.lower()]
        return parse_size(text) if self.unit == "bytes" else type(self.default)(text)

    @property
    def wanted(self) -> str:
        """What `parse` takes, in words."""
        return "a size, as in 64KiB" if self.unit == "bytes" else _KINDS[type(self.default)][1]
