"""Lines of the access log: their form, and that no client can forge one."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from hypoll.contracts import CloseReason, Gauges
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request
from hypoll.protocol.peer import Peer
from hypoll.settings import Settings
from hypoll.telemetry import access_log as telemetry_access_log
from hypoll.telemetry.access_log import (
    AccessLog,
    dropped_json,
    dropped_text,
    json_render,
    open_access_log,
    text_render,
)
from hypoll.telemetry.log_writer import LogWriter, LogWriterError, Sink
from hypoll.telemetry.observer import Record
from tests.support.records import a_record

TIME = 1_700_000_000.25  # 2023-11-14 22:13:20.25 UTC

COMBINED = re.compile(
    r'(\S+) - - \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+) '
    r'"((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)" (\d+\.\d{6}) (\S+)\n'
)


def request(target: str = "/", *fields: tuple[str, str], method: str = "GET") -> Request:
    section = HeaderSection(fields)
    made = Request(method, target.encode("latin-1"), section)
    made._id = b"0123456789abcdef"
    return made


def exchange(of: Request | None = None, client: str = "192.0.2.7", **values: Any) -> Record:
    known = {"status": 200, "route": "/", "received": 40, "sent": 150, "began": 5.0, "called": 5.001}
    known |= {"returned": 5.0035, "ended": 5.004123}
    peer = Peer((client, 1234))
    if of is not None:
        of.peer = peer
    return a_record(of, peer, None, **{**known, **values})


def text(of: Record) -> str:
    (line,) = text_render(lambda: TIME)([of])
    return line.decode()


def document(of: Record) -> dict[str, Any]:
    (line,) = json_render(lambda: TIME)([of])
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    return json.loads(line)  # type: ignore[no-any-return]


def test_a_text_line_is_the_combined_format_and_the_duration():
    made = request("/a?b=c", ("referer", "http://r/"), ("host", "h"), ("user-agent", "curl/8"))
    assert text(exchange(made)) == (
        '192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] "GET /a?b=c HTTP/1.1" 200 150 "http://r/" "curl/8" '
        "0.004123 0123456789abcdef\n"
    )


def test_what_there_is_none_of_is_a_dash():
    assert text(exchange(client="", status=400)) == (
        '- - - [14/Nov/2023:22:13:20 +0000] "-" 400 150 "-" "-" 0.004123 -\n'
    )


def test_a_json_line_has_it_all():
    made = request("/users/7?secret=1", ("user-agent", "curl/8"))
    assert document(exchange(made, route="/users/{id:int}", end=CloseReason.CLIENT)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "method": "GET",
        "path": "/users/7",
        "route": "/users/{id:int}",
        "status": 200,
        "received": 40,
        "sent": 150,
        "handler_ms": 2.5,
        "duration_ms": 4.123,
        "client": "192.0.2.7",
        "request_id": "0123456789abcdef",
        "trace_id": None,
        "span_id": None,
        "user_agent": "curl/8",
        "close": "client",
    }


def test_what_there_is_none_of_is_null():
    found = document(exchange(client="", status=400, route="", called=0.0, returned=0.0))
    missing = ["method", "path", "route", "handler_ms", "client", "request_id", "user_agent", "close"]
    missing += ["trace_id", "span_id"]
    assert {key for key, value in found.items() if value is None} == set(missing)


def test_the_second_is_told_anew_when_it_is_over():
    now = [TIME]
    render = text_render(lambda: now[0])
    assert b"22:13:20" in render([exchange()])[0]
    now[0] += 1
    assert b"22:13:21" in render([exchange()])[0]


def test_the_milliseconds_are_told_anew_when_they_are_over():
    now = [TIME]
    render = json_render(lambda: now[0])
    for later in (0.0002, 0.0004, 0.0013, 0.0105):
        now[0] = TIME + later
        moment = json.loads(render([exchange()])[0])["time"]
        assert moment == f"2023-11-14T22:13:20.{250 + int(later * 1000)}Z"


FORGED = [
    'a" 200 1 "-" "-',
    "a\\",
    'a\\"',
    'a\r\n127.0.0.1 - - [x] "GET /forged HTTP/1.1" 200 1',
    'a"}\n{"time":"2023-11-14T22:13:20.250Z","path":"/forged"}',
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\x00\x01\x7f\x80\x9f\xad",
    "\u2028\u2029\u202e",
    "\ud800",
    "\U0001f600",
    "ünï",
    "\t",
    " ",
    "a" * 100_000,
    '"' * 100_000,
]


@pytest.mark.parametrize("value", FORGED, ids=lambda value: ascii(value)[:24])
@pytest.mark.parametrize("field", ["user-agent", "referer", "id", "client", "target", "route"])
def test_nothing_a_client_sends_forges_a_line_or_a_field(field, value):
    made = request("/", ("user-agent", "u"), ("referer", "r"))
    record = exchange(made)
    if field in ("user-agent", "referer"):
        made.header_section = HeaderSection(((field, value),))
    elif field == "id":
        made._id = value.encode("utf-8", "replace")
    elif field == "target":
        made.target = b"/" + value.encode("utf-8", "surrogatepass")
    elif field == "client":
        made.peer = Peer((value, 1))
    else:
        record.route = value
    line = text(record)
    match = COMBINED.fullmatch(line)
    assert match, line[:300]
    assert match[2] == "14/Nov/2023:22:13:20 +0000"
    assert (match[4], match[5], match[8]) == ("200", "150", "0.004123")
    assert line.isascii()
    assert line[:-1].isprintable()
    written = json_render(lambda: TIME)([record])[0].decode()
    if field in ("user-agent", "referer", "target"):
        assert written[:-1].isprintable(), "what the client chooses is fit for a terminal"
    assert not re.search(r"[\x00-\x1f]", written[:-1])
    assert json.loads(written)["status"] == 200
    assert json.loads(written).keys() == document(exchange()).keys()
    if field in ("user-agent", "referer", "target") and value.isascii() and value.isprintable():
        assert max(len(line), len(written)) <= select.PIPE_BUF


def test_a_line_of_all_that_http_lets_through_fits_the_atomic_size_of_a_pipe():
    made = request("/" + '"\\' * 8000, ("user-agent", '"\xff' * 4000), ("referer", '\\"' * 4000))
    assert len(text(exchange(made))) <= select.PIPE_BUF
    assert len(json_render()([exchange(made)])[0]) <= select.PIPE_BUF


def test_of_a_field_sent_twice_the_last_is_logged_and_a_long_one_is_cut():
    made = request("/", ("user-agent", "one"), ("user-agent", "x" * 1000))
    assert document(exchange(made))["user_agent"] == "x" * 253 + "..."


# the log


class Heap(Sink):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.fd = -1
        self.writes: list[bytes] = []
        self.full = False
        self.reopened = 0

    def write(self, data: bytes) -> int:
        if self.full:
            raise BlockingIOError
        self.writes.append(data)
        return len(data)

    def reopen(self) -> bool:
        self.reopened += 1
        return True

    def close(self) -> None:
        self.fd = -2


@pytest.mark.parametrize("make", [text_render, json_render])
def test_nothing_is_kept_of_heads_that_do_not_come_again(make):
    """A thousand heads of 16 KiB are 16 MiB, and several times that as Python objects."""
    render = make()

    class Watched(HeaderSection):
        pass

    sections = []
    for number in range(100):
        section = Watched((("user-agent", f"agent {number}"), ("cookie", "c" * 1000)))
        sections.append(weakref.ref(section))
        render([exchange(Request("GET", b"/%d" % number, section))])
        del section
    assert [ref for ref in sections if ref() is not None] == []


def test_lines_go_to_the_logger_that_a_configuration_has_named(caplog):
    sink = Written()
    log = AccessLog(LogWriter(sink, lambda count: b""), json_render(lambda: TIME))
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("hypoll.access")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        log.on_requests([exchange(request())])
        assert json.loads(records[0].getMessage())["status"] == 200
        assert (records[0].levelname, sink.wrote) == ("INFO", [])
    finally:
        logger.removeHandler(handler)
        logger.setLevel("NOTSET")
    log.on_requests([exchange(request())])
    assert len(records) == len(sink.wrote) == 1


class Written(Sink):
    def __init__(self) -> None:
        self.fd = 0
        self.wrote: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.wrote.append(data)
        return len(data)


def test_the_lines_of_one_turn_go_out_in_one_write():
    heap = Heap()
    log = AccessLog(LogWriter(heap, dropped_json), json_render())
    for count in (3, 1):
        log.on_requests([exchange(request(f"/{number}")) for number in range(count)])
    assert [data.count(b"\n") for data in heap.writes] == [3, 1]
    assert [json.loads(line)["path"] for line in heap.writes[0].splitlines()] == ["/0", "/1", "/2"]


def test_a_tick_tries_again_a_signal_reopens_and_the_end_writes_what_is_left():
    heap = Heap()
    log = AccessLog(LogWriter(heap, dropped_json), json_render())
    heap.full = True
    log.on_requests([exchange(request())])
    log.on_tick(0.0, Gauges({}))
    assert heap.writes == []
    heap.full = False
    log.on_tick(0.0, Gauges({}))
    assert len(heap.writes) == 1
    log.reopen()
    assert heap.reopened == 1
    heap.full = True
    log.on_requests([exchange(request())])
    heap.full = False
    fd = heap.fd = os.open(os.devnull, os.O_WRONLY)
    log.on_stop()
    os.close(fd)
    assert len(heap.writes) == 2
    assert heap.fd == -2


@pytest.mark.parametrize(
    ("skip", "skipped"),
    [
        ([], []),
        (["/healthz"], ["/healthz", "/healthz?a=/b", "/healthz/live", "/healthz/"]),
        (["/healthz/"], ["/healthz", "/healthz?a=/b", "/healthz/live", "/healthz/"]),
        (["/a", "/metrics"], ["/metrics"]),
    ],
)
def test_paths_can_be_skipped(skip, skipped):
    heap = Heap()
    log = AccessLog(LogWriter(heap, dropped_text), text_render(), skip)
    paths = ["/", "/healthz", "/healthz?a=/b", "/healthz/live", "/healthz/", "/healthzz", "/metrics", "/b/healthz"]
    log.on_requests([exchange(request(path)) for path in paths])
    logged = [line.split()[6].decode() for line in heap.writes[0].splitlines()]
    assert [path for path in paths if path not in logged] == skipped
    log.on_requests([exchange(request(path)) for path in skipped])
    assert len(heap.writes) == 1
    log.on_requests([exchange()])
    assert len(heap.writes) == 2, "a request that has no path is logged"


@pytest.mark.parametrize(("dropped", "said"), [(dropped_text, b"# 7 lines"), (dropped_json, b'{"dropped":7}\n')])
def test_dropped_lines_are_said(dropped, said):
    assert dropped(7).startswith(said)
    assert dropped(7).count(b"\n") == 1


# opening


@pytest.mark.parametrize(
    ("form", "file", "first"),
    [
        ("text", "log", b"192.0.2.7 - - ["),
        ("json", "log", b'{"time":"'),
        ("auto", "log", b"192.0.2.7 - - ["),
        ("off", "log", None),
    ],
)
def test_what_is_asked_for_is_opened(tmp_path, form, file, first):
    path = tmp_path / file
    log = open_access_log(Settings(access_log=form, access_log_file=str(path)))
    if first is None:
        assert log is None
        assert not path.exists()
        return
    assert log is not None
    log.on_requests([exchange(request())])
    log.on_stop()
    assert path.read_bytes().startswith(first)


def test_a_file_that_can_not_be_opened_is_an_error_at_the_start(tmp_path):
    settings = Settings(access_log="text", access_log_file=str(tmp_path / "no" / "log"))
    with pytest.raises(LogWriterError, match="no/log can't be written: No such file"):
        open_access_log(settings)


AUTO = """
import sys
from hypoll.telemetry.access_log import open_access_log
from hypoll.settings import Settings
sys.stderr.write(str(open_access_log(Settings()) is not None))
"""


@pytest.mark.parametrize(
    ("kind", "logs"),
    [("terminal", True), ("pipe", True), ("socket", True), ("file", True), ("/dev/null", False), ("closed", False)],
)
def test_by_itself_it_is_on_unless_nobody_can_read_it(kind, logs, tmp_path):
    makers: dict[str, Callable[[], Any]] = {
        "terminal": pty.openpty,
        "socket": lambda: [each.detach() for each in socket.socketpair()],
        "file": lambda: (os.open(os.devnull, os.O_RDONLY), os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)),
        "/dev/null": lambda: (os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)),
    }
    reader, writer = makers.get(kind, os.pipe)()
    source = AUTO.replace("import sys", "import os, sys; os.close(1)") if kind == "closed" else AUTO
    done = subprocess.run([sys.executable, "-c", source], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(reader)
    os.close(writer)
    assert done.stderr == str(logs)


def test_a_failing_log_is_told_of_with_its_name(caplog):
    telemetry_access_log._failing(Settings(access_log_file="/var/log/a"))(OSError(28, "No space left on device"))
    telemetry_access_log._failing(Settings())(OSError(32, "Broken pipe"))
    assert [record.getMessage() for record in caplog.records] == [
        "the access log can't be written to /var/log/a: No space left on device; it is tried again every second",
        "the access log can't be written to standard output: Broken pipe; it is tried again every second",
    ]
