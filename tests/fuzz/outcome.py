"""What a stream of bytes comes to, and what must hold of it however it was received.

The properties and the fuzz target share these checks: one checks generated streams, the other what a fuzzer finds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import httptools

from hypoll.http import HTTPError, PeerError, Request, RequestParser, State, Vocabulary
from hypoll.settings import Settings

MARKER = b"GET /marker HTTP/1.1\r\nHost: marker\r\n\r\n"

ROOMY = Settings()
TIGHT = Settings(max_head=128, max_headers=6, max_body=48)
"""Limits that a short stream can pass."""

CLOSED_WITHOUT_ANSWER = 0
"""Stands for the status of a `PeerError`."""


class Seen(NamedTuple):
    """A request, as far as a handler could tell it from another."""

    method: str
    target: bytes
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""
    minor: int = 1
    authority: str | None = None
    keep_alive: bool = True


class Outcome(NamedTuple):
    """The requests a stream gave, the status it was refused with, if it was, and what the parser waits for."""

    requests: tuple[Seen, ...]
    refusal: int | None
    state: State


def seen(request: Request) -> Seen:
    return Seen(
        request.method,
        request.target,
        tuple(request.headers.raw),
        request.body,
        request.minor,
        request.authority,
        request.keep_alive,
    )


def play(pieces: Iterable[bytes], settings: Settings = ROOMY, known: Vocabulary | None = None) -> Outcome:
    """Feed the pieces to a parser. Raises whatever it raises that is no refusal."""
    parser = RequestParser(settings, vocabulary=known)
    requests: list[Seen] = []
    refusal: int | None = None
    for piece in pieces:
        try:
            request = parser.feed(piece)
            while request is not None or parser.pending:
                if request is not None:
                    assert len(request.body) <= settings.max_body
                    requests.append(seen(request))
                request = parser.next()
        except HTTPError as error:
            refusal = error.status
        except PeerError:
            refusal = CLOSED_WITHOUT_ANSWER
        if refusal is not None:
            break
    _check_rest(parser, refusal)
    return Outcome(tuple(requests), refusal, parser.state)


def _check_rest(parser: RequestParser, refusal: int | None) -> None:
    assert parser.pending == b"", "bytes wait in a parser that gave all it had"
    assert (parser.incoming is not None) == (parser.state is State.BODY)
    assert refusal is None or parser.state is State.DONE
    if parser.state is State.DONE:
        assert parser.next() is None, "a finished parser gave a request"
        assert parser.feed(MARKER) is None, "a finished parser parsed on"
        assert parser.pending == b""


def split(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The stream in pieces, none of them empty, cut at these offsets (modulo its length)."""
    offsets = sorted({0, len(stream), *(cut % (len(stream) or 1) for cut in cuts)})
    return [stream[begin:end] for begin, end in pairwise(offsets)]


class _Listener:
    """What httptools tells of the messages of a stream by its callbacks: the fields of each."""

    def __init__(self) -> None:
        self.messages: list[list[tuple[str, str]]] = []

    def on_message_begin(self) -> None:
        self.messages.append([])

    def on_header(self, name: bytes, value: bytes) -> None:
        self.messages[-1].append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))


def check_fields(stream: bytes, outcome: Outcome) -> None:
    """Hold the fields of requests against those that httptools tells of, as far as it gets."""
    listener = _Listener()
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(listener).feed_data(stream)
    for request, told in zip(outcome.requests, listener.messages, strict=False):
        if not any(name == "transfer-encoding" for name, _ in request.fields):  # trailers are told, too
            assert list(request.fields) == told, "httptools has other fields"


def check(stream: bytes, cuts: Iterable[int], settings: Settings = ROOMY) -> Outcome:
    """Hold the parser's laws against a stream; give what the stream comes to."""
    whole = play([stream], settings)
    check_fields(stream, whole)
    same(whole, play([stream[at : at + 1] for at in range(len(stream))], settings), "byte by byte")
    cuts = list(cuts)
    pieces = split(stream, cuts)
    same(whole, play(pieces, settings), "in pieces", pieces)
    known = Vocabulary(settings)
    same(whole, play(pieces, settings, known), "filling the memory", pieces)
    same(whole, play([stream], settings, known), "with all remembered")
    followed = play([stream + MARKER], settings)
    if whole.state is State.DONE:
        same(whole, followed, "with a request behind it")
    elif whole.state is State.START:
        assert followed.requests[:-1] == whole.requests, "a request behind it changed those before"
        assert followed.requests[-1].target == b"/marker"
    return whole


def same(whole: Outcome, other: Outcome, how: str, pieces: list[bytes] | None = None) -> None:
    assert other == whole, f"{how} {pieces or ''}: {other}, but whole: {whole}"
