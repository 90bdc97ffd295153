"""Servers by name: how each is started. Any other can be given by its command (`__main__.py`)."""

from __future__ import annotations

from typing import NamedTuple

APPLICATION = "tests.conformance.asgi.applications:app"
ROOT_PATH = "/mounted"


class Peer(NamedTuple):
    """A server's command, and what it is given more, or instead of `bind`, for the variants that need it.

    {app}, {host}, {port}, {path} (of a Unix socket), {root_path}, {cert} and {key} are replaced.
    None: the server has no such option.
    """

    command: str
    bind: str
    unix: str | None = None
    root_path: str | None = None
    tls: str | None = None
    package: str = ""


PEERS = {
    "hypoll": Peer(
        "hypoll {app}",
        "--bind {host}:{port}",
        unix="--bind unix:{path}",
        root_path="--script-name {root_path}",
        tls="--certfile {cert} --keyfile {key}",
        package="hypoll",
    ),
    "uvicorn": Peer(
        "uvicorn {app}",
        "--host {host} --port {port}",
        unix="--uds {path}",
        root_path="--root-path {root_path}",
        tls="--ssl-certfile {cert} --ssl-keyfile {key}",
        package="uvicorn",
    ),
    "uvicorn-h11": Peer(
        "uvicorn {app} --http h11 --loop asyncio",
        "--host {host} --port {port}",
        unix="--uds {path}",
        root_path="--root-path {root_path}",
        tls="--ssl-certfile {cert} --ssl-keyfile {key}",
        package="uvicorn",
    ),
    "hypercorn": Peer(
        "hypercorn {app}",
        "--bind {host}:{port}",
        unix="--bind unix:{path}",
        root_path="--root-path {root_path}",
        tls="--certfile {cert} --keyfile {key}",
        package="hypercorn",
    ),
    "granian": Peer(
        "granian --interface asgi {app}",
        "--host {host} --port {port}",
        unix="--uds {path}",
        root_path="--url-path-prefix {root_path}",
        tls="--ssl-certificate {cert} --ssl-keyfile {key}",
        package="granian",
    ),
    "h2corn": Peer(
        "h2corn {app}",
        "--bind {host}:{port}",
        unix="--bind unix:{path}",
        root_path="--root-path {root_path}",
        tls="--certfile {cert} --keyfile {key}",
        package="h2corn",
    ),
    "gunicorn": Peer(
        "gunicorn -k asgi --no-control-socket {app}",
        "--bind {host}:{port}",
        unix="--bind unix:{path}",
        root_path="--root-path {root_path}",
        tls="--certfile {cert} --keyfile {key}",
        package="gunicorn",
    ),
    "peregrine": Peer(
        "peregrine {app}",
        "--host {host} --port {port}",
        unix="--unix {path}",
        root_path="--root-path {root_path}",
        tls="--tls-cert {cert} --tls-key {key}",
        package="peregrine-server",
    ),
}
