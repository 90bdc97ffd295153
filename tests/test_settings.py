"""The options: their values, limits, and what is notified of them."""

from __future__ import annotations

import dataclasses
import math

import pytest

import hypoll
from hypoll.option import KIB, MIB
from hypoll.settings import ServerOptions, Settings, options
from hypoll.testing import TestClient

NUMBERS = [option for option in options() if type(option.default) in (int, float)]


def test_the_defaults_are_those_of_the_plan():
    settings = Settings()
    assert settings.bind == ("127.0.0.1:8000",)
    assert (settings.keep_alive, settings.header_timeout, settings.body_timeout) == (75, 10, 30)
    assert (settings.write_timeout, settings.graceful_timeout, settings.min_body_rate) == (30, 30, 500)
    assert (settings.max_head, settings.max_headers, settings.max_body) == (16 * KIB, 100, 16 * MIB)
    assert (settings.max_line, settings.max_field) == (0, 0)
    assert (settings.max_output, settings.backlog) == (256 * KIB, 4096)


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_option_is_told_with_default_meaning_and_unit(option):
    assert option.help.endswith(".")
    assert len(option.help) > 20
    assert option.default is not None
    assert getattr(Settings(), option.name) == option.default
    if isinstance(option.default, float):
        assert option.unit == "s", "what is measured in fractions is time"
    if "timeout" in option.name:
        assert option.unit == "s"
    if option.name.startswith("max_") and option.name not in ("max_headers", "max_connections"):
        assert option.unit == "bytes"


def test_the_options_are_the_fields_of_the_settings():
    assert [option.name for option in options()] == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_a_value_below_the_least_is_refused_with_its_name(option):
    assert getattr(Settings(**{option.name: type(option.default)(option.least)}), option.name) == option.least
    with pytest.raises(ValueError, match=rf"{option.name} is {option.least - 1:g}.*: it must be at least"):
        Settings(**{option.name: type(option.default)(option.least - 1)})


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
@pytest.mark.parametrize("value", ["5", None, True, [5]])
def test_a_value_of_another_kind_is_refused_with_its_name(option, value):
    with pytest.raises(TypeError, match=rf"{option.name} is .*: it must be a (whole )?number"):
        Settings(**{option.name: value})


def test_a_whole_number_is_a_number_of_seconds_and_a_fraction_no_number_of_bytes():
    assert Settings(keep_alive=5).keep_alive == 5
    with pytest.raises(TypeError, match=r"max_body is 1\.5: it must be a whole number"):
        Settings(max_body=1.5)  # type: ignore[arg-type]


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="keep_alive is nan"):
        Settings(keep_alive=math.nan)


def test_a_switch_is_true_or_false():
    assert Settings(reuse_port=True).reuse_port
    with pytest.raises(TypeError, match="reuse_port is 1: it must be True or False"):
        Settings(reuse_port=1)  # type: ignore[arg-type]


def test_bind_is_addresses():
    assert list(Settings(bind=["127.0.0.1:1", "[::1]:2"]).bind) == ["127.0.0.1:1", "[::1]:2"]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bind is empty"):
        Settings(bind=())
    with pytest.raises(TypeError, match=r"bind takes .* not the string '127\.0\.0\.1:8000'"):
        Settings(bind="127.0.0.1:8000")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="each address must be a str"):
        Settings(bind=(8000,))  # type: ignore[arg-type]


def test_a_descriptor_is_given_once():
    assert Settings(bind=("fd://3", "fd://4", "127.0.0.1:0", "127.0.0.1:0")).bind
    with pytest.raises(ValueError, match="fd://3 twice"):
        Settings(bind=("fd://3", "127.0.0.1:0", "fd://3"))


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ({"access_log": "xml"}, ValueError, "access_log is 'xml': it must be one of auto, off, text, json"),
        ({"access_log": True}, TypeError, "access_log is True: it must be a str"),
        ({"log_format": ""}, ValueError, "log_format is '': it must be one of text, json"),
        ({"metrics": "metrics"}, ValueError, "metrics is 'metrics': it must be a path"),
        ({"health": "/a b"}, ValueError, "health is '/a b': it must be a path"),
        ({"status": "/{id}"}, ValueError, "status is '/{id}': it must be a path"),
        ({"access_log_skip": ("/ok", "no")}, ValueError, "access_log_skip is ('/ok', 'no'): it must be a path"),
        ({"status_allow": ("localhost",)}, ValueError, "'localhost': it is no IP address or network"),
        ({"status_allow": "::1"}, TypeError, "status_allow takes a sequence, one item a network, not the string '::1'"),
        ({"forwarded_allow_ips": ("10.0.0.1/8",)}, ValueError, "'10.0.0.1/8': 10.0.0.1/8 has host bits set"),
        ({"forwarded_allow_ips": (1,)}, TypeError, "forwarded_allow_ips is (1,): each network must be a str"),
    ],
)
def test_what_an_option_can_not_be_is_said_with_its_name(values, kind, said):
    with pytest.raises(kind) as caught:
        Settings(**values)
    assert said in str(caught.value)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="keepalive"):
        Settings(keepalive=5)  # type: ignore[call-arg]


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().keep_alive = 1  # type: ignore[misc]


def test_the_keywords_are_those_of_the_settings():
    kinds = {field.name: field.type for field in dataclasses.fields(Settings) if field.name != "bind"}
    assert {name: annotation.__forward_arg__ for name, annotation in ServerOptions.__annotations__.items()} == kinds
    assert ServerOptions.__optional_keys__ == kinds.keys()
    for callee in (hypoll.run, TestClient.__init__):
        assert callee.__annotations__["settings"] == "Unpack[ServerOptions]"
