"""Deployments of Terraform on a cloud's API with fake machines: a script stands in for the program."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from api_lab import AMI, PUBLIC_KEY, REGION, Lab, cloud_lab
from configurations import write
from seen_calls import noting

from nomad_testkit import Example
from nomad_testkit.cluster.discovery import instances
from nomad_testkit.deployment.apply import Applied
from nomad_testkit.deployment.prepare import prepare
from nomad_testkit.deployment.terraform.apply import applied_elsewhere, apply_terraform, destroy_terraform
from nomad_testkit.deployment.terraform.workspace import Workspace
from nomad_testkit.errors import DeployError, TeardownError, UsageError
from nomad_testkit.examples.terraform import TerraformExample
from nomad_testkit.modules.network import Network
from nomad_testkit.runs.journal import Journal
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.targets.aws.policy import seen_calls
from nomad_testkit.targets.base import default_network
from nomad_testkit.wait import Deadline

NUMBERS = itertools.count(100000)
VARIABLES = """
variable "cluster_tag_value" { default = "mine" }
variable "ssh_key_name" {}
variable "ami_id" {}
variable "allowed_ssh_cidr_blocks" { type = list(string) }
"""
PROGRAM = """#!/bin/sh
case $1 in
  version) echo "OpenTofu v1.10.10" ;;
  validate) echo '{"valid": true}' ;;
  apply) echo '{}' > terraform.tfstate; env > ../applied.env; cp ../given.tfvars.json ../applied.json ;;
  output) cat outputs.json ;;
  state) test -e destroyed || echo aws_autoscaling_group.servers ;;
  destroy) touch destroyed ;;
esac
"""


class Place:
    """A target over the fake machines."""

    name, region, endpoint_url, own_image = "embedded", REGION, "http://127.31.255.254", AMI
    inbound_cidrs = ("169.254.253.1/32",)
    credentials: Mapping[str, str] | None = None

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @cache  # noqa: B019 - to make one takes a fifth of a second, and the lab lives as long as these tests
    def client(self, service: str) -> Any:
        return self.lab.client(service)

    def network(self) -> Network:
        return default_network(self.lab.ec2)


class Deployment:
    """One deployment of a configuration; its groups are made by the test, when the program is through."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place: Any = place
        self.run_id = f"nt-20260314-{next(NUMBERS)}"
        self.key = self.key_of_clients = f"nomad-testkit-{self.run_id}"
        self.servers, self.clients = f"servers-{self.run_id}", f"clients-{self.run_id}"
        self.folder, self.run_folder = folder / "mine", folder / "run"
        self.run_folder.mkdir()
        self.journal = Journal(self.run_folder / "journal.jsonl")
        self.program = folder / "tofu"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o755)
        self.outputs: dict[str, Any] = {"asg_name_servers": self.servers, "asg_name_clients": self.clients}
        self.said: list[str] = []

    def apply(self, seconds: float = 5, **variables: Any) -> Applied:
        names = "".join(f'output "{name}" {{\n  value = "x"\n}}\n' for name in self.outputs)
        told = {name: {"value": value, "sensitive": False} for name, value in self.outputs.items()}
        write(self.folder, variables=VARIABLES, outputs=names, **{"outputs.json": json.dumps(told)})
        example = Example.load(self.folder).replace(**variables)
        assert isinstance(example, TerraformExample)
        return apply_terraform(
            example,
            named=self.program,
            run_id=self.run_id,
            folder=self.run_folder,
            journal=self.journal,
            public_key=PUBLIC_KEY,
            target=self.place,
            tags={"nomad-testkit-expires": "never"},
            deadline=Deadline.after(seconds),
            say=self.said.append,
            progress=self.said.append,
        )

    def destroy(self) -> list[str]:
        how: Any = {"run_id": self.run_id, "target": self.place, "progress": self.said.append}
        return destroy_terraform(self.run_folder, journal=self.journal, **how)

    def told(self, name: str) -> str:
        return (self.run_folder / "terraform" / name).read_text()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with cloud_lab() as served:
        yield Place(served)


