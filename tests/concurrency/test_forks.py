"""Children that an application forks: none is a second server, whatever it does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hypoll import Routes
from hypoll.concurrency import forks
from hypoll.concurrency.forks import Ended, end_child, keep_out
from hypoll.http import Request
from hypoll.server.response_body import log_cut
from hypoll.server.thread_stream import ThreadStream
from hypoll.telemetry.log_writer import LogWriter, open_file
from hypoll.testing import TestClient
from hypoll.web.hooks import run_hook
from hypoll.web.results import failure
from tests.support.client import Client, fetch, request
from tests.support.gunicorn import GUNICORN, HYPOLL, Launch, Master, gone, until
from tests.support.leftovers import await_closed_pools
from tests.support.matrix import covering, some

APP = """
import os, sys, time
from hypoll import Response, Routes

routes = Routes()

def fork(way):
    sys.stdout.write("buffered ")  # by one process, written by one
    pid = os.fork()
    if pid:
        with open("children", "a") as file:
            file.write(f"{pid}\\n")
        return str(pid)
    sys.stdout.write("from the child ")
    if way == "raise":
        raise ValueError("of the child")
    if way == "exit":
        sys.exit(3)
    if way == "_exit":
        os._exit(4)
    if way == "live":
        with open("living", "w") as file:
            file.write("x")
        time.sleep(60)
    return "the child's"

def ran(name):
    with open("ran", "a") as file:
        file.write(f"{name} {os.getpid()}\\n")

@routes.get("/pid")
def pid(request):
    ran("pid")
    return str(os.getpid())

@routes.get("/inline/{way}")
def inline(request, way):
    return fork(way)

@routes.get("/threaded/{way}", threaded=True)
def threaded(request, way):
    return fork(way)

@routes.get("/pieces/{way}")
def pieces(request, way):
    return Response(iter_of(way))

@routes.get("/threaded-pieces/{way}", threaded=True)
def threaded_pieces(request, way):
    return Response(iter_of(way))

def iter_of(way):
    yield b"<"
    yield fork(way).encode()
    yield b">"

@routes.before
def before(request):
    if request.path.startswith("/before/"):
        return fork(request.path.rpartition("/")[2])

@routes.after
def after(request, response):
    if request.path.startswith("/after/"):
        return fork(request.path.rpartition("/")[2])

@routes.on_ready_check
def check():
    if os.path.exists("fork-in-check"):
        os.unlink("fork-in-check")
        fork("raise")
    return True

@routes.on_stop
def stopped():
    ran("on_stop")
"""

ASYNC = """
import asyncio

@routes.get("/async/{way}")
async def coroutine(request, way):
    return fork(way)

@routes.get("/awaiting/{way}")
async def awaiting(request, way):
    result = fork(way)
    await asyncio.sleep(0)
    ran("went on")
    return result

@routes.get("/async-to-thread/{way}", threaded=True)
def after_async(request, way):
    return fork(way)

@routes.get("/async-pieces/{way}")
async def async_pieces(request, way):
    async def body():
        yield b"<"
        yield fork(way).encode()
        yield b">"
    return Response(body())

@routes.on_start
async def start():
    asyncio.get_running_loop()
"""

WSGI = """
import os
from app import fork, ran

def routes(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/pid":
        ran("pid")
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]
    if path.startswith("/wsgi-pieces/"):
        start_response("200 OK", [])
        return body(path.rpartition("/")[2])
    result = fork(path.rpartition("/")[2]).encode()
    start_response("200 OK", [])
    return [result]

def body(way):
    yield b"<"
    yield fork(way).encode()
    yield b">"
