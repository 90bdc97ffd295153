"""Reload gunicorn's workers every 1.3 s for a minute behind each proxy: `scripts/soak reload [SECONDS [PROXY...]]`.

A line for each proxy and kind of traffic tells the requests, the reloads and what was lost. Exit code 1: something of
steady traffic was lost. What sparse traffic loses is reported only.
"""

from __future__ import annotations

import sys
from collections import Counter

from click import echo

from tests.proxies.fronts import PROXIES
from tests.proxies.reloading import measure, sparse, steady


def main() -> int:
    """Measure each proxy for the seconds of the first argument, 60 unless given; the further ones name proxies."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    lost = 0
    for name in sys.argv[2:] or PROXIES:
        for traffic in (steady, sparse):
            result = measure(name, seconds, traffic)
            echo(
                f"{name:20} {traffic.__name__:7} {result.requests:7} requests  {result.reloads:3} reloads  "
                f"{len(result.lost)} lost"
            )
            for loss, count in Counter(result.lost).most_common(5):
                echo(f"    {count} x {loss}")
            lost += len(result.lost) if traffic is steady else 0
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
