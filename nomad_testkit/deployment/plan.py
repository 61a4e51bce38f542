"""What to create, and in which order: pure data, made without a call."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nomad_testkit.modules.auto_scaling_group import Placement, cluster_outputs, cluster_steps
from nomad_testkit.modules.steps import KEY_PAIR, RUN_TAG, Creates, Ref, Step, checked_run_id, tag_list

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Example
    from nomad_testkit.modules.network import Network


@dataclass(frozen=True, slots=True)
class Site:
    """Where the hosts of one group are placed, and what they boot."""

    network: Network
    """The VPC, and the subnets that the hosts are spread over."""
    image_id: str
    root_device: str
    """The image's RootDeviceName."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one deployment, in order; every resource bears the tag nomad-testkit-run = `run_id`."""

    run_id: str
    region: str
    steps: tuple[Step, ...]
    outputs: Mapping[str, Any]
    """What the deployment tells when it is done; values that AWS chooses are Refs."""
    capacity_seconds: Mapping[str, float | None] = field(default_factory=dict)
    """How long the hosts of each group may take until all of them are up; None where there is no limit of its own."""
    ssh_ports: Mapping[str, int] = field(default_factory=dict)
    """The port on which the hosts of each group let in SSH."""


def plan(
    example: Example,
    *,
    run_id: str,
    region: str,
    sites: Mapping[str, Site],
    public_key: str,
    inbound_cidrs: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> Plan:
    """Plan the deployment of an example: group by group, in the example's order, so that the first boots early.

    The hosts let in the subnets of all groups and `inbound_cidrs`, and nobody else. Everything bears `tags` too.
    `public_key` is in OpenSSH's form, `sites` what `survey` has found for each group.

    Raises UsageError for a run id that names cannot be made of.
    """
    checked_run_id(run_id)
    inbound = (*_blocks(sites.values()), *inbound_cidrs)
    groups = example.render(run_id=run_id, inbound_cidr_blocks=inbound)
    steps: list[Step] = []
    key_name: str | Ref = ""
    if not all(group.module.ssh_key_name for group in groups):
        steps.append(key_pair_step(run_id, public_key, tags))
        key_name = f"nomad-testkit-{run_id}"
    outputs: dict[str, Any] = {"aws_region": region}
    for group in groups:
        site = sites[group.name]
        placement = Placement(
            run_id=run_id,
            group=group.name,
            network=site.network,
            image_id=site.image_id,
            root_device=site.root_device,
            key_name=key_name,
            tags=tags or {},
        )
        steps += cluster_steps(group.module, placement, ports=group.ports, policies=group.policies)
        outputs |= _named(group.name, cluster_outputs(group.module, placement))
        for role, names in (("consul", example.roles.consul_servers), ("nomad", example.roles.nomad_servers)):
            if group.name in names:
                outputs[f"{role}_servers_cluster_tag_key"] = group.module.cluster_tag_key
                outputs[f"{role}_servers_cluster_tag_value"] = group.module.cluster_tag_value
    return Plan(
        run_id,
        region,
        tuple(steps),
        outputs,
        capacity_seconds={group.name: group.module.capacity_seconds for group in groups},
        ssh_ports={group.name: group.module.ssh_port for group in groups},
    )


def key_pair_step(run_id: str, public_key: str, tags: Mapping[str, str] | None = None) -> Step:
    """Import the run's own key pair; `public_key` is in OpenSSH's form."""
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


def _blocks(sites: Iterable[Site]) -> list[str]:
    """Join adjacent subnets, because a security group has room for few rules, without ever letting in more."""
    subnets = [ipaddress.ip_network(subnet.cidr) for site in sites for subnet in site.network.subnets]
    joined = ipaddress.collapse_addresses([one for one in subnets if isinstance(one, ipaddress.IPv4Network)])
    return [str(block) for block in joined]


def _named(group: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Give outputs the names that upstream's examples give them.

    >>> _named("servers", {"cluster_size": 3, "asg_name": "web"})
    {'num_servers': 3, 'asg_name_servers': 'web'}
    """
    return {f"num_{group}" if name == "cluster_size" else f"{name}_{group}": value for name, value in outputs.items()}
