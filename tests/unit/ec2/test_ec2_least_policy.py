"""The policy that `nomad-testkit iam-policy` prints, in force: it is enough for a run, and each part counts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from api_lab import AMI, PUBLIC_KEY, REGION, Lab, cloud_lab

from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.plan import plan
from nomad_testkit.errors import DeployError
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.runs.journal import Journal
from nomad_testkit.targets.aws.policy import DEPLOYING, least_policy, seen_calls

EXAMPLE = Example.load("nomad-consul-colocated-cluster").replace(num_servers=1, num_clients=1)
POLICY = least_policy(seen_calls(*DEPLOYING))
NEEDED = sorted(
    {
        (statement["Sid"], action)
        for statement in POLICY["Statement"]
        for action in statement["Action"]
        if statement["Sid"] in ("Create", "InVpc", "PassRole", "ServiceRole", "TagWhenCreated")
        or statement["Sid"].startswith(("LaunchBy", "LaunchWhat"))
        or action in ("iam:PutRolePolicy", "iam:AddRoleToInstanceProfile", "ec2:AuthorizeSecurityGroupIngress")
    }
)
"""What a deployment needs, and no reading of it."""
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with cloud_lab() as made:
        yield made


@pytest.fixture
def run_id() -> str:
    """A run of each test's own, in whose names a user and all resources are."""
    return f"nt-20260101-{next(_NUMBERS):06d}"


def deployer(lab: Lab, run_id: str, policy: dict[str, Any]) -> Callable[[str], Any]:
    """Give the clients of a user who has a policy and no other."""
    lab.iam.create_user(UserName=run_id)
    lab.iam.put_user_policy(UserName=run_id, PolicyName="least", PolicyDocument=json.dumps(policy))
    made = lab.iam.create_access_key(UserName=run_id)["AccessKey"]
    key = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
    return cache(lambda service: lab.client(service, **key))


def deploy(lab: Lab, run_id: str, client: Callable[[str], Any], folder: Path) -> None:
    """Make a cluster's resources as a run does."""
    subnets = [lab.subnets[name] for name in lab.three]
    network = Network(
        subnets[0]["VpcId"],
        tuple(Subnet(one["SubnetId"], one["AvailabilityZone"], one["CidrBlock"]) for one in subnets),
    )
    steps = plan(
        EXAMPLE,
        run_id=run_id,
        region=REGION,
        placements=dict.fromkeys(("servers", "clients"), Placement(network, AMI, "/dev/xvda")),
        public_key=PUBLIC_KEY,
    )
    apply(steps, client, Journal(folder / "journal.jsonl"))


def test_a_run_is_deployed_by_exactly_this_policy(lab: Lab, run_id: str, tmp_path: Path) -> None:
    deploy(lab, run_id, deployer(lab, run_id, POLICY), tmp_path)
    groups = lab.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    groups = [group for group in groups if run_id in group["AutoScalingGroupName"]]
    assert [len(group["Instances"]) for group in groups] == [1, 1]


@pytest.mark.parametrize(("sid", "action"), NEEDED, ids=lambda one: str(one).replace(":", "-"))
def test_without_an_action_a_run_is_refused_and_told_which(
    lab: Lab, run_id: str, tmp_path: Path, sid: str, action: str
) -> None:
    less = json.loads(json.dumps(POLICY))
    for statement in less["Statement"]:
        if statement["Sid"] == sid:
            statement["Action"] = [one for one in statement["Action"] if one != action]
    less["Statement"] = [one for one in less["Statement"] if one["Action"]]
    with pytest.raises(DeployError, match=f"not authorized to perform: {action} on resource"):
        deploy(lab, run_id, deployer(lab, run_id, less), tmp_path)
