"""A response that can't be sent is found where it is made."""

from __future__ import annotations

import http
import io
from pathlib import Path
from typing import Any

import pytest

from hypoll import EventHub, File, Response, sse
from hypoll.asgi.response_body import ResponseBody
from hypoll.protocol.serializer import Framer


class Pieces:
    def __getitem__(self, number: int) -> bytes:
        if number > 1:
            raise IndexError
        return b"a"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, r"not None: leave it out, as in Response\(status=204\)"),
        (3, "bytes, str or an iterator of bytes, not 3: to send JSON return the value itself"),
        (1.5, "not 1.5: to send JSON"),
        (True, "not True: to send JSON"),
        (range(3), r"not range\(0, 3\): to send JSON"),
        (io.StringIO("a"), "not <_io.StringIO"),
        (ValueError, "not <class 'ValueError'>"),
        (Pieces, "not <class"),
        (lambda: b"a", "not <function"),
        (Pieces().__getitem__, "not <bound method"),
        ([1, 2], r"a list as a response's body is its pieces, bytes each, not 1: to send JSON"),
        (["a"], "its pieces, bytes each, not 'a'"),
        ([b"a", "b"], "its pieces, bytes each, not 'b'"),
        ([{"a": 1}], "its pieces, bytes each, not {'a': 1}"),
        ([[b"a"]], "its pieces, bytes each"),
        ([None], "not None"),
        ((1,), "a tuple as a response's body"),
        ({1}, "a set as a response's body"),
        (frozenset([1]), "a frozenset as a response's body"),
    ],
)
def test_a_body_that_cant_be_sent(body, words):
    with pytest.raises(TypeError, match=words):
        Response(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"a",
        "a",
        bytearray(b"a"),
        memoryview(b"a"),
        {},
        {"a": 1},
        [],
        [b"a", bytearray(b"b"), memoryview(b"c")],
        (b"a",),
        iter([1]),
        (piece for piece in [b"a"]),
        Pieces(),
        File(Path(__file__)),
        io.BytesIO(b"a"),
        sse([]).body,
        EventHub().events("a").body,
        ResponseBody(Framer(True, None), lambda: None),
    ],
    ids=lambda body: type(body).__name__,
)
def test_a_body_that_can(body):
    assert Response(body).body is body
    getattr(body, "close", lambda: None)()


@pytest.mark.parametrize("status", ["201", None, [], {}, 201.5, 200.0, True, 99, 100, 101, 199, 600, 0, -1])
def test_a_status_that_is_none(status: Any) -> None:
    error = ValueError if type(status) is int else TypeError
    with pytest.raises(error, match="is not the status of a final response, which is an int from 200 to 599"):
        Response("x", status)


@pytest.mark.parametrize("status", [200, 201, 404, 599, http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND])
def test_a_status_that_is_one(status):
    assert Response("x", status).status == status


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ("X: 3", r"a mapping or pairs, as \{'X-Name': 'value'\}, not 'X: 3'"),
        (b"X: 3", "a mapping or pairs"),
        (7, "a mapping or pairs"),
        (["X: 3"], "not a list that holds 'X: 3'"),
        ([("X", "3", "4")], "not a list that holds"),
        ([7], "not a list that holds 7"),
        (("X", "3"), "not a tuple that holds 'X'"),
    ],
)
def test_headers_that_are_none(headers, words):
    with pytest.raises(TypeError, match=words):
        Response("x", 200, headers)
