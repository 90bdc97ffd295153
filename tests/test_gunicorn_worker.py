"""The gunicorn worker under real masters: its life from boot to end, and what clients notice of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, fetch, request
from tests.support.gunicorn import GUNICORN, Launch, Load, Master, gone, until
from tests.support.matrix import some

APP = """
import os, time
from hypoll import Response, Routes, HTTPError

BOOTED = os.getpid()
routes = Routes()

@routes.get("/")
def index(request):
    return str(os.getpid())

@routes.get("/booted")
def booted(request):
    return str(BOOTED)

@routes.post("/echo")
def echo(request):
    return request.body

@routes.get("/stuck")
def stuck(request):
    print("stuck in", os.getpid(), flush=True)
    while True:
        pass

@routes.get("/large")
def large(request):
    return Response((bytes(64 * 1024) for _ in range(64)), content_type="application/octet-stream")

@routes.on_stop
def closed():
    os.write(1, b"on_stop in %d\\n" % os.getpid())  # whole, whatever another worker writes
"""

CONFIG = """
def pre_request(worker, req):
    req.seen = True
    worker.log.info("before %s %s", req.method, req.path)

def post_request(worker, req, environ, resp):
    worker.log.info("after %s %s %s %s", req.seen, environ["PATH_INFO"], resp.status, resp.sent)

def post_worker_init(worker): worker.log.info("hook post_worker_init")
def worker_int(worker): worker.log.info("hook worker_int %s", worker.pid)
def worker_abort(worker): worker.log.info("hook worker_abort %s", worker.pid)
def worker_exit(server, worker): worker.log.info("hook worker_exit %s", worker.pid)
"""

HOOKS = (
    "access_log_format = '%(h)s %(m)s %(U)s %(q)s %(s)s %(B)s %({x-a}i)s %({content-type}o)s'\naccesslog = '-'\n"
    + CONFIG
)

Start = Callable[..., Master]


@pytest.fixture
def start(launch: Launch) -> Start:
    """Starts masters: start(*arguments, app=source, config=source)."""

    def start(
        *arguments: str, app: str = APP, config: str = "", bind: str | None = "127.0.0.1:0", **how: Any
    ) -> Master:
        address = () if bind is None else ("-b", bind)
        return launch((*GUNICORN, *address, *arguments), app=app, config=config, **how)

    return start


def connect(master: Master) -> Client:
    return Client(("127.0.0.1", master.port))


# a master that goes on


@pytest.fixture(scope="module")
def steady(tmp_path_factory: Any) -> Iterator[Master]:
    directory = tmp_path_factory.mktemp("steady")
    (directory / "app.py").write_text(APP)
    (directory / "gunicorn.conf.py").write_text(HOOKS)
    arguments = ("-b", "127.0.0.1:0", "-b", f"unix:{directory}/s", "--limit-request-line", "100")
    ignored = ("--header-map", "refuse", "--permit-obsolete-folding")
    master = Master(directory, (*GUNICORN, *arguments, *ignored), env={"HYPOLL_MAX_BODY": "1KiB"})
    master.says("hook post_worker_init")
    yield master
    master.end()


def test_it_serves_and_logs_as_gunicorn_s_settings_say(steady):
    with connect(steady) as peer:
        peer.send(b"GET /booted?q=1 HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n")
        assert peer.answer().status == 200
    pid = steady.workers()[0]
    steady.says(rf"^127\.0\.0\.1 GET /booted q=1 200 {len(str(pid))} b text/plain; charset=utf-8$")


def test_the_hooks_see_each_request_before_and_after(steady):
    steady.get("/nowhere")
    steady.says(r"hook post_worker_init")
    steady.says(r"\[INFO\] before GET /nowhere")
    steady.says(r"\[INFO\] after True /nowhere 404 Not Found \d+")


def test_a_refused_request_is_in_the_access_log_and_for_no_hook(steady):
    with connect(steady) as peer:
        peer.send(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 100))
        assert peer.answer().status == 414
    steady.says(r"^127\.0\.0\.1 GET /a{100} .* 414 \d+ - application/problem\+json")
    with connect(steady) as peer:
        peer.send(b"nothing\r\n\r\n")
        assert peer.answer().status == 400
    steady.says(r"^127\.0\.0\.1 - .* 400 \d+ - application/problem\+json")
    assert not any("after" in line and "414" in line for line in steady.lines)


SPOOFED = """
accesslog = "-"
access_log_format = "log %(h)s %({http_x_forwarded_for}e)s %({x-forwarded-for}i)s %({x_forwarded_for}i)s"

