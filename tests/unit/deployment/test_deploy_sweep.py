"""Applying and sweeping against moto's own backends: what is created, what is left, and what is not touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from nomad_testkit.cluster.discovery import instances
from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.plan import Plan, plan
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.errors import DeployError, TeardownError, UsageError
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.runs.journal import Journal
from nomad_testkit.wait import Deadline

REGION, RUN, OTHER = "us-east-1", "nt-20260314-ab12cd", "nt-20260314-ffffff"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDUFZ2TjiIdWFWfgcg2cl4lyFpJuXzUE8PkcN0CI/+eD"

Client = Callable[[str], Any]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # hundreds, of which one does
    with mock_aws():
        yield make_client


@cache  # making one takes longer than most of what is asked of it, and moto answers those made before, too
def make_client(service: str) -> Any:
    credentials = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client(service, region_name=REGION, **credentials)  # type: ignore[call-overload]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def an_image(client: Client) -> str:
    images = client("ec2").describe_images(Owners=["self"])["Images"] or [client("ec2").register_image(Name="debian")]
    return str(images[0]["ImageId"])


def make_plan(client: Client, run_id: str = RUN, **variables: Any) -> Plan:
    ec2 = client("ec2")
    found = ec2.describe_subnets()["Subnets"][:3]
    network = Network(
        found[0]["VpcId"], tuple(Subnet(one["SubnetId"], one["AvailabilityZone"], one["CidrBlock"]) for one in found)
    )
    return plan(
        Example.load("nomad-consul-colocated-cluster").replace(**variables),
        run_id=run_id,
        region=REGION,
        placements=dict.fromkeys(("servers", "clients"), Placement(network, an_image(client), "/dev/xvda")),
        public_key=PUBLIC_KEY,
        inbound_cidrs=["192.0.2.0/24"],
    )


def left(client: Client, run_id: str = RUN, *, untagged_images: bool = False) -> list[str]:
    """List what bears a run's tag, by calls of its own: the sweep's own eyes would miss what it misses."""
    ec2, scaling, iam = client("ec2"), client("autoscaling"), client("iam")
    found = [
        *(("Auto Scaling group", one) for one in scaling.describe_auto_scaling_groups()["AutoScalingGroups"]),
        *(
            ("instance", one)
            for some in ec2.describe_instances()["Reservations"]
            for one in some["Instances"]
            if one["State"]["Name"] != "terminated"
        ),
        *(("volume", one) for one in ec2.describe_volumes()["Volumes"] if one["State"] == "available"),
        *(("launch template", one) for one in ec2.describe_launch_templates()["LaunchTemplates"]),
        *(("instance profile", one) for one in iam.list_instance_profiles()["InstanceProfiles"]),
        *(("role", iam.get_role(RoleName=one["RoleName"])["Role"]) for one in iam.list_roles()["Roles"]),
        *(("security group", one) for one in ec2.describe_security_groups()["SecurityGroups"]),
        *(("key pair", one) for one in ec2.describe_key_pairs()["KeyPairs"]),
        *(("AMI", one) for one in ec2.describe_images(Owners=["self"])["Images"]),
        *(("snapshot", one) for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]),
    ]

    def is_its(kind: str, one: dict[str, Any]) -> bool:
        tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", ())}
        by_name = untagged_images and kind == "AMI" and f"-{run_id}-" in one["Name"]
        return tags.get("nomad-testkit-run") == run_id or by_name

    def name_of(one: dict[str, Any]) -> str:
        return str(next((one[key] for key in ("LaunchTemplateName", "GroupName", "Name") if key in one), ""))

    return [f"{kind} {name_of(one)}".strip() for kind, one in found if is_its(kind, one)]


def refuse(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    service: str,
    action: str,
    times: int = 1_000,
    code: str = "UnauthorizedOperation",
) -> list[int]:
    """Let a call be refused the first times that it is made."""
    real, calls = getattr(client(service), action), []

    def refused(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise ClientError({"Error": {"Code": code, "Message": "not you"}}, action)
        return real(*args, **kwargs)

    monkeypatch.setattr(client(service), action, refused)
    return calls


def test_applies_and_sweeps_everything(client: Client, journal: Journal) -> None:
    outputs = apply(make_plan(client), client, journal)
    assert outputs["num_servers"] == 3
    assert outputs["num_clients"] == 6
    assert outputs["aws_region"] == REGION
    assert outputs["security_group_id_servers"].startswith("sg-")
    assert outputs["iam_role_arn_clients"].endswith(f"role/nomad-example-client-{RUN}")
    assert outputs["nomad_servers_cluster_tag_value"] == f"auto-join-{RUN}"
    hosts = instances(client, RUN)
    assert [host.group for host in hosts] == ["clients"] * 6 + ["servers"] * 3
    assert len(left(client)) == 2 + 9 + 2 + 2 + 2 + 2 + 1
    assert [entry.id is not None for entry in journal.left()] == [True] * 11

    destroyed = sweep(client, RUN, journal, deadline=Deadline.after(20))

    assert left(client) == []
    assert instances(client, RUN) == []
    assert {host.state for host in instances(client, RUN, terminated=True)} == {"terminated"}
    assert journal.left() == []
    assert f"security group nomad-example-server-{RUN}" in " ".join(destroyed)
    assert sweep(client, RUN, journal, deadline=Deadline.after(20)) == []


def test_tags_reach_the_instances(client: Client, journal: Journal) -> None:
    apply(make_plan(client, num_clients=0), client, journal)
    reservations = client("ec2").describe_instances()["Reservations"]
    found = [{tag["Key"]: tag["Value"] for tag in one["Tags"]} for all_ in reservations for one in all_["Instances"]]
    assert len(found) == 3
    for tags in found:
        assert tags["nomad-testkit-run"] == RUN
        assert tags["nomad-testkit-group"] == "servers"
        assert tags["Name"] == "nomad-example-server"
        assert tags["nomad-servers"] == f"auto-join-{RUN}"


def test_sweeps_without_a_journal(client: Client, journal: Journal) -> None:
    apply(make_plan(client), client, journal)
    sweep(client, RUN, None, deadline=Deadline.after(20))
    assert left(client) == []


def test_deletes_images_with_their_snapshots(client: Client, journal: Journal) -> None:
    ec2 = client("ec2")
    source = an_image(client)
    instance = ec2.run_instances(ImageId=source, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]

    def image(name: str, *tagged: str, run_id: str = RUN) -> str:
        made = str(ec2.create_image(InstanceId=instance, Name=name)["ImageId"])
        devices = ec2.describe_images(ImageIds=[made])["Images"][0]["BlockDeviceMappings"]
        ids = {"image": made, "snapshot": devices[0]["Ebs"]["SnapshotId"]}
        tags = [{"Key": "nomad-testkit-run", "Value": run_id}]
        ec2.create_tags(Resources=[ids[kind] for kind in tagged], Tags=tags)
        return made

    kept = image(f"web-{OTHER}-1", "image", "snapshot", run_id=OTHER)
    image("web", "image", "snapshot")
    image("web without a tag on its snapshot", "image")
    image(f"web-{RUN}-20260314", "snapshot")  # as Packer leaves one that is killed before it tags the image
    before = {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    assert len(left(client, untagged_images=True)) == 3 + 2
    journal.record("AMI", f"web-{RUN}")

    destroyed = sweep(client, RUN, journal, deadline=Deadline.after(20))

    assert left(client, untagged_images=True) == []
    assert len([one for one in destroyed if one.startswith("AMI ")]) == 3
    assert len([one for one in destroyed if one.startswith("snapshot ")]) == 3
    assert [one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"]] == [source, kept]
    after = {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    assert len(before - after) == 3


def test_touches_nothing_of_others(client: Client, journal: Journal, tmp_path: Path) -> None:
    other = Journal(tmp_path / "other.jsonl")
    apply(make_plan(client, OTHER), client, other)
    before = left(client, OTHER)
    assert before
    # What bears the run's name, or stands in its journal, and still is somebody else's: it lacks the tag.
    client("iam").create_role(RoleName=f"mine-{RUN}", AssumeRolePolicyDocument="{}")
    vpc = client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    group = client("ec2").create_security_group(GroupName=f"mine-{RUN}", Description="mine", VpcId=vpc)["GroupId"]
    journal.record("security group", f"mine-{RUN}")
    journal.created("security group", f"mine-{RUN}", group)
    journal.record("IAM role", f"mine-{RUN}")

    assert sweep(client, RUN, journal, deadline=Deadline.after(20)) == []

    assert left(client, OTHER) == before
    assert client("iam").get_role(RoleName=f"mine-{RUN}")["Role"]["RoleName"] == f"mine-{RUN}"
    assert client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["GroupId"] == group


def test_sweeps_each_half_of_a_plan(client: Client, tmp_path: Path) -> None:
    whole = make_plan(client, num_servers=1)
    for count in range(10):  # the servers; what comes after them is of the same kinds
        journal = Journal(tmp_path / f"{count}.jsonl")
        apply(Plan(whole.run_id, whole.region, whole.steps[:count], {}), client, journal)
        sweep(client, RUN, journal, deadline=Deadline.after(20))
        assert left(client) == [], f"after {count} steps"


def test_goes_on_after_a_refusal_and_reports_it(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(make_plan(client), client, journal)
    refuse(client, monkeypatch, "ec2", "delete_launch_template", times=2)
    with pytest.raises(TeardownError) as caught:
        sweep(client, RUN, journal, deadline=Deadline.after(20))
    names = [f"launch template nomad-example-{side}-{RUN}" for side in ("client", "server")]
    assert all(name in str(caught.value) for name in names)
    assert "UnauthorizedOperation: not you" in str(caught.value)
    assert "security group" not in str(caught.value)
    assert sorted(left(client)) == names
    assert len(sweep(client, RUN, journal, deadline=Deadline.after(20))) == 2
    assert left(client) == []


def test_reports_what_it_could_not_ask_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(client, monkeypatch, "ec2", "describe_key_pairs")
    with pytest.raises(TeardownError, match="it could not be asked for"):
        sweep(client, RUN, None, deadline=Deadline.after(5))


def test_one_protected_instance_does_not_save_the_others(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2 = client("ec2")
    image = an_image(client)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "nomad-testkit-run", "Value": RUN}]}]
    made = ec2.run_instances(ImageId=image, MinCount=3, MaxCount=3, TagSpecifications=tags)["Instances"]
    ids = [one["InstanceId"] for one in made]
    real = ec2.terminate_instances

    def whole(**arguments: Any) -> Any:
        """Refuse the whole call, as AWS does; moto ends the instances that come before the protected one."""
        if ids[1] in arguments["InstanceIds"]:
            raise ClientError(
                {"Error": {"Code": "OperationNotPermitted", "Message": "protected"}}, "TerminateInstances"
            )
        return real(**arguments)

    monkeypatch.setattr(ec2, "terminate_instances", whole)
    with pytest.raises(TeardownError) as caught:
        sweep(client, RUN, None, deadline=Deadline.after(20))
    assert [one.instance_id for one in instances(client, RUN)] == [ids[1]]
    assert f"left:\n  - instance {ids[1]}\nrefused:" in str(caught.value)


def test_finds_by_journal_what_the_tags_do_not_tell_yet(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(Plan(RUN, REGION, make_plan(client).steps[:6], {}), client, journal)
    real = client("ec2").get_paginator

    class Blind:
        def paginate(self, **kwargs: Any) -> list[dict[str, Any]]:
            return [{"SecurityGroups": []}]

    # The first look by tag does not show the group yet.
    looks = iter([Blind()])
    monkeypatch.setattr(
        client("ec2"),
        "get_paginator",
        lambda name: next(looks, None) or real(name) if name == "describe_security_groups" else real(name),
    )
    destroyed = sweep(client, RUN, journal, deadline=Deadline.after(20))
    assert any(line.startswith("security group") for line in destroyed)
    assert left(client) == []


def test_suspends_a_group_before_its_instances_end(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it starts new ones in their place."""
    apply(make_plan(client), client, journal)
    order: list[str] = []

    def note(service: str, action: str) -> None:
        real = getattr(client(service), action)

        def noted(**arguments: Any) -> Any:
            order.append(f"{action} {arguments.get('AutoScalingGroupName', '')}".strip())
            return real(**arguments)

        monkeypatch.setattr(client(service), action, noted)

    note("autoscaling", "suspend_processes")
    note("autoscaling", "delete_auto_scaling_group")
    note("ec2", "terminate_instances")
    sweep(client, RUN, journal, deadline=Deadline.after(20))
    groups = [f"nomad-example-{side}-{RUN}" for side in ("client", "server")]
    assert [order.count(f"suspend_processes {group}") for group in groups] == [1, 1]
    for group in groups:
        assert order.index(f"suspend_processes {group}") < order.index(f"delete_auto_scaling_group {group}")
    if "terminate_instances" in order:  # unless the groups have taken all of theirs along
        assert order.index("terminate_instances") > max(order.index(f"suspend_processes {group}") for group in groups)


