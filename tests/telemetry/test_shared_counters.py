"""Counters of several processes: every one counted once, whoever lives or dies meanwhile."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from hypoll.telemetry import shared_counters
from tests.support.gunicorn import GUNICORN, HYPOLL, ROOT, Launch, Load, Master, gone, until
from tests.support.matrix import some

pytestmark = pytest.mark.full

KINDS = ("counter", "histogram", "summary", "gauge_min", "gauge_max", "gauge_sum", "gauge_mostrecent")

LARGEST = 2**31
"""Not the id of a process: Linux gives none above 2**22 (proc(5))."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def write(path: Path, values: dict[str, tuple[float, float]]) -> None:
    """What a process would leave: values and times by name."""
    file = MmapedDict(str(path))  # type: ignore[no-untyped-call]
    for name, (value, stamp) in values.items():
        file.write_value(mmap_key("a", name, [], [], "Help."), value, stamp)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]


def leave(directory: Path, pid: int, **values: float) -> None:
    """Files of every kind of metric, in which a process has counted."""
    stamped = {f"a_{name}": (value, float(pid)) for name, value in values.items()}
    for kind in (*KINDS, "gauge_all", "gauge_liveall", "gauge_livesum"):
        write(directory / f"{kind}_{pid}.db", stamped)


def read(directory: Path) -> dict[str, dict[str, float]]:
    """What a reader finds, by kind of metric and name; of gauges that name a process only whether there are any."""
    found: dict[str, dict[str, float]] = {}
    with shared_counters.files(str(directory)) as files:
        for kind in (*KINDS, "gauge_all", "gauge_livesum"):
            own = [path for path in files if os.path.basename(path).startswith(kind + "_")]
            for family in MultiProcessCollector.merge(own):  # type: ignore[no-untyped-call]
                found[kind] = {sample.name: sample.value for sample in family.samples}
    return found


def test_what_the_dead_have_counted_is_kept_and_their_files_are_not(directory):
    leave(directory, LARGEST + 1, both=1, first=10)
    leave(directory, LARGEST + 2, both=5, second=20)
    leave(directory, os.getpid(), both=3)
    before = read(directory)
    assert before["counter"] == {"a_both": 9, "a_first": 10, "a_second": 20}
    shared_counters.fold(str(directory))
    after = read(directory)
    assert {kind: after[kind] for kind in KINDS} == {kind: before[kind] for kind in KINDS}
    assert [after[kind]["a_both"] for kind in ("gauge_min", "gauge_max", "gauge_mostrecent")] == [1, 5, 5]
    assert after["gauge_all"] == after["gauge_livesum"] == {"a_both": 3}, "a gauge of the dead says nothing"
    assert {path.name for path in directory.glob("*.db")} == {
        *(f"{kind}_ended.db" for kind in KINDS),
        *(f"{kind}_{os.getpid()}.db" for kind in (*KINDS, "gauge_all", "gauge_liveall", "gauge_livesum")),
    }


def test_many_generations_leave_as_much_as_one(directory):
    sizes = set()
    for number in range(100):
        leave(directory, LARGEST + number, both=1)
        shared_counters.fold(str(directory))
        sizes.add(sum(path.stat().st_size for path in directory.iterdir()))
        assert len(list(directory.glob("*.db"))) == len(KINDS)
    assert len(sizes) == 1
    assert read(directory)["counter"] == {"a_both": 100}


def test_who_folds_waits_for_no_reader(directory, monkeypatch):
    monkeypatch.setenv(shared_counters.VARIABLE, str(directory))
    leave(directory, LARGEST, both=1)
    with shared_counters.files(str(directory)) as files:
        shared_counters.on_exit(LARGEST)
        assert all(os.path.exists(path) for path in files if "gauge_live" not in path)
    assert read(directory)["counter"] == {"a_both": 1}
    shared_counters.on_exit(LARGEST)
    assert not (directory / f"counter_{LARGEST}.db").exists()
    assert read(directory)["counter"] == {"a_both": 1}


