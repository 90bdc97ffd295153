"""What is counted, and how it adds up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, values
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from hypoll.contracts import CloseReason, Gauges, Timeout
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request, Response
from hypoll.protocol.peer import NOBODY
from hypoll.telemetry import shared_counters
from hypoll.telemetry.exposition import COUNTERS, GAUGES, HISTOGRAMS
from hypoll.telemetry.metrics import (
    BOUNDS,
    CONNECTIONS,
    DURATION,
    MAX_SERIES,
    REQUESTS,
    STARTED,
    WAIT,
    Histogram,
    Metrics,
)
from hypoll.telemetry.observer import Record
from hypoll.telemetry.prometheus import PrometheusCounters, Scrape
from hypoll.version import __version__
from tests.support.records import a_record


@pytest.fixture(params=["alone", "together"])
def metrics(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """Those of a process alone, and those that processes have together in files."""
    if request.param == "alone":
        return Metrics()
    monkeypatch.setenv(shared_counters.VARIABLE, str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())  # type: ignore[no-untyped-call]
    return Metrics(PrometheusCounters(str(tmp_path)))


def exchange(method: str | None = "GET", **values: Any) -> Record:
    request = None if method is None else Request(method, b"/raw/17?a=b")
    known = {"status": 200, "route": "/raw/{id}", "received": 40, "sent": 150, "began": 5.0, "called": 5.001}
    known |= {"returned": 5.0035, "ended": 5.004}
    return a_record(request, NOBODY, None, **{**known, **values})


ACCEPTS = [
    "",
    ",",
    ";q=",
    "a/b;q=x",
    "application/openmetrics-text;version=",
    ";;;",
    "\xff\x80",
    "text/*;q=2;=",
    "*" * 9000,
]


@pytest.mark.parametrize("accept", ACCEPTS)
def test_a_scrape_never_fails_by_what_it_accepts(metrics, accept):
    assert b"hypoll_workers" in scraped(metrics, accept)


def samples(metrics: Metrics, accept: str = "") -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scrape gives: values by name and labels' values, in the order of the labels' names."""
    text = scraped(metrics, accept).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(metrics: Metrics, accept: str = "") -> Response:
    metrics.flush()
    return Scrape(metrics)(Request("GET", b"/metrics", HeaderSection((("accept", accept),))))


def scraped(metrics: Metrics, accept: str = "") -> bytes:
    response = scrape(metrics, accept)
    assert response.status == 200
    assert isinstance(response.body, bytes)
    return response.body


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({}, ("GET", "/raw/{id}", "200")),
        ({"method": "DELETE", "status": 204}, ("DELETE", "/raw/{id}", "204")),
        ({"method": "PROPFIND"}, ("other", "/raw/{id}", "200")),
        ({"method": "X" * 100}, ("other", "/raw/{id}", "200")),
        ({"route": "", "status": 404}, ("GET", "none", "404")),
        ({"method": None, "route": "", "status": 400}, ("other", "none", "400")),
    ],
)
def test_requests_are_counted_by_method_route_and_status(metrics, values, key):
    for _ in range(3):
        metrics.on_requests([exchange(**values)])
    found = samples(metrics)
    assert found["hypoll_requests_total", key] == 3
    assert found["hypoll_request_duration_seconds_count", key[:2]] == 3
    assert metrics.snapshot().counters[REQUESTS] == {key: 3}
    assert b"/raw/17" not in scraped(metrics), "the path itself is no label"


@pytest.mark.parametrize("durations", [[0.00005] * 3, [0.00005, 0.003, 0.3], [20.0, 0.0]])
def test_durations_of_one_turn_are_counted_as_of_many(metrics, durations):
    other = Metrics()
    metrics.on_requests([exchange(began=0.0, ended=duration) for duration in durations])
    for duration in durations:
        other.on_requests([exchange(began=0.0, ended=duration)])
    found, wanted = (each.snapshot().histograms[DURATION] for each in (metrics, other))
    assert {key: value.buckets for key, value in found.items()} == {key: value.buckets for key, value in wanted.items()}
    assert found["GET", "/raw/{id}"].sum == pytest.approx(sum(durations))


def counted(metrics: Metrics) -> dict[str, Any]:
    snapshot = metrics.snapshot()
    histograms = {
        name: {labels: (each.buckets, pytest.approx(each.sum)) for labels, each in series.items()}
        for name, series in snapshot.histograms.items()
    }
    counters = {name: series for name, series in snapshot.counters.items() if series}
    workers = [(worker.pid, worker.connections) for worker in snapshot.workers]
    return {"counters": counters, "histograms": histograms, "workers": workers}


