"""The command line as its users see it: a process, what it prints, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import click
import pytest
import requests

import hypoll
from hypoll.option import format_size
from hypoll.settings import groups, options
from tests.support.client import Client, address_of, fetch
from tests.support.commands import run_command
from tests.support.gunicorn import wait_for_end

TIMEOUT = 10.0

APP = """
import logging
import hypoll

routes = hypoll.Routes()

@routes.get("/")
def index(request):
    return "here"

@routes.post("/echo")
def echo(request):
    return request.body

@routes.get("/fails")
def fails(request):
    raise RuntimeError("the handler's own")

@routes.on_start
def start():
    logging.getLogger("app").info("opened")

@routes.on_stop
def stop():
    logging.getLogger("app").info("closed")
"""

STARTED = re.compile(r"\S+ \S+ INFO hypoll (\S+) serves (\S+) on (.+), pid (\d+)")


def environment(**variables: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HYPOLL_", "PYTHON"))}
    short = {"HYPOLL_DRAIN_KEEP_ALIVE": "0.2"}
    return {**clean, **short, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "1", **variables}


class Process:
    """A running `hypoll`, its stderr read line by line."""

    def __init__(
        self, command: list[str], directory: Path, variables: dict[str, str], pass_fds: tuple[int, ...]
    ) -> None:
        self.popen = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(**variables),
            pass_fds=pass_fds,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stderr is not None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self.popen.stderr,))
        self._reader.start()
        self.addresses: list[str] = []

    def _read(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """The next line of its stderr; empty when there will be none."""
        return self._lines.get(timeout=TIMEOUT) or ""

    def rest(self) -> list[str]:
        """The lines of its stderr up to its end."""
        lines = []
        while (line := self._lines.get(timeout=TIMEOUT)) is not None:
            lines.append(line)
        return lines

    def started(self) -> re.Match[str]:
        """Wait for the line that tells of the start."""
        seen = []
        while line := self.line():
            seen.append(line)
            if match := STARTED.fullmatch(line):
                self.addresses = match[3].split(", ")
                return match
        pytest.fail(f"it didn't start: {seen}")

    @property
    def url(self) -> str:
        return self.addresses[0]

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        return wait_for_end(self.popen, self._left, TIMEOUT)

    def _left(self) -> list[str]:
        """The lines that nobody has read."""
        with contextlib.suppress(queue.Empty):
            return self.rest()
        return []

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        self.popen.stdout.close()
        self.popen.stderr.close()


Start = Callable[..., Process]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Start `hypoll` with arguments; `variables`: of its environment; what is left running is ended."""
    with contextlib.ExitStack() as stack:

        def start(
            *arguments: str,
            variables: dict[str, str] | None = None,
            pass_fds: tuple[int, ...] = (),
            command: tuple[str, ...] = ("-m", "hypoll"),
        ) -> Process:
            # What is left open would be told on stderr.
            line = [sys.executable, "-W", "always::ResourceWarning", *command, *arguments]
            process = Process(line, directory, variables or {}, pass_fds)
            stack.callback(process.end)
            return process

        yield start


def serve(start: Start, *arguments: str, variables: dict[str, str] | None = None) -> Process:
    """Start `app:routes` on a free port and wait until it serves."""
    process = start("app:routes", "--bind", "127.0.0.1:0", *arguments, variables=variables)
    process.started()
    return process


