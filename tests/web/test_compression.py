"""Compressed answers: for whom, which, and what comes of them on every way."""

from __future__ import annotations

import io
import json
import os
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypoll import File, Request, Response, RouteError, Routes, sse
from hypoll.protocol.files import FILES
from hypoll.protocol.header_section import HeaderSection
from hypoll.web import codings
from hypoll.web.codings import find_codings
from hypoll.web.compression import PIECE_SIZE
from tests.support.client import Answer, Client
from tests.support.clock import PATIENCE
from tests.support.server import Running, running

brotli = pytest.importorskip("brotli")
zstd = pytest.importorskip(codings._ZSTD)

TEXT = "".join(f"line {number} of a text that gets smaller\n" for number in range(60))
LARGE = TEXT * 100
CODINGS = {coding.name: coding for coding in find_codings()}


def decompressor(name: str) -> Callable[[bytes], bytes]:
    """What takes a coding apart, piece by piece. It raises for what is malformed."""
    if name == "gzip":
        gzip = zlib.decompressobj(31)
        return gzip.decompress
    if name == "br":
        process: Callable[[bytes], bytes] = brotli.Decompressor().process
        return process
    decompress: Callable[[bytes], bytes] = zstd.ZstdDecompressor().decompress
    return decompress


def whole(name: str, data: bytes) -> bytes:
    """What a whole body says; a part of one is an error."""
    if name == "gzip":
        gzip = zlib.decompressobj(31)
        decoded = gzip.decompress(data)
        assert gzip.eof
        assert not gzip.unused_data
        return decoded
    decode: Callable[[bytes], bytes] = brotli.decompress if name == "br" else zstd.decompress
    return decode(data)


# codings


def test_the_codings_that_are_there():
    assert list(CODINGS) == ["zstd", "br", "gzip"]


def test_without_the_extras_there_is_gzip(monkeypatch):
    monkeypatch.setattr(codings, "_imported", lambda name: None)
    assert [coding.name for coding in find_codings()] == ["gzip"]


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_each_piece_can_be_read_when_it_has_come(coding):
    encoder, decode = coding.make(), decompressor(coding.name)
    assert decode(encoder.begin() + coding.silence) == b""
    for piece in (b"one", b"two" * 50_000, b"three"):
        encoded = encoder.encode(piece, flush=True)
        taken = decode(encoded)
        while len(taken) < len(piece):
            more = decode(b"")
            assert more
            taken += more
        assert taken == piece
        assert decode(coding.silence * 3) == b""
    assert decode(encoder.end()) == b""


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("pieces", [[], [b"one"], [b"one", b"two"], [b"x" * 100_000, b"y"]])
@pytest.mark.parametrize("begun", [True, False])
def test_a_body_ends_as_a_whole_one_does(coding, pieces, begun):
    encoder = coding.make()
    data = encoder.begin() if begun else b""
    data += b"".join(encoder.encode(piece, flush=begun) + (coding.silence if begun else b"") for piece in pieces)
    assert whole(coding.name, data + encoder.end(b"end")) == b"".join(pieces) + b"end"


# which, and for whom


def ask(response: Any, method: str = "GET", options: dict[str, Any] | None = None, **fields: str) -> Response:
    """An answer without a server."""
    routes = Routes()
    routes.get("/")(lambda request: response)
    routes.compress(**(options or {}))
    section = HeaderSection(tuple((name.replace("_", "-").lower(), value) for name, value in fields.items()))
    return routes(Request(method, b"/", section))


