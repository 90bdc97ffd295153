"""WSGI applications through a real server (PEP 3333): the environment, the answer's head and body, what is closed."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
import requests

from hypoll import Request, Routes
from hypoll.app import RouteError
from hypoll.protocol.header_section import EMPTY_SECTION, HeaderSection
from hypoll.protocol.peer import Peer
from hypoll.protocol.serializer import CONTINUE
from hypoll.protocol.slices import FilePart
from hypoll.protocol.validation import METHODS
from hypoll.testing import TestClient
from hypoll.wsgi import response
from hypoll.wsgi.application import WSGI, ErrorStream, check_application, service_of
from hypoll.wsgi.response import ResponseStart
from tests.support.client import PATIENCE, Client, address_of

PLAIN = [("Content-Type", "text/plain")]
COOKIES = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]


class App:
    """An application whose answer a test gives; keeps the environments it was called with."""

    def __init__(self, answer: Callable[[dict[str, Any], Any], Iterable[bytes]]) -> None:
        self.answer = answer
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.environs.append(environ)
        return self.answer(environ, start_response)


class Body:
    """An iterable with a `close`, which notes the thread that called it."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = list(pieces)
        self.closed: list[str] = []
        self.done = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece() if callable(piece) else piece

    def close(self) -> None:
        self.closed.append(threading.current_thread().name)
        self.done.set()

    def was_closed_once_on_the_pool(self) -> bool:
        self.done.wait(PATIENCE)
        return len(self.closed) == 1 and self.closed[0].startswith("hypoll-")


