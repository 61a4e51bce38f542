"""Applying and sweeping against moto's own backends: what is created, what is left, and what is not touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from faulty_api import REFUSED, refusal
from moto_account import (
    OTHER,
    REGION,
    RUN,
    RunInAccount,
    an_image,
    instead,
    launch,
    of_run,
    security_group,
    snapshots,
    tag_list,
)

from nomad_testkit.cluster.discovery import instances
from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.plan import Plan
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.errors import DeployError, TeardownError, UsageError
from nomad_testkit.runs.journal import Journal
from nomad_testkit.wait import Deadline

TEMPLATES = [f"launch template nomad-example-{side}-{RUN}" for side in ("client", "server")]


def refuse(
    patch: pytest.MonkeyPatch, client: Any, action: str, *, times: int = 1_000, error: ClientError | None = None
) -> list[Any]:
    """Let a call be refused the first times that it is made; gives a list that notes the calls."""

    def refused(real: Any, **arguments: Any) -> Any:
        if len(calls) <= times:
            raise error or refusal(*REFUSED, action)
        return real(**arguments)

    calls = instead(patch, client, action, refused)
    return calls


def test_applies_and_sweeps_everything(run: RunInAccount) -> None:
    outputs = run.apply(zones=3, num_servers=3, num_clients=6)
    assert outputs["num_servers"] == 3
    assert outputs["num_clients"] == 6
    assert outputs["aws_region"] == REGION
    assert outputs["security_group_id_servers"].startswith("sg-")
    assert outputs["iam_role_arn_clients"].endswith(f"role/nomad-example-client-{RUN}")
    assert outputs["nomad_servers_cluster_tag_value"] == f"auto-join-{RUN}"
    assert [host.group for host in instances(run.client, RUN)] == ["clients"] * 6 + ["servers"] * 3
    assert len(run.left()) == 2 + 9 + 2 + 2 + 2 + 2 + 1
    assert [entry.id is not None for entry in run.journal.left()] == [True] * 11

    destroyed = run.sweep()

    assert run.left() == []
    assert instances(run.client, RUN) == []
    assert {host.state for host in instances(run.client, RUN, terminated=True)} == {"terminated"}
    assert run.journal.left() == []
    assert f"security group nomad-example-server-{RUN}" in " ".join(destroyed)
    assert run.sweep() == []


def test_tags_reach_the_instances(run: RunInAccount) -> None:
    run.apply(num_servers=3, num_clients=0)
    reservations = run.client("ec2").describe_instances()["Reservations"]
    found = [{tag["Key"]: tag["Value"] for tag in one["Tags"]} for all_ in reservations for one in all_["Instances"]]
    assert len(found) == 3
    for tags in found:
        assert tags["nomad-testkit-run"] == RUN
        assert tags["nomad-testkit-group"] == "servers"
        assert tags["Name"] == "nomad-example-server"
        assert tags["nomad-servers"] == f"auto-join-{RUN}"


def test_sweeps_without_a_journal(run: RunInAccount) -> None:
    run.apply()
    run.sweep(journal=False)
    assert run.left() == []


def test_deletes_images_with_their_snapshots(run: RunInAccount) -> None:
    ec2 = run.client("ec2")
    source = an_image(run.client)
    (instance,) = launch(run.client)

    def image(name: str, *marked: str, run_id: str = RUN) -> str:
        made = str(ec2.create_image(InstanceId=instance, Name=name)["ImageId"])
        devices = ec2.describe_images(ImageIds=[made])["Images"][0]["BlockDeviceMappings"]
        ids = {"image": made, "snapshot": devices[0]["Ebs"]["SnapshotId"]}
        ec2.create_tags(Resources=[ids[kind] for kind in marked], Tags=tag_list(of_run(run_id)))
        return made

    kept = image(f"web-{OTHER}-1", "image", "snapshot", run_id=OTHER)
    image("web", "image", "snapshot")
    image("web without a tag on its snapshot", "image")
    image(f"web-{RUN}-20260314", "snapshot")  # as Packer leaves one that is killed before it tags the image
    before = snapshots(run.client)
    assert len(run.left(untagged_images=True)) == 3 + 2
    run.journal.record("AMI", f"web-{RUN}")

    destroyed = run.sweep()

    assert run.left(untagged_images=True) == []
    assert len([one for one in destroyed if one.startswith("AMI ")]) == 3
    assert len([one for one in destroyed if one.startswith("snapshot ")]) == 3
    assert [one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"]] == [source, kept]
    assert len(before - snapshots(run.client)) == 3


def test_touches_nothing_of_others(run: RunInAccount, tmp_path: Path) -> None:
    other = RunInAccount(run.client, Journal(tmp_path / "other.jsonl"), OTHER)
    other.apply()
    before = other.left()
    assert before
    # What bears the run's name, or stands in its journal, and still is somebody else's: it lacks the tag.
    run.client("iam").create_role(RoleName=f"mine-{RUN}", AssumeRolePolicyDocument="{}")
    group = security_group(run.client, f"mine-{RUN}")
    run.journal.record("security group", f"mine-{RUN}")
    run.journal.created("security group", f"mine-{RUN}", group)
    run.journal.record("IAM role", f"mine-{RUN}")

    assert run.sweep() == []

    assert other.left() == before
    assert run.client("iam").get_role(RoleName=f"mine-{RUN}")["Role"]["RoleName"] == f"mine-{RUN}"
    assert run.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["GroupId"] == group


def test_sweeps_each_half_of_a_plan(run: RunInAccount) -> None:
    whole = run.plan()
    for count in range(10):  # the servers; what comes after them is of the same kinds
        run.apply(Plan(whole.run_id, whole.region, whole.steps[:count], {}))
        run.sweep()
        assert run.left() == [], f"after {count} steps"


def test_goes_on_after_a_refusal_and_reports_it(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    run.apply()
    refuse(monkeypatch, run.client("ec2"), "delete_launch_template", times=2)
    with pytest.raises(TeardownError) as caught:
        run.sweep()
    assert all(name in str(caught.value) for name in TEMPLATES)
    assert "UnauthorizedOperation: not you" in str(caught.value)
    assert "security group" not in str(caught.value)
    assert sorted(run.left()) == TEMPLATES
    assert len(run.sweep()) == 2
    assert run.left() == []


def test_reports_what_it_could_not_ask_for(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, run.client("ec2"), "describe_key_pairs")
    with pytest.raises(TeardownError, match="it could not be listed"):
        run.sweep(5, journal=False)


def test_one_protected_instance_does_not_save_the_others(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = launch(run.client, of_run(), 3)

    def whole(real: Any, **arguments: Any) -> Any:
        """Refuse the whole call, as AWS does; moto ends the instances that come before the protected one."""
        if ids[1] in arguments["InstanceIds"]:
            raise refusal("OperationNotPermitted", "protected", "TerminateInstances")
        return real(**arguments)

    instead(monkeypatch, run.client("ec2"), "terminate_instances", whole)
    with pytest.raises(TeardownError) as caught:
        run.sweep(20, journal=False)
    assert [one.instance_id for one in instances(run.client, RUN)] == [ids[1]]
    assert f"left:\n  - instance {ids[1]}\nrefused:" in str(caught.value)


def test_finds_by_journal_what_the_tags_do_not_tell_yet(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    run.apply(Plan(RUN, REGION, run.plan().steps[:6], {}))
    real = run.client("ec2").get_paginator

    class Blind:
        def paginate(self, **kwargs: Any) -> list[dict[str, Any]]:
            return [{"SecurityGroups": []}]

    looks = iter([Blind()])  # the first look by tag does not show the group yet

    def paginator(name: str) -> Any:
        return (next(looks, None) if name == "describe_security_groups" else None) or real(name)

    monkeypatch.setattr(run.client("ec2"), "get_paginator", paginator)
    assert any(line.startswith("security group") for line in run.sweep())
    assert run.left() == []


def test_suspends_a_group_before_its_instances_end(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it starts new ones in their place."""
    run.apply()
    order: list[str] = []

    def note(service: str, action: str) -> None:
        def noted(real: Any, **arguments: Any) -> Any:
            order.append(f"{action} {arguments.get('AutoScalingGroupName', '')}".strip())
            return real(**arguments)

        instead(monkeypatch, run.client(service), action, noted)

    note("autoscaling", "suspend_processes")
    note("autoscaling", "delete_auto_scaling_group")
    note("ec2", "terminate_instances")
    run.sweep()
    groups = [f"nomad-example-{side}-{RUN}" for side in ("client", "server")]
    assert [order.count(f"suspend_processes {group}") for group in groups] == [1, 1]
    for group in groups:
        assert order.index(f"suspend_processes {group}") < order.index(f"delete_auto_scaling_group {group}")
    if "terminate_instances" in order:  # unless the groups have taken all of theirs along
        assert order.index("terminate_instances") > max(order.index(f"suspend_processes {group}") for group in groups)


