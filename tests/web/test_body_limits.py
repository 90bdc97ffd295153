"""A limit on bodies that nothing could come up to is found before serving."""

from __future__ import annotations

from typing import Any

import pytest

from hypoll import Routes
from hypoll.option import GIB, KIB, MIB, OptionError, name_options
from hypoll.runner import Runner, SetupError
from hypoll.settings import Settings
from hypoll.testing import TestClient
from hypoll.web.body_limits import check_body_limits, unreachable_limits


def take(request):
    return ""


async def take_async(request):
    return ""


def declare(**options: Any) -> Routes:
    """One route, mounted, with these options beside its path."""
    routes, inner = Routes(), Routes()
    given = {"methods": ["POST"], **options}
    inner.route("/photos", **given)(take_async if given.get("stream") else take)
    routes.mount("/api", inner)
    return routes


def fault(routes: Routes, **settings: Any) -> str:
    made = Settings(**settings)
    try:
        check_body_limits(routes.table(), made)
    except OptionError as error:
        return name_options(error, lambda name: "--" + name.replace("_", "-"))
    return ""


OWN = "max_body of /api/photos (tests.web.test_body_limits.take, test_body_limits.py line "
COMMON = f"max_body is {20 * GIB}, and body_memory {256 * MIB}, which a body that is kept whole has to fit into"


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({"max_body": 257 * MIB}, {}, OWN),
        ({"max_body": 2 * MIB, "methods": ["GET"]}, {"body_memory": MIB}, OWN),
        ({"max_body": 2 * MIB, "threaded": True}, {"body_memory": MIB, "max_body": KIB}, OWN),
        ({"max_body": 256 * MIB}, {}, ""),
        ({"max_body": 20 * GIB, "stream": True}, {}, ""),
        ({"max_body": MIB}, {"max_body": 20 * GIB}, ""),
        ({}, {"max_body": 20 * GIB}, ""),
    ],
)
def test_what_never_fits_is_said_of_who_asks_for_it(options, settings, said):
    found = fault(declare(**options), **settings)
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert not said or "--body-memory" in found


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({}, {"max_body": 20 * GIB}, True),
        ({"methods": ["GET", "PUT"]}, {"max_body": 20 * GIB}, True),
        ({"stream": True}, {"max_body": 20 * GIB}, False),
        ({"max_body": MIB}, {"max_body": 20 * GIB}, False),
        ({"methods": ["GET"]}, {"max_body": 20 * GIB}, False),
        ({}, {"max_body": 20 * GIB, "body_memory": 20 * GIB}, False),
        ({}, {"body_memory": MIB}, False),
    ],
)
def test_a_limit_for_all_that_some_cannot_come_up_to_is_said_and_served(options, settings, said):
    routes = declare(**options)
    found = unreachable_limits(routes.table(), Settings(**settings))
    assert len(found) == said
    assert all(one.startswith(COMMON) and "as of /api/photos" in one for one in found)
    runner = Runner(routes, Settings(**settings))
    assert runner.notices == found
    runner.close()


def test_no_server_starts_with_it():
    routes = declare(max_body=2 * MIB)
    with pytest.raises(SetupError, match=r"max_body of /api/photos .* and body_memory 1048576"):
        Runner(routes, Settings(body_memory=MIB))
    with pytest.raises(SetupError, match="stream=True"), TestClient(routes, body_memory=MIB):
        pass
    with pytest.raises(SetupError), TestClient(routes.wsgi, body_memory=MIB):
        pass


def test_other_interfaces_keep_no_body_in_that_memory():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(len(environ["wsgi.input"].read())).encode()]

    with TestClient(application, max_body=20 * GIB, body_memory=KIB) as client:
        assert client.post("/", data=bytes(4 * KIB)).text == str(4 * KIB)
