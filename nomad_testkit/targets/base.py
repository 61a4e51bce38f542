"""The interface of a target."""

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
"""The number of availability zones that a cluster spans, as upstream's examples do in most regions."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """The hosts of one group that are about to be launched."""

    group: str
    count: int
    instance_type: str
    image_id: str
    subnet_id: str
    """The group's first subnet."""
    volumes: tuple[tuple[str, int], ...] = ()
    """The type, such as gp2, and size in GiB of each volume."""
    public_address: bool = True
    tenancy: str = "default"
    spot_price: float = 0.0
    """The most that an hour of one may cost, in US dollars; 0 for on-launch instances."""
    subnets: tuple[Subnet, ...] = ()
    """All of its subnets, with their availability zones; empty if only the first is used."""
    ssh_port: int = 22
    capacity_seconds: float | None = None
    """Seconds until all hosts of the group must be up; None for the deployment's time-out alone."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many more hosts a target can hold, and the limiting resource.

    >>> Room(12, "memory left (960 MiB, of which a host takes 80)", "free memory").hosts
    12
    """

    hosts: int
    limit: str
    """The limiting resource and its amount, such as ``memory left (960 MiB, of which a host takes 80)``."""
    remedy: str


class Target(Protocol):
    """The embedded EC2 or an AWS account."""

    @property
    def name(self) -> str:
        """The target's value of the setting `nomad_target`."""
        ...

    @property
    def region(self) -> str: ...

    @property
    def endpoint_url(self) -> str | None:
        """The URL of its API; None for AWS's own names."""
        ...

    @property
    def credentials(self) -> Mapping[str, str] | None:
        """Its credentials as the environment variables of AWS; None if they are the user's."""
        ...

    @property
    def inbound_cidrs(self) -> tuple[str, ...]:
        """The blocks of this machine's addresses, as the hosts see them."""
        ...

    @property
    def time_limit(self) -> float | None:
        """Seconds until a run is interrupted and destroyed; None for no limit."""
        ...

    @property
    def teardown_seconds(self) -> float:
        """Seconds that the teardown of a run may take."""
        ...

    def check_capacity(self, launches: Sequence[LaunchRequest], *, progress: Progress) -> None:
        """Report the cost of the launches, and check them against the budget and the target's capacity.

        Raise UsageError if they exceed the budget, and PreflightError if the target cannot hold them.
        """
        ...

    def client(self, service: str) -> Any:
        """Return a boto3 client, such as client("ec2")."""
        ...

    def network(self) -> Network:
        """Return the network to deploy to. Raise DeployError if no usable one exists."""
        ...

    def image(self, example: Example) -> str:
        """Return the example's AMI, or else the target's own with Nomad and Consul installed."""
        ...

    def address(self, instance: Instance) -> str:
        """Return the address at which this machine reaches an instance."""
        ...

    def console(self, instance: Instance) -> str:
        """Return an instance's console output (GetConsoleOutput)."""
        ...

    def keep(self) -> None:
        """Keep the target alive after this process ends."""
        ...

    def end(self) -> None:
        """End a kept target that exists for one cluster only."""
        ...

    def most_hosts(self) -> Room | None:
        """Return how many more hosts fit; None if only the API knows."""
        ...

    def lost(self) -> str | None:
        """Return why the target died, or None while it lives."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return, in JSON types, what another process needs to attach."""
        ...


def default_network(ec2: Any, *, zones: int = ZONES) -> Network:
    """Return the default VPC and its default subnets in the first `zones` availability zones.

    Raise DeployError if there is no default VPC (DescribeVpcs, DescribeSubnets).
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
    """Return an instance's latest console output, which boto3 has decoded."""
    return str(ec2.get_console_output(InstanceId=instance_id, Latest=True).get("Output") or "")
