"""hypoll: an HTTP/1.1 microservice server for Linux in pure Python, over raw epoll."""

from __future__ import annotations

from hypoll.app import RouteError, Routes
from hypoll.http import Headers, HTTPError, MultiDict, Request, Response
from hypoll.process import run
from hypoll.version import __version__

__all__ = ["HTTPError", "Headers", "MultiDict", "Request", "Response", "RouteError", "Routes", "__version__", "run"]
