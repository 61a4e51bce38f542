"""Runs whose state Terraform keeps: who destroys them, and when they may be forgotten."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from nomad_testkit import targets
from nomad_testkit.cli import main
from nomad_testkit.deployment import lifecycle, lost_runs
from nomad_testkit.errors import Ec2Error, TeardownError
from nomad_testkit.runs.run import Run
from nomad_testkit.targets.aws import account

ENDPOINT = "http://127.31.255.254"


def applied(*types: str) -> Run:
    """Make a run that has applied a configuration, with resources of these types in its state."""
    run = Run.new()
    run.note({"target": {"name": "embedded", "endpoint_url": ENDPOINT}})
    folder = run.folder / "terraform"
    (folder / "source").mkdir(parents=True)
    note = {"directory": "source", "origin": "/mine", "tool": "/tofu", "variables": {}, "secrets": []}
    (folder / "workspace.json").write_text(json.dumps(note))
    resources = [{"mode": "managed", "type": one, "name": "mine"} for one in types]
    (folder / "source" / "terraform.tfstate").write_text(json.dumps({"version": 4, "resources": resources}))
    return run


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))


def test_a_sweep_of_an_account_lets_the_runs_own_state_destroy_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = applied("aws_instance"), Run.new()
    lost = [lost_runs.LostRun(one.run_id, datetime.now(UTC), None, {}) for one in (run, other)]
    swept: list[str] = []

    def destroy_lost(one: lost_runs.LostRun, *_: Any, **__: Any) -> list[str]:
        swept.append(one.run_id)
        return []

    monkeypatch.setattr(account, "clients", lambda region, **_: SimpleNamespace())
    monkeypatch.setattr(lost_runs, "find_lost", lambda *_, **__: lost)
    monkeypatch.setattr(lost_runs, "destroy_lost", destroy_lost)
    monkeypatch.setattr("nomad_testkit.cli.sweep.destroy_run", lambda one: f"{one.run_id} is destroyed by its state")
    arguments = ["sweep", "--older-than", "6h", "--region", "us-east-1", "--endpoint-url", ENDPOINT]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert f"{run.run_id} is destroyed by its state\n" in result.output
    assert swept == [other.run_id]
    assert run.folder.exists(), "whoever destroys it forgets it"


@pytest.mark.parametrize("kind", ["aws_instance", "terraform_data", "null_resource", "random_id"])
def test_what_was_in_an_embedded_ec2_is_forgotten_with_it(kind: str) -> None:
    run = applied(kind)
    lifecycle.forget_lost(run)
    assert Run.every() == []


def test_a_run_that_has_made_more_than_what_was_there_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run = applied("aws_instance", "local_file")
    said: list[str] = []
    with pytest.raises(TeardownError, match=rf"{run.run_id}: the embedded EC2 has ended, .*: local_file\.mine\. Its"):
        lifecycle.forget_lost(run)

    def gone(description: object) -> None:
        raise Ec2Error("it has ended")

    monkeypatch.setattr(targets, "attach_target", gone)
    other = applied("aws_instance")
    lifecycle.forget_dead(said.append)
    assert Run.every() == [run]
    assert said == [f"forgot {other.run_id}: its process was killed and its embedded EC2 has ended"]
    result = CliRunner().invoke(main, ["down", run.run_id])
    assert result.exit_code == 1
    assert "local_file.mine" in result.output
    assert Run.every() == [run]
