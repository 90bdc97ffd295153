"""A worker's heartbeat, and how gunicorn's master reads it: by its own running time, not by the clock on the wall."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

LOOK = 1.0
"""Seconds between two looks of gunicorn's master at its workers' heartbeats."""

LATE = 1.0
"""Seconds by which a look may come late before the master is taken to have been kept from running."""

COUNTED = 0.25
"""Seconds that such a look counts for all the same: a master that is always late still finds who is stuck. With the
worker's own pause between two beats they are less than the shortest timeout."""


class Beat(Protocol):
    """Gunicorn's heartbeat: a file whose modification time is the last beat's, by the monotonic clock."""

    def notify(self) -> None:
        """Beat."""

    def last_update(self) -> float:
        """When it last beat."""

    def fileno(self) -> int:
        """The file's descriptor."""

    def close(self) -> None:
        """Give the file back."""


class Heartbeat:
    """Gunicorn's heartbeat, without the time in which the master did not run.

    After a pause of them all (a frozen cgroup, a paused machine) the master may run before its workers, and would kill
    them for having been silent. A look that comes late counts for `COUNTED` seconds only.
    """

    def __init__(self, beat: Beat, clock: Callable[[], float] = time.monotonic) -> None:
        self._beat = beat
        self._clock = clock
        self._looked_at = clock()
        self._seen = -1.0
        self._lost = 0.0
        """Seconds without a look since the worker last beat."""
        self.notify = beat.notify
        self.fileno = beat.fileno
        self.close = beat.close

    def last_update(self) -> float:
        """When it last beat, as far as the master could see. Asked by the master, at each look."""
        now, beaten = self._clock(), self._beat.last_update()
        if beaten != self._seen:
            self._seen, self._lost = beaten, 0.0
        silent_since = max(self._looked_at, beaten)
        gap = now - self._looked_at
        if gap > LOOK + LATE:
            self._lost += max(0.0, now - silent_since - COUNTED)
        self._looked_at = now
        return beaten + self._lost
