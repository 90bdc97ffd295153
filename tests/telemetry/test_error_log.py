"""The error log: one line a problem, which nobody can forge, and no trouble when nobody reads it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from hypoll.telemetry.error_log import (
    FORMATTERS,
    MARGIN,
    JsonFormatter,
    LogWriterHandler,
    QuietStreamHandler,
    TextFormatter,
    make_handler,
    set_up,
)
from hypoll.telemetry.log_writer import LogWriter, Sink
from tests.support.clock import PATIENCE

FIRST = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) .*")

FORGED = [
    "a\n2026-01-01 00:00:00,000 INFO all is well",
    "a\r\n2026-01-01 00:00:00,000 INFO all is well",
    'a"}\n{"level":"info"}',
    "\x1b[2J\x1b]0;x\x07",
    "\x9b31m",
    "a\x85b\u2028c\u2029d\x0be\x0cf\x1cg",
    "\x00\x7f",
    "\ud800",
    "😀",
]


def record(message: str = "it failed", *args: object, error: Exception | None = None, **more: Any) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("hypoll.error", logging.ERROR, "", 0, message, args, exc_info)
    made.__dict__.update(more)
    return made


def raised(text: str) -> Exception:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


def test_a_text_line():
    lines = TextFormatter().format(record("GET /%s failed", "a", request_id="17")).split("\n")
    assert len(lines) == 1
    assert FIRST.fullmatch(lines[0])
    assert lines[0].endswith("ERROR GET /a failed, request 17")


def test_an_id_that_the_message_has_is_not_said_twice():
    line = TextFormatter().format(record("/ failed, request %s", "17ab", request_id="17ab"))
    assert line.count("17ab") == 1


def test_a_traceback_follows_behind_a_margin():
    lines = TextFormatter().format(record(error=raised("the reason"))).split("\n")
    assert FIRST.fullmatch(lines[0])
    assert all(line.startswith(MARGIN) for line in lines[1:])
    assert lines[1] == MARGIN + "Traceback (most recent call last):"
    assert lines[-1] == MARGIN + "RuntimeError: the reason"


def test_a_json_line_has_the_traceback_once_as_a_field():
    line = JsonFormatter().format(record("%s failed", "it", error=raised("the reason"), request_id="17"))
    assert line.count("the reason") == 1
    found = json.loads(line)
    assert list(found) == ["time", "level", "logger", "message", "request_id", "traceback"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert (found["level"], found["logger"], found["message"]) == ("error", "hypoll.error", "it failed")
    assert found["traceback"].startswith("Traceback (most recent call last):\n")
    assert found["traceback"].endswith("\nRuntimeError: the reason")


def test_a_json_line_has_no_field_for_what_there_is_none_of():
    assert list(json.loads(JsonFormatter().format(record()))) == ["time", "level", "logger", "message"]


@pytest.mark.parametrize("text", FORGED, ids=ascii)
@pytest.mark.parametrize("form", FORMATTERS)
def test_no_line_is_forged(form, text):
    for where, made in (
        ("message", record(text.replace("%", "%%"))),
        ("argument", record("GET %s failed", text)),
        ("exception", record(error=raised(text))),
        ("id", record(request_id=text)),
    ):
        check_nothing_is_forged(form, where, made)


def check_nothing_is_forged(form: str, where: str, made: logging.LogRecord) -> None:
    written = FORMATTERS[form]().format(made)
    lines = written.split("\n")
    assert len(lines) == len(written.splitlines()), "nothing else ends a line either"
    assert all(line.isprintable() for line in lines)
    if form == "json":
        assert len(lines) == 1
        assert json.loads(written)["level"] == "error"
    else:
        assert FIRST.fullmatch(lines[0])
        assert all(line.startswith(MARGIN) for line in lines[1:])
        assert where != "exception" or len(lines) > 1


@pytest.mark.parametrize("form", FORMATTERS)
def test_a_message_that_does_not_go_with_its_arguments_is_told_all_the_same(form):
    assert "don't go together" in FORMATTERS[form]().format(record("%d things", "seven"))
    assert "seven" in FORMATTERS[form]().format(record("%d things", "seven"))


def test_a_stream_that_fails_is_let_go(capsys):
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    handler = QuietStreamHandler(Broken())
    handler.handle(record())
    assert capsys.readouterr().err == ""


def test_it_is_set_up_in_place_of_what_was(capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        set_up("warning", "json")
        set_up("info", "text")
        logging.getLogger("hypoll.error").info("said once")
        logging.getLogger("hypoll.error").debug("not said")
        assert len(root.handlers) == 1
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert FIRST.fullmatch(said[0])


class Full(Sink):
    """Takes what it has room for."""

    def __init__(self) -> None:
        self.fd = -1
        self.room = 0
        self.wrote = b""

    def write(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        taken = data[: self.room]
        self.wrote += taken
        self.room -= len(taken)
        return len(taken)

    def close(self) -> None:
        self.fd = -2


def test_what_finds_no_room_waits_or_is_counted():
    sink = Full()
    log_writer = LogWriter(sink, lambda count: b"%d lost\n" % count, size=200)
    handler = LogWriterHandler(log_writer)
    handler.setFormatter(TextFormatter())
    for number in range(10):
        handler.handle(record(f"message {number} " + "x" * 40))
    sink.room = 1000
    handler.flush()
    said = sink.wrote.decode().splitlines()
    assert [line.split()[4] for line in said[:2]] == ["0", "1"]
    assert said[2:] == ["8 lost"]
    handler.handle(record("the next"))
    assert sink.wrote.endswith(b"the next\n")
    handler.close()
    assert sink.fd == -2


def test_what_can_not_be_written_down_is_counted(capsys):
    class Bad(TextFormatter):
        def format(self, record: logging.LogRecord) -> str:
            raise RuntimeError("the formatter's own")

    log_writer = LogWriter(Full(), lambda count: b"%d lost\n" % count)
    handler = LogWriterHandler(log_writer)
    handler.setFormatter(Bad())
    handler.handle(record())
    assert log_writer.dropped == 1
    assert capsys.readouterr().err == ""
    handler.close()


def test_the_handler_for_standard_error_tells_of_what_was_lost(monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    handler = make_handler("json")
    assert isinstance(handler, LogWriterHandler)
    line = json.loads(handler.log_writer._notice(7))
    assert (line["level"], line["message"]) == ("warning", "7 messages were lost")
    handler.close()


PROGRAM = """
import logging, os, sys
from hypoll.telemetry.error_log import set_up
set_up("info", sys.argv[1])
log = logging.getLogger("hypoll.error")
for number in range(1000):
    log.error("%d %s", number, "x" * 100)
