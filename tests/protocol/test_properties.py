"""What holds for every input, looked for with generated ones."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote

import h11
import orjson
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from hypoll.app import RouteError, Routes
from hypoll.http import Headers, HTTPError, MultiDict, Request, Response
from hypoll.option import parse_size
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.serializer import encode
from hypoll.settings import Settings
from tests.conformance import wire
from tests.fuzz import corpus
from tests.fuzz.outcome import ROOMY, TIGHT, check
from tests.fuzz.strategies import answered, cuts, fields_strategy, mutate, streams, tokens

settings.register_profile(
    "hypoll", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hypoll")


@given(streams, cuts)
@settings(max_examples=100)
def test_any_split_of_valid_requests_gives_them_as_they_were_sent(sent, cuts):
    outcome = check(b"".join(request.wire for request in sent), cuts)
    assert outcome.refusal is None
    assert outcome.requests == answered(sent)


CORPUS = [stream for stream in corpus.streams().values() if len(stream) < 2000]
LIMITS = [ROOMY, TIGHT, wire.LIMITS]


def check_mutated(stream: bytes, seed: int, count: int, cuts: list[int], limits: Settings) -> None:
    choice = random.Random(seed)
    for _ in range(count):
        stream = mutate(stream, choice)
    outcome = check(stream, cuts, limits)
    event(f"refusal: {outcome.refusal}")


@given(streams, st.integers(0, 2**32), st.integers(1, 4), cuts, st.sampled_from(LIMITS))
@settings(max_examples=75)
def test_any_split_of_broken_requests_gives_the_same_requests_and_refusal(sent, seed, count, cuts, limits):
    check_mutated(b"".join(request.wire for request in sent), seed, count, cuts, limits)


def test_any_split_of_a_corpus_stream_gives_the_same_requests_and_refusal():
    choice = random.Random(0)
    for stream in CORPUS:
        check(stream, [choice.randrange(len(stream) + 1) for _ in range(4)], wire.LIMITS)


@given(st.sampled_from(CORPUS), st.integers(0, 2**32), st.integers(0, 3), cuts, st.sampled_from(LIMITS))
@settings(max_examples=250)
def test_any_split_of_a_broken_corpus_gives_the_same_requests_and_refusal(stream, seed, count, cuts, limits):
    check_mutated(stream, seed, count, cuts, limits)


# responses

bodies = st.one_of(st.binary(max_size=200), st.text(max_size=60), st.lists(st.binary(max_size=40), max_size=5))
statuses = st.one_of(st.sampled_from([200, 204, 205, 304, 404, 500]), st.integers(200, 599))


def as_client(request: Request, wire: bytes, ended: bool) -> tuple[h11.Response, bytes, bytes]:
    """What an independent client makes of an answer: its head, its content, and what follows it on the connection."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=request.method, target=b"/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    if ended:
        client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response), response
    content = b""
    while isinstance(part := client.next_event(), h11.Data):
        content += bytes(part.data)
    assert isinstance(part, h11.EndOfMessage), part
    return response, content, client.trailing_data[0]


@st.composite
def asked(draw: st.DrawFn) -> Request:
    minor = draw(st.sampled_from([0, 1]))
    method = draw(st.sampled_from(["GET", "GET", "POST", "HEAD"]))
    request = Request(method, b"/", HeaderSection((("host", "a"),)))
    request.minor = minor
    request.keep_alive = draw(st.booleans())
    request.plain = request.keep_alive and minor == 1 and method != "HEAD"
    return request


@given(asked(), statuses, bodies, fields_strategy, st.booleans(), st.booleans())
@settings(max_examples=200)
def test_an_encoded_response_reads_the_same_to_another_client(request_, status, body, fields, close, declare):
    content = b"".join(body) if isinstance(body, list) else body.encode() if isinstance(body, str) else body
    fields = [(name, value) for name, value in fields if name.lower() not in ("date", "server", "content-type")]
    headers = [*fields, ("Content-Length", str(len(content)))] if declare and status not in (204, 205, 304) else fields
    out: list[bytes] = []
    rest = encode(out, Response(iter(body) if isinstance(body, list) else body, status, headers), request_, close)
    stream = list(rest.stream) if rest is not None and rest.stream is not None else []
    ended = rest is not None and rest.close
    wire = b"".join([*out, *stream])
    response, read, behind = as_client(request_, wire if ended else wire + b"HTTP/1.1", ended)
    assert response.status_code == status
    assert read == (b"" if request_.method == "HEAD" or status in (204, 205, 304) else content)
    assert ended or behind == b"HTTP/1.1"
    got = [(name.decode().lower(), value.decode("latin-1")) for name, value in response.headers.raw_items()]
    added = {"date", "server", "content-type", "content-length", "transfer-encoding", "connection"}
    assert [field for field in got if field[0] not in added] == [(name.lower(), value) for name, value in fields]
    assert ended == (("connection", "close") in got)
    assert ended or request_.minor == 1 or ("connection", "keep-alive") in got
    assert not close or ended
    assert request_.keep_alive or ended


