"""Frames on the wire, and what comes of them, by section of RFC 6455 and RFC 7692."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from tests.support.frames import BEGIN_BINARY, BEGIN_TEXT, BINARY, CLOSE, LAST, MORE, PING, PONG, TEXT, close, frame

MAX_MESSAGE = 70_000
"""The limit that holds for every case."""

TEXT_ = "Hello-µ@ßöäüàá-UTF-8!!"
EURO = "€".encode()


class Case(NamedTuple):
    """Bytes on the wire and what comes of them.

    Attributes:
        messages: the messages that are whole, in order.
        pongs: the payloads that are answered.
        code: of the end; None: it goes on.
        fault: whether the end is one that the peer is to be told.
        deflate: whether permessage-deflate was agreed upon.
    """

    name: str
    section: str
    raw: bytes
    messages: tuple[str | bytes, ...] = ()
    pongs: tuple[bytes, ...] = ()
    code: int | None = None
    fault: bool = False
    deflate: bool = False


def deflated(data: bytes, bits: int = 15) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def finished(data: bytes) -> bytes:
    """Deflated with a final block, as RFC 7692, 7.2.3.4 has it."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush(zlib.Z_FINISH) + b"\x00"


RSV1 = 0x40

FINAL_BLOCK = b"\x03\x00"
"""An empty block that is the last of its stream (RFC 1951, 3.2.6)."""

