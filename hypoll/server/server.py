"""Listeners and the set of connections: start, accept, drain, stop."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import TYPE_CHECKING, Any

from hypoll.contracts import Application, ConnectionState, Gauges, Timeout, as_application
from hypoll.loop import Loop, Timer
from hypoll.protocol.files import FILES, OPEN_FILES
from hypoll.protocol.messages import StreamedBody
from hypoll.protocol.peer import NO_SERVER, Client
from hypoll.protocol.refusals import too_many_connections
from hypoll.protocol.serializer import refresh_date
from hypoll.proxy.forwarded import TrustedProxies
from hypoll.proxy.networks import Networks, peer_client
from hypoll.proxy.proxy_protocol import ProxyHeader
from hypoll.server.capacity import connections_for, raise_descriptor_limit, refusals_for
from hypoll.server.connection import NEW_GRACE, Connection
from hypoll.server.context import ServerContext
from hypoll.server.drain_hooks import DrainHooks
from hypoll.server.listener import Listener
from hypoll.server.periodic import Periodic
from hypoll.server.proxy_header import ProxyHeaderReader
from hypoll.server.socket_io import keep_freed_memory
from hypoll.server.sockets import MAX_INT, address_of, listen, prepare
from hypoll.server.transport import TLSSocket, context_of
from hypoll.server.work import Work
from hypoll.settings import Settings
from hypoll.telemetry.instrument import InstrumentContext
from hypoll.telemetry.observer import Observers

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge

RELOAD_GRACE = 1.0
"""Seconds that requests under way have to end when a file of the application has changed."""

CUT_STREAMS_GRACE = 0.1
"""Seconds that threads have to clean up whose streams were cut."""

log = logging.getLogger("hypoll.error")


class Status(Enum):
    """The life of a server."""

    STOPPED = "stopped"
    SERVING = "serving"
    DRAINING = "draining"


class Server:
    """Serves an application on listening sockets, on a loop that someone else runs.

    Args:
        asyncio_bridge: what runs the loop from asyncio, where the application has anything async.
        listeners: sockets to serve instead of binding `settings.bind`.
        shared: whether other processes serve these listeners, too.
        own: whether they end with this process, so that a drain may close their queues for good.
        observers: is notified of what the server does; None: nobody wants to know.
        tls_context: TLS for all listeners, in place of what the settings ask for.
        on_stopped: called once when the last connection of a drain is gone, or on `stop`.
    """

    status = Status.STOPPED
    drain_advice = ""
    """What to add to the line that says what a drain waits for."""
    _drain_timer: Timer | None = None
    _idle_time = 0.0
    _limit = 0
    _refusals = 0

    def __init__(
        self,
        application: Application,
        settings: Settings,
        loop: Loop,
        *,
        asyncio_bridge: AsyncioBridge | None = None,
        listeners: list[socket.socket] | None = None,
        shared: bool = False,
        own: bool = False,
        observers: Observers | None = None,
        tls_context: ssl.SSLContext | None = None,
        on_stopped: Callable[[], object] = lambda: None,
    ) -> None:
        self.application = application = as_application(application)
        self.settings = settings
        self.loop = loop
        self.asyncio_bridge = asyncio_bridge
        self.context = ServerContext(loop, application, settings, asyncio_bridge)
        self.context.on_close = self._on_close
        self.observers = observers
        if observers is not None:
            find = application.pattern
            self.context.instruments = InstrumentContext(observers, loop, find, adds_request_id=settings.request_id)
            self.context.thread_pool.on_wait = observers.on_wait
        self._trusted_proxies = TrustedProxies(settings.forwarded_allow_ips, settings.secure_scheme_headers)
        # Whose connections must begin with a PROXY protocol header, and are served. None: it isn't spoken.
        speakers = settings.proxy_allow_ips or settings.forwarded_allow_ips
        self._proxy_protocol_peers = Networks(speakers) if settings.proxy_protocol else None
        self._header_readers: set[ProxyHeaderReader] = set()
        self.thread_pool = self.context.thread_pool
        self.thread_pool.on_idle = self._stop_when_drained
        if asyncio_bridge is not None:
            asyncio_bridge.on_idle = self._stop_when_drained
        self._hooks = DrainHooks(application, asyncio_bridge)
        self._periodic = Periodic(application, loop, asyncio_bridge, self._stop_when_drained)
        self.connections: set[Connection] = self.context.connections
        self._work = Work(self.connections, self.thread_pool, asyncio_bridge, self._hooks, self._periodic)
        self.listeners: list[Listener] = []
        self.tls_context = tls_context
        self._encrypted = ssl.MemoryBIO()  # of all connections: one for each costs memory, and a twentieth more CPU
        self._given_listeners, self._listeners_shared, self._owned = listeners, shared, own
        self._on_stopped = on_stopped
        self._paths: list[str] = []
        # Refused as one too many, and not gone yet: they take no place from those that come when others have left.
        self._refused: set[Connection] = set()

    @property
    def at_limit(self) -> bool:
        """Whether a connection more is one too many."""
        return self._open >= self._limit

    @property
    def full(self) -> bool:
        """Whether so many connections are open that not even a refusal is affordable."""
        return self._open >= self._limit + self._refusals

    @property
    def _open(self) -> int:
        return len(self.connections) + len(self._header_readers)

    @property
    def seconds_left(self) -> float:
        """Seconds of `graceful_timeout` that are left since a drain began; 0 when none did."""
        return 0.0 if self._drain_timer is None else max(0.0, self._drain_timer.when - self.loop.time())

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as a client would write it."""
        return [address_of(listener.sock, self.scheme) for listener in self.listeners]

    @property
    def scheme(self) -> str:
        """`https` when it speaks TLS, else `http`."""
        return "http" if self.tls_context is None else "https"

    def start(self) -> None:
        """Bind, run the application's startup, listen.

        Raises:
            hypoll.server.sockets.BindError: Of which `hypoll.server.transport.TLSError` is one, or what the startup
                raises.
        """
        if self.tls_context is None:
            self.tls_context = context_of(self.settings)
        keep_freed_memory()
        descriptors = raise_descriptor_limit()
        self._refusals = refusals_for(descriptors)
        FILES.limit = min(OPEN_FILES, descriptors // 8)
        self._limit = self.settings.max_connections or connections_for(descriptors)
        self.listeners += self._bind() if self._given_listeners is None else self._adopt(self._given_listeners)
        try:
            self.application.startup(self._complete)
        except BaseException:
            self._close_listeners()
            raise
        self.context.on_startup()
        refresh_date()
        self.status = Status.SERVING
        self.loop.on_tick(self._tick)
        self.loop.on_pause(self._on_pause)
        self._periodic.start(self.context.request_context)
        for listener in self.listeners:
            if self._owned:
                listener.sock.listen(min(self.settings.backlog, MAX_INT))  # of workers: until now it was bound only
            listener.watch()

    def drain(self) -> None:
        """Accept what is queued, then no more; let the requests under way finish for up to `graceful_timeout`.

        Idle connections may bring one more for up to `drain_keep_alive`: a proxy may have sent it already.
        """
        patience = self.settings.graceful_timeout
        self._drain_after(min(self.settings.drain_keep_alive, patience), patience)

    def drain_at_once(self) -> None:
        """`drain` without waiting for who has asked for nothing: where no proxy is."""
        self._drain_after(0.0, self.settings.graceful_timeout)

    def drain_for_reload(self) -> None:
        """`drain_at_once`, and cut what isn't over soon: where somebody waits for the successor, as of `--reload`."""
        if self.settings.graceful_timeout > RELOAD_GRACE:
            self._drain_after(0.0, RELOAD_GRACE, f"{RELOAD_GRACE:g} s")
        else:
            self.drain_at_once()

    def cut_streams(self) -> None:
        """Close the connections whose answers go on, and WebSockets, as at the end of `graceful_timeout`: where nobody
        minds.
        """
        for connection in list(self.connections):
            source = connection.writer.source
            if source is None and connection.upgrade is None:
                continue
            connection.close()
            if isinstance(source, StreamedBody):
                source.detach()
        self.thread_pool.abandon_streams(CUT_STREAMS_GRACE)

    def _drain_after(self, idle_time: float, patience: float, name: str = "graceful_timeout") -> None:
        if self.status is not Status.SERVING:
            return
        self.status = Status.DRAINING
        self.context.draining = True
        drain = self.context.drain
        drain.begun, drain.keeps_idle = True, idle_time > 0
        self._idle_time = idle_time
        self._periodic.stop()
        self._drain_timer = self.loop.call_later(patience, self._give_up, name)
        # Not now: a handler may ask for it, whose own connection looks idle while it runs.
        self.loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self.status is not Status.DRAINING:
            return
        self.context.send_held()
        self._empty_queues()
        waiting = self._work.describe(self._idle_time)
        if waiting:
            log.info("draining: %s%s", waiting, self.drain_advice)
        self._hooks.run(self.context.request_context)
        for connection in list(self.connections):
            connection.drain()
        for reader in self._header_readers:
            reader.deadline = min(reader.deadline, self.loop.now + NEW_GRACE)
        if self._idle_time:
            self.loop.call_later(self._idle_time, self._end_idle)
        self._stop_when_drained()

    def _end_idle(self) -> None:
        """The time for one more request is over: close the connections that are idle, and those that will be."""
        self.context.drain.keeps_idle = False
        if self.status is not Status.DRAINING:
            return
        for connection in [connection for connection in self.connections if connection.state is ConnectionState.IDLE]:
            connection.drain()
        self._stop_when_drained()

    def _empty_queues(self) -> None:
        """Accept what is queued; close the listeners once nothing is: closing one resets what waits in its queue."""
        for listener in self.listeners:
            listener.empty_queue()
        if not any(listener.waits_for_room for listener in self.listeners):
            self._close_listeners()

    def _give_up(self, name: str) -> None:
        cut = self._work.describe()
        log.warning("%s passed: closing %d connections%s", name, len(self.connections), f": cut {cut}" if cut else "")
        self.stop()

    def stop(self) -> None:
        """Close everything now and run the application's shutdown, or let it be run when asyncio has ended."""
        if self.status is Status.STOPPED:
            return
        self.status = Status.STOPPED
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._close_listeners()
        self._periodic.stop()
        self.context.send_held()
        for connection in list(self.connections):
            connection.close()
        for reader in self._header_readers:
            reader.close()
        self._header_readers.clear()
        self.loop.off_tick(self._tick)
        self.loop.off_pause(self._on_pause)
        self.context.close_pools()
        if self.observers is not None:
            self.observers.on_stop()
        try:
            if self.asyncio_bridge is None:
                self.application.shutdown(self._complete)
            else:
                self.asyncio_bridge.at_end(lambda: self.application.shutdown(self._complete))
        finally:
            self._on_stopped()

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of the application's start or end."""
        if self.asyncio_bridge is not None:
            return self.asyncio_bridge.complete(coroutine)
        coroutine.close()
        raise RuntimeError("an async hook needs a server that runs on asyncio")

    def admit(self, sock: socket.socket, address: object, server: tuple[str, int] = NO_SERVER) -> None:
        """Serve an accepted socket, or refuse it when there are too many. server: the listener's address."""
        sock.setblocking(False)
        client = peer_client(address)
        if self._proxy_protocol_peers is None:
            self._serve(sock, client, server, self.scheme)
        elif client[0] in self._proxy_protocol_peers:
            self._read_proxy_header(sock, client, server)
        else:
            sock.close()
            self._report_shed("untrusted")
            log.debug("%s refused: only those of proxy_allow_ips may connect", client)

    def _read_proxy_header(self, sock: socket.socket, client: Client, server: tuple[str, int]) -> None:
        """Wait for who the client is."""
        try:
            reader = ProxyHeaderReader(
                self.loop, sock, client, server, self.settings.header_timeout, self._on_proxy_header
            )
        except (OSError, MemoryError) as error:
            self._shed(sock, error)
        else:
            self._header_readers.add(reader)

    def _on_proxy_header(self, reader: ProxyHeaderReader, header: ProxyHeader | None, reason: str) -> None:
        self._header_readers.discard(reader)
        if header is not None:
            client, server = header.client or reader.client, header.server or reader.server
            self._serve(reader.sock, client, server, "https" if header.secure else self.scheme)
            return
        if reason == "timeout" and self.observers is not None:
            self.observers.on_timeout(Timeout.HEAD)
        self._report_shed(reason)
        self._on_room()

    def _serve(self, sock: socket.socket, client: Client, server: tuple[str, int], scheme: str) -> None:
        connection = None
        try:
            if self.tls_context is not None:
                sock = TLSSocket(sock, self.tls_context, self._encrypted)
            peer = self._trusted_proxies.peer(client, scheme, server, self.context.drain)
            full = self._open - len(self._refused) >= self._limit
            connection = Connection(self.context, sock, peer, watched=full or self.status is not Status.SERVING)
            if not connection.watched:
                connection.read_first()
                return
        except (OSError, MemoryError) as error:
            if connection is not None:
                connection.close()
            self._shed(sock, error)
            return
        if full:
            self._refused.add(connection)
            self._report_shed("full")
            connection.refuse(too_many_connections())
        elif self.status is Status.DRAINING:
            # Not now: a client that has its answer asks again while its queue is being emptied, which would not end.
            self.loop.call_soon(connection.drain)

    def _shed(self, sock: socket.socket, error: OSError | MemoryError) -> None:
        self.loop.forget(sock.fileno())
        sock.close()
        self._report_shed("resources")
        log.warning("a connection was shed: %s", str(error) or "out of memory")

    def _report_shed(self, reason: str) -> None:
        if self.observers is not None:
            self.observers.on_shed(reason)

    def _bind(self) -> list[Listener]:
        listeners: list[Listener] = []
        try:
            for address in self.settings.bind:
                sock = listen(address, self.settings)
                listeners.append(Listener(self, sock, shared=False, own=not address.startswith("fd://")))
                if address.startswith("unix:"):
                    self._paths.append(sock.getsockname())
        except Exception:
            for listener in listeners:
                listener.close()
            self._unlink_paths()
            raise
        return listeners

    def _adopt(self, sockets: list[socket.socket]) -> list[Listener]:
        return [Listener(self, prepare(sock), shared=self._listeners_shared, own=self._owned) for sock in sockets]

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()
        self._unlink_paths()

    def _unlink_paths(self) -> None:
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths.clear()

    def _tick(self) -> None:
        """Once a second: the Date, the deadlines that passed, the listeners that ran out of descriptors."""
        refresh_date()
        self.loop.hold_signals()
        now = self.loop.now
        FILES.tick(now)
        # One that is to come back has input which came in time, or more to send, and didn't have its turn.
        due = [
            connection for connection in self.connections if connection.deadline <= now and not connection.rescheduled
        ]
        for connection in due:
            connection.run_guarded(connection.on_deadline)  # one that fails is closed, and takes no other's turn
        for reader in [reader for reader in self._header_readers if reader.deadline <= now]:
            reader.on_deadline()
        self._retry_full_listeners()
        self.thread_pool.tick(now)
        self.context.spool_space.wake()
        if self.observers is not None:
            states = Counter(connection.state.name.lower() for connection in self.connections)
            pool, spool = self.thread_pool, self.context.spool_space
            self.observers.on_tick(
                self.loop.lag,
                Gauges(states, pool.waiting, pool.busy, pool.detached, spool.memory, spool.disk, pool.overdue),
            )

    def _on_pause(self, seconds: float) -> None:
        """The loop was kept from running: no peer is to blame for these seconds."""
        refresh_date()
        for connection in self.connections:
            connection.extend_deadline(seconds)
        for reader in self._header_readers:
            reader.deadline += seconds

    def _retry_full_listeners(self) -> None:
        for listener in self.listeners:
            if listener.waits_for_room:
                self.loop.call_soon(listener.retry)

    def _on_close(self, connection: Connection) -> None:
        self._refused.discard(connection)
        self._on_room()

    def _on_room(self) -> None:
        """There is room for another connection."""
        if self.status is Status.SERVING:
            self._retry_full_listeners()
        elif self.status is Status.DRAINING:
            if self.listeners:
                self.loop.call_soon(self._continue_drain)
            self._stop_when_drained()

    def _continue_drain(self) -> None:
        """A connection has left in a drain: take what had no room in the queue."""
        if self.status is Status.DRAINING:
            self._empty_queues()
            self._stop_when_drained()

    def _stop_when_drained(self) -> None:
        # What works for a client that has gone is waited for, too: it may be in the middle of a transaction.
        working = self.thread_pool.unfinished or self.asyncio_bridge or self._periodic.running
        if self.status is Status.DRAINING and not (self._open or self.listeners or working):
            self.stop()
