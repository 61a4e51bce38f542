"""AMIs from the command line: built and kept, deployed from, deleted; and what is said when their cloud is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call, json_answer
from pytest_runs import Project, project_in, supervisors_of

from nomad_testkit.runs.run import Run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    for name in [name for name in os.environ if name.startswith("NOMAD_TESTKIT_") and not name.endswith("_CACHE")]:
        monkeypatch.delenv(name)
    with project_in(tmp_path) as made:
        monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(made.state))
        try:
            yield made
        finally:
            for left in Run.every():
                call("down", left.run_id)


def test_an_ami_is_built_deployed_from_and_gone_with_its_cloud(project: Project) -> None:
    build = project.start_module("nomad_testkit", "ami", "build")
    assert build.await_end() == 0, build.text
    ami = build.text.splitlines()[-1]
    (listed,) = json_answer("ami", "list")["amis"]
    assert (listed["ami"], listed["state"], listed["target"]) == (ami, "available", "embedded")
    assert listed["name"].startswith("nomad-consul-nt-")

    options = ("--ami", ami, "--servers", "1", "--clients", "1", "--name", "dev")
    up = project.start_module("nomad_testkit", "up", "nomad-consul-colocated-cluster", *options)
    assert up.await_end() == 0, up.text
    run, cloud = Run.find("dev").description(), Run.find(listed["run_id"]).description()["target"]
    assert run["target"]["warden_pid"] == cloud["warden_pid"]
    assert {host["image_id"] for host in run["hosts"]} == {ami}

    # The cloud of the AMI lives on, and goes with the AMI.
    assert call("down", "dev").exit_code == 0
    assert json_answer("ami", "list")["amis"] == [listed]
    result = call("ami", "delete", ami)
    assert (result.exit_code, "is destroyed: 2 resources" in result.stdout) == (0, True), result.output
    assert not Path(cloud["state_dir"]).exists()
    assert json_answer("ami", "list") == {"amis": []}


def test_a_cluster_whose_cloud_was_killed_is_told_to_be_gone_and_forgotten(project: Project) -> None:
    options = ("--servers", "1", "--clients", "0", "--name", "dev")
    up = project.start_module("nomad_testkit", "up", "nomad-consul-colocated-cluster", *options)
    assert up.await_end() == 0, up.text
    assert json_answer("check")["holds"] is True  # without clients, too
    os.kill(supervisors_of(project.warden())[-1], signal.SIGKILL)
    (found,) = json_answer("status", exits=1)["runs"]
    assert (found["state"], found["hosts"]) == ("gone", [])
    assert call("status", "dev").exit_code == 1
    result = call("ssh", "servers-0", "true")
    assert (result.exit_code, "is gone with its embedded EC2" in result.stderr) == (1, True), result.stderr
    result = call("down", "dev")
    assert (result.exit_code, "has ended already" in result.stdout) == (0, True), result.output
    assert Run.every() == []
