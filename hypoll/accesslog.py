"""The access log: a line for each request, as text or JSON.

Law: nothing a client sends can end a line, begin a field, or speak to a terminal. Text escapes it, JSON is built by
orjson. A line has at most `select.PIPE_BUF` bytes of what HTTP lets through, so that a pipe takes it whole.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import orjson

from hypoll.escaping import escape, printable
from hypoll.message import Request, Section
from hypoll.observe import End, Exchange, Gauges, Observer
from hypoll.outlet import Outlet, open_file, open_standard
from hypoll.settings import Settings

MAX_TARGET = 1024
"""Characters of a target that are logged."""

MAX_FIELD = 256
"""Characters of a User-Agent or Referer that are logged."""

SECTIONS = 128
"""Header sections whose User-Agent and Referer are remembered."""

REMEMBERED = 1024
"""Targets whose text is remembered, of at most `REMEMBERED_SIZE` bytes; then all are forgotten."""

REMEMBERED_SIZE = 128

log = logging.getLogger("hypoll.error")

Render = Callable[[Exchange], bytes]


class Soon(Protocol):
    """What is asked of a loop: to call later in the same turn."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call when the events of this turn are through."""


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 3] + "..."


def _word(text: str) -> str:
    """For a place without quotes: escaped, no spaces, and `-` for nothing."""
    return escape(text).replace(" ", "\\x20") or "-"


class _Clock:
    """The time of day as text, made once for all lines of a millisecond or more.

    form: for `time.strftime`, in UTC. digits: a format for the milliseconds behind it.
    """

    def __init__(self, form: str, digits: str, clock: Callable[[], float]) -> None:
        self._form = form
        self._digits = digits
        self._clock = clock
        self._last = -1
        self._second = -1
        self._text = ""
        self._upper = ""

    def read(self, ended: float) -> str:
        """The time of day now; `ended`, of the loop's clock, tells that it is the same as the last time."""
        last = int(ended * 1000)
        if last != self._last:
            self._last = last
            now = self._clock()
            second = int(now)
            if second != self._second:
                self._second = second
                self._upper = time.strftime(self._form, time.gmtime(second))
            self._text = self._upper + self._digits.format(int((now - second) * 1000))
        return self._text


class _Memory(dict[bytes, str]):
    """Texts of targets, for those that repeat."""

    def __init__(self, make: Callable[[bytes], str]) -> None:
        self._make = make

    def __missing__(self, target: bytes) -> str:
        text = self._make(target)
        if len(target) <= REMEMBERED_SIZE:
            if len(self) >= REMEMBERED:
                self.clear()
            self[target] = text
        return text


class _Fields:
    """User-Agent and Referer of header sections, made fit to be logged once for each."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._known: dict[Section, tuple[str, str]] = {}

    def of(self, request: Request) -> tuple[str, str]:
        """(user agent, referer), empty where there is none. Of a field sent twice the last."""
        section = request.section
        known = self._known.get(section)
        if known is None:
            if len(self._known) >= SECTIONS:
                self._known.clear()
            known = self._known[section] = self._find(section)
        return known

    def _find(self, section: Section) -> tuple[str, str]:
        fields = {name: value for name, value in section.fields if name in ("user-agent", "referer")}
        agent, referer = (self._clean(_cut(fields.get(name, ""), MAX_FIELD)) for name in ("user-agent", "referer"))
        return agent, referer


def text_render(clock: Callable[[], float] = time.time) -> Render:
    """Lines in the combined format, then the duration in seconds, then the request's id.

    The size is that of the answer on the wire, head included.
    """
    stamp = _Clock("%d/%b/%Y:%H:%M:%S +0000", "", clock).read
    fields = _Fields(escape).of
    targets = _Memory(lambda target: escape(_cut(target.decode("latin-1"), MAX_TARGET)))

    def render(exchange: Exchange) -> bytes:
        request, peer, _, status, _, _, sent, began, _, _, ended, _ = exchange
        if request is None:
            line, agent, referer, identity = "-", "", "", "-"
        else:
            line = f"{request.method} {targets[request.target]} HTTP/1.{request.minor}"
            agent, referer = fields(request)
            identity = _word(request.id)
        text = (
            f'{_word(peer.client[0])} - - [{stamp(ended)}] "{line}" {status} {sent} '
            f'"{referer or "-"}" "{agent or "-"}" {ended - began:.6f} {identity}\n'
        )
        return text.encode()

    return render


def json_render(clock: Callable[[], float] = time.time) -> Render:
    """Lines of JSON: times in milliseconds, sizes in bytes on the wire, heads included; null for what there isn't."""
    stamp = _Clock("%Y-%m-%dT%H:%M:%S", ".{:03d}Z", clock).read
    fields = _Fields(printable).of
    paths = _Memory(lambda target: printable(_cut(target.partition(b"?")[0].decode("latin-1"), MAX_TARGET)))

    def render(exchange: Exchange) -> bytes:
        # The log's whole cost is here: the benchmark's row of all observers holds it.
        request, peer, _, status, route, received, sent, began, called, returned, ended, end = exchange
        client = peer.client[0]
        identity = None if request is None else request.id
        document = {
            "time": stamp(ended),
            "method": None if request is None else request.method,
            "path": None if request is None else paths[request.target],
            "route": route or None,
            "status": status,
            "received": received,
            "sent": sent,
            # To microseconds: what follows is noise.
            "handler_ms": int((returned - called) * 1e6 + 0.5) / 1000 if called else None,
            "duration_ms": int((ended - began) * 1e6 + 0.5) / 1000,
            "client": (client if client.isprintable() else printable(client)) or None,
            "request_id": identity if identity is None or identity.isprintable() else printable(identity),
            "user_agent": None if request is None else fields(request)[0] or None,
            "close": None if end is End.KEPT else end.value,
        }
        try:
            return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # a lone surrogate in a route's pattern
            document["route"] = printable(route)
            return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    return render


