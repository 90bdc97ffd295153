"""Extensions, where the server offers them."""

from __future__ import annotations

from typing import Any

from tests.conformance.asgi.case import (
    MUST,
    OK,
    SHOULD,
    Answer,
    Case,
    Check,
    End,
    Framing,
    Go,
    OneOf,
    Reset,
    Step,
    Told,
    Until,
    Write,
    get,
    request,
)
from tests.conformance.asgi.run import PAYLOAD
from tests.conformance.asgi.script import ANSWER, READ, attempt, body, do, length, script, send, start

PATHSEND = "http.response.pathsend"
ZEROCOPY = "http.response.zerocopysend"
TRAILERS = "http.response.trailers"
HINT = "http.response.early_hint"
SIZE = len(PAYLOAD)

RAISES = Check("an exception", lambda names: names is not None)
TE = b"TE: trailers"


def path(name: str = "@FILE@") -> dict[str, Any]:
    return {"type": PATHSEND, "path": name}


def case(name: str, level: Any, extension: str, steps: tuple[Step, ...], *answers: Any, **more: Any) -> Case:
    return Case(name, level, f"Extensions, {extension}", steps, answers, needs=(extension,), **more)


PATHS = [
    case(
        "pathsend",
        MUST,
        PATHSEND,
        get(send(start(200, length(SIZE)), path())),
        Answer(200, PAYLOAD, Framing.LENGTH),
        end=End.OPEN,
    ),
    case("pathsend-without-length", MUST, PATHSEND, get(send(start(), path())), Answer(200, PAYLOAD), end=End.SANE),
    case(
        "pathsend-head",
        MUST,
        PATHSEND,
        (Write(request(send(start(200, length(SIZE)), path()), method="HEAD")),),
        Answer(200, b"", head=True),
        end=End.OPEN,
    ),
    case(
        "pathsend-http-1.0",
        MUST,
        PATHSEND,
        (Write(request(send(start(), path()), version="HTTP/1.0")),),
        Answer(200, PAYLOAD, (Framing.LENGTH, Framing.CLOSE)),
    ),
    case(
        "pathsend-pipelined",
        MUST,
        PATHSEND,
        (Write(request(send(start(200, length(SIZE)), path())) * 3),),
        *[Answer(200, PAYLOAD)] * 3,
        end=End.OPEN,
    ),
    case(
        "pathsend-no-such-file",
        MUST,
        PATHSEND,
        get(script(send(start(200, length(SIZE))), attempt(path("/no/file")))),
        OneOf((Answer((404, 500)), Answer(None, whole=False)), or_none=True),
        end=End.SANE,
    ),
    case(
        "pathsend-shorter-than-announced",
        MUST,
        PATHSEND,
        get(script(send(start(200, length(SIZE + 1))), attempt(path()))),
        OneOf((Answer(500), Answer(200, PAYLOAD), Answer(None, whole=False)), or_none=True),
        end=End.SANE,
    ),
    case(
        "pathsend-longer-than-announced",
        MUST,
        PATHSEND,
        get(script(send(start(200, length(10))), attempt(path()))),
        OneOf((Answer(500), Answer(200, PAYLOAD), Answer(None, whole=False), Answer(200, PAYLOAD[:10])), or_none=True),
        end=End.SANE,
    ),
    case(
        "pathsend-before-the-start",
        SHOULD,
        PATHSEND,
        get(script(attempt(path()), ANSWER)),
        OK,
        told=(("attempt", RAISES),),
    ),
    case(
        "pathsend-completes",
        MUST,
        PATHSEND,
        get(script(READ, send(start(200, length(SIZE)), path()), do("receive"))),
        Answer(200, PAYLOAD),
        told=(("receive", {"type": "http.disconnect"}),),
    ),
]


def file(more: bool = False, **keys: Any) -> Any:
    return do("sendfile", "@FILE@", {"more_body": more, **keys})


ZERO_COPIES = [
    case(
        "zerocopysend",
        MUST,
        ZEROCOPY,
        get(script(send(start(200, length(SIZE))), file())),
        Answer(200, PAYLOAD, Framing.LENGTH),
        end=End.OPEN,
    ),
    case(
        "zerocopysend-without-length",
        MUST,
        ZEROCOPY,
        get(script(send(start()), file())),
        Answer(200, PAYLOAD),
        end=End.SANE,
    ),
    case(
        "zerocopysend-offset",
        MUST,
        ZEROCOPY,
        get(script(send(start()), file(offset=1000))),
        Answer(200, PAYLOAD[1000:]),
    ),
    case(
        "zerocopysend-count",
        MUST,
        ZEROCOPY,
        get(script(send(start()), file(offset=10, count=300))),
        Answer(200, PAYLOAD[10:310]),
    ),
    case(
        "zerocopysend-mixed",
        MUST,
        ZEROCOPY,
        get(
            script(
                send(start(), body(b"<", more=True)),
                file(True, offset=0, count=5),
                file(True, offset=5, count=5),
                send(body(b">")),
            )
        ),
        Answer(200, b"<" + PAYLOAD[:10] + b">"),
        end=End.SANE,
    ),
    case(
        "zerocopysend-head",
        MUST,
        ZEROCOPY,
        (Write(request(script(send(start(200, length(SIZE))), file()), method="HEAD")),),
        Answer(200, b"", head=True),
        end=End.OPEN,
    ),
    case(
        "zerocopysend-http-1.0",
        MUST,
        ZEROCOPY,
        (Write(request(script(send(start()), file()), version="HTTP/1.0")),),
        Answer(200, PAYLOAD, (Framing.LENGTH, Framing.CLOSE)),
    ),
]


