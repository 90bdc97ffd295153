"""One connection over a real socket pair and a fake clock: states and deadlines, edges, back-pressure, the end."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import pytest

from hypoll.app import Routes
from hypoll.contracts import ConnectionState, HandlerCall, RunOn
from hypoll.http import HTTPError, Request, RequestParser, Response
from hypoll.loop import IN, OUT, Loop
from hypoll.server import ending
from hypoll.server.connection import Connection
from hypoll.server.context import BODY_READ_SIZE, READ_SIZE, READS_PER_TURN
from hypoll.server.server import Server, Status
from hypoll.server.writer import PULLS_PER_TURN
from hypoll.settings import Settings
from hypoll.web.results import failure
from tests.support.clock import PATIENCE

KIB = 1024
MIB = 1024 * KIB
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
ROOM = READ_SIZE + KIB
"""Bytes of room for bodies: for one read of the usual size, and not for a large one."""


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()


def post(body: bytes, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return HEAD + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


def expecting(length: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % length


def fill(sock: socket.socket, size: int) -> int:
    """Send without turning a loop, up to `size` bytes, as much as the kernel takes."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < size:
            sent += sock.send(bytes(64 * KIB))
    return sent


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


def parse(data: bytes | bytearray, ended: bool) -> list[Answer]:
    """The answers that are complete in what a client received (none of them to HEAD)."""
    found: list[Answer] = []
    at = 0
    while True:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            assert not ended or at == len(data), f"the last answer is cut: {data[at:]!r}"
            return found
        line, *lines = data[at:end].decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
        status = int(line.split()[1])
        content = _content(data, end + 4, ended, status, fields)
        if content is None:
            return found
        body, at = content
        found.append(Answer(status, fields, body))


def _content(
    data: bytes | bytearray, at: int, ended: bool, status: int, fields: Mapping[str, str]
) -> tuple[bytes, int] | None:
    """An answer's content, and where it ends; None: it isn't whole."""
    if "content-length" in fields:
        end = at + int(fields["content-length"])
        return (bytes(data[at:end]), end) if end <= len(data) else None
    if "transfer-encoding" in fields:
        return dechunk(data, at)
    if status in (100, 204, 304):
        return b"", at
    return (bytes(data[at:]), len(data)) if ended else None


def dechunk(data: bytes | bytearray, at: int) -> tuple[bytes, int] | None:
    """Content, and where it ends; None: the last chunk is missing."""
    content: list[bytes] = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end], 16)
        at = end + 2 + size + 2
        if at > len(data):
            return None
        content.append(bytes(data[end + 2 : at - 2]))
        if not size:
            return b"".join(content), at


class Spied(socket.socket):
    """A socket that counts its system calls, and can be full when told to."""

    calls: Counter[str]
    full = False

    def recv(self, *args: Any) -> bytes:
        self.calls["recv"] += 1
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        self.calls["recv_into"] += 1
        return super().recv_into(*args)

    def send(self, *args: Any) -> int:
        self.calls["send"] += 1
        if self.full:
            raise BlockingIOError
        return super().send(*args)

    def sendmsg(self, *args: Any) -> int:
        self.calls["sendmsg"] += 1
        if self.full:
            raise BlockingIOError
        return super().sendmsg(*args)


