"""What there is of a run: its resources by tag, or one by its name if it bears the tag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nomad_testkit.deploy.refusals import REFUSALS, is_not_found
from nomad_testkit.modules.steps import (
    AUTO_SCALING_GROUP,
    IMAGE,
    INSTANCE,
    INSTANCE_PROFILE,
    KEY_PAIR,
    LAUNCH_TEMPLATE,
    ROLE,
    RUN_TAG,
    SECURITY_GROUP,
    SNAPSHOT,
    VOLUME,
    checked_run_id,
)

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_iam import IAMClient

_NOT_TERMINATED = ["pending", "running", "shutting-down", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource that bears the run's tag; `id` is what its deletion takes."""

    kind: str
    name: str
    id: str
    state: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.id == self.name else f"{self.kind} {self.name} ({self.id})"


class Inventory:
    """Looks at an account with the eyes of one run."""

    def __init__(self, ec2: EC2Client, autoscaling: AutoScalingClient, iam: IAMClient, run_id: str) -> None:
        self._ec2, self._autoscaling, self._iam, self._run_id = ec2, autoscaling, iam, run_id
        self._tag = {"Name": f"tag:{RUN_TAG}", "Values": [checked_run_id(run_id)]}

    def tagged(self, kind: str) -> list[Resource]:
        """List the resources of one kind that bear the tag; instances only until they are terminated.

        Roles and instance profiles cannot be asked for by tag: those are looked at whose names end in the run's id.
        Raises what boto3 raises.
        """
        looks: dict[str, Callable[[Sequence[dict[str, Any]]], Iterator[Resource]]] = {
            AUTO_SCALING_GROUP: self._auto_scaling_groups,
            INSTANCE: self._instances,
            LAUNCH_TEMPLATE: self._launch_templates,
            KEY_PAIR: self._key_pairs,
            VOLUME: self._volumes,
            SECURITY_GROUP: self._security_groups,
            IMAGE: self._images,
            SNAPSHOT: self._snapshots,
        }
        if kind in looks:
            return list(looks[kind]([self._tag]))
        return list(self._roles() if kind == ROLE else self._profiles())

    def everything(self) -> list[Resource]:
        """List all that bears the tag. Raises what boto3 raises."""
        kinds = (
            AUTO_SCALING_GROUP,
            INSTANCE,
            VOLUME,
            LAUNCH_TEMPLATE,
            INSTANCE_PROFILE,
            ROLE,
            SECURITY_GROUP,
            KEY_PAIR,
            IMAGE,
            SNAPSHOT,
        )
        return [resource for kind in kinds for resource in self.tagged(kind)]

    def named(self, kind: str, name: str) -> list[Resource]:
        """Find one resource by its name, if it is there and bears the tag. Raises what boto3 raises."""
        try:
            return [one for one, tags in self._by_name(kind, name) if tags.get(RUN_TAG) == self._run_id]
        except REFUSALS as error:
            if is_not_found(error):
                return []
            raise

    def _by_name(self, kind: str, name: str) -> Iterator[tuple[Resource, Mapping[str, str]]]:
        if kind == AUTO_SCALING_GROUP:
            answer = self._autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
            for group in answer["AutoScalingGroups"]:
                yield Resource(kind, name, name), _tags(group.get("Tags", ()))
        elif kind == LAUNCH_TEMPLATE:
            templates = self._ec2.describe_launch_templates(LaunchTemplateNames=[name])["LaunchTemplates"]
            for template in templates:
                yield Resource(kind, name, template["LaunchTemplateId"]), _tags(template.get("Tags", ()))
        elif kind == KEY_PAIR:
            for key_pair in self._ec2.describe_key_pairs(KeyNames=[name])["KeyPairs"]:
                yield Resource(kind, name, name), _tags(key_pair.get("Tags", ()))
        elif kind == SECURITY_GROUP:
            filters: Any = [{"Name": "group-name", "Values": [name]}]
            groups = self._ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
            for one in groups:
                yield Resource(kind, name, one["GroupId"]), _tags(one.get("Tags", ()))
        elif kind == ROLE:
            yield Resource(kind, name, name), _tags(self._iam.list_role_tags(RoleName=name)["Tags"])
        elif kind == INSTANCE_PROFILE:
            profile = self._iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
            yield Resource(kind, name, name), _tags(profile.get("Tags", ()))

    def _auto_scaling_groups(self, filters: Any) -> Iterator[Resource]:
        for page in self._autoscaling.get_paginator("describe_auto_scaling_groups").paginate(Filters=filters):
            for group in page["AutoScalingGroups"]:
                name = group["AutoScalingGroupName"]
                yield Resource(AUTO_SCALING_GROUP, name, name, group.get("Status", ""))

    def _instances(self, filters: Any) -> Iterator[Resource]:
        state: Any = {"Name": "instance-state-name", "Values": _NOT_TERMINATED}
        for page in self._ec2.get_paginator("describe_instances").paginate(Filters=[*filters, state]):
            for reservation in page["Reservations"]:
                for one in reservation.get("Instances", ()):
                    yield Resource(INSTANCE, one["InstanceId"], one["InstanceId"], one["State"]["Name"])

    def _launch_templates(self, filters: Any) -> Iterator[Resource]:
        for page in self._ec2.get_paginator("describe_launch_templates").paginate(Filters=filters):
            for one in page["LaunchTemplates"]:
                yield Resource(LAUNCH_TEMPLATE, one["LaunchTemplateName"], one["LaunchTemplateId"])

    def _key_pairs(self, filters: Any) -> Iterator[Resource]:
        for one in self._ec2.describe_key_pairs(Filters=filters)["KeyPairs"]:
            yield Resource(KEY_PAIR, one["KeyName"], one["KeyName"])

    def _volumes(self, filters: Any) -> Iterator[Resource]:
        # One that is attached goes with its instance, or is found when that has ended.
        status: Any = {"Name": "status", "Values": ["available", "error"]}
        for page in self._ec2.get_paginator("describe_volumes").paginate(Filters=[*filters, status]):
            for one in page["Volumes"]:
                yield Resource(VOLUME, one["VolumeId"], one["VolumeId"], one.get("State", ""))

    def _security_groups(self, filters: Any) -> Iterator[Resource]:
        for page in self._ec2.get_paginator("describe_security_groups").paginate(Filters=filters):
            for one in page["SecurityGroups"]:
                yield Resource(SECURITY_GROUP, one["GroupName"], one["GroupId"])

    def _images(self, filters: Any) -> Iterator[Resource]:
        # Packer tags an image when it is made, so one that lacks the tags is known by the run's id in its name.
        named: Any = [{"Name": "name", "Values": [f"*-{self._run_id}-*"]}]
        found = {}
        for some in (filters, named):
            for one in self._ec2.describe_images(Owners=["self"], Filters=some)["Images"]:
                found[one["ImageId"]] = Resource(IMAGE, one.get("Name", ""), one["ImageId"], one.get("State", ""))
        yield from found.values()

    def _snapshots(self, filters: Any) -> Iterator[Resource]:
        for page in self._ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=filters):
            for one in page["Snapshots"]:
                yield Resource(SNAPSHOT, one["SnapshotId"], one["SnapshotId"], one.get("State", ""))

    def _roles(self) -> Iterator[Resource]:
        for page in self._iam.get_paginator("list_roles").paginate():
            for one in page["Roles"]:
                if one["RoleName"].endswith(f"-{self._run_id}"):
                    yield from self.named(ROLE, one["RoleName"])

    def _profiles(self) -> Iterator[Resource]:
        for page in self._iam.get_paginator("list_instance_profiles").paginate():
            for one in page["InstanceProfiles"]:
                if one["InstanceProfileName"].endswith(f"-{self._run_id}"):
                    yield from self.named(INSTANCE_PROFILE, one["InstanceProfileName"])


def _tags(tags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {str(tag.get("Key", "")): str(tag.get("Value", "")) for tag in tags}
