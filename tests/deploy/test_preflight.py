"""What `--check` says of the environment: the readings of made-up systems, and the check of made-up readings."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hypoll.deploy.preflight import Plan, SystemFacts, read_system, warnings_for
from hypoll.option import GIB, KIB, MIB
from hypoll.settings import Settings

GOOD = SystemFacts(
    descriptors=65536, processors=4, somaxconn=4096, tcp_migrate_req=1, first_process=("/sbin/init",), memory=2 * GIB
)
SMALL = Plan(settings=Settings(max_body=64 * KIB, max_connections=1000))


def system(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("mounts", "directory", "told"),
    [
        ((("/", "overlay"), ("/tmp", "tmpfs")), "/tmp/spool", True),
        ((("/", "overlay"), ("/tmp", "tmpfs")), "/var/tmp", False),
        ((("/", "tmpfs"), ("/var", "ext4")), "/var/tmp", False),
        ((("/", "tmpfs"), ("/var", "ext4")), "/variety", True),
        ((), "/tmp", False),
    ],
)
def test_a_spool_in_memory_is_told(mounts, directory, told):
    plan = replace(SMALL, settings=replace(SMALL.settings, spool_dir=directory))
    sentences = [sentence for sentence in warnings_for(replace(GOOD, mounts=mounts), plan) if "--spool-dir" in sentence]
    assert bool(sentences) is told
    assert not told or f"files in {directory}, which is memory" in sentences[0]


# reading


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, {"somaxconn": None, "tcp_migrate_req": None, "first_process": ("",), "cpu_quota": None, "memory": None}),
        ({"proc/sys/net/core/somaxconn": "128\n"}, {"somaxconn": 128}),
        (
            {"proc/self/mounts": "none /a\\040b tmpfs rw 0 0\n/dev/vda / ext4 rw 0 0\n"},
            {"mounts": (("/a b", "tmpfs"), ("/", "ext4"))},
        ),
        ({"proc/sys/net/ipv4/tcp_migrate_req": "0\n"}, {"tcp_migrate_req": 0}),
        (
            {"proc/1/cmdline": "/bin/sh\0-c\0hypoll app:routes\0"},
            {"first_process": ("/bin/sh", "-c", "hypoll app:routes")},
        ),
        # version 2, in a container: the mount is the group
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/memory.max": "536870912\n",
            },
            {"cpu_quota": 0.5, "memory": 512 * MIB},
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
                "sys/fs/cgroup/memory.max": "max\n",
            },
            {"cpu_quota": None, "memory": None},
        ),
        # version 2, a service: the least of the groups on the way counts
        (
            {
                "proc/self/cgroup": "0::/system.slice/hypoll.service\n",
                "sys/fs/cgroup/system.slice/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/system.slice/hypoll.service/cpu.max": "max 100000\n",
                "sys/fs/cgroup/system.slice/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/hypoll.service/memory.max": "1073741824\n",
            },
            {"cpu_quota": 2.0, "memory": GIB},
        ),
        # version 1, with a path of the host's that isn't there
        (
            {
                "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
            },
            {"cpu_quota": 1.5, "memory": 256 * MIB},
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            {"cpu_quota": None, "memory": None},
        ),
    ],
)
def test_readings(tmp_path, files, found):
    seen = read_system(system(tmp_path, files), {})
    assert {name: getattr(seen, name) for name in found} == found


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, []),
        ({"PYTHONDEVMODE": ""}, []),
        ({"PYTHONDEVMODE": "1"}, ["PYTHONDEVMODE is set"]),
        (
            {"PYTHONASYNCIODEBUG": "1", "PYTHONTRACEMALLOC": "5"},
            ["PYTHONASYNCIODEBUG is set", "PYTHONTRACEMALLOC is set"],
        ),
        ({"PYTHONMALLOC": "pymalloc_debug"}, ["PYTHONMALLOC asks"]),
        ({"PYTHONMALLOC": "malloc"}, []),
    ],
)
def test_what_slows_python_down(tmp_path, environ, told):
    seen = read_system(tmp_path, environ).debugging
    assert len(seen) == len(told)
    assert all(sentence.startswith(beginning) for sentence, beginning in zip(seen, told, strict=True))


def test_this_system_is_read(tmp_path):
    seen = read_system()
    assert seen.descriptors == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert seen.processors == len(os.sched_getaffinity(0))
    assert seen.first_process[0]


# checking


def plan(workers: int = 1, log_level: str = "info", **settings: object) -> Plan:
    return Plan(settings=replace(SMALL.settings, **settings), workers=workers, log_level=log_level)  # type: ignore[arg-type]


_SHOWN = "^/s is shown to 10.0.0.0/8: "


def test_nothing_is_said_when_nothing_hurts():
    assert warnings_for(GOOD, SMALL) == []


@pytest.mark.parametrize(
    ("found", "planned", "sentence"),
    [
        (
            {"descriptors": 1024, "memory": None},
            {"max_connections": 0},
            "hard limit of open descriptors is 1024: 576 connections are .*LimitNOFILE=.*--ulimit nofile=65536",
        ),
        ({"descriptors": 1024}, {}, "is 1024, which has room for 576 connections, but --max-connections is 1000"),
        ({"somaxconn": 128}, {}, "somaxconn is 128: .* --backlog is 4096. Set net.core.somaxconn=4096"),
        ({"tcp_migrate_req": 0}, {"reuse_port": True}, "tcp_migrate_req is 0: with --reuse-port.*Set it to 1"),
        ({"tcp_migrate_req": None}, {"reuse_port": True}, "tcp_migrate_req isn't there .*Linux 5.14"),
        ({}, {"keep_alive": 60.0}, "--keep-alive 60 is not longer than the 60 s .*502.*as 75"),
        ({}, {"keep_alive": 5.5}, "--keep-alive 5.5 is not longer"),
        ({"first_process": ("/bin/sh", "-c", "hypoll")}, {}, r"PID 1 is a shell \(/bin/sh -c\): .*ENTRYPOINT"),
        ({"first_process": ("-bash",)}, {}, r"PID 1 is a shell \(-bash\)"),
        ({}, {"workers": 5}, "5 workers share 4 CPUs: .*Set --workers 4"),
        ({"cpu_quota": 1.5}, {"workers": 3}, "3 workers share 1.5 CPUs: .*Set --workers 1, or give .* 3 CPUs"),
        ({"cpu_quota": 0.25}, {}, "allows 0.25 of a CPU: .* up to 75 ms of every 100 ms"),
        (
            {"memory": 400 * MIB},
            {"max_body": 16 * MIB},
            "allows 400 MiB .* but the request bodies may take 256 MiB of it, .* Set --body-memory 200MiB or less",
        ),
        ({"memory": 100 * MIB}, {"workers": 2}, "bodies of 2 workers may take 125 MiB .* Set --body-memory 25MiB or"),
        ({"debugging": ("PYTHONDEVMODE is set: it checks",)}, {}, "PYTHONDEVMODE is set: .* costs much of the speed"),
        (
            {},
            {"status": "/-/status"},
            "^/-/status is shown to 127.0.0.0/8, ::1, unix: behind a proxy .*set X-Forwarded-For .*--status-allow$",
        ),
        ({}, {"status": "/s", "status_allow": ("10.0.0.0/8", "::2"), "forwarded_allow_ips": ("10.1.0.0/16",)}, _SHOWN),
        # a proxy that isn't believed names no client either
        ({}, {"status": "/s", "bind": ("unix:/s",), "status_allow": ("unix",), "forwarded_allow_ips": ()}, "to unix:"),
        ({}, {"status": "/s", "bind": ("[::1]:0",), "status_allow": ("::1",), "forwarded_allow_ips": ()}, "to ::1:"),
        ({}, {"status": "/s", "forwarded_allow_ips": ("*",)}, "^--forwarded-allow-ips is .: whoever connects may say"),
        ({}, {"status": "/s", "proxy_protocol": True, "proxy_allow_ips": ("*",)}, "^--proxy-allow-ips is .: whoever"),
        ({}, {"log_level": "debug"}, "--log-level debug .*fill the disk"),
    ],
)
def test_what_would_hurt_is_said_with_what_to_set(found, planned, sentence):
    said = warnings_for(replace(GOOD, **found), plan(**planned))
    assert len(said) == 1, said
    assert re.search(sentence, said[0])


@pytest.mark.parametrize(
    ("found", "planned"),
    [
        ({"somaxconn": None}, {}),
        ({"tcp_migrate_req": 0}, {}),
        ({}, {"reuse_port": True}),
        ({}, {"keep_alive": 61.0}),
        ({"first_process": ("/opt/hypoll/bin/python", "/opt/hypoll/bin/hypoll")}, {}),
        ({"first_process": ("",)}, {}),
        ({"cpu_quota": 1.5}, {"workers": 2}),
        ({"cpu_quota": 1.0}, {}),
        ({"memory": None}, {"max_body": GIB}),
        ({"memory": MIB}, {"max_body": 0}),
        ({"memory": 512 * MIB}, {"max_body": GIB}),
        ({}, {"status_allow": ("unix",)}),
        ({}, {"status": "/s", "status_allow": ("10.0.0.0/8",)}),
        ({}, {"status": "/s", "status_allow": ("*",), "forwarded_allow_ips": ("*",)}),
        ({}, {"status": "/s", "proxy_protocol": True}),
        ({}, {"status": "/s", "bind": ("0.0.0.0:80", "unix:/s"), "status_allow": ("::1",), "forwarded_allow_ips": ()}),
    ],
)
def test_what_does_not_hurt_is_not_mentioned(found, planned):
    assert warnings_for(replace(GOOD, **found), plan(**planned)) == []


def test_the_advice_on_memory_is_enough():
    tight = replace(GOOD, memory=300 * MIB)
    (said,) = warnings_for(tight, plan(max_body=16 * MIB, workers=2))
    fitting = re.search(r"--body-memory (\d+)MiB", said)
    assert fitting is not None
    assert warnings_for(tight, plan(max_body=16 * MIB, workers=2, body_memory=int(fitting[1]) * MIB)) == []


def test_check_tells_it(tmp_path):
    (tmp_path / "app.py").write_text("import hypoll\nroutes = hypoll.Routes()\n")
    ended = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-m",
            "hypoll",
            "app:routes",
            "--check",
            "--keep-alive",
            "5",
            "--log-level",
            "debug",
        ],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith(("HYPOLL_", "PYTHON"))},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert ended.returncode == 0, "advice, not errors"
    for beginning in ("--keep-alive 5 is not", "-X dev is given", "--log-level debug"):
        assert f"\nwarning: {beginning}" in ended.stderr
