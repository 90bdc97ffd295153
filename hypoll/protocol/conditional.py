"""Conditional and range requests (RFC 9110, sections 13 and 14): what a request's fields ask of a representation.

Pure functions of text and numbers. A field that is malformed is treated as the RFC says: a date, a range or an
If-Range as if it weren't there, a list of entity tags as one that names none.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import NamedTuple

CONDITIONS = frozenset(
    ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"),
)
"""The fields that may make the answer another than the whole representation."""

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}[ \t]*(?:,[ \t]*(?:{_TAG}[ \t]*)?)*")
_ONE_TAG = re.compile(_TAG)
_RANGE = re.compile(r"bytes=[ \t,]*([0-9]*)-([0-9]*)[ \t,]*", re.IGNORECASE)
_MANY_DIGITS = 18

_MONTHS = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)  # noqa: SIM905
}
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = r"(?P<month>[A-Z][a-z]{2})"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = (
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"
    ),
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)


class Validators(NamedTuple):
    """What tells one state of a representation from another (RFC 9110, 8.8).

    Attributes:
        etag: the entity tag as it is sent, with its quotes, and W/ when it is weak; None: it has none.
        modified: seconds since 1970 of the last change; None: unknown.
    """

    etag: str | None
    modified: int | None


class Outcome(Enum):
    """What a request's conditions make of its answer."""

    WHOLE = 200
    PART = 206
    UNCHANGED = 304
    FAILED = 412
    UNSATISFIABLE = 416


class Span(NamedTuple):
    """Bytes of a representation: `size` of them from `offset` on."""

    offset: int
    size: int


def decide(
    method: str, fields: Mapping[str, str], validators: Validators, size: int, now: float | None = None
) -> tuple[Outcome, Span]:
    """Evaluate a GET's or HEAD's conditions in the order of RFC 9110, 13.2.2, then its range.

    Args:
        method: of the request.
        validators: of what it asks for.
        fields: those of `CONDITIONS` that the request has, by lower-case name.
        size: of the selected representation, in bytes.
        now: seconds since 1970, by which the century of a two-digit year is chosen; None: the clock's.
    """
    whole = Span(0, size)
    if not _holds(fields, validators, now):
        return Outcome.FAILED, whole
    if _is_unchanged(fields, validators, now):
        return Outcome.UNCHANGED, whole
    if method != "GET" or "range" not in fields or not _range_applies(fields, validators, now):
        return Outcome.WHOLE, whole
    return parse_range(fields["range"], size)


def _holds(fields: Mapping[str, str], validators: Validators, now: float | None) -> bool:
    """Steps 1 and 2: If-Match, or else If-Unmodified-Since."""
    tags = fields.get("if-match")
    if tags is not None:
        return _matches(tags, validators.etag, strong=True)
    since = _parse(fields.get("if-unmodified-since"), now)
    return since is None or validators.modified is None or validators.modified <= since


def _is_unchanged(fields: Mapping[str, str], validators: Validators, now: float | None) -> bool:
    """Steps 3 and 4: If-None-Match, or else If-Modified-Since."""
    tags = fields.get("if-none-match")
    if tags is not None:
        return _matches(tags, validators.etag, strong=False)
    since = _parse(fields.get("if-modified-since"), now)
    return since is not None and validators.modified is not None and validators.modified <= since


def _range_applies(fields: Mapping[str, str], validators: Validators, now: float | None) -> bool:
    """Step 5: If-Range holds only for the very same bytes (13.1.5), so a weak tag never does, and a date exactly."""
    wanted = fields.get("if-range")
    if wanted is None:
        return True
    wanted = wanted.strip(" \t")
    if _ONE_TAG.fullmatch(wanted):
        return _matches(wanted, validators.etag, strong=True)
    date = _parse(wanted, now)
    return date is not None and date == validators.modified


