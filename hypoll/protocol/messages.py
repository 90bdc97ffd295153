"""The nouns of HTTP, for all that deals in them: `Request`, `Response`, `HTTPError`."""

from __future__ import annotations

from hypoll.protocol.errors import FAILURES, ClientDisconnect, HTTPError, reason
from hypoll.protocol.request import BodyStore, BodyUsageCount, PlainRequest, Request, StreamedRequest
from hypoll.protocol.response import JSON, Resource, Response, StreamedBody, json_response, problem

__all__ = ["BodyStore", "BodyUsageCount", "PlainRequest", "Request", "StreamedRequest"]
__all__ += ["JSON", "Resource", "Response", "StreamedBody", "json_response", "problem"]
__all__ += ["FAILURES", "ClientDisconnect", "HTTPError", "reason"]
