"""Errors that are answers: `HTTPError`, and what a request lacks; and what ends no more than a request."""

from __future__ import annotations

from http import HTTPStatus

from hypoll.protocol.fields import HeaderSource, ResponseHeaders, exact_int, exact_str

FAILURES = BaseException
"""What an application's code may raise and end no more than its request by: neither `sys.exit()` nor a cancelled task's
error may stop a server. Only KeyboardInterrupt is given on: a signal's handler raises it, and means the process."""


def reason(status: int) -> str:
    """The reason phrase of a status code; empty when it has no registered one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class HTTPError(Exception):
    """Refuses a request: raise it in a handler, and the client gets `status` as a problem document (RFC 9457).

    Args:
        status: the status code, 400 to 599.
        detail: what was wrong with this request, for the client to read.
        headers: further fields of the answer, in any form that `Response` takes.

    Raises:
        ValueError: For a status that is no error, and a field that can't be sent.
        TypeError: For a detail, a field's name or value that is no str.
    """

    def __init__(self, status: int, detail: str = "", headers: HeaderSource | None = None) -> None:
        if not isinstance(status, int) or not 400 <= (status := exact_int(status)) <= 599:
            raise ValueError(f"HTTPError takes a status from 400 to 599, not {status!r}")
        if not isinstance(detail, str):
            raise TypeError(f"HTTPError takes its detail as str, not {type(detail).__name__}")
        detail = exact_str(detail)
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = None if headers is None else ResponseHeaders(headers)

    def __str__(self) -> str:
        return f"{self.status} {reason(self.status)}" + (f": {self.detail}" if self.detail else "")


class MissingFieldError(HTTPError, KeyError):
    """A request lacks a field that its handler asked for by `[]`: the client gets 400, which names it.

    A `KeyError`, too, as of any mapping; that of an application's own dict stays a 500.
    """


class ClientDisconnect(Exception):  # noqa: N818 - the name ASGI frameworks gave it
    """The client has gone before its request was whole. Raised to a handler that iterates over `request.stream`."""