MESSAGES = [
    Case("text", "5.6", frame(TEXT, b"Hello"), ("Hello",)),
    Case("text-empty", "5.6", frame(TEXT), ("",)),
    Case("text-unicode", "5.6", frame(TEXT, TEXT_.encode()), (TEXT_,)),
    Case("text-nul", "5.6", frame(TEXT, b"\x00"), ("\x00",)),
    Case("text-noncharacter", "8.1", frame(TEXT, "\uffff\U0010ffff".encode()), ("\uffff\U0010ffff",)),
    Case("binary", "5.6", frame(BINARY, b"\x00\xff\xfe"), (b"\x00\xff\xfe",)),
    Case("binary-empty", "5.6", frame(BINARY), (b"",)),
    Case("key-zero", "5.3", frame(TEXT, b"Hello", bytes(4)), ("Hello",)),
    *[Case(f"length-{size}", "5.2", frame(BINARY, b"*" * size), (b"*" * size,)) for size in (125, 126, 127, 128)],
    *[Case(f"length-{size}", "5.2", frame(BINARY, b"*" * size), (b"*" * size,)) for size in (65535, 65536)],
    Case("several", "5.2", frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c"), ("a", b"b", "c")),
    Case("length-not-the-shortest-2", "5.2", frame(BINARY, b"ab", width=2), (b"ab",)),
    Case("length-not-the-shortest-8", "5.2", frame(BINARY, b"ab", width=8), (b"ab",)),
]

FRAGMENTS = [
    Case("two", "5.4", frame(BEGIN_TEXT, b"Hel") + frame(LAST, b"lo"), ("Hello",)),
    Case(
        "binary", "5.4", frame(BEGIN_BINARY, b"\xff") + frame(MORE, b"\xfe") + frame(LAST, b"\x00"), (b"\xff\xfe\x00",)
    ),
    Case("empty", "5.4", frame(BEGIN_TEXT) + frame(MORE) * 5 + frame(LAST), ("",)),
    Case(
        "inside-a-character",
        "5.6",
        frame(BEGIN_TEXT, EURO[:1]) + frame(MORE, EURO[1:2]) + frame(LAST, EURO[2:]),
        ("€",),
    ),
    Case("ping-between", "5.4", frame(BEGIN_TEXT, b"a") + frame(PING, b"x") + frame(LAST, b"b"), ("ab",), (b"x",)),
    Case("another-key", "5.3", frame(BEGIN_TEXT, b"Hel", b"abcd") + frame(LAST, b"lo", b"efgh"), ("Hello",)),
    Case("then-another", "5.4", frame(BEGIN_TEXT, b"a") + frame(LAST, b"b") + frame(TEXT, b"c"), ("ab", "c")),
    Case("text-within", "5.4", frame(BEGIN_TEXT, b"a") + frame(TEXT, b"b"), code=1002, fault=True),
    Case("binary-within", "5.4", frame(BEGIN_TEXT, b"a") + frame(BEGIN_BINARY, b"b"), code=1002, fault=True),
    Case("nothing-to-continue", "5.4", frame(LAST, b"a"), code=1002, fault=True),
    Case("nothing-to-continue-more", "5.4", frame(MORE), code=1002, fault=True),
    Case("behind-the-last", "5.4", frame(TEXT, b"a") + frame(LAST, b"b"), ("a",), code=1002, fault=True),
]

CONTROL = [
    Case("ping", "5.5.2", frame(PING), pongs=(b"",)),
    Case("ping-with-text", "5.5.2", frame(PING, b"Hello"), pongs=(b"Hello",)),
    Case("ping-with-bytes", "5.5.2", frame(PING, b"\x00\xff\xfe"), pongs=(b"\x00\xff\xfe",)),
    Case("ping-125", "5.5", frame(PING, b"\xfe" * 125), pongs=(b"\xfe" * 125,)),
    Case("ping-126", "5.5", frame(PING, b"\xfe" * 126), code=1002, fault=True),
    Case("ping-length-of-8-bytes", "5.5", frame(PING, b"a", width=8), code=1002, fault=True),
    Case("ping-fragment", "5.5", frame(PING & 0x7F), code=1002, fault=True),
    Case(
        "ping-10",
        "5.5.2",
        b"".join(frame(PING, b"%d" % n) for n in range(10)),
        pongs=tuple(b"%d" % n for n in range(10)),
    ),
    Case("pong-unasked", "5.5.3", frame(PONG, b"x") + frame(TEXT, b"a"), ("a",)),
    Case("opcode-3", "5.2", frame(0x83), code=1002, fault=True),
    Case("opcode-7", "5.2", frame(0x87, b"x"), code=1002, fault=True),
    Case("opcode-11", "5.2", frame(0x8B), code=1002, fault=True),
    Case("opcode-15", "5.2", frame(0x8F, b"x"), code=1002, fault=True),
    Case("opcode-3-behind-text", "5.2", frame(TEXT, b"a") + frame(0x83), ("a",), code=1002, fault=True),
    *[
        Case(f"rsv-{bits >> 4}", "5.2", frame(TEXT | bits, b"a"), code=1002, fault=True)
        for bits in range(0x10, 0x80, 0x10)
    ],
    *[Case(f"rsv-{bits >> 4}-of-ping", "5.2", frame(PING | bits), code=1002, fault=True) for bits in (0x10, 0x40)],
    Case("unmasked", "5.1", frame(TEXT, b"a", None), code=1002, fault=True),
    Case("unmasked-ping", "5.1", frame(PING, b"", None), code=1002, fault=True),
    Case("length-of-64-bits", "5.2", bytes([BINARY, 0xFF]) + b"\xff" * 8, code=1002, fault=True),
]

CLOSES = [
    Case("without-code", "5.5.1", close(None), code=1005),
    Case("normal", "5.5.1", close(1000, "bye"), code=1000),
    Case("reason-123", "5.5.1", close(1000, "x" * 123), code=1000),
    Case("reason-124", "5.5.1", frame(CLOSE, b"\x03\xe8" + b"x" * 124), code=1002, fault=True),
    Case("reason-not-utf-8", "5.5.1", frame(CLOSE, b"\x03\xe8\xce\xba\xed\xa0\x80"), code=1007, fault=True),
    Case("one-byte", "5.5.1", frame(CLOSE, b"\x03"), code=1002, fault=True),
    Case("behind-text", "5.5.1", frame(TEXT, b"a") + close(1000), ("a",), code=1000),
    Case("text-behind-it", "5.5.1", close(1000) + frame(TEXT, b"a"), code=1000),
    Case("ping-behind-it", "5.5.1", close(1000) + frame(PING, b"a"), code=1000),
    Case("nonsense-behind-it", "5.5.1", close(1000) + b"\xff\xff\xff", code=1000),
    Case("within-a-message", "5.4", frame(BEGIN_TEXT, b"a") + close(1001), code=1001),
    *[
        Case(f"code-{code}", "7.4", close(code), code=code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    ],
    *[
        Case(f"code-{code}", "7.4", close(code), code=1002, fault=True)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ],
]

UTF_8 = [
    Case(name, "8.1", frame(TEXT, data), code=1007, fault=True)
    for name, data in {
        "lone-continuation": b"\x80",
        "lone-start": b"\xc3",
        "overlong-2": b"\xc0\xaf",
        "overlong-3": b"\xe0\x80\xaf",
        "overlong-4": b"\xf0\x80\x80\xaf",
        "surrogate": b"\xed\xa0\x80",
        "above-10ffff": b"\xf4\x90\x80\x80",
        "five-bytes": b"\xf8\x88\x80\x80\x80",
        "fe": b"\xfe",
        "cut-at-the-end": "abc€".encode()[:-1],
        "in-the-middle": b"abc" + b"\xff" + b"def",
    }.items()
] + [
    Case("cut-at-the-end-of-fragments", "8.1", frame(BEGIN_TEXT, b"a") + frame(LAST, EURO[:2]), code=1007, fault=True),
    Case("in-the-first-fragment", "8.1", frame(BEGIN_TEXT, b"\xed\xa0\x80"), code=1007, fault=True),
    Case("in-an-unfinished-frame", "8.1", frame(TEXT, b"\xff" + b"a" * 9)[:7], code=1007, fault=True),
    Case("in-a-later-fragment", "8.1", frame(BEGIN_TEXT, EURO[:2]) + frame(MORE, b"a"), code=1007, fault=True),
]

SIZES = [
    Case("largest", "10.4", frame(BINARY, b"*" * MAX_MESSAGE), (b"*" * MAX_MESSAGE,)),
    Case("too-large", "10.4", frame(BINARY, b"*" * (MAX_MESSAGE + 1))[:14], code=1009, fault=True),
    Case("too-large-by-its-length", "10.4", bytes([TEXT, 0xFF]) + (1 << 62).to_bytes(8, "big"), code=1009, fault=True),
    Case(
        "too-large-in-fragments",
        "10.4",
        frame(BEGIN_BINARY, b"*" * 40_000) + frame(LAST, b"*" * 40_000)[:8],
        code=1009,
        fault=True,
    ),
    Case(
        "largest-in-fragments",
        "10.4",
        frame(BEGIN_BINARY, b"*" * 40_000) + frame(LAST, b"*" * 30_000),
        (b"*" * MAX_MESSAGE,),
    ),
    Case(
        "ping-behind-too-large",
        "10.4",
        frame(PING) + frame(BINARY, b"*" * 70_001)[:14],
        pongs=(b"",),
        code=1009,
        fault=True,
    ),
]

DEFLATED = [
    Case("text", "7692-7.2.3.2", frame(TEXT | RSV1, deflated(b"Hello")), ("Hello",)),
    Case("binary", "7692-7.2.3", frame(BINARY | RSV1, deflated(b"\xff" * 1000)), (b"\xff" * 1000,)),
    Case("empty", "7692-7.2.3.6", frame(TEXT | RSV1, b"\x00"), ("",)),
    Case("not-deflated", "7692-6", frame(TEXT, b"Hello"), ("Hello",)),
    Case("stored", "7692-7.2.3.3", frame(TEXT | RSV1, b"\x00\x05\x00\xfa\xffHello\x00"), ("Hello",)),
    Case("final-block", "7692-7.2.3.4", frame(TEXT | RSV1, finished(b"Hello")), ("Hello",)),
    Case("final-blocks", "7692-7.2.3.4", frame(TEXT | RSV1, FINAL_BLOCK * 64 + b"\0"), ("",)),
    Case("final-blocks-flood", "10.4", frame(TEXT | RSV1, FINAL_BLOCK * 9000), code=1007, fault=True),
    Case(
        "two-blocks",
        "7692-7.2.3.5",
        frame(TEXT | RSV1, bytes.fromhex("f248050000 00ffffcac9c90700".replace(" ", ""))),
        ("Hello",),
    ),
    Case(
        "fragments",
        "7692-7.2.3.1",
        frame(BEGIN_TEXT | RSV1, deflated(b"Hello")[:3]) + frame(PING) + frame(LAST, deflated(b"Hello")[3:]),
        ("Hello",),
        (b"",),
    ),
    Case("in-a-window-of-12-bits", "7692-7.1.2", frame(BINARY | RSV1, deflated(b"ab" * 9000, 12)), (b"ab" * 9000,)),
    Case("several", "7692-7.2", frame(TEXT | RSV1, deflated(b"a" * 99)) * 3, ("a" * 99,) * 3),
    Case(
        "continuation-with-bit", "7692-6.1", frame(BEGIN_TEXT | RSV1, b"") + frame(LAST | RSV1), code=1002, fault=True
    ),
    Case("ping-with-bit", "7692-6.1", frame(PING | RSV1), code=1002, fault=True),
    Case("other-bits", "7692-6.1", frame(TEXT | RSV1 | 0x20, deflated(b"a")), code=1002, fault=True),
    Case("malformed", "7692-7.2.2", frame(TEXT | RSV1, b"\xff\xff\xff"), code=1007, fault=True),
    Case("not-utf-8", "8.1", frame(TEXT | RSV1, deflated(b"\xff")), code=1007, fault=True),
    Case("largest", "10.4", frame(BINARY | RSV1, deflated(b"*" * MAX_MESSAGE)), (b"*" * MAX_MESSAGE,)),
    Case("bomb", "10.4", frame(BINARY | RSV1, deflated(b"*" * 50 * MAX_MESSAGE)), code=1009, fault=True),
    Case(
        "bomb-of-one-too-many", "10.4", frame(BINARY | RSV1, deflated(b"*" * (MAX_MESSAGE + 1))), code=1009, fault=True
    ),
    Case(
        "bomb-behind-a-final-block",
        "10.4",
        frame(BINARY | RSV1, finished(b"a")[:-1] + deflated(b"*" * 9 * MAX_MESSAGE)),
        code=1009,
        fault=True,
    ),
    Case(
        "bomb-in-fragments", "10.4", frame(BEGIN_BINARY | RSV1, deflated(b"*" * 9 * MAX_MESSAGE)), code=1009, fault=True
    ),
]

CASES = [
    *(
        case._replace(name=f"{topic}-{case.name}")
        for topic, cases in {
            "message": MESSAGES,
            "fragment": FRAGMENTS,
            "control": CONTROL,
            "close": CLOSES,
            "utf-8": UTF_8,
            "size": SIZES,
        }.items()
        for case in cases
    ),
    *(case._replace(name=f"deflated-{case.name}", deflate=True) for case in DEFLATED),
]
