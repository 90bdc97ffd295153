"""The site of the documents and the docstrings, as `scripts/docs` makes it, and as a browser shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

import hypoll
from hypoll import Routes
from hypoll.testing import TestClient
from tests.support.browser import browse, needs_browser
from tests.support.documents import ROOT

pytestmark = pytest.mark.full


class Page(HTMLParser):
    """What a page links to, and the names by which its places are linked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name == "id" and value is not None:
                self.ids.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "html"]
    done = subprocess.run([*command, "docs", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path.read_text()) for path in site.rglob("*.html")}


def leading_nowhere(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    for name, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            to = unquote(urljoin(name, target.path)) if target.path else name
            there = (site / to).is_file()
            if not there or (target.fragment and to in pages and unquote(target.fragment) not in pages[to].ids):
                yield f"{name}: {link}"


def test_each_link_leads_somewhere(site, pages):
    assert not list(leading_nowhere(site, pages))


def test_links_to_the_sources_lead_to_files(pages):
    repository = "https://github.com/hypoll/hypoll/blob/main/"
    links = {link.removeprefix(repository) for page in pages.values() for link in page.links if repository in link}
    assert links
    assert not [link for link in links if not (ROOT / urlsplit(link).path).exists()]


def test_links_to_files_that_the_site_shows_stay_in_it(pages):
    links = {link for page in pages.values() for link in page.links}
    assert {"examples.html#orders-py", "examples.html#test-orders-py", "deploy.html#kubernetes-yaml"} <= links
    assert not [link for link in links if "blob/main/examples/orders.py" in link]


def test_each_public_name_is_described(pages):
    public = {f"hypoll.{name}" for name in hypoll.__all__ if not name.startswith("__")} | {"hypoll.testing.TestClient"}
    assert public <= pages["api.html"].ids


def test_each_document_is_a_page(pages):
    documents = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert documents <= set(pages)


@needs_browser
def test_a_browser_shows_it(site, tmp_path):
    """HYPOLL_SCREENSHOT=FILE.png keeps the picture."""
    picture = Path(os.environ.get("HYPOLL_SCREENSHOT", tmp_path / "site.png"))
    routes = Routes()
    routes.static("/", site)
    with TestClient(routes) as client:
        seen = browse(client.base_url + "/api.html", tmp_path, picture=picture)
        missed = [line for line in seen.said.splitlines() if "CONSOLE" in line]
    assert "hypoll.Routes" in seen.markup
    assert not missed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000, "a page with text, not an empty one"
