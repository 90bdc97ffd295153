"""What serving would refuse, found without serving: by calling what serving calls.

Nothing of it is left: listeners are closed, a log file that wasn't there is removed. The application's start is not
run: it would open databases.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping

from hypoll.deploy import admin_listener
from hypoll.deploy.reload import watcher
from hypoll.hosting import Servable
from hypoll.runner import Runner, SetupError
from hypoll.server.sockets import BindError, listen, unix_paths
from hypoll.server.transport import context_of
from hypoll.settings import Processes, Settings, name_options, options, variable

_ORCHESTRATOR_S = re.compile(r"HYPOLL_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
"""What Kubernetes gives each container of a namespace that has a service named hypoll."""

COMMAND_S = ("app_dir", "log_level", "check")
"""Options of the command alone, which have variables, too."""


def faults(
    application: Servable, settings: Settings, processes: Processes, spell: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """What keeps the application from being served, and what may: a sentence each.

    Args:
        application: what is to be served.
        settings: the options of the server.
        processes: the options of its processes.
        spell: how the caller names an option, see `name_options`.
    """
    refused: list[str] = list(unknown_variables(os.environ))
    doubtful: list[str] = []
    steps: list[Callable[[], object]] = [
        lambda: context_of(settings),
        lambda: _observe(application, settings),
        *(_binding(address, settings) for address in (*settings.bind, settings.admin_bind) if address),
    ]
    if processes.reload:
        steps.append(watcher)
    for step in steps:
        try:
            step()
        except (BindError, SetupError, ImportError, ValueError, TypeError) as error:
            said = name_options(error.__cause__ if isinstance(error, SetupError) and error.__cause__ else error, spell)
            # A check beside the server that runs says more than that it runs.
            (doubtful if _is_in_use(error) else refused).append(said)
    return refused, doubtful


def _observe(application: Servable, settings: Settings) -> None:
    """Make all that a process has around its application. Raises `SetupError`."""
    path = settings.access_log_file
    is_new = path != "-" and not os.path.lexists(path)
    try:
        Runner(application, settings).close()
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _binding(address: str, settings: Settings) -> Callable[[], None]:
    def bind() -> None:
        listen(address, settings).close()
        for path in unix_paths([address]):
            os.unlink(path)

    return bind


def _is_in_use(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(error, BindError) and isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Name the variables that are called as hypoll's and aren't any, each with the nearest that is."""
    names = [option.name for option in (*options(), *options(Processes))]
    known = [variable(name) for name in (*names, *COMMAND_S)]
    for name in sorted(environ):
        if name.startswith("HYPOLL_") and name not in (*known, admin_listener.VARIABLE):
            if _ORCHESTRATOR_S.fullmatch(name):
                continue
            near = difflib.get_close_matches(name, known, 1)
            yield f"{name} is no variable of hypoll's{f': is it {near[0]}?' if near else ''}"
