"""`redirect` and `html`."""

from __future__ import annotations

from typing import Any

import pytest

from hypoll import Routes, html, redirect
from hypoll.testing import TestClient
from hypoll.web.responses import REDIRECTS


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/", "/"),
        ("next", "next"),
        ("?page=2", "?page=2"),
        ("https://user@example.org:8443/a/b;c?d=e&f=[1]#g", "https://user@example.org:8443/a/b;c?d=e&f=[1]#g"),
        ("myapp://callback?code=1", "myapp://callback?code=1"),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("/caf\xe9?q=\u4f60", "/caf%C3%A9?q=%E4%BD%A0"),
        ("/caf%C3%A9", "/caf%C3%A9"),
        ("http://b\xfccher.example/", "http://b%C3%BCcher.example/"),
        ("/a b", "/a%20b"),
        ('/"<>{}|^`', "/%22%3C%3E%7B%7D%7C%5E%60"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("\\\\evil.example", "%5C%5Cevil.example"),
    ],
)
def test_a_url_is_encoded_where_it_must_be(url: str, location: str) -> None:
    response = redirect(url)
    assert (response.status, response.headers["Location"], response.body) == (303, location, b"")


@pytest.mark.parametrize(
    "url", ["", "/\r\nSet-Cookie: a=b", "/\n", "/a\tb", "/\0", "\x7f", "http://[::1/", "http://a:port/", "/\ud800"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL"):
        redirect(url)


@pytest.mark.parametrize("status", [200, 300, 304, 305, 400, "303"])
def test_another_status_is_refused(status: Any) -> None:
    with pytest.raises(ValueError, match="redirect takes a status of 301, 302, 303, 307, 308"):
        redirect("/", status)


def test_other_types_are_refused() -> None:
    other: Any = b"/"
    with pytest.raises(TypeError, match="a URL is a str"):
        redirect(other)
    with pytest.raises(TypeError, match="html takes a str, not bytes"):
        html(other)


def test_further_fields() -> None:
    assert redirect("/", 301, {"X-A": "1", "location": "/other"}).headers == {"X-A": "1", "Location": "/"}
    page = html("<p>", 404, {"X-A": "1"})
    assert (page.status, page.body, dict(page.headers)) == (404, b"<p>", {"X-A": "1"})


def test_clients_follow_and_browsers_see_a_page():
    routes = Routes()
    routes.get("/page")(lambda request: html("<p>\xfc"))
    for status in REDIRECTS:
        routes.post(f"/{status}")(lambda request, status=status: redirect("/target", status))
    routes.route("/target", ["GET", "POST"])(lambda request: f"{request.method} {request.body.decode()}")
    with TestClient(routes) as client:
        answer = client.get("/page")
        assert (answer.text, answer.headers["Content-Type"]) == ("<p>\xfc", "text/html; charset=utf-8")
        assert client.head("/page").headers["Content-Length"] == "5"
        assert {status: client.post(f"/{status}", data="x").text for status in REDIRECTS} == {
            301: "GET ", 302: "GET ", 303: "GET ", 307: "POST x", 308: "POST x",
        }  # fmt: skip
