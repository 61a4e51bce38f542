"""A run that was lost in a cloud with an API of its own: found by its tag and its age, and destroyed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ec2_box import Box
from faulty_api import REFUSED, faults, refusal

from nomad_testkit.cli import main
from nomad_testkit.cluster.discovery import instances
from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.instance_plan import instance_plan
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.layers import LocalImage
from nomad_testkit.errors import TeardownError
from nomad_testkit.runs.run import Run
from nomad_testkit.targets.base import default_network
from nomad_testkit.targets.key_pair import write_key_pair
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until


@pytest.fixture
def run(cloud: EmbeddedEc2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    for name, value in cloud.credentials.environment().items():
        monkeypatch.setenv(name, value)
    return Run.new()


def swept(cloud: EmbeddedEc2, *arguments: str) -> Result:
    where = ["--region", cloud.region, "--endpoint-url", cloud.endpoint_url]
    return CliRunner().invoke(main, ["sweep", "--older-than", "1s", *where, *arguments])


def test_what_a_sweep_could_not_destroy_the_next_one_does(
    cloud: EmbeddedEc2, debian: LocalImage, box: Box, run: Run
) -> None:
    steps = instance_plan(
        run_id=run.run_id,
        region=cloud.region,
        network=default_network(cloud.client("ec2")),
        image_id=debian.image_id,
        instance_type="t3.micro",
        public_key=write_key_pair(run.key_path),
        inbound_cidrs=[f"{cloud.machine_address}/32"],
    )
    apply(steps, cloud.client, run.journal)
    (instance,) = instances(cloud.client, run.run_id)

    def strike(operation: str, carried_out: bool) -> Exception | None:
        return refusal(*REFUSED, operation) if operation in ("TerminateInstances", "DeleteKeyPair") else None

    with faults(cloud.client, ["ec2"], strike), pytest.raises(TeardownError) as caught:
        sweep(cloud.client, run.run_id, run.journal, deadline=Deadline.after(5))
    for line in (f"instance {instance.instance_id}", f"key pair nomad-testkit-{run.run_id}", "UnauthorizedOperation"):
        assert line in str(caught.value)

    # The run is lost with the machine that remembers it.
    run.forget()

    def listed() -> Ok[str] | Pending:  # a second has to pass since the creation
        text = swept(cloud, "--dry-run").output
        return Ok(text) if run.run_id in text else Pending(text)

    text = wait_until("the run to be old enough", listed, deadline=Deadline.after(30))
    assert f"us-east-1: instance {instance.instance_id}" in text
    assert [one.state for one in instances(cloud.client, run.run_id)] != []

    result = swept(cloud)
    assert result.exit_code == 0, result.output
    assert f"{run.run_id} is destroyed: 3 resources" in result.stdout
    assert instances(cloud.client, run.run_id) == []
    groups = cloud.client("ec2").describe_security_groups()["SecurityGroups"]
    assert [one["GroupName"] for one in groups if run.run_id in one["GroupName"]] == []
    # The others' instance, key pair and group, which lack the tag, are as they were.
    assert box.state == "running"
    assert [one["KeyName"] for one in cloud.client("ec2").describe_key_pairs()["KeyPairs"]] == ["tests"]
    assert "there is nothing to destroy" in swept(cloud).output
