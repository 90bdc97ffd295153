"""What handlers answer with, of every kind of handler and result, through real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll import File, HTTPError, Request, Response, Routes, sse
from hypoll.testing import TestClient
from tests.support.kinds import async_pieces, declare, pieces

KINDS = ["inline", "threaded", "async"]

CONSTANT = Response("constant", headers={"X-Own": "kept"})
REFUSAL = HTTPError(409, "no", {"X-Own": "kept"})


def refuse() -> Any:
    raise REFUSAL


def raise_lookup() -> Any:
    raise LookupError("nothing")


RESULTS: dict[str, Callable[[], Any]] = {
    "str": lambda: "text",
    "dict": lambda: {"a": 1},
    "bytes": lambda: b"bytes",
    "none": lambda: None,
    "tuple": lambda: ("made", 201),
    "tuple-dict": lambda: ("made", 201, {"X-Own": "kept"}),
    "tuple-list": lambda: ("made", 201, [("X-Own", "kept"), ("x-own", "too")]),
    "tuple-response": lambda: (CONSTANT, 201),
    "response": lambda: Response("text"),
    "response-dict": lambda: Response("text", headers={"X-Own": "kept"}),
    "response-list": lambda: Response("text", headers=[("X-Own", "kept"), ("x-own", "too")]),
    "constant": lambda: CONSTANT,
    "error": refuse,
    "hooked-error": raise_lookup,
    "file": lambda: File(Path(__file__)),
    "file-response": lambda: Response(File(Path(__file__)), headers={"X-Own": "kept"}),
    "stream": lambda: Response(pieces()),
    "async-stream": lambda: Response(async_pieces()),
    "sse": lambda: sse(["one"]),
    "async-sse": lambda: sse(async_texts()),
}


async def async_texts() -> AsyncIterator[str]:
    yield "one"


def answering(kind: str) -> Routes:
    """Answers `/{result}` with that result."""
    routes = Routes()
    declare(routes, kind, "/{result}", lambda request, result: RESULTS[result]())
    return routes


@pytest.fixture(scope="module", params=KINDS)
def stamped(request: pytest.FixtureRequest) -> Iterator[tuple[str, TestClient]]:
    """The results of a kind of handler, below hooks that change the header fields in every way."""
    inner, outer = answering(request.param), Routes()
    outer.mount("/sub", inner)
    outer.static("/static", Path(__file__).parent)

    @outer.before
    def before(asked: Request) -> Response | None:
        return CONSTANT if asked.query_string == "before" else None

    @inner.error(LookupError)
    def on_lookup(asked: Request, error: LookupError) -> Response:
        return CONSTANT

    @inner.after
    def add(asked: Request, response: Response) -> None:
        response.headers.add("X-Added", "inner")

    @outer.after
    def stamp(asked: Request, response: Response) -> None:
        headers = response.headers
        assert headers.get("X-Nothing") is None
        headers["X-Stamp"] = "0"
        headers["x-stamp"] = "1"
        headers.add("X-Added", "outer")
        headers.vary("Origin")
        headers.setdefault("X-Own", "default")
        headers.update({"X-Update": "2"})
        headers["X-Gone"] = "1"
        del headers["x-gone"]
        headers.add("X-Names", ",".join(sorted({name.lower() for name in headers})))

    with TestClient(outer) as client:
        yield request.param, client


OWN = {"tuple-dict", "tuple-response", "response-dict", "constant", "file-response", "error", "hooked-error"}
"""Results that have the field X-Own."""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("result", RESULTS)
def test_hooks_change_the_fields_of_whatever_was_answered(stamped, result, method):
    kind, client = stamped
    if result.startswith("async") and kind != "async":
        pytest.skip("an async iterator is for async handlers")
    for _ in range(2):  # a constant must not gather them
        answer = client.request(method, f"/sub/{result}")
        if "list" in result:
            assert answer.headers["X-Own"] == "kept, too"
        else:
            assert answer.headers["X-Own"] == ("kept" if result in OWN else "default")
        assert answer.status_code < 500
        assert answer.headers["X-Stamp"] == "1"
        assert answer.headers["X-Update"] == "2"
        assert answer.headers["X-Added"] == "inner, outer"
        assert answer.headers["Vary"] == "Origin"
        assert "X-Gone" not in answer.headers
        assert {"x-added", "x-own", "vary"} <= set(answer.headers["X-Names"].split(","))
    assert CONSTANT.headers == {"X-Own": "kept"}
    assert REFUSAL.headers == {"X-Own": "kept"}


@pytest.mark.parametrize("path", ["/nothing", "/sub/str?before", "/static/test_answers.py", "/static/nothing"])
def test_hooks_change_the_fields_of_what_no_handler_answered(stamped, path):
    _, client = stamped
    for _ in range(2):
        answer = client.get(path)
        assert answer.headers["X-Stamp"] == "1"
        assert answer.headers["X-Added"] == ("inner, outer" if path.startswith("/sub") else "outer")
    assert CONSTANT.headers == {"X-Own": "kept"}


def test_hooks_change_the_fields_of_an_answer_304(stamped):
    _, client = stamped
    tag = client.get("/static/test_answers.py").headers["ETag"]
    answer = client.get("/static/test_answers.py", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.headers["X-Stamp"]) == (304, "1")
    assert answer.headers["Vary"] == "Origin, Accept-Encoding"


def test_hooks_change_the_fields_of_direct_calls_and_under_wsgi():
    routes = answering("inline")
    routes.after(lambda request, response: response.headers.__setitem__("X-Stamp", "1"))
    started: list[Any] = []
    for result in ("str", "dict", "constant", "tuple-list", "error"):
        response = routes(Request("GET", f"/{result}".encode()))
        assert response.headers["x-stamp"] == "1"
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/{result}", "wsgi.url_scheme": "http", "wsgi.input": None}
        list(routes.wsgi(environ, lambda status, headers: started.append(dict(headers))))
        assert started.pop()["X-Stamp"] == "1"
    assert CONSTANT.headers == {"X-Own": "kept"}


@pytest.mark.parametrize("where", ["before", "handler", "after", "error"])
def test_a_field_that_can_not_be_sent_is_a_500_whose_log_names_the_line(where, caplog):
    routes = Routes()

    def spoil(*_: Any) -> Any:
        Response().headers["X"] = "a\r\nb"

    def handler(request: Request) -> str:
        if where == "handler":
            spoil()
        if where == "error":
            raise LookupError
        return "fine"

    routes.get("/")(handler)
    if where in ("before", "after"):
        getattr(routes, where)(spoil)
    routes.error(LookupError)(spoil)
    with TestClient(routes) as client:
        answer = client.get("/")
    assert answer.status_code == 500
    assert "X" not in answer.headers
    assert "the value of X can't be sent" in caplog.text
    assert "in spoil" in caplog.text


def test_fields_of_an_error_that_were_spoilt_later_are_a_500(caplog):
    routes = Routes()
    error: Any = HTTPError(409, "no")
    error.headers = {"X": "a\r\nb"}

    @routes.get("/")
    def handler(request: Request) -> None:
        raise error

    with TestClient(routes) as client:
        assert client.get("/").status_code == 500
    assert "the value of X can't be sent" in caplog.text
