"""What the connections of one server have in common, and what they need of an application."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from hypoll.contracts import LINGER_PAUSE, NEVER, Answer, Application, Phase, adapted
from hypoll.held import BodyMemory, WaitingOutput
from hypoll.instrument import Instruments
from hypoll.known import Known
from hypoll.loop import Loop, let_go
from hypoll.message import Request
from hypoll.peer import Drain
from hypoll.settings import Settings
from hypoll.spool import SpoolSpace
from hypoll.threads import Threads, default_size

if TYPE_CHECKING:
    from hypoll.tasks import Tasks

READ_SIZE = 64 * 1024
"""Bytes asked for by one read. Fewer in the answer: the socket is drained."""

BODY_READ_SIZE = 256 * 1024
"""The same where so much is missing of a body: the kernel is left as rarely as that pays."""

READS_PER_TURN = range(4)
"""Reads before a connection lets the others have their turn."""

SCRATCH_SIZE = 1024 * 1024
"""Bytes read away by one read."""


class Shared:
    """What the connections of one server have in common.

    tasks: what runs coroutines, where the application has any.
    """

    def __init__(
        self,
        loop: Loop,
        application: Application | Callable[[Request], Any],
        settings: Settings,
        tasks: Tasks | None = None,
    ) -> None:
        self.loop = loop
        self.application = application = adapted(application)
        # Bound once: each look-up would be one more for every request.
        self.answer: Answer = application.answer
        self.streams = application.streams
        self.spools = application.spools
        self.threads = Threads(
            loop, settings.threads or default_size(), settings.queue, streams=settings.stream_threads
        )
        self.context = copy_context()
        """What the context of each request begins as: renewed when the application has started."""
        self.spool = SpoolSpace(loop, settings)
        self.bodies = BodyMemory(settings.body_memory)
        self.waiting_output = WaitingOutput(settings.max_output)
        self.tasks = tasks
        self.settings = settings
        # Without keep-alive each answer is its connection's last, as in a drain; only a first request is waited for.
        self.draining = not settings.keep_alive
        self.drain = Drain()
        """What requests are told of `draining`, which is also set where no connection is kept."""
        self.keep_alive = settings.keep_alive or settings.header_timeout
        self.seconds = {phase: getattr(settings, phase.setting) for phase in Phase if phase.setting is not None}
        self.seconds[Phase.NEW] = self.seconds[Phase.IDLE] = self.keep_alive
        self.seconds |= {Phase.LINGERING: LINGER_PAUSE, Phase.WAITING: NEVER}
        self.known = Known(settings)
        self.connections: set[Any] = set()  # of `Connection`, which knows this and not the other way round
        self.on_close: Callable[[Any], object] = lambda connection: None
        self.lingering: dict[Any, None] = {}
        """Connections whose input is read away, the oldest first."""
        # Where input goes that nobody wants. It isn't touched by the reads of TCP sockets, so it takes no memory.
        self.scratch = mmap.mmap(-1, SCRATCH_SIZE)
        loop.on_abandon(self._abandon)
        self.instruments: Instruments | None = None
        """What the connections' instruments have in common, where they are observed."""

    def wrap(self, wrapper: Callable[[Answer], Answer]) -> None:
        """Wrap what answers requests: `answer = wrapper(answer)`."""
        self.answer = wrapper(self.answer)

    def _abandon(self, ended: Any) -> None:
        """In a forked child: begin no further request of those that were received."""
        self.context = self.answer = ended
        # Those that the loop doesn't know of yet.
        let_go(*[connection.sock.fileno() for connection in self.connections if not connection.watched])
