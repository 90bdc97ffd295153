"""What a server counts: requests, durations, connections, bytes, refusals. For Prometheus and the status page.

Law: a request costs additions to plain integers of this process. Once a second, and when somebody asks, what has been
counted since is added to the counters, which other processes may share.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from hypoll.contracts import CloseReason, Gauges, Timeout
from hypoll.telemetry.history import History
from hypoll.telemetry.observer import Observer, Record, SocketRecord, Traffic

BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip
"""Upper bounds of the buckets of a histogram, in seconds; above them is one more."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods counted under their names; the rest is `OTHER`."""

OTHER = "other"

NO_ROUTE = "none"
"""The route of a request that matched none, or of what was no request."""

MAX_SERIES = 1000
"""Combinations of method, route and status that are counted apart; all further ones are counted together."""

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

REQUESTS = "hypoll_requests"
RECEIVED = "hypoll_received_bytes"
SENT = "hypoll_sent_bytes"
ACCEPTED = "hypoll_connections_accepted"
CLOSED = "hypoll_connections_closed"
SHED = "hypoll_connections_refused"
REFUSED = "hypoll_refusals"
TIMEOUTS = "hypoll_timeouts"
MESSAGES = "hypoll_websocket_messages"
SOCKETS_CLOSED = "hypoll_websockets_closed"
DURATION = "hypoll_request_duration_seconds"
WAIT = "hypoll_pool_wait_seconds"
LAG = "hypoll_loop_lag_seconds"
WORKERS = "hypoll_workers"
STARTED = "hypoll_start_time_seconds"
CONNECTIONS = "hypoll_connections"
QUEUE = "hypoll_pool_queue"
THREADS = "hypoll_pool_threads"
STREAMS = "hypoll_stream_threads"
OVERDUE = "hypoll_overdue_threads"
SPOOL_MEMORY = "hypoll_spool_memory_bytes"
SPOOL_DISK = "hypoll_spool_disk_bytes"

Key = tuple[str, ...]
"""A metric's name and its labels' values: `("hypoll_requests", "GET", "/users/{id:int}", "200")`."""

_FROM_THE_BEGINNING: tuple[Key, ...] = (
    (RECEIVED,),
    (SENT,),
    (ACCEPTED,),
    *((CLOSED, end.value) for end in CloseReason if end is not CloseReason.KEPT),
    *((REFUSED, reason) for reason in (*REFUSALS.values(), OTHER)),
    *((TIMEOUTS, timeout.value) for timeout in Timeout),
    *((MESSAGES, direction) for direction in ("received", "sent")),
)
"""Counters that are there, at 0, before anything was counted in them."""

FIRST_OWN_CODE = 3000
"""The first code of a close that is no standard's: there may be 2,000 such."""

_Series = tuple[str, str, int]
"""A method, the pattern of a route and a status."""

_ALL_OTHERS: _Series = (OTHER, OTHER, 0)
"""What is counted together when there are too many series."""

_REFUSED = CloseReason.REFUSED

FIRST_ERROR = 500
"""The first status that says that the server is to blame."""


class Histogram:
    """Durations in seconds, by bucket.

    Attributes:
        buckets: how many were in each, not added up.
        sum: all of them together.
    """

    __slots__ = ("buckets", "sum")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, durations: list[float]) -> None:
        """Count durations, of which there is one at least; sorts the list."""
        self.sum += sum(durations)
        durations.sort()
        first, last = bisect_left(BOUNDS, durations[0]), bisect_left(BOUNDS, durations[-1])
        begin = 0
        for index in range(first, last):
            end = bisect_right(durations, BOUNDS[index], begin)
            self.buckets[index] += end - begin
            begin = end
        self.buckets[last] += len(durations) - begin

    def add(self, other: Histogram) -> None:
        """Count what another has counted."""
        self.buckets = [one + more for one, more in zip(self.buckets, other.buckets, strict=True)]
        self.sum += other.sum

    def copy(self) -> Histogram:
        """The same, to be kept."""
        made = Histogram.__new__(Histogram)
        made.buckets, made.sum = self.buckets.copy(), self.sum
        return made

    def take(self) -> Histogram:
        """What was counted since the last time."""
        taken = Histogram()
        taken.buckets, self.buckets = self.buckets, taken.buckets
        taken.sum, self.sum = self.sum, 0.0
        return taken

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


