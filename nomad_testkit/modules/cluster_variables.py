"""The variables that consul-cluster and nomad-cluster share, and what they may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from nomad_testkit.modules.cluster_tables import EbsBlockDevice, Fault, LifecycleHook, Tag
from nomad_testkit.modules.security_group_rules import Port
from nomad_testkit.modules.steps import GROUP_TAG, RUN_ID_LENGTH, RUN_TAG
from nomad_testkit.modules.user_data import user_data_fault

ANYWHERE = ("0.0.0.0/0",)
NAME_LENGTH = 64 - 1 - RUN_ID_LENGTH
"""How long a cluster's name may be: every name ends in the run's id, and the shortest limit is that of a role, 64
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html); an instance profile and a launch
template may have 128 characters, a security group and an auto scaling group 255."""
USER_DATA_BYTES = 16_384
"""The limit before base64 (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html)."""
ROOT_VOLUME_TYPES = ("standard", "gp2", "gp3", "io1", "io2")
"""Throughput-optimised and cold volumes cannot be booted from."""
TERMINATION_POLICIES = (
    "Default",
    "AllocationStrategy",
    "ClosestToNextInstanceHour",
    "NewestInstance",
    "OldestInstance",
    "OldestLaunchConfiguration",
    "OldestLaunchTemplate",
)
"""https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-termination-policies.html"""
_WORDS: Mapping[str, tuple[str, ...]] = {
    "health_check_type": ("EC2", "ELB"),
    "tenancy": ("", "default", "dedicated", "host"),
    "metadata_http_tokens": ("optional", "required"),
}


@dataclass(frozen=True, kw_only=True)
class ClusterModule:
    """The variables that both modules have, under upstream's names; what is left empty is filled in at placement.

    Some of them upstream gives to one of its modules alone. Two are only passed to the API by the embedded EC2, which
    can do nothing about them: `tenancy` and the sum in `spot_price`.
    """

    cluster_name: str
    instance_type: str
    ami_id: str = ""
    vpc_id: str = ""
    user_data: bytes = b""
    """As it is sent, before base64: what an example fills in is in it."""
    subnet_ids: tuple[str, ...] = ()
    availability_zones: tuple[str, ...] = ()
    cluster_tag_key: str
    cluster_tag_value: str = "auto-join"
    asg_name: str = ""
    """The auto scaling group's name before the run's id; empty for the cluster's."""
    tags: tuple[Tag, ...] = ()
    security_group_tags: Mapping[str, str] = field(default_factory=dict)

    allowed_inbound_cidr_blocks: tuple[str, ...]
    allowed_inbound_security_group_ids: tuple[str, ...] = ()
    allow_outbound_cidr_blocks: tuple[str, ...] = ANYWHERE
    ssh_key_name: str = ""
    ssh_port: int = 22
    allowed_ssh_cidr_blocks: tuple[str, ...] = ()
    allowed_ssh_security_group_ids: tuple[str, ...] = ()
    associate_public_ip_address: bool = False

    termination_policies: str | tuple[str, ...] = "Default"
    protect_from_scale_in: bool = False
    lifecycle_hooks: tuple[LifecycleHook, ...] = ()
    enabled_metrics: tuple[str, ...] = ()
    wait_for_capacity_timeout: str = "10m"
    """How long the group's hosts may take until all of them are up; "0" for as long as the deployment may take."""
    health_check_type: str = "EC2"
    health_check_grace_period: int = 300
    """In seconds."""
    service_linked_role_arn: str = ""
    tenancy: str = "default"
    spot_price: float = 0.0
    """The most that an hour may cost, in US dollars; 0 for on-demand instances."""

    root_volume_type: str = "standard"
    root_volume_size: int = 50
    """In GiB."""
    root_volume_iops: int = 0
    """Ours, not upstream's: a volume of type io1 or io2 needs it."""
    root_volume_ebs_optimized: bool = False
    root_volume_delete_on_termination: bool = True
    root_volume_encrypted: bool = False
    ebs_block_devices: tuple[EbsBlockDevice, ...] = ()

    enable_iam_setup: bool = True
    iam_instance_profile_name: str = ""
    """Used where `enable_iam_setup` is false; it is never destroyed."""
    iam_permissions_boundary: str = ""
    instance_profile_path: str = "/"

    metadata_http_tokens: str = "optional"
    """Ours, not upstream's: ``required`` closes the first version of the instance metadata service."""

    policies: ClassVar[Mapping[str, str]] = {}
    """The role's policies by name, before an example adds to them."""
    size_input: ClassVar[str]
    """The variable that says how many instances there are."""
    security_groups_input: ClassVar[str]
    """The variable that names security groups that the instances are in besides the module's own."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The smallest, the greatest and the desired number of instances."""
        raise NotImplementedError

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports that the module itself opens to `allowed_inbound_...`."""
        raise NotImplementedError

    @property
    def more_security_groups(self) -> tuple[str, ...]:
        """What `security_groups_input` holds."""
        groups: tuple[str, ...] = getattr(self, self.security_groups_input)
        return groups

    @property
    def capacity_seconds(self) -> float | None:
        """How long the group's hosts may take until all of them are up; None where there is no limit of its own."""
        return _duration(self.wait_for_capacity_timeout) or None

    @property
    def chosen_termination_policies(self) -> tuple[str, ...]:
        """The termination policies in their order."""
        chosen = self.termination_policies
        return (chosen,) if isinstance(chosen, str) else chosen

    def faults(self) -> Iterator[Fault]:
        """Tell which inputs AWS would refuse, or make something else of: the input, what was found, what is right."""
        for key in ("cluster_name", "asg_name"):
            if (name := getattr(self, key)) or key == "cluster_name":
                yield from _name_faults(key, name)
        size = len(self.user_data)
        if size > USER_DATA_BYTES:
            yield "user_data", f"{size} bytes", f"at most {USER_DATA_BYTES}, AWS's limit before base64"
        if fault := user_data_fault(self.user_data):
            yield fault
        smallest, greatest, desired = self.sizes
        if not 0 <= smallest <= desired <= greatest:
            sizes = f"{smallest}, {desired} and {greatest}"
            yield (
                "min_size",
                sizes,
                "0 <= min_size <= desired_capacity <= max_size (for a consul-cluster: cluster_size)",
            )
        numbers = {item.name: getattr(self, item.name) for item in fields(self) if item.name.endswith("_port")}
        for key, number in numbers.items():
            if not isinstance(number, bool) and not 0 < number < 65536:
                yield key, str(number), "a port from 1 to 65535"
        for key, known in _WORDS.items():
            if (word := getattr(self, key)) not in known:
                yield key, repr(word), f"one of {', '.join(repr(one) for one in known)}"
        yield from self._group_faults()
        yield from self._volume_faults()
        yield from self._profile_faults()

    def _group_faults(self) -> Iterator[Fault]:
        for policy in self.chosen_termination_policies:
            if policy not in TERMINATION_POLICIES and not policy.startswith("arn:"):
                yield (
                    "termination_policies",
                    repr(policy),
                    f"one of {', '.join(TERMINATION_POLICIES)}, or a function's ARN",
                )
        for metric in self.enabled_metrics:
            if not re.fullmatch(r"(Group|WarmPool|GroupAndWarmPool)[A-Z]\w+", metric, re.ASCII):
                yield "enabled_metrics", repr(metric), "a metric of a group, such as GroupInServiceInstances"
        if self.health_check_grace_period < 0:
            yield "health_check_grace_period", str(self.health_check_grace_period), "0 or more seconds"
        if _duration(self.wait_for_capacity_timeout) is None:
            yield "wait_for_capacity_timeout", repr(self.wait_for_capacity_timeout), 'a time such as "10m", or "0"'
        if self.spot_price < 0:
            yield "spot_price", str(self.spot_price), "the most that an hour may cost, or 0 for on-demand instances"
        reserved = {"Name", self.cluster_tag_key, RUN_TAG, GROUP_TAG}
        for number, tag in enumerate(self.tags):
            if tag.key in reserved:
                yield f"tags[{number}].key", repr(tag.key), "another key: every deployment gives this one by itself"
            reserved.add(tag.key)
        for name in ("tags", "lifecycle_hooks", "ebs_block_devices"):
            for number, table in enumerate(getattr(self, name)):
                for key, found, right in table.faults():
                    yield f"{name}[{number}].{key}", found, right

    def _volume_faults(self) -> Iterator[Fault]:
        if self.root_volume_type not in ROOT_VOLUME_TYPES:
            yield "root_volume_type", repr(self.root_volume_type), f"one of {', '.join(ROOT_VOLUME_TYPES)}"
        if self.root_volume_size < 1:
            yield "root_volume_size", str(self.root_volume_size), "a size in GiB"
        if self.root_volume_type.startswith("io") and self.root_volume_iops < 1:
            found = f"{self.root_volume_iops} with root_volume_type = {self.root_volume_type!r}"
            yield "root_volume_iops", found, "a number, which a volume of this type needs"

    def _profile_faults(self) -> Iterator[Fault]:
        if self.enable_iam_setup == bool(self.iam_instance_profile_name):
            found = f"{self.iam_instance_profile_name!r} with enable_iam_setup = {str(self.enable_iam_setup).lower()}"
            right = "a name where enable_iam_setup is false, and none where it is true"
            yield "iam_instance_profile_name", found, right
        path = self.instance_profile_path
        if not re.fullmatch(r"/([!-~]{1,510}/)?", path):
            yield "instance_profile_path", repr(path), 'a path that begins and ends with /, such as "/testing/"'
        boundary = self.iam_permissions_boundary
        if boundary and not re.fullmatch(r"arn:[a-z0-9-]+:iam::([0-9]*|aws):policy/.+", boundary):
            yield "iam_permissions_boundary", repr(boundary), "the ARN of a policy, such as arn:aws:iam::1:policy/edge"


def _duration(text: str) -> float | None:
    """Give the seconds of a time as Go writes it; None if it cannot be read.

    >>> _duration("1h30m"), _duration("0"), _duration("soon")
    (5400.0, 0.0, None)
    """
    if text == "0":
        return 0.0
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+", text):
        return None
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", text))


def _name_faults(key: str, name: str) -> Iterator[Fault]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name.startswith("sg-"):
        yield (
            key,
            repr(_shortened(name)),
            "letters, digits, -, _ and . only, beginning with a letter or digit and not with sg-",
        )
    if len(name) > NAME_LENGTH:
        right = (
            f"at most {NAME_LENGTH}, {len(name) - NAME_LENGTH} fewer: with the run's id of up to {RUN_ID_LENGTH} "
            "characters it makes the name of an IAM role, which AWS limits to 64"
        )
        yield key, f"{_shortened(name)!r}, {len(name)} characters", right


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
