"""The answer of the inline row as a WSGI application, for servers of those."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """Answer with what `floor.c` answers."""
    body = orjson.dumps({"message": "Hello, World!"})
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
