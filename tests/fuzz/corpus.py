"""The streams that the seed corpus, the mutations and the comparison with other parsers start from."""

from __future__ import annotations

from itertools import pairwise

from tests.conformance.wire import CASES, End
from tests.fuzz.outcome import MARKER

FOUND = {
    "found-bare-lf-without-version": b"GET /\nHost: h\r\n\r\n",
    "found-bare-lf-without-version-behind": MARKER + b"GET /\nHost: h\r\n\r\n",
    "found-cr-before-empty-lines": b"\r\r\n\r\n",
    "found-8-bit-target-of-another-version": b"GET /\x80 HTTP/3.7\r\n\r\n",
    "found-too-large-and-malformed": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
    + b"a" * 1001
    + b"z",
}
"""What fuzzing has found: streams whose outcome once depended on how they were split."""


def streams() -> dict[str, bytes]:
    """By name: the cases of the wire corpus, and each valid one with another request behind it; and what was found."""
    cases = {case.name: case.raw for case in CASES}
    whole = [case for case in CASES if case.end is End.OPEN and case.requests]
    followed = {f"{case.name} + marker": case.raw + MARKER for case in whole}
    pairs = {f"{first.name} + {second.name}": first.raw + second.raw for first, second in pairwise(whole)}
    return {**cases, **followed, **pairs, **FOUND}
