"""Cross-origin resource sharing: which pages of other origins may read the answers (WHATWG Fetch, 3.2).

Laws: an origin is compared as a whole, never by a part. With credentials no origin is allowed that wasn't named, and
`null` never: any page can have that origin, in a frame of its own. What an application has set of these fields stays.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable

from hypoll.protocol.fields import is_token
from hypoll.protocol.messages import Request, Response
from hypoll.web.routing import RouteError

Origins = str | re.Pattern[str] | Callable[[str], bool] | Iterable[str | re.Pattern[str]]
"""Which origins: one as `https://app.example`, `*` for all, a compiled pattern that an origin must match as a whole, a
function that is asked, or several of the first three."""

ALLOW_ORIGIN = "Access-Control-Allow-Origin"
ANY = "*"
NULL = "null"

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]+)?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_STRANGER = "https://nobody-has-this-name.invalid"

log = logging.getLogger("hypoll.error")


class Cors:
    """What `Routes.cors` declares: see there. Raises `RouteError`."""

    def __init__(
        self,
        origins: Origins,
        methods: Iterable[str] | None,
        headers: Iterable[str] | None,
        credentials: bool,
        expose: Iterable[str],
        max_age: int | None,
    ) -> None:
        self._credentials = credentials
        self._any = False
        self._named: set[str] = set()
        self._patterns: list[re.Pattern[str]] = []
        self._asked: Callable[[str], bool] | None = None
        self._take_origins(origins)
        self._methods = None if methods is None else ", ".join(_names("methods", methods, credentials)).upper()
        self._headers = None if headers is None else ", ".join(_names("headers", headers, credentials))
        self._exposed = ", ".join(_names("expose", expose, credentials))
        if max_age is not None and (isinstance(max_age, bool) or not isinstance(max_age, int) or max_age < 0):
            raise RouteError(f"cors: max_age is a whole number of seconds, not {max_age!r}")
        self._max_age = max_age

    def _take_origins(self, origins: Origins) -> None:
        if callable(origins):
            if inspect.iscoroutinefunction(origins):
                raise RouteError("cors: the function that is asked about an origin must be a def")
            self._asked = origins
            return
        given = [origins] if isinstance(origins, (str, re.Pattern)) else list(origins)
        if not given:
            raise RouteError("cors: origins names none: leave cors() out, or name one, as 'https://app.example'")
        for origin in given:
            if isinstance(origin, re.Pattern):
                if self._credentials and origin.fullmatch(_STRANGER):
                    raise RouteError(f"cors: {origin.pattern!r} matches every origin, which credentials rule out")
                self._patterns.append(origin)
            elif origin == ANY:
                self._any = True
            else:
                self._named.add(_checked_origin(origin))
        if self._credentials and (self._any or NULL in self._named):
            raise RouteError(
                "cors: with credentials=True the origins must be named: '*' or 'null' would let every page read what "
                "the client's cookies give access to"
            )

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may read the answers."""
        if origin in self._named or self._any:
            return True
        if self._credentials and origin == NULL:
            return False
        if self._asked is not None:
            try:
                return bool(self._asked(origin))
            except Exception:
                log.exception("cors: asking about the origin %r failed", origin)
                return False
        return any(pattern.fullmatch(origin) for pattern in self._patterns)

    def preflight(self, request: Request) -> Response | None:
        """The answer to a preflight; None: the request is none."""
        headers = request.headers
        method = headers.get("access-control-request-method")
        if method is None or "origin" not in headers:
            return None
        response = Response(status=204)
        if not self._set_origin(request, response):
            return response  # without the fields: the browser says to its developer which is missing
        wanted = headers.get("access-control-request-headers", "")
        names = [name.strip(" \t") for name in wanted.split(",")]
        fields = response.headers
        if self._methods is None:
            fields.vary("Access-Control-Request-Method")
        if self._headers is None:
            fields.vary("Access-Control-Request-Headers")
        allowed = {
            "Methods": self._methods or (method if is_token(method) else ""),
            "Headers": ", ".join(filter(is_token, names)) if self._headers is None else self._headers,
        }
        fields.update({f"Access-Control-Allow-{name}": value for name, value in allowed.items() if value})
        if self._max_age is not None:
            fields["Access-Control-Max-Age"] = str(self._max_age)
        return response

    def finish(self, request: Request, response: Response) -> Response:
        """Say of an answer who may read it."""
        fields = response.fields
        if fields is not None and ALLOW_ORIGIN in fields:  # of a preflight, or set by the application
            return response
        if self._set_origin(request, response) and self._exposed:
            response.headers["Access-Control-Expose-Headers"] = self._exposed
        return response

    def _set_origin(self, request: Request, response: Response) -> bool:
        """Whether the request's origin is allowed: then the answer says so."""
        origin = request.headers.get("origin")
        if self._any and not self._credentials:
            if origin is not None:
                response.headers[ALLOW_ORIGIN] = ANY
            return origin is not None
        response.headers.vary("Origin")  # also without one: a cache must not give this answer to a page that has one
        if origin is None or not self.allows(origin):
            return False
        response.headers[ALLOW_ORIGIN] = origin
        if self._credentials:
            response.headers["Access-Control-Allow-Credentials"] = "true"
        return True


def _checked_origin(origin: str) -> str:
    """An origin in the form that browsers send. Raises `RouteError` for what never is one."""
    if not isinstance(origin, str):
        raise RouteError(f"cors: an origin is a str or a compiled pattern, not {origin!r}")
    text = origin.lower()
    if text != NULL and not _ORIGIN.fullmatch(text):
        raise RouteError(
            f"cors: {origin!r} is no origin: write scheme, host and maybe a port, no path and no slash at the end, as "
            "'https://app.example'; for several hosts a compiled pattern"
        )
    return text.removesuffix(_DEFAULT_PORTS.get(text.partition(":")[0], ""))


def _names(what: str, names: Iterable[str], credentials: bool) -> list[str]:
    if isinstance(names, str):
        raise RouteError(f"cors: {what} takes a list, as in {what}=[{names!r}]")
    found = list(names)
    for name in found:
        if not isinstance(name, str) or not is_token(name):
            raise RouteError(f"cors: {what} takes names, not {name!r}")
        if name == ANY and credentials:
            raise RouteError(f"cors: with credentials=True a '*' in {what} is no wildcard (Fetch, 3.2.5): name them")
    return found
