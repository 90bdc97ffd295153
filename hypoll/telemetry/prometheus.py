"""The metrics as Prometheus reads them. Needs prometheus_client: `pip install hypoll[metrics]`.

One process alone counts in memory. Several count in files that prometheus_client maps (its multiprocess mode, see
`hypoll.telemetry.shared_counters`), and the application's own metrics are there beside hypoll's.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from typing import TypeVar

try:
    from prometheus_client import Counter, Gauge
    from prometheus_client import Histogram as PrometheusHistogram
    from prometheus_client.core import InfoMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics import MetricWrapperBase
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
except ModuleNotFoundError as error:
    advice = "metrics need prometheus_client: pip install 'hypoll[metrics]'"
    raise ModuleNotFoundError(advice, name=error.name) from None

import orjson

from hypoll.protocol.messages import Request, Response
from hypoll.telemetry import metrics as names
from hypoll.telemetry import shared_counters
from hypoll.telemetry.metrics import (
    BOUNDS,
    Counts,
    Durations,
    GaugeValues,
    Histogram,
    Key,
    Metrics,
    Snapshot,
    WorkerGauges,
)
from hypoll.version import __version__

T = TypeVar("T", bound=MetricWrapperBase)

COUNTERS = {
    names.REQUESTS: ("Requests answered.", ("method", "route", "status")),
    names.RECEIVED: ("Bytes of requests.", ()),
    names.SENT: ("Bytes of answers.", ()),
    names.ACCEPTED: ("Connections accepted.", ()),
    names.CLOSED: ("Connections closed, by what ended them.", ("end",)),
    names.SHED: ("Connections refused as soon as accepted.", ("reason",)),
    names.REFUSED: ("Requests refused before a handler saw them.", ("reason",)),
    names.TIMEOUTS: ("Deadlines that passed, by what was waited for.", ("phase",)),
}
"""Meaning and labels by name."""

HISTOGRAMS = {
    names.DURATION: ("From a request's first byte to the last of its answer.", ("method", "route")),
    names.WAIT: ("How long calls waited for a thread.", ()),
    names.LAG: ("How late the loop came to what was due, once a second.", ()),
}

GAUGES = {
    names.WORKERS: ("Processes that serve.", ()),
    names.CONNECTIONS: ("Connections open, by phase.", ("phase",)),
    names.QUEUE: ("Calls that wait for a thread.", ()),
    names.THREADS: ("Threads that are busy.", ()),
    names.STREAMS: ("Threads beside the pool, for slow clients and long streams.", ()),
    names.SPOOL_MEMORY: ("Bytes that wait in memory.", ()),
    names.SPOOL_DISK: ("Bytes that wait in files.", ()),
}
"""Those of all processes are added up."""

_STARTED = "When the first of the processes that serve started, in seconds since 1970."


class _Histogram(PrometheusHistogram):
    """One that takes many observations with one call: prometheus_client's own takes one, and several locks for each."""

    def add(self, histogram: Histogram) -> None:
        """Count what was counted elsewhere, in the same buckets."""
        for value, number in zip(self._buckets, histogram.buckets, strict=True):
            if number:
                value.inc(number)
        self._sum.inc(histogram.sum)


class PrometheusCounters:
    """Counters in prometheus_client's own metrics: of all processes in its multiprocess mode, else of this one.

    They are made with the first use, which has to come after the fork.
    """

    @cached_property
    def _counters(self) -> dict[str, Counter]:
        return {name: Counter(name, meaning, labels, registry=None) for name, (meaning, labels) in COUNTERS.items()}

    @cached_property
    def _histograms(self) -> dict[str, _Histogram]:
        return {
            name: _Histogram(name, meaning, labels, registry=None, buckets=BOUNDS)
            for name, (meaning, labels) in HISTOGRAMS.items()
        }

    @cached_property
    def _gauges(self) -> dict[str, Gauge]:
        made = {
            name: Gauge(name, meaning, labels, registry=None, multiprocess_mode="livesum")
            for name, (meaning, labels) in GAUGES.items()
        }
        return made | {names.STARTED: Gauge(names.STARTED, _STARTED, registry=None, multiprocess_mode="livemin")}

    def add(self, counts: Counts, durations: Durations, gauges: GaugeValues) -> None:
        """See `hypoll.telemetry.metrics.Counters`."""
        for key, number in counts.items():
            _of(self._counters, key).inc(number)
        for key, histogram in durations.items():
            _of(self._histograms, key).add(histogram)
        for key, value in gauges.items():
            _of(self._gauges, key).set(value)

    def collect(self) -> list[Metric]:
        """The metrics of all processes, the application's own among them."""
        directory = shared_counters.directory()
        if directory is not None:
            with shared_counters.files(directory) as files:
                return _merge(files)
        return [*self._collect_own(), *REGISTRY.collect()]

    def snapshot(self) -> Snapshot:
        """See `hypoll.telemetry.metrics.Counters`."""
        directory = shared_counters.directory()
        if directory is None:
            found = _snapshot(self._collect_own())
            found.workers = [_worker(os.getpid(), found)]
            return found
        with shared_counters.files(directory) as files:
            found = _snapshot(_merge(files))
            living: dict[int, list[str]] = {}
            for path in files:
                kind, pid = shared_counters.kind_and_process(path)
                if kind.startswith("gauge_live") and pid:
                    living.setdefault(pid, []).append(path)
            gauges = {pid: _snapshot(_merge(paths)) for pid, paths in living.items()}
        found.workers = [_worker(pid, each) for pid, each in gauges.items() if each.gauges[names.STARTED]]
        return found

    def _collect_own(self) -> Iterator[Metric]:
        for metrics in (self._counters, self._histograms, self._gauges):
            for metric in metrics.values():
                for family in metric.collect():
                    # When each series was made, which prometheus_client doesn't report in its multiprocess mode either.
                    family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                    yield family


