"""What a cluster needs of the place that it is deployed to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nomad_testkit.errors import DeployError
from nomad_testkit.modules.network import Instance, Network, Subnet

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example

ZONES = 3
"""Availability zones that a cluster is spread over, as upstream's examples are in most regions."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """The hosts of one group that are about to be launched."""

    group: str
    count: int
    instance_type: str
    image_id: str
    subnet_id: str
    """The first of its subnets."""
    volumes: tuple[tuple[str, int], ...] = ()
    """Each one's type, such as gp2, and its size in GiB."""
    public_address: bool = True
    tenancy: str = "default"
    spot_price: float = 0.0
    """The most that an hour of one may cost, in US dollars; 0 for on-launch instances."""
    subnets: tuple[Subnet, ...] = ()
    """All of its subnets, with their availability zones; empty if only the first is used."""
    ssh_port: int = 22
    capacity_seconds: float | None = None
    """How long its hosts may take until all of them are up; None for no limit of its own."""


@dataclass(frozen=True, slots=True)
class Room:
    """For how many more hosts a target has room, and what sets that limit.

    >>> Room(12, "memory left (960 MiB, of which a host takes 80)", "free memory").hosts
    12
    """

    hosts: int
    limit: str
    """What there is of it, such as ``memory left (960 MiB, of which a host takes 80)``."""
    remedy: str


class Target(Protocol):
    """An EC2 with what lies around it: the embedded one, or an account."""

    @property
    def name(self) -> str:
        """The name by which the setting `nomad_target` chooses it."""
        ...

    @property
    def region(self) -> str: ...

    @property
    def endpoint_url(self) -> str | None:
        """Where its API answers; None where the names of AWS lead to it."""
        ...

    @property
    def credentials(self) -> Mapping[str, str] | None:
        """The variables AWS_… by which programs find its own credentials; None where they are the user's."""
        ...

    @property
    def inbound_cidrs(self) -> tuple[str, ...]:
        """The blocks that this machine's packets come from, as the hosts see them."""
        ...

    @property
    def time_limit(self) -> float | None:
        """How long a run may live, in seconds, until it is interrupted and destroyed; None for any time."""
        ...

    @property
    def teardown_seconds(self) -> float:
        """How long it may take until everything of a run is gone."""
        ...

    def check_capacity(self, launches: Sequence[LaunchRequest], *, progress: Progress) -> None:
        """Tell what hosts cost that are about to be launched, and see that they may be.

        Raises UsageError where they are too dear, and PreflightError where the target has no room for them.
        """
        ...

    def client(self, service: str) -> Any:
        """Make a boto3 client, such as client("ec2")."""
        ...

    def network(self) -> Network:
        """Find the network to deploy to. Raises DeployError if there is no usable one."""
        ...

    def image(self, example: Example) -> str:
        """Choose the AMI: the one that the example names, else the target's own with Nomad and Consul on it."""
        ...

    def address(self, instance: Instance) -> str:
        """Tell where this machine reaches an instance."""
        ...

    def console(self, instance: Instance) -> str:
        """Read what an instance's console shows (GetConsoleOutput)."""
        ...

    def keep(self) -> None:
        """Let the target live on when this process has ended."""
        ...

    def end(self) -> None:
        """End a target that was kept, where it exists for one cluster only."""
        ...

    def most_hosts(self) -> Room | None:
        """Tell how many more hosts it has room for, and by which limit; None where only the API knows."""
        ...

    def lost(self) -> str | None:
        """Tell how it has ended by itself, and all that was in it; None as long as it is there, as an account is."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Tell, in JSON's types, what another process needs to attach."""
        ...


def default_network(ec2: Any, *, zones: int = ZONES) -> Network:
    """Find the default VPC and its default subnets in the first `zones` availability zones.

    Raises DeployError where there is no default VPC (DescribeVpcs, DescribeSubnets).
    """
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise DeployError("this region has no default VPC; create one with `aws ec2 create-default-vpc`")
    vpc_id = vpcs[0]["VpcId"]
    found = ec2.describe_subnets(
        Filters=[{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "default-for-az", "Values": ["true"]}]
    )["Subnets"]
    by_zone = {subnet["AvailabilityZone"]: subnet for subnet in found}
    subnets = tuple(
        Subnet(by_zone[zone]["SubnetId"], zone, by_zone[zone]["CidrBlock"]) for zone in sorted(by_zone)[:zones]
    )
    if not subnets:
        raise DeployError(f"the default VPC {vpc_id} has no default subnet; create one in each availability zone")
    return Network(vpc_id, subnets)


def console_output(ec2: Any, instance_id: str) -> str:
    """Read an instance's latest console output; boto3 has taken the base64 off."""
    return str(ec2.get_console_output(InstanceId=instance_id, Latest=True).get("Output") or "")
