"""ASGI applications served (ASGI 3.0, HTTP 2.5, lifespan 2.0): each request a task of its own on the loop's thread."""
