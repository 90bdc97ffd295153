"""The options of the command: each setting's flag and variable, and what is wrong with one."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from hypoll.cli import main_command
from hypoll.deploy.command_options import arguments_of
from hypoll.option import Option
from hypoll.settings import Settings, options


def parsed(*arguments: str) -> dict[str, object]:
    with main_command().make_context("hypoll", ["app:routes", *arguments]) as context:
        return dict(context.params)


TEXTS = {
    "FIELD=VALUE": "X-Ssl=on",
    "ADDRESS": "127.0.0.1:1",
    "NETWORK": "10.0.0.0/8",
    "PATH": "/a/path",
    "FILE": "a.log",
    "DIRECTORY": "/var/tmp",
    "CIPHERS": "HIGH",
}
"""A value of each kind of text."""


def other_value(option: Option) -> tuple[str, object]:
    """A text and a value that are not the default's."""
    if isinstance(option.default, tuple):
        return TEXTS[option.metavar], (TEXTS[option.metavar],)
    if isinstance(option.default, str):
        text = option.choices[-1] if option.choices else TEXTS[option.metavar]
        return text, text
    if isinstance(option.default, float):
        return "7.5", 7.5
    return ("64KiB", 65536) if option.unit == "bytes" else ("77", 77)


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_each_setting_has_its_flag_its_variable_and_its_default(option, monkeypatch):
    flag, variable = "--" + option.name.replace("_", "-"), "HYPOLL_" + option.name.upper()
    assert parsed()[option.name] == option.default
    if isinstance(option.default, bool):
        assert parsed(flag)[option.name] is True
        monkeypatch.setenv(variable, "on")
        assert parsed()[option.name] is True
        monkeypatch.setenv(variable, "0")
        assert parsed()[option.name] is False
        return
    text, value = other_value(option)
    assert parsed(flag, text)[option.name] == value
    monkeypatch.setenv(variable, text)
    assert parsed()[option.name] == value
    monkeypatch.setenv(variable, "")
    assert parsed()[option.name] == option.default, "an empty variable is none"
    if option.choices or not isinstance(option.default, (tuple, str)):
        monkeypatch.delenv(variable)
        for bad in ("many", str(int(option.least) - 1)):
            with pytest.raises(click.UsageError) as caught:
                parsed(flag, bad)
            assert f"'{flag}' (env var: '{variable}')" in caught.value.format_message()


def test_the_options_of_a_process_that_is_started_are_those_of_its_parent():
    chosen = Settings(uvloop=False, request_id=True, bind=("fd://7", "[::1]:1"), max_body=3, keep_alive=1.5)
    arguments = arguments_of(chosen)
    context = main_command().make_context("hypoll", ["app:routes", *arguments])
    given = {option.name: context.params[option.name] for option in options()}
    assert Settings(**given) == chosen


def test_two_options_have_a_letter():
    assert parsed("-b", "unix:/a", "-b", "[::1]:1", "-w", "auto")["bind"] == ("unix:/a", "[::1]:1")
    assert parsed("-w", "3")["workers"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'MODULE:ATTRIBUTE'"),
        (["app:routes", "--slow-calback", "1"], "No such option '--slow-calback'. Did you mean '--slow-callback'?"),
        (
            ["app:routes", "--keep-alive", "-1"],
            "'--keep-alive' (env var: 'HYPOLL_KEEP_ALIVE'): -1.0 is not in the range x>=0",
        ),
        (["app:routes", "--keep-alive", "long"], "'long' is not a valid number of seconds"),
        (["app:routes", "--workers", "two"], "'two' is not a valid whole number, nor auto"),
        (["app:routes", "--workers", "-1"], "-1 is not in the range x>=0"),
        (["app:routes", "--backlog", "1.5"], "'1.5' is not a valid whole number"),
        (["app:routes", "--max-body", "big"], "'big' is not a size: give bytes, or a number with KiB, MiB or GiB"),
        (["app:routes", "--max-head", "1"], "'1' is too small: it must be at least 64 bytes"),
        (["app:routes", "--app-dir", "missing"], "Directory 'missing' does not exist"),
        (["app:routes", "--port", "9000"], "No such option '--port'. Give --bind 127.0.0.1:9000\n"),
        (["app:routes", "--host=::1", "-p", "80"], "Give --bind [::1]:80\n"),
        (["app:routes", "--root-path", "/x"], "No such option '--root-path'. Give --script-name PATH\n"),
        (["app:routes", "--no-access-log"], "No such option '--no-access-log'. Give --access-log off\n"),
        (["app:routes", "--log-level", "loud"], "'loud' is not one of 'debug', 'info'"),
        (["app:routes", "more"], "unexpected extra argument"),
    ],
)
def test_a_wrong_option_is_told(arguments, words):
    ended = CliRunner().invoke(main_command(), arguments)
    assert ended.exit_code == 2
    assert words in ended.output
