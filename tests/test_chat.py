"""examples/chat.py: by clients of the tests' own, and by a browser."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll.testing import ClientSocket, TestClient
from tests.support.browser import browse, needs_browser
from tests.support.examples import load


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(load("chat").routes) as it:
        yield it


def talking(client: TestClient, name: str, room: str) -> ClientSocket:
    return client.websocket(f"/rooms/{room}/talk?name={name}")


def test_what_is_said_goes_to_all_in_the_room(client):
    with talking(client, "Ada", "a") as ada, talking(client, "Bob", "a") as bob, talking(client, "Eve", "b") as eve:
        assert ada.receive_json() == {"event": "joined", "name": "Ada", "members": 1}
        assert ada.receive_json() == bob.receive_json() == {"event": "joined", "name": "Bob", "members": 2}
        ada.send(" hello ")
        said = {"event": "said", "name": "Ada", "text": "hello"}
        assert ada.receive_json() == bob.receive_json() == said
        eve.send("and here?")
        assert eve.receive_json()["event"] == "joined"
        assert eve.receive_json()["text"] == "and here?"
        bob.close()
        assert ada.receive_json() == {"event": "left", "name": "Bob", "members": 1}


def test_the_front_page_leads_to_a_room(client):
    assert client.get("/", allow_redirects=False).headers["Location"] == "/rooms/lobby"
    assert client.get("/").headers["Content-Type"] == "text/html; charset=utf-8"


class Answering(threading.Thread):
    """Says something to Ada when she joins, and listens until she has left so many times."""

    def __init__(self, socket: ClientSocket, visits: int) -> None:
        super().__init__()
        self.socket = socket
        self.visits = visits
        self.heard: list[Any] = []

    def run(self) -> None:
        for message in self.socket:
            self.heard.append(message)
            if "joined" in message and "Ada" in message:
                self.socket.send("Hello, Ada! <b>How are you?</b>")
            self.visits -= "left" in message and "Ada" in message
            if not self.visits:
                break


@pytest.mark.full
@needs_browser
def test_a_browser_talks_in_a_room(client, tmp_path):
    """HYPOLL_SCREENSHOT=FILE.png takes the picture of the documentation."""
    with client.websocket("/rooms/tea/talk?name=Grace", timeout=60) as socket:
        picture = os.environ.get("HYPOLL_SCREENSHOT")
        answering = Answering(socket, 2 if picture else 1)
        answering.start()
        page = f"{client.base_url}/rooms/tea?name=Ada"
        seen = browse(page, tmp_path, seconds=5, size="720,560", picture=Path(picture) if picture else None)
        answering.join()
    assert ">connected<" in seen.markup, seen.said
    assert "Ada has joined; 2 here" in seen.markup
    assert "<b>Grace</b>Hello, Ada! &lt;b&gt;How are you?&lt;/b&gt;" in seen.markup, "as text"
    assert "CONSOLE" not in seen.said
    assert any("left" in message and "Ada" in message for message in answering.heard)
