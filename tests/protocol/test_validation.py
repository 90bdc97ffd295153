"""Checking a head: the pure functions, where the corpus doesn't look at what they give."""

from __future__ import annotations

import re
import time

import pytest

from hypoll.protocol.messages import HTTPError
from hypoll.protocol.validation import (
    METHODS,
    PeerError,
    RequestLine,
    check_host,
    check_line,
    parse_fields,
    parse_header_section,
    parse_request_line,
    parse_target,
)


def block(*lines: str) -> bytes:
    return "".join(line + "\r\n" for line in (*lines, "")).encode("latin-1")


@pytest.mark.parametrize("method", METHODS.values())
def test_every_registered_method_is_taken(method: str) -> None:
    target = b"*" if method == "OPTIONS" else b"/"
    assert parse_request_line(method.encode() + b" " + target + b" HTTP/1.1") == RequestLine(method, target, 1, None)


@pytest.mark.parametrize("method", ["CONNECT", "PRI", "PLAY", "GETT", "get"])
def test_a_refused_method_is_named(method: str) -> None:
    with pytest.raises(HTTPError, match=f"501 Not Implemented: the method {method} is not implemented"):
        parse_request_line(method.encode() + b" / HTTP/1.1")


def test_request_line_parts() -> None:
    assert parse_request_line(b"GET /a?b HTTP/1.0") == RequestLine("GET", b"/a?b", 0, None)
    assert parse_request_line(b"PUT http://h:1/a?b HTTP/1.1") == RequestLine("PUT", b"/a?b", 1, "h:1")


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/9.9"])
def test_a_refused_version_is_named(version: bytes) -> None:
    with pytest.raises(HTTPError, match=re.escape(f"{version.decode()} is not served")) as caught:
        parse_request_line(b"GET / " + version)
    assert caught.value.status == 505


def test_preface_of_http2_is_no_request() -> None:
    with pytest.raises(PeerError):
        parse_request_line(b"PRI * HTTP/2.0")


def test_only_printable_ascii_in_a_line() -> None:
    def is_refused(code: int) -> bool:
        try:
            check_line(b"GET /%c" % code)
        except HTTPError as error:
            return error.status == 400
        return False

    assert [code for code in range(0x100) if is_refused(code)] == [*range(0x20), *range(0x7F, 0x100)]


def test_a_line_may_be_anything_printable() -> None:
    check_line(bytes(range(0x20, 0x7F)))
    check_line(b"")


@pytest.mark.parametrize(
    ("method", "target", "origin", "authority"),
    [
        ("GET", b"/", b"/", None),
        ("OPTIONS", b"*", b"*", None),
        ("GET", b"http://h", b"/", "h"),
        ("OPTIONS", b"http://h", b"*", "h"),
        ("OPTIONS", b"http://h/", b"/", "h"),
        ("GET", b"HTTPS://h?a/b", b"/?a/b", "h"),
        ("GET", b"http://[::1]:8/x", b"/x", "[::1]:8"),
    ],
)
def test_target_in_origin_form(method: str, target: bytes, origin: bytes, authority: str | None) -> None:
    assert parse_target(method, target) == (origin, authority)


@pytest.mark.parametrize(
    "host", ["h", "a.b:1", "a.b:65535", "[::1]", "[::1]:1", "[v7.x]", "", ":1", "a:", "%41", "a_b~!"]
)
def test_hosts_taken(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host", ["a b", "a,b", "a:65536", "a:000001", "a:x", "[", "]", "[]", "[::1", "[::%0]", "[v1]", "a/"]
)
def test_hosts_refused(host: str) -> None:
    with pytest.raises(HTTPError, match="400"):
        check_host(host)


@pytest.mark.parametrize(
    "host", ["a:" * 8_000, "[" * 16_000, "%" * 16_000, "1" * 16_000 + ":" + "1" * 9, "%41" * 5_000 + "%"]
)
def test_hostile_hosts_are_refused_in_linear_time(host: str) -> None:
    start = time.process_time()
    with pytest.raises(HTTPError):
        check_host(host)
    assert time.process_time() - start < 0.1


def test_section_of_a_plain_request() -> None:
    section = parse_header_section(block("Host: h", "Accept: */*"), 100)
    assert section.fields == (("host", "h"), ("accept", "*/*"))
    assert (section.host, section.length, section.expect) == ("h", None, None)
    assert (section.plain, section.has_no_body) == (True, True)
    assert (section.close, section.keep_alive, section.chunked) == (False, False, False)


@pytest.mark.parametrize(
    ("lines", "plain", "bodiless"),
    [
        (["Host: h"], True, True),
        (["Host: h", "Content-Length: 0"], True, True),
        (["Host: h", "Content-Length: 1"], True, False),
        (["Host: h", "Transfer-Encoding: chunked"], False, False),
        (["Host: h", "Connection: close"], False, True),
        (["Host: h", "Connection: keep-alive"], True, True),
        (["Host: h", "Proxy-Connection: close"], False, True),
        (["Host: h", "Expect: 100-continue"], False, True),
        ([], False, True),
    ],
)
def test_what_may_be_answered_on_the_short_way(lines: list[str], plain: bool, bodiless: bool) -> None:
    section = parse_header_section(block(*lines), 100)
    assert (section.plain, section.has_no_body) == (plain, bodiless)


def test_connection_options_add_up_over_lines() -> None:
    section = parse_header_section(block("Connection: a, Keep-Alive", "Connection: b", "connection: CLOSE , c"), 100)
    assert section.close
    assert section.keep_alive


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("00", 0), ("007", 7), ("0" * 10_000 + "12", 12)])
def test_length_however_it_is_written(value: str, length: int) -> None:
    assert parse_header_section(block(f"Content-Length: {value}"), 100).length == length


def test_expectations_add_up_over_lines() -> None:
    assert parse_header_section(block("Expect: 100-Continue", "Expect: X"), 100).expect == "100-continue, x"


def test_fields_are_counted() -> None:
    assert len(parse_header_section(block("A: b", "A: b"), 2).fields) == 2
    with pytest.raises(HTTPError, match=r"431 .* more than 2 header fields"):
        parse_header_section(block("A: b", "A: b", "A: b"), 2)


def test_fields_as_received() -> None:
    assert parse_fields(block("A:b", "c: \t d e\t ", "X_Y: \xe9\xff", "E:")) == (
        ("a", "b"),
        ("c", "d e"),
        ("x_y", "\xe9\xff"),
        ("e", ""),
    )
    assert parse_fields(b"\r\n") == ()
