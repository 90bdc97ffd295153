"""Bodies for WSGI applications wait in the spool: within its bounds, whoever sends them, and whatever the disk does."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from hypoll.option import KIB, MIB
from hypoll.wsgi.application import service_of
from tests.support.client import PATIENCE
from tests.support.server import running

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


class Application:
    """Tells the length of what it has read, when its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls += 1
        self.gate.wait(PATIENCE)
        size = sum(len(piece) for piece in iter(lambda: environ["wsgi.input"].read(64 * KIB), b""))
        start_response("200 OK", [])
        return [b"%d" % size]


@pytest.mark.parametrize("memory", [0, MIB, 64 * MIB])
def test_bodies_arrive_whole_from_memory_and_disk(memory, tmp_path):
    app = Application()
    with running(service_of(app), spool_memory=memory, spool_dir=str(tmp_path)) as it:
        for size in (1, 100 * KIB, 8 * MIB):
            client = it.connect()
            client.send(HEAD % size + bytes(size))
            assert client.answer().body == b"%d" % size
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            client.send(b"2\r\nab\r\n")
        client.send(b"0\r\n\r\n")
        assert client.answer().body == b"2000"
        space = it.server.context.spool_space
        it.until(lambda: (space.memory, space.disk) == (0, 0))
    assert list(tmp_path.iterdir()) == []


def test_beyond_the_bounds_uploads_are_not_read_on_until_there_is_room():
    app = Application()
    app.gate.clear()
    with running(service_of(app), spool_memory=512 * KIB, spool_disk=0) as it:
        first, second = it.connect(), it.connect()
        first.send(HEAD % (400 * KIB) + bytes(400 * KIB))
        it.until(lambda: app.calls == 1)
        threading.Thread(target=second.send, args=(HEAD % (400 * KIB) + bytes(400 * KIB),)).start()
        it.until(lambda: any(connection.paused_at is not None for connection in it.server.connections))
        assert it.server.context.spool_space.memory <= 512 * KIB + 64 * KIB
        assert app.calls == 1
        app.gate.set()
        assert first.answer().body == second.answer().body == b"%d" % (400 * KIB)


def test_an_upload_that_finds_no_room_for_long_is_503():
    app = Application()
    app.gate.clear()
    with running(service_of(app), spool_memory=128 * KIB, spool_disk=0, body_timeout=0.2) as it:
        first, second = it.connect(), it.connect()
        first.send(HEAD % (120 * KIB) + bytes(120 * KIB))
        it.until(lambda: app.calls == 1)
        second.send(HEAD % (100 * KIB) + bytes(100 * KIB))
        answer = second.answer()
        assert (answer.status, answer.fields.get("retry-after")) == (503, "1"), answer
        app.gate.set()
        assert first.answer().status == 200


def test_a_client_that_waits_for_100_is_asked_when_there_is_room_for_its_body():
    app = Application()
    app.gate.clear()
    expecting = HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    with running(service_of(app), spool_memory=512 * KIB, spool_disk=0, max_body=MIB) as it:
        first, second = it.connect(), it.connect()
        first.send(HEAD % (400 * KIB) + bytes(400 * KIB))
        it.until(lambda: app.calls == 1)
        second.send(expecting % (300 * KIB))
        it.until(lambda: any(connection.paused_at is not None for connection in it.server.connections))
        assert second.data == b""
        app.gate.set()
        assert second.head()[0] == 100
        second.send(bytes(300 * KIB))
        assert second.answer().body == b"%d" % (300 * KIB)
        second.send(expecting % (2 * MIB))
        assert second.answer().status == 413


@pytest.mark.parametrize("fault", ["missing", "full"])
def test_a_disk_that_fails_is_503_and_told_once(fault, tmp_path, caplog, monkeypatch):
    directory = tmp_path / "spool"
    if fault == "full":
        directory.mkdir()
        monkeypatch.setattr(os, "pwrite", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    app = Application()
    with running(service_of(app), spool_memory=128 * KIB, spool_dir=str(directory)) as it:
        for _ in range(3):
            client = it.connect()
            client.send(HEAD % MIB + bytes(300 * KIB))
            assert client.answer().status == 503
        small = it.connect()
        small.send(HEAD % 100 + bytes(100))
        assert small.answer().body == b"100"
        it.until(lambda: it.server.context.spool_space.memory == 0)
    assert caplog.text.count("can't be written") == 1
    assert app.calls == 1
