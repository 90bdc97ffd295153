"""The access log: a line for each request, as text or JSON.

Law: nothing a client sends can end a line, begin a field, or speak to a terminal. Text escapes it, JSON is built by
orjson. A line has at most `select.PIPE_BUF` bytes of what HTTP lets through, so that a pipe takes it whole.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable

from orjson import OPT_APPEND_NEWLINE, dumps

from hypoll.contracts import Gauges
from hypoll.protocol.current_request import trace_of
from hypoll.protocol.escaping import escape, printable
from hypoll.protocol.header_section import BLANKS, REFERER, TRACEPARENT, USER_AGENT
from hypoll.protocol.messages import Request
from hypoll.protocol.request_id import trace_context
from hypoll.settings import Settings
from hypoll.telemetry.error_log import keep
from hypoll.telemetry.log_writer import LogWriter, open_file, open_standard
from hypoll.telemetry.observer import Observer, Record, SocketRecord

MAX_TARGET = 1024
"""Characters of a target that are logged."""

MAX_FIELD = 256
"""Characters of a User-Agent or Referer that are logged."""

log = logging.getLogger("hypoll.error")

access = logging.getLogger("hypoll.access")
"""Where the lines go instead, as records of level INFO, when a configuration names it and gives it handlers."""

Render = Callable[[list[Record]], list[bytes]]
"""Makes the lines of exchanges that ended in one turn, which has one time."""

RenderSocket = Callable[[SocketRecord, str], bytes]
"""Makes the line of a WebSocket that has ended, at a time."""


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


def _text_clock(clock: Callable[[], float]) -> Callable[[], str]:
    read = _Clock("%d/%b/%Y:%H:%M:%S +0000", clock).read
    return lambda: read()[0]


def _json_clock(clock: Callable[[], float]) -> Callable[[], str]:
    read = _Clock("%Y-%m-%dT%H:%M:%S", clock).read

    def moment() -> str:
        second, milliseconds = read()
        return f"{second}.{milliseconds:03}Z"

    return moment


def _field(record: Record, number: int) -> str:
    """A field of the request, as it is to be logged but for what its form needs. Of one sent twice the last."""
    request = record.request
    return "" if request is None else _cut(request.header_section.last_value(number) or "", MAX_FIELD)


def text_render(clock: Callable[[], float] = time.time) -> Render:
    """Lines in the combined format, then the duration in seconds, then the request's id, and the ids of its trace and
    span if it has such.

    The size is that of the answer on the wire, head included.
    """
    read = _text_clock(clock)

    def render(records: list[Record]) -> list[bytes]:
        lines = []
        moment = read()
        for record in records:
            request, line = record.request, "-"
            if request is not None:
                target = escape(_cut(request.target.decode("latin-1"), MAX_TARGET))
                line = f"{request.method} {target} HTTP/1.{request.minor}"
            referer, agent = escape(_field(record, REFERER)), escape(_field(record, USER_AGENT))
            text = (
                f'{_word(record.client)} - - [{moment}] "{line}" {record.status} {max(0, record.sent - record.head)} '
                f'"{referer or "-"}" "{agent or "-"}" {record.ended - record.began:.6f} {_word(record.id)}'
            )
            trace = None if request is None else trace_of(request)
            text += "\n" if trace is None else f" {trace[0]} {trace[1]}\n"
            lines.append(text.encode())
        return lines

    return render


def json_render(clock: Callable[[], float] = time.time) -> Render:
    """Lines of JSON: times in milliseconds, sizes in bytes on the wire, heads included; null for what there isn't."""
    read = _json_clock(clock)

    def render(records: list[Record]) -> list[bytes]:
        moment = read()
        try:
            return [dumps(_members(record, moment), option=OPT_APPEND_NEWLINE) for record in records]
        except TypeError:  # a lone surrogate, which no client can send in what isn't made printable
            return [_json(_members(record, moment)) for record in records]

    return render


def text_socket_line(record: SocketRecord, moment: str) -> bytes:
    """A line of the same form for a WebSocket that has ended: its path, its code, and what went over it."""
    request, traffic = record.request, record.traffic
    target = escape(_cut(request.target.decode("latin-1"), MAX_TARGET))
    agent = escape(_cut(request.header_section.last_value(USER_AGENT) or "", MAX_FIELD))
    counts = f"{traffic.messages_received} in, {traffic.messages_sent} out"
    return (
        f'{_word(request.client[0])} - - [{moment}] "WEBSOCKET {target} {counts}" {record.code} {traffic.sent} '
        f'"-" "{agent or "-"}" {record.ended - record.began:.6f} {_word(request.id)}\n'
    ).encode()


def json_socket_line(record: SocketRecord, moment: str) -> bytes:
    """A line of JSON for a WebSocket that has ended."""
    request, traffic = record.request, record.traffic
    agent = request.header_section.last_value(USER_AGENT)
    return _json(
        {
            "time": moment,
            "event": "websocket",
            "path": _printable(request.target.partition(b"?")[0].decode("latin-1"), MAX_TARGET),
            "route": record.route or None,
            "client": request.client[0] or None,
            "user_agent": _printable(agent, MAX_FIELD) if agent else None,
            "request_id": request.id,
            "close_code": record.code,
            "close_reason": _printable(record.reason, MAX_FIELD) or None,
            **traffic._asdict(),
            "duration_ms": int((record.ended - record.began) * 1e6 + 0.5) / 1e3,
        }
    )


def _printable(text: str, size: int) -> str:
    """The text as it is, as nearly always; else cut, and fit for a terminal."""
    return text if len(text) <= size and text.isprintable() else printable(_cut(text, size))


