"""Applications that raise, or return too early: what their client gets."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.applications import FAILURE
from tests.conformance.asgi.case import (
    CUT,
    ERROR,
    ERROR_OR_CUT,
    MUST,
    OK,
    SHOULD,
    WELL_FORMED,
    Answer,
    Case,
    Check,
    End,
    OneOf,
    Told,
    Until,
    Write,
    get,
    post,
    request,
)
from tests.conformance.asgi.script import ANSWER, FAIL, READ, Operation, body, do, length, script, send, start

ERRORS = "ASGI 3.0, Error handling"
INCOMPLETE = "RFC 9112, 8"
BODY = "HTTP 2.5, Response body - send event"

STARTED = send(start())
CHUNKED = send(start(), body(b"part", more=True))
LENGTH = send(start(200, length(8)), body(b"part", more=True))


def both(name: str, program: list[Operation], source: str = ERRORS) -> list[Case]:
    """Nothing was sent yet: the client isn't left waiting, and better gets 500."""
    return [
        Case(f"{name}-ends", MUST, source, get(program), (ERROR_OR_CUT,)),
        Case(f"{name}-500", SHOULD, source, get(program), (ERROR,), End.SANE),
    ]


def cut(name: str, program: list[Operation], level: Any = MUST) -> Case:
    """A part was sent: the client can tell that it isn't all."""
    part = Answer(200, b"part", whole=False)
    return Case(name, level, INCOMPLETE, (Write(request(program)), Until(b"part")), (part,), End.CLOSED)


CASES = [
    *both("raises", FAIL),
    *both("raises-after-the-body-was-read", script(READ, FAIL)),
    *both("raises-after-the-start", script(STARTED, FAIL), "HTTP 2.5, Response start - send event"),
    *both("returns", []),
    both("returns-after-the-start", STARTED, BODY)[1],
    Case("returns-after-the-start-ends", MUST, BODY, get(STARTED), (WELL_FORMED,)),
    *both("raises-cancelled", do("cancel")),
    Case(
        "raises-with-an-unread-body",
        MUST,
        ERRORS,
        (Write(post(FAIL, b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n")),),
        (ERROR_OR_CUT,),
        End.SANE,
        calls=1,
    ),
    cut("raises-within-chunks", script(CHUNKED, FAIL)),
    cut("raises-within-length", script(LENGTH, FAIL)),
    cut("returns-within-chunks", CHUNKED),
    Case(
        "blocked-send-cancelled",
        MUST,
        INCOMPLETE,
        (Write(request(script(send(start()), do("flood", 1 << 16, 1024)))), Told("ended")),
        (Answer(200, whole=False),),
        End.CLOSED,
    ),
    cut("returns-within-length", LENGTH),
    cut("raises-cancelled-within-chunks", script(CHUNKED, do("cancel"))),
    Case(
        "raises-within-chunks-after-others-were-read",
        MUST,
        INCOMPLETE,
        (Write(request(script(CHUNKED, do("tell", "sent"), FAIL))), Told("ended")),
        (CUT,),
        End.CLOSED,
    ),
    Case(
        "raises-within-http-1.0",
        MUST,
        INCOMPLETE,
        (Write(request(script(CHUNKED, FAIL), version="HTTP/1.0")),),
        (OneOf((Answer(200, b"part"), Answer(200, b"part", whole=False))),),
        End.CLOSED,
    ),
    Case("raises-after-the-end", MUST, BODY, get(script(ANSWER, FAIL)), (OK,), End.SANE),
    Case("raises-after-the-end-keeps-the-connection", SHOULD, BODY, get(script(ANSWER, FAIL)), (OK,), End.OPEN),
    Case(
        "raises-before-a-pipelined-request",
        SHOULD,
        ERRORS,
        (Write(request(FAIL) + request(ANSWER)),),
        (ERROR, OneOf((OK,), or_none=True)),
        calls=2,
    ),
    Case("raises-is-logged", SHOULD, ERRORS, get(FAIL), (ERROR,), log=FAILURE.encode()),
    Case(
        "head-raises",
        MUST,
        "RFC 9110, 9.3.2",
        (Write(request(FAIL, method="HEAD")),),
        (ERROR_OR_CUT._replace(answers=(Answer(500, b"", head=True),)),),
        End.SANE,
    ),
    Case(
        "http-1.0-raises",
        MUST,
        "RFC 9112, 6.1",
        (Write(request(FAIL, version="HTTP/1.0")),),
        (ERROR_OR_CUT,),
        End.CLOSED,
    ),
    Case(
        "500-tells-nothing",
        SHOULD,
        ERRORS,
        get(FAIL),
        (Answer(500, Check("nothing of the exception", lambda content: FAILURE.encode() not in content)),),
    ),
    Case(
        "others-are-served",
        MUST,
        ERRORS,
        (Write(request(FAIL)), Told("ended"), Write(b"")),
        (ERROR_OR_CUT,),
        calls=1,
    ),
]
