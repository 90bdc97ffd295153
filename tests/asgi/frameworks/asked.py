"""What every framework's service is asked, as data, and what is looked at in an answer."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlencode

from tests.asgi.frameworks.service import ORIGIN, TEXT, WORD, digest
from tests.conformance.asgi.case import Framing
from tests.conformance.asgi.client import Client, Response

LARGE = hashlib.shake_256(b"large").digest(20 * 1024 * 1024)
SMALL = b"two\n"

CHUNK = 256 * 1024
"""Bytes of a chunk of a large body."""

OWN = (b"date", b"server", b"connection", b"keep-alive", b"transfer-encoding", b"content-length")
"""Fields that are the server's, or of the framing. (The length is looked at where both servers tell it.)"""

SECRETS = re.compile(rb"((?:session|sessionid|csrftoken|session-0)=)[^;]*")
"""What is new in each answer of a cookie, behind its name."""

EXPIRES = re.compile(rb"\bexpires=[^;]*")

TOKEN = re.compile(rb'(name="csrfmiddlewaretoken" value=")[^"]*')

BOUNDARY = re.compile(rb"\b[0-9a-f]{26}\b")
"""Between the parts of an answer with several ranges, as Starlette draws it."""


@dataclass(frozen=True)
class Ask:
    """A request, and what is known of its answer whatever the framework.

    Attributes:
        status: one of these is the answer's.
    own: the status by frameworks that have another, as they fail.
        content: the answer's; what isn't `bytes` is JSON. None: that is the framework's to say.
        chunked: whether the body is sent in chunks.
        in_turn: whether it is sent a piece at a time, each when what is made of the last has come.
        cookies: whether the cookies that were set before are sent; "{name}" in the body is then a cookie's value.
        cut: whether the answer isn't to be whole.
        only: the framework that is asked this; empty: each.
    lacking: those that have no such thing, and aren't asked.
    """

    method: str
    target: str
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: str = "1.1"
    status: tuple[int, ...] = (200,)
    own: dict[str, int] = field(default_factory=dict)
    content: Any = None
    chunked: bool = False
    in_turn: bool = False
    cookies: bool = False
    cut: bool = False
    only: str = ""
    lacking: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What is compared of an answer.

    Attributes:
        framing: "chunks" to a client of HTTP/1.0, "" for all that is right.
        whole: whether all that was announced came.
        length: the Content-Length.
    """

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    content: bytes
    whole: bool
    framing: str
    length: bytes

    def differs(self, other: Outcome) -> list[str]:
        """What is another in the other, to be read."""
        found = []
        for name, ours, theirs in zip(self._fields, self, other, strict=True):
            if ours != theirs and (name != "length" or (ours and theirs)):
                found.append(f"{name} {ours!r:.400} and {theirs!r:.400}")
        return found


def form(**values: str) -> bytes:
    return urlencode(values).encode()


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=here"}
PART = b'--here\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
UPLOAD = b"".join(
    [
        PART % (b"one", b'; filename="one.bin"\r\nContent-Type: application/octet-stream', LARGE),
        PART % (b"two", b'; filename="two.txt"\r\nContent-Type: text/plain', SMALL),
        PART % (b"a", b"", b"b"),
        b"--here--\r\n",
    ]
)
UPLOADED = {"one": digest(LARGE), "two": digest(SMALL), "a": "b"}
LINES = b"".join(b"line %d\n" % number for number in range(100))
ASKED_BY = {"Origin": ORIGIN}
PREFLIGHT = {**ASKED_BY, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-Asked"}
GZIP = {"Accept-Encoding": "gzip"}
PAGE = "/static/page.html"
RANGED = (200, 206)  # not every framework knows ranges
HEAD = (200, 404, 405)  # nor has a HEAD where there is a GET
LOGIN = b"csrfmiddlewaretoken={csrftoken}&username=ada&password="
QUERY = {"a": ["1", " x"], "b": "2", "query": "a=1&a=%20x&b=2"}

ASKED: dict[str, Ask] = {
    "json": Ask("GET", "/json?a=1&a=%20x&b=2", content=QUERY),
    "head": Ask("HEAD", "/json?a=1&a=%20x&b=2", status=HEAD),
    "path": Ask("GET", "/path/a%20b/7", content={"name": "a b", "number": 7, "path": "/path/a b/7"}),
    "path of letters": Ask("GET", "/path/%C3%A9/7", content={"name": "é", "number": 7, "path": "/path/é/7"}),
    "path that isn't a number": Ask("GET", "/path/a/x", status=(404, 422)),
    "target in absolute form": Ask("GET", "http://shop.example/json?a=1&a=%20x&b=2", content=QUERY),
    "form": Ask("POST", "/form", FORM, form(a="1 2", é="ü&="), content={"a": "1 2", "é": "ü&="}),
    "form in chunks": Ask("POST", "/form", FORM, form(a="1", é="2"), chunked=True, status=(200, 400, 422)),
    "upload": Ask("POST", "/upload", MULTIPART, UPLOAD, content=UPLOADED),
    "upload in chunks": Ask("POST", "/upload", MULTIPART, UPLOAD, chunked=True, status=(200, 400, 422)),
    "upload cut short": Ask(
        "POST", "/upload", MULTIPART, UPLOAD[-300:-20], status=(200, 400, 422, 500)
    ),
    "body": Ask("POST", "/raw", body=LARGE, content=digest(LARGE).encode()),
    "body in chunks": Ask("POST", "/raw", body=LARGE, chunked=True, content=digest(LARGE).encode()),
    "body that is expected": Ask(
        "POST", "/raw", {"Expect": "100-continue"}, SMALL, content=digest(SMALL).encode()
    ),
    "no body": Ask("POST", "/raw", content=digest(b"").encode()),
    "streaming down": Ask("GET", "/stream", content=LINES),
    "streaming down, head": Ask("HEAD", "/stream", status=HEAD),
    "streaming both ways": Ask(
        "POST", "/echo", body=b"one two three", chunked=True, in_turn=True, content=b"ONE TWO THREE",
        lacking=("django",),
    ),
    "events": Ask("GET", "/events", {"Accept": "text/event-stream"}),
    "background": Ask("GET", "/background", content=b"begun"),
    "background ran": Ask("GET", "/background/ran", content=b"it ran"),
    "file": Ask("GET", "/file"),
    "file, head": Ask("HEAD", "/file", status=HEAD),
    "file, range": Ask("GET", "/file", {"Range": "bytes=5-9"}, status=RANGED),
    "file, last bytes": Ask("GET", "/file", {"Range": "bytes=-10"}, status=RANGED, own={"quart": 500}),
    "file, two ranges": Ask("GET", "/file", {"Range": "bytes=0-1,5-9"}, status=RANGED, own={"quart": 416}),
    "file, range beyond": Ask("GET", "/file", {"Range": "bytes=9999999-"}, status=(200, 416)),
    "file, range if another": Ask("GET", "/file", {"Range": "bytes=5-9", "If-Range": '"another"'}, status=RANGED),
    "exception": Ask("GET", "/error", status=(500,)),
    "exception of HTTP": Ask("GET", "/refused", status=(409,)),
    "exception with a handler": Ask("GET", "/handled", status=(418,), content={"refused": "known"}),
    "exception in the answer": Ask("GET", "/broken", content=b"the first piece", cut=True),
    "state of the lifespan": Ask("GET", "/state", content=WORD.encode()),
    "session": Ask("GET", "/session", content=b"1"),
    "session goes on": Ask("GET", "/session", cookies=True, content=b"2"),
    "cross-origin": Ask("GET", "/state", ASKED_BY, content=WORD.encode()),
    "cross-origin, another": Ask("GET", "/state", {"Origin": "https://other.example"}, status=(200, 400)),
    "cross-origin, asked before": Ask("OPTIONS", "/form", PREFLIGHT, status=(200, 204)),
    "compressed": Ask("GET", "/large", GZIP, content=TEXT.encode()),
    "compressed, head": Ask("HEAD", "/large", GZIP, status=HEAD),
    "compressed stream": Ask("GET", "/stream", GZIP, content=LINES),
    "cookies": Ask("GET", "/cookies", {"Cookie": "x=1; y=2"}, content=b"x=1;y=2"),
    "redirect": Ask("GET", "/redirect", status=(307,)),
    "no content": Ask("GET", "/empty", status=(204,)),
    "nowhere": Ask("GET", "/nowhere", status=(404,)),
    "another method": Ask("DELETE", "/json", status=(403, 404, 405)),
    "options": Ask("OPTIONS", "/json", status=(200, 204, 404, 405)),
    "behind a proxy": Ask(
        "GET", "/client", {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "User-Agent": "me"},
        content=["192.0.2.1", "https", "me"],
    ),
    "static": Ask("GET", "/static/plain.css", content=b"body { color: black }\n"),
    "static, head": Ask("HEAD", "/static/plain.css", status=HEAD, own={"blacksheep": 500}),
    "static, range": Ask("GET", PAGE, {"Range": "bytes=5-9"}, status=RANGED),
    "static, compressed": Ask("GET", PAGE, GZIP),
    "static, not modified": Ask("GET", PAGE, {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, status=(200, 304)),
    "static, any": Ask("GET", PAGE, {"If-None-Match": "*"}, status=(200, 304)),
    "static, missing": Ask("GET", "/static/missing", status=(404,)),
    "static, directory": Ask("GET", "/static/", status=(200, 400, 403, 404)),
    "static, outside": Ask("GET", "/static/%2e%2e/service.py", status=(400, 403, 404), own={"django": 500}),
    "1.0": Ask("GET", "/json?a=1&a=%20x&b=2", version="1.0", content=QUERY),
    "1.0 form": Ask("POST", "/form", FORM, form(a="1", é="2"), "1.0", content={"a": "1", "é": "2"}),
    "1.0 stream": Ask("GET", "/stream", version="1.0", content=LINES),
    "1.0 events": Ask("GET", "/events", version="1.0"),
    "1.0 file": Ask("GET", "/file", version="1.0"),
    "1.0 static": Ask("GET", PAGE, version="1.0"),
    "1.0 compressed": Ask("GET", "/large", GZIP, version="1.0", content=TEXT.encode()),
    "1.0 exception": Ask("GET", "/error", version="1.0", status=(500,)),
    "1.0 exception in the answer": Ask("GET", "/broken", version="1.0", content=b"the first piece", cut=True),
    "1.0 kept": Ask("GET", "/state", {"Connection": "keep-alive"}, version="1.0", content=WORD.encode()),
    "admin asks who it is": Ask("GET", "/admin/", status=(302,), only="django"),
    "admin, login": Ask("GET", "/admin/login/", only="django"),
    "admin, wrong password": Ask(
        "POST", "/admin/login/", FORM, LOGIN + b"x", cookies=True, only="django"
    ),
    "admin, forged": Ask(
        "POST", "/admin/login/", FORM, b"username=ada&password=lovelace", status=(403,), only="django"
    ),
    "admin, password": Ask(
        "POST", "/admin/login/?next=/admin/", FORM, LOGIN + b"lovelace",
        status=(302,), cookies=True, only="django",
    ),
    "admin": Ask("GET", "/admin/", cookies=True, only="django"),
    "admin, users": Ask("GET", "/admin/auth/user/?q=ada", cookies=True, only="django"),
    "admin, style": Ask("GET", "/static/admin/css/base.css", only="django"),
    "admin, image": Ask("GET", "/static/admin/img/icon-yes.svg", only="django"),
}  # fmt: skip
"""In this order, each over a connection of its own, by name."""


class Conversation:
    """Asks one server, which may set cookies."""

    def __init__(self, port: int) -> None:
        self._address = "127.0.0.1", port
        self._cookies: dict[bytes, bytes] = {}

    def ask(self, ask: Ask) -> Outcome:
        client = Client(self._address)
        try:
            response = self._exchange(client, ask)
        finally:
            client.close()
        for value in response.values(b"set-cookie"):
            name, _, rest = value.partition(b"=")
            self._cookies[name] = rest.partition(b";")[0]
        return _outcome(ask, response, was_reset=client.was_reset)

    def _exchange(self, client: Client, ask: Ask) -> Response:
        fields, body = dict(ask.fields), ask.body
        if ask.cookies:
            fields["Cookie"] = "; ".join(f"{name.decode()}={value.decode()}" for name, value in self._cookies.items())
            for name, value in self._cookies.items():
                body = body.replace(b"{%b}" % name, value)
        if ask.chunked:
            fields["Transfer-Encoding"] = "chunked"
        elif body or ask.method == "POST":
            fields["Content-Length"] = str(len(body))
        lines = [f"{ask.method} {ask.target} HTTP/{ask.version}", "Host: shop.example", "X-Request-Id: asked"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        client.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        if "Expect" in fields:
            client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        if ask.in_turn:
            _send_in_turn(client, body)
        elif ask.chunked:
            for at in range(0, len(body), CHUNK):
                piece = body[at : at + CHUNK]
                client.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.write(b"0\r\n\r\n")
        else:
            client.write(body)
        return client.read_response(head=ask.method == "HEAD")


def _send_in_turn(client: Client, body: bytes) -> None:
    """Send words as chunks, each when the last has come back."""
    for word in re.findall(rb"\w+ ?", body):
        client.write(b"%x\r\n%b\r\n" % (len(word), word))
        client.until(word.upper())
    client.write(b"0\r\n\r\n")


def _outcome(ask: Ask, response: Response, *, was_reset: bool) -> Outcome:
    content, fields = response.content, []
    for name, value in response.fields:
        if name == b"set-cookie":
            value = EXPIRES.sub(b"expires=...", SECRETS.sub(rb"\1...", value))
        elif name == b"allow" or name.startswith(b"access-control-"):  # of a set, whose order is each process's own
            value = b", ".join(sorted(value.split(b", ")))
        elif name == b"content-type":
            value = BOUNDARY.sub(b"...", value)
        elif name == b"expires":  # the time of the answer, and some more
            value = b"..."
        if name not in OWN:
            fields.append((name, value))
    if response.values(b"content-encoding") == (b"gzip",) and content:
        content = gzip.decompress(content)
    of_old = ask.version == "1.0" and response.framing is Framing.CHUNKED
    lengths = response.values(b"content-length")
    return Outcome(
        response.status,
        tuple(sorted(fields)),
        BOUNDARY.sub(b"...", TOKEN.sub(rb"\1...", content)),
        response.whole and not was_reset,
        "chunks" if of_old else "",
        b"" if response.values(b"content-encoding") else b", ".join(lengths),
    )


def faults_of(ask: Ask, outcome: Outcome, framework: str) -> list[str]:
    """What isn't as it is to be, to be read."""
    found = []
    expected = (ask.own[framework],) if framework in ask.own else ask.status
    if outcome.status not in expected:
        found.append(f"status {outcome.status}")
    elif ask.content is not None and outcome.status == ask.status[0]:
        read: Callable[[bytes], Any] = bytes if isinstance(ask.content, bytes) else json.loads
        if read(outcome.content) != ask.content:
            found.append(f"content {outcome.content!r:.200}")
    if outcome.whole == ask.cut:
        found.append("it is whole" if ask.cut else "it is cut")
    if outcome.framing:
        found.append(outcome.framing)
    if b"secret" in outcome.content:
        found.append("it tells the error")
    return found
