"""Find the resources of one run, or of all runs, by tag; or one resource by name if it bears the tag."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

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
from nomad_testkit.runs.expiry import expiry_of
from nomad_testkit.targets.aws.errors import AWS_ERRORS, is_not_found

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_iam import IAMClient

_NOT_TERMINATED = ["pending", "running", "shutting-down", "stopping", "stopped"]


_RUN_NAME = re.compile(r".*-nt-[0-9]{8}-[0-9a-f]{6}")


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource that bears the run's tag; `id` is the identifier that deletes it."""

    kind: str
    name: str
    id: str
    state: str = ""
    run_id: str = field(default="", compare=False)
    """The value of its tag nomad-testkit-run."""
    created: datetime | None = field(default=None, compare=False)
    """When AWS created it; None for kinds without a creation time in AWS's response."""
    expires: datetime | None = field(default=None, compare=False)
    """The time in its tag nomad-testkit-expires; None without that tag."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.id == self.name else f"{self.kind} {self.name} ({self.id})"


class Inventory:
    """Lists the resources of one run in an account; of all runs if `run_id` is None.

    With `untagged_images` an AMI without the tag counts too if its name contains the run's id: Packer leaves one if it
    is killed between two calls.
    """

    def __init__(
        self,
        ec2: EC2Client,
        autoscaling: AutoScalingClient,
        iam: IAMClient,
        run_id: str | None,
        *,
        untagged_images: bool = False,
    ) -> None:
        self._ec2, self._autoscaling, self._iam, self._run_id = ec2, autoscaling, iam, run_id
        self._untagged_images = untagged_images
        # IAM cannot filter by tag and throttles early: list once, then read the matches by name.
        self._listed: dict[str, dict[str, datetime]] = {}
        self._tag = (
            {"Name": "tag-key", "Values": [RUN_TAG]}
            if run_id is None
            else {"Name": f"tag:{RUN_TAG}", "Values": [checked_run_id(run_id)]}
        )

    def tagged(self, kind: str) -> list[Resource]:
        """List the resources of one kind that bear the tag; instances only until they are terminated.

        IAM has no filter by tag: of roles and instance profiles, those whose names end in a run's id are read.
        Raise boto3's errors unchanged.
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
        """List all resources that bear the tag. Raise boto3's errors unchanged."""
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
        """Find one resource by name, if it exists and bears the tag. Raise boto3's errors unchanged."""
        try:
            return [one for one in self._by_name(kind, name) if one.run_id and self._run_id in (None, one.run_id)]
        except AWS_ERRORS as error:
            if is_not_found(error):
                return []
            raise

    def _by_name(self, kind: str, name: str) -> Iterator[Resource]:
        if kind == AUTO_SCALING_GROUP:
            answer = self._autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
            yield from (_group(one) for one in answer["AutoScalingGroups"])
        elif kind == LAUNCH_TEMPLATE:
            templates = self._ec2.describe_launch_templates(LaunchTemplateNames=[name])["LaunchTemplates"]
            yield from (_launch_template(one) for one in templates)
        elif kind == KEY_PAIR:
            yield from (_key_pair(one) for one in self._ec2.describe_key_pairs(KeyNames=[name])["KeyPairs"])
        elif kind == SECURITY_GROUP:
            filters: Any = [{"Name": "group-name", "Values": [name]}]
            groups = self._ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
            yield from (_security_group(one) for one in groups)
        elif kind == ROLE:
            yield _resource(ROLE, name, name, self._iam.list_role_tags(RoleName=name)["Tags"], None)
        elif kind == INSTANCE_PROFILE:
            profile = self._iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
            yield _resource(kind, name, name, profile.get("Tags", ()), profile.get("CreateDate"))

    def _auto_scaling_groups(self, filters: Any) -> Iterator[Resource]:
        for page in self._autoscaling.get_paginator("describe_auto_scaling_groups").paginate(Filters=filters):
            yield from (_group(one) for one in page["AutoScalingGroups"])

    def _instances(self, filters: Any) -> Iterator[Resource]:
        state: Any = {"Name": "instance-state-name", "Values": _NOT_TERMINATED}
        for page in self._ec2.get_paginator("describe_instances").paginate(Filters=[*filters, state]):
            for reservation in page["Reservations"]:
                for one in reservation.get("Instances", ()):
                    name, launched = one["InstanceId"], one.get("LaunchTime")
                    yield _resource(INSTANCE, name, name, one.get("Tags", ()), launched, one["State"]["Name"])

    def _launch_templates(self, filters: Any) -> Iterator[Resource]:
        for page in self._ec2.get_paginator("describe_launch_templates").paginate(Filters=filters):
            yield from (_launch_template(one) for one in page["LaunchTemplates"])

    def _key_pairs(self, filters: Any) -> Iterator[Resource]:
        yield from (_key_pair(one) for one in self._ec2.describe_key_pairs(Filters=filters)["KeyPairs"])

    def _volumes(self, filters: Any) -> Iterator[Resource]:
        # An attached volume is deleted with its instance, or found once the instance has ended.
        status: Any = {"Name": "status", "Values": ["available", "error"]}
        for page in self._ec2.get_paginator("describe_volumes").paginate(Filters=[*filters, status]):
            for one in page["Volumes"]:
                name, state = one["VolumeId"], one.get("State", "")
                yield _resource(VOLUME, name, name, one.get("Tags", ()), one.get("CreateTime"), state)

    def _security_groups(self, filters: Any) -> Iterator[Resource]:
        for page in self._ec2.get_paginator("describe_security_groups").paginate(Filters=filters):
            yield from (_security_group(one) for one in page["SecurityGroups"])

    def _images(self, filters: Any) -> Iterator[Resource]:
        asked = [filters]
        if self._untagged_images:
            asked.append([{"Name": "name", "Values": [f"*-{self._run_id}-*"]}])
        found = {}
        for some in asked:
            for one in self._ec2.describe_images(Owners=["self"], Filters=some)["Images"]:
                made = one.get("CreationDate")
                found[one["ImageId"]] = _resource(
                    IMAGE,
                    one.get("Name", ""),
                    one["ImageId"],
                    one.get("Tags", ()),
                    datetime.fromisoformat(made) if made else None,
                    one.get("State", ""),
                )
        yield from found.values()

    def _snapshots(self, filters: Any) -> Iterator[Resource]:
        for page in self._ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=filters):
            for one in page["Snapshots"]:
                name, state = one["SnapshotId"], one.get("State", "")
                yield _resource(SNAPSHOT, name, name, one.get("Tags", ()), one.get("StartTime"), state)

    def look_anew(self) -> None:
        """Make the next call list all roles and instance profiles again, not only the known ones."""
        self._listed.clear()

    def _roles(self) -> Iterator[Resource]:
        if ROLE not in self._listed:
            pages = self._iam.get_paginator("list_roles").paginate()
            names = {one["RoleName"]: one["CreateDate"] for page in pages for one in page["Roles"]}
            self._listed[ROLE] = {name: made for name, made in names.items() if self._belongs_to_run(name)}
        for name, made in self._listed[ROLE].items():
            for role in self.named(ROLE, name):
                yield replace(role, created=made)

    def _profiles(self) -> Iterator[Resource]:
        if INSTANCE_PROFILE not in self._listed:
            pages = self._iam.get_paginator("list_instance_profiles").paginate()
            names = {
                one["InstanceProfileName"]: one["CreateDate"] for page in pages for one in page["InstanceProfiles"]
            }
            self._listed[INSTANCE_PROFILE] = {name: made for name, made in names.items() if self._belongs_to_run(name)}
        for name in self._listed[INSTANCE_PROFILE]:
            yield from self.named(INSTANCE_PROFILE, name)

    def _belongs_to_run(self, name: str) -> bool:
        return bool(_RUN_NAME.fullmatch(name)) if self._run_id is None else name.endswith(f"-{self._run_id}")


