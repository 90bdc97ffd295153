"""The metrics as Prometheus reads them. Needs prometheus_client: `pip install hypoll[metrics]`."""

from __future__ import annotations

from collections.abc import Iterator

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector, CollectorRegistry
except ModuleNotFoundError as error:
    advice = "metrics need prometheus_client: pip install 'hypoll[metrics]'"
    raise ModuleNotFoundError(advice, name=error.name) from None

from hypoll.message import Request, Response
from hypoll.metrics import BOUNDS, Histogram, Metrics, Snapshot
from hypoll.version import __version__

COUNTERS = {
    "requests": ("hypoll_requests", "Requests answered.", ("method", "route", "status")),
    "received": ("hypoll_received_bytes", "Bytes of requests.", ()),
    "sent": ("hypoll_sent_bytes", "Bytes of answers.", ()),
    "accepted": ("hypoll_connections_accepted", "Connections accepted.", ()),
    "closed": ("hypoll_connections_closed", "Connections closed, by what ended them.", ("end",)),
    "shed": ("hypoll_connections_refused", "Connections refused as soon as accepted.", ("reason",)),
    "refusals": ("hypoll_refusals", "Requests refused before a handler saw them.", ("reason",)),
    "timeouts": ("hypoll_timeouts", "Deadlines that passed, by what was waited for.", ("phase",)),
}
"""Counters by their name in the ledger: name, meaning, labels."""

HISTOGRAMS = {
    "duration": (
        "hypoll_request_duration_seconds",
        "From a request's first byte to the last of its answer.",
        ("method", "route"),
    ),
    "wait": ("hypoll_pool_wait_seconds", "How long calls waited for a thread.", ()),
    "lag": ("hypoll_loop_lag_seconds", "How late the loop came to what was due, once a second.", ()),
}

GAUGES = {
    "connections": ("hypoll_connections", "Connections open, by phase.", ("phase",)),
    "queue": ("hypoll_pool_queue", "Calls that wait for a thread.", ()),
    "threads": ("hypoll_pool_threads", "Threads that are busy.", ()),
    "streams": ("hypoll_stream_threads", "Threads beside the pool, for slow clients and long streams.", ()),
    "spool_memory": ("hypoll_spool_memory_bytes", "Bytes that wait in memory.", ()),
    "spool_disk": ("hypoll_spool_disk_bytes", "Bytes that wait in files.", ()),
}


class MetricsCollector(Collector):
    """Gives prometheus_client what the ledger has, at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not read."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics of all processes as they are now."""
        snapshot = self._metrics.snapshot()
        yield InfoMetricFamily("hypoll", "The server.", {"version": __version__})
        yield GaugeMetricFamily("hypoll_workers", "Processes that serve.", len(snapshot.workers))
        yield from _counters(snapshot)
        yield from _gauges(snapshot)
        for name, (family, meaning, labels) in HISTOGRAMS.items():
            metric = HistogramMetricFamily(family, meaning, labels=labels)
            for values, histogram in snapshot.histograms(name).items():
                metric.add_metric(values, _buckets(histogram), histogram.sum)
            yield metric


def _counters(snapshot: Snapshot) -> Iterator[Metric]:
    for name, (family, meaning, labels) in COUNTERS.items():
        metric = CounterMetricFamily(family, meaning, labels=labels)
        for values, number in snapshot.counts(name).items():
            metric.add_metric(values, number)
        yield metric


def _gauges(snapshot: Snapshot) -> Iterator[Metric]:
    for name, (family, meaning, labels) in GAUGES.items():
        metric = GaugeMetricFamily(family, meaning, labels=labels)
        for values, number in snapshot.gauges(name).items():
            metric.add_metric(values, number)
        yield metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bound and how many were at most that."""
    total = 0
    found = []
    for bound, number in zip([*map(str, BOUNDS), "+Inf"], histogram.buckets, strict=True):
        total += number
        found.append((bound, float(total)))
    return found


class Scrape:
    """Answers a scrape, in the format its Accept field asks for. Only hypoll's own metrics: no default registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(MetricsCollector(metrics))

    def __call__(self, request: Request) -> Response:
        """The metrics as text."""
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except Exception:  # a field that makes no sense asks for nothing in particular (RFC 9110, 12.5.1)
            encode, content_type = choose_encoder("")
        return Response(encode(self._registry), 200, {"Cache-Control": "no-store"}, content_type)
