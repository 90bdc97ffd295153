"""WebSockets of Routes: handlers of both kinds, refusals, hooks, origins, ends."""

from __future__ import annotations

import asyncio
import gzip
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest

from hypoll import HTTPError, Request, Response, Routes
from hypoll.app import RouteError
from hypoll.websocket.errors import SocketClosed
from hypoll.websocket.frames import Close
from tests.support.clock import PATIENCE
from tests.support.frames import BINARY, CLOSE, PING, PONG, TEXT, close, frame
from tests.support.server import Running, running
from tests.support.websocket import handshake, opened

KINDS = ["async", "threaded"]


class App:
    """Routes whose handlers are there in both kinds, and what they have seen."""

    def __init__(self) -> None:
        self.routes = Routes()
        self.seen: list[Any] = []
        self.event = threading.Event()
        self.gone = threading.Event()

    def note(self, value: Any) -> None:
        self.seen.append(value)
        self.event.set()

    def wait(self) -> Any:
        assert self.event.wait(PATIENCE)
        return self.seen[-1]


def declare(app: App) -> None:  # noqa: C901 - the handlers of all tests, both kinds of each
    routes = app.routes

    def both(path: str, **options: Any) -> Any:
        """Declare a generator of (name, arguments) of the socket's calls as a handler of each kind."""

        def decorate(script: Any) -> Any:
            @routes.websocket("/async" + path, **options)
            async def task(socket, **params):
                await drive(script(socket, **params), lambda call: call)

            @routes.websocket("/threaded" + path, threaded=True, **options)
            def thread(socket, **params):
                steps = drive(script(socket, **params), None)
                with pytest.raises(StopIteration):
                    steps.send(None)

            return script

        return decorate

    async def drive(steps: Any, resolve: Any) -> None:
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                call = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration:
                return
            answer = error = None
            try:
                answer = call()
                if resolve is not None:
                    answer = await answer
            except SocketClosed as closed:
                error = closed

    @both("/echo/{room}")
    def echo(socket, room):
        while True:
            message = yield socket.receive
            yield lambda message=message: socket.send(message)

    @both("/json", subprotocols=["b", "a"])
    def json(socket):
        value = yield socket.receive_json
        yield lambda: socket.send_json([value, socket.subprotocol])
        try:
            yield socket.receive_json
        except SocketClosed as closed:
            app.note((closed.code, socket.close_code, socket.closed))
            raise

    @both("/close")
    def close_it(socket):
        yield lambda: socket.send("bye")
        yield lambda: socket.close(4001, "enough")
        yield lambda: socket.close(4002)
        try:
            yield lambda: socket.send("late")
        except SocketClosed:
            app.note("late")
        try:
            yield socket.receive
        except SocketClosed as closed:
            app.note((closed.code, closed.reason))

    @both("/refuse")
    def refuse(socket):
        yield lambda: socket.close()
        app.note(socket.accepted)

    @both("/refuse-and-go-on")
    def refuse_and_go_on(socket):
        yield lambda: socket.close()
        try:
            yield lambda: socket.send("nobody gets this")
        except SocketClosed:
            app.note("heard of it")
            raise

    @both("/another-s-end")
    def end_of_another(socket):
        raise SocketClosed(Close(1006))
        yield

    @both("/wait")
    def wait(socket):
        app.note("waits")
        app.gone.wait(PATIENCE)
        try:
            yield socket.accept
        except SocketClosed:
            app.note("gone")
            raise

    @both("/forbid")
    def forbid(socket):
        raise HTTPError(401, "who are you?", {"WWW-Authenticate": "Basic"})
        yield

    @both("/fail")
    def fail(socket):
        yield lambda: socket.send("so far")
        raise RuntimeError("of the application's own")

    @both("/fail-early")
    def fail_early(socket):
        raise RuntimeError("before the handshake")
        yield

    @both("/nothing")
    def nothing(socket):
        return
        yield

    @both("/accept", subprotocols=["a"])
    def accept(socket):
        yield lambda: socket.accept("b", {"Set-Cookie": "a=b"})
        yield lambda: socket.send(socket.request.headers["x-field"])
        yield lambda: socket.ping(b"you?")

    @both("/until-closed")
    def until_closed(socket):
        yield socket.accept
        try:
            while True:
                message = yield socket.receive
                app.seen.append(message)
        except SocketClosed as closed:
            app.note((closed.code, closed.reason))

    @routes.websocket("/async/iterate")
    async def iterate(socket):
        async for message in socket:
            await socket.send(message)
        app.note("over")

    @routes.websocket("/threaded/iterate", threaded=True)
    def iterate_threaded(socket):
        for message in socket:
            socket.send(message)
        app.note("over")