def test_without_prometheus_client_the_same_is_counted(metrics):
    alone = Metrics()
    for each in (metrics, alone):
        for number in range(3):
            each.on_requests(
                [exchange(), exchange(status=404, route=""), exchange(None, status=400, end=CloseReason.REFUSED)]
            )
            each.on_open()
            each.on_shed("full")
            each.on_close(CloseReason.CLIENT)
            each.on_wait(0.003)
            each.on_tick(0.02, Gauges({"idle": number, "head": 1}, 4, 8, 3, 1000, 2000))
    assert counted(alone) == counted(metrics)
    gauges = [{name: series for name, series in each.snapshot().gauges.items() if series} for each in (metrics, alone)]
    assert gauges[0].keys() == gauges[1].keys()
    assert gauges[1][CONNECTIONS] == gauges[0][CONNECTIONS] == {("idle",): 2, ("head",): 1}


def test_bytes_are_counted(metrics):
    metrics.on_requests([exchange()])
    metrics.on_requests([exchange(received=2, sent=3)])
    found = samples(metrics)
    assert (found["hypoll_received_bytes_total", ()], found["hypoll_sent_bytes_total", ()]) == (42, 153)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_duration_is_in_the_bucket_of_its_bound_and_not_below(metrics, bound):
    metrics.on_requests([exchange(began=0.0, ended=bound)])
    metrics.on_requests([exchange(began=0.0, ended=bound * 1.0001)])
    found = samples(metrics)
    name, labels = "hypoll_request_duration_seconds", ("GET", "/raw/{id}")
    assert found[name + "_bucket", (str(bound), *labels)] == 1
    index = BOUNDS.index(bound)
    if index:
        assert found[name + "_bucket", (str(BOUNDS[index - 1]), *labels)] == 0
    assert found[name + "_bucket", ("+Inf", *labels)] == 2
    assert found[name + "_sum", labels] == pytest.approx(2.0001 * bound)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "malformed"), (408, "timeout"), (413, "body_too_large"), (431, "head_too_large"), (418, "other")],
)
def test_refusals_are_counted_by_reason(metrics, status, reason):
    metrics.on_requests([exchange(None, status=status, end=CloseReason.REFUSED)])
    metrics.on_requests([exchange(status=status)])
    found = {labels: value for (name, labels), value in samples(metrics).items() if name == "hypoll_refusals_total"}
    assert {labels for labels, value in found.items() if value} == {(reason,)}
    assert found[(reason,)] == 1


def test_connections_deadlines_and_waits_are_counted(metrics):
    for _ in range(5):
        metrics.on_open()
    metrics.on_close(CloseReason.CLIENT)
    metrics.on_close(CloseReason.DRAIN)
    metrics.on_close(CloseReason.KEPT)
    metrics.on_shed("full")
    metrics.on_timeout(Timeout.HEAD)
    metrics.on_wait(0.003)
    metrics.on_tick(0.02, Gauges({"idle": 2, "head": 1}, 4, 8, 3, 1000, 2000))
    found = samples(metrics)
    assert found["hypoll_connections_accepted_total", ()] == 5
    assert found["hypoll_connections_closed_total", ("client",)] == 1
    assert sum(value for (name, _), value in found.items() if name == "hypoll_connections_closed_total") == 2
    assert found["hypoll_connections_refused_total", ("full",)] == 1
    assert found["hypoll_timeouts_total", ("head",)] == 1
    assert found["hypoll_timeouts_total", ("idle",)] == 0, "what can be is there from the beginning"
    assert found["hypoll_pool_wait_seconds_sum", ()] == pytest.approx(0.003)
    assert found["hypoll_loop_lag_seconds_bucket", ("0.025",)] == 1
    assert found["hypoll_loop_lag_seconds_bucket", ("0.01",)] == 0
    assert (found["hypoll_pool_queue", ()], found["hypoll_pool_threads", ()]) == (4, 8)
    assert found["hypoll_stream_threads", ()] == 3
    assert (found["hypoll_spool_memory_bytes", ()], found["hypoll_spool_disk_bytes", ()]) == (1000, 2000)
    assert (found["hypoll_connections", ("idle",)], found["hypoll_connections", ("head",)]) == (2, 1)
    metrics.on_tick(0.0, Gauges({"head": 3}))
    found = samples(metrics)
    assert (found["hypoll_connections", ("idle",)], found["hypoll_connections", ("head",)]) == (0, 3)
    assert found["hypoll_pool_queue", ()] == 0


def test_the_server_tells_who_it_is(metrics):
    found = samples(metrics)
    assert found["hypoll_info", (__version__,)] == 1
    assert found["hypoll_workers", ()] == 1


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain; version=", b"\n"),
        ("text/plain", "text/plain; version=", b"\n"),
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "application/openmetrics-text", b"# EOF\n"),
    ],
)
def test_the_format_is_what_the_scraper_accepts(metrics, accept, content_type, end):
    metrics.on_requests([exchange()])
    response = scrape(metrics, accept)
    assert response.content_type is not None
    assert response.content_type.startswith(content_type)
    assert isinstance(response.body, bytes)
    assert response.body.endswith(end)


