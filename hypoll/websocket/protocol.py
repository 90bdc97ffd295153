"""The receiving side of a WebSocket (RFC 6455), without a socket: bytes in, messages out.

Laws:

- What comes of a stream is the same however it was cut when it was received.
- A frame is judged by its first bytes, before its payload is here; text as it comes (RFC 6455, 8.1).
- A message costs what it holds, in however many fragments it came; more than the limit is neither received nor
  inflated.
- Behind a close frame, or a fault, nothing is read. Messages that were whole before it are given.
- While messages wait that nobody has taken, no further ones are made of what was fed.
"""

from __future__ import annotations

import codecs
import zlib

from hypoll.websocket.deflate import TAIL, Deflate, Inflater
from hypoll.websocket.frames import (
    BINARY,
    CLOSE,
    FIN,
    INVALID_DATA,
    MASKED,
    MAX_CONTROL,
    NO_STATUS,
    PING,
    PONG,
    PROTOCOL_ERROR,
    RSV1,
    TEXT,
    TOO_BIG,
    Close,
    apply_mask,
    is_sendable,
    serialize,
)

Message = str | bytes

MOST_WAITING = 64 * 1024
"""Bytes of messages that may wait, beside the last of them."""

_new_decoder = codecs.getincrementaldecoder("utf-8")


