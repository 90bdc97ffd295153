"""Gunicorn's settings as hypoll's: what each means here, what can't be honoured, what can't work."""

from __future__ import annotations

import dataclasses
import os
import socket
import ssl
from typing import Any

from gunicorn.config import make_settings
from gunicorn.glogging import Logger

from hypoll.networks import UNIX
from hypoll.settings import Settings, from_environment
from hypoll.tls import TLSError, make_context

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
    "asgi_loop",
    "asgi_lifespan",
    "asgi_disconnect_grace_period",
    "websocket_max_message_size",
    "root_path",
)
"""Gunicorn's settings that mean something to other workers and nothing to this one."""


def translate(cfg: Any) -> Settings:
    """The `Settings` of a worker. What gunicorn has no setting for comes from the environment, as `HYPOLL_MAX_BODY`.

    Raises `ValueError` for a value that is out of range.
    """
    found = Settings(**{**from_environment(os.environ), **translated(cfg)})
    if found.drain_wait and found.drain_wait >= found.graceful_timeout:
        raise ValueError(
            f"drain_wait is {found.drain_wait:g}, and graceful_timeout, which it is a part of under gunicorn, "
            f"{cfg.graceful_timeout}: give that more"
        )
    return dataclasses.replace(found, graceful_timeout=found.graceful_timeout - found.drain_wait)


def translated(cfg: Any) -> dict[str, Any]:
    """The options that gunicorn has a setting for."""
    line = min(cfg.limit_request_line or MAX_LINE, MAX_LINE)
    field = cfg.limit_request_field_size or DEFAULT_FIELD_SIZE
    return {
        "bind": ("unused:0",),  # the listeners are made by gunicorn
        "access_log": "off",  # gunicorn's own is written
        "threads": cfg.threads if cfg.settings["threads"].get() != 1 else 0,
        "backlog": cfg.backlog,
        "reuse_port": cfg.reuse_port,
        "max_connections": cfg.worker_connections,
        "keep_alive": float(cfg.keepalive),
        "graceful_timeout": give_up_after(cfg.graceful_timeout),
        "max_line": line,
        "max_field": field,
        "max_headers": min(cfg.limit_request_fields or MAX_FIELDS, MAX_FIELDS),
        # Gunicorn trusts the peers of unix sockets in any case.
        "forwarded_allow_ips": (*cfg.forwarded_allow_ips, UNIX),
        "secure_scheme_headers": tuple(f"{name}={value}" for name, value in cfg.secure_scheme_headers.items()),
        "proxy_protocol": cfg.proxy_protocol not in (False, "off"),
        "proxy_allow_ips": (*cfg.proxy_allow_ips, UNIX),
        # Gunicorn has no limit for the head as a whole, but that of its parts: by default 800 KB. This is room for any
        # one line, and for as much again as a usual head has.
        "max_head": max(Settings.max_head, 2 * (line + field)),
    }


def give_up_after(graceful_timeout: float) -> float:
    """Seconds of a drain that leave the master something of its `graceful_timeout`."""
    return graceful_timeout - min(STOP_MARGIN, graceful_timeout / 10)


def check(cfg: Any, log: Logger) -> None:
    """Raise `RuntimeError` for what can't work; warn, once, of the settings that aren't honoured."""
    try:
        tls_context(cfg)
    except TLSError as error:
        raise RuntimeError(str(error)) from None
    if cfg.reuse_port:
        check_reuse_port(cfg)
    ignored = unsupported(cfg)
    if ignored:
        log.warning("hypoll's worker doesn't honour these settings: %s", ", ".join(ignored))


def tls_context(cfg: Any) -> ssl.SSLContext | None:
    """What gunicorn's settings make of TLS, its hook `ssl_context` included; None: nothing. Raises `TLSError`."""

    def make() -> ssl.SSLContext:
        if not cfg.certfile:
            raise TLSError("keyfile is given, but no certfile: TLS needs a certificate")
        return make_context(
            cfg.certfile, cfg.keyfile, ca_certs=cfg.ca_certs, cert_reqs=cfg.cert_reqs, ciphers=cfg.ciphers
        )

    return cfg.ssl_context(cfg, make) if cfg.is_ssl else None


def unsupported(cfg: Any) -> list[str]:
    """The settings that were changed and have no meaning here."""
    defaults = make_settings()
    return [name for name in UNSUPPORTED if cfg.settings[name].get() != defaults[name].get()]


def check_reuse_port(cfg: Any) -> None:
    """Raise `RuntimeError` where workers can't bind a listener each, as `reuse_port` has them do.

    A worker that fails to bind would be replaced by another for ever.
    """
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
        _try_to_bind(host, port)


def _try_to_bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RuntimeError(f"can't listen on {host}:{port}: {error.strerror or error}") from None
