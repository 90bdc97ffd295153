"""The half of a connection that sends: what waits for the peer, and the bodies that are pulled when nothing does.

It knows sockets, buffers and sources; what a request is, and what comes after an answer, is `hypoll.connection`'s.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from contextvars import Context

from hypoll.bodies import FileSource, InlineSource, Pull, Source, TaskSource, log_cut
from hypoll.encode import encode_file, file_head
from hypoll.exchange import Exchange
from hypoll.files import Slice
from hypoll.http import FAILURES, Deferred, Request, Response, Rest
from hypoll.output import JOIN_LIMIT, SEND_SIZE, Buffers, flush, send_one
from hypoll.phases import Phase
from hypoll.shared import Shared

PULLS_PER_TURN = range(16)
"""Times a streamed body is pulled before the other connections have their turn."""


class Sending:
    """A non-blocking socket, and what is on its way to the peer.

    output: what the kernel didn't take yet. source: where the rest of a body comes from. beat: seconds of a silent
    source, and what is sent after them.
    """

    __slots__ = ("beat", "deadline", "exchange", "output", "phase", "planned", "shared", "since", "sock", "source")

    shared: Shared
    sock: socket.socket
    phase: Phase
    since: float
    deadline: float
    planned: bool
    output: Buffers
    source: Source | None
    beat: tuple[float, bytes] | None
    exchange: Exchange | None

    # what the other half does

    def on_events(self, events: int) -> None:
        """Take an edge, or with 0 go on."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket and let go of everything."""
        raise NotImplementedError

    def _on_failure(self, error: Exception) -> None:
        raise NotImplementedError

    def _on_sent(self) -> None:
        raise NotImplementedError

    def _plan_deadline(self) -> None:
        raise NotImplementedError

    def _drive_on(self) -> None:
        raise NotImplementedError

    # turns and phases

    def guard(self, step: Callable[..., object], *args: object) -> None:
        """Take a step that no edge is the reason of, and close when it fails, as `on_events` does."""
        try:
            step(*args)
        except Exception as error:
            self._on_failure(error)

    def _come_back(self) -> None:
        """Go on when the other connections had their turn: no edge will tell."""
        if not self.planned:
            self.planned = True
            self.shared.loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.planned = False
        self.on_events(0)

    def _enter(self, phase: Phase) -> None:
        if self.phase is Phase.CLOSED:
            return  # a handler has stopped the server under its own request
        self.phase = phase
        # Not the turn's time: a handler that took long in this turn has not used up its client's.
        self.since = self.shared.loop.time()
        self.deadline = self.since + self.shared.seconds[phase]

    # the way out

    def _send(self, out: list[bytes]) -> bool:
        """Send now; keep what the kernel doesn't take. False when some waits."""
        if len(out) == 1:
            return send_one(self.sock, self.output, out[0])
        if sum(map(len, out)) <= JOIN_LIMIT:
            return send_one(self.sock, self.output, b"".join(out))
        self.output += out
        return self._flush()

    def _flush(self) -> bool:
        """Send what waits. False when some still does: it goes at the writable edge (epoll(7)), or in the next turn."""
        if not self.output:
            return True
        # The head of a file goes with its beginning.
        sent = flush(self.sock, self.output, socket.MSG_MORE if type(self.source) is FileSource else 0)
        if sent:
            self.deadline = self.shared.loop.time() + self.shared.settings.write_timeout
        if self.output and sent >= SEND_SIZE:
            self._come_back()
        return not self.output

    def _source(self, rest: Rest, context: Context | None) -> Source | None:
        """Where the pieces of a streamed body will come from."""
        if rest.async_stream is not None and self.exchange is not None:
            self.exchange.source = TaskSource(rest.async_stream, self._on_piece)
            return self.exchange.source
        if rest.part is not None:
            return FileSource(rest.part)
        if rest.source is not None:
            rest.source.attach(self._on_piece)
            return rest.source
        return None if rest.stream is None else InlineSource(rest.stream, context)

    def _on_piece(self) -> None:
        """The source has something."""
        self.deadline = self.shared.loop.time() + self.shared.settings.write_timeout
        self._drive_on()

    def _drive(self) -> None:
        """Send what waits and pull what follows, until the kernel is full, all is sent, or the turn is over."""
        for _ in PULLS_PER_TURN:
            if not self._flush():
                return
            if self.source is None:
                self._on_sent()
                return
            match self._pull(self.source):
                case Pull.LATER:
                    self._plan_deadline()
                    return
                case Pull.FULL:
                    return
                case Pull.SENT:
                    self.deadline = self.shared.loop.time() + self.shared.settings.write_timeout
                    break
        self._come_back()

    def _send_file(self, request: Request, response: Response | bytes | Deferred) -> bool:
        """Send a whole file to a connection that goes on, in two calls. False: another way must be found.

        Rules 2 and 7 of the hot path; the benchmark's file row holds it.
        """
        shared = self.shared
        file = encode_file(request, response) if isinstance(response, Response) and not shared.draining else None
        if file is None:
            return False
        head, sock = file_head(file), self.sock
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = sock.send(head, socket.MSG_MORE)
            if sent == len(head):
                sent += os.sendfile(sock.fileno(), file.fd, 0, min(file.size, SEND_SIZE))
        if sent == len(head) + file.size:
            self.deadline = shared.loop.now + shared.keep_alive
            return True
        self._enter(Phase.SENDING)
        if sent < len(head):
            self.output.append(memoryview(head)[sent:])
        offset = max(sent - len(head), 0)
        self.source = FileSource(Slice(file, offset, file.size - offset))
        if offset == SEND_SIZE:
            self._come_back()  # the others have their turn
        else:
            self._drive()
        return True

    def _pull(self, source: Source) -> Pull:
        try:
            pull = source.pull(self.sock, self.output)
        except KeyboardInterrupt:
            raise
        except FAILURES as error:
            log_cut(error)
            self.close()
            return Pull.LATER
        if pull is Pull.END:
            self.source = None
        return pull
