"""WebSockets with clients that others have written, directly and through proxies: messages come back as they went."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, cast

import aiohttp
import picows
import pytest
import websockets

from hypoll import Routes
from hypoll.websocket import Socket
from tests.asgi.asgiapps import Message, Receive, Send, serving
from tests.proxies.fronts import PATIENCE, Sides, nginx, proxy
from tests.support.server import running

DEPLOY = Path(__file__).parent.parent.parent / "deploy"

pytestmark = pytest.mark.full

Content = str | bytes

MESSAGES: Sequence[Content] = (
    *("", b"", "µ€😀", b"\x00\xff", "x" * 125, "x" * 126, b"\x01" * 65_535, b"\x02" * 65_536, "µ" * 500_000),
    *(f"number {number}" for number in range(200)),  # sent together
)
CODE, REASON = 4001, "bye, for now"


class Talk(NamedTuple):
    """What a client has seen.

    echoes: what came back.
    compressed: whether permessage-deflate is agreed upon; None: the client doesn't say.
    code: of the server's close frame.
    """

    echoes: list[Content]
    compressed: bool | None
    code: object


routes = Routes()


@routes.websocket("/")
async def echo(socket: Socket) -> None:
    async for message in socket:
        await socket.send(message)


async def application(scope: Message, receive: Receive, send: Send) -> None:
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


# the clients


async def by_websockets(url: str) -> Talk:
    async with websockets.connect(url, proxy=None, max_size=None) as socket:
        sending = asyncio.create_task(_send_all(socket.send))
        echoes = [await socket.recv() for _ in MESSAGES]
        await sending
        await (await socket.ping())
        await socket.close(CODE, REASON)
        return Talk(echoes, bool(socket.protocol.extensions), socket.close_code)


async def _send_all(send: Callable[[Content], Awaitable[None]]) -> None:
    for message in MESSAGES:
        await send(message)


async def by_aiohttp(url: str) -> Talk:
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15, max_msg_size=0) as socket:

        async def send(message: Content) -> None:
            await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))

        sending = asyncio.create_task(_send_all(send))
        echoes = [(await socket.receive()).data for _ in MESSAGES]
        await sending
        await socket.close(code=CODE, message=REASON.encode())
        return Talk(echoes, bool(socket.compress), socket.close_code)


class Listener(picows.WSListener):
    """Collects what comes; `whole` is set when everything has."""

    def __init__(self) -> None:
        self.echoes: list[Content] = []
        self.whole = asyncio.Event()
        self.code: object = None

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            self.code = frame.get_close_code()
            transport.disconnect()
            return
        text = frame.msg_type == picows.WSMsgType.TEXT
        self.echoes.append(frame.get_payload_as_utf8_text() if text else frame.get_payload_as_bytes())
        if len(self.echoes) == len(MESSAGES):
            self.whole.set()


async def by_picows(url: str) -> Talk:
    listener = Listener()
    transport, _ = await picows.ws_connect(lambda: listener, url)
    for message in MESSAGES:
        text = isinstance(message, str)
        kind = picows.WSMsgType.TEXT if text else picows.WSMsgType.BINARY
        transport.send(kind, message.encode() if isinstance(message, str) else message)
    await asyncio.wait_for(listener.whole.wait(), PATIENCE)
    transport.send_close(cast(picows.WSCloseCode, CODE), REASON.encode())  # takes an int, too
    await asyncio.wait_for(transport.wait_disconnected(), PATIENCE)
    return Talk(listener.echoes, None, listener.code)


NODE = """
const { WebSocket } = require('ws')
const messages = JSON.parse(require('fs').readFileSync(0)).map(([text, hex]) => text ?? Buffer.from(hex, 'hex'))
const digest = data => require('crypto').createHash('sha256').update(data).digest('hex')
const [url, code, reason] = process.argv.slice(2)
const socket = new WebSocket(url)
const echoes = []
socket.on('open', () => messages.forEach(message => socket.send(message)))
socket.on('message', (data, binary) => {
  echoes.push([binary, digest(data)])
  if (echoes.length === messages.length) socket.close(Number(code), reason)
})
socket.on('close', code => console.log(JSON.stringify({ echoes, code, compressed: socket.extensions !== '' })))
socket.on('error', error => { throw error })
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Node's `ws`, and the script that uses it."""
    if not shutil.which("npm"):
        pytest.skip("there is no npm here: apt-get install npm")
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "ws@8"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"npm can't install ws here: {done.stderr.strip()[-200:]}")
    (folder / "talk.js").write_text(NODE)
    return folder


def digest(message: Content) -> tuple[bool, str]:
    data = message.encode() if isinstance(message, str) else message
    return isinstance(message, bytes), sha256(data).hexdigest()


# where they connect


