"""Log lines of the application: each has the id of its request, whatever runs it, in the server's format."""

from __future__ import annotations

import json
import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.protocol.current_request import current_request, mark_current
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request
from hypoll.telemetry import error_log, log_sharing
from hypoll.telemetry.log_fields import RequestFields, as_text
from tests.support.client import Client, Cut, fetch, request
from tests.support.gunicorn import GUNICORN, HYPOLL, Master

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

APP = """
import asyncio, logging, threading
from hypoll import Response, Routes
log = logging.getLogger("the.application")
routes = Routes()

@routes.before
def before(request):
    log.info("before")

@routes.after
def after(request, response):
    log.info("after")

plain = Routes()

def pieces(kind):
    for number in range(2):
        log.info("piece %d", number)
        yield b"x" * 10
    if kind == "fails":
        raise RuntimeError("the stream's own")

async def async_pieces(kind):
    for piece in pieces(kind):
        await asyncio.sleep(0)
        yield piece

async def child():
    await asyncio.sleep(0)
    log.info("in a task")

for each, prefix in ((routes, ""), (plain, "")):
    @each.get(prefix + "/inline")
    def inline(request):
        log.info("inline", extra={"order": 17, "who": 'a "b"'})
        return {}

    @each.get("/threaded", threaded=True)
    def threaded(request):
        log.info("threaded")
        return {}

    @each.get("/async")
    async def asynchronous(request):
        log.info("async")
        await asyncio.create_task(child())
        await asyncio.to_thread(log.info, "on a thread")
        return {}

    @each.get("/{kind}/inline-stream")
    def inline_stream(request, kind):
        return Response(pieces(kind))

    @each.get("/{kind}/threaded-stream", threaded=True)
    def threaded_stream(request, kind):
        return Response(pieces(kind))

    @each.get("/{kind}/async-stream")
    async def async_stream(request, kind):
        return Response(async_pieces(kind))

    @each.get("/inline-work")
    def inline_work(request):
        return Response(background=lambda: log.info("work"))

    @each.get("/threaded-work", threaded=True)
    def threaded_work(request):
        return Response(background=lambda: log.info("work"))

    @each.get("/async-work")
    async def async_work(request):
        return Response(background=child)

    @each.get("/raises")
    def raises(request):
        raise RuntimeError("the handler's own")

routes.mount("/plain", plain)

@routes.websocket("/socket")
async def socket(socket):
    await socket.accept()
    log.info("in a socket")
    await asyncio.create_task(child())

@routes.websocket("/threaded-socket", threaded=True)
def threaded_socket(socket):
    socket.accept()
    log.info("in a socket")

@plain.get("/mounted")
def mounted(request):
    log.info("mounted")
    return {}

def wsgi(environ, start_response):
    log.info("wsgi")
    environ["wsgi.errors"].write("to wsgi.errors\\n")
    start_response("200 OK", [])
    return (log.info("piece") or piece for piece in [b"a", b"b"])

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    log.info("asgi")
    await asyncio.create_task(child())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a"})
    log.info("after the answer")
"""

KINDS = {
    "/inline": ["before", "inline", "after"],
    "/threaded": ["before", "threaded", "after"],
    "/async": ["before", "async", "in a task", "on a thread", "after"],
    "/x/inline-stream": ["before", "after", "piece 0", "piece 1"],
    "/x/threaded-stream": ["before", "after", "piece 0", "piece 1"],
    "/x/async-stream": ["before", "after", "piece 0", "piece 1"],
    "/plain/mounted": ["before", "mounted", "after"],
    "/inline-work": ["before", "after", "work"],
    "/threaded-work": ["before", "after", "work"],
    "/async-work": ["before", "after", "in a task"],
}
"""What is logged while a request is handled."""