# bounds


def test_beyond_so_many_series_requests_are_counted_together(metrics):
    for _ in range(2):
        metrics.on_requests([exchange(route=f"/{number}") for number in range(MAX_SERIES + 10)])
    metrics.on_requests([exchange(route="/0")])
    counts = metrics.snapshot().counters[REQUESTS]
    assert len(counts) == MAX_SERIES + 1
    assert (counts["GET", "/0", "200"], counts["other", "other", "other"]) == (3, 20)


def test_methods_nobody_knows_make_no_series(metrics):
    metrics.on_requests([exchange(method=f"M{number}") for number in range(20)])
    assert metrics.snapshot().counters[REQUESTS] == {("other", "/raw/{id}", "200"): 20}


def test_the_metrics_of_the_application_are_in_the_same_scrape(metrics):
    counter = Counter("an_application_s_own", "What it counts.", ["kind"], registry=REGISTRY)
    gauge = Gauge("its_gauge", "What it has.", registry=REGISTRY, multiprocess_mode="livesum")
    histogram = PrometheusHistogram("its_histogram", "How long.", ["kind"], registry=REGISTRY, buckets=(1.0, 2.0))
    try:
        counter.labels("a").inc(3)
        gauge.set(7)
        for value in (0.5, 1.5, 1.5, 3.0):
            histogram.labels("b").observe(value)
        found = samples(metrics)
    finally:
        for metric in (counter, gauge, histogram):
            REGISTRY.unregister(metric)
    assert found["an_application_s_own_total", ("a",)] == 3
    assert found["its_gauge", ()] == 7
    buckets = [found["its_histogram_bucket", ("b", bound)] for bound in ("1.0", "2.0", "+Inf")]
    assert buckets == [1, 3, 4] == [*buckets[:2], found["its_histogram_count", ("b",)]]
    assert found["its_histogram_sum", ("b",)] == 6.5
    assert found["hypoll_workers", ()] == 1
    assert not any(name.startswith("hypoll") and name.endswith("_created") for name, _ in found)


@pytest.mark.parametrize("route", ['/a"b', "/a\\b", "/a\nb", "/100%/{id}", "/%s", "/\u00fc", '/{"le": "0.5"}'])
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_a_route_is_a_label_whatever_is_in_it(metrics, route, accept):
    metrics.on_requests([exchange(route=route)])
    parse = openmetrics_families if accept else text_string_to_metric_families
    found = {
        (sample.name, sample.labels.get("le")): sample.labels["route"]
        for family in parse(scraped(metrics, accept).decode())
        for sample in family.samples
        if "route" in sample.labels
    }
    assert len(found) == 1 + len(BOUNDS) + 1 + 2
    assert set(found.values()) == {route}
    assert list(metrics.snapshot().histograms[DURATION]) == [("GET", route)]


@pytest.mark.parametrize(
    ("durations", "quantiles"),
    [
        ([], (0.0, 0.0)),
        ([0.0008] * 100, (0.00075, 0.000995)),
        ([0.0008] * 98 + [0.8] * 2, (0.0005 + 0.0005 * 50 / 98, 0.75)),
        ([100.0], (10.0, 10.0)),
        ([0.00005], (0.00005, 0.000099)),
    ],
)
def test_quantiles_are_as_fine_as_the_buckets(metrics, durations, quantiles):
    for duration in durations:
        metrics.on_wait(duration)
    (waits,) = metrics.snapshot().histograms[WAIT].values()
    assert isinstance(waits, Histogram)
    assert waits.total == len(durations)
    assert waits.sum == pytest.approx(sum(durations))
    assert (waits.quantile(0.5), waits.quantile(0.99)) == pytest.approx(quantiles)


def test_the_document_has_their_names_and_labels():
    document = (Path(__file__).parent.parent.parent / "docs" / "observing.md").read_text()
    rows = re.findall(r"^\| (`hypoll_[^|]*) \|([^|]*)\|", document, re.MULTILINE)
    documented = {
        name: tuple(re.findall(r"`(\w+)`", row[1])) for row in rows for name in re.findall(r"`(\w+)`", row[0])
    }
    meanings = {f"{name}_total": labels for name, (_, labels) in COUNTERS.items()}
    meanings |= {name: labels for name, (_, labels) in (HISTOGRAMS | GAUGES).items()}
    assert documented == meanings | {STARTED: (), "hypoll_info": ("version",)}
