"""The opening handshake (RFC 6455, 4.2): what a request asks for, and the head of the answer.

Law: nothing of an answer is the client's word but what was offered and chosen.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from hypoll.protocol.fields import HeaderSource, lines_of
from hypoll.protocol.messages import HTTPError, Request
from hypoll.protocol.serializer import BEGINNINGS, begin_head
from hypoll.websocket.deflate import Deflate, Extensions, negotiate

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

VERSION = "13"

UPGRADE = {"Upgrade": "websocket", "Sec-WebSocket-Version": VERSION}
"""The fields of 426, which say what would be answered otherwise (RFC 6455, 4.4; RFC 9110, 15.5.22)."""

_RESERVED = {
    "connection", "content-length", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol",
    "transfer-encoding", "upgrade",
}  # fmt: skip
"""Fields of the answer that only the handshake itself sets."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PARAMETER = re.compile(
    r"""([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*=[ \t]*(?:"([^"\\]*)"|([!#$%&'*+\-.^_`|~0-9A-Za-z]+)))?"""
)

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Handshake(NamedTuple):
    """What a client asks for.

    Attributes:
        accept: the value of the answer's Sec-WebSocket-Accept.
        subprotocols: those that it offers, its favourite first.
        deflate: how messages will be deflated; None: not at all.
    """

    accept: str
    subprotocols: list[str]
    deflate: Deflate | None


def read_handshake(request: Request, *, compress: bool = True) -> Handshake:
    """What a request asks for.

    Args:
        request: it may be any: what isn't for a WebSocket is refused, too.
        compress: whether permessage-deflate may be agreed upon.

    Raises:
        HTTPError: 426 for what is no handshake, or one of another version; 400 for a malformed one; 503 when the
            server goes away.
    """
    if request.upgrade != "websocket":
        detail = "this path speaks WebSocket: it takes GET of HTTP/1.1, without content, with Upgrade: websocket"
        raise HTTPError(426, detail, UPGRADE)
    versions = _values(request, "sec-websocket-version")
    if versions != [VERSION]:
        raise HTTPError(426, f"of the WebSocket protocol only version {VERSION} is spoken", UPGRADE)
    keys = _values(request, "sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HTTPError(400, "Sec-WebSocket-Key must be there once, and be 16 bytes in base64")
    if request.draining:
        raise HTTPError(503, "the server is going away: try again", {"Retry-After": "1"})
    accept = base64.b64encode(hashlib.sha1(keys[0].encode() + _GUID, usedforsecurity=False).digest()).decode()
    return Handshake(accept, _read_subprotocols(request), negotiate(_read_extensions(request)) if compress else None)


def _values(request: Request, name: str) -> list[str]:
    return [value for found, value in request.header_section.fields if found == name]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _read_subprotocols(request: Request) -> list[str]:
    """Those that are offered. Raises `HTTPError` 400."""
    offered = [name.strip(" \t") for value in _values(request, "sec-websocket-protocol") for name in value.split(",")]
    offered = [name for name in offered if name]
    if not all(_TOKEN.fullmatch(name) for name in offered):
        raise HTTPError(400, "Sec-WebSocket-Protocol must be a list of tokens")
    return offered


def _read_extensions(request: Request) -> Extensions:
    """The extensions that are offered, with their parameters (RFC 6455, 9.1). Raises `HTTPError` 400."""
    extensions: Extensions = []
    for value in _values(request, "sec-websocket-extensions"):
        for offer in value.split(","):
            if offer.strip(" \t"):
                extensions.append(_read_extension(offer))
    return extensions


def _read_extension(offer: str) -> tuple[str, dict[str, str | None]]:
    name, *rest = (part.strip(" \t") for part in offer.split(";"))
    parameters: dict[str, str | None] = {}
    matches = [_PARAMETER.fullmatch(part) for part in rest]
    if not _TOKEN.fullmatch(name) or not all(matches):
        raise HTTPError(400, "Sec-WebSocket-Extensions is malformed")
    for match in matches:
        assert match is not None
        key, value = match[1].lower(), match[3] if match[2] is None else match[2]
        if key in parameters:
            return name, {"": None}  # which no extension has: the offer is declined (RFC 7692, 7.1)
        parameters[key] = value
    return name, parameters


def choose_subprotocol(wanted: Sequence[str], offered: Sequence[str]) -> str | None:
    """The first of those that the application speaks that the client offers; None: they have none in common."""
    return next((name for name in wanted if name in offered), None)


def is_same_origin(request: Request, origins: Iterable[str] | None) -> bool:
    """Whether a browser's page may open this (RFC 6455, 10.2). A client that names no Origin is no page.

    Args:
        request: the handshake's.
        origins: those whose pages may, as in `https://example.org`; "*": any. None: those of the request's own host,
            by the word of trusted proxies.
    """
    found = _values(request, "origin")
    if not found:
        return True
    if origins is not None:
        allowed = [origin.lower().rstrip("/") for origin in origins]
        return "*" in allowed or (len(found) == 1 and found[0].lower() in allowed)
    try:
        origin = urlsplit(found[0])
        own = urlsplit(f"//{request.host}")
        default = _PORTS.get(origin.scheme)
        same = (origin.hostname, origin.port or default) == (own.hostname, own.port or default)
    except ValueError:
        return False
    return same and len(found) == 1 and bool(origin.hostname)


def encode_answer(handshake: Handshake, subprotocol: str | None, headers: HeaderSource | None) -> bytes:
    """The head of the answer 101.

    Args:
        handshake: what was asked for.
        subprotocol: the one that is spoken; None: none.
        headers: further fields.

    Raises:
        ValueError: For a subprotocol that the client didn't offer, and fields that can't be sent.
        TypeError: For what is no str.
    """
    lines = ["Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ", handshake.accept, "\r\n"]
    if subprotocol is not None:
        if subprotocol not in handshake.subprotocols:
            raise ValueError(f"the client doesn't offer the subprotocol {subprotocol!r}: {handshake.subprotocols}")
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}\r\n")
    if handshake.deflate is not None:
        lines.append(f"Sec-WebSocket-Extensions: {handshake.deflate.response}\r\n")
    for name, value in lines_of(headers):
        if name.lower() in _RESERVED:
            raise ValueError(f"{name} is the handshake's own to set")
        lines.append(f"{name}: {value}\r\n")
    beginning = BEGINNINGS.get(101) or begin_head(101)
    return beginning + "".join(lines).encode("latin-1") + b"\r\n"
