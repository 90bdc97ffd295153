"""What other frameworks call the parts of a request, and what is to be written here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_HERE = {
    "GET": "query",
    "POST": "form()",
    "FILES": "form().files",
    "META": "headers, client or scheme",
    "COOKIES": "cookies",
    "args": "query",
    "query_params": "query",
    "path_params": "params",
    "view_args": "params",
    "match_info": "params",
    "rel_url": "path and query",
    "url": "path and query_string, and scheme and host for the rest of it",
    "base_url": "scheme, host and path",
    "url_root": "scheme and host",
    "host_url": "scheme and host",
    "full_path": "path and query_string",
    "files": "form().files",
    "values": "query, or form()",
    "data": "body",
    "get_data": "body",
    "text": "body.decode()",
    "content": "body",
    "read": "body",
    "get_json": "json()",
    "is_json": "headers.get('Content-Type')",
    "content_type": "headers.get('Content-Type')",
    "mimetype": "headers.get('Content-Type')",
    "content_length": "headers.get('Content-Length', type=int)",
    "authorization": "headers.get('Authorization')",
    "user_agent": "headers.get('User-Agent')",
    "referrer": "headers.get('Referer')",
    "remote_addr": "client[0]",
    "remote": "client[0]",
    "is_secure": "scheme == 'https'",
    "user": "state, where a before hook notes it",
    "session": "cookies, and state for what a before hook finds by them",
    "app": "the Routes, whose state is routes.state",
    "url_for": "routes.url_for",
}


def advice(name: str, known: Iterable[str]) -> str:
    """What is to be used in place of a name of a request's that there isn't; empty: nobody knows."""
    if name in _HERE:
        return f": use {_HERE[name]}"
    near = difflib.get_close_matches(name, [other for other in known if not other.startswith("_")], 1)
    return f": is it {near[0]}?" if near else ""
