"""The command line: `hypoll app:routes`. Its options are the fields of `Settings` and a few of its own."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from typing import Any

import click

from hypoll.app import Routes
from hypoll.listen import BindError
from hypoll.process import serve
from hypoll.server import Server
from hypoll.settings import Option, Settings, options, parse_size
from hypoll.version import __version__

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

log = logging.getLogger("hypoll")


class Size(click.ParamType[int]):
    """Bytes, or a number with KiB, MiB or GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give the number of bytes, or fail naming the value."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AppError(click.ClickException):
    """The application can't be loaded."""

    exit_code = 2


def load(reference: str) -> Routes:
    """Import `module:attribute`. Raises `AppError` that says in a sentence what is wrong and where."""
    module_name, colon, attribute = reference.partition(":")
    if not colon or not module_name or not attribute:
        raise AppError(f"{reference!r} doesn't name an application: give MODULE:ATTRIBUTE, as in app:routes")
    module = _import(module_name)
    target: Any = module
    for name in attribute.split("."):
        try:
            target = getattr(target, name)
        except AttributeError:
            names = [key for key, value in vars(module).items() if isinstance(value, Routes)]
            hint = f"; it has {module_name}:{names[0]}" if names else "; is the Routes object there called differently?"
            raise AppError(f"{module_name} has no attribute {name!r}{hint}") from None
    if not isinstance(target, Routes):
        raise AppError(f"{reference} is a {type(target).__name__}, not a hypoll.Routes: name the Routes object")
    return target


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise AppError(f"there is no module {name!r} in {sys.path[0]}: see --app-dir") from None
        raise AppError(f"{name} can't be imported: {_where(error)}") from None
    except Exception as error:
        raise AppError(f"{name} can't be imported: {_where(error)}") from None


def _where(error: Exception) -> str:
    """The exception, with the line of the application it came from."""
    if isinstance(error, SyntaxError):
        return f"{error.msg}, {error.filename} line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, {frame.filename} line {frame.lineno}"


def _declaration(option: Option) -> click.Option:
    """The command line's form of a setting."""
    name = "--" + option.name.replace("_", "-")
    unit = f" [{option.unit}]" if option.unit else ""
    common: dict[str, Any] = {"default": option.default, "show_default": True, "show_envvar": True}
    if isinstance(option.default, bool):
        return click.Option([name], is_flag=True, help=option.help, **common)
    if isinstance(option.default, tuple):
        return click.Option([name], multiple=True, metavar="ADDRESS", help=option.help, **common)
    if isinstance(option.default, float):
        kind: Any = click.FloatRange(min=option.least)
    else:
        kind = Size() if option.unit == "bytes" else click.IntRange(min=int(option.least))
    return click.Option([name], type=kind, help=option.help + unit, **common)


def main_command() -> click.Command:
    """The `hypoll` command."""
    own: list[click.Parameter] = [
        click.Argument(["app"], metavar="MODULE:ATTRIBUTE"),
        click.Option(
            ["--app-dir"],
            default=".",
            show_default=True,
            show_envvar=True,
            type=click.Path(exists=True, file_okay=False),
            help="The directory to import the application from.",
        ),
        click.Option(
            ["--log-level"],
            default="info",
            show_default=True,
            show_envvar=True,
            type=click.Choice(LOG_LEVELS),
            help="The least severe messages to print.",
        ),
        click.Option(["--check"], is_flag=True, help="Load the application, print its routes, and exit."),
    ]
    command = click.Command(
        "hypoll",
        callback=_main,
        params=[*own, *(_declaration(option) for option in options())],
        help="Serve the Routes object ATTRIBUTE of MODULE, as in `hypoll app:routes`, until TERM or INT.",
        context_settings={"auto_envvar_prefix": "HYPOLL", "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__, prog_name="hypoll", message="%(prog)s %(version)s")(command)


def _main(app: str, app_dir: str, log_level: str, check: bool, **values: Any) -> None:
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    sys.path.insert(0, os.path.abspath(app_dir))
    try:
        settings = Settings(**values)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    routes = load(app)
    if check:
        _check(app, routes)
        return
    try:
        serve(routes, settings, lambda server: _announce(app, server))
    except BindError as error:
        raise click.ClickException(str(error)) from None
    log.info("stopped")


def _announce(app: str, server: Server) -> None:
    log.info("hypoll %s serves %s on %s, pid %d", __version__, app, ", ".join(server.addresses), os.getpid())


def _check(app: str, routes: Routes) -> None:
    table = routes.table()
    width = max((len("/".join(route.methods)) for route in table), default=0)
    for route in table:
        click.echo(f"{'/'.join(route.methods):{width}}  {route.path}  {route.name}")
    for warning in warnings_of(routes):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{app} is fine: {len(table)} routes")


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