def test_a_security_group_in_use_is_tried_again(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network interface of an instance outlives it a little."""
    security_group(run.client, "one", of_run())
    in_use = refusal("DependencyViolation", "not you")
    calls = refuse(monkeypatch, run.client("ec2"), "delete_security_group", times=2, error=in_use)
    assert len(run.sweep(20, journal=False)) == 1
    assert len(calls) == 3
    assert run.left() == []


def test_sweeps_groups_that_name_each_other(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    ec2 = run.client("ec2")
    ids = [security_group(run.client, name, of_run()) for name in ("one", "two")]
    for group in ids:
        pairs = [{"GroupId": one} for one in ids]
        rule = {"IpProtocol": "tcp", "FromPort": 4647, "ToPort": 4647, "UserIdGroupPairs": pairs}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    refused = []

    def as_aws(real: Any, GroupId: str) -> Any:  # which keeps a group that another one's rule names, and moto does not
        for one in ec2.describe_security_groups()["SecurityGroups"]:
            named = [pair["GroupId"] for rule in one["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
            if one["GroupId"] != GroupId and GroupId in named:
                refused.append(GroupId)
        return real(GroupId=GroupId)

    instead(monkeypatch, ec2, "delete_security_group", as_aws)
    assert len(run.sweep(20, journal=False)) == 2
    assert refused == []
    assert run.left() == []


@pytest.mark.parametrize("run_id", ["", "*", "nt-?", "NT-1", "x" * 21])
def test_refuses_a_run_id_that_could_match_others(run: RunInAccount, run_id: str) -> None:
    with pytest.raises(UsageError, match="run id"):
        sweep(run.client, run_id, None, deadline=Deadline.after(5))
    with pytest.raises(UsageError, match="run id"):
        instances(run.client, run_id)


def test_a_refused_step_is_named_and_journaled(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, run.client("ec2"), "create_launch_template", error=refusal(*REFUSED, "CreateLaunchTemplate"))
    with pytest.raises(DeployError) as caught:
        run.apply()
    assert str(caught.value) == (
        "the step 'servers: launch template' was refused: ec2 CreateLaunchTemplate of the launch template "
        f"nomad-example-server-{RUN} answered UnauthorizedOperation: not you"
    )
    assert [(entry.kind, entry.id is None) for entry in run.journal.left()][-1] == ("launch template", True)
    run.sweep()
    assert run.left() == []


INVALID = "You must use a valid fully-formed launch template. "


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Invalid IAM Instance Profile name", None),  # Auto Scaling does not know it yet
        ("The image id '[ami-0abc]' does not exist", r"image id '\[ami-0abc\]' does not exist"),
    ],
)
def test_a_refused_template_is_waited_for_only_where_that_helps(
    run: RunInAccount, monkeypatch: pytest.MonkeyPatch, reason: str, told: str | None
) -> None:
    error = refusal("ValidationError", INVALID + reason, "CreateAutoScalingGroup")
    calls = refuse(monkeypatch, run.client("autoscaling"), "create_auto_scaling_group", times=1, error=error)
    if told is None:
        run.apply(num_clients=0)
        assert calls[0]["AutoScalingGroupName"] == f"nomad-example-server-{RUN}"
        assert [one["AutoScalingGroupName"].partition(f"-{RUN}")[0].split("-")[-1] for one in calls] == [
            *("server", "server", "client")
        ]
    else:
        with pytest.raises(DeployError, match=told):
            run.apply()
        assert len(calls) == 1


def test_a_deadline_ends_a_deployment(run: RunInAccount) -> None:
    with pytest.raises(DeployError, match="no time was left for the step 'key pair'"):
        apply(run.plan(), run.client, run.journal, deadline=Deadline.after(0))
    assert run.journal.left() == []


def test_a_full_disk_does_not_keep_resources_alive(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    run.apply()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.journal, "_write", full)
    run.sweep()
    assert run.left() == []
