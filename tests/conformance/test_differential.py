"""hypoll beside two other parsers: where they check a stream differently, `differences.toml` says why hypoll is right.

h11 and gunicorn's own parser read every stream of the corpus as servers. What is compared is what a proxy in front or
a handler behind would notice: the requests (method, target, body) and whether the stream was refused in the end.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import h11
import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser as GunicornParser

from tests.conformance.wire import LIMITS, head_method
from tests.fuzz.corpus import streams
from tests.fuzz.outcome import play

TABLE = Path(__file__).with_name("differences.toml")

ABSOLUTE = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


def compared() -> dict[str, bytes]:
    """The streams, but for those that differ from others by their method alone."""
    by_method = {case.name for case in head_method.CASES}
    return {name: stream for name, stream in streams().items() if name not in by_method}


class Taken(NamedTuple):
    """A request, as every parser can tell it."""

    method: str
    target: bytes
    body: bytes


class Verdict(NamedTuple):
    """The requests of a stream, and whether what follows them was refused."""

    requests: tuple[Taken, ...]
    refused: bool

    def __str__(self) -> str:
        taken = [f"{request.method} {request.target.decode('latin-1')} {request.body!r}" for request in self.requests]
        return "; ".join([*taken, "refused" if self.refused else "accepted"])


def origin(target: bytes) -> bytes:
    """The origin-form of a target, in which hypoll gives an absolute one (RFC 9112, 3.2.2)."""
    rest, count = ABSOLUTE.subn(b"", target, count=1) if ABSOLUTE.match(target) else (target, 0)
    return b"/" + rest if count and not rest.startswith(b"/") else rest


def by_hypoll(stream: bytes) -> Verdict:
    outcome = play([stream], LIMITS)
    taken = tuple(Taken(request.method, request.target, request.body) for request in outcome.requests)
    return Verdict(taken, outcome.refusal is not None)


def by_h11(stream: bytes) -> Verdict:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMITS.max_head)
    server.receive_data(stream)
    taken: list[Taken] = []
    try:
        while True:
            request = server.next_event()
            if not isinstance(request, h11.Request):
                return Verdict(tuple(taken), refused=False)
            body = b""
            while isinstance(part := server.next_event(), h11.Data):
                body += bytes(part.data)
            if not isinstance(part, h11.EndOfMessage):
                return Verdict(tuple(taken), refused=False)
            taken.append(Taken(request.method.decode(), origin(bytes(request.target)), body))
            server.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is not h11.DONE or server.their_state is not h11.DONE:
                return Verdict(tuple(taken), refused=False)
            server.start_next_cycle()
    except h11.RemoteProtocolError:
        return Verdict(tuple(taken), refused=True)


class Waiting(BaseException):
    """A parser asks for more than was sent."""


def received(stream: bytes) -> Iterator[bytes]:
    yield stream
    raise Waiting


@cache
def gunicorn_config() -> Config:
    config = Config()
    config.set("limit_request_line", LIMITS.max_head)
    config.set("limit_request_fields", LIMITS.max_headers)
    config.set("limit_request_field_size", LIMITS.max_head)
    config.set("http_parser", "python")
    return config


def by_gunicorn(stream: bytes) -> Verdict:
    taken: list[Taken] = []
    try:
        for request in GunicornParser(gunicorn_config(), received(stream), ("127.0.0.1", 1)):
            body = request.body.read()
            taken.append(Taken(request.method, origin(request.uri.encode("latin-1")), body))
    except Waiting:
        return Verdict(tuple(taken), refused=False)
    except Exception:
        return Verdict(tuple(taken), refused=True)
    return Verdict(tuple(taken), refused=False)


OTHERS: dict[str, Callable[[bytes], Verdict]] = {"h11": by_h11, "gunicorn": by_gunicorn}


@cache
def differences(name: str) -> dict[str, str]:
    """Each stream that the other parser checks differently, with both verdicts."""
    found: dict[str, str] = {}
    for stream, data in compared().items():
        ours, theirs = by_hypoll(data), OTHERS[name](data)
        if ours != theirs:
            found[stream] = f"{data[:300]!r}\n    hypoll: {ours}\n    {name}: {theirs}"
    return found


def listed(name: str) -> set[str]:
    table = tomllib.loads(TABLE.read_text())["difference"]
    assert all(row["section"] and row["why"] for row in table)
    streams_of = [stream for row in table for stream in row.get(name, [])]
    assert len(streams_of) == len(set(streams_of)), "a stream is listed twice"
    return set(streams_of)


def explained(stream: str, reasons: set[str]) -> bool:
    """Whether a stream is listed, or begins or goes on with one that is."""
    first, _, second = stream.partition(" + ")
    return not reasons.isdisjoint((stream, first, second, f"{first} + marker"))


@pytest.mark.parametrize("name", OTHERS)
def test_every_difference_has_a_reason_and_every_reason_a_difference(name):
    found, reasons = differences(name), listed(name)
    unlisted = [f"{stream}: {verdicts}" for stream, verdicts in found.items() if not explained(stream, reasons)]
    assert not unlisted, f"{len(unlisted)} differences aren't in {TABLE.name}:\n" + "\n".join(unlisted)
    assert reasons <= found.keys(), "these differ no more"


@pytest.mark.parametrize("name", OTHERS)
def test_most_streams_are_judged_the_same(name):
    assert len(differences(name)) < len(streams()) / 4