def _group(facts: Mapping[str, Any]) -> Resource:
    name, state = facts["AutoScalingGroupName"], facts.get("Status", "")
    return _resource(AUTO_SCALING_GROUP, name, name, facts.get("Tags", ()), facts.get("CreatedTime"), state)


def _launch_template(facts: Mapping[str, Any]) -> Resource:
    name, identity, made = facts["LaunchTemplateName"], facts["LaunchTemplateId"], facts.get("CreateTime")
    return _resource(LAUNCH_TEMPLATE, name, identity, facts.get("Tags", ()), made)


def _key_pair(facts: Mapping[str, Any]) -> Resource:
    name = facts["KeyName"]
    return _resource(KEY_PAIR, name, name, facts.get("Tags", ()), facts.get("CreateTime"))


def _security_group(facts: Mapping[str, Any]) -> Resource:
    return _resource(SECURITY_GROUP, facts["GroupName"], facts["GroupId"], facts.get("Tags", ()), None)


def _resource(
    kind: str, name: str, id: str, tags: Iterable[Mapping[str, Any]], created: datetime | None, state: str = ""
) -> Resource:
    tags = list(tags)
    run_id = next((str(tag.get("Value", "")) for tag in tags if tag.get("Key") == RUN_TAG), "")
    return Resource(kind, name, id, state, run_id, created, expiry_of(tags))
