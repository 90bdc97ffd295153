"""The memory of idle keep-alive connections, and whether a request on any of them is answered at once.

The server is a process of its own; this one holds the other ends. Each connection has had one request before it is
idle. What is counted is the server's memory (/proc/PID/smaps_rollup); the kernel's own for a socket comes on top.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import resource
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import measure
from benchmarks.contestants import Contestant, hypoll
from benchmarks.measure import BenchmarkError

LIMIT = 3 * 1024
"""Bytes an idle connection may cost."""

SERVER = Contestant("idle", "idle connections", hypoll("hello"), "/json")
REQUEST = b"GET /json HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: idle\r\nAccept: */*\r\n\r\n"
TIMEOUT = 10.0
SPARE_DESCRIPTORS = 64


class Memory(NamedTuple):
    """Bytes of a process: resident, and resident with shared pages divided among those who share them."""

    rss: int
    pss: int


class Idle(NamedTuple):
    """What was measured: bytes a connection, and seconds from a request to its answer."""

    rss: float
    pss: float
    median: float
    worst: float


def parse_smaps(text: str) -> Memory:
    """Read smaps_rollup (proc(5))."""
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +([0-9]+) kB$", text, re.MULTILINE)}
    return Memory(sizes["Rss"], sizes["Pss"])


def memory(pid: int) -> Memory:
    """The memory of a process."""
    return parse_smaps(Path(f"/proc/{pid}/smaps_rollup").read_text())


def ask(sock: socket.socket) -> float:
    """Send a request and wait for its answer. Gives the seconds it took. Raises `BenchmarkError`."""
    begin = time.perf_counter()
    sock.sendall(REQUEST)
    answer = sock.recv(4096)
    if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"}"):
        raise BenchmarkError(f"a request was answered with {answer!r}")
    return time.perf_counter() - begin


def measure_idle(connections: int, python: str) -> Idle:
    """Open connections, let them be idle, then ask once more on each in random order. Raises `BenchmarkError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections > hard - SPARE_DESCRIPTORS:
        raise BenchmarkError(f"a process may have {hard} descriptors here, too few for {connections} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with measure.running(SERVER, python) as (pid, port), contextlib.ExitStack() as stack:
            ask(_connect(stack, port))
            before = memory(pid)
            socks = [_connect(stack, port) for _ in range(connections)]
            for sock in socks:
                ask(sock)
            after = memory(pid)
            times = [ask(sock) for sock in random.sample(socks, len(socks))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return Idle(
        (after.rss - before.rss) / connections,
        (after.pss - before.pss) / connections,
        statistics.median(times),
        max(times),
    )


def _connect(stack: contextlib.ExitStack, port: int) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))


def main() -> int:
    """Measure and print. 1: a connection costs more than `LIMIT`. 2: nothing can be said."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--connections", type=int, default=10_000, help="idle connections (default 10000)")
    arguments.add_argument("--python", default=sys.executable, metavar="PATH", help="the interpreter to run servers by")
    chosen = arguments.parse_args()
    measure.end_on_term()
    print(f"{measure.machine()}\n{measure.describe(chosen.python)}\n", flush=True)
    try:
        idle = measure_idle(chosen.connections, chosen.python)
    except (BenchmarkError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{chosen.connections:,} idle connections: {idle.pss:,.0f} bytes each (PSS), {idle.rss:,.0f} (RSS)")
    print(f"a request on each, in random order: median {idle.median * 1e3:.3f} ms, worst {idle.worst * 1e3:.3f} ms")
    return 1 if idle.pss > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
