"""What the settings ask to be observed, put together: one place for every face to get it from."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from hypoll.contracts import Application
from hypoll.option import OptionError
from hypoll.proxy.networks import Networks
from hypoll.settings import Settings
from hypoll.telemetry import shared_counters
from hypoll.telemetry.access_log import AccessLog, open_access_log
from hypoll.telemetry.endpoints import Endpoint, Endpoints, ExchangeKinds, Nothing, ThreadEndpoint, missing
from hypoll.telemetry.health import Check, Health
from hypoll.telemetry.history import History
from hypoll.telemetry.metrics import Counters, Metrics
from hypoll.telemetry.observer import CallsSoon, Observer, Observers, combine_observers
from hypoll.telemetry.status_page import StatusPage

log = logging.getLogger("hypoll.error")


class Telemetry:
    """The observers and endpoints of one process.

    Args:
        loop: whose turns the access log and the metrics follow.
        checks: the application's own, on whether it wants requests.
        extra_observers: further observers, as gunicorn's hooks.
        kinds: what runs endpoints that take long.

    Attributes:
        access_log, metrics: None when they aren't asked for.
        health: notified of start and drain by the server, whether or not it is asked for.
        observers: what the server reports; None: nobody wants to know.

    Raises:
        hypoll.telemetry.log_writer.LogWriterError: For a log that can't be opened.
        ModuleNotFoundError: For metrics without prometheus_client.
        ValueError: For two endpoints of one path, and for a listener of their own where there are none.
    """

    def __init__(
        self,
        settings: Settings,
        loop: CallsSoon,
        *,
        checks: Iterable[Check] = (),
        extra_observers: Iterable[Observer] = (),
        kinds: ExchangeKinds = (None, None),
    ) -> None:
        self.health = Health()
        self._admin_bind = settings.admin_bind
        for check in checks:
            self.health.add_check(check)
        self.endpoints, self.metrics = _endpoints(settings, self.health, kinds, _history(settings))
        self.access_log: AccessLog | None = open_access_log(settings)
        own: tuple[Observer | None, ...] = (self.access_log, self.metrics)
        observers = [*(observer for observer in own if observer is not None), *extra_observers]
        self.observers: Observers | None = combine_observers(observers, loop)
        if self.observers is None and settings.request_id:
            self.observers = Observers(observers, loop)  # nobody is notified, but the connections name the requests

    def wrap(self, application: Application, missing_here: Iterable[str] = ()) -> Application:
        """The application with the endpoints before it; itself when there are none, or when they are elsewhere.

        Args:
            application: of the settings' own listeners.
            missing_here: paths of endpoints that are nothing to it where they are elsewhere.
        """
        endpoints = dict.fromkeys(missing_here, missing) if self._admin_bind else self.endpoints
        return Endpoints(application, endpoints) if endpoints else application

    def admin_application(self) -> Application | None:
        """The endpoints alone, for a listener of their own; None: they have none."""
        return Endpoints(Nothing(list(self.endpoints)), self.endpoints) if self._admin_bind else None

    def close(self) -> None:
        """Close the logs, also of a server that never served. Doing so twice does nothing."""
        if self.access_log is not None:
            self.access_log.on_stop()

    def reopen(self) -> None:
        """Write logs to the files that have their names now: for USR1."""
        if self.access_log is not None:
            self.access_log.reopen()


def validate_telemetry(settings: Settings) -> None:
    """Raise what `Telemetry` would, before processes are forked that all would fail."""
    _endpoints(settings, Health())
    log = open_access_log(settings)
    if log is not None:
        log.on_stop()


def _endpoints(
    settings: Settings, health: Health, kinds: ExchangeKinds = (None, None), history: History | None = None
) -> tuple[dict[str, Endpoint], Metrics | None]:
    """What answers which path, and the metrics, if one of them reports such."""
    wanted: list[tuple[str, Endpoint]] = []
    if settings.health:
        below = settings.health.rstrip("/")
        wanted += [(below + "/live", health.live), (below + "/ready", health.report)]
    metrics = Metrics(_shared_counters(), history) if settings.metrics or settings.status else None
    if settings.metrics and metrics is not None:
        from hypoll.telemetry.prometheus import Scrape  # needs prometheus_client, which serving doesn't

        flush = metrics.flush
        wanted.append((settings.metrics, ThreadEndpoint(lambda request: flush(), Scrape(metrics), kinds)))
    if settings.status and metrics is not None:
        page = StatusPage(metrics, Networks(settings.status_allow))
        below = settings.status.rstrip("/")
        twin = ThreadEndpoint(page.begin_json, page.json, kinds)
        wanted += [(settings.status, page.html), (below + ".json", twin)]
    if settings.admin_bind and not wanted:
        raise OptionError("<admin_bind> has nothing to answer: give <metrics>, <health> or <status>, too")
    found: dict[str, Endpoint] = {}
    for path, endpoint in wanted:
        if path in found:
            raise OptionError(f"two of <metrics>, <health> and <status> answer {path}: give each a path of its own")
        found[path] = endpoint
    return found, metrics


def _history(settings: Settings) -> History | None:
    """What keeps the last minute for the status page."""
    if not settings.status:
        return None
    try:
        return History(shared_counters.directory())
    except OSError as error:
        log.warning("the status page has no history: %s", error)
        return None


def _shared_counters() -> Counters | None:
    """Where several processes count together; None: this one counts alone."""
    directory = shared_counters.directory()
    if directory is None:
        return None
    try:
        from hypoll.telemetry.prometheus import PrometheusCounters  # needs prometheus_client, as above
    except ModuleNotFoundError:  # the status page can report one process without it
        return None
    return PrometheusCounters(directory)
