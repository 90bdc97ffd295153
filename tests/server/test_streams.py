"""Bodies that flow: pulled out and taken in by handlers of each kind, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from hypoll import HTTPError, Request, Response, Routes
from hypoll.http import ClientDisconnect, RequestParser
from hypoll.loop import ERR, HUP, IN, OUT, RDHUP
from hypoll.server.connection import Connection
from hypoll.server.context import READ_SIZE
from hypoll.server.exchange import Exchange
from hypoll.server.receiving import SKIP_LIMIT
from hypoll.server.request_body import HIGH_WATER, RequestBody
from hypoll.server.spool import OWN_LIMIT
from tests.faults.stage import Stage
from tests.server.test_handlers import KINDS, WAITING_KINDS, Steps, a_connection, get
from tests.support.client import PATIENCE, Client
from tests.support.clock import Clock
from tests.support.server import Running, running

SMALL = 64 * 1024
"""A client's receive buffer: what it doesn't read soon fills it and the server's."""

Give = Callable[[], Iterator[Any]]


@pytest.fixture
def steps() -> Iterator[Steps]:
    steps = Steps()
    yield steps
    steps.gate.set()


def streaming(routes: Routes, kind: str, path: str, give: Callable[[Request], Iterator[Any]], **fields: str) -> None:
    """Declare a handler whose body gives what `give` does, from a generator of its kind."""

    async def pieces(request: Request) -> AsyncIterator[Any]:
        found = give(request)
        try:
            for piece in found:
                await asyncio.sleep(0)
                yield piece
        finally:
            found.close()  # type: ignore[attr-defined]

    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    if kind == "async":

        @routes.get(path)
        async def handler(request):
            return Response(pieces(request), headers=headers)
    else:

        @routes.get(path, threaded=kind == "threaded")
        def handler(request):
            return Response(give(request), headers=headers)


def taking(routes: Routes, kind: str, path: str, take: Callable[[Iterator[bytes]], Any]) -> None:
    """Declare a stream=True handler that answers with what `take(pieces)` gives, which it runs where its kind does."""
    if kind == "threaded":

        @routes.post(path, threaded=True, stream=True)
        def handler(request):
            return take(request.stream)
    else:

        @routes.post(path, stream=True)
        async def handler(request):
            step = take(_Step())  # type: ignore[arg-type]
            try:
                next(step)
                while True:
                    try:
                        piece = await anext(request.stream, None)
                    except Exception as error:
                        step.throw(error)
                    else:
                        step.send(piece)
            except StopIteration as end:
                return end.value


class _Step:
    """Stands for the pieces in a `take` that is run step by step."""


def post(path: str, body: bytes | int, *fields: str) -> bytes:
    length, content = (body, b"") if isinstance(body, int) else (len(body), body)
    return get(path, f"Content-Length: {length}", *fields, method="POST") + content


