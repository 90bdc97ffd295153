"""A request whose handler works on a thread or in a task: from its hand-over until its answer is sent.

Its laws:

- It belongs to one connection until it is abandoned (the client has gone) or finished (the answer is sent), and then
  to none: `connection` is None, and whatever comes of the handler is dropped.
- The handler is told of a client that goes: by the body it reads, by the body it gives, or by the cancelling of its
  task. A thread can't be told otherwise; a call that hasn't begun isn't made.
- All of its code that runs on threads runs on one: hooks, handler, each piece of its body, and what closes that. It
  runs in one context; from a task to the thread a copy of the task's goes along, as with `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from orjson import dumps

from hypoll.answers import close_body, ends_task, server_error, with_body
from hypoll.bodies import TaskSource, log_cut
from hypoll.contracts import Deferred, Kind
from hypoll.encode import CONTENTLESS, framer_of
from hypoll.files import File, OpenFile, Slice
from hypoll.forks import keep_out
from hypoll.http import RequestParser
from hypoll.intake import Intake, TaskIntake, ThreadIntake
from hypoll.jobs import Job, Lease, NoThreadError
from hypoll.loop import Loop
from hypoll.message import FAILURES, ClientDisconnect, Request, Response, StreamedRequest, pairs, problem
from hypoll.refusals import busy, too_slow
from hypoll.settings import Settings
from hypoll.spool import SpoolSpace
from hypoll.thread_stream import ThreadStream
from hypoll.threads import Threads

if TYPE_CHECKING:
    import asyncio

    from hypoll.tasks import Tasks

_LIFELESS = (bytes, str, bytearray, memoryview, File, OpenFile, Slice)
"""Bodies that run no code of the application."""

# A plain name: an Enum's attribute costs the hot path two look-ups more.
_THREADED = Kind.THREADED


class Means(Protocol):
    """What there is to work with; see `hypoll.shared.Shared`."""

    loop: Loop
    threads: Threads
    tasks: Tasks | None
    spool: SpoolSpace
    settings: Settings


class Carrier(Protocol):
    """What an exchange needs of its connection."""

    parser: RequestParser
    readable: bool

    def respond(self, answer: Response | bytes) -> None:
        """Send the answer."""

    def on_demand(self) -> None:
        """Read on: the handler wants more of the body."""

    def close(self) -> None:
        """Close the connection."""


class Exchange(Job):
    """One request, its handler elsewhere, and what is known of both.

    context: what the application's code for this request runs in.
    intake: the body, while the connection has more of it to read.
    source: the async iterator that is the response's body.
    """

    intake: Intake | None = None
    source: TaskSource | None = None
    started = False
    broken = False
    """Whether the request's body will never be whole: nothing can follow its answer."""
    _begun = False
    _ending = False
    """Whether the body was ended by the server, which goes away."""
    _sent = False
    """Whether the answer was sent by the handler's thread itself, before its end."""
    _stream: ThreadStream | None = None
    _lease: Lease | None = None
    """The thread of an async handler's request that runs something on one."""
    _thread_context: contextvars.Context | None = None
    _task: asyncio.Task[None] | None = None
    _answer: Response | bytes = b""
    _starved_at: float | None = None
    _waited = 0.0

    def __init__(
        self, connection: Carrier, means: Means, request: Request, deferred: Deferred, context: contextvars.Context
    ) -> None:
        self.connection: Carrier | None = connection
        self.means = means
        self.request = request
        self.deferred = deferred
        self.context = context

    def on_half_close(self) -> None:
        """The peer has ended its side: it may have gone, or still read."""

    def on_drain(self) -> bool:
        """The server begins to go away. Whether the answer comes to its end by that."""
        return False

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
        self._task = tasks.make(self._run(tasks), loop=tasks.asyncio, name=deferred.name, context=self.context)

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

    # the handler on a thread

    def run(self) -> None:
        """The handler, on a thread, in the request's context."""
        if self.connection is None:
            return  # the client has gone in the moment that a thread took this
        deferred, request = self.deferred, self.request
        try:
            try:
                direct = deferred.direct
                if direct is None:
                    answer = deferred.settle(deferred.call(request, self))
                else:
                    result = direct(request)
                    # `settle`, without a call
                    answer = dumps(result) if type(result) is dict else deferred.settle(result)
                if type(answer) is not bytes and answer is not None and _has_code(answer):
                    answer = self._send_body(answer)  # type: ignore[arg-type]
            except FAILURES as error:
                answer = self._fail(error)
        except BaseException as error:
            answer = self._escaped(error)  # an interrupt: it isn't this thread that gets it
        self._answer = answer

    def finish(self) -> None:
        """The handler has come back from its thread."""
        if self._sent:
            self._stream = None  # which leads back here
            return
        # `_respond`, without a call: an answer that wasn't sent has no stream to be closed.
        connection = self.connection
        if connection is not None:
            connection.respond(self._answer)
        self._answer = b""

    def reject(self) -> None:
        """There is no thread for the handler."""
        self._respond(problem(busy(), self.request.id))

    def _fail(self, error: BaseException) -> Response | bytes:
        """The answer of a handler that has raised; where its head is sent already, its body fails."""
        stream = self._stream
        if stream is not None:
            stream.fail(error)
            return b""
        return self.deferred.fail(self.request, error)

    def send(self, answer: Response) -> None:
        """Send an answer before the handler's end. On its thread."""
        keep_out()
        self._sent = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.means.loop.call_soon_threadsafe(self._respond, answer)

    def start_stream(self, response: Response) -> ThreadStream:
        """Send the head of a response; give what takes its body, piece by piece. On the handler's thread.

        Raises `HTTPError` 503 when too many threads stream, `ValueError` or `TypeError` for a head that can't be sent.
        """
        means, job = self.means, self._lease or self
        response = with_body(response, response.body)
        response.headers = [*pairs(response.headers)]  # once: a mapping may be of the application's own making
        framer = framer_of(response, self.request)
        stream = ThreadStream(job, means.threads, means.spool, framer)
        stream.heartbeat = getattr(response.body, "heartbeat", None)
        stream.interval = getattr(response.body, "interval", None)
        stream.ends_with_server = getattr(response.body, "ends_with_server", False)
        if not means.threads.begin_stream(job):
            raise busy()
        self._stream = stream
        self.send(with_body(response, stream))
        return stream

    @contextlib.contextmanager
    def wait_outside(self) -> Iterator[None]:
        """Let the handler's thread not count while it waits for the client."""
        threads, job = self.means.threads, self._lease or self
        left = threads.leave(job)
        try:
            yield
        finally:
            if left:
                threads.come_back(job)

    def _send_body(self, response: Response) -> Response | bytes:
        """Make the pieces of a body and close it, here where its handler ran; or give what else is to be sent."""
        body: Any = response.body
        if isinstance(body, (AsyncIterable, Mapping)) or not hasattr(body, "__iter__"):
            return response  # which can't be sent: told where the others are
        if self.connection is None or self.request.method == "HEAD" or response.status in CONTENTLESS:
            close_body(body)
            return with_body(response, iter(()))
        try:
            stream = self.start_stream(response)
        except BaseException:
            close_body(body)
            raise
        pieces = None
        try:
            pieces = iter(body)
            for piece in pieces:
                stream.write(piece)
            stream.finish()
        except FAILURES as error:
            stream.fail(error)
        finally:
            close_body(pieces)
            if body is not pieces:
                close_body(body)
        return b""

    def _respond(self, answer: Response | bytes) -> None:
        """Send an answer, if somebody is there to get it. On the loop's thread."""
        connection = self.connection
        if connection is not None:
            connection.respond(answer)
        elif not isinstance(answer, bytes) and isinstance(answer.body, ThreadStream):
            answer.body.close()

    # the handler in a task

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """Await what `call()` gives on the request's thread, in a copy of the present context.

        Raises `HTTPError` 503 when there is no thread for it.
        """
        self._thread_context = context = contextvars.copy_context()
        return await self._on_lease(call, context)

    async def _on_lease(self, call: Callable[[], Any], context: contextvars.Context) -> Any:
        tasks, threads = self.means.tasks, self.means.threads
        assert tasks is not None
        if self._lease is None:
            if threads.full:
                raise busy()
            self._lease = Lease(threads)
            import asyncio  # it is loaded where a task runs: only the name is looked up

            task = asyncio.current_task()
            if task is not None:
                self._lease.on_left = task.cancel
        try:
            return await tasks.in_thread(self._lease, call, context)
        except NoThreadError:
            raise busy() from None

    async def _send_body_on_thread(self, response: Response) -> None:
        """Have the request's thread make the body, in the context of the handler that gave it."""
        context = self._thread_context or contextvars.copy_context()
        try:
            answer = await self._on_lease(partial(self._send_body, response), context)
        except FAILURES as error:
            if ends_task(error) and (self._sent or self.connection is None):
                raise  # nobody waits for more of it
            answer = self.deferred.fail(self.request, error)
        if not self._sent:
            self._respond(answer)

    async def _run(self, tasks: Tasks) -> None:  # noqa: C901 - one path, without calls on it
        """The task of a request."""
        deferred, request = self.deferred, self.request
        self._begun = True
        try:
            if self.connection is None:
                return  # the client has gone already: a task cancelled before it begins never comes to its end below
            try:
                direct = deferred.direct
                if direct is None:
                    answer = deferred.settle(await deferred.call(request, self.in_thread))
                else:
                    result = await direct(request)
                    answer = dumps(result) if type(result) is dict else deferred.settle(result)  # as above
            except FAILURES as error:
                if not ends_task(error):
                    answer = deferred.fail(request, error)
                elif self.connection is None:
                    raise
                else:
                    # Nobody has cancelled the task or closes its coroutine: this is of something of the handler's own.
                    answer = self._escaped(error)
            self._task = None
            connection = self.connection
            threaded = deferred.handler is _THREADED and _has_code(answer)
            if connection is not None and not threaded:
                connection.respond(answer)
            if threaded:
                await self._send_body_on_thread(answer)  # type: ignore[arg-type]
            elif type(answer) is not bytes:
                await self._see_to_body(answer.body)  # type: ignore[union-attr]
        finally:
            lease, self._lease = self._lease, None
            if lease is not None:
                lease.release()
            tasks.count -= 1
            if not tasks.count:
                tasks.on_idle()

    def end_body(self) -> None:
        """Have the task come to its end whose body nobody waits for any more, though it could go on."""
        if self.source is not None:
            self._ending = True
            if self._task is not None:
                self._task.cancel()

    async def _see_to_body(self, body: object) -> None:
        """Give a body that is an async iterator, or close it when it isn't to be sent, as of HEAD."""
        source = self.source
        try:
            if source is not None and self._ending:
                await source.drop()
            elif source is not None:
                import asyncio

                self._task = asyncio.current_task() if self.connection is not None else None
                await source.run()
            elif hasattr(body, "aclose"):
                await body.aclose()
        except KeyboardInterrupt:
            raise
        except FAILURES as error:
            connection = self.connection
            if ends_task(error) and (connection is None or self._ending):
                if self._ending:
                    return
                raise
            if source is None:
                log_cut(error)
            else:
                source.fail(error)

    def _escaped(self, error: BaseException) -> Response:
        """Answer what came out of a handler and is no failure that its application answers."""
        keep_out(error)
        return server_error(self.request, error)

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
            return ThreadIntake(lambda: loop.call_soon_threadsafe(demand), self.wait_outside)
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

    def extend(self, seconds: float) -> None:
        """Let the client have so many seconds more, in which the server didn't run."""
        if self._starved_at is not None:
            self._starved_at += seconds

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
            if not self.connection.readable and self._too_slow(self.connection.parser.received):
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


def exchange_of(
    connection: Carrier, means: Means, request: Request, deferred: Deferred, context: contextvars.Context
) -> Exchange:
    """The exchange that runs a deferred answer; it isn't started."""
    if deferred.exchange is None:
        return Exchange(connection, means, request, deferred, context)
    made: Exchange = deferred.exchange()
    made.connection, made.means, made.context = connection, means, context
    made.request, made.deferred = request, deferred
    return made


class PlainExchange(Exchange):
    """One that is started where it is made, on the hot path: its connection has nothing else to see to, so that a plain
    answer can be sent in the plainest way. Who makes one sets all that `Exchange` takes: that spares a call.
    """

    started = True
    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__


def _has_code(answer: Response | bytes) -> bool:
    """Whether the body runs code of the application."""
    return not isinstance(answer, bytes) and not isinstance(answer.body, _LIFELESS)
