"""RFC 6455 and RFC 7692: WebSockets, for Routes and for ASGI applications."""