@given(st.text(max_size=8), st.one_of(st.text(max_size=12), st.sampled_from(["a\r\nb: c", "a\nb", "a\0", "\r"])))
@example("Content-Length", "1\r\n\r\n")
@example("x", "a\r\n\r\nHTTP/1.1 200 OK")
@settings(max_examples=100)
def test_no_field_of_a_response_breaks_its_framing(name, value):
    out: list[bytes] = []
    request = Request("GET", b"/")
    try:
        encode(out, Response(b"body", headers=[(name, value)]), request, close=False)
    except (TypeError, ValueError):
        assert out == [], "part of a response that can't be sent was given"
        return
    response, content, behind = as_client(request, b"".join(out) + b"HTTP/1.1", ended=False)
    assert (content, behind) == (b"body", b"HTTP/1.1")
    assert len(response.headers) <= 5


# routes

LITERALS = ["a", "b", "1", "1.5", "", "é", "a b", "~"]
SEGMENTS = [*LITERALS, "12345678-1234-1234-1234-123456789abc", "a/b", "zz", "1234567890123456789"]
KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "int": (r"[0-9]{1,18}", int),
    "float": (r"[0-9]{1,18}(\.[0-9]{1,18})?", float),
    "uuid": (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid.UUID),
    "str": (r".+", str),
    "path": (r".*", str),
}
RANKS = ["literal", *KINDS]


class Shape(NamedTuple):
    """A route's path as (kind, literal text) a segment."""

    segments: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        parts = (text if kind == "literal" else f"{{p{at}:{kind}}}" for at, (kind, text) in enumerate(self.segments))
        return "/" + "/".join(parts)

    @property
    def rank(self) -> list[int]:
        return [RANKS.index(kind) for kind, _ in self.segments]

    def match(self, segments: list[str]) -> dict[str, Any] | None:
        """The parameters, or None."""
        if self.segments[-1][0] == "path" and len(segments) >= len(self.segments):
            last = len(self.segments) - 1
            segments = [*segments[:last], "/".join(segments[last:])]
        if len(segments) != len(self.segments):
            return None
        values: dict[str, Any] = {}
        for at, ((kind, literal), text) in enumerate(zip(self.segments, segments, strict=True)):
            if kind == "literal":
                if text != literal:
                    return None
            elif re.fullmatch(KINDS[kind][0], text, re.DOTALL):
                values[f"p{at}"] = KINDS[kind][1](text)
            else:
                return None
        return values


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    kinds = draw(st.lists(st.sampled_from(["literal", "literal", *KINDS]), min_size=1, max_size=3))
    kinds = ["str" if kind == "path" and at < len(kinds) - 1 else kind for at, kind in enumerate(kinds)]
    return Shape(tuple((kind, draw(st.sampled_from(LITERALS)) if kind == "literal" else "") for kind in kinds))


Declared = dict[tuple[Shape, str], int]


def naive(declared: Declared, method: str, segments: list[str]) -> tuple[int, Any]:
    """(status, the route's number and parameters, or the Allow field): every shape tried, the most special first."""
    matching = {shape for shape, _ in declared if shape.match(segments) is not None}
    for shape in sorted(matching, key=lambda shape: shape.rank):
        number = declared.get((shape, method), declared.get((shape, "GET")) if method == "HEAD" else None)
        if number is not None:
            return 200, (number, shape.match(segments))
    if not matching:
        return 404, None
    allowed = {method for shape, method in declared if shape in matching} | {"OPTIONS"}
    allowed |= {"HEAD"} if "GET" in allowed else set()
    return 204 if method == "OPTIONS" else 405, ", ".join(sorted(allowed))


