"""Spools: the order, the bounds of a process, the file, and a disk that fails."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoll.loop import Loop
from hypoll.option import KIB, MIB
from hypoll.server.spool import FREE_SIZE, JOINED, MEMORY_SHARE, PAUSE, Spool, SpoolReader, SpoolSpace
from hypoll.settings import Settings
from tests.support.clock import PATIENCE
from tests.support.leftovers import open_descriptors, settled_descriptors


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def make(loop: Loop, clock: Clock, tmp_path: Path) -> Any:
    def make(memory: int = 64 * MIB, disk: int = 64 * MIB, directory: str = "") -> SpoolSpace:
        settings = Settings(spool_memory=memory, spool_disk=disk, spool_dir=directory or str(tmp_path))
        return SpoolSpace(loop, settings, clock)

    return make


def drain(spool: Spool, size: int = 64 * KIB) -> bytes:
    return b"".join(iter(lambda: spool.take(size), b""))


@given(
    st.lists(st.tuples(st.integers(0, 3 * KIB), st.integers(0, 4 * KIB)), max_size=60),
    st.sampled_from([0, 1 * KIB, 1 * MIB]),
    st.sampled_from([0, 3 * KIB, 1 * MIB]),
)
def test_what_is_put_comes_out_in_order(tmp_path_factory, steps, memory, disk):
    loop = Loop()
    try:
        space = SpoolSpace(
            loop,
            Settings(spool_memory=memory, spool_disk=disk, spool_dir=str(tmp_path_factory.getbasetemp())),
        )
        spool = Spool(space, limit=5 * KIB, free=512)
        put = taken = b""
        for number, (size, wanted) in enumerate(steps):
            data = bytes([number % 251]) * size
            count = spool.put(data)
            put += data[:count]
            taken += spool.take(wanted)
            assert spool.size == len(put) - len(taken) <= 5 * KIB
            assert space.memory <= memory
            assert space.disk <= disk
        taken += drain(spool)
        assert taken == put
        spool.close()
        assert (space.memory, space.disk) == (0, 0)
    finally:
        loop.close()


@given(
    st.lists(st.tuples(st.integers(0, 5 * KIB), st.integers(0, 4 * KIB), st.booleans()), max_size=40),
    st.integers(0, 8 * KIB),
    st.integers(0, 3),
    st.integers(0, 2 * KIB),
)
def test_what_is_forced_in_comes_out_once_however_little_room_there_is(tmp_path_factory, steps, memory, disk, free):
    """An upload's bytes that were received already go in whatever the process holds; others come and go meanwhile."""
    loop = Loop()
    settings = Settings(spool_memory=memory, spool_disk=disk * KIB, spool_dir=str(tmp_path_factory.getbasetemp()))
    space = SpoolSpace(loop, settings)
    spool, other = Spool(space, free=free), Spool(space)
    owed, got = b"", b""
    for number, (put, take, others) in enumerate(steps, 1):
        if others:
            other.put(bytes(put))
        else:
            data = bytes([number]) * put
            try:
                spool.force(data)
            except OSError:  # the file is full, and so are the bounds: the request is refused
                break
            owed += data
        other.take(take // 2)
        got += spool.take(take)
        assert 0 <= space.memory <= memory
        assert 0 <= space.disk <= disk * KIB
    else:
        assert got + drain(spool) == owed
    spool.close()
    other.close()
    assert (space.memory, space.disk) == (0, 0)
    loop.close()


def test_memory_comes_first_and_then_a_file_without_a_name(make, tmp_path):
    space = make()
    spool = Spool(space)
    assert spool.put(bytes(MEMORY_SHARE)) == MEMORY_SHARE
    assert (space.memory, space.disk) == (MEMORY_SHARE, 0)
    assert spool.put(b"x" * MIB) == MIB
    assert (space.memory, space.disk) == (MEMORY_SHARE, MIB)
    assert list(tmp_path.iterdir()) == []
    assert drain(spool) == bytes(MEMORY_SHARE) + b"x" * MIB
    assert (space.memory, space.disk) == (0, 0)


def test_an_endless_stream_does_not_make_the_file_grow(make):
    space = make()
    spool = Spool(space, limit=2 * MIB)
    for number in range(100):
        piece = bytes([number]) * (700 * KIB)
        assert spool.put(piece) == len(piece)
        if number:
            assert len(spool.take(100 * MIB)) > 0
            while spool.size > MIB:
                spool.take(64 * KIB)
    assert space.disk <= 2 * MIB
    spool.close()


def test_small_pieces_weigh_what_they_have(make):
    """Two bytes in an object of their own weigh thirty-five."""
    import tracemalloc

    spool = Spool(make())
    tracemalloc.start()
    try:
        for _ in range(30_000):
            spool.put(b"ab")
        weight, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spool.size == 60_000
    assert weight < 2 * 60_000 + JOINED
    assert drain(spool) == b"ab" * 30_000


def test_the_bounds_are_the_processs_and_room_that_comes_back_is_told(make, loop):
    space = make(memory=MIB, disk=0)
    first, second = Spool(space), Spool(space)
    for _ in range(2):
        first.put(bytes(MEMORY_SHARE))
    assert space.memory == MIB
    assert second.put(b"x") == 0
    told: list[int] = []
    space.wait(lambda: told.append(1))
    first.take(10)
    loop.poll_once(0)
    assert told == [1]
    assert second.put(bytes(20)) == 10
    first.close()
    second.close()
    assert space.memory == 0


def test_a_response_always_has_a_little_room(make):
    spool = Spool(make(memory=0, disk=0), free=FREE_SIZE)
    assert spool.put(bytes(2 * FREE_SIZE)) == FREE_SIZE
    assert spool.put(b"x") == 0
    spool.take(10)
    assert spool.put(bytes(20)) == 10


@pytest.mark.parametrize("directory", ["none", "file"])
def test_a_disk_that_cannot_be_written_is_told_once_and_memory_does(make, clock, caplog, tmp_path, directory):
    (tmp_path / "file").write_bytes(b"")
    space = make(memory=4 * MIB, disk=64 * MIB, directory=str(tmp_path / directory))
    spool = Spool(space)
    assert sum(spool.put(bytes(MIB)) for _ in range(9)) == 4 * MIB
    assert space.failing
    assert caplog.text.count("can't be written") == 1
    assert "--spool-dir" in caplog.text
    assert space.disk == 0
    clock.now += PAUSE
    assert not space.failing
    assert spool.put(bytes(MIB)) == 0  # tried again, and told again
    assert caplog.text.count("can't be written") == 2
    assert drain(spool) == bytes(4 * MIB)
    spool.close()


def test_a_full_disk_in_the_middle_loses_nothing(make, monkeypatch):
    space = make()
    spool = Spool(space)
    spool.put(b"a" * MEMORY_SHARE)
    spool.put(b"b" * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert spool.put(b"c" * MIB) == 0
    assert drain(spool) == b"a" * MEMORY_SHARE + b"b" * MIB
    spool.close()
    assert (space.memory, space.disk) == (0, 0)


def test_a_file_system_without_o_tmpfile_gets_a_name_for_a_moment(make, monkeypatch, tmp_path):
    opened = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    spool = Spool(make(memory=0))
    assert spool.put(b"x" * MIB) == MIB
    assert list(tmp_path.iterdir()) == []
    assert drain(spool) == b"x" * MIB


def test_what_its_owner_forgets_is_given_back(make):
    space = make()
    before = len(settled_descriptors())
    spool = Spool(space)
    for _ in range(2):
        spool.put(bytes(MIB))
    assert len(open_descriptors()) == before + 1
    gc.disable()
    try:
        del spool
        assert (space.memory, space.disk) == (0, 0)
        assert len(open_descriptors()) == before
    finally:
        gc.enable()


def test_the_collector_may_close_a_spool_wherever_it_runs(make):
    """It may run in the middle of what another spool does under the process's lock."""
    space = make()
    spool = Spool(space)
    spool.put(bytes(KIB))
    forgotten = [spool]
    del spool

    def collect() -> None:
        with space._lock:
            forgotten.clear()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert space.memory == 0


def test_closing_while_the_file_is_written_leaves_no_descriptor(make, monkeypatch):
    space = make(memory=0)
    spool = Spool(space)
    before = len(settled_descriptors())
    written = os.pwrite
    entered, gate = threading.Event(), threading.Event()

    def slow(*args: Any) -> int:
        entered.set()
        gate.wait(PATIENCE)
        return written(*args)

    monkeypatch.setattr(os, "pwrite", slow)
    thread = threading.Thread(target=spool.put, args=(bytes(MIB),))
    thread.start()
    assert entered.wait(PATIENCE)
    spool.close()
    gate.set()
    thread.join()
    assert spool.size == 0
    assert space.disk == 0
    assert len(open_descriptors()) == before


def test_a_reader_reads_lines_and_frees_what_it_has_read(make):
    import io

    space = make()
    spool = Spool(space)
    spool.put(b"first\nsecond\n" + b"x" * MIB)
    file = io.BufferedReader(SpoolReader(spool), 16)
    assert file.readline() == b"first\n"
    assert next(iter(file)) == b"second\n"
    assert file.read() == b"x" * MIB
    assert (space.memory, space.disk) == (0, 0)
