"""Whoever reconfigures logging, the server's lines are written, whole, and to nothing but its log."""

from __future__ import annotations

import logging
import logging.config
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from hypoll.settings import Settings
from hypoll.telemetry import error_log
from hypoll.telemetry.access_log import open_access_log
from hypoll.telemetry.error_log import LogWriterHandler, TextFormatter, keep
from hypoll.telemetry.log_writer import LogWriter, Sink
from hypoll.testing import TestClient
from tests.support.client import Client
from tests.support.gunicorn import GUNICORN, HYPOLL, PATIENCE, ROOT, Master, until
from tests.support.matrix import covering, some

pytestmark = pytest.mark.full

CONFIGURE = {
    "dictConfig": "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': %r,"
    " 'handlers': {'null': {'class': 'logging.NullHandler'}}, 'root': {'handlers': ['null']}})",
    "fileConfig": "logging.config.fileConfig('log.ini', disable_existing_loggers=%r)",
    "shutdown": "logging.shutdown()  # %r",
    "basicConfig": "logging.basicConfig(level='CRITICAL', handlers=[logging.NullHandler()], force=True)  # %r",
    "disable": "logging.disable(logging.CRITICAL)  # %r",
    "close": "[handler.close() for handler in logging.root.handlers]  # %r",
}

INI = """
[loggers]
keys=root
[handlers]
keys=null
[formatters]
keys=
[logger_root]
handlers=null
[handler_null]
class=NullHandler
args=()
"""

APP = """
import logging, logging.config, os
from hypoll import Routes

routes = Routes()
{at_import}

@routes.on_start
def configure():
    {at_start}
    # The numbers of descriptors that were closed go to whatever is opened next.
    routes.files = [open(f"victim{{number}}", "w+") for number in range(4)]

@routes.get("/configure")
def serving(request):
    {serving}
    return "configured"

@routes.get("/fail")
def fail(request):
    raise ZeroDivisionError("on purpose")

@routes.get("/victims")
def victims(request):
    for file in routes.files:
        file.flush()
    return "".join(open(file.name).read() for file in routes.files)
"""


CALLS = [CONFIGURE[how] % True for how in CONFIGURE] + [CONFIGURE[how] % False for how in ("dictConfig", "fileConfig")]


@pytest.mark.parametrize(("when", "call"), covering(["at_import", "at_start", "serving"], CALLS))
def test_no_configuration_of_others_costs_a_line_or_writes_elsewhere(tmp_path, when, call):
    steps = {"at_import": "", "at_start": "pass", "serving": "pass", when: call}
    (tmp_path / "app.py").write_text(APP.format(**steps))
    (tmp_path / "log.ini").write_text(INI)
    with Master(tmp_path, (*HYPOLL, "--bind", "127.0.0.1:0", "--access-log", "text")) as master:
        address = master.says(r"serves app:routes on (http://[0-9.:]+)")[1]
        assert requests.get(f"{address}/configure", timeout=PATIENCE).status_code == 200
        assert requests.get(f"{address}/fail", timeout=PATIENCE).status_code == 500
        master.says("GET /fail failed, request")
        master.says("ZeroDivisionError: on purpose")
        master.says('"GET /fail HTTP/1.1" 500')
        assert requests.get(f"{address}/victims", timeout=PATIENCE).text == ""
        master.popen.send_signal(signal.SIGTERM)
        master.says("stopped")
    assert all((tmp_path / f"victim{number}").read_text() == "" for number in range(4))


WORKERS = [(*HYPOLL, "--bind", "127.0.0.1:0", "--workers", "1"), (*GUNICORN, "-b", "127.0.0.1:0")]


@pytest.mark.parametrize(("command", "when"), covering(WORKERS, ["at_import", "serving"]))
def test_the_same_in_a_worker(tmp_path, command, when):
    steps = {"at_import": "", "at_start": "pass", "serving": "pass", when: CONFIGURE["dictConfig"] % True}
    (tmp_path / "app.py").write_text(APP.format(**steps))
    with Master(tmp_path, command) as master:
        assert master.get("/configure")[0] == 200
        assert master.get("/fail")[0] == 500
        master.says("GET /fail failed, request")
        assert master.get("/victims")[0] == 200
        master.popen.send_signal(signal.SIGTERM)
        master.says("Shutting down: Master")


