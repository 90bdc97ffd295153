"""What becomes of what a handler returns or raises: a `Response`."""

from __future__ import annotations

import errno
import logging
from typing import Any

from orjson import dumps

from hypoll.concurrency.forks import keep_out
from hypoll.protocol.fields import exact_bytes, exact_int
from hypoll.protocol.files import File
from hypoll.protocol.messages import (
    FAILURES,
    JSON,
    ClientDisconnect,
    HTTPError,
    Request,
    Response,
    json_response,
    problem,
)
from hypoll.protocol.open_file import OpenFile
from hypoll.protocol.response_checks import check_status
from hypoll.protocol.slices import Slice
from hypoll.web.events import EventBody
from hypoll.web.hints import add_hint
from hypoll.web.json_encoding import PLAIN, JSONEncoder, is_json_body

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of a system that has too little of something at the moment."""

_READY = (bytes, str, OpenFile, Slice)
"""Types of a body that is as it is to be."""

log = logging.getLogger("hypoll.error")


def failure(request: Request, error: BaseException) -> Response:
    """What the client gets for an exception: an `HTTPError` as it is, anything else as 500, its traceback logged.

    Of an error that says that the system has too little of something: 503.
    """
    keep_out(error)
    if isinstance(error, HTTPError):
        error.__traceback__ = None  # an application's constant would gather one more, and its request, with each raise
        try:
            return problem(error, request.id)
        except (TypeError, ValueError) as unsendable_field:  # of headers that were assigned after the error was made
            return server_error(request, unsendable_field)
    if isinstance(error, ClientDisconnect):
        # Nobody's fault here. A half-closed client may still read it.
        return problem(HTTPError(400, "the connection ended before the request did"), request.id)
    if isinstance(error, KeyboardInterrupt):
        raise error
    return server_error(request, error)


def unsendable(request: Request, response: Response | bytes, error: BaseException) -> Response:
    """What the client gets where an answer can't be sent as it is: 503 where that will pass, else 500. Logged."""
    if isinstance(response, Response):
        close_body(response.body)
    return server_error(request, error, ": the response can't be sent", "the response could not be sent")


def server_error(
    request: Request, error: BaseException | None, what: str = " failed", detail: str = "the server failed to answer"
) -> Response:
    """Log what has gone wrong with a request, and give what the client gets: the one place that makes a 500 of one.

    503 of an error that says that the system has too little of something, which will pass.
    Without an error `what` says it all.
    """
    where, name = f"{request.method} {request.raw_path}", request.id
    if error is not None:
        add_hint(error)
    log.error("%s%s, request %s", where, what, name, exc_info=error, extra={"request_id": name})
    if error is not None:
        error.__traceback__ = None  # an application's constant would keep what it was raised in
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return problem(HTTPError(503, "the server is out of resources: try again later", {"Retry-After": "1"}), name)
    return problem(HTTPError(500, detail + "; the log has the reason under this id"), name)


def close_body(body: Any) -> None:
    """Close a body, or its iterator, if it can be closed, and log what that raises."""
    try:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    except KeyboardInterrupt:
        raise
    except FAILURES:
        log.exception("closing a response's body failed")


def to_response(result: Any, encoder: JSONEncoder = PLAIN) -> Response:
    """Make a `Response` of what a handler returned.

    str: text/plain as UTF-8. bytes: application/octet-stream. None: 204. A tuple: (value, status) or
    (value, status, headers). Anything else: application/json, by `JSONEncoder.encode`.

    Raises:
        TypeError: For what can't be sent. Also what `JSONEncoder.encode` and `File.open` do.
    """
    kind = type(result)
    if kind is not dict and kind is not list:
        if isinstance(result, Response):
            return result if type(result.body) in _READY else _prepared(result, encoder)
        if isinstance(result, File):
            return result.described(Response(result.open()))
        if isinstance(result, str):
            return Response(str.encode(result), 200, None, "text/plain; charset=utf-8")
        if isinstance(result, (bytes, bytearray, memoryview)):
            return Response(exact_bytes(result), 200, None, "application/octet-stream")
        if result is None:
            return Response(b"", 204)
        if kind is tuple:
            return _from_tuple(result, encoder)
    if not encoder.strict:
        try:
            return json_response(dumps(result))  # `encode`, without a call
        except TypeError:
            pass
    return json_response(encoder.encode(result))


def own_response(result: Any, encoder: JSONEncoder = PLAIN) -> Response:
    """`to_response`, for hooks to change: a copy of a `Response`, which may be a constant of the application."""
    response = to_response(result, encoder)
    return response.copy() if response is result else response


def _prepared(response: Response, encoder: JSONEncoder) -> Response:
    """The response with its file open, and its body encoded if it is to be JSON."""
    body: Any = response.body
    if isinstance(body, File):
        return body.described(with_body(response, body.open()))
    if isinstance(body, EventBody):
        body.encoder = encoder
    elif is_json_body(body):
        response = with_body(response, encoder.encode(body))
        if response.content_type is None:
            response.content_type = JSON
    return response


def with_body(response: Response, body: Any) -> Response:
    """The response with another body. A new one: the handler's may be a constant of its application."""
    other = response.copy()
    other.body = body
    return other


def _from_tuple(result: tuple[Any, ...], encoder: JSONEncoder) -> Response:
    if len(result) not in (2, 3):
        raise _unfit(encoder, result, "a tuple is (value, status) or (value, status, headers); a list is sent as JSON")
    value, status, *headers = result
    if isinstance(value, tuple):
        raise _unfit(encoder, result, "a tuple in a tuple has no meaning, only (value, status, headers) has")
    try:
        check_status(status)
    except (TypeError, ValueError) as error:
        swapped = type(value) is int and not isinstance(status, (int, str))
        raise _unfit(encoder, result, f"{error}; the status comes second" if swapped else str(error)) from None
    # A new one: a Response given here may be a constant of the application.
    response = to_response(value, encoder).copy()
    response.status = exact_int(status)
    if headers and headers[0] is not None:
        try:
            response.headers = headers[0]
        except (TypeError, ValueError) as error:
            close_body(response.body)
            raise _unfit(encoder, result, str(error)) from None
    return response


def _unfit(encoder: JSONEncoder, result: tuple[Any, ...], reason: str) -> TypeError:
    return TypeError(f"{encoder.origin_name} returned {result!r:.120}: {reason}")


def to_answer(encoder: JSONEncoder, result: Any) -> Response | bytes:
    """`to_response`, or the body alone of what becomes a `json_response`: that spares the hot path making it."""
    return encoder.encode(result) if type(result) is dict else to_response(result, encoder)


def ends_task(error: BaseException) -> bool:
    """Whether an exception that came out of a task's code may be no failure, but the task's end."""
    import asyncio  # only here: most applications have nothing async

    return isinstance(error, (asyncio.CancelledError, GeneratorExit))
