"""What a server counts: requests, durations, connections, bytes, refusals. For Prometheus and the status page.

Law: counting is integers only, in cells of the ledger; the sum over all processes is made when somebody asks.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from hypoll.contracts import End, Gauges, Timeout
from hypoll.ledger import Account, Counts, Key, Ledger, LedgerFullError, add_up
from hypoll.observe import Observer, Record

BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip
"""Upper bounds of the buckets of a histogram, in seconds; above them is one more."""

SUM = len(BOUNDS) + 1
"""The cell behind a histogram's buckets: nanoseconds in all."""

WIDTH = SUM + 1
"""Cells of a histogram."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods counted under their names; the rest is `OTHER`."""

OTHER = "other"

NO_ROUTE = "none"
"""The route of a request that matched none, or of what was no request."""

REFUSALS = {
    400: "malformed",
    408: "timeout",
    413: "body_too_large",
    414: "target_too_long",
    417: "expectation",
    431: "head_too_large",
    501: "not_implemented",
    503: "overloaded",
    505: "version",
}
"""Why a request was refused before a handler saw it, by status."""

_REFUSED = End.REFUSED

MAX_REMEMBERED = 4096
"""Combinations of method, route and status whose cells are remembered."""


class _Counts:
    """The cells of a method, route and status, and the durations in seconds that aren't counted in them yet."""

    __slots__ = ("_histogram", "_number", "durations")

    def __init__(self, number: int, histogram: int) -> None:
        self._number = number
        self._histogram = histogram
        self.durations: list[float] = []

    def count(self, cells: memoryview[int] | array[int]) -> None:
        """Count the durations."""
        durations, self.durations = self.durations, []
        histogram = self._histogram
        cells[self._number] += len(durations)
        cells[histogram + SUM] += int(sum(durations) * 1e9)
        lowest = bisect_left(BOUNDS, min(durations))
        if lowest == bisect_left(BOUNDS, max(durations)):
            cells[histogram + lowest] += len(durations)  # as nearly always those of one turn
        else:
            for duration in durations:
                cells[histogram + bisect_left(BOUNDS, duration)] += 1


