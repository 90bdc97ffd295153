"""What is an ASGI application, and what is none."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from hypoll import Routes
from hypoll.asgi.application import ASGI
from hypoll.hosting import service_of
from hypoll.settings import Settings
from hypoll.wsgi.application import WSGI
from tests.asgi.asgiapps import GET, body, saying, serving, start


async def function(scope: Any, receive: Any, send: Any) -> None:
    await saying(start(), body(b"asgi"))(scope, receive, send)


def wrapper(scope, receive, send):
    return function(scope, receive, send)


async def any_arguments(*args, **kwargs):
    await function(*args, **kwargs)


class Object:
    async def __call__(self, scope, receive, send):
        await function(scope, receive, send)

    def method(self, scope, receive, send):
        return function(scope, receive, send)


def double(scope):
    return functools.partial(function, scope)


class Double:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await function(self.scope, receive, send)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"wsgi"]


def odd_wsgi(environ, start_response, more=None):
    return wsgi(environ, start_response)


class WSGIClass:
    def __init__(self, environ, start_response):
        start_response("200 OK", [])

    def __iter__(self):
        yield b"wsgi"


@pytest.mark.parametrize(
    "application",
    [
        function,
        wrapper,
        any_arguments,
        Object(),
        Object().method,
        functools.partial(function),
        double,
        Double,
    ],
)
def test_an_asgi_application_is_recognised(application):
    assert isinstance(service_of(application, Settings()), ASGI)
    with serving(application) as it:
        assert it.connect().ask(GET).body == b"asgi"


@pytest.mark.parametrize("application", [wsgi, odd_wsgi, WSGIClass])
def test_a_wsgi_application_is_none(application):
    assert isinstance(service_of(application, Settings()), WSGI)
    with serving(application) as it:
        assert it.connect().ask(GET).body == b"wsgi"


def test_the_interface_can_be_said():
    def asgi(a, b=None, c=None):  # looks like WSGI
        return function(a, b, c)

    def looks_like_asgi(environ, start_response, more):
        return wsgi(environ, start_response)

    with serving(asgi, interface="asgi") as it:
        assert it.connect().ask(GET).body == b"asgi"
    application = functools.partial(looks_like_asgi, more=1)
    with serving(application, interface="wsgi") as it:
        assert it.connect().ask(GET).body == b"wsgi"
    assert isinstance(service_of(function, Settings(interface="wsgi")), WSGI)


@pytest.mark.parametrize("made", [function, wsgi, Routes()])
def test_a_factory_is_called(made):
    calls = []

    def factory():
        calls.append(made)
        return made

    service = service_of(factory, Settings(factory=True))
    assert calls == [made]
    assert service_of(service, Settings(factory=True)) is service  # it was made already
    assert len(calls) == 1


def test_what_needs_arguments_is_no_factory():
    with pytest.raises(TypeError, match="no factory"):
        service_of(function, Settings(factory=True))


def test_what_takes_no_arguments_is_taken_for_a_factory():
    def create_app() -> Any:
        return function

    with pytest.raises(TypeError, match="--factory"):
        service_of(create_app, Settings())


@pytest.mark.parametrize("thing", [1, "app", None])
def test_what_cant_be_called_cant_be_served(thing):
    for interface in ("auto", "asgi", "wsgi"):
        with pytest.raises(TypeError):
            service_of(thing, Settings(interface=interface))


def test_routes_are_routes_whatever_the_interface():
    routes = Routes()
    assert service_of(routes, Settings(interface="asgi")) is routes
    assert service_of(routes.wsgi, Settings(interface="wsgi")) is routes
