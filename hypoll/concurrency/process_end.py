"""The end of a process: signals that come when no loop takes them, and threads that would hold its exit.

Python waits at its end for every thread that isn't a daemon, those of `asyncio.to_thread` and of executors included.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

MIN_EXIT_TIME = 0.25
"""Seconds that a process's exit may take in any case."""

EXIT_TIME = 2.0
"""Seconds that the `atexit` handlers may take when threads were left behind."""

ENDING = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("hypoll.error")


class Ended(KeyboardInterrupt):
    """TERM or INT came before the server served: raised in whatever the main thread is doing."""


class ProcessEnd:
    """TERM and INT in a process of the command, from its start on, whenever no loop takes them.

    Before the server serves they end the start by `Ended`. After `begin_exit` the process is at its end already: TERM
    does nothing, INT leaves behind what holds the exit.
    """

    def __init__(self) -> None:
        self.begun = False
        self.seconds = 0.0
        """Seconds that the exit may take."""
        self.served = False
        """Whether the server has started, so that a signal that comes when it has ended asks for nothing more."""
        self._pid = os.getpid()
        self._code = 0
        self._asked = False
        self._exiting = False
        self._hurried = False
        self._on_end: Callable[[], object] | None = None

    def begin(self) -> None:
        """Take the signals."""
        self.begun = True
        self._pid = os.getpid()
        for signum in ENDING:
            signal.signal(signum, self._on_signal)
        atexit.register(self._at_exit)

    def check(self) -> None:
        """Raise `Ended` when a signal has asked for the end: the application's import may have caught it."""
        if self._asked:
            raise Ended

    def on_end(self, call: Callable[[], object]) -> None:
        """Call something when all threads have ended or are left behind, and the application's `atexit` handlers have
        run; now, where this isn't the process's own end.
        """
        if self.begun:
            self._on_end = call
        else:
            call()

    def begin_exit(self, code: int) -> None:
        """The process ends with an exit code; what holds its exit for longer than `seconds` is left behind.

        In a worker: nothing.
        """
        if os.getpid() != self._pid:
            return
        self._exiting, self._code = True, code
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, self._on_signal)
        bound_exit(code, 0.0 if self._hurried else self.seconds)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not (self.served or self._asked or self._exiting):
            self._asked = True
            raise Ended
        # Nothing is raised a second time: it would come out of whoever takes up the first.
        if signum == signal.SIGINT and (self._exiting or not self.served):
            exit_now(self._code, "interrupted again")
        elif signum == signal.SIGINT:
            self._hurried = True

    def _at_exit(self) -> None:
        if os.getpid() == self._pid and self._on_end is not None:
            self._on_end()
        # At its very end the interpreter gives back its handlers: the kernel's default would make a code of its own.
        if os.getpid() == self._pid and threading.current_thread() is threading.main_thread():
            for signum in ENDING:
                signal.signal(signum, signal.SIG_IGN)


def bound_exit(code: int, seconds: float) -> None:
    """End this process in `seconds`, with an exit code, if it hasn't ended by itself. To be called last."""
    seconds = max(seconds, MIN_EXIT_TIME)
    with contextlib.suppress(RuntimeError):  # no thread is to be had: what is left is waited for
        _Guard(seconds, exit_now, code, "graceful_timeout passed").start()
        # `exit_now` may have to run the handlers by itself, and one of them may not return.
        _Guard(seconds + 2 * EXIT_TIME, os._exit, code).start()


class _Guard(threading.Thread):
    """Waits beside the interpreter's end, and then ends the process."""

    def __init__(self, seconds: float, end: Callable[..., object], *arguments: object) -> None:
        super().__init__(name="hypoll-exit", daemon=True)
        self._seconds = seconds
        self._end = end
        self._arguments = arguments

    def run(self) -> None:
        time.sleep(self._seconds)
        self._end(*self._arguments)


def exit_now(code: int, why: str) -> None:
    """End the process now, after its `atexit` handlers, whatever its threads do."""
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    if left:
        log.warning("%s: left behind: %s", why, ", ".join(map(_place_of, left)))
        # Python runs the handlers after the threads have ended. (If it is at them, one of these doesn't return.)
        handlers = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
        try:
            handlers.start()
            handlers.join(EXIT_TIME)
        except RuntimeError:  # Python 3.12.1 starts none at its end
            atexit._run_exitfuncs()
    else:
        log.warning("%s: left behind: %s", why, _place_of(threading.main_thread()))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _place_of(thread: threading.Thread) -> str:
    """A thread's name, and what it is doing."""
    innermost = sys._current_frames().get(thread.ident or 0)
    if innermost is None:
        return thread.name
    library = os.path.dirname(threading.__file__) + os.sep
    frames = [frame for frame, _ in traceback.walk_stack(innermost)]
    own = (frame for frame in frames if not frame.f_code.co_filename.startswith((library, "<frozen")))
    frame = next(own, innermost)
    return f"{thread.name} in {frame.f_code.co_qualname}, {frame.f_code.co_filename} line {frame.f_lineno}"


def has_terminal() -> bool:
    """Whether the process has a terminal that can end it; it hasn't any more when that was closed (credentials(7))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
