"""Whole clusters that OpenTofu makes on the embedded EC2, from a configuration with the outputs of upstream's."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_runs import Project, PytestRun, project_in

from nomad_testkit import Example
from nomad_testkit.deployment.inventory import Inventory
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.errors import TerraformError
from nomad_testkit.examples.terraform_tool import Tool
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target

log = logging.getLogger(__name__)

CONFIGURATION = Path(__file__).parent / "colocated"
SECRET = "nobody-is-to-see-this"
SUITE_SECONDS = 400.0
SMALL = {"num_servers": 1, "num_clients": 1, "python": sys.executable}
IN_A_PROCESS = """
import json, logging, sys
from pathlib import Path
from nomad_testkit import Example
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.settings import Settings
from nomad_testkit.targets import attach_target

told = json.loads(Path(sys.argv[1]).read_text())
settings = Settings.load(options={"nomad_terraform": told["tofu"]})
example = Example.load(told["example"]).replace(**told["variables"])
with attach_target(told["target"]) as target, deployed(settings, example, target=target, progress=print):
    raise AssertionError("it was to wait for ever")
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


@pytest.fixture(name="example")
def _example() -> Example:
    return Example.load(CONFIGURATION).replace(**SMALL)


def test_the_suite_passes_and_the_teardown_leaves_nothing(project: Project, tool: Tool) -> None:
    (project.folder / "conftest.py").unlink()  # its nomad_example would take the place of the setting's
    run = project.start(
        *("--pyargs", "nomad_testkit.suite.test_cluster", "-m", "colocated", "--nomad-example", str(CONFIGURATION)),
        *("--nomad-servers", "1", "--nomad-clients", "1", "--nomad-terraform", str(tool.path)),
        *("--nomad-var", f"python={sys.executable}", "--nomad-var", "license=hidden-all-the-way"),
    )
    status = run.process.wait(SUITE_SECONDS)
    text = run.text
    assert status == 0, text
    found = re.search(r"=+ (\d+) passed(.*) in ", text)
    assert found is not None, text
    assert int(found[1]) >= 13
    assert "skipped" not in found[2]
    assert f"applying {CONFIGURATION} with {tool}" in text
    (run_id,) = run.deployed
    assert f"destroyed {run_id} in" in text
    assert project.remembered == []
    assert "var license=(not shown) (option --nomad-var)" in text
    assert "hidden-all-the-way" not in text
    assert SECRET not in text


def test_what_fails_half_way_is_destroyed_and_the_programs_log_is_evidence(
    nomad_settings: Settings, nomad_target: Target, tofu: Path, tmp_path: Path, example: Example
) -> None:
    settings = replace(nomad_settings, artifacts=tmp_path / "artifacts", terraform=tofu)
    failing = example.replace(client_command='{ echo "no room for $LICENSE" >&2; false; }')
    said: list[str] = []
    with (
        pytest.raises(TerraformError) as caught,
        deployed(settings, failing, target=nomad_target, progress=said.append),
    ):
        raise AssertionError("it was not to get ready")
    text = str(caught.value)
    assert "Error: local-exec provisioner error" in text
    assert "in terraform_data.clients" in text
    assert "no room for (hidden)" in text
    (run_id,) = {found for line in said for found in re.findall(r"nt-\d{8}-[0-9a-f]{6}", line)}
    (log_file,) = (tmp_path / "artifacts" / run_id).glob("terraform.log")
    told = log_file.read_text()
    assert "terraform_data.servers: Creation complete" in told
    assert "no room for (hidden)" in told
    assert log_file.stat().st_mode & 0o777 == 0o600
    written = [path.read_text(errors="replace") for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert SECRET not in "\n".join([text, *caught.value.__notes__, *said, *written])
    assert run_id not in [run.run_id for run in Run.every()]
    assert left_of(run_id, nomad_target) == []


def started(project: Project, target: Target, tofu: Path, example: Example) -> tuple[PytestRun, str]:
    """Start a process that deploys, and wait until its servers are made and its clients are not."""
    sign = project.folder / "sign"
    waiting = f"while true; do touch {sign}; sleep 0.1; done"
    told = {
        "tofu": str(tofu),
        "example": str(CONFIGURATION),
        "variables": {**SMALL, "client_command": waiting},
        "target": dict(target.describe()),
    }
    (project.folder / "told.json").write_text(json.dumps(told))
    (project.folder / "deploying.py").write_text(IN_A_PROCESS)
    run = project.start_module("deploying", "told.json")
    run.await_value("the sign of the clients", lambda: True if sign.exists() else None)
    (run_id,) = project.remembered
    assert left_of(run_id, target) != []
    return run, run_id


def test_an_interrupt_while_it_applies_destroys_what_was_made(
    project: Project, nomad_target: Target, tofu: Path, example: Example
) -> None:
    run, run_id = started(project, nomad_target, tofu, example)
    run.interrupt()
    assert run.await_end() != 0
    assert f"destroyed {run_id} in" in run.text, run.text
    assert "KeyboardInterrupt" in run.text
    assert project.remembered == []
    assert left_of(run_id, nomad_target) == []


@pytest.mark.parametrize("command", ["down", "sweep"])
def test_what_a_killed_process_left_is_destroyed_from_the_kept_state(
    command: str, project: Project, nomad_target: Target, tofu: Path, example: Example
) -> None:
    run, run_id = started(project, nomad_target, tofu, example)
    run.kill()
    assert project.remembered == [run_id]
    listing = project.start_module("nomad_testkit", "sweep", "--dry-run")
    assert listing.await_end() == 0
    assert f"{run_id} would be destroyed" in listing.text
    assert "Terraform state" in listing.text
    destroying = project.start_module("nomad_testkit", command, *([run_id] if command == "down" else []))
    assert destroying.await_end() == 0, destroying.text
    assert f"{run_id} is destroyed" in destroying.text
    assert project.remembered == []
    assert left_of(run_id, nomad_target) == []


def left_of(run_id: str, target: Target) -> list[str]:
    """List what the target has of a run: by its tag, and by the names that the configuration makes of its id."""
    ec2, autoscaling, iam = (target.client(name) for name in ("ec2", "autoscaling", "iam"))
    tagged = [str(one) for one in Inventory(ec2, autoscaling, iam, run_id).everything()]
    groups = [one["GroupName"] for one in ec2.describe_security_groups()["SecurityGroups"]]
    templates = [one["LaunchTemplateName"] for one in ec2.describe_launch_templates()["LaunchTemplates"]]
    scaling = autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    roles = [one["RoleName"] for one in iam.list_roles()["Roles"]]
    names = [*groups, *templates, *(one["AutoScalingGroupName"] for one in scaling), *roles]
    instances: list[dict[str, Any]] = [
        one for reservation in ec2.describe_instances()["Reservations"] for one in reservation["Instances"]
    ]
    alive = [
        f"{one['InstanceId']} of {tag['Value']}"
        for one in instances
        for tag in one.get("Tags", ())
        if tag["Key"] == "aws:autoscaling:groupName" and one["State"]["Name"] != "terminated"
    ]
    return sorted({*tagged, *(name for name in [*names, *alive] if run_id in name)})