"""

WAYS = ("return", "raise", "exit", "_exit", "live")
KINDS = ("inline", "threaded", "pieces", "threaded-pieces", "before", "after")
ASYNC_KINDS = ("async", "awaiting", "async-to-thread", "async-pieces")
WSGI_KINDS = ("wsgi", "wsgi-pieces")

Start = Callable[..., Master]


@pytest.fixture
def start(launch: Launch, tmp_path: Path) -> Iterator[Start]:
    def start(*arguments: str, app: str = APP, target: str = "app:routes", **how: Any) -> Master:
        (tmp_path / "web.py").write_text(WSGI)
        command = (*HYPOLL[:-1], target)
        options = ("--access-log", "text", "--access-log-file", "log", "--bind", "127.0.0.1:0", *arguments)
        return launch((*command, *options), app=app, env={"PYTHONUNBUFFERED": ""}, **how)

    yield start
    for pid in children_of(tmp_path):
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def children_of(directory: Path) -> list[int]:
    file = directory / "children"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def sockets_of(pid: int) -> list[str]:
    """The TCP sockets that a process has."""
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().split("\n")[1:] if line}
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return [link for link in links if link.removeprefix("socket:[").removesuffix("]") in inodes]


def check(master: Master, directory: Path, kinds: tuple[str, ...]) -> None:
    """Have children forked that end in each way: there is one server after it as before, which has answered once."""
    server = master.get("/pid")[1]
    for kind in kinds:
        fork_each_way(master, directory, kind)
        assert {master.get("/pid")[1] for _ in range(20)} == {server}, kind
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    ran = (directory / "ran").read_text().split("\n")
    assert sum(line.startswith("on_stop ") for line in ran) == (kinds is not WSGI_KINDS)
    awaiting = len(WAYS) if "awaiting" in kinds else 0
    assert sum(line.startswith("went on ") for line in ran) == awaiting, "the parent alone goes on"
    logged = (directory / "log").read_text()
    asked = [f"/{kind}/{way} " for kind in kinds for way in WAYS]
    assert {path: logged.count(path) for path in asked} == dict.fromkeys(asked, 1)
    assert logged.count("/pid") == 1 + 20 * len(kinds)
    said = "\n".join(master.lines)
    assert said.count("buffered") == len(asked)
    flushed = len(("return", "raise", "exit")) * len(kinds)
    assert said.count("from the child") == flushed, "as at a script's end"
    assert said.count("ValueError: of the child") == said.count("Traceback") == len(kinds)


def fork_each_way(master: Master, directory: Path, kind: str) -> None:
    for way in WAYS:
        before = children_of(directory)
        status, body = master.get(f"/{kind}/{way}")
        child = int(body.decode().strip("<>"))
        assert status == 200, f"{kind}: the parent's answer, not the child's"
        assert children_of(directory) == [*before, child]
        if way == "live":
            until((directory / "living").exists)
            (directory / "living").unlink()
            assert sockets_of(child) == [], kind
            os.kill(child, signal.SIGKILL)
        until(lambda child=child: gone(child), f"{kind}: the child serves that was to {way}")


def test_a_child_of_a_handler_or_hook_is_no_server(start, tmp_path):
    check(start(), tmp_path, KINDS)


@pytest.mark.full
@pytest.mark.parametrize("uvloop", ["--uvloop", "--no-uvloop"])
def test_a_child_of_an_async_handler_is_no_server(start, tmp_path, uvloop):
    check(start(uvloop, app=APP + ASYNC), tmp_path, ASYNC_KINDS)


def test_a_child_of_a_wsgi_application_is_no_server(start, tmp_path):
    check(start(target="web:routes"), tmp_path, WSGI_KINDS)


def test_a_child_of_a_worker_is_no_server(start, tmp_path):
    directories = set(os.listdir("/dev/shm"))
    master = start("--workers", "1", "--metrics", "/metrics", app=APP + ASYNC)
    master.get("/pid")
    made = set(os.listdir("/dev/shm")) - directories
    for kind in ("inline", "threaded", "async"):
        known = [int(master.get(f"/{kind}/{way}")[1]) for way in ("return", "raise", "exit")]
        until(lambda known=known: all(map(gone, known)), kind)
    assert made <= set(os.listdir("/dev/shm")), "the counters are still there"
    assert master.get("/metrics")[0] == 200
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert sum("Worker exiting" in line for line in master.lines) == 1
    assert (tmp_path / "ran").read_text().count("on_stop") == 1


def test_a_child_runs_no_request_that_was_received_with_its_own(start, tmp_path):
    master = start()
    with Client(("127.0.0.1", master.port)) as client:
        client.send(request("/inline/return") + 2 * request("/pid"))
        answers = [client.answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[-1].body == str(master.popen.pid).encode()
    (child,) = children_of(tmp_path)
    until(lambda: gone(child))
    assert (tmp_path / "ran").read_text() == f"pid {master.popen.pid}\n" * 2


def test_a_child_of_a_readiness_check_is_no_server(start, tmp_path):
    master = start("--health", "/healthz")
    assert master.get("/healthz/ready")[0] == 200
    (tmp_path / "fork-in-check").touch()
    until(lambda: master.get("/healthz/ready")[0] == 200 and children_of(tmp_path))
    (child,) = children_of(tmp_path)
    until(lambda: gone(child))
    assert len({master.get("/pid")[1] for _ in range(20)}) == 1


@pytest.mark.parametrize("workers", [(), pytest.param(("--workers", "1"), marks=pytest.mark.full)])
@pytest.mark.parametrize(("way", "kind"), covering(["return", "raise", "exit"], ["def", "async def"]))
def test_a_child_of_an_on_start_hook_is_no_server(start, tmp_path, workers, way, kind):
    master = start(*workers, app=APP + f"\n@routes.on_start\n{kind} begin(): fork({way!r})\n")
    assert master.get("/pid")[0] == 200
    (child,) = children_of(tmp_path)
    until(lambda: gone(child))
    assert len({master.get("/pid")[1] for _ in range(20)}) == 1
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert (tmp_path / "ran").read_text().count("on_stop") == 1


def test_a_child_leaves_the_file_of_a_unix_socket(start, tmp_path):
    path = tmp_path / "s"
    master = start("--bind", f"unix:{path}")
    master.get("/inline/exit")
    (child,) = children_of(tmp_path)
    until(lambda: gone(child))
    assert path.exists()
    assert fetch(str(path), "/pid").body == str(master.popen.pid).encode()


CHILDREN = """
import multiprocessing, os, signal, subprocess, sys, time
from hypoll import Routes

