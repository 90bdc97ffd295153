"""Many clients on one epoll, in the test's own thread, with a fresh client measured among them."""

from __future__ import annotations

import heapq
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .harness import Address, Served

SENDS_PER_PASS = 32
"""Bytes dribbled before the driver looks at its sockets again: it must not delay what it measures."""

PROBE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PROBE_PAUSE = 0.005


class Peer:
    """A client: what it says first, what it goes on dribbling, and what it got.

    beat: seconds between two pieces of the dribble.
    reads: whether it ever takes what the server sends.
    keeps: whether what it takes is kept in `received`.
    upload: sent as fast as the server takes it.
    """

    def __init__(
        self,
        address: Address,
        opening: bytes,
        *,
        dribble: Iterator[bytes] | None = None,
        beat: float = 0.1,
        reads: bool = True,
        keeps: bool = True,
        upload: bytes = b"",
    ) -> None:
        self.received = b""
        self.reads = reads
        self.keeps = keeps
        self.upload = memoryview(upload)
        self.dribble = dribble
        self.beat = beat
        self.opened = time.monotonic()
        self.ended = 0.0
        self.was_reset = False
        self.sock = socket.socket()
        self.sock.connect(address)  # the kernel's queue takes it at once
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if opening:
            self.sock.send(opening)

    @property
    def lasted(self) -> float:
        """Seconds from the connection to its end by the server."""
        return self.ended - self.opened

    @property
    def uploaded(self) -> bool:
        """Whether all of the upload is sent."""
        return not self.upload

    def on_events(self, events: int) -> None:
        try:
            if self.upload and events & select.EPOLLOUT:
                self.upload = self.upload[self.sock.send(self.upload) :]
            if self.reads and events & ~select.EPOLLOUT:
                self.read()
            elif events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                self.was_reset = bool(events & select.EPOLLERR)
                self.end()
        except BlockingIOError:
            pass
        except ConnectionError:
            self.was_reset = True
            self.end()

    def read(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            self.end()
        elif self.keeps:
            self.received += data

    def send_more(self) -> None:
        if self.dribble is None or self.ended:
            return
        try:
            self.sock.send(next(self.dribble))
        except BlockingIOError:
            pass
        except (ConnectionError, StopIteration):
            self.dribble = None

    def end(self) -> None:
        self.ended = self.ended or time.monotonic()
        self.sock.close()


def waited(task: object) -> float:
    """Seconds that a thread was ready to run and got no CPU (schedstat, see sched-stats in the kernel's documents)."""
    return int(Path(f"/proc/{task}/schedstat").read_text().split()[1]) / 1e9


class Crowd:
    """Drives peers, and a fresh client after the other whose answers are timed.

    What the machine kept from the server's loop or from this thread isn't counted: others may have the CPU.

    server: the one that it is about.
    probes: whether fresh clients ask it.
    """

    def __init__(self, server: Served, *, probes: bool = True) -> None:
        self.server = server
        self.probed = server.address if probes else None
        self.peers: list[Peer] = []
        self.open = 0
        self.latencies: list[float] = []
        self._dribbles: list[tuple[float, int, Peer]] = []
        self._by_fd: dict[int, Peer] = {}
        self._epoll = select.epoll()
        self._probe: Peer | None = None
        self._next_probe = 0.0
        self._waited = self._waited_at_probe = self._wait()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exception: object) -> None:
        for peer in self.peers:
            peer.end()
        if self._probe is not None:
            self._probe.end()
        self._epoll.close()

    def add(self, peer: Peer) -> Peer:
        self.peers.append(peer)
        self.open += 1
        self._watch(peer)
        if peer.dribble is not None:
            heapq.heappush(self._dribbles, (time.monotonic() + peer.beat, id(peer), peer))
        return peer

    def run(self, until: Callable[[], bool], within: float) -> None:
        """Drive all until it holds; `AssertionError` when it doesn't within so many seconds."""
        deadline = time.monotonic() + within
        while not until():
            now = time.monotonic()
            assert now < deadline, f"{self.open} clients are open after {within} s"
            self._dribble(now)
            self._ask(now)
            for fd, events in self._epoll.poll(self._pause(now, deadline)):
                self._on_events(fd, events)

    def run_for(self, seconds: float) -> None:
        """Drive all for so long."""
        end = time.monotonic() + seconds
        self.run(lambda: time.monotonic() >= end, seconds + 1)

    def _wait(self) -> float:
        return waited(self.server.process.pid) + waited("thread-self")

    def delay(self) -> float:
        """Seconds that the machine took from the server and the clients since the crowd was made."""
        return self._wait() - self._waited

    def percentile(self, share: float) -> float:
        """The latency of the fresh clients that `share` of them stayed below, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def report(self) -> dict[str, Any]:
        """The fresh clients' latencies in milliseconds."""
        return {
            "answers": len(self.latencies),
            **{f"p{share}": round(self.percentile(share / 100) * 1000, 2) for share in (50, 99, 100)},
        }

    def _watch(self, peer: Peer) -> None:
        self._by_fd[peer.sock.fileno()] = peer
        events = select.EPOLLIN if peer.reads else select.EPOLLRDHUP
        self._epoll.register(peer.sock.fileno(), events | (select.EPOLLOUT if peer.upload else 0))

    def _dribble(self, now: float) -> None:
        for _ in range(SENDS_PER_PASS):
            if not self._dribbles or self._dribbles[0][0] > now:
                return
            peer = heapq.heappop(self._dribbles)[-1]
            peer.send_more()
            if not peer.ended and peer.dribble is not None:
                heapq.heappush(self._dribbles, (now + peer.beat, id(peer), peer))

    def _ask(self, now: float) -> None:
        if self.probed is not None and self._probe is None and now >= self._next_probe:
            self._waited_at_probe = self._wait()
            self._probe = Peer(self.probed, PROBE)
            self._watch(self._probe)

    def _pause(self, now: float, deadline: float) -> float:
        due = [deadline]
        if self._dribbles:
            due.append(self._dribbles[0][0])
        if self.probed is not None and self._probe is None:
            due.append(self._next_probe)
        return max(0.0, min(due) - now)

    def _on_events(self, fd: int, events: int) -> None:
        peer = self._by_fd[fd]
        uploading = not peer.uploaded
        peer.on_events(events)
        if not peer.ended:
            if uploading and peer.uploaded:
                self._epoll.modify(fd, select.EPOLLIN)
            return
        if peer is self._probe:
            assert peer.received.startswith(b"HTTP/1.1 200 "), peer.received
            self.latencies.append(max(0.0, peer.lasted - (self._wait() - self._waited_at_probe)))
            self._probe = None
            self._next_probe = peer.ended + PROBE_PAUSE
        else:
            self.open -= 1
