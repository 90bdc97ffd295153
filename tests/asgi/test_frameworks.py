"""Applications of seven frameworks, the same under hypoll and under uvicorn. `frameworks/asked.py` has the requests.

Where hypoll's answers aren't uvicorn's, `tests/conformance/differences.toml` says why hypoll is right.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.asgi.frameworks.asked import ASKED, Ask, Conversation, Outcome, faults_of
from tests.support.gunicorn import ROOT, Master

pytestmark = pytest.mark.full

FRAMEWORKS = ("blacksheep", "django", "falcon", "fastapi", "litestar", "quart", "starlette")

TABLE = ROOT / "tests" / "conformance" / "differences.toml"


class Answers(NamedTuple):
    """What a framework's service was asked, and what came of it."""

    framework: str
    asked: dict[str, Ask]
    ours: dict[str, Outcome | str]
    theirs: dict[str, Outcome | str]
    log: list[str]


ROUTES = {
    "fastapi": {"/path/{name}/{number}", "/json", "/static", None},
    "litestar": {"/path/{name}/{number}", "/json", "/static/{file_path}", None},
    "starlette": {"/path/{name}/{number:int}", "/json", "/static", None},
}
"""The routes of some requests in the access log; of other frameworks none is known."""

FAILING = ("/error", "/broken", "/static/%2e%2e/service.py", "HEAD /static/plain.css")
"""What is asked that its framework doesn't answer, or not to its end."""


def ask_all(port: int, asked: dict[str, Ask]) -> dict[str, Outcome | str]:
    """The outcomes; of what ended in no answer, why."""
    conversation = Conversation(port)
    found: dict[str, Outcome | str] = {}
    for name, ask in asked.items():
        try:
            found[name] = conversation.ask(ask)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


@contextmanager
def served(command: str, *arguments: str) -> Iterator[Master]:
    with Master(ROOT, ("-m", command, *arguments)) as master:
        yield master


@pytest.fixture(scope="module", params=FRAMEWORKS)
def answers(request: pytest.FixtureRequest) -> Iterator[Answers]:
    framework: str = request.param
    app = f"tests.asgi.frameworks.with_{framework}:app"
    asked = {name: ask for name, ask in ASKED.items() if ask.only in ("", framework) and framework not in ask.lacking}
    with (
        served("hypoll", app, "--bind", "127.0.0.1:0", "--max-body", "32MiB", "--access-log", "json") as hypoll,
        served("uvicorn", app, "--port", "0", "--http", "httptools", "--loop", "uvloop") as uvicorn,
    ):
        theirs = int(uvicorn.says(r"running on http://127\.0\.0\.1:(\d+)")[1])
        yield Answers(framework, asked, ask_all(hypoll.port, asked), ask_all(theirs, asked), hypoll.lines)


def test_each_request_is_answered_as_the_application_means_it(answers):
    found = []
    for name, outcome in answers.ours.items():
        faults = [outcome] if isinstance(outcome, str) else faults_of(answers.asked[name], outcome, answers.framework)
        found += [f"{name}: {fault}" for fault in faults]
    assert not found, "\n".join(found)


def test_every_difference_from_uvicorn_has_a_reason_and_every_reason_a_difference(answers):
    found = {}
    for name, ours in answers.ours.items():
        theirs = answers.theirs[name]
        if isinstance(ours, str) or isinstance(theirs, str):
            found[f"{answers.framework}: {name}"] = [f"{ours} and {theirs}"]
        elif differs := ours.differs(theirs):
            found[f"{answers.framework}: {name}"] = differs
    rows = tomllib.loads(TABLE.read_text())["difference"]
    listed = {name for row in rows for name in row.get("uvicorn", []) if name.startswith(answers.framework)}
    unlisted = [f"{name}: {'; '.join(what)}" for name, what in found.items() if name not in listed]
    assert not unlisted, f"{len(unlisted)} differences aren't in {TABLE.name}:\n" + "\n".join(unlisted)
    assert listed <= found.keys(), "these differ no more"


def test_nothing_else_is_logged_as_an_error(answers):
    found = [line for line in answers.log if " failed" in line or " returned " in line]
    assert not [line for line in found if not any(name in line for name in FAILING)]
    assert any("GET /broken failed in its answer, request asked" in line for line in found)


def test_the_access_log_has_the_routes_that_a_framework_tells(answers):
    lines = [json.loads(line) for line in answers.log if line.startswith("{")]
    found = {line["route"] for line in lines if line["path"].startswith(("/path/", "/json", "/static/pl", "/nowhere"))}
    assert found == ROUTES.get(answers.framework, {None})
