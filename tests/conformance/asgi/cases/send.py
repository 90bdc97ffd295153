"""What `send` takes, and what it refuses."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.case import (
    ERROR_OR_CUT,
    MUST,
    OK,
    SHOULD,
    WELL_FORMED,
    Answer,
    Case,
    Check,
    End,
    Framing,
    Go,
    OneOf,
    Told,
    Until,
    Write,
    get,
    request,
)
from tests.conformance.asgi.script import ANSWER, attempt, body, do, length, script, send, start

START = "HTTP 2.5, Response start - send event"
BODY = "HTTP 2.5, Response body - send event"
ERRORS = "ASGI 3.0, Error handling"

RAISES = Check("an exception", lambda names: names is not None)

ONE = Check("one value", lambda values: len(values) == 1)

MIB = 1 << 20


def refuses(name: str, *messages: Any, before: tuple[Any, ...] = (), source: str = ERRORS) -> list[Case]:
    """The last message is invalid: send raises, and the client gets no malformed message."""
    good, bad = messages[:-1], messages[-1]
    program = script(send(*before, *good), attempt(bad))
    return [
        Case(f"{name}-raises", SHOULD, source, get(program), told=(("attempt", RAISES),)),
        Case(f"{name}-sane", MUST, source, get(program), (WELL_FORMED,), End.SANE),
    ]


def recovers(name: str, bad: Any) -> Case:
    """The application catches the exception, and then answers as it should have."""
    return Case(f"{name}-then-answer", SHOULD, ERRORS, get(script(attempt(bad), ANSWER)), (OK,), End.OPEN)


def injects(name: str, *field: Any) -> list[Case]:
    """Bytes that would begin another field, or are none of a field's: they never reach the client."""
    program = send(start(200, length(2), field), body(b"ok"))
    hidden = Answer(200, b"ok", fields=((b"x-injected", ()),))
    return [
        Case(
            f"injection-{name}",
            MUST,
            "RFC 9110, 5.5 and 5.1",
            get(program),
            (OneOf((hidden, Answer(500, fields=((b"x-injected", ()),)), Answer(None, whole=False)), or_none=True),),
            End.SANE,
        ),
        Case(
            f"injection-{name}-raises",
            SHOULD,
            ERRORS,
            get(script(attempt(start(200, length(2), field)), attempt(body(b"ok")))),
            told=(("attempt", RAISES),),
        ),
    ]


