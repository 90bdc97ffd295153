"""Why an application can't be loaded or started, in one line for whoever starts it."""

from __future__ import annotations

import os
import sys
import traceback


def describe(error: BaseException) -> str:
    """The exception in one line, with the line of the application it came from."""
    if isinstance(error, SyntaxError):
        return f"{error.msg}, {error.filename} line {error.lineno}"
    text = " ".join([type(error).__name__ + (":" if str(error) else ""), *str(error).split()])
    frames = traceback.extract_tb(error.__traceback__)
    frame = ([frame for frame in frames if _is_of_application(frame.filename)] or frames)[-1]
    return f"{text}, {frame.filename} line {frame.lineno}"


def _is_of_application(filename: str) -> bool:
    own = os.path.dirname(os.path.dirname(__file__)) + os.sep
    below = filename.startswith(sys.path[0] + os.sep)
    return below and not filename.startswith(own) and "site-packages" not in filename