def chunked(path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = get(path, "Transfer-Encoding: chunked", method="POST")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


CHUNKED = get("/take", "Transfer-Encoding: chunked", method="POST")


# out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_body_is_sent_as_it_is_made(kind, version):
    routes = Routes()
    sizes = [0, 1, 0, 0, 5000, 100_000, 0, 3]
    streaming(routes, kind, "/", lambda request: (bytes([n]) * size for n, size in enumerate(sizes)))
    whole = b"".join(bytes([n]) * size for n, size in enumerate(sizes))
    with running(routes) as it:
        client = it.connect()
        for _ in range(2 if version == "1.1" else 1):
            answer = client.ask(get("/", version=version))
            assert answer.body == whole
            assert ("transfer-encoding" in answer.fields) is (version == "1.1")
        assert client.ask(get("/", method="HEAD")).status == 200 if version == "1.1" else client.rest() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_requests_behind_a_streamed_answer_are_answered(kind):
    """They came in one read: no edge tells of them when the body has ended."""
    routes = Routes()
    streaming(routes, kind, "/stream", lambda request: iter_pieces(3))
    routes.get("/after")(lambda request: "after")
    with running(routes) as it:
        client = it.connect()
        client.send(get("/stream") + get("/after") + get("/stream") + get("/after"))
        assert [client.answer().body for _ in range(4)] == [b"ppp", b"after"] * 2


def iter_pieces(count: int, piece: bytes = b"p") -> Iterator[bytes]:
    for _ in range(count):
        yield piece


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_is_sent_when_it_is_there(kind, steps):
    routes = Routes()

    def give(request: Request) -> Iterator[bytes]:
        yield b"first"
        if kind == "threaded":
            steps.gate.wait(PATIENCE)
        yield b"second"

    streaming(routes, kind, "/", give)
    with running(routes) as it:
        client = it.connect()
        client.send(get("/"))
        client.head()
        assert client.chunk() == b"first"
        steps.gate.set()
        assert [client.chunk(), client.chunk()] == [b"second", b""]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_it_is_pulled_as_the_client_reads_and_closed_when_it_goes(kind, how, steps):
    """An endless body."""
    routes = Routes()
    piece = bytes(64 * 1024)
    given: list[int] = []
    closers: list[threading.Thread] = []

    def give(request: Request) -> Iterator[bytes]:
        try:
            while True:
                given.append(1)
                yield piece
        finally:
            closers.append(threading.current_thread())
            steps.say("closed")

    streaming(routes, kind, "/", give)
    routes.get("/other")(lambda request: "other")
    with running(routes) as it:
        client = it.connect(SMALL)
        client.send(get("/"))
        client.head()
        # Nobody reads: it comes to rest. A thread goes on into the spool, and leaves its pool when that is full.
        writer = it.on_loop(lambda: a_connection(it).writer)
        it.until(
            lambda: it.server.thread_pool.detached if kind == "threaded" else writer.buffers and writer.stalled,
        )
        count = len(given)
        ahead = OWN_LIMIT // len(piece) if kind == "threaded" else 0
        assert ahead < count < ahead + 200
        assert it.connect().ask(get("/other")).body == b"other"
        for _ in range(2 * count):
            client.chunk()
        assert len(given) > 1.5 * count
        client.go(how)
        steps.hear("closed")
        it.until(lambda: len(it.server.connections) <= 1)
        assert (closers[0] is it.on_loop(threading.current_thread)) is (kind != "threaded")
        it.until(lambda: not it.server.thread_pool.unfinished)


@pytest.mark.parametrize("kind", WAITING_KINDS)
@pytest.mark.parametrize("endless", [b"", b"p"])
def test_a_body_that_never_waits_lets_the_others_run(kind, endless):
    """Whether it gives something or nothing: pieces of no bytes are no end."""
    routes = Routes()
    gone = threading.Event()

    def give(request: Request) -> Iterator[bytes]:
        while not gone.is_set():
            yield endless

    async def agive(request: Request) -> AsyncIterator[bytes]:
        while not gone.is_set():
            yield endless

    if kind == "async":

        @routes.get("/")
        async def handler(request):
            return Response(agive(request))
    else:
        streaming(routes, kind, "/", give)
    routes.get("/other")(lambda request: "other")
    with running(routes) as it:
        client = it.connect()
        client.send(get("/"))
        client.head()
        reader = threading.Thread(target=client.rest)
        reader.start()
        assert [it.connect().ask(get("/other")).body for _ in range(5)] == [b"other"] * 5
        gone.set()
        client.half_close()
        reader.join(PATIENCE)


@pytest.mark.parametrize("endless", [b"", b"p"])
def test_an_inline_body_that_never_waits_lets_the_others_run(endless):
    """Seen in turns: a thread that only computes starves the others of its process, whatever it does."""
    routes = Routes()
    streaming(routes, "inline", "/", lambda request: iter_forever(endless))
    routes.get("/other")(lambda request: "other")
    with Stage(routes) as stage:
        client, other = stage.connect(), stage.connect()
        client.sendall(get("/"))
        for _ in range(5):
            stage.loop.poll_once(0.05)
        assert client.recv(5) == b"HTTP/"
        other.sendall(get("/other"))
        for _ in range(5):
            stage.loop.poll_once(0.05)
        other.setblocking(False)
        assert other.recv(9) == b"HTTP/1.1 "


def iter_forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("declared", "sizes"), [(5, [3, 3]), (5, [2, 2]), (0, [1])])
def test_a_body_of_another_length_than_declared_cuts_the_connection(kind, declared, sizes, caplog):
    routes = Routes()
    streaming(routes, kind, "/", lambda request: (b"p" * size for size in sizes), Content_Length=str(declared))
    with running(routes) as it:
        client = it.connect()
        client.send(get("/"))
        assert client.head()[1]["content-length"] == str(declared)
        assert len(client.rest()) < max(declared, 1)
    assert "Content-Length" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_of_the_declared_length(kind):
    routes = Routes()
    streaming(routes, kind, "/", lambda request: iter_pieces(5), Content_Length="5")
    with running(routes) as it:
        client = it.connect()
        assert client.ask(get("/")).body == b"ppppp"
        head = client.ask(get("/", method="HEAD"))
        assert head.fields["content-length"] == "5"
        assert client.ask(get("/")).body == b"ppppp"