routes = Routes()
context = multiprocessing.get_context("fork")
held = []

def target(connection):
    connection.send(os.getpid())
    time.sleep(60)

@routes.get("/process")
def process(request):
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs,))
    child.start()
    held.append(child)
    return str(ours.recv())

@routes.get("/terminate")
def terminate(request):
    child = held.pop()
    child.terminate()
    child.join()
    return str(child.exitcode)

@routes.get("/subprocess")
def run(request):
    command = [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"]
    return subprocess.run(command, preexec_fn=os.getpid, capture_output=True, text=True).stdout

@routes.get("/routes-in-a-child")
def routes_in_a_child(request):
    def target(connection):
        from hypoll.testing import TestClient
        inner = Routes()
        @inner.get("/")
        def fail(request): raise LookupError("of the inner")
        with TestClient(inner) as client:
            connection.send(client.get("/").status_code)
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs,))
    child.start()
    answer = ours.recv()
    child.join()
    return f"{answer} {child.exitcode}"
"""


@pytest.mark.parametrize("command", some([(HYPOLL,), (GUNICORN,), ((*HYPOLL, "--workers", "1"),)], 2))
def test_the_children_of_multiprocessing_and_subprocess_are_as_ever(tmp_path, command):
    (tmp_path / "app.py").write_text(CHILDREN)
    with Master(tmp_path, (*command, "--bind", "127.0.0.1:0")) as master:
        child = int(master.get("/process")[1])
        assert sockets_of(child) == []
        assert master.get("/terminate") == (200, b"-15"), "TERM ends it: the server's handlers aren't its own"
        assert gone(child)
        assert master.get("/subprocess") == (200, b"4\n")
        assert master.get("/routes-in-a-child") == (200, b"500 0")
        master.signal(signal.SIGTERM)
        assert master.wait() == 0


def test_routes_under_another_server_stop_once(tmp_path):
    code = """
