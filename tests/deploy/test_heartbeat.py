"""Heartbeats of workers: a master that was kept from running doesn't hold its own absence against them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from hypoll.deploy.heartbeat import COUNTED, Heartbeat
from tests.support.clock import Clock
from tests.support.gunicorn import GUNICORN, HYPOLL, Master, family, until

TIMEOUT = 5.0

APP = """
import hypoll
routes = hypoll.Routes()
routes.get("/")(lambda request: "ok")
"""


class Beat:
    """A heartbeat by a test's clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.beaten = clock.now

    def notify(self) -> None:
        self.beaten = self.clock.now

    def last_update(self) -> float:
        return self.beaten

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


@pytest.fixture
def beat(clock: Clock) -> Beat:
    return Beat(clock)


@pytest.fixture
def heartbeat(beat: Beat, clock: Clock) -> Heartbeat:
    return Heartbeat(beat, clock)


def silence(heartbeat: Heartbeat, clock: Clock) -> float:
    return clock.now - heartbeat.last_update()


def test_a_worker_that_beats_is_seen_to(heartbeat, clock):
    for _ in range(20):
        clock.advance(1)
        heartbeat.notify()
        assert silence(heartbeat, clock) == 0


def test_a_worker_that_is_stuck_is_seen_to_be(heartbeat, clock):
    for seconds in range(1, 7):
        clock.advance(1)
        assert silence(heartbeat, clock) == seconds


def test_a_pause_of_the_master_is_not_the_worker_s_silence(heartbeat, clock):
    clock.advance(1)
    assert silence(heartbeat, clock) == 1
    clock.advance(3600)
    assert silence(heartbeat, clock) == 1 + COUNTED
    for seconds in range(2, 7):
        clock.advance(1)
        assert silence(heartbeat, clock) == seconds + COUNTED, "and it counts on"


def test_a_worker_that_beat_in_the_master_s_pause_has_its_time_from_there(heartbeat, clock):
    clock.advance(100)
    heartbeat.notify()
    clock.advance(100)
    assert silence(heartbeat, clock) == COUNTED
    clock.advance(1)
    heartbeat.notify()
    assert silence(heartbeat, clock) == 0, "what was excused is forgotten"
    clock.advance(1)
    assert silence(heartbeat, clock) == 1


def test_a_master_that_is_always_late_still_finds_who_is_stuck(heartbeat, clock):
    looks = 0
    while silence(heartbeat, clock) < TIMEOUT:
        clock.advance(10)
        looks += 1
    assert looks == TIMEOUT / COUNTED


def waits(pid: int) -> int:
    """How often a process has gone to sleep by itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("voluntary_ctxt_switches")).split()[1])


@pytest.mark.full
@pytest.mark.parametrize(
    "command", [(*GUNICORN, "--timeout", "2"), (*HYPOLL, "--workers", "1", "--worker-timeout", "2")]
)
def test_a_paused_master_kills_no_worker(tmp_path, command):
    (tmp_path / "app.py").write_text(APP)
    master = Master(tmp_path, [*command, "--bind", "127.0.0.1:0"])
    try:
        assert master.get() == (200, b"ok")
        workers = master.workers()
        everyone = family(master.popen.pid)
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(4.0)  # the machine's own time must pass: more than the timeout and two looks
        before = waits(master.popen.pid)
        os.kill(master.popen.pid, signal.SIGCONT)
        until(lambda: waits(master.popen.pid) >= before + 2)  # it has looked, and waits again
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert master.get() == (200, b"ok")
        assert master.workers() == workers
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
        assert not [line for line in master.lines if "TIMEOUT" in line]
    finally:
        with contextlib.suppress(ProcessLookupError):
            master.signal(signal.SIGCONT)
        master.end()
