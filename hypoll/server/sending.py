"""Answers about which something is special: what is sent of them at once, and where the rest will come from."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextvars import Context
from typing import TYPE_CHECKING

from hypoll.contracts import NEVER, Answer, CloseReason, ConnectionState, HandlerCall, RunOn
from hypoll.http import State
from hypoll.protocol.current_request import calls_application, mark_current
from hypoll.protocol.files import File
from hypoll.protocol.messages import FAILURES, Request, Response, json_response
from hypoll.protocol.open_file import OpenFile
from hypoll.protocol.serializer import COPY_LIMIT, Remainder, encode, encode_file, file_head
from hypoll.protocol.slices import Slice
from hypoll.server.background import AnsweredExchange
from hypoll.server.exchange import PlainExchange, exchange_of
from hypoll.server.response_body import FileSource, InlineSource, Source, TaskSource
from hypoll.server.socket_io import JOIN_LIMIT, SEND_SIZE, PeerGone, send_one
from hypoll.server.writer import Heartbeat
from hypoll.web.background import check_work
from hypoll.web.results import failure, unsendable

if TYPE_CHECKING:
    from hypoll.server.connection import Connection

TURN_TIME = 0.0005
"""Seconds of a turn, after which nothing is done in it for those who had an edge that takes TLS long: others may have
come."""

# A plain name: an Enum's attribute costs the hot path two look-ups more.
_WAITING = ConnectionState.WAITING


def send_last(connection: Connection, answer: bytes) -> bool:
    """Send the only answer of a connection whose request came with it, and close. False: it isn't so simple."""
    parser = connection.parser
    waits = connection.readable or connection.writer.buffers or parser.pending or connection.exchange
    simple = not waits and not connection.watched and connection.tls is None
    if not simple or parser.state is not State.DONE or len(answer) > COPY_LIMIT:
        return False
    if not send_one(connection.sock, connection.writer.buffers, answer):
        connection.enter_state(ConnectionState.FINISHING)
        return True
    if connection.instrument is not None:
        connection.instrument.report_end(CloseReason.CLIENT, connection.writer)
    connection.close()
    return True


def is_late(connection: Connection, out: Iterable[bytes] = ()) -> bool:
    """Whether this turn was long already for what takes TLS long: a handshake, a body that comes, much to be encrypted,
    also of `out`.
    """
    writer, loop = connection.writer, connection.context.loop
    if connection.tls is None or loop.time() <= loop.now + TURN_TIME:
        return False
    if connection.state is ConnectionState.HANDSHAKE or connection.parser.state is State.BODY:
        return True
    has_much = sum(map(len, writer.buffers)) + sum(map(len, out)) > JOIN_LIMIT
    return has_much or isinstance(writer.source, (FileSource, InlineSource))


def source_of(connection: Connection, remainder: Remainder, context: Context | None) -> Source | None:
    """Where the pieces of a streamed body will come from."""
    if remainder.async_stream is not None and connection.exchange is not None:
        connection.exchange.source = TaskSource(remainder.async_stream, connection.on_body_piece)
        return connection.exchange.source
    if remainder.part is not None:
        if connection.tls is None:
            return FileSource(remainder.part, context)
        return InlineSource(iter(remainder.part), context)  # not from the page cache: it must be encrypted
    if remainder.source is not None:
        remainder.source.attach(connection.on_body_piece, connection.context.loop)
        return remainder.source
    return None if remainder.stream is None else InlineSource(remainder.stream, context)


def begin_remainder(connection: Connection, out: list[bytes], remainder: Remainder, context: Context | None) -> None:
    """Put what is to be sent of answers of which the last isn't whole, and have its rest follow; or the end."""
    if remainder.close and connection.instrument is not None and connection.instrument.records:
        last = connection.instrument.records[-1].request
        asked = last is not None and not last.keep_alive
        connection.instrument.set_close_reason(
            CloseReason.DRAIN
            if connection.context.draining
            else CloseReason.CLIENT
            if asked
            else CloseReason.APPLICATION
        )
    connection.enter_state(ConnectionState.FINISHING if remainder.close else ConnectionState.SENDING)
    connection.writer.source = source_of(connection, remainder, context)
    connection.writer.heartbeat = None if remainder.heartbeat is None else Heartbeat(*remainder.heartbeat)
    connection.writer.until_close = remainder.until_close
    connection.writer.end = remainder.end
    connection.writer.buffers += out


