"""Cookies (RFC 6265bis): what a request has of them, and the Set-Cookie field of a response, checked.

Browsers drop a cookie that breaks a rule without a word; here that is an error where the cookie is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal

from hypoll.protocol.fields import exact_str, is_token

SameSite = Literal["Strict", "Lax", "None"]

MAX_SIZE = 4096
"""Bytes that name and value may have together: a browser drops the cookie beyond that (RFC 6265bis, 5.6)."""

MAX_ATTRIBUTE = 1024
"""Bytes of an attribute's value, beyond which a browser ignores the attribute (RFC 6265bis, 5.6)."""

# RFC 6265bis, 4.1.1: cookie-octet, in double quotes or not.
_VALUE = re.compile(r'[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*|"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"')
_PATH = re.compile(r"/[\x20-\x3a\x3c-\x7e]*")
_DOMAIN = re.compile(r"\.?[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?)*")
_SAME_SITE: dict[str, SameSite] = {"strict": "Strict", "lax": "Lax", "none": "None"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_cookies(field: str) -> dict[str, str]:
    """The cookies of a Cookie field by name (RFC 6265bis, 4.2), without their quotes; of a repeated name the first."""
    cookies: dict[str, str] = {}
    for pair in field.split(";"):
        name, separator, value = pair.strip(" \t").partition("=")
        if separator and name:
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies.setdefault(name, value)
    return cookies


def format_cookie(
    name: str,
    value: str,
    *,
    max_age: int | timedelta | None = None,
    expires: datetime | None = None,
    domain: str | None = None,
    path: str | None = "/",
    secure: bool = False,
    httponly: bool = True,
    samesite: str | None = "Lax",
    partitioned: bool = False,
) -> str:
    """The value of a Set-Cookie field; see `hypoll.Response.set_cookie`.

    Raises:
        ValueError: For a cookie that a browser would drop or take for another.
        TypeError: For a name or value that is no str.
    """
    same_site = None if samesite is None else _SAME_SITE.get(samesite.lower())
    if samesite is not None and same_site is None:
        raise ValueError(f"the cookie {name!r} has samesite={samesite!r}: it must be Strict, Lax, None (a str) or None")
    parts = [f"{_checked_name(name)}={_checked_value(name, value)}"]
    if len(parts[0]) - 1 > MAX_SIZE:
        raise ValueError(f"the cookie {name!r} has {len(parts[0]) - 1} bytes: browsers drop those over {MAX_SIZE}")
    _check_rules(name, same_site, secure=secure, partitioned=partitioned, domain=domain, path=path)
    if max_age is not None:
        parts.append(f"Max-Age={_seconds(name, max_age)}")
    if expires is not None:
        parts.append(f"Expires={_date(name, expires)}")
    if domain is not None:
        parts.append(f"Domain={_checked_attribute(name, 'domain', domain, _DOMAIN).lstrip('.')}")
    if path is not None:
        parts.append(f"Path={_checked_attribute(name, 'path', path, _PATH)}")
    flags = (("Secure", secure), ("HttpOnly", httponly), ("Partitioned", partitioned))
    parts += [flag for flag, is_set in flags if is_set]
    if same_site is not None:
        parts.append(f"SameSite={same_site}")
    return "; ".join(parts)


def format_deletion(name: str, *, domain: str | None, path: str | None, partitioned: bool) -> str:
    """The value of a Set-Cookie field that has a browser delete a cookie; see `hypoll.Response.delete_cookie`."""
    secure = partitioned or name.lower().startswith(("__secure-", "__host-"))
    return format_cookie(
        name, "", max_age=0, expires=_EPOCH, domain=domain, path=path, secure=secure, partitioned=partitioned
    )


def is_same_cookie(field: str, other: str) -> bool:
    """Whether two values of Set-Cookie are of one cookie: of the same name, domain and path (RFC 6265bis, 5.7)."""
    return _identity(field) == _identity(other)


def _identity(field: str) -> tuple[str, str, str]:
    pair, *attributes = field.split(";")
    found = {}
    for attribute in attributes:
        name, _, value = attribute.strip().partition("=")
        found[name.lower()] = value
    return pair.partition("=")[0].strip(), found.get("domain", "").lower().lstrip("."), found.get("path", "")


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a cookie is {name!r}: it must be a str")
    name = exact_str(name)
    if not is_token(name):
        raise ValueError(f"{name!r} is no name for a cookie: it must be a token, without blanks, commas and such")
    return name


def _checked_value(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the value of the cookie {name!r} is {value!r}: it must be a str")
    value = exact_str(value)
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"the value of the cookie {name!r} has characters that it can't have: {value!r}. Neither blanks, double"
            " quotes, commas, semicolons, backslashes nor others than ASCII: encode it, as with urllib.parse.quote"
        )
    return value


def _checked_attribute(name: str, attribute: str, value: str, pattern: re.Pattern[str]) -> str:
    value = exact_str(value)
    if not pattern.fullmatch(value) or len(value) > MAX_ATTRIBUTE:
        what = {"path": "a path that begins with a slash", "domain": "a host name"}[attribute]
        raise ValueError(f"the cookie {name!r} has {attribute}={value!r}: it must be {what}, without semicolons")
    return value


def _check_rules(
    name: str, same_site: str | None, *, secure: bool, partitioned: bool, domain: str | None, path: str | None
) -> None:
    """What attributes demand of each other (RFC 6265bis, 4.1.3 and 5.7; CHIPS). Raises `ValueError`."""
    prefix = name.lower()  # browsers look for prefixes in any case
    needs_secure: Iterable[tuple[bool, str]] = (
        (same_site == "None", "samesite='None'"),
        (partitioned, "partitioned=True"),
        (prefix.startswith("__secure-"), "the prefix __Secure-"),
        (prefix.startswith("__host-"), "the prefix __Host-"),
    )
    for applies, what in needs_secure:
        if applies and not secure:
            raise ValueError(f"the cookie {name!r} has {what}, which browsers take with secure=True only")
    if prefix.startswith("__host-") and (domain is not None or path != "/"):
        raise ValueError(f"the cookie {name!r} has the prefix __Host-: it must have path='/' and no domain")


def _seconds(name: str, max_age: int | timedelta) -> int:
    if isinstance(max_age, timedelta):
        max_age = int(max_age.total_seconds())
    if not isinstance(max_age, int) or isinstance(max_age, bool):
        raise TypeError(f"the cookie {name!r} has max_age={max_age!r}: it must be seconds as an int, or a timedelta")
    return int.__index__(max_age)


def _date(name: str, expires: datetime) -> str:
    if not isinstance(expires, datetime) or expires.tzinfo is None:
        raise ValueError(f"the cookie {name!r} has expires={expires!r}: it must be a datetime with a time zone")
    return format_datetime(expires.astimezone(UTC), usegmt=True)
