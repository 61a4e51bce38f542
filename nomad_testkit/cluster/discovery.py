"""Finding a run's instances by their tags."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nomad_testkit.modules.network import Instance
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG, checked_run_id
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client

logger = logging.getLogger(__name__)


def instances(client: Callable[[str], Any], run_id: str, *, terminated: bool = False) -> list[Instance]:
    """Find the instances of a run (DescribeInstances), those that are terminated too where asked.

    One that was just launched may not bear its tags yet, and is then not among them.
    """
    ec2: EC2Client = client("ec2")
    states = ["pending", "running", "shutting-down", "stopping", "stopped"] + ["terminated"] * terminated
    filters = [
        {"Name": f"tag:{RUN_TAG}", "Values": [checked_run_id(run_id)]},
        {"Name": "instance-state-name", "Values": states},
    ]
    found = []
    for page in ec2.get_paginator("describe_instances").paginate(Filters=filters):  # type: ignore[arg-type]
        for reservation in page["Reservations"]:
            for facts in reservation.get("Instances", ()):
                tags = {tag["Key"]: tag["Value"] for tag in facts.get("Tags", ())}
                found.append(
                    Instance(
                        instance_id=facts["InstanceId"],
                        group=tags.get(GROUP_TAG, ""),
                        state=facts["State"]["Name"],
                        private_ip=facts.get("PrivateIpAddress", ""),
                        public_ip=facts.get("PublicIpAddress", ""),
                        availability_zone=facts.get("Placement", {}).get("AvailabilityZone", ""),
                        image_id=facts.get("ImageId", ""),
                    )
                )
    return sorted(found, key=lambda one: (one.group, one.instance_id))


def group_names(instances: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Name instances, of which their ids and groups are given, after their group and their place in it.

    >>> group_names([("i-1", "clients"), ("i-2", "servers"), ("i-3", "servers")])
    {'i-1': 'clients-0', 'i-2': 'servers-0', 'i-3': 'servers-1'}
    """
    counts: dict[str, int] = {}
    names = {}
    for instance_id, group in instances:
        names[instance_id] = f"{group}-{counts.get(group, 0)}"
        counts[group] = counts.get(group, 0) + 1
    return names


def scaling_activities(client: Callable[[str], Any], run_id: str, group: str) -> str:
    """Tell what the auto scaling group of one of the example's groups has failed in; empty where in nothing.

    It goes into an error, and so raises none.
    """
    try:
        failed = _failed_activities(client, run_id, group)
    except AWS_ERRORS as error:
        logger.warning("the scaling activities of %s in %s: %s", group, run_id, describe_error(error))
        return ""
    return "".join(f"; {message}" for message in dict.fromkeys(failed) if message)


def _failed_activities(client: Callable[[str], Any], run_id: str, group: str) -> list[str]:
    autoscaling: AutoScalingClient = client("autoscaling")
    filters = [{"Name": f"tag:{RUN_TAG}", "Values": [checked_run_id(run_id)]}]
    failed: list[str] = []
    for page in autoscaling.get_paginator("describe_auto_scaling_groups").paginate(Filters=filters):  # type: ignore[arg-type]
        for one in page["AutoScalingGroups"]:
            if group not in (tag.get("Value") for tag in one.get("Tags", ()) if tag.get("Key") == GROUP_TAG):
                continue
            name = one["AutoScalingGroupName"]
            activities = autoscaling.describe_scaling_activities(AutoScalingGroupName=name)["Activities"]
            ended = [each for each in activities if each["StatusCode"] in ("Failed", "Cancelled")]
            failed += [each.get("StatusMessage", "") for each in ended]
    return failed
