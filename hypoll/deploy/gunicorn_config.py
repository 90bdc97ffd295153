"""Gunicorn's settings as hypoll's: which were given, what each means here, what can't be honoured, what can't work.

A setting is given when somebody has written it down, whatever its value: on the command line, in GUNICORN_CMD_ARGS, at
the top level of the configuration file, or by `cfg.set` in a program that embeds gunicorn. What is given goes before
hypoll's variables, and those before gunicorn's defaults.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import socket
import ssl
import sys
from collections.abc import Callable, Collection
from typing import Any

from gunicorn.config import Config, make_settings
from gunicorn.glogging import Logger

from hypoll.option import OptionError
from hypoll.proxy.networks import UNIX
from hypoll.server.sockets import BindError
from hypoll.server.transport import VERIFY, TLSError, context_of, make_context
from hypoll.settings import Settings, from_environment, variable

DEFAULT_FIELD_SIZE = 8190
"""Gunicorn's limit for a field when its setting says that there is none."""

MAX_LINE = 8190
"""Gunicorn's limit for a request line when its setting is 0 or more than that."""

MAX_FIELDS = 32768

STOP_MARGIN = 0.5
"""Seconds before `graceful_timeout` at which a worker gives up its last connections, a tenth of it at most: at its end
the master kills, and the application's on_stop hooks would not run."""

UNSUPPORTED = (
    "forwarder_headers",
    "header_map",
    "protocol",
    "uwsgi_allow_ips",
    "ssl_version",
    "suppress_ragged_eofs",
    "do_handshake_on_connect",
    "http_protocols",
    "http2_cleartext",
    "http2_max_concurrent_streams",
    "http2_initial_window_size",
    "http2_max_frame_size",
    "http2_max_header_list_size",
    "http_parser",
    "permit_obsolete_folding",
    "strip_header_spaces",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
    "casefold_http_method",
    "tmp_upload_dir",
    "sendfile",
    "asgi_disconnect_grace_period",
    "websocket_max_message_size",
)
"""Gunicorn's settings that mean something to other workers and nothing to this one."""


_CERT_REQS = {value: name for name, value in VERIFY.items()}

TRANSLATED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "threads": ("threads", lambda cfg: cfg.threads),
    "max_connections": ("worker_connections", lambda cfg: cfg.worker_connections),
    "keep_alive": ("keepalive", lambda cfg: float(cfg.keepalive)),
    "max_line": ("limit_request_line", lambda cfg: min(cfg.limit_request_line or MAX_LINE, MAX_LINE)),
    "max_field": ("limit_request_field_size", lambda cfg: cfg.limit_request_field_size or DEFAULT_FIELD_SIZE),
    "max_headers": ("limit_request_fields", lambda cfg: min(cfg.limit_request_fields or MAX_FIELDS, MAX_FIELDS)),
    # Gunicorn trusts the peers of unix sockets in any case.
    "forwarded_allow_ips": ("forwarded_allow_ips", lambda cfg: (*cfg.forwarded_allow_ips, UNIX)),
    "secure_scheme_headers": (
        "secure_scheme_headers",
        lambda cfg: tuple(f"{name}={value}" for name, value in cfg.secure_scheme_headers.items()),
    ),
    "proxy_protocol": ("proxy_protocol", lambda cfg: cfg.proxy_protocol not in (False, "off")),
    "proxy_allow_ips": ("proxy_allow_ips", lambda cfg: (*cfg.proxy_allow_ips, UNIX)),
    "certfile": ("certfile", lambda cfg: cfg.certfile or ""),
    "keyfile": ("keyfile", lambda cfg: cfg.keyfile or ""),
    "ca_certs": ("ca_certs", lambda cfg: cfg.ca_certs or ""),
    "cert_reqs": ("cert_reqs", lambda cfg: _CERT_REQS[ssl.VerifyMode(cfg.cert_reqs)]),
    "ciphers": ("ciphers", lambda cfg: cfg.ciphers or ""),
    "lifespan": ("asgi_lifespan", lambda cfg: cfg.asgi_lifespan),
    "uvloop": ("asgi_loop", lambda cfg: cfg.asgi_loop != "asyncio"),
    "script_name": ("root_path", lambda cfg: cfg.root_path),
}
"""hypoll's options that gunicorn has a setting for: its name, and what its value means here."""

OWN_DEFAULTS = ("threads",)
"""Options whose default is hypoll's own. One thread, gunicorn's, is for a worker that has no loop beside it."""

GUNICORN_S_ALONE = {
    "bind": "bind",
    "backlog": "backlog",
    "reuse_port": "reuse_port",
    "graceful_timeout": "graceful_timeout",
    "log_format": "logger_class",
}
"""Options that no variable sets here: gunicorn's master does by its own setting what they are for."""

