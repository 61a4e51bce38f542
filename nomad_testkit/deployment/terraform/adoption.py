"""Find hosts that Terraform created, by auto scaling group or by tag, and add the run's tags to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import BrokenError, DeployError, WaitTimeout
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG, tag_list
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error, looked
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.examples.cluster_outputs import GroupOutputs
    from nomad_testkit.targets.base import Target

INTERVAL = 1.0
"""Seconds between two polls of a group that is still growing."""


def adopt(
    groups: Iterable[GroupOutputs],
    outputs: Mapping[str, Any],
    *,
    run_id: str,
    target: Target,
    tags: Mapping[str, str],
    deadline: Deadline,
) -> dict[str, int]:
    """Tag the hosts of each group, and its auto scaling group, with the run's tags; return the hosts by group.

    An auto scaling group propagates the tags to hosts that it launches later. Raise DeployError if a group does not
    exist, if its hosts do not appear, or if AWS refuses a call.
    """
    counts = {}
    for one in groups:
        own = {**tags, RUN_TAG: run_id, GROUP_TAG: one.group}
        try:
            counts[one.group] = _Group(one, outputs, own, target, deadline).adopt()
        except AWS_ERRORS as error:
            raise DeployError(
                f"the hosts of the group {one.group} could not be found or tagged: {describe_error(error)}"
            ) from error
    return counts


class _Group:
    def __init__(
        self, one: GroupOutputs, outputs: Mapping[str, Any], tags: Mapping[str, str], target: Target, deadline: Deadline
    ) -> None:
        self.one, self.outputs, self.tags, self.target, self.deadline = one, outputs, tags, target, deadline
        self.ec2, self.autoscaling = target.client("ec2"), target.client("autoscaling")
        self.tagged: set[str] = set()

    def adopt(self) -> int:
        if self.one.asg_name:
            name = str(self.outputs[self.one.asg_name])
            wanted = int(self.described(name)["DesiredCapacity"])
            # Tag the group first, so that it launches tagged hosts from now on.
            marks = {"ResourceId": name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
            self.autoscaling.create_or_update_tags(Tags=[{**marks, **tag} for tag in tag_list(self.tags)])
            where = f"auto scaling group {name}"
        else:
            key, value = str(self.outputs[self.one.tag_key]), str(self.outputs[self.one.tag_value])
            wanted, name = int(self.outputs[self.one.num]), ""
            where = f"tag {key} = {value}"

        def probe() -> Ok[int] | Pending:
            found = self.of_group(name) if name else self.of_tag(key, value)
            if new := [instance for instance in found if instance not in self.tagged]:
                self.ec2.create_tags(Resources=new, Tags=tag_list(self.tags))
                self.tagged.update(new)
            return Ok(wanted) if len(found) >= wanted else Pending(f"{len(found)} of {wanted}")

        try:
            return wait_until(
                f"the hosts of the {where}", lambda: looked(probe), deadline=self.deadline, interval=INTERVAL
            )
        except (WaitTimeout, BrokenError) as error:
            raise DeployError(f"{error}; see the scaling activities of the group") from error

    def described(self, name: str) -> Mapping[str, Any]:
        answer = self.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        if answer:
            found: Mapping[str, Any] = answer[0]
            return found
        pages = self.autoscaling.get_paginator("describe_auto_scaling_groups").paginate()
        there = sorted(group["AutoScalingGroupName"] for page in pages for group in page["AutoScalingGroups"])
        raise DeployError(
            f"the output {self.one.asg_name} is {name!r}, which is no auto scaling group in {self.target.region}; "
            f"expected one of: {', '.join(there[:10]) or 'none exists'}"
        )

    def of_group(self, name: str) -> Sequence[str]:
        ending = ("Terminating", "Terminated")
        return [
            instance["InstanceId"]
            for instance in self.described(name)["Instances"]
            if not instance["LifecycleState"].startswith(ending)
        ]

    def of_tag(self, key: str, value: str) -> Sequence[str]:
        filters = [
            {"Name": f"tag:{key}", "Values": [value]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return [
            one["InstanceId"]
            for page in pages
            for reservation in page["Reservations"]
            for one in reservation["Instances"]
        ]