class App:
    """Answers by path; remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.answers: dict[str, Callable[[Request], Response | HandlerCall]] = {}
        self.streamed: set[str] = set()
        self.gate = threading.Event()
        self.refusal: HTTPError | None = None
        self.stopped = 0

    def __call__(self, request: Request) -> Response | HandlerCall:
        self.seen.append(request.raw_path)
        answer = self.answers.get(request.raw_path)
        if answer is not None:
            return answer(request)
        return Response(request.body or request.raw_path.encode(), content_type="text/plain")

    def early_refusal(self, request: Request) -> HTTPError | None:
        return self.refusal

    def wants_stream(self, request: Request) -> bool:
        return request.raw_path in self.streamed

    def threaded(self, path: str, call: Callable[[Request], bytes], *, stream: bool = False) -> None:
        """Have a path answered by `call` on a thread."""
        handler_call = HandlerCall(RunOn.THREAD, lambda request, _: call(request), Response, failure, stream)
        self.answers[path] = lambda request: handler_call
        if stream:
            self.streamed.add(path)

    def startup(self, complete: Any) -> None:
        pass

    def shutdown(self, complete: Any) -> None:
        self.stopped += 1


class Wire:
    """A served connection, its client, and the loop between them."""

    def __init__(self, server: Server, turner: Any, sock: Spied, client: socket.socket) -> None:
        self.server = server
        self.turner = turner
        self.sock = sock
        self.client = client
        client.setblocking(False)
        self.received = bytearray()  # grows in place: an answer of MiB comes in hundreds of pieces
        self.ended = False
        self.was_reset = False
        before = set(server.connections)
        server.admit(sock, ("127.0.0.1", 4711))
        (self.connection,) = server.connections - before

    def is_in(self, state: ConnectionState) -> bool:
        return self.connection.state is state

    def send(self, data: bytes) -> None:
        """Send all of it, turning the loop as often as that needs."""
        view = memoryview(data)

        def sent() -> bool:
            nonlocal view
            with contextlib.suppress(BlockingIOError):
                view = view[self.client.send(view) :]
            return not view

        self.turner.until(sent)
        self.turner.settle()

    def collect(self, limit: int = 1 << 30) -> int:
        """Take what has arrived, and say how much that was."""
        before = len(self.received)
        while not self.ended and len(self.received) - before < limit:
            try:
                data = self.client.recv(min(256 * KIB, limit))
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.was_reset = True
                data = b""
            self.received += data
            self.ended = not data
        return len(self.received) - before

    def answers(self) -> list[Answer]:
        """What has been answered when nothing moves any more."""
        self.turner.settle()
        while self.collect():
            self.turner.settle()
        return parse(self.received, self.ended)

    def await_answers(self, count: int) -> list[Answer]:
        def there() -> bool:
            return bool(self.collect()) and len(parse(self.received, self.ended)) >= count

        if len(parse(self.received, self.ended)) < count:
            self.turner.until(there)
        return self.answers()

    def await_end(self) -> list[Answer]:
        """The answers, and behind them the connection's end."""

        def ended() -> bool:
            self.collect()
            return self.ended

        self.turner.until(ended)
        return parse(self.received, True)

    def talk(self, data: bytes, count: int = 1) -> list[Answer]:
        """Send and get `count` further answers."""
        self.received = bytearray()
        self.send(data)
        return self.await_answers(count)

    def await_state(self, state: ConnectionState) -> None:
        self.turner.until(lambda: self.is_in(state))

    def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def end_input(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    @property
    def is_open(self) -> bool:
        self.turner.settle()
        self.collect()
        return not self.ended and not self.is_in(ConnectionState.CLOSED)


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    yield app
    app.gate.set()


@pytest.fixture
def serve(loop: Loop, turner: Any, app: App, tcp_pair: Any) -> Iterator[Callable[..., Wire]]:
    """Serves a connection of its own server: serve(small=True, **settings). Afterwards nothing may be left."""
    servers: list[Server] = []
    pairs: list[socket.socket] = []

    def start(application: Any = None, *, small: bool = False, **settings: Any) -> Wire:
        if not servers or settings or application is not None:
            server = Server(application or cast(Any, app), Settings(**settings), loop, listeners=[])
            server.start()
            servers.append(server)
        if small:
            # What a unix socket holds is its sender's buffer: there are no windows that open late.
            accepted, client = socket.socketpair()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
            pairs.append(client)
        else:
            accepted, client = tcp_pair()
        sock = Spied(fileno=accepted.detach())
        sock.calls = Counter()
        return Wire(servers[-1], turner, sock, client)

    yield start
    for client in pairs:
        client.close()
    for server in servers:
        server.stop()
        assert server.connections == set()
    assert loop.registered() == []


@pytest.fixture
def wire(serve: Callable[..., Wire]) -> Wire:
    return serve()


def stays_open(wire: Wire, seconds: float) -> None:
    wire.turner.after(seconds)
    assert wire.is_open


def assert_refused(answer: Answer, status: int) -> None:
    assert answer.status == status
    assert answer.fields["connection"] == "close"
    assert answer.fields["content-type"] == "application/problem+json"
    document = json.loads(answer.body)
    assert document["status"] == status
    assert document["detail"]


# the states, their deadlines and limits


@pytest.mark.parametrize("requests", [0, 1, 2])
def test_an_idle_connection_is_closed_silently_after_keep_alive(wire, requests):
    for _ in range(requests):
        stays_open(wire, 60)
        wire.talk(GET)
    wire.received = bytearray()
    stays_open(wire, 74)
    wire.turner.after(2)
    assert wire.await_end() == []
    assert wire.received == b""


@pytest.mark.parametrize("start", [b"", GET])
def test_a_head_has_its_time_from_its_first_byte_however_steadily_it_dribbles(wire, start):
    """Behind an answered request, too, that came in the same read."""
    wire.send(start + b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
    for _ in range(9):
        wire.send(b"x")
        stays_open(wire, 1)
    assert wire.is_in(ConnectionState.HEAD)
    wire.send(b"x")
    wire.turner.after(2)
    answers = wire.await_end()
    assert len(answers) == 1 + bool(start)
    assert_refused(answers[-1], 408)


def test_the_time_of_a_head_does_not_run_before_its_first_byte(wire):
    stays_open(wire, 60)
    wire.send(GET[:5])
    stays_open(wire, 9)
    assert wire.talk(GET[5:])[0].status == 200
    stays_open(wire, 60)
    wire.send(GET[:5])
    stays_open(wire, 9)


def test_each_head_has_a_time_of_its_own(wire):
    wire.send(GET[:5])
    stays_open(wire, 8)
    wire.talk(GET[5:] + GET[:5])
    stays_open(wire, 8)
    assert wire.talk(GET[5:])[0].status == 200


def test_a_body_may_pause_thirty_seconds(wire):
    wire.send(post(bytes(60_000))[:-30_000])
    stays_open(wire, 29)
    wire.send(bytes(20_000))
    stays_open(wire, 29)
    assert wire.is_in(ConnectionState.BODY)
    wire.turner.after(2)
    assert_refused(wire.await_end()[0], 408)


@pytest.mark.parametrize(("rate", "survives"), [(450, False), (600, True)])
def test_a_body_older_than_thirty_seconds_must_average_500_bytes_a_second(wire, rate, survives):
    wire.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
    for second in range(60):
        if not wire.is_in(ConnectionState.BODY):
            break
        wire.send(bytes(rate))
        wire.turner.after(1)
        assert second >= 30 or wire.is_in(ConnectionState.BODY), "the average counts after 30 seconds"
    if survives:
        assert wire.is_open
        assert wire.is_in(ConnectionState.BODY)
    else:
        assert_refused(wire.await_answers(1)[0], 408)


def test_an_answer_nobody_takes_is_given_up_after_thirty_seconds(serve, app):
    app.answers["/"] = lambda request: Response(bytes(4 * MIB))
    wire = serve(small=True)
    wire.send(GET)
    assert wire.is_in(ConnectionState.SENDING)
    wire.turner.after(29)
    assert wire.is_in(ConnectionState.SENDING)
    wire.turner.after(2)
    assert wire.is_in(ConnectionState.CLOSED)


def slow_pieces(clock: Any) -> Iterator[bytes]:
    for _ in range(3):
        clock.advance(31)
        yield bytes(1 * MIB)


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (lambda clock: clock.advance(31) or Response(bytes(4 * MIB)), 4 * MIB),
        (lambda clock: Response(slow_pieces(clock)), 3 * MIB),
    ],
    ids=["handler", "iterator"],
)
def test_the_time_an_answer_took_to_make_is_not_its_client_s(serve, app, clock, answer, size):
    app.answers["/"] = lambda request: answer(clock)
    wire = serve(small=True)
    wire.client.send(GET)
    wire.await_state(ConnectionState.SENDING)
    wire.turner.settle()
    assert len(wire.await_answers(1)[0].body) == size


def test_the_time_an_answer_took_to_make_is_not_taken_from_reading_away(serve, app, clock):
    def answer(request: Request) -> Response:
        clock.advance(31)
        served.client.send(b"more")
        return Response(headers={"Connection": "close"})

    app.answers["/"] = answer
    served = serve()
    served.client.send(GET + b"some")
    served.await_state(ConnectionState.LINGERING)
    served.turner.after(4)
    assert served.is_in(ConnectionState.LINGERING)


def test_an_answer_taken_slowly_is_not_given_up(serve, app):
    app.answers["/"] = lambda request: Response(bytes(1 * MIB))
    wire = serve(small=True)
    wire.send(GET)
    for _ in range(5):
        wire.turner.after(25)
        assert wire.is_in(ConnectionState.SENDING)
        before = len(wire.received)
        wire.collect()
        wire.turner.until(lambda before=before: wire.collect() or len(wire.received) > before)
        wire.turner.settle()
    assert wire.await_answers(1)[0].body == bytes(1 * MIB)


def test_a_connection_cut_while_output_waits_leaves_nothing_to_the_kernel(serve, app):
    """After a FIN the kernel would go on offering what it holds."""
    app.answers["/"] = lambda request: Response(bytes(16 * MIB))
    wire = serve()
    wire.send(GET)
    assert wire.is_in(ConnectionState.SENDING)
    wire.turner.after(32)
    wire.await_state(ConnectionState.CLOSED)
    wire.turner.until(lambda: wire.collect() >= 0 and wire.ended)
    assert wire.was_reset


def test_handling_stops_when_max_output_waits(serve, app):
    app.answers["/"] = lambda request: Response(bytes(100 * KIB))
    wire = serve(small=True)
    wire.send(GET * 10)
    assert len(app.seen) == 3, "two of 100 KiB are less than 256 KiB, three are more"
    assert [len(answer.body) for answer in wire.await_answers(10)] == [100 * KIB] * 10


def test_max_output_is_a_setting(serve, app):
    app.answers["/"] = lambda request: Response(bytes(100 * KIB))
    wire = serve(small=True, max_output=500 * KIB)
    wire.send(GET * 10)
    assert len(app.seen) == 5


def test_a_declared_length_too_large_is_refused_before_the_body_is_read(serve, app):
    wire = serve(max_body=1000)
    assert wire.talk(post(bytes(1000)))[0].status == 200
    wire.sock.calls.clear()
    wire.send(HEAD + b"Content-Length: 1001\r\n\r\n")
    assert_refused(wire.answers()[-1], 413)
    assert wire.sock.calls["recv"] == 1
    assert len(app.seen) == 1