ACCESS_LOG = ("access_log", "access_log_file", "access_log_skip")
"""Options of hypoll's own access log, which is written where the first of them is given and gunicorn's isn't."""

COMMAND_S_ALONE = {
    "workers": "workers",
    "worker_timeout": "timeout",
    "max_requests": "max_requests",
    "max_requests_jitter": "max_requests_jitter",
    "cpu_affinity": "",
    "reload": "reload",
    "app_dir": "chdir",
    "log_level": "loglevel",
    "check": "",
}
"""Options of the command `hypoll`, and gunicorn's settings for the same; empty: there is none."""


def translate(cfg: Any, given: Collection[str] | None = None) -> Settings:
    """The `Settings` of a worker. What gunicorn has no setting for comes from the environment, as `HYPOLL_MAX_BODY`.

    Args:
        cfg: gunicorn's configuration.
        given: the settings that were given, see `explicit_settings`; None: those that aren't as they were.

    Raises:
        ValueError: For a value that is out of range.
    """
    command = command_settings(cfg)
    if command is not None:  # they have been held against their limits; of a drain's time the master keeps some
        return dataclasses.replace(command, graceful_timeout=drain_time(cfg.graceful_timeout) - command.drain_wait)
    known = changed(cfg) if given is None else given
    chosen = from_environment(os.environ)
    for option, (name, read) in TRANSLATED.items():
        if name in known or (option not in chosen and option not in OWN_DEFAULTS):
            chosen[option] = read(cfg)
    # Gunicorn has no limit for the head as a whole, but that of its parts: by default 800 KB. This is room for any one
    # line, and for as much again as a usual head has.
    chosen.setdefault("max_head", max(Settings.max_head, 2 * (chosen["max_line"] + chosen["max_field"])))
    chosen |= {
        "bind": ("unused:0",),  # the listeners are made by gunicorn
        "access_log": "off" if "accesslog" in known else chosen.get("access_log", "off"),
        "backlog": cfg.backlog,
        "reuse_port": cfg.reuse_port,
        "graceful_timeout": drain_time(cfg.graceful_timeout),
    }
    found = Settings(**chosen)
    if found.drain_wait and found.drain_wait >= found.graceful_timeout:
        raise OptionError(
            f"<drain_wait> is {found.drain_wait:g}, and <graceful_timeout>, which it is a part of under gunicorn, "
            f"{cfg.graceful_timeout}: give that more"
        )
    return dataclasses.replace(found, graceful_timeout=found.graceful_timeout - found.drain_wait)


def spelling(cfg: Any) -> Callable[[str], str]:
    """How whoever has made a configuration names an option: as gunicorn's setting, or else as hypoll's variable."""
    if command_settings(cfg) is not None:
        return lambda name: "--" + name.replace("_", "-")
    known = changed(cfg)

    def spell(name: str) -> str:
        setting = TRANSLATED[name][0] if name in TRANSLATED else GUNICORN_S_ALONE.get(name)
        by_variable = setting is None or (setting not in known and os.environ.get(variable(name)))
        return variable(name) if by_variable or setting is None else setting

    return spell


def counts_together(command: Settings | None = None) -> bool:
    """Whether there is something that all workers count together. command: see `command_settings`."""
    if command is not None:
        return bool(command.metrics or command.status)
    return any(os.environ.get(variable(option)) for option in ("metrics", "status"))


def command_settings(cfg: Any) -> Settings | None:
    """The settings of the command `hypoll --workers`, which has made this configuration; None: gunicorn's has."""
    command: Settings | None = vars(cfg).get("hypoll_command")
    return command


def validate(cfg: Any) -> Settings:
    """Hold every value against its limits, whichever is taken in the end. Raises as `translate` does."""
    translate(cfg, ())
    return translate(cfg, tuple(cfg.settings))


class _Recorder(Config):  # type: ignore[misc]
    """A configuration that keeps which settings were given."""

    def __init__(self, original: Config) -> None:
        super().__init__(original.usage, original.prog)
        self.env_orig = original.env_orig
        self.given: set[str] = set()

    def set(self, name: str, value: Any) -> None:
        """Set it, and keep that it was."""
        super().set(name, value)
        self.given.add(name)


