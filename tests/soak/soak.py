"""Mixed traffic to a server for a given time, and what it leaves: `scripts/soak [SECONDS]`.

Good clients, slow ones, broken ones, ones that reset, big uploads and downloads, fresh and kept connections, all at
once on one epoll. Every few seconds a line tells memory, descriptors and counts. Exit code 1: memory grew by 2 MiB or
more after the first tenth of the time (at least 20 s), something was left behind, or a good request failed.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable

from click import echo

from tests.faults.harness import HELD, MIB, Address, Served
from tests.support.client import reset

GROWTH = 2 * MIB
CLIENTS = 60
REPORT_EVERY = 5.0
PACE = 0.002
"""Seconds between two new clients at least."""

SERVER_OPTIONS = ("--header-timeout", "2", "--body-timeout", "2", "--write-timeout", "2", "--keep-alive", "60")
LONGEST = 40.0
"""Seconds after which a client that the server should have ended is a failure."""

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def _get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode()


def _upload(size: int) -> bytes:
    head = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size
    return head + b"u" * size


BIG_UPLOAD = _upload(8 * MIB)
TOO_LARGE = _upload(17 * MIB)


class Client:
    """One connection with a script.

    kind: what it is counted as.
    data: what it sends; `dribble` bytes at a time each tenth of a second, or 0: as fast as the server takes it.
    begins, ends: what the answer must begin and end with; None: anything, or nothing.
    size: the least bytes of the answer.
    patience: seconds after which it resets the connection by itself; 0: it stays.
    reads: whether it takes the answer.
    """

    def __init__(
        self,
        kind: str,
        data: bytes,
        *,
        begins: bytes | None = None,
        ends: bytes = b"",
        size: int = 0,
        dribble: int = 0,
        patience: float = 0,
        reads: bool = True,
    ) -> None:
        self.kind = kind
        self.rest = memoryview(data)
        self.begins = begins
        self.ends = ends
        self.size = size
        self.dribble = dribble
        self.patience = patience
        self.reads = reads
        self.count = 0
        self.first = b""
        self.last = b""
        self.ended = False
        self.readable = False
        self.writable = False
        self.next_send = 0.0

    def open(self, address: Address) -> None:
        """Connect: the kernel's queue takes it at once."""
        self.opened = time.monotonic()
        self.sock = socket.create_connection(address, timeout=10)
        self.sock.setblocking(False)

    def on_events(self, events: int) -> None:
        """Go on with the script."""
        try:
            if events & (select.EPOLLERR | select.EPOLLHUP) and not self.reads:
                self.end()
            elif self.reads and events & ~select.EPOLLOUT:
                self._receive()
            if not self.ended and events & select.EPOLLOUT:
                self.writable = True
                self.send()
        except BlockingIOError:
            pass
        except ConnectionError:
            self.end()

    def send(self) -> None:
        """Send what the script has now."""
        if not self.rest or not self.writable:
            return
        try:
            if not self.dribble:
                while self.rest:
                    self.rest = self.rest[self.sock.send(self.rest) :]
            elif time.monotonic() >= self.next_send:
                self.next_send = time.monotonic() + 0.1
                self.rest = self.rest[self.sock.send(self.rest[: self.dribble]) :]
        except BlockingIOError:
            self.writable = False
        except ConnectionError:
            self.rest = memoryview(b"")

    def _receive(self) -> None:
        self.readable = True
        for _ in range(4):
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                self.readable = False
                return
            if not data:
                self.end()
                return
            self.first = (self.first + data[:64])[:64]
            self.last = (self.last + data[-64:])[-64:]
            self.count += len(data)

    def look(self, now: float) -> None:
        """Lose patience, read on, or dribble on."""
        if self.patience and now - self.opened > self.patience:
            self.ended = True
            reset(self.sock)
        elif self.readable:
            self.on_events(select.EPOLLIN)
        elif self.dribble:
            self.send()

    def end(self) -> None:
        """The server has ended the connection, or the traffic is over."""
        self.ended = True
        self.sock.close()

    def failure(self) -> str:
        """What is wrong with the answer; empty: nothing."""
        if self.begins is None:
            return ""
        fine = self.first.startswith(self.begins) and self.last.endswith(self.ends) and self.count >= self.size
        return "" if fine else f"{self.kind}: {self.count} bytes, {self.first!r} ... {self.last!r}"


