"""`Routes` as a WSGI application (PEP 3333): so that they can be served by any server of such.

Inline and threaded handlers run on the thread that the server calls on. There is no event loop: `Routes.wsgi` refuses
routes that have anything async.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes

from hypoll.contracts import Application, HandlerCall
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import (
    FAILURES,
    ClientDisconnect,
    HTTPError,
    Request,
    Response,
    StreamedBody,
    StreamedRequest,
    json_response,
    reason,
)
from hypoll.protocol.peer import UNKNOWN_CLIENT, Client, Peer
from hypoll.protocol.refusals import body_too_large
from hypoll.protocol.serializer import BODILESS, CONTENTLESS, check_piece, content_of, inspect_fields
from hypoll.protocol.slices import Slice
from hypoll.proxy.networks import parse_address
from hypoll.server.request_body import joined
from hypoll.settings import Settings
from hypoll.web.background import Background, check_work, run_background
from hypoll.web.hooks import at_once
from hypoll.web.results import failure

PIECE_SIZE = 64 * 1024
"""Bytes of the body asked for at once."""

MAX_BODY = Settings.max_body
"""The largest body that is kept for a handler; one that takes it as `request.stream` has no limit here."""

# What a path may have beside letters, digits and `_.-~` (RFC 3986, 3.3).
_PATH = "/:@!$&'()*+,;="

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


log = logging.getLogger("hypoll.error")


class WSGIAdapter:
    """What `Routes.wsgi` is: called with `environ` and `start_response`.

    Args:
        routes: what answers. Their `on_start` hooks run before the first request, `on_stop` when the interpreter ends.
    """

    def __init__(self, routes: Application) -> None:
        self.routes = routes
        self._starting = threading.Lock()
        self._started = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if not self._started:
            self._start()
        # One context for all that the application does for the request, as under hypoll itself.
        context = contextvars.copy_context()
        return context.run(self._answer, context, environ, start_response)

    def _answer(self, context: contextvars.Context, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = request_of(environ)
        try:
            return _send(request, _response(self.routes, request, environ), start_response, context)
        except FAILURES as error:
            refusal = self.routes.amend_refusal(request, failure(request, error))
            return _send(request, refusal, start_response, context)

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                self.routes.startup(at_once)
                atexit.register(self._stop, os.getpid())
                self._started = True

    def _stop(self, process: int) -> None:
        """The interpreter ends; not a child's that it has forked."""
        if os.getpid() == process:
            self.routes.shutdown(at_once)


def _response(routes: Application, request: Request, environ: Environ) -> Response:
    """The response, a file's chosen. Whatever the handler raises is its answer."""
    try:
        if not routes.wants_stream(request) and routes.early_refusal(request) is None:
            limit = routes.max_body_of(request)
            request.body = joined(_limited(environ, MAX_BODY if limit is None else limit))
        answer = routes.answer(request)
        if isinstance(answer, HandlerCall):
            answer = _make(answer, request, environ, routes.max_body_of(request))
        if isinstance(answer, Response):
            check_work(answer)
    except FAILURES as error:
        answer = routes.amend_refusal(request, failure(request, error))
    response = json_response(answer) if isinstance(answer, bytes) else answer
    respond = getattr(response.body, "respond", None)
    if respond is None:
        return response
    chosen: Response = respond(request, response)
    chosen.background = response.background
    return chosen


def _make(handler_call: HandlerCall, request: Request, environ: Environ, limit: int | None) -> Response | bytes:
    """The answer of a threaded handler, made here. limit: bytes of the body that it may have."""
    if handler_call.stream:
        request.__class__ = StreamedRequest
        request.__dict__["stream"] = Stream(_pieces(environ) if limit is None else _limited(environ, limit))
    try:
        return handler_call.to_answer(handler_call.call(request, None))
    except FAILURES as error:
        return handler_call.answer_error(request, error)


def _send(
    request: Request, response: Response, start_response: StartResponse, context: contextvars.Context
) -> Iterable[bytes]:
    """Give the head to the server, and the body. Raises `ValueError` or `TypeError` when they can't be sent."""
    status = response.status
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"{status!r} is not the status of a final response, which is an int from 200 to 599")
    fields, declared, _ = inspect_fields(response.fields)
    body, content_type = content_of(response)
    if status not in BODILESS:
        if content_type and not any(name.lower() == "content-type" for name, _ in fields):
            fields.insert(0, ("Content-Type", content_type))
        length = _length(request, body, declared)
        if length is not None:
            fields.append(("Content-Length", str(0 if status == 205 else length)))
    if isinstance(body, AsyncIterator):
        raise TypeError("a body that is an async iterator needs an async def handler")
    if isinstance(body, StreamedBody):
        raise TypeError("what an EventHub's events() gives needs hypoll's own server")
    pulled = [body] if isinstance(body, bytes) else iter(cast(Iterable[bytes], body))
    phrase = reason(status) if response.reason is None else response.reason
    start_response(f"{status} {phrase or 'Unknown'}", fields)
    background = response.background
    if request.method == "HEAD" or status in CONTENTLESS:
        _close(body)
        body, pulled = b"", []
    if background is not None:
        return Body(iter(pulled), partial(_close_and_work, body, request, background), context)
    return pulled if isinstance(pulled, list) else Body(pulled, lambda: _close(body), context)


