"""`request.form()`: whole and as a stream, in every kind of handler, through real sockets and in pieces."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import os
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from hypoll import AsyncFormPart, Form, FormPart, HTTPError, Request, Routes
from hypoll.protocol.form_stream import AsyncFormStream, FormStream
from hypoll.protocol.forms import FormLimits, FormParser, store_form
from hypoll.protocol.header_section import HeaderSection
from hypoll.testing import TestClient

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=cut"
LIMITS = FormLimits(parts=5, field_size=50, part_header=200, size=2000, memory=10)

Part = tuple[str, str | None, str | None, bytes]

PARTS: list[Part] = [
    ("title", None, None, "caf\xe9 & co".encode()),
    ("file", "a \xfc.txt", "text/plain", b"--cut\r\n\r\n--cu" * 20),
    ("title", None, None, b""),
    ("file", "b.bin", "application/octet-stream", bytes(range(256))),
    ("file", "empty", None, b""),
]
TEXTS = [("title", "caf\xe9 & co"), ("title", "")]


def body_of(parts: list[Part], boundary: str = "cut") -> bytes:
    out = b""
    for name, filename, content_type, content in parts:
        out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        out += b"" if filename is None else f'; filename="{filename}"'.encode()
        out += b"" if content_type is None else f"\r\nContent-Type: {content_type}".encode()
        out += b"\r\nX-Own: yes\r\n\r\n" + content + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


WHOLE = body_of(PARTS)


def as_parts(form: Form) -> list[Part]:
    assert [part.headers["x-own"] for part in form] == ["yes"] * len(list(form))
    return [(part.name, part.filename, part.content_type, part.read()) for part in form]


def cuts() -> Iterator[list[bytes]]:
    """The body, in pieces of every kind."""
    yield [WHOLE]
    yield [WHOLE[at : at + 1] for at in range(len(WHOLE))]
    for at in range(0, len(WHOLE), 7):
        yield [WHOLE[:at], WHOLE[at:]]


def test_a_form_is_the_same_however_its_body_was_cut():
    for pieces in cuts():
        stream = FormStream(iter(pieces), FormParser(MULTIPART, LIMITS), LIMITS, lambda form: None)
        assert [(part.name, part.filename, part.content_type, part.read()) for part in stream] == PARTS


def test_a_form_in_a_task_is_the_same_however_its_body_was_cut():
    async def give(pieces: list[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def take() -> None:
        for pieces in cuts():
            stream = AsyncFormStream(give(pieces), FormParser(MULTIPART, LIMITS), LIMITS, lambda form: None)
            found = [(part.name, part.filename, part.content_type, await part.read()) async for part in stream]
            assert found == PARTS

    asyncio.run(take())


def test_a_stored_form_is_asked_by_name():
    form = store_form(WHOLE, MULTIPART, LIMITS)
    assert as_parts(form) == PARTS
    assert form["title"] == "caf\xe9 & co"
    assert form.getall("title") == ["caf\xe9 & co", ""]
    assert list(form.fields.items()) == [("title", "caf\xe9 & co")]
    assert ("title" in form, "file" in form, form.get("nothing", 5)) == (True, False, 5)
    assert list(form.files) == ["file"]
    assert len(form.files) == 1
    assert ("file" in form.files, "title" in form.files) == (True, False)
    assert [file.filename for file in form.files.getall("file")] == ["a \xfc.txt", "b.bin", "empty"]
    assert form.files["file"].size == 260
    assert form.read() is form
    faults: list[Callable[[], Any]] = [
        lambda: form["nothing"],
        lambda: form.files["nothing"],
        lambda: form.get("title", type=int),
    ]
    for fault in faults:
        with pytest.raises(HTTPError) as caught:
            fault()
        assert caught.value.status == 400
    with pytest.raises(TypeError, match="iterate with for"):
        aiter(form)
    form.close()
    form.close()


def test_a_file_is_spooled_and_saved(tmp_path):
    form = store_form(WHOLE, MULTIPART, LIMITS)
    large, _, empty = form.files.getall("file")
    assert large.file._rolled is True
    assert empty.file._rolled is False
    assert large.read(4) == b"--cu"
    large.save(tmp_path / "large")  # all of it
    assert (tmp_path / "large").read_bytes() == PARTS[1][3]
    large.file.seek(4)
    assert b"".join(large) == PARTS[1][3][4:]
    form.close()
    with pytest.raises(ValueError, match="closed"):
        large.read()


def test_without_memory_a_file_goes_to_disk():
    form = store_form(WHOLE, MULTIPART, LIMITS._replace(memory=0))
    assert [file.file._rolled for file in form.files.getall("file")] == [True, True, False]
    form.close()


def test_what_browsers_send_where_no_file_was_chosen_is_none():
    body = body_of([("file", "", "application/octet-stream", b""), ("a", None, None, b"b")])
    form = store_form(body, MULTIPART, LIMITS)
    assert (len(form.files), form["a"]) == (0, "b")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "detail"),
    [
        ("text/plain", b"a=b", 415, "the body is no form, but text/plain"),
        ("", b"a=b", 415, "the body has no Content-Type"),
        ("multipart/form-data", b"", 400, "Empty boundary"),
        (MULTIPART, b"", 400, "malformed"),
        (MULTIPART, b"nothing of it", 400, "malformed"),
        (MULTIPART, WHOLE[:-10], 400, "malformed"),
        (MULTIPART, WHOLE[:40], 400, "malformed"),
        (MULTIPART, b"--cut\r\nContent-Type: a/b\r\n\r\nx\r\n--cut--\r\n", 400, "Missing Content-Disposition"),
        (MULTIPART, body_of([("a", None, None, b"\xff")]), 400, "the form field 'a' is not UTF-8"),
        (MULTIPART, body_of([("a", None, None, b"x" * 51)]), 413, "the form field 'a' is larger than 50 bytes"),
        (MULTIPART, body_of([("a" * 200, None, None, b"x")]), 413, "too much"),
        (MULTIPART, body_of([("a", None, None, b"x")] * 6), 413, "too much"),
        (MULTIPART, body_of([("a", "f", None, bytes(2000))]), 413, "the form is larger than 2000 bytes"),
        (URLENCODED, b"&".join([b"a=b"] * 6), 413, "the form has more than 5 fields"),
        (URLENCODED, b"a=" + b"x" * 51, 413, "the form field 'a' is larger than 50 bytes"),
        (URLENCODED, b"a=" + b"%C3%A9" * 26, 413, "the form field 'a' is larger than 50 bytes"),
        (URLENCODED, b"a" * 2001, 413, "the form is larger than 2000 bytes"),
        (URLENCODED, b"a=%ff", 400, "the form is not UTF-8"),
        (URLENCODED, b"a=\xff", 400, "the form is not UTF-8"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_refused(content_type, body, status, detail, streamed):
    def store() -> Form:
        if not streamed:
            return store_form(body, content_type, LIMITS)
        pieces = iter([body[:20], body[20:]]) if body else iter(())
        return FormStream(pieces, FormParser(content_type, LIMITS), LIMITS, lambda form: None).read()

    with pytest.raises(HTTPError) as caught:
        store()
    assert (caught.value.status, detail in caught.value.detail) == (status, True), caught.value.detail
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("content_type", "body", "fields"),
    [
        ("", b"", []),
        (URLENCODED, b"", []),
        (URLENCODED + "; charset=utf-8", b"a=1&b=&a=%C3%A9+x", [("a", "1"), ("b", ""), ("a", "\xe9 x")]),
        (URLENCODED.upper(), b"a&=c", [("a", ""), ("", "c")]),
        ('Multipart/Form-Data; charset=x; boundary="a b"', body_of([("a", None, None, b"b")], "a b"), [("a", "b")]),
        ("multipart/form-data; boundary=cut", b"--cut--\r\n", []),
    ],
)
def test_forms_of_text(content_type, body, fields):
    form = store_form(body, content_type, LIMITS)
    assert [(part.name, part.text()) for part in form] == fields
    stream = FormStream(iter([body] if body else []), FormParser(content_type, LIMITS), LIMITS, lambda form: None)
    assert [(part.name, part.text()) for part in stream] == fields


URLENCODED_FORMS = [
    b"a=1&b=%C3%A9+x&&=&c&a=%26%3D",
    b"&",
    b"a",
    b"a=1&",
    "\xfc=\xe9&\u20ac=".encode(),
    b"a=1&b=%ff&c=1",
    b"a&b&c&d&e&f",
]


@pytest.mark.parametrize("body", URLENCODED_FORMS)
def test_an_urlencoded_form_is_the_same_however_its_body_was_cut(body):
    def fields_of(pieces: list[bytes]) -> list[tuple[str, str]] | int:
        stream = FormStream(iter(pieces), FormParser(URLENCODED, LIMITS), LIMITS, lambda form: None)
        try:
            return [(part.name, part.text()) for part in stream]
        except HTTPError as error:
            return error.status

    whole = fields_of([body])
    if isinstance(whole, list):
        assert whole == parse_qsl(body.decode(), keep_blank_values=True)
    for at in range(len(body)):
        assert fields_of([body[:at], body[at:]]) == whole
    assert fields_of([body[at : at + 1] for at in range(len(body))]) == whole


def test_of_an_urlencoded_stream_one_field_is_kept_and_that_is_bounded():
    limits = LIMITS._replace(parts=1 << 30, size=None)
    parser = FormParser(URLENCODED, limits)
    piece = b"a=" + b"x" * 40 + b"&"
    stream = FormStream((piece for _ in range(20_000)), parser, limits, lambda form: None)
    tracemalloc.start()
    try:
        assert sum(len(part.read()) for part in stream) == 800_000
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    taken = itertools.count()
    endless = (b"x" * 100 for _ in taken)
    with pytest.raises(HTTPError, match="larger than 50 bytes"):
        FormStream(endless, FormParser(URLENCODED, limits), limits, lambda form: None).read()
    assert next(taken) < 10


def test_a_streamed_part_is_read_in_pieces_and_passed_over():
    parser = FormParser(MULTIPART, LIMITS)
    stream = FormStream(iter([WHOLE[at : at + 5] for at in range(0, len(WHOLE), 5)]), parser, LIMITS, lambda form: None)
    parts = iter(stream)
    first = next(parts)
    assert isinstance(first, FormPart)
    second = next(parts)
    assert (second.read(3), second.read(0), second.read(6)) == (b"--c", b"", b"ut\r\n\r\n")
    assert second.read() == PARTS[1][3][9:]
    assert (second.read(), second.read(5)) == (b"", b"")
    assert first.read() == b""
    third, fourth = next(parts), next(parts)
    assert (third.text(), fourth.filename) == ("", "b.bin")
    pieces = list(fourth)
    assert b"".join(pieces) == PARTS[3][3]
    assert max(map(len, pieces)) <= 60
    assert [part.filename for part in parts] == ["empty"]


@pytest.mark.parametrize("name", ["fields", "files"])
def test_a_stream_is_no_whole_form(name):
    stream = FormStream(iter([WHOLE]), FormParser(MULTIPART, LIMITS), LIMITS, lambda form: None)
    with pytest.raises(RuntimeError, match="iterate over its parts, or read"):
        getattr(stream, name)
    with pytest.raises(RuntimeError, match="iterate over its parts, or read"):
        stream["title"]
    with pytest.raises(AttributeError):
        stream.other  # noqa: B018
    stream.close()


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "multipart", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'multipart>=1\.2'"):
        store_form(WHOLE, MULTIPART, LIMITS)
    assert store_form(b"a=b", URLENCODED, LIMITS)["a"] == "b"
    monkeypatch.setitem(sys.modules, "multipart", type(sys)("multipart"))
    with pytest.raises(ModuleNotFoundError, match="another library's"):
        store_form(WHOLE, MULTIPART, LIMITS)


# in handlers


def request_with(body: bytes, content_type: str) -> Request:
    request = Request("POST", b"/", HeaderSection((("content-type", content_type),)))
    request.body = body
    return request


def test_files_end_with_their_request_and_not_before():
    request = request_with(WHOLE, MULTIPART)
    form = request.form(memory=10)
    assert request.form() is form
    file = form.files["file"].file
    del form
    gc.collect()
    assert not file.closed
    del request
    assert file.closed


def summary(form: Form) -> dict[str, Any]:
    return {
        "title": form.getall("title"),
        "n": form.get("n", type=int),
        "files": [[file.filename, file.content_type, file.size] for file in form.files.getall("file")],
    }


def sum_of(part: FormPart) -> list[Any]:
    return [part.name, part.filename, sum(map(len, part)) if part.filename is not None else part.text()]


async def async_sum_of(part: AsyncFormPart) -> list[Any]:
    if part.filename is None:
        return [part.name, None, await part.text()]
    return [part.name, part.filename, sum([len(piece) async for piece in part])]


def forms() -> Routes:
    routes = Routes()

    def whole(request: Request) -> Any:
        return summary(request.form(max_field=100))

    routes.post("/inline")(whole)
    routes.post("/threaded", threaded=True)(whole)

    @routes.post("/async")
    async def async_whole(request: Request) -> Any:
        return summary(request.form(max_field=100))

    @routes.post("/threaded/parts", threaded=True, stream=True)
    def parts(request: Request) -> Any:
        return [sum_of(part) for part in request.form(max_field=100)]

    @routes.post("/async/parts", stream=True)
    async def async_parts(request: Request) -> Any:
        return [await async_sum_of(part) async for part in request.form(max_field=100)]

    @routes.post("/threaded/read", threaded=True, stream=True)
    def read(request: Request) -> Any:
        return summary(request.form(max_field=100).read())

    @routes.post("/async/read", stream=True)
    async def async_read(request: Request) -> Any:
        form = await request.form(max_field=100).read()
        with pytest.raises(TypeError, match="async for"):
            iter(request.form())
        return summary(form)

    return routes


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(forms()) as client:
        yield client


WAYS = ["/inline", "/threaded", "/async", "/threaded/read", "/async/read"]
PART_WAYS = ["/threaded/parts", "/async/parts"]


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
@pytest.mark.parametrize("way", WAYS)
def test_a_form_with_files(client, way, size):
    files = [("file", ("a.txt", bytes(size), "text/plain")), ("file", ("b \xfc", io.BytesIO(b"xyz")))]
    answer = client.post(way, data={"title": ["a", "\xe9"], "n": "7"}, files=files)
    assert answer.json() == {
        "title": ["a", "\xe9"],
        "n": 7,
        "files": [["a.txt", "text/plain", size], ["b \xfc", None, 3]],
    }


@pytest.mark.parametrize("way", WAYS)
def test_an_urlencoded_form(client, way):
    assert client.post(way, data={"title": ["a", "\xe9"], "n": "7"}).json() == {
        "title": ["a", "\xe9"],
        "n": 7,
        "files": [],
    }
    assert client.post(way).json() == {"title": [], "n": None, "files": []}


@pytest.mark.parametrize("way", PART_WAYS)
def test_a_form_part_by_part(client, way):
    files = [("file", ("a.txt", bytes(3_000_000), "text/plain"))]
    answer = client.post(way, data={"title": "a"}, files=files)
    assert answer.json() == [["title", None, "a"], ["file", "a.txt", 3_000_000]]
    assert client.post(way, data={"title": "a", "n": "7"}).json() == [["title", None, "a"], ["n", None, "7"]]


@pytest.mark.parametrize("way", [*WAYS, *PART_WAYS])
def test_what_is_wrong_with_a_form_is_its_client_s(client, way, caplog):
    malformed = {"data": WHOLE[:-20], "headers": {"Content-Type": MULTIPART}}
    no_int = {"data": urlencode({"n": "x"}), "headers": {"Content-Type": URLENCODED}}
    asked: list[tuple[int, dict[str, Any]]] = [
        (413, {"data": {"title": "x" * 101}}),
        (413, {"data": {"title": "x" * 101}, "files": {"file": b"x"}}),
        (400, malformed),
        (200 if way in PART_WAYS else 400, no_int),
        (415, {"json": {}}),
    ]
    for status, arguments in asked:
        answer = client.post(way, **arguments)
        assert answer.status_code == status, arguments
    assert not caplog.records


@pytest.mark.parametrize("way", WAYS)
def test_no_temporary_file_is_left_open(client, way):
    before = open_files()
    for _ in range(3):
        assert client.post(way, files={"file": ("a", bytes(1_000_000))}).status_code == 200
    client.post(way, data={"title": "x" * 101}, files={"file": ("a", bytes(1_000_000))})
    gc.collect()
    assert open_files() <= before


def open_files() -> int:
    """Temporary files that the process has open: those without a name."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        found += target.startswith(tempfile.gettempdir()) and target.endswith("(deleted)")
    return found


