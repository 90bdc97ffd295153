"""The access log: a line for each request, as text or JSON.

Law: nothing a client sends can end a line, begin a field, or speak to a terminal. Text escapes it, JSON is built by
orjson. A line has at most `select.PIPE_BUF` bytes of what HTTP lets through, so that a pipe takes it whole.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable

import orjson

from hypoll.errorlog import keep
from hypoll.escaping import escape, printable
from hypoll.message import Request, Section
from hypoll.observe import End, Fields, Gauges, Observer, Plain, Record, Series, make_record
from hypoll.outlet import Outlet, open_file, open_standard
from hypoll.settings import Settings

MAX_TARGET = 1024
"""Characters of a target that are logged."""

MAX_FIELD = 256
"""Characters of a User-Agent or Referer that are logged."""

SECTIONS = 128
"""Header sections whose User-Agent and Referer are remembered."""

SHORT = 2000
"""Microseconds below which a duration's text is at hand: there making it would be felt."""

REMEMBERED = 1024
"""Targets whose text is remembered, of at most `REMEMBERED_SIZE` bytes; then all are forgotten."""

REMEMBERED_SIZE = 128

log = logging.getLogger("hypoll.error")

access = logging.getLogger("hypoll.access")
"""Where the lines go instead, as records of level INFO, when a configuration names it and gives it handlers."""

_ENDS = {end: b'"%b"' % end.value.encode() if end.value else b"null" for end in End}
"""Why a connection ends, as JSON."""

Render = Callable[[list[Fields]], list[bytes]]
"""Makes the lines of exchanges that ended in one turn, which has one time."""


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 3] + "..."


def _word(text: str) -> str:
    """For a place without quotes: escaped, no spaces, and `-` for nothing."""
    return escape(text).replace(" ", "\\x20") or "-"


class _Clock:
    """The time of day (UTC) as text, the part down to the second made once a second. `form` is for `time.strftime`."""

    def __init__(self, form: str, clock: Callable[[], float]) -> None:
        self._form = form
        self._clock = clock
        self._second = -1
        self._text = ""

    def read(self) -> tuple[str, int]:
        """The text of this second, and the milliseconds."""
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._text = time.strftime(self._form, time.gmtime(second))
        return self._text, int((now - second) * 1000)


class _Targets(dict[bytes, str]):
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


class _Fields(dict[Section, str]):
    """One field of header sections, made fit to be logged once for each. Of one sent twice the last."""

    def __init__(self, name: str, clean: Callable[[str], str]) -> None:
        self._name = name
        self._clean = clean

    def __missing__(self, section: Section) -> str:
        value = ""
        for name, each in section.fields:
            if name == self._name:
                value = each
        text = self._clean(_cut(value, MAX_FIELD))
        if section.shared:  # of one that won't come again, the whole head would be kept
            if len(self) >= SECTIONS:
                self.clear()
            self[section] = text
        return text


def text_render(clock: Callable[[], float] = time.time) -> Render:
    """Lines in the combined format, then the duration in seconds, then the request's id.

    The size is that of the answer on the wire, head included.
    """
    read = _Clock("%d/%b/%Y:%H:%M:%S +0000", clock).read
    agents, referers = _Fields("user-agent", escape), _Fields("referer", escape)
    targets = _Targets(lambda target: escape(_cut(target.decode("latin-1"), MAX_TARGET)))

    def render(exchanges: list[Fields]) -> list[bytes]:
        lines = []
        moment = read()[0]
        for fields in exchanges:
            request, _, _, status, _, _, sent, began, _, _, ended, _, head, _ = fields
            record = make_record(fields)
            line, agent, referer = "-", "", ""
            if request is not None:
                line = f"{request.method} {targets[request.target]} HTTP/1.{request.minor}"
                agent, referer = agents[request.section], referers[request.section]
            text = (
                f'{_word(record.client)} - - [{moment}] "{line}" {status} {max(0, sent - head)} '
                f'"{referer or "-"}" "{agent or "-"}" {ended - began:.6f} {_word(record.id)}\n'
            )
            lines.append(text.encode())
        return lines

    return render


