"""What a function takes, and what a handler says of the types of its parameters, against what its route gives.

Only what is certainly wrong is found: an annotation that can't be evaluated, or that no class stands behind, is
believed.

From Python 3.14 on annotations are evaluated when they are asked for (PEP 649), so that one may name what only a type
checker imports. They are asked for as `ForwardRef` where they can't be evaluated.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

if sys.version_info >= (3, 14):
    import annotationlib

    signature_of = functools.partial(inspect.signature, annotation_format=annotationlib.Format.FORWARDREF)
    _annotations_of = functools.partial(annotationlib.get_annotations, format=annotationlib.Format.FORWARDREF)
else:
    signature_of = inspect.signature
    _annotations_of = inspect.get_annotations


def contradiction(function: Callable[..., Any], name: str, given: type) -> str:
    """The annotation of a parameter, as text, if what it is given can't be of that type; empty when it may be.

    Args:
        function: a function, a method, an object that is called, or a `functools.partial` of one.
        name: of the parameter.
        given: the type of what it gets.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    function = inspect.unwrap(function)
    annotation = _annotations_of(function).get(name, Any)
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        wanted = typing.get_type_hints(holder, getattr(function, "__globals__", {}))[name]
        if _accepts(wanted, given):
            return ""
    except Exception:  # a name that only a type checker imports, or anything else that an annotation may be
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _accepts(wanted: Any, given: type) -> bool:
    """Whether an annotation lets a value of a type in."""
    while hasattr(wanted, "__supertype__"):  # of typing.NewType: at run time it is that
        wanted = wanted.__supertype__
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return any(_accepts(one, given) for one in typing.get_args(wanted))
    if wanted is Any or not isinstance(wanted, type):
        return True
    # PEP 484: what takes a float takes an int, too.
    return issubclass(given, wanted) or (wanted in (float, complex) and given in (int, float))
