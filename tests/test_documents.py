"""Every example of README.md and docs/, taken from the document's own text and run: an example without a test fails.

What can't be run here is held to what is: the command line of a container is checked by hypoll, a path is looked for.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import logging
import os
import queue
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import requests
import trustme
import yaml
from markdown_it import MarkdownIt
from packaging.requirements import Requirement

import hypoll
import hypoll.websocket
from hypoll import HTTPError, Response, RouteError, Routes
from hypoll.cli import main_command
from hypoll.option import parse_size
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request
from hypoll.protocol.peer import Peer
from hypoll.settings import Settings, from_environment
from hypoll.telemetry.access_log import text_socket_line
from hypoll.telemetry.error_log import JsonFormatter, TextFormatter
from hypoll.telemetry.observer import SocketRecord, Traffic
from hypoll.testing import TestClient
from tests.support import api_page, documents
from tests.support.commands import run_command
from tests.support.documents import API, DOCUMENTS, MADE, OPTIONS, ROOT, count_names, missing_names, with_tables
from tests.support.frames import TEXT
from tests.support.gunicorn import GUNICORN, Master, until
from tests.support.server import running
from tests.support.websocket import opened

APP = """
from hypoll import Routes

routes = Routes()


@routes.get("/")
def index(request):
    return "served"
"""
FLASK_APP = """
from flask import Flask

app = Flask("flaskapp")


@app.get("/")
def index():
    return "served"
"""


ASGI_APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"served"})
"""


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class Example(NamedTuple):
    """A block of code: its document, its first line that isn't empty, and its text."""

    document: str
    name: str
    text: str


@cache
def examples(only: str | None = None) -> list[Example]:
    """Those of all documents, fenced and indented, or of one language; not Sphinx's fences, as ```{include}."""

    return [
        Example(document, token.content.strip().split("\n")[0].strip(), token.content)
        for document in DOCUMENTS
        for token in MarkdownIt().parse((ROOT / document).read_text())
        if token.type in ("fence", "code_block") and not token.info.startswith("{")
        if only is None or token.info == only
    ]


Check = Callable[[str, Path], None]
CHECKS: dict[tuple[str, str], Check] = {}


def tries(document: str, *names: str) -> Callable[[Check], Check]:
    """Register what tries the examples of a document that begin with these lines."""

    def register(check: Check) -> Check:
        CHECKS.update({(document, name): check for name in names})
        return check

    return register


def commands(text: str) -> list[list[str]]:
    """The commands of a block, as the shell would split them: one a line, or joined by &&."""
    lines = (shlex.split(part, comments=True) for line in text.splitlines() for part in line.split(" && "))
    return [words for words in lines if words]


def module(text: str, directory: Path) -> dict[str, Any]:
    """What a block of Python defines, run alone, as a file of a directory."""
    path = directory / "example.py"
    names: dict[str, Any] = {"__name__": "example", "__file__": str(path)}
    exec(compile(text, str(path), "exec"), names)
    return names


def routes_of(text: str, directory: Path) -> Routes:
    """The `routes` of a block of Python."""
    routes: Routes = module(text, directory)["routes"]
    return routes


def serve(words: list[str], directory: Path) -> None:
    """Run a command line of hypoll or gunicorn as it stands, on a free port, and ask it for its first page."""
    (directory / "app.py").write_text(APP)
    (directory / "flaskapp.py").write_text(FLASK_APP)
    (directory / "asgiapp.py").write_text(ASGI_APP)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    more = ["--no-control-socket"] if words[0] == "gunicorn" else []
    with Master(directory, ["-m", *words, "--bind", "127.0.0.1:0", *more]) as master:
        scheme = "https" if "--certfile" in words else "http"
        url = f"{scheme}://127.0.0.1:{master.port}/"
        assert requests.get(url, verify=str(directory / "ca.pem"), timeout=10).text == "served"


def text_of(document: str, name: str) -> str:
    """The example of a document that begins with a line, with those that continue it: `# app.py, continued: photos`."""
    parts = [one for one in examples() if one.document == document and one.name.partition(", continued: ")[0] == name]
    assert parts[0].name == name
    return "\n\n".join(one.text for one in parts)


def whole_blocks(document: str) -> list[str]:
    """A document's blocks of Python, each with what continues it."""
    blocks = [one for one in examples(only="python") if one.document == document]
    return [text_of(document, block.name) for block in blocks if ", continued: " not in block.name]


@cache
def run_tests(document: str, *names: str) -> None:
    """Write examples into files, each named by its first line, and have pytest run all tests of the last. Once."""
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            Path(directory, name).write_text(text_of(document, f"# {name}"))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", names[-1]]
        alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take as long to load as the rest
        done = subprocess.run(command, cwd=directory, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"(?m)^[1-9]\d* passed", done.stdout)


def check_command(arguments: list[str], directory: Path) -> None:
    """Have hypoll check its command line."""
    (directory / "app.py").write_text(APP)
    shutil.copy(ROOT / "examples" / "links.py", directory)
    done = run_command(directory, [*arguments, "--check", "--app-dir", str(directory)])
    assert done.returncode == 0, done.stdout + done.stderr


# the tests


def test_each_example_is_tried():
    for example in examples():
        tried = (example.document, example.name) in CHECKS
        assert tried, f"no test tries the example of {example.document} that begins with {example.name!r}"


def own_time(example: Any) -> Any:
    """README's examples among the quick tests, the others, which start a process each, among all."""
    marks = () if example.document == "README.md" else pytest.mark.full
    return pytest.param(example, marks=marks, id=f"{example.document}: {example.name[:40]}")


@pytest.mark.parametrize("example", [own_time(example) for example in examples()])
def test_the_example_does_what_the_document_says(example, tmp_path):
    CHECKS[example.document, example.name](example.text, tmp_path)


def test_each_block_of_python_runs_alone(tmp_path):
    """It defines or imports each name that it uses, and uses each that it imports."""
    for document in DOCUMENTS:
        for number, block in enumerate(whole_blocks(document)):
            folder = tmp_path / document / str(number)
            folder.mkdir(parents=True)
            (folder / "block.py").write_text(block)
    assert len(list(tmp_path.rglob("block.py"))) > 30
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F", "--quiet", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_check_has_its_example_and_no_two_examples_begin_alike():
    found = [(example.document, example.name) for example in examples()]
    assert len(set(found)) == len(found)
    assert set(CHECKS) == set(found)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_file_that_is_linked_to_is_there(document):
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


