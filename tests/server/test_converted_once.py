"""What an application gives of a class of its own: converted once, checked, and sent as it was checked."""

from __future__ import annotations

from enum import Enum, IntEnum
from http import HTTPStatus
from typing import Any

import pytest

from hypoll import File, HTTPError, Request, Response, Routes, sse
from hypoll.testing import TestClient
from hypoll.web.events import Event

EVIL = "a\r\nSet-Cookie: b=c"


class Str(str):
    """Has the characters it was made of; whatever is made of it says something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return EVIL

    def __format__(self, spec: str) -> str:
        return EVIL

    def lower(self) -> str:
        return "x-other"

    def strip(self, characters: str | None = None) -> str:
        return EVIL

    def encode(self, *args: str) -> bytes:
        return EVIL.encode()


class Bytes(bytes):
    __slots__ = ()

    def __bytes__(self) -> bytes:
        return b"another"

    def __len__(self) -> int:
        return 99


class Int(int):
    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "999"

    def __str__(self) -> str:
        return "999"

    def __index__(self) -> int:
        return 999


class Text(str, Enum):  # noqa: UP042 - not a StrEnum, whose text is its value
    TYPE = "text/plain"
    VALUE = "fifty"
    NAME = "X-Name"


class Code(IntEnum):
    TEAPOT = 418
    CREATED = 201


class OnceMapping(dict[str, str]):
    """Differs each time it is read."""

    reads = 0

    def items(self) -> Any:
        self.reads += 1
        return {"X-Read": str(self.reads)}.items()


ANSWERS: dict[str, Any] = {
    "a value": lambda: Response(b"a", headers={"X-Name": Str("fine")}),
    "a name": lambda: Response(b"a", headers=[(Str("X-Name"), "fine")]),
    "an enum's value": lambda: Response(b"a", headers=[(Text.NAME, Text.VALUE)]),
    "a content type": lambda: Response(b"a", content_type=Str("text/plain")),
    "an enum's content type": lambda: Response(b"a", content_type=Text.TYPE),
    "a str": lambda: Str("a"),
    "an enum": lambda: Text.VALUE,
    "a body of str": lambda: Response(Str("a")),
    "bytes": lambda: Bytes(b"a"),
    "a body of bytes": lambda: Response(Bytes(b"a")),
    "a body of bytearray": lambda: Response(bytearray(b"a")),
    "a view": lambda: Response(memoryview(b"abc")[::2]),
    "pieces": lambda: Response(iter([Bytes(b"a"), Bytes(b"b")])),
    "a status": lambda: Response(b"a", Int(201)),
    "an enum's status": lambda: Response(b"a", Code.CREATED),
    "the standard library's status": lambda: ("a", HTTPStatus.CREATED),
    "a tuple's status": lambda: ("a", Int(201)),
    "an iterator of headers": lambda: Response(b"a", headers=iter([("X-Name", "fine")])),
    "an iterator of headers of pieces": lambda: Response(iter([b"a", b"b"]), headers=iter([("X-Name", "fine")])),
    "a mapping that changes": lambda: Response(iter([b"a"]), headers=OnceMapping()),
}
SENT: dict[str, tuple[int, dict[str, str], str]] = {
    "a value": (200, {"X-Name": "fine"}, "a"),
    "a name": (200, {"X-Name": "fine"}, "a"),
    "an enum's value": (200, {"X-Name": "fifty"}, "a"),
    "a content type": (200, {"Content-Type": "text/plain"}, "a"),
    "an enum's content type": (200, {"Content-Type": "text/plain"}, "a"),
    "a str": (200, {"Content-Length": "1"}, "a"),
    "an enum": (200, {"Content-Length": "5"}, "fifty"),
    "a body of str": (200, {"Content-Length": "1"}, "a"),
    "bytes": (200, {"Content-Length": "1"}, "a"),
    "a body of bytes": (200, {"Content-Length": "1"}, "a"),
    "a body of bytearray": (200, {"Content-Length": "1"}, "a"),
    "a view": (200, {"Content-Length": "2"}, "ac"),
    "pieces": (200, {"Transfer-Encoding": "chunked"}, "ab"),
    "a status": (201, {}, "a"),
    "an enum's status": (201, {}, "a"),
    "the standard library's status": (201, {}, "a"),
    "a tuple's status": (201, {}, "a"),
    "an iterator of headers": (200, {"X-Name": "fine"}, "a"),
    "an iterator of headers of pieces": (200, {"X-Name": "fine"}, "ab"),
    "a mapping that changes": (200, {"X-Read": "1"}, "a"),
}


def routes_of(answer: Any, threaded: bool, hooked: bool) -> Routes:
    routes = Routes()
    routes.get("/", threaded=threaded)(lambda request: answer())
    if hooked:
        routes.after(lambda request, response: None)
    return routes


@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize("threaded", [False, True], ids=["inline", "threaded"])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_checked_is_what_is_sent(name, threaded, hooked):
    status, fields, text = SENT[name]
    with TestClient(routes_of(ANSWERS[name], threaded, hooked)) as client:
        for _ in range(3):  # whether a cache knows it or not
            answer = client.get("/")
            assert (answer.status_code, answer.text) == (status, text)
            assert "Set-Cookie" not in answer.headers
            assert fields.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("status", [200.0, "200", None])
@pytest.mark.parametrize("known", [False, True])
def test_a_status_that_equals_one_is_none(status, known, caplog):
    routes = Routes()
    routes.get("/known")(lambda request: Response(b"a", content_type="text/a"))
    routes.get("/")(lambda request: Response(b"a", status, content_type="text/a"))
    with TestClient(routes) as client:
        if known:
            assert client.get("/known").status_code == 200
        assert client.get("/").status_code == 500
    assert "is not the status of a final response" in caplog.text


REFUSALS: dict[str, Any] = {
    "a value": lambda: Response(b"a", headers={"X-Name": Str(EVIL)}),
    "a name": lambda: Response(b"a", headers=[(Str("X Name"), "fine")]),
    "a content type": lambda: Response(b"a", content_type=Str(EVIL)),
    "a name of the framing": lambda: Response(b"a", headers=[(Str("Transfer-Encoding"), "chunked")]),
    "a status": lambda: Response(b"a", Int(199)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_can_not_be_sent_is_refused_whatever_its_class_says(name):
    with TestClient(routes_of(REFUSALS[name], False, False)) as client:
        answer = client.get("/")
    assert answer.status_code == 500
    assert "Set-Cookie" not in answer.headers


def test_an_error_of_a_class_of_its_own():
    routes = Routes()
    headers = iter([("X-Name", Str("fine"))])
    error = HTTPError(Code.TEAPOT, Str("short"), headers)

    @routes.get("/")
    def fail(request: Request) -> None:
        raise error

    with TestClient(routes) as client:
        for _ in range(2):
            answer = client.get("/")
            assert (answer.status_code, answer.json()["detail"]) == (418, "short")
            assert answer.headers["X-Name"] == "fine"


def test_an_event_of_a_class_of_its_own():
    assert Event(Str("a"), event=Str("b"), id=Text.VALUE).encode() == b"event: b\nid: fifty\ndata: a\n\n"
    with pytest.raises(ValueError, match="one line"):
        Event(event=Str("a\nb"))
    routes = Routes()
    routes.get("/", threaded=True)(lambda request: sse([Str("a")]))
    with TestClient(routes) as client:
        assert client.get("/").text == "data: a\n\n"


def application(status: Any, headers: Any, body: Any) -> Any:
    def answer(environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        return body

    return answer


@pytest.mark.parametrize(
    ("status", "headers", "body", "sent"),
    [
        (Str("200 OK"), [("X-Name", Str("fine"))], [b"a"], (200, "fine", "a")),
        ("200 OK", [(Str("X-Name"), Text.VALUE)], [Bytes(b"a")], (200, "fifty", "a")),
        ("200 OK", [("X-Name", "fine")], iter([Bytes(b"a"), Bytes(b"b")]), (200, "fine", "ab")),
        ("200 OK", [("X-Name", "fine"), ("Content-Length", Str("2"))], [b"a", Bytes(b"b")], (200, "fine", "ab")),
        ("200 OK", [("X-Name", Str(EVIL))], [b"a"], (500, None, None)),
        ("200 OK", [("X-Name", 1)], [b"a"], (500, None, None)),
        ("200 OK", [("X-Name", ["a"])], [b"a"], (500, None, None)),
        (200, [], [b"a"], (500, None, None)),
        (["200 OK"], [], [b"a"], (500, None, None)),
    ],
)
def test_a_wsgi_application_s(status, headers, body, sent):
    with TestClient(application(status, headers, body)) as client:
        answer = client.get("/")
    assert answer.status_code == sent[0]
    if sent[0] == 200:
        assert (answer.headers["X-Name"], answer.text) == sent[1:]
    assert "Set-Cookie" not in answer.headers


# A file that isn't there is refused as by any handler.

KINDS = ["inline", "threaded", "async"]


def missing_file(kind: str, result: Any) -> Routes:
    routes = Routes()

    async def task(request: Request) -> Any:
        return result()

    if kind == "async":
        routes.get("/")(task)
    else:
        routes.get("/", threaded=kind == "threaded")(lambda request: result())
    return routes


RESULTS: dict[str, Any] = {
    "a file": lambda: File("nosuch"),
    "a response": lambda: Response(File("nosuch"), headers={"X-Name": "fine"}),
    "a tuple": lambda: (File("nosuch"), 200, {"X-Name": "fine"}),
}


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_a_404_like_any_other(kind, result):
    seen = []
    routes = missing_file(kind, RESULTS[result])
    routes.after(lambda request, response: seen.append((request.id, response.status)))
    with TestClient(routes) as client:
        answer = client.get("/", headers={"X-Request-Id": "abc"})
    assert (answer.status_code, answer.json()["id"]) == (404, "abc")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert seen == [("abc", 404)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_an_error_hook_s(kind):
    routes = missing_file(kind, RESULTS["a file"])
    routes.error(HTTPError)(lambda request, error: (f"sorry, {error.status}", 404))
    with TestClient(routes) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.text) == (404, "sorry, 404")


def test_without_hooks_it_has_its_id_too():
    with TestClient(missing_file("inline", RESULTS["a file"])) as client:
        assert client.get("/", headers={"X-Request-Id": "abc"}).json()["id"] == "abc"