def hypoll_says(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `hypoll` to its end."""
    return run_command(directory, [*arguments], environment(**variables))


def hypoll_itself_says(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same from the interpreter's start on."""
    return subprocess.run(
        [sys.executable, "-m", "hypoll", *arguments],
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def keep_alive(process: Process) -> Client:
    """A connection that has had an answer and waits."""
    client = Client(address_of(process.url), patience=TIMEOUT)
    assert client.get().body == b"here"
    return client


def upload_begun(process: Process) -> Client:
    """A connection with a request under way: the server has seen its head and wants the body."""
    client = Client(address_of(process.url), patience=TIMEOUT)
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
    assert client.head()[0] == 100
    return client


# serving and stopping


def test_it_tells_in_one_line_what_it_serves_where_and_its_pid(start):
    process = start("app:routes", "--bind", "127.0.0.1:0")
    assert process.line().endswith(" INFO opened"), "on_start runs first"
    match = STARTED.fullmatch(process.line())
    assert match is not None
    assert match[1] == hypoll.__version__
    assert match[2] == "app:routes"
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", match[3])
    assert int(match[4]) == process.popen.pid
    assert requests.get(match[3], timeout=TIMEOUT).text == "here"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_with_a_connection_waiting(start, number):
    process = serve(start)
    with keep_alive(process) as idle:
        process.signal(number)
        assert idle.ends()
    assert process.wait() == 0
    wait = "draining: 1 idle connection for 0.2 s at most; interrupt again to stop at once"
    waits = [wait] if number == signal.SIGTERM else []
    assert [line.partition("INFO ")[2] for line in process.rest()] == [*waits, "closed", "stopped"]
    assert process.popen.stdout is not None
    access = process.popen.stdout.read().splitlines()
    assert [line.partition('"')[2].partition('"')[0] for line in access] == ["GET / HTTP/1.1"]


def test_the_request_under_way_is_answered_after_term(start):
    process = serve(start)
    with keep_alive(process) as idle, upload_begun(process) as busy:
        process.signal(signal.SIGTERM)
        assert idle.ends(), "the drain has begun"
        busy.send(b"0123456789")
        answer = busy.answer()
        assert (answer.status, answer.fields["connection"], answer.body) == (200, "close", b"0123456789")
        assert busy.ends()
    assert process.wait() == 0


def test_a_second_int_stops_at_once(start):
    process = serve(start)
    with keep_alive(process) as idle, upload_begun(process) as busy:
        process.signal(signal.SIGINT)
        assert idle.ends(), "the drain has begun"
        process.signal(signal.SIGINT)
        with contextlib.suppress(ConnectionResetError):
            assert busy.ends()
    assert process.wait() == 0
    assert process.line().endswith(" INFO draining: 1 request; interrupt again to stop at once")
    # The idle one has been told, but may still be counted, when the second comes.
    assert re.search("interrupted again: closing [12] connections", process.line())


def test_what_outlasts_graceful_timeout_is_closed(start):
    process = serve(start, "--graceful-timeout", "0")
    with upload_begun(process) as busy:
        process.signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionResetError):
            assert busy.ends()
    assert process.wait() == 0
    assert process.line().endswith(" INFO draining: 1 request; interrupt again to stop at once")
    assert "graceful_timeout passed: closing 1 connections: cut 1 request" in process.line()


def test_a_handler_s_exception_is_in_the_log_with_the_id_of_the_answer(start):
    process = serve(start)
    answer = requests.get(process.url + "/fails", timeout=TIMEOUT)
    assert answer.status_code == 500
    assert process.line().endswith(f" ERROR GET /fails failed, request {answer.json()['id']}")
    lines = [process.line()]
    while not lines[-1].startswith("    | RuntimeError"):
        lines.append(process.line())
    assert lines[0] == "    | Traceback (most recent call last):"
    assert lines[-1] == "    | RuntimeError: the handler's own"


def test_run_serves_from_a_script(start, directory):
    (directory / "script.py").write_text(
        "import app, hypoll\n"
        "hypoll.run(app.routes, bind='127.0.0.1:0', max_body=3, on_start=lambda server:"
        " print(f'INFO hypoll x serves x on {server.addresses[0]}, pid 1', flush=True))\n"
    )
    process = start(command=("script.py",))
    assert process.popen.stdout is not None
    url = re.search("http://[^,]+", process.popen.stdout.readline())
    assert url is not None
    assert requests.get(url[0], timeout=TIMEOUT).text == "here"
    assert requests.post(url[0] + "/echo", data=b"1234", timeout=TIMEOUT).status_code == 413
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_the_example_is_served_as_the_readme_tells(start, directory):
    examples = Path(__file__).parent.parent / "examples"
    process = start("links:routes", "--app-dir", str(examples), "--bind", "127.0.0.1:0")
    assert process.started()[2] == "links:routes"
    made = requests.post(process.url + "/links", json={"url": "https://example.org/"}, timeout=TIMEOUT).json()
    followed = requests.get(made["short"], allow_redirects=False, timeout=TIMEOUT)
    assert followed.headers["Location"] == "https://example.org/"
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert (directory / "links.db").exists()


# where to listen


def test_bind_may_be_repeated_with_a_unix_socket_and_ipv6(start, directory):
    addresses = ["127.0.0.1:0", "unix:" + str(directory / "app.sock")]
    if ipv6():
        addresses.append("[::1]:0")
    process = start("app:routes", *(word for address in addresses for word in ("--bind", address)))
    process.started()
    assert len(process.addresses) == len(addresses)
    assert process.addresses[1] == f"unix:{directory}/app.sock"
    assert fetch(str(directory / "app.sock")).body == b"here"
    for address in process.addresses:
        if address.startswith("http"):
            assert requests.get(address, timeout=TIMEOUT).text == "here"
    if ipv6():
        assert re.fullmatch(r"http://\[::1\]:\d+", process.addresses[2])
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not (directory / "app.sock").exists(), "the socket's file goes with it"


def ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_an_inherited_socket_is_served_and_quietly_when_asked(start):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        process = start("app:routes", "--bind", f"fd://{number}", "--log-level", "warning", pass_fds=(number,))
        # Connections wait in the queue until it serves: nothing needs to be told.
        answer = requests.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=TIMEOUT)
    assert answer.text == "here"
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert process.rest() == []


