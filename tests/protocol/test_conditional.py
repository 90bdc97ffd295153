"""Conditions, ranges and preferences of requests, and the dates in them."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from hypoll.protocol.conditional import Outcome, Span, Validators, decide, parse_date, parse_range, preferred, quality

MODIFIED = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"

DATES = {
    "Sun, 06 Nov 1994 08:49:37 GMT": MODIFIED,
    " Sun, 06 Nov 1994 08:49:37 GMT": MODIFIED,
    "Sunday, 06-Nov-94 08:49:37 GMT": MODIFIED,
    "Sun Nov  6 08:49:37 1994": MODIFIED,
    "Sat, 31 Dec 2016 23:59:60 GMT": 1483228800,
    "Saturday, 01-Jan-76 00:00:00 GMT": 3345062400,
    "Saturday, 01-Jan-77 00:00:00 GMT": 220924800,
    "Thu, 01 Jan 1970 00:00:00 GMT": 0,
    "Sun, 06 Nov 1994 08:49:37": None,
    "Sun, 06 Nov 1994 08:49:37 +0000": None,
    "Sun, 6 Nov 1994 08:49:37 GMT": None,
    "sun, 06 nov 1994 08:49:37 gmt": None,
    "Sun, 31 Feb 1994 08:49:37 GMT": None,
    "Sun, 06 Foo 1994 08:49:37 GMT": None,
    "Sun, 06 Nov 1994 25:49:37 GMT": None,
    "Sun, 06 Nov 0000 08:49:37 GMT": None,
    "Sun, ٠٦ Nov 1994 08:49:37 GMT": None,
    "784111777": None,
    "": None,
}


@pytest.mark.parametrize(("text", "seconds"), DATES.items())
def test_dates_are_read(text, seconds):
    assert parse_date(text, now=1795555555.0) == seconds  # in 2026


def test_a_date_of_ours_is_read_back():
    assert parse_date(formatdate(MODIFIED, usegmt=True)) == MODIFIED


def test_every_range_that_is_sent_lies_within():
    for size in range(4):
        for first in ("", "0", "1", "3", "5"):
            for last in ("", "0", "1", "3", "5"):
                outcome, span = parse_range(f"bytes={first}-{last}", size)
                if outcome is Outcome.PART:
                    assert span.size > 0
                    assert 0 <= span.offset < span.offset + span.size <= size
                else:
                    assert span == Span(0, size)


def test_without_validators_only_any_matches():
    none = Validators(None, None)
    assert decide("GET", {"if-match": "*"}, none, 1)[0] is Outcome.WHOLE
    assert decide("GET", {"if-match": '"x"'}, none, 1)[0] is Outcome.FAILED
    assert decide("GET", {"if-none-match": "*"}, none, 1)[0] is Outcome.UNCHANGED
    assert decide("GET", {"if-modified-since": AFTER, "if-unmodified-since": BEFORE}, none, 1)[0] is Outcome.WHOLE


CODINGS = {
    "gzip": ["gzip"],
    "gzip, br": ["br", "gzip"],
    "GZIP": ["gzip"],
    "gzip;q=1.0, br;q=0.5": ["gzip", "br"],
    "gzip ; q=0.5 , br ; Q=0.8": ["br", "gzip"],
    "gzip;q=0, br": ["br"],
    "*": ["br", "gzip"],
    "*;q=0": [],
    "*;q=0.5, gzip;q=0": ["br"],
    "identity": [],
    "identity, gzip;q=0.5": [],
    "identity;q=0.5, gzip;q=0.5": ["gzip"],
    "identity;q=0, gzip;q=0.001": ["gzip"],
    "deflate": [],
    "": [],
    "gzip;q=2": [],
    "gzip;q=0.1234": [],
    "gzip;q=": [],
    "gzip;x=1": [],
    ",,gzip,": ["gzip"],
}


@pytest.mark.parametrize(("field", "order"), CODINGS.items())
def test_codings_are_preferred_by_their_weight(field, order):
    assert preferred(field, ["br", "gzip"]) == order


def test_weights_are_read():
    assert quality("a, b;q=0.25, c;q=0") == {"a": 1.0, "b": 0.25, "c": 0.0}
