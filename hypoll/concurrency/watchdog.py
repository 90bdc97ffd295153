"""Naming stalls: a handler that holds the loop is logged with its route, its duration and the stack it is stuck in.

A thread looks at the stack of the loop's thread from outside, so the loop does nothing for it but wake it up when work
begins after a rest. While the server is idle the thread sleeps, too.
"""

from __future__ import annotations

import linecache
import logging
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import NamedTuple

from hypoll.loop import Loop

LOOKS = 4
"""Looks in the time that a handler may take: one that takes half as long again is seen for certain."""

QUIET_LOOKS = 8
"""Looks at an idle loop after which the thread goes to sleep."""

log = logging.getLogger("hypoll.error")


MAX_LINES = 12
"""Lines of a stack that are logged: two a frame, and one that says how many were left out."""

OWN_FILES = tuple(
    os.path.join(directory, "")
    for directory in (os.path.dirname(os.path.dirname(__file__)), *map(sysconfig.get_path, ("stdlib", "purelib")))
)
"""Where code is that isn't the application's: hypoll's, Python's and what is installed."""


class Subject(NamedTuple):
    """What holds the loop, for the log: its name, and the id of its request."""

    name: str
    request_id: str | None = None


class Sample(NamedTuple):
    """What the loop's thread is busy with.

    Attributes:
        subject: the request's identity, 0 where there is none.
        turn: when the loop's present turn began. An address alone is soon another request's, but while something holds
            the loop no other turn begins.
        what: what it is, for a person.
    """

    subject: int
    turn: float
    what: Subject

    def is_still(self, other: Sample | None) -> bool:
        """Whether what was seen before is this."""
        return other is not None and (self.subject, self.turn) == (other.subject, other.turn)


class Watchdog:
    """Watches the thread it is made on, from `start` to `stop`.

    Args:
        limit: seconds for which a callback may hold the loop.
        describe: describes what a frame on the stack calls its request; None: that is no request.
        waits: the code in which the thread rests, beside the loop's own.
        advise: says what to do against it, given the frames from the innermost on.
        is_quiet: whether nothing is to be said, as while the process stops.
    """

    def __init__(
        self,
        loop: Loop,
        limit: float,
        describe: Callable[[object], Subject | None] = lambda request: None,
        waits: frozenset[CodeType] = frozenset(),
        advise: Callable[[list[FrameType]], str] = lambda frames: "Have it run on a thread.",
        is_quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = loop
        self._limit = limit
        self._describe = describe
        self._advise = advise
        self._is_quiet = is_quiet
        self._waits = waits | {Loop._poll.__code__}
        self._thread_id = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="hypoll-watchdog", daemon=True)
        self._work = threading.Lock()
        self._work.acquire()
        self._stopping = False
        self._turn = -1.0
        self._seen: Sample | None = None
        self._since = 0.0
        self._reported = False

    def start(self) -> None:
        """Begin to watch. The server goes on without it where no thread can be started (pthread_create(3), EAGAIN)."""
        try:
            self._thread.start()
        except RuntimeError as error:
            log.warning("no handler that holds the loop will be named: %s", error)
        else:
            self._loop.on_busy = self._wake

    def stop(self) -> None:
        """Watch no more."""
        self._stopping = True
        self._loop.on_busy = None
        self._wake()
        if self._thread.is_alive():
            self._thread.join()

    def _wake(self) -> None:
        """The loop has work, and nobody watches."""
        self._loop.on_busy = None
        if self._work.locked():
            self._work.release()

    def _watch(self) -> None:
        while not self._stopping:
            self._work.acquire()
            quiet = 0
            while quiet < QUIET_LOOKS and not self._stopping:
                # Not a sleep: `stop` must not wait for it. The lock is free only then.
                if self._work.acquire(timeout=self._limit / LOOKS):
                    break
                quiet = 0 if self._look() else quiet + 1
            if not self._stopping:
                self._loop.on_busy = self._wake
        self._note(None)

    def _look(self) -> bool:
        """Take note of what the thread does. False: it rests."""
        turn = self._loop.now
        if turn != self._turn:
            # Another turn than at the last look: nothing is stuck, and no stack need be looked at.
            self._turn = turn
            self._note(None)
            return True
        frame = sys._current_frames().get(self._thread_id)
        if frame is None or frame.f_code in self._waits:
            self._note(None)
            return False
        sight = self._see(frame)
        if not sight.is_still(self._seen):
            self._note(sight)
            # A task that lets the others run, and has no need of this loop, would look as if it held it: a turn tells.
            self._loop.call_soon_threadsafe(_nothing)
        elif not self._reported and not self._is_quiet() and self._loop.time() - self._since >= self._limit:
            self._reported = True
            self._report(sight.what, frame)
        return True

    def _report(self, what: Subject, frame: FrameType) -> None:
        frames = [found for found, _ in traceback.walk_stack(frame)]
        stack = stack_of_request(frame)
        log.warning(
            "%s has held the loop for %.2f s, and nobody else is served meanwhile%s. %s It is stuck in:\n%s",
            what.name,
            self._loop.time() - self._since,
            "" if what.request_id is None else f" (request {what.request_id})",
            self._advise(frames),
            stack,
            extra={"stack": stack, **_fields(what)},
        )

    def _note(self, sight: Sample | None) -> None:
        """Something else is seen, or nothing: what was reported has ended."""
        now = self._loop.time()
        if self._reported and self._seen is not None:
            what = self._seen.what
            log.warning("%s held the loop for %.2f s", what.name, now - self._since, extra=_fields(what))
        # The first that is seen in a turn has had it since the turn's first look, at the least.
        self._since = now if sight is None or self._seen is not None else self._since
        self._seen, self._reported = sight, False

    def _see(self, frame: FrameType) -> Sample:
        """What a stack is busy with: the request in it, or else whatever it is."""
        turn = self._loop.now
        for found, _ in traceback.walk_stack(frame):
            request = found.f_locals.get("request")
            what = None if request is None else self._describe(request)
            if what is not None:
                return Sample(id(request), turn, what)
        return Sample(0, turn, Subject(f"{frame.f_code.co_qualname}, in no request,"))


def stack_of_request(frame: FrameType) -> str:
    """The stack that ends in a frame, as text, from its request on: the innermost of the application's frames."""
    frames = [found for found, _ in traceback.walk_stack(frame)]
    last = max((at for at, found in enumerate(frames) if "request" in found.f_locals), default=len(frames))
    frames = frames[: last + 1]
    kept = frames
    if len(frames) * 2 > MAX_LINES:
        # The innermost of all says what it waits in, those of the application where that was called.
        own = [found for found in frames[1:] if not found.f_code.co_filename.startswith(OWN_FILES)]
        kept = [frames[0], *(own or frames[1:])][: (MAX_LINES - 1) // 2]
    lines = [f"  [{len(frames) - len(kept)} more frames]"] if len(kept) < len(frames) else []
    for found in reversed(kept):
        code, number = found.f_code, found.f_lineno
        source = linecache.getline(code.co_filename, number, found.f_globals).strip() or "?"
        lines += [f'  File "{code.co_filename}", line {number}, in {code.co_name}', f"    {source}"]
    return "\n".join(lines)


def _fields(what: Subject) -> dict[str, object]:
    return {} if what.request_id is None else {"request_id": what.request_id}


def _nothing() -> None:
    """Make a turn."""
