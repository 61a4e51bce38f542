"""Where instances are placed, and the instances themselves, as DescribeSubnets and DescribeInstances tell them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet to place instances in."""

    subnet_id: str
    availability_zone: str
    cidr: str


@dataclass(frozen=True, slots=True)
class Network:
    """Where a cluster is placed: one VPC and its subnets, one an availability zone."""

    vpc_id: str
    subnets: tuple[Subnet, ...]


@dataclass(frozen=True, slots=True)
class Instance:
    """One EC2 instance of a cluster, as DescribeInstances tells it."""

    instance_id: str
    group: str
    """The example's name for its group: ``servers`` or ``clients`` in the bundled ones."""
    state: str
    private_ip: str
    public_ip: str
    availability_zone: str
    image_id: str
