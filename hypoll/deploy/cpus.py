"""CPUs: how many there are to use, and keeping a process on one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from hypoll.deploy.cgroups import cpu_quota

SO_INCOMING_CPU = 49
"""asm-generic/socket.h: of the SO_REUSEPORT listeners of a port, prefer the one of the CPU a connection came in on."""


def cpu_count(root: Path = Path("/")) -> int:
    """The CPUs this process may use: those of its affinity, and no more than its cgroup's quota pays for in full.

    Args:
        root: where /proc and /sys are found.
    """
    available = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return max(1, available if quota is None else int(min(available, quota)))


def least_used(cpus: Iterable[int], taken: Iterable[int]) -> int:
    """The first of the CPUs that the fewest others have: the k-th of the workers gets the k-th CPU."""
    others = list(taken)
    return min(sorted(cpus), key=others.count)


def pin(cpu: int, listeners: Iterable[socket.socket] = ()) -> None:
    """Keep this process on a CPU, and have the kernel prefer its own listeners for what comes in on that CPU."""
    os.sched_setaffinity(0, {cpu})
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, SO_INCOMING_CPU, cpu)
