"""The request's body, as `receive` gives it: whole, in pieces, and when the client is asked for it."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.case import (
    MUST,
    OK,
    SHOULD,
    Answer,
    Bytewise,
    Case,
    Check,
    End,
    Flood,
    Go,
    Rest,
    Told,
    Until,
    Write,
    get,
    post,
    request,
)
from tests.conformance.asgi.cases.receive import CHUNKED, IS_END, IS_MESSAGE, LARGE, MIB, REQUEST, is_piece
from tests.conformance.asgi.script import ANSWER, READ, RECEIVE, body, do, script, send, start

EXPECT = "RFC 9110, 10.1.1"


def chunks(content: bytes, *, name: str, pieces: bytes, level: Any = MUST) -> Case:
    """A chunked body, whole."""
    return Case(
        name,
        level,
        "HTTP 2.5, Request; RFC 9112, 7.1",
        (Write(request(script(READ, ANSWER), CHUNKED, method="POST", content=pieces)),),
        (OK,),
        End.OPEN,
        told=(("body", content),),
    )


WHOLE = [
    Case("no-body", MUST, REQUEST, get(script(RECEIVE, ANSWER)), (OK,), told=(("receive", IS_END),)),
    Case(
        "length-zero",
        MUST,
        REQUEST,
        (Write(post(script(RECEIVE, ANSWER), b"")),),
        (OK,),
        End.OPEN,
        told=(("receive", IS_END),),
    ),
    Case(
        "message-types",
        MUST,
        REQUEST,
        (Write(post(script(RECEIVE, ANSWER), b"abc")),),
        (OK,),
        told=(("receive", IS_MESSAGE),),
    ),
    Case(
        "body",
        MUST,
        REQUEST,
        (Write(post(script(READ, ANSWER), b"a\0\r\n\xff")),),
        (OK,),
        End.OPEN,
        told=(("body", b"a\0\r\n\xff"),),
    ),
    Case(
        "body-of-a-get",
        MUST,
        REQUEST,
        (Write(request(script(READ, ANSWER), b"Content-Length: 3", content=b"abc")),),
        (OK,),
        End.OPEN,
        told=(("body", b"abc"),),
    ),
    Case(
        "body-byte-by-byte",
        MUST,
        REQUEST,
        (Bytewise(post(script(READ, ANSWER), b"abcdef")),),
        (OK,),
        End.OPEN,
        told=(("body", b"abcdef"),),
    ),
    Case(
        "large-body",
        MUST,
        REQUEST,
        (Write(post(script(do("read_size"), ANSWER), b"x" * (8 * MIB))),),
        (OK,),
        End.OPEN,
        told=(("size", 8 * MIB),),
    ),
    Case(
        "large-body-in-pieces",
        SHOULD,
        REQUEST,
        (Write(post(script(READ, ANSWER), b"x" * (2 * MIB))),),
        (OK,),
        told=(("pieces", Check("several pieces", lambda count: count > 1)),),
    ),
    chunks(b"abcdef", name="chunked", pieces=b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"),
    chunks(b"", name="chunked-empty", pieces=b"0\r\n\r\n"),
    chunks(b"abc", name="chunked-extension", pieces=b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n'),
    chunks(b"abc", name="chunked-trailers", pieces=b"3\r\nabc\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n"),
    chunks(b"x" * 26, name="chunked-sizes-in-hex", pieces=b"1A\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"),
    chunks(b"x" * 26, name="chunked-leading-zeros", pieces=b"001a\r\n" + b"x" * 26 + b"\r\n000\r\n\r\n"),
    Case(
        "chunked-byte-by-byte",
        MUST,
        "RFC 9112, 7.1",
        (Bytewise(request(script(READ, ANSWER), CHUNKED, method="POST", content=b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")),),
        (OK,),
        End.OPEN,
        told=(("body", b"abcd"),),
    ),
    Case(
        "chunked-large",
        MUST,
        "RFC 9112, 7.1",
        (
            Write(
                request(
                    script(do("read_size"), ANSWER),
                    CHUNKED,
                    method="POST",
                    content=(b"10000\r\n" + b"x" * 65536 + b"\r\n") * 64 + b"0\r\n\r\n",
                )
            ),
        ),
        (OK,),
        End.OPEN,
        told=(("size", 4 * MIB),),
    ),
    Case(
        "http-1.0-body",
        MUST,
        REQUEST,
        (
            Write(
                request(script(READ, ANSWER), b"Content-Length: 3", method="POST", version="HTTP/1.0", content=b"abc")
            ),
        ),
        (OK,),
        told=(("body", b"abc"),),
    ),
]

PIECES = [
    Case(
        "pieces-as-they-come",
        SHOULD,
        REQUEST,
        (
            Write(request(script(RECEIVE, READ, ANSWER), b"Content-Length: 6", method="POST", content=b"abc")),
            Told("receive"),
            Write(b"def"),
        ),
        (OK,),
        told=(("receive", is_piece(b"abc", more=True)), ("body", b"def")),
    ),
    Case(
        "chunks-as-they-come",
        SHOULD,
        REQUEST,
        (
            Write(request(script(RECEIVE, READ, ANSWER), CHUNKED, method="POST", content=b"3\r\nabc\r\n")),
            Told("receive"),
            Write(b"3\r\ndef\r\n0\r\n\r\n"),
        ),
        (OK,),
        told=(("receive", is_piece(b"abc", more=True)), ("body", b"def")),
    ),
    Case(
        "called-before-the-body-is-there",
        SHOULD,
        REQUEST,
        (
            Write(request(script(READ, ANSWER), b"Content-Length: 3", method="POST")),
            Told("scope"),
            Write(b"abc"),
        ),
        (OK,),
        told=(("body", b"abc"),),
    ),
    Case(
        "answered-before-the-body-is-there",
        SHOULD,
        "RFC 9110, 9.3",
        (
            Write(request(script(ANSWER, do("wait", "go"), READ), b"Content-Length: 3", method="POST")),
            Until(b"ok"),
            Go("go"),
        ),
        (OK,),
    ),
    Case(
        "answered-while-it-comes",
        SHOULD,
        REQUEST,
        (
            Write(
                request(
                    script(RECEIVE, send(start(), body(b"first ", more=True)), READ, send(body(b"second"))),
                    b"Content-Length: 6",
                    method="POST",
                    content=b"abc",
                )
            ),
            Until(b"first"),
            Write(b"def"),
        ),
        (Answer(200, b"first second"),),
        End.SANE,
        told=(("receive", is_piece(b"abc", more=True)), ("body", b"def")),
    ),
    Case(
        "back-pressure",
        SHOULD,
        REQUEST,
        (
            Write(
                request(
                    script(do("wait", "go"), do("read_size"), ANSWER),
                    b"Content-Length: %d" % (LARGE),
                    method="POST",
                )
            ),
            Told("scope"),
            Flood(LARGE, 12 * MIB),
            Go("go"),
            Rest(),
        ),
        (OK,),
        told=(("size", LARGE),),
    ),
]

CONTINUE = b"Expect: 100-continue"
UNREAD = [
    Case(
        "back-pressure-chunked",
        SHOULD,
        REQUEST,
        (
            Write(
                request(
                    script(do("wait", "go"), do("read_size"), ANSWER),
                    CHUNKED,
                    method="POST",
                    content=b"%x\r\n" % LARGE,
                )
            ),
            Told("scope"),
            Flood(LARGE, 12 * MIB),
            Go("go"),
            Rest(),
            Write(b"\r\n0\r\n\r\n"),
        ),
        (OK,),
        told=(("size", LARGE),),
    )
]

EXPECTATIONS = [
    Case(
        "continue-at-receive",
        MUST,
        EXPECT,
        (
            Write(request(script(READ, ANSWER), CONTINUE, b"Content-Length: 3", method="POST")),
            Until(b"\r\n\r\n"),
            Write(b"abc"),
        ),
        (Answer(200, b"ok", interims=(100,)),),
        End.OPEN,
        told=(("body", b"abc"),),
    ),
    Case(
        "continue-chunked",
        MUST,
        EXPECT,
        (
            Write(request(script(READ, ANSWER), CONTINUE, CHUNKED, method="POST")),
            Until(b"\r\n\r\n"),
            Write(b"3\r\nabc\r\n0\r\n\r\n"),
        ),
        (Answer(200, b"ok", interims=(100,)),),
        End.OPEN,
        told=(("body", b"abc"),),
    ),
    Case(
        "continue-once",
        MUST,
        EXPECT,
        (
            Write(request(script(RECEIVE, READ, ANSWER), CONTINUE, b"Content-Length: 6", method="POST")),
            Until(b"\r\n\r\n"),
            Write(b"abc"),
            Told("receive"),
            Write(b"def"),
        ),
        (Answer(200, b"ok", interims=(100,)),),
    ),
    Case(
        "continue-only-at-receive",
        SHOULD,
        EXPECT,
        (Write(request(ANSWER, CONTINUE, b"Content-Length: 3", method="POST")),),
        (Answer(200, b"ok", interims=()),),
    ),
    Case(
        "continue-refused-then-sane",
        MUST,
        EXPECT,
        (Write(request(ANSWER, CONTINUE, b"Content-Length: 3", method="POST")), Until(b"ok"), Write(b"abc")),
        (OK,),
        End.SANE,
    ),
    Case(
        "no-continue-for-http-1.0",
        MUST,
        EXPECT,
        (
            Write(
                request(
                    script(READ, ANSWER),
                    CONTINUE,
                    b"Content-Length: 3",
                    method="POST",
                    version="HTTP/1.0",
                    content=b"abc",
                )
            ),
        ),
        (Answer(200, b"ok", interims=()),),
        told=(("body", b"abc"),),
    ),
    Case(
        "continue-when-the-body-is-there",
        MUST,
        EXPECT,
        (Write(post(script(READ, ANSWER), b"abc", CONTINUE)),),
        (OK,),
        End.OPEN,
        told=(("body", b"abc"),),
    ),
]

CASES = [*WHOLE, *PIECES, *UNREAD, *EXPECTATIONS]