try:
    raise RuntimeError("the reason")
except RuntimeError:
    log.exception("it failed")
import hypoll.telemetry.log_writer
hypoll.telemetry.log_writer.FLUSH_TIME = 0.02
print("alive")
"""


def stderr_for(kind: str) -> tuple[int, int]:
    """(read end, write end); either may be -1."""
    if kind == "full":
        return -1, os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    if kind == "gone":
        os.close(reader)
        return -1, writer
    return reader, writer


@pytest.mark.parametrize(("kind", "form"), [("full", "text"), ("gone", "json"), ("unread", "text"), ("closed", "text")])
def test_a_standard_error_that_takes_nothing_ends_nothing(kind, form):
    reader, writer = stderr_for(kind)
    command = [sys.executable, "-c", PROGRAM, form]
    close = (lambda: os.close(2)) if kind == "closed" else None
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, timeout=PATIENCE, preexec_fn=close, text=True)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "alive\n")
    if reader >= 0:
        said = os.read(reader, 1 << 20).decode()
        assert "Logging error" not in said
        assert all(line.endswith(("x" * 100, "x" * 100 + '"}')) for line in said.splitlines())
        os.close(reader)


@pytest.mark.parametrize("form", ["json"])
def test_in_a_file_everything_is_whole(tmp_path, form):
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-c", PROGRAM, form]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=log, timeout=PATIENCE, check=True)
    said = (tmp_path / "log").read_text()
    assert len([line for line in said.splitlines() if "x" * 100 in line]) == 1000
    assert said.count("Traceback") == 1