def pre_request(worker, req):
    worker.log.info("before %s %s", req.remote_addr[0], sorted(name for name, _ in req.headers))

def post_request(worker, req, environ, resp):
    told = environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ.get("HTTP_X_FORWARDED_FOR")
    worker.log.info("after %s %s %s", *told)
"""


def test_the_hooks_and_the_log_believe_what_the_application_does(start):
    """A field with underscores is none of them; a client that a proxy hides is nobody."""
    master = start(config=SPOOFED)
    with connect(master) as peer:
        for fields in (
            "X-Forwarded-For: 192.0.2.1\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https",
            "X_Forwarded_For: 7.7.7.7",
            "X-Forwarded-For: _hidden",
        ):
            peer.send(f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n".encode())
            assert peer.answer().status == 200
    master.says(r"before 192\.0\.2\.1 \['HOST', 'X-FORWARDED-FOR', 'X-FORWARDED-PROTO'\]$")
    master.says(r"after 192\.0\.2\.1 https 192\.0\.2\.1$")
    master.says(r"^log 192\.0\.2\.1 192\.0\.2\.1 192\.0\.2\.1 -$")
    master.says(r"before 127\.0\.0\.1 \['HOST'\]$")
    master.says(r"after 127\.0\.0\.1 http None$")
    master.says(r"^log 127\.0\.0\.1 - - -$")
    master.says(r"after  http _hidden$")
    master.says(r"^log - _hidden _hidden -$")


def test_what_gunicorn_has_no_setting_for_is_set_by_the_environment(steady):
    with connect(steady) as peer:
        peer.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n")
        assert peer.answer().status == 413


def test_it_serves_on_a_unix_socket_beside(steady):
    path = Path(f"/proc/{steady.popen.pid}/cwd").readlink() / "s"
    assert fetch(str(path)).status == 200


def test_one_warning_names_the_settings_that_have_no_meaning(steady):
    steady.says("Listening at")
    warnings = [line for line in steady.lines if "doesn't honour" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(": header_map, permit_obsolete_folding")


# replacing workers


def test_no_request_fails_when_workers_are_replaced_by_hup(start):
    master = start("-w", "2", config=CONFIG)
    master.says("hook post_worker_init", 2)
    with Load(master.port) as load:
        for reloads in (1, 2):
            master.signal(signal.SIGHUP)
            master.says("hook post_worker_init", 2 + 2 * reloads)
            master.says("hook worker_exit", 2 * reloads)
    assert load.failures == []
    assert load.answers.total() > 100
    assert sum("on_stop in" in line for line in master.lines) == 4, "the old ones have ended in good order"


def test_no_request_fails_when_workers_are_replaced_after_max_requests(start):
    master = start("-w", "2", "--max-requests", "100", "--max-requests-jitter", "20")
    master.get()
    with Load(master.port) as load:
        master.says("Autorestarting worker", 4)
    assert load.failures == []
    master.says("Worker exiting", 3)
    assert len(load.answers) >= 4


def test_a_worker_that_is_killed_costs_its_own_connections_only(start):
    master = start("-w", "2")
    master.says("Booting worker", 2)
    with Load(master.port) as load:
        until(lambda: load.answers)
        killed = load.answers.most_common(1)[0][0]
        os.kill(int(killed), signal.SIGKILL)
        master.says("Booting worker", 3)
        asked = load.answers.total()
        until(lambda: load.answers.total() > asked + 100)
    assert len(load.failures) <= 4, "each client had one request on its way"
    assert not any("Refused" in failure for failure in load.failures)


def test_a_stuck_worker_is_killed_with_its_stack_in_the_log_while_another_serves(start):
    master = start("-w", "2", "--timeout", "1", config=CONFIG)
    master.says("hook post_worker_init", 2)
    with connect(master) as peer:
        peer.send(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        master.says("stuck in")
        master.says(r"\[WARNING\] GET /stuck has held the loop")
        master.says(r'File ".*app\.py", line \d+, in stuck')
        with Load(master.port, new=1, kept=0) as load:
            stuck = master.says(r"WORKER TIMEOUT \(pid:(\d+)\)")[1]
            master.says(r'File ".*app\.py", line \d+ in stuck')
            master.says(f"hook worker_abort {stuck}")
            master.says(f"hook worker_exit {stuck}")
        assert peer.ends()
    assert load.failures == []
    assert load.answers.keys() & {stuck.encode()} == set()
    assert f"on_stop in {stuck}" not in master.lines, "nothing of a stuck application is run"


# the end


def test_term_answers_what_is_under_way_and_closes_what_is_idle(start):
    master = start()
    master.get()
    with contextlib.ExitStack() as stack:
        idle = stack.enter_context(connect(master))
        idle.get()
        busy = [stack.enter_context(connect(master)) for _ in range(50)]
        for peer in busy:
            # The kernel takes less than the answer: it is under way until the client reads it.
            peer.send(request("/large"))
        assert all(peer.more() for peer in busy)
        master.signal(signal.SIGTERM)
        assert idle.ends()
        with pytest.raises(ConnectionRefusedError):
            until(lambda: connect(master).close())
        assert min(len(peer.answer().body) for peer in busy) >= 64 * 64 * 1024
    assert master.wait() == 0
    assert any("on_stop in" in line for line in master.lines)


SLOW = """
import time
from hypoll import Routes