def coding_of(response: Response) -> str | None:
    """The coding of an answer, whose body is taken apart by it."""
    name = response.headers.get("content-encoding")
    if name is not None:
        body = response.body if isinstance(response.body, bytes) else b"".join(response.body)  # type: ignore[arg-type]
        assert whole(name, body)
    return name


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("gzip;q=0.5, br;q=0.5, zstd;q=0.1", "br"),
        ("*", "zstd"),
        ("*;q=0.5, gzip", "gzip"),
        ("br;q=0, *", "zstd"),
        ("zstd;q=0, br;q=0, *;q=0.1", "gzip"),
        ("gzip, *;q=0", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        ("identity;q=0.5, gzip;q=0.4", None),
        ("identity, gzip;q=0.9", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("*;q=0", None),
        ("identity;q=0", None),
        ("deflate, compress", None),
        ("", None),
        ("gzip;q=2", None),
        ("gzip" + ", x" * 200, None),
    ],
)
def test_the_client_chooses(accepted, coding):
    response = ask(TEXT, Accept_Encoding=accepted)
    assert coding_of(response) == coding
    assert response.headers["vary"] == "Accept-Encoding"
    if coding is None:
        assert response.body == TEXT.encode()


def test_a_client_that_says_nothing_gets_it_as_it_is():
    assert coding_of(ask(TEXT)) is None


def page(content_type: str | None = None, **fields: str) -> Response:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return Response(TEXT.encode(), headers=headers, content_type=content_type)


COMPRESSED = {
    "a dict": {"text": TEXT},
    "a str": TEXT,
    "json": page("application/json"),
    "problem": page("application/problem+json"),
    "html": page("Text/HTML; charset=utf-8"),
    "svg": page("image/svg+xml"),
    "javascript": page("application/javascript"),
    "a field": page(None, Content_Type="text/csv"),
    "an error": Response(TEXT, 500),
    "a bytearray": Response(bytearray(TEXT.encode()), content_type="text/plain"),
    "public": page("text/plain", Cache_Control="public, max-age=1"),
    "a stream": lambda: Response(iter([TEXT.encode()]), content_type="text/plain"),
}
AS_IT_IS = {
    "bytes of no type": TEXT.encode(),
    "an image": page("image/png"),
    "a video": page("video/mp4"),
    "an archive": page("application/zip"),
    "no type": page(""),
    "small": "x" * 499,
    "empty": None,
    "coded already": page("text/plain", Content_Encoding="br"),
    "identity by name": page("text/plain", Content_Encoding="identity"),
    "no-transform": page("text/plain", Cache_Control="public, No-Transform"),
    "a part": Response(TEXT, 206, {"Content-Range": "bytes 0-9/20"}),
    "not a part": Response(TEXT, 416, {"Content-Range": "bytes */20"}),
    "a digest": page("text/plain", Repr_Digest="sha-256=:x:"),
    "205": Response(TEXT, 205),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_what_is_compressed(name):
    given = COMPRESSED[name]
    response = ask(given() if callable(given) else given, Accept_Encoding="gzip")
    assert coding_of(response) == "gzip"


@pytest.mark.parametrize("name", AS_IT_IS)
def test_what_is_not(name):
    given = AS_IT_IS[name]
    response = ask(given, Accept_Encoding="gzip")
    plain = ask(given)
    assert response.headers == plain.headers
    assert response.body == plain.body
    assert "vary" not in response.headers


def test_who_refuses_to_have_none_gets_small_ones_too():
    assert coding_of(ask("x", Accept_Encoding="identity;q=0, gzip")) == "gzip"
    assert coding_of(ask("x", Accept_Encoding="*;q=0, gzip")) == "gzip"


@pytest.mark.parametrize(
    ("options", "given", "coding"),
    [
        ({"min_size": 1}, "x", "gzip"),
        ({"min_size": 0}, "x", "gzip"),
        ({"min_size": len(TEXT)}, TEXT, "gzip"),
        ({"min_size": len(TEXT) + 1}, TEXT, None),
        ({"types": ["application/octet-stream"]}, TEXT.encode(), "gzip"),
        ({"types": ["application/*"]}, TEXT.encode(), "gzip"),
        ({"types": ["*+json"]}, page("application/problem+json"), "gzip"),
        ({"types": ["*+json"]}, page("application/json"), None),
        ({"types": ["text/html"]}, TEXT, None),
        ({"types": []}, TEXT, None),
    ],
)
def test_sizes_and_types_may_be_others(options, given, coding):
    assert coding_of(ask(given, options=options, Accept_Encoding="gzip")) == coding


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_size": -1}, "min_size is a number of bytes, not -1"),
        ({"min_size": "1k"}, "min_size is a number of bytes, not '1k'"),
        ({"types": "text/html"}, r"types takes a list, as in types=\['text/html'\]"),
        ({"types": ["text"]}, "a type is as 'text/html', 'text/\\*' or '\\*\\+json', not 'text'"),
        ({"types": ["*/*"]}, "a type is as"),
        ({"types": [7]}, "a type is as"),
    ],
)
def test_what_can_not_be_declared(options, words):
    with pytest.raises(RouteError, match=words):
        Routes().compress(**options)
    routes = Routes()
    routes.compress()
    with pytest.raises(RouteError, match="called already"):
        routes.compress()