@pytest.mark.parametrize(("page", "folder"), [("docs/examples.md", "examples"), ("docs/deploy.md", "deploy")])
def test_the_site_shows_each_file_whole(page, folder):
    shown = set(re.findall(r"\{literalinclude\} \.\./(\S+)", (ROOT / page).read_text()))
    files = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()}
    assert {name for name in shown if name.startswith(folder)} == files - {"examples/hello.py"}
    assert all((ROOT / name).is_file() for name in shown)


def test_the_tree_is_that_of_the_packages():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text[text.index("    hypoll/\n") : text.index("Imports point down")]
    top, *packages = re.split(r"(?m)^      (?=\w+/)", tree)
    modules = {path.stem for path in (ROOT / "hypoll").glob("*.py")} - {"__init__", "__main__"}
    assert set(re.findall(r"(\w+)\.py", top)) == modules
    named = {package.partition("/")[0]: set(re.findall(r"\w+", package)) for package in packages}
    there = {path.parent.name for path in (ROOT / "hypoll").glob("*/__init__.py")}
    assert named.keys() == there
    for package in there:
        assert {path.stem for path in (ROOT / "hypoll" / package).glob("[a-z]*.py")} <= named[package], package


def test_each_name_of_code_exists():
    """In one test for all documents: to read the code once takes longer than to read them all."""
    assert {document: names for document in DOCUMENTS if (names := missing_names(document))} == {}
    assert count_names("docs/internals/epoll.md") > 80
    assert all(count_names(name) for name in DOCUMENTS if "```{" not in (ROOT / name).read_text()), "but for the site's"


@pytest.mark.parametrize(
    "name",
    [
        *("nosuch.py", "hypoll/nosuch.py", "tests/nosuch", "scripts/nosuch --all"),
        *("Loop.nosuch", "Writer.poll_once", "loop.nosuch", "hypoll.nosuch", "request.nosuch", "Loop.nosuch(fd)"),
        *("nosuch()", "nosuch(one, two)", "_nosuch", "os.nosuch", "--nosuch", "hypoll app:routes --nosuch 1"),
    ],
)
def test_a_name_that_is_not_there_is_told(name, tmp_path):
    document = tmp_path / "page.md"
    document.write_text(f"See `Loop.poll_once`, `loop.py` and `{name}`, not `HTTP/1.1`.\n")
    assert missing_names(str(document)) == [name]


@pytest.mark.parametrize("name", ["NOSUCH", "NoSuch"])
def test_where_the_code_is_described_each_capital_is_its_name(name, monkeypatch, tmp_path):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    page = tmp_path / "docs/internals/page.md"
    page.parent.mkdir(parents=True)
    page.write_text(f"`LINGERING`, `Writer`, `ValueError` and `{name}`\n")
    code = documents.Code(set(), {"LINGERING", "Writer"}, set(), {})
    monkeypatch.setattr(documents, "_code", lambda: code)
    assert missing_names("docs/internals/page.md") == [name]


def test_a_variable_that_is_not_there_is_told(tmp_path):
    (tmp_path / "page.md").write_text("HYPOLL_BIND and\n\n    HYPOLL_NOSUCH=1 hypoll app:routes\n")
    assert missing_names(str(tmp_path / "page.md")) == ["HYPOLL_NOSUCH"]


@pytest.mark.parametrize("document", MADE, ids=lambda path: path.name)
def test_tables_that_are_made_from_the_code_are_fresh(document):
    text = document.read_text()
    assert with_tables(document, text) == text, "stale: scripts/docs writes it anew"


def test_each_public_name_has_its_row():
    text = API.read_text()
    names = {*hypoll.__all__, *hypoll.websocket.__all__, *hypoll.testing.__all__} - {"__version__"}
    assert {name for name in names if not re.search(rf"(?m)^\| `{name}[(`]", text)} == set()


def test_what_is_left_out_of_the_api_is_there():
    for name, members in api_page.INTERNAL.items():
        (described,) = (one for section in api_page.SECTIONS for one in section.objects if one.__name__ == name)
        assert {member for member in members if not hasattr(described, member)} <= set(described.__annotations__)


def test_a_stale_table_of_options_is_mended():
    text = OPTIONS.read_text()
    assert "| `--keep-alive` | 75 s | How long" in text
    stale = text.replace("| 75 s |", "| 60 s |").replace("| `--bind` |", "| `--bound` |")
    assert with_tables(OPTIONS, stale) == text
    with pytest.raises(ValueError, match=r"options\.md lacks <!-- "):
        with_tables(OPTIONS, "# Options\n")


def test_each_way_to_write_an_option_means_the_same(monkeypatch):
    text = OPTIONS.read_text()
    rows = re.findall(r"(?m)^\| an? \w.*?\| `(--.+?)`.*?\| `(HYPOLL_.+?)`.*?\| `(\w+)=(.+?)`.*\|$", text)
    assert len(rows) == len(re.findall(r"(?m)^\| an? \w.* \| .*HYPOLL_", text)) > 0
    for flag, variables, name, value in rows:
        with_flag = main_command().make_context("hypoll", ["app:routes", *shlex.split(flag)]).params[name]
        with monkeypatch.context() as environ:
            (setting,) = shlex.split(variables)
            environ.setenv(*setting.split("=", 1))
            with_variable = main_command().make_context("hypoll", ["app:routes"]).params[name]
            assert from_environment(os.environ)[name] == with_variable
        expected = eval(value)
        assert with_flag == with_variable == expected
        assert getattr(Settings(**{name: expected}), name) == expected


@pytest.mark.parametrize("text", ["20971520", "20MiB", "20M", "20MB", "20mb"])
def test_a_size_may_be_written_as_the_document_says(text):
    assert text in OPTIONS.read_text() or text.isdigit()
    assert parse_size(text) == 20 * 1024 * 1024


@pytest.mark.full
def test_systemd_takes_the_units_of_the_documents(tmp_path):
    texts = (one.text for one in examples() if one.name.startswith("# /etc/systemd/system/"))
    found = {name: unit for text in texts for name, unit in units(text).items()}
    assert found.keys() == {"shop.socket", "shop.service", "tickets.service"}
    paths = []
    for name, unit in found.items():
        paths.append(tmp_path / name)
        paths[-1].write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", unit))
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# README


