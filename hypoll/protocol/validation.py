"""Checking a request head: what llhttp lets through and RFC 9110 and RFC 9112 don't, as pure functions.

Each takes bytes that llhttp has accepted, or is in the middle of, and gives what the parser needs or raises the
`HTTPError` that names the fault.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

from hypoll.protocol.header_section import HeaderSection, fields_of
from hypoll.protocol.messages import HTTPError, Request

METHODS = {
    name.encode(): name
    for name in """
    ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS
    PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK
    UNSUBSCRIBE
    """.split()  # noqa: SIM905
}
"""The methods that llhttp takes with HTTP/1.1, but CONNECT: no tunnel begins here."""

_PRINTABLE = re.compile(rb"[\x20-\x7e]*")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
BAD_ENCODING = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(.*)", re.DOTALL)
_PLAIN_HOST = re.compile(r"[A-Za-z0-9.\-]+(?::[0-9]{1,4})?")
# RFC 3986, 3.2.2, with the comma left out: it stands where two Host lines were joined.
_HOST = re.compile(r"(?:\[(?P<literal>[^\]]*)\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})*)(?::(?P<port>[0-9]*))?")
_IP_FUTURE = re.compile(r"[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+")


class PeerError(Exception):
    """The peer speaks something to which no HTTP/1.1 answer makes sense: close without one."""


class RequestLine(NamedTuple):
    """A checked request line: the target in origin-form (or `*`), the authority when it was in absolute-form."""

    method: str
    target: bytes
    minor: int
    authority: str | None = None


def check_line(line: bytes) -> None:
    """Hold a request line, or its beginning, against the characters it may have. Raises `HTTPError` 400."""
    if not _PRINTABLE.fullmatch(line):
        raise HTTPError(400, "the request line has a character that is not printable ASCII")


def parse_request_line(line: bytes) -> RequestLine:
    """Check a request line without its CRLF (RFC 9112, 3). Raises `HTTPError` 400, 501 or 505, or `PeerError`."""
    check_line(line)
    method, *rest = line.split(b" ")
    if not _TOKEN.fullmatch(method):
        raise HTTPError(400, "the request line doesn't begin with a method and one space")
    if method == b"PRI" and rest[-1:] == [b"HTTP/2.0"]:
        raise PeerError("an HTTP/2 preface")
    if len(rest) < 2:
        what = "no HTTP version: HTTP/1.1 and HTTP/1.0 are served" if rest else "one word: it is no request"
        raise HTTPError(400, f"the request line has {what}")
    if method not in METHODS:
        raise HTTPError(501, f"the method {method.decode()} is not implemented")
    if len(rest) != 2 or not rest[0]:
        raise HTTPError(400, "the request line is not a method, a target and a version with one space between")
    target, version = rest
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if _VERSION.fullmatch(version):
            raise HTTPError(505, f"{version.decode()} is not served: HTTP/1.1 and HTTP/1.0 are")
        raise HTTPError(400, "the version in the request line is not an HTTP version")
    origin, authority = parse_target(METHODS[method], target)
    return RequestLine(METHODS[method], origin, version[-1] - 48, authority)


def peek_request_line(line: bytes) -> RequestLine | None:
    """What a request line says, for the log, also where it is to be refused. None: it isn't one at all."""
    try:
        return parse_request_line(line)
    except (HTTPError, PeerError):
        method, *rest = line.split(b" ")
        if len(rest) != 2 or not rest[0] or not _TOKEN.fullmatch(method) or not _PRINTABLE.fullmatch(line):
            return None
        return RequestLine(method.decode(), rest[0], 1)


def parse_target(method: str, target: bytes) -> tuple[bytes, str | None]:
    """The target in origin-form and the authority of an absolute one (RFC 9112, 3.2). Raises `HTTPError` 400."""
    if b"#" in target:
        raise HTTPError(400, "the target has a fragment")
    if BAD_ENCODING.search(target):
        raise HTTPError(400, "the target has a % that two hexadecimal digits don't follow")
    if target.startswith(b"/"):
        return target, None
    if target == b"*":
        if method != "OPTIONS":
            raise HTTPError(400, "the target * goes with OPTIONS only")
        return target, None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise HTTPError(400, "the target is neither a path nor an http or https URI")
    authority = absolute[1].decode("latin-1")
    if not authority or authority.startswith(":"):
        raise HTTPError(400, "the target's URI has no host")
    check_host(authority)
    origin = absolute[2]
    if method == "OPTIONS" and not origin:
        return b"*", authority  # of the server as a whole (RFC 9112, 3.2.4)
    return (origin if origin.startswith(b"/") else b"/" + origin), authority


