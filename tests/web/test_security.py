"""The fields that have browsers guard a page."""

from __future__ import annotations

import pytest

from hypoll import Request, Response, RouteError, Routes
from hypoll.protocol.peer import Peer
from hypoll.testing import TestClient
from tests.support.server import running

DEFAULT = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "frame-ancestors 'none'",
    "x-frame-options": "DENY",
}


def fields(own: dict[str, str] | None = None, scheme: str = "http", **options: str | None) -> dict[str, str]:
    """The fields of an answer whose handler sets some itself."""
    routes = Routes()
    routes.get("/")(lambda request: Response("x", headers=own or {}))
    routes.secure_headers(**options)
    response = routes(Request("GET", b"/", peer=Peer(("127.0.0.1", 1), scheme)))
    found = [(name.lower(), value) for name, value in response.headers.items()]
    assert len(dict(found)) == len(found), "a field is there twice"
    return dict(found)


def test_the_defaults():
    assert fields() == DEFAULT
    assert fields(scheme="https") == DEFAULT | {"strict-transport-security": "max-age=31536000"}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"hsts": "max-age=1; preload"}, {}),
        ({"referrer_policy": "no-referrer"}, {"referrer-policy": "no-referrer"}),
        ({"referrer_policy": None, "opener_policy": None}, {"referrer-policy": "", "cross-origin-opener-policy": ""}),
        (
            {"frame_ancestors": "'self'"},
            {"content-security-policy": "frame-ancestors 'self'", "x-frame-options": "SAMEORIGIN"},
        ),
        (
            {"frame_ancestors": "https://a.example"},
            {"content-security-policy": "frame-ancestors https://a.example", "x-frame-options": ""},
        ),
        ({"frame_ancestors": None}, {"content-security-policy": "", "x-frame-options": ""}),
        (
            {"content_security_policy": "default-src 'self';"},
            {"content-security-policy": "default-src 'self'; frame-ancestors 'none'"},
        ),
        (
            {"content_security_policy": "frame-ancestors *; default-src 'self'"},
            {"content-security-policy": "frame-ancestors *; default-src 'self'"},
        ),
        (
            {"resource_policy": "same-site", "permissions_policy": "camera=()"},
            {"cross-origin-resource-policy": "same-site", "permissions-policy": "camera=()"},
        ),
    ],
)
def test_each_can_be_another(options, changed):
    assert fields(**options) == {name: value for name, value in (DEFAULT | changed).items() if value}


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({"Referrer-Policy": "origin"}, {"referrer-policy": "origin"}),
        ({"x-content-type-options": "x"}, {"x-content-type-options": "x"}),
        # A frame that the application allows isn't forbidden by the other field.
        ({"X-Frame-Options": "SAMEORIGIN"}, {"x-frame-options": "SAMEORIGIN", "content-security-policy": ""}),
        (
            {"Content-Security-Policy": "frame-ancestors 'self'"},
            {"content-security-policy": "frame-ancestors 'self'", "x-frame-options": ""},
        ),
    ],
)
def test_what_a_route_sets_itself_stays(own, wanted):
    assert fields(own) == {name: value for name, value in (DEFAULT | wanted).items() if value}


def test_a_policy_beside_frame_options_of_the_route():
    found = fields({"X-Frame-Options": "SAMEORIGIN"}, content_security_policy="default-src 'self'")
    assert found["content-security-policy"] == "default-src 'self'"


def test_refusals_have_them_too():
    routes = Routes()
    routes.secure_headers()
    routes.get("/fails")(lambda request: 1 / 0)
    with running(routes, max_body=10) as it:
        asked = {
            b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n": 404,
            b"GET /fails HTTP/1.0\r\n\r\n": 500,
            b"POST /fails HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n": 413,
        }
        for request, status in asked.items():
            answer = it.connect().ask(request)
            assert answer.status == status
            assert answer.fields.items() >= DEFAULT.items()


def test_the_nearest_of_mounted_routes_decides():
    outer, inner = Routes(), Routes()
    outer.secure_headers()
    inner.secure_headers(frame_ancestors="'self'", referrer_policy=None)
    outer.mount("/in", inner)
    with TestClient(outer) as client:
        assert client.get("/in/x").headers["X-Frame-Options"] == "SAMEORIGIN"
        assert "Referrer-Policy" not in client.get("/in/x").headers
        assert client.get("/x").headers["X-Frame-Options"] == "DENY"


def test_what_can_not_be_sent_is_an_error():
    with pytest.raises(RouteError, match="secure_headers: the value of Referrer-Policy can't be sent"):
        Routes().secure_headers(referrer_policy="a\nb")
    routes = Routes()
    routes.secure_headers()
    with pytest.raises(RouteError, match="called already"):
        routes.secure_headers()
