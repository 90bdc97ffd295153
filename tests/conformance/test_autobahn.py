"""The Autobahn cases, without the large messages of 9.*: `scripts/autobahn` runs those."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.app import echo
from benchmarks.echo import app
from tests.asgi.asgiapps import serving
from tests.conformance.autobahn import LARGE, PING_INTERVAL, failures, run_cases
from tests.support.server import Running, running

pytestmark = pytest.mark.full

COMPRESSED = [*(f"12.{group}" for group in range(1, 6)), *(f"13.{group}" for group in range(1, 8))]
"""Groups of 18 cases of a thousand messages each, the larger ones with the larger numbers."""

OTHERS = 247
"""Cases of framing, fragments, UTF-8, closing and the like: 1 to 7 and 10 in kosoku 0.1."""


@pytest.fixture(scope="module", params=["routes", "asgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    settings: dict[str, Any] = {"access_log": "off", "ws_ping_interval": PING_INTERVAL}
    with running(echo, **settings) if request.param == "routes" else serving(app, **settings) as it:
        yield it


def test_frames_and_closing(server: Running, tmp_path: Path) -> None:
    outcomes = run_cases(server.address[1], [], tmp_path, [*LARGE, "12.*", "13.*"])
    assert len(outcomes) == OTHERS
    assert failures(outcomes) == {}


@pytest.mark.parametrize("first", [1, 2])  # halves that take about as long
@pytest.mark.parametrize("group", COMPRESSED)
def test_compressed_messages(server: Running, tmp_path: Path, group: str, first: int) -> None:
    cases = [f"{group}.{number}" for number in range(first, 19, 2)]
    outcomes = run_cases(server.address[1], cases, tmp_path)
    assert sorted(outcomes) == sorted(cases)
    assert failures(outcomes) == {}
