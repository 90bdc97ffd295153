"""`hypoll --workers`, `--reload` and `--cpu-affinity`; what gunicorn's settings and the environment mean."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from gunicorn.config import Config

from hypoll.cli import main
from hypoll.deploy import cgroups
from hypoll.deploy import cpus as deploy_cpus
from hypoll.deploy.command_options import arguments_of
from hypoll.deploy.gunicorn_config import changed, check, translate, warn_of_ignored
from hypoll.gunicorn_worker import Worker
from hypoll.option import KIB, MIB
from hypoll.settings import Settings, from_environment, options, variable
from tests.support.client import Client
from tests.support.gunicorn import HYPOLL, Launch, Master, until

APP = """
import logging, os
from hypoll import Routes

CPUS = sorted(os.sched_getaffinity(0))
routes = Routes()

@routes.get("/")
def index(request):
    return {"pid": os.getpid(), "cpus": CPUS}

@routes.post("/echo")
def echo(request):
    logging.getLogger("the.app").info("echoing")
    return request.body

@routes.on_stop
def closed():
    os.write(1, b"on_stop in %d\\n" % os.getpid())  # whole, whatever another worker writes
"""


@pytest.fixture
def start(launch: Launch) -> Launch:
    def start(*arguments: str, app: str = APP, bind: str = "127.0.0.1:0", **how: Any) -> Master:
        return launch((*HYPOLL, "--bind", bind, *arguments), app=app, **how)

    return start


# several processes


def test_workers_serve_with_the_command_s_own_options(start):
    master = start("--workers", "2", "--max-body", "3", "--keep-alive", "0.5")
    master.says("Booting worker", 2)
    assert master.get()[0] == 200
    with Client(("127.0.0.1", master.port)) as client:
        assert client.ask(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").body == b"abc"
        assert client.ask(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd").status == 413
    master.says(r"INFO echoing, request [0-9a-f]{16}$")
    workers = master.workers()
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert {f"on_stop in {pid}" for pid in workers} <= set(master.lines)


def test_each_worker_has_a_cpu_of_its_own_before_the_application_is_loaded(start):
    master = start("--workers", "2", "--cpu-affinity", "auto")
    master.says("Booting worker", 2)
    available = sorted(os.sched_getaffinity(0))
    expected = [{available[0]}, {available[1 % len(available)]}]
    until(lambda: [os.sched_getaffinity(pid) for pid in sorted(master.workers())] == expected)
    assert len(json.loads(master.get()[1])["cpus"]) == 1
    killed = sorted(master.workers())[1]
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(set(master.workers()) - {killed}) == 2)
    until(lambda: sorted(map(sorted, map(os.sched_getaffinity, master.workers()))) == sorted(map(sorted, expected)))


def test_what_can_t_be_bound_or_loaded_ends_it_with_the_reason(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        master = start("--workers", "1", bind=f"127.0.0.1:{taken.getsockname()[1]}")
        assert master.wait() == 1
        assert master.lines[-1].endswith("the address is in use. Stop what listens there, or bind another")
    master = start("--workers", "1", app="other = 1")
    assert master.wait() == 4
    master.says("has no attribute 'routes'; it has no Routes object")


def test_the_successor_of_a_master_takes_its_sockets(start):
    master = start("--workers", "1")
    first = master.get()
    master.signal(signal.SIGUSR2)
    master.says("Booting worker", 2)
    master.says(r"Listening at: ", 2)
    master.signal(signal.SIGTERM)
    master.says("Shutting down: Master")
    successor = int(master.says(r"\[(\d+)\] INFO Starting gunicorn", 2)[1])
    try:
        until(lambda: master.get() != first)
    finally:
        os.kill(successor, signal.SIGTERM)
    assert master.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-requests", "5"], "--max-requests has no meaning without --workers"),
        (["--max-requests", "0"], "--max-requests has no meaning without --workers"),
        (["--worker-timeout", "30"], "--worker-timeout has no meaning without --workers"),
        (["--cpu-affinity", "off"], "--cpu-affinity has no meaning without --workers"),
        (["--cpu-affinity", "auto"], "--cpu-affinity has no meaning without --workers"),
        (["--workers", "many"], "'many' is not a valid whole number"),
        (["--workers", "-1"], "-1 is not in the range"),
        (["--cpu-affinity", "on", "--workers", "1"], "'on' is not one of 'off', 'auto'"),
    ],
)
def test_what_makes_no_sense_is_a_mistake_in_the_command(arguments, said):
    result = CliRunner().invoke(main, ["app:routes", *arguments])
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_what_is_handed_on_to_the_watched_server_is_what_was_given(monkeypatch, option):
    other: dict[type, Any] = {bool: not option.default, int: 4096, float: 7.5, str: "x", tuple: ("unix:/x",)}
    special = {"secure_scheme_headers": ("X-A=on",), "access_log_skip": ("/x",)}
    paths = ("script_name", "metrics", "health", "status")
    value = special.get(option.name, "/x" if option.name in paths else other[type(option.default)])
    if "allow" in option.name:
        value = ("192.0.2.0/24", "unix")
    if option.choices:
        value = option.choices[-1]
    chosen: dict[str, Any] = {option.name: value}
    settings = Settings(**chosen)
    monkeypatch.setenv(variable(option.name), "")
    context = main.make_context("hypoll", ["app:routes", *arguments_of(settings)])
    assert Settings(**{one.name: context.params[one.name] for one in options()}) == settings


def test_reload_without_watchfiles_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    result = CliRunner().invoke(main, ["app:routes", "--reload"])
    assert result.exit_code == 2
    assert "pip install 'hypoll[reload]'" in result.output


# serving anew after a change


@pytest.mark.full
@pytest.mark.parametrize("workers", ["1", "0"])
def test_a_change_is_served_on_the_same_port_and_a_broken_one_waited_out(start, tmp_path, workers):
    pytest.importorskip("watchfiles")
    master = start("--reload", "--workers", workers)
    app = tmp_path / "app.py"
    assert master.get()[0] == 200
    app.write_text(APP.replace('{"pid": os.getpid(), "cpus": CPUS}', '"changed"'))
    until(lambda: master.get() == (200, b"changed"))
    app.write_text("routes = (")
    master.says(r"the server has ended with code \d: waiting for a change")
    app.write_text(APP.replace('{"pid": os.getpid(), "cpus": CPUS}', '"mended"'))
    until(lambda: master.get() == (200, b"mended"))
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


# gunicorn's settings


def config(**values: Any) -> Config:
    cfg = Config()
    for name, value in values.items():
        cfg.set(name, value)
    return cfg


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({}, "keep_alive", 2.0),
        ({"keepalive": 0}, "keep_alive", 0.0),
        ({}, "max_connections", 1000),
        ({"backlog": 5}, "backlog", 5),
        ({}, "max_line", 4094),
        ({"limit_request_line": 0}, "max_line", 8190),
        ({"limit_request_fields": 7}, "max_headers", 7),
        ({"limit_request_field_size": 0}, "max_field", 8190),
        ({}, "max_head", 2 * (4094 + 8190)),
        ({"limit_request_field_size": 100_000}, "max_head", 2 * (4094 + 100_000)),
        ({}, "graceful_timeout", 29.5),
        ({"graceful_timeout": 1}, "graceful_timeout", 0.9),
        ({"graceful_timeout": 0}, "graceful_timeout", 0),
        ({}, "header_timeout", Settings().header_timeout),
    ],
)
def test_gunicorn_s_settings_are_hypoll_s(given, name, expected):
    assert getattr(translate(config(**given)), name) == expected


class Log:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str, *arguments: object) -> None:
        self.warnings.append(message % arguments)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bind": "unix:/tmp/s"}, "unix:/tmp/s: a unix socket is one listener's alone"),
        ({"bind": "fd://7"}, "fd://7: an inherited socket is shared"),
        ({"bind": "127.0.0.1:0"}, "port 0 of 127.0.0.1"),
    ],
)
def test_reuse_port_is_refused_where_workers_can_t_have_a_listener_each(given, said):
    with pytest.raises(RuntimeError, match=said):
        check(config(reuse_port=True, **given))


def test_reuse_port_is_refused_when_the_port_is_taken_or_the_sockets_are_inherited(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
            check(config(reuse_port=True, bind=f"127.0.0.1:{port}"))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(RuntimeError, match="LISTEN_FDS"):
        check(config(reuse_port=True))


def test_a_wrong_variable_is_refused_before_a_worker_is_started(monkeypatch):
    monkeypatch.setenv("HYPOLL_MAX_BODY", "much")
    with pytest.raises(RuntimeError, match="HYPOLL_MAX_BODY is 'much': it must be a size"):
        Worker.check_config(config(), Log())


def test_settings_left_as_they_were_are_not_warned_of():
    log = Log()
    warn_of_ignored(changed(config()), log)
    assert log.warnings == []
    warn_of_ignored(changed(config(header_map="refuse", casefold_http_method=True)), log)
    (warning,) = log.warnings
    assert warning.endswith(": header_map, casefold_http_method")


# the heartbeat


class FakeServer:
    """Stands for a server and its loop: keeps what is to run later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.loop = SimpleNamespace(call_later=lambda delay, callback: self.later.append((delay, callback)))
        self.drained = 0

    def drain(self) -> None:
        self.drained += 1


