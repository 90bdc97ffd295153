"""JSON that is encoded once for many: what is published to the members of a room, each on a route of its own."""

from __future__ import annotations

import sys
from typing import Any

from hypoll.web.json_encoding import JSONEncoder, JSONScope


class SharedEncoder:
    """Encodes as the routes of all that have joined do: of several defaults the first that knows a value wins.

    Attributes:
        is_known: whether any route is known. Until then nobody gets what is encoded, or wants it otherwise.
    """

    def __init__(self) -> None:
        self.is_known = False
        self._scopes: tuple[JSONScope, ...] = ()
        self._encoder = JSONEncoder()

    def learn(self, encoder: JSONEncoder) -> None:
        """Encode as another route does, too."""
        self.is_known = True
        scopes = self._scopes
        new = [scope for scope in encoder.scopes if scope not in scopes]
        if new or encoder.strict != self._encoder.strict:
            # What joins first is innermost: it keeps its say.
            self._scopes = (*new, *scopes)
            self._encoder = JSONEncoder(self._scopes)

    def encode(self, value: Any) -> bytes:
        """A value as JSON. Raises as `JSONEncoder.encode` does, naming who published it."""
        try:
            return self._encoder.encode(value)
        except (TypeError, ValueError):
            return JSONEncoder(self._scopes, _publisher()).encode(value)  # once more, for its text


def _publisher() -> str:
    """The line of the application that is being called from."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("hypoll."):
        frame = frame.f_back
    code = frame.f_code
    file = code.co_filename.rpartition("/")[2]
    return f"{frame.f_globals.get('__name__')}.{code.co_qualname}, {file} line {frame.f_lineno},"
