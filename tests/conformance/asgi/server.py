"""A server under test: its process, and the socket over which its application tells what it sees."""

from __future__ import annotations

import ast
import contextlib
import os
import select
import shlex
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.conformance.asgi.applications import CONTROL, LIFESPAN
from tests.conformance.asgi.client import PATIENCE, Address, Client
from tests.conformance.asgi.peers import APPLICATION, ROOT_PATH, Peer

ROOT = Path(__file__).resolve().parents[3]

BOOT = 20.0
"""Seconds that a server has for its start."""

EXIT = 20.0
"""Seconds that a server has for its end."""


class Event(NamedTuple):
    """What the application told."""

    token: str
    name: str
    value: Any


class Control:
    """Collects what applications tell, and opens gates for them.

    A thread reads, so that no application waits for the suite. It does so with the lock held: whoever has the lock
    finds everything either in the sockets or in `events`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self._told = threading.Condition()
        self._lines: dict[socket.socket, bytes] = {}
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _sockets(self) -> list[socket.socket]:
        return [self._listener, *self._lines]

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select(self._sockets(), [], [])
            with self._told:
                if self._closed:
                    return
                for sock in ready:
                    if sock is self._listener:
                        self._lines[sock.accept()[0]] = b""
                    else:
                        self._read(sock)
                self._told.notify_all()

    def _read(self, sock: socket.socket) -> None:
        try:
            piece = sock.recv(1 << 20)
        except ConnectionResetError:
            piece = b""
        *lines, self._lines[sock] = (self._lines[sock] + piece).split(b"\n")
        self.events += [Event(*ast.literal_eval(line.decode())) for line in lines]
        if not piece:
            del self._lines[sock]
            sock.close()

    def settle(self) -> None:
        """Wait until all is read that has been told."""
        with self._told:
            while select.select(self._sockets(), [], [], 0)[0]:
                self._told.wait(1.0)

    def clear(self) -> None:
        self.settle()
        with self._told:
            self.events.clear()

    def go(self, token: str, gate: str) -> None:
        self.settle()  # a process that has only just started may not have been accepted yet
        for peer in list(self._lines):
            with contextlib.suppress(OSError):  # of a process that is gone
                peer.sendall(ascii((token, gate)).encode() + b"\n")

    def of(self, token: str) -> list[Event]:
        """The events of one token, and those without."""
        with self._told:
            return [event for event in self.events if event.token in (token, "")]

    def wait_for(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait until something holds that events can change."""
        deadline = time.monotonic() + seconds
        with self._told:
            while not holds():
                left = deadline - time.monotonic()
                if left <= 0 or not self._told.wait(left):
                    return holds()
        return True

    def close(self) -> None:
        self._closed = True
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as waker:
            waker.connect(str(self.path))
            self._thread.join()
        for sock in self._sockets():
            sock.close()


def free_port() -> int:
    """A port that is free now. A server that only takes a number as its option can't be told to choose one."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


class Certificates(NamedTuple):
    """What a server needs for TLS, and what its clients do."""

    cert: Path
    key: Path
    client: ssl.SSLContext

    @staticmethod
    def make(directory: Path) -> Certificates:
        import trustme  # not needed by those who test a server without TLS

        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        made = Certificates(directory / "cert.pem", directory / "key.pem", ssl.create_default_context())
        issued.cert_chain_pems[0].write_to_path(made.cert)
        issued.private_key_pem.write_to_path(made.key)
        authority.configure_trust(made.client)
        return made


class Server:
    """One process of a server (and its children), from its start to its end."""

    def __init__(self, peer: Peer, directory: Path, variant: str = "", lifespan: str = "") -> None:
        self.directory = directory
        self.tls: ssl.SSLContext | None = None
        self.address: Address
        directory.mkdir()
        self.control = Control(directory / "control")
        self.output = directory / "output"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            CONTROL: str(self.control.path),
            LIFESPAN: lifespan or "complete",
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self._command(peer, variant),
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _command(self, peer: Peer, variant: str) -> list[str]:
        places = {"app": APPLICATION, "root_path": ROOT_PATH}
        parts = [peer.command]
        if variant == "unix":
            assert peer.unix is not None
            self.address = places["path"] = str(self.directory / "socket")
            parts.append(peer.unix)
        else:
            self.address = "127.0.0.1", free_port()
            places.update(host=self.address[0], port=str(self.address[1]))
            parts.append(peer.bind)
        if variant == "root_path":
            assert peer.root_path is not None
            parts.append(peer.root_path)
        if variant == "tls":
            assert peer.tls is not None
            made = Certificates.make(self.directory)
            places.update(cert=str(made.cert), key=str(made.key))
            self.tls = made.client
            parts.append(peer.tls)
        return [word.format(**places) for part in parts for word in shlex.split(part)]

    def connect(self) -> Client:
        """Connect; while the server starts, until it listens."""
        deadline = time.monotonic() + BOOT
        while True:
            try:
                return Client(self.address, self.tls)
            except (ConnectionRefusedError, FileNotFoundError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # who starts to listen doesn't say so to everybody

    def log(self) -> bytes:
        return self.output.read_bytes()

    def term(self) -> None:
        """What an operator's `kill` does: TERM to the process that was started."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int | None:
        """The exit status; None: it doesn't end in time."""
        try:
            return self.process.wait(EXIT)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End it, whatever it takes: the process group is this server's own."""
        if self.process.poll() is None:
            self.term()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.control.close()
