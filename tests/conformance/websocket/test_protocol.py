"""Each case of the corpus, however it is cut; and the same by another library."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import OPEN, SERVER
from websockets.protocol import Protocol as Other

from hypoll.websocket.deflate import Deflate
from hypoll.websocket.frames import Close
from hypoll.websocket.protocol import MessageParser
from tests.conformance.websocket.cases import CASES, MAX_MESSAGE, Case
from tests.support.frames import (
    BEGIN_BINARY,
    BEGIN_TEXT,
    BINARY,
    CLOSE,
    KEY,
    LAST,
    MORE,
    PING,
    PONG,
    TEXT,
    frame,
    frames_in,
)

DEFLATE = Deflate(12, 15, "")

ALL_SPLITS = 200
"""Bytes of a case up to which it is split at every offset."""

OTHERWISE = {
    "control-length-of-64-bits": "1009: it is too large, too",
    "control-ping-length-of-8-bytes": "the other takes the long form of a short length",
    "deflated-bomb-behind-a-final-block": "the other takes what is behind a final block for nothing",
    "deflated-final-blocks-flood": "the other takes what is behind a final block for nothing",
    "deflated-malformed": "1002",
    "utf-8-in-an-unfinished-frame": "text is judged when its frame is whole",
    "utf-8-in-a-later-fragment": "1007 only at the end",
    "utf-8-in-the-first-fragment": "the same",
}
"""Cases that the other library answers otherwise."""


def outcome(case: Case, pieces: Iterable[bytes], max_queue: int = 1000) -> tuple[object, ...]:
    parser = MessageParser(MAX_MESSAGE, max_queue, DEFLATE if case.deflate else None)
    messages: list[str | bytes] = []
    replies: list[bytes] = []
    for piece in pieces:
        parser.feed(piece)
        while True:
            messages += parser.messages
            replies += parser.replies
            taken = bool(parser.messages)
            parser.messages.clear()
            parser.replies.clear()
            if not taken:
                break
            parser.feed(b"")
    pongs = frames_in(b"".join(replies))
    assert all(pong.first == PONG for pong in pongs)
    ended = parser.ended
    return tuple(messages), tuple(pong.payload for pong in pongs), ended and ended.code, parser.failed


def expected(case: Case) -> tuple[object, ...]:
    return case.messages, case.pongs, case.code, case.fault


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_case_however_it_is_cut(case):
    """In one piece, byte by byte, in two, and in one with many messages before it."""
    assert outcome(case, [case.raw]) == expected(case)
    raw = case.raw
    size = 1 if len(raw) < 2000 else 997
    assert outcome(case, [raw[at : at + size] for at in range(0, len(raw), size)]) == expected(case), "byte by byte"
    offsets = range(1, len(raw)) if len(raw) <= ALL_SPLITS else [*range(1, 20), len(raw) // 2, len(raw) - 1]
    for offset in offsets:
        assert outcome(case, [raw[:offset], raw[offset:]]) == expected(case), offset
    check_behind_many_messages_in_one_write(case)


def check_behind_many_messages_in_one_write(case: Case) -> None:
    before = b"".join(CASES[0].raw for _ in range(100))
    messages, *rest = outcome(case, [before + case.raw], max_queue=3)
    assert messages == CASES[0].messages * 100 + case.messages
    assert tuple(rest) == expected(case)[1:]


def outcome_of_websockets(raw: bytes, deflate: bool = False) -> tuple[object, ...]:
    """What the library `websockets` makes of the bytes: messages, pongs, and the code of the end."""
    other = Other(SERVER, state=OPEN, max_size=MAX_MESSAGE)
    if deflate:
        other.extensions = [PerMessageDeflate(True, True, 15, 15)]
    other.receive_data(raw)
    messages: list[str | bytes] = []
    parts: list[bytes] = []
    text = failed = False
    for event in other.events_received():
        opcode, data, fin = event.opcode, bytes(event.data), event.fin  # type: ignore[union-attr]
        if opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and not failed:
            text = opcode is Opcode.TEXT or (text and opcode is Opcode.CONT)
            parts.append(data)
            if fin:
                whole = b"".join(parts)
                try:
                    messages.append(whole.decode() if text else whole)
                except UnicodeDecodeError:  # which it leaves to who takes the frames
                    failed = True
                parts = []
    pongs = tuple(one.payload for one in frames_in(b"".join(other.data_to_send())) if one.first == PONG)
    received = other.close_rcvd
    sent = other.close_sent if received is None else None
    code = received.code if received is not None else sent and sent.code
    return tuple(messages), pongs, 1007 if failed else code


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in OTHERWISE], ids=lambda case: case.name)
def test_websockets_takes_it_the_same_way(case):
    messages, pongs, code = outcome_of_websockets(case.raw, case.deflate)
    assert (messages, code) == (case.messages, case.code)
    assert pongs == case.pongs or case.code == 1007


PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=10).map(str.encode),
    st.sampled_from([b"", b"x" * 125, b"y" * 126, b"z" * 300]),
)
FIRST_BYTES = st.sampled_from(
    [TEXT] * 3 + [BINARY] * 6 + [PING] * 4 + [PONG, BEGIN_TEXT, CLOSE, 0x83, 0x8B, TEXT | 0x40, PING & 0x7F]
    + [BEGIN_BINARY] * 3 + [MORE] * 4 + [LAST] * 4
)  # fmt: skip
FRAMES = st.builds(frame, FIRST_BYTES, PAYLOADS, st.sampled_from([KEY, KEY, KEY, KEY, b"\0\0\0\0", b"abcd", None]))


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(0, 400), max_size=5))
def test_any_frames_are_taken_as_websockets_takes_them(frames, cuts):
    """But that text is judged as it comes: where one has found that, and the other something else behind it."""
    raw = b"".join(frames)
    offsets = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    pieces = [raw[begin:end] for begin, end in pairwise(offsets)]
    case = Case("drawn", "", raw)
    messages, pongs, code, _ = outcome(case, pieces)
    assert outcome(case, [raw]) == outcome(case, pieces)
    their_messages, their_pongs, their_code = outcome_of_websockets(raw)
    if code == 1007:
        assert their_code in (1007, 1002, 1009, None)
        assert messages == their_messages[: len(messages)]  # type: ignore[index, arg-type]
    elif (code, their_code) == (1002, 1007):
        assert any(one[0] & 15 == 8 for one in frames), "a close with two faults: its code, and its reason's UTF-8"
        assert (messages, pongs) == (their_messages, their_pongs)
    else:
        assert (messages, pongs, code) == (their_messages, their_pongs, their_code)


def test_the_reason_of_a_close_is_what_was_sent():
    parser = MessageParser(MAX_MESSAGE)
    (case,) = [case for case in CASES if case.name == "close-normal"]
    parser.feed(case.raw)
    assert parser.ended == Close(1000, "bye")
