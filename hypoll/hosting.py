"""What serves an application, by what it is: `Routes`, a WSGI or an ASGI application."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

from hypoll.asgi.recognition import binds, is_asgi
from hypoll.contracts import Application
from hypoll.settings import Settings
from hypoll.wsgi import application as wsgi_application
from hypoll.wsgi.adapter import WSGIAdapter
from hypoll.wsgi.application import WSGIApplication, mismatch

ASGIApplication = Callable[..., Awaitable[None]]

Servable = Application | WSGIApplication | ASGIApplication
"""What a server can be given."""


def service_of(application: Servable, settings: Settings, *, multiprocess: bool = False) -> Application:
    """What serves an application: itself, when it is `Routes` or another service.

    Args:
        application: what is to be served.
        settings: `interface`, `factory`, and what the application gets to know. Without `script_name` the
            environment's SCRIPT_NAME is taken, as gunicorn does.
        multiprocess: whether other processes serve it, too: `wsgi_application.multiprocess`.

    Raises:
        TypeError: For what can't be served.
    """
    if settings.factory and not _is_ready(application):
        application = made_by(application)
    if _is_ready(application) or interface_of(application, settings.interface) == "wsgi":
        return wsgi_application.service_of(
            application,  # type: ignore[arg-type]
            script_name=settings.script_name,
            multiprocess=multiprocess,
            stream=settings.wsgi_stream,
            known=settings.interface == "wsgi",
        )
    from hypoll.asgi.application import ASGI  # asyncio is loaded for applications that have anything async

    script_name = settings.script_name or os.environ.get("SCRIPT_NAME", "")
    return ASGI(cast(ASGIApplication, application), dataclasses.replace(settings, script_name=script_name))


def uses_threads(application: Servable) -> bool:
    """Whether anything of an application runs on threads: threaded handlers, all of a WSGI application; but nothing of
    an ASGI one.
    """
    return application.uses_threads if isinstance(application, Application) else not is_asgi(application)


def interface_of(application: Any, interface: str) -> str:
    """Which interface an application is called by, "asgi" or "wsgi"; `interface`: "auto", or what somebody says.

    Raises:
        TypeError: For what can't be called so.
    """
    fault = fault_of(application, interface)
    if fault:
        raise TypeError(f"{getattr(application, '__qualname__', None) or repr(application)} {fault}")
    if interface == "auto":
        return "asgi" if is_asgi(application) else "wsgi"
    return interface


def fault_of(application: Any, interface: str) -> str:
    """Why something can't be served by an interface, to be read behind its name; empty when it can."""
    if callable(application) and (interface != "auto" or is_asgi(application)):
        return ""
    if inspect.iscoroutinefunction(application):
        return "is a coroutine function, but no ASGI application: it can't be called with scope, receive and send"
    fault = mismatch(application)
    if fault and callable(application) and binds(application, 0):
        return f"{fault}; if it makes an application, say --factory"
    return fault


def made_by(factory: Any) -> Any:
    """The application that a factory makes. Raises `TypeError` for what is none."""
    name = getattr(factory, "__qualname__", None) or repr(factory)
    if not callable(factory) or not binds(factory, 0):
        raise TypeError(f"{name} is no factory: it can't be called without arguments")
    return factory()


def _is_ready(application: Any) -> bool:
    """Whether it is a service already, or `Routes` as a WSGI application."""
    return isinstance(application, (Application, WSGIAdapter)) or (
        hasattr(application, "startup") and hasattr(application, "early_refusal")
    )
