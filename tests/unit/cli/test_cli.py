"""The command line: what was left up is destroyed, and what went by itself is forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from nomad_testkit import targets
from nomad_testkit.deployment import lifecycle
from nomad_testkit.errors import Ec2Error, TeardownError
from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.runs.run import Run

HERE = {"name": "fake", "state_dir": "/run/cloud-0"}


class FakeTargets:
    """Targets that are attached to, and what happened to them."""

    teardown_seconds = 120.0

    def __init__(self) -> None:
        self.ended = 0
        self.gone = False
        self.swept: list[str] = []
        self.refused: set[str] = set()

    @contextmanager
    def attach(self, description: Mapping[str, Any]) -> Iterator[Any]:
        if self.gone:
            raise Ec2Error("no embedded cloud is at /run/cloud-0")
        assert description == HERE
        yield self

    def client(self, service: str) -> Any:
        raise AssertionError("sweep is a fake here")

    def lost(self) -> None:
        return None

    def end(self) -> None:
        self.ended += 1

    def sweep(self, client: object, run_id: str, *_: object, **__: object) -> list[str]:
        self.swept.append(run_id)
        if run_id in self.refused:
            raise TeardownError(f"run {run_id} is not destroyed; left: i-1")
        return ["i-1", "sg-1"]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTargets:
    fakes = FakeTargets()
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    monkeypatch.setattr(targets, "attach_target", fakes.attach)
    monkeypatch.setattr(lifecycle, "sweep", fakes.sweep)
    return fakes


def left_up(**facts: Any) -> Run:
    run = Run.new()
    run.note({"target": HERE, **facts})
    return run


def test_down_destroys_a_run_and_the_target_that_was_kept_for_it(fakes: FakeTargets) -> None:
    run = left_up(kept=True)
    result = call("down", run.run_id)
    assert (result.exit_code, result.stdout) == (0, f"{run.run_id} is destroyed: 2 resources\n")
    assert (fakes.swept, fakes.ended, Run.every()) == ([run.run_id], 1, [])


def test_down_leaves_a_target_up_that_others_are_in_or_that_was_never_kept(fakes: FakeTargets) -> None:
    run, other = left_up(kept=True), left_up(kept=True)
    assert call("down", run.run_id).exit_code == 0
    assert (fakes.ended, Run.every()) == (0, [other])
    assert call("down", left_up().run_id).exit_code == 0
    assert fakes.ended == 0


def test_down_of_an_unknown_run_lists_those_that_there_are(fakes: FakeTargets) -> None:
    run = left_up()
    result = call("down", "nt-20200101-000000")
    assert result.exit_code == 2
    assert f"there are: {run.run_id}" in result.stderr
    assert fakes.swept == []


def test_what_went_with_its_cloud_is_forgotten(fakes: FakeTargets) -> None:
    fakes.gone = True
    run = left_up(kept=True)
    result = call("down", run.run_id)
    assert result.exit_code == 0
    assert f"{run.run_id} has ended already" in result.stdout
    assert Run.every() == []


def test_what_is_left_over_is_an_error_and_is_remembered(fakes: FakeTargets) -> None:
    run = left_up(kept=True)
    fakes.refused.add(run.run_id)
    result = call("down", run.run_id)
    assert result.exit_code == 1
    assert "left: i-1" in result.stderr
    assert (fakes.ended, Run.every()) == (0, [run])


def test_sweep_destroys_all_but_those_in_use(fakes: FakeTargets) -> None:
    used, first, second = left_up(), left_up(), left_up()
    lock = used.lock
    assert lock.try_acquire()
    fakes.refused.add(first.run_id)
    result = call("sweep")
    lock.release()
    assert sorted(fakes.swept) == sorted([first.run_id, second.run_id])
    assert result.exit_code == 1
    assert "1 of 2 clusters could not be destroyed" in result.stderr
    assert {run.run_id for run in Run.every()} == {used.run_id, first.run_id}


def test_a_run_that_created_nothing_is_forgotten(fakes: FakeTargets) -> None:
    run = Run.new()
    assert call("down", run.run_id).stdout == f"{run.run_id} had created nothing\n"
    assert (fakes.swept, Run.every()) == ([], [])
    result = call("sweep")
    assert (result.exit_code, result.stdout) == (0, "there is nothing to destroy\n")


@pytest.mark.parametrize("arguments", [("down", "a", "b"), ("bench", "deploy", "--runs", "0"), ("nonsense",)])
def test_wrong_arguments_end_with_usage(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_benchmark_takes_its_example_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_VAR", "num_client=1")
    result = call("bench", "deploy")
    assert result.exit_code == 2
    assert "environment variable NOMAD_TESTKIT_VAR: " in result.stderr
    assert "variable num_client: found a variable that this example does not declare" in result.stderr


def test_policies_are_printed_as_the_nightly_has_them() -> None:
    folder = examples_dir() / "nightly"
    assert call("iam-policy").stdout == (folder / "iam-policy.json").read_text()
    for besides in ("packer", "terraform"):
        assert call("iam-policy", f"--{besides}").stdout == (folder / f"iam-policy-{besides}.json").read_text()
