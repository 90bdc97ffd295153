"""What a real HAProxy tells of its clients, by fields and by the PROXY protocol, and what is made of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.wsgi.application import WSGI
from tests.support.client import fetch
from tests.support.gunicorn import PATIENCE, until
from tests.support.server import running

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy isn't installed"),
]

CONFIGURATION = """
defaults
    timeout connect 2s
    timeout client 10s
    timeout server 10s

frontend inner
    mode http
    bind fd@{inner}
    option forwardfor
    default_backend fields
frontend outer
    mode http
    bind fd@{outer}
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    default_backend to_inner
frontend hiding
    mode http
    bind fd@{hiding}
    http-request set-header Forwarded "for=_hidden;proto=https"
    default_backend fields
frontend silent
    mode http
    bind fd@{silent}
    default_backend fields
frontend v1
    mode tcp
    bind fd@{v1}
    default_backend speaks_v1
frontend v2
    mode tcp
    bind fd@{v2}
    default_backend speaks_v2
frontend local_v1
    mode tcp
    bind {directory}/v1
    default_backend speaks_v1
frontend local_v2
    mode tcp
    bind {directory}/v2
    default_backend speaks_v2

backend fields
    mode http
    server hypoll 127.0.0.1:{plain_port}
backend to_inner
    mode http
    server inner 127.0.0.1:{inner_port}
backend speaks_v1
    mode tcp
    server hypoll 127.0.0.1:{speaking_port} send-proxy
backend speaks_v2
    mode tcp
    server hypoll 127.0.0.1:{speaking_port} send-proxy-v2
"""

FRONTENDS = ("inner", "outer", "hiding", "silent", "v1", "v2")

NAMES = ("wsgi.url_scheme", "REMOTE_ADDR", "HTTP_HOST", "SERVER_PORT")


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [json.dumps([environ.get(name) for name in NAMES]).encode()]


class Tells:
    """A HAProxy before two hypolls; the second speaks the PROXY protocol."""

    def __init__(self, directory: Path, ports: dict[str, int]) -> None:
        self.directory = directory
        self.ports = ports

    def ask(self, frontend: str, path: str = "/", **fields: str) -> tuple[int, bytes]:
        """Ask a frontend, from 127.0.0.2 or by its unix socket."""
        named = {"Host": "a.example", **fields}
        if frontend in self.ports:
            answer = fetch(("127.0.0.1", self.ports[frontend]), path, named, source="127.0.0.2")
        else:
            answer = fetch(str(self.directory / frontend.removeprefix("local_")), path, named)
        return answer.status, answer.body


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tells]:
    directory = tmp_path_factory.mktemp("haproxy")
    settings: dict[str, Any] = {"status": "/-/status", "status_allow": ("127.0.0.1", "unix")}
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(running(WSGI(application), **settings))
        speaking = stack.enter_context(running(WSGI(application), proxy_protocol=True, **settings))
        listeners = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in FRONTENDS}
        ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
        (directory / "cfg").write_text(
            CONFIGURATION.format(
                **{name: listener.fileno() for name, listener in listeners.items()},
                directory=directory,
                plain_port=plain.address[1],
                inner_port=ports["inner"],
                speaking_port=speaking.address[1],
            )
        )
        popen = subprocess.Popen(
            ["haproxy", "-db", "-f", str(directory / "cfg")],
            pass_fds=[listener.fileno() for listener in listeners.values()],
            stderr=subprocess.DEVNULL,
        )
        try:
            until((directory / "v2").exists)
            yield Tells(directory, ports)
        finally:
            popen.terminate()
            popen.wait(PATIENCE)


@pytest.mark.parametrize(
    ("frontend", "fields", "told"),
    [
        ("inner", {}, ["http", "127.0.0.2", "a.example", "80"]),
        ("outer", {}, ["https", "127.0.0.2", "a.example", "443"]),
        ("outer", {"X-Forwarded-For": "6.6.6.6"}, ["https", "127.0.0.2", "a.example", "443"]),
        ("outer", {"X_Forwarded_For": "6.6.6.6"}, ["https", "127.0.0.2", "a.example", "443"]),
        ("outer", {"Forwarded": "for=6.6.6.6"}, ["http", "", "a.example", "80"]),
        ("hiding", {}, ["https", "", "a.example", "443"]),
        ("silent", {}, ["http", "127.0.0.1", "a.example", "80"]),
        ("v1", {"X-Forwarded-For": "6.6.6.6"}, ["http", "127.0.0.2", "a.example", "80"]),
        ("v2", {"X-Forwarded-Proto": "https"}, ["http", "127.0.0.2", "a.example", "80"]),
        ("local_v1", {}, ["http", "", "a.example", "80"]),
        # By version 2 it calls the clients of its unix sockets its own connections (LOCAL), as health checks are.
        ("local_v2", {}, ["http", "127.0.0.1", "a.example", "80"]),
    ],
    ids=str,
)
def test_who_the_client_is(haproxy, frontend, fields, told):
    status, body = haproxy.ask(frontend, **fields)
    assert (status, json.loads(body)) == (200, told)


@pytest.mark.parametrize("frontend", ["inner", "outer", "hiding", "v1", "v2", "local_v1"])
def test_the_status_page_is_not_for_the_clients_of_one_who_may_see_it(haproxy, frontend):
    assert haproxy.ask(frontend, "/-/status")[0] == 403


def test_a_proxy_that_names_no_client_opens_it(haproxy):
    """What `--check` warns of."""
    assert haproxy.ask("silent", "/-/status")[0] == 200
