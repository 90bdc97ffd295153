"""hypoll: an HTTP/1.1 microservice server for Linux in pure Python, over raw epoll.

A public name is imported when it is first asked for: a program that only declares routes loads no server.
"""

from __future__ import annotations

import importlib

import hypoll.deploy.imports  # noqa: F401 - first: it keeps the application's modules away from the others

# isort: split
TYPE_CHECKING = False
if TYPE_CHECKING:  # typing isn't loaded by the interpreter itself
    from hypoll import testing as testing
    from hypoll.app import RouteError, Routes
    from hypoll.http import ClientDisconnect, Headers, HTTPError, MultiDict, Request, Response
    from hypoll.protocol.fields import ResponseHeaders
    from hypoll.protocol.files import File
    from hypoll.protocol.forms import AsyncFormPart, Form, FormPart, StoredPart
    from hypoll.protocol.multidict import RequestFields
    from hypoll.protocol.state import State
    from hypoll.runner import run
    from hypoll.server.event_hub import EventHub
    from hypoll.version import __version__
    from hypoll.web.auth import api_key, bearer
    from hypoll.web.events import Event, sse
    from hypoll.web.responses import html, redirect
else:
    _HOMES = {
        "AsyncFormPart": "protocol.forms",
        "ClientDisconnect": "http",
        "Event": "web.events",
        "EventHub": "server.event_hub",
        "File": "protocol.files",
        "Form": "protocol.forms",
        "FormPart": "protocol.forms",
        "HTTPError": "http",
        "Headers": "http",
        "MultiDict": "http",
        "Request": "http",
        "RequestFields": "protocol.multidict",
        "Response": "http",
        "ResponseHeaders": "protocol.fields",
        "RouteError": "app",
        "Routes": "app",
        "State": "protocol.state",
        "StoredPart": "protocol.forms",
        "__version__": "version",
        "api_key": "web.auth",
        "bearer": "web.auth",
        "html": "web.responses",
        "redirect": "web.responses",
        "run": "runner",
        "sse": "web.events",
    }
    """The module below `hypoll` that each public name comes from."""

    def __getattr__(name: str) -> object:
        if name == "testing":  # a module, which needs requests: serving doesn't
            return importlib.import_module("hypoll.testing")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'hypoll' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"hypoll.{home}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)


__all__ = [
    "AsyncFormPart",
    "ClientDisconnect",
    "Event",
    "EventHub",
    "File",
    "Form",
    "FormPart",
    "HTTPError",
    "Headers",
    "MultiDict",
    "Request",
    "RequestFields",
    "Response",
    "ResponseHeaders",
    "RouteError",
    "Routes",
    "State",
    "StoredPart",
    "__version__",
    "api_key",
    "bearer",
    "html",
    "redirect",
    "run",
    "sse",
]
