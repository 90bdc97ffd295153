"""PID 1 of a container: reap the orphans, pass signals on to the server, end as it ends.

The kernel gives every orphan of a container to its PID 1, and keeps a dead one as a zombie until PID 1 waits for it
(pid_namespaces(7)). The server can't do that itself: `waitpid(-1)` would also take the ends of children that the
application waits for (subprocess, multiprocessing, a C library's `system`), and nothing tells an adopted child from
one's own: its parent, group and session may be the same, and the kernel even makes its exit signal SIGCHLD. So PID 1
has one child of its own, in which everything happens. Whoever else it is told of is an orphan.
"""

from __future__ import annotations

import contextlib
import os
import signal

_OF_THE_PROCESS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGSYS,
}
"""Its own faults (signal(7))."""

_OF_A_TERMINAL = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
"""They stop a process for a shell to continue it; a container has none."""


def leave_pid_1() -> None:
    """In PID 1: fork, and return in the child only; the parent reaps until the child ends, and exits with its status.

    A child that a signal has ended gives 128 and the signal's number, as in a shell. In any other process: nothing.
    Call it before the application is imported: a fork doesn't take threads along.
    """
    if os.getpid() == 1:
        _fork()


def _fork() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, the kernel would keep no statuses (wait(2))
    waited_for = set(signal.valid_signals()) - _OF_THE_PROCESS - _OF_A_TERMINAL
    # Before the fork, so that none is lost. What is blocked reaches even PID 1, to which the kernel else sends only
    # what it handles (kill(2)).
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child:
        os._exit(_tend(child, waited_for))
    os.setsid()  # a terminal's ^C goes to PID 1 and is passed on: once, not twice
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tend(child: int, waited_for: set[signal.Signals]) -> int:
    """Reap, and pass signals on to the child, until it has ended: its exit status."""
    while True:
        signum = signal.sigwait(waited_for)
        if signum == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signum)


def _reap(child: int) -> int | None:
    """Take all that have ended, since signals of a kind are told once: the exit status if the child is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pid == 0:
            return None
