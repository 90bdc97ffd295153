"""CPUs: how many there are to use, and keeping a process on one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

SO_INCOMING_CPU = 49
"""asm-generic/socket.h: of the SO_REUSEPORT listeners of a port, prefer the one of the CPU a connection came in on."""

CGROUPS = Path("/sys/fs/cgroup")

OWN_CGROUPS = Path("/proc/self/cgroup")


def cpu_count(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """The CPUs this process may use: those of its affinity, and no more than its cgroup's quota pays for in full."""
    return max(1, int(min(len(os.sched_getaffinity(0)), quota(cgroups, own))))


def quota(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """The CPU time a second that the cgroups of this process, and those around it, allow; infinity when they don't."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return float("inf")
    return min((limit for line in lines for limit in _limits(cgroups, line)), default=float("inf"))


def _limits(cgroups: Path, line: str) -> Iterator[float]:
    """The limits on the way from a cgroup, as /proc/self/cgroup names it (cgroups(7)), to the root of its hierarchy."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    base = cgroups / controllers
    # In a container the path may be the host's, of which only the end of the way is visible: the root.
    place = base / path.lstrip("/")
    for directory in (place, *place.parents):
        if directory == cgroups.parent or not directory.is_relative_to(base):
            return
        limit = _limit_v1(directory) if controllers else _limit_v2(directory)
        if limit is not None:
            yield limit


def _limit_v2(directory: Path) -> float | None:
    words = _read(directory / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _limit_v1(directory: Path) -> float | None:
    time, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    return int(time) / int(period) if time and period and int(time) > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def least_used(cpus: Iterable[int], taken: Iterable[int]) -> int:
    """The first of the CPUs that the fewest others have: the k-th of the workers gets the k-th CPU."""
    others = list(taken)
    return min(sorted(cpus), key=others.count)


def pin(cpu: int, listeners: Iterable[socket.socket] = ()) -> None:
    """Keep this process on a CPU, and have the kernel prefer its own listeners for what comes in on that CPU."""
    os.sched_setaffinity(0, {cpu})
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, SO_INCOMING_CPU, cpu)
