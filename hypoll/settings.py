"""Every option once: its name, default, unit and meaning.

The command line, the environment names and gunicorn's mapping are derived from the fields of `Settings`; nothing
else in hypoll states a default.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UNITS = {
    "": 1,
    "B": 1,
    "K": KIB,
    "KB": KIB,
    "KIB": KIB,
    "M": MIB,
    "MB": MIB,
    "MIB": MIB,
    "G": GIB,
    "GB": GIB,
    "GIB": GIB,
}
_SIZE = re.compile(r"([0-9]+)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """A number of bytes from text like `65536`, `64KiB` or `16M` (powers of 1024).

    Raises `ValueError` naming the text when it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is not a size: give bytes, or a number with KiB, MiB or GiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def format_size(size: int) -> str:
    """The shortest text that `parse_size` takes for this number of bytes."""
    for name, unit in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


@dataclass(frozen=True)
class Option:
    """What the faces need to know of one setting."""

    name: str
    default: Any
    help: str
    unit: str
    least: float


def _option(default: Any, meaning: str, *, unit: str = "", least: float = 0) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning, "unit": unit, "least": least})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a server. Times are in seconds, sizes in bytes.

    Raises `ValueError` for a value out of range and `TypeError` for one of another kind.
    """

    bind: tuple[str, ...] = _option(
        ("127.0.0.1:8000",), "Where to listen: HOST:PORT, [::1]:PORT, unix:/PATH or fd://N. May be repeated."
    )
    backlog: int = _option(4096, "Connections the kernel may queue before they are accepted (listen(2)).", least=1)
    reuse_port: bool = _option(False, "Set SO_REUSEPORT, so that several processes can bind the same port.")
    max_connections: int = _option(
        0, "Connections served at once; one more is refused with 503. 0: the descriptor limit less a reserve."
    )
    keep_alive: float = _option(75.0, "How long a connection may be idle between requests.", unit="s")
    header_timeout: float = _option(10.0, "How long a request head may take, from its first byte.", unit="s")
    body_timeout: float = _option(
        30.0, "How long a body may pause; a body older than this must average at least --min-body-rate.", unit="s"
    )
    min_body_rate: int = _option(500, "The least average rate of a body that outlives --body-timeout.", unit="B/s")
    write_timeout: float = _option(30.0, "How long a client may take none of the answer waiting for it.", unit="s")
    graceful_timeout: float = _option(30.0, "How long requests under way may take to finish after TERM.", unit="s")
    max_head: int = _option(16 * KIB, "The largest request head, request line included.", unit="bytes", least=64)
    max_headers: int = _option(100, "The most fields in a request head.", least=1)
    max_body: int = _option(16 * MIB, "The largest request body.", unit="bytes")
    max_output: int = _option(
        256 * KIB, "Output that may wait for a client before its next request has to wait.", unit="bytes", least=1
    )
    threads: int = _option(0, "Threads for threaded handlers. 0: the processors and 4, at most 32.")
    queue: int = _option(1000, "Requests that may wait for a thread; one more is refused with 503.")
    slow_callback: float = _option(
        0.1, "Log a handler that holds the loop for longer, with its stack. 0: don't look.", unit="s"
    )
    uvloop: bool = _option(True, "Run async handlers on uvloop when it is installed.")

    def __post_init__(self) -> None:
        if isinstance(self.bind, str):
            raise TypeError(f"bind takes a sequence of addresses, not the string {self.bind!r}")
        if not all(isinstance(address, str) for address in self.bind):
            raise TypeError(f"bind is {self.bind!r}: each address must be a str, as in '127.0.0.1:8000'")
        if not self.bind:
            raise ValueError("bind is empty: give at least one address to listen on")
        for address in self.bind:
            if address.startswith("fd://") and self.bind.count(address) > 1:
                raise ValueError(f"bind names {address} twice: a descriptor is served once")
        for option in options():
            if not isinstance(option.default, tuple):
                _check(option, getattr(self, option.name))


_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
}


def _check(option: Option, value: Any) -> None:
    """Hold a value against its option. Raises `TypeError`, `ValueError`."""
    kinds, name = _KINDS[type(option.default)]
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(option.default, bool):
        raise TypeError(f"{option.name} is {value!r}: it must be {name}")
    if not value >= option.least:  # NaN is refused so, too
        raise ValueError(f"{option.name} is {value}: it must be at least {option.least:g}")


def options() -> list[Option]:
    """Every option of `Settings`, in the order a person reads them."""
    return [
        Option(field.name, field.default, field.metadata["help"], field.metadata["unit"], field.metadata["least"])
        for field in dataclasses.fields(Settings)
    ]
