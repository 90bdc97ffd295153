"""Workers that are replaced (HUP, TTOU): somebody accepts at all times, and the service's end waits for nobody."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.errors import HaltServer

from hypoll.deploy.start_report import StartReport
from hypoll.deploy.succession import RETRY_PAUSE, START_TIME, Succession, leavers
from tests.support.client import fetch
from tests.support.clock import Clock
from tests.support.gunicorn import GUNICORN, HYPOLL, Load, Master, until
from tests.support.matrix import covering

# which workers can go


class FakeFile:
    """A worker's heartbeat, as far as it can be closed."""

    closed = False

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        if self.closed:
            raise ValueError
        return 0


class FakeWorker:
    def __init__(self, age: int, kind: str, made_at: float = 0.0) -> None:
        self.age = self.pid = age
        self.start_report = StartReport()
        self.start_report.made_at = made_at
        self.aborted = False
        self.tmp = FakeFile()
        self.asked_to_go = kind == "l"
        if kind != "b":
            self.start_report.mark_started()
        if kind == "r":
            self.start_report.retire()


@pytest.mark.parametrize(
    ("workers", "wanted", "expected"),
    [
        # s: it serves; b: it is starting ("boots"); l: it was asked to leave; r: it retires. The oldest first.
        ("", 2, []),
        ("ss", 2, []),
        ("sb", 2, []),
        ("ssbb", 2, []),
        ("sssb", 2, [0]),
        ("ssss", 2, [0, 1]),
        ("lsss", 2, [1]),
        ("llss", 2, []),
        ("lssb", 2, []),
        ("sbb", 2, []),
        ("ssb", 2, []),
        ("ssbbbb", 2, [2, 3]),
        ("sssbb", 2, [0]),
        ("sssssb", 2, [0, 1, 2]),
        ("ss", 1, [0]),
        ("sb", 1, []),
        ("bs", 1, [0]),
        ("ssb", 1, [0]),
        ("ssl", 1, [0]),
        ("ssbb", 0, [0, 1, 2, 3]),
        ("r", 1, []),
        ("rb", 1, []),
        ("rs", 1, [0]),
        ("srb", 2, []),
        ("srs", 2, [1]),
        ("rrs", 2, [0]),
        ("lrs", 1, [1]),
    ],
)
def test_a_worker_goes_when_there_is_one_that_serves_in_its_place(workers, wanted, expected):
    made = [FakeWorker(age, kind) for age, kind in enumerate(workers)]
    assert sorted(worker.age for worker in leavers(reversed(made), wanted)) == expected


class FakeArbiter:
    """gunicorn's rules, as far as they count here, without processes."""

    halts_first = False
    """Whether it halts before it forgets the worker, as gunicorn 25 does."""

    def __init__(self, workers: int, clock: Clock) -> None:
        self.clock = clock
        self.gone: list[int] = []
        self.exits: list[int] = []
        self.cfg = SimpleNamespace(child_exit=lambda arbiter, worker: self.exits.append(worker.pid))
        self.app = SimpleNamespace(cfg=self.cfg)
        self.LISTENERS: list[Any] = []
        self.num_workers = workers
        self.worker_age = 0
        self.WORKERS: dict[int, Any] = {}
        self.sent: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.lines: list[str] = []
        self.log = SimpleNamespace(error=self.say, critical=self.say)

    def say(self, line: str, *values: object) -> None:
        self.lines.append(line % values)

    def setup(self, app: Any) -> None: ...

    def spawn_worker(self) -> None:
        self.worker_age += 1
        self.WORKERS[self.worker_age] = FakeWorker(self.worker_age, "b", self.clock.now)

    def reload(self) -> None:
        for _ in range(self.num_workers):
            self.spawn_worker()
        self.manage_workers()
        raise AssertionError("it would wait for the old ones")

    def stop(self, graceful: bool = True) -> None:
        self.reap_workers()

    def reap_workers(self) -> None:
        while self.ended:
            pid, code = self.ended.pop(0)
            self.gone.append(pid)
            if code not in (3, 4) or not self.halts_first:
                worker = self.WORKERS.pop(pid)
            if code in (3, 4):
                raise HaltServer("it didn't boot", code)
            worker.tmp.close()
            self.cfg.child_exit(self, worker)

    def manage_workers(self) -> None:
        for _ in range(self.num_workers - len(self.WORKERS)):
            self.spawn_worker()
        for pid in sorted(self.WORKERS)[: max(0, len(self.WORKERS) - self.num_workers)]:
            self.kill_worker(pid, signal.SIGTERM)

    def kill_worker(self, pid: int, sig: int) -> None:
        self.sent.append((pid, sig))

    def fail(self, pid: int, code: int = 3, reason: str = "") -> None:
        self.WORKERS[pid].start_report.fail(reason)
        self.ended.append((pid, code))

    def start(self, *pids: int) -> None:
        for pid in pids:
            self.WORKERS[pid].start_report.mark_started()

    def asked(self) -> list[int]:
        """Who was asked to go since this was asked."""
        pids = [pid for pid, sig in self.sent if sig == signal.SIGTERM]
        self.sent.clear()
        return pids


