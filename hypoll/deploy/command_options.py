"""Options as the command line has them: made of the settings, and written as arguments again."""

from __future__ import annotations

from typing import Any

import click

from hypoll.option import Option, format_size, parse_size
from hypoll.settings import Processes, Settings, options, variable

SHORT = {"bind": "-b", "workers": "-w"}
"""Options that have a letter: as gunicorn's."""


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


def help_of(name: str) -> dict[str, Any]:
    """That an option can also be set by a variable, and what the help says of it."""
    return {"envvar": variable(name), "show_envvar": True, "show_default": True}


def declaration_of(option: Option) -> click.Option:
    """The command line's form of a setting."""
    name = flag(option.name)
    short = [SHORT[option.name]] if option.name in SHORT else []
    unit = f" [{option.unit}]" if option.unit else ""
    common: dict[str, Any] = {"default": option.default, **help_of(option.name)}
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
    if option.choices:
        common |= {"type": NumberOr(least, option.choices), "metavar": "|".join(("NUMBER", *option.choices))}
    elif option.unit == "bytes":
        common |= {"type": Size(least), "metavar": "SIZE", "default": format_size(option.default)}
    elif isinstance(option.default, float):
        common |= {"type": Seconds(min=least), "metavar": "SECONDS"}
    else:
        common |= {"type": Number(min=least), "metavar": "NUMBER"}
    return click.Option([*short, name], help=option.help + unit, **common)


def arguments_of(chosen: Settings | Processes) -> list[str]:
    """The command line's arguments for these options."""
    arguments = []
    for option in options(type(chosen)):
        value = getattr(chosen, option.name)
        if isinstance(value, bool):
            # Of those that are on by default; the others can't be turned off by a flag.
            off = [flag("no_" + option.name)] if option.default else []
            arguments += [flag(option.name)] if value else off
        else:
            for one in value if isinstance(value, tuple) else (value,):
                arguments += [flag(option.name), str(one)]
    return arguments


def flag(name: str) -> str:
    """The command line's name of an option."""
    return "--" + name.replace("_", "-")
