"""The streams that the seed corpus, the mutations and the comparison with other parsers start from."""

from __future__ import annotations

from itertools import pairwise

from tests.fuzz.outcome import MARKER
from tests.wire import CASES, End


def streams() -> dict[str, bytes]:
    """By name: the cases of the wire corpus, and each valid one, or two of them, with a request pipelined behind."""
    cases = {case.name: case.raw for case in CASES}
    whole = [case for case in CASES if case.end is End.OPEN and case.requests]
    followed = {f"{case.name} + marker": case.raw + MARKER for case in whole}
    pairs = {f"{first.name} + {second.name}": first.raw + second.raw for first, second in pairwise(whole)}
    return {**cases, **followed, **pairs}
