"""gunicorn's hooks of a request run once for each that comes to the application, whatever its end, and for no other."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from hypoll import File, HTTPError, Response, Routes
from hypoll.contracts import Application
from hypoll.deploy.gunicorn_logging import observers_of, wrap_pre_request
from hypoll.wsgi.application import service_of
from tests.support.client import PATIENCE, Client
from tests.support.gunicorn import GUNICORN, Master
from tests.support.server import Running, running


class Hooked:
    """A server with both hooks, and how often each was called for a path."""

    def __init__(self) -> None:
        self.pre: Counter[str] = Counter()
        self.post: Counter[str] = Counter()
        self.failing: BaseException | None = None
        self.failing_after: BaseException | None = None
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.ran: Counter[str] = Counter()
        self.it: Running = None  # type: ignore[assignment]

    def pre_request(self, worker: Any, request: Any) -> None:
        self.pre[request.path] += 1
        request.seen = True
        if self.failing is not None:
            raise self.failing

    def post_request(self, worker: Any, request: Any, environ: Any, response: Any) -> None:
        assert request.seen, "both get the same request"
        self.post[request.path] += 1
        if self.failing_after is not None:
            raise self.failing_after

    def connect(self) -> Client:
        return self.it.connect()

    def holds(self, **counts: int) -> None:
        """Each path was seen by both hooks so often, and no other was."""
        expected = {f"/{name.replace('_', '-')}": count for name, count in counts.items()}
        self.it.until(lambda: self.post == expected, f"{self.post} instead of {expected}")
        assert self.pre == expected


def routes_of(hooked: Hooked) -> Routes:
    routes = Routes()
    add_plain(routes, hooked)
    add_streams(routes)
    add_others(routes, hooked)
    return routes


def add_plain(routes: Routes, hooked: Hooked) -> None:
    @routes.route("/plain", methods=["GET", "POST"])
    def plain(request):
        hooked.ran["plain"] += 1
        return {"size": len(request.body)}

    @routes.get("/text")
    def text(request):
        return "text"

    @routes.get("/fails")
    def fails(request):
        raise HTTPError(418)

    @routes.get("/file")
    def file(request):
        return File(__file__)


def add_streams(routes: Routes) -> None:
    @routes.get("/pieces")
    def pieces(request):
        return Response(iter([b"a", b"b"]))

    @routes.get("/cut")
    def cut(request):
        def body() -> Iterator[bytes]:
            yield b"a"
            raise ValueError

        return Response(body())

    @routes.get("/endless")
    def endless(request):
        return Response(bytes(65536) for _ in iter(int, 1))


def add_others(routes: Routes, hooked: Hooked) -> None:
    @routes.get("/threaded", threaded=True)
    def threaded(request):
        return "threaded"

    @routes.get("/held", threaded=True)
    def held(request):
        hooked.entered.set()
        hooked.gate.wait(PATIENCE)
        return "held"

    @routes.get("/threaded-pieces", threaded=True)
    def threaded_pieces(request):
        return Response(iter([b"a", b"b"]))

    @routes.get("/async")
    async def coroutine(request):
        return "async"

    @routes.post("/stream", threaded=True, stream=True)
    def stream(request):
        return {"size": sum(map(len, request.stream))}

    @routes.post("/async-stream", stream=True)
    async def async_stream(request):
        return {"size": sum([len(piece) async for piece in request.stream])}


def wsgi_of(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"%d" % len(environ["wsgi.input"].read())]


@contextmanager
def serving(application: Callable[[Hooked], Application], **settings: Any) -> Iterator[Hooked]:
    hooked = Hooked()
    cfg = Config()
    cfg.set("pre_request", hooked.pre_request)
    cfg.set("post_request", hooked.post_request)
    worker = SimpleNamespace(cfg=cfg, log=Logger(cfg))
    with running(application(hooked), observers=observers_of(worker), **settings) as it:
        hooked.it = it
        it.on_loop(lambda: it.server.context.wrap(lambda answer: wrap_pre_request(answer, worker)))
        yield hooked
        hooked.gate.set()


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    with serving(routes_of, max_body=1024, max_line=200) as found:
        yield found


def head(path: str, method: str = "GET", fields: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "name", ["plain", "text", "fails", "file", "pieces", "threaded", "threaded_pieces", "async", "nowhere"]
)
def test_each_kind_of_answer(hooked, name, method):
    client = hooked.connect()
    for count in (1, 2):
        client.ask(head(f"/{name.replace('_', '-')}", method))
        hooked.holds(**{name: count})


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PATCH"])
def test_a_method_that_a_path_has_not(hooked, method):
    hooked.connect().ask(head("/plain", method))
    hooked.holds(plain=1)


@pytest.mark.parametrize("name", ["plain", "stream", "async_stream"])
@pytest.mark.parametrize("fields", ["", "Expect: 100-continue\r\n"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_comes_in_its_own_time(hooked, name, fields, chunked):
    client = hooked.connect()
    framing = "Transfer-Encoding: chunked\r\n" if chunked else "Content-Length: 4\r\n"
    client.send(head(f"/{name.replace('_', '-')}", "POST", fields + framing))
    for piece in (b"2\r\nab\r\n", b"2\r\ncd\r\n", b"0\r\n\r\n") if chunked else (b"ab", b"cd"):
        hooked.it.until(lambda: True)
        client.send(piece)
    assert client.answer().body == b'{"size":4}'
    hooked.holds(**{name: 1})


def test_requests_that_come_together(hooked):
    client = hooked.connect()
    client.send(head("/plain") * 3 + head("/threaded") + head("/plain") + head("/async") + head("/pieces"))
    for _ in range(7):
        assert client.answer().status == 200
    hooked.holds(**{"plain": 4, "threaded": 1, "async": 1, "pieces": 1})


def test_a_body_that_fails_midway(hooked):
    client = hooked.connect()
    client.send(head("/cut"))
    client.rest()
    hooked.holds(cut=1)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_while_its_handler_works(hooked, how):
    client = hooked.connect()
    client.send(head("/held"))
    assert hooked.entered.wait(PATIENCE)
    client.go(how)
    if how == "close":  # it may be half-closed: the answer is still owed
        hooked.gate.set()
    hooked.holds(held=1)
    hooked.gate.set()


def test_a_client_that_goes_amid_its_answer(hooked):
    client = hooked.connect()
    client.send(head("/endless"))
    client.take(1000)
    client.reset()
    hooked.holds(endless=1)


@pytest.mark.parametrize("name", ["stream", "async_stream"])
def test_a_client_that_goes_amid_its_body(hooked, name):
    client = hooked.connect()
    client.send(head(f"/{name.replace('_', '-')}", "POST", "Content-Length: 9\r\n") + b"abc")
    hooked.it.until(lambda: hooked.pre)
    client.reset()
    hooked.holds(**{name: 1})


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head("/" + "a" * 300), 414),
        (head("/plain", "POST", "Content-Length: 2000\r\n"), 413),
        (head("/plain", "POST", "Expect: 100-continue\r\nContent-Length: 2000\r\n"), 413),
        (head("/plain", "POST", "Expect: something\r\nContent-Length: 2\r\n"), 417),
        (head("/plain", "POST", "Transfer-Encoding: gzip, chunked\r\n"), 501),
        (head("/plain", "POST", "Transfer-Encoding: chunked\r\n") + b"zz\r\n", 400),
        (head("/plain", "POST", "Transfer-Encoding: chunked\r\n") + b"1000\r\n", 413),
        (b"GET /plain HTTP/1.1\r\n\r\n", 400),
        (b"\0\r\n\r\n", 400),
    ],
)
def test_what_is_refused_before_the_application_sees_it_is_for_no_hook(hooked, request_, status):
    client = hooked.connect()
    client.send(head("/text") + request_)
    assert client.answer().status == 200
    assert client.answer().status == status
    client.rest()
    hooked.holds(text=1)


def test_what_comes_before_its_turn_is_for_no_hook(hooked):
    hooked.connect().send(b"GET /plain HTTP/1.1\r\nHost")
    client = hooked.connect()
    client.send(head("/plain", "POST", "Content-Length: 5\r\n") + b"abc")
    client.reset()
    hooked.connect().ask(head("/text"))
    hooked.holds(text=1)


@pytest.mark.parametrize("error", [RuntimeError(), HTTPError(403), SystemExit(1)])
@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("plain", head("/plain")),
        ("plain", head("/plain", "HEAD")),
        ("plain", head("/plain", "POST", "Content-Length: 4\r\n") + b"abcd"),
        ("plain", head("/plain", "POST", "Content-Length: 4\r\n")),
        ("threaded", head("/threaded")),
        ("async", head("/async")),
        ("stream", head("/stream", "POST", "Content-Length: 4\r\n")),
        ("stream", head("/stream", "POST", "Content-Length: 4\r\n") + b"abcd"),
        ("stream", head("/stream", "POST", "Content-Length: 4\r\nExpect: 100-continue\r\n")),
        ("stream", head("/stream", "POST", "Transfer-Encoding: chunked\r\n") + b"2\r\nab\r\n"),
        ("async_stream", head("/async-stream", "POST", "Content-Length: 4\r\n")),
    ],
)
def test_a_pre_request_that_fails_is_the_request_s_end(hooked, name, request_, error):
    hooked.failing = error
    client = hooked.connect()
    client.send(request_)
    whole = request_.endswith(b"abcd") or (b"Content-Length" not in request_ and b"chunked" not in request_)
    if name == "plain" and not whole:
        client.send(b"abcd")
    method = request_.split(b" ")[0].decode()
    assert client.answer(method).status == (403 if isinstance(error, HTTPError) else 500)
    hooked.holds(**{name: 1})
    assert not hooked.ran


@pytest.mark.parametrize("failing", [None, RuntimeError()])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", ["", "Expect: 100-continue\r\n"])
def test_a_wsgi_application_s_requests(failing, stream, fields):
    with serving(lambda hooked: service_of(wsgi_of, stream=stream), wsgi_stream=stream) as hooked:
        hooked.failing = failing
        client = hooked.connect()
        client.send(head("/wsgi", "POST", fields + "Content-Length: 4\r\n"))
        if not (stream and failing):
            hooked.it.until(lambda: True)
            client.send(b"abcd")
        assert client.answer().status == (500 if failing else 200)
        hooked.holds(wsgi=1)


def test_a_post_request_that_fails_takes_nothing_from_the_others(hooked, caplog):
    hooked.failing_after = ValueError()
    client = hooked.connect()
    client.send(head("/text") * 3)
    for _ in range(3):
        client.answer()
    hooked.holds(text=3)
    assert [record.message for record in caplog.records] == ["the post_request hook failed"] * 3


# a server's hooks


def test_the_hooks_of_a_worker_s_end_run_once(tmp_path):
    (tmp_path / "app.py").write_text("""
