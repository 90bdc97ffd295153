"""`--check`: what serving would refuse is found without serving, and nothing is left of looking."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from hypoll import Routes
from hypoll.deploy import rehearsal
from hypoll.deploy.gunicorn_config import spelling
from hypoll.deploy.rehearsal import faults, unknown_variables
from hypoll.settings import Processes, Settings
from tests.support.gunicorn import GUNICORN, Master


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may be left of a check: no file, no descriptor."""
    monkeypatch.chdir(tmp_path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    (tmp_path / "a file").touch()
    files = sorted(os.listdir(tmp_path))
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir(tmp_path)) == files
    assert sorted(os.listdir("/proc/self/fd")) == before


def refused(processes: Processes | None = None, **settings: object) -> list[str]:
    routes = Routes()
    routes.on_start(lambda: pytest.fail("a check starts nothing"))
    made = Settings(**{"bind": ("127.0.0.1:0",), "access_log": "off", **settings})  # type: ignore[arg-type]
    found, doubtful = faults(routes, made, processes or Processes(), flag)
    assert doubtful == []
    return found


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"certfile": "none.pem"}, "can't read the certificate none.pem: No such file or directory"),
    ({"certfile": "ca.pem"}, "ca.pem has no key in PEM form"),
    ({"keyfile": "cert.pem"}, "--keyfile is given, but no --certfile"),
    ({"ca_certs": "ca.pem"}, "--ca-certs is given, but no --certfile"),
    ({"certfile": "cert.pem", "ca_certs": "ca.pem"}, "--ca-certs is given, but --cert-reqs is none"),
    ({"certfile": "cert.pem", "cert_reqs": "required"}, "name those they must lead to with --ca-certs"),
    ({"certfile": "cert.pem", "ciphers": "NONE"}, "--ciphers is 'NONE': OpenSSL knows none of them"),
    ({"bind": ("here",)}, "'here' is no address"),
    ({"bind": ("127.0.0.1:0", "192.0.2.1:1")}, "this machine has no such address"),
    ({"bind": ("unix:nowhere/socket",)}, "its directory doesn't exist"),
    ({"bind": ("fd://999",)}, "Give the number of a listening socket"),
    ({"admin_bind": "127.0.0.1:0"}, "--admin-bind has nothing to answer: give --metrics, --health or --status"),
    ({"admin_bind": "192.0.2.1:1", "health": "/healthz"}, "this machine has no such address"),
    ({"access_log": "text", "access_log_file": "nowhere/log"}, "nowhere/log can't be written"),
    ({"metrics": "/a", "status": "/a"}, "two of --metrics, --health and --status answer /a"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_serving_refuses_is_refused(settings, said):
    (fault,) = refused(**settings)
    assert said in fault


def test_what_can_be_served_leaves_nothing():
    paths = {"admin_bind": "unix:admin", "health": "/h", "metrics": "/m", "access_log_file": "log"}
    assert refused(None, bind=("127.0.0.1:0", "unix:socket"), certfile="cert.pem", access_log="json", **paths) == []


def test_a_log_that_is_there_is_left(tmp_path):
    assert refused(access_log="text", access_log_file="a file") == []


def test_all_that_is_wrong_is_said_at_once():
    assert len(refused(bind=("here", "there"), ca_certs="ca.pem", metrics="/a", health="/a/b", status="/a")) == 4


def test_an_extra_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.delitem(sys.modules, "hypoll.telemetry.prometheus", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    found = refused(Processes(reload=True), metrics="/metrics")
    assert [fault.rpartition(": ")[2] for fault in found] == [
        "pip install 'hypoll[metrics]'",
        "pip install 'hypoll[reload]'",
    ]


def test_an_address_that_is_taken_may_be_that_of_the_server_that_runs():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(bind=(f"127.0.0.1:{taken.getsockname()[1]}",), access_log="off")
        found, doubtful = faults(Routes(), settings, Processes(), flag)
    assert found == []
    assert "the address is in use" in doubtful[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("HYPOLL_BACKLGO", ["HYPOLL_BACKLGO is no variable of hypoll's: is it HYPOLL_BACKLOG?"]),
        ("HYPOLL_WORKER", ["HYPOLL_WORKER is no variable of hypoll's: is it HYPOLL_WORKERS?"]),
        ("HYPOLL_QQQQQQQQQ", ["HYPOLL_QQQQQQQQQ is no variable of hypoll's"]),
        ("HYPOLL_BACKLOG", []),
        ("HYPOLL_WORKERS", []),
        ("HYPOLL_APP_DIR", []),
        ("HYPOLL_SERVICE_HOST", []),
        ("HYPOLL_SERVICE_PORT_HTTP", []),
        ("HYPOLL_PORT_8000_TCP_ADDR", []),
        ("HYPOLL_PORT", []),
        ("OTHER_BACKLGO", []),
    ],
)
def test_a_variable_that_is_none_is_named_with_the_nearest(name, said):
    assert list(unknown_variables({name: "1"})) == said


def test_the_command_says_it_and_ends_with_2(tmp_path):
    (tmp_path / "app.py").write_text("from hypoll import Routes\nroutes = Routes()\n")
    command = [sys.executable, "-Bm", "hypoll", "app:routes", "--check", "--bind", "here"]
    environ = {**os.environ, "HYPOLL_CA_CERTS": "ca.pem"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    (tmp_path / "app.py").unlink()
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: HYPOLL_CA_CERTS is given, but no --certfile: TLS needs a certificate",
        "error: 'here' is no address: give HOST:PORT, [::1]:PORT, unix:/PATH or fd://N",
    ]
    assert "can be served" not in done.stdout


def test_under_gunicorn_an_option_has_its_name_there(tmp_path):
    (tmp_path / "app.py").write_text("from hypoll import Routes\nroutes = Routes()\n")
    environ = {"HYPOLL_CERT_REQS": "required"}
    master = Master(tmp_path, [*GUNICORN, "--bind", "127.0.0.1:0", "--keyfile", "cert.pem"], env=environ)
    try:
        assert master.wait() != 0
        master.says("keyfile is given, but no certfile: TLS needs a certificate")
    finally:
        master.end()
        (tmp_path / "app.py").unlink()


def test_how_gunicorn_names_an_option(monkeypatch):
    from gunicorn.config import Config

    cfg = Config()
    assert [spelling(cfg)(name) for name in ("keep_alive", "bind", "max_body")] == [
        "keepalive",
        "bind",
        "HYPOLL_MAX_BODY",
    ]
    monkeypatch.setenv("HYPOLL_KEEP_ALIVE", "-1")
    assert spelling(cfg)("keep_alive") == "HYPOLL_KEEP_ALIVE"
    cfg.set("keepalive", 3)
    assert spelling(cfg)("keep_alive") == "keepalive"
    cfg.hypoll_command = Settings()
    assert spelling(cfg)("keep_alive") == "--keep-alive"
    assert rehearsal.COMMAND_S == ("app_dir", "log_level", "check")