def beating(timeout: int, ppid: int | None = None) -> tuple[Any, FakeServer]:
    cfg = config(timeout=timeout)
    log = SimpleNamespace(info=print)
    worker: Any = Worker(1, os.getppid() if ppid is None else ppid, [], None, timeout / 2, cfg, log)
    worker.server = server = FakeServer()
    worker._send_heartbeat()
    return worker, server


@pytest.mark.parametrize("timeout", [1, 2, 30])
def test_the_master_is_told_at_least_every_half_timeout(timeout):
    worker, server = beating(timeout)
    first = worker.tmp.last_update()
    (delay, callback) = server.later[-1]
    assert 0 < delay <= timeout / 2
    until(lambda: callback() or worker.tmp.last_update() > first)
    worker.tmp.close()


def test_a_timeout_of_zero_is_no_heartbeat_but_the_master_is_still_looked_for():
    worker, server = beating(0, ppid=1 if os.getppid() != 1 else 2)
    assert worker.tmp.last_update() > 1e9, "as the file was made, by the wall clock"
    assert server.later[-1][0] > 0
    assert server.drained == 1
    worker.tmp.close()


# the environment


def test_the_environment_s_values_are_the_options_kinds():
    environ = {
        "HYPOLL_BIND": "a:1 b:2",
        "HYPOLL_MAX_BODY": "2MiB",
        "HYPOLL_KEEP_ALIVE": "1.5",
        "HYPOLL_BACKLOG": "7",
        "HYPOLL_REUSE_PORT": "on",
        "HYPOLL_MAX_HEAD": "",
        "HOME": "/",
    }
    assert from_environment(environ) == {
        "bind": ("a:1", "b:2"),
        "max_body": 2 * MIB,
        "keep_alive": 1.5,
        "backlog": 7,
        "reuse_port": True,
    }
    assert Settings(**from_environment({"HYPOLL_MAX_OUTPUT": "1KiB"})).max_output == KIB


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("HYPOLL_MAX_BODY", "x", "a size"),
        ("HYPOLL_BACKLOG", "1.5", "a whole number"),
        ("HYPOLL_KEEP_ALIVE", "x", "a number"),
        ("HYPOLL_REUSE_PORT", "perhaps", "True or False"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_variable_s_name(name, text, wanted):
    with pytest.raises(ValueError, match=f"{name} is '{text}': it must be {wanted}"):
        from_environment({name: text})


# CPUs


def cgroup(root: Path, own: str, **files: str) -> Path:
    for name, text in {
        "proc/self/cgroup": own,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000"}, float("inf")),
        ("0::/a/b\n", {"a/b/cpu.max": "250000 100000"}, 2.5),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "250000 100000"}, 0.5),
        ("0::/\n", {"cpu.max": "100000 50000"}, 2.0),
        ("0::/not/visible/here\n", {"cpu.max": "100000 50000"}, 2.0),
        (
            "4:cpu,cpuacct:/a\n3:memory:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            1.5,
        ),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, float("inf")),
        ("", {}, float("inf")),
    ],
)
def test_there_are_no_more_cpus_than_the_least_quota_on_the_way_pays_for(tmp_path, own, files, expected):
    root = cgroup(tmp_path, own, **files)
    assert (cgroups.cpu_quota(root) or float("inf")) == expected
    most = len(os.sched_getaffinity(0))
    assert deploy_cpus.cpu_count(root) == max(1, min(most, int(min(expected, most))))


