"""The plan of a deployment: which resources to create, in which order. Pure data, made without an API call."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nomad_testkit.modules.auto_scaling_group import Placement, cluster_outputs, cluster_steps
from nomad_testkit.modules.steps import KEY_PAIR, RUN_TAG, Creates, Ref, Step, checked_run_id, tag_list
from nomad_testkit.targets.base import LaunchRequest

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Example
    from nomad_testkit.modules.cluster_variables import ClusterModule


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one deployment, in order. Every resource bears the tag nomad-testkit-run = `run_id`."""

    run_id: str
    region: str
    steps: tuple[Step, ...]
    outputs: Mapping[str, Any]
    """The deployment's outputs; values that AWS chooses are Refs."""
    launches: tuple[LaunchRequest, ...] = ()
    """The hosts of each group, in the example's order."""


def plan(
    example: Example,
    *,
    run_id: str,
    region: str,
    placements: Mapping[str, Placement],
    public_key: str,
    inbound_cidrs: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> Plan:
    """Plan the deployment of an example: group by group, in the example's order, so that the first boots early.

    The hosts admit traffic from the subnets of all groups and from `inbound_cidrs` only. Everything also bears `tags`.
    `public_key` is in OpenSSH format; `placements` come from `survey`.

    Raise UsageError if the run id cannot be part of a resource's name.
    """
    checked_run_id(run_id)
    inbound = (*_blocks(placements.values()), *inbound_cidrs)
    groups = example.render(run_id=run_id, inbound_cidr_blocks=inbound)
    steps: list[Step] = []
    key_name: str | Ref = ""
    if not all(group.module.ssh_key_name for group in groups):
        steps.append(key_pair_step(run_id, public_key, tags))
        key_name = f"nomad-testkit-{run_id}"
    outputs: dict[str, Any] = {"aws_region": region}
    for group in groups:
        placement = replace(placements[group.name], run_id=run_id, group=group.name, key_name=key_name, tags=tags or {})
        steps += cluster_steps(group.module, placement, ports=group.ports, policies=group.policies)
        outputs |= _named(group.name, cluster_outputs(group.module, placement))
        for role, names in (("consul", example.roles.consul_servers), ("nomad", example.roles.nomad_servers)):
            if group.name in names:
                outputs[f"{role}_servers_cluster_tag_key"] = group.module.cluster_tag_key
                outputs[f"{role}_servers_cluster_tag_value"] = group.module.cluster_tag_value
    launches = tuple(_launch_request(group.name, group.module, placements[group.name]) for group in groups)
    return Plan(run_id, region, tuple(steps), outputs, launches)


def _launch_request(group: str, module: ClusterModule, placement: Placement) -> LaunchRequest:
    volumes = [(module.root_volume_type, module.root_volume_size)]
    volumes += [(device.volume_type or "gp2", device.volume_size) for device in module.ebs_block_devices]
    return LaunchRequest(
        group=group,
        count=module.sizes[2],
        instance_type=module.instance_type,
        image_id=placement.image_id,
        subnet_id=placement.network.subnets[0].subnet_id,
        volumes=tuple(volumes),
        public_address=module.associate_public_ip_address,
        tenancy=module.tenancy,
        spot_price=module.spot_price,
        subnets=placement.network.subnets,
        ssh_port=module.ssh_port,
        capacity_seconds=module.capacity_seconds,
    )


def key_pair_step(run_id: str, public_key: str, tags: Mapping[str, str] | None = None) -> Step:
    """Return the step that imports the run's key pair; `public_key` is in OpenSSH format."""
    name = f"nomad-testkit-{run_id}"
    every = {RUN_TAG: run_id, "Name": name, **(tags or {})}
    return Step(
        KEY_PAIR,
        "ec2",
        "import_key_pair",
        {
            "KeyName": name,
            "PublicKeyMaterial": public_key.encode(),
            "TagSpecifications": [{"ResourceType": "key-pair", "Tags": tag_list(every)}],
        },
        Creates(KEY_PAIR, name),
    )


def _blocks(placements: Iterable[Placement]) -> list[str]:
    """Merge adjacent subnets into blocks of exactly the same addresses: a security group holds few rules."""
    subnets = [ipaddress.ip_network(subnet.cidr) for placement in placements for subnet in placement.network.subnets]
    joined = ipaddress.collapse_addresses([one for one in subnets if isinstance(one, ipaddress.IPv4Network)])
    return [str(block) for block in joined]


def _named(group: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Rename outputs as upstream's examples do.

    >>> _named("servers", {"cluster_size": 3, "asg_name": "web"})
    {'num_servers': 3, 'asg_name_servers': 'web'}
    """
    return {f"num_{group}" if name == "cluster_size" else f"{name}_{group}": value for name, value in outputs.items()}
