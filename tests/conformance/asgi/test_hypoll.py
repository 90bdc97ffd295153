"""hypoll against the whole suite: one server for each set of options, and for each case of lifespan."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.asgi.case import Case
from tests.conformance.asgi.cases import CASES
from tests.conformance.asgi.peers import PEERS
from tests.conformance.asgi.run import Outcome, Runner, in_order

SERVES_ASGI = importlib.util.find_spec("hypoll.asgi") is not None
"""Whether hypoll takes ASGI applications."""

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not SERVES_ASGI, reason="hypoll doesn't serve ASGI applications yet"),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    peer = PEERS["hypoll"]
    directory: Path = tmp_path_factory.mktemp("conformance")
    with Runner(peer._replace(command=f"{sys.executable} -m {peer.command}"), directory) as runner:
        yield runner


@pytest.mark.parametrize("case", in_order(CASES), ids=lambda case: case.name)
def test_hypoll_conforms(runner: Runner, case: Case) -> None:
    result = runner.run(case)
    if result.outcome is Outcome.SKIP:
        pytest.skip(result.reasons[0])
    assert result.reasons == (), f"{case.level.value} ({case.source})"