def explicit_settings(app: Any, cfg: Any) -> set[str]:
    """The settings that were given to a gunicorn application, by name, whatever their values.

    Args:
        app: gunicorn's own application, which has read them.
        cfg: what was made of them. The application is loaded once more for that, into a configuration of no other use;
            only the configuration file isn't run again. To be called in the master, before its arguments or directory
            change.
    """
    file = vars(sys.modules.get("__config__", object))  # as gunicorn names what it makes of the file
    recorder = _Recorder(cfg)
    try:
        twin = copy.copy(app)
        twin.cfg = recorder
        twin.get_config_from_filename = lambda filename: file
        twin.chdir = lambda: None
        twin.load_config()
    except (Exception, SystemExit):  # argparse's, where the arguments aren't gunicorn's
        return changed(cfg)
    # A file of the default name isn't found again where it has changed the directory.
    return recorder.given | {name for name in cfg.settings if name in file and _holds(cfg, name, file[name])}


def _holds(cfg: Any, name: str, value: Any) -> bool:
    """Whether a setting has this value."""
    setting = cfg.settings[name].copy()
    try:
        setting.set(value)
    except Exception:
        return False
    return bool(setting.get() == cfg.settings[name].get())


def changed(cfg: Any) -> set[str]:
    """The settings whose values aren't gunicorn's defaults."""
    defaults = make_settings()
    return {name for name, setting in cfg.settings.items() if setting.get() != defaults[name].get()}


def drain_time(graceful_timeout: float) -> float:
    """Seconds of a drain that leave the master something of its `graceful_timeout`."""
    return graceful_timeout - min(STOP_MARGIN, graceful_timeout / 10)


def check(cfg: Any) -> None:
    """Raise `RuntimeError` where `reuse_port` asks for listeners that the workers can't have."""
    if cfg.reuse_port:
        check_reuse_port(cfg)


def warn_of_ignored(given: Collection[str], log: Logger) -> None:
    """Name what was given and isn't honoured: gunicorn's settings, and hypoll's variables."""
    ignored = [name for name in UNSUPPORTED if name in given]
    if ignored:
        log.warning("hypoll's worker doesn't honour these settings: %s", ", ".join(ignored))
    alone = GUNICORN_S_ALONE | COMMAND_S_ALONE
    if "accesslog" in given or not os.environ.get(variable(ACCESS_LOG[0])):
        alone |= dict.fromkeys(ACCESS_LOG, "accesslog")
    for option, setting in alone.items():
        if os.environ.get(variable(option)):
            instead = f"its setting {setting} is" if setting else "it is an option of the command hypoll"
            log.warning("%s isn't honoured under gunicorn: %s", variable(option), instead)


def tls_context(cfg: Any, settings: Settings | None = None) -> ssl.SSLContext | None:
    """What the settings make of TLS, gunicorn's hook `ssl_context` included; None: nothing. Raises `TLSError`.

    Args:
        cfg: gunicorn's configuration.
        settings: of the worker; None: what `translate` makes of the configuration.
    """
    chosen = translate(cfg) if settings is None else settings
    if command_settings(cfg) is not None:
        return context_of(chosen)

    def make() -> ssl.SSLContext:
        if not chosen.certfile:
            raise TLSError("<keyfile> is given, but no <certfile>: TLS needs a certificate")
        return make_context(
            chosen.certfile,
            chosen.keyfile or None,
            ca_certs=chosen.ca_certs or None,
            cert_reqs=VERIFY[chosen.cert_reqs],
            ciphers=chosen.ciphers or None,
        )

    if chosen.certfile or chosen.keyfile:
        return cfg.ssl_context(cfg, make)  # type: ignore[no-any-return]
    return context_of(chosen)


def check_reuse_port(cfg: Any) -> None:
    """Raise `RuntimeError` where workers can't bind a listener each, as `reuse_port` has them do.

    A worker that fails to bind would be replaced by another for ever.
    """
    check_separable(cfg)
    for host, port in cfg.address:
        _try_to_bind(host, port)


def check_separable(cfg: Any) -> None:
    """Raise `RuntimeError` for an address that workers can't have a listener each at. Nothing is bound."""
    if cfg.env_orig.get("LISTEN_PID") == str(os.getpid()):
        raise RuntimeError("reuse_port doesn't go with socket activation (LISTEN_FDS): its sockets are shared")
    for address in cfg.address:
        if isinstance(address, int):
            raise RuntimeError(f"reuse_port doesn't go with fd://{address}: an inherited socket is shared")
        if isinstance(address, str):
            raise RuntimeError(f"reuse_port doesn't go with unix:{address}: a unix socket is one listener's alone")
        host, port = address
        if not port:
            raise RuntimeError(f"reuse_port doesn't go with port 0 of {host}: each worker would get another port")


def _try_to_bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            refused = BindError(f"can't listen on {host}:{port}: {error.strerror or error}")
            refused.__cause__ = error
            raise RuntimeError(str(refused)) from refused