@pytest.fixture(params=[False, True], ids=["forgets", "halts"])
def booting(request: pytest.FixtureRequest, clock: Clock) -> FakeArbiter:
    """A master whose two workers are starting."""
    kind = type("Wrapped", (FakeArbiter,), {**vars(FakeArbiter), "halts_first": request.param})
    Succession(clock, is_gone=lambda pid: pid in made.gone).install(kind)
    made: FakeArbiter = kind(2, clock)
    made.manage_workers()
    return made


@pytest.fixture
def arbiter(booting: FakeArbiter) -> FakeArbiter:
    """A master with two workers that serve."""
    booting.start(1, 2)
    booting.manage_workers()
    return booting


def test_old_workers_go_one_by_one_as_the_new_ones_start(arbiter):
    arbiter.reload()
    arbiter.manage_workers()
    assert arbiter.asked() == []
    arbiter.start(4)
    arbiter.manage_workers()
    assert arbiter.asked() == [1]
    arbiter.manage_workers()
    assert arbiter.asked() == [], "nobody is asked twice"
    arbiter.start(3)
    arbiter.manage_workers()
    assert arbiter.asked() == [2]


def test_a_successor_that_dies_is_replaced_by_another_and_not_by_an_old_one(arbiter):
    arbiter.reload()
    del arbiter.WORKERS[3]
    arbiter.start(4)
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [1, 2, 4, 5]
    assert arbiter.asked() == [1]
    arbiter.start(5)
    arbiter.manage_workers()
    assert arbiter.asked() == [2]
    for pid in (1, 2):
        del arbiter.WORKERS[pid]
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [4, 5]


def test_a_second_reload_needs_none_of_those_that_are_starting(arbiter):
    arbiter.reload()
    arbiter.reload()
    arbiter.manage_workers()
    assert arbiter.asked() == [3, 4]
    arbiter.start(5, 6)
    arbiter.manage_workers()
    assert arbiter.asked() == [1, 2]


def test_one_that_retires_goes_when_its_successor_has_started_and_another_waits_for_its_turn(arbiter):
    for pid in (2, 1):
        arbiter.WORKERS[pid].start_report.retire()
        arbiter.manage_workers()
    arbiter.manage_workers()
    assert (sorted(arbiter.WORKERS), arbiter.asked()) == ([1, 2, 3], [])
    arbiter.start(3)
    arbiter.manage_workers()
    arbiter.manage_workers()
    assert (sorted(arbiter.WORKERS), arbiter.asked()) == ([1, 2, 3], [1])
    del arbiter.WORKERS[1]
    arbiter.manage_workers()
    arbiter.start(4)
    arbiter.manage_workers()
    assert (sorted(arbiter.WORKERS), arbiter.asked()) == ([2, 3, 4], [2])