import os, signal
from hypoll import Routes
routes = Routes()

@routes.get("/")
def index(request): return "here"

def note(name):
    os.write(1, f"ran {name}\\n".encode())

for name in ("first", "second"):
    routes.on_start(lambda name=name: note(f"start {name}"))
    routes.on_stop(lambda name=name: note(f"stop {name}"))
""")
    (tmp_path / "gunicorn.conf.py").write_text("""
from app import note

def post_worker_init(worker): note("post_worker_init")
def worker_int(worker): note("worker_int")
def worker_exit(server, worker): note("worker_exit")
def child_exit(server, worker): note("child_exit")
def on_exit(server): note("on_exit")
def when_ready(server): note("when_ready")
def on_starting(server): note("on_starting")
def pre_fork(server, worker): note("pre_fork")
def post_fork(server, worker): note("post_fork")
""")
    with Master(tmp_path, (*GUNICORN, "--bind", "127.0.0.1:0")) as master:
        assert master.get()[0] == 200
        master.signal(2)
        assert master.wait() == 0
    ran = Counter(line.removeprefix("ran ") for line in master.lines if line.startswith("ran "))
    begin = ("on_starting", "when_ready", "pre_fork", "post_fork", "post_worker_init", "start first", "start second")
    end = ("worker_int", "stop first", "stop second", "worker_exit", "child_exit", "on_exit")
    assert ran == Counter((*begin, *end))