class Fatal(BaseException):
    pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(
    "error", [ValueError, HTTPError(400), SystemExit, Fatal, asyncio.CancelledError, GeneratorExit]
)
def test_a_body_that_fails_cuts_the_connection_without_a_last_chunk(kind, before, error, caplog):
    routes = Routes()

    def give(request: Request) -> Iterator[bytes]:
        for _ in range(before):
            yield b"piece"
        raise error

    streaming(routes, kind, "/", give)
    routes.get("/other")(lambda request: "other")
    with running(routes) as it:
        client = it.connect()
        client.send(get("/"))
        client.head()
        assert client.rest() == b"5\r\npiece\r\n" * before
        assert it.connect().ask(get("/other")).body == b"other"
        it.until(lambda: not it.server.thread_pool.unfinished)
    assert "a response's body failed: the connection is cut" in caplog.text


def test_an_interrupt_raised_on_a_thread_is_no_signals(caplog):
    routes = Routes()

    def give(request: Request) -> Iterator[bytes]:
        yield b"piece"
        raise KeyboardInterrupt

    streaming(routes, "threaded", "/", give)
    with running(routes) as it:
        client = it.connect()
        client.send(get("/"))
        client.rest()
        client = it.connect()
        client.send(get("/"))
        assert client.head()[0] == 200
    assert "the connection is cut" in caplog.text


def test_an_async_body_is_for_an_async_handler(caplog):
    routes = Routes()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    routes.get("/", threaded=True)(lambda request: Response(pieces()))
    with running(routes) as it:
        assert it.connect().ask(get("/")).status == 500
    assert "needs an async def handler" in caplog.text


def test_an_async_body_that_is_not_to_be_sent_is_closed(steps):
    routes = Routes()

    class Body:
        def __aiter__(self) -> Body:
            return self

        async def __anext__(self) -> bytes:
            return b"endless"

        async def aclose(self) -> None:
            steps.say("closed")

    @routes.get("/")
    async def handler(request):
        return Response(Body())

    with running(routes) as it:
        client = it.connect()
        client.ask(get("/", method="HEAD"))
        steps.hear("closed")
        steps.said.clear()
        client.send(get("/"))
        client.head()
        client.reset()
        steps.hear("closed")


def test_a_threaded_handlers_body_is_made_on_the_pool_below_async_hooks_too():
    routes = Routes()
    threads: list[threading.Thread] = []

    @routes.before
    async def nothing(request):
        await asyncio.sleep(0)

    def give(request: Request) -> Iterator[bytes]:
        threads.append(threading.current_thread())
        yield b"piece"

    streaming(routes, "threaded", "/", give)
    taking(routes, "threaded", "/in", lambda pieces: b"".join(pieces))
    with running(routes) as it:
        client = it.connect()
        assert client.ask(get("/")).body == b"piece"
        assert threads[0] is not it.on_loop(threading.current_thread)
        assert client.ask(post("/in", b"b" * 300_000)).body == b"b" * 300_000


