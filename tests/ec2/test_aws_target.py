"""The target `aws`, with the embedded EC2's endpoint in AWS's place: only its own options say that it is not AWS."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deploying import everything
from pytest_runs import Project, project_in
from recording_endpoint import recording

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.layers import LocalImage
from nomad_testkit.images.cache import Cache
from nomad_testkit.modules.steps import EXPIRES_TAG, RUN_TAG
from nomad_testkit.settings import Settings
from nomad_testkit.targets.aws.policy import seen_calls
from nomad_testkit.targets.embedded import image_builder
from nomad_testkit.targets.embedded.target import agents_of
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

log = logging.getLogger(__name__)

ACCOUNT = "123456789012"
REGION = "us-east-1"

TESTS = """
import os
import pytest
from nomad_testkit.checks import NodesReady, RaftPeers

@pytest.mark.parametrize("half", [1, 2])
def test_it_works(nomad_cluster, nomad_target, half):
    nomad_cluster.require(RaftPeers(1), NodesReady(1))
    assert nomad_target.name == "aws"
    for host in nomad_cluster.hosts:
        assert host.address == host.instance.public_ip
        assert host.run("hostname").stdout.startswith("ip-172-31-")
    with nomad_cluster.submitted("web.nomad.hcl", count=1):
        pass
    print("cluster", nomad_cluster.run_id, "expires", nomad_cluster.expires)
"""
FOREVER = """
import threading
import pytest

@pytest.mark.parametrize("half", [1, 2])
def test_forever(nomad_cluster, half):
    threading.Event().wait(600)
"""


@pytest.fixture(scope="module")
def own_image(debian: LocalImage) -> LocalImage:
    agents = agents_of(Settings.load(environ={}), progress=log.info)
    return image_builder.agents_image(Cache(), debian, agents, region=REGION, progress=log.info)


@pytest.fixture(scope="module")
def account(debian: LocalImage, own_image: LocalImage) -> Iterator[EmbeddedEc2]:
    """What stands in for an account: a cloud with an AMI of its own."""
    with EmbeddedEc2.start(region=REGION, images=[own_image, debian]) as cloud:
        yield cloud


@pytest.fixture
def keys(account: EmbeddedEc2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials as a user has them, in the environment that pytest is started with."""
    for name, value in account.credentials.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.fixture
def project(tmp_path: Path, keys: None) -> Iterator[Project]:
    with project_in(tmp_path) as project:
        yield project


def options(cloud: EmbeddedEc2, ami: str, endpoint_url: str | None = None) -> list[str]:
    values = {
        "target": "aws",
        "region": REGION,
        "ami": ami,
        "aws-account": ACCOUNT,
        "aws-source-cidr": f"{cloud.machine_address}/32",
        "aws-endpoint-url": endpoint_url or cloud.endpoint_url,
    }
    return [word for name, value in values.items() for word in (f"--nomad-{name}", value)]


@contextmanager
def nothing_new(cloud: EmbeddedEc2) -> Iterator[None]:
    """See that what is in an account after the block was there before."""
    before = everything(cloud)
    yield
    assert everything(cloud) == before


def tags_of(cloud: EmbeddedEc2, run_id: str) -> dict[str, set[str | None]]:
    """Tell of each kind of resource of a run which times of expiry its tags say."""
    ec2, iam, autoscaling = cloud.client("ec2"), cloud.client("iam"), cloud.client("autoscaling")
    mine = [{"Name": f"tag:{RUN_TAG}", "Values": [run_id]}]
    found: dict[str, list[dict[str, Any]]] = {
        "instance": [one for each in ec2.describe_instances(Filters=mine)["Reservations"] for one in each["Instances"]],
        "volume": ec2.describe_volumes(Filters=mine)["Volumes"],
        "interface": ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"],
        "security group": ec2.describe_security_groups(Filters=mine)["SecurityGroups"],
        "key pair": ec2.describe_key_pairs(Filters=mine)["KeyPairs"],
        "launch template": ec2.describe_launch_templates(Filters=mine)["LaunchTemplates"],
        "auto scaling group": autoscaling.describe_auto_scaling_groups(Filters=mine)["AutoScalingGroups"],
        "role": [
            {"Tags": iam.list_role_tags(RoleName=one["RoleName"])["Tags"]}
            for one in iam.list_roles()["Roles"]
            if one["RoleName"].endswith(run_id)
        ],
        "profile": [
            iam.get_instance_profile(InstanceProfileName=one["InstanceProfileName"])["InstanceProfile"]
            for one in iam.list_instance_profiles()["InstanceProfiles"]
            if one["InstanceProfileName"].endswith(run_id)
        ],
    }
    return {kind: {expiry(one) for one in resources} for kind, resources in found.items()}


def expiry(resource: dict[str, Any]) -> str | None:
    tags = resource.get("Tags") or resource.get("TagSet") or ()
    return next((str(tag["Value"]) for tag in tags if tag["Key"] == EXPIRES_TAG), None)