@pytest.mark.parametrize(("tag", "sent"), [('"v1"', 'W/"v1"'), ('W/"v1"', 'W/"v1"')])
def test_an_entity_tag_becomes_weak_and_still_matches(tag, sent):
    answer = page("text/plain", ETag=tag, Accept_Ranges="bytes", Cache_Control="max-age=1")
    first = ask(answer, Accept_Encoding="gzip")
    assert first.headers["etag"] == sent
    assert "accept-ranges" not in first.headers
    for asked in (sent, tag, '"other", W/"v1"', "*"):
        again = ask(answer, Accept_Encoding="gzip", If_None_Match=asked)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", sent)
        assert (again.headers["vary"], again.headers["cache-control"]) == ("Accept-Encoding", "max-age=1")
        assert "content-encoding" not in again.headers
    assert ask(answer, Accept_Encoding="gzip", If_None_Match='"other"').status == 200
    assert ask(answer).headers["etag"] == tag


def test_a_declared_length_is_that_of_what_is_sent_no_more():
    answer = Response(iter([TEXT.encode()]), headers={"Content-Length": str(len(TEXT))}, content_type="text/plain")
    assert "content-length" not in ask(answer, Accept_Encoding="gzip").headers


def test_a_constant_response_is_not_changed():
    constant = page("text/plain", ETag='"v1"')
    for _ in range(2):
        assert coding_of(ask(constant, Accept_Encoding="gzip")) == "gzip"
    assert constant.headers == {"ETag": '"v1"'}
    assert constant.body == TEXT.encode()


def test_of_mounted_routes_the_nearest_decides_and_nothing_is_compressed_twice():
    outer, inner = Routes(), Routes()
    for routes in (outer, inner):
        routes.get("/x")(lambda request: TEXT)
    inner.compress(types=["text/html"])
    outer.compress()
    outer.mount("/in", inner)
    section = HeaderSection((("accept-encoding", "gzip"),))
    assert coding_of(outer(Request("GET", b"/x", section))) == "gzip"
    assert coding_of(outer(Request("GET", b"/in/x", section))) is None


def test_after_hooks_see_the_answer_as_it_was_made():
    routes = Routes()
    routes.get("/")(lambda request: TEXT)
    routes.compress()
    seen: list[Any] = []
    routes.after(lambda request, response: seen.append(response.body))
    assert coding_of(routes(Request("GET", b"/", HeaderSection((("accept-encoding", "br"),))))) == "br"
    assert seen == [TEXT.encode()]


# on a server


def service(directory: Path, gate: threading.Event) -> Routes:
    routes = Routes()
    routes.compress()
    routes.static("/files", directory)
    bodies: dict[str, Callable[[], Any]] = {
        "json": lambda: {"text": TEXT},
        "large": lambda: Response(LARGE),
        "stream": lambda: Response(iter([TEXT.encode(), b"", b"end"]), content_type="text/plain"),
        "events": lambda: sse(["one", "two"]),
        "file": lambda: File(directory / "large.txt"),
        "fails": lambda: 1 / 0,
    }
    for name, make in bodies.items():
        for threaded in (False, True):
            kind = "threaded" if threaded else "inline"
            routes.get(f"/{kind}/{name}", threaded=threaded)(lambda request, make=make: make())

        def declare(name: str = name, make: Callable[[], Any] = make) -> None:
            @routes.get(f"/async/{name}")
            async def handler(request):
                return make() if name != "stream" else Response(pieces(), content_type="text/plain")

        declare()

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (TEXT.encode(), b"", b"end"):
            yield piece

    @routes.get("/waits", threaded=True)
    def waits(request):
        def events() -> Iterator[str]:
            yield "one"
            assert gate.wait(PATIENCE)
            yield "two"

        return sse(events(), keep_alive=0.01)

    return routes


