"""The variables that consul-cluster and nomad-cluster share, and what they may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from nomad_testkit.modules.security_group_rules import Port
from nomad_testkit.modules.steps import RUN_ID_LENGTH

ANYWHERE = ("0.0.0.0/0",)
NAME_LENGTH = 64 - 1 - RUN_ID_LENGTH
"""How long a cluster's name may be: every name ends in the run's id, and the shortest limit is that of a role, 64
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html); an instance profile and a launch
template may have 128 characters, a security group and an auto scaling group 255."""
USER_DATA_BYTES = 16_384
"""The limit before base64 (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html)."""


@dataclass(frozen=True, kw_only=True)
class ClusterModule:
    """The variables that both modules have, under upstream's names; what is left empty is filled in at placement."""

    cluster_name: str
    instance_type: str
    ami_id: str = ""
    vpc_id: str = ""
    user_data: str = ""
    subnet_ids: tuple[str, ...] = ()
    availability_zones: tuple[str, ...] = ()
    cluster_tag_key: str
    cluster_tag_value: str = "auto-join"
    tags: Mapping[str, str] = field(default_factory=dict)

    allowed_inbound_cidr_blocks: tuple[str, ...]
    allowed_inbound_security_group_ids: tuple[str, ...] = ()
    allow_outbound_cidr_blocks: tuple[str, ...] = ANYWHERE
    ssh_key_name: str = ""
    ssh_port: int = 22
    allowed_ssh_cidr_blocks: tuple[str, ...] = ()
    associate_public_ip_address: bool = False

    termination_policies: str = "Default"
    protect_from_scale_in: bool = False
    health_check_type: str = "EC2"
    health_check_grace_period: int = 300
    """In seconds."""
    service_linked_role_arn: str = ""
    tenancy: str = "default"

    root_volume_type: str = "standard"
    root_volume_size: int = 50
    """In GiB."""
    root_volume_ebs_optimized: bool = False
    root_volume_delete_on_termination: bool = True
    root_volume_encrypted: bool = False

    iam_permissions_boundary: str = ""
    instance_profile_path: str = "/"

    metadata_http_tokens: str = "optional"
    """Ours, not upstream's: ``required`` closes the first version of the instance metadata service."""

    policies: ClassVar[Mapping[str, str]] = {}
    """The role's policies by name, before an example adds to them."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The smallest, the greatest and the desired number of instances."""
        raise NotImplementedError

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports that the module itself opens to `allowed_inbound_...`."""
        raise NotImplementedError

    @property
    def ssh_security_groups(self) -> tuple[str, ...]:
        """The security groups whose members may use SSH."""
        return ()

    @property
    def more_security_groups(self) -> tuple[str, ...]:
        """Security groups that the instances are in besides the module's own."""
        return ()

    @property
    def security_group_labels(self) -> Mapping[str, str]:
        """Tags of the security group alone."""
        return {}

    @property
    def instance_profile(self) -> str:
        """An instance profile that exists already; empty where the module makes one."""
        return ""

    @property
    def group_name(self) -> str:
        """The auto scaling group's name before the run's id; empty for the cluster's."""
        return ""

    def faults(self) -> Iterator[tuple[str, str, str]]:
        """Tell which inputs AWS would refuse, or make something else of: the input, what was found, what is right."""
        for key in ("cluster_name", "asg_name"):
            if (name := getattr(self, key, "")) or key == "cluster_name":
                yield from _name_faults(key, name)
        size = len(self.user_data.encode())
        if size > USER_DATA_BYTES:
            yield "user_data", f"{size} bytes", f"at most {USER_DATA_BYTES}, AWS's limit before base64"
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
        if self.metadata_http_tokens not in ("optional", "required"):
            yield "metadata_http_tokens", repr(self.metadata_http_tokens), '"optional" or "required"'


def _name_faults(key: str, name: str) -> Iterator[tuple[str, str, str]]:
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
