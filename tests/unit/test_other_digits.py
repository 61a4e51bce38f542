"""What a user writes is a number only in the digits 0 to 9: a pattern takes those of every script for one."""

from __future__ import annotations

import re

import host_metadata
import host_options
import pytest
from click.testing import CliRunner

from nomad_testkit.cli import main
from nomad_testkit.errors import SettingsError
from nomad_testkit.runs.run import _RUN_ID
from nomad_testkit.settings import Settings

ARABIC = str.maketrans("0123456789", "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669")


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("aws_account", "123456789012"),
        ("consul_version", "1.14.0"),
        ("timeout", "300"),
        ("aws_budget", "2.50"),
        ("clients", "3"),
        ("fault_seed", "7"),
        ("region", "us-east-1"),
    ],
)
def test_a_setting(key: str, right: str) -> None:
    Settings.load(options={f"nomad_{key}": right})
    with pytest.raises(SettingsError, match="expected"):
        Settings.load(options={f"nomad_{key}": right.translate(ARABIC)})


@pytest.mark.parametrize(
    ("pattern", "right"),
    [
        (_RUN_ID, "nt-20260101-abcdef"),
        (host_options.DURATION, "10s"),
        (host_options.ENDPOINT, "http://127.0.0.1:4646"),
        (host_metadata.REGION, "us-east-1"),
        (host_metadata.ZONE, "us-east-1a"),
        (host_metadata.ROLE, "role-1"),
        (host_options.OUTPUT, "fd:log1"),
    ],
)
def test_a_pattern(pattern: re.Pattern[str], right: str) -> None:
    assert pattern.fullmatch(right)
    assert not pattern.fullmatch(right.translate(ARABIC))


@pytest.mark.parametrize(
    "option",
    [
        ("check", "--within", "3"),
        ("job", "run", "tox.ini", "--timeout", "3"),
        ("logs", "clients-0", "--lines", "3"),
        ("report", "--last", "3"),
        ("bench", "deploy", "--runs", "3"),
        ("bench", "soak", "--seed", "3"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("wrong", ["3".translate(ARABIC), "nan", "inf"])
def test_an_option_of_the_command_line(option: tuple[str, ...], wrong: str) -> None:
    parsed = CliRunner().invoke(main, [*option, "--help"])
    assert parsed.exit_code == 0, parsed.output
    refused = CliRunner().invoke(main, [wrong if part == "3" else part for part in option])
    assert refused.exit_code == 2, refused.output
    assert re.search(r"Invalid value for .*(expected a|not a valid)", refused.output), refused.output
