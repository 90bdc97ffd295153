"""Applications that go on after the last body: their client and its next request don't wait for them."""

from __future__ import annotations

from tests.conformance.asgi.case import MUST, OK, SHOULD, Answer, Case, End, Go, Other, Told, Until, Write, request
from tests.conformance.asgi.cases.receive import IS_DISCONNECT
from tests.conformance.asgi.script import ANSWER, FAIL, READ, RECEIVE, attempt, body, do, script, send, start

BODY = "HTTP 2.5, Response body - send event"
AFTER = "ASGI 3.0, Overview: cleanup after the connection"
STREAMED = send(start(), body(b"o", more=True), body(b"k"))
WAIT = do("wait", "go")

CASES = [
    Case(
        "response-is-complete-before",
        MUST,
        BODY,
        (Write(request(script(READ, ANSWER, WAIT))), Until(b"ok"), Go("go")),
        (OK,),
        told=(("ended", None),),
    ),
    Case(
        "last-chunk-is-sent-before",
        MUST,
        BODY,
        (Write(request(script(READ, STREAMED, WAIT))), Until(b"k"), Until(b"0\r\n\r\n"), Go("go")),
        (OK,),
        told=(("ended", None),),
    ),
    Case(
        "next-request-is-served-meanwhile",
        SHOULD,
        AFTER,
        (
            Write(request(script(READ, ANSWER, do("tell", "working"), WAIT, do("tell", "done")))),
            Told("working"),
            Write(request(script(READ, ANSWER, do("tell", "second")))),
            Told("second"),
            Go("go"),
            Told("done"),
        ),
        (OK, OK),
        order=("working", "second", "done"),
    ),
    Case(
        "pipelined-request-is-served-meanwhile",
        SHOULD,
        AFTER,
        (
            Write(
                request(script(READ, ANSWER, do("tell", "working"), WAIT, do("tell", "done")))
                + request(script(READ, ANSWER, do("tell", "second")))
            ),
            Told("second"),
            Go("go"),
            Told("done"),
        ),
        (OK, OK),
    ),
    Case(
        "others-are-served-meanwhile",
        MUST,
        AFTER,
        (
            Write(request(script(READ, ANSWER, WAIT))),
            Other(request(script(READ, ANSWER))),
            Go("go"),
        ),
        (OK,),
        told=(("ended", None), ("ended", None)),
    ),
    Case(
        "it-goes-on-after-the-client-went",
        SHOULD,
        AFTER,
        (
            Write(request(script(READ, ANSWER, WAIT, do("tell", "done")), b"Connection: close")),
            Until(b"ok"),
            Go("go"),
        ),
        (OK,),
        told=(("done", None), ("ended", None)),
    ),
    Case(
        "connection-closes-without-waiting-for-it",
        SHOULD,
        "RFC 9112, 9.6",
        (Write(request(script(READ, ANSWER, do("tell", "working"), WAIT), b"Connection: close")), Told("working")),
        (OK,),
        End.CLOSED,
    ),
    Case(
        "receive-gives-disconnect",
        MUST,
        "HTTP 2.5, Disconnect - receive event",
        (Write(request(script(READ, ANSWER, RECEIVE, RECEIVE))),),
        (OK,),
        End.OPEN,
        told=(("receive", IS_DISCONNECT), ("receive", IS_DISCONNECT), ("ended", None)),
    ),
    Case(
        "late-messages-stay-out-of-the-next-response",
        MUST,
        BODY,
        (
            Write(
                request(script(READ, ANSWER, do("tell", "working"), WAIT, attempt(body(b"late")), do("tell", "done")))
            ),
            Told("working"),
            Write(request(script(READ, send(start(), body(b"a", more=True)), do("wait", "on"), send(body(b"b"))))),
            Go("go"),
            Told("done"),
            Go("on"),
        ),
        (OK, Answer(200, b"ab")),
    ),
    Case(
        "messages-after-the-return-stay-out-too",
        MUST,
        BODY,
        (
            Write(request(script(READ, do("attempt_later", "go", body(b"late")), ANSWER))),
            Told("ended"),
            Write(request(script(READ, send(start(), body(b"a", more=True)), do("wait", "on"), send(body(b"b"))))),
            Until(b"1\r\na"),
            Go("go"),
            Told("attempt"),
            Go("on"),
        ),
        (OK, Answer(200, b"ab")),
    ),
    Case(
        "late-receive-takes-nothing-of-the-next-request",
        MUST,
        "HTTP 2.5, Disconnect - receive event",
        (
            Write(request(script(READ, ANSWER, do("tell", "working"), WAIT, RECEIVE))),
            Told("working"),
            Write(
                request(
                    script(READ, ANSWER),
                    b"Content-Length: 3",
                    method="POST",
                    content=b"abc",
                )
            ),
            Go("go"),
            Told("receive"),
        ),
        (OK, OK),
        told=(("receive", IS_DISCONNECT), ("body", b""), ("body", b"abc")),
    ),
    Case(
        "failure-spares-the-next-request",
        SHOULD,
        BODY,
        (
            Write(request(script(READ, ANSWER, WAIT, FAIL))),
            Until(b"ok"),
            Go("go"),
            Told("ended"),
        ),
        (OK,),
        End.OPEN,
    ),
]