def test_a_chunked_body_is_counted(serve, app):
    wire = serve(max_body=1000)
    wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    wire.send(b"1f4\r\n" + bytes(500) + b"\r\n1f4\r\n" + bytes(500))
    assert wire.answers() == []
    assert wire.is_in(ConnectionState.BODY)
    wire.send(b"\r\n1\r\nx\r\n")
    assert_refused(wire.answers()[0], 413)
    assert app.seen == []


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + bytes(16 * KIB).replace(b"\0", b"x"), 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"GET /" + b"x" * 16 * KIB, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ],
)
def test_refused_requests_and_nothing_after_them_is_parsed(wire, app, request_bytes, status):
    wire.send(request_bytes + get("/marker"))
    wire.send(get("/marker"))
    answers = wire.answers()
    assert len(answers) == 1
    assert_refused(answers[0], status)
    assert app.seen == []


def test_the_answers_before_a_malformed_request_are_sent(wire, app):
    wire.send(get("/1") + get("/2") + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + get("/marker"))
    answers = wire.answers()
    assert [answer.status for answer in answers] == [200, 200, 400]
    assert app.seen == ["/1", "/2"]


def test_a_peer_of_another_protocol_is_closed_without_an_answer(wire, app):
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert wire.await_end() == []


def test_what_is_owed_is_sent_before_a_peer_of_another_protocol_is_closed(wire):
    wire.send(GET + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert [answer.status for answer in wire.await_end()] == [200]


def test_what_was_answered_before_another_protocol_is_not_reset_by_what_comes_behind_it(wire):
    wire.send(GET)
    assert wire.client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(4 * READ_SIZE)) > 2 * READ_SIZE
    assert [answer.status for answer in wire.await_end()] == [200]
    assert not wire.was_reset


@pytest.mark.parametrize("draining", [False, True])
def test_what_a_stream_route_answers_to_the_head_alone_is_the_answer(wire, app, draining):
    """A hook around the application may refuse before the handler: it isn't asked again when the body has come."""
    app.answers["/up"] = lambda request: Response(b"no", 403, content_type="text/plain")
    app.streamed.add("/up")
    wire.send(post(b"x" * 10, b"X: y").replace(b"POST /", b"POST /up")[:-4])
    if draining:
        wire.server.drain()
    (answer,) = wire.await_end()
    assert (answer.status, answer.body, answer.fields["connection"]) == (403, b"no", "close")
    assert app.seen == ["/up"]
    assert not wire.was_reset


@pytest.mark.parametrize(("memory", "disk"), [(ROOM, 0), (0, ROOM)])
def test_no_more_of_a_body_is_read_than_there_is_room_for(serve, app, memory, disk):
    app.wants_spool = lambda request: True
    wire = serve(spool_memory=memory, spool_disk=disk)
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * BODY_READ_SIZE)
    wire.send(HEAD + b"Content-Length: 1000000\r\n\r\nx")
    wire.client.send(bytes(BODY_READ_SIZE))
    wire.turner.settle()
    assert wire.is_in(ConnectionState.BODY)
    assert wire.connection.paused_at is not None
    assert wire.connection.parser.received <= ROOM


def test_a_body_that_found_no_room_is_refused_once(serve, app, caplog):
    caplog.set_level(logging.DEBUG, "hypoll.error")
    app.wants_spool = lambda request: True
    wire = serve(spool_memory=0, spool_disk=0, body_timeout=5.0, keep_alive=5)
    wire.send(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(100_000))
    assert wire.connection.paused_at is not None
    wire.turner.after(7)
    assert_refused(wire.answers()[0], 503)
    assert wire.is_in(ConnectionState.LINGERING)
    wire.turner.after(20)
    assert wire.is_in(ConnectionState.CLOSED)
    assert sum("refused" in record.message for record in caplog.records) == 1


# edges and turns


def test_a_half_close_is_seen_by_a_connection_that_is_to_come_back(wire, app):
    """Its client may have gone: only a probe tells. The edge comes once."""
    app.threaded("/", lambda request: b"%d" % app.gate.wait(30))
    wire.send(GET)
    wire.await_state(ConnectionState.WAITING)
    wire.connection.reschedule()
    wire.end_input()
    wire.turner.after(2)
    wire.collect()
    assert wire.received == b"HTTP/1.1 100 Continue\r\n\r\n"


class CountedEpoll:
    def __init__(self, epoll: Any) -> None:
        self.epoll = epoll
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self.epoll, name)


def test_a_request_costs_one_wait_one_recv_one_send_and_no_epoll_ctl(wire, loop, monkeypatch):
    epoll = CountedEpoll(loop._epoll)
    wire.talk(GET)
    monkeypatch.setattr(loop, "_epoll", epoll)
    for _ in range(10):
        wire.client.send(GET)
        wire.sock.calls.clear()
        epoll.calls.clear()
        loop.poll_once(5)
        assert wire.sock.calls == {"recv": 1, "send": 1}
        assert epoll.calls == {"poll": 1}
    assert len(wire.answers()) == 11