def declare(declarations: list[tuple[Shape, str]], called: list[tuple[int, dict[str, Any]]]) -> tuple[Routes, Declared]:
    """Routes that note in `called` who was called with what."""
    routes = Routes()
    declared: Declared = {}
    for number, (shape, method) in enumerate(declarations):

        def handler(request: Request, number: int = number, **params: Any) -> str:
            called.append((number, params))
            return "found"

        if (shape, method) in declared:
            with pytest.raises(RouteError, match="collides"):
                routes.route(shape.path, [method])(handler)
        else:
            routes.route(shape.path, [method])(handler)
            declared[shape, method] = number
    return routes, declared


ROUTED = ["GET", "POST", "HEAD", "OPTIONS"]
calls_strategy = st.lists(
    st.tuples(st.sampled_from([*ROUTED, "PUT", "REPORT"]), st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4)),
    min_size=1,
    max_size=6,
)


@given(
    st.lists(st.tuples(shapes(), st.sampled_from(ROUTED)), max_size=8),
    calls_strategy,
    st.sampled_from(["", "?q=1", "?/a"]),
    st.booleans(),
)
@settings(max_examples=150)
def test_routes_match_as_a_naive_model_does(declarations, calls, query, hooked):
    called: list[tuple[int, dict[str, Any]]] = []
    routes, declared = declare(declarations, called)
    if hooked:
        routes.before(lambda request: None)
    for method, segments in calls:
        called.clear()
        target = "/" + "/".join(quote(segment, safe="") for segment in segments) + query
        response = routes(Request(method, target.encode()))
        status, wanted = naive(declared, method, segments)
        assert response.status == status
        assert called == ([wanted] if status == 200 else [])
        if status in (204, 405):
            assert response.headers == {"Allow": wanted}


# what reads text

anything = st.text(st.characters(max_codepoint=0xFF), max_size=40)


SIZE = re.compile(r"\s*([0-9]+)\s*(|[bB]|[kKmMgG](?:[iI]?[bB])?)\s*")


@given(st.one_of(st.text(max_size=12), st.from_regex(r"\s*\d{1,12}\s*(k|M|GiB|kb|B|x)?\s*", fullmatch=True)))
def test_a_size_is_read_or_refused_by_name(text):
    match = SIZE.fullmatch(text)
    if match is None:
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            parse_size(text)
    else:
        number, unit = match.groups()
        assert parse_size(text) == int(number) * 1024 ** " KMG".index(unit.upper()[:1].strip("B") or " ")


@given(st.lists(st.tuples(tokens.map(str.lower), anything), max_size=6), st.one_of(tokens, anything))
def test_headers_look_up_as_a_list_of_pairs_does(pairs, name):
    headers = Headers(pairs)
    found = [value for key, value in pairs if key == name.lower()]
    assert headers.getall(name) == found
    assert (name in headers) == bool(found)
    assert headers.get(name) == ((";" if name.lower() == "cookie" else ",") + " ").join(found) if found else True
    assert list(headers) == list(dict.fromkeys(key for key, _ in pairs))
    assert len(headers) == len(list(headers))
    values = MultiDict(pairs)
    assert values.get(name.lower()) == (found[0] if found else None)
    assert values.getall(name.lower()) == found


@given(st.one_of(anything, st.lists(st.sampled_from([*'=;, \t"ab'])).map("".join)))
def test_cookies_are_what_the_field_says_whatever_it_says(field):
    request = Request("GET", b"/", HeaderSection((("cookie", field),)))
    for name, value in request.cookies.items():
        assert name
        assert f"{name}=" in field
        assert value in field
        assert ";" not in name + value


@given(st.binary(max_size=60), st.one_of(st.binary(max_size=60), st.from_regex(rb"\A[\[{\"0-9,:}\]. ]{0,12}\Z")))
@example(b"/?" + b"a&" * 1001, b"")
@example(b"/?%", b"[" * 100_000)
def test_a_request_reads_any_target_and_body_or_refuses_them(target, body):
    request = Request("GET", b"/" + target)
    request.body = body
    assert quote(request.path) is not None
    assert request.target == f"{request.raw_path}".encode("latin-1") + (
        b"?" + request.query_string.encode("latin-1") if b"?" in target else b""
    )
    with suppress(HTTPError):
        assert len(request.query) <= 1000
    with suppress(HTTPError):
        assert json.loads(orjson.dumps(request.json())) == json.loads(body)
