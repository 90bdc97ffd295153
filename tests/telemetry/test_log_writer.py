"""Lines to descriptors that are slow, full, broken, rotated or shared."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypoll.telemetry import log_writer as module
from hypoll.telemetry.log_writer import (
    FileSink,
    LogWriter,
    LogWriterError,
    PolledSink,
    Sink,
    SocketSink,
    open_file,
    open_standard,
)
from tests.support.clock import PATIENCE

LINE = b"a line of thirty-two characters\n"


def notice(count: int) -> bytes:
    return b"%d dropped\n" % count


class Scripted(Sink):
    """Takes as many bytes as it is told to, or fails."""

    def __init__(self, script: list[int | OSError], piece: int = 1000) -> None:
        self.script = script
        self.piece = piece
        self.writes: list[bytes] = []
        self.wrote = b""
        self.fd = -1
        self.reopened = 0

    def write(self, data: bytes) -> int:
        step: int | OSError = self.script.pop(0) if self.script else len(data)
        if isinstance(step, OSError):
            raise step
        self.writes.append(data)
        self.wrote += data[:step]
        return min(step, len(data))

    def reopen(self) -> bool:
        self.reopened += 1
        return True

    def close(self) -> None:
        pass


def full() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "full")


def lines(count: int, first: int = 0) -> list[bytes]:
    return [b"line %d\n" % number for number in range(first, first + count)]


def test_the_lines_of_a_turn_are_one_write():
    sink = Scripted([])
    log_writer = LogWriter(sink, notice)
    for line in lines(20):
        log_writer.put(line)
    assert log_writer.drain()
    assert sink.writes == [b"".join(lines(20))]
    assert log_writer.drain()
    assert len(sink.writes) == 1, "nothing is written when there is nothing"


def test_a_pipe_is_given_whole_lines_of_at_most_its_atomic_size():
    sink = Scripted([], piece=100)
    log_writer = LogWriter(sink, notice)
    for _ in range(10):
        log_writer.put(LINE)
    log_writer.put(LINE * 5)
    log_writer.drain()
    assert [len(data) for data in sink.writes] == [96, 96, 96, 32, 96, 64], (
        "a record that is longer is cut between its lines"
    )


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_line_that_was_begun_is_ended_first(cut):
    sink = Scripted([cut, full()])
    log_writer = LogWriter(sink, notice)
    for line in lines(2):
        log_writer.put(line)
    assert not log_writer.drain()
    log_writer.put(b"line 2\n")
    assert log_writer.drain()
    assert sink.wrote == b"".join(lines(3))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO])
def test_an_error_is_told_once_and_tried_again_when_asked(number):
    told: list[OSError] = []
    sink = Scripted([OSError(number, "no") for _ in range(2)])
    log_writer = LogWriter(sink, notice, told.append)
    log_writer.put(LINE)
    assert not log_writer.drain()
    assert not log_writer.drain(), "not tried again in the same second"
    assert len(sink.script) == 1
    assert not log_writer.retry()
    assert [error.errno for error in told] == [number]
    assert log_writer.retry()
    assert sink.wrote == LINE
    sink.script = [OSError(number, "again")]
    log_writer.put(LINE)
    log_writer.drain()
    assert len(told) == 2, "it had gone on meanwhile"


def test_what_finds_no_room_is_counted_and_told_of_in_its_place():
    sink = Scripted([full()])
    log_writer = LogWriter(sink, notice, size=70)
    for line in lines(15):
        log_writer.put(line)
    assert not log_writer.drain()
    assert log_writer.dropped == 5
    assert log_writer.drain()
    assert sink.wrote == b"".join(lines(10)) + b"5 dropped\n"
    log_writer.put(LINE)
    log_writer.drain()
    assert sink.wrote.endswith(b"dropped\n" + LINE)


def test_several_lines_are_taken_like_one_by_one():
    for size in (35, 70, 200):
        sinks = [Scripted([full()]) for _ in range(2)]
        outlets = [LogWriter(sink, notice, size=size) for sink in sinks]
        for first in (0, 5, 10):
            outlets[0].put_all(lines(5, first))
            for line in lines(5, first):
                outlets[1].put(line)
            for log_writer in outlets:
                log_writer.drain()
        assert sinks[0].wrote == sinks[1].wrote
        assert sinks[0].wrote.startswith(b"".join(lines(5)))
        assert outlets[0]._size == outlets[1]._size == 0


def test_after_a_loss_half_of_the_buffer_must_be_free():
    sink = Scripted([7, full(), 14, full(), 28, full()], piece=70)
    log_writer = LogWriter(sink, notice, size=70)
    for line in lines(11):
        log_writer.put(line)
    for number in range(11, 14):
        log_writer.drain()
        log_writer.put(b"line %d\n" % number)
    log_writer.drain()
    assert sink.wrote == b"".join(lines(10)) + b"3 dropped\n" + b"line 13\n"


def test_the_buffer_is_bounded():
    log_writer = LogWriter(Scripted([full()] * 100), notice, size=1000)
    for _ in range(100):
        log_writer.put(LINE)
        log_writer.drain()
    assert log_writer._size <= 1000
    assert log_writer._size == sum(map(len, log_writer._lines)) + len(log_writer._chunk)
    assert log_writer.dropped == 100 - 1000 // len(LINE)


@pytest.mark.parametrize(("cut", "kept"), [(3, lines(2, 1)), (7, lines(2, 1)), (10, lines(1, 2))])
def test_a_reopened_file_does_not_begin_in_the_middle_of_a_line(cut, kept):
    sink = Scripted([cut, full()])
    log_writer = LogWriter(sink, notice)
    for line in lines(3):
        log_writer.put(line)
    log_writer.drain()
    sink.wrote = b""
    log_writer.reopen()
    assert sink.reopened == 1
    assert sink.wrote == b"".join(kept) + (b"1 dropped\n" if cut % 7 else b"")
    assert log_writer._size == 0


# files


def test_a_file_is_appended_to_and_made_when_missing(tmp_path):
    path = tmp_path / "log"
    for _ in range(2):
        log_writer = LogWriter(open_file(str(path)), notice)
        log_writer.put(LINE)
        log_writer.close()
    assert path.read_bytes() == LINE * 2
    assert path.stat().st_mode & 0o037 == 0, "others have no business with it"


@pytest.mark.parametrize("name", ["missing/log", "."])
def test_a_file_that_can_not_be_opened_is_named(tmp_path, name):
    with pytest.raises(LogWriterError, match=r"can't be written: (No such file or directory|Is a directory)") as caught:
        open_file(str(tmp_path / name))
    assert str(tmp_path) in str(caught.value)


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def replace(path: Path) -> None:
    rename(path)
    path.touch()


@pytest.mark.parametrize("rotate", [rename, replace])
@pytest.mark.parametrize("ask", [LogWriter.retry, LogWriter.reopen])
def test_a_rotated_file_is_followed(tmp_path, rotate, ask):
    path = tmp_path / "log"
    log_writer = LogWriter(open_file(str(path)), notice)
    log_writer.put(LINE)
    log_writer.drain()
    rotate(path)
    log_writer.put(b"late\n")
    log_writer.drain()
    ask(log_writer)
    log_writer.put(b"new\n")
    log_writer.close()
    assert path.with_suffix(".1").read_bytes() == LINE + b"late\n"
    assert path.read_bytes() == b"new\n"


def test_a_file_that_was_not_rotated_is_not_opened_again(tmp_path):
    sink = FileSink(str(tmp_path / "log"))
    inode = os.fstat(sink.fd)
    assert not sink.follow()
    assert os.fstat(sink.fd) == inode
    sink.close()


def test_when_the_new_file_can_not_be_made_the_old_one_goes_on_and_that_is_told(tmp_path):
    told: list[OSError] = []
    path = tmp_path / "below" / "log"
    path.parent.mkdir()
    log_writer = LogWriter(open_file(str(path)), notice, told.append)
    path.parent.rename(tmp_path / "moved")
    log_writer.reopen()
    log_writer.retry()
    assert [error.errno for error in told] == [errno.ENOENT]
    log_writer.put(LINE)
    log_writer.drain()
    assert (tmp_path / "moved" / "log").read_bytes() == LINE
    path.parent.mkdir()
    log_writer.retry()
    log_writer.put(b"new\n")
    log_writer.drain()
    assert path.read_bytes() == b"new\n"
    shutil.rmtree(path.parent)
    log_writer.retry()
    assert len(told) == 2, "it had gone on meanwhile"
    log_writer.close()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(path)], capture_output=True)
    if mounted.returncode:
        path.rmdir()
        pytest.skip("no tmpfs can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
    path.rmdir()


def test_a_full_disk_tears_no_line_and_what_waits_is_written_when_there_is_room(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(52 * 1024))
    path = small_disk / "log"
    told: list[OSError] = []
    first, second = (LogWriter(open_file(str(path)), notice, told.append, size=32 * 1024) for _ in range(2))
    for number in range(1000):
        first.put(b"%031d\n" % number)
    assert not first.drain()
    assert not first.retry()
    assert [error.errno for error in told] == [errno.ENOSPC]
    assert path.read_bytes().endswith(b"\n"), "what was begun was taken back"
    ballast.unlink()
    second.put(LINE)
    second.close()
    first.close()
    written = path.read_bytes().splitlines(keepends=True)
    assert LINE in written
    written.remove(LINE)
    assert written == [b"%031d\n" % number for number in range(1000)]


def test_a_line_is_not_taken_back_when_others_wrote_behind_it(tmp_path):
    sink = FileSink(str(tmp_path / "log"))
    sink.write(b"half")
    with (tmp_path / "log").open("ab") as other:
        other.write(b"other")
    assert not sink.take_back(4)
    assert (tmp_path / "log").read_bytes() == b"halfother"
    sink.close()


# standard streams


def in_child(code: str, stdout: int, **more: object) -> subprocess.Popen[bytes]:
    program = "import os, sys\nfrom hypoll.telemetry.log_writer import *\n" + code
    return subprocess.Popen([sys.executable, "-c", program], stdout=stdout, stderr=subprocess.PIPE, **more)  # type: ignore[call-overload,no-any-return]


STUCK = """
import hypoll.telemetry.log_writer
hypoll.telemetry.log_writer.FLUSH_TIME = 0.02
outlet = LogWriter(open_standard(1), lambda n: b"%d dropped\\n" % n)
for _ in range(10000):
    outlet.put(b"x" * 99 + b"\\n")
    outlet.drain()
