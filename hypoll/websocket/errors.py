"""What is raised where a WebSocket has ended."""

from __future__ import annotations

from hypoll.websocket.frames import Close


class SocketClosed(ConnectionError):  # noqa: N818 - an end, not always an error
    """The WebSocket is closed.

    Attributes:
        code: why: what the other side has said, or 1006 where it went without a word (RFC 6455, 7.1.5).
        reason: the same for people to read.
    """

    def __init__(self, close: Close) -> None:
        super().__init__(f"the WebSocket is closed: {close.code}" + (f", {close.reason}" if close.reason else ""))
        self.code, self.reason = close