def test_a_body_that_gives_on_after_its_client_has_gone_is_ended(steps):
    """It was told by what it reads, and swallows that: nobody takes what it gives."""
    routes = Routes()

    @routes.post("/", stream=True)
    async def handler(request):
        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"begun"
                while True:
                    try:
                        await anext(request.stream)
                    except ClientDisconnect:
                        yield b"nobody reads this"
            finally:
                steps.say("closed")

        return Response(pieces())

    with running(routes, graceful_timeout=PATIENCE) as it:
        client = it.connect()
        client.send(post("/", 100))
        client.head()
        assert client.chunk() == b"begun"
        client.reset()
        steps.hear("closed")
        it.until(lambda: not it.runner.asyncio_bridge)


# in


def send_until_full(client: Client) -> int:
    """Send until the server takes no more, and say how much it took."""
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += client.sock.send(bytes(256 * 1024))
    return sent


def collect(pieces: Any) -> Any:
    """All of a body: how it ended, and how much came."""
    size = 0
    try:
        if isinstance(pieces, _Step):
            return _collect_by_steps()
        for piece in pieces:
            size += len(piece)
    except (ClientDisconnect, HTTPError) as error:
        return f"{type(error).__name__} after {size}"
    return str(size)


def _collect_by_steps() -> Any:
    size = 0
    try:
        while (piece := (yield)) is not None:
            size += len(piece)
    except (ClientDisconnect, HTTPError) as error:
        return f"{type(error).__name__} after {size}"
    return str(size)


