"""The chunked coding (RFC 9112, 7.1): finds where a body ends, and checks all that isn't its data.

Laws:

- Each byte of a chunk's line and of the trailer section is held against the grammar as it comes, so that what comes of
  a body is the same however it was cut when it was received.
- httptools gets the chunks with their bare size: no extension, no trailer field and no whitespace reaches it.
- What a body costs besides its content is counted over the whole message.
"""

from __future__ import annotations

import re
from enum import IntEnum

from hypoll.protocol.messages import HTTPError
from hypoll.protocol.refusals import body_too_large

CHUNKS_PER_STEP = 256
"""Chunks passed over before the caller may do something else: 64 KiB of chunks of a byte take 30 ms or more."""

MAX_DIGITS = 16
"""Digits of a chunk's size, without zeros before it: more are beyond 64 bits."""

FREE_ZEROS = 16
"""Zeros before a chunk's size that count towards no limit."""

FRAMING = frozenset((b"content-length", b"transfer-encoding"))
"""Fields that may not stand in a trailer section (RFC 9110, 6.5.1): whoever sends one wants two servers to disagree."""

LAST_CHUNK = b"0\r\n\r\n"

_BARE_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_DIGITS = re.compile(rb"(0*)([0-9A-Fa-f]*)")


class _State(IntEnum):
    """Where in the framing the next byte stands. The data of a chunk aren't among it."""

    BAD = 0
    SIZE = 1
    SIZE_GOES_ON = 2
    SIZE_CR = 3
    DATA = 4
    """The line is whole."""
    TRAILER_LINE = 5
    FIELD_NAME = 6
    FIELD_VALUE = 7
    FIELD_CR = 8
    LAST_CR = 9
    DONE = 10
    BEFORE_SEMICOLON = 11
    AFTER_SEMICOLON = 12
    EXTENSION_NAME = 13
    AFTER_NAME = 14
    AFTER_EQUALS = 15
    VALUE = 16
    QUOTED = 17
    ESCAPED = 18
    QUOTED_END = 19


_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BLANK = b" \t"
_TEXT = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
_QUOTED_TEXT = _TEXT.translate(None, b'"\\')

_S = _State
_GRAMMAR: dict[_State, dict[bytes, _State]] = {
    # chunk-size [ chunk-ext ] CRLF, with chunk-ext = *( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )
    _S.SIZE: {b"0123456789abcdefABCDEF": _S.SIZE_GOES_ON},
    _S.SIZE_GOES_ON: {_BLANK: _S.BEFORE_SEMICOLON, b";": _S.AFTER_SEMICOLON, b"\r": _S.SIZE_CR},
    _S.SIZE_CR: {b"\n": _S.DATA},
    _S.BEFORE_SEMICOLON: {_BLANK: _S.BEFORE_SEMICOLON, b";": _S.AFTER_SEMICOLON},
    _S.AFTER_SEMICOLON: {_BLANK: _S.AFTER_SEMICOLON, _TOKEN: _S.EXTENSION_NAME},
    _S.EXTENSION_NAME: {
        _TOKEN: _S.EXTENSION_NAME,
        _BLANK: _S.AFTER_NAME,
        b"=": _S.AFTER_EQUALS,
        b";": _S.AFTER_SEMICOLON,
        b"\r": _S.SIZE_CR,
    },
    _S.AFTER_NAME: {_BLANK: _S.AFTER_NAME, b"=": _S.AFTER_EQUALS, b";": _S.AFTER_SEMICOLON},
    _S.AFTER_EQUALS: {_BLANK: _S.AFTER_EQUALS, _TOKEN: _S.VALUE, b'"': _S.QUOTED},
    _S.VALUE: {_TOKEN: _S.VALUE, _BLANK: _S.BEFORE_SEMICOLON, b";": _S.AFTER_SEMICOLON, b"\r": _S.SIZE_CR},
    _S.QUOTED: {_QUOTED_TEXT: _S.QUOTED, b"\\": _S.ESCAPED, b'"': _S.QUOTED_END},
    _S.ESCAPED: {_TEXT: _S.QUOTED},
    _S.QUOTED_END: {_BLANK: _S.BEFORE_SEMICOLON, b";": _S.AFTER_SEMICOLON, b"\r": _S.SIZE_CR},
    # trailer-section = *( field-name ":" OWS field-value OWS CRLF ) CRLF
    _S.TRAILER_LINE: {_TOKEN: _S.FIELD_NAME, b"\r": _S.LAST_CR},
    _S.FIELD_NAME: {_TOKEN: _S.FIELD_NAME, b":": _S.FIELD_VALUE},
    _S.FIELD_VALUE: {_TEXT: _S.FIELD_VALUE, b"\r": _S.FIELD_CR},
    _S.FIELD_CR: {b"\n": _S.TRAILER_LINE},
    _S.LAST_CR: {b"\n": _S.DONE},
}

_FREE = frozenset((_S.SIZE_GOES_ON, _S.SIZE_CR, _S.DATA, _S.LAST_CR, _S.DONE))
"""States that are reached by bytes which every chunked body has: these aren't counted as extra."""


_FAULTS = dict.fromkeys(
    (_S.TRAILER_LINE, _S.FIELD_NAME, _S.FIELD_VALUE, _S.FIELD_CR, _S.LAST_CR),
    "what follows the last chunk is neither trailer fields nor the empty line",
)
"""What is wrong with a byte that the grammar doesn't have, by the state; elsewhere it is the chunk's line."""


def _table() -> list[list[_State]]:
    """The next state by state and byte."""
    table = [[_State.BAD] * 256 for _ in _State]
    for state, ways in _GRAMMAR.items():
        for characters, following in ways.items():
            for byte in characters:
                table[state][byte] = following
    return table


