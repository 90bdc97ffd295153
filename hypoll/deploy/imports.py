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

_LOADERS = (
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
    (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
)


class ApplicationFinder(importlib.machinery.FileFinder):
    """Finds the modules of a directory; those that are called as one of the library only for the application itself.

    Who asks is looked for on the stack: code below `directory` that isn't installed there, or `asker`. For all others
    `sys.path` goes on behind the directory. That finds the library's module, or none: `sys.stdlib_module_names` has
    those of all platforms, and the library tries to import `_wmi`, which is Windows' alone. What has been loaded stays
    what it is for all.

    Args:
        directory: an absolute path.
        names: modules of the directory that are called as one of the library.
        asker: the name of the module that imports the application.
    """

    def __init__(self, directory: str, names: frozenset[str], asker: str) -> None:
        super().__init__(directory, *_LOADERS)
        self._directory = directory
        self._names = names
        self._asker = asker

    def hook(self, path: str) -> ApplicationFinder:
        """What `sys.path_hooks` calls for an entry of `sys.path`."""
        if os.path.abspath(path) != self._directory:
            raise ImportError
        return self

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """The directory's module; None: `sys.path` goes on."""
        if fullname in self._names and not self._is_asked_by_application():
            return None
        return super().find_spec(fullname, target)

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
        directory: where the application's modules are; an absolute path.
        asker: the name of the module that imports the application.
    """
    found = {name: entry for entry in sorted(os.listdir(directory)) if (name := _module_name(directory, entry))}
    if found:
        importlib.import_module("asyncio")  # needed later, perhaps: none of what it imports may be the application's
    sys.path.insert(0, directory)
    if found:
        sys.path_hooks.insert(0, ApplicationFinder(directory, frozenset(found), asker).hook)
        for path in [path for path in sys.path_importer_cache if os.path.abspath(path) == directory]:
            del sys.path_importer_cache[path]
    return [entry for name, entry in found.items() if name in sys.modules]


def _module_name(directory: str, entry: str) -> str:
    """The name of the standard library that a file or a package has; empty: it has none, or is no module."""
    name = entry.partition(".")[0]
    if name not in sys.stdlib_module_names:
        return ""
    if entry == name:
        return name if os.path.exists(os.path.join(directory, name, "__init__.py")) else ""
    return name if entry[len(name) :] in importlib.machinery.all_suffixes() else ""
