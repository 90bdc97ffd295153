"""What a response can be made of: found where it is made, and not only when it is sent, far from who made it."""

from __future__ import annotations

import io
from types import FunctionType, MethodType
from typing import Any

PLAIN_BODIES = frozenset({bytes, str})
"""Types of bodies about which there is nothing to check."""

_BUFFERS = (bytes, bytearray, memoryview)
_NO_PIECES = (bool, int, float, complex, range, io.TextIOBase, type, FunctionType, MethodType)
"""What is likely to be taken for a body, and can't be one: some can be iterated over, but give no bytes."""

_COLLECTIONS = (list, tuple, set, frozenset)


def check_status(status: Any) -> None:
    """See that a status is one of a final response. Raises `TypeError`, `ValueError`."""
    is_int = isinstance(status, int) and not isinstance(status, bool)
    if not is_int or not 200 <= status <= 599:
        kind = ValueError if is_int else TypeError
        raise kind(f"{status!r:.80} is not the status of a final response, which is an int from 200 to 599")


def check_body(body: Any) -> None:
    """See that a body can be sent, as far as that is known without beginning to. Raises `TypeError`."""
    if body is None:
        raise TypeError("a response's body is not None: leave it out, as in Response(status=204)")
    if isinstance(body, _NO_PIECES):
        raise TypeError(f"a response's body is bytes, str or an iterator of bytes, not {body!r:.80}{_JSON}")
    if isinstance(body, _COLLECTIONS):
        for piece in body:
            if not isinstance(piece, _BUFFERS):
                kind = type(body).__name__
                raise TypeError(f"a {kind} as a response's body is its pieces, bytes each, not {piece!r:.80}{_JSON}")


_JSON = ": to send JSON return the value itself, or (value, status, headers), or give Response the bytes of it"