@pytest.mark.parametrize("request_bytes", [GET, GET * 3, post(b"x" * 100), b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_short_read_is_taken_for_drained(wire, request_bytes):
    for _ in range(2):
        wire.sock.calls.clear()
        wire.send(request_bytes)
        assert wire.sock.calls["recv"] == 1
        assert wire.sock.calls["send"] == 1


def test_a_full_read_is_come_back_from_without_an_edge(wire, app):
    """The last byte of the request fills the read exactly: nothing tells whether more is there."""
    body = bytes(READ_SIZE - len(post(b"")) - len(str(READ_SIZE)) + 1)
    request = post(body)
    assert len(request) == READ_SIZE
    for spare in (b"", GET):
        wire.talk(GET)
        wire.client.setblocking(True)
        wire.client.sendall(request + spare)
        wire.client.setblocking(False)
        wire.received = bytearray()
        answers = wire.await_answers(1 + bool(spare))
        assert [len(answer.body) for answer in answers] == [len(body), 1][: len(answers)]


def test_a_turn_reads_a_bounded_amount_and_comes_back(serve, loop, app):
    wire = serve()
    wire.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
    body = bytes(2 * MIB)
    data = memoryview(post(body))
    most = 0
    while not app.seen:
        with contextlib.suppress(BlockingIOError):
            data = data[wire.client.send(data) :] if data else data
        wire.sock.calls.clear()
        loop.poll_once(0.01)
        most = max(most, wire.sock.calls["recv"])
    # A turn has its events and then what call_soon had asked for: one share each at the most.
    assert len(READS_PER_TURN) <= most <= 2 * len(READS_PER_TURN)
    assert wire.await_answers(1)[0].body == body


def test_a_turn_passes_over_a_bounded_number_of_chunks_and_comes_back(wire, loop):
    wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    stream = b"1\r\na\r\n" * 9000 + b"0\r\n\r\n"
    assert wire.client.send(stream) == len(stream) < READ_SIZE
    loop.poll_once(0)
    assert 0 < wire.connection.parser.received < 3000
    assert loop.timeout() == 0.0
    assert wire.answers()[0].body == b"a" * 9000


def test_edges_do_not_add_turns_to_a_connection_that_is_to_come_back(wire, loop, app):
    wire.client.setblocking(True)
    wire.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
    wire.send(post(bytes(8 * MIB))[:100])
    wire.client.setblocking(False)
    fill(wire.client, 2 * MIB)
    wire.sock.calls.clear()
    wire.connection.on_events(IN | OUT)
    assert wire.sock.calls["recv"] == len(READS_PER_TURN)
    for _ in range(10):
        wire.connection.on_events(IN | OUT)
    assert wire.sock.calls["recv"] == len(READS_PER_TURN)
    loop.poll_once(0)
    assert wire.sock.calls["recv"] <= 2 * len(READS_PER_TURN)


def test_pipelined_requests_of_one_read_are_answered_in_order_with_one_send(wire, app):
    wire.talk(GET)
    wire.sock.calls.clear()
    paths = [f"/{number}" for number in range(20)]
    answers = wire.talk(b"".join(map(get, paths)), 20)
    assert [answer.body.decode() for answer in answers] == paths
    assert wire.sock.calls == {"recv": 1, "send": 1}


def test_large_answers_to_pipelined_requests_go_uncopied_by_one_sendmsg(wire, app):
    app.answers["/"] = lambda request: Response(bytes(40 * KIB))
    wire.send(GET * 3)
    assert [len(answer.body) for answer in wire.await_answers(3)] == [40 * KIB] * 3
    assert wire.sock.calls["sendmsg"] == 1
    assert wire.sock.calls["send"] == 0


def test_a_pipeline_does_not_keep_the_others_waiting(wire, serve, loop, app):
    """Of a read full of requests a turn handles some; another connection has its answer before the rest."""
    other = serve()
    other.talk(GET)
    app.seen.clear()
    wire.client.send(get("/x") * (60 * KIB // len(get("/x"))))
    other.client.send(get("/other"))
    app.answers["/other"] = lambda request: Response(b"%d" % app.seen.count("/x"))
    other.received = bytearray()
    handled = int(other.await_answers(1)[0].body)
    assert handled < 600
    count = 60 * KIB // len(get("/x"))
    assert len(wire.await_answers(count)) == count


def test_nothing_to_read_is_no_end(wire, app):
    wire.talk(GET)
    wire.connection.on_events(IN | OUT)
    wire.connection.on_events(IN)
    assert wire.is_in(ConnectionState.IDLE)
    assert wire.talk(GET)[0].status == 200


# output


def test_what_the_kernel_does_not_take_goes_at_the_writable_edge(serve, app):
    content = bytes(range(256)) * 8 * KIB
    app.answers["/"] = lambda request: Response(content)
    wire = serve(small=True)
    wire.send(GET)
    assert wire.is_in(ConnectionState.SENDING)
    answers = wire.await_answers(1)
    assert answers[0].body == content
    assert wire.is_in(ConnectionState.IDLE)
    assert wire.talk(get("/next"))[0].body == b"/next"


def test_a_small_answer_the_kernel_does_not_take(wire):
    """The hot path's own case: an idle connection, one request, and no room for the answer."""
    wire.talk(GET)
    for connected in (GET, post(b"x")):
        wire.sock.full = True
        wire.received = bytearray()
        wire.send(connected)
        assert wire.is_in(ConnectionState.SENDING)
        assert wire.received == b""
        wire.sock.full = False
        wire.connection.on_events(OUT)
        assert wire.await_answers(1)[0].status == 200
        assert wire.is_in(ConnectionState.IDLE)


def test_while_output_waits_nothing_is_read_or_handled(serve, app):
    app.answers["/big"] = lambda request: Response(bytes(1 * MIB))
    wire = serve(small=True)
    wire.send(get("/big") + get("/1"))
    wire.sock.calls.clear()
    wire.send(get("/2"))
    wire.send(get("/3"))
    wire.turner.after(5)
    assert wire.sock.calls["recv"] == 0
    assert app.seen == ["/big"]
    assert [answer.body[:5] for answer in wire.await_answers(4)] == [bytes(5), b"/1", b"/2", b"/3"]
    assert app.seen == ["/big", "/1", "/2", "/3"]


def test_a_large_answer_is_sent_in_shares(wire, app):
    """The kernel would take megabytes at once, and copy them while everybody waits."""
    wire.connection.writer.send_size = 64 * KIB
    wire.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 * MIB)
    content = bytes(300 * KIB)
    app.answers["/"] = lambda request: Response(content)
    wire.client.send(GET)
    wire.turner.until(lambda: wire.sock.calls["sendmsg"])
    assert len(app.seen) == 1
    assert wire.await_answers(1)[0].body == content
    assert wire.sock.calls["sendmsg"] >= 5
    assert wire.is_in(ConnectionState.IDLE)


def test_a_refusal_waits_for_room_like_any_output(serve, app):
    app.answers["/big"] = lambda request: Response(bytes(200 * KIB))
    wire = serve(small=True)
    wire.send(get("/big") + b"GET / HTTP/1.1\r\n\r\n" + get("/marker"))
    assert wire.is_in(ConnectionState.FINISHING)
    answers = wire.await_end()
    assert [answer.status for answer in answers] == [200, 400]
    assert app.seen == ["/big"]


def test_input_that_came_while_the_last_answer_waited_does_not_reset_it(serve, app):
    app.answers["/big"] = lambda request: Response(bytes(200 * KIB), headers={"Connection": "close"})
    wire = serve(small=True)
    wire.send(get("/big"))
    assert wire.is_in(ConnectionState.FINISHING)
    wire.send(get("/late"))
    answers = wire.await_end()
    assert len(answers[0].body) == 200 * KIB
    assert not wire.was_reset
    assert app.seen == ["/big"]


def test_input_under_way_when_the_server_closes_does_not_reset_the_answer(wire, app):
    app.answers["/"] = lambda request: Response(b"last", headers={"Connection": "close"})
    wire.send(GET)
    wire.send(GET)
    wire.send(GET)
    answers = wire.await_end()
    assert [answer.body for answer in answers] == [b"last"]
    assert not wire.was_reset
    assert app.seen == ["/"]
    wire.client.close()
    wire.await_state(ConnectionState.CLOSED)


def test_what_the_client_sends_while_the_kernel_has_its_last_answer_does_not_reset_it(wire, app):
    app.answers["/"] = lambda request: Response(bytes(200 * KIB))
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400 * KIB)
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    wire.await_state(ConnectionState.LINGERING)
    wire.send(GET)
    (answer,) = wire.await_end()
    assert len(answer.body) == 200 * KIB
    assert not wire.was_reset
    assert app.seen == ["/"]


def test_a_connection_the_client_asked_to_close_is_closed_at_once(wire):
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert wire.is_in(ConnectionState.CLOSED)
    assert wire.await_end()[0].fields["connection"] == "close"


# half-closed clients


def test_a_request_and_the_end_at_once(wire):
    wire.client.send(GET)
    wire.end_input()
    assert [answer.status for answer in wire.await_end()] == [200]
    wire.await_state(ConnectionState.CLOSED)


def test_the_end_at_once_on_an_idle_connection(wire):
    wire.talk(GET)
    wire.received = bytearray()
    wire.client.send(GET * 2)
    wire.end_input()
    assert [answer.status for answer in wire.await_end()] == [200, 200]


def test_the_end_after_the_request_while_its_answer_waits(serve, app):
    app.answers["/"] = lambda request: Response(bytes(1 * MIB))
    wire = serve(small=True)
    wire.send(GET)
    assert wire.is_in(ConnectionState.SENDING)
    wire.end_input()
    wire.turner.settle()
    assert wire.is_in(ConnectionState.SENDING)
    assert len(wire.await_end()[0].body) == 1 * MIB
    assert not wire.was_reset
    wire.await_state(ConnectionState.CLOSED)


def test_the_end_while_answers_wait_does_not_lose_the_requests_before_it(serve, app):
    app.answers["/"] = lambda request: Response(bytes(100 * KIB))
    wire = serve(small=True)
    wire.send(GET * 10)
    wire.send(GET * 10)
    wire.end_input()
    assert len(wire.await_end()) == 20


@pytest.mark.parametrize("part", [GET[:10], post(b"body")[:-1]])
def test_the_end_in_the_middle_of_a_request_is_refused(wire, app, part):
    wire.send(part)
    wire.end_input()
    assert_refused(wire.await_end()[0], 400)
    assert app.seen == []
    wire.await_state(ConnectionState.CLOSED)


def test_the_end_of_an_idle_connection_closes_it(wire):
    wire.talk(GET)
    wire.end_input()
    wire.await_state(ConnectionState.CLOSED)
    wire.received = bytearray()
    assert wire.await_end() == []


def test_the_end_that_the_hot_path_reads(wire):
    """The end may come between the wait, which tells only of input, and the read."""
    wire.talk(GET)
    wire.end_input()
    wire.connection.on_events(IN | OUT)
    assert wire.is_in(ConnectionState.CLOSED)


def test_over_a_unix_socket_a_half_closed_client_gets_its_answer(loop, turner, app):
    server = Server(app, Settings(), loop, listeners=[])
    server.start()
    ours, theirs = socket.socketpair()
    with theirs:
        server.admit(ours, "")
        theirs.sendall(GET)
        theirs.shutdown(socket.SHUT_WR)
        turner.settle()
        assert theirs.recv(4096).startswith(b"HTTP/1.1 200")
        assert theirs.recv(4096) == b""
    turner.settle()
    assert server.connections == set()
    server.stop()


# lingering


@pytest.mark.parametrize("before", [0, 1])
def test_a_client_in_the_middle_of_its_upload_can_read_the_refusal(wire, app, before):
    for _ in range(before):
        wire.talk(GET)
    wire.received = bytearray()
    wire.send(HEAD + b"Content-Length: 100000000\r\n\r\n")
    wire.send(bytes(8 * MIB))
    assert_refused(wire.answers()[0], 413)
    assert not wire.was_reset
    assert wire.is_in(ConnectionState.LINGERING)
    wire.end_input()
    wire.await_state(ConnectionState.CLOSED)
    assert not wire.was_reset  # as it would be if some of its input was unread


def test_the_clients_end_behind_unread_input_does_not_cut_the_last_answer(wire, app):
    """The kernel still holds the answer when the client ends, with a request behind that nobody will read."""
    app.answers["/"] = lambda request: Response(bytes(8 * MIB), headers={"Connection": "close"})
    wire.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * MIB)
    wire.client.send(GET)
    wire.turner.until(lambda: wire.is_in(ConnectionState.LINGERING) or wire.is_in(ConnectionState.FINISHING))
    while wire.is_in(ConnectionState.FINISHING):
        wire.collect(64 * KIB)
        wire.turner.settle()
    assert len(wire.received) < 8 * MIB
    wire.client.send(GET)
    wire.end_input()
    wire.await_state(ConnectionState.CLOSED)
    assert len(wire.await_end()[0].body) == 8 * MIB
    assert not wire.was_reset


def test_the_clients_end_ends_the_lingering(wire):
    wire.send(b"nonsense\r\n\r\n")
    assert wire.is_in(ConnectionState.LINGERING)
    wire.client.send(bytes(100 * KIB))
    wire.end_input()
    wire.await_state(ConnectionState.CLOSED)
    assert not wire.was_reset


def test_a_refused_client_may_pause_five_seconds(wire):
    wire.send(b"nonsense\r\n\r\n")
    for _ in range(3):
        wire.turner.after(4)
        wire.send(b"x")
    wire.turner.after(4)
    assert wire.is_in(ConnectionState.LINGERING)
    wire.turner.after(2)
    assert wire.is_in(ConnectionState.CLOSED)


def test_a_refused_client_may_go_on_for_thirty_seconds_in_all(wire):
    wire.send(b"nonsense\r\n\r\n")
    for _ in range(29):
        wire.send(b"x")
        wire.turner.after(1)
    assert wire.is_in(ConnectionState.LINGERING)
    wire.send(b"x")
    wire.turner.after(2)
    assert wire.is_in(ConnectionState.CLOSED)


def test_any_amount_is_read_away_in_its_time(wire):
    wire.send(b"nonsense\r\n\r\n")
    for _ in range(64):
        wire.send(bytes(MIB))
    assert wire.is_in(ConnectionState.LINGERING)
    assert_refused(wire.answers()[0], 400)
    assert not wire.was_reset


def test_of_many_that_linger_the_oldest_is_closed(serve, monkeypatch):
    monkeypatch.setattr(ending, "MAX_LINGERING", 2)
    wires = [serve() for _ in range(3)]
    for wire in wires:
        wire.send(b"nonsense\r\n\r\n")
    assert [wire.is_in(ConnectionState.LINGERING) for wire in wires] == [False, True, True]
    assert wires[0].is_in(ConnectionState.CLOSED)
    wires[1].end_input()
    wires[1].await_state(ConnectionState.CLOSED)
    assert list(wires[2].connection.context.lingering) == [wires[2].connection]


def test_a_drain_gives_a_client_that_has_sent_on_for_long_its_moment_too(wire):
    wire.send(b"nonsense\r\n\r\n")
    for _ in range(10):
        wire.turner.after(1)
        wire.send(b"more")
    wire.server.drain()
    wire.turner.after(1)
    wire.send(b"more")
    assert wire.is_in(ConnectionState.LINGERING)
    wire.turner.after(2)
    assert wire.is_in(ConnectionState.CLOSED)
    assert_refused(wire.await_end()[0], 400)


def test_without_keep_alive_a_client_may_send_on_as_long_as_ever(serve):
    wire = serve(keep_alive=0)
    wire.send(b"nonsense\r\n\r\n")
    for _ in range(6):
        wire.turner.after(3)
        wire.send(b"more")
    assert wire.is_in(ConnectionState.LINGERING)
    assert_refused(wire.answers()[0], 400)


def test_reading_away_has_its_turns_too(wire, loop):
    wire.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
    wire.send(b"nonsense\r\n\r\n")
    sent = fill(wire.client, 2 * MIB)
    wire.sock.calls.clear()
    wire.connection.context.discard_buffer = bytearray(256 * KIB)  # so that the input is more than a turn's
    wire.connection.on_events(IN)
    assert wire.sock.calls["recv_into"] == len(READS_PER_TURN)
    wire.turner.settle()
    assert wire.sock.calls["recv_into"] >= sent // (256 * KIB)


# 100 (Continue)


def test_the_interim_answer_comes_when_the_body_is_wanted(wire, app):
    assert [answer.status for answer in wire.talk(expecting(4))] == [100]
    assert wire.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert app.seen == []
    assert [answer.body for answer in wire.talk(b"body")] == [b"body"]


@pytest.mark.parametrize("with_head", [b"bo", b"body"])
def test_no_interim_answer_when_the_body_has_come(wire, with_head):
    wire.send(expecting(4) + with_head)
    wire.send(b"body"[len(with_head) :])
    assert [answer.status for answer in wire.await_answers(1)] == [200]


def test_no_interim_answer_when_there_is_no_body(wire):
    assert [answer.status for answer in wire.talk(expecting(0))] == [200]


def test_no_interim_answer_to_http_1_0(wire):
    wire.send(expecting(4).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert wire.answers() == []
    wire.send(b"body")
    assert [answer.status for answer in wire.answers()] == [200]


@pytest.mark.parametrize("status", [404, 405])
def test_what_the_application_would_refuse_is_refused_without_it(wire, app, status):
    app.refusal = HTTPError(status, "no", {"Allow": "GET"})
    wire.send(expecting(4))
    (answer,) = wire.await_answers(1)
    assert_refused(answer, status)
    assert answer.fields["allow"] == "GET"
    assert app.seen == []


def test_too_large_a_body_is_refused_without_it(wire, app):
    assert_refused(wire.talk(expecting(17 * MIB))[0], 413)


def test_another_expectation_is_refused(wire, app):
    request = HEAD + b"Content-Length: 4\r\nExpect: miracles\r\n\r\n"
    assert_refused(wire.talk(request)[0], 417)


def test_an_expectation_behind_an_answer_that_waits(serve, app):
    """The client sends its body only when told to: what is owed before must not make the interim answer forgotten."""
    app.answers["/big"] = lambda request: Response(bytes(200 * KIB))
    wire = serve(small=True)
    wire.send(get("/big") + expecting(4))
    assert wire.is_in(ConnectionState.SENDING)
    assert [answer.status for answer in wire.await_answers(2)] == [200, 100]
    assert wire.is_in(ConnectionState.BODY)
    assert [answer.body for answer in wire.talk(b"body")] == [b"body"]


def test_a_refused_expectation_behind_an_answer_that_waits(serve, app):
    app.answers["/big"] = lambda request: Response(bytes(200 * KIB))
    app.refusal = HTTPError(404, "no")
    wire = serve(small=True)
    wire.send(get("/big") + expecting(4))
    assert [answer.status for answer in wire.await_end()] == [200, 404]


def test_an_interim_answer_the_kernel_does_not_take(wire):
    wire.talk(GET)
    wire.received = bytearray()
    wire.sock.full = True
    wire.send(expecting(4))
    assert wire.is_in(ConnectionState.SENDING)
    wire.sock.full = False
    wire.connection.on_events(OUT)
    assert [answer.status for answer in wire.await_answers(1)] == [100]
    assert wire.is_in(ConnectionState.BODY)
    assert [answer.body for answer in wire.talk(b"body")] == [b"body"]


# bodies that are iterators


class Pieces:
    """An iterator that counts what was pulled, and whether it was closed."""

    def __init__(self, count: int, size: int = 32 * KIB, fails_at: int | None = None) -> None:
        self.count = count
        self.size = size
        self.fails_at = fails_at
        self.pulled = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.pulled == self.fails_at:
            raise RuntimeError("the iterator failed")
        if self.pulled == self.count:
            raise StopIteration
        self.pulled += 1
        return b"%c" % (self.pulled % 256) * self.size

    def close(self) -> None:
        self.closed += 1


def test_an_iterator_is_pulled_as_the_client_reads(serve, app):
    pieces = Pieces(100)
    app.answers["/"] = lambda request: Response(pieces)
    wire = serve(small=True)
    wire.send(GET + get("/next"))
    wire.turner.after(5)
    assert 0 < pieces.pulled < 20
    assert sum(map(len, wire.connection.writer.buffers)) < 3 * pieces.size
    before = pieces.pulled
    wire.turner.until(lambda: wire.collect() >= 0 and pieces.pulled > before)
    assert pieces.pulled < 40
    answers = wire.await_answers(2)
    assert len(answers[0].body) == 100 * pieces.size
    assert answers[0].fields["transfer-encoding"] == "chunked"
    assert answers[1].body == b"/next"
    assert pieces.closed == 1
    assert wire.is_in(ConnectionState.IDLE)


def test_a_fast_reader_of_a_stream_leaves_the_others_their_turn(wire, loop, app):
    pieces = Pieces(200, size=17 * KIB)
    app.answers["/stream"] = lambda request: Response(pieces)
    wire.talk(GET)
    wire.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * MIB)
    wire.client.send(get("/stream"))
    loop.poll_once(5)
    # A turn has its events and then what call_soon had asked for: one share each at the most.
    assert 1 < pieces.pulled <= 2 * len(PULLS_PER_TURN)
    assert len(wire.await_answers(2)[1].body) == 200 * 17 * KIB


def test_small_pieces_are_sent_together(wire, app):
    app.answers["/"] = lambda request: Response(Pieces(1000, size=1))
    (answer,) = wire.talk(GET)
    assert len(answer.body) == 1000
    assert wire.sock.calls["sendmsg"] < 20


def test_an_iterator_that_fails_cuts_the_connection_without_a_last_chunk(wire, app, caplog):
    pieces = Pieces(10, fails_at=3)
    app.answers["/"] = lambda request: Response(pieces)
    wire.send(GET + get("/next"))
    wire.turner.until(lambda: wire.collect() >= 0 and wire.ended)
    assert wire.received.startswith(b"HTTP/1.1 200")
    assert not wire.received.endswith(b"0\r\n\r\n")
    assert app.seen == ["/"], "and nothing after it is handled"
    assert pieces.closed == 1
    assert "the iterator failed" in caplog.text


def test_an_iterator_of_something_else_cuts_the_connection(wire, app, caplog):
    app.answers["/"] = lambda request: Response(iter(strings))
    wire.send(GET)
    wire.turner.until(lambda: wire.collect() >= 0 and wire.ended)
    assert wire.is_in(ConnectionState.LINGERING)
    assert "gives bytes, not str" in caplog.text


def test_an_iterator_is_closed_when_the_client_goes(serve, app):
    pieces = Pieces(1000)
    app.answers["/"] = lambda request: Response(pieces)
    wire = serve(small=True)
    wire.send(GET)
    wire.reset()
    wire.await_state(ConnectionState.CLOSED)
    assert pieces.closed == 1
    assert pieces.pulled < 20


def test_a_half_closed_client_still_gets_all_of_a_stream(serve, app):
    app.answers["/"] = lambda request: Response(Pieces(50))
    wire = serve(small=True)
    wire.send(GET)
    wire.end_input()
    assert len(wire.await_end()[0].body) == 50 * 32 * KIB


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, GeneratorExit, BaseException])
def test_an_iterator_that_fails_in_any_way_costs_its_connection_alone(wire, serve, app, caplog, kind):
    def pieces() -> Iterator[bytes]:
        yield b"begun"
        raise kind

    app.answers["/"] = lambda request: Response(pieces())
    wire.send(GET)
    wire.await_state(ConnectionState.LINGERING)
    wire.client.close()
    wire.await_state(ConnectionState.CLOSED)
    assert "a response's body failed" in caplog.text
    assert serve().talk(get("/next"))[0].status == 200


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, BaseException])
def test_an_iterator_whose_close_fails_is_logged(serve, app, caplog, monkeypatch, kind):
    def fail() -> None:
        raise kind

    pieces = Pieces(1000)
    monkeypatch.setattr(pieces, "close", fail)
    app.answers["/"] = lambda request: Response(pieces)
    wire = serve(small=True)
    wire.send(GET)
    wire.reset()
    wire.await_state(ConnectionState.CLOSED)
    assert "closing a response's body failed" in caplog.text


