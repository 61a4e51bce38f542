"""Check, before anything is created, that the target has what an example names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import DeployError, ExampleError, did_you_mean
from nomad_testkit.examples.login_key import public_line
from nomad_testkit.examples.variables import refusal
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.targets.aws.errors import AWS_ERRORS, code_of, describe_error, is_not_found
from nomad_testkit.targets.base import ZONES

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Example, Group
    from nomad_testkit.targets.base import Target


def survey(example: Example, target: Target) -> dict[str, Placement]:
    """Return each group's subnets and image, after checking that all it names exists and fits together.

    Raise ExampleError with the input, what was found and what was expected, and DeployError if the target's API fails.
    """
    try:
        return _Survey(example, target).placements()
    except AWS_ERRORS as error:
        raise DeployError(
            f"{target.name} could not check the inputs of {example.name}: {describe_error(error)}"
        ) from error


@dataclass(frozen=True, slots=True)
class _Found:
    """A subnet as AWS describes it."""

    subnet: Subnet
    vpc_id: str
    default: bool
    free: int


class _Survey:
    def __init__(self, example: Example, target: Target) -> None:
        self.example, self.target = example, target
        self.ec2: Any = target.client("ec2")
        self.groups = example.rendered
        self.chosen_image = target.image(example)
        self.images: dict[str, Mapping[str, Any] | None] = {}
        self.types: dict[str, Sequence[str]] = {}

    def placements(self) -> dict[str, Placement]:
        images = {group.name: self.image(group) for group in self.groups}
        for group in self.groups:
            self.check_architecture(group, images[group.name])
            self.check_root_volume(group, images[group.name])
            self.check_key_pair(group)
            self.check_instance_profile(group)
        networks = {group.name: self.network(group) for group in self.groups}
        for group in self.groups:
            self.security_groups(group, networks[group.name])
        self.check_capacity(networks)
        return {
            group.name: Placement(
                network=networks[group.name],
                image_id=images[group.name]["ImageId"],
                root_device=images[group.name].get("RootDeviceName") or "/dev/xvda",
            )
            for group in self.groups
        }

    def refused(self, group: Group, key: str, found: str, expected: str) -> ExampleError:
        return refusal(self.example.file, f"groups.{group.name}.inputs.{key}", found, expected)

    def image(self, group: Group) -> Mapping[str, Any]:
        """Return a group's image; the setting `ami` replaces the example's own."""
        own = group.module.ami_id
        image_id = self.chosen_image if own in ("", self.example.ami_id) else own
        if image_id not in self.images:
            self.images[image_id] = self.described_image(image_id)
        image = self.images[image_id]
        if image is None:
            found, expected = f"{image_id!r}, which is not in {self.target.region}", "an AMI of this region"
            raise self.refused(group, "ami_id", found, expected)
        if image.get("State", "available") != "available":
            found = f"{image_id!r}, which is {image['State']}"
            raise self.refused(group, "ami_id", found, "an AMI that is available")
        return image

    def described_image(self, image_id: str) -> Mapping[str, Any] | None:
        try:
            images: list[Mapping[str, Any]] = self.ec2.describe_images(ImageIds=[image_id])["Images"]
        except AWS_ERRORS as error:
            if not code_of(error).startswith("InvalidAMIID"):
                raise
            return None
        return images[0] if images else None

    def check_architecture(self, group: Group, image: Mapping[str, Any]) -> None:
        """Compare an image's architecture with the instance type's; the target's own image fits every type."""
        wanted, name = image.get("Architecture", "x86_64"), group.module.instance_type
        if name not in self.types:
            self.types[name] = self.architectures(name)
        known = self.types[name]
        if not known:
            found = f"{name!r}, which is not in {self.target.region}"
            raise self.refused(group, "instance_type", found, "an instance type of this region")
        if wanted not in known and image["ImageId"] != getattr(self.target, "own_image", None):
            such = {"arm64": ", such as t4g.micro,", "x86_64": ", such as t3.micro,"}.get(wanted, "")
            raise self.refused(
                group,
                "instance_type",
                f"{name!r}, which is {' or '.join(known)}, for the AMI {image['ImageId']}, which is {wanted}",
                f"an instance type of {wanted}{such} or an AMI of {known[0]} (ami_id, or the setting ami)",
            )

    def architectures(self, instance_type: str) -> Sequence[str]:
        try:
            types = self.ec2.describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"]
        except AWS_ERRORS as error:
            if code_of(error) != "InvalidInstanceType":
                raise
            return ()
        known: Sequence[str] = types[0]["ProcessorInfo"]["SupportedArchitectures"] if types else ()
        return known

    def check_root_volume(self, group: Group, image: Mapping[str, Any]) -> None:
        """Check that the root volume has room for the image's snapshot."""
        devices = {one.get("DeviceName"): one.get("Ebs", {}) for one in image.get("BlockDeviceMappings", ())}
        least = devices.get(image.get("RootDeviceName"), {}).get("VolumeSize", 0)
        if group.module.root_volume_size < least:
            found = f"{group.module.root_volume_size} for the AMI {image['ImageId']}"
            raise self.refused(group, "root_volume_size", found, f"at least {least} GiB, the size of its snapshot")

    def check_key_pair(self, group: Group) -> None:
        """Check that a group's key pair exists and belongs to the private key's file."""
        if not (name := group.module.ssh_key_name):
            return
        try:
            pairs = self.ec2.describe_key_pairs(KeyNames=[name], IncludePublicKey=True)["KeyPairs"]
        except AWS_ERRORS as error:
            if not is_not_found(error):
                raise
            pairs = []
        if not pairs:
            found = f"{name!r}, which is not in {self.target.region}"
            raise self.refused(
                group, "ssh_key_name", found, 'a key pair of this region, or "" for the run\'s own key pair'
            )
        there = pairs[0].get("PublicKey", "").split()[:2]
        path = self.example.ssh_private_key_file
        if there and path is not None and there != public_line(path).split()[:2]:
            found = f"{str(path)!r}, which is not the private key of the key pair {name!r}"
            raise refusal(self.example.file, "variable ssh_private_key_file", found, "the file of that private key")

    def check_instance_profile(self, group: Group) -> None:
        """Check that a group's instance profile exists."""
        if not (name := group.module.iam_instance_profile_name):
            return
        try:
            self.target.client("iam").get_instance_profile(InstanceProfileName=name)
        except AWS_ERRORS as error:
            if not is_not_found(error):
                raise
            found = f"{name!r}, which does not exist"
            raise self.refused(group, "iam_instance_profile_name", found, "the name of an instance profile") from error

    @cached_property
    def default(self) -> Network:
        return self.target.network()

    def network(self, group: Group) -> Network:
        """Return the subnets that a group is spread over."""
        module = group.module
        if not (module.subnet_ids or module.availability_zones or module.vpc_id):
            return self.default
        if module.subnet_ids:
            return self.named(group)
        vpc_id = module.vpc_id or self.default.vpc_id
        found = self.subnets("vpc-id", [vpc_id])
        if not found:
            raise self.refused(group, "vpc_id", repr(vpc_id), f'a VPC of {self.target.region} with subnets, or ""')
        # One subnet a zone, as in the default VPC; of several, the one with most free addresses.
        found.sort(key=lambda one: (one.subnet.availability_zone, not one.default, -one.free, one.subnet.subnet_id))
        zones: dict[str, Subnet] = {}
        for one in found:
            zones.setdefault(one.subnet.availability_zone, one.subnet)
        if not module.availability_zones:
            return Network(vpc_id, tuple(zones.values())[:ZONES])
        for zone in module.availability_zones:
            if zone not in zones:
                expected = (
                    f"a zone where {vpc_id} has subnets, one of {', '.join(sorted(zones))}{did_you_mean(zone, zones)}"
                )
                raise self.refused(group, "availability_zones", repr(zone), expected)
        return Network(vpc_id, tuple(zones[zone] for zone in dict.fromkeys(module.availability_zones)))

    def named(self, group: Group) -> Network:
        """Return the subnets that a group names."""
        module = group.module
        found = {one.subnet.subnet_id: one for one in self.subnets("subnet-id", module.subnet_ids)}
        for name in module.subnet_ids:
            if name not in found:
                missing = f"{name!r}, which is not in {self.target.region}"
                raise self.refused(group, "subnet_ids", missing, "subnets of this region")
        vpcs = sorted({one.vpc_id for one in found.values()})
        if len(vpcs) > 1:
            raise self.refused(group, "subnet_ids", f"subnets of {' and '.join(vpcs)}", "subnets of one VPC")
        if module.vpc_id not in ("", vpcs[0]):
            expected = f'{vpcs[0]!r}, where its subnet_ids are, or ""'
            raise self.refused(group, "vpc_id", repr(module.vpc_id), expected)
        zones = {one.subnet.availability_zone for one in found.values()}
        if module.availability_zones and set(module.availability_zones) != zones:
            expected = f"the zones of its subnet_ids, {', '.join(sorted(zones))}, or none"
            raise self.refused(group, "availability_zones", ", ".join(module.availability_zones), expected)
        return Network(vpcs[0], tuple(found[name].subnet for name in dict.fromkeys(module.subnet_ids)))

    def subnets(self, by: str, values: Sequence[str]) -> list[_Found]:
        pages = self.ec2.get_paginator("describe_subnets").paginate(Filters=[{"Name": by, "Values": list(values)}])
        return [
            _Found(
                Subnet(one["SubnetId"], one["AvailabilityZone"], one["CidrBlock"]),
                one["VpcId"],
                one.get("DefaultForAz", False),
                one["AvailableIpAddressCount"],
            )
            for page in pages
            for one in page["Subnets"]
        ]

    def security_groups(self, group: Group, network: Network) -> None:
        """Check that a group's additional security groups exist in its VPC."""
        names = group.module.more_security_groups
        if not names:
            return
        filters = [{"Name": "group-id", "Values": list(names)}]
        there = {one["GroupId"]: one for one in self.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]}
        key = group.module.security_groups_input
        for name in names:
            if name not in there:
                found = f"{name!r}, which is not in {self.target.region}"
                raise self.refused(group, key, found, "the ids of security groups")
            if there[name].get("VpcId") != network.vpc_id:
                found = f"{name!r}, which is of {there[name].get('VpcId')}"
                raise self.refused(group, key, found, f"security groups of {network.vpc_id}, where its subnets are")

    def check_capacity(self, networks: Mapping[str, Network]) -> None:
        """Compare the number of hosts with the target's capacity and the subnets' free addresses."""
        most = self.target.most_hosts()
        if most is not None and sum(group.module.sizes[2] for group in self.groups) > most.hosts:
            expected = f"at most {most.hosts} hosts in all, by this machine's {most.limit}; {most.remedy}"
            raise self.oversized(self.groups, expected)
        sets = {name: frozenset(subnet.subnet_id for subnet in network.subnets) for name, network in networks.items()}
        every = frozenset[str]().union(*sets.values())
        free = {one.subnet.subnet_id: one.free for one in self.subnets("subnet-id", sorted(every))}
        for subnets in (*sets.values(), every):
            within = [group for group in self.groups if sets[group.name] <= subnets]
            wanted, room = sum(group.module.sizes[2] for group in within), sum(free[name] for name in subnets)
            if wanted > room:
                left = ", ".join(f"{free[name]} in {name}" for name in sorted(subnets))
                expected = f"at most {room} hosts in all, by the free addresses of the subnets: {left}"
                raise self.oversized(within, expected)

    def oversized(self, within: Sequence[Group], expected: str) -> ExampleError:
        largest = max(within, key=lambda group: group.module.sizes[2])
        others = [f"{group.module.sizes[2]} {group.name}" for group in within if group is not largest]
        found = str(largest.module.sizes[2]) + (f" beside {' and '.join(others)}" if others else "")
        return self.refused(largest, largest.module.size_input, found, expected)