def test_workers_share_a_cluster_beside_another_session_whose_cluster_is_kept_and_taken_down(
    account: EmbeddedEc2, own_image: LocalImage, project: Project
) -> None:
    project.write(TESTS)
    before = everything(account)
    with recording(account.endpoint_url) as (url, calls):
        arguments = options(account, own_image.image_id, url)
        shared = project.start("-n", "2", "-p", "no:cacheprovider", "-rA", "--nomad-aws-budget", "0.5", *arguments)
        kept = project.start(
            "-p", "no:cacheprovider", "-rA", "-k", "1", "--nomad-keep", "--nomad-aws-max-time", "3600", *arguments
        )
        assert kept.await_end() == 0, kept.text
        assert shared.await_end() == 0, shared.text
        for said in (
            rf"AWS preflight: account {ACCOUNT} in {REGION}, ",
            rf"as arn:aws:iam::{ACCOUNT}:user/nomad-testkit \(credentials: env\)",
            rf"VPC vpc-\w+, subnet-\w+ in {REGION}a, .*; the hosts let in {account.machine_address}/32",
            r"estimated cost: 1 x t2.micro \(servers\) x 0.0116, 1 x t2.micro \(clients\) x 0.0116: 0.04 USD an hour, ",
            "0.04 USD in 1 h",
            "the quota L-1216C47A of vCPUs could not be read",
        ):
            assert re.search(said, kept.text), said
        assert "could not be simulated" not in kept.text
        assert "0.08 USD in 2 h" in shared.text

        # Both workers of the one session had the same cluster, and the other session another.
        (run_id,) = kept.deployed
        of_both = set(re.findall(r"cluster (\S+) expires", shared.text))
        assert len(of_both) == len(shared.deployed) == 1
        assert of_both != {run_id}
        assert len(re.findall(r"^PASSED", shared.text, re.MULTILINE)) == 2

        # What is kept bears both tags, whatever it is; and the state folder has what `down` needs, but no secret.
        ((expires,),) = (set(re.findall(r"expires (\S+)", kept.text)),)
        assert 3000 < (datetime.fromisoformat(expires) - datetime.now(UTC)).total_seconds() < 3600
        assert {kind: times for kind, times in tags_of(account, run_id).items() if times != {expires}} == {}
        assert project.remembered == [run_id]
        told = (project.state / "runs" / run_id / "run.json").read_text()
        assert json.loads(told)["target"]["account"] == ACCOUNT
        assert "AKIA" not in told + project.journal() + kept.text
        assert account.credentials.secret_access_key not in told + project.journal() + kept.text

        where = ("--region", REGION, "--endpoint-url", url)
        swept = project.start_module("nomad_testkit", "sweep", "--expired", *where)
        assert (swept.await_end(), swept.text) == (0, "there is nothing to destroy\n")
        down = project.start_module("nomad_testkit", "down", run_id)
        assert down.await_end() == 0, down.text
        assert f"{run_id} is destroyed" in down.text
    assert everything(account) == before
    assert (project.remembered, project.shared) == ([], [])
    # By the policy that is printed for it, nothing of this would have been refused.
    assert set(calls) - set(seen_calls("runs", "preflight")) == set()
    assert set(seen_calls("preflight")) - set(calls) <= {"iam:GetRole", "ec2:DescribeRegions"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_when_its_time_is_up_a_session_ends_and_nothing_stays(
    workers: str, account: EmbeddedEc2, own_image: LocalImage, project: Project
) -> None:
    """Before a cluster is ready that was to be kept, and while two workers use it."""
    limit = {"1": "4", "2": "30"}[workers]
    project.write(FOREVER)
    with nothing_new(account):
        run = project.start(
            *(("--nomad-keep",) if workers == "1" else ("-n", workers)),
            *("-p", "no:cacheprovider", "--nomad-aws-max-time", limit),
            *options(account, own_image.image_id),
        )
        assert run.await_end() == pytest.ExitCode.INTERRUPTED, run.text
    (run_id,) = run.deployed
    assert f"the time limit of {run_id} has passed" in run.text, run.text
    assert f"destroyed {run_id}" in run.text
    assert project.remembered == []


def test_what_a_killed_session_left_is_swept_by_the_same_machine_and_by_another(
    account: EmbeddedEc2, own_image: LocalImage, project: Project
) -> None:
    project.write(FOREVER)
    url = account.endpoint_url
    with nothing_new(account):
        for sweep in (["sweep"], ["sweep", "--older-than", "1s", "--region", REGION, "--endpoint-url", url]):
            run = project.start("-p", "no:cacheprovider", *options(account, own_image.image_id))
            run.await_value("an instance", lambda: everything(account)["instances"] or None)
            run.kill()
            (run_id,) = run.deployed
            if sweep != ["sweep"]:  # another machine remembers nothing, and looks for what is older than that
                (project.state / "runs" / run_id).rename(project.folder / run_id)

            def destroyed(command: list[str] = sweep, run_id: str = run_id) -> Ok[None] | Pending:
                swept = project.start_module("nomad_testkit", *command)
                assert swept.await_end() == 0, swept.text
                return Ok(None) if f"{run_id} is destroyed" in swept.text else Pending(swept.text)

            wait_until(f"{run_id} to be old enough", destroyed, deadline=Deadline.after(60))
