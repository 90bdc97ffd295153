"""What is counted, and how it adds up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hypoll import metrics as module
from hypoll.contracts import End, Gauges, Timeout
from hypoll.header_section import Section
from hypoll.ledger import Ledger, LedgerFullError, make_directory, remove_directory
from hypoll.message import Request
from hypoll.metrics import BOUNDS, Histogram, Metrics
from hypoll.observe import Record
from hypoll.peer import NOBODY
from hypoll.prometheus import Scrape
from hypoll.version import __version__

from .records import a_record


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


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
def test_a_scrape_never_fails_by_what_it_accepts(accept):
    assert b"hypoll_workers" in scraped(Metrics(), accept)


def samples(metrics: Metrics, accept: str = "") -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scrape gives: values by name and labels' values, in the order of the labels' names."""
    text = scraped(metrics, accept).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(metrics: Metrics, accept: str = "") -> bytes:
    response = Scrape(metrics)(Request("GET", b"/metrics", Section((("accept", accept),))))
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
        metrics.on_exchanges([exchange(**values)])
    found = samples(metrics)
    assert found["hypoll_requests_total", key] == 3
    assert found["hypoll_request_duration_seconds_count", key[:2]] == 3
    assert metrics.snapshot().counts("requests") == {key: 3, ("other", "other", "other"): 0}
    assert b"/raw/17" not in scraped(metrics), "the path itself is no label"


def test_one_that_fails_to_be_counted_costs_no_other(metrics, monkeypatch):
    add = metrics.ledger.cells.add

    def failing(key, width=1, *, gauge=False):
        if "/bad" in key:
            raise MemoryError
        return add(key, width, gauge=gauge)

    monkeypatch.setattr(metrics.ledger.cells, "add", failing)
    key = ("GET", "/raw/{id}", "200")
    for number in range(1, 4):
        with pytest.raises(MemoryError):
            metrics.on_exchanges([exchange(), exchange(route="/bad")])
        assert samples(metrics)["hypoll_requests_total", key] == number


@pytest.mark.parametrize("durations", [[0.00005] * 3, [0.00005, 0.003, 0.3], [20.0, 0.0]])
def test_durations_of_one_turn_are_counted_as_of_many(metrics, durations):
    other = Metrics()
    metrics.on_exchanges([exchange(began=0.0, ended=duration) for duration in durations])
    for duration in durations:
        other.on_exchanges([exchange(began=0.0, ended=duration)])
    found, wanted = (each.snapshot().histograms("duration") for each in (metrics, other))
    assert {key: value.buckets for key, value in found.items()} == {key: value.buckets for key, value in wanted.items()}
    assert found["GET", "/raw/{id}"].sum == pytest.approx(sum(durations))


def test_bytes_are_counted(metrics):
    metrics.on_exchanges([exchange()])
    metrics.on_exchanges([exchange(received=2, sent=3)])
    found = samples(metrics)
    assert (found["hypoll_received_bytes_total", ()], found["hypoll_sent_bytes_total", ()]) == (42, 153)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_duration_is_in_the_bucket_of_its_bound_and_not_below(metrics, bound):
    metrics.on_exchanges([exchange(began=0.0, ended=bound)])
    metrics.on_exchanges([exchange(began=0.0, ended=bound * 1.0001)])
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
    metrics.on_exchanges([exchange(None, status=status, end=End.REFUSED)])
    metrics.on_exchanges([exchange(status=status)])
    found = {labels: value for (name, labels), value in samples(metrics).items() if name == "hypoll_refusals_total"}
    assert {labels for labels, value in found.items() if value} == {(reason,)}
    assert found[(reason,)] == 1


def test_connections_deadlines_and_waits_are_counted(metrics):
    for _ in range(5):
        metrics.on_open()
    metrics.on_close(End.CLIENT)
    metrics.on_close(End.DRAIN)
    metrics.on_close(End.KEPT)
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
    metrics.on_exchanges([exchange()])
    response = Scrape(metrics)(Request("GET", b"/metrics", Section((("accept", accept),))))
    assert response.content_type is not None
    assert response.content_type.startswith(content_type)
    assert isinstance(response.body, bytes)
    assert response.body.endswith(end)


# several processes


@pytest.fixture
def directory() -> Iterator[str]:
    path = make_directory()
    yield path
    remove_directory(path)


def test_one_scrape_gives_the_sum_over_all_workers_and_those_that_died(directory):
    workers = [Metrics(Ledger(directory)) for _ in range(3)]
    for number, worker in enumerate(workers):
        for _ in range(number + 1):
            worker.on_exchanges([exchange()])
        worker.on_tick(0.0, Gauges({"idle": 10**number}))
    labels = ("GET", "/raw/{id}")
    for worker in workers:
        found = samples(worker)
        assert found["hypoll_requests_total", (*labels, "200")] == 6
        assert found["hypoll_request_duration_seconds_count", labels] == 6
        assert found["hypoll_connections", ("idle",)] == 111
        assert found["hypoll_workers", ()] == 3
    workers[0].on_stop()
    found = samples(workers[1])
    assert found["hypoll_requests_total", (*labels, "200")] == 6
    assert found["hypoll_connections", ("idle",)] == 110
    assert found["hypoll_workers", ()] == 2
    for worker in workers[1:]:
        worker.on_stop()
    assert samples(workers[1])["hypoll_requests_total", (*labels, "200")] == 6, "to the end"


# bounds


def test_without_room_for_a_series_requests_are_counted_together(metrics, monkeypatch):
    metrics.on_exchanges([exchange()])

    def full(*_: object, **__: object) -> int:
        raise LedgerFullError

    monkeypatch.setattr(metrics.ledger.cells, "add", full)
    for number in range(10):
        metrics.on_exchanges([exchange(route=f"/{number}")])
    metrics.on_exchanges([exchange()])
    metrics.on_shed("a reason nobody knew")
    metrics.on_tick(0.0, Gauges({"a new phase": 1}))
    assert metrics.snapshot().counts("requests") == {("GET", "/raw/{id}", "200"): 2, ("other", "other", "other"): 10}


def test_what_is_remembered_is_bounded(metrics, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 5)
    for _ in range(2):
        for number in range(20):
            metrics.on_exchanges([exchange(method=f"M{number}")])
    assert len(metrics._counts) == 5
    assert metrics.snapshot().count("requests", "other", "/raw/{id}", "200") == 40


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
    (waits,) = metrics.snapshot().histograms("wait").values()
    assert isinstance(waits, Histogram)
    assert waits.total == len(durations)
    assert waits.sum == pytest.approx(sum(durations))
    assert (waits.quantile(0.5), waits.quantile(0.99)) == pytest.approx(quantiles)