def send_file(connection: Connection, request: Request, response: Answer, context: Context) -> bool:
    """Send a whole file to a connection that goes on, in two calls. False: another way must be found.

    Rules 2 and 7 of the hot path; the benchmark's file row holds it.
    """
    server = connection.context
    if type(response) is not Response or type(response.body) not in (File, OpenFile):
        return False
    if connection.tls is not None or connection.instrument is not None or server.draining:
        return False
    try:
        file = context.run(encode_file, request, response)
    except Exception:  # which is raised again, and logged, where there is time to
        return False
    if file is None:
        return False
    head, sock = file_head(file), connection.sock
    sent = _send_both(sock, head, file)
    if sent == len(head) + file.size:
        connection.state = ConnectionState.IDLE
        connection.deadline = server.loop.now + server.keep_alive
        return True
    connection.enter_state(ConnectionState.SENDING)
    if sent < len(head):
        connection.writer.buffers.append(memoryview(head)[sent:])
    offset = max(sent - len(head), 0)
    context.run(mark_current, request)
    connection.writer.source = FileSource(Slice(file, offset, file.size - offset), context)
    if offset == SEND_SIZE:
        connection.reschedule()  # the others have their turn
    else:
        connection.resume_writing()
    return True


def _send_both(sock: socket.socket, head: bytes, file: OpenFile) -> int:
    """Send a head and what may go along of its file; give the bytes sent. Raises `PeerGone`."""
    try:
        sent = sock.send(head, socket.MSG_MORE)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise PeerGone from error
    if sent < len(head):
        return sent
    try:
        return sent + os.sendfile(sock.fileno(), file.fd, 0, min(file.size, SEND_SIZE))
    except OSError:
        return sent  # it comes again in `FileSource`, which finds out whose it is


def hand_over(connection: Connection, request: Request, call: HandlerCall, context: Context) -> bool:
    """Have a request handled elsewhere, if it is the only one and nothing is special about it. Whether it is."""
    server = connection.context
    if not request.plain or connection.parser.pending or server.draining or connection.half_closed:
        return False
    # What `start` does, without its calls.
    connection.exchange = exchange = (call.plain_exchange or PlainExchange)()
    exchange.connection, exchange.server, exchange.context = connection, server, context
    exchange.request, exchange.handler_call = request, call
    connection.state, connection.deadline = _WAITING, NEVER
    exchange.start()
    return True


def queue_answer(
    connection: Connection, out: list[bytes], request: Request, answer: Answer, context: Context
) -> Remainder | None:
    """Put what is to be sent of an answer that is special; give what remains of it.

    Nothing is put where the request is handled elsewhere, a file was sent, or the answer leaves work behind.
    """
    if isinstance(answer, HandlerCall):
        # It begins when the answers before its are sent.
        connection.exchange = exchange_of(connection, connection.context, request, answer, context)
        return None
    if isinstance(answer, Response) and answer.background is not None:
        try:
            check_work(answer)
        except TypeError as error:
            answer = connection.context.application.amend_refusal(request, context.run(failure, request, error))
        else:
            connection.exchange = AnsweredExchange(connection, connection.context, request, answer, context)
            return None
    alone = request.plain and not out and not connection.parser.pending
    if alone and send_file(connection, request, answer, context):
        return None
    return context.run(encode_or_fail, connection, out, request, answer, RunOn.LOOP)


@calls_application
def encode_or_fail(
    connection: Connection, out: list[bytes], request: Request, response: Response | bytes, run_on: RunOn
) -> Remainder | None:
    """Encode a response; one that can't be sent becomes 500 to the client, its reason goes to the log."""
    begin, closing = len(out), connection.context.draining
    if isinstance(response, bytes):
        response = json_response(response)
    try:
        remainder = encode(out, response, request, closing)
        if remainder is not None and remainder.async_stream is not None and run_on is not RunOn.TASK:
            raise TypeError("a body that is an async iterator needs an async def handler")
        if remainder is not None and (remainder.stream is not None or remainder.part is not None):
            mark_current(request)  # its pieces come later
    except KeyboardInterrupt:
        raise
    except FAILURES as error:
        # ValueError and TypeError are encode's; a body's or a mapping's own code may raise anything.
        del out[begin:]
        refusal = connection.context.application.amend_refusal(request, unsendable(request, response, error))
        remainder = encode(out, refusal, request, closing)
    if connection.instrument is not None:
        connection.writer.pulled_bytes = 0
        connection.instrument.record(request, response, out, begin)
    return remainder
