"""Answers about which something is special: what is sent of them at once, and where the rest will come from."""

from __future__ import annotations

import contextlib
import os
import socket
from contextvars import Context
from typing import TYPE_CHECKING

from hypoll.answers import unsendable
from hypoll.bodies import FileSource, InlineSource, Source, TaskSource
from hypoll.contracts import NEVER, Deferred, End, Kind, Phase
from hypoll.encode import COPY_LIMIT, Rest, encode, encode_file, file_head
from hypoll.exchange import PlainExchange, exchange_of
from hypoll.files import File, OpenFile, Slice
from hypoll.http import State
from hypoll.message import FAILURES, Request, Response, json_response
from hypoll.output import SEND_SIZE, PeerGone

if TYPE_CHECKING:
    from hypoll.connection import Connection


def send_last(connection: Connection, answer: bytes) -> bool:
    """Send the only answer of a connection whose request came with it, and close. False: it isn't so simple."""
    parser = connection.parser
    waits = connection.readable or connection.writer.buffers or parser.pending or connection.exchange
    simple = not waits and not connection.watched and connection.tls is None
    if not simple or parser.state is not State.DONE or len(answer) > COPY_LIMIT:
        return False
    try:
        sent = connection.sock.send(answer)
    except BlockingIOError:
        return False
    except OSError as error:
        raise PeerGone from error
    if sent < len(answer):
        connection.writer.buffers.append(memoryview(answer)[sent:])
        connection.enter(Phase.FINISHING)
        return True
    if connection.instrument is not None:
        connection.instrument.tell_end(End.CLIENT, connection.writer)
    connection.close()
    return True


def source_of(connection: Connection, rest: Rest, context: Context | None) -> Source | None:
    """Where the pieces of a streamed body will come from."""
    if rest.async_stream is not None and connection.exchange is not None:
        connection.exchange.source = TaskSource(rest.async_stream, connection.on_piece)
        return connection.exchange.source
    if rest.part is not None:
        # A file is not sent from the page cache over TLS: it must be encrypted.
        return FileSource(rest.part) if connection.tls is None else InlineSource(iter(rest.part), context)
    if rest.source is not None:
        rest.source.attach(connection.on_piece)
        return rest.source
    return None if rest.stream is None else InlineSource(rest.stream, context)


def send_file(
    connection: Connection, request: Request, response: Response | bytes | Deferred, context: Context
) -> bool:
    """Send a whole file to a connection that goes on, in two calls. False: another way must be found.

    Rules 2 and 7 of the hot path; the benchmark's file row holds it.
    """
    shared, file = connection.shared, None
    if type(response) is not Response or type(response.body) not in (File, OpenFile):
        return False
    if connection.tls is None and connection.instrument is None and not shared.draining:
        # What goes wrong is found again, and told, where there is time to.
        with contextlib.suppress(Exception):
            file = context.run(encode_file, request, response)
    if file is None:
        return False
    head, sock = file_head(file), connection.sock
    sent = 0
    try:
        sent = sock.send(head, socket.MSG_MORE)
    except BlockingIOError:
        pass
    except OSError as error:
        raise PeerGone from error
    if sent == len(head):
        # An error comes again in `FileSource`, which finds out whose it is.
        with contextlib.suppress(OSError):
            sent += os.sendfile(sock.fileno(), file.fd, 0, min(file.size, SEND_SIZE))
    if sent == len(head) + file.size:
        connection.phase = Phase.IDLE
        connection.deadline = shared.loop.now + shared.keep_alive
        return True
    connection.enter(Phase.SENDING)
    if sent < len(head):
        connection.writer.buffers.append(memoryview(head)[sent:])
    offset = max(sent - len(head), 0)
    connection.writer.source = FileSource(Slice(file, offset, file.size - offset))
    if offset == SEND_SIZE:
        connection.come_back()  # the others have their turn
    else:
        connection.drive()
    return True


def put(
    connection: Connection, out: list[bytes], request: Request, answer: Response | bytes | Deferred, context: Context
) -> Rest | None:
    """Put what is to be sent of an answer that is special; give what remains of it.

    Nothing is put where the request is handled elsewhere, or a file was sent.
    """
    alone = request.plain and not out and not connection.parser.pending
    if not isinstance(answer, Deferred):
        if alone and send_file(connection, request, answer, context):
            return None
        return context.run(encode_or_fail, connection, out, request, answer, Kind.INLINE)
    shared = connection.shared
    if not alone or shared.draining or connection.half_closed:
        connection.exchange = exchange_of(connection, shared, request, answer, context)
        return None  # it begins when the answers before its are sent
    # What `start` does, without its calls.
    connection.exchange = exchange = (answer.plain_exchange or PlainExchange)()
    exchange.connection, exchange.means, exchange.context = connection, shared, context
    exchange.request, exchange.deferred = request, answer
    connection.phase, connection.deadline = Phase.WAITING, NEVER
    exchange.start()
    return None


def encode_or_fail(
    connection: Connection, out: list[bytes], request: Request, response: Response | bytes, kind: Kind
) -> Rest | None:
    """Encode a response; one that can't be sent becomes 500 to the client, its reason goes to the log."""
    begin, closing = len(out), connection.shared.draining
    if isinstance(response, bytes):
        response = json_response(response)
    try:
        rest = encode(out, response, request, closing)
        if rest is not None and rest.async_stream is not None and kind is not Kind.ASYNC:
            raise TypeError("a body that is an async iterator needs an async def handler")
    except KeyboardInterrupt:
        raise
    except FAILURES as error:
        # ValueError and TypeError are encode's; a body's or a mapping's own code may raise anything.
        del out[begin:]
        rest = encode(out, unsendable(request, response, error), request, closing)
    if connection.instrument is not None:
        connection.writer.pulled = 0
        connection.instrument.note(request, response, out, begin)
    return rest
