"""The metrics as Prometheus reads them. Needs prometheus_client: `pip install 'hypoll[metrics]'`.

One process alone counts in memory. Several count in files that prometheus_client maps (its multiprocess mode, see
`hypoll.telemetry.shared_counters`), and the application's own metrics are there beside hypoll's. hypoll's are read and
written without prometheus_client, which makes an object of each number: a service may have a thousand routes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from operator import itemgetter
from typing import TypeVar

try:
    from prometheus_client import Counter, Gauge
    from prometheus_client import Histogram as PrometheusHistogram
    from prometheus_client.core import Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics import MetricWrapperBase
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import REGISTRY, Collector
except ModuleNotFoundError as error:
    advice = "metrics need prometheus_client: pip install 'hypoll[metrics]'"
    raise ModuleNotFoundError(advice, name=error.name) from None

import orjson

from hypoll.protocol.messages import Request, Response
from hypoll.telemetry import metrics as names
from hypoll.telemetry import shared_counters
from hypoll.telemetry.exposition import COUNTERS, EXPORTED_BOUNDS, GAUGES, HISTOGRAMS, STARTED_MEANING, write
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

T = TypeVar("T", bound=MetricWrapperBase)

PAUSE = 0.0001
"""Seconds for which who reads and writes lets go of the interpreter's lock after half a millisecond's work. Without,
the loop would get it every 5 ms only (`sys.setswitchinterval`), and that for each of its system calls."""

_OWN_KEY = b'["hypoll_'
"""How prometheus_client's key of one of hypoll's own metrics begins."""

_SPARSE = f'["{names.DURATION}"'.encode()
"""How the keys begin of which there are the most. Most buckets of most routes are empty."""

_BUCKETS = {bound.encode(): index for index, bound in enumerate(EXPORTED_BOUNDS)}

_rest = partial(time.sleep, PAUSE)


class _Histogram(PrometheusHistogram):
    """One that takes many observations with one call: prometheus_client's own takes one, and several locks for each."""

    def add(self, histogram: Histogram) -> None:
        """Count what was counted elsewhere, in the same buckets."""
        for value, number in zip(self._buckets, histogram.buckets, strict=True):
            if number:
                value.inc(number)
        self._sum.inc(histogram.sum)


class PrometheusCounters:
    """Counters that all processes have together, in prometheus_client's multiprocess mode.

    Their files are made with the first use, which has to come after the fork.

    Args:
        directory: where the processes count; see `shared_counters.directory`.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

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
        return made | {names.STARTED: Gauge(names.STARTED, STARTED_MEANING, registry=None, multiprocess_mode="livemin")}

    def add(self, counts: Counts, durations: Durations, gauges: GaugeValues) -> None:
        """See `hypoll.telemetry.metrics.Counters`."""
        for key, number in counts.items():
            _of(self._counters, key).inc(number)
        for key, histogram in durations.items():
            _of(self._histograms, key).add(histogram)
        for key, value in gauges.items():
            _of(self._gauges, key).set(value)

    def snapshot(self) -> Snapshot:
        """See `hypoll.telemetry.metrics.Counters`."""
        with shared_counters.files(self._directory) as files:
            return _read(files)[0]

    def read(self) -> tuple[Snapshot, list[Metric]]:
        """The snapshot, and the application's own metrics. From any thread. Raises `OSError`."""
        with shared_counters.files(self._directory) as files:
            found, totals = _read(files)
            gauges = [path for path in files if _kind(path) == "gauge"]
            metrics: list[Metric] = [
                metric
                for metric in MultiProcessCollector.merge(gauges)  # type: ignore[no-untyped-call]
                if not metric.name.startswith("hypoll_")
            ]
        for kind, total in totals.items():
            metrics += _families(kind, total)
        return found, metrics


def _kind(path: str) -> str:
    """The kind of the metrics in a file: counter, gauge, histogram or summary."""
    return shared_counters.kind_and_process(path)[0].partition("_")[0]


