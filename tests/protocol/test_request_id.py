"""The names of requests."""

from __future__ import annotations

import os
import re
import threading

import pytest

from hypoll.protocol import request_id
from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import Request
from hypoll.protocol.request_id import new_id, trace_id

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def given_id(*fields: tuple[str, str]) -> str | None:
    """The id that header fields give to a request; None: it got one of its own."""
    name = Request("GET", b"/", HeaderSection(fields)).id
    return name if any(name in value for _, value in fields) else None


@pytest.mark.parametrize(
    "value", ["a", "7", "0" * 128, "b3c9-4f_2", "Root=1-67891233-abcdef", "A/B+c==", "x.y~z:@", "f" * 32]
)
def test_a_valid_request_id_is_taken_over(value):
    fields = (("host", "a"), ("x-request-id", value), ("accept", "*/*"))
    assert given_id(*fields) == value


@pytest.mark.parametrize(
    "value",
    ["", " ", "a b", "a,b", "<b>", "a;b", "{}", "0" * 129, 'a"b', "a\tb", "a\n", "\x1b[31m", "\x00", "é", "a" * 65536],
    ids=lambda value: repr(value)[:20],
)
def test_another_request_id_is_ignored(value):
    fields = (("x-request-id", value),)
    assert given_id(*fields) is None


@pytest.mark.parametrize(
    ("value", "trace"),
    [
        (VALID, TRACE),
        (f"00-{TRACE}-{PARENT}-ff", TRACE),
        (f"cc-{TRACE}-{PARENT}-01", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", TRACE),
        (f"cc-{TRACE}-{PARENT}-01.what", None),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"00-{TRACE}-{PARENT}-01-", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"0-{TRACE}-{PARENT}-01", None),
        (f"00-{TRACE[1:]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT[1:]}-01", None),
        (f"00-{TRACE}-{PARENT}-1", None),
        (f"00-{TRACE}-{PARENT}", None),
        (f" {VALID}", None),
        (f"{VALID}\n", None),
        (f"00_{TRACE}_{PARENT}_01", None),
        ("", None),
        ("0" * 65536, None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_traceparent(value, trace):
    if value == value.strip():  # no field's value has blanks around it
        assert given_id(("traceparent", value)) == trace
    assert trace_id(value.encode()) == (trace and trace.encode())


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ((), None),
        ((("host", "a"), ("request-id", "b")), None),
        ((("x-request-id", "mine"), ("traceparent", VALID)), "mine"),
        ((("traceparent", VALID), ("x-request-id", "mine")), "mine"),
        ((("traceparent", VALID), ("x-request-id", "not valid")), TRACE),
        ((("x-request-id", "one"), ("x-request-id", "two")), None),
        ((("x-request-id", "one"), ("x-request-id", "two"), ("traceparent", VALID)), TRACE),
        ((("traceparent", VALID), ("traceparent", VALID)), None),
    ],
)
def test_which_field_names_a_request(fields, given):
    assert given_id(*fields) == given


def test_new_names_differ_when_the_count_is_over_and_between_threads(monkeypatch):
    monkeypatch.setattr(request_id, "_BLOCKS", 3)
    monkeypatch.setattr(request_id, "_DIGITS", request_id._DIGITS[:3])
    request_id._renew()
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_id() for _ in range(100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 400
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in made)
    monkeypatch.undo()
    request_id._renew()


def test_a_forked_process_makes_other_names():
    reader, writer = os.pipe()
    new_id()
    pid = os.fork()
    if not pid:
        os.write(writer, new_id().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    child = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert child[:10] != new_id()[:10]
