"""Mappings whose keys may have several values: fields of a query, and of a header section."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


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


class Headers(Mapping[str, str]):
    """The fields of a message by case-insensitive name.

    `[]` and `get` give the value; of a field sent in several lines, the values joined by a comma (RFC 9110, 5.3).
    `getall` gives each line's value. `raw` is the list of (lower-case name, value) in the order received.
    """

    def __init__(self, raw: list[tuple[str, str]]) -> None:
        self.raw = raw

    def getall(self, name: str) -> list[str]:
        """The value of each line of this name; none: an empty list."""
        name = name.lower()
        return [value for key, value in self.raw if key == name]

    def __getitem__(self, name: str) -> str:
        values = self.getall(name)
        if not values:
            raise KeyError(name)
        return (", " if name.lower() != "cookie" else "; ").join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key == name.lower() for key, _ in self.raw)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.raw))

    def __len__(self) -> int:
        return len(dict(self.raw))

    def __repr__(self) -> str:
        return f"Headers({self.raw!r})"
