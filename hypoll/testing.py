"""A real server on a free port, for an application's own tests. Needs requests: `pip install 'hypoll[test]'`."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Unpack
from urllib.parse import urljoin, urlsplit

try:
    import requests
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("hypoll.testing needs requests: pip install 'hypoll[test]'", name=error.name) from None

from hypoll.app import Routes
from hypoll.hosting import Servable, service_of
from hypoll.runner import Runner
from hypoll.settings import ServerOptions, settings_of
from hypoll.websocket.client import ClientSocket, HandshakeRefused

__all__ = ["ClientSocket", "HandshakeRefused", "TestClient"]

START_TIMEOUT = 10.0
"""Seconds the application's startup may take."""

STRICT_JSON = True
"""Whether tests are strict about JSON where they don't say."""

SOCKET_TIMEOUT = 5.0
"""Seconds that a WebSocket waits for a message, unless it is said otherwise."""


class TestClient(requests.Session):
    """A `requests.Session` bound to a server of its own, which runs in a thread while the context is entered.

        with TestClient(routes) as client:
            assert client.get("/users/7").json() == {"id": 7}

    A WSGI or ASGI application may be given, too. It may be entered again after it was left: that starts a new server.

    Args:
        strict_json: make NaN and the infinities in the JSON of `Routes` errors while the server runs; the default.
        settings: the fields of `hypoll.settings.Settings`; `bind` is always a free port of 127.0.0.1.
    """

    __test__ = False  # not a test of pytest's

    base_url: str = ""
    """The URL of the server, without a path; empty while none is running."""

    def __init__(self, routes: Servable, *, strict_json: bool | None = None, **settings: Unpack[ServerOptions]) -> None:
        super().__init__()
        self.trust_env = False  # a proxy of the environment has no business here
        given: dict[str, Any] = {"access_log": "off", **settings}
        given.pop("bind", None)  # of who has written it all down
        self._settings = settings_of("127.0.0.1:0", given)
        self._routes = service_of(routes, self._settings)
        self._strict_json = STRICT_JSON if strict_json is None else strict_json
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> TestClient:
        """Start the server. Raises what its start raises."""
        if self.base_url:
            raise RuntimeError("the TestClient is entered already")
        self._routes.check()
        self._ready.clear()
        self._failure = None
        self._thread = threading.Thread(target=self._serve, name="hypoll.testing", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT):
            raise TimeoutError(f"the application didn't start within {START_TIMEOUT:g} s")
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        self.base_url = self._server.addresses[0]
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the server when its requests under way are answered. A stream that hasn't ended is cut."""
        super().close()
        if self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop is closed: a drain that was begun before has just ended
                self._loop.call_soon_threadsafe(self._drain)
            self._thread.join()
        self.base_url = ""

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """`requests.Session.request`; a path is taken to be on the server."""
        text = url.decode() if isinstance(url, bytes) else url
        if not self.base_url:
            raise RuntimeError("no server is running: enter the client first, `with TestClient(routes) as client:`")
        # urljoin would take the first segment of //a/b for a host.
        joined = self.base_url + text if text.startswith("/") else urljoin(self.base_url + "/", text)
        return super().request(method, joined, *args, **kwargs)

    def websocket(
        self,
        path: str,
        *,
        subprotocols: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        timeout: float = SOCKET_TIMEOUT,
    ) -> ClientSocket:
        """Open a WebSocket, with the session's cookies and fields.

            with client.websocket("/chat/x") as socket:
                socket.send("hello")
                assert socket.receive() == "hello"

        Args:
            path: of the server, with a query or without.
            subprotocols: those to offer.
            headers: further fields of the handshake.
            timeout: seconds that each `receive` waits at most; the handshake may take longer than a short one.

        Raises:
            HandshakeRefused: When the answer isn't 101, with its status, fields and content.
        """
        if not self.base_url:
            raise RuntimeError("no server is running: enter the client first, `with TestClient(routes) as client:`")
        prepared = self.prepare_request(requests.Request("GET", self.base_url + path, headers=headers))
        server = urlsplit(self.base_url)
        sock = socket.create_connection((server.hostname, server.port), max(timeout, SOCKET_TIMEOUT))
        try:
            if server.scheme == "https":
                authority = self.verify if isinstance(self.verify, str) else None
                sock = ssl.create_default_context(cafile=authority).wrap_socket(sock, server_hostname=server.hostname)
            fields = {name: value for name, value in prepared.headers.items() if name != "Connection"}
            opened = ClientSocket(sock, server.netloc, prepared.path_url, fields, subprotocols)
            sock.settimeout(timeout)
            return opened
        except BaseException:
            sock.close()
            raise

    def _drain(self) -> None:
        """Have the server stop: requests under way are waited for, but neither idle connections nor streams."""
        self._server.drain_at_once()
        self._loop.call_soon(self._loop.call_soon, self._server.cut_streams)  # when event streams have ended cleanly

    def _serve(self) -> None:
        routes = self._routes
        if not self._strict_json or not isinstance(routes, Routes) or routes.strict_json:
            self._serve_here()
            return
        routes.strict_json = True
        try:
            self._serve_here()
        finally:
            routes.strict_json = False

    def _serve_here(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                self._runner = runner = Runner(self._routes, self._settings)
                stack.callback(runner.close)
                self._loop = runner.loop
                self._server = runner.start()
                stack.callback(self._server.stop)
            except BaseException as error:
                self._failure = error
                return
            finally:
                self._ready.set()
            runner.run()