def giving(
    body: Any, status: str = "200 OK", headers: list[tuple[str, str]] = PLAIN
) -> Callable[[dict[str, Any], Any], Any]:
    """An application that answers with this head and body."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return application


@contextmanager
def served(application: Any, **settings: Any) -> Iterator[TestClient]:
    with TestClient(application, **settings) as client:
        yield client


def connect(client: TestClient) -> Client:
    return Client(address_of(client.base_url))


def exchange(client: TestClient, *pieces: bytes) -> bytes:
    """What comes back until the server closes."""
    with connect(client) as peer:
        for piece in pieces:
            peer.send(piece)
        return peer.rest()


# the environment


def environ_of(
    target: bytes = b"/", *fields: tuple[str, str], client: tuple[str, int] = ("192.0.2.7", 4711), **how: Any
) -> dict[str, Any]:
    section = HeaderSection(fields)
    section.host = dict(fields).get("host")
    request = Request(how.pop("method", "GET"), target, section, Peer(client, how.pop("scheme", "http")))
    request.authority = how.pop("authority", None)
    request.minor = how.pop("minor", 1)
    return WSGI(giving([]), **how).environ(request)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        (environ_of(method="PUT"), {"REQUEST_METHOD": "PUT", "PATH_INFO": "/", "QUERY_STRING": "", "SCRIPT_NAME": ""}),
        (environ_of(b"/a%20b?c=%20d?e"), {"PATH_INFO": "/a b", "QUERY_STRING": "c=%20d?e"}),
        (environ_of(b"/%C3%A9%2Fx"), {"PATH_INFO": "/\xc3\xa9/x", "RAW_URI": "/%C3%A9%2Fx"}),
        (environ_of(), {"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "4711", "SERVER_PROTOCOL": "HTTP/1.1"}),
        (environ_of(minor=0), {"SERVER_PROTOCOL": "HTTP/1.0", "SERVER_NAME": "localhost", "SERVER_PORT": "80"}),
        (environ_of(client=("", 0)), {"REMOTE_ADDR": "", "REMOTE_PORT": "0"}),
        (environ_of(b"/", ("host", "a.example:81")), {"SERVER_NAME": "a.example", "SERVER_PORT": "81"}),
        (environ_of(b"/", ("host", "[::1]")), {"SERVER_NAME": "[::1]", "SERVER_PORT": "80", "HTTP_HOST": "[::1]"}),
        (environ_of(b"/", ("host", "[::1]:8")), {"SERVER_NAME": "[::1]", "SERVER_PORT": "8"}),
        (
            environ_of(b"/", ("host", "a"), scheme="https"),
            {"SERVER_NAME": "a", "SERVER_PORT": "443", "wsgi.url_scheme": "https"},
        ),
        (environ_of(b"/", ("host", "a"), authority="b:1"), {"HTTP_HOST": "b:1", "SERVER_NAME": "b"}),
        (environ_of(b"/", ("x-y", "1"), ("x-y", "2"), ("x-y", "3")), {"HTTP_X_Y": "1, 2, 3"}),
        (environ_of(b"/", ("cookie", "a=1"), ("cookie", "b=2")), {"HTTP_COOKIE": "a=1; b=2"}),
        (environ_of(b"/", ("x_y", "forged"), ("x-y", "real")), {"HTTP_X_Y": "real"}),
        (environ_of(b"/", ("x_y", "forged")), {"HTTP_X_Y": None}),
        (environ_of(b"/", ("content_length", "9")), {"CONTENT_LENGTH": None, "HTTP_CONTENT_LENGTH": None}),
        (environ_of(b"/", ("content-type", "text/x")), {"CONTENT_TYPE": "text/x", "HTTP_CONTENT_TYPE": None}),
        (environ_of(b"/shop/a", script_name="/shop"), {"SCRIPT_NAME": "/shop", "PATH_INFO": "/a"}),
        (environ_of(b"/sh%6Fp", script_name="/shop/"), {"SCRIPT_NAME": "/shop", "PATH_INFO": ""}),
        (environ_of(), {"wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False}),
        (environ_of(multiprocess=True), {"wsgi.multiprocess": True, "wsgi.version": (1, 0)}),
    ],
)
def test_the_environment(environ, wanted):
    assert {key: environ.get(key) for key in wanted} == wanted
    assert type(environ) is dict


def test_requests_of_one_section_have_environments_of_their_own():
    application = WSGI(giving([]))
    first, second = (application.environ(Request("GET", b"/", HeaderSection((("x-a", "1"),)))) for _ in range(2))
    first["HTTP_X_A"] = "changed"
    assert second["HTTP_X_A"] == "1"
    request = Request("GET", b"/", EMPTY_SECTION)
    application.environ(request)["wsgi.multithread"] = "changed"
    assert application.environ(request)["wsgi.multithread"] is True


def test_the_environment_of_a_real_request():
    app = App(giving([b"ok"]))
    with served(app, script_name="/shop") as client:
        client.post("/shop/x?y=1", data=b"abc", headers={"Content-Type": "a/b", "X-Y": "1", "X_Y": "2"})
        outside = [client.get(path).status_code for path in ("/", "/shopping", "/shop")]
        (environ, _) = app.environs
        port = client.base_url.rpartition(":")[2]
    wanted = {
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/x",
        "QUERY_STRING": "y=1",
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "3",
        "HTTP_X_Y": "1",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": port,
    }
    assert {key: environ[key] for key in wanted} == wanted
    assert outside == [404, 404, 200]


def test_the_script_name_of_the_process_environment(monkeypatch):
    monkeypatch.setenv("SCRIPT_NAME", "/env")
    assert service_of(giving([])).script_name == "/env"  # type: ignore[attr-defined]
    assert service_of(giving([]), script_name="/own").script_name == "/own"  # type: ignore[attr-defined]


def test_wsgi_errors_are_records_of_the_log(caplog):
    stream = ErrorStream()
    print("one\ntwo", 3, file=stream)
    print(file=stream)
    stream.writelines(["a\n", "b\n"])
    stream.write("c")
    other = threading.Thread(target=lambda: print("of another thread", file=stream))
    other.start()
    other.join()
    stream.flush()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["one\ntwo 3", "a\nb", "of another thread", "c"]
    with pytest.raises(TypeError, match="takes str, not bytes"):
        stream.write(b"x")  # type: ignore[arg-type]


def test_what_was_written_of_a_line_is_logged_with_its_request(caplog):
    def application(environ, start_response):
        environ["wsgi.errors"].write("half a line")
        return giving([b"ok"])(environ, start_response)

    with served(application) as client:
        client.get("/")
        assert [record.getMessage() for record in caplog.records] == ["half a line"]


# what is served


async def _asgi(scope: Any, receive: Any, send: Any) -> None: ...


class _ASGI:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class _Class:
    def __init__(self, environ: Any, start_response: Any) -> None:
        start_response("200 OK", PLAIN)

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"of a class"])


@pytest.mark.parametrize(
    ("application", "words"),
    [
        (_asgi, "_asgi is an ASGI application"),
        (_ASGI(), "is an ASGI application"),
        (lambda scope, receive, send: None, "is an ASGI application"),
        (lambda: None, "is no WSGI application: it can't be called with environ and start_response"),
        (5, "5 is a int, neither a hypoll.Routes nor a WSGI application"),
    ],
)
def test_what_is_no_wsgi_application_is_told_why(application, words):
    with pytest.raises(TypeError, match=words):
        check_application(application)
    if "ASGI" not in words:
        with pytest.raises(TypeError, match=words):
            TestClient(application)


def test_what_is_one():
    some: tuple[Any, ...] = (_Class, App(giving([])), validator(giving([])), lambda environ, start, extra=None: [])
    for application in some:
        check_application(application)
    routes = Routes()
    assert service_of(routes) is routes
    assert service_of(routes.wsgi) is routes
    with served(_Class) as client:
        assert client.get("/").content == b"of a class"


def with_async_handlers() -> Routes:
    inner, routes = Routes(), Routes()
    routes.get("/fine")(lambda request: "fine")
    routes.get("/thread", threaded=True)(lambda request: "fine")

    @routes.get("/first")
    async def first(request): ...

    @inner.post("/second", stream=True)
    async def second(request): ...

    @inner.before
    async def look(request): ...

    @routes.on_start
    async def begin(): ...

    routes.mount("/inner", inner)
    return routes


def test_what_is_async_is_named_in_one_error():
    with pytest.raises(RouteError, match=r"routes\.wsgi serves no async def") as caught:
        _ = with_async_handlers().wsgi
    named = str(caught.value).partition("these are: ")[2].split(", ")
    assert named[:2] == ["GET /first", "POST /inner/second"]
    assert {name.rpartition(".")[2] for name in named[2:]} == {"begin", "look"}
    assert len(named) == 4


async def late(*_: Any) -> None: ...


@pytest.mark.parametrize(
    "declare",
    [
        lambda routes, inner: routes.get("/late")(late),
        lambda routes, inner: inner.get("/late")(late),
        lambda routes, inner: routes.mount("/more", with_async_handlers()),
        lambda routes, inner: routes.before(late),
        lambda routes, inner: inner.after(late),
        lambda routes, inner: routes.error(KeyError)(late),
        lambda routes, inner: routes.on_start(late),
        lambda routes, inner: routes.on_stop(late),
        lambda routes, inner: inner.on_start(late),
    ],
)
def test_what_is_declared_async_afterwards_is_refused_too(declare):
    inner, routes = Routes(), Routes()
    routes.mount("/inner", inner)
    assert callable(routes.wsgi)
    with pytest.raises(RouteError, match=r"late|more"):
        declare(routes, inner)


# the answer's head


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        ("200", PLAIN, ValueError),
        ("OK", PLAIN, ValueError),
        (200, PLAIN, TypeError),
        ("101 Switching Protocols", PLAIN, ValueError),
        ("600 More", PLAIN, ValueError),
        ("200 OK\r\nX: y", PLAIN, ValueError),
        ("200 OK", [("X", "a\r\nY: b")], ValueError),
        ("200 OK", [("X Y", "a")], ValueError),
        ("200 OK", [("X", b"a")], TypeError),
        ("200 OK", [("X", "\u20ac")], ValueError),
        ("200 OK", [("transfer-encoding", "chunked")], ValueError),
        ("200 OK", [("Content-Length", "1"), ("Content-Length", "1")], ValueError),
        ("200 OK", [("Content-Length", "-1")], ValueError),
    ],
)
def test_a_head_that_cannot_be_sent_is_refused_to_the_application(status, headers, error):
    start = ResponseStart(Request("GET", b"/"))
    with pytest.raises(error):
        start(status, headers)
    start("200 OK", PLAIN)  # it may try again


def test_fields_of_the_connection_are_dropped_and_named_once(caplog):
    response._warn_of_dropped.cache_clear()
    fields = [("Connection", "close"), ("keep-alive", "x"), ("Upgrade", "x"), ("Transfer-Encoding", "identity")]
    with served(giving([b"x"], headers=[*fields, ("X-Own", "1")])) as client:
        for _ in range(2):
            answer = client.get("/")
            assert answer.headers["X-Own"] == "1"
            assert not {"connection", "keep-alive", "upgrade", "transfer-encoding"} & {*map(str.lower, answer.headers)}
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 4
    assert "the application sends keep-alive" in told[1]


def test_start_response_twice():
    start = ResponseStart(Request("GET", b"/"))
    start("200 OK", PLAIN)
    with pytest.raises(RuntimeError, match="a second call must have exc_info"):
        start("200 OK", PLAIN)
    error = ZeroDivisionError()
    start("500 Oh", PLAIN, (ZeroDivisionError, error, None))
    assert (start.status, start.phrase) == (500, "Oh")
    start.stream = object()  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        start("500 Oh", PLAIN, (ZeroDivisionError, error, None))


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(
    ("application", "wanted"),
    [
        (giving([b"hello"]), ["200 OK", "Content-Type: text/plain", "Content-Length: 5", "hello"]),
        (giving([b"he", b"", b"llo"]), ["200 OK", "Content-Length: 5", "hello"]),
        (giving((b"hello",)), ["200 OK", "Content-Length: 5", "hello"]),
        (giving([]), ["200 OK", "Content-Length: 0", ""]),
        (giving(Body()), ["200 OK", "Content-Length: 0", ""]),
        (giving(Body(b"", b"")), ["200 OK", "Content-Length: 0", ""]),
        (giving([b"hello"], headers=[]), ["200 OK", "Content-Length: 5", "hello"]),
        (giving([b"hello"], "200 Fine"), ["200 Fine", "Content-Length: 5", "hello"]),
        (giving([b"x"], "404 NOT FOUND"), ["404 NOT FOUND", "Content-Length: 1", "x"]),
        (giving([b"x"], "299 Odd"), ["299 Odd", "Content-Length: 1", "x"]),
        (giving([b"x"], "299 "), ["299 ", "Content-Length: 1", "x"]),
        (giving([b"x"], headers=COOKIES), ["Set-Cookie: a=1", "Set-Cookie: b=2"]),
        (giving([b"x"], headers=[("Date", "then"), ("Server", "me")]), ["Date: then", "Server: me"]),
        (giving([b"x"], headers=[*PLAIN, ("Content-Length", "1")]), ["Content-Length: 1", "x"]),
        (giving(Body(b"hello"), headers=[("Content-Length", "5")]), ["Content-Length: 5", "hello"]),
        (giving(Body(b"he", b"llo"), headers=[("Content-Length", "5")]), ["Content-Length: 5", "hello"]),
        (giving(Body(b"", b"he", b"", b"llo")), ["Transfer-Encoding: chunked", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"]),
        (giving([], "204 No Content", []), ["204 No Content", ""]),
        (giving([b"dropped"], "304 Not Modified", [("ETag", "x")]), ["304 Not Modified", "ETag: x", ""]),
        (giving(Body(b"dropped"), "304 Not Modified", [("ETag", "x")]), ["304 Not Modified", ""]),
    ],
)
def test_answers_on_the_wire(application, wanted, close):
    with served(application) as client:
        if not close:
            client.get("/")  # some heads are prebuilt by the second time
            with connect(client) as peer:
                peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                peer.half_close()
                answer = peer.rest().removeprefix(CONTINUE)  # it may be asked whether it is still there
        else:
            answer = exchange(client, b"GET / HTTP/1.1\r\nHost: a\r\n" + close + b"\r\n")
    *head, body = wanted
    if ":" in body and "\r" not in body:
        head, body = wanted, None
    lines, _, content = answer.decode("latin-1").partition("\r\n\r\n")
    if head and head[0][0].isdigit():
        assert lines.startswith("HTTP/1.1 " + head.pop(0) + "\r\n")
    assert set(head) <= set(lines.split("\r\n"))
    assert body is None or content == body
    names = [line.partition(":")[0] for line in lines.split("\r\n")[1:]]
    assert names.count("Date") == names.count("Server") == 1
    assert lines.count("Content-Type") <= 1


@pytest.mark.parametrize(
    ("body", "headers", "length"),
    [
        ([b"hello"], PLAIN, "5"),
        ([], PLAIN, None),
        ([], [*PLAIN, ("Content-Length", "5")], "5"),
        ([b"hello"], [*PLAIN, ("Content-Length", "5")], "5"),
        (Body(b"hello"), PLAIN, None),
        (Body(b"hello"), [*PLAIN, ("Content-Length", "7")], "7"),
    ],
)
def test_head_has_the_head_and_no_body(body, headers, length):
    with served(giving(body, headers=headers)) as client:
        answer = client.head("/")
        assert (answer.status_code, answer.headers.get("Content-Length"), answer.content) == (200, length, b"")
        assert client.head("/").status_code == 200  # the connection is in step
    if isinstance(body, Body):
        assert len(body.closed) == 2


# failures


def _raising(environ: Any, start_response: Any) -> Any:
    raise ValueError("secret")


def _late(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    raise ValueError("secret")
    yield b""


def _exits(environ: Any, start_response: Any) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize(
    "application",
    [
        _raising,
        _late,
        _exits,
        lambda environ, start_response: [b"no head"],
        lambda environ, start_response: [],
        giving(None),
        giving(["text"]),
        giving(Body("text")),
        giving(Body(b"", ValueError("secret"))),
        giving([b"abc"], headers=[("Content-Length", "2")]),
        giving([b"abc"], headers=[("Content-Length", "4")]),
        giving(Body(), headers=[("Content-Length", "4")]),
        giving([], headers=[("Transfer-Encoding", "chunked")]),
    ],
)
def test_failures_before_the_head_are_500_without_a_word_on_why(application, caplog):
    with served(application) as client:
        answer = client.get("/x")
        assert client.get("/x").status_code == 500
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    records = [record.getMessage() for record in caplog.records if answer.json()["id"] in record.getMessage()]
    assert records == [f"GET /x failed, request {answer.json()['id']}"]


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        ((b"begun", ValueError("late")), []),
        ((b"begun", "text"), []),
        ((b"begun", b"too much"), [("Content-Length", "6")]),
        ((b"begun",), [("Content-Length", "6")]),
    ],
)
def test_failures_behind_the_head_cut_the_connection(pieces, headers, caplog):
    body = Body(*pieces)
    with served(giving(body, headers=headers)) as client:
        answer = exchange(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert body.was_closed_once_on_the_pool()
    assert b"begun" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert "a response's body failed" in caplog.text


def test_an_error_answer_in_place_of_the_first():
    def application(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b""
        try:
            raise ValueError
        except ValueError as error:
            start_response("503 Sorry", PLAIN, (type(error), error, error.__traceback__))
        yield b"sorry"

    with served(application) as client:
        answer = client.get("/")
        assert (answer.status_code, answer.reason, answer.text) == (503, "Sorry", "sorry")


def test_an_error_behind_the_head_is_raised_again():
    raised: list[BaseException] = []

    def application(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b"begun"
        error = KeyError("mine")
        try:
            start_response("500 Oh", PLAIN, (KeyError, error, None))
        except KeyError as again:
            raised.append(again)
            raise

    with served(application) as client, pytest.raises(requests.RequestException):
        client.get("/")
    assert len(raised) == 1


def test_write_comes_before_the_body():
    def application(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"a")
        write(b"b")
        with pytest.raises(TypeError, match="write takes bytes, not str"):
            write("c")
        return [b"d"] if environ["PATH_INFO"] == "/list" else Body(b"d")

    with served(application) as client:
        assert client.get("/list").content == b"abd"
        assert client.get("/").content == b"abd"
        assert client.head("/").content == b""


# closing


@pytest.mark.parametrize(
    ("pieces", "headers", "method"),
    [
        ((b"one", b"two"), [], "GET"),
        ((b"one",), [("Content-Length", "3")], "GET"),
        ((), [], "GET"),
        ((b"one", b"two"), [], "HEAD"),
        ((ValueError(),), [], "GET"),
    ],
)
def test_the_iterable_is_closed_on_the_pool(pieces, headers, method):
    body = Body(*pieces)
    with served(giving(body, headers=headers)) as client:
        client.request(method, "/")
        assert body.was_closed_once_on_the_pool()


def test_a_close_that_raises_costs_nothing(caplog):
    class Bad(Body):
        def close(self) -> None:
            raise ValueError("bad close")

    with served(giving(Bad(b"a", b"b"))) as client:
        assert client.get("/").content == b"ab"
        assert client.get("/").content == b"ab"
    assert "closing a response's body failed" in caplog.text


def test_a_client_that_goes_in_the_middle_of_the_answer():
    body = Body(*[b"x" * 100_000] * 1000)
    with served(giving(body)) as client:
        with connect(client) as peer:
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert peer.more()
        assert body.was_closed_once_on_the_pool()


def test_a_client_that_goes_while_the_application_is_at_work():
    called, gone = threading.Event(), threading.Event()
    body = Body(b"one", b"two")

    def application(environ, start_response):
        called.set()
        gone.wait(PATIENCE)
        start_response("200 OK", PLAIN)
        return body

    with served(application) as client:
        with connect(client) as peer:
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert called.wait(PATIENCE)
            peer.reset()
        # The reset is taken before the next connection is.
        exchange(client, b"nonsense\r\n\r\n")
        gone.set()
        assert body.was_closed_once_on_the_pool()


# wsgi.input


def reader(how: Callable[[Any], Any]) -> Any:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return [repr(how(environ["wsgi.input"])).encode()]

    return application


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (lambda stream: stream.read(), b"ab\ncd\ne"),
        (lambda stream: stream.read(3) + b"|" + stream.read(100), b"ab\n|cd\ne"),
        (lambda stream: list(stream), [b"ab\n", b"cd\n", b"e"]),
        (lambda stream: stream.readlines(), [b"ab\n", b"cd\n", b"e"]),
        (lambda stream: [stream.readline(), stream.readline(1), stream.read()], [b"ab\n", b"c", b"d\ne"]),
        (lambda stream: stream.read(0), b""),
        (lambda stream: (stream.read(), stream.read(), stream.readline()), (b"ab\ncd\ne", b"", b"")),
    ],
)
@pytest.mark.parametrize("framing", ["whole", "late", "chunked", "chunked late"])
def test_the_body_is_read_like_a_file(how, wanted, framing):
    pieces = [b"a", b"b\nc", b"d\ne"]
    if "chunked" in framing:
        body = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
        head = b"Transfer-Encoding: chunked"
    else:
        body, head = pieces, b"Content-Length: 7"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + head + b"\r\n\r\n"
    parts = [head, *body] if "late" in framing else [head + b"".join(body)]
    with served(reader(how)) as client:
        answer = exchange(client, *parts)
    assert answer.partition(b"\r\n\r\n")[2] == repr(wanted).encode()


def test_without_a_body_the_input_is_empty():
    with served(reader(lambda stream: (stream.read(), stream.readline(), list(stream)))) as client:
        assert client.get("/").text == "(b'', b'', [])"


def test_the_application_has_the_beginning_before_the_end_is_sent():
    came = threading.Event()

    def application(environ, start_response):
        stream = environ["wsgi.input"]
        first = stream.read1(100)
        came.set()
        start_response("200 OK", PLAIN)
        return [first + b"|" + stream.read()]

    with served(application, wsgi_stream=True) as client, connect(client) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\nabc")
        assert came.wait(PATIENCE)
        peer.send(b"def")
        assert peer.rest().endswith(b"abc|def")


def test_large_bodies_come_whole():
    data = os.urandom(3_000_000)
    app = App(lambda environ, start: giving([environ["wsgi.input"].read()])(environ, start))
    with served(app) as client:
        assert client.post("/", data=data).content == data
        assert client.post("/", data=(data[at : at + 70_000] for at in range(0, len(data), 70_000))).content == data
        assert "CONTENT_LENGTH" not in app.environs[1]


@pytest.mark.parametrize("reads", [True, False])
def test_the_client_is_asked_to_continue_only_when_the_body_is_read(reads):
    def application(environ, start_response):
        data = environ["wsgi.input"].read() if reads else b"unread"
        start_response("200 OK", PLAIN)
        return [data]

    with served(application, wsgi_stream=True) as client, connect(client) as peer:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        peer.send(head)
        assert peer.more()
        assert peer.data.startswith(b"HTTP/1.1 100 Continue\r\n\r\n") is reads
        if reads:
            peer.send(b"abc")
        answer = peer.rest()
    assert answer.endswith(b"abc" if reads else b"unread")


@pytest.mark.parametrize(
    ("begin", "rest"),
    [
        (b"Content-Length: 10\r\n\r\nabc", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"nonsense\r\n"),
    ],
)
def test_a_body_that_breaks_off_is_an_error_to_who_reads(begin, rest):
    errors: list[BaseException] = []
    called, seen = threading.Event(), threading.Event()

    def application(environ, start_response):
        called.set()
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(error)
            raise
        finally:
            seen.set()

    with served(application, wsgi_stream=True) as client, connect(client) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + begin)
        assert called.wait(PATIENCE)
        peer.send(rest)
        peer.half_close()
        answer = peer.rest().removeprefix(CONTINUE)  # it may be asked whether it is still there
        assert seen.wait(PATIENCE)
    assert len(errors) == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


# files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(256)) * 400)
    return path


def wrapping(opened: Callable[[], Any], headers: list[tuple[str, str]] = PLAIN, method: str = "GET") -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](opened(), 8192)

    return application


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was left at each call of sendfile."""
    made: list[int] = []
    send = FilePart.send

    def noted(part: FilePart, socket: int, size: int) -> int:
        made.append(part.count)
        return send(part, socket, size)

    monkeypatch.setattr(FilePart, "send", noted)
    return made


