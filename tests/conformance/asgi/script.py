"""The words in which a case says what its application does: operations, as literals that fit into a header field."""

from __future__ import annotations

from typing import Any

Operation = tuple[Any, ...]
Field = tuple[bytes, bytes]


def start(status: Any = 200, *headers: Any, **keys: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **keys}


def body(content: Any = b"", *, more: bool = False, **keys: Any) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more, **keys}


def length(size: int) -> Field:
    return b"content-length", b"%d" % size


def send(*messages: Any) -> list[Operation]:
    return [("send", message) for message in messages]


def attempt(*messages: Any) -> list[Operation]:
    """Send each; tell "attempt" with the names of the exception's classes, or None."""
    return [("attempt", message) for message in messages]


def do(name: str, *arguments: Any) -> list[Operation]:
    """Any operation of `applications.Call`."""
    return [(name, *arguments)]


def script(*parts: list[Operation]) -> list[Operation]:
    return [operation for part in parts for operation in part]


def answer(content: bytes = b"ok", *headers: Field) -> list[Operation]:
    """A whole response with a Content-Length."""
    return send(start(200, length(len(content)), *headers), body(content))


READ = do("read")
RECEIVE = do("receive")
FAIL = do("fail")
ANSWER = answer()
"""200 with the content "ok"."""
