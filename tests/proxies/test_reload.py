"""Workers are replaced again and again behind each pooling proxy, under steady load: no request is lost.

The short form of `scripts/soak reload`, which takes a minute for each, and shows what sparse traffic loses, too.
"""

from __future__ import annotations

import pytest

from tests.proxies.fronts import PROXIES
from tests.proxies.reloading import CLIENTS, measure, steady

pytestmark = pytest.mark.full

SECONDS = 9.0


@pytest.mark.parametrize("front", PROXIES)
def test_reloads_lose_no_request(front):
    result = measure(front, SECONDS, steady)
    assert result.lost == []
    assert result.reloads >= 3
    assert result.requests > SECONDS * CLIENTS