def _temporary(data: bytes) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the server closes it
    file.write(data)
    file.seek(0)
    return file


def unzipped(path: Path) -> Any:
    return gzip.open(path, "rb")


def _sought(path: Path, offset: int) -> Any:
    file = path.open("rb")
    file.read(10)  # more is buffered: the descriptor is further on
    file.seek(offset)
    return file


@pytest.mark.parametrize(
    ("opened", "headers", "begin", "end", "by_sendfile"),
    [
        (lambda path: path.open("rb"), PLAIN, 0, None, True),
        (lambda path: path.open("rb", buffering=0), PLAIN, 0, None, True),
        (lambda path: path.open("r+b"), PLAIN, 0, None, True),
        (lambda path: _temporary(path.read_bytes()), PLAIN, 0, None, True),
        (lambda path: _sought(path, 300), PLAIN, 300, None, True),
        (lambda path: _sought(path, 300), [("Content-Length", "40000")], 300, 40_300, True),
        (lambda path: _sought(path, 300), [("Content-Length", "400")], 300, 700, False),
        (lambda path: io.BytesIO(path.read_bytes()), PLAIN, 0, None, False),
        (unzipped, PLAIN, 0, None, False),
    ],
)
def test_files_are_sent_from_where_they_stand(file, parts, opened, headers, begin, end, by_sendfile):
    whole = file.read_bytes()
    made: list[Any] = []
    if opened is unzipped:
        file.write_bytes(gzip.compress(whole))

    def open_file() -> Any:
        made.append(opened(file))
        return made[-1]

    with served(wrapping(open_file, headers)) as client:
        answer = client.get("/")
        assert answer.content == whole[begin:end]
        assert parts[:1] == ([len(answer.content)] if by_sendfile else [])
        assert client.get("/").status_code == 200
        assert client.head("/").content == b""
    assert all(one.closed for one in made)


