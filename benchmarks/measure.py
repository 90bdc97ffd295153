"""Running servers and clients, and reading from /proc what they cost."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.contestants import CONTESTANTS, FLOOR, HERE, LOG, PYTHON, ROOT, Contestant

STOP_TIMEOUT = 5.0
"""Seconds a server may take to end after TERM."""

WRK_THREADS = 1

WINDOW = 0.1
"""Seconds between two looks at a server: what else a machine does, or one it shares a processor with, comes and goes by
tenths of a second."""

MAX_SEGMENTS = 8
"""TCP segments a request up to which they tell how many requests a window had."""

_URL = re.compile(r"http://127\.0\.0\.1:([0-9]+)")
_REQUESTS = re.compile(r"([0-9]+) requests in ")
_RATE = re.compile(r"Requests/sec: +([0-9.]+)")
_WRK_FAILURES = re.compile(r"Socket errors: .*|Non-2xx or 3xx responses: .*")


class BenchmarkError(Exception):
    """Nothing can be said: something to measure with is missing, or a request failed."""


class Load(NamedTuple):
    """What wrk did. windows: microseconds of CPU a request in each tenth of a second, where that was watched."""

    requests: int
    rate: float
    windows: tuple[float, ...] = ()


class Sample(NamedTuple):
    """Seconds of CPU and TCP segments so far."""

    cpu: float
    segments: int


class Cpu(NamedTuple):
    """Seconds: processor time, `total` by the nanosecond, `user` and `system` by the clock's tick.

    waited: how long the process could have run, but another had its processor.
    """

    total: float
    user: float
    system: float
    waited: float

    def since(self, before: Cpu) -> Cpu:
        """The time used since `before`."""
        return Cpu(*(now - then for now, then in zip(self, before, strict=True)))


def cores() -> tuple[int, int]:
    """A processor for the server and another for the client. Raises `BenchmarkError`."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise BenchmarkError("two processors are needed: one for the server, one for the client")
    return available[0], available[1]


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """The command, on one processor."""
    return ["taskset", "-c", str(core), *command]


@contextlib.contextmanager
def running(contestant: Contestant, python: str, prefix: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """Run a contestant's server; gives its process and its port. It has ended when the context is left.

    Raises `BenchmarkError` when it doesn't come up.
    """
    fd, log = tempfile.mkstemp(prefix="hypoll-benchmark-")
    os.close(fd)
    meaning = {PYTHON: python, LOG: log}
    command = [*prefix, *(meaning.get(word, word) for word in contestant.command)]
    if contestant.command[0] == str(FLOOR) and not FLOOR.exists():
        raise BenchmarkError(f"{FLOOR} isn't there: scripts/bench compiles it")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HYPOLL_")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process.pid, _port(process)
    finally:
        _end(process)
        os.unlink(log)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        match = _URL.search(line)
        if match is not None:
            return int(match[1])
        said.append(line)
    raise BenchmarkError(f"the server didn't start:\n{''.join(said)}")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def end_on_term() -> None:
    """Let TERM raise `SystemExit`, so that the servers end, too."""

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    signal.signal(signal.SIGTERM, leave)


def load(contestant: Contestant, port: int, core: int, seconds: int, connections: int, pid: int | None = None) -> Load:
    """Let wrk ask for `seconds`. pid: of a server to watch meanwhile. Raises `BenchmarkError` when a request fails."""
    script = [] if contestant.script is None else ["-s", str(HERE / contestant.script)]
    url = f"http://127.0.0.1:{port}{contestant.path}"
    count = contestant.connections or connections
    command = ["wrk", f"-t{WRK_THREADS}", f"-c{count}", f"-d{seconds}s", *script, url]
    samples = []
    with subprocess.Popen(
        pinned(core, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.returncode is None:
            if pid is not None:
                samples.append(Sample(cpu(pid).total, segments()))
            with contextlib.suppress(subprocess.TimeoutExpired):
                output, _ = process.communicate(timeout=WINDOW)
    if pid is not None:
        samples.append(Sample(cpu(pid).total, segments()))  # all that wrk counted has its segments counted
    if process.returncode:
        raise BenchmarkError(f"wrk failed: {output}")
    done = parse_wrk(output)
    return done._replace(windows=windows(samples, done.requests))


def segments() -> int:
    """TCP segments received on this machine so far, loopback's included (proc_pid_net(5), snmp)."""
    names, values = re.findall(r"^Tcp: (.*)$", Path("/proc/net/snmp").read_text(), re.MULTILINE)
    return int(values.split()[names.split().index("InSegs")])


def windows(samples: Sequence[Sample], requests: int) -> tuple[float, ...]:
    """Microseconds of CPU a request between each two samples, but the first and the last ones.

    The requests of a window are told by its segments, of which small ones have always the same number. None where a
    request has many.
    """
    inner = samples[2:-2]
    if len(inner) < 2 or samples[-1].segments - samples[0].segments > MAX_SEGMENTS * requests:
        return ()
    segments_each = (samples[-1].segments - samples[0].segments) / requests
    return tuple(
        (after.cpu - before.cpu) / (after.segments - before.segments) * segments_each * 1e6
        for before, after in itertools.pairwise(inner)
        if after.segments > before.segments
    )


def parse_wrk(text: str) -> Load:
    """Read what wrk prints. Raises `BenchmarkError` when it tells of errors, or of no request at all."""
    failures = _WRK_FAILURES.findall(text)
    if failures:
        raise BenchmarkError(f"wrk saw errors: {'; '.join(failures)}")
    requests, rate = _REQUESTS.search(text), _RATE.search(text)
    if requests is None or rate is None or not int(requests[1]):
        raise BenchmarkError(f"wrk counted no requests:\n{text}")
    return Load(int(requests[1]), float(rate[1]))


def cpu(pid: int) -> Cpu:
    """The processor time of a process, its children included, so far."""
    total = user = system = waited = 0.0
    for member in family(pid):
        for task in Path(f"/proc/{member}/task").iterdir():
            running, waiting, _ = (task / "schedstat").read_text().split()
            total += int(running) / 1e9
            waited += int(waiting) / 1e9
            utime, stime = parse_stat((task / "stat").read_text())
            user += utime / os.sysconf("SC_CLK_TCK")
            system += stime / os.sysconf("SC_CLK_TCK")
    return Cpu(total, user, system, waited)


def parse_stat(text: str) -> tuple[int, int]:
    """Ticks as user and in the kernel of /proc/PID/stat (proc(5)); the name in it may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def family(pid: int) -> list[int]:
    """A process and all below it."""
    members = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            members += family(int(child))
    return members


def describe(python: str) -> str:
    """The interpreter: how it was built changes the figures by a tenth and more."""
    code = "import os, platform, sys; print(platform.python_version(), platform.python_compiler(), end=', ');"
    return subprocess.check_output([python, "-c", f"{code} print(os.path.realpath(sys.executable))"], text=True).strip()


def machine() -> str:
    """The processor and the kernel."""
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{models[0] if models else os.uname().machine}, {os.cpu_count()} processors, Linux {os.uname().release}"


def parser(description: str | None, *, seconds: int) -> argparse.ArgumentParser:
    """The options that the measurements have in common."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--python", default=sys.executable, metavar="PATH", help="the interpreter to run servers by")
    arguments.add_argument("--seconds", type=int, default=seconds, help=f"length of a run (default {seconds})")
    arguments.add_argument("--connections", type=int, default=64, help="connections of the client (default 64)")
    arguments.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[contestant.key for contestant in CONTESTANTS],
        help="a contestant to measure beside the floor; may be repeated (default: all)",
    )
    return arguments
