"""How functions of an application are named to its people."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any


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
