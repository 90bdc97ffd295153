"""The test client: a real server of its own for each, started and stopped cleanly."""

from __future__ import annotations

import gc
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from hypoll import HTTPError, Routes
from hypoll.runner import SetupError
from hypoll.testing import TestClient
from tests.support.clock import PATIENCE


def descriptors() -> list[str]:
    """What the process has open: the number alone would miss one that took another's place."""
    gc.collect()
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{link.name} {os.readlink(link)}")
        except FileNotFoundError:
            continue  # of the listing itself
    return sorted(found)


@pytest.fixture
def routes() -> Routes:
    routes = Routes()

    @routes.get("/")
    def index(request):
        return {"path": request.raw_path, "query": request.query_string, "host": request.host}

    @routes.get("/{rest:path}")
    def rest(request, rest):
        return {"path": request.raw_path, "query": request.query_string, "host": request.host}

    @routes.post("/echo")
    def echo(request):
        return request.body

    @routes.delete("/refused")
    def refused(request):
        raise HTTPError(409, "not now")

    return routes


def test_it_is_a_session_bound_to_a_server(routes):
    with TestClient(routes) as client:
        assert isinstance(client, requests.Session)
        assert client.base_url.startswith("http://127.0.0.1:")
        assert client.get("/").json()["path"] == "/"
        assert client.post("/echo", data=b"\x00\xff").content == b"\x00\xff"
        assert client.delete("/refused").status_code == 409
        assert client.head("/").content == b""
        client.headers["X-Kept"] = "1"
        assert client.get("/").request.headers["X-Kept"] == "1"


@pytest.mark.parametrize(
    ("url", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b?x=1", "/a/b", "x=1"),
        ("a/b", "/a/b", ""),
        ("//a/b", "//a/b", ""),
        ("", "/", ""),
        (b"/bytes", "/bytes", ""),
        ("/a%2Fb", "/a%2Fb", ""),
    ],
)
def test_a_path_is_on_the_server(routes, url, path, query):
    with TestClient(routes) as client:
        answer = client.request("GET", url).json()
        assert answer == {"path": path, "query": query, "host": client.base_url.removeprefix("http://")}


def test_a_whole_url_is_taken_as_it_is(routes):
    with TestClient(routes) as one, TestClient(routes) as other:
        assert one.get(other.base_url + "/x").json()["host"] == other.base_url.removeprefix("http://")


def test_a_proxy_of_the_environment_is_not_asked(routes, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    with TestClient(routes) as client:
        assert client.get("/").status_code == 200


def test_requests_share_a_connection(routes):
    seen = []
    routes.before(lambda request: seen.append(request.client))
    with TestClient(routes) as client:
        for _ in range(3):
            client.get("/")
    assert len(set(seen)) == 1


def test_the_hooks_run_once_on_the_server_s_thread_and_in_order(routes):
    log: list[tuple[str, int]] = []
    routes.on_start(lambda: log.append(("start", threading.get_ident())))
    routes.before(lambda request: log.append(("request", threading.get_ident())))
    routes.on_stop(lambda: log.append(("stop", threading.get_ident())))
    with TestClient(routes) as client:
        client.get("/")
    assert [name for name, _ in log] == ["start", "request", "stop"]
    assert len({thread for _, thread in log}) == 1
    assert log[0][1] != threading.get_ident()


def test_a_start_that_fails_is_raised_and_leaves_nothing(routes):
    class StartError(Exception):
        pass

    @routes.on_start
    def open_database():
        raise StartError("no database")

    before = descriptors()
    client = TestClient(routes)
    with pytest.raises(StartError, match="no database"), client:
        pytest.fail("it was entered")
    assert descriptors() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "hypoll.testing"]


def test_a_bad_setting_is_raised(routes):
    with pytest.raises(ValueError, match="max_headers"):
        TestClient(routes, max_headers=0)
    with pytest.raises(TypeError, match="no_such_setting"):
        TestClient(routes, no_such_setting=1)  # type: ignore[call-arg]