def check_host(value: str) -> None:
    """Hold a Host field or an authority against `uri-host [ ":" port ]` (RFC 9110, 7.2). Raises `HTTPError` 400."""
    if _PLAIN_HOST.fullmatch(value):
        return
    match = _HOST.fullmatch(value)
    if match is None or (match["port"] and int(match["port"][-6:]) > 65535) or len(match["port"] or "") > 5:
        raise HTTPError(400, "the host is not a host name or address with an optional port")
    literal = match["literal"]
    if literal is not None and not _IP_FUTURE.fullmatch(literal):
        try:
            if "%" in literal:
                raise ValueError("a zone means nothing to another machine")
            ipaddress.IPv6Address(literal)
        except ValueError as error:
            raise HTTPError(400, "the host's brackets don't hold an IPv6 address") from error


def parse_header_section(block: bytes, max_headers: int, max_field: int = 0) -> HeaderSection:
    """Check a header section: its field lines and the empty line after them.

    Raises:
        HTTPError: 431 for more fields than `max_headers` and one larger than `max_field` bytes, if that isn't 0; 400
            and 501 for what `_VALIDATORS` refuse.
    """
    if max_field and len(block) > max_field and any(len(line) > max_field for line in block.split(b"\r\n")):
        raise HTTPError(431, f"a header field of the request is larger than {max_field} bytes")
    fields = parse_fields(block)
    if len(fields) > max_headers:
        raise HTTPError(431, f"the request has more than {max_headers} header fields")
    section = HeaderSection(fields)
    codings: list[str] = []
    for name, value in fields:
        if name == "transfer-encoding":
            codings += _options(value)
        elif name in _VALIDATORS:
            _VALIDATORS[name](section, value)
    if codings:
        if codings != ["chunked"]:
            raise HTTPError(501, "of the transfer codings only chunked, by itself, is implemented")
        section.chunked = True
    section.plain = section.host is not None and not (section.close or section.chunked or section.expect)
    return section


def parse_fields(block: bytes) -> tuple[tuple[str, str], ...]:
    """(lower-case name, value) of each field line; llhttp has seen to it that each has a colon and no folding."""
    return fields_of(block[:-4].decode("latin-1").split("\r\n")) if len(block) > 4 else ()


def wants_websocket(request: Request) -> bool:
    """Whether a request asks to go on with the WebSocket protocol (RFC 6455, 4.2.1; RFC 9110, 7.8).

    A server may take no notice of that, and has to in a request of HTTP/1.0.
    """
    fields = request.header_section.fields
    connection = [option for name, value in fields if name == "connection" for option in _options(value)]
    protocols = [option for name, value in fields if name == "upgrade" for option in _options(value)]
    return request.method == "GET" and request.minor == 1 and "upgrade" in connection and "websocket" in protocols


def _validate_host(section: HeaderSection, value: str) -> None:
    if section.host is not None:
        raise HTTPError(400, "the request has more than one Host field")
    check_host(value)
    section.host = value


def _validate_connection(section: HeaderSection, value: str) -> None:
    options = _options(value)
    section.close = section.close or "close" in options
    section.keep_alive = section.keep_alive or "keep-alive" in options


def _options(value: str) -> list[str]:
    return [option.strip(" \t").lower() for option in value.split(",")]


def _validate_expect(section: HeaderSection, value: str) -> None:
    section.expect = value.lower() if section.expect is None else f"{section.expect}, {value.lower()}"


def _validate_length(section: HeaderSection, value: str) -> None:
    # llhttp has seen to it that the number is below 2^64; any number of zeros may stand before it.
    section.length = int(value.lstrip("0") or "0")


def _validate_proxy_connection(section: HeaderSection, value: str) -> None:
    # Means nothing to an origin server, but llhttp parses no message after one that says close here.
    section.close = section.close or "close" in _options(value)


_VALIDATORS: dict[str, Callable[[HeaderSection, str], None]] = {
    "host": _validate_host,
    "connection": _validate_connection,
    "proxy-connection": _validate_proxy_connection,
    "expect": _validate_expect,
    "content-length": _validate_length,
}
