"""examples/chat.py: by clients of the tests' own, and by a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypoll.testing import ClientSocket, TestClient
from tests.support.browser import needs_browser
from tests.support.chromium import Page, chromium
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


SAID = "[...document.querySelectorAll('#log .said')].map(line => line.textContent)"
MARKUP = "I am. <b>How are you?</b>"


def say(page: Page, text: str) -> None:
    page.evaluate(f"$('text').value = {text!r}; document.forms[0].requestSubmit()")


@pytest.mark.full
@needs_browser
def test_two_pages_talk_and_come_back_when_their_connection_was_lost(client, tmp_path):
    """HYPOLL_SCREENSHOT=FILE.png takes the picture of the documentation."""
    with chromium(tmp_path) as browser:
        pages = [browser.open(f"{client.base_url}/rooms/tea?name={name}") for name in ("Ada", "Grace")]
        for page in pages:
            page.until("$('state').textContent === 'connected'")
        ada, grace = pages
        say(ada, "Is anybody here?")
        ada.until(f"{SAID}.length === 1")
        say(grace, MARKUP)
        for page in pages:
            page.until(f"{SAID}.join() === 'AdaIs anybody here?,Grace{MARKUP}'")
            assert page.evaluate("document.querySelectorAll('.said b').length") == 2, "what is said is no markup"
        if picture := os.environ.get("HYPOLL_SCREENSHOT"):
            ada.draw(Path(picture), 720, 560)
        ada.evaluate("window.lost = socket; socket.close()")
        ada.until("socket !== lost && $('state').textContent === 'connected'")
        say(ada, "I am back.")
        grace.until(f"{SAID}.at(-1) === 'AdaI am back.'")
        assert [page.complaints for page in pages] == [[], []]
