"""The parser under atheris: `scripts/fuzz`. Whatever the bytes, the laws of `outcome.check` hold.

The last four bytes of an input choose limits and cuts, all before them is the stream.
"""

from __future__ import annotations

import random
import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["hypoll"]):
    from tests.fuzz.outcome import ROOMY, TIGHT, check

CONTROL = 4


def test_one_input(data: bytes) -> None:
    stream, control = data[:-CONTROL], data[-CONTROL:]
    choice = random.Random(control)
    cuts = [choice.randrange(len(stream) + 1) for _ in range(choice.randrange(1, 6))]
    check(stream, cuts, TIGHT if choice.random() < 0.5 else ROOMY)


def main() -> None:
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
