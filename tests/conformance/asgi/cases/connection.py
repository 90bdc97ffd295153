"""Several requests on a connection, and when it ends."""

from __future__ import annotations

from tests.conformance.asgi.case import (
    MUST,
    OK,
    SHOULD,
    Answer,
    Bytewise,
    Case,
    Check,
    End,
    Framing,
    Go,
    HalfClose,
    OneOf,
    Other,
    Reset,
    Told,
    Until,
    Write,
    get,
    post,
    raw,
    request,
)
from tests.conformance.asgi.script import ANSWER, READ, answer, body, do, length, script, send, start

PERSIST = "RFC 9112, 9.3"
PIPELINE = "RFC 9112, 9.3.2"
CLOSE = "RFC 9112, 9.6"

FIRST, SECOND, THIRD = Answer(200, b"first"), Answer(200, b"second"), Answer(200, b"third")
SLOW = script(READ, do("tell", "waiting"), do("wait", "go"), answer(b"first"))
GO = (Told("waiting"), Go("go"))
CHUNKED = b"Transfer-Encoding: chunked"


def ask(content: bytes, *fields: bytes) -> bytes:
    return request(script(READ, answer(content)), *fields)


CASES = [
    Case(
        "keep-alive",
        SHOULD,
        PERSIST,
        (Write(ask(b"first")), Until(b"first"), Write(ask(b"second")), Until(b"second"), Write(ask(b"third"))),
        (FIRST, SECOND, THIRD),
        End.OPEN,
        calls=3,
    ),
    Case("keep-alive-after-a-body", SHOULD, PERSIST, (Write(post(script(READ, ANSWER), b"abc")),), (OK,), End.OPEN),
    Case(
        "keep-alive-after-chunks-and-trailers",
        SHOULD,
        PERSIST,
        (
            Write(
                request(script(READ, ANSWER), CHUNKED, method="POST", content=b"3\r\nabc\r\n0\r\nX-Trailer: a\r\n\r\n")
            ),
        ),
        (OK,),
        End.OPEN,
    ),
    Case(
        "pipelined",
        MUST,
        PIPELINE,
        (Write(ask(b"first") + ask(b"second") + ask(b"third")),),
        (FIRST, SECOND, THIRD),
        End.OPEN,
        calls=3,
    ),
    Case("pipelined-in-order", MUST, PIPELINE, (Write(request(SLOW) + ask(b"second")), *GO), (FIRST, SECOND), End.OPEN),
    Case(
        "pipelined-streams-in-order",
        MUST,
        PIPELINE,
        (
            Write(
                request(
                    script(
                        send(start(), body(b"fir", more=True)),
                        do("tell", "waiting"),
                        do("wait", "go"),
                        send(body(b"st")),
                    )
                )
                + ask(b"second")
            ),
            *GO,
        ),
        (FIRST, SECOND),
        End.OPEN,
    ),
    Case(
        "pipelined-after-a-body",
        MUST,
        PIPELINE,
        (Write(post(script(READ, answer(b"first")), b"abc") + ask(b"second")),),
        (FIRST, SECOND),
        End.OPEN,
        told=(("body", b"abc"), ("body", b"")),
    ),
    Case(
        "pipelined-after-chunks",
        MUST,
        PIPELINE,
        (
            Write(
                request(script(READ, answer(b"first")), CHUNKED, method="POST", content=b"3\r\nabc\r\n0\r\n\r\n")
                + ask(b"second")
            ),
        ),
        (FIRST, SECOND),
        End.OPEN,
        told=(("body", b"abc"), ("body", b"")),
    ),
    Case(
        "pipelined-after-an-unread-body",
        MUST,
        PIPELINE,
        (Write(post(answer(b"first"), b"x" * 1000) + ask(b"second")),),
        (FIRST, OneOf((SECOND,), or_none=True)),
        End.SANE,
    ),
    Case(
        "pipelined-after-head",
        MUST,
        PIPELINE,
        (Write(request(ANSWER, method="HEAD") + ask(b"second")),),
        (Answer(200, b"", head=True), SECOND),
        End.OPEN,
    ),
    Case("pipelined-many", MUST, PIPELINE, (Write(request(ANSWER) * 50),), (OK,) * 50, End.OPEN, calls=50),
    Case(
        "pipelined-large",
        MUST,
        PIPELINE,
        (Write(request(script(send(start(200, length(300_000))), do("fill", 300_000, False))) * 5),),
        (Answer(200),) * 5,
        End.OPEN,
    ),
    Case(
        "pipelined-then-half-close",
        SHOULD,
        CLOSE,
        (Write(ask(b"first") + ask(b"second")), HalfClose()),
        (FIRST, SECOND),
        End.CLOSED,
    ),
    Case("byte-by-byte", MUST, "RFC 9112, 2.2", (Bytewise(ask(b"first") + ask(b"second")),), (FIRST, SECOND), End.OPEN),
    Case(
        "close-asked",
        MUST,
        CLOSE,
        (Write(ask(b"first", b"Connection: close")),),
        (FIRST,),
        End.CLOSED,
    ),
    Case(
        "close-asked-said",
        SHOULD,
        CLOSE,
        (Write(ask(b"first", b"Connection: close")),),
        (Answer(200, b"first", fields=((b"connection", (b"close",)),)),),
    ),
    Case(
        "close-asked-in-a-list",
        MUST,
        CLOSE,
        (Write(ask(b"first", b"Connection: TE, Close", b"TE: trailers")),),
        (FIRST,),
        End.CLOSED,
    ),
    Case(
        "nothing-after-close",
        MUST,
        CLOSE,
        (Write(ask(b"first", b"Connection: close") + ask(b"second")),),
        (FIRST,),
        End.CLOSED,
        calls=1,
    ),
    Case(
        "close-by-the-application",
        MUST,
        CLOSE,
        get(answer(b"first", (b"connection", b"close"))),
        (FIRST,),
        End.CLOSED,
    ),
    Case("http-1.0-closes", MUST, PERSIST, (Write(request(ANSWER, version="HTTP/1.0")),), (OK,), End.CLOSED),
    Case(
        "http-1.0-keep-alive",
        SHOULD,
        PERSIST,
        (Write(request(ANSWER, b"Connection: keep-alive", version="HTTP/1.0")),),
        (Answer(200, b"ok", Framing.LENGTH, fields=((b"connection", (b"keep-alive",)),)),),
        End.OPEN,
    ),
    Case("empty-line-before", SHOULD, "RFC 9112, 2.2", (Write(b"\r\n" + ask(b"first")),), (FIRST,), End.OPEN),
    Case(
        "empty-line-between",
        SHOULD,
        "RFC 9112, 2.2",
        (Write(ask(b"first") + b"\r\n" + ask(b"second")),),
        (FIRST, SECOND),
        End.OPEN,
    ),
    Case(
        "upgrade-unknown",
        MUST,
        "RFC 9110, 7.8",
        (Write(ask(b"first", b"Connection: Upgrade", b"Upgrade: unknown/1")),),
        (FIRST,),
        End.OPEN,
    ),
    Case(
        "websocket-refused-by-the-application",
        SHOULD,
        "HTTP 2.5, Connect - receive event",
        (
            Write(
                raw(
                    b"GET / HTTP/1.1",
                    b"Host: h",
                    b"Connection: Upgrade",
                    b"Upgrade: websocket",
                    b"Sec-WebSocket-Version: 13",
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                )
            ),
        ),
        (Answer(None, interims=()),),
    ),
    Case(
        "slow-client-holds-up-nobody",
        MUST,
        "ASGI 3.0, Overview",
        (
            Write(request(script(READ, send(start()), do("flood", 1 << 16, 1024), do("end_flood")))),
            Told("stalled"),
            Other(ask(b"other")),
            Reset(),
        ),
        told=(("stalled", Check("not all", lambda sent: sent < 1 << 26)),),
    ),
    Case(
        "connections-side-by-side",
        MUST,
        "ASGI 3.0, Overview",
        (Write(request(SLOW)), Told("waiting"), Other(ask(b"other")), Go("go")),
        (FIRST,),
    ),
    Case(
        "unknown-method",
        SHOULD,
        "RFC 9110, 9.1",
        (Write(raw(b"BREW / HTTP/1.1", b"Host: h")),),
        (Answer((200, 501)),),
    ),
    Case(
        "minor-version-newer",
        SHOULD,
        "RFC 9110, 2.5",
        (Write(raw(b"GET / HTTP/1.9", b"Host: h")),),
        (Answer((200, 400, 505)),),
    ),
]
