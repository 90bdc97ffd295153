"""A snapshot of hypoll's metrics as text: Prometheus's own format, and OpenMetrics 1.0.

The formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md. A route has 19 lines: they are
written from the numbers, as an object for each would take ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from hypoll.telemetry import metrics as names
from hypoll.telemetry.metrics import BOUNDS, Histogram, Key, Snapshot
from hypoll.version import __version__

COUNTERS = {
    names.REQUESTS: ("Requests answered.", ("method", "route", "status")),
    names.RECEIVED: ("Bytes of requests.", ()),
    names.SENT: ("Bytes of answers.", ()),
    names.ACCEPTED: ("Connections accepted.", ()),
    names.CLOSED: ("Connections closed, by what ended them.", ("end",)),
    names.SHED: ("Connections refused as soon as accepted.", ("reason",)),
    names.REFUSED: ("Requests refused before a handler saw them.", ("reason",)),
    names.TIMEOUTS: ("Deadlines that passed, by what was waited for.", ("phase",)),
    names.MESSAGES: ("Messages of WebSockets.", ("direction",)),
    names.SOCKETS_CLOSED: ("WebSockets closed, by code.", ("code",)),
}
"""Meaning and labels by name. Labels are in the order of their names, which they are written in."""

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
    names.OVERDUE: ("Threads at work for requests that were answered without them, after their timeout.", ()),
    names.SPOOL_MEMORY: ("Bytes that wait in memory.", ()),
    names.SPOOL_DISK: ("Bytes that wait in files.", ()),
}
"""Those of all processes are added up."""

STARTED_MEANING = "When the first of the processes that serve started, in seconds since 1970."

EXPORTED_BOUNDS = (*map(str, BOUNDS), "+Inf")
"""The upper bounds of the buckets, as the label `le` has them."""

SERIES_A_PIECE = 64
"""Histograms that are written before `pause` is called: half a millisecond's work."""


def write(snapshot: Snapshot, openmetrics: bool, pause: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Give the text of a snapshot in pieces, without the end that OpenMetrics has.

    Args:
        snapshot: what was counted.
        openmetrics: whether it is to be OpenMetrics, else Prometheus's own format.
        pause: called now and then between pieces.
    """
    kind = "info" if openmetrics else "gauge"
    name = "hypoll" if openmetrics else "hypoll_info"
    yield f'{_header(name, "The server.", kind)}hypoll_info{{version="{_escape(__version__)}"}} 1.0\n'
    for name, (meaning, labels) in COUNTERS.items():
        yield _header(name if openmetrics else name + "_total", meaning, "counter")
        yield _lines(name + "_total", labels, snapshot.counters[name])
    for name, (meaning, labels) in HISTOGRAMS.items():
        yield _header(name, meaning, "histogram")
        template = _template(name, bool(labels))
        for number, (values, histogram) in enumerate(sorted(snapshot.histograms[name].items())):
            if not number % SERIES_A_PIECE:
                pause()
            yield _fill(template, _pairs(labels, values), histogram)
    for name, (meaning, labels) in {**GAUGES, names.STARTED: (STARTED_MEANING, ())}.items():
        yield _header(name, meaning, "gauge")
        yield _lines(name, labels, snapshot.gauges[name])


def _header(name: str, meaning: str, kind: str) -> str:
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"


def _lines(name: str, labels: tuple[str, ...], series: Mapping[Key, float]) -> str:
    if not labels:
        return "".join(f"{name} {float(number)!r}\n" for number in series.values())
    return "".join(
        f"{name}{{{_pairs(labels, values)}}} {float(number)!r}\n" for values, number in sorted(series.items())
    )


def _pairs(labels: Iterable[str], values: Iterable[str]) -> str:
    return ",".join(f'{label}="{_escape(value)}"' for label, value in zip(labels, values, strict=True))


def _escape(value: str) -> str:
    """The value of a label between its quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


_LABELS = "\0"
"""Where the labels go in a template."""


def _template(name: str, labelled: bool) -> str:
    """The lines of a histogram, for `%` to put the numbers in. `le` is the first label, as its name comes first."""
    more, alone = ("," + _LABELS, "{" + _LABELS + "}") if labelled else ("", "")
    buckets = "".join(f'{name}_bucket{{le="{bound}"{more}}} %d.0\n' for bound in EXPORTED_BOUNDS)
    return f"{buckets}{name}_count{alone} %d.0\n{name}_sum{alone} %r\n"


def _fill(template: str, pairs: str, histogram: Histogram) -> str:
    cumulated = tuple(accumulate(histogram.buckets))
    return template.replace(_LABELS, pairs.replace("%", "%%")) % (*cumulated, cumulated[-1], float(histogram.sum))
