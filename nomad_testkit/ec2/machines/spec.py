"""What the cloud's API, its machines and its metadata service tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nomad_testkit.ec2.vpc.security_groups import SecurityGroups


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine needs to know to become an instance."""

    instance_id: str
    image_id: str
    private_ip: str
    subnet_cidr: str
    mac: str
    hostname: str
    """The private DNS name, for example ip-172-31-0-4.ec2.internal."""
    root_volume_gib: int


class MachineEvents(Protocol):
    """How machines tell the API what became of them; safe to call from any thread, and short."""

    def running(self, instance_id: str) -> None:
        """The host's init has started; comes again after each reboot."""

    def stopped(self, instance_id: str, reason: str | None) -> None:
        """The host is down and its disk is kept; a reason ("Code: text") is given where nobody asked for it."""

    def terminated(self, instance_id: str, reason: str | None) -> None:
        """The host and its disk are gone; a reason is given where nobody asked for it."""

    def reachable(self, instance_id: str, ok: bool) -> None:
        """The host does, or does not, answer; that is what status checks show."""


class Machines(Protocol):
    """What the API asks of the machines.

    The API calls these with its lock held, so all but `snapshot`, `console` and `protect` return at once, and none of
    them may wait for a lock under which an event is sent.
    """

    def launch(self, spec: MachineSpec) -> None:
        """Make and boot a machine."""

    def stop(self, instance_id: str, *, force: bool) -> None:
        """Shut a machine down, or with `force` cut its power; its disk stays."""

    def start(self, instance_id: str) -> None:
        """Boot a stopped machine from its disk."""

    def reboot(self, instance_id: str) -> None:
        """Restart a machine."""

    def terminate(self, instance_id: str, *, force: bool) -> None:
        """Shut a machine down, or with `force` cut its power, and remove its disk."""

    def snapshot(self, instance_id: str, image_id: str) -> None:
        """Make an image of a machine's disk; returns when it is done. Raises ImageError."""

    def console(self, instance_id: str) -> str:
        """Give the end of what a machine wrote to its console."""

    def has_image(self, image_id: str) -> bool:
        """Whether machines can be booted from this image."""

    def forget_image(self, image_id: str) -> None:
        """Forget an image."""

    def protect(self, groups: SecurityGroups) -> None:
        """Bring security groups into force for all machines; returns when they are. Raises Ec2Error."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An AMI that a cloud has from its start."""

    image_id: str
    name: str
    description: str
    architecture: str
    """As EC2 names it: x86_64 or arm64."""
    root_device_name: str
    owner_id: str = ""
    """The account that it belongs to; empty for the cloud's own."""


@dataclass(frozen=True, slots=True)
class RoleCredentials:
    """Temporary credentials of an instance's role."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    issued: datetime
    expiration: datetime


@dataclass(frozen=True, slots=True)
class InstanceProfileView:
    """An instance profile with its role."""

    arn: str
    profile_id: str
    role_name: str
    credentials: RoleCredentials


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as its metadata service shows it."""

    instance_id: str
    image_id: str
    launch_index: int
    reservation_id: str
    instance_type: str
    architecture: str
    lifecycle: str
    """on-demand or spot."""
    launched: datetime
    account_id: str
    region: str
    availability_zone: str
    availability_zone_id: str
    hostname: str
    private_ip: str
    public_hostname: str | None
    public_ip: str | None
    mac: str
    interface_id: str
    subnet_id: str
    subnet_cidr: str
    vpc_id: str
    vpc_cidr: str
    security_groups: Mapping[str, str]
    """Name by id."""
    root_device_name: str
    block_devices: tuple[str, ...] = ()
    """The names of the others."""
    target_lifecycle_state: str | None = None
    """Where a member of an auto scaling group is going: InService or Terminated."""
    key_name: str | None = None
    public_key: str | None = None
    """One line, as in authorized_keys."""
    user_data: bytes | None = field(default=None, repr=False)
    profile: InstanceProfileView | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    tags_in_metadata: bool = False
    metadata_enabled: bool = True
    token_required: bool = False
    hop_limit: int = 1