@pytest.fixture(scope="module")
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, gate: threading.Event) -> Iterator[Running]:
    directory: Path = tmp_path_factory.mktemp("files")
    (directory / "small.txt").write_text(TEXT)
    (directory / "large.txt").write_text(LARGE)
    (directory / "image.png").write_text(LARGE)
    (directory / "beside.txt").write_text(LARGE)
    (directory / "beside.txt.br").write_bytes(brotli.compress(b"beside"))
    FILES.clear()
    with running(service(directory, gate)) as it:
        yield it
    FILES.clear()


def get(it: Running, path: str, coding: str = "", method: str = "GET", version: str = "1.1", more: str = "") -> Answer:
    accept = f"Accept-Encoding: {coding}\r\n" if coding else ""
    return it.connect().ask(f"{method} {path} HTTP/{version}\r\nHost: a\r\n{accept}{more}\r\n".encode())


CONTENT = {
    "json": json.dumps({"text": TEXT}, separators=(",", ":")).encode(),
    "large": LARGE.encode(),
    "stream": TEXT.encode() + b"end",
    "events": b"data: one\n\ndata: two\n\n",
    "file": LARGE.encode(),
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
@pytest.mark.parametrize("kind", ["inline", "threaded"])
@pytest.mark.parametrize("name", CONTENT)
def test_every_body_arrives(served, kind, name, coding, version):
    answer = get(served, f"/{kind}/{name}", coding, version=version)
    assert (answer.status, answer.fields["content-encoding"], answer.fields["vary"]) == (200, coding, "Accept-Encoding")
    assert whole(coding, answer.body) == CONTENT[name]
    assert len(answer.body) < len(CONTENT[name]) or name == "events"
    assert get(served, f"/{kind}/{name}", version=version).body == CONTENT[name]


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
@pytest.mark.parametrize("name", ["json", "large", "stream", "file"])
def test_every_body_of_a_task_arrives(served, name, coding):
    answer = get(served, f"/async/{name}", coding)
    assert answer.fields["content-encoding"] == coding
    assert whole(coding, answer.body) == CONTENT[name]


@pytest.mark.parametrize("kind", ["inline", "threaded", "async"])
@pytest.mark.parametrize("name", ["json", "large", "stream", "file"])
def test_head_has_the_fields_of_get(served, kind, name):
    fields = [get(served, f"/{kind}/{name}", "gzip", method).fields for method in ("GET", "HEAD")]
    for each in fields:
        each.pop("date")
        each.pop("transfer-encoding", None)
    assert fields[0] == fields[1]


def test_an_answer_with_a_length_has_that_of_what_is_sent(served):
    answer = get(served, "/inline/json", "gzip")
    assert int(answer.fields["content-length"]) == len(answer.body)
    # On a thread a large one is compressed at once, since nobody else waits for it.
    assert "content-length" in get(served, "/threaded/large", "gzip").fields
    assert "content-length" not in get(served, "/inline/large", "gzip").fields
    assert len(LARGE) > PIECE_SIZE


def test_a_failure_is_small_and_not_compressed(served):
    answer = get(served, "/inline/fails", "gzip")
    assert answer.status == 500
    assert "content-encoding" not in answer.fields


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_file_is_compressed_and_its_conditions_hold(served, name):
    plain = get(served, f"/files/{name}.txt")
    packed = get(served, f"/files/{name}.txt", "gzip")
    assert whole("gzip", packed.body) == plain.body
    assert packed.fields["etag"] == "W/" + plain.fields["etag"]
    assert packed.fields["vary"] == plain.fields["vary"] == "Accept-Encoding"
    assert "accept-ranges" not in packed.fields
    for tag in (packed.fields["etag"], plain.fields["etag"]):
        again = get(served, f"/files/{name}.txt", "gzip", more=f"If-None-Match: {tag}\r\n")
        assert (again.status, again.fields["etag"]) == (304, packed.fields["etag"])
    part = get(served, f"/files/{name}.txt", "gzip", more="Range: bytes=1-3\r\n")
    assert (part.status, part.body) == (206, plain.body[1:4])
    assert "content-encoding" not in part.fields
    whole_again = get(
        served, f"/files/{name}.txt", "gzip", more=f"Range: bytes=1-3\r\nIf-Range: {packed.fields['etag']}\r\n"
    )
    assert (whole_again.status, whole_again.fields["content-encoding"]) == (200, "gzip")
    assert get(served, f"/files/{name}.txt", "gzip", more="Range: bytes=999999999-\r\n").status == 416


def test_a_file_that_is_not_compressed_goes_by_sendfile(served, monkeypatch):
    sent: list[int] = []
    send = os.sendfile

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        sent.append(count)
        return send(out, fd, offset, count)

    monkeypatch.setattr("os.sendfile", sendfile)
    answer = get(served, "/files/image.png", "gzip")
    assert answer.body == LARGE.encode()
    assert "content-encoding" not in answer.fields
    assert sent


def test_a_file_beside_is_preferred_to_compressing(served):
    answer = get(served, "/files/beside.txt", "br")
    assert brotli.decompress(answer.body) == b"beside"
    assert answer.fields["accept-ranges"] == "bytes"


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
def test_events_come_at_once_and_silence_is_none_of_them(served, gate, coding):
    gate.clear()
    client: Client = served.connect()
    client.send(f"GET /waits HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n".encode())
    status, fields = client.head()
    assert (status, fields["content-encoding"]) == (200, coding)
    decode, text, silent = decompressor(coding), b"", 0
    while silent < 3:
        chunk = client.chunk()
        text += decode(chunk)
        silent += chunk == CODINGS[coding].silence
    assert text == b"data: one\n\n"
    gate.set()
    for chunk in iter(client.chunk, b""):
        text += decode(chunk)
    assert text == b"data: one\n\ndata: two\n\n"


@pytest.mark.parametrize("kind", ["threaded", "async"])
@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
def test_a_stream_that_the_server_ends_is_whole(kind, coding):
    routes, gone = Routes(), threading.Event()
    routes.compress()

    @routes.get("/threaded", threaded=True)
    def threaded(request):
        def events() -> Iterator[str]:
            yield "one"
            gone.wait(PATIENCE)
            yield "nobody reads it"

        return sse(events())

    @routes.get("/async")
    async def tasks(request):
        import asyncio

        async def events() -> AsyncIterator[str]:
            yield "one"
            await asyncio.Event().wait()

        return sse(events())

    try:
        with running(routes) as it:
            client = it.connect()
            client.send(f"GET /{kind} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n".encode())
            client.head()
            data, decode, text = b"", decompressor(coding), b""
            while not text:
                chunk = client.chunk()
                data, text = data + chunk, decode(chunk)
            it.on_loop(it.server.drain)
            data += b"".join(iter(client.chunk, b""))
            assert whole(coding, data) == b"data: one\n\n"
            gone.set()
    finally:
        gone.set()


def test_under_another_wsgi_server():
    found: list[list[tuple[str, str]]] = []
    routes = Routes()
    routes.get("/")(lambda request: Response(LARGE))
    routes.compress()
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_ACCEPT_ENCODING": "gzip", "wsgi.url_scheme": "http"}
    body = routes.wsgi(environ | {"wsgi.input": io.BytesIO()}, lambda status, fields: found.append(fields))
    assert whole("gzip", b"".join(body)) == LARGE.encode()
    assert dict(found[0])["Content-Encoding"] == "gzip"
