"""The scope of a request (ASGI HTTP 2.5, "HTTP Connection Scope"), built straight from what the parser has.

Laws:

- Client and scheme are what `Request` says they are, by the word of trusted proxies.
- All of a scope is the application's to change: nothing of it is another request's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from hypoll.protocol.bounded import Bounded
from hypoll.protocol.header_section import HeaderSection, ScopeParts
from hypoll.protocol.messages import Request
from hypoll.protocol.peer import UNIX_CLIENT, UNKNOWN_CLIENT

Scope = dict[str, Any]

ASGI_VERSION = "3.0"

SPEC_VERSION = "2.3"
"""The newest version of the HTTP specification by which frameworks listen for `http.disconnect` while they stream.

From 2.4 on Starlette only waits for `send` to raise, so that a stream which waits for its next piece outlives its
client. `send` raises all the same.
"""

_NOWHERE = (UNIX_CLIENT[0], UNKNOWN_CLIENT[0])


_names = Bounded[str, bytes](lambda name: name.encode("latin-1"), 1024)
"""Names of fields in bytes: scopes that stay for long, as of WebSockets, share them."""


class Scopes:
    """Makes the scopes of one application.

    Args:
        root_path: the path at which the application is mounted; empty: at the root.
        state: what the lifespan has put there, of which each request gets a shallow copy.
        early_hints: whether the application may send interim responses of status 103.
    """

    def __init__(self, root_path: str, state: dict[str, Any], *, early_hints: bool = False) -> None:
        self._root_path = root_path
        self._state = state
        self._early_hints = early_hints
        names = ("asgi", "method", "scheme", "path", "raw_path", "query_string", "headers", "client", "server")
        self._template: Scope = {
            "type": "http",
            "http_version": "1.1",
            "root_path": root_path,
            **dict.fromkeys((*names, "state", "extensions")),
        }

    def of(self, request: Request, tls: Mapping[str, Any] | None = None) -> Scope:
        """The scope of a request. tls: of its connection (ASGI TLS 0.2); None: it is a plain one."""
        # Most requests are answered from here: a copy of the template costs less than a dict of so many names.
        scope = self._template.copy()
        raw_path, query = request.target, b""
        # 63 is the question mark, 37 the percent sign: `in` is faster with a number.
        if 63 in raw_path:
            raw_path, _, query = raw_path.partition(b"?")
        path = (unquote_to_bytes(raw_path) if 37 in raw_path else raw_path).decode("utf-8", "replace")
        root_path = self._root_path
        if root_path and path[0] == "/" and not _is_below(path, root_path):
            path = root_path + path  # a proxy has taken it away
        peer = request.peer
        fields, client, scheme = request.header_section.scope_parts or scope_parts_of(request)
        if client is None:
            client = peer.client
        server = peer.server
        extensions: dict[str, Any] = {
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.trailers": {},
        }
        if self._early_hints:
            extensions["http.response.early_hint"] = {}
        if tls is not None:
            extensions["tls"] = dict(tls)
        if not request.minor:
            scope["http_version"] = "1.0"
        scope["asgi"] = {"version": ASGI_VERSION, "spec_version": SPEC_VERSION}
        scope["method"] = request.method
        scope["scheme"] = scheme or peer.scheme
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = (
            fields.copy() if request.authority is None else _with_host(fields, request.authority.encode("latin-1"))
        )
        scope["client"] = None if client[0] in _NOWHERE else client
        scope["server"] = server if server[0] else None
        scope["state"] = self._state.copy()
        scope["extensions"] = extensions
        return scope


def scope_parts_of(request: Request) -> ScopeParts:
    """What scopes say about a header section: its fields, and client and scheme where a trusted proxy names them.

    It is kept with the section: a client repeats itself.
    """
    section, origin = request.header_section, request._origin
    if section.scope_parts is None:
        section.scope_parts = fields_of(section), origin.client, origin.scheme
    return section.scope_parts


def fields_of(section: HeaderSection) -> list[tuple[bytes, bytes]]:
    """(lower-case name, value) of each field line, in the order received."""
    if section._fields is not None or not section.block:
        return [(_names[name], value.encode("latin-1")) for name, value in section.fields]
    fields = []
    for line in section.block.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def _with_host(fields: list[tuple[bytes, bytes]], authority: bytes) -> list[tuple[bytes, bytes]]:
    """The fields with the host of an absolute-form target in place of the Host field's (RFC 9112, 3.2.2)."""
    return [(b"host", authority), *(field for field in fields if field[0] != b"host")]


def _is_below(path: str, root_path: str) -> bool:
    return path.startswith(root_path) and path[len(root_path) : len(root_path) + 1] in ("", "/")
