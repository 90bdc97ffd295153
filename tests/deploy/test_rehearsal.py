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
from gunicorn.config import make_settings

from hypoll import Routes
from hypoll.deploy import rehearsal
from hypoll.deploy.gunicorn_config import COMMAND_S_ALONE, spelling
from hypoll.deploy.rehearsal import faults, unknown_variables
from hypoll.settings import Processes, Settings, options
from tests.support.gunicorn import GUNICORN, HYPOLL, Master
from tests.support.leftovers import open_descriptors, settled_descriptors


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
    before = settled_descriptors()
    yield
    assert sorted(os.listdir(tmp_path)) == files
    assert open_descriptors() == before


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


@pytest.mark.parametrize("workers", [1, 2, "auto"])
@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize(
    ("bind", "said"),
    [
        ("unix:socket", "reuse_port doesn't go with unix:socket: a unix socket is one listener's alone"),
        ("127.0.0.1:0", "reuse_port doesn't go with port 0 of 127.0.0.1: each worker would get another port"),
        ("[::1]:0", "reuse_port doesn't go with port 0 of ::1: each worker would get another port"),
        ("localhost:0", "reuse_port doesn't go with port 0 of 127.0.0.1: each worker would get another port"),
    ],
)
def test_workers_that_can_t_have_a_listener_each_are_refused(workers, reload, bind, said):
    (fault,) = refused(Processes(workers=workers, reload=reload), reuse_port=True, bind=(bind,))
    assert fault == said
    assert refused(Processes(workers=workers), bind=(bind,)) == []
    assert refused(None, reuse_port=True, bind=(bind,)) == [], "one process has but one"


def test_workers_that_can_t_share_an_inherited_socket_are_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inherited = f"fd://{listener.fileno()}"
        found, _ = faults(Routes(), Settings(bind=(inherited,), reuse_port=True), Processes(workers=2), flag)
        listener.detach()  # who checks takes it
    assert found == [f"reuse_port doesn't go with {inherited}: an inherited socket is shared"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bind": ("127.0.0.1:8321", "127.0.0.1:8321")}, "--bind is 127.0.0.1:8321 twice: give each address once"),
        ({"bind": ("unix:s", "unix:s")}, "--bind is unix:s twice: give each address once"),
        ({"bind": ("unix:s", "unix:s"), "reuse_port": True}, "--bind is unix:s twice: give each address once"),
        (
            {"bind": ("unix:s",), "admin_bind": "unix:s", "health": "/h"},
            "--admin-bind is unix:s, as --bind is: give another address",
        ),
    ],
)
def test_an_address_that_is_given_twice_is_refused(settings, said):
    assert refused(None, **settings) == [said]


def test_an_address_in_other_words_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    settings = Settings(bind=(f"127.0.0.1:{port}", f"localhost:{port}"), access_log="off")
    assert faults(Routes(), settings, Processes(), flag) == (
        [],
        [f"can't listen on localhost:{port}: the address is in use. Stop what listens there, or bind another"],
    )


def test_a_port_of_the_kernel_s_choice_may_be_given_twice():
    assert refused(None, bind=("127.0.0.1:0", "127.0.0.1:0"), admin_bind="127.0.0.1:0", health="/h") == []


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


VARIABLES = {
    "HYPOLL_MAXBODY": r"HYPOLL_MAXBODY is no variable of hypoll's: is it HYPOLL_MAX_BODY\?$",
    "HYPOLL_WORKERS": "HYPOLL_WORKERS isn't honoured under gunicorn: its setting workers is$",
    "HYPOLL_CPU_AFFINITY": "HYPOLL_CPU_AFFINITY isn't honoured under gunicorn: it is an option of the command hypoll$",
    "HYPOLL_BIND": "HYPOLL_BIND isn't honoured under gunicorn: its setting bind is$",
}


def test_under_gunicorn_a_variable_that_sets_nothing_is_named_once(tmp_path):
    (tmp_path / "app.py").write_text("from hypoll import Routes\nroutes = Routes()\n")
    command = [*GUNICORN, "--bind", "127.0.0.1:0", "--workers", "2"]
    with Master(tmp_path, command, env=dict.fromkeys(VARIABLES, "1") | {"HYPOLL_SERVICE_HOST": "10.0.0.1"}) as master:
        master.says("Booting worker", 2)
        for sentence in VARIABLES.values():
            master.says(rf"\[WARNING\] {sentence}")
    (tmp_path / "app.py").unlink()
    assert sum("WARNING" in line for line in master.lines) == len(VARIABLES)


def test_the_command_with_workers_names_a_variable_once(tmp_path):
    (tmp_path / "app.py").write_text("from hypoll import Routes\nroutes = Routes()\n")
    command = [*HYPOLL, "--bind", "127.0.0.1:0", "--workers", "1"]
    with Master(tmp_path, command, env={"HYPOLL_MAXBODY": "1"}) as master:
        master.get()
    (tmp_path / "app.py").unlink()
    assert sum("HYPOLL_MAXBODY" in line for line in master.lines) == 1


def test_each_option_of_the_command_alone_is_known_under_gunicorn():
    names = {option.name for option in options(Processes)} | {*rehearsal.COMMAND_S}
    assert names == COMMAND_S_ALONE.keys()
    assert {setting for setting in COMMAND_S_ALONE.values() if setting} <= make_settings().keys()


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