@pytest.fixture(scope="module")
def served():
    app = App()
    declare(app)
    with running(app.routes) as it:
        yield app, it


@pytest.fixture
def app(served: tuple[App, Running]) -> App:
    app = served[0]
    app.seen.clear()
    app.event.clear()
    return app


@pytest.fixture
def it(served: tuple[App, Running]) -> Iterator[Running]:
    running = served[1]
    yield running
    for client in running.clients:
        client.close()
    running.clients.clear()
    running.until(lambda: not running.server.connections)


@pytest.mark.parametrize("kind", KINDS)
def test_an_echo(it, kind):
    socket = opened(it, f"/{kind}/echo/lobby")
    for first, payload in (
        (TEXT, b"hello"),
        (BINARY, b"\x00\xff"),
        (TEXT, "µ€😀".encode()),
        (BINARY, b"x" * 70_000),
        (TEXT, b""),
    ):
        socket.send(first, payload)
        assert socket.frame() == (first, payload)
    socket.send(CLOSE, b"\x03\xe8")
    assert socket.close_code() == 1000
    assert socket.ended()


@pytest.mark.parametrize("kind", KINDS)
def test_what_came_with_the_handshake_and_many_messages_in_one_write(it, kind):
    socket = opened(it, f"/{kind}/echo/a", frame(TEXT, b"first") + frame(PING, b"p"))
    assert sorted([socket.frame(), socket.frame()]) == [(TEXT, b"first"), (PONG, b"p")]
    socket.client.send(b"".join(frame(TEXT, b"%d" % number) for number in range(500)))
    assert [socket.frame().payload for _ in range(500)] == [b"%d" % number for number in range(500)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_iteration_ends_with_the_socket(app, it, kind):
    socket = opened(it, f"/{kind}/iterate")
    socket.send(TEXT, b"a")
    assert socket.frame() == (TEXT, b"a")
    socket.client.send(close(4000))
    assert socket.close_code() == 4000
    assert app.wait() == "over"


@pytest.mark.parametrize("kind", KINDS)
def test_json_and_subprotocols(app, it, kind):
    socket = opened(it, f"/{kind}/json", Sec_WebSocket_Protocol="c, a, b")
    assert socket.fields["sec-websocket-protocol"] == "b", "the server's favourite of those offered"
    socket.send(TEXT, b'{"a": 1}')
    assert socket.frame() == (TEXT, b'[{"a":1},"b"]')
    socket.send(TEXT, b"{")
    assert socket.close_code() == 1007
    assert app.wait() == (1007, 1007, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subprotocol_that_nobody_offers_isnt_named(it, kind):
    assert "sec-websocket-protocol" not in opened(it, f"/{kind}/json").fields
    assert "sec-websocket-protocol" not in opened(it, f"/{kind}/json", Sec_WebSocket_Protocol="z").fields


@pytest.mark.parametrize("kind", KINDS)
def test_the_handler_closes(app, it, kind):
    socket = opened(it, f"/{kind}/close")
    assert socket.frame() == (TEXT, b"bye")
    assert socket.frame() == (CLOSE, (4001).to_bytes(2, "big") + b"enough")
    app.wait()
    socket.client.send(frame(TEXT, b"not seen") + close(4001, "ok"))
    assert socket.ended()
    it.until(lambda: len(app.seen) == 2)
    assert app.seen == ["late", (4001, "ok")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("refuse", 403),
        ("refuse-and-go-on", 403),
        ("forbid", 401),
        ("fail-early", 500),
        ("another-s-end", 500),
        ("nothing", 403),
    ],
)
def test_a_handshake_is_refused(it, kind, path, status, caplog):
    client = it.connect()
    for _ in range(2):  # the connection goes on
        answer = client.ask(handshake(f"/{kind}/{path}"))
        assert answer.status == status
        assert answer.fields["content-type"] == "application/problem+json"
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 2 * (status == 500)


def test_a_client_that_goes_before_it_is_accepted_is_no_failure_of_a_thread(app, it, caplog):
    app.gone.clear()
    client = it.connect()
    client.send(handshake("/threaded/wait"))
    assert app.wait() == "waits"
    client.reset()
    it.until(lambda: not it.server.connections)
    app.gone.set()
    it.until(lambda: not it.server.thread_pool.unfinished)
    assert app.seen == ["waits", "gone"]
    assert [one for one in caplog.records if one.levelno == logging.ERROR] == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [*((kind, body) for kind in KINDS for body in ("bytes", "pieces")), ("async", "pieces of a task")],
)
def test_a_refusal_is_an_answer_with_all_that_it_may_have(kind, body):
    routes = Routes()
    done = threading.Event()

    async def give() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b"):
            await asyncio.sleep(0)
            yield piece

    def refusal() -> Response:
        made: Any = {"bytes": b"ab", "pieces": iter([b"a", b"b"]), "pieces of a task": give()}[body]
        return Response(made, 409, background=done.set)

    if kind == "async":

        @routes.websocket("/")
        async def task(socket):
            return refusal()
    else:

        @routes.websocket("/", threaded=True)
        def thread(socket):
            return refusal()

    with running(routes) as it:
        client = it.connect()
        for _ in range(2):
            done.clear()
            answer = client.ask(handshake("/"))
            assert (answer.status, answer.body) == (409, b"ab")
            assert done.wait(PATIENCE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_closes_and_is_logged_once(it, kind, caplog):
    socket = opened(it, f"/{kind}/fail")
    assert socket.frame() == (TEXT, b"so far")
    assert socket.close_code() == 1011
    socket.client.send(close(1011))
    assert socket.ended()
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert f"WebSocket /{kind}/fail failed, request " in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("kind", KINDS)
def test_accept_with_a_subprotocol_and_fields(it, kind):
    socket = opened(it, f"/{kind}/accept", Sec_WebSocket_Protocol="a,b", X_Field="value")
    assert socket.fields["sec-websocket-protocol"] == "b"
    assert socket.fields["set-cookie"] == "a=b"
    assert [socket.frame(), socket.frame()] == [(TEXT, b"value"), (PING, b"you?")]
    assert socket.close_code() == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_subprotocol_that_wasnt_offered_is_the_applications_error(it, kind, caplog):
    assert it.connect().ask(handshake(f"/{kind}/accept")).status == 500
    assert "doesn't offer the subprotocol 'b'" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
def test_a_client_that_goes_without_a_word(app, it, kind, how):
    socket = opened(it, f"/{kind}/until-closed")
    socket.send(TEXT, b"last words")
    it.until(lambda: app.seen)
    socket.client.half_close() if how == "half-close" else socket.client.go(how)
    it.until(lambda: not it.server.connections)
    it.until(lambda: app.seen == ["last words", (1006, "")])


@pytest.mark.parametrize("kind", KINDS)
def test_messages_before_the_close_come_before_it(app, it, kind):
    socket = opened(it, f"/{kind}/until-closed", frame(TEXT, b"1") + frame(TEXT, b"2") + close(1001, "gone"))
    assert socket.close_code() == 1001
    it.until(lambda: len(app.seen) == 3)
    assert app.seen == ["1", "2", (1001, "gone")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(TEXT, b"a", None), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(0x83), 1002),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009),
        (close(1005), 1002),
    ],
)
def test_a_fault_of_the_peer(app, it, kind, raw, code):
    socket = opened(it, f"/{kind}/until-closed")
    socket.client.send(frame(TEXT, b"before") + raw + frame(TEXT, b"behind") * 1000)
    assert socket.close_code() == code
    assert socket.ended(), "and no reset destroys what was sent"
    it.until(lambda: len(app.seen) == 2)
    assert (app.seen[0], app.seen[1][0]) == ("before", code)


