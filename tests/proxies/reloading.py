"""Traffic through a pooling proxy while hypoll's workers are replaced again and again, and what is lost of it.

A request is lost when it gets no whole answer of its own: 5xx from the proxy, a reset, a short or another's answer. No
client asks again. Proxies may, for GETs; for POSTs they don't.

Steady traffic uses every connection of the proxy's pool at least once a second: a pool grows no larger than the number
of requests at once, and several times a second all clients have a request under way at the same time.

Sparse traffic pauses for seconds. A connection may then be closed by the server at the moment at which the proxy sends
the next request into it: what that loses is reported, and promised by nobody.
"""

from __future__ import annotations

import functools
import itertools
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.proxies.fronts import proxy
from tests.support.client import Client as Connection
from tests.support.gunicorn import GUNICORN, Master

APP = """
import asyncio
import hypoll

routes = hypoll.Routes()


@routes.get("/get/{token}")
def get(request, token):
    return token


@routes.post("/post")
def post(request):
    return request.body


@routes.route("/held/{token}", methods=["GET", "POST"])
async def held(request, token):
    await asyncio.sleep(0.1)  # longer than it takes all clients to send
    return token
"""

CLIENTS = 32
RELOAD_EVERY = 1.3
PATIENCE = 20.0

PAUSE = 0.01
MEET_EVERY = 0.4
"""Seconds between two moments at which all clients of steady traffic ask at once."""

SPARSE_PAUSE = (0.5, 6.0)


@dataclass
class Result:
    """What became of a run."""

    requests: int
    reloads: int
    lost: list[str]


class Client:
    """Asks on a connection of its own to the proxy, which is opened anew when the proxy has closed it."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.requests = 0
        self.lost: list[str] = []
        self._connection: Connection | None = None
        self._methods = itertools.cycle(("GET", "POST"))

    def ask(self, held: bool = False) -> None:
        """Send one request, never repeated; `held`: its answer takes a tenth of a second."""
        self.requests += 1
        method, token = next(self._methods), f"{self.name}-{self.requests}"
        path = f"/held/{token}" if held else {"GET": f"/get/{token}", "POST": "/post"}[method]
        content = f"Content-Length: {len(token)}\r\n\r\n{token}" if method == "POST" else "\r\n"
        try:
            if self._connection is None:
                self._connection = Connection(("127.0.0.1", self.port), patience=PATIENCE)
            answer = self._connection.ask(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{content}".encode())
            if answer.status != 200 or answer.body != token.encode():
                self.lost.append(f"{method}: {answer.status} {answer.body[:60]!r}")
            if answer.fields.get("connection") == "close":
                self.close()
        except OSError as error:
            self.lost.append(f"{method}: {error!r}")
            self.close()

    def close(self) -> None:
        """Close its connection, if it has one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def steady(clients: list[Client], seconds: float) -> list[Callable[[], None]]:
    """What each client's thread does: ask often, and several times a second together with all others."""
    end = time.monotonic() + seconds
    over = threading.Event()
    meeting = threading.Barrier(len(clients), lambda: over.set() if time.monotonic() > end else None)

    def run(client: Client) -> None:
        while not over.is_set():
            apart = time.monotonic() + MEET_EVERY
            while time.monotonic() < apart:
                time.sleep(PAUSE)
                client.ask()
            meeting.wait(2 * PATIENCE)
            client.ask(held=True)

    return [functools.partial(run, client) for client in clients]


def sparse(clients: list[Client], seconds: float) -> list[Callable[[], None]]:
    """What each client's thread does: ask, and be silent for seconds.

    Each request is on a new connection to the proxy, which would close one that is idle for so long, too.
    """
    end = time.monotonic() + seconds

    def run(client: Client) -> None:
        while (now := time.monotonic()) < end:
            time.sleep(min(random.uniform(*SPARSE_PAUSE), max(0.0, end - now)))
            client.ask()
            client.close()

    return [functools.partial(run, client) for client in clients]


def measure(name: str, seconds: float, traffic: Callable[[list[Client], float], list[Callable[[], None]]]) -> Result:
    """Send traffic through the proxy `name`, HUP gunicorn's master every 1.3 s meanwhile, and count.

    Two workers serve. Each reload awaits the workers of the one before.
    """
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "app.py").write_text(APP)
        with Master(
            Path(directory), [*GUNICORN, "--workers", "2", "--bind", "127.0.0.1:0", "--keep-alive", "75"]
        ) as master:
            master.says(r"Booting worker", 2)
            with proxy(name, master.port) as port:
                return _reload_under(
                    master, [Client(port, f"{name}{number}") for number in range(CLIENTS)], seconds, traffic
                )


def _reload_under(
    master: Master,
    clients: list[Client],
    seconds: float,
    traffic: Callable[[list[Client], float], list[Callable[[], None]]],
) -> Result:
    threads = [threading.Thread(target=run) for run in traffic(clients, seconds)]
    for thread in threads:
        thread.start()
    reloads = 0
    end = time.monotonic() + seconds
    while time.monotonic() + RELOAD_EVERY < end:
        time.sleep(RELOAD_EVERY)
        master.signal(signal.SIGHUP)
        reloads += 1
        master.says(r"Booting worker", 2 * (reloads + 1))
    for thread in threads:
        thread.join()
        assert not thread.is_alive()
    for client in clients:
        client.close()
    return Result(
        sum(client.requests for client in clients), reloads, [loss for client in clients for loss in client.lost]
    )
