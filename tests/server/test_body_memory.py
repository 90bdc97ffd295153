"""`--body-memory`: what the bodies of all requests may take together, by what has come of them."""

from __future__ import annotations

import gc
import threading

import pytest

from hypoll import Routes
from hypoll.server.body_memory import BodyMemory, BodyUsage
from tests.support.client import PATIENCE
from tests.support.server import Running, running

KIB = 1024
LIMIT = 256 * KIB
HEAD = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def sizes() -> Routes:
    routes = Routes()
    routes.post("/")(lambda request: str(len(request.body)))
    routes.get("/")(lambda request: "ok")
    return routes


def test_a_body_that_never_fits_is_too_large_before_it_is_read():
    with running(sizes(), body_memory=LIMIT) as server:
        for expect in (b"", b"Expect: 100-continue\r\n"):
            client = server.connect()
            client.send(HEAD % (b"/", LIMIT + 1, expect))
            answer = client.answer()
            assert answer.status == 413
            assert "retry-after" not in answer.fields
            assert b"the body is larger than %d bytes" % LIMIT in answer.body
            client.close()
        client = server.connect()
        client.send(HEAD % (b"/", LIMIT, b"Expect: 100-continue\r\n"))
        assert client.head()[0] == 100
        client.send(bytes(LIMIT))
        assert client.answer().body == b"%d" % LIMIT
        client.close()


def test_a_body_in_chunks_that_never_fits_is_too_large_when_it_gets_so():
    with running(sizes(), body_memory=LIMIT) as server:
        client = server.connect()
        client.send(CHUNKED + b"%x\r\n" % (2 * LIMIT) + bytes(LIMIT + 4 * KIB))
        assert client.answer().status == 413
        client.close()
        server.until(lambda: used_here(server) == 0)


def test_a_body_that_has_no_room_now_is_refused_before_it_is_read():
    with running(sizes(), body_memory=LIMIT) as server:
        first, second = server.connect(), server.connect()
        first.send(HEAD % (b"/", LIMIT, b"") + bytes(LIMIT - KIB))
        server.until(lambda: used_here(server) >= LIMIT - KIB)
        second.send(HEAD % (b"/", 2 * KIB, b"Expect: 100-continue\r\n"))
        answer = second.answer()
        assert (answer.status, answer.fields["retry-after"]) == (503, "1")
        assert b"no room for the body" in answer.body
        first.close()
        second.close()


def test_what_is_promised_takes_no_memory():
    with running(sizes(), body_memory=LIMIT) as server:
        promising = [server.connect() for _ in range(8)]
        for client in promising:
            client.send(HEAD % (b"/", LIMIT, b"") + b"a")
        server.until(lambda: sum(c.parser.incoming is not None for c in server.server.connections) == 8)
        assert used_here(server) < KIB
        client = server.connect()
        client.send(HEAD % (b"/", LIMIT - KIB, b"") + bytes(LIMIT - KIB))
        assert client.answer().body == b"%d" % (LIMIT - KIB)
        for other in (client, *promising):
            other.close()
        server.until(lambda: used_here(server) == 0)


def used_here(server: Running) -> int:
    gc.collect()
    return int(server.server.context.body_memory.used)


@pytest.mark.parametrize("head", [HEAD % (b"/", LIMIT * 3 // 4, b""), CHUNKED], ids=["length", "chunked"])
def test_what_comes_of_bodies_is_bounded_together(head):
    """Two that have room each, and not both: one of them is refused, and its memory is the other's."""
    part = bytes(LIMIT * 5 // 8)
    body = part if head is not CHUNKED else b"%x\r\n" % len(part) + part
    with running(sizes(), body_memory=LIMIT) as server:
        first, second = server.connect(), server.connect()
        for client in (first, second):
            client.send(head)
            server.until(lambda: any(c.parser.incoming is not None for c in server.server.connections))
        server.until(lambda: sum(c.parser.incoming is not None for c in server.server.connections) == 2)
        first.send(body)
        server.until(lambda: used_here(server) >= len(part) - 64 * KIB)
        second.send(body)
        assert second.answer().status == 503
        second.close()
        rest = bytes(LIMIT * 3 // 4 - len(part)) if head is not CHUNKED else b"\r\n0\r\n\r\n"
        first.send(rest)
        assert first.answer().status == 200
        first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first.answer().body == b"ok"
        first.close()
        server.until(lambda: used_here(server) == 0)


def test_a_handler_that_is_at_work_still_has_its_body():
    routes = Routes()
    entered, gate = threading.Event(), threading.Event()

    @routes.post("/", threaded=True)
    def hold(request):
        entered.set()
        gate.wait(PATIENCE)
        return str(len(request.body))

    size = LIMIT * 3 // 4
    with running(routes, body_memory=LIMIT) as server:
        first, second = server.connect(), server.connect()
        first.send(HEAD % (b"/", size, b""))
        first.send(bytes(size))
        assert entered.wait(PATIENCE)
        second.send(HEAD % (b"/", size, b""))
        assert second.answer().status == 503
        gate.set()
        assert first.answer().body == b"%d" % size
        first.close()
        second.close()
        server.until(lambda: used_here(server) == 0)


def test_a_collection_in_the_middle_of_counting_gives_back_what_is_gone(monkeypatch):
    """The collector runs wherever it likes, on the thread that counts, too: nothing may wait for that thread."""
    memory = BodyMemory(LIMIT)
    first, second = BodyUsage(memory), BodyUsage(memory)
    assert first.grow(100)
    take = memory.take

    def collect(size: int) -> None:
        nonlocal first
        take(size)
        del first

    monkeypatch.setattr(memory, "take", collect)
    assert second.grow(50)
    assert memory.used == 50
    thread = threading.Thread(target=second.__del__)
    thread.start()
    thread.join(PATIENCE)
    assert memory.used == 0
    second.size = 0
