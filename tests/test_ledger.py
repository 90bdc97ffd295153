"""Counters of several processes: every one counted once, whoever lives or dies meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypoll import ledger as module
from hypoll.ledger import Cells, Ledger, LedgerFullError, add_up, make_directory, read_cells, remove_directory

KEY = ("requests", "GET", "/", "200")


@pytest.fixture
def directory() -> Iterator[str]:
    path = make_directory()
    yield path
    remove_directory(path)
    assert not os.path.exists(path)


def counting(directory: str | None, number: int, gauge: int = 0) -> Ledger:
    """A process that has counted so many."""
    made = Ledger(directory)
    index = made.cells.add(KEY)
    made.cells.values[index] += number
    made.cells.values[made.cells.add(("open",), gauge=True)] = gauge
    return made


def total(asked: Ledger) -> int:
    return add_up(asked.read()).get(KEY, [0])[0]


def open_now(asked: Ledger) -> list[int]:
    return [account.gauges[("open",)][0] for account in asked.read() if account.pid]


def test_one_process_needs_no_file():
    alone = counting(None, 3, 1)
    (account,) = alone.read()
    assert (account.pid, account.counters, account.gauges) == (os.getpid(), {KEY: [3]}, {("open",): [1]})
    alone.close()


def test_keys_have_cells_of_their_own_and_values_stay_where_they_are(directory):
    made = Ledger(directory)
    indices = [made.cells.add((str(number), "é" * number), number + 1) for number in range(50)]
    for index in indices:
        made.cells.values[index] = index + 1
    made.cells.values[indices[-1] + 49] = -7
    expected = {(str(number), "é" * number): [indices[number] + 1, *[0] * number] for number in range(50)}
    expected[("49", "é" * 49)][-1] = -7
    assert made.read()[0].counters == expected
    assert read_cells(str(Path(directory) / made._name)).counters == expected
    made.close()


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_whoever_is_asked_gives_the_sum(directory, asked):
    made = [counting(directory, number, number) for number in (1, 20, 300)]
    assert total(made[asked]) == 321
    assert sorted(open_now(made[asked])) == [1, 20, 300]
    assert made[asked].read()[0].counters[KEY] == [[1], [20], [300]][asked], "its own comes first"
    for each in made:
        each.close()


def test_counters_of_the_dead_are_kept_their_gauges_and_files_are_not(directory):
    living = counting(directory, 1, 1)
    for number in (20, 300):
        counting(directory, number, number).close()
    for _ in range(3):
        assert total(living) == 321
        assert open_now(living) == [1]
    assert [name for name in os.listdir(directory) if name.endswith(".cells")] == [living._name]
    living.close()
    successor = counting(directory, 4000, 1)
    assert total(successor) == 4321
    successor.close()


def forked(work: Callable[[], object]) -> int:
    """The id of a child that does it and ends at once."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_a_killed_process_is_counted(directory):
    living = counting(directory, 1, 1)
    reader, writer = os.pipe()

    def work() -> None:
        counting(directory, 500, 9)
        os.write(writer, b"counted")
        signal.pause()

    pid = forked(work)
    os.read(reader, 100)
    assert total(living) == 501
    assert sorted(open_now(living)) == [1, 9]
    assert {account.pid for account in living.read()} == {os.getpid(), pid, 0}
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert total(living) == 501
    assert open_now(living) == [1]
    living.close()
    os.close(reader)
    os.close(writer)


def test_one_that_is_closed_and_asked_all_the_same_counts_once(directory):
    one, other = counting(directory, 1), counting(directory, 20)
    one.close()
    assert [total(one), total(other), total(one)] == [21, 21, 21]
    other.close()


def test_a_fold_that_was_cut_short_counts_nothing_twice(directory, monkeypatch):
    counting(directory, 20).close()
    monkeypatch.setattr(os, "unlink", lambda path: (_ for _ in ()).throw(OSError(5, "cut short")))
    first = counting(directory, 1)
    assert total(first) == 21
    monkeypatch.undo()
    assert total(first) == 21
    assert os.path.exists(os.path.join(directory, "folded"))
    assert len([name for name in os.listdir(directory) if name.endswith(".cells")]) == 1
    first.close()


