"""The lifespan protocol, from the start of a process to its end."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.applications import STARTUP_FAILURE
from tests.conformance.asgi.case import (
    MUST,
    OK,
    SHOULD,
    Answer,
    Case,
    Check,
    End,
    Exits,
    Go,
    Step,
    Term,
    Told,
    Until,
    Write,
    request,
)
from tests.conformance.asgi.script import ANSWER, READ, RECEIVE, body, do, script, send, start

LIFESPAN = "Lifespan 2.0"
WHERE = "lifespan"
ASK = Write(request(ANSWER))
STARTED = Told("startup", token=WHERE)


def is_scope(scope: dict[str, Any]) -> bool:
    asgi = scope["asgi"]
    return (
        scope["type"] == "lifespan" and asgi["version"] == "3.0" and asgi.get("spec_version", "1.0") in ("1.0", "2.0")
    )


def lives(name: str, level: Any, kind: str, *steps: Step, **more: Any) -> Case:
    return Case(name, level, LIFESPAN, steps, lifespan=kind, **more)


STREAM = send(start(200, (b"content-type", b"text/event-stream")), body(b"data: 1\n\n", more=True))

STARTUP = [
    lives(
        "scope",
        MUST,
        "complete",
        STARTED,
        lifespan_told=(("lifespan", Check("a scope as of 2.0", is_scope)), ("startup", {"type": "lifespan.startup"})),
    ),
    lives(
        "state-empty-at-startup",
        SHOULD,
        "complete",
        STARTED,
        lifespan_told=(("lifespan", Check("with an empty dict as state", lambda scope: scope["state"] == {})),),
    ),
    lives("startup-before-requests", MUST, "complete", ASK, answers=(OK,), order=("startup", "scope")),
    lives("once", MUST, "complete", ASK, ASK, answers=(OK, OK), once="startup"),
    lives(
        "waits-for-startup",
        MUST,
        "slow",
        STARTED,
        Go("startup", token=WHERE),
        ASK,
        answers=(OK,),
        scope={"<started>": True},
    ),
    lives("startup-failed-ends-the-process", MUST, "failed", Exits()),
    lives("startup-failed-exit-code", SHOULD, "failed", Exits(failed=True)),
    lives("startup-failed-message-logged", SHOULD, "failed", Exits(), log=STARTUP_FAILURE.encode()),
    lives("exception-goes-on", MUST, "raise", ASK, answers=(OK,)),
    lives("exception-after-receive-goes-on", MUST, "raise-on-startup", ASK, answers=(OK,)),
    lives(
        "exception-sends-no-more-events",
        MUST,
        "raise",
        ASK,
        Until(b"ok"),
        Term(),
        Exits(),
        unlifespan=("startup", "shutdown"),
    ),
    lives("return-goes-on", SHOULD, "return", ASK, answers=(OK,)),
    Case(
        "same-loop",
        MUST,
        LIFESPAN,
        (Write(request(script(do("where"), ANSWER))),),
        (OK,),
        told=(("loop of lifespan", True),),
    ),
]

SHUTDOWN = [
    lives(
        "shutdown-at-term",
        MUST,
        "complete",
        ASK,
        Until(b"ok"),
        Term(),
        Told("shutdown", token=WHERE),
        Exits(),
        lifespan_told=(("shutdown", {"type": "lifespan.shutdown"}),),
    ),
    lives(
        "shutdown-is-waited-for",
        MUST,
        "shutdown-slow",
        ASK,
        Until(b"ok"),
        Term(),
        Exits(),
        order=("shutdown", "completing"),
    ),
    lives("shutdown-failed-ends-too", MUST, "shutdown-failed", ASK, Until(b"ok"), Term(), Exits()),
    lives(
        "shutdown-failed-message-logged",
        SHOULD,
        "shutdown-failed",
        ASK,
        Until(b"ok"),
        Term(),
        Exits(),
        log=STARTUP_FAILURE.encode(),
    ),
    lives(
        "request-under-way-is-answered",
        SHOULD,
        "complete",
        Write(request(script(READ, do("tell", "working"), do("wait", "go"), do("pause"), ANSWER))),
        Told("working"),
        Term(),
        Go("go"),
        answers=(OK,),
        end=End.CLOSED,
    ),
    lives(
        "shutdown-after-the-last-request",
        MUST,
        "complete",
        Write(
            request(
                script(
                    READ, send(start(), body(b"first", more=True)), do("wait", "go"), do("pause"), send(body(b"second"))
                )
            )
        ),
        Until(b"first"),
        Term(),
        Go("go"),
        Until(b"second"),
        Exits(),
        order=("ended", "shutdown"),
    ),
    lives(
        "shutdown-after-background-work",
        SHOULD,
        "complete",
        Write(request(script(READ, ANSWER, do("wait", "go"), do("pause"), do("tell", "worked")))),
        Until(b"ok"),
        Term(),
        Go("go"),
        Exits(),
        order=("worked", "shutdown"),
    ),
    lives(
        "idle-connection-is-no-hindrance",
        SHOULD,
        "complete",
        ASK,
        Until(b"ok"),
        Term(),
        Exits(),
        order=("ended", "shutdown"),
    ),
    lives(
        "event-stream-is-no-hindrance",
        SHOULD,
        "complete",
        Write(request(script(READ, STREAM, RECEIVE))),
        Until(b"data: 1"),
        Term(),
        Exits(),
    ),
    lives(
        "event-stream-is-told",
        SHOULD,
        "complete",
        Write(request(script(READ, STREAM, RECEIVE))),
        Until(b"data: 1"),
        Term(),
        told=(("receive", {"type": "http.disconnect"}),),
    ),
    lives(
        "unfinished-stream-is-cut",
        SHOULD,
        "complete",
        Write(request(script(READ, STREAM, RECEIVE))),
        Until(b"data: 1"),
        Term(),
        answers=(Answer(200, b"data: 1\n\n", whole=False),),
    ),
]

CASES = [*STARTUP, *SHUTDOWN]