TAKEN = [
    Case(
        "body-left-out",
        MUST,
        BODY,
        get(send(start(200, length(0)), {"type": "http.response.body"})),
        (Answer(200, b""),),
    ),
    Case(
        "headers-left-out",
        MUST,
        START,
        get(send({"type": "http.response.start", "status": 200}, {"type": "http.response.body", "body": b"ok"})),
        (OK,),
    ),
    Case(
        "headers-of-lists", MUST, START, get(send(start(200, [b"content-length", b"2"]), body(b"ok"))), (OK,), End.OPEN
    ),
    Case(
        "headers-of-tuples",
        MUST,
        START,
        get(send({"type": "http.response.start", "status": 200, "headers": ((b"x-a", b"b"),)}, body(b"ok"))),
        (Answer(200, b"ok", fields=((b"x-a", (b"b",)),)),),
    ),
    Case(
        "headers-of-an-iterator",
        MUST,
        START,
        get(script(do("send_iterator", start(200, length(2), (b"x-a", b"b"))), send(body(b"ok")))),
        (Answer(200, b"ok", Framing.LENGTH, fields=((b"x-a", (b"b",)),)),),
    ),
    Case(
        "unknown-keys",
        MUST,
        ERRORS,
        get(script(attempt(start(200, length(2), more=1)), attempt(body(b"ok", more_things="x")))),
        (OK,),
        told=(("attempt", None), ("attempt", None)),
    ),
    Case(
        "fields-in-order",
        MUST,
        START,
        get(send(start(200, (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"), length(2)), body(b"ok"))),
        (Answer(200, b"ok", fields=((b"x-a", (b"1", b"3")), (b"x-b", (b"2",)))),),
    ),
    Case(
        "set-cookie-repeated",
        MUST,
        "HTTP 2.5, HTTP",
        get(send(start(200, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2; Path=/"), length(2)), body(b"ok"))),
        (Answer(200, b"ok", fields=((b"set-cookie", (b"a=1", b"b=2; Path=/")),)),),
    ),
    Case(
        "field-bytes-as-given",
        MUST,
        START,
        get(send(start(200, (b"x-a", b"caf\xc3\xa9 \xff"), length(2)), body(b"ok"))),
        (Answer(200, b"ok", fields=((b"x-a", (b"caf\xc3\xa9 \xff",)),)),),
    ),
    Case(
        "field-empty",
        MUST,
        START,
        get(send(start(200, (b"x-a", b""), length(2)), body(b"ok"))),
        (Answer(200, b"ok", fields=((b"x-a", (b"",)),)),),
    ),
    *(
        Case(
            f"status-{status}",
            MUST,
            START,
            get(send(start(status, length(2)), body(b"ok"))),
            (Answer(status, b"ok"),),
            End.OPEN,
        )
        for status in (201, 299, 404, 451, 503, 599)
    ),
    Case("date", SHOULD, "RFC 9110, 6.6.1", get(ANSWER), (Answer(200, b"ok", fields=((b"date", ONE),)),)),
    Case(
        "date-not-twice",
        SHOULD,
        "RFC 9110, 6.6.1",
        get(send(start(200, (b"date", b"Tue, 15 Nov 1994 08:12:31 GMT"), length(2)), body(b"ok"))),
        (Answer(200, b"ok", fields=((b"date", (b"Tue, 15 Nov 1994 08:12:31 GMT",)),)),),
    ),
    Case(
        "server-not-twice",
        SHOULD,
        "RFC 9110, 10.2.4",
        get(send(start(200, (b"server", b"mine"), length(2)), body(b"ok"))),
        (Answer(200, b"ok", fields=((b"server", (b"mine",)),)),),
    ),
]

STREAMS = [
    Case(
        "pieces",
        MUST,
        BODY,
        get(send(start(), body(b"a", more=True), body(b"bc", more=True), body(b"d"))),
        (Answer(200, b"abcd"),),
    ),
    Case(
        "pieces-empty-between",
        MUST,
        BODY,
        get(
            send(
                start(),
                body(b"", more=True),
                body(b"a", more=True),
                body(b"", more=True),
                body(b"b", more=True),
                body(),
            )
        ),
        (Answer(200, b"ab"),),
    ),
    Case(
        "pieces-with-length",
        MUST,
        BODY,
        get(send(start(200, length(4)), body(b"a", more=True), body(b"", more=True), body(b"bcd", more=True), body())),
        (Answer(200, b"abcd", Framing.LENGTH),),
        End.OPEN,
    ),
    Case(
        "pieces-flushed",
        MUST,
        BODY,
        (
            Write(request(script(send(start(), body(b"first", more=True)), do("wait", "go"), send(body(b"second"))))),
            Until(b"first"),
            Go("go"),
        ),
        (Answer(200, b"firstsecond"),),
    ),
    Case(
        "pieces-flushed-with-length",
        MUST,
        BODY,
        (
            Write(
                request(
                    script(send(start(200, length(6)), body(b"one", more=True)), do("wait", "go"), send(body(b"two")))
                )
            ),
            Until(b"one"),
            Go("go"),
        ),
        (Answer(200, b"onetwo"),),
        End.OPEN,
    ),
    Case(
        "large-body",
        MUST,
        BODY,
        get(script(send(start(200, length(16 * MIB))), do("fill", 16 * MIB, False))),
        (Answer(200, Check("16 MiB", lambda content: len(content) == 16 * MIB)),),
        End.OPEN,
    ),
    Case(
        "large-pieces",
        MUST,
        BODY,
        get(script(send(start()), do("fill", 3 * MIB, True), do("fill", 3 * MIB, True), do("fill", 1, False))),
        (Answer(200, Check("6 MiB and a byte", lambda content: len(content) == 6 * MIB + 1)),),
    ),
    Case(
        "back-pressure",
        SHOULD,
        BODY,
        (
            Write(request(script(send(start()), do("flood", 1 << 16, 1024), do("end_flood"), send(body())))),
            Told("stalled"),
        ),
        (Answer(200, Check("64 MiB", lambda content: len(content) == 64 * MIB)),),
        told=(("stalled", Check("under 32 MiB before the client reads", lambda sent: sent < 32 * MIB)),),
    ),
]

ORDER = [
    *refuses("body-before-start", body(b"ok"), source=BODY),
    recovers("body-before-start", body(b"ok")),
    *refuses("unknown-type", {"type": "http.response.unknown"}),
    recovers("unknown-type", {"type": "http.response.unknown"}),
    *refuses("websocket-message", {"type": "websocket.accept"}),
    *refuses("no-type", {"status": 200}),
    *refuses("no-dict", "http.response.start"),
    *refuses("no-status", {"type": "http.response.start", "headers": []}),
    *refuses("status-str", start("200")),
    *refuses("status-none", start(None)),
    *refuses("status-too-small", start(99)),
    *refuses("status-interim", start(100)),
    *refuses("status-too-large", start(1000)),
    *refuses("headers-none", {"type": "http.response.start", "status": 200, "headers": 7}),
    *refuses("header-name-str", start(200, ("x-a", b"b"))),
    recovers("header-name-str", start(200, ("x-a", b"b"))),
    *refuses("header-value-str", start(200, (b"x-a", "b"))),
    *refuses("header-value-int", start(200, (b"content-length", 2))),
    *refuses("header-of-three", start(200, (b"x-a", b"b", b"c"))),
    *refuses("body-str", start(200, length(2)), body("ok")),
    *refuses("body-int", start(200, length(2)), body(2)),
    *refuses("start-twice", start(200, length(2)), start(201, length(2))),
    Case(
        "body-after-a-start-that-raised-sane",
        MUST,
        START,
        get(script(attempt(start(200, length(2), (b"x-a", b"b\r\nc"))), attempt(body(b"ok")))),
        (ERROR_OR_CUT,),
        End.SANE,
    ),
    Case(
        "start-twice-within-the-body-raises",
        SHOULD,
        ERRORS,
        get(script(send(start(), body(b"o", more=True)), attempt(start(201)), send(body(b"k")))),
        told=(("attempt", RAISES),),
    ),
    Case(
        "start-twice-within-the-body-sane",
        MUST,
        START,
        get(script(send(start(), body(b"o", more=True)), attempt(start(201)), send(body(b"k")))),
        (
            OneOf(
                (OK, Answer(200, whole=False)),
            ),
        ),
    ),
]

AFTER = [
    Case(
        f"{name}-after-the-end-sane",
        MUST,
        BODY,
        get(script(ANSWER, attempt(message))),
        (OK,),
        End.SANE,
    )
    for name, message in (("body", body(b"more")), ("start", start(500)), ("unknown", {"type": "http.unknown"}))
] + [
    Case(
        f"{name}-after-the-end-ignored",
        SHOULD,
        "HTTP 2.5, Response body: further messages are ignored; Disconnected client: or raise an OSError",
        get(script(ANSWER, attempt(message))),
        (OK,),
        told=(("attempt", Check("nothing or an OSError", lambda names: names is None or "OSError" in names)),),
    )
    for name, message in (("body", body(b"more")), ("start", start(500)))
]

INJECTED = [
    *injects("crlf-in-value", b"x-a", b"b\r\nx-injected: 1"),
    *injects("lf-in-value", b"x-a", b"b\nx-injected: 1"),
    *injects("cr-in-value", b"x-a", b"b\rx-injected: 1"),
    *injects("nul-in-value", b"x-a", b"b\0c"),
    *injects("end-of-head-in-value", b"x-a", b"b\r\n\r\nHTTP/1.1 200 OK\r\nx-injected: 1"),
    *injects("crlf-in-name", b"x-a: b\r\nx-injected", b"1"),
    *injects("colon-in-name", b"x-injected: 1", b"1"),
    *injects("space-in-name", b"x a", b"1"),
    *injects("empty-name", b"", b"1"),
]

CASES = [*TAKEN, *STREAMS, *ORDER, *AFTER, *INJECTED]
