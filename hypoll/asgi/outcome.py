"""What becomes of a request whose application has raised, or returned before its answer was whole."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from hypoll.asgi.errors import is_disconnect
from hypoll.concurrency.forks import keep_out
from hypoll.web.results import failure, server_error

if TYPE_CHECKING:
    from hypoll.asgi.cycle import Cycle

log = logging.getLogger("hypoll.error")


def on_raised(cycle: Cycle, error: BaseException) -> None:
    """Answer 500, or cut the answer; log the error once, unless it is that of a disconnect.

    Raises what means more than the request: an interrupt, and the cancelling of the task by the server.
    """
    keep_out(error)
    is_cancelled = isinstance(error, (asyncio.CancelledError, GeneratorExit))
    if isinstance(error, KeyboardInterrupt) or (is_cancelled and cycle.connection is None):
        raise error
    if cycle.heard and (is_disconnect(error) or not cycle.complete):
        _end_unheard(cycle, error)
    elif cycle.connection is None or cycle.stream is not None or cycle.complete:
        _end_in_answer(cycle, error)
    else:
        # An error of cancelling that nobody has asked for is something of the application's own.
        request = cycle.request
        cycle.connection.respond(cycle._escaped(error) if is_cancelled else failure(request, error))
        cycle.complete = True


def _end_unheard(cycle: Cycle, error: BaseException) -> None:
    """The application has made what it could of its client's end: no error, and one that clients cause at will."""
    if not is_disconnect(error):
        log.info("%s ended by %r when its client had gone, request %s", _where(cycle), error, cycle.request.id)
    error.__traceback__ = None  # it would keep what the error was raised in
    if not cycle.complete:
        cycle.cut()


def _end_in_answer(cycle: Cycle, error: BaseException) -> None:
    """The head is out, or nobody reads any more: only the log and the missing end can tell."""
    answered = cycle.complete or cycle.finished
    what = "after its answer" if answered else "when its client had gone" if cycle.gone else "in its answer"
    name = cycle.request.id
    extra = {"request_id": name}
    log.error("%s failed %s, request %s", _where(cycle), what, name, exc_info=error, extra=extra)
    error.__traceback__ = None
    if not answered:
        cycle.cut()


def on_returned(cycle: Cycle) -> None:
    """The application has returned, and hasn't sent all of its answer: cut it, or answer 500."""
    connection, request = cycle.connection, cycle.request
    if connection is None or cycle.finished:
        return
    if cycle.gone or cycle.client_ended:
        cycle.cut()
        return
    if cycle.stream is not None:
        extra = {"request_id": request.id}
        log.error("%s returned before the end of its answer, request %s", _where(cycle), request.id, extra=extra)
        cycle.cut()
        return
    what = "an answer" if cycle.head is None else "the body of its answer"
    cycle.complete = True
    connection.respond(server_error(request, None, f" returned without {what}"))


def _where(cycle: Cycle) -> str:
    return f"{cycle.request.method} {cycle.request.raw_path}"