def _merge(files: Iterable[str]) -> list[Metric]:
    """The metrics in files of prometheus_client's.

    Its own collector makes an object of each number in each file, while the loop stands still: here they are added up
    first. Of gauges there are few.
    """
    by_kind: dict[str, list[str]] = {}
    for path in files:
        kind, _ = shared_counters.kind_and_process(path)
        by_kind.setdefault("gauge" if kind.startswith("gauge_") else kind, []).append(path)
    gauges = by_kind.pop("gauge", [])
    found: list[Metric] = [*MultiProcessCollector.merge(gauges)]  # type: ignore[no-untyped-call]
    for kind, paths in by_kind.items():
        found += _families(kind, shared_counters.add_up(kind, paths))
    return found


def _families(kind: str, total: dict[str, tuple[float, float]]) -> Iterable[Metric]:
    """Counters, histograms or summaries of what was added up."""
    found: dict[str, Metric] = {}
    buckets: dict[tuple[str, ...], list[tuple[float, str, dict[str, str], float]]] = {}
    for key, (value, _) in total.items():
        family, name, labels, meaning = orjson.loads(key)
        metric = found.get(family) or found.setdefault(family, Metric(family, meaning, kind))
        if kind == "histogram" and "le" in labels:
            series = (family, *(value for label, value in labels.items() if label != "le"))
            buckets.setdefault(series, []).append((float(labels["le"]), name, labels, value))
        else:
            metric.add_sample(name, labels, value)
    for (family, *_), rows in buckets.items():
        below = 0.0
        for _, name, labels, value in sorted(rows, key=itemgetter(0)):
            below += value
            found[family].add_sample(name, labels, below)
        found[family].add_sample(
            f"{family}_count", {name: each for name, each in labels.items() if name != "le"}, below
        )
    return found.values()


def _of(metrics: Mapping[str, T], key: Key) -> T:
    """The metric of a name and labels' values."""
    name, *labels = key
    return metrics[name].labels(*labels) if labels else metrics[name]


def _snapshot(families: Iterable[Metric]) -> Snapshot:
    """What is hypoll's own among some families."""
    found = Snapshot()
    for family in families:
        for sample in family.samples if family.name.startswith("hypoll_") else ():
            # In the order of their names, as the tables above have them.
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "le")
            if family.type == "gauge":
                found.gauges[family.name][labels] = sample.value
            elif family.type == "counter":
                found.counters[family.name][labels] = int(sample.value)
            else:
                histogram = found.histograms[family.name].setdefault(labels, Histogram())
                if sample.name.endswith("_sum"):
                    histogram.sum = sample.value
                elif sample.name.endswith("_bucket"):
                    histogram.buckets[bisect_left(BOUNDS, float(sample.labels["le"]))] = int(sample.value)
    for series in found.histograms.values():
        for histogram in series.values():
            histogram.buckets = [number - below for below, number in pairwise([0, *histogram.buckets])]
    return found


def _worker(pid: int, own: Snapshot) -> WorkerGauges:
    connections = {labels[0]: int(number) for labels, number in own.gauges[names.CONNECTIONS].items()}
    return WorkerGauges(pid, own.gauges[names.STARTED].get((), 0.0), connections)


class Scrape(Collector):
    """Answers a scrape, in the format its Accept field asks for: with hypoll's metrics and the application's own."""

    def __init__(self, metrics: Metrics, counters: PrometheusCounters) -> None:
        self._metrics = metrics
        self._counters = counters
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not read."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics of all processes: of this one until now, of others until their last second."""
        self._metrics.flush()
        yield InfoMetricFamily("hypoll", "The server.", {"version": __version__})
        yield from self._counters.collect()

    def __call__(self, request: Request) -> Response:
        """The metrics as text."""
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except Exception:  # a field that makes no sense asks for nothing in particular (RFC 9110, 12.5.1)
            encode, content_type = choose_encoder("")
        return Response(encode(self._registry), 200, {"Cache-Control": "no-store"}, content_type)
