"""Who is asking: `before` hooks for tokens, compared in a time that doesn't depend on them.

Laws: a secret is compared with each of those known, whatever the others came to, and by digests, so that neither its
characters nor its length show in the time. None is ever in an answer or a log line.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from hypoll.protocol.fields import is_token
from hypoll.protocol.messages import HTTPError, Request
from hypoll.web.routing import HOOK_MAKERS, RouteError

Check = str | Iterable[str] | Mapping[str, Any] | Callable[[str], Any] | Callable[[str], Awaitable[Any]]
"""What knows the secrets: one, several, a mapping from each to whom it stands for, or a function that is given the
client's and gives whom it stands for, None for nobody; it may be an `async def`."""

Hook = Callable[[Request], Any]

_BEARER = re.compile(r"bearer +([A-Za-z0-9\-._~+/]+=*)", re.IGNORECASE)  # RFC 6750, 2.1
_IS_BEARER = re.compile(r"bearer(?: |$)", re.IGNORECASE)
_QUOTED = re.compile(r"[\x20!\x23-\x5b\x5d-\x7e]*")


def bearer(check: Check, *, realm: str | None = None) -> Hook:
    """Make a `before` hook that lets requests with a bearer token pass (RFC 6750), and sets `request.state.principal`.

        routes.before(bearer(os.environ["API_TOKEN"]))

    Others are 401 with WWW-Authenticate, by `HTTPError`, so that a hook of `routes.error` may answer otherwise.

    Args:
        check: a token, several, a mapping from each to its principal, or a function of the token that gives the
            principal, None or False for none. Of plain tokens the principal is True.
        realm: what the tokens are for, in WWW-Authenticate.

    Raises:
        RouteError: For a check that knows no token, or an empty one.
    """
    scheme = "Bearer" if realm is None else f'Bearer realm="{_checked_realm(realm)}"'
    invalid = scheme + ("," if realm is not None else "") + ' error="invalid_token"'

    def secret_of(request: Request) -> str:
        given = request.headers.get("authorization", "").strip(" \t")
        if not _IS_BEARER.match(given):
            # Without any error code: the client may not know that it needs a token (RFC 6750, 3.1).
            raise _unauthorized("this path wants a bearer token in Authorization", scheme)
        match = _BEARER.fullmatch(given)
        if match is None:
            raise _unauthorized("the bearer token is malformed", invalid)
        return match[1]

    return _hook("bearer", check, secret_of, lambda: _unauthorized("the bearer token is not valid", invalid))


def api_key(check: Check, header: str = "X-API-Key") -> Hook:
    """Make a `before` hook that lets requests with a key in a field pass, and sets `request.state.principal`.

    Args:
        check: as of `bearer`.
        header: the field's name.

    Raises:
        RouteError: For a check that knows no key, or an empty one, and for what is no field name.
    """
    if not isinstance(header, str) or not is_token(header):
        raise RouteError(f"api_key: header is the name of a field, not {header!r}")
    scheme = f'ApiKey header="{header}"'  # a 401 has to have a challenge (RFC 9110, 15.5.2); none is registered for it

    def secret_of(request: Request) -> str:
        given = request.headers.getall(header)
        if not given or not given[0]:
            raise _unauthorized(f"this path wants a key in {header}", scheme)
        if len(given) > 1:
            raise _unauthorized(f"the request has several {header}", scheme)
        return given[0]

    return _hook("api_key", check, secret_of, lambda: _unauthorized(f"the key in {header} is not valid", scheme))


def _hook(what: str, check: Check, secret_of: Callable[[Request], str], refusal: Callable[[], HTTPError]) -> Hook:
    if callable(check):
        forms = (check, type(check).__call__)
        if any(map(inspect.iscoroutinefunction, forms)):
            return _async_hook(check, secret_of, refusal)
        find: Callable[[str], Any] = check
    else:
        find = _finder(what, check)

    def authenticate(request: Request) -> None:
        _note(request, find(secret_of(request)), refusal)

    return authenticate


def _async_hook(
    check: Callable[[str], Awaitable[Any]], secret_of: Callable[[Request], str], refusal: Callable[[], HTTPError]
) -> Hook:
    async def authenticate(request: Request) -> None:
        _note(request, await check(secret_of(request)), refusal)

    return authenticate


def _note(request: Request, principal: Any, refusal: Callable[[], HTTPError]) -> None:
    if principal is None or principal is False:
        raise refusal()
    request.state.principal = principal


def _finder(what: str, check: str | Iterable[str] | Mapping[str, Any]) -> Callable[[str], Any]:
    """A function that gives the principal of a secret."""
    if isinstance(check, Mapping):
        known = dict(check)
    elif isinstance(check, str):
        known = {check: True}
    elif isinstance(check, Iterable) and not isinstance(check, (bytes, bytearray)):
        known = dict.fromkeys(check, True)
    else:
        raise RouteError(f"{what} takes a str, several, a mapping or a function, not {type(check).__name__}")
    if not known:
        raise RouteError(f"{what}: check has nothing that a request could pass by")
    for secret in known:
        if not isinstance(secret, str) or not secret.strip():
            raise RouteError(f"{what}: a secret is a str that isn't empty; is the variable set that it comes from?")
    entries = [(_digest(secret.encode()), principal) for secret, principal in known.items()]

    def find(secret: str) -> Any:
        given = _digest(secret.encode("latin-1"))  # the bytes as they were received
        found = None
        for digest, principal in entries:
            if hmac.compare_digest(digest, given):
                found = principal
        return found

    return find


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _unauthorized(detail: str, challenge: str) -> HTTPError:
    return HTTPError(401, detail, {"WWW-Authenticate": challenge})


def _checked_realm(realm: str) -> str:
    if not isinstance(realm, str) or not _QUOTED.fullmatch(realm):
        raise RouteError(f"bearer: a realm is text without quotes, backslashes and control characters, not {realm!r}")
    return realm


HOOK_MAKERS[bearer] = "bearer(check)"
HOOK_MAKERS[api_key] = "api_key(check)"