@tries("docs/observing.md", "2026-01-31 12:00:00,000 INFO paid, request b6f0c2d1a9000017 order=17")
def lines_of_the_application(text: str, directory: Path) -> None:
    made = {"name": "shop", "levelno": logging.INFO, "levelname": "INFO", "msg": "paid", "order": 17}
    record = logging.makeLogRecord({**made, "request_id": "b6f0c2d1a9000017"})
    for line, formatter in zip(text.split("\n"), (TextFormatter(), JsonFormatter()), strict=False):
        time = re.compile(r"\d{4}-\d\d-\d\d[T ][\d:,.]+Z?")
        assert time.sub("", formatter.format(record)) == time.sub("", line.strip())


@tries("README.md", "scripts/serve                # serves the example, a URL shortener, on http://127.0.0.1:8000")
def _scripts(text: str, directory: Path) -> None:
    for program, *_ in commands(text):
        assert (ROOT / program).stat().st_mode & 0o100
        subprocess.run(["bash", "-n", ROOT / program], check=True)
    assert "http://" + Settings().bind[0] in text


@tries("README.md", """curl -i http://127.0.0.1:8000/links -d '{"url": "https://www.python.org/"}'""")
def _curl(text: str, directory: Path) -> None:
    master = Master(
        directory,
        ["-m", "hypoll", "links:routes", "--app-dir", str(ROOT / "examples"), "--bind", "127.0.0.1:0"],
        env={"LINKS_DB": str(directory / "links.db")},
    )
    try:
        (words,) = commands(text.replace("127.0.0.1:8000", f"127.0.0.1:{master.port}"))
        done = subprocess.run([*words, "--silent", "--noproxy", "*"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("HTTP/1.1 201 ")
    finally:
        master.end()


@tries("README.md", "# app.py")
def _service(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/users/1").json() == {"id": 1, "name": "Ada"}
        assert client.get("/users/2").status_code == 404
        made = client.post("/users", json={"name": "Grace"})
        assert (made.status_code, made.json(), made.headers["Location"]) == (201, {"id": 2}, "/users/2")
        assert client.get("/users/2").json() == {"id": 2, "name": "Grace"}
        assert client.get("/users?page=1").json() == ["Ada", "Grace"]
        assert client.get("/users?page=one").status_code == 400
        refused = client.post("/users", json={"nam": "Grace"})
        assert refused.status_code == 422
        assert '{"name": "Grace"}' in refused.json()["detail"]


@tries("README.md", "python3 -m venv venv && venv/bin/pip install /path/to/this/checkout")
@tries("docs/install.md", "python3 -m venv venv && venv/bin/pip install hypoll")
@tries("docs/tutorial.md", "python3 -m venv venv && venv/bin/pip install 'hypoll[test]' httpx pytest")
@tries("docs/production.md", "python3 -m venv /opt/hypoll && /opt/hypoll/bin/pip install /path/to/this/checkout")
@tries("docs/deployment.md", "pip install 'hypoll[reload]'")
@tries("docs/production.md", "hypoll app:routes --check")
@tries(
    "docs/production.md",
    "docker build -t hypoll .                          # --build-arg BASE=python:3.13-slim for another Python",
)
@tries("README.md", "docker build -t hypoll .")
@tries("docs/tls.md", "hypoll app:routes --certfile cert.pem --keyfile key.pem")
@tries("docs/wsgi.md", "hypoll flaskapp:app")
@tries("docs/application.md", "hypoll app:routes")
@tries("docs/asgi.md", "hypoll asgiapp:app")
def _shell(text: str, directory: Path) -> None:
    for number, words in enumerate(commands(text)):
        own = directory / str(number)
        own.mkdir()
        program = Path(words[0]).name
        SHELL[program](words, own)


def _hypoll(words: list[str], directory: Path) -> None:
    if words[-1] == "--check":
        check_command(words[1:-1], directory)
    else:
        serve(["hypoll", *words[1:]], directory)


def _pip(words: list[str], directory: Path) -> None:
    assert words[1] == "install"
    for what in words[2:]:
        own = r"hypoll(?:\[(.+)\])?|/path/to/this/checkout|dist/hypoll-[\d.]+-py3-none-any\.whl"
        match = re.fullmatch(rf"{own}|httpx|pytest", what)
        assert match is not None, what
        assert set((match[1] or "test").split(",")) <= extras().keys()


def extras() -> dict[str, list[str]]:
    found: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
    return found


def test_each_extra_is_in_the_table():
    text = (ROOT / "docs/install.md").read_text()
    table = dict(re.findall(r"(?m)^\| `(\w+)` \| ([\w.]+)", text))
    brought = {name: Requirement(lines[0]).name for name, lines in extras().items()}
    assert table == brought


def test_extras_are_quoted_where_a_shell_would_take_them_for_a_pattern():
    patterns = ("README.md", "docs/**/*.md", "hypoll/**/*.py")
    texts = {path: path.read_text() for pattern in patterns for path in ROOT.glob(pattern)}
    bare = re.compile(r"pip install (?:[^`\n']|'[^']*')*\bhypoll\[")
    assert [path for path, text in texts.items() if bare.search(text)] == []


def _docker(words: list[str], directory: Path) -> None:
    """What stands behind the image's name is hypoll's command line."""
    if words[1] == "build":
        assert words[2:] in (["-t", "hypoll", "."], ["-t", "links", "--target", "example", "."])
        assert " AS example\n" in (ROOT / "Dockerfile").read_text()
        return
    assert words[1] == "run"
    if words[-1] == "links":
        check_command(["links:routes"], directory)
    else:
        check_command(words[words.index("hypoll") + 1 :], directory)


def _venv(words: list[str], directory: Path) -> None:
    assert words[1:3] == ["-m", "venv"]


def _copy(words: list[str], directory: Path) -> None:
    assert all((ROOT / name).exists() for name in words[1:-1])


def _systemctl(words: list[str], directory: Path) -> None:
    assert (ROOT / "deploy" / words[-1]).exists()


SHELL: dict[str, Callable[[list[str], Path], None]] = {
    "hypoll": _hypoll,
    "gunicorn": serve,
    "pip": _pip,
    "docker": _docker,
    "python3": _venv,
    "cp": _copy,
    "systemctl": _systemctl,
}
"""What a command does, or what is looked at instead."""


# CONTRIBUTING, RELEASING


@tries(
    "CONTRIBUTING.md",
    "scripts/test                # the tests, in about 85 seconds; of the system's packages they need curl",
    "scripts/test -n 0 tests/test_loop.py",
)
def _work(text: str, directory: Path) -> None:
    for program, *arguments in commands(text):
        assert (ROOT / program).stat().st_mode & 0o100
        assert all((ROOT / one).exists() for one in arguments if one.startswith("tests/"))


@tries("CONTRIBUTING.md", "pip install pre-commit && pre-commit install")
def _pre_commit(text: str, directory: Path) -> None:
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    assert [hook["entry"] for hook in hooks] == ["scripts/check", "scripts/docs"]


@tries("RELEASING.md", "git tag -s v0.2.0 -m v0.2.0 && git push origin v0.2.0")
def _release(text: str, directory: Path) -> None:
    """The version is one, and the files are called as they are built."""
    version = re.findall(r"\d+\.\d+\.\d+", text)
    assert len(set(version)) == 1
    assert re.findall(r"dist/(\S+)", text) == [f"hypoll-{version[0]}.tar.gz", f"hypoll-{version[0]}-py3-none-any.whl"]


# docs/


@tries(
    "ARCHITECTURE.md",
    "hypoll/",
    "epoll edge              a new connection: Listener.on_events -> Server.admit -> Connection.read_first",
)
def _figures(text: str, directory: Path) -> None:
    """No code, but the tree, which `test_the_tree_is_that_of_the_packages` looks at, and a figure."""
    assert len(text.splitlines()) > 10


def units(text: str) -> dict[str, str]:
    """The files of a block, each behind a comment with its path."""
    parts = re.split(r"(?m)^# /etc/systemd/system/(\S+)\n", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@tries("docs/deployment.md", "# gunicorn.conf.py")
def _logged_as_json(text: str, directory: Path) -> None:
    (directory / "app.py").write_text(f"{APP}import logging\nlogging.warning('of the application')\n")
    (directory / "gunicorn.conf.py").write_text(text)
    with Master(directory, [*GUNICORN, "--bind", "127.0.0.1:0"]) as master:
        answer = requests.get(f"http://127.0.0.1:{master.port}/", timeout=30)
        assert master.get("/metrics")[0] == 200
        master.popen.terminate()
        assert master.wait() == 0
    lines = [json.loads(line) for line in master.lines]
    (logged,) = [line for line in lines if line.get("path") == "/"]
    assert logged["request_id"] == answer.headers["X-Request-Id"]
    assert [line.get("message") for line in lines].count("of the application") == 1


@tries("docs/deployment.md", "# /etc/systemd/system/shop.socket")
def _units(text: str, directory: Path) -> None:
    found = {}
    for name, unit in units(text).items():
        found[name] = configparser.ConfigParser(interpolation=None)
        found[name].optionxform = str  # type: ignore[assignment, method-assign]
        found[name].read_string(unit)
    assert found["shop.socket"]["Socket"]["Backlog"] == str(Settings().backlog)
    service = found["shop.service"]["Service"]
    assert int(service["TimeoutStopSec"]) > Settings().graceful_timeout
    program, *arguments = shlex.split(service["ExecStart"].replace("/opt/shop", str(directory)))
    assert Path(program).name == "hypoll"
    (directory / "app.py").write_text(APP)
    assert service["WorkingDirectory"] == "/opt/shop", "--app-dir is the working directory by default"
    check_command(arguments, directory)


@tries("docs/files.md", "from pathlib import Path")
def _files(text: str, directory: Path) -> None:
    (directory / "public").mkdir()
    (directory / "reports").mkdir()
    (directory / "public" / "a.css").write_text("a{}")
    (directory / "terms.pdf").write_bytes(b"%PDF")
    (directory / "reports" / "7.csv").write_text("a,b")
    with TestClient(routes_of(text, directory)) as client:
        asset = client.get("/assets/a.css")
        assert (asset.text, asset.headers["Cache-Control"]) == ("a{}", "public, max-age=3600")
        assert client.get("/terms").headers["Content-Type"] == "application/pdf"
        report = client.get("/reports/7")
        named = "attachment; filename=\"Ubersicht 7.csv\"; filename*=UTF-8''%C3%9Cbersicht%207.csv"
        assert (report.text, report.headers["Content-Disposition"]) == ("a,b", named)
        assert client.get("/reports/8").status_code == 404
        assert client.get("/assets/..%2Fterms.pdf").status_code == 404


@tries("docs/cross-cutting.md", "from hypoll import Routes")
def _cors(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        answer = client.get("/nothing", headers={"Origin": "https://app.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert answer.headers["Access-Control-Expose-Headers"] == "X-Total"


@tries("docs/application.md", "# photos.py")
def _photos(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory), max_body=10) as client:
        assert client.put("/photos/7", data=b"x" * 1000).json() == {"id": 7, "size": 1000}
        assert client.put("/photos/7", data=b"x" * (20 * 1024 * 1024 + 1)).status_code == 413


@tries("docs/cross-cutting.md", "# compressed.py")
def _compress(text: str, directory: Path) -> None:
    routes = routes_of(text, directory)
    routes.get("/{size:int}")(lambda request, size: "x" * size)
    with TestClient(routes) as client:
        client.headers["Accept-Encoding"] = "gzip"
        assert client.get("/1000").headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in client.get("/999").headers


@tries("docs/cross-cutting.md", "# secured.py")
def _security(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        policy = "default-src 'self'; frame-ancestors 'none'"
        assert client.get("/").headers["Content-Security-Policy"] == policy


@tries("docs/cross-cutting.md", "import os")
def _tokens(text: str, directory: Path) -> None:
    with mock.patch.dict(os.environ, API_TOKEN="t", ACME_KEY="k"):
        routes = module(text, directory)["public"]
    with TestClient(routes) as client:
        assert client.get("/partners/stock", headers={"X-API-Key": "k"}).json() == {"for": "acme"}
        assert client.get("/partners/nothing").status_code == 401
        assert client.get("/private/x", headers={"Authorization": "Bearer t"}).status_code == 404


@tries("docs/files.md", "# pages.py")
def _pages(text: str, directory: Path) -> None:
    (directory / "dist").mkdir()
    (directory / "dist" / "index.html").write_text("<app>")
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/settings").text == "<app>"
        assert client.get("/api/nothing").status_code == 404


@tries("docs/application.md", "from pathlib import Path")
def _names(text: str, directory: Path) -> None:
    (directory / "public").mkdir()
    with TestClient((names := module(text, directory))["routes"]) as client:
        assert client.post("/api/users").headers["Location"] == "/api/users/7"
        assert names["users"].url_for("user", id=7, query={"full": 1}) == "/api/users/7?full=1"
        assert names["routes"].url_for("assets", path="js/app.js") == "/assets/js/app.js"


@tries("docs/handlers.md", "# kinds.py")
def _kinds(text: str, directory: Path) -> None:
    with contextlib.closing(sqlite3.connect(directory / "orders.db")) as database, database:
        database.execute("create table orders (id integer, item text)")
        database.execute("insert into orders values (1, 'tea')")
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/price/7").json() == {"price": 42}
        assert client.get("/orders").json() == [[1, "tea"]]
        assert client.get("/later").text == "now"


def count_open(path: Path) -> int:
    """How often a file is open in this process."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found += descriptor.readlink() == path
    return found


@tries("docs/handlers.md", "# database.py")
def _database(text: str, directory: Path) -> None:
    """Handlers of each kind, on many threads at once; and each connection ends with its thread."""
    names = module(text, directory)
    select = partial(names["query"], "SELECT name FROM items WHERE id = ?")
    names["routes"].get("/inline/{item:int}")(lambda request, item: select(item))
    with TestClient(names["routes"], threads=8) as client, ThreadPoolExecutor(8) as pool:
        url = client.base_url + "/items"

        def add_and_read(number: int) -> bool:
            made = requests.post(url, data={"name": f"item {number}"}, timeout=10).json()["id"]
            read = requests.get(f"{url}/{made}", timeout=10).json()
            inline = requests.get(f"{client.base_url}/inline/{made}", timeout=10).json()
            return bool(read == {"id": made, "name": f"item {number}"} and inline == [[f"item {number}"]])

        assert all(pool.map(add_and_read, range(40)))
        assert client.get("/items/1000").status_code == 404
        assert count_open(directory / "shop.db") > 2
    until(lambda: count_open(directory / "shop.db") == 0)


OTHER_SERVICE = {
    "right": ("served", 200),
    "missing": ("404", 404),
    "refusing": ("403", 502),
    "failing": ("500", 502),
    "no JSON": ("text", 502),
    "other JSON": ("other", 502),
    "late": ("late", 504),
    "away": ("", 502),
}
"""What another service does, and the status of the answer that comes of it."""


@contextlib.contextmanager
def other_service() -> Iterator[tuple[str, list[str]]]:
    """A service whose next answer is what stands in the list; and its URL."""
    routes, does = Routes(), ["served"]
    released = threading.Event()

    @routes.get("/{path:path}", threaded=True)
    def answer(request: Request, path: str) -> Any:
        if does[0] == "late":
            assert released.wait(10)
        if does[0].isdigit():
            raise HTTPError(int(does[0]))
        return {"served": {"left": 3, "rate": "1.1"}, "other": {}}.get(does[0], "no JSON")

    with TestClient(routes) as client:
        yield client.base_url, does
        released.set()


@tries("docs/handlers.md", "# stock.py")
def _stock(text: str, directory: Path) -> None:
    hasty = text.replace("timeout=2", "timeout=0.1")
    assert hasty != text
    with other_service() as (url, does):
        for what, (does[0], status) in OTHER_SERVICE.items():
            routes = routes_of(hasty if what == "late" else text, directory)
            where = "http://127.0.0.1:1" if what == "away" else url
            with mock.patch.dict(os.environ, STOCK_URL=where), TestClient(routes) as client:
                answer = client.get("/stock/7")
                assert answer.status_code == status, what
                assert status != 200 or answer.json() == {"left": 3}


@tries("docs/handlers.md", "# rates.py")
def _rates(text: str, directory: Path) -> None:
    hasty = text.replace("(0.5, 2)", "(0.5, 0.1)")
    assert hasty != text
    with other_service() as (url, does):
        for what, (does[0], status) in OTHER_SERVICE.items():
            routes = routes_of(hasty if what == "late" else text, directory)
            where = "http://127.0.0.1:1" if what == "away" else url + "/rates"
            with mock.patch.dict(os.environ, RATES_URL=where), TestClient(routes) as client:
                answer = client.get("/rates/CHF")
                assert answer.status_code == (502 if status == 404 else status), what
                assert status != 200 or answer.json() == {"rate": "1.1"}


@tries("docs/handlers.md", "# log.py")
def _log(text: str, directory: Path) -> None:
    names = module(text, directory)
    with TestClient(names["routes"]) as client, client.get("/log", stream=True) as answer:
        names["log_lines"].put(b"one\n")
        assert next(answer.iter_lines()) == b"one"


@tries("docs/handlers.md", "# ticks.py")
def _ticks(text: str, directory: Path) -> None:
    routes = routes_of(text, directory)
    with TestClient(routes) as client, client.get("/ticks", stream=True) as answer:
        lines = answer.iter_lines()
        assert next(lines) == b"tick"
        (hook,) = routes.drain_hooks
        client._loop.call_soon_threadsafe(asyncio.ensure_future, hook())
        assert list(lines) == []


@tries("docs/handlers.md", "# uploads.py")
def _upload(text: str, directory: Path) -> None:
    (directory / "store").mkdir()
    name = uuid.uuid4()
    with TestClient(routes_of(text, directory)) as client:
        assert client.put(f"/files/{name}", data=b"content" * 100_000).status_code == 204
        for wicked in ("..%2Fout", "..%2F..%2Fout", "%2Ftmp%2Fout", "..", ".%00"):
            assert client.put(f"/files/{wicked}", data=b"wicked").status_code in (400, 404)
    assert (directory / "store" / f"{name}.bin").read_bytes() == b"content" * 100_000
    assert {path.name for path in directory.rglob("*")} == {"store", f"{name}.bin"}


@tries("docs/handlers.md", "import asyncio")
def _progress(text: str, directory: Path) -> None:
    with TestClient(module(text, directory)["routes"]) as client:
        assert client.get("/jobs/1/progress", params={"step": "0"}).status_code == 400
        with client.get("/jobs/1/progress", params={"step": "100"}, stream=True) as answer:
            lines = answer.iter_lines(decode_unicode=True)
            assert [next(lines), next(lines)] == ["event: progress", 'data: {"job":1,"percent":0}']


@tries("docs/handlers.md", "from hypoll import Event, EventHub, Routes")
def _event_hub(text: str, directory: Path) -> None:
    with TestClient(module(text, directory)["routes"]) as client, client.get("/orders/events", stream=True) as answer:
        assert client.post("/orders", json={"item": "tea"}).status_code == 201
        lines = answer.iter_lines(decode_unicode=True)
        event, name, data = (next(lines) for _ in range(3))
        assert (event, data) == ("event: created", 'data: {"item":"tea"}')
        client.post("/orders", json={"item": "milk"})
        back = {"Last-Event-ID": name.removeprefix("id: ")}
        with client.get("/orders/events", headers=back, stream=True) as missed:
            again = missed.iter_lines(decode_unicode=True)
            assert [next(again) for _ in range(3)][2] == 'data: {"item":"milk"}'


@tries(
    "docs/observing.md",
    '192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] "GET /users/7?a=b HTTP/1.1" 200 187 "-" "curl/8.5" 0.000412'
    " b6f0c2d1a9000017",
)
def _line(text: str, directory: Path) -> None:
    """The line of a request like it has the same shape."""
    (directory / "app.py").write_text(APP.replace('"/"', '"/users/{id:int}"').replace("(request)", "(request, id)"))
    log = directory / "log"
    command = ["-m", "hypoll", "app:routes", "--bind", "127.0.0.1:0", "--access-log", "text", "--access-log-file"]
    with Master(directory, [*command, str(log)]) as master:
        headers = {"User-Agent": "curl/8.5"}
        requests.get(f"http://127.0.0.1:{master.port}/users/7?a=b", headers=headers, timeout=10)
        master.popen.terminate()
        master.wait()
    shape = [(r"\[[^]]+\]", "[T]"), (r"\d+\.\d+\.\d+\.\d+", "A"), (r"\b[0-9a-f]{16}\b", "I"), (r"0\.\d{6}", "S")]
    shape.append((r" 200 \d+ ", " 200 N "))
    shapes = []
    for line in (text, log.read_text()):
        for pattern, mark in shape:
            line = re.sub(pattern, mark, line)
        shapes.append(line.strip())
    assert shapes[0] == shapes[1]


@tries("docs/production.md", "FROM hypoll", "FROM python:3.11-slim AS build")
def _image(text: str, directory: Path) -> None:
    own = (ROOT / "Dockerfile").read_text()
    for instruction, rest in re.findall(r"(?m)^(\w+) (.+)$", text):
        if instruction == "FROM" and rest.startswith("python:"):
            default = re.search(r"(?m)^ARG BASE=(\S+?)(@\S+)?$", own)
            assert default is not None
            assert rest.startswith(f"{default[1]} "), "for the same Python"
        elif instruction == "COPY" and rest.startswith("app.py"):
            assert rest.split()[1] == "/app/"
            assert "/app" in own
        elif instruction == "CMD":
            check_command(json.loads(rest), directory)
        else:
            assert instruction in {"FROM", "COPY", "RUN", "ENV"}


@tries("docs/wsgi.md", "# app.py", "gunicorn app:application")
def _routes_as_wsgi(text: str, directory: Path) -> None:
    """The two belong together: gunicorn's own worker serves the routes."""
    (directory / "app.py").write_text(text_of("docs/wsgi.md", "# app.py"))
    (words,) = commands(text_of("docs/wsgi.md", "gunicorn app:application"))
    with Master(directory, ["-m", *words, "--bind", "127.0.0.1:0", "--no-control-socket"]) as master:
        assert master.get("/") == (200, b"served")


# docs/application.md


@tries("docs/application.md", "# fields.py")
def _fields(text: str, directory: Path) -> None:
    routes = routes_of(text, directory)
    routes.get("/")(lambda request: Response("", headers=[("vary", "Accept"), ("Link", "</>")]))
    with TestClient(routes) as client:
        fields = client.get("/").headers
    assert (fields["X-Frame-Options"], fields["Link"], fields["Vary"]) == (
        "DENY",
        "</>, </next>; rel=next",
        "Accept, Origin",
    )
    assert fields["Cache-Control"] == "no-store"


@tries("docs/application.md", "from hypoll import Routes, html, redirect")
def _login(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/login").headers["Content-Type"] == "text/html; charset=utf-8"
        entered = client.post("/login", allow_redirects=False)
        assert (entered.status_code, entered.headers["Location"]) == (303, "/")
        cookie = "__Host-session=d0e1f2; Max-Age=86400; Path=/; Secure; HttpOnly; SameSite=Lax"
        assert entered.headers["Set-Cookie"] == cookie
        assert "Max-Age=0" in client.post("/logout", allow_redirects=False).headers["Set-Cookie"]


@tries("docs/application.md", "from decimal import Decimal")
def _default(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/price").json() == {"price": 9.5, "tags": ["new"]}


@tries("docs/application.md", "# test_mail.py")
def _mail_tested(text: str, directory: Path) -> None:
    run_tests("docs/application.md", "mail.py", "test_mail.py")


@tries("docs/application.md", "# mail.py")
def _mail(text: str, directory: Path) -> None:
    sent: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    printed = mock.patch("builtins.print", lambda *words: sent.put(words))
    with printed, TestClient(routes_of(text, directory)) as client:
        assert client.post("/orders").json() == {"ordered": True}
        assert sent.get(timeout=5) == ("to", "ada@example.org")


@tries("docs/application.md", "import uuid")
def _items(text: str, directory: Path) -> None:
    shop = str(uuid.UUID(int=5))
    with TestClient(routes_of(text, directory)) as client:
        answer = client.get("/items?q=x&page=2&tag=a&tag=b", headers={"X-Shop": shop})
        assert answer.json() == {"q": "x", "page": 2, "tags": ["a", "b"], "shop": shop}
        for query, detail in (("", "the request has no query parameter 'q'"), ("q=x&page=x", "'page' is no int: 'x'")):
            refused = client.get(f"/items?{query}")
            assert refused.status_code == 400
            assert detail in refused.json()["detail"]


@tries("docs/application.md", "import json")
def _state(text: str, directory: Path) -> None:
    (directory / "texts.json").write_text('{"en": "about us", "de": "über uns"}')
    with TestClient(routes_of(text, directory)) as client:
        for languages, seen in (("de-CH", "über uns"), ("fr", "about us"), ("", "about us")):
            assert client.get("/about", headers={"Accept-Language": languages}).text == seen


@tries("docs/application.md", "# app.py", "# test_app.py")
def _tested(text: str, directory: Path) -> None:
    """The application and its tests belong together."""
    run_tests("docs/application.md", "app.py", "test_app.py")


def test_the_table_says_which_route_answers():
    text = (ROOT / "docs/application.md").read_text()
    (table,) = re.findall(r"(?m)^\| path \| `/users/me`.*\n(?:\|.*\n)+", text)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    routes = Routes()
    patterns = [cell.strip("`") for cell in head[1:]]
    for pattern in reversed(patterns):
        routes.get(pattern)(partial(lambda pattern, request, **values: [pattern, values], pattern))
    for path, *cells in rows:
        ((number, words),) = [(number, cell) for number, cell in enumerate(cells) if cell]
        values = dict(re.findall(r"`(\w+)=\"?(.+?)\"?`", words))
        body = routes(Request("GET", path.encode())).body
        assert isinstance(body, bytes)
        assert json.loads(body) == [
            patterns[number],
            {name: int(it) if it.isdigit() else it for name, it in values.items()},
        ]


@tries("docs/application.md", "# shops.py")
def _mounted(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/shops/tea/orders/7").json() == {"shop": "tea", "order": 7}


@tries("docs/application.md", "from html import escape")
def _errors(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        assert client.post("/buy/tea").status_code == 204
        sold_out = client.post("/buy/tea")
        assert (sold_out.status_code, sold_out.json()) == (409, {"sold_out": "tea"})
        missing = client.post("/buy/<b>")
        assert (missing.status_code, missing.text) == (404, "<h1>404</h1><p>there is no &lt;b&gt;")
        assert client.get("/buy/tea").headers["Allow"] == "OPTIONS, POST"


@tries("docs/application.md", "from time import perf_counter")
def _hooks(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        answer = client.get("/")
        assert answer.text == "good day"
        assert re.fullmatch(r"app;dur=\d+\.\d", answer.headers["Server-Timing"])
        assert client.get("/", headers={"X-Shop": "closed"}).status_code == 403
        assert "Server-Timing" in client.get("/nothing").headers


@tries("docs/application.md", "import time")
def _cleaner(text: str, directory: Path) -> None:
    names = module(text, directory)
    (work,) = names["routes"].periodic
    assert (work.seconds, work.is_async) == (60, False)
    names["sessions"].update(old=0.0, new=time.time())
    work.function()
    assert list(names["sessions"]) == ["new"]


@tries("docs/application.md", "import logging")
def _paid(text: str, directory: Path) -> None:
    (directory / "app.py").write_text(text)
    with Master(directory, ["-m", "hypoll", "app:routes", "--bind", "127.0.0.1:0", "--access-log", "off"]) as master:
        url = f"http://127.0.0.1:{master.port}/orders/7/pay"
        assert requests.post(url, headers={"X-Request-Id": "b6f0c2d1a9000017"}, timeout=10).status_code == 204
        master.popen.terminate()
        master.wait()
        assert "INFO paid, request b6f0c2d1a9000017 order=7" in "\n".join(master.lines)


@tries("docs/application.md", "from typing import Any")
def _typed(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/sums/1/2").json() == {"sum": 3}
        assert client.get("/sums/1/2?dry=yes").status_code == 422
    with pytest.raises(RouteError, match="first"):
        module(text.replace("first: int", "first: str"), directory)


@tries("docs/application.md", "from hypoll import Routes")
def _photo(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        answer = client.post("/photos", data={"title": "a", "year": "2030"}, files={"photo": ("x.png", b"\x89PNG....")})
        assert answer.json() == {"title": "a", "year": 2030, "name": "x.png", "size": 8, "png": True}
        assert client.post("/photos", data={"title": "a"}).status_code == 400


@tries("docs/application.md", "import hashlib")
def _digests(text: str, directory: Path) -> None:
    with TestClient(routes_of(text, directory)) as client:
        answer = client.post("/digests", data={"title": "a", "other": "b"}, files={"x": ("x", b"1"), "y": ("y", b"2")})
        assert answer.json() == {"title": "a", "x": sha256(b"1").hexdigest(), "y": sha256(b"2").hexdigest()}


# docs/tutorial.md

TUTORIAL = "docs/tutorial.md"
TICKETS_UNIT = "# /etc/systemd/system/tickets.service"


@tries(TUTORIAL, *(one.name for one in examples(only="python") if one.document == TUTORIAL))
def _tickets(text: str, directory: Path) -> None:
    """What continues a block is tested with it."""
    if text.startswith("# test_app.py"):
        run_tests(TUTORIAL, "app.py", "test_app.py")


@contextlib.contextmanager
def tickets(command: list[str], directory: Path, **variables: str) -> Iterator[Master]:
    """The service of the tutorial, by a command of the tutorial, on a free port."""
    (directory / "app.py").write_text(text_of(TUTORIAL, "# app.py"))
    Path(variables.get("TICKETS_DATA", directory)).mkdir(exist_ok=True)
    more = ["--no-control-socket"] if command[0] == "gunicorn" else []
    with Master(directory, ["-m", *command, "--bind", "127.0.0.1:0", *more], env=variables) as master:
        yield master


@tries(
    TUTORIAL,
    'curl -H "Authorization: Bearer s3cret" -d \'{"room": "12", "text": "the lamp is broken"}\' http://127.0.0.1:8000/tickets',
)
@tries(TUTORIAL, TICKETS_UNIT)
def _tickets_of_systemd(text: str, directory: Path) -> None:
    """gunicorn with the command and the variables of the unit answers what curl asks."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text_of(TUTORIAL, TICKETS_UNIT))
    service = unit["Service"]
    assert int(service["TimeoutStopSec"]) > Settings().graceful_timeout
    program, *arguments = shlex.split(service["ExecStart"])
    variables = dict(one.split("=", 1) for one in shlex.split(service["Environment"]))
    assert variables["TICKETS_DATA"] == "/var/lib/" + service["StateDirectory"]
    variables |= {"TICKETS_TOKENS": "ada=s3cret", "TICKETS_DATA": str(directory / "data")}
    variables["CARETAKER_URL"] = "http://127.0.0.1:1"
    (lines,) = (one.text for one in examples() if one.document == TUTORIAL and one.name.startswith("curl"))
    with tickets([Path(program).name, *arguments], directory, **variables) as master:
        make, follow = commands(lines.replace("127.0.0.1:8000", f"127.0.0.1:{master.port}"))
        done = subprocess.run([*make, "--silent", "--noproxy", "*"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"id": 1, "room": "12", "text": "the lamp is broken", "reporter": "ada"}
        with requests.get(follow[-1], headers={"Authorization": "Bearer s3cret"}, stream=True, timeout=10) as events:
            assert next(events.iter_lines(chunk_size=1)) == b"id: 1"
        assert requests.get(f"http://127.0.0.1:{master.port}/healthz/ready", timeout=10).status_code == 200


@tries(
    TUTORIAL,
    "CARETAKER_URL=http://127.0.0.1:8001 TICKETS_TOKENS=ada=s3cret venv/bin/hypoll app:routes --reload",
)
def _tickets_reloaded(text: str, directory: Path) -> None:
    (words,) = commands(text)
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    assert words[-1] == "--reload"
    with tickets(["hypoll", *words[len(variables) + 1 : -1]], directory, **variables) as master:
        assert requests.get(f"http://127.0.0.1:{master.port}/tickets", timeout=10).status_code == 401


@tries(TUTORIAL, "# /etc/nginx/conf.d/tickets.conf")
def _tickets_of_nginx(text: str, directory: Path) -> None:
    """It says what the whole configuration says, which a test runs."""
    whole = (ROOT / "deploy/nginx.conf").read_text()
    directives = {line.strip() for line in text.splitlines() if line.strip().startswith("proxy_")}
    own = {"proxy_pass http://127.0.0.1:8000;", 'proxy_set_header Connection "";'}
    assert own < directives
    assert {line for line in directives - own if line not in whole} == set()
    assert {line.split()[1] for line in whole.splitlines() if "proxy_set_header" in line} - {"Upgrade"} <= {
        line.split()[1] for line in directives
    }


# docs/from-flask.md, docs/from-fastapi.md


def both(document: str, there: str, directory: Path) -> list[Any]:
    """The applications of a page's two blocks."""
    texts = {one.name: one.text for one in examples() if one.document == document}
    return [module(texts[f"# {there}.py"], directory)["app"], routes_of(texts["# app.py"], directory)]


@tries("docs/from-flask.md", "# flaskapp.py", "# app.py")
def _from_flask(text: str, directory: Path) -> None:
    for application in both("docs/from-flask.md", "flaskapp", directory):
        with TestClient(application) as client:
            assert client.get("/notes").status_code == 401
            client.headers["Authorization"] = "Bearer s3cret"
            added = client.post("/notes", data={"text": "tea"}, allow_redirects=False)
            assert (added.status_code, added.headers["Location"]) == (303, "/notes/1")
            read = client.get("/notes/1")
            assert (read.json(), read.headers["Cache-Control"]) == ({"text": "tea"}, "no-store")
            assert client.get("/notes?page=1").json() == ["tea"]
            assert client.get("/notes?page=2").json() == []
            assert "there is no such note" in client.get("/notes/2").text
            assert client.post("/notes", data={}).status_code in (400, 415)


@tries("docs/from-flask.md", "from pathlib import Path")
def _session(text: str, directory: Path) -> None:
    (directory / "templates").mkdir()
    (directory / "templates" / "home.html").write_text("<p>hello {{ user }}")
    with TestClient(routes_of(text, directory)) as client:
        assert client.get("/").text == "<p>hello None"
        assert client.post("/login", data={"user": "<Ada>"}).text == "<p>hello &lt;Ada&gt;"
        client.cookies.set("session", "forged")
        assert client.get("/", headers={"Cookie": "session=forged"}).text == "<p>hello None"


@tries("docs/from-flask.md", "# both.py", "hypoll both:application")
def _both(text: str, directory: Path) -> None:
    texts = {one.name: one.text for one in examples() if one.document == "docs/from-flask.md"}
    for name in ("flaskapp.py", "app.py", "both.py"):
        (directory / name).write_text(texts[f"# {name}"])
    (words,) = commands(texts["hypoll both:application"])
    with Master(directory, ["-m", *words, "--bind", "127.0.0.1:0"]) as master:
        for prefix in ("", "/v2"):
            url = f"http://127.0.0.1:{master.port}{prefix}/notes"
            assert requests.get(url, headers={"Authorization": "Bearer s3cret"}, timeout=10).json() == []


@tries("docs/from-fastapi.md", "# main.py", "# app.py")
def _from_fastapi(text: str, directory: Path) -> None:
    for application in both("docs/from-fastapi.md", "main", directory):
        with TestClient(application) as client:
            assert client.get("/notes").status_code == 401
            client.headers["Authorization"] = "Bearer s3cret"
            with mock.patch("builtins.print") as printed:
                added = client.post("/notes", json={"text": "tea"})
                assert (added.status_code, added.json()) == (201, {"id": 1})
                assert client.get("/notes/1").json() == {"text": "tea", "stars": 0}
                until(lambda printed=printed: printed.called, "the background work isn't done")
            assert printed.call_args.args == ("ada wrote note 1",)
            assert client.get("/notes").json() == [{"text": "tea", "stars": 0}]
            assert client.get("/notes?page=2").json() == []
            assert client.get("/notes?page=0").status_code == 422
            invalid = client.post("/notes", json={"text": ""})
            assert (invalid.status_code, invalid.json()["detail"][0]["type"]) == (422, "string_too_short")
            assert client.get("/notes/2").json()["detail"] == "there is no such note"


# docs/websockets.md


@tries("docs/websockets.md", "from hypoll import Routes")
def _chat(text: str, directory: Path) -> None:
    with running(routes_of(text, directory)) as it:
        socket = opened(it, "/chat/lobby", Sec_WebSocket_Protocol="chat.v1")
        assert socket.fields["sec-websocket-protocol"] == "chat.v1"
        socket.send(TEXT, b"hello")
        assert socket.frame() == (TEXT, b"hello")


@tries("docs/websockets.md", "# numbers.py")
def _numbers(text: str, directory: Path) -> None:
    with running(routes_of(text, directory)) as it:
        socket = opened(it, "/numbers")
        socket.send(TEXT, b"21")
        assert socket.frame() == (TEXT, b'{"twice":42}')


@tries(
    "docs/observing.md",
    '192.0.2.7 - - [14/Nov/2023:22:15:07 +0000] "WEBSOCKET /chat/lobby 12 in, 40 out" 1001 2310 "-" "Mozilla/5.0"'
    " 107.113202 b6f0c2d1a9000018",
)
def _socket_line(text: str, directory: Path) -> None:
    section = HeaderSection((("user-agent", "Mozilla/5.0"), ("x-request-id", "b6f0c2d1a9000018")))
    request = Request("GET", b"/chat/lobby", section, Peer(("192.0.2.7", 1)))
    record = SocketRecord(request, "/chat/{room}", 1001, "", Traffic(12, 40, 900, 2310), 1.0, 108.113202)
    assert text_socket_line(record, "14/Nov/2023:22:15:07 +0000").decode() == text


@tries("docs/websockets.md", "# rooms.py")
def _rooms(text: str, directory: Path) -> None:
    names = module(text, directory)
    with running(names["routes"]) as it:
        one, two = opened(it, "/rooms/a"), opened(it, "/rooms/a")
        it.until(lambda: names["hub"].members("a") == 2)
        one.send(TEXT, b"hello")
        assert two.frame() == (TEXT, b"hello")


@tries("docs/websockets.md", "# test_rooms.py")
def _socket_test(text: str, directory: Path) -> None:
    run_tests("docs/websockets.md", "rooms.py", "test_rooms.py")
