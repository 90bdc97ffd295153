"""Clients that go: what the application is told, and that it isn't kept busy for nobody."""

from __future__ import annotations

from tests.conformance.asgi.case import (
    MUST,
    SHOULD,
    Case,
    Check,
    Close,
    Go,
    HalfClose,
    Reset,
    Told,
    Until,
    Write,
    request,
)
from tests.conformance.asgi.cases.receive import IS_DISCONNECT
from tests.conformance.asgi.script import READ, RECEIVE, attempt, body, do, length, script, send, start

DISCONNECT = "HTTP 2.5, Disconnect - receive event"
CLOSED = "HTTP 2.5, Disconnected client - send exception"

NOTHING_OR_OSERROR = Check("nothing or an OSError", lambda names: names is None or "OSError" in names)
OSERROR = Check("an OSError", lambda names: names is not None and "OSError" in names)
STOPPED = Check("an OSError or a cancellation", lambda names: bool({"OSError", "CancelledError"} & set(names)))
ANY = Check("anything", lambda _: True)
GOES = (("close", Close()), ("reset", Reset()))

STREAM = send(start(200, (b"content-type", b"text/event-stream")), body(b"data: 1\n\n", more=True))

CASES = [
    *(
        Case(
            f"{how}-before-the-response",
            MUST,
            DISCONNECT,
            (Write(request(script(READ, do("tell", "read"), RECEIVE))), Told("read"), step),
            told=(("receive", IS_DISCONNECT), ("ended", None)),
        )
        for how, step in GOES
    ),
    *(
        Case(
            f"{how}-within-the-response",
            MUST,
            DISCONNECT,
            (Write(request(script(READ, STREAM, RECEIVE))), Until(b"data: 1"), step),
            told=(("receive", IS_DISCONNECT), ("ended", None)),
        )
        for how, step in GOES
    ),
    *(
        Case(
            f"{how}-every-time",
            MUST,
            DISCONNECT,
            (Write(request(script(READ, STREAM, RECEIVE, RECEIVE, RECEIVE))), Until(b"data: 1"), step),
            told=(("receive", IS_DISCONNECT),) * 3,
        )
        for how, step in GOES
    ),
    Case(
        "gone-before-receive",
        MUST,
        DISCONNECT,
        (
            Write(request(script(READ, STREAM, do("wait", "go"), RECEIVE))),
            Until(b"data: 1"),
            Reset(),
            Go("go"),
        ),
        told=(("receive", IS_DISCONNECT),),
    ),
    Case(
        "half-close-within-the-response-can-be-a-close",
        SHOULD,
        DISCONNECT,
        (
            Write(request(script(READ, STREAM, RECEIVE))),
            Until(b"data: 1"),
            HalfClose(),
        ),
        told=(("receive", IS_DISCONNECT),),
    ),
    *(
        Case(
            f"send-{when}-takes-no-other-error",
            MUST,
            CLOSED,
            (
                Write(request(script(READ, *programs, do("until_disconnect"), attempt(*messages)))),
                *((Until(b"data: 1"),) if programs else (Told("scope"),)),
                Reset(),
            ),
            told=(("attempt", NOTHING_OR_OSERROR),) * len(messages),
        )
        for when, programs, messages in (
            ("before-the-start", (), (start(200, length(2)), body(b"ok"))),
            ("within-the-body", (STREAM,), (body(b"data: 2\n\n", more=True), body(b"end"))),
        )
    ),
    Case(
        "send-raises-an-oserror",
        SHOULD,
        CLOSED,
        (
            Write(request(script(READ, STREAM, do("until_disconnect"), attempt(body(b"data: 2\n\n", more=True))))),
            Until(b"data: 1"),
            Reset(),
        ),
        told=(("attempt", OSERROR),),
        needs=("2.4",),
    ),
    Case(
        "send-raises-an-oserror-before-2.4-too",
        SHOULD,
        CLOSED,
        (
            Write(request(script(READ, STREAM, do("until_disconnect"), attempt(body(b"data: 2\n\n", more=True))))),
            Until(b"data: 1"),
            Reset(),
        ),
        told=(("attempt", OSERROR),),
    ),
    Case(
        "endless-sender-is-stopped",
        SHOULD,
        CLOSED,
        (
            Write(request(script(READ, send(start()), do("send_until_error")))),
            Until(b"xxxx"),
            Reset(),
        ),
        told=(("ended", STOPPED),),
    ),
    Case(
        "oserror-of-send-is-not-logged",
        SHOULD,
        CLOSED,
        (
            Write(request(script(READ, send(start()), do("send_until_error")))),
            Until(b"xxxx"),
            Reset(),
            Told("ended"),
        ),
        told=(("ended", STOPPED),),
        unlogged=b"Traceback",
    ),
    Case(
        "blocked-sender-is-released",
        MUST,
        CLOSED,
        (
            Write(request(script(READ, send(start()), do("flood", 1 << 16, 1024), do("end_flood")))),
            Told("stalled"),
            Reset(),
        ),
        told=(("ended", ANY),),
    ),
    Case(
        "blocked-sender-hears-of-it",
        SHOULD,
        DISCONNECT,
        (
            Write(request(script(READ, send(start()), do("flood", 1 << 16, 1024), RECEIVE))),
            Told("stalled"),
            Reset(),
        ),
        told=(("receive", IS_DISCONNECT),),
    ),
    *(
        Case(
            f"quiet-stream-ends-by-{how}",
            SHOULD,
            "HTTP 2.5, Disconnect; as frameworks wait: for http.disconnect before 2.4, for send to raise since",
            (Write(request(script(READ, STREAM, do("stream_quietly")))), Until(b"data: 1"), step),
            told=(("ended", ANY),),
        )
        for how, step in GOES
    ),
    Case(
        "connect-and-go",
        MUST,
        "HTTP 2.5, Request - receive event",
        (Write(b""), Close()),
        calls=0,
    ),
    Case(
        "half-a-head-and-go",
        MUST,
        "RFC 9112, 8",
        (Write(b"GET / HTTP/1.1\r\nHost: h\r\nX-Token: @TOKEN@\r\nX-"), Reset()),
        calls=0,
    ),
]
