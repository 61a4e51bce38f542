from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.deployment.plan import Plan, key_pair_step, plan
from nomad_testkit.errors import UsageError
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.modules.steps import Ref
from nomad_testkit.targets.key_pair import write_key_pair

RUN = "nt-20260314-ab12cd"


def site(zones: str) -> Placement:
    """A place in these zones, with the addresses that AWS gives a default VPC there."""
    subnets = (Subnet(f"subnet-{zone}", f"us-east-1{zone}", f"172.31.{16 * n}.0/20") for n, zone in enumerate(zones))
    return Placement(Network("vpc-0a", tuple(subnets)), "ami-1", "/dev/xvda")


SITE = site("abc")


def make(run_id: str = RUN, servers: Placement = SITE, clients: Placement = SITE, **variables: Any) -> Plan:
    return plan(
        Example.load("nomad-consul-colocated-cluster").replace(**variables),
        run_id=run_id,
        region="us-east-1",
        placements={"servers": servers, "clients": clients},
        public_key="ssh-ed25519 AAAA",
        inbound_cidrs=["169.254.9.0/30"],
    )


def refs(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from refs(item)


def test_the_servers_boot_first_and_soon() -> None:
    names = [step.name for step in make().steps]
    assert names[0] == "key pair"
    assert names.index("servers: auto scaling group") <= 20
    assert names.index("servers: auto scaling group") < min(names.index(name) for name in names if "clients" in name)
    assert names[-1] == "clients: auto scaling group"
    assert len(set(names)) == len(names)


def test_refs_point_to_earlier_steps_only() -> None:
    made = make()
    known: set[Ref] = set()
    for step in made.steps:
        assert set(refs(step.arguments)) <= known, step.name
        known |= {Ref(step.name), *(Ref(step.name, value) for value in step.values)}
    assert set(refs(made.outputs)) <= known


def test_nobody_else_is_let_in() -> None:
    for step in make().steps:
        if step.action == "authorize_security_group_ingress":
            for rule in step.arguments["IpPermissions"]:
                blocks = [one["CidrIp"] for one in rule["IpRanges"]]
                assert blocks == ["172.31.0.0/19", "172.31.32.0/20", "169.254.9.0/30"]


def test_no_security_group_has_more_rules_than_aws_allows() -> None:
    six = site("abcdef")
    for step in make(servers=six, clients=six).steps:
        if step.action == "authorize_security_group_ingress":
            sources = ("IpRanges", "Ipv6Ranges", "UserIdGroupPairs")
            rules = [one for rule in step.arguments["IpPermissions"] for key in sources for one in rule.get(key, ())]
            assert len(rules) <= 60


def test_the_tag_is_unique_to_the_run_and_the_user_data_knows_it() -> None:
    for run_id in (RUN, "nt-2"):
        made = make(run_id)
        assert made.outputs["nomad_servers_cluster_tag_value"] == f"auto-join-{run_id}"
        scripts = [
            base64.b64decode(step.arguments["LaunchTemplateData"]["UserData"]).decode()
            for step in made.steps
            if step.action == "create_launch_template"
        ]
        assert len(scripts) == 2
        assert all(f'--cluster-tag-value "auto-join-{run_id}"' in script for script in scripts)


def test_outputs_have_the_names_of_upstream() -> None:
    outputs = make(num_clients=4).outputs
    assert outputs["aws_region"] == "us-east-1"
    assert (outputs["num_servers"], outputs["num_clients"]) == (3, 4)
    assert outputs["asg_name_clients"] == f"nomad-example-client-{RUN}"
    assert outputs["security_group_id_servers"] == Ref("servers: security group")
    assert outputs["iam_role_id_servers"] == f"nomad-example-server-{RUN}"
    assert outputs["nomad_servers_cluster_tag_key"] == "nomad-servers"


def test_the_hosts_of_each_group_are_in_the_plan() -> None:
    made = make(num_clients=4).launches
    facts = [(one.group, one.count, one.image_id, one.capacity_seconds, one.ssh_port) for one in made]
    assert facts == [("servers", 3, "ami-1", 600, 22), ("clients", 4, "ami-1", 600, 22)]


def test_outputs_of_the_separate_example() -> None:
    outputs = plan(
        Example.load("nomad-consul-separate-cluster"),
        run_id=RUN,
        region="us-east-1",
        placements=dict.fromkeys(("consul_servers", "nomad_servers", "nomad_clients"), SITE),
        public_key="ssh-ed25519 AAAA",
    ).outputs
    assert [outputs[f"num_{group}"] for group in ("consul_servers", "nomad_servers", "nomad_clients")] == [3, 3, 6]
    assert outputs["asg_name_consul_servers"] == f"consul-example-server-{RUN}"
    assert outputs["asg_name_nomad_servers"] == f"nomad-example-server-{RUN}"
    assert outputs["security_group_id_nomad_clients"] == Ref("nomad_clients: security group")
    for role in ("consul", "nomad"):
        assert outputs[f"{role}_servers_cluster_tag_key"] == f"{role}-servers"
        assert outputs[f"{role}_servers_cluster_tag_value"] == f"auto-join-{RUN}"


def test_each_group_has_a_site_of_its_own_and_all_reach_each_other() -> None:
    elsewhere = Network("vpc-0b", (Subnet("subnet-x", "us-east-1d", "10.9.0.0/24"),))
    made = make(clients=Placement(elsewhere, "ami-2", "/dev/sda1"))
    by_name = {step.name: step.arguments for step in made.steps}
    assert by_name["servers: auto scaling group"]["VPCZoneIdentifier"] == "subnet-a,subnet-b,subnet-c"
    assert by_name["clients: auto scaling group"]["VPCZoneIdentifier"] == "subnet-x"
    assert by_name["clients: security group"]["VpcId"] == "vpc-0b"
    data = by_name["clients: launch template"]["LaunchTemplateData"]
    assert (data["ImageId"], data["BlockDeviceMappings"][0]["DeviceName"]) == ("ami-2", "/dev/sda1")
    for side in ("servers", "clients"):
        blocks = [one["CidrIp"] for one in by_name[f"{side}: inbound rules"]["IpPermissions"][0]["IpRanges"]]
        assert blocks == ["10.9.0.0/24", "172.31.0.0/19", "172.31.32.0/20", "169.254.9.0/30"]


def test_a_key_pair_of_the_users_own_is_not_imported(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "mine")
    made = make(ssh_key_name="mine", ssh_private_key_file=str(tmp_path / "mine"))
    assert "import_key_pair" not in [step.action for step in made.steps]
    templates = [data for step in made.steps if (data := step.arguments.get("LaunchTemplateData"))]
    assert {data["KeyName"] for data in templates} == {"mine"}


def test_the_longest_names_fit_everywhere() -> None:
    for step in make("r" * 20, cluster_name="n" * 36).steps:
        if step.creates is not None:
            assert len(step.creates.name) <= 64


def test_a_run_id_must_fit() -> None:
    with pytest.raises(UsageError, match="the run id is 'a b'"):
        make("a b")


def test_a_plan_needs_no_boto3() -> None:
    code = "import sys, nomad_testkit.deployment.plan; print({'boto3', 'botocore'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "set()\n"


def test_a_key_pair_bears_the_runs_tag_by_which_it_is_swept() -> None:
    step = key_pair_step("nt-1", "ssh-ed25519 AAAA", {"nomad-testkit-expires": "never"})
    tags = {one["Key"]: one["Value"] for spec in step.arguments["TagSpecifications"] for one in spec["Tags"]}
    assert tags["nomad-testkit-run"] == "nt-1"
    assert tags["nomad-testkit-expires"] == "never"
