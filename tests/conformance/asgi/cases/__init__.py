"""All cases, by group."""

from __future__ import annotations

from tests.conformance.asgi.case import Case
from tests.conformance.asgi.cases import (
    background,
    body,
    connection,
    disconnect,
    extensions,
    failures,
    framing,
    lifespan,
    malformed,
    receive,
    scope,
    send,
    tasks,
)

_MODULES = (
    scope,
    body,
    receive,
    send,
    framing,
    failures,
    disconnect,
    background,
    connection,
    malformed,
    lifespan,
    tasks,
    extensions,
)


def _named(group: str, case: Case) -> Case:
    """A case with its group before its name: that is its token, too, so it occurs once."""
    return case._replace(name=f"{group}:{case.name}")


CASES: list[Case] = [_named(module.__name__.rpartition(".")[2], case) for module in _MODULES for case in module.CASES]
assert len({case.name for case in CASES}) == len(CASES)