def test_a_pipe_is_read(tmp_path):
    def opened() -> Any:
        read, write = os.pipe()
        os.write(write, b"piped")
        os.close(write)
        return os.fdopen(read, "rb")

    with served(wrapping(opened)) as client:
        assert client.get("/").content == b"piped"


def test_a_file_shorter_than_declared(file, caplog):
    with served(wrapping(lambda: file.open("rb"), [("Content-Length", "999999")])) as client:
        assert client.get("/").status_code == 500
    assert "Content-Length: 999999, its file has 102400 bytes" in caplog.text


def test_a_file_to_a_client_that_goes_is_closed(file):
    file.write_bytes(bytes(20_000_000))
    closed = threading.Event()

    class Noted(io.FileIO):
        def close(self) -> None:
            super().close()
            closed.set()

    def application(environ, start_response):
        start_response("200 OK", PLAIN)
        buffered = io.BufferedReader(io.FileIO(file))
        wrapper = environ["wsgi.file_wrapper"](buffered)
        close = wrapper.close

        def noted() -> None:
            close()
            closed.set()

        wrapper.close = noted
        return wrapper

    with served(application) as client:
        with connect(client) as peer:
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert peer.more()
        assert closed.wait(PATIENCE)


# by the book


@pytest.mark.parametrize(
    ("application", "wanted"),
    [
        (giving([b"one"]), b"one"),
        (giving(Body(b"one", b"two")), b"onetwo"),
        (reader(lambda stream: stream.read(5)), b"b'poste'"),
        (reader(lambda stream: stream.readline()), b"b'posted'"),
    ],
)
def test_wsgiref_finds_nothing_wrong(application, wanted, caplog):
    with served(validator(application)) as client:
        client.headers["Connection"] = "close"  # a chunked body that nobody reads ends the connection
        assert client.post("/a/b?c=d", data=b"posted", headers={"Content-Type": "text/plain"}).content == wanted
        assert client.post("/a/b?c=d", data=iter([b"post", b"ed"])).content == wanted
        assert client.request("OPTIONS", urllib.parse.quote("/ä"), data=b"posted").content == wanted
    assert not caplog.records


