"""RFC 6455 and RFC 7692: WebSockets, for Routes and for ASGI applications."""

from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.hub import Hub
from hypoll.websocket.socket import Socket
from hypoll.websocket.thread_socket import ThreadSocket

__all__ = ["Hub", "Socket", "SocketClosed", "ThreadSocket"]