def test_a_configuration_that_names_the_logger_wins(tmp_path):
    configuration = {
        "version": 1,
        "handlers": {"own": {"class": "logging.FileHandler", "filename": "own.log"}},
        "loggers": {"hypoll.error": {"handlers": ["own"], "level": "WARNING", "propagate": False}},
    }
    steps = {"at_import": f"logging.config.dictConfig({configuration!r})", "at_start": "pass", "serving": "pass"}
    (tmp_path / "app.py").write_text(APP.format(**steps))
    with Master(tmp_path, (*HYPOLL, "--bind", "127.0.0.1:0")) as master:
        address = master.says(r"serves app:routes on (http://[0-9.:]+)")[1]
        assert requests.get(f"{address}/fail", timeout=PATIENCE).status_code == 500
    assert "GET /fail failed" in (tmp_path / "own.log").read_text()
    assert not any("GET /fail failed" in line for line in master.lines)


FLASK = """
from logging.config import dictConfig

dictConfig({
    'version': 1,
    'disable_existing_loggers': %r,
    'formatters': {'default': {'format': '[%%(asctime)s] %%(levelname)s in %%(module)s: %%(message)s'}},
    'handlers': {'wsgi': {
        'class': 'logging.StreamHandler',
        'stream': 'ext://flask.logging.wsgi_errors_stream',
        'formatter': 'default',
    }},
    'root': {'level': 'INFO', 'handlers': ['wsgi']},
})

from flask import Flask

routes = Flask(__name__)

@routes.get("/")
def index():
    routes.logger.warning("a warning of the application's")
    return "ok"

@routes.get("/fail")
def fail():
    raise ZeroDivisionError("on purpose")
"""


@pytest.mark.parametrize("disable", [True, False])
def test_flasks_first_logging_example_is_logged_once(tmp_path, disable):
    (tmp_path / "app.py").write_text(FLASK % disable)
    with Master(tmp_path, (*HYPOLL, "--bind", "127.0.0.1:0")) as master:
        address = master.says(r"serves app:routes on (http://[0-9.:]+)")[1]
        assert requests.get(f"{address}/", timeout=PATIENCE).text == "ok"
        assert requests.get(f"{address}/fail", timeout=PATIENCE).status_code == 500
        master.says("a warning of the application's")
        master.says("ZeroDivisionError: on purpose")
        master.popen.send_signal(signal.SIGTERM)
        master.says("stopped")
    text = "\n".join(master.lines)
    assert text.count("a warning of the application's") == 1
    assert text.count("ZeroDivisionError: on purpose") == 1
    assert "RecursionError" not in text


def test_wsgi_errors_that_come_back_by_the_root_are_written_once(capfd):
    """Where hypoll isn't the process's own server, its log goes to the root's handlers, which may be these."""
    inside = threading.local()

    class Stream:
        def write(self, text: str) -> int:
            errors = getattr(inside, "errors", None)
            return len(text) if errors is None else errors.write(text)

        def flush(self) -> None:
            pass

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        inside.errors = environ["wsgi.errors"]
        environ["wsgi.errors"].write("said by the application\n")
        start_response("200 OK", [])
        return [b"ok"]

    handler = logging.StreamHandler(Stream())
    logging.root.addHandler(handler)
    try:
        with TestClient(application) as client:
            assert client.get("/").text == "ok"
    finally:
        logging.root.removeHandler(handler)
    assert capfd.readouterr().err.count("said by the application") == 1


TALKER = """
import os, subprocess, sys, warnings
from hypoll import Routes

routes = Routes()

@routes.get("/{number:int}")
def talk(request, number):
    print(f"printed {number} " + "p" * 200, flush=True)
    os.write(2, f"raw {number}\\n".encode())
    subprocess.run(["echo", f"child {number}"], check=True)
    return "ok"
"""


