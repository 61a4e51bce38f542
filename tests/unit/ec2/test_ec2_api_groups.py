"""Auto scaling groups of the cloud's API: where their instances go, what they wait for, and which ones end."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from api_lab import AMI, PUBLIC_KEY, Lab, refused

from nomad_testkit.ec2.api.az_balancing import ZoneSubnet, spread, surplus
from nomad_testkit.ec2.api.lifecycle_hooks import LifecycleActions


def test_a_group_spreads_what_its_template_says(lab: Lab) -> None:
    lab.ec2.import_key_pair(KeyName="key", PublicKeyMaterial=PUBLIC_KEY.encode())
    arn = lab.profile()
    security_group = lab.security_group("web")
    template = lab.template(
        KeyName="key",
        UserData=base64.b64encode(b"#!/bin/sh\nexit 0\n").decode(),
        IamInstanceProfile={"Name": "profile"},
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "InstanceMetadataTags": "enabled"},
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 50, "DeleteOnTermination": True}}],
        NetworkInterfaces=[{"DeviceIndex": 0, "Groups": [security_group], "AssociatePublicIpAddress": True}],
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}, {"Key": "b", "Value": "1"}]}
        ],
    )
    tags = [
        {"Key": "Name", "Value": "server", "PropagateAtLaunch": True},
        {"Key": "b", "Value": "2", "PropagateAtLaunch": True},
        {"Key": "hidden", "Value": "x", "PropagateAtLaunch": False},
    ]
    group = lab.group(template, 9, Tags=tags)
    assert group["DesiredCapacity"] == 9
    zones = Counter(each["AvailabilityZone"] for each in group["Instances"])
    assert zones == {lab.subnets[subnet]["AvailabilityZone"]: 3 for subnet in lab.three}
    assert {each["LifecycleState"] for each in group["Instances"]} == {"Pending"}
    for member in group["Instances"]:
        instance_id = member["InstanceId"]
        lab.api.running(instance_id)
        view, shown = lab.view(instance_id), lab.instance(instance_id)
        assert view.subnet_id in lab.three
        assert view.tags["Name"] == "server"
        assert view.tags["aws:autoscaling:groupName"] == "group"
        assert (view.tags["from"], view.tags["b"]) == ("template", "2")
        assert "hidden" not in view.tags
        assert view.user_data == b"#!/bin/sh\nexit 0\n"
        assert (view.token_required, view.hop_limit, view.tags_in_metadata) == (True, 2, True)
        assert view.profile is not None
        assert view.profile.arn == arn
        assert shown["MetadataOptions"]["HttpTokens"] == "required"
        assert [each["GroupId"] for each in shown["SecurityGroups"]] == [security_group]
        assert shown["KeyName"] == "key"
        assert shown["PublicIpAddress"].startswith("127.31.")
        assert lab.machines.specs[instance_id].root_volume_gib == 50
    assert {each["LifecycleState"] for each in lab.members} == {"InService"}


def test_a_template_without_a_public_address_and_with_two_versions(lab: Lab) -> None:
    template = lab.template(NetworkInterfaces=[{"DeviceIndex": 0, "AssociatePublicIpAddress": False}])
    data = {"ImageId": AMI, "InstanceType": "t3.small", "UserData": base64.b64encode(b"second").decode()}
    lab.ec2.create_launch_template_version(LaunchTemplateId=template, LaunchTemplateData=data)
    specification = {"LaunchTemplateId": template, "Version": "$Latest"}
    (latest,) = lab.group(template, 1, LaunchTemplate=specification)["Instances"]
    assert lab.view(latest["InstanceId"]).user_data == b"second"
    assert lab.instance(latest["InstanceId"])["InstanceType"] == "t3.small"
    first = lab.ec2.run_instances(LaunchTemplate={"LaunchTemplateId": template}, MinCount=1, MaxCount=1)
    assert "PublicIpAddress" not in first["Instances"][0]
    assert lab.view(first["Instances"][0]["InstanceId"]).user_data is None


def test_a_terminated_member_is_replaced_where_it_was(lab: Lab) -> None:
    group = lab.group(lab.template(), 6)
    victim = group["Instances"][0]
    lab.ec2.terminate_instances(InstanceIds=[victim["InstanceId"]])
    after = lab.members
    assert len(after) == 6
    assert victim["InstanceId"] not in {each["InstanceId"] for each in after}
    assert set(Counter(each["AvailabilityZone"] for each in after).values()) == {2}


def test_suspended_processes_are_honoured(lab: Lab) -> None:
    group = lab.group(lab.template(), 3)
    lab.autoscaling.suspend_processes(AutoScalingGroupName="group", ScalingProcesses=["Launch", "Terminate"])
    lab.ec2.terminate_instances(InstanceIds=[group["Instances"][0]["InstanceId"]])
    lab.resize(1)
    shown = lab.described_group()
    assert (shown["DesiredCapacity"], len(shown["Instances"])) == (1, 2)
    lab.resize(3)
    lab.autoscaling.resume_processes(AutoScalingGroupName="group")
    assert len(lab.members) == 3


def test_scaling_in_keeps_the_zones_even(lab: Lab) -> None:
    lab.group(lab.template(), 9)
    lab.resize(3)
    left = lab.members
    assert set(Counter(each["AvailabilityZone"] for each in left).values()) == {1}
    assert len([entry for entry in lab.machines.asked if entry[0] == "terminate"]) == 6


@pytest.mark.parametrize(("policy", "kept"), [("Default", -1), ("OldestInstance", -1), ("NewestInstance", 0)])
def test_termination_policies_choose_who_ends(lab: Lab, policy: str, kept: int) -> None:
    subnets = {"VPCZoneIdentifier": lab.three[0], "TerminationPolicies": [policy]}
    before = lab.group(lab.template(), 3, **subnets)["Instances"]
    lab.resize(1)
    (left,) = lab.members
    assert left["InstanceId"] == before[kept]["InstanceId"]


def test_protected_members_stay(lab: Lab) -> None:
    lab.group(lab.template(), 3, NewInstancesProtectedFromScaleIn=True)
    lab.resize(0)
    assert [each["ProtectedFromScaleIn"] for each in lab.members] == [True] * 3


def hook(transition: str, result: str = "ABANDON", name: str = "ready") -> dict[str, Any]:
    return {
        "LifecycleHookName": name,
        "LifecycleTransition": f"autoscaling:EC2_INSTANCE_{transition}",
        "DefaultResult": result,
        "HeartbeatTimeout": 30,
    }


def states(lab: Lab) -> list[str]:
    return [each["LifecycleState"] for each in lab.members]


def completed(lab: Lab, instance_id: str, result: str, name: str = "ready") -> None:
    lab.autoscaling.complete_lifecycle_action(
        AutoScalingGroupName="group", LifecycleHookName=name, InstanceId=instance_id, LifecycleActionResult=result
    )


def test_hooks_are_told_as_they_were_given(lab: Lab) -> None:
    given = {**hook("LAUNCHING"), "NotificationMetadata": "words"}
    lab.group(lab.template(), 0, LifecycleHookSpecificationList=[given])
    (told,) = lab.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="group")["LifecycleHooks"]
    assert told == {**given, "AutoScalingGroupName": "group", "GlobalTimeout": 172800}
    lab.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="group")
    assert lab.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="group")["LifecycleHooks"] == []


def test_a_launch_waits_for_each_of_its_hooks(lab: Lab) -> None:
    hooks = [hook("LAUNCHING"), hook("LAUNCHING", name="second"), hook("TERMINATING", name="other")]
    (member,) = lab.group(lab.template(), 1, LifecycleHookSpecificationList=hooks)["Instances"]
    instance_id = member["InstanceId"]
    lab.api.running(instance_id)
    assert states(lab) == ["Pending:Wait"]
    assert lab.view(instance_id).target_lifecycle_state == "InService"
    lab.autoscaling.record_lifecycle_action_heartbeat(
        AutoScalingGroupName="group", LifecycleHookName="ready", InstanceId=instance_id
    )
    completed(lab, instance_id, "CONTINUE")
    assert states(lab) == ["Pending:Wait"]
    refused("ValidationError", lambda: completed(lab, instance_id, "CONTINUE"))
    completed(lab, instance_id, "CONTINUE", "second")
    assert states(lab) == ["InService"]


def test_an_abandoned_launch_is_replaced(lab: Lab) -> None:
    (member,) = lab.group(lab.template(), 1, LifecycleHookSpecificationList=[hook("LAUNCHING")])["Instances"]
    lab.api.running(member["InstanceId"])
    completed(lab, member["InstanceId"], "ABANDON")
    (after,) = lab.members
    assert after["InstanceId"] != member["InstanceId"]
    assert lab.state(member["InstanceId"]) == "shutting-down"


@pytest.mark.parametrize("result", ["CONTINUE", "ABANDON"])
def test_a_member_waits_before_it_ends(lab: Lab, result: str) -> None:
    group = lab.group(lab.template(), 2, LifecycleHookSpecificationList=[hook("TERMINATING")])
    for each in group["Instances"]:
        lab.api.running(each["InstanceId"])
    lab.resize(1)
    assert sorted(states(lab)) == ["InService", "Terminating:Wait"]
    (leaving,) = [one["InstanceId"] for one in lab.members if one["LifecycleState"] == "Terminating:Wait"]
    assert (lab.state(leaving), lab.view(leaving).target_lifecycle_state) == ("running", "Terminated")
    completed(lab, leaving, result)
    assert (lab.state(leaving), states(lab)) == ("shutting-down", ["InService"])
    (last,) = lab.members
    lab.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=last["InstanceId"], ShouldDecrementDesiredCapacity=True
    )
    assert (states(lab), lab.described_group()["DesiredCapacity"]) == (["Terminating:Wait"], 0)


def test_nobody_waits_in_a_group_that_is_deleted(lab: Lab) -> None:
    (member,) = lab.group(lab.template(), 1, LifecycleHookSpecificationList=[hook("LAUNCHING")])["Instances"]
    lab.api.running(member["InstanceId"])
    lab.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="group", ForceDelete=True)
    assert lab.state(member["InstanceId"]) == "shutting-down"
    refused("ValidationError", lambda: completed(lab, member["InstanceId"], "CONTINUE"))


@pytest.mark.parametrize(("default", "proceeds"), [("CONTINUE", "CONTINUE"), ("ABANDON", "ABANDON")])
def test_a_hook_that_nobody_answers_ends_with_its_default(default: str, proceeds: str) -> None:
    ended: list[tuple[str, str]] = []
    done = threading.Event()

    def proceed(member: str, result: str) -> None:
        ended.append((member, result))
        done.set()

    actions = LifecycleActions(threading.RLock(), proceed)
    actions.begin("i-1", [SimpleNamespace(name="ready", heartbeat_timeout=0.01, default_result=default)])
    assert done.wait(20)
    assert ended == [("i-1", proceeds)]


def test_the_service_linked_role_is_told(lab: Lab) -> None:
    arn = "arn:aws:iam::123456789012:role/aws-service-role/autoscaling.amazonaws.com/Mine"
    assert lab.group(lab.template(), 0, ServiceLinkedRoleARN=arn)["ServiceLinkedRoleARN"] == arn


def test_deleting_a_group(lab: Lab) -> None:
    group = lab.group(lab.template(), 3)
    refused("ResourceInUse", lab.autoscaling.delete_auto_scaling_group, AutoScalingGroupName="group")
    lab.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="group", ForceDelete=True)
    ended = {entry[1:] for entry in lab.machines.asked if entry[0] == "terminate"}
    assert ended == {(each["InstanceId"], True) for each in group["Instances"]}
    assert lab.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
    refused("ValidationError", lab.autoscaling.delete_auto_scaling_group, AutoScalingGroupName="group")


def test_a_group_whose_template_cannot_be_launched_is_refused(lab: Lab) -> None:
    missing = lab.template(ImageId="ami-00000000000000000")
    message = refused("ValidationError", lambda: lab.group(missing, 1))
    assert "does not exist" in message
    assert lab.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []


def serving(lab: Lab) -> str:
    """Make a group of one, and give its member once it runs and answers."""
    (member,) = lab.group(lab.template(), 1)["Instances"]
    lab.api.running(member["InstanceId"])
    lab.api.reachable(member["InstanceId"], True)
    return str(member["InstanceId"])


def replacement(lab: Lab, member: str) -> str:
    """Give the one member that there is instead of another, which has been terminated."""
    (found,) = lab.members
    assert (found["InstanceId"] != member, found["HealthStatus"]) == (True, "Healthy")
    assert lab.state(member) in ("shutting-down", "terminated")
    return str(found["InstanceId"])


def test_a_member_that_is_stopped_is_replaced(lab: Lab) -> None:
    member = serving(lab)
    lab.halted(member)
    new = replacement(lab, member)
    assert ("terminate", member, False) in lab.machines.asked
    lab.api.terminated(member, None)
    assert replacement(lab, member) == new


def test_a_member_that_goes_by_itself_is_replaced_once_it_has_served(lab: Lab) -> None:
    member = serving(lab)
    lab.api.stopped(member, "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
    member = replacement(lab, member)
    lab.api.running(member)
    lab.api.reachable(member, True)
    lab.api.terminated(member, "the host is gone")
    replacement(lab, member)


def test_a_member_that_is_said_to_be_unhealthy_is_replaced(lab: Lab) -> None:
    member = serving(lab)
    lab.autoscaling.set_instance_health(InstanceId=member, HealthStatus="Unhealthy")
    replacement(lab, member)
    unknown = {"InstanceId": "i-00000000000000000", "HealthStatus": "Unhealthy"}
    refused("ValidationError", lab.autoscaling.set_instance_health, **unknown)


@pytest.mark.parametrize("process", ["HealthCheck", "ReplaceUnhealthy"])
def test_nobody_looks_after_members_while_that_is_suspended(process: str, lab: Lab) -> None:
    member = serving(lab)
    name = {"AutoScalingGroupName": "group", "ScalingProcesses": [process]}
    lab.autoscaling.suspend_processes(**name)
    lab.halted(member)
    (shown,) = lab.members
    assert (shown["InstanceId"], lab.state(member)) == (member, "stopped")
    assert shown["HealthStatus"] == ("Healthy" if process == "HealthCheck" else "Unhealthy")
    lab.autoscaling.resume_processes(**name)
    replacement(lab, member)


def test_members_of_a_deleted_group_are_not_replaced(lab: Lab) -> None:
    member = serving(lab)
    lab.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="group", ForceDelete=True)
    lab.api.terminated(member, None)
    assert [entry[1] for entry in lab.machines.asked if entry[0] == "launch"] == [member]


def test_a_member_that_never_served_is_unhealthy_and_not_replaced(lab: Lab) -> None:
    (member,) = lab.group(lab.template(), 1)["Instances"]
    lab.api.terminated(member["InstanceId"], "no init")
    (shown,) = lab.members
    assert (shown["InstanceId"], shown["HealthStatus"]) == (member["InstanceId"], "Unhealthy")


def test_groups_are_spread_over_zones_before_subnets() -> None:
    places = [ZoneSubnet("subnet-a1", "a"), ZoneSubnet("subnet-a2", "a"), ZoneSubnet("subnet-b", "b")]
    assert spread(4, places, []) == {"subnet-a1": 1, "subnet-b": 2, "subnet-a2": 1}
    assert spread(2, places, [ZoneSubnet("subnet-a1", "a")] * 3) == {"subnet-b": 2}


def test_groups_shrink_evenly_and_spare_the_protected() -> None:
    assert surplus(2, ["a", "a", "a", "b"], [False] * 4) == [0, 1]
    assert surplus(3, ["a", "b", "b"], [True, False, True]) == [1]
    assert surplus(2, ["a", "a", "b", "b"], [False] * 4, newest=True) == [3, 1]
