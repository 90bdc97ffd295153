"""Work that an answer leaves behind: `Response.background`.

Laws:

- It runs in the request's context once the handler and its hooks have answered, whatever becomes of the answer: also
  when the client has gone, or the answer couldn't be sent.
- What it raises is logged once, with the request; it changes nothing of the answer. That nobody will await it is known
  before, where it is an `async def`: then the answer is a 500, and nobody is told that it is done.
- A drain waits for it.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from hypoll.concurrency.forks import keep_out
from hypoll.protocol.current_request import calls_application
from hypoll.protocol.messages import FAILURES, Request, Response
from hypoll.web.naming import is_async, name_of, place_of
from hypoll.web.results import close_body, ends_task

Background = Callable[[], Any]

log = logging.getLogger("hypoll.error")


def check_work(response: Response) -> None:
    """See that nothing has to be awaited after an answer whose handler isn't async, or it is closed: `TypeError`."""
    background = response.background
    if background is not None and is_async(background):
        close_body(response.body)
        called = background.func if isinstance(background, functools.partial) else background
        raise TypeError(
            f"the background work {place_of(called)} is an async def: that goes with the answer of an async def handler"
        )


@calls_application
def run_background(request: Request, background: Background) -> None:
    """Do the work, which may not be async. Logs what it raises, and raises a signal's KeyboardInterrupt alone."""
    try:
        result = background()
        if isinstance(result, CoroutineType):
            result.close()
            raise TypeError("it is an async def: that goes with the answer of an async def handler")
    except FAILURES as error:
        # Of a signal it is on the main thread, and means the process.
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        log_failed(request, background, error)
    else:
        keep_out()


async def await_background(request: Request, background: Background) -> None:
    """The same in a task, where it may be async. Raises also what ends the task."""
    try:
        result = background()
        if isinstance(result, CoroutineType):
            await result
    except KeyboardInterrupt:
        raise
    except FAILURES as error:
        if ends_task(error):
            raise
        log_failed(request, background, error)
    else:
        keep_out()


def log_failed(request: Request, background: Background, error: BaseException) -> None:
    """Log what the work has raised, or why it wasn't done."""
    keep_out(error)
    called = background.func if isinstance(background, functools.partial) else background
    where, name = f"{request.method} {request.route or request.raw_path}", request.id
    text = "%s: the background work %s failed, request %s"
    log.error(text, where, name_of(called), name, exc_info=error, extra={"request_id": name})
    error.__traceback__ = None  # an application's constant would keep what it was raised in
