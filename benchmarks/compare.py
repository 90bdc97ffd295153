"""CPU a request, as a multiple of what its base needs: a bare epoll responder in C that gets the same requests.

Server and client have a processor each. Contestants of one base take turns, second by second, all of them started: a
machine that slows down for a moment slows each of them. Each is compared with its base of the same run, and the median
of the runs counts. CPU is what the scheduler counted for the server while wrk ran.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from benchmarks import measure
from benchmarks.contestants import Contestant, choose
from benchmarks.environment import install
from benchmarks.measure import BenchmarkError, Cpu, Load

T = TypeVar("T")

WARM_UP = 1

NEVER = float("inf")

QUIET = 0.02
"""The most a run may have waited for its processor to be trusted."""


class Cost(NamedTuple):
    """What a run cost: microseconds of CPU a request.

    busy: the part of the time that the server ran. Under 1 it waited for the client, and found less to do at a time.
    waited: the part that something else had its processor. More than a few hundredths: the machine isn't quiet.
    """

    rate: float
    total: float
    user: float
    system: float
    busy: float
    waited: float


def cost(load: Load, used: Cpu) -> Cost:
    """The cost of a request. The ticks' proportion divides the exact total into user and system time."""
    total = used.total / load.requests * 1e6
    ticks = used.user + used.system
    user = total * used.user / ticks if ticks else 0.0
    seconds = load.requests / load.rate
    return Cost(load.rate, total, user, total - user, used.total / seconds, used.waited / seconds)


class Meter:
    """A server that runs, and what the requests have cost that it was sent so far."""

    def __init__(self, contestant: Contestant, pid: int, port: int) -> None:
        self.contestant = contestant
        self._pid = pid
        self._port = port
        self._seconds = 0.0
        self._requests = 0
        self._used = Cpu(0.0, 0.0, 0.0, 0.0)

    def load(self, core: int, seconds: int, connections: int, seed: int) -> Load:
        """Send requests that don't count. Raises `BenchmarkError`."""
        return measure.load(self.contestant, self._port, core, seconds, connections, seed)

    def take_turn(self, core: int, seconds: int, connections: int, seed: int) -> None:
        """Send requests that count. Raises `BenchmarkError`."""
        before = measure.cpu(self._pid)
        load = self.load(core, seconds, connections, seed)
        self._used = self._used.plus(measure.cpu(self._pid).since(before))
        self._requests += load.requests
        self._seconds += load.requests / load.rate

    @property
    def cost(self) -> Cost:
        """The cost of a request in all turns together."""
        return cost(Load(self._requests, self._requests / self._seconds), self._used)


Outcomes = dict[str, "Cost | BenchmarkError"]
"""What each contestant of a group cost, or why it couldn't be measured, by key."""


def run(group: Sequence[Contestant], python: str, seconds: int, connections: int, seed: int) -> Outcomes:
    """One run of contestants that are compared with each other: so many turns of a second each."""
    server, client = measure.cores()
    outcomes: Outcomes = {}
    with contextlib.ExitStack() as stack:

        def attempt(key: str, step: Callable[[], T]) -> T | None:
            """Take a step, unless one of this contestant has failed before."""
            if key in outcomes:
                return None
            try:
                return step()
            except BenchmarkError as error:
                outcomes[key] = error
                return None

        def start(contestant: Contestant) -> Meter:
            pid, port = stack.enter_context(measure.running(contestant, python, measure.pinned(server, [])))
            meter = Meter(contestant, pid, port)
            meter.load(client, WARM_UP, connections, seed)
            return meter

        meters = [meter for one in group if (meter := attempt(one.key, partial(start, one)))]
        for turn in range(seconds):
            for meter in meters:
                attempt(meter.contestant.key, partial(meter.take_turn, client, 1, connections, seed + turn))
        costs: Outcomes = {meter.contestant.key: meter.cost for meter in meters if meter.contestant.key not in outcomes}
    return outcomes | costs


def groups(contestants: Sequence[Contestant]) -> list[list[Contestant]]:
    """The contestants by their base, in their own order."""
    found: dict[str, list[Contestant]] = {}
    for contestant in contestants:
        found.setdefault(contestant.base, []).append(contestant)
    return list(found.values())


def compare(
    contestants: Sequence[Contestant], python: str, runs: int, seconds: int, connections: int, seed: int
) -> tuple[dict[str, list[Cost]], dict[str, str]]:
    """Run all of them, `runs` times.

    Returns the costs, and by their keys why peers that failed weren't measured.
    """
    costs: dict[str, list[Cost]] = {contestant.key: [] for contestant in contestants}
    bases = {contestant.base for contestant in contestants}
    reasons: dict[str, str] = {}
    for number in range(runs):
        for group in groups([contestant for contestant in contestants if contestant.key not in reasons]):
            outcomes = run(group, python, seconds, connections, seed + number * seconds)
            for contestant in group:
                found = outcomes[contestant.key]
                if not isinstance(found, BenchmarkError):
                    costs[contestant.key].append(found)
                    continue
                if not contestant.packages or contestant.has_limit or contestant.key in bases:
                    raise BenchmarkError(f"{contestant.key}: {found}") from found
                reasons[contestant.key] = f"not measured: {str(found).splitlines()[-1]}"
    return {key: found for key, found in costs.items() if key not in reasons}, reasons


def ratios(contestant: Contestant, costs: Mapping[str, Sequence[Cost]]) -> list[float]:
    """What a contestant costs in each turn, as a multiple of its base in that turn."""
    own, bases = costs[contestant.key], costs[contestant.base]
    less = costs[contestant.beyond] if contestant.beyond else [cost._replace(total=0.0) for cost in own]
    return [(mine.total - other.total) / base.total for mine, other, base in zip(own, less, bases, strict=True)]


