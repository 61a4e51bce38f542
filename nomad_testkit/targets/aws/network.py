"""Where on AWS a cluster is placed, and from where this machine comes to it."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from nomad_testkit.errors import UsageError
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.targets.aws.errors import AWS_ERRORS, is_not_found
from nomad_testkit.targets.base import ZONES, default_network

SOURCE_OPTION = "--nomad-aws-source-cidr"
CHECK_IP = "https://checkip.amazonaws.com"
"""Answers with the address that a request came from."""
LEAST_PREFIX = 8
"""A block with a shorter prefix is as good as everybody: no owner has a larger one."""
_SECONDS = 5.0


def chosen_network(ec2: Any, vpc_id: str | None, region: str, *, source: str = "--nomad-aws-vpc") -> Network:
    """Find the VPC that the user has named, else the default one, and a subnet in each of three zones.

    In a zone with several subnets it is one that gives public addresses, and the one with most room. `source` tells
    where the name came from.

    Raises UsageError for a VPC that is not there or has no subnets, and where there is no default VPC.
    """
    if vpc_id is None:
        if not _vpcs(ec2, Filters=[{"Name": "is-default", "Values": ["true"]}]):
            raise UsageError(
                f"{region} has no default VPC: name one ({source} VPC), {_listed(_vpcs(ec2))}; "
                "or create a default one with `aws ec2 create-default-vpc`"
            )
        return default_network(ec2)
    if not _vpcs(ec2, VpcIds=[vpc_id]):
        raise UsageError(f"{source}: there is no VPC {vpc_id} in {region}; expected {_listed(_vpcs(ec2))}")
    pages = ec2.get_paginator("describe_subnets").paginate(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])
    subnets = [one for page in pages for one in page["Subnets"]]
    if not subnets:
        raise UsageError(f"{source}: the VPC {vpc_id} has no subnets; expected a VPC with one in each zone to use")
    subnets.sort(key=lambda one: (not one.get("MapPublicIpOnLaunch"), -one["AvailableIpAddressCount"], one["SubnetId"]))
    by_zone: dict[str, Subnet] = {}
    for one in subnets:
        zone = one["AvailabilityZone"]
        by_zone.setdefault(zone, Subnet(one["SubnetId"], zone, one["CidrBlock"]))
    return Network(vpc_id, tuple(by_zone[zone] for zone in sorted(by_zone)[:ZONES]))


def _vpcs(ec2: Any, **which: Any) -> list[dict[str, Any]]:
    try:
        return list(ec2.describe_vpcs(**which)["Vpcs"])
    except AWS_ERRORS as error:
        if is_not_found(error):
            return []
        raise


def _listed(vpcs: Sequence[dict[str, Any]]) -> str:
    names = [
        f"{one['VpcId']} ({one['CidrBlock']}{', the default one' if one.get('IsDefault') else ''})" for one in vpcs
    ]
    return "one of " + ", ".join(sorted(names)) if names else "one that you create: the region has none yet"


def source_blocks(
    given: tuple[str, ...] | None,
    *,
    allow_anywhere: bool,
    endpoint_url: str | None,
    source: str = SOURCE_OPTION,
    ask: Callable[[], str] | None = None,
) -> tuple[str, ...]:
    """Choose who may reach the hosts: the given blocks, else the one address that AWS sees this machine at.

    Raises UsageError for a block that lets everybody in, unless that is allowed, and where the address is not found.

    >>> source_blocks(None, allow_anywhere=False, endpoint_url=None, ask=lambda: "203.0.113.7")
    ('203.0.113.7/32',)
    """
    if given:
        wide = [block for block in given if ipaddress.IPv4Network(block).prefixlen < LEAST_PREFIX]
        if wide and not allow_anywhere:
            raise UsageError(
                f"{source}: {', '.join(wide)} lets the whole internet try SSH and the agents' APIs; expected your own "
                "address, such as 203.0.113.7/32. If it has to be, add --nomad-aws-allow-anywhere"
            )
        return given
    if endpoint_url:
        raise UsageError(
            f"this machine's address is not known to {endpoint_url}, which is not AWS: give {SOURCE_OPTION} CIDR"
        )
    try:
        found = ipaddress.IPv4Address((ask or _ask)().strip())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"this machine's address could not be found by {CHECK_IP} ({error}): give {SOURCE_OPTION} CIDR, "
            "the block that its packets come from as AWS sees them"
        ) from error
    return (f"{found}/32",)


def _ask() -> str:
    # Past every proxy: SSH, which the rule is for, goes through none.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(CHECK_IP, timeout=_SECONDS) as answer:
        text: str = answer.read(64).decode("ascii", "replace")
    return text


def describe_network(network: Network) -> str:
    """Tell a network in words.

    >>> describe_network(Network("vpc-1", (Subnet("subnet-1", "us-east-1a", "10.0.0.0/24"),)))
    'VPC vpc-1, subnet-1 in us-east-1a'
    """
    return f"VPC {network.vpc_id}, " + ", ".join(
        f"{one.subnet_id} in {one.availability_zone}" for one in network.subnets
    )
