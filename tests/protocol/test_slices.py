"""Parts of files that are sent."""

from __future__ import annotations

import os

import pytest

from hypoll.protocol.files import FILES, File
from hypoll.protocol.slices import Slice, TruncatedError


@pytest.fixture
def part(tmp_path):
    """The bytes 2 to 7 of a file that has 10."""
    path = tmp_path / "digits.txt"
    path.write_bytes(b"0123456789")
    yield Slice(File(path).open(), 2, 6)
    FILES.clear()


def test_a_slice_that_the_file_no_longer_has_is_an_error(part):
    os.truncate(part.path, 4)
    assert part.read(100) == b"23"
    assert (part.offset, part.count) == (4, 4)
    with pytest.raises(TruncatedError, match="4 bytes"):
        part.read(100)


def test_a_slice_is_sent_through_a_socket(part, tcp_pair):
    ours, theirs = tcp_pair()
    assert part.send(ours.fileno(), 4) == 4
    assert part.send(ours.fileno(), 4) == 2
    assert theirs.recv(100) == b"234567"
    assert part.count == 0
    assert part.read(1) == b""


def test_a_slice_released_sends_nothing(part, tcp_pair):
    ours, _ = tcp_pair()
    part.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        part.send(ours.fileno(), 4)
