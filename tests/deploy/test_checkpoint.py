"""A HUP with a configuration that can't be used: the service goes on, and the log says what is to be mended."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.deploy.checkpoint import check_addresses, reason_of
from tests.support.gunicorn import GUNICORN, Master, until

APP = """
import os
from hypoll import Routes

routes = Routes()

@routes.get("/")
def index(request):
    return str(os.getpid())
"""

GOOD = "bind = '127.0.0.1:0'\npidfile = 'pid'\n"

REFUSED = "the new configuration can't be used, the old one and its workers serve on until another HUP: "

LINE_3 = r".*gunicorn\.conf\.py line 3$"

FAULTS = {
    "workers = (": rf"'\(' was never closed, {LINE_3}",
    "1/0": f"ZeroDivisionError: division by zero, {LINE_3}",
    "import nowhere": f"ModuleNotFoundError: No module named 'nowhere', {LINE_3}",
    "raise SystemExit(7)": f"SystemExit: 7, {LINE_3}",
    "workers = 'many'": f"workers = 'many': invalid literal .*, {LINE_3}",
    "worker_connections = -3": f"worker_connections = -3: .*, {LINE_3}",
    "def on_reload(): pass": f"on_reload = .*, {LINE_3}",
    "chdir = '/nowhere'": f"chdir = .*, {LINE_3}",
    "limit_request_line = 1; certfile = '/nowhere.pem'": r"can't read the certificate /nowhere\.pem: .*conf\.py$",
    "raw_env = ['HYPOLL_MAX_BODY=x']": r"HYPOLL_MAX_BODY is 'x': .*conf\.py$",
    "pidfile = '/nowhere/pid'": "/nowhere doesn't exist.*",
    "bind = '127.0.0.1:{taken}'": r"can't listen on 127\.0\.0\.1:\d+: Address already in use, .*conf\.py$",
    "bind = ['unix:new', 'unix:/nowhere/new']": "can't listen on unix:/nowhere/new: .*",
    "bind = ['127.0.0.1:0', 'fd://99']": ".*Bad file descriptor.*",
    "def nworkers_changed(server, new, old): 1/0": f"ZeroDivisionError: .*, {LINE_3}",
    "def on_reload(server): 1/0": f"ZeroDivisionError: .*, {LINE_3}",
    "def pre_fork(server, worker): 1/0": f"ZeroDivisionError: .*, {LINE_3}",
    "def on_reload(server): 1/0\nbind = 'localhost:0'": f"ZeroDivisionError: .*, {LINE_3}",
    "workers = 2\ndef pre_fork(server, worker):\n if worker.age % 2: 1/0": r"ZeroDivisionError: .* line 5$",
}


class Service:
    """A master and its configuration file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "gunicorn.conf.py"
        (directory / "app.py").write_text(APP)
        self._file.write_text(GOOD)
        self.master = Master(directory, GUNICORN)
        self.port = self.master.port

    def hang_up(self, config: str) -> None:
        """Give it another configuration."""
        whole = self._file.with_suffix(".new")
        whole.write_text(config)
        whole.replace(self._file)  # the master may be reading it
        self.master.signal(signal.SIGHUP)

    def worker(self) -> int:
        return int(self.master.get()[1])


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"))
    yield made
    made.master.end()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_old_workers_serve_on_and_one_line_names_the_fault(service, taken, fault):
    old = service.worker()
    count = sum(REFUSED in line for line in service.master.lines) + 1
    service.hang_up(f"{GOOD}{fault.replace('{taken}', str(taken))}\n")
    line = service.master.says(re.escape(REFUSED) + ".*", count)[0]
    assert re.fullmatch(FAULTS[fault], line.removeprefix(REFUSED)), line
    until(lambda: service.master.workers() == [old])
    assert service.worker() == old
    assert (service.directory / "pid").read_text() == f"{service.master.popen.pid}\n"


def test_the_next_hup_with_a_mended_file_is_followed(service):
    old = service.worker()
    service.hang_up("1/0")
    service.hang_up(f"{GOOD}proc_name = 'mended'")
    until(lambda: old not in service.master.workers())
    assert service.worker() != old


def test_a_worker_that_ends_after_a_refused_hup_is_replaced_by_one_of_the_old_configuration(service):
    old = service.worker()
    count = sum(REFUSED in line for line in service.master.lines) + 1
    service.hang_up(f"{GOOD}raw_env = ['HYPOLL_BACKLOG=7', 'HYPOLL_MAX_BODY=x']")
    service.master.says(re.escape(REFUSED), count)
    os.kill(old, signal.SIGKILL)
    assert service.worker() != old


def test_an_address_that_was_given_up_is_nobody_s(tmp_path):
    service = Service(tmp_path)
    with service.master as master:
        service.worker()
        service.hang_up("bind = 'unix:new'")
        master.says("Listening at: unix:new")
        until(lambda: _is_refused(service.port))
        service.master.signal(signal.SIGTERM)
        assert service.master.wait() == 0


def _is_refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_what_the_command_refuses_names_no_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "__config__", raising=False)
    assert reason_of(RuntimeError("can't read the certificate")) == "can't read the certificate"


def test_an_address_can_t_be_kept_beside_another_that_changes():
    with pytest.raises(RuntimeError, match=r"127\.0\.0\.1:8000 can't be kept"):
        check_addresses([("127.0.0.1", 8000), ("127.0.0.1", 0)], [("127.0.0.1", 8000)])
    check_addresses([("127.0.0.1", 8000)], [("127.0.0.1", 8000)])
    check_addresses([("::1", 0), "\0abstract", 3], [("127.0.0.1", 8000)])
