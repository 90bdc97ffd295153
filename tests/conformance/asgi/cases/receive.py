"""What `receive` gives after the body, when it is cancelled, and when the client goes."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.case import (
    MUST,
    OK,
    OTHER,
    SHOULD,
    Answer,
    Case,
    Check,
    Close,
    End,
    Flood,
    Go,
    HalfClose,
    OneOf,
    Reset,
    Told,
    Until,
    Write,
    get,
    post,
    request,
)
from tests.conformance.asgi.script import ANSWER, READ, RECEIVE, body, do, script, send, start

REQUEST = "HTTP 2.5, Request - receive event"
DISCONNECT = "HTTP 2.5, Disconnect - receive event"
CHUNKED = b"Transfer-Encoding: chunked"

MIB = 1 << 20
LARGE = 15 * MIB
"""More than the kernel's buffers take, less than what servers refuse by default."""


def is_message(message: dict[str, Any]) -> bool:
    """One of the two messages, with the types of its keys."""
    if message["type"] == "http.disconnect":
        return True
    return (
        message["type"] == "http.request"
        and type(message.get("body", b"")) is bytes
        and type(message.get("more_body", False)) is bool
    )


def is_end(message: dict[str, Any]) -> bool:
    return is_message(message) and not message.get("more_body", False) and not message.get("body", b"")


def is_piece(content: bytes, *, more: bool | None = None) -> Check:
    """A piece of the body; more: whether it says that there is more to come."""
    return Check(
        f"a piece {content!r}",
        lambda message: (
            message["type"] == "http.request"
            and message.get("body", b"") == content
            and more in (None, message.get("more_body", False))
        ),
    )


IS_MESSAGE = Check("a message with the types required", is_message)
IS_END = Check("an empty http.request without more_body", is_end)
IS_DISCONNECT = Check("http.disconnect", lambda message: message["type"] == "http.disconnect")


