"""Whether a request is for a page, as a browser asks for one when its address changes."""

from __future__ import annotations

from hypoll.protocol.conditional import quality
from hypoll.protocol.messages import Request


def is_navigation(request: Request, path: str) -> bool:
    """Whether a page may be the answer, though there is no file at `path`.

    Not to a path whose last segment has a dot: that is a file which is missing. Not to a script's, style's or image's
    request, nor to a `fetch`: Sec-Fetch-Mode (W3C Fetch Metadata) says that it is none. Where a client doesn't send
    that, its Accept decides: HTML, or anything unless it names JSON.
    """
    if "." in path.rpartition("/")[2]:
        return False
    headers = request.headers
    if headers.get("sec-fetch-mode", "navigate") != "navigate":
        return False
    accept = headers.get("accept")
    if accept is None:
        return True
    weights = quality(accept)
    html = weights.get("text/html")
    if html is None and "application/json" in weights:
        return False
    return bool(weights.get("text/*", weights.get("*/*", 0)) if html is None else html)
