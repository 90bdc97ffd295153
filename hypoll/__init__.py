"""hypoll: an HTTP/1.1 microservice server for Linux in pure Python, over raw epoll."""

from __future__ import annotations

import importlib
from types import ModuleType

import hypoll.imports  # noqa: F401 - first: it keeps the application's modules away from the others

# isort: split
from hypoll.app import RouteError, Routes
from hypoll.files import File
from hypoll.http import ClientDisconnect, Headers, HTTPError, MultiDict, Request, Response
from hypoll.process import run
from hypoll.sse import Event, sse
from hypoll.version import __version__


def __getattr__(name: str) -> ModuleType:
    if name == "testing":  # imported when asked for: it needs requests, which serving doesn't
        return importlib.import_module("hypoll.testing")
    raise AttributeError(f"module 'hypoll' has no attribute {name!r}")


__all__ = [
    "ClientDisconnect",
    "Event",
    "File",
    "HTTPError",
    "Headers",
    "MultiDict",
    "Request",
    "Response",
    "RouteError",
    "Routes",
    "__version__",
    "run",
    "sse",
]
