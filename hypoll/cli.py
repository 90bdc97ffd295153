"""The command line: `hypoll app:routes`. Its options are the fields of `Settings` and a few of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
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
from hypoll.concurrency import monkey_patching
from hypoll.concurrency.process_end import ProcessEnd
from hypoll.deploy import watched
from hypoll.deploy.cpus import cpu_count
from hypoll.deploy.failures import MISTAKE, REFUSED, describe, exit_code_of
from hypoll.deploy.foreign_options import replacement_of
from hypoll.deploy.imports import find_from
from hypoll.deploy.preflight import Plan, read_system, warnings_for
from hypoll.deploy.rehearsal import faults, unknown_variables
from hypoll.deploy.reload import Reloader, command_of, watcher
from hypoll.hosting import Servable, fault_of, interface_of, made_by, uses_threads
from hypoll.runner import SetupError, serve
from hypoll.server.server import RELOAD_GRACE, Server
from hypoll.server.sockets import BindError, activated, listen, unix_paths
from hypoll.settings import (
    Option,
    Processes,
    Settings,
    format_size,
    groups,
    name_options,
    options,
    parse_size,
    variable,
)
from hypoll.telemetry import error_log
from hypoll.telemetry.log_writer import occupy_standard_descriptors
from hypoll.version import __version__
from hypoll.web.routing import Route
from hypoll.wsgi.adapter import WSGIAdapter

RELOAD_PATIENCE = 5.0
"""Seconds beyond `graceful_timeout` after which --reload kills a server that hangs."""

SHORT = {"bind": "-b", "workers": "-w"}
"""Options that have a letter: as gunicorn's."""

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

log = logging.getLogger("hypoll")


class Size(click.ParamType[int]):
    """Bytes, or a number with KiB, MiB or GiB."""

    name = "size"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give the number of bytes, or fail naming the value."""
        try:
            size = value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if size < self.least:
            self.fail(f"{value!r} is too small: it must be at least {self.least} bytes", param, ctx)
        return size


class Seconds(click.FloatRange):
    """A time."""

    name = "number of seconds"


class Number(click.IntRange):
    """A number of things."""

    name = "whole number"


class NumberOr(Number):
    """A number, or one of a few words."""

    def __init__(self, least: int, words: tuple[str, ...]) -> None:
        super().__init__(min=least)
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give the number or the word, or fail naming the value."""
        if value in self._words:
            return value
        try:
            int(value)
        except ValueError:
            self.fail(f"{value!r} is not a valid {self.name}, nor {' or '.join(self._words)}", param, ctx)
        return super().convert(value, param, ctx)


class AppError(click.ClickException):
    """What the command asks for isn't there: the application, a file, an extra, or an address."""

    exit_code = MISTAKE
    missing = False
    """Whether there is no such module."""


class _StartupFailed(click.ClickException):
    """The application's own word that it can't start."""

    exit_code = STARTUP_FAILED


def load(reference: str, settings: Settings | None = None) -> Servable:
    """Import `module:attribute`, or what that makes. Raises `AppError` that says what is wrong and where.

    Args:
        reference: `module:attribute`, as in `app:routes`.
        settings: `interface` and `factory`.
    """
    settings = settings or Settings()
    module_name, _, attribute = reference.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        directory, file = os.path.split(module_name.removesuffix(".py"))
        option = f" with --app-dir {directory}" if directory else ""
        raise AppError(f"{reference!r} names a file, not a module: give {file}:{attribute or 'routes'}{option}")
    if not all(name.isidentifier() for name in (*module_name.split("."), *attribute.split("."))):
        meant = _meant_by(reference) or "app:routes"
        raise AppError(f"{reference!r} doesn't name an application: give MODULE:ATTRIBUTE, as in {meant}")
    module = _import(module_name)
    target: Any = module
    for name in attribute.split("."):
        if not hasattr(target, name):
            where = f"{module_name} ({getattr(module, '__file__', None) or 'built-in'})"
            raise AppError(f"{where} has no attribute {attribute!r}; {_suggestion(module)}")
        target = getattr(target, name)
    target = _made(reference, target, settings)
    fault = "" if isinstance(target, Routes) else fault_of(target, settings.interface)
    if fault:
        raise AppError(f"{reference} {fault}; {_suggestion(module)}")
    fault = monkey_patching.find_fault(threads=uses_threads(target))
    if fault:
        raise AppError(f"{reference} can't be served: {fault}")
    return target  # type: ignore[no-any-return]


def _made(reference: str, target: Any, settings: Settings) -> Any:
    """What a reference leads to, with `factory` what that makes. Raises `AppError`."""
    if isinstance(target, (Routes, WSGIAdapter)):
        return target.routes if isinstance(target, WSGIAdapter) else target
    if not settings.factory:
        return target
    try:
        made = made_by(target)
    except Exception as error:
        log.debug("%s makes no application", reference, exc_info=True)
        raise AppError(f"{reference} makes no application: {describe(error)}") from error
    return made.routes if isinstance(made, WSGIAdapter) else made


def _suggestion(module: Any) -> str:
    """What may have been meant."""
    names = _applications_of(module)
    return f"it has {' and '.join(names)}" if names else "it has no Routes object"


def _applications_of(module: Any) -> list[str]:
    return [f"{module.__name__}:{key}" for key, value in vars(module).items() if isinstance(value, Routes)]