import io, os, sys
from hypoll import Routes
routes = Routes()

@routes.on_stop
def stopped():
    print("stopped by", os.getpid(), flush=True)

@routes.get("/")
def index(request):
    pid = os.fork()
    if not pid:
        sys.exit()
    os.waitpid(pid, 0)
    return "here"

environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "", "wsgi.url_scheme": "http"}
environ["wsgi.input"] = io.BytesIO()
try:
    routes.wsgi(environ, lambda status, headers, exc_info=None: print)
except SystemExit:
    pass
print(os.getpid(), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    child, parent = re.findall(r"^(\d+)$", done.stdout, re.M)
    assert re.findall(r"stopped by (\d+)", done.stdout) == [parent] != [child]


# in the child


class Left(BaseException):
    """Stands for the process's end."""


@pytest.fixture
def in_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was called by hypoll before a fork is what runs now."""
    await_closed_pools()  # a thread of an earlier test that ends would end as a child's

    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(forks._ThisProcess, "orphaned", True)


def stream() -> ThreadStream:
    loop = SimpleNamespace(now=0.0)
    threads = SimpleNamespace(loop=loop, end_stream=lambda job: None)
    space: Any = SimpleNamespace(memory_limit=0, disk_limit=0)
    made = ThreadStream.__new__(ThreadStream)
    made._pool, made._spool = threads, space  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(
    "comes_back",
    [
        lambda: failure(Request("GET", b"/"), SystemExit(3)),
        lambda: log_cut(SystemExit(3)),
        lambda: run_hook(lambda: sys.exit(3), print),
        lambda: stream().fail(SystemExit(3)),
        lambda: end_child(SystemExit(3)),
        lambda: Ended()(SystemExit(3)),
        lambda: Ended().anything.of.it("else", SystemExit(3)),
        lambda: keep_out(SystemExit(3)),
    ],
)
def test_what_comes_back_is_the_end_with_the_status_of_what_was_raised(in_child, comes_back):
    with pytest.raises(Left) as left:
        comes_back()
    assert left.value.args == (3,)


@pytest.mark.parametrize("comes_back", [lambda: run_hook(lambda: None, print), lambda: stream().write(b"x"), keep_out])
def test_what_returns_is_the_end(in_child, comes_back):
    with pytest.raises(Left) as left:
        comes_back()
    assert left.value.args == (0,)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(256 + 7), 7, ""),
        (SystemExit("no more"), 1, "no more\n"),
        (KeyError("k"), 1, "KeyError: 'k'\n"),
        (None, 0, ""),
    ],
)
def test_a_child_ends_as_a_script_would(in_child, capsys, error, status, said):
    with pytest.raises(Left) as left:
        end_child(error)
    assert left.value.args == (status,)
    assert capsys.readouterr().err == said


def test_a_process_that_was_forked_elsewhere_goes_on():
    """In a child that hypoll's code doesn't come back to, what it offers works as ever."""
    with TestClient(Routes()):  # a loop of the parent's
        child = os.fork()
        if not child:
            code = 1
            try:
                failure(Request("GET", b"/"), LookupError())
                code = 0
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_lines_that_wait_for_a_log_are_written_by_one_process(tmp_path):
    log_writer = LogWriter(open_file(str(tmp_path / "log")), lambda dropped: b"dropped\n")
    log_writer.put(b"the parent's\n")
    child = os.fork()
    if not child:
        log_writer.put(b"the child's\n")
        os._exit(not log_writer.drain())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log_writer.close()
    assert (tmp_path / "log").read_text() == "the child's\nthe parent's\n"