class WorkerGauges(NamedTuple):
    """A process that serves: its id, when it started in seconds since 1970, its connections by the name of a state."""

    pid: int
    started: float
    connections: dict[str, int]


class Snapshot:
    """What all processes have counted, at one moment, by the metrics' names and labels. workers: those that live."""

    def __init__(self) -> None:
        self.workers: list[WorkerGauges] = []
        self.counters: dict[str, dict[Key, int]] = defaultdict(dict)
        self.gauges: dict[str, dict[Key, float]] = defaultdict(dict)
        self.histograms: dict[str, dict[Key, Histogram]] = defaultdict(dict)

    def copy(self) -> Snapshot:
        """The same, for another thread to read while this one is added to."""
        made = Snapshot()
        made.workers = list(self.workers)
        made.counters.update({name: dict(series) for name, series in self.counters.items()})
        made.gauges.update({name: dict(series) for name, series in self.gauges.items()})
        for name, series in self.histograms.items():
            made.histograms[name] = {labels: histogram.copy() for labels, histogram in series.items()}
        return made


Counts = Mapping[Key, int]

Durations = Mapping[Key, Histogram]

GaugeValues = Mapping[Key, float]


class Counters(Protocol):
    """Where what was counted is added up."""

    def add(self, counts: Counts, durations: Durations, gauges: GaugeValues) -> None:
        """Add what was counted since the last call, and set the gauges."""

    def snapshot(self) -> Snapshot:
        """What was added so far, by all processes that share the counters. From any thread."""


class OwnCounters:
    """Counters of this process alone. They need nothing but Python."""

    def __init__(self) -> None:
        self._total = Snapshot()
        self._lock = threading.Lock()

    def add(self, counts: Counts, durations: Durations, gauges: GaugeValues) -> None:
        """See `Counters`."""
        total = self._total
        with self._lock:
            for (name, *labels), number in counts.items():
                series = total.counters[name]
                series[tuple(labels)] = series.get(tuple(labels), 0) + number
            for (name, *labels), histogram in durations.items():
                total.histograms[name].setdefault(tuple(labels), Histogram()).add(histogram)
            for (name, *labels), value in gauges.items():
                total.gauges[name][tuple(labels)] = value

    def snapshot(self) -> Snapshot:
        """See `Counters`. A copy, which takes half a millisecond for 1,000 routes."""
        with self._lock:
            found = self._total.copy()
        gauges = found.gauges
        connections = {labels[0]: int(number) for labels, number in gauges[CONNECTIONS].items()}
        found.workers = [WorkerGauges(os.getpid(), gauges[STARTED].get((), 0.0), connections)]
        return found


