"""The health check of a container, against real servers."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from hypoll import HTTPError, Routes
from hypoll.healthcheck import main
from hypoll.testing import TestClient


@pytest.fixture
def routes() -> Routes:
    routes = Routes()
    routes.get("/healthz/live")(lambda request: {"status": "live"})

    @routes.get("/healthz/ready")
    def ready(request):
        raise HTTPError(503, "draining")

    return routes


@pytest.fixture
def port(routes: Routes) -> Iterator[str]:
    with TestClient(routes) as client:
        yield client.base_url.rpartition(":")[2]


@contextlib.contextmanager
def answering(listener: socket.socket, response: bytes) -> Iterator[None]:
    """Answer one connection with these bytes."""

    def answer() -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(65536)
            accepted.sendall(response)

    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("HYPOLL_BIND", "HYPOLL_HEALTH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "arguments", "status", "said"),
    [
        ({}, ["127.0.0.1:<port>"], 0, "127.0.0.1:<port> answers OPTIONS * with 204"),
        ({"HYPOLL_BIND": "127.0.0.1:<port>"}, [], 0, "answers OPTIONS * with 204"),
        ({"HYPOLL_BIND": "0.0.0.0:<port> unix:/x"}, [], 0, "0.0.0.0:<port> answers"),
        ({"HYPOLL_BIND": "0.0.0.0:1"}, [":<port>"], 0, ":<port> answers"),
        ({"HYPOLL_BIND": ":<port>", "HYPOLL_HEALTH": "/healthz"}, [], 0, "answers GET /healthz/live with 200"),
        ({}, [":<port>", "--health", "/healthz/"], 0, "answers GET /healthz/live with 200"),
        ({}, [":<port>", "--health", "/healthz", "--probe", "ready"], 1, "GET /healthz/ready with 503"),
        ({"HYPOLL_HEALTH": "/elsewhere"}, [":<port>"], 1, "GET /elsewhere/live with 404"),
        ({}, ["unix:/nowhere/at/all"], 1, "unix:/nowhere/at/all doesn't answer: No such file or directory"),
        ({}, ["127.0.0.1"], 2, "'127.0.0.1' can't be asked: give HOST:PORT"),
        ({"HYPOLL_BIND": "fd://3"}, [], 2, "'fd://3' can't be asked: give HOST:PORT"),
    ],
)
def test_what_it_asks_and_says(port, monkeypatch, capsys, variables, arguments, status, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("<port>", port))
    assert main([argument.replace("<port>", port) for argument in arguments]) == status
    told = capsys.readouterr().out
    assert said.replace("<port>", port) in told
    assert told.count("\n") == 1


def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with answering(listener, b"HTTP/1.1 204 No Content\r\n\r\n"):
            assert main([f"unix:{path}"]) == 0


def test_all_ipv6_addresses(capsys):
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with listener, answering(listener, b"HTTP/1.1 204 No Content\r\n\r\n"):
        assert main([f"[::]:{listener.getsockname()[1]}"]) == 0


@pytest.mark.parametrize(
    ("response", "said"), [(b"", "doesn't answer: Remote end closed connection"), (b"SSH-2.0\r\n", "doesn't answer")]
)
def test_what_is_no_answer(capsys, response, said):
    with socket.create_server(("127.0.0.1", 0)) as listener, answering(listener, response):
        assert main([f"127.0.0.1:{listener.getsockname()[1]}"]) == 1
    assert said in capsys.readouterr().out


def test_who_does_not_answer_is_given_up(capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert main([f"127.0.0.1:{listener.getsockname()[1]}", "--timeout", "0.05"]) == 1
    assert "timed out" in capsys.readouterr().out


def test_as_a_command(port):
    ended = subprocess.run(
        [sys.executable, "-m", "hypoll.healthcheck", f"127.0.0.1:{port}"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