OK = b"HTTP/1.1 200 "
BAD = b"HTTP/1.1 4"

SCRIPTS: list[tuple[int, Callable[[], Client]]] = [
    (40, lambda: Client("good", LAST, begins=OK, ends=b"ok")),
    (20, lambda: Client("pipelined", GET * random.randint(1, 200) + LAST, begins=OK, ends=b"ok")),
    (10, lambda: Client("upload", _upload(random.randint(1, 200_000)), begins=OK)),
    (6, lambda: Client("chunked", CHUNKED + b"ffff\r\n" + b"c" * 65535 + b"\r\n0\r\n\r\n", begins=OK, ends=b"65535")),
    (2, lambda: Client("big upload", BIG_UPLOAD, begins=OK, ends=b"%d" % (8 * MIB))),
    (2, lambda: Client("big download", _get("/big"), begins=OK, ends=b"bbb", size=8 * MIB)),
    (3, lambda: Client("stream", _get("/stream/40"), begins=OK, ends=b"0\r\n\r\n", size=40 * 65536)),
    (3, lambda: Client("steady body", _upload(9000), begins=OK, ends=b"9000", dribble=3000)),
    (2, lambda: Client("slow head", b"GET / HTTP/1.1\r\nX: " + b"x" * 999, begins=b"HTTP/1.1 408 ", dribble=1)),
    (2, lambda: Client("slow body", _upload(9000), begins=b"HTTP/1.1 408 ", dribble=random.randint(1, 40))),
    (1, lambda: Client("never reads", _get("/big"), reads=False)),
    (1, lambda: Client("idle", b"", patience=3)),
    (10, lambda: Client("broken", random.randbytes(random.randint(1, 400)) + b"\r\n\r\n", patience=1)),
    (10, lambda: Client("malformed", b"GET / HTTP/1.1\r\nbad header\r\n\r\n" + GET, begins=BAD)),
    (3, lambda: Client("too large", TOO_LARGE, patience=5)),
    (5, lambda: Client("gone in a body", _upload(90_000)[:-1], patience=0.1)),
    (5, lambda: Client("gone in a stream", _get("/stream/100000"), patience=0.2)),
    (5, lambda: Client("gone unread", _get("/big"), patience=0.2, reads=False)),
    (5, lambda: Client("gone at once", GET[:-5], patience=0.01)),
]
"""How often, and what."""


