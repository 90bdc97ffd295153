"""The application runs as a task of asyncio's, with all that belongs to one."""

from __future__ import annotations

from tests.conformance.asgi.case import MUST, OK, SHOULD, Case, Write, get, post, request
from tests.conformance.asgi.cases.receive import IS_END
from tests.conformance.asgi.script import ANSWER, READ, body, do, length, script, send, start

MAIN = "ASGI 3.0, Overview: asyncio-compatible coroutines"
CALLABLES = "ASGI 3.0, Applications: awaitable callables"

CASES = [
    Case("current-task", MUST, MAIN, get(script(do("task"), ANSWER)), (OK,), told=(("task", True),)),
    Case(
        "a-task-for-each-request",
        SHOULD,
        MAIN,
        (Write(request(script(do("task"), ANSWER)) * 3),),
        (OK, OK, OK),
        told=(("new", True),) * 3,
    ),
    Case(
        "the-same-task-throughout",
        MUST,
        MAIN,
        get(
            script(
                READ,
                do("same_task", start(200, length(2))),
                do("same_task", body(b"o", more=True)),
                do("same_task", body(b"k")),
            )
        ),
        (OK,),
        told=(("same", True),) * 3,
    ),
    Case("timeout", MUST, MAIN, get(script(do("timeout"), ANSWER)), (OK,), told=(("timeout", None),)),
    Case(
        "timeout-of-receive",
        MUST,
        MAIN,
        get(script(READ, do("timeout_receive"), ANSWER)),
        (OK,),
        told=(("timeout", None),),
    ),
    Case("task-group", MUST, MAIN, get(script(do("group"), ANSWER)), (OK,), told=(("group", ["cancelled", "raised"]),)),
    Case("thread", MUST, MAIN, get(script(do("thread"), ANSWER)), (OK,), told=(("thread", True),)),
    Case("main-thread", SHOULD, MAIN, get(script(do("where"), ANSWER)), (OK,), told=(("main thread", True),)),
    Case(
        "context-of-its-own",
        SHOULD,
        MAIN,
        (Write(request(script(do("context"), ANSWER)) * 3),),
        (OK, OK, OK),
        told=(("variable", "unset"),) * 3,
    ),
    Case(
        "context-kept-over-awaits",
        MUST,
        MAIN,
        (Write(post(script(do("context"), READ, do("timeout"), do("context"), ANSWER), b"abc")),),
        (OK,),
        told=(("variable", "unset"), ("variable", "tasks:context-kept-over-awaits")),
    ),
    Case(
        "send-as-a-task",
        SHOULD,
        CALLABLES,
        get(script(do("send_by_task", start(200, length(2))), do("send_by_task", body(b"ok")))),
        (OK,),
    ),
    Case(
        "receive-as-a-task",
        SHOULD,
        CALLABLES,
        get(script(do("receive_by_task"), ANSWER)),
        (OK,),
        told=(("receive", IS_END),),
    ),
    Case(
        "send-while-receiving",
        MUST,
        CALLABLES,
        get(
            script(READ, do("begin_receive"), send(start(), body(b"o", more=True)), do("is_waiting"), send(body(b"k")))
        ),
        (OK,),
        told=(("waiting", True),),
    ),
]
