"""A request and its application's call (ASGI HTTP 2.5): what `receive` and `send` do, from the head to the task's end.

Laws:

- Each request is a task of its own, in a context of its own. What the application does after its answer holds neither
  the connection nor its next request; a drain waits for it.
- The start is held until the first piece of the body, and goes with it. Until then an error is answered 500; from then
  on only the missing end can tell the client.
- Nothing waits but who has to: an answer that is whole, or a request without body, makes no future.
- The application is notified of a client that goes, never cancelled: by `receive`, and by what `send` raises.
- Nothing ends a body but the application.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypoll.asgi.errors import DisconnectedError
from hypoll.asgi.extensions import EARLY_HINT, EXTENSIONS
from hypoll.asgi.outcome import on_raised, on_returned
from hypoll.asgi.request_body import ReceivedBody
from hypoll.asgi.response_body import ResponseBody
from hypoll.asgi.start import Message, ResponseStart
from hypoll.concurrency.asyncio_bridge import EAGER, AsyncioBridge
from hypoll.protocol.current_request import mark_current
from hypoll.protocol.fields import exact_bytes
from hypoll.protocol.messages import FAILURES, ClientDisconnect, HTTPError, Response
from hypoll.protocol.serializer import Framer
from hypoll.server.ending import cut_answer
from hypoll.server.exchange import Exchange
from hypoll.server.socket_io import JOIN_LIMIT, SEND_SIZE
from hypoll.server.waiting import respond_in_general

if TYPE_CHECKING:
    from hypoll.server.connection import Connection

PIECES_IN_A_ROW = 16
"""Pieces, if they are small, that an application sends before the others on its event loop have their turn."""


class Cycle(Exchange):
    """One request of an ASGI application.

    Attributes:
        complete: whether the application has sent all of its answer.
        finished: whether the answer is sent, or nothing more of it is.
        gone: whether nobody will get more of the answer.
        client_ended: whether the client has ended its side, of which the application is notified.
        heard: whether it received that the client has gone, or ended its side.
        head: what the application has started its answer with.
        stream: the answer's body, once the head is on its way.
        trailer_lines: the trailer fields so far.
    """

    connection: Connection | None
    complete = finished = False
    gone = client_ended = heard = False
    head: ResponseStart | None = None
    stream: ResponseBody | None = None
    trailer_lines = b""
    _body: ReceivedBody | None = None
    """The request's body, where it wasn't whole when the application was called."""
    _body_complete = False
    """Whether it has sent all of its body, and trailer fields are to come."""
    _given = False
    """Whether it has received all of its request."""
    _waiters: dict[int, asyncio.Future[None]] | None = None
    """What calls wait for, by the order in which they began to."""
    _calls = 0
    _in_a_row = 0
    """Bytes sent since others had their turn, a piece counting as a part of a turn at the least."""

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__

    # the connection's side

    def start(self) -> None:
        """Call the application."""
        connection, tasks = self.connection, self.server.asyncio_bridge
        if connection is None or tasks is None:
            raise RuntimeError("an ASGI application needs a server that runs on asyncio")
        if connection.parser.incoming is self.request:
            self._open_body(connection)
        # What each event looks at, though the class has it: an attribute of an instance is found sooner.
        self.complete = self.finished = self.gone = False
        self.head = self.stream = self._waiters = None
        tasks.count += 1
        task = tasks.make(self._run(tasks), loop=tasks.asyncio, name=self.handler_call.name, context=self.context)
        if EAGER and task.done():
            return
        self._task = task
        tasks.begun.add(task)

    def _open_body(self, connection: Connection) -> None:
        # Not at once: who reads from a fast client must let the others run.
        demand, loop = connection.on_body_wanted, self.server.loop
        self._body = self.request_body = body = ReceivedBody(lambda: loop.call_soon(demand), self._wake)
        body.put(connection.parser.stream())

    def abandon(self) -> None:
        """The client has gone."""
        self.gone = True
        self._leave(ClientDisconnect("the client has gone"))

    def end(self) -> None:
        """The answer is sent."""
        self.finished = True
        self._leave(ClientDisconnect("the request is answered"))

    def _leave(self, reason: Exception) -> None:
        self.connection = None
        body, self.request_body = self.request_body, None
        if body is not None:
            body.fail(reason)
        self._wake()

    def fail(self, error: Exception) -> None:
        """The body will never be whole: refuse the request, unless its answer has begun.

        An application that doesn't look would take what came of it for all.
        """
        super().fail(error)
        connection = self.connection
        if connection is None or self.stream is not None or self.complete:
            return
        connection.exchange = None
        self.abandon()
        if not isinstance(error, HTTPError):
            error = HTTPError(400, "the connection ended before the request did")
        connection.refuse(error)

    def on_half_close(self) -> None:
        """The peer has ended its side. Before the start it is asked: `check_half_closed_peer`."""
        if self.head is not None:
            self.client_ended = True
            self._wake()

    def on_drain(self) -> bool:
        """The server begins to go away: end an event stream, which has no end of its own, where it is."""
        connection, start = self.connection, self.head
        if connection is None or start is None or not start.is_events or self.complete:
            return False
        if self.stream is None:
            self._begin(connection, start, b"")
        self.cut()
        return True

    def cut(self) -> None:
        """Send what came of the body, and end the connection."""
        self.gone = True
        self._wake()
        if self.stream is not None:
            self.stream.fail()
            self.stream.flush()
        elif self.connection is not None:
            cut_answer(self.connection)

    # the application's call

    async def _run(self, bridge: AsyncioBridge) -> None:
        request = self.request
        mark_current(request)
        try:
            if self.connection is not None:  # else the client has gone already
                await self.handler_call.call(request, self)
                if not self.complete:
                    on_returned(self)
        except FAILURES as error:
            on_raised(self, error)
        finally:
            # `bridge.on_task_end`, without a call
            bridge.begun.discard(self._task)
            self._task = None
            bridge.count -= 1
            if not bridge.count:
                bridge.on_idle()

    # what it receives

    async def receive_event(self) -> dict[str, Any]:
        """Give the next event of the request (ASGI HTTP 2.5): pieces of its body, then its end.

        A call that is cancelled has taken nothing.
        """
        order = 0
        while not self.finished:
            if self._given:
                if self.gone or self.client_ended:
                    break
                order = await self._wait(order)
                continue
            body = self._body
            if body is None:
                self._given = True
                return {"type": "http.request", "body": self.request.body, "more_body": False}
            if body.is_cut:
                break
            piece = body.take()
            if piece or piece is None:
                self._given = piece is None or body.has_ended
                return {"type": "http.request", "body": piece or b"", "more_body": not self._given}
            if self.gone:
                break
            order = await self._wait_for(body, order)
        self.heard = not self.finished
        return {"type": "http.disconnect"}

    async def _wait_for(self, body: ReceivedBody, order: int) -> int:
        """Wait for more of the body; meanwhile the client's time runs."""
        body.waits_for_piece = True
        body.on_wanted()
        try:
            return await self._wait(order)
        except asyncio.CancelledError:
            if not self._waiters:
                body.waits_for_piece = False
                body.on_wanted()  # nothing, for now
            raise

    async def _wait(self, order: int = 0) -> int:
        """Wait until something has changed. Gives the call's place in the order, to be given when it waits again."""
        assert self.server.asyncio_bridge is not None
        if not order:
            self._calls = order = self._calls + 1
        if self._waiters is None:
            self._waiters = {}
        self._waiters[order] = waiter = self.server.asyncio_bridge.asyncio.create_future()
        try:
            await waiter
        finally:
            del self._waiters[order]
        return order

    def _wake(self) -> None:
        # The last call first: who listens for the client's end all the time, as frameworks do, leaves the body to who
        # reads it.
        waiters = self._waiters
        if waiters:
            for order in sorted(waiters, reverse=True):
                if not waiters[order].done():
                    waiters[order].set_result(None)

    # what it sends

    async def send_event(self, message: Message) -> None:
        """Take an event of the answer (ASGI HTTP 2.5), and wait while the client is too far behind.

        What comes behind the last is dropped. Raises `DisconnectedError` when the client has gone, `RuntimeError` for
        an event out of order, `ValueError` and `TypeError` for one that can't be sent.
        """
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise TypeError(f"send takes an event, a dict with its type, not {message!r:.60}") from None
        connection = self.connection
        if connection is None or self.complete or self.gone:
            if self.complete or self.finished:
                return
            raise self._disconnected()
        start = self.head
        if start is None:
            if kind == "http.response.start":
                self.head = start = ResponseStart(message)
                if start.is_events or (connection.half_closed and not self.request.minor):
                    # A client waits for an event stream's head; one of HTTP/1.0 can't be asked by less.
                    self.server.loop.call_soon(self._send_start)
                return
        elif kind == "http.response.body":
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = _checked_body(body)
            more = message.get("more_body", False)
            if not more and self.stream is None and not start.trailers and self._send_whole(connection, start, body):
                return
            stream, size = self._put(connection, start, body, last=not more), len(body)
            del message, body  # while it waits there is one copy, and it counts
            await self.drain_to_limit(stream, size)
            return
        await self._take_extension(kind, message)

    async def _take_extension(self, kind: Any, message: Message) -> None:
        extension = EXTENSIONS.get(kind) if isinstance(kind, str) else None
        if extension is not None and (self.head is not None or kind == EARLY_HINT):
            await extension(self, message)
        elif kind == "http.response.start":
            raise RuntimeError("http.response.start can't be sent here: the answer is started already")
        elif kind == "http.response.body" or extension is not None:
            raise RuntimeError(f"{kind} can't be sent here: the answer isn't started")
        else:
            raise RuntimeError(f"{kind!r:.60} is no event of an HTTP answer")

    def _send_whole(self, connection: Connection, start: ResponseStart, body: bytes) -> bool:
        """Send an answer that is whole. False: it is so large that it has to be waited for."""
        declared, size = start.declared, len(body)
        if (
            type(self) is PlainCycle and (declared is None or declared == size) and size <= JOIN_LIMIT
            and not (connection.readable or connection.writer.buffers or connection.context.draining)
        ):  # fmt: skip
            payload = start.whole(body)
            if payload is not None:
                self._send_plain(connection, start, payload)
                return True
        if size > connection.context.settings.max_output:
            start.declare(size)
            return False
        has_content = start.has_content(self.request.method)
        if has_content and declared not in (None, size):
            raise ValueError(f"the answer declares Content-Length: {declared}, its body has {size} bytes")
        self.complete = True
        if not has_content and (declared is not None or not body):
            connection.respond(start.response(iter(())))
        else:
            connection.respond(start.response(body))
        return True

    def _send_plain(self, connection: Connection, start: ResponseStart, payload: bytes) -> None:
        """Send an answer on a connection that goes on, as `Connection.respond` does where nothing is special."""
        self.complete = self.finished = True
        instrument = connection.instrument
        if instrument is not None:
            out = [payload]
            instrument.record(self.request, start.response(b""), out, 0)
            payload = out[0]
        self.connection = None
        self.server.answer_batch.send(connection, payload)  # type: ignore[union-attr]
        if self._waiters:
            self._wake()

    def _send_start(self) -> None:
        """Send the head alone, if it hasn't gone with a piece meanwhile."""
        connection, start = self.connection, self.head
        if connection is None or start is None or self.stream is not None or self.complete or self.gone:
            return
        self._begin(connection, start, b"")

    def _begin(self, connection: Connection, start: ResponseStart, piece: bytes, *, last: bool = False) -> ResponseBody:
        """Send the head, and with it the first piece."""
        framer = Framer(start.declared is None and self.request.minor > 0, start.declared)
        stream = ResponseBody(framer, self._wake, encrypted=connection.tls is not None)
        first = b""
        if start.has_content(self.request.method):
            first = framer.piece(piece)
            if last:
                first += framer.end()
                stream.finish()
        self.stream = stream
        connection.run_guarded(respond_in_general, connection, self, start.response(stream), first)
        if start.is_events and connection.context.drain.begun:
            self.on_drain()
        return stream

    def _put(self, connection: Connection, start: ResponseStart, piece: bytes, *, last: bool) -> ResponseBody:
        """Send a piece of the body, as far as the client takes it."""
        if self._body_complete:
            raise RuntimeError("http.response.body can't be sent here: the body is whole, trailer fields are to come")
        ends = last and not start.trailers
        stream = self.stream
        if stream is None:
            stream = self._begin(connection, start, piece, last=ends)
        elif not stream.closed:
            stream.put(stream.framer.piece(piece))
            if ends:
                stream.put(stream.framer.end())
                stream.finish()
            stream.flush()
        self._body_complete, self.complete = last, ends
        return stream

    async def drain_to_limit(self, stream: ResponseBody, size: int = 0) -> None:
        """Wait while more waits for the client than may; let the others have their turn.

        Args:
            stream: the body on its way.
            size: bytes that were given just now.

        Raises:
            DisconnectedError: When the client has gone.
        """
        limits = None
        while (connection := self.connection) is not None and not stream.closed:
            limits = limits or connection.context.waiting_output
            if stream.waiting + sum(map(len, connection.writer.buffers)) <= limits.each:
                break
            self._in_a_row = 0
            with limits:
                await self._wait()
        if self.gone and not self.finished:
            raise self._disconnected()
        self._in_a_row += max(size, SEND_SIZE // PIECES_IN_A_ROW)
        if self._in_a_row >= SEND_SIZE:
            self._in_a_row = 0
            await asyncio.sleep(0)

    def _disconnected(self) -> DisconnectedError:
        self.heard = True
        return DisconnectedError("the client has gone, or the server goes")

    # what extensions need

    def begin(self) -> ResponseBody:
        """The stream of the answer, its head on its way."""
        connection, start = self.connection, self.head
        assert connection is not None
        assert start is not None
        return self.stream or self._begin(connection, start, b"")

    def respond(self, response: Response) -> None:
        """Send a response that is the whole answer."""
        connection = self.connection
        assert connection is not None
        self.complete = True
        connection.respond(response)

    def complete_body(self) -> None:
        """The body is whole, and trailer fields are to come. Raises `RuntimeError` when it was so already."""
        if self._body_complete:
            raise RuntimeError("the body is whole already")
        self._body_complete = True

    @property
    def awaits_trailers(self) -> bool:
        """Whether the body is whole, and trailer fields are to come."""
        return self._body_complete and not self.complete

    async def finish_body(self, end: bytes) -> None:
        """End the streamed body with these bytes."""
        stream = self.begin()
        stream.put(end)
        stream.finish()
        self.complete = True
        stream.flush()
        await self.drain_to_limit(stream)

    def send_interim(self, response: bytes) -> None:
        """Send an interim response, if the final one hasn't begun and the client takes it."""
        connection = self.connection
        if connection is not None and self.stream is None and self.request.minor:
            connection.run_guarded(connection.writer.write, connection.sock, [response])


class PlainCycle(Cycle):
    """One that is started where it is made, as `hypoll.server.exchange.PlainExchange` is."""

    started = True


def _checked_body(body: Any) -> bytes:
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"a body is {body!r:.60}: it must be bytes")
    return exact_bytes(body)
