"""What an application has replaced in the standard library that hypoll can't do without (gevent, eventlet, by hand).

hypoll waits in its own loop, which never yields to that of a library of greenlets: such a library may have its sockets,
its `sleep` and its locks, which work as they are, but not `epoll`, nor the threads that handlers run on.
"""

from __future__ import annotations

import _thread
import select
from types import BuiltinFunctionType

EPOLL_ADVICE = (
    "select is monkey-patched: there is no epoll any more, over which hypoll serves. "
    "Patch without it: gevent's patch_all(select=False), eventlet's monkey_patch(select=False, os=False)"
)

THREADS_ADVICE = (
    "threads are monkey-patched: what is to run on one waits for ever, since hypoll's loop yields to no greenlet. "
    "Patch without them: patch_all(select=False, thread=False)"
)


def find_fault(*, threads: bool) -> str:
    """Why an application can't be served for what it has patched, and what to do; empty: it can.

    Args:
        threads: whether anything of it runs on threads.
    """
    found = [] if _is_epoll(getattr(select, "epoll", None)) else [EPOLL_ADVICE]
    if threads and has_patched_threads():
        found.append(THREADS_ADVICE)
    return ". ".join(found)


def has_patched_threads() -> bool:
    """Whether a thread that is started isn't one of the system's."""
    return type(_thread.start_new_thread) is not BuiltinFunctionType


def _is_epoll(kind: object) -> bool:
    return isinstance(kind, type) and (kind.__module__, kind.__name__) == ("select", "epoll")
