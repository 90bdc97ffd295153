"""hypoll beside its peers, in one table: `scripts/bench peers`.

Each serves the same answers to the same traffic, by one process with one application thread, as it is installed: an
environment of its own in benchmarks/peers-env. What can't be installed here is left out, and named. CPU a request is
told as a multiple of the bare responder in C in the same turn; the median of the turns counts.
"""

from __future__ import annotations

import random
import sys

from benchmarks import compare, measure
from benchmarks.contestants import Contestant, floor, hypoll, peer
from benchmarks.environment import install

TRAFFIC = ("unique", "json", "close", "upload64k")
"""Kinds of traffic, the one that services get first."""


def peers(traffic: str) -> list[Contestant]:
    """Hypoll and its peers, given some traffic."""
    few = 32 if traffic in ("close", "upload64k") else None

    def served(name: str, interface: str) -> Contestant:
        command = peer(name, interface)
        return Contestant(f"{name} {interface}", name, command, "/", traffic, few, base=f"floor-{traffic}")

    own = Contestant("hypoll", "hypoll", hypoll("rows"), "/", traffic, few, base=f"floor-{traffic}")
    wsgi = Contestant(
        "hypoll wsgi",
        "hypoll",
        hypoll("benchmarks.peer_apps:wsgi"),
        "/",
        traffic,
        few,
        base=f"floor-{traffic}",
        threads=True,
    )
    asgi = Contestant(
        "hypoll asgi", "hypoll", hypoll("benchmarks.peer_apps:asgi"), "/", traffic, few, base=f"floor-{traffic}"
    )
    return [
        floor(traffic, few),
        own,
        wsgi,
        asgi,
        served("uvicorn", "asgi"),
        served("granian", "asgi"),
        served("granian", "wsgi"),
        served("bjoern", "wsgi"),
        served("fastpysgi", "wsgi"),
        served("freastal", "wsgi"),
        served("peregrine", "wsgi"),
        served("h2corn", "asgi"),
        served("gthread", "wsgi"),
    ]


def measured(
    contestants: list[Contestant], python: str, runs: int, seconds: int, seed: int
) -> dict[str, list[compare.Cost]]:
    """The costs of all that can be run, in turn."""
    costs: dict[str, list[compare.Cost]] = {contestant.key: [] for contestant in contestants}
    failed: set[str] = set()
    for number in range(runs):
        for group in compare.groups([contestant for contestant in contestants if contestant.key not in failed]):
            for key, found in compare.run(group, python, seconds, 64, seed + number * seconds).items():
                if isinstance(found, compare.Cost):
                    costs[key].append(found)
                else:
                    failed.add(key)
                    print(f"{key}: {str(found).splitlines()[-1]}", file=sys.stderr)
    return {key: found for key, found in costs.items() if key not in failed}


def main() -> int:
    """Install, measure and print."""
    arguments = measure.parser(__doc__, seconds=3)
    arguments.add_argument("--runs", type=int, default=3, help="runs of each (default 3)")
    chosen = arguments.parse_args()
    measure.end_on_term()
    missing = install(chosen.python)
    seed = random.SystemRandom().randrange(1, 1 << 31) if chosen.seed is None else chosen.seed
    print(f"{measure.machine()}\n{measure.describe(chosen.python)}\n--seed {seed}")
    if missing:
        print(f"can't be installed here: {', '.join(missing)}")
    table: dict[str, dict[str, str]] = {}
    for traffic in TRAFFIC:
        contestants = peers(traffic)
        costs = measured(contestants, chosen.python, chosen.runs, chosen.seconds, seed)
        for contestant in contestants[1:]:
            if contestant.key in costs:
                found = sorted(compare.ratios(contestant, costs))
                table.setdefault(contestant.key, {})[traffic] = f"{found[len(found) // 2]:.1f}"
    print(f"\n| CPU a request, bare C responder = 1 | {' | '.join(TRAFFIC)} |")
    print(f"| --- | {' | '.join('---:' for _ in TRAFFIC)} |")
    for key, row in table.items():
        print(f"| {key} | {' | '.join(row.get(traffic, '-') for traffic in TRAFFIC)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