def test_a_stream_to_http_1_0_ends_with_the_connection(wire, app):
    app.answers["/"] = lambda request: Response(Pieces(20))
    wire.send(b"GET / HTTP/1.0\r\n\r\n")
    (answer,) = wire.await_end()
    assert len(answer.body) == 20 * 32 * KIB
    assert "transfer-encoding" not in answer.fields


# clients that go


def in_state(wire: Wire, app: App, state: ConnectionState) -> None:
    app.answers["/big"] = lambda request: Response(bytes(4 * MIB))
    app.answers["/last"] = lambda request: Response(bytes(4 * MIB), headers={"Connection": "close"})
    app.answers["/stream"] = lambda request: Response(Pieces(1000))
    app.threaded("/wait", lambda request: b"%d" % app.gate.wait(PATIENCE))
    app.threaded("/skip", lambda request: b"not read", stream=True)
    data = {
        ConnectionState.NEW: b"",
        ConnectionState.IDLE: GET,
        ConnectionState.HEAD: GET[:10],
        ConnectionState.BODY: post(b"body")[:-1],
        ConnectionState.SKIPPING: b"POST /skip HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\npart",
        ConnectionState.WAITING: get("/wait"),
        ConnectionState.SENDING: get("/big"),
        ConnectionState.FINISHING: get("/last"),
        ConnectionState.LINGERING: b"nonsense\r\n\r\n",
    }[state]
    wire.send(data)
    wire.await_state(state)