class Metrics(Observer):
    """Counts what happens in the cells of a ledger."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        add = self.ledger.cells.add
        self._cells = self.ledger.cells.values
        self._received = add(("received",))
        self._sent = add(("sent",))
        self._accepted = add(("accepted",))
        self._closed: dict[End, int] = {end: add(("closed", end.value)) for end in End if end is not End.KEPT}
        self._timeouts = {timeout: add(("timeouts", timeout.value)) for timeout in Timeout}
        self._refusals = {reason: add(("refusals", reason)) for reason in (*REFUSALS.values(), OTHER)}
        self._wait = add(("wait",), WIDTH)
        self._lag = add(("lag",), WIDTH)
        self._queue = add(("queue",), gauge=True)
        self._threads = add(("threads",), gauge=True)
        self._streams = add(("streams",), gauge=True)
        self._spool_memory = add(("spool_memory",), gauge=True)
        self._spool_disk = add(("spool_disk",), gauge=True)
        self._overflow = add(("requests", OTHER, OTHER, OTHER)), add(("duration", OTHER, OTHER), WIDTH)
        self._unread = add(("unread",))
        self._shed: dict[str, int] = {}
        self._connections: dict[str, int] = {}
        self._counts: dict[tuple[str, str, int], _Counts] = {}
        self._added: dict[Key, int] = {}

    def on_exchanges(self, records: list[Record]) -> None:
        """Count the requests of a turn, those of one method, route and status together."""
        touched: list[_Counts] = []
        try:
            self._note(records, touched)
        finally:
            for counts in touched:
                counts.count(self._cells)

    def _note(self, records: list[Record], touched: list[_Counts]) -> None:
        cells, known = self._cells, self._counts
        received = sent = 0
        for record in records:
            request, status = record.request, record.status
            key = "" if request is None else request.method, record.route, status
            counts = known.get(key) or self._counts_of(key)
            if not counts.durations:
                touched.append(counts)
            counts.durations.append(record.ended - record.began)
            received += record.received
            sent += record.sent
            if record.end is _REFUSED:
                cells[self._refusals[REFUSALS.get(status, OTHER)]] += 1
        cells[self._received] += received
        cells[self._sent] += sent

    def on_open(self) -> None:
        """Count an accepted connection."""
        self._cells[self._accepted] += 1

    def on_shed(self, reason: str) -> None:
        """Count a connection that was refused at once."""
        self._cells[self._cell(self._shed, reason, ("shed", reason))] += 1

    def on_timeout(self, timeout: Timeout) -> None:
        """Count a deadline that passed."""
        self._cells[self._timeouts[timeout]] += 1

    def on_close(self, end: End) -> None:
        """Count a connection that ended."""
        cell = self._closed.get(end)
        if cell is not None:
            self._cells[cell] += 1

    def on_wait(self, seconds: float) -> None:
        """Count a call by its wait for a thread."""
        self._observe(self._wait, seconds)

    def on_tick(self, lag: float, gauges: Gauges) -> None:
        """Count the lag; note what there is."""
        self._observe(self._lag, lag)
        cells = self._cells
        cells[self._queue] = gauges.queue
        cells[self._threads] = gauges.threads
        cells[self._streams] = gauges.streams
        cells[self._spool_memory] = gauges.spool_memory
        cells[self._spool_disk] = gauges.spool_disk
        for phase, number in gauges.connections.items():
            cells[self._cell(self._connections, phase, ("connections", phase), gauge=True)] = number
        for phase in self._connections.keys() - gauges.connections.keys():
            cells[self._connections[phase]] = 0

    def on_stop(self) -> None:
        """Leave the counters to those that go on."""
        self.ledger.close()

    def snapshot(self) -> Snapshot:
        """The sum over all processes, as it is now."""
        return Snapshot(self.ledger.read())

    def _observe(self, histogram: int, seconds: float) -> None:
        self._cells[histogram + bisect_left(BOUNDS, seconds)] += 1
        self._cells[histogram + SUM] += int(seconds * 1e9)

    def _counts_of(self, key: tuple[str, str, int]) -> _Counts:
        """The cells of a method, route and status; the common ones when there is no room for new ones."""
        found = self._counts.get(key)
        if found is not None:
            return found
        method, route, status = key
        method = method if method in METHODS else OTHER
        route = route or NO_ROUTE
        try:
            histogram = self._add(("duration", method, route), WIDTH)
            made = _Counts(self._add(("requests", method, route, str(status)), 1), histogram)
        except LedgerFullError:
            made = _Counts(*self._overflow)
        if len(self._counts) < MAX_REMEMBERED:
            self._counts[key] = made
        return made

    def _add(self, key: Key, width: int) -> int:
        if key not in self._added:
            self._added[key] = self.ledger.cells.add(key, width)
        return self._added[key]

    def _cell(self, known: dict[str, int], name: str, key: Key, *, gauge: bool = False) -> int:
        """The cell of a name of which there are a few; one nobody reads when there is no room."""
        if name not in known:
            try:
                known[name] = self.ledger.cells.add(key, gauge=gauge)
            except LedgerFullError:
                return self._unread
        return known[name]


class Histogram(NamedTuple):
    """Durations by bucket, not yet added up, and their sum in seconds."""

    buckets: list[int]
    sum: float

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.buckets)

    def quantile(self, q: float) -> float:
        """The duration below which this part of them are, in seconds, to the accuracy of the buckets.

        0 when there are none, the last bound for what is above it.
        """
        wanted = q * self.total
        below = 0
        for index, number in enumerate(self.buckets[:-1]):
            if number and below + number >= wanted:
                low = BOUNDS[index - 1] if index else 0.0
                return low + (BOUNDS[index] - low) * (wanted - below) / number
            below += number
        return BOUNDS[-1] if self.total else 0.0


def histogram(values: list[int]) -> Histogram:
    """What the cells of a histogram say."""
    return Histogram(values[:SUM], values[SUM] / 1e9)


class Snapshot:
    """What all processes have counted, at one moment. workers: those that live."""

    def __init__(self, accounts: list[Account]) -> None:
        self.workers = [account for account in accounts if account.pid]
        self._counters: dict[str, Counts] = {}
        for (name, *labels), values in sorted(add_up(accounts).items()):
            self._counters.setdefault(name, {})[tuple(labels)] = values

    def count(self, name: str, *labels: str) -> int:
        """One counter; 0 when it was never counted."""
        return self._counters.get(name, {}).get(labels, [0])[0]

    def counts(self, name: str) -> dict[Key, int]:
        """The counters of a name by their labels' values."""
        return {labels: values[0] for labels, values in self._counters.get(name, {}).items()}

    def histograms(self, name: str) -> dict[Key, Histogram]:
        """The histograms of a name by their labels' values."""
        return {labels: histogram(values) for labels, values in self._counters.get(name, {}).items()}

    def gauges(self, name: str, workers: Iterable[Account] | None = None) -> dict[Key, int]:
        """The gauges of a name by their labels' values, over all living processes or those given."""
        total: dict[Key, int] = {}
        for account in self.workers if workers is None else workers:
            for key, values in account.gauges.items():
                if key[0] == name:
                    total[key[1:]] = total.get(key[1:], 0) + values[0]
        return dict(sorted(total.items()))