def _read(files: Iterable[str]) -> tuple[Snapshot, dict[str, dict[bytes, float]]]:
    """Hypoll's own metrics in some files, and the sums of the others by kind and key, gauges left out."""
    by_kind: dict[str, list[str]] = {}
    for path in files:
        by_kind.setdefault(_kind(path), []).append(path)
    found = Snapshot()
    for path in by_kind.pop("gauge", ()):
        _read_gauges(found, path)
    found.workers = [worker for worker in found.workers if worker.started]
    others: dict[str, dict[bytes, float]] = {}
    for kind, paths in by_kind.items():
        total = shared_counters.sum_up(paths, _rest, _SPARSE)
        if kind == "counter":
            _take_counters(found, total)
        elif kind == "histogram":
            _take_histograms(found, total)
        others[kind] = {key: number for key, number in total.items() if not key.startswith(_OWN_KEY)}
    return found, others


def _read_gauges(found: Snapshot, path: str) -> None:
    """Add the gauges of a process, and the process itself."""
    _, pid = shared_counters.kind_and_process(path)
    own = [(key, number) for key, number, _ in shared_counters.entries(path) if key.startswith(_OWN_KEY)]
    if not own:
        return
    worker = next((worker for worker in found.workers if worker.pid == pid), None)
    if worker is None:
        worker = WorkerGauges(pid, 0.0, {})
        found.workers.append(worker)
    for key, number in own:
        name, _, labels, _ = orjson.loads(key)
        values = tuple(labels.values())
        gauges = found.gauges[name]
        if name == names.STARTED:
            gauges[values] = min(number, gauges.get(values, number))
            found.workers[found.workers.index(worker)] = worker = worker._replace(started=number)
        else:
            gauges[values] = gauges.get(values, 0.0) + number
        if name == names.CONNECTIONS:
            worker.connections[values[0]] = int(number)


def _take_counters(found: Snapshot, total: Mapping[bytes, float]) -> None:
    for key, number in total.items():
        if key.startswith(_OWN_KEY):
            name, _, labels, _ = orjson.loads(key)
            # In the order of the labels' names, as the key has them.
            found.counters[name][tuple(labels.values())] = int(number)


def _take_histograms(found: Snapshot, total: Mapping[bytes, float]) -> None:
    """Gather the keys of each histogram: they differ by the bucket alone, `{"le": "0.005", "method": ...`."""
    series: dict[tuple[bytes, bytes], Histogram] = {}
    for index, (key, number) in enumerate(total.items(), 1):
        if not key.startswith(_OWN_KEY):
            continue
        if not index % shared_counters.ENTRIES_A_PIECE:
            _rest()
        begin, is_bucket, rest = key.partition(b'{"le": "')
        if not is_bucket:
            name, _, labels, _ = orjson.loads(key)
            found.histograms[name].setdefault(tuple(labels.values()), Histogram()).sum = number
            continue
        bound, _, end = rest.partition(b'"')
        histogram = series.get((begin, end))
        if histogram is None:
            name, _, labels, _ = orjson.loads(key)
            values = tuple(value for label, value in labels.items() if label != "le")
            histogram = series[begin, end] = found.histograms[name].setdefault(values, Histogram())
        bucket = _BUCKETS.get(bound)
        # A predecessor's bounds may be others.
        histogram.buckets[bisect_left(BOUNDS, float(bound)) if bucket is None else bucket] += int(number)


def _families(kind: str, total: Mapping[bytes, float]) -> Iterable[Metric]:
    """Counters, histograms or summaries of what was added up."""
    found: dict[str, Metric] = {}
    buckets: dict[tuple[str, ...], list[tuple[float, str, dict[str, str], float]]] = {}
    for key, value in total.items():
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


class _Application(Collector):
    """The application's own metrics, which have been read."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Give them."""
        yield from self._metrics


class Scrape:
    """Answers a scrape, in the format its Accept field asks for: with hypoll's metrics and the application's own."""

    def __init__(self, metrics: Metrics) -> None:
        self._counters = metrics.counters

    def __call__(self, request: Request) -> Response:
        """The metrics as text: those that `Metrics.flush` has handed on. From any thread."""
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except Exception:  # a field that makes no sense asks for nothing in particular (RFC 9110, 12.5.1)
            encode, content_type = choose_encoder("")
        if isinstance(self._counters, PrometheusCounters):
            found, metrics = self._counters.read()
            registry: Collector = _Application(metrics)
        else:
            found, registry = self._counters.snapshot(), REGISTRY
        own = "".join(write(found, content_type.startswith("application/openmetrics-text"), _rest))
        # OpenMetrics ends with a line that the encoder adds.
        return Response(own.encode() + encode(registry), 200, {"Cache-Control": "no-store"}, content_type)
