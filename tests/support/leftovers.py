"""What earlier tests have left in the process for a moment, and the descriptors that are open without that."""

from __future__ import annotations

import gc
import os
import threading

from hypoll.concurrency.thread_pool import ThreadPool
from hypoll.protocol.files import FILES

STUCK = 1.0
"""Seconds after which a thread of a closed pool isn't about to end, but held by what it was called for."""


def await_closed_pools() -> None:
    """Wait for the threads of pools that were closed: nobody else does, so that they may end in the next test."""
    for thread in threading.enumerate():
        pool = getattr(getattr(thread, "_target", None), "__self__", None)
        if isinstance(pool, ThreadPool) and pool._closed:
            thread.join(STUCK)


def open_descriptors() -> set[str]:
    """This process's descriptors, by their numbers."""
    return set(os.listdir("/proc/self/fd"))


def settled_descriptors() -> set[str]:
    """The same for a comparison, with none that is to be given back behind it.

    A pool's thread keeps its descriptor until it ends, what is in a cycle until the collector comes by, and files that
    were served are kept open for a while.
    """
    await_closed_pools()
    FILES.clear()
    gc.collect()
    return open_descriptors()
