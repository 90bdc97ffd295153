"""ASGI applications under gunicorn's master and the command's own."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.support.commands import run_command
from tests.support.gunicorn import GUNICORN, HYPOLL, Launch, Load, Master
from tests.support.matrix import some

APP = """
import asyncio, os

def say(what):
    os.write(1, b"%s in %d\\n" % (what.encode(), os.getpid()))  # whole, whatever another worker writes

async def routes(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        say("startup")
        scope["state"]["pid"] = os.getpid()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        say("shutdown")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(scope["state"]["pid"]).encode()})
"""

FAILING = """
async def routes(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""

FACTORY = APP.replace("async def routes", "async def made") + "\ndef routes():\n    return made\n"

TELLING = """
import asyncio, orjson

async def routes(scope, receive, send):
    assert scope["type"] == "http"
    told = scope["root_path"], scope["path"], scope["raw_path"].decode(), type(asyncio.get_running_loop()).__module__
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": orjson.dumps(told)})
"""

Start = Callable[..., Master]


@pytest.fixture
def start(launch: Launch) -> Start:
    """Starts masters: start(command, *arguments, app=source, **environment)."""

    def start(command: tuple[str, ...], *arguments: str, app: str = APP, **environment: str) -> Master:
        return launch((*command, "--bind", "127.0.0.1:0", *arguments), app=app, env=environment)

    return start


@pytest.mark.parametrize(
    ("command", "arguments"), some([(GUNICORN, ("-w", "2")), (HYPOLL, ()), (HYPOLL, ("--workers", "2"))], 2)
)
def test_each_process_has_one_lifespan(start, command, arguments):
    master = start(command, *arguments)
    count = 2 if arguments else 1
    master.says("startup in", count)
    assert master.get()[0] == 200
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    started = sorted(line for line in master.lines if line.startswith("startup in"))
    stopped = sorted(line for line in master.lines if line.startswith("shutdown in"))
    assert len(started) == count
    assert [line.split()[-1] for line in started] == [line.split()[-1] for line in stopped]


@pytest.mark.parametrize("command", some([(HYPOLL,), ((*HYPOLL, "--workers", "1"),), (GUNICORN,)], 1))
def test_a_failed_start_halts_the_master(start, command):
    master = start(command, app=FAILING)
    assert master.wait() == 3
    assert any("no database" in line for line in master.lines)


def test_a_lifespan_that_must_be_there_halts_the_master(start):
    app = "async def routes(scope, receive, send):\n    assert scope['type'] == 'http'\n"
    master = start(GUNICORN, "--asgi-lifespan", "on", app=app)
    assert master.wait() == 3
    assert any("AssertionError" in line for line in master.lines)


@pytest.mark.parametrize(
    ("command", "environment"),
    some(
        [
            ((*HYPOLL, "--workers", "1", "--factory"), {}),
            (GUNICORN, {"HYPOLL_FACTORY": "1"}),
            ((*HYPOLL, "--factory"), {}),
        ],
        2,
    ),
)
def test_a_factory_makes_the_application(start, command, environment):
    master = start(command, app=FACTORY, **environment)
    master.says("startup in")
    assert master.get()[0] == 200


@pytest.mark.parametrize(
    ("command", "arguments", "environment"),
    some(
        [
            (GUNICORN, ("--root-path", "/shop/"), {"HYPOLL_SCRIPT_NAME": "/other", "SCRIPT_NAME": "/another"}),
            (GUNICORN, (), {"HYPOLL_SCRIPT_NAME": "/shop", "SCRIPT_NAME": "/another"}),
            (HYPOLL, ("--workers", "1"), {"SCRIPT_NAME": "/shop"}),
            (HYPOLL, ("--script-name", "/shop"), {}),
            (HYPOLL, ("--script-name", "/shop", "--workers", "1"), {}),
            (GUNICORN, ("--root-path", "/shop"), {}),
            (GUNICORN, (), {"SCRIPT_NAME": "/shop"}),
        ],
        4,
    ),
)
def test_the_path_begins_with_the_root_path_once(start, command, arguments, environment):
    master = start(command, *arguments, app=TELLING, **environment)
    for path in ("/shop/x", "/x"):
        assert json.loads(master.get(path)[1])[:3] == ["/shop", "/shop/x", path]
    assert json.loads(master.get("/shopping")[1])[1] == "/shop/shopping"


@pytest.mark.parametrize(
    ("arguments", "environment", "module"),
    some(
        [
            (("--asgi-loop", "uvloop"), {"HYPOLL_UVLOOP": "off"}, "uvloop"),
            (("--asgi-loop", "asyncio"), {}, "asyncio.unix_events"),
            ((), {}, "uvloop"),
            ((), {"HYPOLL_UVLOOP": "off"}, "asyncio.unix_events"),
        ],
        2,
    ),
)
def test_gunicorns_setting_chooses_the_loop(start, arguments, environment, module):
    assert json.loads(start(GUNICORN, *arguments, app=TELLING, **environment).get()[1])[3] == module


@pytest.mark.parametrize(("command", "workers"), some([(HYPOLL, "--workers"), (GUNICORN, "-w")], 1))
def test_no_request_fails_when_workers_are_replaced(start, command, workers):
    master = start(command, workers, "2")
    master.says("startup in", 2)
    with Load(master.port) as load:
        master.signal(signal.SIGHUP)
        master.says("startup in", 4)
        master.says("shutdown in", 2)
        started = [line.split()[-1] for line in master.lines if line.startswith("startup in")]
        assert master.get()[1].decode() in started[2:]
    assert load.failures == []
    assert not {pid.decode() for pid in load.answers}.isdisjoint(started[:2])


@pytest.mark.parametrize(
    ("arguments", "app", "said"),
    [
        ((), APP, "app:routes is an ASGI application and can be served"),
        (("--factory",), FACTORY, "app:routes is an ASGI application and can be served"),
        (("--interface", "wsgi"), APP, "app:routes is a WSGI application and can be served"),
        ((), FACTORY, "if it makes an application, say --factory"),
        (("--factory",), APP, "app:routes makes no application"),
    ],
)
def test_check_says_what_it_is(tmp_path, arguments, app, said):
    (tmp_path / "app.py").write_text(app)
    done = run_command(tmp_path, ["app:routes", "--check", *arguments])
    assert done.returncode == (0 if said.endswith("served") else 2)
    assert said in done.stdout + done.stderr