NOT_HTTP = (ConnectionState.HANDSHAKE, ConnectionState.UPGRADED, ConnectionState.CLOSED)

OPEN = [state for state in ConnectionState if state not in NOT_HTTP]


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize("how", ["reset", "end"])
def test_a_client_that_goes_leaves_nothing(serve, loop, app, state, how):
    """No descriptor, no connection, and no garbage for the collector to find."""
    gc.collect()
    gc.disable()
    try:
        wire = serve(small=True)
        in_state(wire, app, state)
        connection = wire.connection
        number = connection.sock.fileno()
        wire.reset() if how == "reset" else wire.client.close()
        wire.await_state(ConnectionState.CLOSED)
        assert wire.server.connections == set()
        assert number not in loop.registered()
        wire.turner.settle()
        del connection, wire.connection
        held = (Connection, RequestParser, Pieces)
        assert [thing for thing in gc.get_objects() if isinstance(thing, held)] == []
    finally:
        gc.enable()


def test_a_connection_ends_though_a_forked_child_holds_its_socket(wire):
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        wire.send(b"GET / HTTP/1.0\r\n\r\n")
        assert [answer.status for answer in wire.await_end()] == [200]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("state", OPEN)
def test_closing_twice_closes_once(serve, app, state, monkeypatch):
    wire = serve(small=True)
    in_state(wire, app, state)
    closes: list[int] = []
    monkeypatch.setattr(wire.server.context, "on_close", lambda connection: closes.append(1))
    wire.connection.close()
    wire.connection.close()
    wire.connection.on_events(IN | OUT)
    wire.connection.on_deadline()
    assert closes == [1]
    assert wire.is_in(ConnectionState.CLOSED)


