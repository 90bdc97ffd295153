"""The command line: `hypoll app:routes`. Its options are the fields of `Settings` and a few of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from hypoll.app import Routes
from hypoll.asgi.errors import STARTUP_FAILED, StartupError
from hypoll.concurrency.process_end import ProcessEnd
from hypoll.deploy import watched
from hypoll.deploy.command_options import arguments_of, declaration_of, flag, help_of
from hypoll.deploy.cpus import cpu_count
from hypoll.deploy.failures import REFUSED, describe, exit_code_of
from hypoll.deploy.foreign_options import replacement_of
from hypoll.deploy.imports import find_from
from hypoll.deploy.loading import AppError, load
from hypoll.deploy.preflight import Plan, read_system, warnings_for
from hypoll.deploy.rehearsal import faults, unknown_variables
from hypoll.deploy.reload import Reloader, command_of, watcher
from hypoll.hosting import Servable, interface_of
from hypoll.option import name_options
from hypoll.runner import SetupError, serve
from hypoll.server.server import RELOAD_GRACE, Server
from hypoll.server.sockets import BindError, activated, listen, unix_paths
from hypoll.settings import Processes, Settings, groups, options, variable
from hypoll.telemetry import error_log
from hypoll.telemetry.log_writer import occupy_standard_descriptors
from hypoll.version import __version__
from hypoll.web.routing import Route

RELOAD_PATIENCE = 5.0
"""Seconds beyond `graceful_timeout` after which --reload kills a server that hangs."""

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

log = logging.getLogger("hypoll")


class _StartupFailed(click.ClickException):
    """The application's own word that it can't start."""

    exit_code = STARTUP_FAILED


def main_command() -> click.Command:
    """The `hypoll` command."""
    own: list[click.Parameter] = [
        click.Argument(["app"], metavar="MODULE:ATTRIBUTE"),
        click.Option(
            ["--app-dir"],
            default=".",
            **help_of("app_dir"),
            type=click.Path(exists=True, file_okay=False),
            help="The directory to import the application from.",
        ),
        click.Option(
            ["--log-level"],
            default="info",
            **help_of("log_level"),
            type=click.Choice(LOG_LEVELS),
            help="The least severe messages to print.",
        ),
        click.Option(
            ["--check"],
            is_flag=True,
            envvar="HYPOLL_CHECK",
            show_envvar=True,
            help="Load the application, print its routes, what would keep it from being served and what would hurt it "
            "here, and exit: 2 where it can't be served.",
        ),
    ]
    command = _Command(
        "hypoll",
        callback=_main,
        params=[*own, *(declaration_of(option) for option in (*options(Processes), *options()))],
        help="Serve the Routes object or the ASGI or WSGI application ATTRIBUTE of MODULE, as in `hypoll app:routes`, "
        "until TERM or INT.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    return click.version_option(__version__, prog_name="hypoll", message="%(prog)s %(version)s")(command)


class _Command(click.Command):
    """The command. Run without arguments of a caller's it is a process of its own, whose end is its own, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; an option that other servers have is answered with what it is here."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            replacement = replacement_of(error.option_name, given)
            if replacement is None:
                raise
            raise click.UsageError(f"No such option {error.option_name!r}. Give {replacement}", ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by what they are about."""
        titles = {option.name: title for title, members in groups().items() for option in members}
        titles |= {option.name: "Processes" for option in options(Processes)}
        found: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                found.setdefault(titles.get(parameter.name or "", "The command"), []).append(record)
        for title in ("The command", "Processes", *groups()):
            with formatter.section(title):
                formatter.write_dl(found[title])

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """As click's, which ends in `SystemExit`."""
        departure = ProcessEnd() if args is None else None
        try:
            return super().main(args, *rest, obj=departure, **extra)
        except SystemExit as error:
            if departure is not None and departure.begun:
                code = error.code
                departure.begin_exit(code if isinstance(code, int) else int(code is not None))
            raise


def _main(app: str, app_dir: str, log_level: str, check: bool, **values: Any) -> None:
    occupy_standard_descriptors()  # first: what is opened before would get their numbers
    directory = os.path.abspath(app_dir)
    hidden = find_from(directory, __name__)
    try:
        processes = Processes(**{option.name: values.pop(option.name) for option in options(Processes)})
    except ValueError as error:
        raise click.UsageError(name_options(error, _spell)) from None
    settings = _settings(values)
    error_log.set_up(log_level, settings.log_format, pids=bool(processes.workers))
    if hidden:
        names = ", ".join(hidden)
        log.warning("%s in %s: the standard modules of these names are imported instead: rename them", names, directory)
    _refuse_meaningless(processes)
    departure = click.get_current_context().obj
    if check:
        workers = cpu_count() if processes.workers == "auto" else int(processes.workers) or 1
        plan = Plan(settings=settings, log_level=log_level, workers=workers)
        _check(app, load(app, settings), plan, processes)
        return
    for sentence in unknown_variables(os.environ):
        log.warning("%s", sentence)
    if departure is not None:
        departure.begin()
        watched.become_watched()
    try:
        if processes.reload:
            sys.exit(_reload(app, directory, log_level, settings, processes))
        _serve(app, log_level, settings, processes, departure or ProcessEnd())
    except KeyboardInterrupt:  # `Ended`, or an INT that came while that was taken up
        log.info("asked to end before it served")
    except BindError as error:
        kind = click.ClickException if exit_code_of(error) == REFUSED else AppError
        raise kind(name_options(error, _spell)) from None
    except SetupError as error:
        raise AppError(name_options(error.__cause__ or error, _spell)) from None


def _refuse_meaningless(processes: Processes) -> None:
    """Refuse what was set for workers where there are none. Raises `click.UsageError`."""
    ignored = [] if processes.workers else [name for name in Processes.of_workers() if _is_given(name)]
    if ignored:
        raise click.UsageError(f"{_spell(ignored[0])} has no meaning without --workers")


def _serve(app: str, log_level: str, settings: Settings, processes: Processes, departure: ProcessEnd) -> None:
    if processes.workers:
        from hypoll.deploy import cluster  # gunicorn: one process by itself needs none of it

        made = dataclasses.replace(settings, factory=False)  # what is loaded is what the factory has made
        cluster.serve(app, lambda: _load_or_tell(app, settings), made, processes, log_level)
    else:
        _serve_alone(app, settings, departure)


def _load_or_tell(app: str, settings: Settings) -> Servable:
    """`load`. The watcher of this process is notified of what is wrong."""
    try:
        return load(app, settings)
    except AppError as error:
        watched.report_failure(error.__context__ or error, error.message)
        raise


def _serve_alone(app: str, settings: Settings, departure: ProcessEnd) -> None:
    routes = _load_or_tell(app, settings)
    settings = dataclasses.replace(settings, factory=False)  # it has made them
    departure.check()

    def announce(server: Server) -> None:
        departure.served = True
        log.info("hypoll %s serves %s on %s, pid %d", __version__, app, ", ".join(server.addresses), os.getpid())

    try:
        departure.seconds = serve(routes, settings, announce)
    except SetupError:
        raise
    except StartupError as error:
        raise _StartupFailed(f"{app}: {error}") from None
    except Exception as error:
        if not departure.served:
            watched.report_failure(error)
        if isinstance(error, BindError):
            raise
        log.critical("%s failed", app, exc_info=error)
        raise click.ClickException(f"{app} failed: {describe(error)}") from None
    departure.on_end(lambda: log.info("stopped"))


def _reload(app: str, directory: str, log_level: str, settings: Settings, processes: Processes) -> int:
    """Watch the files, and have another process serve, on listeners of this one: they stay open when it is replaced."""
    try:
        watcher()
    except ImportError as error:
        raise AppError(str(error)) from None
    addresses = settings.bind
    listeners = [] if settings.reuse_port else [listen(address, settings) for address in addresses]
    bind = tuple(f"fd://{listener.fileno()}" for listener in listeners) or addresses
    arguments = [app, "--app-dir", directory, "--log-level", log_level]
    # Nobody is to wait for who holds a stream or a connection while somebody tries what was just changed.
    grace = min(settings.graceful_timeout, RELOAD_GRACE)
    hasty = dataclasses.replace(settings, bind=bind, drain_wait=0.0, drain_keep_alive=0.0, graceful_timeout=grace)
    arguments += arguments_of(hasty)
    if processes.workers:  # without them theirs have no meaning
        arguments += arguments_of(dataclasses.replace(processes, reload=False))
    on_change = signal.SIGHUP if processes.workers else signal.SIGTERM
    patience = grace + RELOAD_PATIENCE
    try:
        return Reloader(command_of(arguments), directory, listeners, on_change, patience, settings).run()
    finally:
        for path in unix_paths(addresses):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for listener in listeners:
            listener.close()


def _is_given(name: str) -> bool:
    """Whether the command line or the environment sets an option, whatever its value."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def _spell(name: str) -> str:
    """An option as who set it has typed it."""
    source = click.get_current_context().get_parameter_source(name)
    return variable(name) if source is ParameterSource.ENVIRONMENT else flag(name)


def _settings(values: dict[str, Any]) -> Settings:
    """The settings of the command, on the sockets that were passed unless it says where to listen."""
    if not _is_given("bind"):
        try:
            values = {**values, "bind": activated() or values["bind"]}
        except BindError as error:
            raise AppError(str(error)) from None
    try:
        return Settings(**values)
    except ValueError as error:
        raise click.UsageError(name_options(error, _spell)) from None


def _check(app: str, routes: Servable, plan: Plan, processes: Processes) -> None:
    """Print what there is to know before serving. Ends in exit code 2 where serving would refuse."""
    made = dataclasses.replace(plan.settings, factory=False)  # what is loaded is what the factory has made
    refused, doubtful = faults(routes, made, processes, _spell)
    warnings = doubtful + warnings_for(read_system(), plan)
    if isinstance(routes, Routes):
        table = routes.table()
        _show(table)
        warnings = warnings_of(table) + warnings
        what = f"has {len(table)} route{'s' if len(table) != 1 else ''}"
    else:
        what = f"is {'an ASGI' if interface_of(routes, plan.settings.interface) == 'asgi' else 'a WSGI'} application"
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    for fault in refused:
        click.echo(f"error: {fault}", err=True)
    if refused:
        click.get_current_context().exit(AppError.exit_code)
    click.echo(f"{app} {what} and can be served")


def _show(table: list[Route]) -> None:
    rows = [("/".join(route.methods), route.path, route.name) for route in table]
    methods, paths = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    for method, path, name in rows:
        click.echo(f"{method:{methods}}  {path:{paths}}  {name}")


def warnings_of(table: list[Route]) -> list[str]:
    """What is allowed and most likely not meant."""
    if not table:
        return ["there are no routes: every request will be answered with 404"]
    paths = {route.path for route in table}
    alike = [path for path in sorted(paths) if path + "/" in paths]
    return [f"{path} and {path}/ are different paths: a client may mean either" for path in alike]


main = main_command()
