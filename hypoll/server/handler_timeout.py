"""Handlers that have a time limit: an async one is cancelled, and a thread is left to itself.

Laws: a thread can't be stopped. Its client is answered without it; what it still gives is dropped, and until then it is
counted as overdue. It keeps its place in the pool: others can't take it, or there would be ever more of them.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from hypoll.concurrency.thread_pool import ThreadPool
from hypoll.contracts import HandlerCall, RunOn
from hypoll.loop import Timer
from hypoll.protocol.messages import Response
from hypoll.protocol.refusals import handler_too_slow
from hypoll.server.exchange import Exchange
from hypoll.server.thread_stream import ThreadStream

log = logging.getLogger("hypoll.error")


def limit_task(handler: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Cancel an async handler after so many seconds, and raise `HTTPError` 504 in its place."""

    @functools.wraps(handler)
    async def limited(*arguments: Any, **params: Any) -> Any:
        import asyncio  # it is loaded where a task runs: only the name is looked up

        try:
            async with asyncio.timeout(seconds) as scope:
                return await handler(*arguments, **params)
        except TimeoutError:
            if not scope.expired():
                raise  # the handler's own
        raise handler_too_slow(seconds)

    return limited


def limit_calls(seconds: float, *calls: HandlerCall | None) -> None:
    """Have the client of a threaded handler answered after so many seconds, 504 if it hasn't come to its end."""
    for call in calls:
        if call is not None:
            call.exchange = functools.partial(TimedExchange, seconds)
            call.plain_exchange = functools.partial(PlainTimedExchange, seconds)


class TimedExchange(Exchange):
    """An exchange whose handler's thread has so many seconds, from when it is asked for.

    Who makes one sets all that `Exchange` takes.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._timer: Timer | None = None
        self._timed_out = False

    def start(self) -> None:
        """Have the handler run, and the time."""
        on_thread = self.handler_call.run_on is RunOn.THREAD
        has_room = not self.server.thread_pool.full
        super().start()
        if on_thread and has_room:
            self._timer = self.server.loop.call_later(self.seconds, self._on_timeout)

    def end(self) -> None:
        """The answer is sent, or nobody will read it."""
        self._stop_timer()
        super().end()

    def finish(self) -> None:
        """The handler has come back from its thread."""
        self._stop_timer()
        if not self._timed_out:
            super().finish()
            return
        self._stream = None
        self._answer = b""
        self.server.thread_pool.overdue -= 1

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """`Exchange.in_thread`, for so many seconds. Raises `HTTPError` 504."""
        import asyncio

        watched = _WatchedCall(call, self.server.thread_pool)
        try:
            async with asyncio.timeout(self.seconds) as scope:
                return await super().in_thread(watched.run)
        except TimeoutError:
            if not scope.expired():
                raise
        watched.leave()
        self._leave_thread()
        raise handler_too_slow(self.seconds)

    def _leave_thread(self) -> None:
        """Leave the thread to the call that goes on: what comes now, the body of an answer or its work, has another."""
        lease, self._lease, self._thread_context = self._lease, None, None
        if lease is not None:
            lease.release()

    def _respond(self, answer: Response | bytes) -> None:
        self._stop_timer()
        if not self._timed_out:
            super()._respond(answer)
        elif isinstance(answer, Response) and isinstance(answer.body, ThreadStream):
            answer.body.close()

    def _on_timeout(self) -> None:
        self._timer = None
        connection, pool, request = self.connection, self.server.thread_pool, self.request
        if connection is None or self._sent:  # the head of its stream is on its way
            return
        self._timed_out = True
        if not pool.withdraw(self):
            pool.overdue += 1
            where, name = f"{request.method} {request.raw_path}", request.id
            text = "%s took longer than %g s: its thread goes on, request %s"
            log.warning(text, where, self.seconds, name, extra={"request_id": name})
        error = handler_too_slow(self.seconds)
        if self.request_body is not None:
            self.request_body.fail(error)  # a thread that waits for the body has not failed by itself
        connection.respond(self._refusal(error))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


class PlainTimedExchange(TimedExchange):
    """One that is started where it is made, as `hypoll.server.exchange.PlainExchange` is."""

    started = True


class _WatchedCall:
    """A call of which is known whether it still runs when nobody waits for it any more."""

    def __init__(self, call: Callable[[], Any], pool: ThreadPool) -> None:
        self._call = call
        self._pool = pool
        self._lock = threading.Lock()
        self._running = self._left = False

    def run(self) -> Any:
        """Make the call. On its thread."""
        self._running = True
        try:
            return self._call()
        finally:
            with self._lock:
                self._running = False
                left = self._left
            if left:
                self._pool.loop.call_soon_threadsafe(self._come_back)

    def leave(self) -> None:
        """Wait for it no longer. On the loop's thread."""
        with self._lock:
            self._left = self._running
            self._pool.overdue += self._left

    def _come_back(self) -> None:
        self._pool.overdue -= 1
