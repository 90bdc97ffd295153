"""The writer: whatever produces output, and however little the socket takes, the peer gets all of it, in order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoll.protocol.files import File
from hypoll.protocol.slices import Slice
from hypoll.server.response_body import FileSource, InlineSource, Pull, TaskSource
from hypoll.server.socket_io import SEND_SIZE, TAIL_SIZE, PeerGone
from hypoll.server.writer import BodyError, Heartbeat, Outcome, Writer

HEARTBEAT = b"<beat>"


class Mouth:
    """A socket that takes as many bytes a call as it is told, 0: none, and then all it is offered."""

    def __init__(self, takes: list[int]) -> None:
        self.takes = takes
        self.taken = b""

    def _take(self, data: bytes) -> int:
        most = self.takes.pop(0) if self.takes else len(data)
        if not most:
            raise BlockingIOError
        self.taken += data[:most]
        return min(most, len(data))

    def send(self, data: bytes, flags: int = 0) -> int:
        return self._take(bytes(data))

    def sendmsg(self, buffers: list[bytes], ancdata: object = (), flags: int = 0) -> int:
        return self._take(b"".join(buffers))


class Gapped:
    """A source that has nothing at some of its pulls."""

    mid_piece = False

    def __init__(self, pieces: list[bytes | None]) -> None:
        self.pieces = pieces
        self.closed = 0

    def pull(self, sock: Any, output: Any) -> Pull:
        if not self.pieces:
            return Pull.END
        piece = self.pieces.pop(0)
        if piece is None:
            return Pull.LATER
        output.append(piece)
        return Pull.MORE

    def close(self) -> None:
        self.closed += 1


PIECES = st.binary(min_size=1, max_size=9)
ANSWER = st.tuples(st.just("answer"), st.lists(PIECES, max_size=3))
STREAM = st.tuples(st.just("stream"), st.lists(st.none() | PIECES, max_size=6))
INLINE = st.tuples(st.just("inline"), st.lists(PIECES, max_size=6))


@given(st.lists(ANSWER | STREAM | INLINE, max_size=6), st.lists(st.integers(0, 5), max_size=60))
def test_every_producer_is_sent_in_order_whatever_the_socket_takes(steps, takes):
    mouth: Any = Mouth(takes)
    writer = Writer()
    owed = b""

    def drive() -> None:
        nonlocal owed
        for _ in range(500):
            outcome, _progress = writer.resume(mouth)
            if outcome is Outcome.DONE:
                assert not writer.has_output
                return
            if outcome is Outcome.WAITING:  # time passes: a heartbeat, which may have to wait in its turn
                assert not writer.buffers
                writer.write_heartbeat()
                owed += HEARTBEAT
        raise AssertionError("it never ends")

    def note(pieces: list[Any]) -> None:
        nonlocal owed
        owed += b"".join(piece for piece in pieces if piece)

    for kind, pieces in steps:
        if kind == "answer":
            note(pieces)
            if writer.write(mouth, pieces):
                assert not writer.buffers
            continue  # what waits is before all that comes
        drive()
        writer.heartbeat = Heartbeat(1.0, HEARTBEAT)
        at = len(owed)
        if kind == "stream":
            writer.source = Gapped(list(pieces))
            beats = sum(piece is None for piece in pieces)
            drive()
            # Each beat stands where the source was silent.
            wanted = b"".join(HEARTBEAT if piece is None else piece for piece in pieces)
            assert owed[at:] == HEARTBEAT * beats
            owed = owed[:at] + wanted
        else:
            note(pieces)
            writer.source = InlineSource(piece for piece in pieces)
            drive()
        writer.begin_answer()
    drive()
    assert mouth.taken == owed


def test_an_interim_answer_that_waits_is_before_the_final_one():
    mouth: Any = Mouth([4, 0, 2, 0])
    writer = Writer()
    assert not writer.write(mouth, [b"interim "])
    assert not writer.write(mouth, [b"final"])
    while writer.resume(mouth)[0] is not Outcome.DONE:
        pass
    assert mouth.taken == b"interim final"


@pytest.mark.parametrize(
    ("size", "sent"),
    [
        (SEND_SIZE, [SEND_SIZE]),
        (SEND_SIZE + TAIL_SIZE, [SEND_SIZE + TAIL_SIZE]),
        (SEND_SIZE + TAIL_SIZE + 1, [SEND_SIZE, TAIL_SIZE + 1]),
        (3 * SEND_SIZE + 5, [SEND_SIZE, SEND_SIZE, SEND_SIZE + 5]),
    ],
)
def test_a_turn_has_its_size_and_a_small_tail_goes_along(size, sent):
    mouth: Any = Mouth([])
    writer = Writer()
    content, shares = bytes(range(256)) * (size // 256 + 1), []
    writer.buffers = [content[:100], content[100:size]]
    outcome = Outcome.TURN
    while outcome is Outcome.TURN:
        before = len(mouth.taken)
        outcome, progress = writer.resume(mouth)
        assert progress
        shares.append(len(mouth.taken) - before)
    assert outcome is Outcome.DONE
    assert shares == sent
    assert mouth.taken == content[:size]


def test_a_source_is_pulled_only_when_nothing_waits():
    source = Gapped([b"a", b"b"])
    writer = Writer()
    writer.source = source
    mouth: Any = Mouth([0])
    assert writer.resume(mouth) == (Outcome.FULL, False)
    assert source.pieces == [b"b"]
    assert writer.stalled is False  # that is for who drives it to note
    assert writer.resume(mouth)[0] is Outcome.DONE


@pytest.mark.parametrize("error", [OSError(5, "no"), BlockingIOError(), ConnectionResetError(), SystemExit(3)])
def test_what_a_body_raises_is_never_taken_for_the_sockets(error):
    def body() -> Iterator[bytes]:
        yield b"first"
        raise error

    writer = Writer()
    writer.source = InlineSource(body())
    mouth: Any = Mouth([])
    with pytest.raises(BodyError) as raised:
        writer.resume(mouth)
    assert raised.value.__cause__ is error
    assert mouth.taken == b"first"  # what came before it is sent


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), TimeoutError(), OSError(113, "no route")])
def test_an_error_of_the_socket_says_that_the_peer_is_gone(error):
    class Broken:
        def send(self, *args: object) -> int:
            raise error

        sendmsg = send

    broken: Any = Broken()
    writer = Writer()
    with pytest.raises(PeerGone):
        writer.write(broken, [b"x"])
    writer.buffers.append(b"x")
    with pytest.raises(PeerGone):
        writer.resume(broken)


def test_clear_drops_all_and_closes_the_source_once():
    source = Gapped([b"x"])
    writer = Writer()
    writer.source = source
    writer.buffers.append(b"x")
    writer.clear()
    writer.clear()
    assert source.closed == 1
    assert not writer.has_output


def test_bytes_that_sources_have_given_are_counted(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * SEND_SIZE))
    file = File(str(path)).open()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        writer = Writer()
        writer.source = FileSource(Slice(file, 0, file.size))
        got = 0
        while writer.resume(ours)[0] is not Outcome.DONE:
            got += len(theirs.recv(1 << 20))
        assert writer.pulled_bytes == file.size
        theirs.setblocking(False)
        while got < file.size:
            got += len(theirs.recv(1 << 20))


def test_an_error_of_the_disk_names_its_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(SEND_SIZE))
    part = Slice(File(str(path)).open(), 0, SEND_SIZE)

    def fail(*args: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "sendfile", fail)
    monkeypatch.setattr(os, "pread", fail)
    ours, theirs = socket.socketpair()
    writer = Writer()
    writer.source = FileSource(part)
    with ours, theirs, pytest.raises(BodyError) as raised:
        writer.resume(ours)
    assert str(path) in str(raised.value.__cause__)


def test_a_disk_that_would_block_is_not_taken_for_a_full_socket(tmp_path, monkeypatch):
    """As FUSE file systems may: no edge of the socket would ever come."""
    path = tmp_path / "file"
    path.write_bytes(bytes(SEND_SIZE))
    part = Slice(File(str(path)).open(), 0, SEND_SIZE)

    def fail(*args: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "sendfile", fail)
    ours, theirs = socket.socketpair()
    writer = Writer()
    writer.source = FileSource(part)
    with ours, theirs:
        assert writer.resume(ours) == (Outcome.FULL, False)  # the file can be read: it is the socket
        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(BodyError) as raised:
            writer.resume(ours)
    assert str(path) in str(raised.value.__cause__)


def test_a_file_system_without_sendfile_is_read(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * SEND_SIZE)
    part = Slice(File(str(path)).open(), 0, 3 * SEND_SIZE)

    def fail(*args: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", fail)
    mouth: Any = Mouth([])
    mouth.fileno = lambda: -1
    writer = Writer()
    writer.source = FileSource(part)
    while writer.resume(mouth)[0] is not Outcome.DONE:
        pass
    assert mouth.taken == b"abc" * SEND_SIZE


def test_a_task_source_that_has_nothing_waits():
    async def body() -> AsyncGenerator[bytes]:
        yield b"x"

    writer = Writer()
    writer.source = TaskSource(body(), lambda: None)
    mouth: Any = Mouth([])
    assert writer.resume(mouth) == (Outcome.WAITING, False)


@pytest.mark.parametrize("fails", [False, True])
def test_a_body_that_the_server_ends_has_all_it_gave_and_one_that_failed_is_not_made_whole(fails):
    async def body() -> AsyncGenerator[bytes]:
        yield b"given"
        if fails:
            raise ValueError("no")
        yield b"second"

    async def run() -> bytes:
        source = TaskSource(body(), lambda: None)
        writer = Writer()
        writer.buffers.append(b"waits ")
        writer.source, writer.end = source, lambda: b" end"
        task = asyncio.ensure_future(source.run())
        await asyncio.sleep(0)
        mouth: Any = Mouth([])
        if fails:
            assert writer.resume(mouth)[0] is Outcome.WAITING
            with pytest.raises(ValueError, match="no"):
                await task
            source.fail(ValueError())
            assert not writer.end_source()
            with pytest.raises(BodyError):
                writer.resume(mouth)
        else:
            assert writer.end_source()
            assert writer.resume(mouth)[0] is Outcome.DONE
            await task
        return bytes(mouth.taken)

    assert asyncio.run(run()) == (b"waits given" if fails else b"waits given end")


def test_an_iterator_of_the_loop_that_failed_is_not_made_whole_by_the_server():
    def body() -> Iterator[bytes]:
        yield b"given"
        raise ValueError

    writer = Writer()
    writer.source, writer.end = InlineSource(body()), lambda: b"end"
    mouth: Any = Mouth([0])
    assert writer.resume(mouth)[0] is Outcome.FULL
    assert not writer.end_source()
    with pytest.raises(BodyError):
        writer.resume(mouth)
    assert mouth.taken == b"given"
