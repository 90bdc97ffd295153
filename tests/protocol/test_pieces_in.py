"""What waits on the way in weighs little more than its bytes, however small the pieces that it came in.

A chunk of two bytes, kept by itself, weighs 28 times that: a limit of bytes alone would be none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypoll.http import RequestParser
from hypoll.loop import Loop
from hypoll.server import request_body as intake_module
from hypoll.server.context import READ_SIZE
from hypoll.server.request_body import HIGH_WATER, TaskRequestBody, ThreadRequestBody, joined
from hypoll.server.spool import Spool, SpoolSpace
from hypoll.settings import Settings
from tests.support.matrix import covering

KIB = 1024
HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n"

SLACK = 32 * KIB
"""Bytes for what doesn't grow with the pieces: a step's chunks, the parser, the measuring itself."""

SIZES = [1, 2, 100]

SOME = 24 * KIB
"""Bytes of content that are enough to see what the pieces weigh."""


def chunk(size: int) -> bytes:
    # Not all the same, and of bytes above ASCII: CPython keeps one object of each single byte, which weighs nothing.
    return b"%x\r\n%b\r\n" % (size, bytes(range(128, 128 + size)))


def in_reads(size: int) -> Iterator[bytes]:
    """Chunks of a size without end, in reads as large as they may be."""
    while True:
        yield chunk(size) * (READ_SIZE // len(chunk(size)))


def in_packets(size: int) -> Iterator[bytes]:
    """Chunks of a size without end, one in each read."""
    while True:
        yield chunk(size)


SHAPES = [in_reads, pytest.param(in_packets, marks=pytest.mark.full)]


def undisturbed(test: Callable[..., None]) -> Callable[..., None]:
    """Let a test try again, twice: what other threads of the process do meanwhile is measured, too."""

    @functools.wraps(test)
    def tries(*arguments: Any, **named: Any) -> None:
        for _ in range(2):
            with contextlib.suppress(AssertionError):
                return test(*arguments, **named)
        return test(*arguments, **named)

    return tries


def weight(call: Callable[[], Any]) -> tuple[Any, int, int]:
    """What a call gives, how much more is in use after it, and how much more was at the most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return result, now - before, most - before


def fill(intake: Any, reads: Iterator[bytes]) -> RequestParser:
    """Put in what is read, as a connection does, until it is to read no more."""
    parser = RequestParser(Settings())
    parser.feed(HEAD)
    intake.put(parser.stream())
    intake.begun = True
    while intake.wants_more:
        if parser.pending:
            parser.next()
        else:
            parser.feed(next(reads))
        intake.put(parser.take())
    return parser


@pytest.mark.parametrize(("kind", "size"), covering([TaskRequestBody, ThreadRequestBody], SIZES))
@pytest.mark.parametrize("shape", SHAPES)
@undisturbed
def test_a_body_that_waits_for_its_handler(kind, shape, size, monkeypatch):
    mark = HIGH_WATER if shape is in_reads else SOME  # packets take the measuring long
    monkeypatch.setattr(intake_module, "HIGH_WATER", mark)
    intake = kind(lambda: None)
    parser, now, most = weight(lambda: fill(intake, shape(size)))
    assert mark <= intake.size < mark + READ_SIZE
    assert now - len(parser.pending) < 1.25 * intake.size + SLACK
    assert most < 1.25 * intake.size + 3 * READ_SIZE + SLACK


@undisturbed
def test_large_and_small_pieces_in_turn():
    intake = ThreadRequestBody(lambda: None)
    pieces = [bytes(4 * KIB), b"ab"] * 320

    def put() -> None:
        for piece in pieces:
            intake.put([bytes(bytearray(piece))])

    _, now, _ = weight(put)
    assert now < 1.25 * intake.size + SLACK
    intake.end()
    assert intake.read() == b"".join(pieces)


def body_of(reads: Iterator[bytes], head: bytes, size: int, spool: Spool | None = None) -> RequestParser:
    """Feed a body until so many bytes of it are here."""
    parser = RequestParser(Settings())
    parser.feed(head)
    if spool is not None:
        parser.spool_into(spool)
    while parser.received < size:
        if parser.pending:
            parser.next()
        else:
            parser.feed(next(reads))
    return parser


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@undisturbed
def test_a_body_that_is_kept_for_its_request(shape, size):
    parser, now, most = weight(lambda: body_of(shape(size), HEAD, SOME))
    assert now - len(parser.pending) < 1.25 * SOME + SLACK
    assert most < 1.25 * SOME + 3 * READ_SIZE + SLACK


@pytest.mark.parametrize("packet", [b"a", b"\xe4\xf6"])
@undisturbed
def test_a_body_of_known_length_in_small_packets(packet):
    _, now, most = weight(lambda: body_of(iter(lambda: bytes(bytearray(packet)), b""), LENGTH, SOME))
    assert now < 1.25 * SOME + SLACK
    assert most < 1.25 * SOME + SLACK


@undisturbed
def test_the_end_of_a_large_body_copies_it_once():
    parser = body_of(in_reads(100), HEAD, 1024 * KIB)
    while parser.pending:
        parser.next()
    request, _, most = weight(lambda: parser.feed(b"0\r\n\r\n"))
    assert len(request.body) == parser.received
    assert most < 1.25 * len(request.body) + SLACK


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@undisturbed
def test_a_body_that_goes_to_a_spool(shape, size, tmp_path):
    with contextlib.closing(Loop()) as loop:
        space = SpoolSpace(loop, Settings(spool_dir=str(tmp_path)))
        parser, now, most = weight(lambda: body_of(shape(size), HEAD, SOME, Spool(space, 1024 * KIB)))
        spool = parser.spool
        assert spool is not None
        assert now - len(parser.pending) < 1.25 * spool.size + SLACK
        assert most < 1.25 * spool.size + 3 * READ_SIZE + SLACK


def small_pieces(count: int) -> Iterator[bytes]:
    return (bytes((128 + number % 100, 130)) for number in range(count))


@undisturbed
def test_all_that_is_left_of_a_body_is_collected_in_one():
    """A handler that calls `read()` while the client sends its bytes in twos."""
    whole, _, most = weight(lambda: joined(small_pieces(64 * KIB)))
    assert len(whole) == 128 * KIB
    assert most < 2.25 * len(whole) + SLACK


class Fed:
    """Gives an intake two bytes with each demand, and then the end."""

    def __init__(self, count: int, soon: Callable[[Callable[[], object]], object]) -> None:
        self.left = count
        self.soon = soon
        self.request_body: Any = None

    def __call__(self) -> None:
        self.soon(self.give)

    def give(self) -> None:
        self.left -= 1
        self.request_body.put([bytes((128 + self.left % 100, 130))]) if self.left else self.request_body.end()


def read_in_task(count: int) -> bytes:
    async def go() -> bytes:
        feeder = Fed(count, asyncio.get_running_loop().call_soon)
        feeder.request_body = TaskRequestBody(feeder)
        return bytes(await feeder.request_body.read())

    return asyncio.run(go())


@pytest.mark.full
@undisturbed
def test_a_task_that_reads_all_collects_it_in_one():
    asyncio.run(asyncio.sleep(0))  # what the first loop of a process leaves behind
    whole, _, most = weight(lambda: read_in_task(32 * KIB))
    assert len(whole) == 64 * KIB - 2
    assert most < 32 * KIB * sys.getsizeof(b"ab") / 2, "as much as a list of them"
