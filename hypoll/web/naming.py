"""What the functions of an application are, and how they are named to its people."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any


def forms_of(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """What is looked at to see how a function answers: what a `functools.partial` calls, and an object's `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    return function, type(function).__call__


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it is an `async def`."""
    return any(inspect.iscoroutinefunction(form) for form in forms_of(function))


def name_of(function: Callable[..., Any]) -> str:
    """Module and name of a function; the text of what has no name."""
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{getattr(function, '__module__', None) or 'builtins'}.{name}"


def place_of(function: Callable[..., Any]) -> str:
    """A function's name, with its file and line where it has one."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return name_of(function)
    return f"{name_of(function)}, {os.path.basename(code.co_filename)} line {code.co_firstlineno}"
