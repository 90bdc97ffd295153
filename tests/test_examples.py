"""The examples, each as its readers start it: by a server of its own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hypoll.testing import TestClient
from tests.support.examples import load

URL = "https://example.org/a?b=1#c"


def test_hello():
    with TestClient(load("hello").routes) as client:
        assert client.get("/").json() == {"hello": "world"}
        assert client.get("/?name=Zoë").json() == {"hello": "Zoë"}
        assert client.get("/").headers["Content-Type"] == "application/json"
        assert client.get("/nothing").status_code == 404


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "links.db"
    monkeypatch.setenv("LINKS_DB", str(path))
    return path


@pytest.fixture
def links(database: Path) -> ModuleType:
    return load("links")


@pytest.fixture
def client(links: ModuleType) -> Iterator[TestClient]:
    with TestClient(links.routes) as client:
        yield client


def made(client: TestClient, url: str = URL, **more: Any) -> dict[str, Any]:
    answer = client.post("/links", json={"url": url, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_the_guide_names_every_route(client, links):
    answer = client.get("/")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    for route in links.routes.table():
        path = route.path.replace("{slug}", "SLUG")
        assert path == "/" or re.search(rf"^{route.methods[0]} +{re.escape(path)}[ ?]", answer.text, re.MULTILINE)


def test_create_and_read(client):
    answer = client.post("/links", json={"url": URL})
    assert answer.status_code == 201
    link = answer.json()
    assert set(link) == {"slug", "url", "short", "created"}
    assert re.fullmatch(r"[A-Za-z0-9_-]{7}", link["slug"])
    assert link["url"] == URL
    assert link["short"] == f"{client.base_url}/{link['slug']}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", link["created"])
    assert answer.headers["Location"] == f"/links/{link['slug']}"
    assert client.get(answer.headers["Location"]).json() == link


def test_a_slug_of_one_s_own(client):
    assert made(client, slug="My-slug_1")["slug"] == "My-slug_1"
    assert client.get("/My-slug_1", allow_redirects=False).headers["Location"] == URL
    assert client.get("/my-slug_1", allow_redirects=False).status_code == 404


def test_a_slug_is_given_once(client):
    made(client, "https://example.org/first", slug="mine")
    refused = client.post("/links", json={"url": "https://example.org/second", "slug": "mine"})
    assert refused.status_code == 409
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"] == "the slug mine is taken"
    assert client.get("/links/mine").json()["url"] == "https://example.org/first"


def test_a_drawn_slug_that_is_taken_is_drawn_again(client, links, monkeypatch):
    drawn = iter(["same", "same", "same", "other"])
    monkeypatch.setattr(links.secrets, "token_urlsafe", lambda size: next(drawn))
    assert made(client)["slug"] == "same"
    assert made(client)["slug"] == "other"


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        7,
        ["https://example.org/"],
        "example.org",
        "//example.org/",
        "ftp://example.org/",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "http://:80/",
        "http://example.org:99999/",
        "http://example.org:port/",
        "http://[::1/",
        "http://[no-address]/",
        "https://example.org/a b",
        "https://example.org/\r\nX-Injected: 1",
        "https://example.org/é",
        "https://example.org/" + "a" * 2000,
        " https://example.org/",
    ],
)
def test_what_is_no_url_is_refused(client, url):
    refused = client.post("/links", json={"url": url})
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("url must be an http or https URL")
    assert client.get("/links").json()["links"] == []


@pytest.mark.parametrize(
    "url", ["http://example.org", "HTTPS://EXAMPLE.ORG/", "http://[::1]:8000/", "http://a:b@example.org/%C3%A9?x#y"]
)
def test_what_is_a_url_is_followed_as_it_was_given(client, url):
    slug = made(client, url)["slug"]
    assert client.get(f"/{slug}", allow_redirects=False).headers["Location"] == url


@pytest.mark.parametrize("slug", ["", "a b", "a/b", "é", "a" * 65, "links", 7, True, ["a"], "a\n", "."])
def test_a_bad_slug_is_refused(client, slug):
    refused = client.post("/links", json={"url": URL, "slug": slug})
    assert refused.status_code == 422
    assert refused.json()["detail"] == "slug must be 1 to 64 letters, digits, - or _, and not links"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"url=https://example.org/", 400, "the body is not JSON"),
        (b"[]", 422, "must be an object"),
        (b'"https://example.org/"', 422, "must be an object"),
        (b"{}", 422, "url must be"),
    ],
)
def test_a_bad_body_is_refused(client, body, status, words):
    refused = client.post("/links", data=body)
    assert refused.status_code == status
    assert words in refused.json()["detail"]


def test_following_redirects_and_counts(client):
    slug = made(client)["slug"]
    before = client.get(f"/links/{slug}/stats").json()
    assert before == {"slug": slug, "hits": 0, "created": before["created"], "last_hit": None}
    for _ in range(3):
        answer = client.get(f"/{slug}", allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"], answer.content) == (302, URL, b"")
    after = client.get(f"/links/{slug}/stats").json()
    assert after["hits"] == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", after["last_hit"])
    assert after["last_hit"] >= after["created"]


def test_a_head_is_answered_and_not_counted(client):
    slug = made(client)["slug"]
    answer = client.head(f"/{slug}")
    assert (answer.status_code, answer.headers["Location"]) == (302, URL)
    assert client.get(f"/links/{slug}/stats").json()["hits"] == 0


def test_counts_are_each_link_s_own(client):
    first, second = made(client)["slug"], made(client)["slug"]
    client.get(f"/{first}", allow_redirects=False)
    assert client.get(f"/links/{first}/stats").json()["hits"] == 1
    assert client.get(f"/links/{second}/stats").json()["hits"] == 0


def test_delete(client):
    slug = made(client)["slug"]
    answer = client.delete(f"/links/{slug}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method, path in [
        ("GET", f"/{slug}"),
        ("GET", f"/links/{slug}"),
        ("GET", f"/links/{slug}/stats"),
        ("DELETE", f"/links/{slug}"),
    ]:
        missing = client.request(method, path, allow_redirects=False)
        assert missing.status_code == 404
        assert missing.json()["detail"] == f"there is no link '{slug}'"
    assert made(client, slug=slug)["slug"] == slug, "a slug that was deleted is free"


def test_an_empty_list(client):
    assert client.get("/links").json() == {"links": [], "next": None}


def test_the_list_goes_page_by_page(client):
    slugs = [f"slug-{number}" for number in range(5)]
    for slug in reversed(slugs):
        made(client, slug=slug)
    path, pages = "/links?limit=2", []
    while path is not None:
        page = client.get(path).json()
        pages.append([link["slug"] for link in page["links"]])
        path = page["next"]
    assert pages == [slugs[0:2], slugs[2:4], slugs[4:]]
    assert client.get("/links?limit=5").json()["next"] is None, "nothing is behind the last one"
    assert client.get("/links?after=slug-3").json()["links"] == [client.get("/links/slug-4").json()]
    assert client.get("/links?after=zzz").json() == {"links": [], "next": None}


def test_a_page_has_twenty_links_unless_another_number_is_asked_for(client):
    for number in range(21):
        made(client, slug=f"slug-{number:02}")
    page = client.get("/links").json()
    assert len(page["links"]) == 20
    assert page["next"] == "/links?limit=20&after=slug-19"
    assert len(client.get("/links?limit=100").json()["links"]) == 21


@pytest.mark.parametrize("limit", ["0", "101", "1000", "-1", "two", "", "1.5", "٣"])
def test_a_bad_limit_is_refused(client, limit):
    refused = client.get("/links", params={"limit": limit})
    assert refused.status_code == 400
    assert "limit" in refused.json()["detail"]


def test_sql_in_a_request_is_only_text(client):
    made(client, slug="kept")
    assert client.get("/links/'%20OR%20'1'='1").status_code == 404
    assert client.get("/links", params={"after": "' OR 1=1; DROP TABLE links; --"}).status_code == 200
    assert client.delete("/links/%25").status_code == 404
    assert client.get("/links/kept").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/links", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/links/x", "DELETE, GET, HEAD, OPTIONS"),
        ("DELETE", "/x", "GET, HEAD, OPTIONS"),
    ],
)
def test_another_method_is_refused(client, method, path, allow):
    refused = client.request(method, path)
    assert (refused.status_code, refused.headers["Allow"]) == (405, allow)


def test_links_and_counts_outlive_the_server(database):
    with TestClient(load("links").routes) as client:
        made(client, slug="kept")
        made(client, slug="gone")
        client.get("/kept", allow_redirects=False)
        client.delete("/links/gone")
    with TestClient(load("links").routes) as client:
        assert client.get("/kept", allow_redirects=False).headers["Location"] == URL
        assert client.get("/links/kept/stats").json()["hits"] == 2
        assert client.get("/gone", allow_redirects=False).status_code == 404


def test_the_database_is_closed_with_the_server(client, database):
    slug = made(client)["slug"]
    other = sqlite3.connect(database)
    try:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        # What was answered is committed: another connection sees it.
        assert other.execute("SELECT slug FROM links").fetchall() == [(slug,)]
    finally:
        other.close()
    client.__exit__()
    assert [path.name for path in database.parent.iterdir()] == ["links.db"], "the last to close empties the log"


def test_without_links_db_it_is_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("LINKS_DB", raising=False)
    monkeypatch.chdir(tmp_path)
    with TestClient(load("links").routes) as client:
        made(client)
    assert (tmp_path / "links.db").exists()


def test_a_database_that_can_not_be_opened_ends_the_start(tmp_path, monkeypatch):
    path = tmp_path / "missing" / "links.db"
    monkeypatch.setenv("LINKS_DB", str(path))
    sentence = f"LINKS_DB can't be opened at '{path}': unable to open database file. User [0-9]+ must be able to write"
    with pytest.raises(OSError, match=sentence), TestClient(load("links").routes):
        pytest.fail("it was started")
