"""A URL shortener on SQLite: a small service, whole. Start it with `hypoll links:routes --app-dir examples`.

LINKS_DB: the database's path, made when it isn't there; default: links.db in the current directory.
"""

import contextlib
import os
import re
import secrets
import sqlite3
from typing import Any
from urllib.parse import urlsplit

from hypoll import HTTPError, Request, Response, Routes, redirect

GUIDE = """\
A URL shortener.

POST   /links               make a link of {"url": "https://example.org/", "slug": "optional"}
GET    /links?limit=&after= the links by slug, a page at a time
GET    /links/SLUG          one of them
GET    /links/SLUG/stats    how often it was followed, and when last
DELETE /links/SLUG          forget it
GET    /SLUG                follow it
"""
SCHEMA = """
CREATE TABLE IF NOT EXISTS links (
    slug TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    hits INTEGER NOT NULL DEFAULT 0,
    last_hit TEXT
)
"""
FOLLOWED = "UPDATE links SET hits = hits + 1, last_hit = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE slug = ?"
URL = re.compile(r"https?://[!-~]{1,2000}", re.IGNORECASE)
SLUG = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_PAGE = 100

routes = Routes()


@routes.on_start
def open_database() -> None:
    """Connect once. Handlers run one after another on one thread, so that one connection is all they need."""
    path = os.environ.get("LINKS_DB", "links.db")
    try:
        routes.state.db = connected(path)
    except sqlite3.OperationalError as error:
        where = f"{os.path.abspath(path)!r}: {error}. User {os.getuid()} must be able to write there"
        raise OSError(f"LINKS_DB can't be opened at {where}") from error


def connected(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a commit doesn't wait for the disk
    connection.execute(SCHEMA)
    return connection


@routes.on_stop
def close_database() -> None:
    routes.state.db.close()


@routes.get("/")
def guide(request: Request) -> str:
    return GUIDE


@routes.post("/links")
def create(request: Request) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make a link, under a drawn slug unless one is asked for."""
    wanted = request.json()
    if not isinstance(wanted, dict):
        raise HTTPError(422, 'the body must be an object, as in {"url": "https://example.org/"}')
    url, asked = checked_url(wanted.get("url")), wanted.get("slug")
    slug = secrets.token_urlsafe(5) if asked is None else checked_slug(asked)
    while not insert(slug, url):
        if asked is not None:
            raise HTTPError(409, f"the slug {slug} is taken")
        slug = secrets.token_urlsafe(5)
    return presented(request, find(slug)), 201, {"Location": routes.url_for("link", slug=slug)}


@routes.get("/links", name="links")
def index(request: Request) -> dict[str, Any]:
    """A page of links, and as `next` the path of the following page, or null."""
    limit, after = request.query.get("limit", 20, type=int), request.query.get("after", "")
    if not 1 <= limit <= MAX_PAGE:
        raise HTTPError(400, f"limit must be a number from 1 to {MAX_PAGE}")
    # One row more than the page has shows whether there is a next page.
    rows = execute("SELECT * FROM links WHERE slug > ? ORDER BY slug LIMIT ?", after, limit + 1).fetchall()
    page, more = rows[:limit], len(rows) > limit
    following = routes.url_for("links", query={"limit": limit, "after": page[-1]["slug"]}) if more else None
    return {"links": [presented(request, row) for row in page], "next": following}


@routes.get("/links/{slug}", name="link")
def read(request: Request, slug: str) -> dict[str, Any]:
    return presented(request, find(slug))


@routes.delete("/links/{slug}")
def delete(request: Request, slug: str) -> None:
    find(slug)
    execute("DELETE FROM links WHERE slug = ?", slug)


@routes.get("/links/{slug}/stats")
def stats(request: Request, slug: str) -> dict[str, Any]:
    row = find(slug)
    return {name: row[name] for name in ("slug", "hits", "created", "last_hit")}


@routes.get("/{slug}")
def follow(request: Request, slug: str) -> Response:
    """Redirect to the link's URL, and count that; a HEAD, which comes here too, only asks."""
    url = find(slug)["url"]
    if request.method == "GET":
        execute(FOLLOWED, slug)
    return redirect(url, 302)


def execute(sql: str, *values: object) -> sqlite3.Cursor:
    cursor: sqlite3.Cursor = routes.state.db.execute(sql, values)
    return cursor


def find(slug: str) -> sqlite3.Row:
    """The row of a link. Raises `HTTPError` 404."""
    row: sqlite3.Row | None = execute("SELECT * FROM links WHERE slug = ?", slug).fetchone()
    if row is None:
        raise HTTPError(404, f"there is no link {slug!r}")
    return row


def insert(slug: str, url: str) -> bool:
    """Add a link. False when the slug is taken."""
    return execute("INSERT INTO links (slug, url) VALUES (?, ?) ON CONFLICT DO NOTHING", slug, url).rowcount == 1


def presented(request: Request, row: sqlite3.Row) -> dict[str, Any]:
    """A link as its readers see it."""
    short = f"{request.scheme}://{request.host}/{row['slug']}"
    return {"slug": row["slug"], "url": row["url"], "short": short, "created": row["created"]}


def checked_url(url: object) -> str:
    """A URL that can be redirected to. Raises `HTTPError` 422."""
    if isinstance(url, str) and URL.fullmatch(url):
        with contextlib.suppress(ValueError):  # what urlsplit raises for a bad port or address
            parts = urlsplit(url)
            if parts.hostname and parts.port != 0:
                return url
    raise HTTPError(422, "url must be an http or https URL with a host, percent-encoded, of at most 2000 characters")


def checked_slug(slug: object) -> str:
    """A slug of the client's choice. Raises `HTTPError` 422."""
    if not isinstance(slug, str) or not SLUG.fullmatch(slug) or slug == "links":
        raise HTTPError(422, "slug must be 1 to 64 letters, digits, - or _, and not links")
    return slug
