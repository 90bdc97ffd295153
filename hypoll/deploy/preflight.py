"""What the machine, the container and the environment would do to a server: read once, reported in plain words.

`read_system` reads, and knows no opinion; the functions of `RULES` check, and read nothing.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hypoll.deploy.cgroups import cpu_quota, memory_limit
from hypoll.option import GIB, KIB, MIB, format_size
from hypoll.proxy.networks import EVERYBODY, UNIX, Networks, parse_address
from hypoll.server.capacity import connections_for
from hypoll.server.spool import directory_of
from hypoll.settings import Settings

BALANCER_IDLE = 60.0
"""Seconds for which common load balancers keep idle connections to a server: AWS's application load balancer and nginx
by default."""

FEW_CONNECTIONS = 1000
"""Fewer than this, by the descriptor limit alone, is rarely meant."""

IN_MEMORY = ("tmpfs", "ramfs")
"""File systems that are memory."""

SHELLS = {"sh", "ash", "bash", "busybox", "dash", "ksh", "zsh"}

_SLOWING = {
    "PYTHONASYNCIODEBUG": "asyncio checks and times each call",
    "PYTHONDEVMODE": "Python runs its development mode's checks",
    "PYTHONTRACEMALLOC": "Python traces each allocation",
}


@dataclass(frozen=True, kw_only=True)
class SystemFacts:
    """What was found. None: there is no such limit, or the system doesn't say.

    Attributes:
        descriptors: the hard limit of open ones, which hypoll raises its own to.
        somaxconn, tcp_migrate_req: the kernel's settings net.core.somaxconn and net.ipv4.tcp_migrate_req.
        first_process: the command line of PID 1.
        processors: how many this process may run on.
        cpu_quota: how many of them at a time the control group allows, as 0.5.
        memory: bytes that the control group allows.
        debugging: what is on, and what it does.
        mounts: where file systems are, and of which type.
    """

    descriptors: int
    processors: int
    somaxconn: int | None = None
    tcp_migrate_req: int | None = None
    first_process: tuple[str, ...] = ()
    cpu_quota: float | None = None
    memory: int | None = None
    debugging: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to run in them."""

    settings: Settings
    workers: int = 1
    log_level: str = "info"


def warnings_for(facts: SystemFacts, plan: Plan) -> list[str]:
    """What would hurt, and what to set instead: a sentence or two each."""
    return [sentence for rule in RULES for sentence in rule(facts, plan)]


# reading


