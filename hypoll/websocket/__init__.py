"""RFC 6455 and RFC 7692: WebSockets, for Routes and for ASGI applications."""

from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.hub import Hub

__all__ = ["Hub", "SocketClosed"]