routes = Routes()

@routes.get("/slow", threaded=True)
def slow(request):
    time.sleep(0.8)
    return "slow"
"""


def test_term_waits_for_fifty_handlers_at_work(start):
    master = start("--threads", "50", app=SLOW)
    master.get()
    with contextlib.ExitStack() as stack:
        idle = stack.enter_context(connect(master))
        busy = [stack.enter_context(connect(master)) for _ in range(50)]
        for peer in busy:
            peer.send(request("/slow"))
        idle.get("/nowhere")  # it is answered when theirs have been read
        master.signal(signal.SIGTERM)
        assert idle.ends()
        for peer in busy:
            assert peer.answer().body == b"slow"
    assert master.wait() == 0


PERIODIC = """
import os
from hypoll import Routes

routes = Routes()

def say(kind):
    os.write(1, f"{kind} in {os.getpid()}\\n".encode())

@routes.every(3600)
def thread():
    say("def")

@routes.every(3600)
async def task():
    say("task")

@routes.on_stop
def stop():
    say("stop")
"""


def test_periodic_work_is_of_each_worker(start):
    master = start("-w", "2", app=PERIODIC)
    for kind in ("def", "task"):
        master.says(f"^{kind} in", 2)
    master.signal(signal.SIGHUP)
    for kind in ("def", "task"):
        master.says(f"^{kind} in", 4)
    master.says("^stop in", 2)
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    for kind in ("def", "task", "stop"):
        pids = [line.split()[-1] for line in master.lines if line.startswith(f"{kind} in")]
        assert len(set(pids)) == len(pids) == 4


@pytest.mark.parametrize("number", some([signal.SIGQUIT, signal.SIGINT], 1))
def test_int_and_quit_stop_at_once_even_in_a_handler(start, number):
    master = start(config=CONFIG)
    with connect(master) as peer:
        peer.get()
        peer.send(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        master.says("stuck in")
        (pid,) = master.workers()
        master.signal(number)
        with contextlib.suppress(ConnectionResetError):
            assert peer.ends()
    assert master.wait() == 0
    master.says(f"hook worker_int {pid}")
    master.says(f"on_stop in {pid}")
    master.says(f"hook worker_exit {pid}")


def test_workers_end_when_their_master_is_gone(start):
    master = start("-w", "2", config=CONFIG)
    master.says("hook post_worker_init", 2)
    workers = master.workers()
    master.popen.kill()
    master.says("Parent changed, shutting down", 2)
    until(lambda: all(gone(pid) for pid in workers))


def test_usr1_reopens_the_logs(start, tmp_path):
    log = tmp_path / "error.log"
    access = tmp_path / "access.log"
    master = start("--error-logfile", str(log), "--access-logfile", str(access), bind=f"unix:{tmp_path}/s")

    def ask() -> bool:
        return fetch(f"{tmp_path}/s").status == 200

    # The socket's file is there when it is bound, and takes connections when it listens.
    until(lambda: log.exists() and "Listening at" in log.read_text())
    assert ask()
    until(lambda: "GET / HTTP/1.1" in access.read_text())
    shutil.move(access, tmp_path / "old.log")
    master.signal(signal.SIGUSR1)
    until(lambda: access.exists())
    # The master has made it; the worker opens it when the signal has come to it, too.
    until(lambda: ask() and "GET / HTTP/1.1" in access.read_text())


# beginnings


@pytest.mark.parametrize(
    ("app", "code", "said"),
    some(
        [
            (APP + "\n@routes.on_start\ndef fail(): raise RuntimeError('at start')\n", 3, "RuntimeError: at start"),
            ("def routes(request): pass", 4, "routes is no WSGI application"),
            ("raise RuntimeError('at import')", 3, "RuntimeError: at import"),
            ("other = 1", 4, "Failed to find attribute 'routes' in 'app'"),
        ],
        1,
    ),
    ids=["on_start", "other", "import", "attribute"],
)
def test_an_application_that_can_t_be_served_halts_the_master(start, app, code, said):
    master = start(app=app)
    assert master.wait() == code
    assert any(said in line for line in master.lines), "\n".join(master.lines)


def test_what_can_t_work_is_refused_before_a_worker_is_started(start, tmp_path):
    master = start("--reuse-port", bind=f"unix:{tmp_path}/s")
    assert master.wait() == 1
    assert any(line.startswith("Error: reuse_port doesn't go with unix:") for line in master.lines)
    assert not any("Booting" in line for line in master.lines)


WSGI = """
import os

