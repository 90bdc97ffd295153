"""Applications that monkey-patch what hypoll can't do without are told what, why, and how to patch without it."""

from __future__ import annotations

import _thread
import select
from collections.abc import Callable

import pytest

import hypoll
from hypoll import Routes
from hypoll.concurrency.monkey_patching import find_fault as fault_of
from hypoll.hosting import Servable, uses_threads
from hypoll.runner import Runner, SetupError
from hypoll.settings import Settings
from tests.support.gunicorn import GUNICORN, HYPOLL, Master
from tests.support.matrix import some

EPOLL = "select is monkey-patched: there is no epoll any more, over which hypoll serves. Patch without it: gevent's "
ADVICE = "patch_all(select=False)"
THREADS = "threads are monkey-patched: what is to run on one waits for ever"

APP = """
{patch}
import hypoll
routes = hypoll.Routes()
routes.get("/")(lambda request: "ok")
"""

BY_HAND = "import select, selectors\ndel select.epoll, selectors.EpollSelector"
"""What gevent's patch_all() does to them."""


def application(threaded: bool = False) -> Routes:
    routes = Routes()
    routes.get("/", threaded=threaded)(lambda request: "ok")
    return routes


def wsgi(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
    return []


def fault(served: Servable) -> str:
    return fault_of(threads=uses_threads(served))


def test_what_is_not_patched_is_no_fault():
    assert fault(application(threaded=True)) == ""


class Other:
    """Stands for an epoll that isn't the kernel's."""


def test_a_select_without_epoll_is_a_fault(monkeypatch):
    monkeypatch.delattr(select, "epoll")
    assert fault(application()).startswith(EPOLL + ADVICE)
    with pytest.raises(SetupError, match="select is monkey-patched"):
        hypoll.run(application(), "127.0.0.1:0")


def test_another_epoll_is_a_fault(monkeypatch):
    monkeypatch.setattr(select, "epoll", Other)
    assert ADVICE in fault(application())


@pytest.mark.parametrize("served", [application(threaded=True), wsgi])
def test_patched_threads_are_a_fault_of_what_runs_on_threads(monkeypatch, served):
    monkeypatch.setattr(_thread, "start_new_thread", lambda *arguments: None)
    assert fault(served).startswith(THREADS)
    assert "patch_all(select=False, thread=False)" in fault(served)
    monkeypatch.delattr(select, "epoll")
    assert fault(served).startswith(EPOLL), "both are told"
    assert THREADS in fault(served)


def test_patched_threads_are_warned_of_where_no_handler_needs_them(monkeypatch, caplog):
    monkeypatch.setattr(_thread, "start_new_thread", lambda *arguments: None)
    assert fault(application()) == ""
    runner = Runner(application(), Settings())
    runner.close()
    assert THREADS in caplog.text


@pytest.mark.parametrize(
    ("command", "code"),
    some([(HYPOLL, 2), (GUNICORN, 3), ((*HYPOLL, "--workers", "1"), 4), ((*HYPOLL, "--check"), 2)], 2),
)
def test_a_command_ends_with_the_reason(tmp_path, command, code):
    (tmp_path / "app.py").write_text(APP.format(patch=BY_HAND))
    with Master(tmp_path, [*command, "--bind", "127.0.0.1:0"]) as master:
        assert master.wait() == code
        assert ADVICE in "\n".join(master.lines)
        if command[:3] == HYPOLL:
            assert not [line for line in master.lines if "Traceback" in line]
