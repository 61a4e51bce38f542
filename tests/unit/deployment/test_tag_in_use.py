"""Two deployments with one discovery tag: the second is refused, whether it comes later or at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from moto import mock_aws

from nomad_testkit import Example
from nomad_testkit.deployment.tag_in_use import DiscoveryTag, claim_tags, discovery_tags, refuse_tags_in_use
from nomad_testkit.errors import DeployError, UsageError
from nomad_testkit.runs.journal import Journal
from nomad_testkit.targets.aws import errors
from nomad_testkit.wait import Deadline

OWN, OTHER = "nt-20260314-ab12cd", "nt-20260314-ffffff"
TAG = DiscoveryTag("nomad-servers", "shared")
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDUFZ2TjiIdWFWfgcg2cl4lyFpJuXzUE8PkcN0CI/+eD"


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    monkeypatch.setattr(errors, "INTERVAL", 0.0)
    keys: dict[str, Any] = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    with mock_aws():
        yield SimpleNamespace(client=lambda service: boto3.client(service, "us-east-1", **keys), region="us-east-1")


def launch(target: Any, tags: dict[str, str], count: int = 1) -> list[str]:
    ec2 = target.client("ec2")
    made = ec2.run_instances(
        ImageId=ec2.register_image(Name="debian")["ImageId"],
        MinCount=count,
        MaxCount=count,
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        ],
    )
    return [one["InstanceId"] for one in made["Instances"]]


def test_a_tag_in_use_is_refused_and_the_other_run_named(target: Any) -> None:
    ids = launch(target, {TAG.key: TAG.value, "nomad-testkit-run": OTHER}, 5)
    with pytest.raises(UsageError) as caught:
        refuse_tags_in_use([TAG], target, OWN)
    said = str(caught.value)
    assert f"the discovery tag nomad-servers = shared is in use in us-east-1 by the run {OTHER}" in said
    assert sum(one in said for one in ids) == 3
    assert "and 2 more" in said
    assert f"`nomad-testkit down {OTHER}`" in said
    assert "cluster-tag-value" in said


def test_instances_that_no_run_made_count_too(target: Any) -> None:
    (instance_id,) = launch(target, {TAG.key: TAG.value})
    with pytest.raises(UsageError, match=rf"somebody who is no run of nomad-testkit \({instance_id}\)"):
        refuse_tags_in_use([TAG], target, OWN)


@pytest.mark.parametrize(("state", "refused"), [("stop", True), ("terminate", False)])
def test_who_may_come_back_counts(target: Any, state: str, refused: bool) -> None:
    ids = launch(target, {TAG.key: TAG.value, "nomad-testkit-run": OTHER})
    getattr(target.client("ec2"), f"{state}_instances")(InstanceIds=ids)
    if refused:
        with pytest.raises(UsageError, match=OTHER):
            refuse_tags_in_use([TAG], target, OWN)
    else:
        refuse_tags_in_use([TAG], target, OWN)


@pytest.mark.parametrize(
    "tags",
    [
        {TAG.key: TAG.value, "nomad-testkit-run": OWN},
        {TAG.key: "another", "nomad-testkit-run": OTHER},
        {"nomad-clients": TAG.value, "nomad-testkit-run": OTHER},
    ],
)
def test_others_are_left_alone(target: Any, tags: dict[str, str]) -> None:
    launch(target, tags)
    refuse_tags_in_use([TAG], target, OWN)


def claim(target: Any, run_id: str, folder: Path, tag: DiscoveryTag = TAG) -> Journal:
    journal = Journal(folder / f"{run_id}.jsonl")
    deadline = Deadline.after(5)
    claim_tags([tag], target, run_id, journal, public_key=PUBLIC_KEY, own={}, deadline=deadline)
    return journal


def test_of_two_at_the_same_moment_one_is_refused(target: Any, tmp_path: Path) -> None:
    claim(target, OTHER, tmp_path)
    with pytest.raises(UsageError, match=f"by the run {OTHER}; `nomad-testkit down"):
        claim(target, OWN, tmp_path)
    assert Journal(tmp_path / f"{OWN}.jsonl").left() == []
    # Its destruction finds the claim by the run's tag, and lets the next one in.
    (found,) = target.client("ec2").describe_key_pairs(Filters=[{"Name": "tag:nomad-testkit-run", "Values": [OTHER]}])[
        "KeyPairs"
    ]
    target.client("ec2").delete_key_pair(KeyName=found["KeyName"])
    assert [one.name for one in claim(target, OWN, tmp_path).left()] == [TAG.claim]


def test_a_runs_own_tag_takes_no_claim(target: Any, tmp_path: Path) -> None:
    assert claim(target, OWN, tmp_path, DiscoveryTag(TAG.key, f"auto-join-{OWN}")).left() == []
    assert target.client("ec2").describe_key_pairs()["KeyPairs"] == []


def test_the_tags_of_servers_are_looked_at() -> None:
    example = Example.load("nomad-consul-separate-cluster")
    assert discovery_tags(example, "nt-1") == [
        DiscoveryTag("consul-servers", "auto-join-nt-1"),
        DiscoveryTag("nomad-servers", "auto-join-nt-1"),
    ]


def test_the_constant_tag_of_a_terraform_example_is_looked_at(tmp_path: Path) -> None:
    names = ("asg_name_servers", "asg_name_clients", "num_servers", "num_clients")
    outputs = "".join(f'output "{name}" {{ value = 1 }}\n' for name in names)
    tag = 'variable "cluster_tag_key" { default = "own" }\nvariable "cluster_tag_value" { default = "auto-join" }\n'
    (tmp_path / "main.tf").write_text(outputs + tag)
    example = Example.load(tmp_path)
    assert discovery_tags(example, OWN) == []  # the run gives a value of its own
    assert discovery_tags(example.replace(cluster_tag_value="x"), OWN) == [DiscoveryTag("own", "x")]


class Ec2:
    """Fails some times, and then has no instance."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def get_paginator(self, name: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return [{"Reservations": []}]


def test_a_lost_packet_is_no_end_and_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "INTERVAL", 0.0)
    lost = ConnectionClosedError(endpoint_url="https://ec2")
    denied = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DescribeInstances")
    target: Any = SimpleNamespace(region="us-east-1", client=lambda service: Ec2(lost, lost))
    refuse_tags_in_use([TAG], target, OWN)
    target.client = lambda service: Ec2(denied)
    with pytest.raises(DeployError, match="UnauthorizedOperation: no"):
        refuse_tags_in_use([TAG], target, OWN)
