"""An application's modules that are called as some of the standard library, and the options of the interpreter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.deploy.imports import split_command
from tests.support.gunicorn import Master, children, until
from tests.support.matrix import some

APP = """
import sys
import hypoll
import profile, nntplib  # the application's own
from statistics import OWN

routes = hypoll.Routes()

@routes.get("/")
def index(request):
    import calendar
    return {
        "own": [profile.__file__, nntplib.__file__, OWN],
        "dev_mode": sys.flags.dev_mode,
        "isolated": sys.flags.isolated,
        "bytecode": not sys.flags.dont_write_bytecode,
        "warnings": sys.warnoptions,
        "unbuffered": sys.stdout.write_through,
        "cookies": request.cookies,
    }
"""

OF_RUNPY = (
    *("__future__", "collections", "contextlib", "functools", "importlib", "keyword", "operator", "pkgutil", "reprlib"),
    *("runpy", "types", "warnings"),
)
"""What `python -m` itself imports, before anything of hypoll's; `-P` keeps it from finding the application's."""

SCRIPT = (str(Path(sysconfig.get_path("scripts"), "hypoll")), "app:routes")

OPTIONS = ("-X", "dev", "-Bu", "-Wignore::ImportWarning")  # not -O: all of the library would be compiled anew


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An application among modules of all names of the standard library, which break whoever imports them."""
    for name in sys.stdlib_module_names:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError(f'{__file__} was imported')\n")
    for name in ("nntplib", "profile"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "statistics.py").unlink()
    (tmp_path / "statistics").mkdir()
    (tmp_path / "statistics" / "__init__.py").write_text("OWN = 'own'\n")
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def leave_what_runpy_imports(directory: Path) -> None:
    for name in OF_RUNPY:
        (directory / f"{name}.py").unlink(missing_ok=True)


Start = Callable[..., Master]


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*command: str) -> Master:
            master = Master(directory, [*command, "--bind", "127.0.0.1:0"])
            stack.callback(master.end)
            return master

        yield start


def answer(master: Master) -> dict[str, Any]:
    status, body = master.get()
    assert status == 200, body
    return json.loads(body)  # type: ignore[no-any-return]


@pytest.mark.parametrize("arguments", some([(("--workers", "1"),), (("--reload",),), ((),)], 2))
def test_modules_of_the_library_s_names_break_nothing(start, directory, arguments):
    master = start(*SCRIPT, *arguments)
    own = [str(directory / "profile.py"), str(directory / "nntplib.py"), "own"]
    assert answer(master)["own"] == own, "the application has its own"
    told = master.says("the standard modules of these names are imported instead: rename them")
    assert " signal.py, " in told.string
    assert "profile.py" not in told.string
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


@pytest.mark.parametrize("arguments", some([((),), (("--reload",),)], 1))
def test_nor_does_the_module_that_is_run(start, directory, arguments):
    leave_what_runpy_imports(directory)
    master = start("-m", "hypoll", "app:routes", *arguments)
    assert answer(master)["own"]
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


def test_the_health_check_neither(directory):
    leave_what_runpy_imports(directory)
    environment = {**os.environ, "HYPOLL_BIND": "127.0.0.1:1"}
    command = [sys.executable, "-m", "hypoll.healthcheck"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert "Connection refused" in done.stdout
    assert not done.stderr


LACKING = """
import sys
from importlib.util import find_spec
from pkgutil import iter_modules
from hypoll.deploy.imports import find_from

directory, asker = sys.argv[1:]
lacking = {name for name in sys.stdlib_module_names if find_spec(name) is None}
find_from(directory, asker)
found = [name for name in lacking if find_spec(name)]
print(len(lacking), len(found), "app" in [it.name for it in iter_modules([directory])])
"""


@pytest.mark.parametrize("asker", ["hypoll.cli", "__main__"])
def test_what_the_library_has_on_other_platforms_alone_is_the_application_s_for_it_alone(directory, asker):
    """The library itself tries to import `_winapi`, `_wmi` and others."""
    command = [sys.executable, "-P", "-c", LACKING, str(directory), asker]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    lacking, found, listed = done.stdout.split()
    assert int(lacking) > 0
    assert found == (lacking if asker == "__main__" else "0")
    assert listed == "True", "pkgutil knows the finder"


def succeed(master: Master) -> int:
    """Have a master be replaced (USR2); gives the successor's pid."""
    master.says("Booting worker")
    master.signal(signal.SIGUSR2)
    master.says("Booting worker", 2)
    successor = int(master.says(r"\[(\d+)\] INFO Starting gunicorn", 2)[1])
    master.signal(signal.SIGTERM)
    master.says("Shutting down: Master")
    until(lambda: not children(master.popen.pid))
    return successor


@pytest.mark.parametrize(
    ("how", "run"), some([("--reload", SCRIPT), ("USR2", ("-P", "-m", "hypoll", "app:routes"))], 1)
)
def test_a_process_that_hypoll_starts_has_the_interpreter_s_options(start, how, run):
    master = start(*OPTIONS, *run, *(("--reload",) if how == "--reload" else ("--workers", "1")))
    successor = 0
    try:
        if how == "USR2":
            master.get()
            successor = succeed(master)
        told = answer(master)
    finally:
        if successor:
            os.kill(successor, signal.SIGTERM)
    assert (told["dev_mode"], told["bytecode"], told["isolated"]) == (True, False, 0)
    assert "ignore::ImportWarning" in told["warnings"]
    assert told["unbuffered"]
    if not successor:
        master.signal(signal.SIGTERM)
    assert master.wait() == 0


def test_an_isolated_interpreter_stays_isolated(start):
    master = start("-I", "-m", "hypoll", "app:routes", "--reload")
    assert answer(master)["isolated"] == 1


@pytest.mark.parametrize(
    ("command", "options", "module"),
    [
        ("python -m hypoll app:routes -X", [], "hypoll"),
        ("python -mhypoll.healthcheck", [], "hypoll.healthcheck"),
        ("python -Bm hypoll", ["-B"], "hypoll"),
        (
            "python -X dev -W error -Wignore -I -m hypoll",
            ["-X", "dev", "-W", "error", "-Wignore", "-I"],
            "hypoll",
        ),
        ("python -OBX dev /usr/bin/hypoll -O", ["-OBX", "dev"], ""),
        ("python -Xdev --check-hash-based-pycs always hypoll", ["-Xdev", "--check-hash-based-pycs", "always"], ""),
        ("python -B -c pass -m hypoll", ["-B"], ""),
        ("python - -B", [], ""),
        ("python", [], ""),
    ],
)
def test_the_options_of_the_interpreter_end_where_the_program_s_begin(command, options, module):
    assert split_command(command.split()) == (options, module)
