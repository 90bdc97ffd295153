"""A request whose handler works on a thread or in a task: from its hand-over until its answer is sent.

Its laws:

- It belongs to one connection until it is abandoned (the client has gone) or finished (the answer is sent), and then
  to none: `connection` is None, and whatever comes of the handler is dropped.
- The handler is told of a client that goes: by the body it reads, or by the cancelling of its task. A thread can't be
  told otherwise; a call that hasn't begun isn't made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from orjson import dumps

from hypoll.bodies import TaskSource, close_stream, log_cut
from hypoll.http import (
    FAILURES,
    ClientDisconnect,
    Deferred,
    HTTPError,
    Kind,
    Request,
    RequestParser,
    Response,
    StreamedRequest,
    problem,
)
from hypoll.intake import Intake, TaskIntake, ThreadIntake
from hypoll.loop import Loop
from hypoll.settings import Settings
from hypoll.tasks import EAGER, Tasks
from hypoll.threads import Job, Threads

RETRY_AFTER = 1
"""Seconds a client is asked to wait when the thread pool's queue is full."""

# A plain name: an Enum's attribute costs the hot path two look-ups more.
_THREADED = Kind.THREADED

log = logging.getLogger("hypoll.error")


class Means(Protocol):
    """What there is to work with; see `hypoll.connection.Shared`."""

    loop: Loop
    threads: Threads
    tasks: Tasks | None
    settings: Settings

    def in_thread(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """Await what a blocking function gives."""
        ...


class Carrier(Protocol):
    """What an exchange needs of its connection."""

    parser: RequestParser

    def respond(self, answer: Response | bytes) -> None:
        """Send the answer."""

    def on_demand(self) -> None:
        """Read on: the handler wants more of the body."""

    def close(self) -> None:
        """Close the connection."""


class Exchange(Job):
    """One request, its handler elsewhere, and what is known of both.

    intake: the body, while the connection has more of it to read.
    source: the async iterator that is the response's body.
    """

    intake: Intake | None = None
    source: TaskSource | None = None
    started = False
    broken = False
    """Whether the request's body will never be whole: nothing can follow its answer."""
    _begun = False
    _task: asyncio.Task[None] | None = None
    _answer: Response | bytes = b""
    _starved_at: float | None = None
    _waited = 0.0

    def __init__(self, connection: Carrier, means: Means, request: Request, deferred: Deferred) -> None:
        self.connection: Carrier | None = connection
        self.means = means
        self.request = request
        self.deferred = deferred

    def start(self) -> None:
        """Have the handler run where it is to."""
        means, deferred = self.means, self.deferred
        if deferred.stream:
            self._open_intake()
        if deferred.kind is _THREADED:
            threads = means.threads
            # `threads.full`, without a call.
            if threads.unfinished >= threads.room and self.connection is not None:
                self.connection.respond(problem(busy(), self.request.id))
            else:
                threads.submit(self)
            return
        tasks = means.tasks
        if tasks is None:
            raise RuntimeError("an async handler needs a server that runs on asyncio")
        tasks.count += 1
        if EAGER:
            self._task = tasks.new(self._run(tasks), name=deferred.name)
        else:
            # `tasks.new`, without a call.
            self._task = asyncio.Task(self._run(tasks), loop=tasks.asyncio, name=deferred.name)

    def abandon(self) -> None:
        """The client has gone."""
        task, intake = self._task, self.intake
        told = intake is not None and intake.hungry
        if intake is not None:
            intake.fail(ClientDisconnect("the client has gone"))
        self.end()
        if self.deferred.kind is Kind.THREADED:
            self.means.threads.withdraw(self)
        elif task is not None and self._begun and not told:  # a task that waits for the body is told by that
            task.cancel()

    def end(self) -> None:
        """The answer is sent, or nobody will read it."""
        self.connection = self._task = None
        intake, self.intake = self.intake, None
        if intake is not None:
            intake.fail(RuntimeError("the request is answered: nothing more of its body is read"))

    # the handler

    def _drop(self, answer: Response | bytes) -> None:
        """Close the body of an answer that nobody will get."""
        body: Any = b"" if isinstance(answer, bytes) else answer.body
        if not hasattr(body, "close"):
            return
        if self.deferred.handler is _THREADED:
            self.means.threads.call(lambda: close_stream(body), _nothing)
        else:
            close_stream(body)

    def run(self) -> None:
        """The handler, on a thread."""
        if self.connection is None:
            return  # the client has gone in the moment that a thread took this
        deferred, request = self.deferred, self.request
        try:
            try:
                direct = deferred.direct
                if direct is None:
                    self._answer = deferred.settle(deferred.call(request, None))
                else:
                    result = direct(request)
                    # `settle`, without a call
                    self._answer = dumps(result) if type(result) is dict else deferred.settle(result)
            except FAILURES as error:
                self._answer = deferred.fail(request, error)
        except BaseException as error:
            self._answer = self._escaped(error)  # an interrupt: it isn't this thread that gets it

    def finish(self) -> None:
        """The handler has come back from its thread."""
        connection = self.connection
        if connection is not None:
            connection.respond(self._answer)
        else:
            self._drop(self._answer)
        self._answer = b""

    async def _run(self, tasks: Tasks) -> None:
        """The task of a request."""
        deferred, request = self.deferred, self.request
        self._begun = True
        try:
            if self.connection is None:
                return  # the client has gone already: a task cancelled before it begins never comes to its end below
            try:
                direct = deferred.direct
                if direct is None:
                    answer = deferred.settle(await deferred.call(request, self.means.in_thread))
                else:
                    result = await direct(request)
                    answer = dumps(result) if type(result) is dict else deferred.settle(result)  # as above
            except (asyncio.CancelledError, GeneratorExit) as error:
                if self.connection is None:
                    raise
                # Nobody has cancelled the task or closes its coroutine: this is of something of the handler's own.
                answer = self._escaped(error)
            except FAILURES as error:
                answer = deferred.fail(request, error)
            self._task = None
            connection = self.connection
            if connection is not None:
                connection.respond(answer)
            else:
                self._drop(answer)
            if type(answer) is not bytes:
                await self._see_to_body(answer.body)  # type: ignore[union-attr]
        finally:
            tasks.count -= 1
            if not tasks.count:
                tasks.on_idle()

    async def _see_to_body(self, body: object) -> None:
        """Give a body that is an async iterator, or close it when it isn't to be sent, as of HEAD."""
        source = self.source
        try:
            if source is not None:
                self._task = asyncio.current_task() if self.connection is not None else None
                await source.run()
            elif hasattr(body, "aclose"):
                await body.aclose()
        except KeyboardInterrupt:
            raise
        except FAILURES as error:
            connection = self.connection
            if connection is None and isinstance(error, (asyncio.CancelledError, GeneratorExit)):
                raise
            log_cut(error)
            if source is not None and connection is not None:
                connection.close()

    def _escaped(self, error: BaseException) -> Response:
        """Answer what came out of a handler and is no failure that its application answers."""
        request = self.request
        where, name = f"{request.method} {request.raw_path}", request.id
        log.error("%s failed, request %s", where, name, exc_info=error, extra={"request_id": name})
        return problem(HTTPError(500, "the server failed to answer; the log has the reason under this id"), name)

    # the body, as it comes

    def _open_intake(self) -> None:
        """Make the request one whose body is its stream."""
        connection, request = self.connection, self.request
        assert connection is not None
        intake = self._make_intake(connection)
        body = request.__dict__.pop("body", b"")
        request.__class__ = StreamedRequest
        request.__dict__["stream"] = intake
        if connection.parser.incoming is request:
            self.intake = intake
            intake.put(connection.parser.stream())
        else:
            intake.put([body] if body else [])
            intake.end()

    def _make_intake(self, connection: Carrier) -> Intake:
        loop, demand = self.means.loop, connection.on_demand
        # Not at once for a task, either: one that reads from a fast client must let the others run.
        if self.deferred.handler is _THREADED:
            return ThreadIntake(lambda: loop.call_soon_threadsafe(demand))
        return TaskIntake(lambda: loop.call_soon(demand))

    @property
    def starved(self) -> bool:
        """Whether the handler waits for the client."""
        return self._starved_at is not None

    def starve(self) -> None:
        """Mark whether the handler waits for the client: while it does the client's time runs."""
        if self.intake is None or not self.intake.hungry:
            self._starved_at = None
        elif self._starved_at is None:
            self._starved_at = self.means.loop.now

    def feed(self, whole: bool) -> None:
        """Give the handler what the parser has of the body; `whole`: that was the last of it.

        The client is held to its pace while the handler waits for it, not while it waits for the handler.
        """
        intake = self.intake
        if intake is None or self.connection is None:
            return
        if self._starved_at is not None:
            now = self.means.loop.now
            self._waited += now - self._starved_at
            self._starved_at = now
            if self._too_slow(self.connection.parser.received):
                self.fail(too_slow())
                return
        pieces = self.connection.parser.take()
        if pieces:
            self._starved_at = None
        intake.put(pieces)
        if whole:
            self.intake = None
            intake.end()

    def _too_slow(self, received: int) -> bool:
        settings = self.means.settings
        return self._waited > settings.body_timeout and received < settings.min_body_rate * self._waited

    def fail(self, error: Exception) -> None:
        """The body will never be whole: its handler is told, and this is its connection's last request."""
        intake, self.intake = self.intake, None
        self.broken = True
        self._starved_at = None
        self.end_connection()
        if intake is not None:
            intake.fail(error)

    def end_connection(self) -> None:
        """Have the answer say that the connection ends with it."""
        self.request.keep_alive = False
        self.request.plain = False


class PlainExchange(Exchange):
    """One that is started where it is made, on the hot path: its connection has nothing else to see to, so that a plain
    answer can be sent in the plainest way. Who makes one sets all that `Exchange` takes: that spares a call.
    """

    started = True
    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__


def too_slow() -> HTTPError:
    """The refusal of a body that doesn't come."""
    return HTTPError(408, "the request body took too long")


def busy() -> HTTPError:
    """The refusal of a request for which the thread pool has no room."""
    return HTTPError(503, "the server is busy: try again later", {"Retry-After": str(RETRY_AFTER)})


def _nothing(call: object) -> None:
    """Take up nothing of what a thread did."""
