"""Matrices of test cases: each value in the quick tests, each combination in the full ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def covering(*axes: Sequence[Any]) -> list[Any]:
    """All combinations of the axes' values; those that aren't needed to have each value once are marked `full`.

    For tests whose cases take long, as those that start processes, where two values seldom fail together only.
    """
    needed = [tuple(row % len(axis) for axis in axes) for row in range(max(map(len, axes)))]
    cases = []
    for places in product(*(range(len(axis)) for axis in axes)):
        values = [axis[at] for axis, at in zip(axes, places, strict=True)]
        cases.append(pytest.param(*values, marks=() if places in needed else pytest.mark.full))
    return cases


def some(cases: Iterable[Any], quick: int) -> list[Any]:
    """Cases of one test: the first `quick` ones are in the quick tests, the others are marked `full`.

    For cases whose parts other quick tests have, too. A tuple is the arguments of a test that takes several.
    """
    several = [case if isinstance(case, tuple) else (case,) for case in cases]
    others = [pytest.param(*arguments, marks=pytest.mark.full) for arguments in several[quick:]]
    return [*(pytest.param(*arguments) for arguments in several[:quick]), *others]