def unmeasurable(contestants: Sequence[Contestant], missing: Sequence[str]) -> dict[str, str]:
    """Why contestants can't be measured, by their keys: they or their bases need a package that is missing."""
    known = {contestant.key: contestant for contestant in contestants}
    found = {}
    for contestant in contestants:
        lacking = [name for name in (*contestant.packages, *known[contestant.base].packages) if name in missing]
        if lacking:
            found[contestant.key] = f"not measured: {', '.join(dict.fromkeys(lacking))} can't be installed here"
    return found


def aim_of(
    contestant: Contestant, contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]
) -> float | None:
    """What a contestant is meant to cost: a figure, or the median of another's multiples in the same runs."""
    for other in contestants:
        if other.key == contestant.aims_at and other.key in costs:
            return statistics.median(ratios(other, costs))
    return contestant.aim


def table(
    contestants: Sequence[Contestant],
    costs: Mapping[str, Sequence[Cost]],
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """What is printed: a row for each contestant, with the median of its runs, and all of them.

    reasons: why contestants weren't measured.
    """
    width = max(len(contestant.title) for contestant in contestants)
    key = max(len(contestant.key) for contestant in contestants)
    lines = [f"{'':{key}}  {'':{width}}  requests/s  µs/request  / base  must   aim  busy  waited   / base in each run"]
    multiples = medians(contestants, costs)
    for contestant in contestants:
        if contestant.key in reasons:
            lines.append(f"{contestant.key:{key}}  {contestant.title:{width}}  {reasons[contestant.key]}")
            continue
        runs = costs[contestant.key]
        middle = sorted(runs, key=lambda run: run.total)[len(runs) // 2]
        found = ratios(contestant, costs)
        limits = (limit_of(contestant, multiples), aim_of(contestant, contestants, costs))
        must, aim = (f"{limit:5.2f}" if limit else "     " for limit in limits)
        lines.append(
            f"{contestant.key:{key}}  {contestant.title:{width}}  {middle.rate:10,.0f}  {middle.total:10.2f}"
            f"  {statistics.median(found):6.2f} {must} {aim}  {middle.busy:4.0%}  {middle.waited:6.1%}   "
            + " ".join(f"{ratio:.2f}" for ratio in found)
        )
    return "\n".join(lines)


def disturbed(contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]) -> list[str]:
    """The contestants that shared their processor with something else in most of their runs."""
    single = [contestant.key for contestant in contestants if not contestant.threads]
    return [key for key in single if statistics.median(run.waited for run in costs[key]) > QUIET]


def limit_of(contestant: Contestant, found: Mapping[str, float]) -> float | None:
    """The most that a contestant may cost. found: the multiples of all that were measured, by key."""
    if contestant.must is None or contestant.part is None or contestant.part[1] not in found:
        return contestant.must
    part, other = contestant.part
    return max(contestant.must, round(part * found[other], 2))


def medians(contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]) -> dict[str, float]:
    """What contestants cost, as multiples of their bases, by their keys."""
    measured = (contestant for contestant in contestants if contestant.key in costs)
    return {contestant.key: statistics.median(ratios(contestant, costs)) for contestant in measured}


def excesses(contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]) -> list[str]:
    """A sentence for each limit that a contestant exceeds."""
    found, sentences = medians(contestants, costs), []
    for contestant in contestants:
        ratio, limit = found.get(contestant.key), limit_of(contestant, found)
        if ratio is None:
            continue
        costing = f"{contestant.key} costs {ratio:.2f} times {contestant.base}"
        if limit is not None and ratio > limit:
            sentences.append(f"{costing}: more than {limit}")
        ahead = [other for other in contestant.below if found.get(other, NEVER) <= ratio]
        sentences += [f"{costing}: not less than {other} with {found[other]:.2f}" for other in ahead]
    return sentences


def main() -> int:
    """Measure and print. 1: a limit is exceeded. 2: nothing can be said, or not of each row that has a limit."""
    arguments = measure.parser(__doc__, seconds=3)
    arguments.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    arguments.add_argument("--check", action="store_true", help="exit 1 when a row costs more than its limit")
    arguments.add_argument("--table", default="", help="asgi: the rows of ASGI applications; websocket: of WebSockets")
    chosen = arguments.parse_args()
    contestants = choose(chosen.only, chosen.table)
    measure.end_on_term()
    seed = random.SystemRandom().randrange(1, 1 << 31) if chosen.seed is None else chosen.seed
    print(f"{measure.machine()}\n{measure.describe(chosen.python)}\n--seed {seed}\n", flush=True)
    packages = sorted({name for contestant in contestants for name in contestant.packages})
    reasons = unmeasurable(contestants, install(chosen.python, packages) if packages else [])
    measured = [contestant for contestant in contestants if contestant.key not in reasons]
    try:
        costs, failed = compare(measured, chosen.python, chosen.runs, chosen.seconds, chosen.connections, seed)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    reasons |= failed
    measured = [contestant for contestant in measured if contestant.key not in failed]
    print(table(contestants, costs, reasons))
    shaken = disturbed(measured, costs)
    if shaken:
        print(f"the machine wasn't quiet, these don't count for much: {', '.join(shaken)}")
    found = excesses(measured, costs)
    print("\n".join(found), end="\n" if found else "")
    if not chosen.check:
        return 0
    judged = [contestant for contestant in contestants if contestant.has_limit]
    unjudged = any(not reasons.keys().isdisjoint((row.key, *row.below)) for row in judged)
    return 1 if found else 2 if unjudged else 0


if __name__ == "__main__":
    sys.exit(main())