def trailers(*headers: Any, more: bool = False) -> dict[str, Any]:
    return {"type": TRAILERS, "headers": headers, "more_trailers": more}


FIELD = (b"x-digest", b"abc")
START = start(200, (b"trailer", b"x-digest"), trailers=True)
TRAILED = [
    case(
        "trailers",
        MUST,
        TRAILERS,
        get(send(START, body(b"ok"), trailers(FIELD)), TE),
        Answer(200, b"ok", Framing.CHUNKED, trailers=(FIELD,)),
        end=End.OPEN,
    ),
    case(
        "trailers-in-two",
        MUST,
        TRAILERS,
        get(send(START, body(b"ok"), trailers(FIELD, more=True), trailers((b"x-b", b"c"))), TE),
        Answer(200, b"ok", Framing.CHUNKED, trailers=(FIELD, (b"x-b", b"c"))),
        end=End.OPEN,
    ),
    case(
        "trailers-not-asked-for",
        MUST,
        TRAILERS,
        get(send(START, body(b"ok"), trailers(FIELD))),
        Answer(200, b"ok", trailers=()),
        end=End.SANE,
    ),
    case(
        "trailers-http-1.0",
        MUST,
        TRAILERS,
        (Write(request(send(START, body(b"ok"), trailers(FIELD)), TE, version="HTTP/1.0")),),
        Answer(200, b"ok", trailers=()),
    ),
    case(
        "trailers-injection",
        MUST,
        TRAILERS,
        get(script(send(START, body(b"ok")), attempt(trailers((b"x-a", b"b\r\nx-injected: 1")))), TE),
        OneOf((Answer(200, b"ok", trailers=()), Answer(200, b"ok", whole=False), Answer(500)), or_none=True),
        end=End.SANE,
    ),
    case(
        "trailers-never-sent",
        MUST,
        TRAILERS,
        get(send(START, body(b"ok")), TE),
        Answer(200, whole=False),
        end=End.CLOSED,
    ),
    case(
        "trailers-without-the-key",
        SHOULD,
        TRAILERS,
        get(script(send(start(), body(b"ok")), attempt(trailers(FIELD))), TE),
        Answer(200, b"ok", trailers=()),
        end=End.SANE,
    ),
]

LINK = b"</style.css>; rel=preload"
HINTED = send(start(200, length(2)), {"type": HINT, "links": [LINK]}, body(b"ok"))
HINTS = [
    case(
        "early-hint",
        MUST,
        HINT,
        get(HINTED),
        OneOf((Answer(200, b"ok", interims=(103,)), Answer(200, b"ok", interims=()))),
        end=End.OPEN,
    ),
    case("early-hint-sent", SHOULD, HINT, get(HINTED), Answer(200, b"ok", interims=(103,))),
    case(
        "early-hint-not-to-http-1.0",
        MUST,
        HINT,
        (Write(request(HINTED, version="HTTP/1.0")),),
        Answer(200, b"ok", interims=()),
    ),
    case(
        "early-hint-injection",
        MUST,
        HINT,
        get(
            script(
                send(start(200, length(2))),
                attempt({"type": HINT, "links": [b"</a>\r\nx-injected: 1"]}),
                attempt(body(b"ok")),
            )
        ),
        OneOf((Answer(200, b"ok", interims=()), Answer(500, interims=())), or_none=True),
        end=End.SANE,
    ),
]


def is_tls(extensions: dict[str, Any]) -> bool:
    """The keys that TLS 0.2 demands, with their types."""
    tls = extensions["tls"]
    return (
        type(tls["server_cert"]) in (str, type(None))
        and tls["tls_version"] in (0x0303, 0x0304, None)
        and type(tls["cipher_suite"]) in (int, type(None))
        and type(tls.get("client_cert_chain", ())) in (list, tuple)
    )


TLS = [
    Case("https", MUST, "HTTP 2.5, Connection scope", get(ANSWER), (OK,), scope={"scheme": "https"}, variant="tls"),
    Case(
        "https-large",
        MUST,
        "HTTP 2.5, Response body",
        get(script(send(start(200, length(1 << 22))), do("fill", 1 << 22, False))),
        (Answer(200, Check("4 MiB", lambda content: len(content) == 1 << 22)),),
        End.OPEN,
        variant="tls",
    ),
    Case(
        "https-disconnect",
        MUST,
        "HTTP 2.5, Disconnect - receive event",
        (Write(request(script(READ, do("tell", "read"), do("receive")))), Told("read"), Reset()),
        told=(("receive", {"type": "http.disconnect"}),),
        variant="tls",
    ),
    Case(
        "https-pieces-flushed",
        MUST,
        "HTTP 2.5, Response body - send event",
        (
            Write(request(script(READ, send(start(), body(b"one", more=True)), do("wait", "go"), send(body(b"two"))))),
            Until(b"one"),
            Go("go"),
        ),
        (Answer(200, b"onetwo"),),
        End.OPEN,
        variant="tls",
    ),
    Case(
        "tls-extension",
        SHOULD,
        "TLS 0.2",
        get(ANSWER),
        (OK,),
        scope={"extensions": Check("'tls'", lambda extensions: "tls" in extensions)},
        variant="tls",
    ),
    Case(
        "tls-extension-keys",
        MUST,
        "TLS 0.2",
        get(ANSWER),
        (OK,),
        scope={
            "": Check(
                "with the keys of 'tls', if there is such",
                lambda scope: "tls" not in (scope.get("extensions") or {}) or is_tls(scope["extensions"]),
            )
        },
        variant="tls",
    ),
]

CASES = [*PATHS, *ZERO_COPIES, *TRAILED, *HINTS, *TLS]
