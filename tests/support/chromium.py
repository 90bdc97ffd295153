"""Pages in headless Chromium that a test drives: the DevTools protocol, over a WebSocket (`websockets`)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from websockets.sync.client import ClientConnection, connect

from tests.support.browser import CHROMIUM

PATIENCE = 30.0
"""Seconds after which something that was to happen is given up."""


class Page:
    """A page that is open.

    Attributes:
        complaints: what scripts have thrown, and what the browser has logged as errors.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; give its result."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(PATIENCE))
            if message.get("id") == self._last:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.complaints.append(str(event["params"]["entry"]["text"]))

    def evaluate(self, script: str) -> Any:
        """What an expression gives in the page."""
        result = self._evaluate(script)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _evaluate(self, script: str) -> dict[str, Any]:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)

    def until(self, script: str) -> None:
        """Wait until an expression is true in the page: an error isn't, as while the page isn't loaded."""
        end = time.monotonic() + PATIENCE
        while self._evaluate(script)["result"].get("value") is not True:
            assert time.monotonic() < end, (script, self.evaluate("document.body.innerText"), self.complaints)
            time.sleep(0.02)

    def draw(self, path: Path, width: int, height: int) -> None:
        """Write a picture of it, as PNG, of so many pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


class Browser:
    """A Chromium that runs; `open` opens pages in it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stack = contextlib.ExitStack()

    def open(self, url: str) -> Page:
        """Open a page."""
        made = requests.put(f"http://127.0.0.1:{self._port}/json/new?{quote(url, safe='')}", timeout=PATIENCE).json()
        socket = connect(made["webSocketDebuggerUrl"], max_size=None, proxy=None, compression=None)
        return Page(self._stack.enter_context(socket))

    def close(self) -> None:
        """Close what it has opened."""
        self._stack.close()


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run a browser until the block ends.

    Args:
        profile: an empty folder, for what it keeps.
    """
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [CHROMIUM, *options, f"--user-data-dir={profile / 'profile'}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )
    try:
        browser = Browser(_debugging_port(profile / "profile" / "DevToolsActivePort", process))
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _debugging_port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """The port, which the browser writes into its profile."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(FileNotFoundError, IndexError):
            return int(file.read_text().splitlines()[0])
        assert process.poll() is None, "the browser has ended"
        assert time.monotonic() < end, "the browser doesn't start"
        time.sleep(0.05)
