"""What is under way in a server, in the words of its log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypoll.concurrency.thread_pool import ThreadPool
from hypoll.contracts import ConnectionState
from hypoll.server.connection import Connection
from hypoll.server.drain_hooks import DrainHooks
from hypoll.server.periodic import Periodic

if TYPE_CHECKING:
    from hypoll.concurrency.asyncio_bridge import AsyncioBridge


@dataclass
class Work:
    """What a drain waits for, and its end cuts."""

    connections: Collection[Connection]
    thread_pool: ThreadPool
    asyncio_bridge: AsyncioBridge | None
    hooks: DrainHooks
    periodic: Periodic

    def describe(self, idle_time: float = 0.0) -> str:
        """What is under way; empty: nothing. idle_time: seconds for which idle connections are, too; 0: they aren't."""
        idle = sum(connection.state is ConnectionState.IDLE for connection in self.connections) if idle_time else 0
        found = [f"{count} {name if count == 1 else _plural(name)}" for count, name in self._counts() if count > 0]
        if idle:
            found.append(f"{idle} idle connection{'s' * (idle > 1)} for {idle_time:g} s at most")
        return ", ".join(found)

    def _counts(self) -> list[tuple[int, str]]:
        streams = sum(connection.writer.source is not None for connection in self.connections)
        sockets = sum(connection.upgrade is not None for connection in self.connections)
        requests = sum(connection.state.busy for connection in self.connections) - streams - sockets
        running_tasks = 0 if self.asyncio_bridge is None else len(self.asyncio_bridge)
        # What runs on threads and in tasks for connections is counted with them.
        exchanges = sockets + sum(connection.exchange is not None for connection in self.connections)
        pool, own_tasks = self.thread_pool, self.hooks.running + self.periodic.tasks
        return [
            (requests, "request"),
            (streams, "stream"),
            (sockets, "WebSocket"),
            (pool.unfinished - pool.leases + running_tasks - own_tasks - exchanges, "call that no client waits for"),
            (self.hooks.running, "on_drain hook"),
            (self.periodic.running, "run of periodic work"),
        ]


def _plural(name: str) -> str:
    first, space, rest = name.partition(" ")
    return f"{first}s{space}{rest}"