class _Fixed(dict[tuple[bytes, str, str, str, int, str], bytes]):
    """What the lines of requests have in common that differ in numbers only, by what it is made of.

    Text of clients gets into a line by orjson alone, and only here. A header section is no part of the key: it would be
    kept with all its fields, however many, for as long as the line.
    """

    def __missing__(self, key: tuple[bytes, str, str, str, int, str]) -> bytes:
        target, agent, method, route, status, client = key
        path = target.partition(b"?")[0].decode("latin-1")
        text = _json(
            {
                "method": method,
                "path": printable(_cut(path, MAX_TARGET)),
                "route": route or None,
                "status": status,
                "client": client or None,
                "user_agent": agent or None,
            }
        )
        if len(target) <= REMEMBERED_SIZE:
            if len(self) >= REMEMBERED:
                self.clear()
            self[key] = text
        return text


def _json(document: dict[str, object]) -> bytes:
    """The members of a JSON object, without its braces."""
    try:
        text = orjson.dumps(document)
    except TypeError:  # a lone surrogate, which no client can send in what isn't made printable
        clean = {key: printable(value) if isinstance(value, str) else value for key, value in document.items()}
        text = orjson.dumps(clean)
    return text[1:-1]


def _string(text: str) -> bytes:
    """A text as JSON; null for an empty one."""
    return orjson.dumps(printable(text) or None)


def _milliseconds(microseconds: int) -> bytes:
    return b"%d.%03d" % divmod(microseconds, 1000)


_MILLISECONDS = [_milliseconds(number) for number in range(SHORT)]


