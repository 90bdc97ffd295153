"""Bearer tokens and keys: who passes, and what the others are told."""

from __future__ import annotations

import hmac
import io
from typing import Any
from unittest import mock

import pytest

from hypoll import HTTPError, Request, Response, RouteError, Routes, api_key, bearer
from hypoll.protocol.header_section import HeaderSection
from hypoll.testing import TestClient

MISSING = ("Bearer", "wants a bearer token")
INVALID = ('Bearer error="invalid_token"', "is not valid")
MALFORMED = ('Bearer error="invalid_token"', "is malformed")


def guarded(hook: Any) -> Routes:
    routes = Routes()
    routes.before(hook)
    routes.get("/")(lambda request: repr(request.state.principal))
    return routes


def ask(hook: Any, *lines: tuple[str, str]) -> Response:
    return guarded(hook)(Request("GET", b"/", HeaderSection(tuple((name.lower(), value) for name, value in lines))))


def passed(response: Response) -> str | None:
    assert isinstance(response.body, bytes)
    return response.body.decode() if response.status == 200 else None


def refused(response: Response) -> str:
    assert response.status == 401
    return response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("check", "principal"),
    [
        ("s3cret", "True"),
        (["other", "s3cret", "third"], "True"),
        ({"s3cret", "other"}, "True"),
        ({"other": "bob", "s3cret": "ann"}, "'ann'"),
        (lambda token: {"s3cret": 7}.get(token), "7"),
        (lambda token: 0, "0"),
        (lambda token: "", "''"),
    ],
)
def test_a_known_token_passes_with_its_principal(check, principal):
    assert passed(ask(bearer(check), ("Authorization", "Bearer s3cret"))) == principal
    assert passed(ask(api_key(check), ("X-API-Key", "s3cret"))) == principal


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], MISSING),
        ([("Authorization", "")], MISSING),
        ([("Authorization", "Basic czNjcmV0")], MISSING),
        ([("Authorization", "Bearerx s3cret")], MISSING),
        ([("Authorization", "s3cret")], MISSING),
        ([("Authorization", "Bearer")], MALFORMED),
        ([("Authorization", "Bearer ")], MALFORMED),
        ([("Authorization", "Bearer s3 cret")], MALFORMED),
        ([("Authorization", "Bearer s3cret, Bearer s3cret")], MALFORMED),
        ([("Authorization", "Bearer s3cret"), ("Authorization", "Bearer s3cret")], MALFORMED),
        ([("Authorization", "Bearer s3cr\xe9t")], MALFORMED),
        ([("Authorization", "Bearer s3cre")], INVALID),
        ([("Authorization", "Bearer S3CRET")], INVALID),
        ([("Authorization", "Bearer s3crets")], INVALID),
    ],
)
def test_others_are_told_what_is_missing(lines, wanted):
    challenge, words = wanted
    response = ask(bearer("s3cret"), *lines)
    assert refused(response) == challenge
    assert isinstance(response.body, bytes)
    assert words in response.body.decode()
    assert "s3cr" not in response.body.decode()


@pytest.mark.parametrize("value", ["Bearer s3cret", "bearer s3cret", "BEARER   s3cret", " Bearer s3cret "])
def test_the_scheme_is_compared_without_case(value):
    assert passed(ask(bearer("s3cret"), ("Authorization", value))) == "True"


def test_a_realm_is_named():
    assert refused(ask(bearer("a", realm="orders"))) == 'Bearer realm="orders"'
    invalid = refused(ask(bearer("a", realm="orders"), ("Authorization", "Bearer b")))
    assert invalid == 'Bearer realm="orders", error="invalid_token"'


@pytest.mark.parametrize(
    "lines", [[], [("X-API-Key", "")], [("X-API-Key", "b")], [("X-API-Key", "a"), ("X-API-Key", "a")]]
)
def test_a_key_that_is_missing_wrong_or_there_twice(lines):
    assert refused(ask(api_key("a"), *lines)) == 'ApiKey header="X-API-Key"'


def test_a_key_may_have_any_field_and_any_bytes():
    sent = "schlüssel".encode().decode("latin-1")
    assert passed(ask(api_key("schlüssel", header="X-Key"), ("X-Key", sent))) == "True"


def test_every_secret_is_compared_whole_whatever_the_others_came_to():
    with mock.patch("hypoll.web.auth.hmac.compare_digest", side_effect=hmac.compare_digest) as compare:
        assert passed(ask(bearer(["s3cret", "a-much-longer-one", "x"]), ("Authorization", "Bearer s3cret"))) == "True"
    assert [tuple(map(len, call.args)) for call in compare.call_args_list] == [(32, 32)] * 3


@pytest.mark.parametrize("kind", ["inline", "threaded", "async"])
@pytest.mark.parametrize("how", ["def", "async def"])
def test_on_a_server_before_every_kind_of_handler(kind, how):
    routes = Routes()

    async def asked(token):
        return "ann" if token == "s3cret" else None

    routes.before(bearer(asked if how == "async def" else {"s3cret": "ann"}))
    if kind == "async":

        @routes.get("/")
        async def handler(request):
            return request.state.principal
    else:
        routes.get("/", threaded=kind == "threaded")(lambda request: request.state.principal)
    with TestClient(routes) as client:
        assert client.get("/", headers={"Authorization": "Bearer s3cret"}).text == "ann"
        for token, path in (("x", "/"), ("x", "/nothing"), ("s3cret", "/nothing")):
            status = 401 if token == "x" else 404
            assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == status


def test_an_error_hook_may_answer_otherwise_and_cors_stays_before_it():
    routes = guarded(bearer("s3cret"))
    routes.error(HTTPError)(lambda request, error: ("nobody", 403))
    routes.cors("https://app.example")
    assert routes(Request("GET", b"/")).status == 403
    section = HeaderSection((("origin", "https://app.example"), ("access-control-request-method", "GET")))
    assert routes(Request("OPTIONS", b"/", section)).status == 204


def test_under_another_wsgi_server():
    found: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO()}
    application = guarded(api_key("k")).wsgi
    list(application(environ, lambda status, fields: found.append(status)))
    list(application(environ | {"HTTP_X_API_KEY": "k"}, lambda status, fields: found.append(status)))
    assert found == ["401 Unauthorized", "200 OK"]


@pytest.mark.parametrize("make", [bearer, api_key])
@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("", "is the variable set that it comes from"),
        (" ", "isn't empty"),
        (["a", ""], "isn't empty"),
        ([b"a"], "isn't empty"),
        ({"": "ann"}, "isn't empty"),
        ([], "nothing that a request could pass by"),
        ({}, "nothing that a request could pass by"),
        (None, "takes a str, several, a mapping or a function, not NoneType"),
        (b"a", "not bytes"),
    ],
)
def test_a_check_that_lets_nobody_or_everybody_pass_is_an_error(make, check, words):
    with pytest.raises(RouteError, match=words):
        make(check)


def test_names_that_can_not_be_sent_are_errors():
    with pytest.raises(RouteError, match="header is the name of a field"):
        api_key("a", header="X Key")
    with pytest.raises(RouteError, match="a realm is text without quotes"):
        bearer("a", realm='a"b')