@pytest.fixture(params=WAITING_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Taker:
    """What a handler of `/take` does with its body, told by the test."""

    def __init__(self, kind: str, steps: Steps) -> None:
        self.kind = kind
        self.steps = steps
        self.routes = Routes()
        self.error: BaseException | None = None
        self.sizes: list[int] = []
        self.requests: list[Request] = []
        self.orders: list[int] = []
        self.changed = threading.Condition()
        self.routes.get("/other")(lambda request: "other")
        if kind == "threaded":
            self.routes.post("/take", threaded=True, stream=True)(self._in_thread)
        else:

            async def in_task(request: Request) -> Any:
                return await self._in_task(request)

            self.routes.post("/take", stream=True)(in_task)

    def order(self, pieces: int) -> None:
        """Have the handler take so many pieces more; 0: answer."""
        with self.changed:
            self.orders.append(pieces)
            self.changed.notify_all()

    def _in_thread(self, request: Request) -> Any:
        self._begin(request)
        while True:
            with self.changed:
                assert self.changed.wait_for(lambda: self.orders, PATIENCE)
                count = self.orders.pop(0)
            if not count:
                return f"{sum(self.sizes)}"
            for _ in range(count):
                try:
                    piece = next(request.stream, None)
                except BaseException as error:
                    self._failed(error)
                    raise
                if piece is None:
                    return f"all {sum(self.sizes)}"
                self._got(piece)

    async def _in_task(self, request: Request) -> Any:
        self._begin(request)
        while True:
            while not self.orders:
                await asyncio.sleep(0.001)
            count = self.orders.pop(0)
            if not count:
                return f"{sum(self.sizes)}"
            for _ in range(count):
                try:
                    piece = await anext(request.stream, None)
                except BaseException as error:
                    self._failed(error)
                    raise
                if piece is None:
                    return f"all {sum(self.sizes)}"
                self._got(piece)

    def _begin(self, request: Request) -> None:
        self.requests.append(request)
        self.steps.say("begun")

    def _got(self, piece: bytes) -> None:
        assert piece
        self.sizes.append(len(piece))
        self.steps.say(f"got {sum(self.sizes)}")

    def _failed(self, error: BaseException) -> None:
        self.error = error
        self.steps.say("failed")


@pytest.fixture
def taker(kind: str, steps: Steps) -> Iterator[Taker]:
    taker = Taker(kind, steps)
    yield taker
    taker.order(0)


def test_a_handler_begins_at_the_end_of_the_head_and_gets_what_comes(taker, steps):
    with running(taker.routes) as it:
        client = it.connect()
        client.send(post("/take", 10))
        steps.hear("begun")
        taker.order(100)
        client.send(b"abc")
        steps.hear("got 3")
        client.send(b"defghij" + get("/other"))
        assert [client.answer().body for _ in range(2)] == [b"all 10", b"other"]


@pytest.mark.parametrize("wire", [post("/take", b"whole"), chunked("/take", b"wh", b"ole")])
def test_a_body_that_came_with_its_head(taker, wire):
    taker.order(100)
    with running(taker.routes) as it:
        client = it.connect()
        client.send(wire + get("/other") + wire)
        assert client.answer().body == b"all 5"
        assert client.answer().body == b"other"
        taker.order(100)
        assert client.answer().body == b"all 10"


def test_a_request_without_a_body_has_an_empty_stream(taker):
    taker.order(1)
    with running(taker.routes) as it:
        client = it.connect()
        assert client.ask(get("/take", method="POST")).body == b"all 0"
        assert client.ask(get("/other")).status == 200


def test_what_is_not_taken_is_not_read(taker, steps):
    size = 8_000_000
    with running(taker.routes, clock=Clock(), body_timeout=1.0) as it:
        client = it.connect()
        client.sock.settimeout(0.1)
        client.send(post("/take", size))
        steps.hear("begun")
        sent = send_until_full(client)
        assert sent < size
        assert it.on_loop(lambda: a_connection(it).parser.received) == 0
        taker.order(1)
        it.until(lambda: taker.sizes)
        it.until(lambda: a_connection(it).parser.received >= HIGH_WATER)
        stream = taker.requests[0].stream
        for _ in range(20):
            assert it.on_loop(lambda: stream.size) < HIGH_WATER + READ_SIZE
        assert it.on_loop(lambda: a_connection(it).parser.received) <= taker.sizes[0] + HIGH_WATER + READ_SIZE
        # The body's time doesn't run while the handler has something to take.
        it.after(2.0)
        taker.order(10**9)
        client.sock.settimeout(PATIENCE)
        client.send(bytes(size - sent))
        assert client.answer().body == b"all %d" % size


def test_the_interim_answer_comes_at_the_first_read(taker, steps):
    with running(taker.routes) as it:
        client = it.connect()
        client.send(post("/take", 3, "Expect: 100-continue"))
        steps.hear("begun")
        client.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.sock.recv(1)
        client.sock.settimeout(PATIENCE)
        taker.order(9)
        assert client.head() == (100, {})
        client.send(b"abc")
        assert client.answer().body == b"all 3"
        assert client.ask(get("/other")).status == 200


def test_who_is_never_read_is_not_asked_for_its_body(taker):
    taker.order(0)
    with running(taker.routes) as it:
        client = it.connect()
        client.send(post("/take", 3, "Expect: 100-continue"))
        status, fields = client.head()
        assert (status, fields["connection"]) == (200, "close")


def test_a_body_that_pauses_too_long_while_its_handler_waits(taker, steps):
    taker.order(9)
    with running(taker.routes, body_timeout=0.1) as it:
        client = it.connect()
        client.send(post("/take", 10) + b"abc")
        answer = client.answer()
        assert (answer.status, answer.fields["connection"]) == (408, "close")
        assert isinstance(taker.error, HTTPError)


@pytest.mark.parametrize("wire", [post("/take", 1000), CHUNKED])
def test_a_body_below_the_least_rate(taker, steps, wire):
    """In bytes of content: a chunk's size that dribbles is none."""
    taker.order(10**9)
    with running(taker.routes, body_timeout=0.15, min_body_rate=10_000) as it:
        client = it.connect()
        client.send(wire)
        end = time.monotonic() + PATIENCE
        while "failed" not in steps.said:
            assert time.monotonic() < end
            client.sock.send(b"0" if b"chunked" in wire else b"x")
            time.sleep(0.02)
        assert client.answer().status == 408


@pytest.mark.parametrize("wire", [post("/take", 2000), chunked("/take", b"a" * 600, b"b" * 600)])
def test_max_body_holds(taker, wire):
    taker.order(10**9)
    with running(taker.routes, max_body=1000) as it:
        client = it.connect()
        client.send(wire)
        answer = client.answer()
        assert (answer.status, answer.fields["connection"]) == (413, "close")


def test_a_malformed_chunk_is_told_to_the_handler_and_the_client(taker, steps):
    taker.order(10**9)
    with running(taker.routes) as it:
        client = it.connect()
        client.send(chunked("/take", b"good", end=b""))
        steps.hear("got 4")
        client.send(b"nonsense\r\n")
        answer = client.answer()
        assert (answer.status, answer.fields["connection"]) == (400, "close")
        assert isinstance(taker.error, HTTPError)
        assert client.rest() == b""


@pytest.mark.parametrize("how", ["reset", "close", "half"])
@pytest.mark.parametrize("wire", [post("/take", 10), CHUNKED + b"a\r\n"])
def test_a_client_that_breaks_off(taker, steps, caplog, how, wire):
    taker.order(9)
    with running(taker.routes) as it:
        client = it.connect()
        client.send(wire + b"abc")
        steps.hear("got 3")
        client.half_close() if how == "half" else client.go(how)
        steps.hear("failed")
        assert isinstance(taker.error, ClientDisconnect)
        if how == "half":
            assert client.answer().status == 400
            assert client.rest() == b""
        it.until(lambda: not it.server.connections)
    assert len(taker.requests) == 1
    assert caplog.text == ""


def test_who_waits_for_the_body_hears_from_it_that_the_client_has_gone(taker, steps):
    """Though the connection ends before the handler has its turn: it isn't cancelled then, too."""
    taker.order(9)
    with running(taker.routes) as it:
        client = it.connect()
        client.send(post("/take", 10))
        it.until(lambda: taker.requests and taker.requests[0].stream.waits_for_piece)

        def go() -> None:
            connection = a_connection(it)
            client.half_close()
            connection.on_events(IN | OUT | RDHUP)
            client.reset()
            connection.on_events(IN | OUT | RDHUP | ERR | HUP)

        it.on_loop(go)
        steps.hear("failed")
        assert isinstance(taker.error, ClientDisconnect)
        it.until(lambda: not it.server.connections)


def test_a_client_that_goes_while_its_handler_does_something_else(taker, steps):
    with running(taker.routes) as it:
        client = it.connect()
        client.send(post("/take", 10))
        steps.hear("begun")
        client.reset()
        it.until(lambda: not it.server.connections)
        taker.order(1)
        if taker.kind == "threaded":
            steps.hear("failed")
            assert isinstance(taker.error, ClientDisconnect)
        it.until(lambda: not it.server.thread_pool.unfinished and not it.runner.asyncio_bridge)


def test_a_client_that_goes_behind_its_whole_body_is_asked_for(taker, steps):
    """Its end was told while the body was being read."""
    size = READ_SIZE + 30_000  # more than a read, less than the kernel holds
    with running(taker.routes) as it:
        client = it.connect()
        client.send(post("/take", size))
        steps.hear("begun")
        client.send(bytes(size))
        client.half_close()
        it.until(lambda: a_connection(it).half_closed)
        while sum(taker.sizes) < size:
            before = len(taker.sizes)
            taker.order(1)
            it.until(lambda before=before: len(taker.sizes) > before)  # type: ignore[misc]
        assert client.head() == (100, {})
        taker.order(0)
        assert client.answer().body == b"%d" % size


@pytest.mark.parametrize("size", [10, SKIP_LIMIT])
def test_a_little_that_is_not_read_is_skipped(taker, size):
    with running(taker.routes) as it:
        client = it.connect()
        for _ in range(2):
            taker.order(0)
            client.send(post("/take", size))
            assert client.answer().status == 200
            client.send(bytes(size) + get("/other"))
            assert client.answer().body == b"other"


@pytest.mark.parametrize("wire", [post("/take", SKIP_LIMIT + 1), CHUNKED])
def test_much_that_is_not_read_ends_the_connection(taker, wire):
    taker.order(0)
    with running(taker.routes) as it:
        client = it.connect()
        client.send(wire)
        answer = client.answer()
        assert answer.fields["connection"] == "close"
        client.send(bytes(200_000))  # which must not reset what was answered
        assert client.rest() == b""


@pytest.mark.parametrize("body", [bytearray(b"body"), memoryview(b"body"), "body", b"body"])
def test_what_is_not_read_ends_the_connection_whatever_the_answer_is_made_of(body):
    routes = Routes()
    routes.post("/", threaded=True, stream=True)(lambda request: Response(body))
    with running(routes) as it:
        client = it.connect()
        client.send(post("/", 10**7))
        answer = client.answer()
        assert (answer.body, answer.fields["connection"]) == (b"body", "close")
        assert client.rest() == b""


def test_what_is_not_read_ends_the_connection_though_the_answer_cannot_be_sent(caplog):
    routes = Routes()

    @routes.post("/", threaded=True, stream=True)
    def handler(request):
        return Response(iter([b"body"]), headers={"Bad\n": "name"})

    with running(routes) as it:
        client = it.connect()
        client.send(CHUNKED.replace(b"/take", b"/"))
        assert client.answer().status == 500
        assert client.rest() == b""


def test_the_rest_that_does_not_come_is_not_waited_for(taker):
    taker.order(0)
    with running(taker.routes, body_timeout=0.05) as it:
        client = it.connect()
        client.send(post("/take", 10))
        assert client.answer().status == 200
        it.until(lambda: not it.server.connections)
        assert client.rest() == b""


def test_who_reads_on_behind_the_answer_is_told():
    routes = Routes()
    errors: list[BaseException] = []
    readers: list[threading.Thread] = []

    @routes.post("/", threaded=True, stream=True)
    def handler(request):
        def read() -> None:
            try:
                request.stream.read()
            except RuntimeError as error:
                errors.append(error)

        readers.append(threading.Thread(target=read))
        readers[0].start()
        return "answered"

    with running(routes) as it:
        client = it.connect()
        client.send(post("/", 10))
        assert client.answer().body == b"answered"
        readers[0].join(PATIENCE)
        assert not readers[0].is_alive()
    assert "the request is answered" in str(errors[0])


# in and out


def echoing(routes: Routes, kind: str, calls: list[int]) -> None:
    if kind == "threaded":

        @routes.post("/echo", threaded=True, stream=True)
        def echo(request):
            calls.append(1)
            return Response(piece for piece in request.stream)
    else:

        @routes.post("/echo", stream=True)
        async def echo_in_task(request):
            calls.append(1)
            return Response(piece async for piece in request.stream)


def test_a_body_is_sent_back_while_it_comes(kind):
    routes = Routes()
    calls: list[int] = []
    echoing(routes, kind, calls)
    with running(routes) as it:
        client = it.connect()
        client.send(post("/echo", 9))
        client.head()
        for piece in (b"abc", b"def", b"ghi"):
            client.send(piece)
            assert client.chunk() == piece
        assert client.chunk() == b""
        body = bytes(range(256)) * 20_000
        sender = threading.Thread(target=client.send, args=(post("/echo", body) + post("/echo", b"more"),))
        sender.start()
        assert [client.answer().body == body, client.answer().body] == [True, b"more"]
        sender.join()


def test_an_echo_whose_client_reads_nothing_takes_no_more_than_it_must(kind):
    routes = Routes()
    echoing(routes, kind, [])
    with running(routes) as it:
        client = it.connect(SMALL)
        client.sock.settimeout(0.15)
        client.send(post("/echo", 16_000_000))
        send_until_full(client)
        assert it.on_loop(lambda: sum(map(len, a_connection(it).writer.buffers))) < 2 * READ_SIZE + 100


def echoing_in_spite(routes: Routes, kind: str, swallows: bool, calls: list[int]) -> str:
    """Declare an echo that may go on after its request has broken off; gives its path."""

    @routes.post("/threaded", threaded=True, stream=True)
    def echo(request):
        calls.append(1)

        def pieces() -> Iterator[bytes]:
            try:
                yield from request.stream
            except (ClientDisconnect, HTTPError):
                if not swallows:
                    raise
                yield b"broken"

        return Response(pieces())

    @routes.post("/async", stream=True)
    async def echo_in_task(request):
        calls.append(1)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in request.stream:
                    yield piece
            except (ClientDisconnect, HTTPError):
                if not swallows:
                    raise
                yield b"broken"

        return Response(pieces())

    return f"/{kind}"


@pytest.mark.parametrize("how", ["half", "malformed", "slow"])
@pytest.mark.parametrize("swallows", [True, False])
def test_a_body_that_breaks_off_while_it_is_sent_back(kind, how, swallows, caplog):
    """The handler isn't called again for what is left of its request, and no request follows."""
    routes = Routes()
    calls: list[int] = []
    path = echoing_in_spite(routes, kind, swallows, calls)
    with running(routes, body_timeout=0.1 if how == "slow" else 30.0) as it:
        client = it.connect()
        client.send(chunked(path, b"good", end=b""))
        client.head()
        assert client.chunk() == b"good"
        if how == "half":
            client.half_close()
        elif how == "malformed":
            client.send(b"nonsense\r\n")
        if swallows:
            assert [client.chunk(), client.chunk()] == [b"broken", b""]
        assert client.rest() == b""
    assert calls == [1]


# nothing is left


def reading(routes: Routes, kind: str) -> None:
    if kind == "threaded":
        routes.post("/read", threaded=True, stream=True)(lambda request: str(len(request.stream.read())))
        routes.post("/unread", threaded=True, stream=True)(lambda request: "unread")
    else:

        @routes.post("/read", stream=True)
        async def read(request):
            return str(len(await request.stream.read()))

        @routes.post("/unread", stream=True)
        async def unread(request):
            return "unread"


def held() -> Counter[str]:
    """What of hypoll's own is in memory."""
    kinds = (Exchange, Connection, RequestParser, RequestBody)
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, kinds))


