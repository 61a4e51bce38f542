"""The plan of a single instance outside any cluster, for inspecting an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nomad_testkit.deployment.plan import Plan, key_pair_step
from nomad_testkit.modules.steps import (
    GROUP_TAG,
    INSTANCE,
    KEY_PAIR,
    RUN_TAG,
    SECURITY_GROUP,
    Creates,
    Ref,
    Step,
    checked_run_id,
    tag_list,
)

if TYPE_CHECKING:
    from nomad_testkit.modules.network import Network

SSH_PORT = 22


def instance_plan(
    *,
    run_id: str,
    region: str,
    network: Network,
    image_id: str,
    instance_type: str,
    public_key: str,
    inbound_cidrs: Sequence[str],
    more_tags: Mapping[str, str] | None = None,
) -> Plan:
    """Plan one instance without user data; its security group admits SSH from `inbound_cidrs` only.

    Every resource bears the tag nomad-testkit-run = `run_id`. Raise UsageError as `plan` does.
    """
    name = f"nomad-testkit-{checked_run_id(run_id)}"
    tags = tag_list({RUN_TAG: run_id, GROUP_TAG: "image", "Name": name, **(more_tags or {})})
    group = Step(
        SECURITY_GROUP,
        "ec2",
        "create_security_group",
        {
            "GroupName": name,
            "Description": "SSH to an instance that shows its image",
            "VpcId": network.vpc_id,
            "TagSpecifications": [{"ResourceType": "security-group", "Tags": tags}],
        },
        Creates(SECURITY_GROUP, name, id="GroupId"),
    )
    ssh_rule = Step(
        "SSH rule",
        "ec2",
        "authorize_security_group_ingress",
        {
            "GroupId": Ref(SECURITY_GROUP),
            "IpPermissions": [
                {
                    "IpProtocol": "tcp",
                    "FromPort": SSH_PORT,
                    "ToPort": SSH_PORT,
                    "IpRanges": [{"CidrIp": block} for block in inbound_cidrs],
                }
            ],
        },
        transient=(("InvalidGroup.NotFound", ""),),
    )
    instance = Step(
        INSTANCE,
        "ec2",
        "run_instances",
        {
            "ImageId": image_id,
            "InstanceType": instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "KeyName": Ref(KEY_PAIR),
            "MetadataOptions": {"HttpTokens": "required"},
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0,
                    "SubnetId": network.subnets[0].subnet_id,
                    "Groups": [Ref(SECURITY_GROUP)],
                    "AssociatePublicIpAddress": True,
                }
            ],
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
            ],
        },
        Creates(INSTANCE, name),
        transient=(("InvalidGroup.NotFound", ""), ("InvalidKeyPair.NotFound", "")),
    )
    return Plan(run_id, region, (key_pair_step(run_id, public_key, more_tags), group, ssh_rule, instance), {})
