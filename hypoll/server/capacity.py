"""How many connections one process can have, by the descriptors that it may open."""

from __future__ import annotations

import contextlib
import resource

from hypoll.protocol.files import OPEN_FILES

RESERVED_DESCRIPTORS = 64
"""Descriptors left for the application, and the pool's, when `max_connections` follows from the descriptor limit; at
most a quarter."""

REFUSALS = 256
"""Connections over `max_connections` that are refused with 503 at once, at most a quarter of the descriptors;
further ones wait in the kernel's queue."""


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit, where that is allowed, and give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_for(descriptors: int) -> int:
    """How many connections are served at once when `max_connections` doesn't say: what is left of the descriptors."""
    return max(1, descriptors - refusals_for(descriptors) - min(RESERVED_DESCRIPTORS + OPEN_FILES, descriptors // 4))


def refusals_for(descriptors: int) -> int:
    """How many connections over the limit are refused with 503 at once."""
    return min(REFUSALS, descriptors // 4)
