"""A request's body on its way in: held to its pace and to the memory there is, or given to a handler at work."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hypoll.contracts import NEVER, ConnectionState, HandlerCall
from hypoll.http import State
from hypoll.protocol.messages import BodyStore, ClientDisconnect, HTTPError, Request
from hypoll.protocol.refusals import body_too_large, no_room, too_slow
from hypoll.protocol.serializer import CONTINUE
from hypoll.server.body_memory import BodyUsage
from hypoll.server.context import READ_SIZE, READS_PER_TURN
from hypoll.server.exchange import Exchange, exchange_of
from hypoll.server.socket_io import receive
from hypoll.server.spool import Spool

if TYPE_CHECKING:
    from hypoll.server.connection import Connection

SKIP_LIMIT = 64 * 1024
"""Bytes of a body which its handler didn't read that are read away to keep the connection."""


def time_out_body(connection: Connection) -> None:
    """The client has kept a handler waiting for its body for too long."""
    if connection.instrument is not None:
        connection.instrument.on_body_timeout()
    if connection.exchange is not None:
        connection.exchange.fail(too_slow())
    plan_deadline(connection)


def begin_body(connection: Connection) -> None:
    """A head is whole whose body comes: call its handler now, if that takes the body; else keep it, or spool it."""
    request, server = connection.parser.incoming, connection.context
    if request is not None and server.wants_stream(request):
        context = server.request_context.copy()
        answer = connection.call_application(request, context)
        if isinstance(answer, HandlerCall):
            start(connection, exchange_of(connection, server, request, answer, context))
            return
        # Answered by its head alone: nobody wants the body.
        request.keep_alive = request.plain = False
        connection.answer(request, answer, context)
        return
    if request is not None and server.wants_spool(request):
        connection.parser.spool_into(Spool(server.spool_space, max(1, server.settings.max_body)))
    on_body_progress(connection)


def on_body_progress(connection: Connection) -> None:
    """More of a body has come, or none yet: hold it to its pace, and to the memory there is."""
    parser, settings, now = connection.parser, connection.context.settings, connection.context.loop.now
    elapsed = now - connection.state_since
    too_little = elapsed > settings.body_timeout and parser.received < settings.min_body_rate * elapsed
    if too_little and not connection.readable:  # else more has come, and waits in the kernel
        connection.refuse(too_slow())
        return
    connection.deadline = now + settings.body_timeout
    request = parser.incoming
    if request is not None and parser.spool is None and not count_body_memory(connection, request):
        connection.refuse(refusal_of_size(connection))
        return
    if request is not None and request.expects_continue:
        refusal = connection.context.application.early_refusal(request)
        if refusal is not None:
            connection.refuse(refusal)
        elif parser.spool is not None and not has_room(connection, parser.spool):
            return
        elif not ask_for_body(connection, request):
            # Some of the 25 bytes wait: nothing is read until they are gone.
            connection.enter_state(ConnectionState.SENDING)


def count_body_memory(connection: Connection, request: Request) -> bool:
    """Count what came of a body. Whether there is room for it; at first, for all that its length promises."""
    usage, missing = request.body_usage, 0
    if usage is None:
        usage, missing = BodyUsage(connection.context.body_memory), connection.parser.left or 0
        request.body_usage = usage
    return usage.grow(connection.parser.received, missing)


def refusal_of_size(connection: Connection) -> HTTPError:
    """What to answer when there is no room for a body: later there may be, unless all the memory is too little."""
    parser, limit = connection.parser, connection.context.body_memory.limit
    return body_too_large(limit) if parser.received + (parser.left or 0) > limit else no_room()


def has_room(connection: Connection, spool: BodyStore) -> bool:
    """Whether the process has room for more of the body. If not, nothing is read until it has."""
    request = connection.parser.incoming
    holds_back = request is not None and request.expects_continue
    size = request.header_section.length if request is not None and holds_back else None
    if spool.room >= (size or READ_SIZE):
        return True
    if spool.failing:
        connection.refuse(no_room())
    elif connection.paused_at is None:
        connection.paused_at = connection.context.loop.now
        spool.wait(partial(on_room, connection))
    return False


def on_room(connection: Connection) -> None:
    """Read on, if there is room by now. The time that this took isn't the client's."""
    if connection.paused_at is not None and connection.state is ConnectionState.BODY:
        connection.run_guarded(resume_after_wait, connection)


def resume_after_wait(connection: Connection) -> None:
    """Read on after a wait for room, if there is some now."""
    spool, paused_at = connection.parser.spool, connection.paused_at
    if spool is None or paused_at is None:
        return
    if has_room(connection, spool):
        connection.paused_at = None
        connection.state_since += connection.context.loop.now - paused_at
        on_body_progress(connection)
        connection.reschedule()
    elif connection.paused_at is not None:  # it isn't refused
        spool.wait(partial(on_room, connection))