def test_one_that_retires_though_it_is_not_the_oldest_is_the_one_that_goes(arbiter):
    arbiter.WORKERS[2].start_report.retire()
    arbiter.manage_workers()
    arbiter.start(3)
    arbiter.manage_workers()
    assert arbiter.asked() == [2]


def test_one_that_retires_is_replaced_by_a_reload_as_all_are(arbiter):
    arbiter.WORKERS[1].start_report.retire()
    arbiter.manage_workers()
    arbiter.reload()
    arbiter.start(4, 5)
    arbiter.manage_workers()
    assert sorted(arbiter.asked()) == [1, 2, 3]
    assert sorted(arbiter.WORKERS) == [1, 2, 3, 4, 5]


def test_one_that_retires_serves_on_where_its_successor_can_t_start(arbiter, clock):
    arbiter.WORKERS[1].start_report.retire()
    arbiter.manage_workers()
    arbiter.fail(3, reason="no database")
    arbiter.reap_workers()
    arbiter.manage_workers()
    assert arbiter.lines == ["a worker can't start, the others serve on and 10 s pass: no database"]
    assert (sorted(arbiter.WORKERS), arbiter.asked()) == ([1, 2], [])
    clock.now += RETRY_PAUSE
    arbiter.manage_workers()
    arbiter.start(4)
    arbiter.manage_workers()
    assert arbiter.asked() == [1]


def test_what_ends_the_service_asks_all_at_once(arbiter):
    arbiter.reload()
    for pid in list(arbiter.WORKERS):
        arbiter.kill_worker(pid, signal.SIGTERM)
    assert arbiter.asked() == [1, 2, 3, 4]


def test_a_worker_of_another_class_counts_as_started():
    workers = [FakeWorker(1, "s"), SimpleNamespace(age=2)]
    assert leavers(workers, 1) == {workers[0]}


# starts that fail


@pytest.mark.parametrize("code", [3, 4])
@pytest.mark.parametrize("others", ["boot", "serve", "fail"])
def test_the_first_start_ends_with_the_reason_whatever_the_others_do(booting, code, others):
    if others == "serve":
        booting.start(2)
    booting.fail(1, code, "no database")
    if others == "fail":
        booting.fail(2, 7 - code, "no memory")
    with pytest.raises(HaltServer) as caught:
        booting.reap_workers()
    assert (caught.value.reason, caught.value.exit_status) == ("no database", code)
    booting.stop()
    assert booting.ended == [], "how the others end changes nothing any more"


def test_without_a_reason_of_the_worker_s_there_is_gunicorn_s(booting):
    booting.fail(1)
    with pytest.raises(HaltServer, match="it didn't boot"):
        booting.reap_workers()


@pytest.mark.parametrize("codes", [(3,), (3, 3), (4, 4), (1,), (0,), (3, 1)])
def test_a_reload_whose_workers_can_t_start_leaves_the_old_ones(arbiter, codes):
    arbiter.reload()
    for pid, code in zip((3, 4), codes, strict=False):
        arbiter.fail(pid, code, "no database")
    arbiter.reap_workers()
    arbiter.manage_workers()
    assert set(arbiter.asked()) <= {4}
    (line,) = arbiter.lines
    assert line.startswith("the new workers can't start, the old ones serve on until another HUP: ")
    assert codes[0] < 3 or line.endswith(": no database")
    if 4 in arbiter.WORKERS:
        arbiter.fail(4)
        arbiter.reap_workers()
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [1, 2]
    assert arbiter.exits == [3, 4], "each that has ended, once"
    arbiter.reload()
    arbiter.start(5, 6)
    arbiter.manage_workers()
    assert arbiter.asked() == [1, 2]


