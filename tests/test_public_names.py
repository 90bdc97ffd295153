"""The names of `hypoll` itself: each is there, is imported when it is asked for, and is seen by type checkers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import hypoll

HEAVY = {"asyncio", "concurrent.futures", "gunicorn", "prometheus_client", "requests", "ssl", "hypoll.server.server"}
"""What an application's own side has no use for."""


def modules_after(code: str) -> set[str]:
    """The modules that a new interpreter has loaded after some code. (-S: site may load what it likes.)"""
    program = f"import sys; sys.path[:] = {sys.path!r}; {code}; import json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_hypoll_loads_none_of_its_rooms():
    own = {name for name in modules_after("import hypoll") if name.partition(".")[0] == "hypoll"}
    assert own == {"hypoll", "hypoll.deploy", "hypoll.deploy.imports"}


def test_declaring_routes_loads_no_server():
    code = "from hypoll import Event, File, HTTPError, Request, Response, Routes, sse; Routes().get('/')(lambda r: '')"
    assert modules_after(code) & HEAVY == set()


ENGINE = """
from hypoll import Routes
from hypoll.runner import Runner
from hypoll.settings import Settings

routes = Routes()
{}def index(request): return ""
routes.get("/")(index)
Runner(routes, Settings()).close()
"""


@pytest.mark.parametrize(("kind", "loaded"), [("", False), ("async ", True)])
def test_asyncio_is_loaded_for_what_is_async(kind, loaded):
    modules = modules_after(f"exec({ENGINE.format(kind)!r})")
    assert ("asyncio" in modules) is loaded
    assert "hypoll.server.server" in modules
    assert not modules & {"gunicorn", "prometheus_client"}


def test_the_command_loads_none_of_what_may_not_be_needed():
    assert not modules_after("import hypoll.cli") & {"asyncio", "gunicorn", "prometheus_client", "watchfiles"}


def test_every_public_name_is_there():
    assert {name: getattr(hypoll, name) is None for name in hypoll.__all__} == dict.fromkeys(hypoll.__all__, False)
    assert hypoll.sse.__name__ == "sse"
    assert hypoll.testing.__name__ == "hypoll.testing"


def test_dir_shows_the_public_names():
    assert dir(hypoll) == sorted(hypoll.__all__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hypoll' has no attribute 'Route'"):
        hypoll.Route  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Route' from 'hypoll'"):
        exec("from hypoll import Route")


def test_a_function_stays_what_it_is_when_its_module_is_imported():
    code = "import hypoll.web.events; from hypoll import Event, sse; import json; assert callable(sse)"
    assert "hypoll.web.events" in modules_after(code)


USER = """
from hypoll import Event, EventHub, File, HTTPError, Request, Response, Routes, StoredPart, run, sse
from hypoll.websocket import Socket, ThreadSocket
import hypoll

routes = Routes(threaded=True, timeout=5)
hub = EventHub(replay=10)

def check(request: Request) -> None: ...

def keep(part: StoredPart) -> int:
    return part.size

@routes.post("/files", max_body="2 MiB", before=[check])
def upload(request: Request) -> int:
    return keep(request.form().files["file"])

@routes.get("/events")
def events(request: Request) -> Response:
    hub.publish("a", Event({"a": 1}))
    return hub.events("a", last_event_id=request.headers.get("Last-Event-ID"))

@routes.every(60)
async def clean_up() -> None: ...

@routes.before
def note(request: Request) -> None: ...

@routes.websocket("/echo")
def echo(socket: ThreadSocket) -> None: ...

@routes.websocket("/task")
async def task(socket: Socket) -> None: ...

@routes.get("/")
def index(request: Request) -> Response:
    return Response(request.path)

reveal_type(hypoll.__version__)
reveal_type(hypoll.testing.TestClient)
hypoll.nosuch
Request("GET", b"/").args
run(routes, max_body="16")
hypoll.testing.TestClient(routes, keep_alvie=3.0)
"""


@pytest.mark.full
def test_a_type_checker_sees_the_names_of_a_users_file(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", str(tmp_path)]
    done = subprocess.run([*command, "user.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert found[0] == 'note: Revealed type is "str"'
    assert "hypoll.testing.TestClient" in found[1]
    assert found[2] == 'error: Module has no attribute "nosuch"  [attr-defined]'
    assert found[3] == 'error: "Request" has no attribute "args"  [attr-defined]'
    assert found[4].startswith('error: Argument "max_body" to "run" has incompatible type "str"; expected "int"')
    assert found[5].startswith('error: Unexpected keyword argument "keep_alvie" for "TestClient"')