def test_settings_reach_the_server(routes):
    with TestClient(routes, max_body=10, max_headers=20) as client:
        assert client.post("/echo", data=b"0123456789").status_code == 200
        refused = client.post("/echo", data=b"0123456789a")
        assert refused.status_code == 413
        assert refused.json()["detail"] == "the body is larger than 10 bytes"
        assert client.get("/", headers={f"X-{n}": "1" for n in range(30)}).status_code == 431


def test_where_it_listens_is_always_a_free_port(routes):
    with TestClient(routes, bind=("127.0.0.1:1",)) as client:  # type: ignore[call-arg]
        assert not client.base_url.endswith(":1")


def test_several_clients_at_once(routes):
    with TestClient(routes) as one, TestClient(routes) as other:
        assert one.base_url != other.base_url
        assert one.get("/").json()["host"] != other.get("/").json()["host"]
        ports = [int(client.base_url.rpartition(":")[2]) for client in (one, other)]
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_many_threads_may_use_one_client(routes):
    with TestClient(routes) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.get(f"/{n}").json()["path"], range(64)))
    assert answers == [f"/{n}" for n in range(64)]


def test_it_leaves_nothing_open(routes):
    with TestClient(routes) as client:  # what the first one imports stays
        client.get("/")
    before = descriptors()
    for _ in range(3):
        with TestClient(routes) as client:
            client.get("/")
            client.get("/", stream=True).close()
    assert descriptors() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "hypoll.testing"]


def test_leaving_it_by_an_exception_stops_the_server(routes):
    stopped = threading.Event()
    routes.on_stop(stopped.set)
    with pytest.raises(KeyError), TestClient(routes) as client:
        raise KeyError(client.get("/").status_code)
    assert stopped.is_set()


def test_leaving_it_when_the_server_has_just_ended_by_itself(routes, monkeypatch):
    with TestClient(routes) as client:
        thread = client._thread
        assert thread is not None
        client._loop.call_soon_threadsafe(client._drain)
        thread.join()
        monkeypatch.setattr(thread, "is_alive", lambda: True)  # as between the loop's end and the thread's
    assert client.base_url == ""


def test_an_answer_under_way_is_sent_whole_before_the_server_stops(routes):
    size = 32 * 1024 * 1024  # more than the kernel's buffers take
    routes.get("/big")(lambda request: bytes(size))
    client = TestClient(routes)
    client.__enter__()
    with ThreadPoolExecutor(1) as pool, requests.get(client.base_url + "/big", stream=True, timeout=PATIENCE) as answer:
        stopping = pool.submit(client.__exit__)
        assert sum(map(len, answer.iter_content(1024 * 1024))) == size
        stopping.result(timeout=PATIENCE)
    assert client.base_url == ""


def test_it_may_be_entered_again(routes):
    client = TestClient(routes)
    with client:
        first = client.base_url
        assert client.get("/").status_code == 200
    with client:
        assert client.get("/").status_code == 200
        assert client.get("/").json()["host"] == client.base_url.removeprefix("http://")
    assert first


def test_entering_it_twice_is_refused(routes):
    with TestClient(routes) as client, pytest.raises(RuntimeError, match="entered already"), client:
        pytest.fail("it was entered")


def test_it_must_be_entered_to_be_used(routes):
    client = TestClient(routes)
    with pytest.raises(RuntimeError, match="enter the client first"):
        client.get("/")
    with client:
        pass
    with pytest.raises(RuntimeError, match="enter the client first"):
        client.get("/")


def test_pytest_does_not_collect_it():
    assert TestClient.__test__ is False


def test_what_can_t_be_had_is_raised_at_once(tmp_path):
    client = TestClient(Routes(), access_log="text", access_log_file=str(tmp_path))
    with pytest.raises(SetupError, match="can't be written"), client:
        pass
    with pytest.raises(SetupError, match="nothing to answer"), TestClient(Routes(), admin_bind="127.0.0.1:0"):
        pass
