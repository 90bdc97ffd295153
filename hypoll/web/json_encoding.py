"""JSON of what an application gives: what orjson takes goes straight through it, the rest is looked at when it refuses.

Laws:

- A value that orjson takes costs one call of it. Whatever else there is, converting, explaining, comes after its error.
- What can't be encoded is named by its path in the value, and by the function that gave it.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any, Protocol

import orjson

from hypoll.web.naming import place_of

Default = Callable[[Any], Any]
"""Gives what can be encoded in place of a value that can't. Raises `TypeError` for what it doesn't know."""

PATH_SHOWN = 60
"""Characters of the path to what is nested too deep."""

MAX_DEPTH = 254
"""How deep orjson follows values that hold each other."""

_NESTED = f"nested more than {MAX_DEPTH} deep"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _UnknownError(TypeError):
    """Nobody knows what to encode in place of a value."""


class JSONScope(Protocol):
    """What a `Routes` says of the JSON of its answers."""

    default: Default | None
    strict_json: bool


class EncodesJSON(Protocol):
    """What encodes values as JSON."""

    def encode(self, value: Any, /) -> bytes:
        """The value as JSON. Raises `TypeError`, `ValueError`."""


class JSONEncoder:
    """Encodes what one function gives: a handler, or a hook.

    Args:
        scopes: those that it was declared in, the outermost first.
        origin: the function, or the name of what gives it.

    Attributes:
        strict: whether NaN and the infinities are errors, and not null.
    """

    __slots__ = ("origin", "scopes", "strict")

    def __init__(self, scopes: Sequence[JSONScope] = (), origin: Callable[..., Any] | str | None = None) -> None:
        self.scopes = tuple(scopes)
        self.origin = origin
        self.refresh()

    def refresh(self) -> None:
        """Take up what the scopes say by now."""
        self.strict = any(scope.strict_json for scope in self.scopes)

    def at(self, origin: Callable[..., Any]) -> JSONEncoder:
        """The encoder for what another function of these scopes gives."""
        return JSONEncoder(self.scopes, origin)

    def below(self, outer: JSONScope) -> JSONEncoder:
        """The encoder where the scopes are reached through another one."""
        return JSONEncoder((outer, *self.scopes), self.origin)

    def encode(self, value: Any) -> bytes:
        """The value as JSON.

        Beside what orjson takes: Decimal as a string; sets as lists, in their order; objects of msgspec and pydantic as
        those libraries encode them; keys that are numbers, bool, None, dates, UUIDs or enums; and what the `default` of
        the innermost scope that knows it gives. NaN and the infinities are null, as in JavaScript's JSON.stringify.

        Raises:
            TypeError: For what can't be encoded; its text has the path to it.
            ValueError: With `strict_json`, for NaN and the infinities.
        """
        try:
            data = orjson.dumps(value)
        except TypeError:
            data = self._encode_in_general(value)
        if self.strict and b"null" in data:
            self._refuse_not_finite(value)
        return data

    def _encode_in_general(self, value: Any) -> bytes:
        try:
            return self._dumps(value)
        except TypeError as error:
            path, reason = self._locate(value, "$", {})
            hint = ": return a Response, str, bytes, None, (value, status) or something that can be JSON"
            if reason is _NESTED and len(path) > PATH_SHOWN:
                path = path[:PATH_SHOWN] + "..."
            what = f"{path}: {reason}" + (hint if path == "$" else "")
            raise TypeError(f"{self.origin_name} gave what can't be JSON: {what}") from _cause_of(error)

    def _dumps(self, value: Any) -> bytes:
        return orjson.dumps(value, default=self._convert, option=orjson.OPT_NON_STR_KEYS)

    def _convert(self, value: Any) -> Any:
        """What is encoded in place of a value that orjson doesn't take. Raises `TypeError`, and what a default does."""
        unknown: TypeError | None = None
        for scope in reversed(self.scopes):
            if scope.default is not None:
                try:
                    return scope.default(value)
                except TypeError as error:
                    unknown = error
        if isinstance(value, Decimal):
            return str(value)
        if isinstance(value, (set, frozenset)):
            return list(value)
        if is_model(value):
            return orjson.Fragment(self._dump_model(value))
        raise unknown or _UnknownError

    def _dump_model(self, value: Any) -> bytes:
        kind = type(value)
        if hasattr(kind, "__struct_fields__"):
            msgspec = sys.modules["msgspec"]
            data: bytes = msgspec.json.encode(value, enc_hook=lambda part: msgspec.Raw(self._dumps(part)))
        elif hasattr(kind, "__pydantic_serializer__"):
            data = kind.__pydantic_serializer__.to_json(value, fallback=lambda part: orjson.loads(self._dumps(part)))
        else:  # pydantic's version 1
            data = value.json().encode()
        return data

    def _locate(self, value: Any, path: str, around: dict[int, str]) -> tuple[str, str]:
        """The path to the first thing in a value that can't be encoded, and what it is.

        around: the paths of the values that it is in, by their `id`.
        """
        if id(value) in around:
            return path, f"it refers to itself, by {around[id(value)]}"
        if len(around) > MAX_DEPTH:
            return path, _NESTED
        around[id(value)] = path
        for suffix, child in children(value):
            if not self._takes(child):
                return self._locate(child, path + suffix, around)
        if isinstance(value, dict):
            for key in value:
                if not self._takes({key: None}):
                    return path, f"a key that is a {type(key).__name__}, {key!r:.60}"
        converted = self._converted(value)
        if converted is not value and not self._takes(converted):
            return self._locate(converted, path, around)
        return path, _describe(value)

    def _takes(self, value: Any) -> bool:
        try:
            self._dumps(value)
        except TypeError:
            return False
        return True

    def _converted(self, value: Any) -> Any:
        try:
            return self._convert(value)
        except Exception:
            return value

    def _refuse_not_finite(self, value: Any) -> None:
        """Raise `ValueError` for NaN or an infinity in a value, which can be encoded."""
        found = self._find_not_finite(value, "$")
        if found is not None:
            path, number = found
            raise ValueError(
                f"{self.origin_name} gave what is no JSON: {path}: {number!r}. It would be null; "
                "strict_json, which tests have on by default, refuses it"
            )

    def _find_not_finite(self, value: Any, path: str) -> tuple[str, float] | None:
        if isinstance(value, float):
            return None if isfinite(value) else (path, value)
        for suffix, child in children(value):
            found = self._find_not_finite(child, path + suffix)
            if found is not None:
                return found
        if not isinstance(value, (str, int, dict, list, tuple)) and value is not None:
            converted = self._converted(value)
            if converted is not value and not isinstance(converted, orjson.Fragment):
                return self._find_not_finite(converted, path)
        return None

    @property
    def origin_name(self) -> str:
        """Who gave the value, as a person would look for it."""
        if isinstance(self.origin, str):
            return self.origin
        return "the application" if self.origin is None else place_of(self.origin)


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, each with what leads to it in a path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield (f".{key}" if isinstance(key, str) and _NAME.fullmatch(key) else f"[{key!r}]"), child
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, child in enumerate(value):
            yield f"[{number}]", child
    elif not isinstance(value, type):
        for name in _field_names(value):
            child = getattr(value, name, None)
            if child is not None:
                yield f".{name}", child