_TABLE = _table()


class Chunks:
    """The framing of one chunked body.

    Args:
        max_body: bytes of content that are allowed.
        max_extra: bytes of chunk extensions and trailer fields, together.

    Attributes:
        content: bytes of all chunks announced.
        done: whether the end was found.
        fault: why the body is refused; None: it isn't.
        halted: whether the step's chunks were used up before the data.
    """

    __slots__ = (
        "_digits", "_left", "_line_end", "_max_body", "_name", "_room", "_state", "_zeros", "content", "done", "fault",
        "halted",
    )  # fmt: skip

    def __init__(self, max_body: int, max_extra: int) -> None:
        self.content = 0
        self.done = False
        self.fault: HTTPError | None = None
        self.halted = False
        self._max_body = max_body
        # Bytes that extensions and trailer fields may still have.
        self._room = max_extra
        self._state = _State.SIZE
        # Of a size whose line isn't whole: how many zeros it begins with, and its digits behind them.
        self._zeros = 0
        self._digits = b""
        # Of the chunk that is passed over: how much of its data is to come, and of the line end behind them.
        self._left = 0
        self._line_end = b""
        self._name = bytearray()

    def pass_over(self, data: bytes, at: int) -> tuple[list[bytes], int]:
        """Check the data from `at` on, up to the end of the body, a fault, the end of the data or of the step.

        Gives what httptools is to be fed of it, and where it stopped.
        """
        fed: list[bytes] = []
        begin = at  # of what is fed as it is
        for _ in range(CHUNKS_PER_STEP):
            at = self._pass_data(data, at)
            if at == len(data) or self.fault is not None:
                break
            match = _BARE_SIZE.match(data, at) if self._state is _State.SIZE else None
            size = 0 if match is None else int(match[1], 16)
            if match is not None and size:
                at = match.end()
                self._announce(size)
            else:
                if begin < at:
                    fed.append(data[begin:at])
                begin = at = self._pass_line(data, at, fed)
            if at == len(data) or self.done or self.fault is not None:
                break
        if begin < at:
            fed.append(data[begin:at])
        self.halted = at < len(data) and not self.done and self.fault is None
        return fed, at

    def agrees(self, done: bool, received: int) -> bool:
        """Whether llhttp, fed the same, came to the same: whether the end was found, and how much was before it."""
        return done == self.done and (not done or received == self.content)

    def _announce(self, size: int) -> None:
        """A chunk of so many bytes begins."""
        self.content += size
        self._left = size
        self._line_end = b"\r\n"
        if self.content > self._max_body:
            self.fault = body_too_large(self._max_body)

    def _pass_data(self, data: bytes, at: int) -> int:
        """Pass over the data of a chunk, and the line end behind them."""
        step = min(self._left, len(data) - at)
        self._left -= step
        at += step
        if self._left or not self._line_end:
            return at
        end = data[at : at + len(self._line_end)]
        if not self._line_end.startswith(end):
            self._refuse("a chunk's data are longer or shorter than its size")
            return at
        self._line_end = self._line_end[len(end) :]
        return at + len(end)

    def _pass_line(self, data: bytes, at: int, fed: list[bytes]) -> int:
        """Pass over a chunk's line or the trailer section, as far as it is here."""
        if self._state in (_State.SIZE, _State.SIZE_GOES_ON):
            at = self._pass_digits(data, at)
        if self.fault is None:
            at = self._pass_bytes(data, at)
        if self._state is _State.DATA:
            size, self._digits, self._zeros = int(self._digits or b"0", 16), b"", 0
            self._state = _State.SIZE if size else _State.TRAILER_LINE
            if size:
                fed.append(b"%x\r\n" % size)
                self._announce(size)
        elif self._state is _State.DONE:
            fed.append(LAST_CHUNK)
            self.done = True
        return at

    def _pass_digits(self, data: bytes, at: int) -> int:
        match = _DIGITS.match(data, at)
        assert match is not None  # it may be empty
        if match[0]:
            self._state = _State.SIZE_GOES_ON
        if self._digits:
            self._digits += match[0]
        else:
            before = self._zeros
            self._zeros += len(match[1])
            self._count(max(self._zeros - FREE_ZEROS, 0) - max(before - FREE_ZEROS, 0))
            self._digits = match[2]
        if len(self._digits) > MAX_DIGITS and self.fault is None:
            self._refuse("a chunk's size is beyond 64 bits")
        return match.end()

    def _pass_bytes(self, data: bytes, at: int) -> int:
        """Hold each byte against the grammar, up to the end of a chunk's line or of the trailer section."""
        state, count, room = self._state, 0, self._room
        for byte in memoryview(data)[at:]:
            following = _TABLE[state][byte]
            if following is _State.BAD:
                self._refuse(_FAULTS.get(state, "a chunk's line is not a size and extensions"))
                break
            count += following not in _FREE
            if count > room:
                break
            if following is _State.FIELD_NAME:
                self._name.append(byte)
            elif state is _State.FIELD_NAME and self._is_framing():
                self._refuse("a trailer field may not tell how the message is framed")
                break
            state = following
            at += 1
            if state is _State.DATA or state is _State.DONE:
                break
        self._state = state
        if self.fault is None:
            self._count(count)
        return at

    def _count(self, extra: int) -> None:
        self._room -= extra
        if self._room < 0:
            self.fault = HTTPError(431, "chunk extensions or trailer fields are too large")

    def _is_framing(self) -> bool:
        """Whether the trailer field whose name is whole is one of those that frame a message."""
        name = bytes(self._name).lower()
        self._name.clear()
        return name in FRAMING

    def _refuse(self, reason: str) -> None:
        self.fault = HTTPError(400, f"the body is malformed: {reason}")
