"""A child that the application forks is no second server.

Its laws:

- `os.fork()` gives the child copies of all: the epoll set, the connections, what waits to be logged. In the child each
  of the server's descriptors is put in place by /dev/null, and nothing of a loop is left to run.
- A child may do what it likes for as long as it likes: it has the application's code to itself. When control comes back
  to hypoll, because the handler, hook, iterator or task returns, raises or awaits, the child ends: `os._exit`, by which
  no exit handler, no `on_stop` hook and no `finally` of its parent runs a second time.
- Its exit status is what a script's would be: 0, that of `sys.exit()`, or 1 with the traceback on standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

from hypoll.loop import abandon_loops, has_loops

_CHILDREN = ("multiprocessing.popen_fork", "subprocess")
"""Modules whose children never come back from where they were forked."""


class _ThisProcess:
    """What is known of this process."""

    orphaned = False


def orphaned() -> bool:
    """Whether this is a child that was forked by code which hypoll has called, and must not be let back in."""
    return _ThisProcess.orphaned


def keep_out(error: BaseException | None = None) -> None:
    """End the process if it is such a child; `error`: what the application's code raised."""
    if _ThisProcess.orphaned:
        end_child(error)


def end_child(error: BaseException | None = None) -> NoReturn:
    """End a forked child as a script would end, but for what was its parent's to do at exit."""
    status = 0
    with contextlib.suppress(Exception):
        status = _status(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _status(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


class Ended:
    """Stands in a child for what its parent's server works with: whatever is asked of it is the child's end."""

    def __call__(self, *arguments: object, **more: object) -> NoReturn:
        """End the child."""
        end_child(next((one for one in arguments if isinstance(one, BaseException)), None))

    def __getattr__(self, name: str) -> Any:
        return self


def _before() -> None:
    # What print() has left in a buffer would be in the child's, too, and be written by both.
    if has_loops():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


def _in_child() -> None:
    if abandon_loops(Ended()):
        _ThisProcess.orphaned = _comes_back(sys._getframe(1))


def _comes_back(frame: FrameType | None) -> bool:
    """Whether what runs here was called by hypoll, and will return to it."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in _CHILDREN:
            return False
        if name.startswith("hypoll."):
            return True
        frame = frame.f_back
    return False


os.register_at_fork(before=_before, after_in_child=_in_child)