# handlers that fail


def test_what_a_handler_raises_is_a_500_and_the_connection_goes_on(serve, caplog):
    routes = Routes()

    @routes.get("/")
    def fail(request):
        raise RuntimeError("secret")

    wire = serve(routes)
    answers = wire.talk(GET * 2, 2)
    assert [answer.status for answer in answers] == [500, 500]
    assert b"secret" not in wire.received
    assert json.loads(answers[0].body)["id"] in caplog.text
    assert wire.is_in(ConnectionState.IDLE)


not_a_body: Any = 5
strings: Any = ["text"]


def fail() -> Any:
    raise ZeroDivisionError


class Broken(Mapping[str, str]):
    """Header fields whose reading fails."""

    def __init__(self, kind: type[BaseException] = RuntimeError) -> None:
        self.kind = kind

    def __getitem__(self, key: str) -> str:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise self.kind("no fields")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("headers", [{"X": "a\r\nb"}, Broken(), Broken(SystemExit), Broken(BaseException)])
def test_headers_that_cannot_be_sent_are_a_500_from_where_they_are_given(wire, app, caplog, headers):
    app.answers["/bad"] = lambda request: Response(b"", headers=headers)
    answers = wire.talk(get("/bad") + get("/next"), 2)
    assert [answer.status for answer in answers] == [500, 200]
    assert json.loads(answers[0].body)["id"] in caplog.text
    assert "in <lambda>" in caplog.text


def changed(**attributes: Any) -> Response:
    response = Response(b"")
    vars(response).update(attributes)
    return response


@pytest.mark.parametrize(
    "response",
    [
        changed(status=99),
        Response(b"x", headers={"Content-Length": "7"}),
        changed(body=not_a_body),
    ],
)
def test_a_response_that_cannot_be_sent_is_a_500(wire, app, caplog, response):
    app.answers["/bad"] = lambda request: response
    answers = wire.talk(get("/bad") + get("/next"), 2)
    assert [answer.status for answer in answers] == [500, 200]
    document = json.loads(answers[0].body)
    assert document["id"] in caplog.text
    assert "can't be sent" in caplog.text


def test_a_body_whose_close_fails_does_not_answer_twice(wire, app, monkeypatch):
    pieces = Pieces(1)
    monkeypatch.setattr(pieces, "close", fail)
    app.answers["/"] = lambda request: Response(pieces)
    wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    wire.answers()
    assert wire.received.count(b"HTTP/1.1 ") == 1


def test_a_response_that_is_false_is_asked_for_once(wire, app):
    class Empty(Response):
        def __len__(self) -> int:
            return 0

    app.answers["/"] = lambda request: Empty(b"x", status=201)
    wire.talk(GET)
    wire.talk(GET)
    assert app.seen == ["/", "/"]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), BlockingIOError(), ConnectionResetError(), OSError(errno.EMFILE, "no")]
)
def test_what_an_application_raises_is_answered(wire, serve, app, caplog, error):
    def fail(request):
        raise error

    app.answers["/"] = fail
    other = serve()
    status = 503 if error.args[:1] == (errno.EMFILE,) else 500
    assert wire.talk(GET)[0].status == status
    assert "GET / failed" in caplog.text
    assert wire.talk(get("/x"))[0].body == b"/x"
    assert [answer.status for answer in wire.talk(GET + get("/y") + GET, 3)] == [status, 200, status]
    assert other.talk(get("/x"))[0].status == 200


def test_an_httperror_from_the_application_is_its_answer(wire, app):
    def refuse(request):
        raise HTTPError(429, "slowly")

    app.answers["/"] = refuse
    wire.talk(get("/x"))
    assert wire.talk(GET)[0].status == 429
    assert wire.talk(get("/x"))[0].status == 200


def test_a_socket_that_fails_closes_the_connection(wire, caplog):
    wire.talk(GET)
    wire.sock.shutdown(socket.SHUT_WR)
    wire.client.send(GET)
    wire.await_state(ConnectionState.CLOSED)
    wire.turner.settle()
    assert caplog.records == []


def test_a_refusal_that_cannot_be_sent_closes_the_connection(wire):
    wire.send(GET[:5])
    wire.sock.shutdown(socket.SHUT_WR)
    wire.turner.settle()
    wire.connection.refuse(HTTPError(408))
    assert wire.is_in(ConnectionState.CLOSED)


# a drain


def drained(wire: Wire) -> bool:
    wire.turner.settle()
    return wire.server.status is Status.STOPPED


def test_a_drain_lets_an_idle_connection_bring_one_more_request(wire):
    wire.talk(GET)
    wire.server.drain()
    assert not drained(wire)
    answer = wire.talk(get("/x"))[0]
    assert (answer.body, answer.fields["connection"]) == (b"/x", "close")
    wire.end_input()
    assert drained(wire)


