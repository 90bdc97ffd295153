"""What the control groups of this process allow it, in version 1 and 2 (cgroups(7))."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

UNLIMITED = 2**62
"""Bytes from which on a version 1 memory limit means none: the kernel's largest, rounded to pages."""


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The CPUs that may be used at a time, as 0.5; None: as many as there are.

    Args:
        root: where /proc and /sys are found.
    """
    return min((limit for group in _groups(root, "cpu") if (limit := _cpu_quota(group))), default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """The bytes of memory that may be used; None: as many as there are. root: where /proc and /sys are found."""
    return min((limit for group in _groups(root, "memory") if (limit := _memory_limit(group))), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of this process's groups and all above them, whose limits hold, too."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 mounts those that go together once, as cpu,cpuacct; that there are links by each name is usual.
        for mount in {controllers, controller if controllers else ""}:
            # In a container the path may be the host's, and not there: the mount is then the container's own group.
            for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield root / "sys/fs/cgroup" / mount / group.relative_to("/")


def _cpu_quota(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    if not period:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    if not quota.isdecimal() or not period.isdecimal():
        return None  # max, and -1 in version 1: no limit
    return int(quota) / int(period)


def _memory_limit(group: Path) -> int | None:
    text = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    return int(text) if text.isdecimal() and int(text) < UNLIMITED else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