sys.stderr.write(type(outlet.sink).__name__)
outlet.close()
"""


def shared_pipe() -> tuple[int, int]:
    return os.pipe()


def shared_socket() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def shared_terminal() -> tuple[int, int]:
    return pty.openpty()


@pytest.mark.parametrize(
    ("make", "kind"), [(shared_pipe, "Sink"), (shared_socket, "SocketSink"), (shared_terminal, "Sink")]
)
def test_a_reader_that_does_not_read_holds_nobody_and_its_descriptor_keeps_its_flags(make, kind):
    reader, writer = make()
    with in_child(STUCK, writer) as child:
        assert child.stderr is not None
        assert child.stderr.read().decode() == kind
        assert child.wait(PATIENCE) == 0
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK, "others share it, and expect it to wait"
    os.close(writer)
    os.close(reader)


def test_a_pipe_that_can_not_be_opened_again_is_asked_before_each_write():
    reader, writer = os.pipe()
    log_writer = LogWriter(PolledSink(os.dup(writer)), notice, size=1024 * 1024)
    for _ in range(4000):
        log_writer.put(LINE)
    assert not log_writer.drain(), "it would have waited"
    received = os.read(reader, 1024 * 1024)
    assert set(received.splitlines(keepends=True)) == {LINE}
    while not log_writer.drain():
        received += os.read(reader, 1024 * 1024)
    log_writer.close()
    os.close(writer)
    while data := os.read(reader, 1024 * 1024):
        received += data
    assert received == LINE * 4000
    os.close(reader)


def test_closing_waits_for_a_slow_reader(monkeypatch):
    monkeypatch.setattr(module, "FLUSH_TIME", PATIENCE)  # the reader has to be started first
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log_writer = LogWriter(Sink(writer), notice)
    for _ in range(4000):
        log_writer.put(LINE)
    assert not log_writer.drain()
    with subprocess.Popen(["wc", "-c"], stdin=reader, stdout=subprocess.PIPE) as counter:
        os.close(reader)
        log_writer.close()
        assert counter.stdout is not None
        assert int(counter.stdout.read()) == 4000 * len(LINE)


def test_closing_gives_up_on_a_reader_that_does_not_read(monkeypatch):
    monkeypatch.setattr(module, "FLUSH_TIME", 0.04)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log_writer = LogWriter(Sink(writer), notice)
    for _ in range(4000):
        log_writer.put(LINE)
    log_writer.close()
    os.close(reader)


def test_a_pipe_without_reader_is_an_error_and_no_end():
    told: list[OSError] = []
    reader, writer = os.pipe()
    log_writer = LogWriter(Sink(writer), notice, told.append)
    os.close(reader)
    log_writer.put(LINE)
    log_writer.close()
    assert [error.errno for error in told] == [errno.EPIPE]


CLOSED = """
held = [os.open("/dev/null", os.O_RDWR) for _ in range(3)]   # whoever gets the number 1 must not be written to
reader, writer = os.pipe()
os.dup2(writer, 1)
outlet = LogWriter(open_standard(1), lambda n: b"")
outlet.put(b"lost\\n")
outlet.close()
os.close(writer)
os.close(1)
assert os.read(reader, 100) == b""
sys.stderr.write("nothing")
"""

OCCUPIED = """
occupy_standard_descriptors()
reader, writer = os.pipe()
sys.stderr.write(f"{min(reader, writer) > 2}")
"""


@pytest.mark.parametrize(("code", "said"), [(CLOSED, "nothing"), (OCCUPIED, "True")])
def test_a_standard_output_that_was_closed_at_the_start(code, said):
    with in_child(code, subprocess.DEVNULL, preexec_fn=lambda: os.close(1)) as child:
        assert child.stderr is not None
        assert child.stderr.read().decode() == said
        assert child.wait(PATIENCE) == 0


def test_lines_of_several_processes_to_one_pipe_stay_whole():
    reader, writer = os.pipe()
    code = """