class Metrics(Observer):
    """Counts what happens.

    Args:
        counters: where that goes once a second; None: to counters of this process alone.
        history: keeps the last minute; None: nobody wants it.
    """

    def __init__(self, counters: Counters | None = None, history: History | None = None) -> None:
        self.counters = OwnCounters() if counters is None else counters
        self.history = history
        self._counts: defaultdict[Key, int] = defaultdict(int, dict.fromkeys(_FROM_THE_BEGINNING, 0))
        self._received = self._sent = 0
        self._series: dict[_Series, Histogram] = {}
        self._wait = Histogram()
        self._lag = Histogram()
        self._connections: dict[Key, float] = {}
        self._gauges: dict[Key, float] = {(WORKERS,): 1, (STARTED,): time.time()}

    def on_requests(self, records: list[Record]) -> None:
        """Count the requests of a turn, those of one method, route and status together."""
        turn: dict[_Series, list[float]] = {}
        received = sent = 0
        for record in records:
            request = record.request
            key = OTHER if request is None else request.method, record.route, record.status
            durations = turn.get(key)
            if durations is None:
                turn[key] = durations = []
            durations.append(record.ended - record.began)
            received += record.received
            sent += record.sent
            if record.end is _REFUSED:
                self._counts[REFUSED, REFUSALS.get(record.status, OTHER)] += 1
        self._received += received
        self._sent += sent
        for key, durations in turn.items():
            (self._series.get(key) or self._series_of(key)).observe(durations)

    def _series_of(self, key: _Series) -> Histogram:
        """The durations of a method, route and status; the common ones when there are too many."""
        method, route, status = key
        key = method if method in METHODS else OTHER, route, status
        if key not in self._series and len(self._series) >= MAX_SERIES:
            key = _ALL_OTHERS
        return self._series.setdefault(key, Histogram())

    def on_open(self) -> None:
        """Count an accepted connection."""
        self._counts[ACCEPTED,] += 1

    def on_traffic(self, traffic: Traffic) -> None:
        """Count what went over a WebSocket."""
        self._counts[MESSAGES, "received"] += traffic.messages_received
        self._counts[MESSAGES, "sent"] += traffic.messages_sent
        self._received += traffic.received
        self._sent += traffic.sent

    def on_sockets(self, records: list[SocketRecord]) -> None:
        """Count WebSockets that have ended, by code; codes of applications' own together."""
        for record in records:
            code = str(record.code) if record.code < FIRST_OWN_CODE else "application"
            self._counts[SOCKETS_CLOSED, code] += 1

    def on_shed(self, reason: str) -> None:
        """Count a connection that was refused at once."""
        self._counts[SHED, reason] += 1

    def on_timeout(self, timeout: Timeout) -> None:
        """Count a deadline that passed."""
        self._counts[TIMEOUTS, timeout.value] += 1

    def on_close(self, reason: CloseReason) -> None:
        """Count a connection that ended."""
        if reason is not CloseReason.KEPT:
            self._counts[CLOSED, reason.value] += 1

    def on_wait(self, seconds: float) -> None:
        """Count a call by its wait for a thread."""
        self._wait.observe([seconds])

    def on_tick(self, lag: float, gauges: Gauges) -> None:
        """Count the lag; hand on what was counted, and what there is."""
        self._lag.observe([lag])
        self._connections = dict.fromkeys(self._connections, 0)  # of a state that nobody is in any more
        for state, number in gauges.connections.items():
            self._connections[CONNECTIONS, state] = number
        self._gauges |= self._connections
        self._gauges |= {
            (QUEUE,): gauges.queue,
            (THREADS,): gauges.threads,
            (STREAMS,): gauges.streams,
            (OVERDUE,): gauges.overdue,
            (SPOOL_MEMORY,): gauges.spool_memory,
            (SPOOL_DISK,): gauges.spool_disk,
        }
        self.flush()
        if self.history is not None:
            self.history.note_connections(time.time(), sum(gauges.connections.values()))

    def on_stop(self) -> None:
        """Hand on what is left."""
        self.flush()
        if self.history is not None:
            self.history.close()

    def flush(self) -> None:
        """Hand on what was counted since the last time."""
        counts, self._counts = self._counts, defaultdict(int)
        counts[RECEIVED,] = self._received
        counts[SENT,] = self._sent
        durations: dict[Key, Histogram] = {(WAIT,): self._wait.take(), (LAG,): self._lag.take()}
        everything, errors = Histogram(), 0
        for (method, route, status), histogram in self._series.items():
            number = histogram.total
            if number:
                labels = method, route or NO_ROUTE
                counts[REQUESTS, *labels, str(status or OTHER)] = number
                errors += number if status >= FIRST_ERROR else 0
                taken = histogram.take()
                everything.add(taken)
                durations.setdefault((DURATION, *labels), Histogram()).add(taken)
        self.counters.add(counts, durations, self._gauges)
        if self.history is not None:
            numbers = everything.total, errors, self._received, self._sent
            self.history.add(time.time(), *numbers, everything.buckets)
        self._received = self._sent = 0

    def snapshot(self) -> Snapshot:
        """What all processes have counted: this one until now, the others until their last second."""
        self.flush()
        return self.counters.snapshot()
