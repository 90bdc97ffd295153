"""How the response's content is delimited on the wire, whatever the application sends."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.case import (
    MUST,
    OK,
    SHOULD,
    Answer,
    Case,
    Check,
    End,
    Framing,
    OneOf,
    Write,
    get,
    request,
)
from tests.conformance.asgi.script import FAIL, Operation, attempt, body, do, length, script, send, start

BODY = "HTTP 2.5, Response body - send event"
LENGTH = "RFC 9110, 8.6"
RAISES = Check("an exception", lambda names: names is not None)
STREAM = send(start(), body(b"o", more=True), body(b"k"))


def ask(program: list[Operation], method: str = "GET", version: str = "HTTP/1.1") -> tuple[Write, ...]:
    return (Write(request(program, method=method, version=version)),)


def http_1_0(name: str, level: Any, source: str, program: list[Operation], want: Answer, *fields: bytes) -> Case:
    """HTTP/1.0: no chunks, and an end."""
    return Case(name, level, source, (Write(request(program, *fields, version="HTTP/1.0")),), (want,))


DELIMITED = [
    Case(
        "length-kept",
        MUST,
        LENGTH,
        get(send(start(200, length(2)), body(b"ok"))),
        (Answer(200, b"ok", Framing.LENGTH),),
        End.OPEN,
    ),
    Case("length-made-or-chunked", MUST, BODY, get(send(start(), body(b"ok"))), (OK,), End.SANE),
    Case(
        "stream-chunked",
        SHOULD,
        "HTTP 2.5, HTTP connection scope; RFC 9112, 7.1",
        get(STREAM),
        (Answer(200, b"ok", Framing.CHUNKED),),
        End.OPEN,
    ),
    Case("empty-content", MUST, BODY, get(send(start(), body())), (Answer(200, b""),), End.SANE),
    Case(
        "empty-content-keeps-the-connection",
        SHOULD,
        BODY,
        get(send(start(), body())),
        (Answer(200, b"", (Framing.LENGTH, Framing.CHUNKED)),),
        End.OPEN,
    ),
    http_1_0(
        "http-1.0-length", MUST, LENGTH, send(start(200, length(2)), body(b"ok")), Answer(200, b"ok", Framing.LENGTH)
    ),
    http_1_0("http-1.0-not-chunked", MUST, "RFC 9112, 6.1", STREAM, Answer(200, b"ok", Framing.CLOSE)),
    http_1_0(
        "http-1.0-not-chunked-of-one-piece",
        MUST,
        "RFC 9112, 6.1",
        send(start(), body(b"ok")),
        Answer(200, b"ok", (Framing.CLOSE, Framing.LENGTH)),
    ),
    http_1_0(
        "http-1.0-keep-alive-not-chunked",
        MUST,
        "RFC 9112, 6.1",
        STREAM,
        Answer(200, b"ok", Framing.CLOSE),
        b"Connection: keep-alive",
    ),
    Case(
        "transfer-encoding-ignored",
        MUST,
        "HTTP 2.5, Response start - send event",
        get(send(start(200, (b"transfer-encoding", b"chunked")), body(b"o", more=True), body(b"k"))),
        (OK,),
    ),
    Case(
        "transfer-encoding-ignored-with-length",
        MUST,
        "HTTP 2.5, Response start - send event",
        get(send(start(200, length(2), (b"transfer-encoding", b"chunked")), body(b"ok"))),
        (OK,),
        End.SANE,
    ),
    Case(
        "transfer-encoding-gzip-ignored",
        MUST,
        "HTTP 2.5, Response start - send event",
        get(send(start(200, (b"transfer-encoding", b"gzip")), body(b"ok"))),
        (OK,),
    ),
    http_1_0(
        "transfer-encoding-ignored-http-1.0",
        MUST,
        "RFC 9112, 6.1",
        send(start(200, (b"transfer-encoding", b"chunked")), body(b"o", more=True), body(b"k")),
        Answer(200, b"ok", (Framing.CLOSE, Framing.LENGTH)),
    ),
]


KEPT_OR_LEFT_OUT = Check("the length given, or none", lambda values: values in ((), (b"1000",)))


def bodiless(status: int, method: str, *headers: tuple[bytes, bytes], content: bytes) -> tuple[Write, ...]:
    return ask(send(start(status, *headers), body(content)), method)


NO_CONTENT = [
    Case(
        "head-without-content",
        MUST,
        "RFC 9110, 9.3.2",
        bodiless(200, "HEAD", length(2), content=b"ok"),
        (Answer(200, b"", head=True),),
        End.OPEN,
    ),
    Case(
        "head-keeps-length",
        SHOULD,
        "RFC 9110, 9.3.2",
        bodiless(200, "HEAD", length(2), content=b"ok"),
        (Answer(200, b"", fields=((b"content-length", (b"2",)),), head=True),),
    ),
    Case("head-streamed", MUST, "RFC 9110, 9.3.2", ask(STREAM, "HEAD"), (Answer(200, b"", head=True),), End.SANE),
    Case(
        "head-empty-body",
        MUST,
        "RFC 9110, 9.3.2",
        bodiless(200, "HEAD", length(2), content=b""),
        (Answer(200, b"", head=True),),
        End.OPEN,
    ),
    Case(
        "head-large-length",
        MUST,
        "RFC 9110, 9.3.2",
        bodiless(200, "HEAD", length(1 << 30), content=b""),
        (Answer(200, b"", fields=((b"content-length", (b"1073741824",)),), head=True),),
        End.OPEN,
    ),
    *(
        Case(
            f"{status}-without-content{name}",
            MUST,
            "RFC 9110, 15.3.5 and 15.4.5",
            bodiless(status, "GET", *headers, content=content),
            (Answer(status, b""),),
            End.SANE,
        )
        for status in (204, 304)
        for name, headers, content in (("", (), b""), ("-given-some", (), b"ok"))
    ),
    *(
        Case(
            f"{status}-given-pieces",
            MUST,
            "RFC 9110, 15.3.5 and 15.4.5",
            ask(send(start(status), body(b"o", more=True), body(b"k"))),
            (Answer(status, b""),),
            End.SANE,
        )
        for status in (204, 304)
    ),
    Case(
        "204-without-framing",
        MUST,
        "RFC 9112, 6.1; RFC 9110, 8.6",
        bodiless(204, "GET", content=b""),
        (Answer(204, b"", fields=((b"content-length", ()), (b"transfer-encoding", ()))),),
        End.OPEN,
    ),
    Case(
        "204-length-zero-dropped",
        SHOULD,
        "RFC 9110, 8.6",
        bodiless(204, "GET", length(0), content=b""),
        (Answer(204, b"", fields=((b"content-length", ()), (b"transfer-encoding", ()))),),
        End.OPEN,
    ),
    Case(
        "304-without-transfer-encoding",
        SHOULD,
        "RFC 9112, 6.1",
        bodiless(304, "GET", content=b""),
        (Answer(304, b"", fields=((b"transfer-encoding", ()),)),),
        End.OPEN,
    ),
    Case(
        "304-with-length",
        SHOULD,
        "RFC 9110, 8.6",
        bodiless(304, "GET", length(1000), content=b""),
        (Answer(304, b"", fields=((b"content-length", KEPT_OR_LEFT_OUT),)),),
        End.OPEN,
    ),
]


def enforced(name: str, program: list[Operation], *wanted: Answer, told: Any = ()) -> Case:
    """The content isn't of the announced length: the client gets an error or a cut, never another message's bytes.

    wanted: what else may come: a server that has all of it before it sends anything may correct the length.
    """
    cut = Answer(200, whole=False)
    return Case(
        name,
        MUST,
        "RFC 9112, 8; RFC 9110, 8.6",
        get(program),
        (OneOf((*wanted, cut, Answer(500))),),
        End.SANE,
        told=told,
    )


ENFORCED = [
    enforced(
        "longer-than-announced", script(send(start(200, length(2))), attempt(body(b"okay"))), OK, Answer(200, b"okay")
    ),
    enforced(
        "longer-than-announced-in-pieces",
        script(send(start(200, length(2)), body(b"ok", more=True)), attempt(body(b"HTTP/1.1 200 OK\r\n\r\n"))),
        OK,
    ),
    enforced("shorter-than-announced", script(send(start(200, length(4))), attempt(body(b"ok"))), OK),
    enforced(
        "shorter-than-announced-in-pieces",
        script(send(start(200, length(4)), body(b"o", more=True)), attempt(body(b"k"))),
    ),
    enforced("announced-and-empty", script(send(start(200, length(4))), attempt(body())), Answer(200, b"")),
    *(
        Case(f"{name}-raises", SHOULD, "RFC 9110, 8.6", get(program), told=(("attempt", RAISES),))
        for name, program in (
            ("longer-than-announced", script(send(start(200, length(2))), attempt(body(b"okay")))),
            ("shorter-than-announced", script(send(start(200, length(4))), attempt(body(b"ok")))),
        )
    ),
    Case(
        "shorter-than-announced-is-cut",
        MUST,
        "RFC 9112, 8",
        get(script(send(start(200, length(4)), body(b"o", more=True)), attempt(body(b"k")))),
        (Answer(200, whole=False),),
    ),
    *(
        Case(
            f"length-{name}-not-passed-on",
            MUST,
            LENGTH,
            get(script(attempt(start(200, *[(b"content-length", value) for value in values])), attempt(body(b"ok")))),
            (OneOf((OK, Answer(500), Answer(None, whole=False)), or_none=True),),
            End.SANE,
        )
        for name, values in (
            ("twice", (b"2", b"3")),
            ("word", (b"two",)),
            ("negative", (b"-2",)),
            ("list", (b"2, 3",)),
            ("empty", (b"",)),
        )
    ),
    *(
        Case(
            f"length-reached-then-{name}",
            MUST,
            "RFC 9112, 6.3",
            get(script(send(start(200, length(2)), body(b"ok", more=True)), more)),
            (OK,),
            End.SANE,
        )
        for name, more in (("returns", []), ("raises", FAIL), ("ends", send(body())))
    ),
    Case(
        "large-stream-with-a-wrong-length",
        MUST,
        "RFC 9112, 8",
        get(script(send(start(200, length(1 << 20))), do("fill", 1 << 19, True), do("fill", 1 << 18, False))),
        (Answer(200, whole=False),),
    ),
]

CASES = [*DELIMITED, *NO_CONTENT, *ENFORCED]
