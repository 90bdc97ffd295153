"""Which of gunicorn's settings were given, and whose word counts: theirs, hypoll's variables', or a default's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.app.base import BaseApplication
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import make_settings

from hypoll.deploy.gunicorn_config import (
    GUNICORN_S_ALONE,
    OWN_DEFAULTS,
    TRANSLATED,
    UNSUPPORTED,
    explicit_settings,
    translate,
    validate,
    warn_of_ignored,
)
from hypoll.proxy.networks import UNIX
from hypoll.settings import options

OWN = frozenset(
    [
        "access_log_format",
        "accesslog",
        "backlog",
        "bind",
        "capture_output",
        "chdir",
        "check_config",
        "child_exit",
        "config",
        "control_socket",
        "control_socket_disable",
        "control_socket_mode",
        "daemon",
        "default_proc_name",
        "dirty_apps",
        "dirty_graceful_timeout",
        "dirty_post_fork",
        "dirty_threads",
        "dirty_timeout",
        "dirty_worker_exit",
        "dirty_worker_init",
        "dirty_workers",
        "disable_redirect_access_to_syslog",
        "dogstatsd_tags",
        "enable_backlog_metric",
        "enable_stdio_inheritance",
        "errorlog",
        "graceful_timeout",
        "group",
        "initgroups",
        "logconfig",
        "logconfig_dict",
        "logconfig_json",
        "logger_class",
        "loglevel",
        "max_requests",
        "max_requests_jitter",
        "nworkers_changed",
        "on_dirty_starting",
        "on_exit",
        "on_reload",
        "on_starting",
        "paste",
        "pidfile",
        "post_fork",
        "post_request",
        "post_worker_init",
        "pre_exec",
        "pre_fork",
        "pre_request",
        "preload_app",
        "print_config",
        "proc_name",
        "pythonpath",
        "raw_env",
        "raw_paste_global_conf",
        "reload",
        "reload_engine",
        "reload_extra_files",
        "reuse_port",
        "spew",
        "ssl_context",
        "statsd_host",
        "statsd_prefix",
        "syslog",
        "syslog_addr",
        "syslog_facility",
        "syslog_prefix",
        "timeout",
        "umask",
        "user",
        "when_ready",
        "worker_abort",
        "worker_class",
        "worker_exit",
        "worker_int",
        "worker_tmp_dir",
        "workers",
        "wsgi_app",
    ]
)
"""Settings that gunicorn's own code sees to, and those that the worker reads as they are."""

OTHERWISE: dict[str, str] = {
    "threads": "7",
    "max_connections": "77",
    "keep_alive": "7.5",
    "max_line": "777B",
    "max_field": "778B",
    "max_headers": "7",
    "forwarded_allow_ips": "192.0.2.7",
    "secure_scheme_headers": "X-Seven=on",
    "proxy_protocol": "on",
    "proxy_allow_ips": "192.0.2.8",
    "certfile": "seven.pem",
    "keyfile": "seven.key",
    "ca_certs": "seven.ca",
    "cert_reqs": "required",
    "ciphers": "SEVEN",
    "lifespan": "off",
    "uvloop": "off",
    "script_name": "/seven",
}
"""A value for the variable of each translated option that is nobody's default."""

Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads a gunicorn application as its command does: load(arguments, cmd_args=..., config=..., directory=...)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gunicorn.config.Chdir.default", str(tmp_path))  # where gunicorn was imported, otherwise
    monkeypatch.delitem(sys.modules, "__config__", raising=False)

    def begin(*arguments: str, cmd_args: str = "", config: str = "", file: str = "gunicorn.conf.py") -> Any:
        monkeypatch.setattr(sys, "argv", ["gunicorn", *arguments, "app:routes"])
        monkeypatch.setenv("GUNICORN_CMD_ARGS", cmd_args)
        (tmp_path / file).write_text(config)
        return WSGIApplication()

    yield begin
    sys.modules.pop("__config__", None)


def text_of(value: Any) -> str:
    """A default as it is written on the command line."""
    return ",".join(value) if isinstance(value, (list, tuple)) else str(value)


def line_of(name: str) -> str:
    """A default as a configuration file gives it."""
    return f"from gunicorn.config import make_settings\n{name} = make_settings()[{name!r}].default\n"


def ways(setting: Any) -> dict[str, dict[str, Any]]:
    """How the default itself can be given."""
    found: dict[str, dict[str, Any]] = {"file": {"config": line_of(setting.name)}}
    if setting.cli and setting.action is None and setting.get() is not None:
        argument = f"{setting.cli[-1]}={text_of(setting.get())}"
        found |= {"command line": {"arguments": (argument,)}, "GUNICORN_CMD_ARGS": {"cmd_args": argument}}
    return found


DEFAULTS = make_settings()
CASES = [(option, way) for option, (name, _) in TRANSLATED.items() for way in ways(DEFAULTS[name])]


@pytest.mark.parametrize(("option", "way"), CASES)
def test_a_setting_that_is_given_counts_though_it_equals_its_default(load, monkeypatch, option, way):
    name, read = TRANSLATED[option]
    monkeypatch.setenv(f"HYPOLL_{option.upper()}", OTHERWISE[option])
    how = ways(DEFAULTS[name])[way]
    app = load(*how.pop("arguments", ()), **how)
    given = explicit_settings(app, app.cfg)
    assert name in given
    assert getattr(translate(app.cfg, given), option) == read(app.cfg)


@pytest.mark.parametrize("option", TRANSLATED)
def test_a_variable_goes_before_the_default_of_a_setting_that_is_not_given(load, monkeypatch, option):
    name, read = TRANSLATED[option]
    app = load()
    given = explicit_settings(app, app.cfg)
    assert name not in given
    default = next(one.default for one in options() if one.name == option) if option in OWN_DEFAULTS else read(app.cfg)
    assert getattr(translate(app.cfg, given), option) == default
    monkeypatch.setenv(f"HYPOLL_{option.upper()}", OTHERWISE[option])
    assert getattr(translate(app.cfg, given), option) != default


