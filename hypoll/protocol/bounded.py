"""The one kind of cache: what is made of small vocabularies, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

WORDS = 1024
"""Words of one vocabulary, of at most `WORD_SIZE` bytes each."""

WORD_SIZE = 128


class Bounded(dict[K, V]):
    """What `make` gives of each key, remembered. With `limit` keys all are forgotten; longer ones aren't kept."""

    __slots__ = ("_limit", "_make", "_size")

    def __init__(self, make: Callable[[K], V], limit: int = WORDS, size: int = WORD_SIZE) -> None:
        self._make = make
        self._limit = limit
        self._size = size

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        if len(key) <= self._size:  # type: ignore[arg-type]
            if len(self) >= self._limit:
                self.clear()
            self[key] = value
        return value
