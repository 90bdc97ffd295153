"""The example that spans processes: two of them, and a real Redis server between."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.examples import EXAMPLES
from tests.support.gunicorn import PATIENCE, Master, until

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no Redis here: apt-get install redis-server"),
]


class Store:
    """A Redis server on a unix socket, that keeps nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "redis.sock"
        self.url = f"unix://{self.path}"
        self.client = Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.path), "--save", "", "--dir", str(self.directory)]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, "Redis has ended"
        with contextlib.suppress(RedisConnectionError):
            return bool(self.client.ping())
        return False

    def end(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(PATIENCE)

    def await_subscribers(self, count: int) -> None:
        until(lambda: len(self.client.client_list(_type="pubsub")) == count)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path)
    yield one
    one.end()


@pytest.fixture
def ports(store: Store) -> Iterator[list[int]]:
    """Of two processes that serve the example."""
    command = ["-m", "hypoll", "chat_redis:routes", "--app-dir", str(EXAMPLES), "--bind", "127.0.0.1:0"]
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(Master(store.directory, command, env={"REDIS_URL": store.url})) for _ in range(2)]
        yield [one.port for one in both]


@contextlib.contextmanager
def joined(port: int, room: str) -> Iterator[ClientConnection]:
    """A member of a room. It is one when its own message is back."""
    with connect(f"ws://127.0.0.1:{port}/rooms/{room}", proxy=None) as socket:
        socket.send("joined")
        assert socket.recv(PATIENCE) == "joined"
        yield socket


def test_a_room_has_members_in_both_processes(store, ports):
    store.await_subscribers(2)
    with joined(ports[0], "tea") as ada, joined(ports[1], "milk") as alan, joined(ports[1], "tea") as grace:
        assert ada.recv(PATIENCE) == "joined"
        for sender, text in ((ada, "from one"), (grace, "from the other")):
            sender.send(text)
            assert [each.recv(PATIENCE) for each in (ada, grace)] == [text] * 2
        alan.send("alone")
        assert alan.recv(PATIENCE) == "alone"


def test_without_redis_clients_are_asked_to_come_back_and_then_served(store, ports):
    store.await_subscribers(2)
    with joined(ports[0], "tea") as ada:
        store.end()
        ada.send("lost")
        with pytest.raises(ConnectionClosed) as closed:
            ada.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    store.start()
    store.await_subscribers(2)
    with joined(ports[0], "tea") as ada, joined(ports[1], "tea") as grace:
        assert ada.recv(PATIENCE) == "joined"
        grace.send("again")
        assert [each.recv(PATIENCE) for each in (ada, grace)] == ["again"] * 2
