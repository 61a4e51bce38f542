"""What to create, and in which order: pure data, made without a call."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import ExampleError
from nomad_testkit.modules.auto_scaling_group import Placement, cluster_outputs, cluster_steps
from nomad_testkit.modules.steps import KEY_PAIR, RUN_TAG, Creates, Ref, Step, checked_run_id, tag_list

if TYPE_CHECKING:
    from nomad_testkit.examples import Example, Group
    from nomad_testkit.model import Network


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one deployment, in order; every resource bears the tag nomad-testkit-run = `run_id`."""

    run_id: str
    region: str
    steps: tuple[Step, ...]
    outputs: Mapping[str, Any]
    """What the deployment tells when it is done; values that AWS chooses are Refs."""


def plan(
    example: Example,
    *,
    run_id: str,
    region: str,
    network: Network,
    image_id: str,
    public_key: str,
    inbound_cidrs: Sequence[str] = (),
    root_device: str = "/dev/xvda",
) -> Plan:
    """Plan the deployment of an example: group by group, in the example's order, so that the first boots early.

    The hosts let in the network's own subnets and `inbound_cidrs`, and nobody else. `public_key` is in OpenSSH's
    form. `root_device` is the image's RootDeviceName.

    Raises UsageError for a run id that names cannot be made of, and ExampleError for a VPC that is not the network's.
    """
    checked_run_id(run_id)
    inbound = (*_blocks(network), *inbound_cidrs)
    groups = example.render(run_id=run_id, inbound_cidr_blocks=inbound)
    steps: list[Step] = []
    key_name: str | Ref = ""
    if not all(group.module.ssh_key_name for group in groups):
        steps.append(_key_pair(run_id, public_key))
        key_name = f"nomad-testkit-{run_id}"
    outputs: dict[str, Any] = {"aws_region": region}
    for group in groups:
        _same_network(example, group, network)
        placement = Placement(
            run_id=run_id,
            group=group.name,
            network=network,
            image_id=image_id,
            key_name=key_name,
            root_device=root_device,
        )
        steps += cluster_steps(group.module, placement, ports=group.ports, policies=group.policies)
        outputs |= _named(group.name, cluster_outputs(group.module, placement))
        for role, groups in (("consul", example.roles.consul_servers), ("nomad", example.roles.nomad_servers)):
            if group.name in groups:
                outputs[f"{role}_servers_cluster_tag_key"] = group.module.cluster_tag_key
                outputs[f"{role}_servers_cluster_tag_value"] = group.module.cluster_tag_value
    return Plan(run_id, region, tuple(steps), outputs)


def _key_pair(run_id: str, public_key: str) -> Step:
    name = f"nomad-testkit-{run_id}"
    return Step(
        KEY_PAIR,
        "ec2",
        "import_key_pair",
        {
            "KeyName": name,
            "PublicKeyMaterial": public_key.encode(),
            "TagSpecifications": [{"ResourceType": "key-pair", "Tags": tag_list({RUN_TAG: run_id, "Name": name})}],
        },
        Creates(KEY_PAIR, name),
    )


def _blocks(network: Network) -> list[str]:
    """Join adjacent subnets, because a security group has room for few rules, without ever letting in more."""
    subnets = [ipaddress.ip_network(subnet.cidr) for subnet in network.subnets]
    joined = ipaddress.collapse_addresses([one for one in subnets if isinstance(one, ipaddress.IPv4Network)])
    return [str(block) for block in joined]


def _same_network(example: Example, group: Group, network: Network) -> None:
    if group.module.vpc_id not in ("", network.vpc_id):
        raise ExampleError(
            f"{example.file}: group {group.name}: found vpc_id {group.module.vpc_id!r}; right is {network.vpc_id!r}, "
            'where the target has its subnets, or ""'
        )


def _named(group: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Give outputs the names that upstream's examples give them.

    >>> _named("servers", {"cluster_size": 3, "asg_name": "web"})
    {'num_servers': 3, 'asg_name_servers': 'web'}
    """
    return {f"num_{group}" if name == "cluster_size" else f"{name}_{group}": value for name, value in outputs.items()}