def test_a_security_group_in_use_is_tried_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network interface of an instance outlives it a little."""
    ec2 = client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "nomad-testkit-run", "Value": RUN}]}]
    ec2.create_security_group(GroupName="one", Description="one", VpcId=vpc, TagSpecifications=tags)
    calls = refuse(client, monkeypatch, "ec2", "delete_security_group", times=2, code="DependencyViolation")
    assert len(sweep(client, RUN, None, deadline=Deadline.after(20))) == 1
    assert len(calls) == 3
    assert left(client) == []


def test_sweeps_groups_that_name_each_other(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ec2 = client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "nomad-testkit-run", "Value": RUN}]}]
    ids = [
        ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc, TagSpecifications=tags)["GroupId"]
        for name in ("one", "two")
    ]
    for mine, other in (ids, ids[::-1]):
        rule = {
            "IpProtocol": "tcp",
            "FromPort": 4647,
            "ToPort": 4647,
            "UserIdGroupPairs": [{"GroupId": other}, {"GroupId": mine}],
        }
        ec2.authorize_security_group_ingress(GroupId=mine, IpPermissions=[rule])
    real, refused = ec2.delete_security_group, []

    def as_aws(GroupId: str) -> Any:  # which keeps a group that another one's rule names, and moto does not
        for one in ec2.describe_security_groups()["SecurityGroups"]:
            named = [pair["GroupId"] for rule in one["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
            if one["GroupId"] != GroupId and GroupId in named:
                refused.append(GroupId)
        return real(GroupId=GroupId)

    monkeypatch.setattr(ec2, "delete_security_group", as_aws)
    assert len(sweep(client, RUN, None, deadline=Deadline.after(20))) == 2
    assert refused == []
    assert left(client) == []


@pytest.mark.parametrize("run_id", ["", "*", "nt-?", "NT-1", "x" * 21])
def test_refuses_a_run_id_that_could_match_others(client: Client, run_id: str) -> None:
    with pytest.raises(UsageError, match="run id"):
        sweep(client, run_id, None, deadline=Deadline.after(5))
    with pytest.raises(UsageError, match="run id"):
        instances(client, run_id)


def test_a_refused_step_is_named_and_journaled(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(client, monkeypatch, "ec2", "create_launch_template")
    with pytest.raises(DeployError) as caught:
        apply(make_plan(client), client, journal)
    assert str(caught.value) == (
        "the step 'servers: launch template' was refused: ec2 CreateLaunchTemplate of the launch template "
        f"nomad-example-server-{RUN} answered UnauthorizedOperation: not you"
    )
    assert [(entry.kind, entry.id is None) for entry in journal.left()][-1] == ("launch template", True)
    sweep(client, RUN, journal, deadline=Deadline.after(20))
    assert left(client) == []


def test_waits_for_a_profile_that_auto_scaling_does_not_know_yet(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = client("autoscaling").create_auto_scaling_group, []

    def late(**kwargs: Any) -> Any:
        calls.append(kwargs["AutoScalingGroupName"])
        if len(calls) == 1:
            message = "You must use a valid fully-formed launch template. Invalid IAM Instance Profile name"
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "CreateAutoScalingGroup")
        return real(**kwargs)

    monkeypatch.setattr(client("autoscaling"), "create_auto_scaling_group", late)
    monkeypatch.setattr("nomad_testkit.deployment.apply.INTERVAL", 0.0)
    apply(make_plan(client, num_clients=0), client, journal)
    assert calls[0] == calls[1] == f"nomad-example-server-{RUN}"
    assert len(calls) == 3


def test_an_image_that_does_not_exist_is_not_waited_for(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def refused(**kwargs: Any) -> Any:
        calls.append(kwargs)
        if len(calls) > 1:
            pytest.fail("it was asked again")
        message = "You must use a valid fully-formed launch template. The image id '[ami-0abc]' does not exist"
        raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "CreateAutoScalingGroup")

    monkeypatch.setattr(client("autoscaling"), "create_auto_scaling_group", refused)
    with pytest.raises(DeployError, match=r"image id '\[ami-0abc\]' does not exist"):
        apply(make_plan(client), client, journal)


def test_a_deadline_ends_a_deployment(client: Client, journal: Journal) -> None:
    with pytest.raises(DeployError, match="no time left for the step 'key pair'"):
        apply(make_plan(client), client, journal, deadline=Deadline.after(0))
    assert journal.left() == []


def test_a_full_disk_does_not_keep_resources_alive(
    client: Client, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(make_plan(client, num_clients=1), client, journal)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_write", full)
    sweep(client, RUN, journal, deadline=Deadline.after(20))
    assert left(client) == []