@pytest.fixture(scope="module", params=["routes", "asgi"])
def back(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a hypoll."""
    with (
        running(routes, health="/healthz")
        if request.param == "routes"
        else serving(application, health="/healthz") as it
    ):
        yield it.address[1]


def documented_nginx(sides: Sides) -> list[str]:
    text = (DEPLOY / "nginx.conf").read_text()
    for documented, own in (("listen 80;", "listen 127.0.0.1:{FRONT};"), ("127.0.0.1:8000;", "127.0.0.1:{BACK};")):
        assert documented in text
        text = text.replace(documented, own)
    return nginx(sides, text)


def documented_haproxy(sides: Sides, *changes: tuple[str, str]) -> list[str]:
    """It checks whether they live: a server of `running` doesn't say that it is ready."""
    text = (DEPLOY / "haproxy.cfg").read_text()
    servers = [(f'"${{HYPOLL{number}-127.0.0.1:800{number}}}"', "127.0.0.1:{BACK}") for number in (1, 2, 3)]
    own_ones = [('"${FRONTEND-:8080}"', "127.0.0.1:{FRONT}"), ("/healthz/ready", "/healthz/live")]
    for documented, own in (*own_ones, *servers, *changes):
        assert documented in text
        text = text.replace(documented, own)
    return ["haproxy", "-db", "-f", sides.write("haproxy.cfg", text)]


FRONTS: dict[str, Callable[[Sides], list[str]]] = {"nginx": documented_nginx, "haproxy": documented_haproxy}


@pytest.fixture(scope="module", params=["directly", *FRONTS])
def url(request: pytest.FixtureRequest, back: int) -> Iterator[str]:
    if request.param == "directly":
        yield f"ws://127.0.0.1:{back}/"
    else:
        with proxy(FRONTS[request.param], back) as front:
            yield f"ws://127.0.0.1:{front}/"


CLIENTS = {"websockets": by_websockets, "aiohttp": by_aiohttp, "picows": by_picows}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_of_python(client, url):
    talk = asyncio.run(asyncio.wait_for(CLIENTS[client](url), PATIENCE))
    assert [*map(digest, talk.echoes)] == [*map(digest, MESSAGES)]
    assert talk.compressed in (True, None)
    assert talk.code == CODE


def test_node_s_ws(node, url):
    given = json.dumps([[m, None] if isinstance(m, str) else [None, m.hex()] for m in MESSAGES])
    command = ["node", str(node / "talk.js"), url, str(CODE), REASON]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    talk = json.loads(done.stdout)
    assert [*map(tuple, talk["echoes"])] == [*map(digest, MESSAGES)]
    assert talk["compressed"] is True
    assert talk["code"] == CODE


# what proxies do


@pytest.mark.parametrize("front", FRONTS)
def test_pages_of_the_host_that_the_proxy_serves_may_connect_and_no_others(front):
    with running(routes, health="/healthz") as it, proxy(FRONTS[front], it.address[1]) as port:
        own, other = f"http://127.0.0.1:{port}", "http://elsewhere.example"

        async def connect(origin: str) -> None:
            async with websockets.connect(f"ws://127.0.0.1:{port}/", origin=websockets.Origin(origin), proxy=None):
                pass

        asyncio.run(connect(own))
        with pytest.raises(websockets.InvalidStatus, match="403"):
            asyncio.run(connect(other))


@pytest.mark.parametrize("front", FRONTS)
def test_a_drain_reaches_the_client_through_the_proxy(front):
    with running(routes, health="/healthz") as it, proxy(FRONTS[front], it.address[1]) as port:

        async def run() -> int | None:
            async with websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None) as socket:
                await socket.send("here")
                assert await socket.recv() == "here"
                it.runner.loop.call_soon_threadsafe(it.server.drain)
                await socket.wait_closed()
                return socket.close_code

        assert asyncio.run(asyncio.wait_for(run(), PATIENCE)) == 1012


@pytest.mark.parametrize("alive", [True, False])
def test_haproxy_ends_a_silent_websocket_after_the_time_of_tunnels_and_pings_keep_it(alive):
    """Much shorter times than the documented ones, in their order: ping interval, tunnel."""

    def site(sides: Sides) -> list[str]:
        return documented_haproxy(
            sides, ("timeout tunnel 75s", "timeout tunnel 1s"), ("timeout client 30s", "timeout client 100ms")
        )

    async def run(port: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None, ping_interval=None) as socket:
            await socket.send("here")
            assert await socket.recv() == "here"
            with pytest.raises(TimeoutError if alive else websockets.ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 2 if alive else PATIENCE)

    interval = 0.2 if alive else 0
    with running(routes, health="/healthz", ws_ping_interval=interval) as it, proxy(site, it.address[1]) as port:
        asyncio.run(run(port))
