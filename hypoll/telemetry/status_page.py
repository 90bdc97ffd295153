"""A page for people: what the server does at the moment, drawn by the browser from the page's JSON twin.

The page is the same bytes for everybody and loads nothing from elsewhere; what the server says comes as JSON and is
put into the page as text. A Content-Security-Policy holds that.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import orjson

from hypoll.protocol.messages import HTTPError, Request, Response
from hypoll.proxy.networks import Networks
from hypoll.telemetry import metrics as names
from hypoll.telemetry.metrics import BOUNDS, Histogram, Key, Metrics, Snapshot
from hypoll.version import __version__

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class StatusPage:
    """The page and its twin, for the peers that are let in.

    Args:
        allow: whose clients may see it. The client is the one that trusted proxies say of.
        clock: seconds since 1970.
    """

    def __init__(self, metrics: Metrics, allow: Networks, clock: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._allow = allow
        self._clock = clock
        self._page = resources.files("hypoll.telemetry").joinpath("status_page.html").read_bytes()
        self._headers = page_headers(self._page)

    def html(self, request: Request) -> Response:
        """The page. Raises `HTTPError` 403."""
        self.check(request)
        return Response(self._page, 200, self._headers, "text/html; charset=utf-8")

    def begin_json(self, request: Request) -> None:
        """Hand on what was counted until now, for `json` to find it. Raises `HTTPError` 403."""
        self.check(request)
        self._metrics.flush()

    def json(self, request: Request) -> Response:
        """What the page shows, for it and for programs. From any thread, after `begin_json`."""
        now = self._clock()
        document = describe(self._metrics.counters.snapshot(), now)
        history = self._metrics.history
        document["history"] = [] if history is None else [step.document() for step in history.read(now)]
        return Response(orjson.dumps(document), 200, {"Cache-Control": "no-store"}, "application/json")

    def check(self, request: Request) -> None:
        """Raise `HTTPError` 403 for a client that isn't let in."""
        if request.client[0] not in self._allow:
            raise HTTPError(403, "this page isn't for your address: --status-allow says whose it is")


def page_headers(page: bytes) -> dict[str, str]:
    """The fields that let the page's own style and script run, let it ask its own server, and nothing else."""
    style, script = (
        _hash(re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)) for tag in (b"style", b"script")
    )
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _hash(parts: list[bytes]) -> str:
    digests = (base64.b64encode(hashlib.sha256(part).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def describe(snapshot: Snapshot, now: float) -> dict[str, Any]:
    """A snapshot as the page's document. Times in seconds, sizes in bytes, counts since the start."""
    routes = _routes(snapshot)
    counters, gauges, histograms = snapshot.counters, snapshot.gauges, snapshot.histograms
    return {
        "version": __version__,
        "time": now,
        "started": min((worker.started for worker in snapshot.workers), default=now),
        "workers": [worker._asdict() for worker in snapshot.workers],
        "requests": sum(route["requests"] for route in routes),
        "routes": routes,
        "bounds": BOUNDS,
        "connections": _by_label(gauges[names.CONNECTIONS]),
        "accepted": counters[names.ACCEPTED][()],
        "closed": _by_label(counters[names.CLOSED]),
        "shed": _by_label(counters[names.SHED]),
        "timeouts": _by_label(counters[names.TIMEOUTS]),
        "refusals": _by_label(counters[names.REFUSED]),
        "websockets": {
            "open": _by_label(gauges[names.CONNECTIONS]).get("upgraded", 0),
            "messages": _by_label(counters[names.MESSAGES]),
            "closed": _by_label(counters[names.SOCKETS_CLOSED]),
        },
        "received": counters[names.RECEIVED][()],
        "sent": counters[names.SENT][()],
        "pool": {
            "queue": _number(gauges[names.QUEUE]),
            "threads": _number(gauges[names.THREADS]),
            "streams": _number(gauges[names.STREAMS]),
            "overdue": _number(gauges[names.OVERDUE]),
            "wait": _spread(histograms[names.WAIT][()]),
        },
        "lag": _spread(histograms[names.LAG][()]),
    }


def _number(gauge: dict[Key, float]) -> int:
    """The value of a gauge without labels; 0 before the first second has passed."""
    return int(gauge.get((), 0))


def _by_label(series: Mapping[Key, float]) -> dict[str, int]:
    return {labels[0]: int(number) for labels, number in sorted(series.items())}


def _routes(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Each method and route that was asked for, with its statuses by class and its durations."""
    found: dict[Key, dict[str, Any]] = {}
    for (method, route, status), number in sorted(snapshot.counters[names.REQUESTS].items()):
        if (method, route) not in found:
            # There may be none yet: another worker may be just writing.
            spread = snapshot.histograms[names.DURATION].get((method, route)) or Histogram()
            told = {"method": method, "route": route, "requests": 0, "statuses": {}}
            found[method, route] = told | _spread(spread) | {"buckets": spread.buckets}
        row = found[method, route]
        row["requests"] += number
        name = status[0] + "xx" if status.isdecimal() else status
        row["statuses"][name] = row["statuses"].get(name, 0) + number
    return list(found.values())


def _spread(histogram: Histogram) -> dict[str, float]:
    """Mean and quantiles, 0 where there is nothing yet."""
    mean = histogram.sum / histogram.total if histogram.total else 0.0
    return {"mean": mean, **{name: histogram.quantile(part) for name, part in QUANTILES.items()}}
