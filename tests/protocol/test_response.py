"""What a response holds, and the problem document of an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hypoll.http import HTTPError, Response, problem


@pytest.mark.parametrize(
    ("error", "request_id", "document"),
    [
        (HTTPError(404), None, {"type": "about:blank", "title": "Not Found", "status": 404}),
        (HTTPError(400, "a"), None, {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "a"}),
        (HTTPError(500), "x", {"type": "about:blank", "title": "Internal Server Error", "status": 500, "id": "x"}),
        (HTTPError(599), None, {"type": "about:blank", "title": "", "status": 599}),
    ],
)
def test_problem_document(error: HTTPError, request_id: str | None, document: dict[str, Any]) -> None:
    response = problem(error, request_id)
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == document
    assert (response.status, response.content_type) == (error.status, "application/problem+json")


def test_problem_carries_the_errors_fields() -> None:
    assert problem(HTTPError(503, "", {"Retry-After": "1"})).headers == {"Retry-After": "1"}


def test_response_holds_what_it_is_given() -> None:
    response = Response("a", 201, {"B": "c"}, "text/d")
    assert (response.body, response.status, response.content_type) == ("a", 201, "text/d")
    assert response.headers == {"B": "c"}
    empty = Response()
    assert (empty.body, empty.status, empty.fields, empty.content_type) == (b"", 200, None, None)
    assert repr(response) == "<Response 201>"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, [("X-A", "1")]),
        ({"B": "2"}, [("B", "2"), ("X-A", "1")]),
        ([("x-a", "0"), ("C", "3"), ("X-A", "9")], [("C", "3"), ("X-A", "1")]),
        ({"Set-Cookie": ["a=1", "b=2"]}, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-A", "1")]),
    ],
)
def test_set_header_replaces_in_any_form(headers, expected):
    response = Response("ok", headers=headers)
    response.set_header("X-A", "1")
    assert list(response.headers.items()) == expected
