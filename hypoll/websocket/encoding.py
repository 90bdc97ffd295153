"""Messages on their way out: encoded once, however many WebSockets they go to."""

from __future__ import annotations

from hypoll.websocket.deflate import LARGEST_SIZE, Deflate
from hypoll.websocket.frames import BINARY, COPY_LIMIT, FIN, RSV1, TEXT, header_of, serialize

Message = str | bytes


def encode(message: Message, deflate: Deflate | None) -> list[bytes]:
    """The frame of a message, in one or two pieces. Raises `TypeError` for what is none."""
    if isinstance(message, str):
        first, payload = FIN | TEXT, str.encode(message)
    elif isinstance(message, bytes):
        first, payload = FIN | BINARY, message
    else:
        raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
    if deflate is not None and len(payload) <= LARGEST_SIZE:
        first, payload = first | RSV1, deflate.compress(payload)
    if len(payload) > COPY_LIMIT:
        return [header_of(first, len(payload)), payload]
    return [serialize(first, payload)]