def _field_names(value: Any) -> Iterator[str]:
    """The fields of an object of dataclasses, msgspec or pydantic."""
    if dataclasses.is_dataclass(value):
        return (field.name for field in dataclasses.fields(value))
    if is_model(value):
        return iter(getattr(type(value), "__struct_fields__", None) or vars(value))
    return iter(())


def _cause_of(error: BaseException) -> BaseException | None:
    """What a default has raised, if it is the reason why a value can't be encoded."""
    cause = error.__cause__
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    said_already = isinstance(cause, _UnknownError) or type(cause).__module__.startswith("pydantic")
    return None if said_already else cause


def _describe(value: Any) -> str:
    """What is wrong with a value of which no part is."""
    if isinstance(value, str):
        return "a str with a lone surrogate, which is no UTF-8"
    if type(value) is int:
        return "an int of more than 64 bits"
    return _NESTED if type(value) in (dict, list, tuple) else type(value).__name__


def is_model(value: Any) -> bool:
    """Whether it is an object of msgspec or pydantic, found by what their classes have: neither is imported."""
    kind = type(value)
    return (
        hasattr(kind, "__struct_fields__")
        or hasattr(kind, "__pydantic_serializer__")
        or (hasattr(kind, "__get_validators__") and hasattr(kind, "__fields__"))
    )


def is_json_body(body: Any) -> bool:
    """Whether the body of a response is a value to be encoded: a dict, or an object that its class makes one of.

    A list is none: as a body it is the pieces of one.
    """
    return isinstance(body, dict) or is_model(body) or (dataclasses.is_dataclass(body) and not isinstance(body, type))


PLAIN = JSONEncoder()
"""For values of which no `Routes` is known."""


def encode_json(value: Any, encoder: JSONEncoder = PLAIN) -> bytes:
    """A value as JSON: see `JSONEncoder.encode`. encoder: that of the route which gives it."""
    return encoder.encode(value)
