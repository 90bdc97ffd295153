"""Text of others in a line of a log."""

from __future__ import annotations

import pytest

from hypoll.protocol.escaping import escape, printable


@pytest.mark.parametrize(
    ("raw", "escaped", "shown"),
    [
        ("plain /?&=", "plain /?&=", "plain /?&="),
        ('a"b\\c', 'a\\"b\\\\c', 'a"b\\c'),
        ("\r\n\x1b\x9b", "\\x0d\\x0a\\x1b\\x9b", "\\x0d\\x0a\\x1b\\x9b"),
        ("é", "\\xe9", "é"),
        ("日\u2028", "\\u65e5\\u2028", "日\\u2028"),
        ("😀", "\\U0001f600", "😀"),
    ],
)
def test_escaping(raw, escaped, shown):
    assert escape(raw) == escaped
    assert printable(raw) == shown
