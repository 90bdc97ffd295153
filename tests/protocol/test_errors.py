"""Errors that are answers."""

from __future__ import annotations

import pytest

from hypoll.http import HTTPError
from hypoll.protocol.errors import reason


@pytest.mark.parametrize("status", [399, 600, 200, 0])
def test_an_error_has_an_errors_status(status: int) -> None:
    with pytest.raises(ValueError, match=f"400 to 599, not {status}"):
        HTTPError(status)


def test_what_an_error_says() -> None:
    assert str(HTTPError(404)) == "404 Not Found"
    assert str(HTTPError(404, "no such user")) == "404 Not Found: no such user"
    assert str(HTTPError(499)) == "499 "
    error = HTTPError(405, "no", {"Allow": "GET"})
    assert (error.status, error.detail) == (405, "no")
    assert error.headers == {"Allow": "GET"}


def test_reason() -> None:
    assert reason(204) == "No Content"
    assert reason(299) == ""