def _members(record: Record, moment: str) -> dict[str, object]:
    request = record.request
    method = path = agent = milliseconds = trace_id = span_id = None
    if request is None:
        client, name = record.peer.client[0], record.name.decode()
    else:
        method, client, name = request.method, request.client[0], (request._id or request.assign_id()).decode()
        # Nearly all paths and names of programs are printable: that is seen here, and `_printable` not called.
        path = request.target.partition(b"?")[0].decode("latin-1")
        if len(path) > MAX_TARGET or not path.isprintable():
            path = _printable(path, MAX_TARGET)
        noted = request.header_section.indexed
        value = noted.get(USER_AGENT)
        if value is not None:
            agent = value.strip(BLANKS).decode("latin-1")  # `last_value`, without a call
        elif USER_AGENT in noted:
            agent = request.header_section.last_value(USER_AGENT)
        if agent and (len(agent) > MAX_FIELD or not agent.isprintable()):
            agent = _printable(agent, MAX_FIELD)
        value = noted.get(TRACEPARENT)
        if value is not None:
            trace_id, span_id = trace_context(value.strip(BLANKS)) or (None, None)
        if request.called:
            # Whole microseconds: a fifth of the time that `round` to three places takes.
            milliseconds = int((request.returned - request.called) * 1e6 + 0.5) / 1e3
    return {
        "time": moment,
        "method": method,
        "path": path,
        "route": record.route or None,
        "status": record.status,
        "client": client or None,
        "user_agent": agent or None,
        "received": record.received,
        "sent": record.sent,
        "request_id": name or None,
        "trace_id": trace_id,
        "span_id": span_id,
        "handler_ms": milliseconds,
        "duration_ms": int((record.ended - record.began) * 1e6 + 0.5) / 1e3,
        "close": record.end or None,
    }


def _json(document: dict[str, object]) -> bytes:
    """A line, whatever its text."""
    clean = {key: printable(value) if isinstance(value, str) else value for key, value in document.items()}
    return dumps(clean, option=OPT_APPEND_NEWLINE)


def dropped_text(count: int) -> bytes:
    """The line of a text log that reports lines that are missing."""
    return b"# %d lines were dropped here: the log was too slow\n" % count


def dropped_json(count: int) -> bytes:
    """The line of a JSON log that reports lines that are missing."""
    return dumps({"dropped": count}, option=OPT_APPEND_NEWLINE)


class AccessLog(Observer):
    """Writes a line for each exchange, those of one turn of the loop together.

    Args:
        skip: paths that aren't logged, nor what is below them.
        as_json: whether WebSockets are logged as JSON.
    """

    def __init__(
        self, log_writer: LogWriter, render: Render, skip: Iterable[str] = (), *, as_json: bool = False
    ) -> None:
        self.log_writer = log_writer
        self._render = render
        self._render_socket: RenderSocket = json_socket_line if as_json else text_socket_line
        self._moment = _json_clock(time.time) if as_json else _text_clock(time.time)
        self._skip = tuple(path.rstrip("/").encode() for path in skip)

    def on_requests(self, records: list[Record]) -> None:
        """Log them by one write, but those whose path is to be skipped."""
        if self._skip:
            records = [record for record in records if not self._skips(record.request)]
        self._put(self._render(records))
        self.log_writer.drain()

    def on_sockets(self, records: list[SocketRecord]) -> None:
        """Log the WebSockets that have ended, but those whose path is to be skipped."""
        moment = self._moment()
        self._put([self._render_socket(record, moment) for record in records if not self._skips(record.request)])
        self.log_writer.drain()

    def _put(self, lines: list[bytes]) -> None:
        """Write the lines; where a configuration has given the logger handlers, they are records."""
        if access.handlers:
            for line in lines:
                access.info("%s", line.rstrip(b"\n").decode())
        else:
            self.log_writer.put_all(lines)

    def on_tick(self, lag: float, gauges: Gauges) -> None:
        """Try again what could not be written; follow a file that was renamed."""
        self.log_writer.retry()

    def on_stop(self) -> None:
        """Write the rest, for up to a second."""
        self.log_writer.close()

    def reopen(self) -> None:
        """Write to the file that has the name now: for USR1, after a rotation."""
        self.log_writer.reopen()

    def _skips(self, request: Request | None) -> bool:
        if request is None or not request.target.startswith(self._skip):
            return False
        path = request.target.partition(b"?")[0]
        return any(path == skip or path.startswith(skip + b"/") for skip in self._skip)


def open_access_log(settings: Settings) -> AccessLog | None:
    """The access log the settings ask for; None: there is to be none. Raises
    `hypoll.telemetry.log_writer.LogWriterError`.
    """
    form = _form(settings)
    if form == "off":
        return None
    keep(access)  # one that was given handlers isn't disabled by a later configuration that doesn't name it
    sink = open_standard(1) if settings.access_log_file == "-" else open_file(settings.access_log_file)
    notice = dropped_json if form == "json" else dropped_text
    render = json_render() if form == "json" else text_render()
    log_writer = LogWriter(sink, notice, _failing(settings))
    return AccessLog(log_writer, render, settings.access_log_skip, as_json=form == "json")


def _form(settings: Settings) -> str:
    """`auto` is text, unless it would go where nobody can read it."""
    if settings.access_log != "auto":
        return settings.access_log
    return "text" if settings.access_log_file != "-" or access.handlers or not _is_discarded(1) else "off"


def _is_discarded(fd: int) -> bool:
    """Whether what is written to a descriptor is thrown away: it is /dev/null (null(4)), or closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return True
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL


_NULL = os.makedev(1, 3)


def _failing(settings: Settings) -> Callable[[OSError], None]:
    where = "standard output" if settings.access_log_file == "-" else settings.access_log_file

    def report(error: OSError) -> None:
        log.warning("the access log can't be written to %s: %s; it is tried again every second", where, error.strerror)

    return report
