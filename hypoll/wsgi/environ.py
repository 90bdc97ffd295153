"""The environment of a request (PEP 3333, RFC 3875): for WSGI applications, and for gunicorn's hooks and access log.

Laws:

- Client, scheme, host and port are what `Request` says they are, by the word of trusted proxies. A client that isn't
  known, or has no address, is an empty REMOTE_ADDR.
- A field that could be taken for another is not in it.
- What requests with equal header sections have in common is built once; nobody sees another's.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from hypoll.protocol.header_section import HeaderSection
from hypoll.protocol.messages import HTTPError, Request
from hypoll.protocol.peer import NOBODY, UNKNOWN_CLIENT, Client, Peer

Environ = dict[str, Any]

NO_NAME = "localhost"
"""SERVER_NAME where neither the client nor the listener has a name for the server."""

_PORTS = {"http": "80", "https": "443"}
_UNKNOWN_HOST = UNKNOWN_CLIENT[0]
_NONE: tuple[Any, Peer, Environ] = (None, NOBODY, {})


class Environs:
    """Makes the environments of one application.

    Args:
        base: what they begin with.
        script_name: the path below which the application is, as `/shop`; empty: all paths are its own.
    """

    def __init__(self, base: Environ, script_name: str = "") -> None:
        self._base = base
        self._script_name = script_name

    def of(self, request: Request) -> Environ:
        """The environment of a request, without its body. Raises `HTTPError` 404 for a path outside `script_name`."""
        section, peer = request.header_section, request.peer
        owner, other, template = section.environ or _NONE
        # Of a peer all but its address counts here.
        if owner is not self or (other is not peer and other[1:] != peer[1:]):
            template = self._template(request)
            section.environ = self, peer, template
        environ = template.copy()
        target = request.target.decode("latin-1")
        path, _, query = target.partition("?")
        if "%" in path:
            path = unquote_to_bytes(path).decode("latin-1")  # bytes as characters: PEP 3333, "Unicode Issues"
        environ["REQUEST_METHOD"] = request.method
        environ["PATH_INFO"] = self._below(path) if self._script_name else path
        environ["QUERY_STRING"] = query
        environ["RAW_URI"] = environ["REQUEST_URI"] = target
        if "REMOTE_ADDR" not in template:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = _remote(peer.client)
        if request.authority is not None:
            environ |= _server(request, request.host)
        if not request.minor:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        return environ

    def _template(self, request: Request) -> Environ:
        """What the environments of requests from such peers, with equal header sections, have in common."""
        origin, section = request._origin, request.header_section
        host = (section.host or "") if origin.host is None else origin.host
        template = self._base | _variables(section) | _server(request, host)
        template["wsgi.url_scheme"] = request.scheme
        if origin.client is not None:
            template["REMOTE_ADDR"], template["REMOTE_PORT"] = _remote(origin.client)
        return template

    def _below(self, path: str) -> str:
        below = path.removeprefix(self._script_name)
        if below == path or below[:1] not in ("", "/"):
            raise HTTPError(404, f"the application is below {self._script_name}")
        return below


def _remote(client: Client) -> tuple[str, str]:
    host, port = client
    return "" if host == _UNKNOWN_HOST else host, str(port)


def _server(request: Request, host: str) -> dict[str, str]:
    """HTTP_HOST, SERVER_NAME and SERVER_PORT: the server as the client named it (RFC 3875, 4.1.14 and 4.1.15).

    What it doesn't name is the listener's. A port that isn't named beside a name is the scheme's, as in the client's
    URI, unless a proxy says it.
    """
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    address, listening = request.peer.server
    if not port:
        known_port = request._origin.port or (0 if name else listening)
        port = str(known_port) if known_port else _PORTS[request.scheme]
    found = {"SERVER_NAME": name or (f"[{address}]" if ":" in address else address) or NO_NAME, "SERVER_PORT": port}
    if host:
        found["HTTP_HOST"] = host
    return found


def _variables(section: HeaderSection) -> dict[str, str]:
    """The fields of a header section as variables (RFC 3875, 4.1.18).

    One with an underscore in its name is left out: nobody could tell it from the one with a dash, which a proxy may
    have set or removed for the application to rely on.
    """
    variables: dict[str, str] = {}
    for name, value in unambiguous(section.fields):
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        if key in variables:
            value = variables[key] + ("; " if name == "cookie" else ", ") + value
        variables[key] = value
    if "CONTENT_LENGTH" in variables:
        variables["CONTENT_LENGTH"] = str(section.length)
    return variables


def unambiguous(fields: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The fields that stay apart where dashes become underscores."""
    return [field for field in fields if "_" not in field[0]]
