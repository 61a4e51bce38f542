"""What the AWS provider would do for main.tf: create the resources of one group, or destroy those of all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nomad_testkit import Example
from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.plan import plan
from nomad_testkit.deployment.preflight import survey
from nomad_testkit.modules.network import Network
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG
from nomad_testkit.runs.journal import Entry, Journal
from nomad_testkit.targets.aws import account
from nomad_testkit.targets.aws.errors import AWS_ERRORS, code_of, is_not_found
from nomad_testkit.targets.base import default_network
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

NAME = "tf"
"""What all names end in, in the place of a run's id."""
REGION = os.environ["AWS_REGION"]
CLIENT = account.clients(REGION, endpoint_url=os.environ["AWS_ENDPOINT_URL"])
JOURNAL = Journal(Path("cluster.jsonl").absolute())


@dataclass(frozen=True)
class Place:
    """As much of a target as `survey` needs."""

    ami_id: str
    name: str = "embedded"
    region: str = REGION
    own_image: str = ""

    def client(self, service: str) -> Any:
        return CLIENT(service)

    def network(self) -> Network:
        return default_network(CLIENT("ec2"))

    def image(self, example: Example) -> str:
        return self.ami_id

    def most_hosts(self) -> None:
        return None


def create(group: str, cluster: Mapping[str, Any]) -> None:
    inbound, key_name = cluster["allowed_inbound_cidr_blocks"], cluster["ssh_key_name"]
    names = ("ami_id", "cluster_name", "num_servers", "num_clients", "cluster_tag_key", "cluster_tag_value")
    example = Example.load("nomad-consul-colocated-cluster").replace(**{name: cluster[name] for name in names})
    place: Any = Place(cluster["ami_id"], own_image=cluster["ami_id"])
    whole = plan(
        example,
        run_id=NAME,
        region=REGION,
        placements=survey(example, place),
        public_key="",
        inbound_cidrs=inbound,
    )
    own = [
        replace(step, arguments=bare(step.arguments, key_name))
        for step in whole.steps
        if step.name.startswith(f"{group}:")
    ]
    apply(replace(whole, steps=tuple(own), outputs={}), CLIENT, JOURNAL)


def bare(value: Any, key_name: str) -> Any:
    """Take the tags of nomad_testkit away, and put the user's key pair in the place of the run's."""
    if isinstance(value, Mapping):
        return {key: key_name if key == "KeyName" else bare(item, key_name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        tags = (RUN_TAG, GROUP_TAG)
        return [bare(item, key_name) for item in value if not (isinstance(item, Mapping) and item.get("Key") in tags)]
    return value


def destroy() -> None:
    for entry in reversed(JOURNAL.left()):
        try:
            DELETE[entry.kind](entry)
        except AWS_ERRORS as error:
            if not is_not_found(error):
                raise
        JOURNAL.destroyed(entry.kind, entry.id or entry.name)


def delete_group(entry: Entry) -> None:
    name, autoscaling, ec2 = entry.name, CLIENT("autoscaling"), CLIENT("ec2")
    groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    if not groups:
        return
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
    filters = [
        {"Name": "tag:aws:autoscaling:groupName", "Values": [name]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "shutting-down", "stopping", "stopped"]},
    ]

    def probe() -> Ok[None] | Pending:
        found = ec2.describe_instances(Filters=filters)["Reservations"]
        return Pending(f"{len(found)} are left") if found else Ok(None)

    wait_until(f"the end of the hosts of {name}", probe, deadline=Deadline.after(100))


def delete_role(entry: Entry) -> None:
    iam = CLIENT("iam")
    for name in iam.list_role_policies(RoleName=entry.name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=entry.name, PolicyName=name)
    iam.delete_role(RoleName=entry.name)


def delete_profile(entry: Entry) -> None:
    iam = CLIENT("iam")
    iam.remove_role_from_instance_profile(InstanceProfileName=entry.name, RoleName=entry.name)
    iam.delete_instance_profile(InstanceProfileName=entry.name)


def delete_security_group(entry: Entry) -> None:
    ec2 = CLIENT("ec2")
    filters = [{"Name": "group-name", "Values": [entry.name]}]

    def probe() -> Ok[None] | Pending:
        try:
            for group in ec2.describe_security_groups(Filters=filters)["SecurityGroups"]:
                ec2.delete_security_group(GroupId=group["GroupId"])
        except AWS_ERRORS as error:
            if code_of(error) != "DependencyViolation":
                raise
            return Pending(str(error))
        return Ok(None)

    wait_until(f"the end of {entry.name}", probe, deadline=Deadline.after(60))


DELETE = {
    "auto scaling group": delete_group,
    "launch template": lambda entry: CLIENT("ec2").delete_launch_template(LaunchTemplateName=entry.name),
    "instance profile": delete_profile,
    "IAM role": delete_role,
    "security group": delete_security_group,
}

if __name__ == "__main__":
    if sys.argv[1] == "create":
        create(sys.argv[2], json.loads(os.environ["CLUSTER"]))
    else:
        destroy()
