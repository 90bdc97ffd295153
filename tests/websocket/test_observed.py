"""What observers are notified of WebSockets: log lines, metrics, the status page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypoll import Routes
from hypoll.telemetry import metrics as names
from hypoll.telemetry.access_log import AccessLog, json_render, text_render
from hypoll.telemetry.log_writer import LogWriter, open_file
from hypoll.telemetry.metrics import Metrics
from hypoll.telemetry.observer import Observer, Record, SocketRecord, Traffic
from hypoll.telemetry.status_page import describe
from tests.support.frames import BINARY, TEXT, close, frame
from tests.support.server import Running, running
from tests.support.websocket import handshake, opened


def echo() -> Routes:
    routes = Routes()

    @routes.websocket("/echo/{room}")
    async def task(socket, room):
        async for message in socket:
            await socket.send(message)

    return routes


class Records(Observer):
    def __init__(self) -> None:
        self.requests: list[Record] = []
        self.sockets: list[SocketRecord] = []
        self.traffic: list[Traffic] = []

    def on_requests(self, records: list[Record]) -> None:
        self.requests += records

    def on_traffic(self, traffic: Traffic) -> None:
        self.traffic.append(traffic)

    def on_sockets(self, records: list[SocketRecord]) -> None:
        self.sockets += records


def a_talk(it: Running, code: int = 4001) -> tuple[int, int]:
    """Two messages there and back, then a close. Gives the bytes of both ways, behind the handshake."""
    socket = opened(it, "/echo/a?b=c", User_Agent="tester", X_Request_Id="abc")
    sent = frame(TEXT, b"hello") + frame(BINARY, b"x" * 300) + close(code, "bye")
    socket.client.send(sent)
    came = len(socket.client.rest())
    return len(sent), came


def test_a_socket_is_recorded_twice_and_all_that_went_over_it():
    observer = Records()
    with running(echo(), observers=[observer]) as it:
        received, sent = a_talk(it)
        it.until(lambda: observer.sockets)
    (request,), (socket,) = observer.requests, observer.sockets
    assert (request.status, request.route) == (101, "/echo/{room}")
    assert (socket.code, socket.reason, socket.route) == (4001, "bye", "/echo/{room}")
    assert socket.request is request.request
    assert socket.traffic == Traffic(2, 2, received, sent)
    assert observer.traffic == [socket.traffic]
    assert request.ended <= socket.began <= socket.ended


def test_traffic_is_counted_with_each_ping_and_once():
    observer = Records()
    with running(echo(), observers=[observer], ws_ping_interval=0.1) as it:
        socket = opened(it, "/echo/a")
        socket.send(TEXT, b"a")
        it.until(lambda: len(observer.traffic) > 1)
        socket.send(TEXT, b"b")
        socket.client.send(close(1000))
        it.until(lambda: observer.sockets)
        total = observer.sockets[0].traffic
    assert tuple(map(sum, zip(*observer.traffic, strict=True))) == total
    assert total[:2] == (2, 2)


@pytest.mark.parametrize(
    ("end", "code"),
    [(lambda socket: socket.client.reset(), 1006), (lambda socket: socket.send(0x83), 1002)],
)
def test_other_ends_are_recorded_once(end, code):
    observer = Records()
    with running(echo(), observers=[observer]) as it:
        socket = opened(it, "/echo/a")
        end(socket)
        it.until(lambda: observer.sockets)
    assert [record.code for record in observer.sockets] == [code]


def log_of(tmp_path: Path, as_json: bool) -> tuple[AccessLog, Path]:
    path = tmp_path / "log"
    writer = LogWriter(open_file(str(path)), lambda count: b"", lambda error: None)
    render = json_render() if as_json else text_render()
    return AccessLog(writer, render, ["/skipped"], as_json=as_json), path


@pytest.mark.parametrize("as_json", [False, True])
def test_the_access_log_has_two_lines(tmp_path, as_json):
    log, path = log_of(tmp_path, as_json)
    with running(echo(), observers=[log]) as it:
        received, sent = a_talk(it)
    first, second = path.read_text().splitlines()
    if as_json:
        assert (json.loads(first)["status"], json.loads(first)["path"]) == (101, "/echo/a")
        line = json.loads(second)
        assert line.pop("duration_ms") > 0
        assert line.pop("time") >= json.loads(first)["time"]
        assert line == {
            "event": "websocket",
            "path": "/echo/a",
            "route": "/echo/{room}",
            "client": "127.0.0.1",
            "user_agent": "tester",
            "request_id": "abc",
            "close_code": 4001,
            "close_reason": "bye",
            "messages_received": 2,
            "messages_sent": 2,
            "received": received,
            "sent": sent,
        }
    else:
        assert '"GET /echo/a?b=c HTTP/1.1" 101 0 "-" "tester"' in first
        assert f'"WEBSOCKET /echo/a?b=c 2 in, 2 out" 4001 {sent} "-" "tester" ' in second
        assert second.endswith(" abc")


def test_what_a_client_says_ends_no_line(tmp_path):
    log, path = log_of(tmp_path, as_json=True)
    with running(echo(), observers=[log]) as it:
        socket = opened(it, "/echo/a")
        socket.client.send(close(1000, 'a\n"\x1b[31m\u2028'))
        socket.client.rest()
    lines = path.read_text().split("\n")
    assert len(lines) == 3
    assert json.loads(lines[1])["close_reason"] == 'a\\x0a"\\x1b[31m\\u2028'


def test_metrics_and_the_status_page():
    metrics = Metrics()
    with running(echo(), observers=[metrics]) as it:
        received, sent = a_talk(it)
        a_talk(it, 1000)
        opened(it, "/echo/a")
        it.until(lambda: metrics.snapshot().gauges[names.CONNECTIONS].get(("upgraded",)) == 1)
        document = it.on_loop(lambda: describe(metrics.snapshot(), 0.0))
    assert document["websockets"] == {
        "open": 1,
        "messages": {"received": 4, "sent": 4},
        "closed": {"1000": 1, "application": 1},
    }
    assert document["received"] >= 2 * (received + len(handshake("/echo/a?b=c")))
    assert document["sent"] >= 2 * sent
