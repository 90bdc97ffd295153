"""What the connections of one server have in common, and what they need of an application."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextvars import copy_context
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hypoll.concurrency.thread_pool import ThreadPool, default_size
from hypoll.contracts import LINGER_SILENCE, NEVER, Application, ConnectionState, RequestHandler, as_application
from hypoll.loop import Loop, let_go
from hypoll.protocol.messages import Request
from hypoll.protocol.peer import Drain
from hypoll.protocol.vocabulary import Vocabulary
from hypoll.server.answer_batch import AnswerBatch
from hypoll.server.body_memory import BodyMemory, WaitingOutput
from hypoll.server.spool import SpoolSpace
from hypoll.settings import Settings
from hypoll.telemetry.instrument import InstrumentContext

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge

READ_SIZE = 64 * 1024
"""Bytes asked for by one read. Fewer in the answer: the socket is drained."""

BODY_READ_SIZE = 256 * 1024
"""The same where so much is missing of a body: the kernel is left as rarely as that pays."""

READS_PER_TURN = range(4)
"""Reads before a connection lets the others have their turn."""

DISCARD_SIZE = 1024 * 1024
"""Bytes read away by one read."""

ENDPOINT_THREADS = 1

ENDPOINT_QUEUE = 16
"""Scrapes and status pages that wait for that thread; one more is refused with 503."""


class ServerContext:
    """What the connections of one server have in common.

    Args:
        asyncio_bridge: what runs coroutines, where the application has any.
    """

    def __init__(
        self,
        loop: Loop,
        application: Application | Callable[[Request], Any],
        settings: Settings,
        asyncio_bridge: AsyncioBridge | None = None,
    ) -> None:
        self.loop = loop
        self.application = application = as_application(application)
        # Bound once: each look-up would be one more for every request.
        self.answer: RequestHandler = application.answer
        self.wants_stream = application.wants_stream
        self.wants_spool = application.wants_spool
        self.thread_pool = ThreadPool(
            loop, settings.threads or default_size(), settings.queue, streams=settings.stream_threads
        )
        self.request_context = copy_context()
        """What the context of each request begins as: renewed when the application has started."""
        self.spool_space = SpoolSpace(loop, settings)
        self.body_memory = BodyMemory(settings.body_memory)
        self.max_output = settings.max_output
        self.waiting_output = WaitingOutput(settings.max_output)
        self.asyncio_bridge = asyncio_bridge
        self.answer_batch = None if asyncio_bridge is None else AnswerBatch(loop, asyncio_bridge)
        self.settings = settings
        # Without keep-alive each answer is its connection's last, as in a drain; only a first request is waited for.
        self.draining = not settings.keep_alive
        self.drain = Drain()
        """What requests know of `draining`, which is also set where no connection is kept."""
        self.keep_alive = settings.keep_alive or settings.header_timeout
        self.state_seconds = {
            state: getattr(settings, state.setting) for state in ConnectionState if state.setting is not None
        }
        self.state_seconds[ConnectionState.NEW] = self.state_seconds[ConnectionState.IDLE] = self.keep_alive
        self.state_seconds |= {ConnectionState.LINGERING: LINGER_SILENCE, ConnectionState.WAITING: NEVER}
        self.state_seconds[ConnectionState.UPGRADED] = NEVER  # it has deadlines of its own
        self.vocabulary = Vocabulary(settings)
        self.on_startup()
        self.connections: set[Any] = set()  # of `Connection`, which knows this and not the other way round
        self.on_close: Callable[[Any], object] = lambda connection: None
        self.lingering: dict[Any, None] = {}
        """Connections whose input is read away, the oldest first."""
        # Where input goes that nobody wants. It isn't touched by the reads of TCP sockets, so it takes no memory.
        self.discard_buffer = mmap.mmap(-1, DISCARD_SIZE)
        loop.on_abandon(self._abandon)
        self.instruments: InstrumentContext | None = None
        """What the connections' instruments have in common, where they are observed."""

    @cached_property
    def for_endpoints(self) -> ServerContext:
        """The same with a thread of its own, for what the server reports of itself.

        Somebody wants to know it above all when the application's threads are all at work and its queue is full.
        """
        own = copy(self)
        own.thread_pool = ThreadPool(self.loop, ENDPOINT_THREADS, ENDPOINT_QUEUE)
        return own

    def send_held(self) -> None:
        """Send the answers that are made and held: what follows looks at, or ends, their connections."""
        if self.answer_batch is not None:
            self.answer_batch.flush()

    def close_pools(self) -> None:
        """Let the threads end that have nothing to do."""
        self.thread_pool.close()
        if "for_endpoints" in vars(self):
            self.for_endpoints.thread_pool.close()

    def on_startup(self) -> None:
        """The application has started: what it is asked for each request may have changed."""
        self.request_context = copy_context()
        self.vocabulary.limit_bodies(self.application.least_max_body, self.application.max_body_of)

    def wrap(self, wrapper: Callable[[RequestHandler], RequestHandler]) -> None:
        """Wrap what answers requests: `answer = wrapper(answer)`."""
        self.answer = wrapper(self.answer)

    def _abandon(self, ended: Any) -> None:
        """In a forked child: begin no further request of those that were received."""
        self.request_context = self.answer = ended
        # Those that the loop doesn't know of yet.
        let_go(*[connection.sock.fileno() for connection in self.connections if not connection.watched])