@pytest.fixture
def lab(place: Place) -> Lab:
    return place.lab


@pytest.fixture
def deployment(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    made, lab = Deployment(place, tmp_path), place.lab
    apply = Workspace.apply

    def apply_and_make(self: Workspace, *arguments: Any, **how: Any) -> None:
        apply(self, *arguments, **how)
        for name, key, size in ((made.servers, made.key, 3), (made.clients, made.key_of_clients, 1)):
            data = {"ImageId": AMI, "InstanceType": "t3.micro", "KeyName": key}
            lab.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
            lab.autoscaling.create_auto_scaling_group(
                AutoScalingGroupName=name,
                LaunchTemplate={"LaunchTemplateName": name},
                MinSize=0,
                MaxSize=9,
                DesiredCapacity=size,
                VPCZoneIdentifier=lab.three[0],
            )

    monkeypatch.setattr(Workspace, "apply", apply_and_make)
    return made


def tags_of(lab: Lab, instance_id: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in lab.instance(instance_id)["Tags"]}


def test_the_hosts_of_its_groups_are_found_by_the_runs_tags(lab: Lab, deployment: Deployment) -> None:
    applied = deployment.apply()
    assert applied.hosts == {"servers": 3, "clients": 1}
    assert applied.outputs == {**deployment.outputs, "num_servers": 3, "num_clients": 1}
    found = instances(deployment.place.client, deployment.run_id)
    assert [one.group for one in found] == ["clients", "servers", "servers", "servers"]
    assert tags_of(lab, found[0].instance_id)["nomad-testkit-expires"] == "never"
    assert deployment.said[0] == f"applying {deployment.folder} with OpenTofu 1.10.10 ({deployment.program})"


def test_its_calls_are_those_that_the_policies_allow(
    lab: Lab, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = set[str]()
    monkeypatch.setattr(deployment.place, "client", lambda service: noting(lab.client(service), calls))
    deployment.apply()
    assert calls - set(seen_calls("runs")) == set(seen_calls("terraform"))


def test_a_host_that_its_group_launches_later_bears_them_too(lab: Lab, deployment: Deployment) -> None:
    deployment.apply()
    before = set(lab.machines.specs)
    lab.autoscaling.set_desired_capacity(AutoScalingGroupName=deployment.clients, DesiredCapacity=2)
    (new,) = set(lab.machines.specs) - before
    tags = {"run": deployment.run_id, "group": "clients", "expires": "never"}
    assert tags_of(lab, new).items() >= {f"nomad-testkit-{key}": value for key, value in tags.items()}.items()


def test_the_run_gives_what_is_its_own_to_variables_of_such_names(lab: Lab, deployment: Deployment) -> None:
    deployment.apply()
    lines = [line for line in deployment.told("applied.env").splitlines() if line.startswith("TF_VAR_")]
    assert dict(line.split("=", 1) for line in lines) == {
        "TF_VAR_cluster_tag_value": f"mine-{deployment.run_id}",
        "TF_VAR_ssh_key_name": deployment.key,
        "TF_VAR_allowed_ssh_cidr_blocks": '["169.254.253.1/32"]',
    }
    assert json.loads(deployment.told("applied.json")) == {"ami_id": AMI}
    assert deployment.key in [pair["KeyName"] for pair in lab.ec2.describe_key_pairs()["KeyPairs"]]
    assert [(entry.kind, entry.name) for entry in deployment.journal.left()] == [
        ("key pair", deployment.key),
        ("Terraform state", str(deployment.run_folder / "terraform" / "source")),
    ]


def test_groups_are_found_by_tag_and_number_too(lab: Lab, deployment: Deployment) -> None:
    tag = {"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "v"}]}
    mine = lab.running(TagSpecifications=[tag])
    del deployment.outputs["asg_name_clients"]
    deployment.outputs |= {"cluster_tag_key_clients": "k", "cluster_tag_value_clients": "v", "num_clients": 1}
    with pytest.raises(DeployError, match="found hosts with the key pair none; expected"):
        deployment.apply()
    found = instances(deployment.place.client, deployment.run_id)
    assert [one.instance_id for one in found if one.group == "clients"] == [mine]


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        (
            {"asg_name_clients": "client"},
            (
                "the output asg_name_clients is 'client', which is no auto scaling group in us-east-1; "
                "expected one of: clients-"
            ),
        ),
        (
            {"asg_name_clients": None, "vpc_id": "vpc-1"},
            (
                'the output asg_name_clients is empty; found: asg_name_servers="servers-{run_id}", '
                "asg_name_clients=null, "
                'vpc_id="vpc-1"; expected a value that identifies the hosts of the group clients'
            ),
        ),
        (
            {"aws_region": "eu-west-1"},
            (
                "the output aws_region is 'eu-west-1'; expected 'us-east-1', the region of the target; choose it with "
                "--nomad-region"
            ),
        ),
    ],
)
def test_outputs_that_do_not_lead_to_the_hosts(outputs: dict[str, Any], error: str, deployment: Deployment) -> None:
    deployment.outputs |= outputs
    with pytest.raises(DeployError) as caught:
        deployment.apply()
    assert error.replace("{run_id}", deployment.run_id) in str(caught.value)


def test_hosts_that_do_not_come(lab: Lab, deployment: Deployment) -> None:
    del deployment.outputs["asg_name_clients"]
    deployment.outputs |= {"cluster_tag_key_clients": "k", "cluster_tag_value_clients": "w", "num_clients": 2}
    with pytest.raises(DeployError, match=r"waited for the hosts of the tag k = w; last seen: 0 of 2"):
        deployment.apply(seconds=1.5)


def test_hosts_with_another_key_pair_are_refused(lab: Lab, deployment: Deployment) -> None:
    lab.ec2.create_key_pair(KeyName="mine")
    deployment.key_of_clients = "mine"
    with pytest.raises(
        DeployError, match=rf"found hosts with the key pair mine; expected '{deployment.key}', the value of the"
    ):
        deployment.apply()


def test_it_is_destroyed_by_the_same_program(deployment: Deployment) -> None:
    deployment.apply()
    assert deployment.destroy() == ["aws_autoscaling_group.servers of OpenTofu"]
    assert [entry.kind for entry in deployment.journal.left()] == ["key pair"], "the sweep deletes it"
    assert deployment.destroy() == []


def test_what_is_not_destroyed_is_kept_with_the_command_to_run_again(deployment: Deployment) -> None:
    deployment.apply()
    deployment.program.write_text(PROGRAM.replace("destroy) touch destroyed", "destroy) echo it is protected; exit 1"))
    with pytest.raises(TeardownError) as caught:
        deployment.destroy()
    left = "left in its state:\n  - aws_autoscaling_group.servers\nIts own words:\nit is protected"
    assert left in str(caught.value)
    assert f"Run `python -m nomad_testkit down {deployment.run_id}` again" in str(caught.value)
    assert "Terraform state" in [entry.kind for entry in deployment.journal.left()]


def test_a_run_that_has_applied_nothing_has_nothing_to_destroy(deployment: Deployment) -> None:
    assert deployment.destroy() == []
    assert applied_elsewhere(deployment.run_folder) == []


def test_a_budget_that_nobody_can_hold_is_refused(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = "".join(f'output "{name}" {{\n  value = "x"\n}}\n' for name in deployment.outputs)
    example = Example.load(write(deployment.folder, outputs=outputs))
    monkeypatch.setattr(deployment.place, "name", "aws", raising=False)
    settings = Settings.load(options={"nomad_aws_budget": "2.50"})
    how: dict[str, Any] = {"target": deployment.place, "tags": {}, "public_key": "", "progress": deployment.said.append}
    with pytest.raises(
        UsageError, match=r"option --nomad-aws-budget: found a budget of 2\.50 USD, but what .*/mine makes"
    ):
        prepare(example, Run(deployment.run_id, deployment.run_folder), settings=settings, **how)
    assert deployment.said == []
