"""Write the seed corpus of the fuzz target: `python -m tests.fuzz.seeds DIRECTORY`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tests.fuzz.corpus import streams

LONGEST = 1000
"""Bytes of a seed; what is longer is about a limit, which the target lowers instead."""


def main(directory: str) -> None:
    for stream in streams().values():
        for control in (b"\0\0\0\0", b"\1\1\1\1") if len(stream) <= LONGEST else ():
            data = stream + control
            Path(directory, hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