def dropped_text(count: int) -> bytes:
    """The line of a text log that tells of lines that are missing."""
    return b"# %d lines were dropped here: the log was too slow\n" % count


def dropped_json(count: int) -> bytes:
    """The line of a JSON log that tells of lines that are missing."""
    return orjson.dumps({"dropped": count}, option=orjson.OPT_APPEND_NEWLINE)


class AccessLog(Observer):
    """Writes a line for each exchange, those of one turn of the loop together.

    skip: paths that aren't logged, nor what is below them.
    """

    def __init__(self, loop: Soon, outlet: Outlet, render: Render, skip: Iterable[str] = ()) -> None:
        self.outlet = outlet
        self._call_soon = loop.call_soon
        self._render = render
        self._planned = False
        self._skip = tuple(path.rstrip("/").encode() for path in skip)

    def on_exchange(self, exchange: Exchange) -> None:
        """Log it, unless its path is to be skipped."""
        if self._skip and exchange.request is not None and self._skips(exchange.request.target):
            return
        self.outlet.put(self._render(exchange))
        if not self._planned:
            self._planned = True
            self._call_soon(self._write)

    def on_tick(self, lag: float, gauges: Gauges) -> None:
        """Try again what could not be written; follow a file that was renamed."""
        self.outlet.retry()

    def on_stop(self) -> None:
        """Write the rest, for up to a second."""
        self.outlet.close()

    def reopen(self) -> None:
        """Write to the file that has the name now: for USR1, after a rotation."""
        self.outlet.reopen()

    def _write(self) -> None:
        self._planned = False
        self.outlet.drain()

    def _skips(self, target: bytes) -> bool:
        if not target.startswith(self._skip):
            return False
        path = target.partition(b"?")[0]
        return any(path == skip or path.startswith(skip + b"/") for skip in self._skip)


def open_access_log(settings: Settings, loop: Soon) -> AccessLog | None:
    """The access log the settings ask for; None: there is to be none. Raises `hypoll.outlet.OutletError`."""
    form = _form(settings)
    if form == "off":
        return None
    sink = open_standard(1) if settings.access_log_file == "-" else open_file(settings.access_log_file)
    notice = dropped_json if form == "json" else dropped_text
    render = json_render() if form == "json" else text_render()
    return AccessLog(loop, Outlet(sink, notice, _failing(settings)), render, settings.access_log_skip)


def _form(settings: Settings) -> str:
    """`auto` is text where somebody looks, or where a file was named."""
    if settings.access_log != "auto":
        return settings.access_log
    return "text" if settings.access_log_file != "-" or _is_terminal() else "off"


def _is_terminal() -> bool:
    return sys.__stdout__ is not None and not sys.__stdout__.closed and sys.__stdout__.isatty()


def _failing(settings: Settings) -> Callable[[OSError], None]:
    where = "standard output" if settings.access_log_file == "-" else settings.access_log_file

    def tell(error: OSError) -> None:
        log.warning("the access log can't be written to %s: %s; it is tried again every second", where, error.strerror)

    return tell