FAILING = ["/fails/inline-stream", "/fails/threaded-stream", "/fails/async-stream"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("logs")
    (made / "app.py").write_text(APP)
    return made


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[Master]:
    """One process, its logs as JSON."""
    command = [*HYPOLL, "--bind", "127.0.0.1:0", "--log-format", "json", "--access-log", "json"]
    yield from serving(directory, command)


def serving(directory: Path, command: list[str], **environment: str) -> Iterator[Master]:
    with Master(directory, command, env=environment) as master:
        yield master


def ask(master: Master, path: str, name: str, **headers: str) -> int:
    """The status of the answer; 0: it was cut."""
    try:
        return fetch(("127.0.0.1", master.port), path, {"X-Request-Id": name, **headers}, patience=30).status
    except Cut:
        return 0


def documents(master: Master, name: str) -> list[dict[str, Any]]:
    """The lines of a request, once its access line is there."""
    master.says(rf'"path":.*"request_id":"{name}"')
    found = [json.loads(line) for line in master.lines if line.startswith("{")]
    return [document for document in found if document.get("request_id") == name]


@pytest.mark.parametrize("path", KINDS)
def test_each_line_made_while_a_request_is_handled_has_its_id(service, path):
    name = "id" + path.replace("/", "-")
    assert ask(service, path, name, traceparent=f"00-{TRACE}-{SPAN}-01") == 200
    service.says(rf'"message":"{KINDS[path][-1]}","request_id":"{name}"')
    lines = documents(service, name)
    assert [line["message"] for line in lines if "message" in line] == KINDS[path]
    assert {(line["trace_id"], line["span_id"]) for line in lines} == {(TRACE, SPAN)}


@pytest.mark.parametrize(
    ("path", "said"), [("/socket", ["in a socket", "in a task"]), ("/threaded-socket", ["in a socket"])]
)
def test_so_have_those_of_websockets(service, path, said):
    name = "id" + path.replace("/", "-")
    fields = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    with Client(("127.0.0.1", service.port)) as client:
        client.send(request(path, fields={"X-Request-Id": name, "Connection": "Upgrade", **fields}))
        assert client.head()[0] == 101
    for message in said:
        service.says(rf'"message":"{message}","request_id":"{name}"')


@pytest.mark.parametrize("path", FAILING)
def test_a_failing_stream_names_its_route_and_its_request(service, path):
    name = "id" + path.replace("/", "-")
    assert ask(service, path, name) == 0
    said = [line for line in documents(service, name) if line.get("level") == "error"]
    route = "/{kind}/" + path.rpartition("/")[2]
    assert [line["message"] for line in said] == [f"GET {route}: a response's body failed: the connection is cut"]
    assert "the stream's own" in said[0]["traceback"]


def test_what_extra_gives_is_there_and_no_trace_where_there_is_none(service):
    ask(service, "/inline", "extra", traceparent="00-" + "0" * 32 + f"-{SPAN}-01")
    line = next(line for line in documents(service, "extra") if line.get("message") == "inline")
    assert (line["order"], line["who"], line["logger"]) == (17, 'a "b"', "the.application")
    assert "trace_id" not in line


def test_an_id_is_made_once_for_all_lines(service):
    status = ask(service, "/inline", "")
    service.says(r'"path":"/inline".*"request_id":"[0-9a-f]{16}"')
    assert status == 200
    found = [json.loads(line) for line in service.lines if line.startswith("{")]
    names = [line["request_id"] for line in found if line.get("path") == "/inline"]
    (name,) = (name for name in names if re.fullmatch("[0-9a-f]{16}", name))
    own = [line for line in found if line.get("request_id") == name]
    assert [line["message"] for line in own if "message" in line] == KINDS["/inline"]


@pytest.mark.parametrize(
    ("attribute", "said"),
    [("wsgi", ["wsgi", "to wsgi.errors", "piece", "piece"]), ("asgi", ["asgi", "in a task", "after the answer"])],
)
def test_so_have_those_of_other_applications(directory, attribute, said):
    command = ["-m", "hypoll", f"app:{attribute}", "--bind", "127.0.0.1:0", "--access-log", "text"]
    for master in serving(directory, command):
        assert ask(master, "/", "other", traceparent=f"00-{TRACE}-{SPAN}-01") == 200
        master.says(f" other {TRACE} {SPAN}$")
        for message in said:
            master.says(rf" (INFO|ERROR) {message}, request other, trace {TRACE} span {SPAN}$", said.count(message))


# with workers


def test_lines_of_workers_have_the_server_s_format_and_process(directory):
    command = [*HYPOLL, "--bind", "127.0.0.1:0", "--workers", "1", "--access-log", "off"]
    for master in serving(directory, command):
        assert ask(master, "/inline", "worker") == 200
        line = master.says(r"\d,\d{3} \[(\d+)\] INFO inline, request worker order=17 who=\"a \\\"b\\\"\"$")
        assert int(line[1]) in master.workers()


def test_under_gunicorn_they_are_in_its_log(directory):
    command = [*GUNICORN, "--bind", "127.0.0.1:0"]
    for master in serving(directory, command):
        assert ask(master, "/inline", "gunicorn") == 200
        master.says(r"\[INFO\] inline, request gunicorn order=17")


# what the application has configured


CONFIGURED = {
    "basicConfig(level=logging.INFO, force=True)": (
        r"INFO inline, request configured",
        r"INFO the application has configured logging: it has chosen no format, and gets the server's$",
    ),
    "basicConfig(level=logging.INFO, force=True, format='MINE %(message)s %(request_id)s')": (
        r"^MINE inline configured$",
        r"^MINE the application has configured logging: its format is the server's, too None$",
    ),
}


@pytest.mark.parametrize("configuration", CONFIGURED)
def test_what_the_application_has_configured_is_the_server_s_format_too(tmp_path, configuration):
    (tmp_path / "app.py").write_text(f"import logging\nlogging.{configuration}\n" + APP)
    own, said = CONFIGURED[configuration]
    for master in serving(tmp_path, [*HYPOLL, "--bind", "127.0.0.1:0"]):
        master.says(said)
        assert ask(master, "/inline", "configured") == 200
        master.says(own)
        ask(master, "/raises", "configured")
        master.says(r"GET /raises failed, request configured")
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
        assert sum("has configured logging" in line for line in master.lines) == 1


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger without handlers, as it was before afterwards."""
    logger = logging.getLogger()
    before = logger.handlers[:]
    logger.handlers[:] = []
    try:
        yield logger
    finally:
        logger.handlers[:] = before


def test_a_format_that_was_asked_for_stays_the_server_s(root):
    server, own = error_log.make_handler("json"), logging.StreamHandler()
    own.setFormatter(logging.Formatter("MINE %(message)s"))
    root.handlers[:] = [own]  # without pytest's
    formatter = server.formatter
    log_sharing.share_format(server, "json", say=False)
    assert server.formatter is formatter
    assert own.formatter is not None
    assert own.formatter._fmt == "MINE %(message)s"


def test_a_format_that_fails_on_a_line_loses_none(root):
    server, own = error_log.make_handler("text"), logging.StreamHandler()
    own.setFormatter(logging.Formatter("%(message)s %(nowhere)s"))
    root.handlers[:] = [own]  # without pytest's
    log_sharing.share_format(server, "text", say=False)
    record = logging.LogRecord("hypoll.error", logging.INFO, "", 0, "a\nb", (), None)
    assert server.formatter is not None
    assert server.formatter.format(record).endswith(" INFO a\\x0ab")


# the parts


def test_outside_of_requests_there_is_none():
    record = logging.LogRecord("a", logging.INFO, "", 0, "message", (), None)
    assert RequestFields().filter(record)
    assert (record.request_id, record.trace_id, record.span_id) == (None, None, None)  # type: ignore[attr-defined]
    assert current_request() is None


def test_what_is_given_stays():
    record = logging.makeLogRecord({"request_id": "theirs"})
    RequestFields().filter(record)
    assert record.request_id == "theirs"  # type: ignore[attr-defined]


class Silent:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (17, "17"),
        ("word", "word"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a\nb", r'"a\nb"'),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ("\x9b31m", r'"\u009b31m"'),
        ({"\U000e0001": "\u2028"}, r'{"\udb40\udc01":"\u2028"}'),
        (Silent(), '"Silent without text: RuntimeError"'),
        (2**70, f'"{2**70}"'),
    ],
)
def test_a_value_can_not_forge_a_line(value, text):
    assert as_text(value) == text
    for formatter in (error_log.TextFormatter(), error_log.JsonFormatter()):
        line = formatter.format(logging.makeLogRecord({"msg": "message", "value": value, "level": "theirs"}))
        assert "\n" not in line
        assert line.isprintable()
    assert json.loads(line)["level_"] == "theirs"


def test_the_request_is_known_where_its_context_is():
    request = Request("GET", b"/", HeaderSection((("traceparent", f"00-{TRACE}-{SPAN}-00"),)))
    token = mark_current(request)
    try:
        assert current_request() is request
    finally:
        token.var.reset(token)
