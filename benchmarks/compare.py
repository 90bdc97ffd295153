"""CPU a request, as a multiple of what its base needs: a bare epoll responder in C, nginx for a file.

Server and client have a processor each. The contestants take turns; of each the cheapest twentieth of its time counts,
by tenths of a second, since whatever disturbs a server only makes it dearer. (Of answers too large for that, its
cheapest run.) CPU is what the scheduler counted for the server while wrk ran.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks import measure
from benchmarks.contestants import Contestant, choose
from benchmarks.measure import BenchmarkError, Cpu, Load

WARM_UP = 1

QUIET = 0.02
"""The most a run may have waited for its processor to be trusted."""


class Cost(NamedTuple):
    """What a run cost: microseconds of CPU a request.

    busy: the part of the time that the server ran. Under 1 it waited for the client, and found less to do at a time.
    waited: the part that something else had its processor. More than a few hundredths: the machine isn't quiet.
    windows: `total` of each tenth of a second.
    """

    rate: float
    total: float
    user: float
    system: float
    busy: float
    waited: float
    windows: tuple[float, ...] = ()


def cost(load: Load, used: Cpu) -> Cost:
    """The cost of a request. The ticks' proportion divides the exact total into user and system time."""
    total = used.total / load.requests * 1e6
    ticks = used.user + used.system
    user = total * used.user / ticks if ticks else 0.0
    seconds = load.requests / load.rate
    return Cost(load.rate, total, user, total - user, used.total / seconds, used.waited / seconds, load.windows)


def run(contestant: Contestant, python: str, seconds: int, connections: int) -> Cost:
    """One run of one contestant. Raises `BenchmarkError`."""
    server, client = measure.cores()
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {client})  # not to disturb the server that is watched
    try:
        with measure.running(contestant, python, measure.pinned(server, [])) as (pid, port):
            measure.load(contestant, port, client, WARM_UP, connections)
            before = measure.cpu(pid)
            load = measure.load(contestant, port, client, seconds, connections, pid)
            return cost(load, measure.cpu(pid).since(before))
    finally:
        os.sched_setaffinity(0, own)


def compare(
    contestants: Sequence[Contestant], python: str, runs: int, seconds: int, connections: int
) -> dict[str, list[Cost]]:
    """Run all of them in turn, `runs` times."""
    costs: dict[str, list[Cost]] = {contestant.key: [] for contestant in contestants}
    for _ in range(runs):
        for contestant in contestants:
            try:
                costs[contestant.key].append(run(contestant, python, seconds, connections))
            except BenchmarkError as error:
                raise BenchmarkError(f"{contestant.key}: {error}") from error
    return costs


def best(costs: Mapping[str, Sequence[Cost]]) -> dict[str, Cost]:
    """What each costs at the least: in the cheapest twentieth of its windows, or in its cheapest run if it has none."""
    return {key: _best(runs) for key, runs in costs.items()}


def _best(runs: Sequence[Cost]) -> Cost:
    cheapest = min(runs, key=lambda cost: cost.total)
    found = sorted(itertools.chain.from_iterable(run.windows for run in runs))
    if not found:
        return cheapest
    total = statistics.mean(found[: max(1, len(found) // 20)])
    part = total / cheapest.total
    return cheapest._replace(total=total, user=cheapest.user * part, system=cheapest.system * part)


def table(contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]) -> str:
    """What is printed: a row for each contestant."""
    cheapest = best(costs)
    width = max(len(contestant.title) for contestant in contestants)
    lines = [f"{'':11}  {'':{width}}  requests/s  µs/request    user  system  / base   busy  waited   runs"]
    for contestant in contestants:
        row = cheapest[contestant.key]
        ratio = row.total / cheapest[contestant.base].total
        spread = " ".join(f"{run.total:.2f}" for run in costs[contestant.key])
        lines.append(
            f"{contestant.key:11}  {contestant.title:{width}}  {row.rate:10,.0f}  {row.total:10.2f}  {row.user:6.2f}"
            f"  {row.system:6.2f}  {ratio:7.3f}  {row.busy:4.0%}  {row.waited:6.1%}   {spread}"
        )
    return "\n".join(lines)


def disturbed(contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]) -> list[str]:
    """The contestants whose best run shared its processor with something else."""
    cheapest = best(costs)
    single = [contestant.key for contestant in contestants if not contestant.threads]
    return [key for key in single if cheapest[key].waited > QUIET]


def excesses(contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]) -> list[str]:
    """A sentence for each contestant that costs more than its limit."""
    cheapest = best(costs)
    ratios = [
        (contestant, cheapest[contestant.key].total / cheapest[contestant.base].total) for contestant in contestants
    ]
    return [
        f"{contestant.key} costs {ratio:.3f} times {contestant.base}: more than {contestant.limit}"
        for contestant, ratio in ratios
        if contestant.limit is not None and ratio > contestant.limit
    ]


def main() -> int:
    """Measure and print. 1: a limit is exceeded. 2: nothing can be said."""
    arguments = measure.parser(__doc__, seconds=2)
    arguments.add_argument("--runs", type=int, default=3, help="runs of each (default 3)")
    arguments.add_argument("--check", action="store_true", help="exit 1 when a row costs more than its limit")
    chosen = arguments.parse_args()
    contestants = choose(chosen.only)
    measure.end_on_term()
    print(f"{measure.machine()}\n{measure.describe(chosen.python)}\n", flush=True)
    try:
        costs = compare(contestants, chosen.python, chosen.runs, chosen.seconds, chosen.connections)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(contestants, costs))
    shaken = disturbed(contestants, costs)
    if shaken:
        print(f"the machine wasn't quiet, these don't count for much: {', '.join(shaken)}")
    found = excesses(contestants, costs)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
