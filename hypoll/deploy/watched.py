"""A server and the process that watches over it (`--reload`): each learns of the other's end, and why there is none.

Two pipes lead from one to the other. Nothing is written to the first: its end is the watcher's, however it came, and
the kernel tells it by a TERM (fcntl(2), F_SETSIG), whatever the server is doing. What is written to the second is why
the application can't be served.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import traceback
from collections.abc import Sequence

from hypoll.app import Routes

VARIABLE = "_HYPOLL_WATCHER"
"""Holds the numbers of the two pipes' ends in the environment of a server."""

MAX_REASON = 64 * 1024
"""Bytes of a reason: what a pipe holds (pipe(7))."""

_reasons = -1


class WatchedServer:
    """A server's process, as the watcher has it. Raises `OSError` when it can't be started."""

    def __init__(self, command: Sequence[str], fds: Sequence[int]) -> None:
        end, self._life = os.pipe()
        self._failures, reasons = os.pipe()
        os.set_blocking(self._failures, False)
        environment = {name: value for name, value in os.environ.items() if name != "HYPOLL_RELOAD"}
        environment[VARIABLE] = f"{end} {reasons}"
        try:
            self.process = subprocess.Popen(command, pass_fds=(*fds, end, reasons), env=environment)  # noqa: S603 - our own
        except OSError:
            self.close()
            raise
        finally:
            os.close(end)
            os.close(reasons)

    @property
    def code(self) -> int | None:
        """The exit code of a shell: that of a signal is 128 and its number. None: it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def failure(self) -> str:
        """What it reported: why it can't serve; empty: nothing."""
        try:
            report = os.read(self._failures, MAX_REASON)
        except BlockingIOError:
            return ""
        return report.partition(b"\0")[0].decode(errors="replace")

    def close(self) -> None:
        """Give back the pipes. A server that still runs ends."""
        os.close(self._life)
        os.close(self._failures)


def become_watched() -> None:
    """Be a server that is watched, if this process is one: end with the watcher, and `tell` it."""
    global _reasons
    ends = os.environ.pop(VARIABLE, "").split()
    if len(ends) != 2:
        return
    life, _reasons = map(int, ends)
    for fd in (life, _reasons):
        os.set_inheritable(fd, False)
    os.set_blocking(_reasons, False)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(life, 0)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGTERM)  # it had ended before


def is_watched() -> bool:
    """Whether a watcher has started this server (`--reload`)."""
    return _reasons >= 0


def report_failure(error: BaseException, sentence: str = "") -> None:
    """Tell the watcher, if there is one, why the application can't be served."""
    if not is_watched():
        return
    # One that was made to say it in a sentence has no traceback that would say more.
    report = "" if str(error) == sentence else "".join(traceback.format_exception(error))
    text = "\n\n".join(part for part in (sentence, report) if part).encode(errors="replace")
    with contextlib.suppress(OSError):
        os.write(_reasons, text.replace(b"\0", b"")[: MAX_REASON // 2] + b"\0")


def failing_application(reason: str) -> Routes:
    """An application that tells of every request why there is none: for development only."""
    routes = Routes()
    routes.before(lambda request: (reason, 500))
    return routes