@pytest.mark.parametrize("what", ["stream", "failing", "taken", "unread", "broken off", "gone"])
def test_nothing_of_a_stream_waits_for_the_collector(kind, what, caplog):
    caplog.set_level("CRITICAL", "hypoll.error")
    routes = Routes()

    def give(request: Request) -> Iterator[bytes]:
        yield b"piece"
        if what == "failing":
            raise ValueError
        while what == "gone":
            yield bytes(100_000)

    streaming(routes, kind, "/", give)
    echoing(routes, kind, [])
    reading(routes, kind)
    wires = {
        "stream": get("/"),
        "failing": get("/"),
        "gone": get("/"),
        "taken": post("/read", b"b" * 200_000),
        "unread": post("/unread", b"unread"),
        "broken off": post("/read", 100) + b"abc",
    }

    def visit(it: Running) -> None:
        client = it.connect()
        client.send(wires[what])
        if what == "broken off":
            client.half_close()
        if what == "gone":
            client.head()
            client.reset()
        elif what == "failing":
            client.rest()
            client.close()
        else:
            client.answer()
            client.close()
        it.until(lambda: not (it.server.connections or it.server.thread_pool.unfinished or it.runner.asyncio_bridge))

    with running(routes) as it:
        visit(it)
        gc.collect()
        gc.disable()
        try:
            before = held()  # what is still let go of in this moment may be among it
            for _ in range(3):
                visit(it)
            end = time.monotonic() + PATIENCE
            while held() - before and time.monotonic() < end:
                time.sleep(0.01)
            assert not held() - before
        finally:
            gc.enable()