REFUSED = {
    "no-upgrade": (handshake("/async/echo/a", Upgrade=None), 426),
    "another-upgrade": (handshake("/async/echo/a", Upgrade="h2c"), 426),
    "no-connection-option": (handshake("/async/echo/a", Connection="keep-alive"), 426),
    "version-8": (handshake("/async/echo/a", Sec_WebSocket_Version="8"), 426),
    "no-version": (handshake("/async/echo/a", Sec_WebSocket_Version=None), 426),
    "no-key": (handshake("/async/echo/a", Sec_WebSocket_Key=None), 400),
    "short-key": (handshake("/async/echo/a", Sec_WebSocket_Key="YWJj"), 400),
    "key-not-base64": (handshake("/async/echo/a", Sec_WebSocket_Key="!" * 24), 400),
    "subprotocol-no-token": (handshake("/async/echo/a", Sec_WebSocket_Protocol="a b"), 400),
    "extension-malformed": (handshake("/async/echo/a", Sec_WebSocket_Extensions="a; b=="), 400),
    "http-1.0": (handshake(line="GET /async/echo/a HTTP/1.0"), 426),
    "post": (handshake(line="POST /async/echo/a HTTP/1.1", Content_Length="0"), 405),
    "no-such-path": (handshake("/nowhere"), 404),
    "other-origin": (handshake("/async/echo/a", Origin="http://evil.example"), 403),
    "null-origin": (handshake("/async/echo/a", Origin="null"), 403),
    "origin-of-another-port": (handshake("/async/echo/a", Origin="http://h:8080"), 403),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_handshake_is_refused(it, name):
    raw, status = REFUSED[name]
    answer = it.connect().ask(raw)
    assert answer.status == status
    if status == 426:
        assert answer.fields["upgrade"] == "websocket"
        assert answer.fields["sec-websocket-version"] == "13"


def test_content_makes_it_no_handshake(it):
    client = it.connect()
    assert client.ask(handshake("/async/echo/a", Content_Length="3") + b"abc").status == 426


ACCEPTED: dict[str, dict[str, Any]] = {
    "any-case": {"Upgrade": "WebSocket", "Connection": "keep-alive, uPGRADE"},
    "a-list": {"Upgrade": "foo, websocket"},
    "own-origin": {"Origin": "http://h"},
    "own-origin-of-https": {"Origin": "https://h"},
    "own-origin-with-port": {"Origin": "http://h:80"},
    "unknown-extension": {"Sec_WebSocket_Extensions": "x-webkit-deflate-frame, mux; max-channels=4"},
    "empty-extensions": {"Sec_WebSocket_Extensions": ""},
    "length-0": {"Content_Length": "0"},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_a_handshake_is_accepted(it, name):
    socket = opened(it, "/async/echo/a", frame(TEXT, b"a"), **ACCEPTED[name])
    assert socket.frame() == (TEXT, b"a")
    assert "sec-websocket-extensions" not in socket.fields


def test_head_of_a_websocket_path_is_refused(it):
    client = it.connect()
    client.send(handshake(line="HEAD /async/echo/a HTTP/1.1"))
    assert client.answer("HEAD").status == 426


def test_a_handshake_by_byte(it):
    client = it.connect()
    for byte in handshake("/async/echo/a") + frame(TEXT, b"a"):
        client.send(bytes([byte]))
    assert client.head()[0] == 101
    assert client.take(3) == b"\x81\x01a"


@pytest.mark.parametrize("kind", KINDS)
def test_frames_byte_by_byte(it, kind):
    socket = opened(it, f"/{kind}/echo/a")
    for byte in frame(TEXT, b"a" * 130) + frame(PING, b"p") + frame(0x01, b"b") + frame(0x80, b"c"):
        socket.client.send(bytes([byte]))
    assert sorted(socket.frame() for _ in range(3)) == [(TEXT, b"a" * 130), (TEXT, b"bc"), (PONG, b"p")]


def test_a_handshake_behind_another_request(it):
    client = it.connect()
    client.send(b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n" + handshake("/async/echo/a") + frame(TEXT, b"a"))
    assert client.answer().status == 404
    assert client.head()[0] == 101
    assert client.take(3) == b"\x81\x01a"


# hooks, origins, declaring


def test_hooks_run_before_and_see_refusals_only():
    routes = Routes()
    seen = []

    @routes.before
    def before(request):
        seen.append(("before", request.path))
        if "x-stop" in request.headers:
            return Response("stopped", 418)
        return None

    @routes.after
    def after(request, response):
        seen.append(("after", response.status))

    @routes.error(LookupError)
    def lookup(request, error):
        return "looked up", 409

    @routes.websocket("/async")
    async def task(socket):
        if "x-fail" in socket.request.headers:
            raise LookupError
        await socket.send("a")

    @routes.websocket("/threaded", threaded=True)
    def thread(socket):
        if "x-fail" in socket.request.headers:
            raise LookupError
        socket.send("a")

    with running(routes) as it:
        for path in ("/async", "/threaded"):
            socket = opened(it, path)
            assert socket.frame() == (TEXT, b"a")
            assert seen == [("before", path)]
            seen.clear()
            assert it.connect().ask(handshake(path, X_Stop="1")).status == 418
            assert it.connect().ask(handshake(path, X_Fail="1")).status == 409
            assert it.connect().ask(handshake(path, Sec_WebSocket_Version="1")).status == 426
            assert seen == [
                ("before", path),
                ("after", 418),
                ("before", path),
                ("after", 409),
                ("before", path),
                ("after", 426),
            ]
            seen.clear()


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_finished_as_any_answer_is(kind, mounted):
    routes = Routes()

    @routes.websocket("/async")
    async def task(socket):
        return {"why": "x" * 1000}, 409

    @routes.websocket("/threaded", threaded=True)
    def thread(socket):
        return {"why": "x" * 1000}, 409

    outer = Routes() if mounted else routes
    outer.cors("https://app.example")
    outer.secure_headers()
    outer.compress()
    if mounted:
        outer.mount("/m", routes)
    path = f"/m/{kind}" if mounted else f"/{kind}"
    fields = {"Accept_Encoding": "gzip", "Origin": "https://app.example", "Host": "app.example"}
    with running(outer) as it:
        client = it.connect()
        answer = client.ask(handshake(path, **fields))
        assert (answer.status, answer.fields["content-encoding"]) == (409, "gzip")
        assert gzip.decompress(answer.body) == orjson.dumps({"why": "x" * 1000})
        plain = client.ask(handshake(path, Upgrade=None, **fields))
        assert plain.status == 426
        for each in (answer, plain):
            assert each.fields["access-control-allow-origin"] == "https://app.example"
            assert each.fields["x-content-type-options"] == "nosniff"
            assert "Origin" in each.fields["vary"]


def test_async_hooks_before_a_threaded_handler():
    routes = Routes()

    @routes.before
    async def before(request):
        await asyncio.sleep(0)
        request.user = "me"

    @routes.websocket("/", threaded=True)
    def thread(socket):
        assert threading.current_thread() is not threading.main_thread()
        for message in socket:
            socket.send(f"{socket.request.user}: {message}")

    with running(routes) as it:
        socket = opened(it)
        socket.send(TEXT, b"hi")
        assert socket.frame() == (TEXT, b"me: hi")
        socket.client.send(close(1000))
        assert socket.close_code() == 1000


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (["https://a.example"], "https://a.example", 101),
        (["https://a.example/"], "https://A.example", 101),
        (["https://a.example"], "http://a.example", 403),
        (["https://a.example"], "http://h", 403),
        (["*"], "null", 101),
        ([], "http://h", 403),
        (None, "http://h", 101),
    ],
)
def test_whose_pages_may_open_it(origins, origin, status):
    routes = Routes()

    @routes.websocket("/", origins=origins)
    async def accept(socket):
        await socket.accept()

    with running(routes) as it:
        client = it.connect()
        client.send(handshake(Origin=origin))
        assert client.head()[0] == status


def test_the_host_that_a_trusted_proxy_names_is_the_own():
    routes = Routes()

    @routes.websocket("/")
    async def accept(socket):
        await socket.accept()

    for allowed, status in (("127.0.0.1", 101), ("10.0.0.0/8", 403)):
        with running(routes, forwarded_allow_ips=(allowed,)) as it:
            client = it.connect()
            client.send(handshake(Origin="https://public.example", X_Forwarded_Host="public.example"))
            assert client.head()[0] == status


def test_mounted():
    inner, outer = Routes(), Routes()

    @inner.websocket("/{room}")
    async def chat(socket, room, tenant=""):
        await socket.send(f"{tenant}/{room}")

    outer.mount("/{tenant}", inner)
    with running(outer) as it:
        assert opened(it, "/a/b").frame() == (TEXT, b"a/b")


def test_what_cant_be_declared():
    routes = Routes()
    with pytest.raises(RouteError, match="must be an async def, or have threaded=True"):
        routes.websocket("/")(lambda socket: None)
    with pytest.raises(RouteError, match="must take"):

        @routes.websocket("/{room}")
        async def no_room(socket): ...

    with pytest.raises(RouteError, match="lists"):
        routes.websocket("/", subprotocols="chat")
    routes.get("/a")(lambda request: "")
    with pytest.raises(RouteError, match="collides"):

        @routes.websocket("/a")
        async def again(socket): ...


def test_called_without_a_server_it_is_refused():
    routes = Routes()

    @routes.websocket("/", threaded=True)
    def chat(socket): ...

    assert routes(Request("GET", b"/")).status == 426


def test_a_plain_route_takes_no_notice_of_an_upgrade():
    routes = Routes()
    routes.get("/")(lambda request: "plain")
    with running(routes) as it:
        assert it.connect().ask(handshake()).body == b"plain"
