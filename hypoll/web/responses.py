"""Responses that a handler makes often: `redirect` and `html`."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from hypoll.protocol.fields import HeaderSource, exact_str
from hypoll.protocol.messages import Response

REDIRECTS = (301, 302, 303, 307, 308)
"""Statuses that send a client to another URL (RFC 9110, 15.4)."""

# What a URI may have (RFC 3986, 2.2 and 2.3), and % of what is encoded already. A backslash is none of it: browsers
# take that for a slash.
_SAFE = "%/:?#[]@!$&'()*+,;=-._~"

# Browsers drop tabs and line ends in the middle of a URL: what was checked would not be what is followed.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def redirect(url: str, status: int = 303, headers: HeaderSource | None = None) -> Response:
    """Send the client to another URL.

    Args:
        url: absolute, or relative to the request's. What isn't ASCII, and what no URL may have, as blanks and
            backslashes, is percent-encoded. Don't take it from a client as it is: `//elsewhere` is another host.
        status: 303, the client asks for it by GET; 307 and 308 by the same method again; 301 and 308 for good; 302.
        headers: further fields of the answer.

    Raises:
        ValueError: For a URL that is empty, malformed, or has a control character, and for another status.
        TypeError: For a URL that is no str.
    """
    if status not in REDIRECTS:
        raise ValueError(f"redirect takes a status of {', '.join(map(str, REDIRECTS))}, not {status!r}")
    response = Response(b"", status, headers)
    response.headers["Location"] = encode_url(url)
    return response


def encode_url(url: str) -> str:
    """The URL with what it may not have percent-encoded. Raises as `redirect` does."""
    if not isinstance(url, str):
        raise TypeError(f"a URL is a str, not {url!r}")
    url = exact_str(url)
    if not url or _CONTROL.search(url):
        raise ValueError(f"{url!r} is no URL: it is empty, or has a control character")
    try:
        encoded = quote(url, safe=_SAFE)
        urlsplit(encoded).port  # noqa: B018 - raises for a port that is none, urlsplit for brackets that aren't paired
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    return encoded


def html(text: str, status: int = 200, headers: HeaderSource | None = None) -> Response:
    """Answer with a page of HTML, as UTF-8.

    Args:
        text: the page. What comes from elsewhere must have been escaped, as by `html.escape` or a template engine.
        status: the status code.
        headers: further fields of the answer.

    Raises:
        TypeError: For a text that is no str.
    """
    if not isinstance(text, str):
        raise TypeError(f"html takes a str, not {type(text).__name__}")
    return Response(str.encode(text), status, headers, "text/html; charset=utf-8")