def _matches(field: str, etag: str | None, *, strong: bool) -> bool:
    """Whether a list of entity tags has `etag`, by the strong or the weak comparison (8.8.3.2). `*`: any."""
    if field.strip(" \t") == "*":
        return True
    if etag is None or not _TAGS.fullmatch(field):
        return False
    tags = _ONE_TAG.findall(field)
    if strong:
        return not etag.startswith("W/") and etag in tags
    return etag.removeprefix("W/") in (tag.removeprefix("W/") for tag in tags)


def parse_range(field: str, size: int) -> tuple[Outcome, Span]:
    """What a Range field asks of `size` bytes (14.1, 14.2): WHOLE, PART or UNSATISFIABLE.

    Several ranges, another unit and a malformed field are answered by the whole, as 14.2 allows.
    """
    whole = Span(0, size)
    match = _RANGE.fullmatch(field)
    if match is None or not (match[1] or match[2]):
        return Outcome.WHOLE, whole
    if not match[1]:
        return _suffix(_number(match[2]), size)
    first = _number(match[1])
    last = _number(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return Outcome.WHOLE, whole  # malformed
    if first >= size:
        return Outcome.UNSATISFIABLE, whole
    return Outcome.PART, Span(first, min(last, size - 1) - first + 1)


def _suffix(length: int, size: int) -> tuple[Outcome, Span]:
    if not length:
        return Outcome.UNSATISFIABLE, Span(0, size)
    if not size:
        return Outcome.WHOLE, Span(0, 0)  # satisfiable (14.1.2), but no Content-Range can tell of no byte
    length = min(length, size)
    return Outcome.PART, Span(size - length, length)


def _number(digits: str) -> int:
    """The number, or one beyond every size: int() of thousands of digits would be an error."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MANY_DIGITS else 10**_MANY_DIGITS


def _parse(field: str | None, now: float | None) -> int | None:
    return None if field is None else parse_date(field, now)


def parse_date(text: str, now: float | None = None) -> int | None:
    """Seconds since 1970 of an HTTP-date in any of its three forms (5.6.7); None when it is none.

    Args:
        text: a date of HTTP, in any of its three forms.
        now: see `decide`.
    """
    match = next(filter(None, (form.fullmatch(text.strip(" \t")) for form in _DATES)), None)
    if match is None or match["month"] not in _MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year = _full_year(year, now)
    leap = match["second"] == "60"  # a leap second is a valid HTTP-date
    try:
        moment = datetime(
            year,
            _MONTHS[match["month"]],
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            59 if leap else int(match["second"]),
        )
    except ValueError:
        return None
    return calendar.timegm(moment.timetuple()) + leap


def _full_year(year: int, now: float | None) -> int:
    """The year of two digits: the latest that isn't more than 50 years in the future."""
    latest = time.gmtime(now).tm_year + 50
    return latest - (latest - year) % 100


def quality(field: str) -> dict[str, float]:
    """The weights of a field such as Accept-Encoding (12.4.2), by lower-case name; a malformed member is left out."""
    return dict(filter(None, map(_weighted, field.split(","))))


_WEIGHTED = re.compile(r"([^\s;,=]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")


def _weighted(member: str) -> tuple[str, float] | None:
    match = _WEIGHTED.fullmatch(member.strip(" \t"))
    return None if match is None else (match[1].lower(), float(match[2] or 1))


def preferred(field: str, codings: Iterable[str]) -> list[str]:
    """Those of `codings` that an Accept-Encoding prefers to none, the most wanted first; of equals in the order given.

    `identity` is acceptable unless excluded, and comes last unless it has a weight (12.5.3).
    """
    weights = quality(field)
    others = weights.get("*", 0.0)
    identity = weights.get("identity", 0.0)
    wanted = {coding: weights.get(coding, others) for coding in codings}
    return sorted(
        (coding for coding, weight in wanted.items() if weight and weight >= identity),
        key=wanted.__getitem__,
        reverse=True,
    )