def test_without_room_to_fold_the_files_stay_and_are_read(directory, monkeypatch):
    counting(directory, 20, 7).close()
    monkeypatch.setattr(module, "_write_folded", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    living = counting(directory, 1, 1)
    for _ in range(2):
        assert total(living) == 21
        assert open_now(living) == [1]
    living.close()


def test_who_folds_holds_up_nobody(directory):
    counting(directory, 20).close()
    with module._locked(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT):
        living = counting(directory, 1)
        assert total(living) == 21
        assert not os.path.exists(os.path.join(directory, "folded"))
    assert total(living) == 21
    assert os.path.exists(os.path.join(directory, "folded"))
    living.close()


def test_the_names_of_the_dead_are_bounded(directory, monkeypatch):
    monkeypatch.setattr(module, "FOLDED_NAMES", 3)
    for _ in range(6):
        counting(directory, 1).close()
    living = counting(directory, 0)
    assert total(living) == 6
    assert len(module._read_folded(directory)[0]) == 3
    living.close()


def test_keys_that_come_while_they_are_read_have_their_cells(directory):
    asked = Ledger(directory)

    def work() -> None:
        made = Ledger(directory)
        for number in range(800):
            made.cells.values[made.cells.add((f"key {number}",), 3) + 2] = number

    pid = forked(work)
    seen = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        counters = add_up(asked.read())
        assert {len(values) for values in counters.values()} <= {3}
        assert len(counters) >= seen
        seen = len(counters)
    assert add_up(asked.read()) == {(f"key {number}",): [0, 0, number] for number in range(800)}
    asked.close()


def test_foreign_files_are_left_alone(directory):
    (Path(directory) / "1-2.cells").write_bytes(b"something else")
    (Path(directory) / "1-3.cells").write_bytes(bytes(module._SIZE))
    (Path(directory) / "1-5.cells").write_bytes(b"x")
    (Path(directory) / "1-6.cells").touch()
    (Path(directory) / ".1-4.cells").write_bytes(b"not yet published")
    living = counting(directory, 1)
    assert total(living) == 1
    assert len(os.listdir(directory)) >= 4
    living.close()
    with pytest.raises(ValueError, match="no file of counters"):
        read_cells(str(Path(directory) / "1-2.cells"))


def make_many(cells: Cells) -> None:
    for number in range(100):
        cells.values[cells.add((f"key {number}",))] += 1


@pytest.mark.parametrize(("cells", "key_bytes"), [(10, 10_000), (10_000, 200)])
def test_there_is_an_end_to_it(monkeypatch, cells, key_bytes):
    monkeypatch.setattr(module, "CELLS", cells)
    monkeypatch.setattr(module, "KEY_BYTES", key_bytes)
    made = Cells()
    with pytest.raises(LedgerFullError):
        make_many(made)
    account = made.read(1, 0.0)
    assert 10 <= len(account.counters) <= 11
    assert set(map(tuple, account.counters.values())) == {(1,)}


@pytest.mark.parametrize("where", ["missing", "full"])
def test_without_a_place_for_the_file_a_process_counts_alone(tmp_path, where, caplog, monkeypatch):
    if where == "full":
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        path = tmp_path
    else:
        path = tmp_path / "missing"
    made = counting(str(path), 3)
    assert total(made) == 3
    assert "the counters of this process stay its own" in caplog.text
    assert not tmp_path.exists() or [name for name in os.listdir(tmp_path) if "cells" in name] == []


def test_the_sum_never_goes_back_while_processes_come_and_go(directory):
    asked = [Ledger(directory), Ledger(directory)]
    seen = [0]

    def work() -> None:
        made = Ledger(directory)
        index = made.cells.add(KEY)
        for _ in range(5000):
            made.cells.values[index] += 1

    for _ in range(4):
        children = {forked(work) for _ in range(3)}
        while children:
            seen.append(total(asked[len(seen) % 2]))
            children = {pid for pid in children if os.waitpid(pid, os.WNOHANG) == (0, 0)}
    seen.append(total(asked[0]))
    assert seen == sorted(seen)
    assert seen[-1] == 12 * 5000
    for each in asked:
        each.close()


def test_the_directory_can_be_given_to_another_user():
    path = make_directory(os.getuid(), os.getgid())
    assert os.stat(path).st_mode & 0o077 == 0
    remove_directory(path)


def test_a_directory_that_was_left_behind_is_removed_and_one_in_use_is_not(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MEMORY", str(tmp_path))
    old, new, strange, linked = (tmp_path / f"hypoll-counters-{name}" for name in ("old", "new", "strange", "linked"))
    in_use = Path(make_directory())
    target = tmp_path / "target"
    for directory in (old, new, strange, target):
        directory.mkdir()
        (directory / "1.cells").write_bytes(b"")
    for directory in (old, new, target):
        (directory / "made-by-hypoll").write_bytes(b"hypoll 1")
    linked.symlink_to(target)
    (strange / "made-by-hypoll").write_bytes(b"something")
    uploads = tmp_path / "hypoll-uploads"
    uploads.mkdir()
    (uploads / "important").write_bytes(b"")
    mixed = tmp_path / "hypoll-counters-mixed"
    mixed.mkdir()
    (mixed / "made-by-hypoll").write_bytes(b"hypoll 1")
    (mixed / "important").write_bytes(b"")
    for directory in (old, in_use, strange, uploads, mixed, target):
        os.utime(directory, (0, 0))
    os.utime(linked, (0, 0), follow_symlinks=False)
    other = make_directory()
    assert not old.exists()
    assert new.exists()
    assert in_use.exists()
    assert (strange / "1.cells").exists(), "what has no mark of ours is a stranger's"
    assert (uploads / "important").exists()
    assert (mixed / "important").exists(), "nothing but the module's own files is removed"
    assert (target / "1.cells").exists(), "no link is followed"
    for directory in (str(in_use), other):
        remove_directory(directory)


def test_a_link_in_the_place_of_the_directory_leads_nowhere(tmp_path):
    """A worker that gave up its rights owns the directory, and can put a link into its path."""
    path = make_directory()
    kept = tmp_path / "strangers"
    kept.mkdir()
    for name in ("lock", "folded", "1-2.cells", "made-by-hypoll"):
        (kept / name).write_text("a stranger's")
    moved = f"{path}.moved"
    os.rename(path, moved)
    os.symlink(kept, path)
    try:
        remove_directory(path)
        assert os.path.islink(path)
        assert sorted(file.name for file in kept.iterdir()) == ["1-2.cells", "folded", "lock", "made-by-hypoll"]
        assert os.listdir(moved) == []
    finally:
        os.unlink(path)
        os.rmdir(moved)


def test_a_path_that_this_process_has_not_made_is_not_removed(tmp_path):
    (tmp_path / "lock").write_text("a stranger's")
    remove_directory(str(tmp_path))
    assert (tmp_path / "lock").read_text() == "a stranger's"