def test_under_wsgi():
    routes = forms()
    routes_sync = Routes()
    for route in routes.table():
        if not route.path.startswith("/async"):
            routes_sync.post(route.path, threaded=route.path != "/inline", stream=route.stream)(route.handler)
    for path in ("/inline", "/threaded", "/threaded/read", "/threaded/parts"):
        environ = {
            "REQUEST_METHOD": "POST", "PATH_INFO": path, "wsgi.url_scheme": "http", "CONTENT_TYPE": MULTIPART,
            "CONTENT_LENGTH": str(len(WHOLE)), "wsgi.input": io.BytesIO(WHOLE),
        }  # fmt: skip
        assert b"b.bin" in b"".join(routes_sync.wsgi(environ, lambda status, headers: None))


def test_direct_calls() -> None:
    routes = forms()
    for path in ("/inline", "/threaded", "/async"):
        request = request_with(WHOLE, MULTIPART)
        request.target = path.encode()
        assert b"b.bin" in routes(request).body  # type: ignore[operator]


def test_saving_where_there_is_a_file(tmp_path: Path) -> None:
    form = store_form(WHOLE, MULTIPART, LIMITS)
    (tmp_path / "x").write_text("before")
    next(part for part in form if part.name == "title").save(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "caf\xe9 & co"
    form.close()
    stream = FormStream(iter([WHOLE]), FormParser(MULTIPART, LIMITS), LIMITS, lambda form: None)
    for part in stream:
        if part.filename == "b.bin":
            part.save(tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == bytes(range(256))
