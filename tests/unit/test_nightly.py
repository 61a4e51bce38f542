"""The definitions for CIs: they are what those CIs take, and name only what the project has."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nomad_testkit import plugin
from nomad_testkit.cli import main
from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.settings import TARGETS, Settings, table

FOLDER = examples_dir() / "nightly"
OPTIONS = {setting.option: setting for setting in table()}
VARIABLES = {setting.variable for setting in table()} | {"NOMAD_TESTKIT_CACHE"}
MARKERS = {name for name in plugin._MARKERS if "(" not in name}


@pytest.fixture(scope="module")
def github() -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    text = re.sub(r"^on:", '"on":', (FOLDER / "github-actions.yml").read_text(), flags=re.MULTILINE)
    return dict(yaml.safe_load(text))


@pytest.fixture(scope="module")
def gitlab() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text()))


def commands(definition: Any) -> Iterator[str]:
    """List every command of a definition, wherever it is."""
    if isinstance(definition, dict):
        for key, value in definition.items():
            if key in ("run", "script", "before_script", "after_script"):
                yield from [value] if isinstance(value, str) else value
            else:
                yield from commands(value)
    elif isinstance(definition, list):
        for one in definition:
            yield from commands(one)


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_commands_name_what_there_is(name: str, request: pytest.FixtureRequest) -> None:
    found = [shlex.split(command) for command in commands(request.getfixturevalue(name))]
    tests = [words for words in found if any(word.endswith("pytest") for word in words)]
    assert len(tests) == 2
    for words in tests:
        assert words[words.index("--pyargs") + 1] == "nomad_testkit.suite"
        assert words[words.index("-m", words.index("--pyargs")) + 1] == "$SUITE"
        for option, value in itertools.pairwise(words):
            if option == "--nomad-target":
                assert value == "aws"
            elif option.startswith("--nomad-"):
                OPTIONS[option].parse(value)
    assert ["--nomad-target" in words for words in tests] == [False, True]
    (sweep,) = (words for words in found if "sweep" in words)
    assert sweep[-3:] == ["-m", "nomad_testkit", "sweep"]
    assert "sweep" in main.commands


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_variables_are_those_of_settings(name: str) -> None:
    found = set(re.findall(r"\bNOMAD_TESTKIT_[A-Z_]+", (FOLDER / name).read_text()))
    assert found - VARIABLES == set()
    assert "NOMAD_TESTKIT_ARTIFACTS" in found


def test_suites_are_marks_of_tests(github: dict[str, Any], gitlab: dict[str, Any]) -> None:
    for name in ("embedded", "aws"):
        suites = github["jobs"][name]["strategy"]["matrix"]["suite"]
        assert set(suites) <= MARKERS
        assert gitlab[name]["parallel"]["matrix"] == [{"SUITE": suites}]


def test_the_token_can_do_the_least(github: dict[str, Any]) -> None:
    assert github["permissions"] == {}
    jobs = github["jobs"]
    assert jobs["embedded"]["permissions"] == {"contents": "read"}
    assert jobs["aws"]["permissions"] == {"contents": "read", "id-token": "write"}
    checkouts = [step for job in jobs.values() for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert [step["with"] for step in checkouts] == [{"persist-credentials": False}] * 2


def test_every_job_has_a_time_out_and_keeps_evidence_of_failures(
    github: dict[str, Any], gitlab: dict[str, Any]
) -> None:
    for job in github["jobs"].values():
        assert 0 < job["timeout-minutes"] < 60  # as long as the role can be held
        (upload,) = (step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
        assert upload["if"] == "failure()"
    assert [gitlab[name]["timeout"] for name in ("embedded", "aws")] == ["30 minutes", "55 minutes"]
    artifacts = gitlab[".suite"]["artifacts"]
    assert (artifacts["when"], artifacts["reports"]) == ("always", {"junit": "nomad-artifacts/junit.xml"})
    for definition in (github, gitlab):
        runs = [command for command in commands(definition) if "--pyargs" in command]
        assert all("--junitxml nomad-artifacts/junit.xml" in command for command in runs)
        assert all("--nomad-report nomad-artifacts/report.html" in command for command in runs)


def test_pushes_are_embedded_and_nights_are_on_aws(github: dict[str, Any], gitlab: dict[str, Any]) -> None:
    assert set(github["on"]) == {"push", "schedule", "workflow_dispatch"}
    assert {name: job["if"] for name, job in github["jobs"].items()} == {
        "embedded": "github.event_name == 'push'",
        "aws": "github.event_name != 'push'",
    }
    assert gitlab["embedded"]["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "push"'}]
    assert gitlab["aws"]["rules"] == [{"if": '$CI_PIPELINE_SOURCE != "push"'}]
    assert gitlab["aws"]["id_tokens"] == {"AWS_ID_TOKEN": {"aud": "https://gitlab.com"}}


def test_aws_is_a_target_and_the_nights_bound_what_they_may_do_there(
    github: dict[str, Any], gitlab: dict[str, Any]
) -> None:
    assert "aws" in TARGETS
    for variables in (github["jobs"]["aws"]["env"], gitlab["aws"]["variables"]):
        given = {name: value for name, value in variables.items() if "NOMAD_TESTKIT_AWS_" in name}
        settings = Settings.load(environ=given)
        # Before the time-out of the step, which would end the run without its teardown.
        assert 0 < settings.aws_max_time < 40 * 60
        assert settings.aws_budget == 5


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_the_nights_name_the_account_of_their_role(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    (command,) = (one for one in commands(request.getfixturevalue(name)) if "NOMAD_TESTKIT_AWS_ACCOUNT" in one)
    role = "arn:aws:iam::123456789012:role/nomad-nightly"
    environment = {
        "AWS_ROLE_ARN": role,
        "ROLE_ARN": role,
        "GITHUB_ENV": str(tmp_path / "env"),
        "PATH": os.environ["PATH"],
    }
    script = f"touch {tmp_path / 'env'}; {command}; export -p; cat {tmp_path / 'env'}"
    said = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True).stdout
    found = re.findall(r'NOMAD_TESTKIT_AWS_ACCOUNT="?(\d+)"?$', said, re.MULTILINE)
    assert found == ["123456789012"]
