"""Running servers and clients, and reading from /proc what they cost."""

from __future__ import annotations

import argparse
import contextlib
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

from benchmarks.contestants import CERTFILE, CONTESTANTS, FLOOR, HERE, KEYFILE, LOG, PYTHON, ROOT, SOCKETS, Contestant

STOP_TIMEOUT = 5.0
"""Seconds a server may take to end after TERM."""

WRK_THREADS = 1

_URL = re.compile(r"https?://127\.0\.0\.1:([0-9]+)")
_REQUESTS = re.compile(r"([0-9]+) requests in ")
_RATE = re.compile(r"Requests/sec: +([0-9.]+)")
_WRK_FAILURES = re.compile(r"Socket errors: .*|Non-2xx or 3xx responses: .*")
_ECHOES = re.compile(r"([0-9]+) echoes in ([0-9.]+) s")

_ENDS = re.compile(r"Socket errors: connect 0, read [0-9]+, write 0, timeout 0")


class BenchmarkError(Exception):
    """Nothing can be said: something to measure with is missing, or a request failed."""


class Load(NamedTuple):
    """What wrk did, or the client of WebSockets: a message and its echo count as a request."""

    requests: int
    rate: float


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

    def plus(self, more: Cpu) -> Cpu:
        """Both together."""
        return Cpu(*map(sum, zip(self, more, strict=True)))


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
    if contestant.command[0] == str(FLOOR) and not FLOOR.exists():
        raise BenchmarkError(f"{FLOOR} isn't there: scripts/bench compiles it")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HYPOLL_")}
    with tempfile.TemporaryDirectory(prefix="hypoll-benchmark-") as directory:
        meaning = {PYTHON: python, LOG: f"{directory}/log"}
        if contestant.scheme == "https":
            meaning[CERTFILE], meaning[KEYFILE] = make_certificate(Path(directory))
        command = [*prefix, *(meaning.get(word, word) for word in contestant.command)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process.pid, _port(process)
        finally:
            _end(process)


def make_certificate(directory: Path) -> tuple[str, str]:
    """Make a certificate of 127.0.0.1 that is valid for two days, and its key: ECDSA with P-256, in PEM form.

    Returns the paths of both. Raises `BenchmarkError`.
    """
    certfile, keyfile = str(directory / "cert.pem"), str(directory / "key.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += [
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-out",
        certfile,
        "-keyout",
        keyfile,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"openssl failed: {done.stdout}")
    return certfile, keyfile


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


def load(contestant: Contestant, port: int, core: int, seconds: int, connections: int, seed: int) -> Load:
    """Let wrk ask for `seconds`, or WebSockets send messages. Raises `BenchmarkError` when a request fails."""
    count = contestant.connections or connections
    if contestant.message is not None:
        return _load_sockets([str(number) for number in (port, contestant.message, count, seconds, seed)], core)
    url = f"{contestant.scheme}://127.0.0.1:{port}{contestant.path}"
    command = ["wrk", f"-t{WRK_THREADS}", f"-c{count}", f"-d{seconds}s", url]
    if contestant.traffic is not None:
        command[-1:] = ["-s", str(HERE / "traffic.lua"), url, "--", contestant.traffic, str(seed)]
    done = subprocess.run(
        pinned(core, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"wrk failed: {done.stdout}")
    # It counts a connection's end among the errors, also where it asked for that.
    return parse_wrk(done.stdout, closing=contestant.traffic == "close")


def _load_sockets(arguments: Sequence[str], core: int) -> Load:
    if not SOCKETS.exists():
        raise BenchmarkError(f"{SOCKETS} isn't there: scripts/bench compiles it")
    command = pinned(core, [str(SOCKETS), *arguments])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    found = _ECHOES.fullmatch(done.stdout.strip())
    if done.returncode or found is None or not int(found[1]):
        raise BenchmarkError(f"the client of WebSockets failed: {done.stdout}")
    return Load(int(found[1]), int(found[1]) / float(found[2]))


def parse_wrk(text: str, *, closing: bool = False) -> Load:
    """Read what wrk prints. Raises `BenchmarkError` when it tells of errors, or of no request at all.

    closing: whether each connection ends with its answer, which wrk takes for an error of reading.
    """
    failures = [failure for failure in _WRK_FAILURES.findall(text) if not (closing and _ENDS.fullmatch(failure))]
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
        help="a contestant to measure beside its base; may be repeated (default: those of the table)",
    )
    arguments.add_argument("--seed", type=int, default=None, help="what names, order and sizes are drawn from")
    return arguments