AFTERWARDS = [
    Case(
        "waits-after-the-body",
        SHOULD,
        DISCONNECT,
        get(script(READ, do("begin_receive"), do("is_waiting"), ANSWER)),
        (OK,),
        told=(("waiting", True),),
    ),
    Case(
        "disconnect-after-the-response",
        MUST,
        DISCONNECT,
        get(script(READ, ANSWER, RECEIVE)),
        (OK,),
        told=(("receive", IS_DISCONNECT), ("ended", None)),
    ),
    Case(
        "disconnect-every-time",
        MUST,
        DISCONNECT,
        get(script(READ, ANSWER, RECEIVE, RECEIVE, RECEIVE)),
        (OK,),
        told=(("receive", IS_DISCONNECT),) * 3,
    ),
    Case(
        "waiting-receive-ends-with-the-response",
        MUST,
        DISCONNECT,
        get(script(READ, do("begin_receive"), do("is_waiting"), ANSWER, do("end_receive"))),
        (OK,),
        told=(("receive", IS_DISCONNECT), ("ended", None)),
    ),
    Case(
        "body-unread-then-disconnect",
        SHOULD,
        DISCONNECT,
        (Write(post(script(ANSWER, do("until_disconnect")), b"abc")),),
        (OK,),
        told=(("receive", IS_DISCONNECT), ("ended", None)),
    ),
    Case(
        "unread-body-is-no-request",
        MUST,
        "RFC 9112, 9.3",
        (Write(post(ANSWER, b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n")),),
        (OK,),
        End.SANE,
        calls=1,
    ),
    Case(
        "unread-large-body",
        SHOULD,
        "RFC 9112, 9.6",
        (Write(request(ANSWER, b"Content-Length: %d" % (4 * MIB), method="POST")), Flood(4 * MIB, 4 * MIB)),
        (OK,),
    ),
    Case(
        "pipelined-request-is-no-disconnect",
        MUST,
        DISCONNECT,
        (
            Write(
                request(
                    script(
                        READ, do("begin_receive"), do("tell", "listening"), do("wait", "go"), do("is_waiting"), ANSWER
                    )
                )
            ),
            Told("listening"),
            Write(request(ANSWER)),
            Go("go"),
        ),
        (OK, OK),
        told=(("waiting", True),),
    ),
    Case(
        "half-close-is-no-end-of-the-answer",
        SHOULD,
        "RFC 9112, 9.6",
        (Write(request(script(READ, do("wait", "go"), ANSWER))), HalfClose(), Told("scope"), OTHER, Go("go")),
        (OK,),
    ),
]

CANCELLED = [
    Case(
        "cancelled-receive-loses-nothing",
        SHOULD,
        REQUEST,
        (
            Write(
                request(
                    script(do("begin_receive"), do("cancel_receive"), do("wait", "go"), READ, ANSWER),
                    b"Content-Length: 6",
                    method="POST",
                )
            ),
            Told("cancelled"),
            Write(b"abcdef"),
            Go("go"),
        ),
        (OK,),
        told=(("cancelled", True), ("body", b"abcdef")),
    ),
    Case(
        "listener-is-cancelled-after-a-stream",
        MUST,
        DISCONNECT,
        get(
            script(
                READ,
                do("begin_receive"),
                send(start(), body(b"o", more=True), body(b"", more=True)),
                do("cancel_receive"),
                send(body(b"k")),
            )
        ),
        (OK,),
        End.OPEN,
        told=(("cancelled", True), ("ended", None)),
    ),
    Case(
        "receive-with-a-timeout",
        SHOULD,
        REQUEST,
        (
            Write(
                request(
                    script(RECEIVE, do("receive_for", 0.05), do("receive_for", 0.05), READ, ANSWER),
                    b"Content-Length: 6",
                    method="POST",
                    content=b"abc",
                )
            ),
            Told("timeout", 2),
            Write(b"def"),
        ),
        (OK,),
        told=(("receive", is_piece(b"abc")), ("body", b"def")),
    ),
]

GONE = [
    Case(
        "gone-for-all-that-receive",
        SHOULD,
        DISCONNECT,
        (Write(request(script(READ, do("tell", "read"), do("receive_twice")))), Told("read"), Reset()),
        told=(("receive", IS_DISCONNECT), ("receive", IS_DISCONNECT)),
    ),
    Case(
        "half-close-is-no-end-of-a-stream",
        SHOULD,
        "RFC 9112, 9.6",
        (
            Write(request(script(READ, send(start(), body(b"o", more=True)), do("wait", "go"), send(body(b"k"))))),
            Until(b"o\r\n"),
            HalfClose(),
            OTHER,
            Go("go"),
        ),
        (OK,),
    ),
    *(
        Case(
            f"body-cut-by-{how}{'-chunked' if field == CHUNKED else ''}",
            MUST,
            DISCONNECT,
            (
                Write(
                    request(
                        script(do("tell", "begun"), READ),
                        field,
                        method="POST",
                        content=b"3\r\nabc\r\n" if field == CHUNKED else b"abc",
                    )
                ),
                Told("begun"),
                step,
            ),
            told=(("broken", "http.disconnect"),),
            untold=("body",),
        )
        for how, step in (("close", Close()), ("reset", Reset()))
        for field in (b"Content-Length: 6", CHUNKED)
    ),
    Case(
        "body-cut-by-half-close",
        MUST,
        "RFC 9112, 8",
        (
            Write(
                request(script(do("tell", "begun"), READ, ANSWER), b"Content-Length: 6", method="POST", content=b"abc")
            ),
            Told("begun"),
            HalfClose(),
        ),
        (OneOf((Answer(None),), or_none=True),),
        untold=("body",),
    ),
    Case(
        "gone-with-an-unread-body",
        SHOULD,
        DISCONNECT,
        (
            Write(
                request(
                    script(do("wait", "go"), do("until_disconnect")),
                    b"Content-Length: %d" % (LARGE),
                    method="POST",
                )
            ),
            Told("scope"),
            Flood(LARGE, LARGE),
            Reset(),
            Go("go"),
        ),
        told=(("receive", IS_DISCONNECT),),
    ),
]

CASES = [*AFTERWARDS, *CANCELLED, *GONE]
