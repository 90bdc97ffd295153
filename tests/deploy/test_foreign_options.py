"""Options of other servers are answered with those that exist here."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest

from hypoll.cli import main_command
from hypoll.deploy.foreign_options import FOREIGN_OPTIONS, replacement_of
from tests.support.gunicorn import ROOT


def names_of(command: Any) -> set[str]:
    """All names of the options of a command."""
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


OWN = names_of(main_command())
UVICORN = {name for name in names_of(import_module("uvicorn.main").main) if name.startswith("--")}


@pytest.mark.parametrize("name", FOREIGN_OPTIONS)
def test_what_is_named_exists_here_and_what_it_replaces_there(name):
    assert name in UVICORN
    assert name not in OWN
    found = replacement_of(name, [name])
    assert found is not None
    assert set(re.findall(r"--[a-z-]+", found)) <= OWN


def test_the_document_has_every_option_of_uvicorn_s():
    named = set(re.findall(r"--[a-z0-9-]+", (ROOT / "docs" / "asgi.md").read_text()))
    assert not UVICORN - named


def test_an_option_of_nobody_s_has_no_replacement():
    assert replacement_of("--nothing", []) is None