PASS_SOCKETS = """
import os, sys
given = sys.argv[1].split(",")
for index, number in enumerate(given):
    os.dup2(int(number), 3 + index)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given))}
os.execv(sys.executable, [sys.executable, "-m", "hypoll", *sys.argv[2:]])
"""


@contextlib.contextmanager
def passed_sockets(count: int) -> Iterator[tuple[list[socket.socket], str, tuple[int, ...]]]:
    """Sockets of a service manager: they, their numbers as a word, and as descriptors to pass."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        # Away from the low numbers, which the receiver puts them at.
        numbers = tuple(fcntl.fcntl(listener, fcntl.F_DUPFD, 100) for listener in listeners)
        for number in numbers:
            stack.callback(os.close, number)
        yield listeners, ",".join(map(str, numbers)), numbers


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_the_sockets_that_systemd_passes_are_served_one_process_after_the_other(start):
    with passed_sockets(2) as (listeners, word, numbers):
        for _ in range(2):
            process = start("app:routes", command=("-c", PASS_SOCKETS, word), pass_fds=numbers)
            process.started()
            assert process.addresses == [url_of(listener) for listener in listeners]
            assert [requests.get(url, timeout=TIMEOUT).text for url in process.addresses] == ["here", "here"]
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            # The queue is the manager's: who connects between two processes is served by the second.
            socket.create_connection(listeners[0].getsockname(), timeout=1.0).close()


def test_bind_comes_before_the_sockets_that_systemd_passes(start):
    with passed_sockets(1) as (listeners, word, numbers):
        process = start("app:routes", "--bind", "127.0.0.1:0", command=("-c", PASS_SOCKETS, word), pass_fds=numbers)
        process.started()
        assert process.addresses != [url_of(listeners[0])]


def test_two_may_share_a_port_when_both_say_so(start):
    first = serve(start, "--reuse-port")
    second = start("app:routes", "--bind", first.url.removeprefix("http://"), variables={"HYPOLL_REUSE_PORT": "1"})
    second.started()
    assert second.url == first.url


def test_a_port_in_use_is_one_sentence_and_1(directory):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        ended = hypoll_itself_says(directory, "app:routes", "--bind", address)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"Error: can't listen on {address}: the address is in use. Stop what listens there, or bind another\n"
    )


@pytest.mark.parametrize("address", ["nonsense", "fd://x"])
def test_what_is_no_address_is_one_sentence_and_2(directory, address):
    ended = hypoll_says(directory, "app:routes", "--bind", address)
    assert ended.returncode == 2
    assert re.fullmatch(r"Error: .*\n", ended.stderr), ended.stderr
    assert address in ended.stderr


# options


def test_options_reach_the_server(start):
    process = serve(start, "--max-body", "1KiB", variables={"HYPOLL_MAX_HEADERS": "20", "HYPOLL_KEEP_ALIVE": "0.5"})
    assert requests.post(process.url + "/echo", data=bytes(1024), timeout=TIMEOUT).status_code == 200
    assert requests.post(process.url + "/echo", data=bytes(1025), timeout=TIMEOUT).status_code == 413
    headers = {f"X-{number}": "1" for number in range(20)}
    assert requests.get(process.url, headers=headers, timeout=TIMEOUT).status_code == 431
    with keep_alive(process) as idle:
        assert idle.ends()  # after keep_alive and a tick


def test_every_option_may_come_from_the_environment(start, directory):
    (directory / "apps").mkdir()
    (directory / "app.py").rename(directory / "apps" / "app.py")
    process = start(
        "app:routes",
        variables={
            "HYPOLL_BIND": "127.0.0.1:0 127.0.0.1:0",
            "HYPOLL_APP_DIR": "apps",
            "HYPOLL_LOG_LEVEL": "debug",
            "HYPOLL_MAX_BODY": "1KiB",
            "HYPOLL_REUSE_PORT": "true",
            "HYPOLL_WRITE_TIMEOUT": "12.5",
            "HYPOLL_BACKLOG": "64",
            # Names that an image or an orchestrator may have set for its own use.
            "HYPOLL_VERSION": "1.2.3",
            "HYPOLL_HELP": "1",
            "HYPOLL_PORT": "tcp://10.0.0.1:80",
        },
    )
    process.started()
    assert len(process.addresses) == 2
    assert len(set(process.addresses)) == 2
    for address in process.addresses:
        assert requests.get(address, timeout=TIMEOUT).text == "here"


def test_help_tells_every_setting(directory):
    ended = hypoll_itself_says(directory, "--help")
    assert ended.returncode == 0
    assert "MODULE:ATTRIBUTE" in ended.stdout
    texts = re.split(r"\n  (?=-)", ended.stdout)
    told = {text[text.index("--") :].split()[0]: " ".join(text.split()) for text in texts if "--" in text}
    assert re.findall(r"(?m)^(\w.*):$", ended.stdout) == ["The command", "Processes", *groups()]
    for option in options():
        text = told["--" + option.name.replace("_", "-")]
        assert f"[env var: HYPOLL_{option.name.upper()}" in text
        assert option.help in re.sub(r"(?<=\w-) ", "", text), "lines are broken behind a hyphen, too"
        assert option.unit == "" or f"[{option.unit}]" in text
        default = option.default[0] if isinstance(option.default, tuple) and option.default else option.default
        if not isinstance(default, bool) and default not in ("", ()):
            assert f"default: {format_size(default) if option.unit == 'bytes' else default}" in text
    assert {"--app-dir", "--log-level", "--check", "--version"} <= told.keys()


def test_version(directory):
    ended = hypoll_itself_says(directory, "--version")
    assert (ended.returncode, ended.stdout) == (0, f"hypoll {hypoll.__version__}\n")


def test_the_script_is_the_command():
    [script] = importlib.metadata.entry_points(group="console_scripts", name="hypoll")
    assert isinstance(script.load(), click.Command)


# --check


@pytest.mark.parametrize(("arguments", "variables"), [(["--check"], {}), ([], {"HYPOLL_CHECK": "1"})])
def test_check_prints_the_routes_and_runs_nothing(directory, arguments, variables):
    (directory / "app.py").write_text(
        APP + "\n@routes.route('/users/{id:int}', methods=['PUT', 'PATCH'])\ndef user(request, id): pass\n"
    )
    ended = hypoll_itself_says(directory, "app:routes", *arguments, **variables)
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "GET        /                app.index",
        "POST       /echo            app.echo",
        "GET        /fails           app.fails",
        "PUT/PATCH  /users/{id:int}  app.user",
        "app:routes has 4 routes and can be served",
    ]
    assert ended.stderr == ""


def test_check_warns_of_what_is_likely_not_meant(directory):
    (directory / "two.py").write_text(
        "from hypoll import Routes\n"
        "routes = Routes()\n"
        "routes.get('/users')(lambda request: '')\n"
        "routes.get('/users/')(lambda request: '')\n"
        "none = Routes()\n"
        "one = Routes()\n"
        "one.get('/')(lambda request: '')\n"
    )
    ended = hypoll_says(directory, "two:routes", "--check")
    assert ended.returncode == 0
    assert "warning: /users and /users/ are different paths: a client may mean either" in ended.stderr.splitlines()
    empty = hypoll_says(directory, "two:none", "--check")
    assert "warning: there are no routes: every request will be answered with 404" in empty.stderr.splitlines()
    assert empty.stdout == "two:none has 0 routes and can be served\n"
    assert hypoll_says(directory, "two:one", "--check").stdout.endswith("two:one has 1 route and can be served\n")


# what can't be served

WRONG = {
    "broken_import.py": "import json\nimport no_such_module\n",
    "broken_name.py": "from hypoll import Routes, NoSuchName\n",
    "broken_syntax.py": "routes = 1\ndef f(:\n",
    "broken_code.py": "import json\n\nvalue = json.loads('{')\n",
    "broken_text.py": "raise ValueError('one\\n  two')\n",
    "broken_route.py": "from hypoll import Routes\nroutes = Routes()\n\nroutes.get('users')\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "named.py": "from hypoll import Routes\napi = Routes()\nother = Routes()\nnumber = 7\nclass holder: routes = api\n",
    "asgi.py": "async def application(request): pass\ndef handler(request): pass\n",
}


@pytest.fixture
def wrong(directory: Path) -> Path:
    for name, text in WRONG.items():
        (directory / name).write_text(text)
    (directory / "package").mkdir()
    (directory / "package" / "__init__.py").write_text("")
    return directory


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nosuch:routes", "there is no module 'nosuch' in {directory}: see --app-dir"),
        ("nosuch.app:routes", "there is no module 'nosuch.app' in {directory}: see --app-dir"),
        ("package.nosuch:routes", "there is no module 'package.nosuch' in {directory}: see --app-dir"),
        (
            "broken_import:routes",
            "ModuleNotFoundError: No module named 'no_such_module', {directory}/broken_import.py line 2",
        ),
        ("broken_name:routes", "cannot import name 'NoSuchName' from 'hypoll'"),
        (
            "broken_syntax:routes",
            "broken_syntax can't be imported: invalid syntax, {directory}/broken_syntax.py line 2",
        ),
        ("broken_code:routes", "{directory}/broken_code.py line 3"),
        ("broken_text:routes", "ValueError: one two, {directory}/broken_text.py line 1"),
        ("broken_route:routes", "'users' must begin with a slash, {directory}/broken_route.py line 4"),
        ("exits:routes", "exits exits when it is imported: put what is for running it under __main__"),
        ("named:routes", "named ({directory}/named.py) has no attribute 'routes'; it has named:api and named:other"),
        ("named", "'named' doesn't name an application: give MODULE:ATTRIBUTE, as in named:api or named:other\n"),
        ("named.api", "'named.api' doesn't name an application: give MODULE:ATTRIBUTE, as in named:api\n"),
        ("named.none", "'named.none' doesn't name an application: give MODULE:ATTRIBUTE, as in app:routes\n"),
        ("named:", "as in named:api or named:other\n"),
        ("broken_text", "'broken_text' doesn't name an application: give MODULE:ATTRIBUTE, as in app:routes\n"),
        ("named:holder.app", "has no attribute 'holder.app'; it has named:api"),
        ("named:number", "named:number is a int, neither a hypoll.Routes nor a WSGI application; it has named"),
        (
            "asgi:application",
            "asgi:application is a coroutine function, but no ASGI application: it can't be called with",
        ),
        ("asgi:handler", "asgi:handler is no WSGI application: it can't be called with environ and start_response"),
    ],
)
def test_what_can_not_be_loaded_is_one_sentence_and_2(wrong, reference, words):
    ended = hypoll_says(wrong, reference, "--check")
    assert ended.returncode == 2, ended.stderr
    assert re.fullmatch(r"Error: .*\n", ended.stderr), ended.stderr
    assert words.format(directory=wrong) in ended.stderr
    assert ended.stdout == ""


def test_a_module_hidden_by_another_of_its_name_is_told_by_the_file(directory):
    (directory / "apps").mkdir()
    (directory / "apps" / "json.py").write_text("from hypoll import Routes\nroutes = Routes()\n")
    ended = hypoll_says(directory, "json:routes", "--check", "--app-dir", "apps")
    assert ended.returncode == 2
    assert f"json ({json.__file__}) has no attribute 'routes'; it has no Routes object" in ended.stderr


@pytest.mark.parametrize("reference", ["meant:ap", "meant"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("class App:\n async def __call__(self, scope, receive, send): ...\nmain = App()", "meant:main"),
        ("class App:\n def __call__(self, environ, start_response): ...\nmain = App()", "meant:main"),
        ("async def app(scope, receive, send): ...\ndef pair(a, b): ...\nasync def three(a, b, c): ...", "meant:app"),
        ("def application(environ, start_response): ...", "meant:application"),
        ("from hypoll import Routes\nroutes = Routes()\ndef app(environ, start_response): ...", "meant:routes"),
    ],
)
def test_a_wrong_attribute_names_the_applications_that_are_there(directory, reference, content, named):
    (directory / "meant.py").write_text(content)
    ended = hypoll_says(directory, reference, "--check")
    assert ended.returncode == 2
    assert ended.stderr.endswith(f" {named}\n")


def test_a_wsgi_application_can_be_served(directory):
    (directory / "flat.py").write_text(
        "from hypoll import Routes\n"
        "routes = Routes()\n"
        "wsgi = routes.wsgi\n"
        "def application(environ, start_response): return []\n"
    )
    told = hypoll_says(directory, "flat:application", "--check").stdout
    assert told == "flat:application is a WSGI application and can be served\n"
    told = hypoll_says(directory, "flat:wsgi", "--check").stdout  # served as what it is
    assert told == "flat:wsgi has 0 routes and can be served\n"


def test_routes_may_be_an_attribute_of_an_attribute(wrong):
    assert hypoll_says(wrong, "named:holder.routes", "--check").returncode == 0


def test_modules_beside_the_application_are_found(directory):
    (directory / "apps").mkdir()
    (directory / "apps" / "beside.py").write_text("from hypoll import Routes\nroutes = Routes()\n")
    (directory / "apps" / "main.py").write_text("from beside import routes\n")
    assert hypoll_itself_says(directory, "main:routes", "--check", "--app-dir", "apps").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["app"], "'app' doesn't name an application"),
        (["app:routes", "--bakclog", "1"], "No such option '--bakclog'"),
        (["app:routes", "--metrics", "metrics"], "begins with a slash, as in /metrics\n"),
        (["app:routes", "--status", "-/status"], "begins with a slash, as in /-/status\n"),
        (["app:routes", "--health", "what?"], "begins with a slash, as in /healthz\n"),
        (["app:routes", "--bind", "127.0.0.1:99999"], "'127.0.0.1:99999' is no address: give HOST:PORT with a port of"),
        (["app:routes", "--bind", "[::1]:65536"], "give HOST:PORT with a port of 65535 at most\n"),
        (["app:routes", "--header-timeout", "-1"], "-1.0 is not in the range x>=0"),
        (["app:routes", "--keep-alive", "nan"], "--keep-alive is nan: it must be at least 0"),
    ],
)
def test_a_wrong_command_is_told_without_a_traceback(directory, arguments, words):
    ended = hypoll_says(directory, *arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


MISTAKES = [
    ("--certfile", "none.pem"),
    ("--certfile", "app.py"),
    ("--keyfile", "app.py"),
    ("--metrics", "/same", "--status", "/same"),
    ("--admin-bind", "127.0.0.1:0"),
    ("--access-log", "text", "--access-log-file", "nowhere/log"),
    ("--bind", "here"),
    ("--bind", "127.0.0.1:99999"),
]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
@pytest.mark.parametrize("wrong", MISTAKES, ids=" ".join)
def test_a_mistake_in_the_command_is_one_sentence_and_2(directory, wrong, workers):
    bind = () if "--bind" in wrong else ("--bind", "127.0.0.1:0")
    ended = hypoll_says(directory, "app:routes", *wrong, *bind, *workers)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("bind", [("unix:s",), ("127.0.0.1:0",)])
def test_workers_that_can_t_have_a_listener_each_are_a_mistake(directory, bind):
    ended = hypoll_says(directory, "app:routes", "--workers", "2", "--reuse-port", "--bind", *bind)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("Error: reuse_port doesn't go with")


@pytest.mark.parametrize("arguments", [(), ("--workers", "2"), ("--workers", "2", "--reuse-port")])
def test_an_address_that_is_taken_is_1_with_workers_too(directory, arguments):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = hypoll_says(directory, "app:routes", "--bind", address, *arguments)
        admin = hypoll_says(directory, "app:routes", "--bind", "unix:s", "--health", "/h", "--admin-bind", address)
    assert (ended.returncode, admin.returncode) == (1, 1)
    assert ended.stderr.splitlines()[-1].startswith(f"Error: can't listen on {address}: ")


@pytest.mark.parametrize("module", ["broken_text", "broken_syntax", "broken_name"])
@pytest.mark.parametrize("workers", [(), ("--workers", "1", "--bind", "127.0.0.1:0")])
def test_the_traceback_of_an_import_is_in_the_log_of_the_level_debug(wrong, module, workers):
    for level, expected in (("info", False), ("debug", True)):
        ended = hypoll_says(wrong, f"{module}:routes", "--log-level", level, *workers)
        assert ended.returncode == (4 if workers else 2)
        found = re.search(rf"DEBUG {module} can't be imported\n +\| Traceback", ended.stderr)
        assert bool(found) is expected
        assert f"{module} can't be imported: " in ended.stderr.splitlines()[-1]


def test_it_has_stopped_when_its_threads_have(start, directory):
    (directory / "late.py").write_text(
        "import asyncio, atexit, os, time\n"
        "from hypoll import Routes\n"
        "routes = Routes()\n"
        "def work():\n"
        "    with open('gate') as gate: gate.read()\n"
        "    os.write(2, b'worked\\n')\n"
        "@routes.get('/')\n"
        "async def index(request):\n"
        "    asyncio.get_running_loop().run_in_executor(None, work)\n"
        "    return 'begun'\n"
        "routes.on_stop(lambda: os.write(2, b'closed\\n'))\n"
        "atexit.register(lambda: os.write(2, b'at exit\\n'))\n"
    )
    os.mkfifo(directory / "gate")
    process = start("late:routes", "--bind", "127.0.0.1:0")
    process.started()
    assert requests.get(process.addresses[0], timeout=TIMEOUT).text == "begun"
    process.popen.send_signal(signal.SIGTERM)
    while process.line() != "closed":
        pass
    (directory / "gate").write_text("")
    assert [line.rpartition(" INFO ")[2] for line in process.rest()] == ["worked", "at exit", "stopped"]


def test_a_wrong_command_is_told_how_it_is_used(directory):
    ended = hypoll_itself_says(directory)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Usage: hypoll [OPTIONS] MODULE:ATTRIBUTE\n")
    assert "Traceback" not in ended.stderr


def test_an_option_is_named_as_it_was_set(directory):
    said = hypoll_says(directory, "app:routes", HYPOLL_KEEP_ALIVE="nan").stderr
    assert "Error: HYPOLL_KEEP_ALIVE is nan: it must be at least 0" in said
    said = hypoll_says(directory, "app:routes", "--keyfile", "key.pem", HYPOLL_BIND="127.0.0.1:0").stderr
    assert "Error: --keyfile is given, but no --certfile: TLS needs a certificate" in said


def test_a_variable_that_is_none_of_hypoll_s_is_said(start):
    process = start("app:routes", "--bind", "127.0.0.1:0", variables={"HYPOLL_BACKLGO": "1"})
    assert process.line().endswith("WARNING HYPOLL_BACKLGO is no variable of hypoll's: is it HYPOLL_BACKLOG?")


def test_a_wrong_variable_is_named(directory):
    ended = hypoll_says(directory, "app:routes", HYPOLL_KEEP_ALIVE="long")
    assert ended.returncode == 2
    assert "--keep-alive" in ended.stderr
    assert "HYPOLL_KEEP_ALIVE" in ended.stderr


def test_an_on_start_hook_that_fails_is_one_sentence_after_its_traceback_and_1(directory):
    (directory / "failing.py").write_text(
        "import app\nroutes = app.routes\n\n@routes.on_start\ndef open_database():\n    raise OSError('no such disk')\n"
    )
    ended = hypoll_itself_says(directory, "failing:routes", "--bind", "127.0.0.1:0")
    assert ended.returncode == 1
    *logged, last = ended.stderr.splitlines()
    assert last == f"Error: failing:routes failed: OSError: no such disk, {directory}/failing.py line 6"
    assert ended.stderr.count("Traceback") == 1
    assert any("in the on_start hook" in line and "open_database" in line for line in logged)
    assert not any(STARTED.fullmatch(line) for line in logged)