def test_a_reader_is_kept_out_while_files_are_folded(directory, monkeypatch):
    leave(directory, LARGEST, both=1)
    fold, tried = shared_counters._fold_kind, []

    def fold_and_look(*arguments: Any) -> None:
        fold(*arguments)
        with open(directory / "hypoll.lock", "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        tried.append(True)

    monkeypatch.setattr(shared_counters, "_fold_kind", fold_and_look)
    shared_counters.fold(str(directory))
    assert len(tried) == len(KINDS)


def test_a_process_that_was_killed_while_it_made_its_file_spoils_no_other(directory):
    (directory / f"counter_{LARGEST}.db").touch()
    (directory / f"counter_{os.getpid()}.db").touch()
    leave(directory, LARGEST + 1, both=1)
    assert read(directory)["counter"] == {"a_both": 1}
    shared_counters.fold(str(directory))
    assert read(directory)["counter"] == {"a_both": 1}
    assert not (directory / f"counter_{LARGEST}.db").exists()


def test_without_room_to_fold_the_files_stay_and_are_read(directory, monkeypatch, caplog):
    monkeypatch.setenv(shared_counters.VARIABLE, str(directory))
    leave(directory, LARGEST, both=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    shared_counters.on_exit(LARGEST)
    assert "No space left" in caplog.text
    assert read(directory)["counter"] == {"a_both": 1}
    monkeypatch.undo()
    shared_counters.fold(str(directory))
    assert read(directory)["counter"] == {"a_both": 1}


def test_files_of_others_are_left_alone(directory):
    write(directory / "counter_worker_a.db", {"a_both": (1, 0)})
    shared_counters.fold(str(directory))
    assert (directory / "counter_worker_a.db").exists()


def run(source: str, **environment: str) -> Any:
    """What a process prints as JSON."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**known, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return json.loads(done.stdout)


FORKED = """
import json, os
{before}
from hypoll.telemetry import shared_counters
shared_counters.set_up()
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.multiprocess import MultiProcessCollector
counter = Counter("own", "What it counts.")
counter.inc(1)

def in_child(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    os.waitpid(pid, 0)

def grandchild():
    counter.inc(20)
    in_child(lambda: counter.inc(300))
    counter.inc(4000)

in_child(grandchild)
counter.inc(50000)
path = shared_counters.directory()

def total():
    with shared_counters.files(path) as files:
        (family,) = MultiProcessCollector.merge(files)
        return len(files), [sample.value for sample in family.samples]

before = total()
shared_counters.fold(path)
print(json.dumps([before, total(), path, shared_counters._is_alive(os.getpid())]))
"""


@pytest.mark.parametrize("before", ["", "import prometheus_client"], ids=["not imported", "imported before"])
def test_forked_children_count_in_files_of_their_own(before):
    found, folded, path, alive = run(FORKED.format(before=before))
    assert found == [3, [54321]]
    assert folded == [2, [54321]]
    assert alive
    assert not os.path.exists(path), "it goes with who has made it"


def test_the_user_s_own_directory_is_taken_and_stays(tmp_path):
    named = tmp_path / "hypoll-metrics-named"
    _, folded, path, _ = run(FORKED.format(before=""), PROMETHEUS_MULTIPROC_DIR=str(named))
    assert path == str(named)
    assert folded == [2, [54321]]
    assert {path.name for path in named.iterdir()} >= {"counter_ended.db"}


def test_what_another_master_has_made_is_its_own(tmp_path):
    """After USR2 the successor has its predecessor's environment."""
    other = tmp_path / "hypoll-metrics-other"
    other.mkdir()
    (other / "made-by-hypoll").touch()
    *_, path, _ = run(FORKED.format(before=""), PROMETHEUS_MULTIPROC_DIR=str(other))
    assert path != str(other)
    assert [path.name for path in other.iterdir()] == ["made-by-hypoll"]


def test_what_a_killed_master_has_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_counters, "LEFT_AFTER", -1.0)
    names = ("left", "locked", "users", "file", "link")
    left, locked, users, another, link = (tmp_path / f"hypoll-metrics-{name}" for name in names)
    for path in (left, locked, users):
        path.mkdir()
        (path / "counter_1.db").touch()
    for path in (left, locked):
        (path / "made-by-hypoll").touch()
    another.touch()
    link.symlink_to(left)
    fd = os.open(locked, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    shared_counters._remove_left(str(tmp_path))
    os.close(fd)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (locked, users, another, link)}
    monkeypatch.undo()
    shared_counters._remove_left(str(tmp_path))
    assert locked.exists(), "it is new"


MERGED = """
import json, os, sys
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from hypoll.protocol.messages import Request
from hypoll.telemetry.metrics import Metrics
from hypoll.telemetry.prometheus import PrometheusCounters, Scrape

counter = Counter("c", "Counted.", ["z", "a"])
histogram = Histogram("h", "Measured.", ["z", "a"], buckets=(0.5, 1, 10))
plain = Histogram("p", "Measured.")
summary = Summary("s", "Summed.", ["z"])
modes = "all", "livesum", "max", "mostrecent"
gauges = [Gauge("g_" + mode, "Present.", ["z"], multiprocess_mode=mode) for mode in modes]

def work(number):
    for z in ("1", "two"):
        counter.labels(z, str(number)).inc(number)
        counter.labels(z, "same").inc(0.25)
        for value in (0.125, 0.75, 5, 50):
            histogram.labels(z, "same").observe(value * number)
        summary.labels(z).observe(number)
        for gauge in gauges:
            gauge.labels(z).set(number)
    plain.observe(number)

for number in range(1, 4):
    pid = os.fork()
    if not pid:
        work(number)
        os._exit(0)
    os.waitpid(pid, 0)
registry = CollectorRegistry()
MultiProcessCollector(registry)

scrape = Scrape(Metrics(PrometheusCounters(os.environ["PROMETHEUS_MULTIPROC_DIR"])))
texts = generate_latest(registry), scrape(Request("GET", b"/metrics")).body
print(json.dumps([sorted(line for line in text.decode().splitlines() if "hypoll" not in line) for text in texts]))
"""


def test_a_scrape_says_what_prometheus_client_s_own_collector_would(tmp_path):
    expected, found = run(MERGED, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert [line for line in expected if line.startswith("h_bucket")] != []
    assert found == expected


# real masters

APP = """
import os
from hypoll import Routes
from prometheus_client import Counter, Gauge

routes = Routes()
counted = Counter("orders", "Orders, by worker.", ["worker"])
total = Counter("orders_of_all", "Orders.")
present = Gauge("present", "One for each process.")

@routes.get("/")
def index(request):
    total.inc()
    counted.labels(str(os.getpid())).inc()
    present.set(1)
    return str(os.getpid())
"""

OWN = re.escape('hypoll_requests_total{method="GET",route="/",status="200"}')
"""hypoll's counter of the requests for that."""

Start = Callable[..., Master]


@pytest.fixture
def start(launch: Launch) -> Start:
    def start(command: tuple[str, ...], *arguments: str, app: str = APP, **how: Any) -> Master:
        metrics = ("--metrics", "/metrics", "--status", "/status") if command is HYPOLL else ()
        env = {"HYPOLL_METRICS": "/metrics", "HYPOLL_STATUS": "/status"} if command is GUNICORN else {}
        how["env"] = env | how.get("env", {})
        return launch((*command, "--bind", "127.0.0.1:0", *metrics, *arguments), app=app, **how)

    return start


def value(master: Master, name: str) -> float:
    """The sum of a metric's series."""
    status, body = master.get("/metrics")
    assert status == 200
    return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", body.decode(), re.M)))


def ask_all(master: Master, workers: int) -> int:
    """Ask until so many workers have answered; gives how many requests that took."""
    with Load(master.port) as load:
        until(lambda: len(load.answers) >= workers)
    assert load.failures == []
    return sum(load.answers.values())


PRELOADED = (GUNICORN, ("--preload",))


@pytest.mark.parametrize(("command", "arguments"), some([(HYPOLL, ()), PRELOADED, (GUNICORN, ())], 2))
def test_a_scrape_has_the_application_s_own_metrics_of_all_workers(start, command, arguments):
    master = start(command, "--workers", "2", *arguments)
    asked = ask_all(master, 2)
    assert value(master, "orders_of_all_total") == value(master, "orders_total") == asked
    assert len(re.findall(rb"^orders_total{", master.get("/metrics")[1], re.M)) == 2
    # Until: a worker hands on once a second what it has counted.
    until(lambda: value(master, OWN) == asked)
    until(lambda: value(master, "hypoll_workers") == 2)
    page = json.loads(master.get("/status.json")[1])
    assert sorted(worker["pid"] for worker in page["workers"]) == sorted(master.workers())
    (row,) = (row for row in page["routes"] if row["route"] == "/")
    assert row["requests"] == sum(row["buckets"]) == asked


@pytest.mark.parametrize("command", some([(GUNICORN,), (HYPOLL,)], 1))
def test_what_a_killed_worker_has_counted_stays(start, command):
    master = start(command, "--workers", "2")
    asked = ask_all(master, 2)
    until(lambda: value(master, OWN) == asked)
    killed = master.workers()[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: gone(killed))
    until(lambda: len(master.workers()) == 2 and killed not in master.workers())
    until(lambda: value(master, "hypoll_workers") == 2)
    assert value(master, OWN) == value(master, "orders_of_all_total") == asked


def test_many_reloads_leave_as_many_files_as_one(start, tmp_path):
    named = tmp_path / "named"
    master = start(HYPOLL, "--workers", "1", env={"PROMETHEUS_MULTIPROC_DIR": str(named)})
    asked, counts = 0, set()
    for number in range(1, 5):
        asked += ask_all(master, 1)
        (worker,) = master.workers()
        master.signal(signal.SIGHUP)
        master.says("Worker exiting", number)
        until(lambda pid=worker: gone(pid) and not list(named.glob(f"*_{pid}.db")))
        until(lambda: len(master.workers()) == 1)
        assert value(master, "orders_of_all_total") == asked
        counts.add(len(list(named.glob("*_ended.db"))))
    assert counts == {2}, "counters and histograms"
    until(lambda: value(master, OWN) == asked)
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert (named / "counter_ended.db").exists(), "the user's own directory stays"


def test_one_process_without_a_master_tells_the_same(start):
    master = start(HYPOLL)
    assert [master.get("/")[0] for _ in range(3)] == [200] * 3
    assert value(master, "orders_of_all_total") == 3
    until(lambda: value(master, OWN) == 3)  # an answer is counted at the end of its turn
    (worker,) = json.loads(master.get("/status.json")[1])["workers"]
    assert worker["pid"] == master.popen.pid


def test_a_successor_of_the_master_has_a_directory_of_its_own(start):
    master = start(HYPOLL, "--workers", "1")
    ask_all(master, 1)
    # The environment of a reloaded master has the directory, and its successor would inherit it.
    master.signal(signal.SIGHUP)
    master.says("Worker exiting")
    master.signal(signal.SIGUSR2)
    master.says("Booting worker", 3)
    master.says(r"Listening at: ", 2)
    successor = int(master.says(r"\[(\d+)\] INFO Starting gunicorn", 2)[1])
    try:
        master.signal(signal.SIGTERM)
        master.says("Shutting down: Master")
        until(lambda: gone(master.popen.pid))
        until(lambda: value(master, "hypoll_workers") == 1)
        assert value(master, "orders_of_all_total") == 0
    finally:
        os.kill(successor, signal.SIGTERM)
    assert master.wait() == 0


def test_without_prometheus_client_the_status_page_tells_of_one_worker(start, tmp_path):
    package = tmp_path / "without" / "prometheus_client"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError('No module', name='prometheus_client')")
    app = "from hypoll import Routes\nroutes = Routes()\nroutes.get('/')(lambda request: 'a')"
    path = os.pathsep.join((str(ROOT), str(tmp_path / "without")))
    master = start(GUNICORN, "--workers", "2", app=app, env={"HYPOLL_METRICS": "", "PYTHONPATH": path})
    master.says("the status page tells of one worker only")
    (worker,) = json.loads(master.get("/status.json")[1])["workers"]
    assert worker["pid"] in master.workers()
    refused = start(GUNICORN, "--workers", "2", app=app, env={"PYTHONPATH": path})
    refused.says(r"pip install 'hypoll\[metrics\]'")
    assert refused.wait() == 1