def test_calls_run_beside_each_other():
    together = threading.Barrier(3)

    def application(environ, start_response):
        together.wait(PATIENCE)
        start_response("200 OK", PLAIN)
        return [b"ok"]

    with served(application, threads=3) as client:
        answers: list[int] = []
        get = lambda: answers.append(requests.get(client.base_url, timeout=PATIENCE).status_code)  # noqa: E731
        threads = [threading.Thread(target=get) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [200] * 3


class Watched:
    """An iterable that notes each step, and waits at its close for the test."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.steps: list[str] = []
        self.closing, self.gate = threading.Event(), threading.Event()
        self.done = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.steps.append(f"next {piece.decode()}")
            yield piece
        self.steps.append("exhausted")

    def close(self) -> None:
        self.closing.set()
        self.gate.wait(PATIENCE)
        self.steps.append("closed")
        self.done.set()


@pytest.mark.parametrize("pieces", [(b"one",), (b"one", b"two"), ()])
@pytest.mark.parametrize("declared", [False, True])
def test_a_body_is_exhausted_then_sent_then_closed_and_nobody_waits_for_the_close(pieces, declared):
    body = Watched(*pieces)
    size = sum(map(len, pieces))
    headers = [*PLAIN, ("Content-Length", str(size))] if declared else PLAIN
    with served(giving(body, headers=headers), threads=1) as client:
        with connect(client) as peer:
            # The answer is whole while `close` still runs.
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = peer.rest()
        assert b"".join(pieces) == answer.partition(b"\r\n\r\n")[2] or b"0\r\n\r\n" in answer
        assert body.closing.wait(PATIENCE)
        assert body.steps == [*(f"next {piece.decode()}" for piece in pieces), "exhausted"]
        body.gate.set()
        assert body.done.wait(PATIENCE)
    assert body.steps[-1] == "closed"
    assert body.steps.count("closed") == 1


@pytest.mark.parametrize("pieces", [(b"abc", b"d"), (b"ab", b"c", b"d"), (b"ab", b"c", b"", b"d")])
def test_one_more_piece_than_declared_is_an_error(pieces, caplog):
    body = Body(*pieces)
    with served(giving(body, headers=[*PLAIN, ("Content-Length", "3")])) as client:
        answer = exchange(client, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert body.was_closed_once_on_the_pool()
    assert b"abcd" not in answer
    assert b" 500 " in answer.partition(b"\r\n")[0] or answer.endswith(b"abc")
    assert "longer" in caplog.text


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK"])
def test_of_an_answer_without_content_nothing_is_pulled(status):
    body = Watched(b"never")
    body.gate.set()
    method = "HEAD" if status == "200 OK" else "GET"
    with served(giving(body, status, [])) as client:
        assert client.request(method, "/").status_code == int(status[:3])
        assert body.done.wait(PATIENCE)
    assert body.steps == ["closed"]


def test_what_write_takes_is_sent_at_once():
    gate = threading.Event()

    def application(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        write(b"first ")
        gate.wait(PATIENCE)
        write(b"")
        write(b"second ")
        return [b"third"]

    with served(application) as client, connect(client) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        peer.head()
        assert peer.chunk() == b"first "
        assert peer.data == b""
        gate.set()
        received = peer.rest()
    assert received.endswith(b"7\r\nsecond \r\n5\r\nthird\r\n0\r\n\r\n")


@pytest.mark.parametrize("length", ["5", "20"])
def test_write_is_held_to_the_content_length(length, caplog):
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*PLAIN, ("Content-Length", length)])(b"0123456789")
        return []

    with served(application) as client:
        answer = exchange(client, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    content = answer.partition(b"\r\n\r\n")[2]
    assert len(content) <= int(length)
    assert len(content) < 20
    assert "a response's body failed" in caplog.text


@pytest.mark.parametrize("piece", ["text", 7, None, bytearray(b"x"), memoryview(b"x")])
def test_a_piece_that_is_no_bytes_gets_a_clear_message(piece, caplog):
    with served(giving(Body(piece))) as client:
        assert client.get("/").status_code == 500
    assert f"the application's iterable must give bytes, it gave {type(piece).__name__}" in caplog.text


def test_an_error_after_write_cuts_the_answer_and_is_logged(caplog):
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", PLAIN)(b"begun")
        raise ValueError("on purpose")

    with served(application) as client:
        answer = exchange(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.endswith(b"5\r\nbegun\r\n")
    assert "ValueError: on purpose" in caplog.text


@pytest.mark.parametrize("method", sorted(METHODS.values()))
def test_every_method_that_is_parsed_reaches_an_application(method):
    app = App(giving([b"a"]))
    with TestClient(app) as client:
        answer = client.request(method, "/a")
    assert answer.status_code == 200
    assert [environ["REQUEST_METHOD"] for environ in app.environs] == [method]


@pytest.mark.parametrize("method", ["PURGE", "M-SEARCH", "SOURCE"])
def test_routes_answer_405_to_methods_they_have_no_handler_for(method):
    routes = Routes()
    routes.get("/a")(lambda request: "a")
    with TestClient(routes) as client:
        answer = client.request(method, "/a")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        assert client.request(method, "/b").status_code == 404
