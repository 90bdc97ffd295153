"""`TestClient.websocket`: what an application's own tests use."""

from __future__ import annotations

import asyncio

import pytest

from hypoll import HTTPError, Response, Routes
from hypoll.testing import HandshakeRefused, TestClient
from hypoll.websocket import SocketClosed


@pytest.fixture(scope="module")
def client():
    routes = Routes()

    @routes.get("/login")
    def login(request):
        return Response("", headers={"Set-Cookie": "user=ada"})

    @routes.websocket("/echo", subprotocols=["v2"])
    async def echo(socket):
        async for message in socket:
            await socket.send(message)

    @routes.websocket("/who")
    async def who(socket):
        await socket.send_json({"user": socket.request.cookies.get("user"), "x": socket.request.headers.get("x")})
        await socket.ping(b"there?")
        await socket.close(4000, "that is all")

    @routes.websocket("/refused")
    async def refused(socket):
        raise HTTPError(403, "not you")

    @routes.websocket("/many", threaded=True)
    def many(socket):
        for number in range(100):
            socket.send_json(number)

    with TestClient(routes) as client:
        yield client


def test_messages_there_and_back(client):
    with client.websocket("/echo?a=b", subprotocols=["v1", "v2"]) as socket:
        assert socket.subprotocol == "v2"
        assert socket.headers["Upgrade"] == "websocket"
        for message in ("hello µ€", b"\x00\xff", "", "x" * 200_000):
            socket.send(message)
            assert socket.receive() == message
        socket.send_json([1, 2])
        assert socket.receive_json() == [1, 2]
        socket.ping(b"x")
        assert socket.close_code is None
    assert socket.close_code == 1000


def test_the_session_s_cookies_and_fields(client):
    client.get("/login")
    with client.websocket("/who", headers={"X": "y"}) as socket:
        assert socket.receive_json() == {"user": "ada", "x": "y"}
        with pytest.raises(SocketClosed, match="4000, that is all"):
            socket.receive()
        assert (socket.close_code, socket.close_reason) == (4000, "that is all")


def test_an_iteration_ends_with_the_socket(client):
    with client.websocket("/many") as socket:
        assert [int(message) for message in socket] == [*range(100)]
    assert socket.close_code == 1000


@pytest.mark.parametrize(("path", "status"), [("/refused", 403), ("/nowhere", 404), ("/login", 200)])
def test_a_refusal_is_told(client, path, status):
    with pytest.raises(HandshakeRefused) as refusal:
        client.websocket(path)
    assert refusal.value.status == status
    if status == 403:
        assert refusal.value.json()["detail"] == "not you"
        assert refusal.value.headers["Content-Type"] == "application/problem+json"


def test_a_silent_server_is_waited_for_so_long(client):
    with client.websocket("/echo", timeout=0.01) as socket, pytest.raises(TimeoutError):
        socket.receive()


def test_a_handshake_may_take_longer_than_a_message():
    routes, timeout = Routes(), 0.01

    @routes.websocket("/")
    async def late(socket):
        await asyncio.sleep(5 * timeout)
        await socket.accept()

    with TestClient(routes) as client, client.websocket("/", timeout=timeout) as socket:
        assert socket.headers["Upgrade"] == "websocket"


def test_a_client_that_isnt_entered_has_no_server():
    with pytest.raises(RuntimeError, match="no server is running"):
        TestClient(Routes()).websocket("/")


def test_the_end_of_the_server_closes_it():
    routes = Routes()

    @routes.websocket("/")
    async def wait(socket):
        async for _ in socket:
            pass

    with TestClient(routes) as client:
        socket = client.websocket("/")
    with pytest.raises(SocketClosed, match="1012"):  # the server hasn't waited for the answer
        socket.receive()