class ProtocolFault(Exception):  # noqa: N818 - the peer's
    """The peer has broken the protocol. close: what it gets to know."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.close = Close(code, reason)


class MessageParser:
    """What one peer sends.

    Args:
        max_message: bytes that a message may have.
        max_queue: messages that may wait for being taken.
        deflate: how messages may be deflated; None: not at all.
        client: whether this is the client's side: servers don't mask.

    Attributes:
        messages: whole ones, the first is the oldest. To be taken out.
        replies: frames to be sent: pongs. To be taken out.
        ended: why nothing more is read; None: more is.
        failed: whether that is a fault of the peer's, which it is to be told; else it is what its close frame said.
        waits: whether some of what was fed waits for messages to be taken.
        discarding: whether messages are read and dropped: the closing handshake has begun.
        pongs: how many came.
        received: messages that were whole.
    """

    __slots__ = (
        "_at", "_decoder", "_deflate", "_final", "_inflater", "_key", "_left", "_mask", "_max_message", "_max_queue",
        "_message", "_opcode", "_pending", "_size", "_waiting", "discarding", "ended", "failed", "messages", "pongs",
        "received", "replies", "waits",
    )  # fmt: skip

    def __init__(
        self, max_message: int, max_queue: int = 32, deflate: Deflate | None = None, *, client: bool = False
    ) -> None:
        self._max_message = max_message
        self._max_queue = max_queue
        self._deflate = deflate
        self._mask = 0 if client else MASKED
        self.messages: list[Message] = []
        self.replies: list[bytes] = []
        self.ended: Close | None = None
        self.failed = False
        self.pongs = 0
        self.received = 0
        self.discarding = False
        self.waits = False
        self._waiting = 0
        self._pending = b""
        self._at = 0
        # Of the message that is being received; `_opcode` 0: none is.
        self._opcode = 0
        self._message: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._inflater: Inflater | None = None
        self._size = 0
        # Of the frame whose payload is being received; `_left` -1: none is.
        self._left = -1
        self._final = False
        self._key = b""

    @property
    def left(self) -> int:
        """Bytes that are missing of the frame that is being received, as far as its header is known."""
        return self._left

    def feed(self, data: bytes) -> None:
        """Take what was received. b"": go on with what waits."""
        if self._pending:
            data = self._pending[self._at :] + data
            self._pending = b""
        if self.ended is not None:
            return
        if not self.messages:
            self._waiting = 0
        self.waits = False
        at, end = 0, len(data)
        try:
            while at < end:
                if (self._waiting > MOST_WAITING or len(self.messages) >= self._max_queue) and not self.discarding:
                    self.waits = True
                    break
                stop = self._take(data, at, end)
                if stop < 0:
                    break
                at = stop
                if self.ended is not None:
                    return
        except ProtocolFault as fault:
            self.fail(fault.close)
            return
        if at < end:
            self._pending, self._at = data, at

    def fail(self, close: Close) -> None:
        """End with a fault of the peer's."""
        self.ended, self.failed = close, True
        self._forget_message()
        self._pending = b""

    def _take(self, data: bytes, at: int, end: int) -> int:  # noqa: C901 - the way of every frame, as one page
        """Take a frame, or some of one. Gives where that ends; -1: too little of it is here."""
        if self._left >= 0:
            return self._take_payload(data, at, end)
        if end - at < 2:
            return -1
        first, second = data[at], data[at + 1]
        self._check(first, second)
        start, size = at + 2, second & 0x7F
        if size > MAX_CONTROL:
            start += 2 if size == 126 else 8
            if end < start:
                return -1
            size = int.from_bytes(data[at + 2 : start], "big")
        key = b""
        if second & MASKED:
            key = data[start : start + 4]
            start += 4
        opcode = first & 0x0F
        if opcode < CLOSE:
            self._check_size(size)
        if end < start:
            return -1
        stop = start + size
        if stop > end:
            if opcode >= CLOSE:
                return -1
            self._begin_frame(first)
            self._left, self._key = size, key
            return self._take_payload(data, start, end)
        payload = data[start:stop]
        if key:
            payload = apply_mask(payload, key)
        if first == _WHOLE_TEXT:
            self._add_message(_decoded(payload), size)
        elif first == _WHOLE_BINARY:
            self._add_message(payload, size)
        elif opcode >= CLOSE:
            self._take_control(opcode, payload)
        else:
            self._begin_frame(first)
            self._add_piece(payload)
            self._end_frame()
        return stop

    def _check(self, first: int, second: int) -> None:
        """Judge a frame by its first two bytes (RFC 6455, 5.2, 5.4 and 5.5). Raises `ProtocolFault`."""
        opcode = first & 0x0F
        if second & MASKED != self._mask:
            raise ProtocolFault(PROTOCOL_ERROR, "the frame isn't masked" if self._mask else "the frame is masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise ProtocolFault(PROTOCOL_ERROR, f"the opcode {opcode} has no meaning")
            if first & 0xF0 != FIN or second & 0x7F > MAX_CONTROL:
                raise ProtocolFault(PROTOCOL_ERROR, "a control frame is one of at most 125 bytes, without extension")
        elif opcode > BINARY:
            raise ProtocolFault(PROTOCOL_ERROR, f"the opcode {opcode} has no meaning")
        elif bool(opcode) is bool(self._opcode):
            what = "a message begins within another" if opcode else "there is no message to continue"
            raise ProtocolFault(PROTOCOL_ERROR, what)
        elif first & 0x70 and not (first & 0x70 == RSV1 and opcode and self._deflate is not None):
            raise ProtocolFault(PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed upon that sets it")

    def _check_size(self, size: int) -> None:
        """Refuse a message as soon as a frame's header says that it is too large. Raises `ProtocolFault`."""
        if size >> 63:
            raise ProtocolFault(PROTOCOL_ERROR, "the length of a frame has its highest bit set")
        if (size if self._inflater is not None else size + self._size) > self._max_message:
            raise self._too_big()

    def _too_big(self) -> ProtocolFault:
        return ProtocolFault(TOO_BIG, f"the message is larger than {self._max_message} bytes")

    def _begin_frame(self, first: int) -> None:
        """A frame begins that isn't a whole message by itself."""
        self._final = bool(first & FIN)
        opcode = first & 0x0F
        if opcode:
            self._opcode = opcode
            self._message = bytearray()
            if first & RSV1 and self._deflate is not None:
                self._inflater = self._deflate.inflater()
            if opcode == TEXT:
                self._decoder = _new_decoder()

    def _take_payload(self, data: bytes, at: int, end: int) -> int:
        """Take what is here of a payload that isn't here as a whole."""
        stop = min(at + self._left, end)
        piece, key = data[at:stop], self._key
        self._left -= stop - at
        if key:
            piece = apply_mask(piece, key)
            turn = (stop - at) % 4
            self._key = key[turn:] + key[:turn]
        self._add_piece(piece)
        if not self._left:
            self._left = -1
            self._end_frame()
        return stop

    def _add_piece(self, piece: bytes) -> None:
        """Add a piece to the message, inflated and checked. Raises `ProtocolFault`."""
        message = self._message
        if message is None or self.discarding:
            return
        if self._inflater is not None:
            piece = self._inflate(self._inflater, piece)
        self._size += len(piece)
        if self._decoder is not None:
            try:
                self._decoder.decode(piece)
            except UnicodeDecodeError:
                raise _not_utf8() from None
        message += piece

    def _inflate(self, inflater: Inflater, piece: bytes) -> bytes:
        try:
            inflated = inflater.inflate(piece, self._max_message - self._size)
        except zlib.error:
            raise ProtocolFault(INVALID_DATA, "the message can't be inflated") from None
        if inflated is None:
            raise self._too_big()
        return inflated

    def _end_frame(self) -> None:
        """A frame has ended that wasn't a whole message by itself; maybe the message with it."""
        message = self._message
        if not self._final or message is None:
            return
        if self.discarding:
            self._forget_message()
            return
        if self._inflater is not None:
            self._add_piece(TAIL)
        size = len(message)
        whole = _decoded(message) if self._opcode == TEXT else bytes(message)
        self._forget_message()
        self._add_message(whole, size)

    def _forget_message(self) -> None:
        self._message = self._decoder = self._inflater = None
        self._opcode = self._size = 0

    def _add_message(self, message: Message, size: int) -> None:
        if not self.discarding:
            self.messages.append(message)
            self.received += 1
            self._waiting += size

    def _take_control(self, opcode: int, payload: bytes) -> None:
        """Take a control frame (RFC 6455, 5.5)."""
        if opcode == PING:
            if not self.discarding:
                self.replies.append(serialize(FIN | PONG, payload))
        elif opcode == PONG:
            self.pongs += 1
        else:
            self.ended = _close_of(payload)
            self._forget_message()


_WHOLE_TEXT, _WHOLE_BINARY = FIN | TEXT, FIN | BINARY


def _decoded(payload: bytes | bytearray) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise _not_utf8() from None


def _not_utf8() -> ProtocolFault:
    return ProtocolFault(INVALID_DATA, "the text is not UTF-8")


def _close_of(payload: bytes) -> Close:
    """What a close frame says (RFC 6455, 5.5.1). Raises `ProtocolFault`."""
    if not payload:
        return Close(NO_STATUS)
    if len(payload) == 1:
        raise ProtocolFault(PROTOCOL_ERROR, "the code of a close has two bytes")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable(code):
        raise ProtocolFault(PROTOCOL_ERROR, f"{code} is no code of a close frame")
    return Close(code, _decoded(payload[2:]))