def test_one_that_can_t_start_beside_another_that_could_is_tried_again_later(arbiter, clock):
    arbiter.reload()
    arbiter.start(3)
    arbiter.fail(4, reason="no database")
    arbiter.reap_workers()
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [1, 2, 3]
    assert arbiter.lines == ["a worker can't start, the others serve on and 10 s pass: no database"]
    clock.now += RETRY_PAUSE
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [1, 2, 3, 5]
    assert arbiter.asked() == [1]
    arbiter.start(5)
    arbiter.manage_workers()
    assert arbiter.asked() == [2]


def test_a_worker_that_can_t_be_replaced_ends_the_service_only_when_it_was_the_last(arbiter, clock):
    arbiter.ended.append((1, 0))
    arbiter.reap_workers()
    arbiter.manage_workers()
    arbiter.fail(3, reason="no database")
    arbiter.reap_workers()
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [2]
    arbiter.ended.append((2, 0))
    arbiter.reap_workers()
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [4, 5], "where nobody serves there is no pause"
    arbiter.fail(4, reason="no database")
    with pytest.raises(HaltServer, match="no database"):
        arbiter.reap_workers()


def test_a_successor_that_never_starts_is_ended_and_the_old_ones_kept(arbiter, clock):
    clock.now += 10 * START_TIME  # for those that have started, and for a master that has run long
    arbiter.reload()
    arbiter.start(3)
    clock.now += START_TIME - 1
    arbiter.manage_workers()
    assert arbiter.sent == [(1, signal.SIGTERM)]
    clock.now += 1
    arbiter.manage_workers()
    arbiter.manage_workers()
    assert arbiter.sent[1:] == [(4, signal.SIGABRT), (4, signal.SIGKILL)]
    assert arbiter.lines == ["worker 4 hasn't started in 600 s: ending it"]
    arbiter.ended.append((4, -signal.SIGKILL))
    arbiter.reap_workers()
    arbiter.manage_workers()
    assert sorted(arbiter.WORKERS) == [1, 2, 3]
    clock.now += RETRY_PAUSE
    arbiter.manage_workers()
    arbiter.start(5)
    arbiter.manage_workers()
    assert arbiter.sent[3:] == [(2, signal.SIGTERM)]


def test_only_one_that_stands_for_another_that_has_ended_listens_at_once(clock):
    kind = type("Wrapped", (FakeArbiter,), dict(vars(FakeArbiter)))
    succession = Succession(clock)
    succession.install(kind)
    made = kind(2, clock)
    seen: list[bool] = []
    spawn = made.spawn_worker

    def noting_spawn() -> None:
        seen.append(succession.replacing)
        spawn()

    made.spawn_worker = noting_spawn
    made.manage_workers()
    made.start(1, 2)
    made.manage_workers()
    made.ended.append((1, 0))
    made.reap_workers()
    made.manage_workers()
    assert seen == [False, False, True]
    made.num_workers += 1
    made.manage_workers()
    made.reload()
    assert not any(seen[3:])


def test_one_that_was_asked_to_go_and_never_starts_is_ended_without_elders(arbiter, clock):
    arbiter.reload()
    arbiter.fail(3, reason="no database")
    arbiter.reap_workers()
    assert arbiter.asked() == [4], "it is no successor any more"
    arbiter.manage_workers()
    clock.now += START_TIME
    arbiter.manage_workers()
    arbiter.manage_workers()
    assert arbiter.sent == [(4, signal.SIGABRT), (4, signal.SIGKILL)]


def test_one_that_has_no_elders_may_start_for_any_time(booting, clock):
    clock.now += 10 * START_TIME
    booting.manage_workers()
    assert booting.sent == []


def test_one_that_retires_before_it_has_reported_its_start_still_does():
    report = StartReport()
    report.retire()
    report.mark_started()
    assert report.retiring
    assert report.started


