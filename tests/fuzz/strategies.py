"""Streams of requests as the grammar of RFC 9112 allows them, and ways to break them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from hypoll.protocol.validation import METHODS
from tests.fuzz.outcome import Seen, split

OWN_FIELDS = ("host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "trailer", "te")
"""Fields that say something about the framing or the connection: generated on purpose, never at random."""

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PCHAR = "ABCXYZabcxyz0189-._~!$&'()*+,;=:@"

tokens = st.text(TOKEN, min_size=1, max_size=12)
names = tokens.filter(lambda name: name.lower() not in OWN_FIELDS)
visible = st.characters(
    min_codepoint=0x21, max_codepoint=0xFF, exclude_characters=[chr(code) for code in range(0x7F, 0x80)]
)
values = st.lists(st.text(visible, min_size=1, max_size=10), max_size=3).flatmap(
    lambda words: st.sampled_from([" ", "\t", "  "]).map(lambda space: space.join(words))
)
fields_strategy = st.lists(st.tuples(names, values), max_size=4)
whitespace = st.sampled_from(["", " ", "\t", " \t "])
hosts = st.sampled_from(["a", "a.example:8000", "127.0.0.1", "[::1]:80", "[v1.a:b]", "", "%41-_~!$&'()*+;=:65535"])


class Sent(NamedTuple):
    """A request as generated: its bytes, and what a parser must make of them."""

    wire: bytes
    seen: Seen


@st.composite
def targets(draw: st.DrawFn, method: str) -> tuple[bytes, bytes, str | None]:
    """(the target on the wire, in origin-form, the authority of an absolute one)."""
    pieces = st.lists(st.one_of(st.text(PCHAR, max_size=6), st.sampled_from(["%2F", "%e9", "%00", "//"])), max_size=4)
    path = "/" + "/".join(draw(pieces))
    query = draw(st.sampled_from(["", "?", "?a=b&a=c", "?q=/?:@%20"]))
    if not draw(st.sampled_from([True, False, False])):
        return (path + query).encode(), (path + query).encode(), None
    authority = draw(hosts.filter(bool))
    path = draw(st.sampled_from([path, ""]))
    absolute = f"{draw(st.sampled_from(['http', 'HTTPS', 'Http']))}://{authority}{path}{query}"
    root = "*" if method == "OPTIONS" and not query else "/"
    return absolute.encode(), ((path or root) + query).encode(), authority


@st.composite
def chunked(draw: st.DrawFn, content: bytes) -> bytes:
    """The content in chunks of any size, with extensions and trailer fields."""
    wire = b""
    for piece in split(content, draw(st.lists(st.integers(0, 64), max_size=3))):
        size = draw(st.sampled_from(["%x", "%X", "000%x"])) % len(piece)
        extension = draw(st.sampled_from(["", ";a", ";a=b", ';a="b c"', ";a;b=1;c"]))
        wire += f"{size}{extension}\r\n".encode() + piece + b"\r\n"
    wire += draw(st.sampled_from([b"0\r\n", b"000\r\n", b"0;last\r\n"]))
    trailers = draw(st.lists(st.tuples(names, values), max_size=2))
    return wire + b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in trailers) + b"\r\n"


def field_line(name: str, value: str, before: str, after: str) -> str:
    if name.lower() == "transfer-encoding":
        after = after.replace("\t", "")  # llhttp refuses `chunked` with a tab behind it, which is safe
    return f"{name}:{before}{value}{after}\r\n"


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """A valid request in any of the forms the grammar allows."""
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", *METHODS.values()]))
    target, origin, authority = draw(targets(method))
    if method == "OPTIONS" and draw(st.booleans()):
        target, origin, authority = b"*", b"*", None
    fields = draw(fields_strategy)
    if minor == 1 or draw(st.booleans()):
        fields.insert(draw(st.integers(0, len(fields))), ("Host", draw(hosts)))
    content = draw(st.binary(max_size=80))
    framing = draw(st.sampled_from(["none", "length", "chunked"] if minor else ["none", "length"]))
    body = b""
    if framing == "length":
        fields.append(("Content-Length", draw(st.sampled_from(["%d", "0%d"])) % len(content)))
        body = content
    elif framing == "chunked":
        fields.append((draw(st.sampled_from(["Transfer-Encoding", "transfer-encoding"])), "Chunked"))
        body = draw(chunked(content))
    else:
        content = b""
    options = draw(st.sampled_from(["", "", "", "close", "keep-alive", "x, Close", "Keep-Alive, y", "upgrade"]))
    if options:
        fields.append(("Connection", options))
        fields += [("Upgrade", "websocket")] if options == "upgrade" else []
    lowered = options.lower()
    keep_alive = "close" not in lowered and (minor == 1 or "keep-alive" in lowered)
    lines = [field_line(name, value, draw(whitespace), draw(whitespace)) for name, value in fields]
    head = b"%b %b HTTP/1.%d\r\n%b\r\n" % (method.encode(), target, minor, "".join(lines).encode("latin-1"))
    start = draw(st.sampled_from([b"", b"", b"", b"\r\n"]))
    expected = tuple((name.lower(), value) for name, value in fields)
    return Sent(start + head + body, Seen(method, origin, expected, content, minor, authority, keep_alive))


streams = st.lists(requests(), min_size=1, max_size=4)
cuts = st.lists(st.integers(0, 4096), max_size=6)


def answered(sent: Iterable[Sent]) -> tuple[Seen, ...]:
    """The requests up to the first that ends the connection (RFC 9112, 9.6)."""
    taken: list[Seen] = []
    for request in sent:
        taken.append(request.seen)
        if not request.seen.keep_alive:
            break
    return tuple(taken)


FRAGMENTS = (
    *(b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\x80", b"0\r\n\r\n", b"%", b"#", b"HTTP/1.0"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n"),
    *(
        b"Host: b\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Expect: tea\r\n",
        b"5\r\n",
        b"ffffffffffffffff\r\n",
        b"-1",
        b";",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT",
    ),
)


def mutate(stream: bytes, choice: random.Random) -> bytes:
    """The stream after a flip, an insertion, a deletion, a truncation or a duplication."""
    begin, end = sorted(choice.randrange(len(stream) + 1) for _ in range(2))
    match choice.randrange(6):
        case 0 if begin < len(stream):
            return stream[:begin] + bytes([stream[begin] ^ 1 << choice.randrange(8)]) + stream[begin + 1 :]
        case 1:
            return stream[:begin] + choice.choice(FRAGMENTS) + stream[begin:]
        case 2:
            return stream[:begin] + stream[min(end, begin + 8) :]
        case 3:
            return stream[:end]
        case 4:
            return stream[:end] + stream[begin:]
        case _:
            line = stream.find(b"\r\n", begin) + 2
            return stream[:line] + choice.choice(FRAGMENTS) + stream[line:]
