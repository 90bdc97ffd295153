"""What a worker's start came to, and whether it wants a successor, as its master sees it: a page that both have."""

from __future__ import annotations

import mmap
import time
import weakref

_STARTED = 1
_RETIRING = 2


class StartReport:
    """Made in the master, before the fork; written by the worker, read by the master."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self.made_at = time.monotonic()
        _made.add(self)

    @property
    def started(self) -> bool:
        """Whether the application has started, and the worker accepts."""
        return self._page[0] in (_STARTED, _RETIRING)

    @property
    def retiring(self) -> bool:
        """Whether the worker serves only until another has started in its place."""
        return self._page[0] == _RETIRING

    def mark_started(self) -> None:
        """Report that the worker accepts. It may have answered `max_requests` in the loop's first turn."""
        if not self.started:
            self._page[0] = _STARTED

    def retire(self) -> None:
        """Ask for a successor. The worker accepts."""
        self._page[0] = _RETIRING

    @property
    def failure(self) -> str:
        """Why the worker can't start, in one line; empty: it has reported nothing."""
        return bytes(self._page[1:]).partition(b"\0")[0].decode(errors="replace")

    def fail(self, reason: str) -> None:
        """Report why the worker can't start. What doesn't fit into the page is cut."""
        text = " ".join(reason.split()).encode(errors="replace").replace(b"\0", b"")[: mmap.PAGESIZE - 2]
        self._page[1 : 1 + len(text)] = text


_made: weakref.WeakSet[StartReport] = weakref.WeakSet()
"""Of the workers that the master has; in a worker those of its elders, too."""


def somebody_serves() -> bool:
    """Whether a worker has started already, as far as this process knows of them."""
    return any(report.started for report in list(_made))
