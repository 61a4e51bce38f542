"""What a deployment is about to launch, as a target wants to know it before anything is created."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nomad_testkit.targets.base import Demand

if TYPE_CHECKING:
    from nomad_testkit.deployment.plan import Site
    from nomad_testkit.examples.example import Example


def demands(example: Example, sites: Mapping[str, Site]) -> tuple[Demand, ...]:
    """List the hosts of each group of an example; `sites` is what `survey` has found."""
    found = []
    for group in example.render():
        module, site = group.module, sites[group.name]
        volumes = [(module.root_volume_type, module.root_volume_size)]
        volumes += [(device.volume_type or "gp2", device.volume_size) for device in module.ebs_block_devices]
        found.append(
            Demand(
                group=group.name,
                count=module.sizes[2],
                instance_type=module.instance_type,
                image_id=site.image_id,
                subnet_id=site.network.subnets[0].subnet_id,
                volumes=tuple(volumes),
                public_address=module.associate_public_ip_address,
                tenancy=module.tenancy,
                spot_price=module.spot_price,
                subnets=site.network.subnets,
            )
        )
    return tuple(found)