def _meant_by(reference: str) -> str:
    """What a reference without a colon means, if it is a module, or one with an attribute; empty: neither."""
    name = reference.removesuffix(":")
    if not all(part.isidentifier() for part in name.split(".")):
        return ""
    try:
        return " or ".join(_applications_of(_import(name)))
    except AppError as error:
        parent, _, attribute = name.rpartition(".")
        if not parent or not error.missing:
            return ""
    try:
        return f"{parent}:{attribute}" if hasattr(_import(parent), attribute) else ""
    except AppError:
        return ""


def _import(name: str) -> Any:
    """Import a module. Raises `AppError`; where what is wrong came from is in the log of the level debug."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            absent = AppError(f"there is no module {name!r} in {sys.path[0]}: see --app-dir")
            absent.missing = True
            raise absent from None
        log.debug("%s can't be imported", name, exc_info=True)
        raise AppError(f"{name} can't be imported: {describe(error)}") from None
    except SystemExit:
        raise AppError(f"{name} exits when it is imported: put what is for running it under __main__") from None
    except Exception as error:
        log.debug("%s can't be imported", name, exc_info=True)
        raise AppError(f"{name} can't be imported: {describe(error)}") from None


def _help_of(name: str) -> dict[str, Any]:
    """That an option can also be set by a variable, and what the help says of it."""
    return {"envvar": variable(name), "show_envvar": True, "show_default": True}


def _declaration(option: Option) -> click.Option:
    """The command line's form of a setting."""
    name = _flag(option.name)
    short = [SHORT[option.name]] if option.name in SHORT else []
    unit = f" [{option.unit}]" if option.unit else ""
    common: dict[str, Any] = {"default": option.default, **_help_of(option.name)}
    if isinstance(option.default, bool):
        names = f"{name}/--no-{name[2:]}" if option.default else name
        return click.Option([names], is_flag=True, help=option.help, **common)
    if isinstance(option.default, tuple):
        several = " The variable takes several with spaces between."
        return click.Option([*short, name], multiple=True, metavar=option.metavar, help=option.help + several, **common)
    if isinstance(option.default, str):
        common |= {"type": click.Choice(option.choices)} if option.choices else {"metavar": option.metavar}
        return click.Option([name], help=option.help, **common)
    least = int(option.least)
    if isinstance(option.default, str):
        common |= {"type": click.Choice(option.choices)}
    elif option.choices:
        common |= {"type": NumberOr(least, option.choices), "metavar": "|".join(("NUMBER", *option.choices))}
    elif option.unit == "bytes":
        common |= {"type": Size(least), "metavar": "SIZE", "default": format_size(option.default)}
    elif isinstance(option.default, float):
        common |= {"type": Seconds(min=least), "metavar": "SECONDS"}
    else:
        common |= {"type": Number(min=least), "metavar": "NUMBER"}
    return click.Option([*short, name], help=option.help + unit, **common)


def main_command() -> click.Command:
    """The `hypoll` command."""
    own: list[click.Parameter] = [
        click.Argument(["app"], metavar="MODULE:ATTRIBUTE"),
        click.Option(
            ["--app-dir"],
            default=".",
            **_help_of("app_dir"),
            type=click.Path(exists=True, file_okay=False),
            help="The directory to import the application from.",
        ),
        click.Option(
            ["--log-level"],
            default="info",
            **_help_of("log_level"),
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
        params=[*own, *(_declaration(option) for option in (*options(Processes), *options()))],
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
        workers = _worker_count(processes)
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
    arguments += _arguments(hasty)
    if processes.workers:  # without them theirs have no meaning
        arguments += _arguments(dataclasses.replace(processes, reload=False))
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


def _arguments(chosen: Settings | Processes) -> list[str]:
    """The command line's arguments for these options."""
    arguments = []
    for option in options(type(chosen)):
        value = getattr(chosen, option.name)
        if isinstance(value, bool):
            # Of those that are on by default; the others can't be turned off by a flag.
            off = [_flag("no_" + option.name)] if option.default else []
            arguments += [_flag(option.name)] if value else off
        else:
            for one in value if isinstance(value, tuple) else (value,):
                arguments += [_flag(option.name), str(one)]
    return arguments


def _is_given(name: str) -> bool:
    """Whether the command line or the environment sets an option, whatever its value."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def _spell(name: str) -> str:
    """An option as who set it has typed it."""
    source = click.get_current_context().get_parameter_source(name)
    return variable(name) if source is ParameterSource.ENVIRONMENT else _flag(name)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _worker_count(processes: Processes) -> int:
    """How many processes will serve."""
    if processes.workers == "auto":
        return cpu_count()
    return int(processes.workers) or 1


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
    if not isinstance(routes, Routes):
        what = f"is {'an ASGI' if interface_of(routes, plan.settings.interface) == 'asgi' else 'a WSGI'} application"
    if isinstance(routes, Routes):
        table = routes.table()
        _show(table)
        warnings = warnings_of(routes) + warnings
        what = f"has {len(table)} route{'s' if len(table) != 1 else ''}"
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


def warnings_of(routes: Routes) -> list[str]:
    """What is allowed and most likely not meant."""
    table = routes.table()
    found = [] if table else ["there are no routes: every request will be answered with 404"]
    paths = {route.path for route in table}
    found += [
        f"{path} and {path}/ are different paths: a client may mean either"
        for path in sorted(paths)
        if path + "/" in paths
    ]
    return found


main = main_command()