def routes(environ, start_response):
    print("an error of", environ["PATH_INFO"], file=environ["wsgi.errors"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = ("SCRIPT_NAME", "PATH_INFO", "REMOTE_ADDR", "wsgi.multiprocess", "wsgi.multithread")
    return [" ".join(str(environ[name]) for name in names).encode()]
"""


def test_a_wsgi_application_is_served_and_logged(start):
    arguments = ("-w", "2", "--access-logfile", "-", "--access-logformat", "%(s)s %(U)s %(B)s")
    master = start(*arguments, app=WSGI, env={"SCRIPT_NAME": "/shop"})
    assert master.get("/shop/a") == (200, b"/shop /a 127.0.0.1 True True")
    assert master.get("/a")[0] == 404
    master.says(r"^200 /shop/a 28$")
    master.says(r"\[ERROR\] an error of /a")


def test_preload_loads_the_application_once_in_the_master(start):
    master = start("--preload", "-w", "2")
    assert int(master.get("/booted")[1]) == master.popen.pid
    assert int(master.get("/")[1]) in master.workers()


def test_reload_serves_what_was_changed_and_tells_why_it_can_t(start, tmp_path):
    master = start("--reload")
    assert master.get()[0] == 200
    app = tmp_path / "app.py"
    app.write_text(APP + "\nraise LookupError('a mistake')\n")
    # Touched while it is waited: what changed before the reloader looked for the first time is nothing new to it.
    until(lambda: app.touch() or master.get()[0] == 500)
    master.says("Worker reloading: .*app.py modified")
    assert b"LookupError: a mistake" in master.get("/anything")[1]
    app.write_text(APP.replace("str(os.getpid())", "'mended'"))
    until(lambda: app.touch() or master.get() == (200, b"mended"))


def test_each_worker_listens_for_itself_with_reuse_port(start):
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        master = start("--reuse-port", "-w", "2", bind=f"127.0.0.1:{port}")
        master.says("Booting worker", 2)

        def answered() -> set[bytes]:
            with contextlib.suppress(OSError):
                pids.add(fetch(("127.0.0.1", port)).body)
            return pids

        pids: set[bytes] = set()
        until(lambda: len(answered()) == 2)
        assert {int(pid) for pid in pids} == set(master.workers())


@pytest.mark.parametrize("way", some(["activation", "fd"], 1))
def test_it_serves_inherited_sockets(start, way):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        if way == "fd":
            master = start(bind=f"fd://{number}", pass_fds=(number,))
        else:
            # As systemd does it: the descriptor is the third, and the pid known to nobody before.
            code = f"import os, sys; os.dup2({number}, 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
            prefix = (sys.executable, "-c", code + "os.execv(sys.argv[1], sys.argv[1:])")
            master = start(bind=None, prefix=prefix, pass_fds=(number,), env={"LISTEN_FDS": "1"})
        assert master.port == listener.getsockname()[1]
        for _ in range(2):
            assert master.get()[0] == 200
            master.signal(signal.SIGHUP)
            master.says("Hang up")
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
        with Client(listener.getsockname()):
            pass  # it still takes connections: nothing was done to it that would outlast the server