def ask_for_body(connection: Connection, request: Request) -> bool:
    """Ask for the body that the client holds back (RFC 9110, 10.1.1), unless some of it has come.

    False: the asking itself has to wait.
    """
    request.expects_continue = False
    return bool(connection.parser.received) or connection.writer.write(connection.sock, [CONTINUE])


def is_streaming_body(connection: Connection) -> bool:
    """Whether a handler at work takes the body."""
    return connection.exchange is not None and connection.exchange.request_body is not None


def read_body(connection: Connection) -> None:
    """Read for the handler: as much as it wants, and no more than a turn's."""
    exchange = connection.exchange
    assert exchange is not None
    exchange.check_waits_for_body()
    if exchange.request.expects_continue and exchange.waits_for_body and connection.state is ConnectionState.WAITING:
        ask_for_body(connection, exchange.request)
        send_interim(connection)
    for _ in READS_PER_TURN:
        request_body = exchange.request_body
        if (
            request_body is None
            or not request_body.wants_more
            or not (connection.readable or connection.parser.pending)
        ):
            break
        receive_body_piece(connection, exchange)
    else:
        connection.reschedule()
    plan_deadline(connection)
    if (
        exchange.request_body is None
        and not exchange.body_broken
        and connection.half_closed
        and connection.state is ConnectionState.WAITING
    ):
        check_half_closed_peer(connection)


def receive_body_piece(connection: Connection, exchange: Exchange) -> None:
    """One read of a body that its handler takes, or one step through what was read before."""
    parser = connection.parser
    try:
        if parser.pending:
            request = parser.next()
        else:
            data = receive(connection.sock, READ_SIZE)
            if data is None:
                connection.readable = False
                return
            connection.note_read(data)
            if not data:
                exchange.fail(ClientDisconnect("the connection ended before the request did"))
                return
            request = parser.feed(data)
    except HTTPError as error:
        exchange.fail(error)
    else:
        exchange.on_body_input(whole=request is not None)


def plan_deadline(connection: Connection) -> None:
    """A handler is at work: until when the client may keep it waiting."""
    if connection.state is ConnectionState.WAITING or (
        connection.writer.source is not None and not connection.writer.buffers
    ):
        waits_for_body = connection.exchange is not None and connection.exchange.waits_for_body
        connection.deadline = (
            connection.context.loop.now + connection.context.settings.body_timeout
            if waits_for_body
            else heartbeat_deadline(connection)
        )


def heartbeat_deadline(connection: Connection) -> float:
    """Until when a silent body may be silent."""
    heartbeat = connection.writer.heartbeat
    return NEVER if heartbeat is None else connection.context.loop.now + heartbeat.interval


def can_discard_rest(connection: Connection, exchange: Exchange) -> bool:
    """Whether what is left of a body is little, and will come."""
    left = connection.parser.left
    return left is not None and left <= SKIP_LIMIT and not exchange.request.expects_continue


def discard_rest_of_body(connection: Connection, request: Request | None) -> Request | None:
    """What was parsed, but not the rest of a body whose request was answered."""
    if connection.state is not ConnectionState.SKIPPING:
        return request
    connection.parser.take()
    if request is None:
        return None
    connection.enter_state(ConnectionState.IDLE)
    request = connection.parser.next()
    if request is None and connection.context.draining and connection.parser.state is State.START:
        connection.drain()
    return request


def lacks_body(connection: Connection, exchange: Exchange) -> bool:
    """Whether so much of the request's body is missing, or all of it ever, that the connection ends instead."""
    return exchange.body_broken or (exchange.request_body is not None and not can_discard_rest(connection, exchange))


def check_half_closed_peer(connection: Connection) -> None:
    """The peer has ended its side: is it half-closed, or gone? The next tick asks."""
    waits = (
        connection.state is ConnectionState.WAITING
        and connection.exchange is not None
        and not is_streaming_body(connection)
    )
    if waits and connection.exchange and connection.exchange.request.minor:
        connection.deadline = connection.context.loop.now


def probe_peer(connection: Connection) -> None:
    """Ask whether the peer is still there, by an interim response, which means nothing (RFC 9110, 15.2).

    A FIN doesn't tell a half-close from a close. But a socket that was closed answers data with a reset.
    """
    connection.deadline = NEVER
    connection.run_guarded(connection.writer.write, connection.sock, [CONTINUE])


def send_interim(connection: Connection) -> None:
    """Send what waits while a handler is at work: interim answers only."""
    connection.writer.write(connection.sock, [])


def start(connection: Connection, exchange: Exchange) -> None:
    """Let a handler begin elsewhere. Until it has answered nothing else is handled."""
    connection.exchange = exchange
    exchange.started = True
    connection.state = ConnectionState.WAITING
    connection.deadline = NEVER
    exchange.start()
    if connection.half_closed:
        check_half_closed_peer(connection)
