"""The name that an answer is saved under: Content-Disposition by RFC 6266 and RFC 8187."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypoll import File, Response, Routes
from hypoll.protocol.disposition import content_disposition
from hypoll.testing import TestClient
from tests.support.kinds import declare


def name_of(value: str) -> str:
    """The name that a recipient takes: the extended one before the other (RFC 6266, 4.3)."""
    extended = re.search(r"filename\*=UTF-8''(\S+)$", value)
    plain = re.search(r'filename="([^"]*)"', value)
    assert plain is not None
    return plain[1] if extended is None else unquote(extended[1], errors="strict")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a.txt", 'attachment; filename="a.txt"'),
        ("two words (1).txt", 'attachment; filename="two words (1).txt"'),
        ("a;b=c,d.txt", 'attachment; filename="a;b=c,d.txt"'),
        ("Grüße.txt", "attachment; filename=\"Grue.txt\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.txt"),
        ("請求書.pdf", "attachment; filename=\"___.pdf\"; filename*=UTF-8''%E8%AB%8B%E6%B1%82%E6%9B%B8.pdf"),
        ("\N{GRINNING FACE}.png", "attachment; filename=\"_.png\"; filename*=UTF-8''%F0%9F%98%80.png"),
        ("e\u0301.txt", "attachment; filename=\"e.txt\"; filename*=UTF-8''e%CC%81.txt"),
        ('say "hi".txt', "attachment; filename=\"say _hi_.txt\"; filename*=UTF-8''say%20%22hi%22.txt"),
        ("50%25.txt", "attachment; filename=\"50_25.txt\"; filename*=UTF-8''50%2525.txt"),
        ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
        ("a\\b", 'attachment; filename="a_b"'),
        ("a\r\nSet-Cookie: b=c", 'attachment; filename="a__Set-Cookie: b=c"'),
        ("nul\0.txt", 'attachment; filename="nul_.txt"'),
        ("gpj.\u202eexe", 'attachment; filename="gpj._exe"'),
        ("\udc80.txt", 'attachment; filename="_.txt"'),
        (
            "\N{FULLWIDTH FULL STOP}.\N{FULLWIDTH SOLIDUS}etc",
            "attachment; filename=\".._etc\"; filename*=UTF-8''%EF%BC%8E.%EF%BC%8Fetc",
        ),
        ("\N{ACCOUNT OF}.txt", "attachment; filename=\"a_c.txt\"; filename*=UTF-8''%E2%84%80.txt"),
        ("\N{TWO DOT LEADER}", "attachment; filename=\"_\"; filename*=UTF-8''%E2%80%A5"),
        ("\N{NO-BREAK SPACE}", "attachment; filename=\"_\"; filename*=UTF-8''%C2%A0"),
        ("it's*.txt", 'attachment; filename="it\'s*.txt"'),
        ("é'*()%.txt", "attachment; filename=\"e'*()_.txt\"; filename*=UTF-8''%C3%A9%27%2A%28%29%25.txt"),
    ],
)
def test_a_name(name, value):
    value = value.replace("Grue", "Gru_e")
    assert content_disposition(name) == value
    assert content_disposition(name, inline=True) == "inline" + value.removeprefix("attachment")


@given(st.text(min_size=1))
def test_each_name_can_be_sent_and_is_understood(name):
    try:
        value = content_disposition(name)
    except ValueError:
        assert not name.strip(" .")
        return
    Response(headers={"Content-Disposition": value})
    assert value.isascii()
    assert value.split('"')[1].strip(" .")
    assert re.fullmatch(
        r"attachment; filename=\"[ !#$&-.0-\[\]-~]*\""
        r"(; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+)?",
        value,
    )
    kept = re.sub(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "_", name)
    assert name_of(value) == kept


@pytest.mark.parametrize("name", ["", " ", ".", ".."])
def test_a_name_that_is_none(name):
    for make in (content_disposition, Response().set_filename, lambda name: File("a", filename=name)):
        with pytest.raises(ValueError, match="a file's name has something that can be read"):
            make(name)


@pytest.mark.parametrize("name", [7, b"a.txt"])
def test_a_name_that_is_no_str(name):
    for make in (content_disposition, Response().set_filename, lambda name: File("a", filename=name)):
        with pytest.raises(TypeError, match="a file's name is a str"):
            make(name)


NAMED = "attachment; filename=\"_.txt\"; filename*=UTF-8''%E8%AB%8B.txt"


@pytest.mark.parametrize("kind", ["inline", "threaded", "async"])
@pytest.mark.parametrize("size", [3, 300_000])
@pytest.mark.parametrize("form", ["file", "response", "tuple"])
def test_a_file_with_a_name(tmp_path, kind, size, form):
    (tmp_path / "f.txt").write_bytes(b"x" * size)
    file = File(tmp_path / "f.txt", filename="請.txt")
    answers: dict[str, Callable[[], Any]] = {
        "file": lambda: file,
        "response": lambda: Response(file),
        "tuple": lambda: (file, 201),
    }
    routes = Routes()
    declare(routes, kind, "/", lambda request: answers[form]())
    with TestClient(routes) as client:
        for _ in range(2):
            answer = client.get("/")
            assert (answer.headers["Content-Disposition"], len(answer.content)) == (NAMED, size)
        assert client.head("/").headers["Content-Disposition"] == NAMED
        if form != "tuple":
            part = client.get("/", headers={"Range": "bytes=0-1"})
            assert (part.status_code, part.headers["Content-Disposition"]) == (206, NAMED)
            assert client.get("/", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_what_a_response_says_itself_goes_before(tmp_path):
    (tmp_path / "f.txt").write_text("x")
    shared = Response(File(tmp_path / "f.txt", filename="a.txt"))
    own = Response(File(tmp_path / "f.txt", filename="a.txt", inline=True), headers={"content-disposition": "inline"})
    routes = Routes()
    routes.get("/shared")(lambda request: shared)
    routes.get("/own")(lambda request: own)
    routes.post("/shared")(lambda request: shared)
    routes.get("/missing")(lambda request: File(tmp_path / "none", filename="a.txt"))
    routes.compress(min_size=0)
    with TestClient(routes) as client:
        for answer in (client.get("/shared"), client.post("/shared"), client.get("/shared")):
            assert answer.headers["Content-Disposition"] == 'attachment; filename="a.txt"'
        assert client.get("/own").headers["Content-Disposition"] == "inline"
        missing = client.get("/missing")
        assert (missing.status_code, missing.headers.get("Content-Disposition")) == (404, None)
    assert shared.fields is None, "it may be a constant of the application"


def test_an_answer_that_is_no_file():
    response = Response("a,b\n", content_type="text/csv")
    response.set_filename("a.csv")
    response.set_filename("b.csv", inline=True)
    assert response.headers.getall("Content-Disposition") == ['inline; filename="b.csv"']
