"""A request whose handler works on a thread or in a task: from its hand-over until its answer is sent.

Its laws:

- It belongs to one connection until it is abandoned (the client has gone) or finished (the answer is sent), and then
  to none: `connection` is None, and whatever comes of the handler is dropped.
- The handler is notified of a client that goes: by the body it reads, by the body it gives, or by the cancelling of its
  task. A thread can't be notified otherwise; a call that hasn't begun isn't made.
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

from hypoll.concurrency.forks import keep_out
from hypoll.concurrency.jobs import Job, Lease, NoThreadError
from hypoll.concurrency.thread_pool import ThreadPool
from hypoll.contracts import Application, HandlerCall, RunOn
from hypoll.http import RequestParser
from hypoll.loop import Loop
from hypoll.protocol.current_request import mark_current
from hypoll.protocol.files import File
from hypoll.protocol.messages import FAILURES, ClientDisconnect, HTTPError, Request, Response, StreamedRequest, problem
from hypoll.protocol.open_file import OpenFile
from hypoll.protocol.refusals import busy, too_slow
from hypoll.protocol.serializer import CONTENTLESS, framer_of
from hypoll.protocol.slices import Slice
from hypoll.server.body_memory import WaitingOutput
from hypoll.server.request_body import RequestBody, TaskRequestBody, ThreadRequestBody
from hypoll.server.response_body import TaskSource, log_cut
from hypoll.server.spool import SpoolSpace
from hypoll.server.thread_stream import ThreadStream
from hypoll.settings import Settings
from hypoll.web.background import Background, await_background, check_work, log_failed, run_background
from hypoll.web.results import close_body, ends_task, server_error, with_body

if TYPE_CHECKING:
    import asyncio

    from hypoll.concurrency.asyncio_bridge import AsyncioBridge
    from hypoll.server.answer_batch import AnswerBatch

_LIFELESS = (bytes, str, bytearray, memoryview, File, OpenFile, Slice)
"""Bodies that run no code of the application."""

# A plain name: an Enum's attribute costs the hot path two look-ups more.
_THREADED = RunOn.THREAD


class ExchangeContext(Protocol):
    """What there is to work with; see `hypoll.server.context.ServerContext`."""

    loop: Loop
    thread_pool: ThreadPool
    asyncio_bridge: AsyncioBridge | None
    answer_batch: AnswerBatch | None
    spool_space: SpoolSpace
    waiting_output: WaitingOutput
    settings: Settings
    application: Application


class ExchangeConnection(Protocol):
    """What an exchange needs of its connection."""

    parser: RequestParser
    readable: bool

    def respond(self, answer: Response | bytes) -> None:
        """Send the answer."""

    def on_body_wanted(self) -> None:
        """Read on: the handler wants more of the body."""

    def close(self) -> None:
        """Close the connection."""


class Exchange(Job):
    """One request, its handler elsewhere, and what is known of both.

    Args:
        context: what the application's code for this request runs in.

    Attributes:
        request_body: the body, while the connection has more of it to read.
        source: the async iterator that is the response's body.
    """

    request_body: RequestBody | None = None
    source: TaskSource | None = None
    started = False
    body_broken = False
    """Whether the request's body will never be whole: nothing can follow its answer."""
    _failed_body: RequestBody | None = None
    """The body that won't be."""
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
    """The handler's task, while the client's going is to end it."""
    _has_answered = False
    """Whether the handler has given its answer, and the task what is behind that."""
    _answer: Response | bytes = b""
    _waits_for_body_since: float | None = None
    _waited = 0.0

    def __init__(
        self,
        connection: ExchangeConnection,
        server: ExchangeContext,
        request: Request,
        handler_call: HandlerCall,
        context: contextvars.Context,
    ) -> None:
        self.connection: ExchangeConnection | None = connection
        self.server = server
        self.request = request
        self.handler_call = handler_call
        self.context = context

    def on_half_close(self) -> None:
        """The peer has ended its side: it may have gone, or still read."""

    def on_drain(self) -> bool:
        """The server begins to go away. Whether the answer comes to its end by that."""
        return False

    def start(self) -> None:
        """Have the handler run where it is to."""
        server, handler_call = self.server, self.handler_call
        if not handler_call.begins_in_task:
            if handler_call.stream:
                self._open_request_body()
            if handler_call.run_on is _THREADED:
                pool = server.thread_pool
                # `pool.full`, without a call.
                if pool.unfinished >= pool.room and self.connection is not None:
                    self.connection.respond(self._refusal(busy()))
                else:
                    pool.submit(self)
                return
        bridge = server.asyncio_bridge
        if bridge is None:
            raise RuntimeError("an async handler needs a server that runs on asyncio")
        bridge.count += 1
        task = bridge.make(self._run(bridge), loop=bridge.asyncio, name=handler_call.name, context=self.context)
        if not self._has_answered:  # else an eager task knows better: its work isn't the client's to end
            self._task = task

    def abandon(self) -> None:
        """The client has gone."""
        task, request_body, failed = self._task, self.request_body, self._failed_body
        woken_by_body = (request_body is not None and request_body.waits_for_piece) or (
            failed is not None and failed.raises_soon
        )
        if request_body is not None:
            request_body.fail(ClientDisconnect("the client has gone"))
        self.end()
        if self.handler_call.run_on is RunOn.THREAD:
            self.server.thread_pool.withdraw(self)
        elif task is not None and self._begun and not woken_by_body:  # a task that waits for the body is woken by that
            task.cancel()

    def end(self) -> None:
        """The answer is sent, or nobody will read it."""
        self.connection = self._task = self._failed_body = None
        request_body, self.request_body = self.request_body, None
        if request_body is not None:
            request_body.fail(RuntimeError("the request is answered: nothing more of its body is read"))

    # the handler on a thread

    def run(self) -> None:
        """The handler, on a thread, in the request's context."""
        if self.connection is None:
            return  # the client has gone in the moment that a thread took this
        handler_call, request = self.handler_call, self.request
        mark_current(request)
        try:
            try:
                direct = handler_call.direct
                if direct is None:
                    answer = handler_call.to_answer(handler_call.call(request, self))
                else:
                    result = direct(request)
                    # `to_answer`, without a call
                    if type(result) is dict:
                        try:
                            answer = dumps(result)
                        except TypeError:
                            answer = handler_call.to_answer(result)
                    else:
                        answer = handler_call.to_answer(result)
                if (
                    type(answer) is not bytes
                    and answer is not None
                    and (
                        not answer.is_plain or _has_code(answer)  # type: ignore[union-attr]
                    )
                ):
                    answer = self._send_rest(answer)  # type: ignore[arg-type]
            except FAILURES as error:
                answer = self._fail(error)
        except BaseException as error:
            answer = self._escaped(error)  # an interrupt: it isn't this thread that gets it
        self._answer = answer

    def _send_rest(self, response: Response) -> Response | bytes:
        """Do what an answer still wants done on this thread, its body made and its work; give what is to be sent.

        Raises `TypeError` for work that would have to be awaited, before anything is sent.
        """
        if response.background is not None:
            check_work(response)
        answer = self._send_body(response) if _has_code(response) else response
        if response.background is not None:
            if not self._sent:
                self.send(answer)  # type: ignore[arg-type]
            run_background(self.request, response.background)
        return answer

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
        self._respond(self._refusal(busy()))

    def _refusal(self, error: HTTPError) -> Response:
        """The answer of the server's own."""
        return self.server.application.amend_refusal(self.request, problem(error, self.request.id))

    def _fail(self, error: BaseException) -> Response | bytes:
        """The answer of a handler that has raised; where its head is sent already, its body fails."""
        stream = self._stream
        if stream is not None:
            stream.fail(error)
            return b""
        return self.handler_call.answer_error(self.request, error)

    def send(self, answer: Response) -> None:
        """Send an answer before the handler's end. On its thread."""
        keep_out()
        self._sent = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.server.loop.call_soon_threadsafe(self._respond, answer)

    def start_stream(self, response: Response) -> ThreadStream:
        """Send the head of a response; give what takes its body, piece by piece. On the handler's thread.

        Raises:
            HTTPError: 503 when too many threads stream, `ValueError` or `TypeError` for a head that can't be sent.
        """
        server, job = self.server, self._lease or self
        framer = framer_of(response, self.request)
        stream = ThreadStream(job, server.thread_pool, server.spool_space, framer)
        stream.heartbeat = getattr(response.body, "heartbeat", None)
        stream.interval = getattr(response.body, "interval", None)
        stream.trailer = getattr(response.body, "trailer", None)
        stream.ends_with_server = getattr(response.body, "ends_with_server", False)
        if not server.thread_pool.begin_stream(job):
            raise busy()
        self._stream = stream
        self.send(with_body(response, stream))
        return stream

    @contextlib.contextmanager
    def leave_pool(self) -> Iterator[None]:
        """Let the handler's thread not count while it waits for the client."""
        pool, job = self.server.thread_pool, self._lease or self
        left = pool.detach(job)
        try:
            yield
        finally:
            if left:
                pool.attach(job)

    def _send_body(self, response: Response) -> Response | bytes:
        """Make the pieces of a body and close it, here where its handler ran; or give what else is to be sent."""
        body: Any = response.body
        if isinstance(body, (AsyncIterable, Mapping)) or not hasattr(body, "__iter__"):
            return response  # which can't be sent: logged where the others are
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

        Raises:
            HTTPError: 503 when there is no thread for it.
        """
        self._thread_context = context = contextvars.copy_context()
        return await self._on_lease(call, context)

    async def _on_lease(self, call: Callable[[], Any], context: contextvars.Context) -> Any:
        bridge, pool = self.server.asyncio_bridge, self.server.thread_pool
        assert bridge is not None
        if self._lease is None:
            if pool.full:
                raise busy()
            self._lease = Lease(pool)
            import asyncio  # it is loaded where a task runs: only the name is looked up

            task = asyncio.current_task()
            if task is not None:
                self._lease.on_abandoned = task.cancel
        try:
            return await bridge.in_thread(self._lease, call, context)
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
            answer = self.handler_call.answer_error(self.request, error)
        if not self._sent:
            self._respond(answer)

    async def _run(self, bridge: AsyncioBridge) -> None:  # noqa: C901 - one path, without calls on it
        """The task of a request."""
        handler_call, request = self.handler_call, self.request
        self._begun = True
        mark_current(request)
        try:
            if self.connection is None:
                return  # the client has gone already: a task cancelled before it begins never comes to its end below
            try:
                direct = handler_call.direct
                if direct is None:
                    answer = handler_call.to_answer(await handler_call.call(request, self.in_thread))
                else:
                    result = await direct(request)
                    if type(result) is dict:  # as above
                        try:
                            answer = dumps(result)
                        except TypeError:
                            answer = handler_call.to_answer(result)
                    else:
                        answer = handler_call.to_answer(result)
            except FAILURES as error:
                if not ends_task(error):
                    answer = handler_call.answer_error(request, error)
                elif self.connection is None:
                    raise
                else:
                    # Nobody has cancelled the task or closes its coroutine: this is of something of the handler's own.
                    answer = self._escaped(error)
            self._task = None
            if type(answer) is not bytes:
                await self._give_answer(answer)  # type: ignore[arg-type]
            elif self.connection is not None:
                self.connection.respond(answer)
        finally:
            if self._lease is not None:
                self._lease.release()
                self._lease = None
            # `bridge.on_task_end`, without a call
            bridge.count -= 1
            if not bridge.count:
                bridge.on_idle()

    async def _give_answer(self, answer: Response) -> None:
        """Send an answer that has a head of its own, with its body, and do its work."""
        self._has_answered = True
        connection = self.connection
        threaded = self.handler_call.body_run_on is _THREADED and _has_code(answer)
        if connection is not None and not threaded:
            connection.respond(answer)
        if threaded or not answer.is_plain:
            await self._finish_answer(answer, threaded)
        else:
            await self._finish_body(answer.body)

    async def _finish_answer(self, answer: Response, threaded: bool) -> None:
        """Give the body of an answer whose head is sent, or with `threaded` is to be made; then do its work."""
        try:
            if threaded:
                await self._send_body_on_thread(answer)
            else:
                await self._finish_body(answer.body)
        finally:
            background = answer.background
            if background is not None and not self.server.loop.stopping:
                if self.handler_call.body_run_on is _THREADED:
                    await self._work_on_thread(background)
                else:
                    await await_background(self.request, background)

    async def _work_on_thread(self, background: Background) -> None:
        """Have the request's thread do the work of an answer, in the context of the handler that gave it."""
        context = self._thread_context or contextvars.copy_context()
        try:
            await self._on_lease(partial(run_background, self.request, background), context)
        except HTTPError as error:  # there is no thread
            log_failed(self.request, background, error)

    def end_body(self) -> None:
        """Have the task come to its end whose body nobody waits for any more, though it could go on."""
        if self.source is not None:
            self._ending = True
            if self._task is not None:
                self._task.cancel()

    async def _finish_body(self, body: object) -> None:
        """Give a body that is an async iterator, or close it when it isn't to be sent, as of HEAD."""
        source = self.source
        try:
            if source is not None and self._ending:
                await source.drop()
            elif source is not None:
                import asyncio

                self._task = asyncio.current_task() if self.connection is not None else None
                await source.run()
                self._task = None  # what it does from here on isn't for the client: its work
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
        return self.server.application.amend_refusal(self.request, server_error(self.request, error))

    # the body, as it comes

    def _open_request_body(self) -> None:
        """Make the request one whose body is its stream."""
        connection, request = self.connection, self.request
        assert connection is not None
        request_body = self._make_request_body(connection)
        body = request.__dict__.pop("body", b"")
        request.__class__ = StreamedRequest
        request.__dict__["stream"] = request_body
        if connection.parser.incoming is request:
            self.request_body = request_body
            request_body.put(connection.parser.stream())
        else:
            request_body.put([body] if body else [])
            request_body.end()

    def _make_request_body(self, connection: ExchangeConnection) -> RequestBody:
        loop, demand = self.server.loop, connection.on_body_wanted
        # Not at once for a task, either: one that reads from a fast client must let the others run.
        if self.handler_call.body_run_on is _THREADED:
            return ThreadRequestBody(lambda: loop.call_soon_threadsafe(demand), self.leave_pool)
        return TaskRequestBody(lambda: loop.call_soon(demand))

    @property
    def waits_for_body(self) -> bool:
        """Whether the handler waits for the client."""
        return self._waits_for_body_since is not None

    def check_waits_for_body(self) -> None:
        """Mark whether the handler waits for the client: while it does the client's time runs."""
        if self.request_body is None or not self.request_body.waits_for_piece:
            self._waits_for_body_since = None
        elif self._waits_for_body_since is None:
            self._waits_for_body_since = self.server.loop.now

    def extend_deadline(self, seconds: float) -> None:
        """Let the client have so many seconds more, in which the server didn't run."""
        if self._waits_for_body_since is not None:
            self._waits_for_body_since += seconds

    def on_body_input(self, whole: bool) -> None:
        """Give the handler what the parser has of the body; `whole`: that was the last of it.

        The client is held to its pace while the handler waits for it, not while it waits for the handler.
        """
        request_body = self.request_body
        if request_body is None or self.connection is None:
            return
        if self._waits_for_body_since is not None:
            now = self.server.loop.now
            self._waited += now - self._waits_for_body_since
            self._waits_for_body_since = now
            if not self.connection.readable and self._too_slow(self.connection.parser.received):
                self.fail(too_slow())
                return
        pieces = self.connection.parser.take()
        if pieces:
            self._waits_for_body_since = None
        request_body.put(pieces)
        if whole:
            self.request_body = None
            request_body.end()

    def _too_slow(self, received: int) -> bool:
        settings = self.server.settings
        return self._waited > settings.body_timeout and received < settings.min_body_rate * self._waited

    def fail(self, error: Exception) -> None:
        """The body will never be whole: its handler is notified, and this is its connection's last request."""
        request_body, self.request_body = self.request_body, None
        self._failed_body = request_body
        self.body_broken = True
        self._waits_for_body_since = None
        self.end_connection()
        if request_body is not None:
            request_body.fail(error)

    def end_connection(self) -> None:
        """Have the answer say that the connection ends with it."""
        self.request.keep_alive = False
        self.request.plain = False


def exchange_of(
    connection: ExchangeConnection,
    server: ExchangeContext,
    request: Request,
    handler_call: HandlerCall,
    context: contextvars.Context,
) -> Exchange:
    """The exchange that runs a handler call; it isn't started."""
    if handler_call.exchange is None:
        return Exchange(connection, server, request, handler_call, context)
    made: Exchange = handler_call.exchange()
    made.connection, made.server, made.context = connection, server, context
    made.request, made.handler_call = request, handler_call
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