def read_system(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> SystemFacts:
    """Read the environment. root: where /proc and /sys are found."""
    kernel = root / "proc/sys/net"
    return SystemFacts(
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        processors=len(os.sched_getaffinity(0)),
        somaxconn=_number(kernel / "core/somaxconn"),
        tcp_migrate_req=_number(kernel / "ipv4/tcp_migrate_req"),
        first_process=tuple(_text(root / "proc/1/cmdline").rstrip("\0").split("\0")),
        cpu_quota=cpu_quota(root),
        memory=memory_limit(root),
        debugging=tuple(_debugging(environ)),
        mounts=tuple(_mounts(_text(root / "proc/self/mounts"))),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _debugging(environ: Mapping[str, str]) -> Iterator[str]:
    if sys.flags.dev_mode and not environ.get("PYTHONDEVMODE"):
        yield f"-X dev is given: {_SLOWING['PYTHONDEVMODE']}"
    for name, effect in _SLOWING.items():
        if environ.get(name):
            yield f"{name} is set: {effect}"
    if environ.get("PYTHONMALLOC", "").endswith("debug"):
        yield "PYTHONMALLOC asks for the debugging allocator: Python checks each allocation"


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    """The mount points, and the types of what is there (proc(5))."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 2:
            yield fields[1].replace("\\040", " "), fields[2]


# checking


def _descriptors(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    room, asked = connections_for(facts.descriptors), plan.settings.max_connections
    how = "Raise it: LimitNOFILE= in systemd, --ulimit nofile=65536 in Docker, ulimit -Hn in a shell"
    limit = f"the hard limit of open descriptors is {facts.descriptors}"
    if asked > room:
        yield f"{limit}, which has room for {room} connections, but --max-connections is {asked}. {how}"
    elif not asked and room < FEW_CONNECTIONS:
        yield f"{limit}: {room} connections are served at once, and no more. {how}"


def _backlog(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    backlog = plan.settings.backlog
    if facts.somaxconn is not None and facts.somaxconn < backlog:
        yield (
            f"net.core.somaxconn is {facts.somaxconn}: the kernel queues no more than that, though --backlog is "
            f"{backlog}. Set net.core.somaxconn={backlog} with sysctl, or docker run --sysctl"
        )


def _migration(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    if plan.settings.reuse_port and not facts.tcp_migrate_req:
        state = "isn't there (it came with Linux 5.14)" if facts.tcp_migrate_req is None else "is 0"
        yield (
            f"net.ipv4.tcp_migrate_req {state}: with --reuse-port, connections that wait in the queue of a process "
            "that stops are lost. Set it to 1 with sysctl, or leave --reuse-port out"
        )


def _keep_alive(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    keep_alive = plan.settings.keep_alive
    if keep_alive <= BALANCER_IDLE:
        yield (
            f"--keep-alive {keep_alive:g} is not longer than the {BALANCER_IDLE:g} s for which load balancers keep "
            "idle connections: one may send a request just when hypoll closes, and answer 502. Set it some "
            "seconds longer than the balancer's, as 75"
        )


def _first_process(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    command = facts.first_process
    if command and os.path.basename(command[0]).removeprefix("-") in SHELLS:
        yield (
            f"PID 1 is a shell ({' '.join(command[:2])}): a TERM ends with it, and hypoll is killed without a drain. "
            'Use the exec form in the Dockerfile, ENTRYPOINT ["hypoll"], or exec hypoll in the script'
        )


def _processors(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    quota = facts.cpu_quota
    available = facts.processors if quota is None else min(quota, facts.processors)
    if plan.workers > math.ceil(available):
        yield (
            f"{plan.workers} workers share {available:g} CPUs: they take turns, which makes all of them slower. "
            f"Set --workers {max(1, int(available))}, or give the container {plan.workers} CPUs"
        )
    elif quota is not None and quota < 1:
        yield (
            f"the control group allows {quota:g} of a CPU: what is used up is waited for, up to "
            f"{(1 - quota) * 100:.0f} ms of every 100 ms. Allow a whole one, or request CPU without limiting it"
        )


def _memory(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    settings = plan.settings
    connections = settings.max_connections or connections_for(facts.descriptors)
    bodies = plan.workers * min(connections * settings.max_body, settings.body_memory)
    # Half, since the interpreter, the application and the answers want room, too.
    if facts.memory is not None and bodies > facts.memory // 2:
        each = "" if plan.workers == 1 else f" of {plan.workers} workers"
        yield (
            f"the control group allows {_rounded(facts.memory)} of memory, but the request bodies{each} may take "
            f"{_rounded(bodies)} of it, and the kernel kills what takes more. "
            f"Set --body-memory {facts.memory // 2 // plan.workers // MIB}MiB or less"
        )


def _spool(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    directory = os.path.realpath(directory_of(plan.settings))
    above = [(point, kind) for point, kind in facts.mounts if _is_below(directory, point)]
    if above and plan.settings.spool_disk and max(above, key=lambda mount: len(mount[0]))[1] in IN_MEMORY:
        yield (
            f"what waits for slow clients goes to files in {directory}, which is memory (tmpfs): up to "
            f"{format_size(plan.settings.spool_disk)} of it. Name a directory on a disk with --spool-dir, or lower "
            "--spool-disk to what may be used"
        )


def _is_below(directory: str, point: str) -> bool:
    return directory == point or directory.startswith(point.rstrip("/") + "/")


def _status(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    settings = plan.settings
    if not settings.status or EVERYBODY in settings.status_allow:
        return
    if EVERYBODY in settings.forwarded_allow_ips or (settings.proxy_protocol and EVERYBODY in settings.proxy_allow_ips):
        option = "--forwarded-allow-ips" if EVERYBODY in settings.forwarded_allow_ips else "--proxy-allow-ips"
        yield (
            f"{option} is {EVERYBODY}: whoever connects may say that it is one of --status-allow, and see "
            f"{settings.status}. Name the proxies' addresses"
        )
        return
    # With the PROXY protocol each connection names its client.
    proxies = Networks([*settings.forwarded_allow_ips, *_local_peers(settings.bind)])
    shown = [name for name in settings.status_allow if Networks([name]).overlaps(proxies)]
    if shown and not settings.proxy_protocol:
        yield (
            f"{settings.status} is shown to {', '.join(shown)}: behind a proxy there that names no client, everybody "
            "counts as that proxy, and sees the page. Have the proxy set X-Forwarded-For or Forwarded and name it with "
            f"--forwarded-allow-ips, have it refuse {settings.status}, or name others with --status-allow"
        )


def _local_peers(binds: tuple[str, ...]) -> Iterator[str]:
    """The peers of listeners that only this machine reaches: what comes from elsewhere comes through a proxy."""
    for bind in binds:
        host = bind.rpartition(":")[0].strip("[]")
        address = parse_address("127.0.0.1" if host == "localhost" else host)
        if bind.startswith("unix:"):
            yield UNIX
        elif address is not None and address.is_loopback:
            yield str(address)


def _debug(facts: SystemFacts, plan: Plan) -> Iterator[str]:
    for sentence in facts.debugging:
        yield f"{sentence}, which costs much of the speed. Leave it out in production"
    if plan.log_level == "debug":
        yield "--log-level debug writes a line for each mistake of a client: a scanner can fill the disk. Use info"


def _rounded(size: int) -> str:
    """For reading: one digit after the point, at most."""
    unit, name = next((pair for pair in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= pair[0]), (1, "bytes"))
    return f"{round(size / unit, 1):g} {name}"


RULES: tuple[Callable[[SystemFacts, Plan], Iterator[str]], ...] = (
    _descriptors,
    _backlog,
    _migration,
    _keep_alive,
    _first_process,
    _processors,
    _memory,
    _spool,
    _status,
    _debug,
)
