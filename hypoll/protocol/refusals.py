"""Refusals that several places give, each said once."""

from __future__ import annotations

from hypoll.protocol.messages import HTTPError

RETRY_AFTER = 1
"""Seconds a client is asked to wait when the server has no room for it."""

_RETRY = {"Retry-After": str(RETRY_AFTER)}


def nothing_here() -> HTTPError:
    """The refusal of a request for a path at which there is nothing."""
    return HTTPError(404, "there is nothing at this path")


def too_slow() -> HTTPError:
    """The refusal of a body that doesn't come."""
    return HTTPError(408, "the request body took too long")


def busy() -> HTTPError:
    """The refusal of a request for which the thread pool has no room."""
    return HTTPError(503, "the server is busy: try again later", _RETRY)


def too_many_connections() -> HTTPError:
    """The refusal of a connection over `max_connections`."""
    return HTTPError(503, "too many connections: try again later", _RETRY)


def no_room() -> HTTPError:
    """The refusal of a body for which the process has no room left."""
    return HTTPError(503, "the server has no room for the body now: try again later", _RETRY)


def body_too_large(limit: int) -> HTTPError:
    """The refusal of a body of more bytes than are allowed."""
    return HTTPError(413, f"the body is larger than {limit} bytes")


def handler_too_slow(seconds: float) -> HTTPError:
    """The refusal of a request whose handler has taken longer than it may."""
    return HTTPError(504, f"the answer took longer than {seconds:g} s")
