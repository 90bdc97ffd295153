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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from hypoll.deploy import admin_listener
from hypoll.deploy.reload import watcher
from hypoll.hosting import Servable
from hypoll.option import OptionError, name_options
from hypoll.runner import Runner, SetupError
from hypoll.server.sockets import BindError, listen, unix_paths
from hypoll.server.transport import context_of
from hypoll.settings import Processes, Settings, options, variable

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
    held = contextlib.ExitStack()
    addresses = dict.fromkeys(filter(None, (*settings.bind, settings.admin_bind)))
    steps: list[Callable[[], object]] = [
        lambda: context_of(settings),
        lambda: doubtful.extend(_observe(application, settings)),
        lambda: _find_repeated(settings),
        *(_binding(address, settings, held) for address in addresses),
    ]
    if processes.workers and settings.reuse_port:
        steps.append(lambda: _check_separable(settings))
    if processes.reload:
        steps.append(watcher)
    with held:
        for step in steps:
            try:
                step()
            except (BindError, SetupError, ImportError, ValueError, TypeError, RuntimeError) as error:
                cause = error.__cause__ if isinstance(error, SetupError) and error.__cause__ else error
                # A check beside the server that runs says more than that it runs.
                (doubtful if _is_in_use(error) else refused).append(name_options(cause, spell))
    return refused, doubtful


def _observe(application: Servable, settings: Settings) -> list[str]:
    """Make all that a process has around its application; gives what that hides of it. Raises `SetupError`."""
    path = settings.access_log_file
    is_new = path != "-" and not os.path.lexists(path)
    try:
        runner = Runner(application, settings)
        runner.close()
        return runner.notices
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _binding(address: str, settings: Settings, held: contextlib.ExitStack) -> Callable[[], None]:
    """What listens there until all addresses are: one may be another's in other words."""

    def bind() -> None:
        held.enter_context(listen(address, settings))
        for path in unix_paths([address]):
            held.callback(os.unlink, path)

    return bind


def _find_repeated(settings: Settings) -> None:
    """Raise `ValueError` for an address that is given twice."""
    if settings.admin_bind and settings.admin_bind in settings.bind and not _takes_any_port(settings.admin_bind):
        raise OptionError(f"<admin_bind> is {settings.admin_bind}, as <bind> is: give another address")
    for address, count in Counter(settings.bind).items():
        # With reuse_port a port may be bound again by the same user (socket(7), SO_REUSEPORT).
        again = settings.reuse_port and not address.startswith(("unix:", "fd://"))
        if count > 1 and not _takes_any_port(address) and not again:
            raise OptionError(f"<bind> is {address} twice: give each address once")


def _takes_any_port(address: str) -> bool:
    return address.endswith(":0")


def _check_separable(settings: Settings) -> None:
    """Raise as gunicorn's master would, where the workers can't have a listener each."""
    from hypoll.deploy import cluster, gunicorn_config  # gunicorn: one process by itself needs none of it

    gunicorn_config.check_separable(cluster.addresses_of(settings))


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