def test_a_system_without_cgroups_has_no_quota(tmp_path):
    assert deploy_cpus.cpu_count(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpus", "taken", "expected"),
    [({0, 1}, [], 0), ({0, 1}, [0], 1), ({0, 1}, [0, 1], 0), ({2, 5}, [2, 5, 2], 5), ({0, 1}, [1], 0)],
)
def test_a_worker_gets_the_first_cpu_with_the_fewest_others(cpus, taken, expected):
    assert deploy_cpus.least_used(cpus, taken) == expected


def test_gunicorn_s_settings_of_proxies_are_honoured():
    given = translate(
        config(
            forwarded_allow_ips="192.0.2.1,192.0.2.2",
            secure_scheme_headers={"X-Ssl": "on"},
            proxy_protocol="v2",
            proxy_allow_ips="*",
        )
    )
    assert given.forwarded_allow_ips == ("192.0.2.1", "192.0.2.2", "unix")
    assert given.secure_scheme_headers == ("X-Ssl=on",)
    assert (given.proxy_protocol, given.proxy_allow_ips) == (True, ("*", "unix"))
    assert not translate(config()).proxy_protocol


def test_the_wait_before_a_drain_is_a_part_of_gunicorn_s_graceful_timeout(monkeypatch):
    monkeypatch.setenv("HYPOLL_DRAIN_WAIT", "4")
    assert translate(config(graceful_timeout=10)).graceful_timeout == 10 - 0.5 - 4
    with pytest.raises(ValueError, match="give that more"):
        translate(config(graceful_timeout=4))
