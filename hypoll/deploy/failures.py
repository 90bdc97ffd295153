"""Why an application can't be loaded or started, in one line for whoever starts it, and by an exit code."""

from __future__ import annotations

import os
import sys
import traceback

from hypoll.server.sockets import BindError
from hypoll.server.transport import TLSError

REFUSED = 1
"""The exit code when the system refuses an address: the same command may succeed later."""

MISTAKE = 2
"""The exit code for a mistake in the command, an address that can't be any and what isn't installed included."""


def exit_code_of(error: BaseException) -> int:
    """The exit code of a start that has failed before the application's start."""
    refused = isinstance(error, BindError) and not isinstance(error, TLSError) and isinstance(error.__cause__, OSError)
    return REFUSED if refused else MISTAKE


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