@pytest.mark.parametrize("append", [False, True])
def test_lines_in_a_file_that_is_shared_stay_whole(tmp_path, append):
    (tmp_path / "app.py").write_text(TALKER)
    log = tmp_path / "log"
    with log.open("ab" if append else "wb") as file:
        process = subprocess.Popen(
            [sys.executable, *HYPOLL, "--bind", "unix:sock", "--access-log", "text", "--slow-callback", "0"],
            cwd=tmp_path,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        until(lambda: "serves app:routes" in log.read_text())
        with Client(str(tmp_path / "sock")) as client:
            assert [client.get(f"/{number}").status for number in range(5)] == [200] * 5
    finally:
        process.terminate()
        process.wait(PATIENCE)
    lines = log.read_text().splitlines()
    for number in range(5):
        assert f"printed {number} " + "p" * 200 in lines
        assert f"raw {number}" in lines
        assert f"child {number}" in lines
        assert sum(f'"GET /{number} HTTP/1.1" 200' in line for line in lines) == 1
    known = r"printed|raw|child|.* - - \[|\d{4}-\d\d-\d\d"
    assert [line for line in lines if not re.match(known, line)] == []


def test_a_closed_sink_writes_to_no_number_that_is_anothers(tmp_path):
    sink = Sink(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
    number = sink.fd
    sink.close()
    sink.close()
    stranger = os.open(tmp_path / "stranger", os.O_RDWR | os.O_CREAT)
    try:
        assert stranger == number
        with pytest.raises(OSError, match="Bad file descriptor"):
            sink.write(b"misplaced")
        assert (tmp_path / "stranger").read_bytes() == b""
    finally:
        os.close(stranger)


def test_a_closed_handler_opens_its_log_again(tmp_path):
    def opened() -> Sink:
        return Sink(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    handler = LogWriterHandler(LogWriter(opened(), lambda count: b""), opened)
    handler.setFormatter(TextFormatter())
    for text in ("first", "second"):
        handler.handle(logging.LogRecord("x", logging.ERROR, "", 0, text, (), None))
        handler.close()
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["first", "second"]


@pytest.fixture
def kept() -> Iterator[logging.Logger]:
    logger = logging.getLogger("hypoll.test")
    yield logger
    logger.__class__ = logging.Logger
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


def test_a_kept_logger_goes_to_its_own_handler_at_its_own_level(kept, caplog):
    class Own(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.said.append(record.getMessage())

    own, named = Own(), Own()
    keep(kept, own, logging.INFO)
    logging.disable(logging.CRITICAL)
    try:
        kept.info("one")
        kept.debug("not this")
    finally:
        logging.disable(logging.NOTSET)
    kept.disabled = True
    kept.warning("two")
    assert own.said == ["one", "two"]
    assert caplog.text == ""
    kept.addHandler(named)
    kept.setLevel(logging.ERROR)
    kept.warning("not this")
    kept.error("three")
    assert own.said == ["one", "two"]
    assert named.said == ["three"]
    error_log.reset()


@pytest.mark.parametrize("of_parent", [False, True])
def test_a_level_that_a_configuration_gives_wins_without_handlers(kept, of_parent):
    said: list[str] = []

    class Own(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.getLogger("hypoll.test.child") if of_parent else kept
    keep(logger, Own(), logging.INFO)
    try:
        logger.info("one")
        kept.setLevel(logging.ERROR)
        logger.warning("not this")
        logger.error("two")
    finally:
        logger.__class__ = logging.Logger
    assert said == ["one", "two"]


def test_a_handler_is_not_closed_while_another_thread_writes(tmp_path):
    writing, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(Sink):
        def write(self, data: bytes) -> int:
            number = self.fd
            if not writing.is_set():
                writing.set()
                go_on.wait(PATIENCE)
            return os.write(number, data)

    handler = LogWriterHandler(LogWriter(Slow(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)), lambda count: b""))
    handler.setFormatter(TextFormatter())
    record = logging.LogRecord("x", logging.ERROR, "", 0, "whole", (), None)
    writer = threading.Thread(target=handler.handle, args=(record,))

    def close() -> None:
        handler.close()
        closed.set()

    closer = threading.Thread(target=close)
    writer.start()
    assert writing.wait(PATIENCE)
    closer.start()
    assert not closed.wait(0.2)
    go_on.set()
    writer.join(PATIENCE)
    closer.join(PATIENCE)
    assert closed.is_set()
    assert "whole" in (tmp_path / "log").read_text()


def test_the_access_logger_goes_on_when_a_later_configuration_disables_it():
    said: list[str] = []

    class Named(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    access = logging.getLogger("hypoll.access")
    handler = Named()
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    try:
        log = open_access_log(Settings(access_log="text"))
        assert log is not None
        access.disabled = True  # as dictConfig does with `disable_existing_loggers` to what it doesn't name
        log._put([b"a line\n"])
        log.on_stop()
    finally:
        access.__class__ = logging.Logger
        access.disabled = False
        access.removeHandler(handler)
        access.setLevel(logging.NOTSET)
    assert said == ["a line"]


@pytest.mark.parametrize("how", some(sorted(CONFIGURE, reverse=True), 3))
def test_a_log_that_is_opened_again_has_what_it_had_whatever_has_its_number_by_then(tmp_path, how):
    """The application has closed standard error, and a file of its own got the number."""
    taken = "os.close(2); taken = open('taken', 'w+'); assert taken.fileno() == 2; "
    steps = {"at_import": taken + CONFIGURE[how] % True, "at_start": "pass", "serving": "pass"}
    (tmp_path / "app.py").write_text(APP.format(**steps))
    (tmp_path / "log.ini").write_text(INI)
    with Master(tmp_path, (*HYPOLL, "--bind", "127.0.0.1:0")) as master:
        address = master.says(r"serves app:routes on (http://[0-9.:]+)")[1]
        assert requests.get(f"{address}/fail", timeout=PATIENCE).status_code == 500
        master.says("GET /fail failed, request")
        master.popen.send_signal(signal.SIGTERM)
        master.says("stopped")
    assert (tmp_path / "taken").read_text() == ""
