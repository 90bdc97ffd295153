"""Finding the application that a reference names, as `app:routes` does, or what is wrong with it."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from typing import Any

import click

from hypoll.app import Routes
from hypoll.concurrency import monkey_patching
from hypoll.deploy.failures import MISTAKE, describe
from hypoll.hosting import Servable, fault_of, made_by, uses_threads
from hypoll.settings import Settings
from hypoll.wsgi.adapter import WSGIAdapter

log = logging.getLogger("hypoll")


class AppError(click.ClickException):
    """What the command asks for isn't there: the application, a file, an extra, or an address."""

    exit_code = MISTAKE
    missing = False
    """Whether there is no such module."""


def load(reference: str, settings: Settings | None = None) -> Servable:
    """Import `module:attribute`, or what that makes. Raises `AppError` that says what is wrong and where.

    Args:
        reference: `module:attribute`, as in `app:routes`.
        settings: `interface` and `factory`.
    """
    settings = settings or Settings()
    module_name, _, attribute = reference.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        directory, file = os.path.split(module_name.removesuffix(".py"))
        option = f" with --app-dir {directory}" if directory else ""
        raise AppError(f"{reference!r} names a file, not a module: give {file}:{attribute or 'routes'}{option}")
    if not all(name.isidentifier() for name in (*module_name.split("."), *attribute.split("."))):
        meant = _meant_by(reference) or "app:routes"
        raise AppError(f"{reference!r} doesn't name an application: give MODULE:ATTRIBUTE, as in {meant}")
    module = _import(module_name)
    target: Any = module
    for name in attribute.split("."):
        if not hasattr(target, name):
            where = f"{module_name} ({getattr(module, '__file__', None) or 'built-in'})"
            raise AppError(f"{where} has no attribute {attribute!r}; {_suggestion(module)}")
        target = getattr(target, name)
    target = _made(reference, target, settings)
    fault = "" if isinstance(target, Routes) else fault_of(target, settings.interface)
    if fault:
        raise AppError(f"{reference} {fault}; {_suggestion(module)}")
    fault = monkey_patching.find_fault(threads=uses_threads(target))
    if fault:
        raise AppError(f"{reference} can't be served: {fault}")
    return target  # type: ignore[no-any-return]


def _made(reference: str, target: Any, settings: Settings) -> Any:
    """What a reference leads to, with `factory` what that makes. Raises `AppError`."""
    if settings.factory and not isinstance(target, (Routes, WSGIAdapter)):
        try:
            target = made_by(target)
        except Exception as error:
            log.debug("%s makes no application", reference, exc_info=True)
            raise AppError(f"{reference} makes no application: {describe(error)}") from error
    return target.routes if isinstance(target, WSGIAdapter) else target


def _suggestion(module: Any) -> str:
    """What may have been meant."""
    names = _applications_of(module)
    return f"it has {' and '.join(names)}" if names else "it has no Routes object"


def _applications_of(module: Any) -> list[str]:
    """The references to a module's Routes, or where it has none, to what else in it looks like an application."""
    public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    names = [key for key, value in public.items() if isinstance(value, Routes)]
    names = names or [key for key, value in public.items() if _is_likely_application(key, value)]
    return [f"{module.__name__}:{key}" for key in names]


def _is_likely_application(name: str, value: Any) -> bool:
    """Whether it can be served, and is no class nor a function that only happens to have the arguments for it."""
    if not callable(value) or inspect.isclass(value):
        return False
    if inspect.isroutine(value) and name not in ("app", "application"):
        return False
    return not fault_of(value, "auto")


def _meant_by(reference: str) -> str:
    """What a reference without a colon means, if it is a module, or one with an attribute; empty: neither."""
    name = reference.removesuffix(":")
    if not all(part.isidentifier() for part in name.split(".")):
        return ""
    try:
        return " or ".join(_applications_of(_import(name)))
    except AppError as error:
        parent, _, attribute = name.rpartition(".")
        if not parent or not error.missing:
            return ""
    try:
        return f"{parent}:{attribute}" if hasattr(_import(parent), attribute) else ""
    except AppError:
        return ""


def _import(name: str) -> Any:
    """Import a module. Raises `AppError`; where what is wrong came from is in the log of the level debug."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            absent = AppError(f"there is no module {name!r} in {sys.path[0]}: see --app-dir")
            absent.missing = True
            raise absent from None
        log.debug("%s can't be imported", name, exc_info=True)
        raise AppError(f"{name} can't be imported: {describe(error)}") from None
    except SystemExit:
        raise AppError(f"{name} exits when it is imported: put what is for running it under __main__") from None
    except Exception as error:
        log.debug("%s can't be imported", name, exc_info=True)
        raise AppError(f"{name} can't be imported: {describe(error)}") from None
