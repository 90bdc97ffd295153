"""What to do about an exception that an application meets often and that says little: notes for its traceback."""

from __future__ import annotations

import linecache
import re

_UNCALLED = re.compile(r"\.(json|form)\s*\[")


def add_hint(error: BaseException) -> None:
    """Note on an exception what is to be written instead, where that is known."""
    if type(error) is not TypeError or error.args != ("'method' object is not subscriptable",):
        return
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return
    line = linecache.getline(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
    found = _UNCALLED.search(line)
    if found is not None:
        error.add_note(f"{found[1]} is a method of a request: call it, as in request.{found[1]}()[...]")
