"""Requests that are malformed, or that two servers could read in two ways (request smuggling)."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.case import (
    MUST,
    REFUSED,
    SHOULD,
    Answer,
    Case,
    Check,
    End,
    HalfClose,
    Level,
    OneOf,
    Step,
    Write,
    raw,
)

HOST = b"Host: h"
GET = b"GET / HTTP/1.1"
POST = b"POST / HTTP/1.1"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\nX-Token: @TOKEN@\r\n\r\n"
LENGTH = "RFC 9112, 6.3"
CHUNKS = "RFC 9112, 7.1"
FIELD = "RFC 9112, 5.1"

BAD_REQUEST = Answer((400, 431, 501, 505))


def refused(
    name: str, source: str, *lines: bytes, level: Level = MUST, content: bytes = b"", calls: int = 0
) -> list[Case]:
    """It is refused, with 400 or by the connection's end, and nothing behind it is served; better with 400.

    calls: how often the application may be called all the same: what is wrong may show when it has begun.
    """
    steps = (Write(raw(*lines, content=content + HIDDEN)),)
    return [
        Case(name, level, source, steps, (REFUSED,), End.CLOSED, calls=calls),
        Case(f"{name}-400", SHOULD, source, steps, (BAD_REQUEST,), calls=calls),
    ]


def with_length(name: str, *values: bytes) -> list[Case]:
    return refused(
        f"length-{name}", LENGTH, POST, HOST, *(b"Content-Length: " + value for value in values), content=b"abc"
    )


def with_coding(name: str, *lines: bytes, level: Level = MUST) -> list[Case]:
    return refused(f"coding-{name}", LENGTH, POST, HOST, *lines, level=level, content=b"3\r\nabc\r\n0\r\n\r\n", calls=1)


def broken_chunks(name: str, content: bytes, level: Level = MUST, *more: Step) -> Case:
    """The application is called, maybe; the body never becomes whole for it, and nothing behind it is served."""
    return Case(
        f"chunks-{name}",
        level,
        CHUNKS,
        (Write(raw(POST, HOST, b"Transfer-Encoding: chunked", content=content + HIDDEN)), *more),
        (OneOf((Answer((200, 400, 413, 500)),), or_none=True),),
        End.CLOSED,
        untold=("body",),
        calls=1,
    )


LENGTHS = [
    *with_length("word", b"abc"),
    *with_length("negative", b"-3"),
    *with_length("plus", b"+3"),
    *with_length("hex", b"0x3"),
    *with_length("two-words", b"3 3"),
    *with_length("fraction", b"3.0"),
    *with_length("underscore", b"1_0"),
    *with_length("empty", b""),
    *with_length("list", b"3, 4"),
    *with_length("differing", b"3", b"4"),
    *with_length("not-ascii", b"\xb3"),
    Case(
        "length-enormous",
        MUST,
        "RFC 9110, 8.6",
        (Write(raw(POST, HOST, b"Content-Length: " + b"9" * 40, content=HIDDEN)), HalfClose()),
        (OneOf((Answer((200, 400, 413, 500)),), or_none=True),),
        End.CLOSED,
        untold=("body",),
        calls=1,
    ),
]

CODINGS = [
    Case(
        "coding-and-length-close",
        MUST,
        "RFC 9112, 6.1",
        (Write(raw(POST, HOST, b"Content-Length: 4", b"Transfer-Encoding: chunked", content=b"0\r\n\r\n" + HIDDEN)),),
        (OneOf((Answer(200), Answer((400, 501))), or_none=True),),
        End.CLOSED,
        calls=1,
    ),
    Case(
        "coding-and-length-refused",
        SHOULD,
        "RFC 9112, 6.1",
        (Write(raw(POST, HOST, b"Transfer-Encoding: chunked", b"Content-Length: 5", content=b"0\r\n\r\n" + HIDDEN)),),
        (Answer(400),),
        End.CLOSED,
        calls=0,
    ),
    *with_coding("unknown", b"Transfer-Encoding: xchunked"),
    *with_coding("not-last", b"Transfer-Encoding: chunked, gzip"),
    *with_coding("gzip-alone", b"Transfer-Encoding: gzip"),
    *with_coding("chunked-twice", b"Transfer-Encoding: chunked, chunked", level=SHOULD),
    *with_coding("identity", b"Transfer-Encoding: identity", level=SHOULD),
    *with_coding("space-before-colon", b"Transfer-Encoding : chunked"),
    *with_coding("vertical-tab", b"Transfer-Encoding: \x0bchunked"),
    *with_coding("quoted", b'Transfer-Encoding: "chunked"'),
    Case(
        "coding-of-http-1.0",
        MUST,
        "RFC 9112, 6.1",
        (
            Write(
                raw(
                    b"POST / HTTP/1.0",
                    b"Connection: keep-alive",
                    b"Transfer-Encoding: chunked",
                    content=b"3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
                )
            ),
        ),
        (OneOf((Answer((200, 400, 501)),), or_none=True),),
        End.CLOSED,
        calls=1,
    ),
]

CHUNK_CASES = [
    broken_chunks("size-of-no-digit", b"x\r\nabc\r\n0\r\n\r\n"),
    broken_chunks("size-negative", b"-3\r\nabc\r\n0\r\n\r\n"),
    broken_chunks("size-with-0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    broken_chunks("size-with-underscore", b"0_3\r\nabc\r\n0\r\n\r\n"),
    broken_chunks("size-empty", b"\r\nabc\r\n0\r\n\r\n"),
    # No integer overflows in Python: a server may as well wait for as many bytes as these.
    broken_chunks("size-too-large", b"FFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", MUST, HalfClose()),
    broken_chunks("size-wraps-around", b"10000000000000003\r\nabc\r\n0\r\n\r\n", MUST, HalfClose()),
    broken_chunks("size-too-large-refused", b"FFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", SHOULD),
    broken_chunks("data-too-long", b"3\r\nabcd\r\n0\r\n\r\n"),
    broken_chunks("data-without-crlf", b"3\r\nabc0\r\n\r\n"),
    broken_chunks("size-after-space", b" 3\r\nabc\r\n0\r\n\r\n"),
    broken_chunks("bare-lf-after-size", b"3\nabc\r\n0\r\n\r\n", SHOULD),
    broken_chunks("bare-lf-in-extension", b"3;a\nabc\r\n0\r\n\r\n", SHOULD),
    broken_chunks("bare-cr-after-size", b"3\rabc\r\n0\r\n\r\n"),
    broken_chunks("nul-in-size", b"3\0\r\nabc\r\n0\r\n\r\n"),
    Case(
        "chunks-cut-by-half-close",
        MUST,
        "RFC 9112, 8",
        (Write(raw(POST, HOST, b"Transfer-Encoding: chunked", content=b"3\r\nabc\r\n")), HalfClose()),
        (OneOf((Answer((200, 400, 500)),), or_none=True),),
        End.CLOSED,
        untold=("body",),
    ),
]

FIELDS = [
    *refused("host-missing", "RFC 9112, 3.2", GET),
    *refused("host-twice", "RFC 9112, 3.2", GET, HOST, b"Host: i"),
    *refused("host-invalid", "RFC 9112, 3.2", GET, b"Host: a b"),
    *refused("host-with-path", "RFC 9112, 3.2", GET, b"Host: h/evil", level=SHOULD),
    *refused("space-before-colon", FIELD, GET, HOST, b"X-A : b"),
    *refused("tab-before-colon", FIELD, GET, HOST, b"X-A\t: b"),
    *refused("no-colon", "RFC 9112, 5", GET, HOST, b"X-A"),
    *refused("name-empty", "RFC 9112, 5", GET, HOST, b": b"),
    *refused("name-with-space", "RFC 9110, 5.1", GET, HOST, b"X A: b"),
    *refused("name-with-parentheses", "RFC 9110, 5.1", GET, HOST, b"X(A): b", level=SHOULD),
    *refused("name-not-ascii", "RFC 9110, 5.1", GET, HOST, b"X-\xe9: b", level=SHOULD),
    *refused("name-with-nul", "RFC 9110, 5.1", GET, HOST, b"X-\0: b"),
    *refused("white-space-before-the-first-field", "RFC 9112, 2.2", GET, b" X-A: b", HOST, level=SHOULD),
]

LINES = [
    *refused("method-invalid", "RFC 9112, 3.1", b"G(T / HTTP/1.1", HOST, level=SHOULD),
    *refused("method-only", "RFC 9112, 3", b"GET", HOST),
    *refused("version-missing", "RFC 9112, 3", b"GET /", HOST, level=SHOULD),
    *refused("version-of-words", "RFC 9112, 2.3", b"GET / HTTP/one", HOST, level=SHOULD),
    *refused("version-in-lower-case", "RFC 9112, 2.3", b"GET / http/1.1", HOST, level=SHOULD),
    *refused("version-2", "RFC 9110, 2.5", b"GET / HTTP/2.0", HOST, level=SHOULD),
    *refused("version-of-two-digits", "RFC 9112, 2.3", b"GET / HTTP/1.10", HOST, level=SHOULD),
    *refused("target-with-space", "RFC 9112, 3.2", b"GET /a b HTTP/1.1", HOST, level=SHOULD),
    *refused("target-with-control", "RFC 9112, 3.2", b"GET /a\x01b HTTP/1.1", HOST, level=SHOULD),
    *refused("target-with-nul", "RFC 9112, 3.2", b"GET /a\0b HTTP/1.1", HOST, level=SHOULD),
    *refused("target-without-slash", "RFC 9112, 3.2", b"GET a HTTP/1.1", HOST, level=SHOULD),
    *refused("bare-cr-in-the-request-line", "RFC 9112, 2.2", b"GET /\r HTTP/1.1", HOST),
    Case(
        "garbage",
        SHOULD,
        "RFC 9112, 3",
        (Write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP\r\n\r\n"),),
        (REFUSED,),
        End.CLOSED,
        calls=0,
    ),
    Case(
        "enormous-header-section",
        SHOULD,
        "RFC 9112, 5",
        (Write(raw(GET, HOST, *[b"X-%d: " % number + b"v" * 1000 for number in range(2000)])),),
        (REFUSED,),
        End.CLOSED,
        calls=0,
    ),
]


def replaced(name: str, line: bytes, invalid: bytes, source: str = "RFC 9110, 5.5") -> Case:
    """The message is refused, or the application gets the value with the invalid bytes replaced."""

    def is_valid(fields: Any) -> bool:
        return all(byte not in value for _, value in fields for byte in invalid)

    return Case(
        name,
        MUST,
        source,
        (Write(raw(GET, HOST, line)),),
        (OneOf((Answer(200), Answer((400, 431))), or_none=True),),
        never=Check(f"a value with one of {invalid!r}", lambda scope: not is_valid(scope["headers"])),
    )


INVALID_VALUES = [
    replaced("value-with-nul", b"X-A: b\0c", b"\0"),
    replaced("value-with-bare-cr", b"X-A: b\rc", b"\r"),
    replaced("value-folded", b"X-A: b\r\n c", b"\r\n", source="RFC 9112, 5.2"),
]

CASES = [*LENGTHS, *CODINGS, *CHUNK_CASES, *FIELDS, *LINES, *INVALID_VALUES]