class JSONLines:
    """Lines of JSON: times in milliseconds, sizes in bytes on the wire, heads included; null for what there isn't."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._read = _Clock("%Y-%m-%dT%H:%M:%S", clock).read
        self._fixed = _Fixed()
        self._agents = _Fields("user-agent", printable)

    def __call__(self, exchanges: list[Fields]) -> list[bytes]:
        """The lines of a turn's exchanges."""
        begin = self._begin()
        return [begin + self._general(make_record(fields)) for fields in exchanges]

    def plain(self, exchanges: list[Plain], began: float) -> list[bytes]:
        """The same of those in the short form."""
        # Much of what observing costs is here, so a line is joined of what is known of its like, and its own numbers,
        # to microseconds. The benchmark's row of all observers holds it.
        lines = []
        begin = self._begin()
        for series, name, received, sent, called, returned, ended in exchanges:
            if sent == series.sent and received == series.received:
                known = series.beginning
            else:
                known = self._beginning(series, received, sent)
            handler, duration = int((returned - called) * 1e6 + 0.5), int((ended - began) * 1e6 + 0.5)
            line = (
                begin, known, name if name.isalnum() else _string(name.decode())[1:-1],
                b'","handler_ms":', _MILLISECONDS[handler] if handler < SHORT else _milliseconds(handler),
                b',"duration_ms":', _MILLISECONDS[duration] if duration < SHORT else _milliseconds(duration),
                b',"close":null}\n',
            )  # fmt: skip
            lines.append(b"".join(line))
        return lines

    def _begin(self) -> bytes:
        second, milliseconds = self._read()
        return b'{"time":"%b.%03dZ",' % (second.encode(), milliseconds)

    def _beginning(self, series: Series, received: int, sent: int) -> bytes:
        """What the line of an exchange has before its id. It is kept for the next of these sizes."""
        key = series.target, self._agents[series.section], series.method, series.route, 200, series.client
        known = b'%b,"received":%d,"sent":%d,"request_id":"' % (self._fixed[key], received, sent)
        series.beginning, series.received, series.sent = known, received, sent
        return known

    def _general(self, record: Record) -> bytes:
        """A line, without its time."""
        request, route, status, client, name = record.request, record.route, record.status, record.client, record.id
        if request is None:
            nothing = {"method": None, "path": None, "route": route or None, "status": status}
            known = _json({**nothing, "client": client or None, "user_agent": None})
        else:
            agent = self._agents[request.section]
            known = self._fixed[request.target, agent, request.method, route, status, client]
        # Letters and digits are the same in JSON.
        identity = b'"%b"' % name.encode() if name.isalnum() and name.isascii() else _string(name)
        handler = _milliseconds(int((record.returned - record.called) * 1e6 + 0.5)) if record.called else b"null"
        duration = _milliseconds(int((record.ended - record.began) * 1e6 + 0.5))
        return b'%b,"received":%d,"sent":%d,"request_id":%b,"handler_ms":%b,"duration_ms":%b,"close":%b}\n' % (
            known, record.received, record.sent, identity, handler, duration, _ENDS[record.end],
        )  # fmt: skip


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

    naming = True

    def __init__(self, outlet: Outlet, render: Render | JSONLines, skip: Iterable[str] = ()) -> None:
        self.outlet = outlet
        # Text tells more of a request than its series does.
        self._plain = render.plain if isinstance(render, JSONLines) else None
        self.asking = self._plain is None
        self._render = render
        self._skip = tuple(path.rstrip("/").encode() for path in skip)

    def on_exchanges(self, exchanges: list[Fields]) -> None:
        """Log them, but those whose path is to be skipped."""
        if self._skip:
            exchanges = [exchange for exchange in exchanges if not self._skips(exchange[0])]
        self._put(self._render(exchanges))
        self.outlet.drain()

    def _put(self, lines: list[bytes]) -> None:
        """Write the lines; where a configuration has given the logger handlers, they are records."""
        if access.handlers:
            for line in lines:
                access.info("%s", line.rstrip(b"\n").decode())
        else:
            self.outlet.put_all(lines)

    def on_turn(self, exchanges: list[Fields], plain: list[Plain], began: float) -> None:
        """Log all of them, by one write."""
        if self._plain is not None:
            if self._skip:
                plain = [exchange for exchange in plain if not self._skips(exchange[0])]
            self._put(self._plain(plain, began))
        self.on_exchanges(exchanges)

    def on_tick(self, lag: float, gauges: Gauges) -> None:
        """Try again what could not be written; follow a file that was renamed."""
        self.outlet.retry()

    def on_stop(self) -> None:
        """Write the rest, for up to a second."""
        self.outlet.close()

    def reopen(self) -> None:
        """Write to the file that has the name now: for USR1, after a rotation."""
        self.outlet.reopen()

    def _skips(self, request: Request | Series | None) -> bool:
        if request is None or not request.target.startswith(self._skip):
            return False
        path = request.target.partition(b"?")[0]
        return any(path == skip or path.startswith(skip + b"/") for skip in self._skip)


def open_access_log(settings: Settings) -> AccessLog | None:
    """The access log the settings ask for; None: there is to be none. Raises `hypoll.outlet.OutletError`."""
    form = _form(settings)
    if form == "off":
        return None
    keep(access)  # one that was given handlers isn't disabled by a later configuration that doesn't name it
    sink = open_standard(1) if settings.access_log_file == "-" else open_file(settings.access_log_file)
    notice = dropped_json if form == "json" else dropped_text
    render = JSONLines() if form == "json" else text_render()
    return AccessLog(Outlet(sink, notice, _failing(settings)), render, settings.access_log_skip)


def _form(settings: Settings) -> str:
    """`auto` is text where somebody looks, or where a file or the logger was named."""
    if settings.access_log != "auto":
        return settings.access_log
    return "text" if settings.access_log_file != "-" or access.handlers or _is_terminal() else "off"


def _is_terminal() -> bool:
    return sys.__stdout__ is not None and not sys.__stdout__.closed and sys.__stdout__.isatty()


def _failing(settings: Settings) -> Callable[[OSError], None]:
    where = "standard output" if settings.access_log_file == "-" else settings.access_log_file

    def tell(error: OSError) -> None:
        log.warning("the access log can't be written to %s: %s; it is tried again every second", where, error.strerror)

    return tell
