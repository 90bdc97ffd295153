"""The body that a thread makes: pieces stay whole, whatever comes between, and ends where it may."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hypoll.concurrency.jobs import Job
from hypoll.concurrency.thread_pool import ThreadPool
from hypoll.loop import Loop
from hypoll.option import KIB
from hypoll.protocol.messages import ClientDisconnect
from hypoll.protocol.serializer import Framer
from hypoll.server.response_body import CutError
from hypoll.server.spool import Spool, SpoolSpace
from hypoll.server.thread_stream import PULL_SIZE, ThreadStream
from hypoll.server.writer import Heartbeat, Outcome, Writer
from hypoll.settings import Settings
from tests.server.test_writer import Mouth
from tests.support.clock import PATIENCE

PIECE = b"x" * (3 * PULL_SIZE)
FRAMED = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
BEAT = b"4\r\nbeat\r\n"


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[ThreadStream]:
    """One that has room for no more than `PULL_SIZE`."""
    loop = Loop()
    space = SpoolSpace(loop, Settings(spool_memory=0, spool_disk=0, spool_dir=str(tmp_path)))
    yield ThreadStream(Job(), ThreadPool(loop, 1, 1), space, Framer(True, None))
    loop.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes a context in which what is written stops behind its first part."""
    put = Spool.put

    @contextmanager
    def hold() -> Iterator[None]:
        begun, go_on = threading.Event(), threading.Event()
        calls = 0

        def wait(self: Spool, data: bytes) -> int:
            nonlocal calls
            calls += 1
            if calls == 2:
                begun.set()
                assert go_on.wait(PATIENCE)
            return put(self, data)

        monkeypatch.setattr(Spool, "put", wait)
        threads.append(begun)
        try:
            yield
        finally:
            go_on.set()

    threads: list[threading.Event] = []
    hold.begun = threads  # type: ignore[attr-defined]
    return hold


def write(stream: ThreadStream, pieces: list[bytes], raised: list[BaseException]) -> threading.Thread:
    def run() -> None:
        try:
            for piece in pieces:
                stream.write(piece)
            stream.finish()
        except BaseException as error:
            raised.append(error)
            stream.fail(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def drive(writer: Writer, mouth: Any, until: Outcome) -> None:
    """Drive until it stops so; what is to be waited for is a thread."""
    end = threading.Event()
    for _ in range(int(PATIENCE / 0.001)):
        if writer.resume(mouth)[0] is until:
            return
        end.wait(0.001)
    raise AssertionError("it never came to that")


def test_no_heartbeat_is_sent_inside_a_piece(stream, held):
    raised: list[BaseException] = []
    mouth: Any = Mouth([])
    writer = Writer()
    writer.source, writer.heartbeat = stream, Heartbeat(1.0, BEAT)
    with held():
        thread = write(stream, [PIECE, b"last"], raised)
        drive(writer, mouth, Outcome.WAITING)
        assert held.begun[0].wait(PATIENCE)
        drive(writer, mouth, Outcome.WAITING)
        assert mouth.taken == FRAMED[:PULL_SIZE]
        writer.write_heartbeat()
        assert writer.resume(mouth)[0] is Outcome.WAITING
        assert mouth.taken == FRAMED[:PULL_SIZE]
    drive(writer, mouth, Outcome.DONE)
    thread.join(PATIENCE)
    assert mouth.taken == FRAMED + b"4\r\nlast\r\n0\r\n\r\n"
    assert raised == []


def test_between_two_pieces_it_is(stream):
    mouth: Any = Mouth([])
    writer = Writer()
    writer.source, writer.heartbeat = stream, Heartbeat(1.0, BEAT)
    stream.write(b"first")
    assert writer.resume(mouth)[0] is Outcome.WAITING
    writer.write_heartbeat()
    assert writer.resume(mouth)[0] is Outcome.WAITING
    assert mouth.taken == b"5\r\nfirst\r\n" + BEAT


def test_an_end_in_the_middle_of_a_piece_comes_behind_it(stream, held):
    raised: list[BaseException] = []
    mouth: Any = Mouth([])
    writer = Writer()
    writer.source = stream
    with held():
        thread = write(stream, [PIECE, b"dropped"], raised)
        drive(writer, mouth, Outcome.WAITING)
        assert held.begun[0].wait(PATIENCE)
        stream.end()
        assert writer.resume(mouth)[0] is Outcome.WAITING
    drive(writer, mouth, Outcome.DONE)
    thread.join(PATIENCE)
    assert mouth.taken == FRAMED + b"0\r\n\r\n"
    assert [type(error) for error in raised] == [ClientDisconnect]


def test_an_end_behind_a_body_that_failed_does_not_make_it_whole(stream):
    stream.write(b"first")
    stream.fail(ValueError("no"))
    stream.end()
    output: list[Any] = []
    stream.pull(None, output)
    assert output == [b"5\r\nfirst\r\n"]
    with pytest.raises(CutError):
        stream.pull(None, output)


def test_what_is_in_the_spool_is_sent_before_the_end(stream):
    mouth: Any = Mouth([3, 0, 1])
    writer = Writer()
    writer.source = stream
    for number in range(5):
        stream.write(b"%d" % number * KIB)
    stream.end()
    drive(writer, mouth, Outcome.DONE)
    assert mouth.taken == b"".join(b"400\r\n%b\r\n" % (b"%d" % number * KIB) for number in range(5)) + b"0\r\n\r\n"
