"""Where modules are imported from: an application's `http.py` must not take the place of the library's for hypoll.

`python -m hypoll` puts the present directory before the standard library, and an application's directory is put there,
too, so that its own modules are found first. Imported first of all of hypoll's modules: it needs only what the
interpreter has loaded by itself.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing isn't loaded by the interpreter itself
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def split_command(command: Sequence[str]) -> tuple[list[str], str]:
    """The interpreter's own options in `sys.orig_argv`, and the module that `-m` names, if any (python(1))."""
    found = []
    arguments = iter(command[1:])
    for argument in arguments:
        if argument == "--check-hash-based-pycs":
            found += [argument, next(arguments, "default")]
            continue
        if not argument.startswith("-") or argument.startswith("--") or argument == "-":
            break
        letters = argument[1:]
        end = min((at for letter in "cmWX" if (at := letters.find(letter)) >= 0), default=len(letters))
        if letters[end : end + 1] in ("c", "m"):
            found += [argument[: end + 1]] * (end > 0)
            return found, (letters[end + 1 :] or next(arguments, "")) if letters[end] == "m" else ""
        found.append(argument)
        if end == len(letters) - 1:
            found.append(next(arguments, ""))  # what -W or -X takes, as an argument of its own
    return found, ""


def _leave_present_directory() -> bool:
    """Take back what `python -m hypoll` has put before the standard library. Whether hypoll itself was found there."""
    _, module = split_command(sys.orig_argv)
    if module.partition(".")[0] != "hypoll" or sys.flags.safe_path or sys.path[:1] != [os.getcwd()]:
        return False
    own = os.path.dirname(os.path.dirname(os.path.abspath(sys.modules["hypoll"].__file__ or "")))
    if sys.path.pop(0) != own:
        return False
    sys.path.append(own)
    return True


FOUND_IN_PRESENT_DIRECTORY = _leave_present_directory()
"""Whether hypoll isn't installed, but lies where `python -m hypoll` was run."""

import importlib.machinery  # noqa: E402 - it imports further modules


class LibraryFirst:
    """Finds a module of the standard library in the library, unless the application itself asks for its own.

    Who asks is looked for on the stack: code below `directory` that isn't installed there, or `asker`. What has been
    loaded stays what it is for all.

    Args:
        names: modules of the directory that are called as one of the library.
    """

    def __init__(self, directory: str, names: frozenset[str], asker: str) -> None:
        self._directory = directory
        self._names = names
        self._asker = asker

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The library's module; None: let the others find it."""
        if name not in self._names or self._is_asked_by_application():
            return None
        others = [entry for entry in sys.path if os.path.abspath(entry) != self._directory]
        return importlib.machinery.PathFinder.find_spec(name, others, target)

    def _is_asked_by_application(self) -> bool:
        frame = sys._getframe(2)
        while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "importlib":
            frame = frame.f_back
        if frame.f_globals.get("__name__") == self._asker:
            return True
        file = os.path.abspath(frame.f_code.co_filename)
        return file.startswith(self._directory + os.sep) and "site-packages" not in file


def find_from(directory: str, asker: str) -> list[str]:
    """Import modules from a directory before all others; gives the files that are hidden by modules loaded already.

    Args:
        directory: where the application's modules are.
        asker: the name of the module that imports the application.
    """
    found = {name: entry for entry in sorted(os.listdir(directory)) if (name := _module_name(directory, entry))}
    if found:
        importlib.import_module("asyncio")  # needed later, perhaps: none of what it imports may be the application's
    sys.path.insert(0, directory)
    if found:
        # Before the finder that looks through `sys.path`, after those of modules that are part of the interpreter.
        at = next((at for at, finder in enumerate(sys.meta_path) if finder is importlib.machinery.PathFinder), 0)
        sys.meta_path.insert(at, LibraryFirst(directory, frozenset(found), asker))
    return [entry for name, entry in found.items() if name in sys.modules]


def _module_name(directory: str, entry: str) -> str:
    """The name of the standard library that a file or a package has; empty: it has none, or is no module."""
    name = entry.partition(".")[0]
    if name not in sys.stdlib_module_names:
        return ""
    if entry == name:
        return name if os.path.exists(os.path.join(directory, name, "__init__.py")) else ""
    return name if entry[len(name) :] in importlib.machinery.all_suffixes() else ""
