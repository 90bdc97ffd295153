"""System calls a request, counted by `strace -c -f` while wrk asks.

strace slows the server down by a factor, so each epoll_wait finds more sockets ready than it would otherwise: its
figure here is a lower bound, and no time is measured.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from benchmarks import measure
from benchmarks.contestants import Contestant, choose
from benchmarks.measure import BenchmarkError

SHOWN = ("recvfrom", "sendto", "sendmsg", "sendfile", "epoll_wait", "epoll_ctl")


def parse_strace(text: str) -> dict[str, int]:
    """The calls of each name from strace's summary. The column of errors is empty where there were none."""
    calls = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) in (5, 6) and fields[3].isdecimal() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    return calls


@contextlib.contextmanager
def counting(pid: int, calls: dict[str, int]) -> Iterator[None]:
    """Count the system calls of a process; `calls` has them when the context is left. Raises `BenchmarkError`."""
    with tempfile.NamedTemporaryFile("r") as summary:
        members = [word for member in measure.family(pid) for word in ("-p", str(member))]
        tracer = subprocess.Popen(
            ["strace", "-c", "-f", *members, "-o", summary.name], stderr=subprocess.PIPE, text=True
        )
        assert tracer.stderr is not None
        try:
            for _ in members[::2]:
                said = tracer.stderr.readline()
                if "attached" not in said:
                    raise BenchmarkError(f"strace can't watch the server: {said}")
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
            tracer.stderr.close()
        calls.update(parse_strace(summary.read()))


def count(contestant: Contestant, python: str, seconds: int, connections: int) -> dict[str, float]:
    """System calls a request by name. Raises `BenchmarkError`."""
    server, client = measure.cores()
    calls: dict[str, int] = {}
    with measure.running(contestant, python, measure.pinned(server, [])) as (pid, port), counting(pid, calls):
        load = measure.load(contestant, port, client, seconds, connections, seed=1)
    return {name: number / load.requests for name, number in calls.items()}


def table(contestants: Sequence[Contestant], counts: Mapping[str, Mapping[str, float]]) -> str:
    """What is printed: a row for each contestant, all calls that `SHOWN` doesn't name added up."""
    lines = [" " * 12 + "".join(f"{name:>12}" for name in (*SHOWN, "others"))]
    for contestant in contestants:
        row = counts[contestant.key]
        others = sum(number for name, number in row.items() if name not in SHOWN)
        figures = [*(row.get(name, 0.0) for name in SHOWN), others]
        lines.append(f"{contestant.key:12}" + "".join(f"{figure:12.3f}" for figure in figures))
    return "\n".join(lines)


def main() -> int:
    """Count and print. 2: nothing can be said."""
    chosen = measure.parser(__doc__, seconds=2).parse_args()
    contestants = choose(chosen.only)
    measure.end_on_term()
    counts = {}
    for contestant in contestants:
        try:
            counts[contestant.key] = count(contestant, chosen.python, chosen.seconds, chosen.connections)
        except BenchmarkError as error:
            print(f"{contestant.key}: {error}", file=sys.stderr)
            return 2
    print(table(contestants, counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