def test_a_drain_ends_an_idle_connection_after_drain_keep_alive(wire):
    wire.talk(GET)
    wire.received = bytearray()
    wire.server.drain()
    wire.turner.after(wire.server.settings.drain_keep_alive - 0.1)
    assert not drained(wire)
    wire.turner.after(2)
    assert drained(wire)
    assert wire.await_end() == []


def test_a_request_that_comes_at_the_very_end_of_that_time_is_answered(wire):
    wire.talk(GET)
    wire.received = bytearray()
    wire.server.drain()
    wire.turner.settle()
    wire.client.send(get("/x"))  # no edge of it has been told yet
    wire.server._end_idle()
    assert wire.await_end()[0].body == b"/x"


@pytest.mark.parametrize("seconds", [0, 1, 10])
def test_a_connection_whose_answer_was_begun_before_the_drain_is_idle_until_then(serve, app, seconds):
    app.answers["/"] = lambda request: Response(bytes(MIB))
    wire = serve(small=True)
    wire.send(GET)
    wire.await_state(ConnectionState.SENDING)
    wire.server.drain()
    wire.turner.after(seconds)
    assert wire.await_answers(1)[0].fields.get("connection") is None
    wire.turner.settle()
    assert wire.is_in(ConnectionState.IDLE) is (seconds < wire.server.settings.drain_keep_alive)


def test_drain_keep_alive_is_at_most_graceful_timeout(serve):
    wire = serve(graceful_timeout=0.5)
    wire.talk(GET)
    wire.server.drain()
    wire.turner.after(0.4)
    assert wire.is_in(ConnectionState.IDLE)
    wire.turner.after(1.2)
    assert wire.is_in(ConnectionState.CLOSED)


def test_a_drain_closes_idle_connections_at_once(wire):
    wire.talk(GET)
    wire.received = bytearray()
    wire.server.drain_at_once()
    assert drained(wire)
    assert wire.await_end() == []


def test_a_drain_answers_the_request_that_has_arrived(wire):
    wire.talk(GET)
    wire.received = bytearray()
    wire.client.send(GET)
    wire.server.drain()
    (answer,) = wire.await_end()
    assert answer.status == 200
    assert answer.fields["connection"] == "close"
    wire.client.close()
    wire.turner.until(lambda: drained(wire))


def test_a_drain_gives_a_new_connection_a_moment(wire):
    wire.server.drain()
    assert not drained(wire)
    wire.send(GET)
    assert wire.await_end()[0].fields["connection"] == "close"


def test_a_drain_gives_a_new_connection_no_more_than_a_moment(wire):
    wire.server.drain()
    wire.turner.after(2)
    assert drained(wire)


@pytest.mark.parametrize(("request_bytes", "split"), [(GET, 10), (post(b"body"), -2)])
def test_a_drain_lets_a_request_under_way_finish(wire, request_bytes, split):
    wire.send(request_bytes[:split])
    wire.server.drain()
    assert not drained(wire)
    wire.turner.after(5)
    wire.send(request_bytes[split:])
    (answer,) = wire.await_end()
    assert answer.status == 200
    assert answer.fields["connection"] == "close"
    wire.client.close()
    wire.turner.until(lambda: drained(wire))


@pytest.mark.parametrize("path", ["/big", "/stream"])
def test_a_drain_closes_a_connection_when_the_answer_under_way_is_sent(serve, app, path):
    app.answers["/big"] = lambda request: Response(bytes(1 * MIB))
    app.answers["/stream"] = lambda request: Response(Pieces(32))
    wire = serve(small=True)
    wire.send(get(path))
    assert wire.is_in(ConnectionState.SENDING)
    wire.server.drain_at_once()
    assert not drained(wire)
    assert len(wire.await_end()[0].body) == 1 * MIB
    assert drained(wire)


def test_a_drain_answers_what_was_pipelined_behind_the_answer_under_way(serve, app):
    app.answers["/big"] = lambda request: Response(bytes(1 * MIB))
    wire = serve(small=True)
    wire.send(get("/big"))
    wire.send(get("/1"))
    wire.server.drain()
    answers = wire.await_end()
    assert answers[1].body == b"/1"
    assert answers[1].fields["connection"] == "close"
    wire.client.close()
    wire.turner.until(lambda: drained(wire))


def test_a_drain_cuts_what_outlasts_the_graceful_timeout(serve, app):
    pieces = Pieces(100_000)
    app.answers["/stream"] = lambda request: Response(pieces)
    wire = serve(small=True, write_timeout=1000.0)
    wire.send(get("/stream"))
    wire.server.drain()
    wire.turner.after(29)
    assert not drained(wire)
    wire.turner.after(2)
    assert drained(wire)
    assert pieces.closed == 1
    assert wire.is_in(ConnectionState.CLOSED)


def test_a_drain_while_an_iterator_runs(wire, app):
    def stream() -> Iterator[bytes]:
        yield b"a"
        wire.server.drain_at_once()
        yield b"b"

    app.answers["/"] = lambda request: Response(stream())
    wire.send(GET)
    assert wire.await_end()[0].body == b"ab"
    assert drained(wire)


@pytest.mark.parametrize("before", [b"", GET])
def test_a_handler_may_ask_for_the_drain(wire, app, before):
    """Its own connection looks idle, or new, while it runs."""

    def drain(request: Request) -> Response:
        wire.server.drain()
        return Response(b"bye", content_type="text/plain")

    app.answers["/drain"] = drain
    if before:
        wire.talk(before)
        wire.received = bytearray()
    wire.send(get("/drain"))
    assert [answer.body for answer in wire.await_end()] == [b"bye"]
    wire.client.close()
    wire.turner.until(lambda: drained(wire))


@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.parametrize("body", [b"bye", bytes(1 * MIB)])
@pytest.mark.parametrize("fields", [{}, {"Connection": "close"}])
def test_a_handler_may_stop_the_server_under_itself(wire, loop, app, before, body, fields):
    closes: list[Connection] = []
    wire.server.context.on_close = closes.append

    def stop(request: Request) -> Response:
        wire.server.stop()
        return Response(body, headers=fields)

    app.answers["/stop"] = stop
    if before:
        wire.talk(before)
    own = list(loop._callbacks)
    wire.send(get("/stop"))
    assert wire.is_in(ConnectionState.CLOSED)
    assert app.stopped == 1
    assert len(closes) == 1
    assert [one for one in own if one not in loop._callbacks and one != wire.connection.on_events] == []
    wire.turner.after(100)


def test_a_body_may_stop_the_server_under_itself(wire, app):
    closes: list[Connection] = []
    wire.server.context.on_close = closes.append

    def pieces() -> Iterator[bytes]:
        yield b"first"
        wire.server.stop()
        yield b"second"

    app.answers["/stop"] = lambda request: Response(pieces())
    wire.send(get("/stop"))
    assert wire.is_in(ConnectionState.CLOSED)
    assert len(closes) == 1
    assert app.stopped == 1


def test_drain_twice_drains_once(wire):
    wire.send(GET[:5])
    wire.server.drain()
    wire.turner.after(20)
    wire.server.drain()
    wire.turner.after(12)
    assert drained(wire)


def test_nothing_is_logged_above_debug_for_what_peers_do(serve, app, caplog):
    caplog.set_level(logging.INFO)
    for state in OPEN:
        wire = serve(small=True)
        in_state(wire, app, state)
        wire.reset()
        wire.await_state(ConnectionState.CLOSED)
    assert caplog.records == []
