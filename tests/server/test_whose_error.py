"""Each request gets its own answer, whatever its handler does: errors are checked by where they came from."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll import File, HTTPError, Request, Response, Routes
from hypoll.wsgi.application import service_of
from tests.support.client import PATIENCE, Client, Cut
from tests.support.server import running

MIB = 1 << 20

ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("no"),
    lambda: BlockingIOError(errno.EAGAIN, "would block"),
    lambda: ConnectionResetError(errno.ECONNRESET, "reset"),
    lambda: BrokenPipeError(errno.EPIPE, "broken"),
    lambda: TimeoutError(errno.ETIMEDOUT, "late"),
    lambda: OSError(errno.EMFILE, "too many"),
    lambda: OSError(errno.EBADF, "bad"),
    lambda: HTTPError(418),
    lambda: SystemExit(3),
    GeneratorExit,
    asyncio.CancelledError,
    StopIteration,
]

HOLD = """
import fcntl, signal, sys, os
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


class Hostile(dict[str, str]):
    """Header fields that raise when they are looked at."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def items(self) -> Any:
        raise self.error


def ways(directory: Path) -> dict[str, Callable[[BaseException], Any]]:
    """Ways out of a handler that fail before the head, and what each gives."""

    def raises(error: BaseException) -> Any:
        raise error

    return {
        "raises": raises,
        "headers": lambda error: Response(b"x", headers=Hostile(error)),
        "status": lambda error: Response(b"x", status=99),
        "no body": lambda error: Response(object()),  # type: ignore[arg-type]
        "no file": lambda error: File(directory / "none"),
        "a directory": lambda error: File(directory),
    }


@pytest.mark.parametrize("kind", ["inline", "threaded", "async"])
@pytest.mark.parametrize("way", ["raises", "headers", "status", "no body", "no file", "a directory"])
def test_no_answer_is_taken_for_another(kind, way, tmp_path):
    routes = Routes()
    leave = ways(tmp_path)[way]

    def answer(request: Request, number: int) -> Any:
        if number % 2:
            return str(number)
        return leave(ERRORS[number // 2 % len(ERRORS)]())

    async def wait(request: Request, number: int) -> Any:
        return answer(request, number)

    routes.get("/{number:int}", threaded=kind == "threaded")(wait if kind == "async" else answer)
    numbers = range(2 * len(ERRORS))
    with running(routes) as it:
        one_by_one, pipelined = it.connect(), it.connect()
        for number in numbers:
            check(one_by_one, number, b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        pipelined.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in numbers))
        for number in numbers:
            check(pipelined, number)


def check(client: Client, number: int, request: bytes = b"") -> None:
    client.send(request)
    answer = client.answer()
    if number % 2:
        assert (answer.status, answer.body) == (200, b"%d" % number)
    else:
        assert answer.status >= 400, number


@pytest.mark.parametrize("kind", ["inline", "threaded", "async"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error()).__name__)
def test_a_body_that_fails_is_cut_whatever_it_raises(kind, error, caplog):
    routes = Routes()

    def pieces() -> Iterator[bytes]:
        yield b"piece"
        raise error()

    async def wait(request: Request) -> Response:
        return Response(pieces())

    routes.get("/", threaded=kind == "threaded")(wait if kind == "async" else lambda request: Response(pieces()))
    routes.get("/other")(lambda request: "other")
    with running(routes) as it:
        client = it.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /other HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head()[0] == 200
        assert client.rest() == b"5\r\npiece\r\n"
        assert it.connect().ask(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").body == b"other"
    assert "a response's body failed" in caplog.text


async def pieces_of_task() -> AsyncIterator[bytes]:
    yield bytes(MIB)
    raise ValueError


def pieces_of_loop() -> Iterator[bytes]:
    yield bytes(MIB)
    raise ValueError


@pytest.mark.parametrize("kind", ["inline", "threaded", "async", "task"])
def test_a_cut_takes_nothing_of_what_was_owed_before_it(kind, caplog):
    """Though the client goes on sending, which a close would answer by a reset: what is on its way would be lost."""
    routes = Routes()

    async def wait(request: Request) -> Response:
        return Response(pieces_of_task() if kind == "task" else pieces_of_loop())

    routes.get("/large")(lambda request: bytes(MIB))
    routes.get("/", threaded=kind == "threaded")(
        wait if kind in ("async", "task") else lambda request: Response(pieces_of_loop())
    )
    with running(routes) as it:
        client = it.connect(64 * 1024)
        client.sock.settimeout(PATIENCE)
        client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"x" * 100_000)
        it.until(lambda: any(connection.writer.has_output for connection in it.server.connections))
        assert client.answer().body == bytes(MIB)
        client.send(b"x" * 100_000)
        assert client.head()[0] == 200
        assert client.chunk() == bytes(MIB)
        assert client.sock.recv(1) == b""  # an end, not a reset
    assert caplog.text.count("a response's body failed") == 1


@pytest.mark.parametrize("kind", ["threaded", "task"])
def test_why_a_body_failed_is_logged_though_its_client_never_reads_so_far(kind, caplog):
    routes = Routes()

    def pieces() -> Iterator[bytes]:
        yield bytes(8 * MIB)
        raise ValueError

    async def wait(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield bytes(8 * MIB)
            raise ValueError

        return Response(body())

    routes.get("/", threaded=kind == "threaded")(wait if kind == "task" else lambda request: Response(pieces()))
    with running(routes) as it:
        client = it.connect(4096)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        it.until(lambda: "a response's body failed" in caplog.text)
        client.reset()
    assert caplog.text.count("a response's body failed") == 1


@pytest.mark.parametrize("kind", ["inline", "threaded", "async"])
def test_to_http_1_0_a_body_that_fails_ends_by_a_reset(kind):
    """The connection's end is all that tells the body's: a FIN would make a part look whole."""
    routes = Routes()

    def pieces() -> Iterator[bytes]:
        yield b"piece"
        raise ValueError

    async def wait(request: Request) -> Response:
        return Response(pieces())

    routes.get("/", threaded=kind == "threaded")(wait if kind == "async" else lambda request: Response(pieces()))
    with running(routes) as it:
        client = it.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        received = iter(lambda: client.sock.recv(1 << 16), b"")
        with pytest.raises(ConnectionResetError):
            list(received)


def test_a_leased_file_is_503_or_500_and_the_next_answer_its_own(tmp_path, caplog):
    """Opening it would block: an error of the file that looks like one of the socket."""
    path = tmp_path / "leased"
    path.write_bytes(b"x" * 100_000)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD,
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    routes = Routes()
    routes.get("/file")(lambda request: File(path))
    routes.get("/other")(lambda request: "other")
    try:
        with running(routes) as it:
            client = it.connect()
            for _ in range(3):
                assert client.ask(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n").status == 500
                assert client.ask(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").body == b"other"
    finally:
        holder.stdin.close()
        holder.wait(PATIENCE)
        holder.stdout.close()
    assert str(path) in caplog.text


def test_without_descriptors_a_file_is_503_and_logged(tmp_path, monkeypatch, caplog):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    routes = Routes()
    routes.get("/file")(lambda request: File(path))
    routes.get("/other")(lambda request: "other")
    opened = os.open

    def refuse(name: Any, *args: Any, **kwargs: Any) -> int:
        if name == str(path):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return opened(name, *args, **kwargs)

    with running(routes) as it:
        client = it.connect()
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            answer = client.ask(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.status == 503
        assert answer.fields["retry-after"] == "1"
        assert client.ask(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n").body == path.read_bytes()
    assert str(path) in caplog.text


def test_a_cut_says_nothing_of_the_next(tmp_path):
    """A connection that was cut answers nothing more: no request behind gets the rest of what was."""
    routes = Routes()

    def pieces() -> Iterator[bytes]:
        yield b"piece"
        raise ValueError

    routes.get("/")(lambda request: Response(pieces()))
    with running(routes) as it:
        client = it.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert client.head()[0] == 200
        assert client.chunk() == b"piece"
        with pytest.raises((Cut, ValueError)):
            client.answer()


def test_a_disk_that_fails_under_a_wsgi_file_is_logged_with_its_name(tmp_path, monkeypatch, caplog):
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))

    def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    def fail(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with running(service_of(wsgi)) as it, monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", fail)
        patch.setattr(os, "pread", fail)
        client = it.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head()[0] == 200
        assert client.rest() == b""
    assert str(path) in caplog.text