def test_a_reason_is_one_line_of_one_page():
    report = StartReport()
    assert (report.started, report.failure) == (False, "")
    report.fail("a\nb \0\udc80" + "x" * 10_000)
    assert report.failure.startswith("a b ?x")
    assert len(report.failure) < 4096
    assert not report.started


# with real masters

APP = """
import asyncio, os
from hypoll import Routes

routes = Routes()

@routes.get("/")
def index(request):
    return str(os.getpid())

def wait():
    if os.path.exists("gate"):
        os.write(1, b"starting %d\\n" % os.getpid())
        with open("gate") as gate:
            gate.read()
"""

STARTED = "routes.on_start(lambda: os.write(1, b'started %d\\n' % os.getpid()))\n"
PLAIN = APP + "routes.on_start(wait)\n" + STARTED
ASYNC = APP + "@routes.on_start\nasync def begin(): await asyncio.to_thread(wait)\n" + STARTED
AT_IMPORT = APP + "wait()\n" + STARTED


class Gate:
    """A pipe that workers which start wait at, from `close` to `open`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "gate"

    def close(self) -> None:
        os.mkfifo(self._path)

    def open(self) -> None:
        """Let all pass that wait, and that come."""
        with self._path.open("w"):
            self._path.unlink()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port for listeners with SO_REUSEPORT, which nobody else gets."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


ADMIN = {"HYPOLL_HEALTH": "/healthz", "HYPOLL_ADMIN_BIND": "unix:admin"}

CASES = covering([GUNICORN, HYPOLL], [PLAIN, ASYNC, AT_IMPORT], [(), ("--reuse-port",)])


@pytest.mark.parametrize(("command", "app", "listeners"), CASES)
def test_old_workers_answer_until_the_new_ones_do(launch, gate, tmp_path, command, app, listeners):
    with reserved_port() as port:
        bind = ("--bind", f"127.0.0.1:{port if listeners else 0}", *listeners)
        master = launch((*command, *bind, "--workers", "2"), app=app, env=ADMIN)
        if not listeners:
            port = master.port
        old = serving(master, port, 2)
        gate.close()
        master.signal(signal.SIGHUP)
        master.says(r"^starting \d+", 2)
        admin = str(tmp_path / "admin")
        with Load(port) as load:
            for _ in range(20):
                assert int(fetch(("127.0.0.1", port)).body) in old
                assert [fetch(admin, f"/healthz/{one}").status for one in ("live", "ready")] == [200, 200]
            gate.open()
            until(lambda: set(master.workers()).isdisjoint(old))
            until(lambda: int(fetch(("127.0.0.1", port)).body) not in old)
        assert load.failures == []
        assert {int(pid) for pid in load.answers} & old


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


RETIRING = covering([GUNICORN, HYPOLL], [(), ("--reuse-port",)])


@pytest.mark.parametrize(("command", "listeners"), RETIRING)
def test_a_worker_that_has_answered_max_requests_answers_until_its_successor_does(launch, gate, command, listeners):
    with reserved_port() as port:
        bind = ("--bind", f"127.0.0.1:{port if listeners else 0}", *listeners)
        master = launch((*command, *bind, "--workers", "1", "--max-requests", "3"), app=PLAIN)
        if not listeners:
            port = master.port
        master.says(r"^started \d+")
        if listeners:
            until(lambda: accepts(port))
        (old,) = master.workers()
        gate.close()
        for _ in range(10):
            assert int(fetch(("127.0.0.1", port)).body) == old
        master.says(r"^starting \d+")
        assert int(fetch(("127.0.0.1", port)).body) == old
        with Load(port) as load:
            gate.open()
            until(lambda: old not in master.workers())
        assert load.failures == []
        assert int(fetch(("127.0.0.1", port)).body) != old


def serving(master: Master, port: int, count: int) -> set[int]:
    """The workers of a master, once so many have started."""
    master.says(r"^started \d+", count)
    workers = set(master.workers())
    assert int(fetch(("127.0.0.1", port)).body) in workers
    return workers


def test_the_end_of_the_service_waits_for_no_successor(launch, gate):
    master = launch((*HYPOLL, "--bind", "127.0.0.1:0", "--workers", "1", "--graceful-timeout", "60"), app=PLAIN)
    master.get()
    gate.close()
    master.signal(signal.SIGHUP)
    master.says(r"^starting \d+")
    old, new = sorted(master.workers())
    master.signal(signal.SIGTERM)
    master.says(rf"Worker exiting \(pid: {old}\)")
    os.kill(new, signal.SIGKILL)
    assert master.wait() == 0


@pytest.mark.full
def test_a_master_that_is_gone_ends_workers_that_wait_for_successors(launch, gate):
    master = launch((*GUNICORN, "--bind", "127.0.0.1:0"), app=PLAIN)
    master.get()
    gate.close()
    master.signal(signal.SIGHUP)
    master.says(r"^starting \d+")
    master.popen.kill()
    master.says("Parent changed, shutting down")
    gate.open()


def test_one_less_goes_when_enough_have_started(launch, gate):
    master = launch((*GUNICORN, "--bind", "127.0.0.1:0", "-w", "1"), app=PLAIN)
    first = int(master.get()[1])
    gate.close()
    master.signal(signal.SIGTTIN)
    master.says(r"^starting \d+")
    master.signal(signal.SIGTTOU)
    master.says("Handling signal: ttou")
    master.signal(signal.SIGUSR1)
    master.says("Handling signal: usr1")
    assert int(master.get()[1]) == first
    gate.open()
    master.says(rf"Worker exiting \(pid: {first}\)")
    assert int(master.get()[1]) != first


ASGI = """
async def routes(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""

FAILS = "def fail(): raise OSError('no database')\n"

BROKEN = [
    # the application, the exit codes of hypoll and of gunicorn, the reason
    ("routes = (", (4, 3), r"'\(' was never closed, .*app\.py line 1$"),
    ("raise LookupError('no\\ntable')", (4, 3), r"LookupError: no table, .*app\.py line 1$"),
    ("other = 1", (4, 4), "routes"),
    ("def routes(request): pass", (4, 4), "routes is no WSGI application"),
    (f"{APP}@routes.on_start\n{FAILS}", (3, 3), r"OSError: no database, .*app\.py line \d+$"),
    (f"{APP}@routes.on_start\nasync {FAILS}", (3, 3), r"OSError: no database, .*app\.py line \d+$"),
    (ASGI, (3, 3), "no database$"),
]


@pytest.mark.parametrize(("broken", "command", "workers"), covering(BROKEN, [HYPOLL, GUNICORN], ["3", "1", "2"]))
def test_a_start_that_fails_ends_with_one_code_and_its_reason(launch, broken, command, workers):
    app, codes, reason = broken
    master = launch((*command, "--bind", "127.0.0.1:0", "--workers", workers), app=app)
    assert master.wait() == codes[command is GUNICORN]
    assert re.search(f"Reason: .*{reason}", master.lines[-1]), "\n".join(master.lines)


@pytest.mark.parametrize(("command", "broken"), covering([HYPOLL, GUNICORN], [BROKEN[0], BROKEN[4]]))
def test_a_reload_of_what_can_t_start_is_survived(launch, tmp_path, command, broken):
    master = launch((*command, "--bind", "127.0.0.1:0", "--workers", "2"), app=PLAIN)
    old = serving(master, master.port, 2)
    (tmp_path / "app.py").write_text(broken[0])
    master.signal(signal.SIGHUP)
    master.says(f"the new workers can't start, the old ones serve on until another HUP: .*{broken[2]}")
    until(lambda: set(master.workers()) == old)
    assert int(master.get()[1]) in old
    (tmp_path / "app.py").write_text(PLAIN)
    master.signal(signal.SIGHUP)
    until(lambda: set(master.workers()).isdisjoint(old))
    assert int(master.get()[1]) not in old
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