class Traffic:
    """Keeps so many clients busy, and counts how they fared."""

    def __init__(self, address: Address, seed: int) -> None:
        random.seed(seed)
        self.address = address
        self.clients: dict[int, Client] = {}
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.waits: list[float] = []
        self._epoll = select.epoll()
        self._next = 0.0
        self._scripts = [script for weight, script in SCRIPTS for _ in range(weight)]

    def run(self, seconds: float, fresh: bool = True) -> None:
        """Go on for so long; without `fresh` clients, until all have ended."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and (fresh or self.clients):
            if fresh and len(self.clients) < CLIENTS and now >= self._next:
                self._next = now + PACE
                self._open()
            waiting = any(client.readable for client in self.clients.values())
            for fd, events in self._epoll.poll(0 if waiting else 0.005):
                self.clients[fd].on_events(events)
            self._look(time.monotonic())

    def close(self) -> None:
        """Reset whoever is left."""
        for client in self.clients.values():
            client.end()
        self._epoll.close()

    def _open(self) -> None:
        client = random.choice(self._scripts)()
        client.open(self.address)
        self.clients[client.sock.fileno()] = client
        events = select.EPOLLOUT | select.EPOLLET | (select.EPOLLIN if client.reads else 0)
        self._epoll.register(client.sock.fileno(), events)

    def _look(self, now: float) -> None:
        for fd, client in list(self.clients.items()):
            if not client.ended:
                client.look(now)
            if not client.ended and now - client.opened > LONGEST:
                self.failures.append(f"{client.kind}: not ended after {LONGEST:g} s")
                client.end()
            if client.ended:
                del self.clients[fd]
                self._count(client, now)

    def _count(self, client: Client, now: float) -> None:
        self.done[client.kind] += 1
        if client.kind == "good":
            self.waits.append(now - client.opened)
        failure = client.failure()
        if failure:
            self.failures.append(failure)


def main() -> int:
    """Soak for the seconds of the first argument, 600 unless given; the second one seeds what is random."""
    seconds, seed = [int(argument) for argument in sys.argv[1:3]] + [600, int(time.time())][len(sys.argv) - 1 :]
    echo(f"soaking for {seconds} s, seed {seed}")
    with Served(*SERVER_OPTIONS) as server:
        return _soak(server, seconds, seed)


def _soak(server: Served, seconds: float, seed: int) -> int:
    before = server.held()
    traffic = Traffic(server.address, seed)
    begin = time.monotonic()
    warm = max(20.0, seconds / 10)
    resting: list[int] = []
    try:
        while (elapsed := time.monotonic() - begin) < seconds:
            traffic.run(min(REPORT_EVERY, seconds - elapsed))
            _print_line(server, traffic, time.monotonic() - begin)
            if not resting and time.monotonic() - begin >= warm:
                resting.append(_rest(server, traffic))
        resting.append(_rest(server, traffic))
    finally:
        traffic.close()
    return _judge(server, traffic, before, resting)


def _rest(server: Served, traffic: Traffic) -> int:
    """Let all clients end, and give the memory then: what is in use for them at the moment is no growth.

    Nor is what malloc(3) keeps of it for the next large body, some megabytes that come and go.
    """
    traffic.run(LONGEST + 1, fresh=False)
    kept = server.memory()
    server.ask("/trim", "POST")
    memory = server.memory()
    echo(f"at rest: memory {memory / MIB:.2f} MiB, with what the allocator kept {kept / MIB:.2f} MiB")
    return memory


def _print_line(server: Served, traffic: Traffic, elapsed: float) -> None:
    counts = server.counts()
    waits = sorted(traffic.waits) or [0.0]
    traffic.waits = []
    echo(
        f"{elapsed:6.0f} s  memory {server.memory() / MIB:7.2f} MiB  descriptors {server.descriptor_count():4}  "
        f"connections {counts['connections']:4}  cpu {server.cpu():6.1f} s  done {traffic.done.total():7}  "
        f"failed {len(traffic.failures)}  good p99 {waits[int(len(waits) * 0.99)] * 1000:.1f} ms"
    )


def _judge(server: Served, traffic: Traffic, before: dict[str, int], resting: list[int]) -> int:
    """Print the end, and give the exit code."""
    for kind, number in sorted(traffic.done.items()):
        echo(f"  {kind:20} {number:8}")
    faults = [f"a request failed: {failure}" for failure in traffic.failures[:20]]
    growth = resting[-1] - resting[0]
    if len(resting) > 1 and growth >= GROWTH:
        faults.append(f"memory grew by {growth / MIB:.2f} MiB")
    after = server.held()
    faults += [f"{name}: {before[name]} before, {after[name]} after" for name in before if after[name] > before[name]]
    if "Traceback" in server.log():
        faults.append("the server logged a failure:\n" + server.log())
    echo(f"memory grew by {growth / 1024:.0f} KiB after the warm-up; {', '.join(f'{n} {after[n]}' for n in HELD)}")
    echo("\n".join(faults) or "nothing was left behind, no good request failed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