def _close(body: object) -> None:
    """Nothing more of the body is wanted."""
    try:
        if hasattr(body, "close"):
            body.close()
    except Exception:
        log.exception("closing a response's body failed")


def _close_and_work(body: object, request: Request, background: Background) -> None:
    """Nothing more of the body is wanted: the answer is sent."""
    _close(body)
    run_background(request, background)


class Body:
    """A body in pieces, for the server to take and to close."""

    def __init__(self, pieces: Iterator[bytes], close: Callable[[], object], context: contextvars.Context) -> None:
        self._context = context
        self._pieces = pieces
        self._close: Callable[[], object] | None = close

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        return check_piece(self._context.run(next, self._pieces))

    def close(self) -> None:
        """Close what gives the pieces; a second time does nothing."""
        close, self._close = self._close, None
        if close is not None:
            self._context.run(close)


class Stream:
    """`request.stream` of a threaded handler."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def read(self) -> bytes:
        """All that is left of the body."""
        return joined(self._pieces)


def request_of(environ: Environ) -> Request:
    """The request that an environment says of, without its body.

    The server has checked whom it is from: X-Forwarded-* and Forwarded are fields like any other.
    """
    fields = tuple(
        (name.removeprefix("HTTP_").replace("_", "-").lower(), value)
        for name, value in environ.items()
        # What a server may have as HTTP_CONTENT_LENGTH is another field, as Content_Length (RFC 3875, 4.1.18).
        if (name.startswith("HTTP_") and name not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"))
        or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    )
    peer = Peer(_client(environ), environ["wsgi.url_scheme"])
    request = Request(environ["REQUEST_METHOD"], _target(environ), HeaderSection(fields), peer)
    request.script_name = quote((environ.get("SCRIPT_NAME") or "").encode("latin-1"), safe=_PATH)
    request.minor = 0 if environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else 1
    return request


def _client(environ: Environ) -> Client:
    """The client. Servers have no address for one whom they don't know, nor over unix sockets."""
    address = parse_address(environ.get("REMOTE_ADDR") or "")
    if address is None:
        return UNKNOWN_CLIENT
    port = environ.get("REMOTE_PORT") or ""
    return str(address), int(port) if port.isascii() and port.isdecimal() else 0


def _target(environ: Environ) -> bytes:
    """The request-target below SCRIPT_NAME: as it was sent where the server says, else made anew of PATH_INFO."""
    raw = (environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    info = environ.get("PATH_INFO") or ""
    if raw == "*" and environ["REQUEST_METHOD"] == "OPTIONS":
        return b"*"
    if not raw.startswith("/") or unquote_to_bytes(raw.encode("latin-1", "replace")).decode("latin-1") != info:
        raw = quote((info or "/").encode("latin-1"), safe=_PATH)
    query = environ.get("QUERY_STRING") or ""
    return (f"{raw}?{query}" if query else raw).encode("latin-1")


def _pieces(environ: Environ) -> Iterator[bytes]:
    """The body. Raises `HTTPError` 400 for a length that is none, `ClientDisconnect` when some of it is missing."""
    stream = environ["wsgi.input"]
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared and not (declared.isascii() and declared.isdecimal()):
        raise HTTPError(400, "the Content-Length is not a decimal number")
    # Without a length the end is the end of the input, if the server says that it has one.
    left = int(declared) if declared else None if environ.get("wsgi.input_terminated") else 0
    while left != 0:
        try:
            piece = stream.read(PIECE_SIZE if left is None else min(PIECE_SIZE, left))
        except OSError as error:
            raise ClientDisconnect(str(error)) from error
        if not piece:
            break
        left = None if left is None else left - len(piece)
        yield piece
    if left:
        raise ClientDisconnect("the connection ended before the request did")


def _limited(environ: Environ, limit: int) -> Iterator[bytes]:
    """`_pieces` of at most `limit` bytes. Raises `HTTPError` 413, before anything is read if the length is known."""
    declared = environ.get("CONTENT_LENGTH") or ""
    size = int(declared) if declared.isascii() and declared.isdecimal() else 0
    if size > limit:
        raise body_too_large(limit)
    size = 0
    for piece in _pieces(environ):
        size += len(piece)
        if size > limit:
            raise body_too_large(limit)
        yield piece


def _length(request: Request, body: object, declared: int | None) -> int | None:
    """The Content-Length; None: nobody knows it. Raises `ValueError` when the declared one is wrong."""
    if isinstance(body, Slice):
        return body.count
    if not isinstance(body, bytes):
        return declared
    if declared not in (None, len(body)) and (body or request.method != "HEAD"):
        raise ValueError(f"the response declares Content-Length: {declared}, its body has {len(body)} bytes")
    return len(body) if declared is None else declared