def test_every_setting_of_gunicorn_s_is_known():
    translated = {name for name, _ in TRANSLATED.values()}
    assert set(DEFAULTS) == translated | set(UNSUPPORTED) | OWN
    assert not translated & OWN
    assert set(OTHERWISE) == set(TRANSLATED)
    assert set(GUNICORN_S_ALONE.values()) <= OWN


def test_threads_of_one_are_one_thread(load):
    app = load("--threads", "1")
    assert translate(app.cfg, explicit_settings(app, app.cfg)).threads == 1
    app = load()
    assert translate(app.cfg, explicit_settings(app, app.cfg)).threads == 0


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_honoured_is_named_when_it_is_given_and_only_then(load, name):
    said: list[str] = []

    class Log:
        def warning(self, message: str, *arguments: object) -> None:
            said.append(message % arguments)

    app = load()
    warn_of_ignored(explicit_settings(app, app.cfg), Log())
    assert said == []
    app = load(config=line_of(name))
    warn_of_ignored(explicit_settings(app, app.cfg), Log())
    assert said == [f"hypoll's worker doesn't honour these settings: {name}"]


@pytest.mark.parametrize("option", [*GUNICORN_S_ALONE, "access_log_file", "access_log_skip"])
def test_a_variable_that_can_t_be_honoured_is_named(monkeypatch, option):
    said: list[str] = []

    class Log:
        def warning(self, message: str, *arguments: object) -> None:
            said.append(message % arguments)

    monkeypatch.setenv(f"HYPOLL_{option.upper()}", "1")
    warn_of_ignored((), Log())
    (line,) = said
    assert line.startswith(f"HYPOLL_{option.upper()} isn't honoured under gunicorn: its setting ")


@pytest.mark.parametrize(
    ("variables", "config", "form", "ignored"),
    [
        ({}, "", "off", []),
        ({"HYPOLL_ACCESS_LOG": "json"}, "", "json", []),
        ({"HYPOLL_ACCESS_LOG": "text", "HYPOLL_ACCESS_LOG_FILE": "log"}, "", "text", []),
        ({"HYPOLL_ACCESS_LOG_FILE": "log"}, "", "off", ["HYPOLL_ACCESS_LOG_FILE"]),
        ({"HYPOLL_ACCESS_LOG": "json"}, "accesslog = '-'", "off", ["HYPOLL_ACCESS_LOG"]),
    ],
)
def test_the_access_log_is_hypoll_s_where_gunicorn_s_is_not_asked_for(
    load, monkeypatch, variables, config, form, ignored
):
    said: list[str] = []

    class Log:
        def warning(self, message: str, *arguments: object) -> None:
            said.append(message % arguments)

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = load(config=config)
    given = explicit_settings(app, app.cfg)
    assert translate(app.cfg, given).access_log == form
    warn_of_ignored(given, Log())
    assert [line.split()[0] for line in said] == ignored


def test_the_configuration_file_is_run_once(load, tmp_path):
    app = load(config="with open('runs', 'a') as file: file.write('.')\nthreads = 1\n")
    assert "threads" in explicit_settings(app, app.cfg)
    assert (tmp_path / "runs").read_text() == "."


def test_a_file_that_changes_the_directory_counts(load, tmp_path):
    (tmp_path / "below").mkdir()
    app = load(config="chdir = 'below'\nthreads = 1\n")
    assert Path.cwd() == tmp_path / "below"
    assert "threads" in explicit_settings(app, app.cfg)
    assert Path.cwd() == tmp_path / "below"


@pytest.mark.parametrize("way", ["-c", "python:"])
def test_a_file_of_another_name_counts(load, tmp_path, monkeypatch, way):
    monkeypatch.syspath_prepend(str(tmp_path))
    argument = "-cconf_of_given.py" if way == "-c" else "-cpython:conf_of_given"
    app = load(argument, config="threads = 1\n", file="conf_of_given.py")
    assert "threads" in explicit_settings(app, app.cfg)


def test_what_a_program_sets_that_embeds_gunicorn_counts(monkeypatch):
    class Embedding(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            self.cfg.set("threads", 1)
            self.cfg.set("workers", 3)

        def load(self) -> None: ...

    monkeypatch.setattr(sys, "argv", ["program", "--of-its-own"])
    app = Embedding()
    assert explicit_settings(app, app.cfg) == {"threads", "workers"}


def test_of_an_application_that_can_t_be_loaded_again_what_was_changed_counts(load, monkeypatch):
    app = load("--threads", "3")
    monkeypatch.setattr(sys, "argv", ["something", "--else"])
    assert explicit_settings(app, app.cfg) == {"threads", "default_proc_name"}


def test_each_value_is_held_against_its_limits_whichever_is_taken(load, monkeypatch):
    app = load("--keep-alive", "2")
    monkeypatch.setenv("HYPOLL_KEEP_ALIVE", "-1")
    with pytest.raises(ValueError, match="keep_alive is -1"):
        validate(app.cfg)


def test_gunicorn_s_certificate_and_a_variable_go_together(load, monkeypatch):
    monkeypatch.setenv("HYPOLL_CERT_REQS", "required")
    monkeypatch.setenv("HYPOLL_CA_CERTS", "ca.pem")
    app = load("--certfile", "a.pem")
    found = translate(app.cfg, explicit_settings(app, app.cfg))
    assert (found.certfile, found.cert_reqs, found.ca_certs) == ("a.pem", "required", "ca.pem")
    assert UNIX in found.forwarded_allow_ips
