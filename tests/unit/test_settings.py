"""Settings: precedence, provenance, and one message for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import Settings, table


def test_defaults_need_nothing() -> None:
    settings = Settings.load()
    assert (settings.target, settings.region, settings.timeout, settings.keep) == (
        "embedded",
        "us-east-1",
        300.0,
        False,
    )
    assert settings.artifacts == Path("nomad-artifacts")
    assert settings.source("region") == "default"
    assert list(settings.chosen()) == []


def test_option_beats_environment_beats_ini() -> None:
    everywhere = {
        "options": {"nomad_region": "eu-west-1"},
        "environ": {"NOMAD_TESTKIT_REGION": "eu-west-2", "NOMAD_TESTKIT_TIMEOUT": "90"},
        "ini": {"nomad_region": "eu-west-3", "nomad_timeout": "60", "nomad_keep": "yes"},
    }
    settings = Settings.load(**everywhere, ini_file="tox.ini")
    assert (settings.region, settings.source("region")) == ("eu-west-1", "option --nomad-region")
    assert (settings.timeout, settings.source("timeout")) == (90.0, "environment variable NOMAD_TESTKIT_TIMEOUT")
    assert (settings.keep, settings.source("keep")) == (True, "nomad_keep in tox.ini")


def test_an_empty_value_counts_as_none() -> None:
    settings = Settings.load(environ={"NOMAD_TESTKIT_AMI": ""}, ini={"nomad_ami": "ami-0123456789abcdef0"})
    assert settings.ami == "ami-0123456789abcdef0"


def test_everything_wrong_is_listed_at_once_with_its_source() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(
            options={"nomad_target": "gcp", "nomad_timeout": "0"},
            environ={"NOMAD_TESTKIT_KEEP": "maybe", "NOMAD_TESTKIT_TIMEOUT": "90"},
            ini={"nomad_ami": "ubuntu"},
            ini_file="pytest.ini",
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "nomad_testkit cannot use 4 of its settings:"
    assert lines[1:] == [
        "  - option --nomad-target: found 'gcp', expected one of embedded",
        "  - nomad_ami in pytest.ini: found 'ubuntu', expected an AMI id such as ami-0123456789abcdef0",
        "  - option --nomad-timeout: found '0', expected a number of seconds above 0, such as 300",
        "  - environment variable NOMAD_TESTKIT_KEEP: found 'maybe', expected true or false",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", "soon"),
        ("timeout", "-1"),
        ("timeout", "nan"),
        ("timeout", "inf"),
        ("region", "Virginia"),
        ("consul_version", "latest"),
        ("nomad_version", "1.6"),
        ("consul_binary", "/nowhere/consul"),
        ("artifacts", __file__),
    ],
)
def test_wrong_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"--nomad-{name.replace('_', '-')}: found '"):
        Settings.load(options={f"nomad_{name}": value})


def test_a_binary_is_a_path(tmp_path: Path) -> None:
    binary = tmp_path / "nomad"
    binary.touch()
    assert Settings.load(options={"nomad_nomad_binary": str(binary)}).nomad_binary == binary


def test_help_names_the_default_and_the_other_ways() -> None:
    rows = {setting.name: setting for setting in table()}
    assert rows["consul_version"].description.endswith(
        "(default: 1.14.0; environment NOMAD_TESTKIT_CONSUL_VERSION, ini nomad_consul_version)"
    )
    assert "(default: off;" in rows["keep"].description
    assert "(default: none;" in rows["ami"].description
