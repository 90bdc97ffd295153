"""What a case of the suite says: what the client does, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.conformance.asgi.script import Operation


class Level(Enum):
    """Whether a specification requires it, in so many words or as a format, or it is what one may hope for."""

    MUST = "must"
    SHOULD = "should"


MUST, SHOULD = Level.MUST, Level.SHOULD


class Framing(Enum):
    """How the end of a response's content is known (RFC 9112, 6.3)."""

    NONE = "no content"
    LENGTH = "Content-Length"
    CHUNKED = "chunked"
    CLOSE = "the connection's end"


class End(Enum):
    """What becomes of the connection after the expected answers."""

    ANY = "not looked at"
    OPEN = "it serves a further request"
    CLOSED = "the server ends it"
    SANE = "the server ends it, or it serves a further request"


class Check(NamedTuple):
    """A value is looked at by a function, which has a description."""

    what: str
    holds: Callable[[Any], bool]


class Answer(NamedTuple):
    """A final response that is expected. What is None isn't looked at.

    fields: names in lower case, with all values that are expected; none: the field isn't there.
    whole: False: the connection ends before the content does, or the response never comes.
    interims: the statuses before it.
    head: it answers a HEAD.
    """

    status: int | tuple[int, ...] | None = 200
    content: bytes | Check | None = None
    framing: Framing | tuple[Framing, ...] | None = None
    fields: tuple[tuple[bytes, tuple[bytes, ...] | Check], ...] = ()
    whole: bool = True
    interims: tuple[int, ...] | None = None
    trailers: tuple[tuple[bytes, bytes], ...] | None = None
    head: bool = False


class OneOf(NamedTuple):
    """Any of several answers, or none: the connection ends without one."""

    answers: tuple[Answer, ...]
    or_none: bool = False


OK = Answer(200, b"ok")
ERROR = Answer(500)
REFUSED = OneOf((Answer(tuple(range(400, 506))),), or_none=True)
"""An error status, or the connection's end."""
ERROR_OR_CUT = OneOf((ERROR, Answer(None, whole=False)), or_none=True)
CUT = OneOf((Answer(None, whole=False),), or_none=True)
WELL_FORMED = OneOf((Answer(None), Answer(None, whole=False)), or_none=True)
"""Whatever it says, it is no malformed message, and the client isn't left waiting."""


# steps of the client


class Write(NamedTuple):
    """Send bytes. The case's name takes the place of @TOKEN@."""

    raw: bytes


class Bytewise(NamedTuple):
    """Send bytes one by one."""

    raw: bytes


class Until(NamedTuple):
    """Receive until these bytes are there."""

    raw: bytes


class Told(NamedTuple):
    """Wait until the application has told this, for the n-th time."""

    name: str
    times: int = 1
    token: str | None = None


class Go(NamedTuple):
    """Open a gate for which the application waits."""

    gate: str
    token: str | None = None


class Flood(NamedTuple):
    """Send so many bytes, but stop where the server takes no more; that must be before `at_most`."""

    size: int
    at_most: int


class Rest(NamedTuple):
    """Send what `Flood` couldn't."""


class Other(NamedTuple):
    """A request on a connection of its own, answered with 200."""

    raw: bytes


OTHER = Other(b"GET / HTTP/1.1\r\nHost: h\r\nX-Token: other\r\n\r\n")
"""Answered, it shows that the server has seen what the client did before."""


class HalfClose(NamedTuple):
    """Shut down the client's sending half (FIN)."""


class Close(NamedTuple):
    """Close the client's socket: FIN, and a reset for what still comes."""


class Reset(NamedTuple):
    """Reset the connection."""


class Term(NamedTuple):
    """Send SIGTERM to the server."""


class Exits(NamedTuple):
    """Wait for the server's end. `failed`: with a code other than 0."""

    failed: bool | None = None


Step = Write | Bytewise | Until | Told | Go | Flood | Rest | Other | HalfClose | Close | Reset | Term | Exits


class Case(NamedTuple):
    """One case. See `RequestHandler` for answers, `applications.py` for what the application tells.

    source: the place of the specification from which it comes.
    answers: final responses in order.
    scope: keys of the (last) scope with the value or check expected; a check of "" is given all of it.
    never: what no scope of the case may be.
    told: names and values or checks, in order for each name.
    untold: names that must not have been told.
    calls: how many requests reached the application, at most; None: not looked at.
    order: events, each of which must come after the one before it.
    log, unlogged: what the server's output must or must not say.
    lifespan_told, unlifespan: as told and untold, of the lifespan's call.
    once: what the lifespan's call has told once.
    needs: names of extensions, or a version of the HTTP specification: without it the case is skipped.
    variant: the options with which the server runs (`peers.py`).
    lifespan: the kind of lifespan (`applications.lifespan`); other than "" the server is started for this case alone.
    """

    name: str
    level: Level
    source: str
    steps: tuple[Step, ...]
    answers: tuple[Answer | OneOf, ...] = ()
    end: End = End.ANY
    scope: Mapping[str, Any] = MappingProxyType({})
    never: Check | None = None
    told: tuple[tuple[str, Any], ...] = ()
    untold: tuple[str, ...] = ()
    calls: int | None = None
    order: tuple[str, ...] = ()
    log: bytes = b""
    unlogged: bytes = b""
    lifespan_told: tuple[tuple[str, Any], ...] = ()
    unlifespan: tuple[str, ...] = ()
    once: str = ""
    needs: tuple[str, ...] = ()
    variant: str = ""
    lifespan: str = ""


ABSENT = "<absent>"
"""Stands for a key that isn't there."""


def request(
    program: list[Operation] | None = None,
    *fields: bytes,
    method: str = "GET",
    target: str = "/",
    version: str = "HTTP/1.1",
    content: bytes = b"",
) -> bytes:
    """A request that brings its script. Without one, the application reads the body and answers "hello"."""
    lines = [f"{method} {target} {version}".encode(), b"Host: h", b"X-Token: @TOKEN@", *fields]
    if program is not None:
        lines.append(b"X-Script: " + ascii(program).encode())
    return b"\r\n".join((*lines, b"", content))


def get(program: list[Operation] | None = None, *fields: bytes, target: str = "/") -> tuple[Step, ...]:
    """One GET, as the steps of a case."""
    return (Write(request(program, *fields, target=target)),)


def post(program: list[Operation] | None, content: bytes, *fields: bytes) -> bytes:
    """A POST with a Content-Length."""
    return request(program, b"Content-Length: %d" % len(content), *fields, method="POST", content=content)


def raw(*lines: bytes, content: bytes = b"") -> bytes:
    """A request as it stands, with the case's token."""
    return b"\r\n".join((*lines, b"X-Token: @TOKEN@", b"", content))
