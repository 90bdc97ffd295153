"""Sizes, as people write them."""

from __future__ import annotations

import pytest

from hypoll.option import GIB, KIB, MIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("1B", 1),
        ("64KiB", 64 * KIB),
        ("64kib", 64 * KIB),
        ("64K", 64 * KIB),
        ("64KB", 64 * KIB),
        ("16M", 16 * MIB),
        ("16MB", 16 * MIB),
        ("16MiB", 16 * MIB),
        ("1G", GIB),
        ("1GB", GIB),
        ("1GiB", GIB),
        ("  8 MiB ", 8 * MIB),
    ],
)
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "+1", "1.5MiB", "1TiB", "1 0", "0x10", "1e3", "1KiBs", "٣", "1\n2"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ValueError, match="is not a size: give bytes, or a number with KiB, MiB or GiB") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1KiB"), (1536, "1536"), (16 * MIB, "16MiB"), (2 * GIB, "2GiB")],
)
def test_format_size_is_what_parse_size_takes(size, text):
    assert format_size(size) == text
    assert parse_size(text) == size