outlet = LogWriter(open_standard(1), lambda n: b"", size=1 << 24)
for number in range(1500):
    outlet.put(bytes([sys.argv[1].encode()[0]]) * 200 + b"\\n")
    outlet.drain()
while not outlet.drain():
    select.select([], [outlet.sink.fd], [])
"""
    program = "import sys, select\nfrom hypoll.telemetry.log_writer import *\n" + code
    children = [subprocess.Popen([sys.executable, "-c", program, name], stdout=writer) for name in "abc"]
    os.close(writer)
    received = b""
    while data := os.read(reader, 1 << 20):
        received += data
    assert [child.wait(PATIENCE) for child in children] == [0, 0, 0]
    os.close(reader)
    found = received.splitlines()
    assert sorted(found) == [bytes([letter]) * 200 for letter in b"abc" for _ in range(1500)]


def test_a_socket_is_written_to_without_waiting():
    ours, theirs = socket.socketpair()
    log_writer = LogWriter(SocketSink(ours.detach()), notice)
    log_writer.put(LINE)
    assert log_writer.drain()
    assert theirs.recv(100) == LINE
    log_writer.close()
    theirs.close()


def test_the_atomic_size_of_a_pipe_is_known():
    reader, writer = os.pipe()
    assert Sink(writer).piece == select.PIPE_BUF
    os.close(reader)
    os.close(writer)


def test_standard_error_is_opened_without_changing_it():
    sink = open_standard(2)
    assert sink.fd > 2
    sink.close()


def test_a_record_of_many_lines_leaves_a_pipe_between_lines_only():
    """A traceback longer than PIPE_BUF, a pipe that has no room for all of it, and another writer."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    filler = b"x" * 4095 + b"\n"
    while True:
        try:
            os.write(writer, filler)
        except BlockingIOError:
            break
    os.read(reader, 2 * 4096)
    record = b"".join(b"    | %04d " % number + b"a" * 88 + b"\n" for number in range(200))
    log_writer = LogWriter(Sink(writer), lambda count: b"")
    log_writer.put(record)
    said = b""
    while not log_writer.drain():
        said += os.read(reader, 4096)
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b"STRANGER\n")
    with contextlib.suppress(BlockingIOError):
        while True:
            said += os.read(reader, 65536)
    os.close(reader)
    log_writer.close()
    lines = [line for line in said.splitlines(keepends=True) if not line.startswith(b"x")]
    assert b"STRANGER\n" in lines
    assert b"".join(line for line in lines if line != b"STRANGER\n") == record
