"""An auto scaling group with all that its instances need, as plan steps: what both cluster modules are made of."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nomad_testkit.modules.cluster_variables import ANYWHERE, ClusterModule
from nomad_testkit.modules.iam_policies import EC2_TRUST
from nomad_testkit.modules.network import Network
from nomad_testkit.modules.security_group_rules import Port, fitted, inbound_rules, outbound_rules
from nomad_testkit.modules.steps import (
    AUTO_SCALING_GROUP,
    GROUP_TAG,
    INSTANCE_PROFILE,
    LAUNCH_TEMPLATE,
    ROLE,
    RUN_TAG,
    SECURITY_GROUP,
    Creates,
    Ref,
    Step,
    tag_list,
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a module's resources are made, and for whom: all that the module cannot know by itself.

    The survey of the target finds the network and the image, the plan of a run adds the rest.
    """

    network: Network
    """The VPC, and the subnets that the instances are spread over."""
    image_id: str
    root_device: str
    """The image's RootDeviceName: another name would add a second volume."""
    run_id: str = ""
    group: str = ""
    key_name: str | Ref = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of everything, besides the run's and the user's."""


def cluster_steps(
    module: ClusterModule,
    placement: Placement,
    *,
    ports: Sequence[Port] = (),
    policies: Mapping[str, str] | None = None,
) -> Iterator[Step]:
    """Plan a module's resources, in the order of their making; an example adds `ports` and `policies` to its own."""
    make = _Maker(module, placement)
    if module.enable_iam_setup:
        yield from make.role({**module.policies, **(policies or {})})
    yield from make.security_group((*module.ports, *ports))
    yield make.launch_template()
    yield make.auto_scaling_group()
    if module.enabled_metrics:
        yield make.metrics()


def cluster_outputs(module: ClusterModule, placement: Placement) -> dict[str, Any]:
    """Tell upstream's outputs of a module; what AWS chooses is a Ref."""
    make = _Maker(module, placement)
    own_profile = bool(module.iam_instance_profile_name)
    return {
        "asg_name": make.asg_name,
        "cluster_size": module.sizes[2],
        # What upstream's users read of the launch configuration, whose place the launch template has taken.
        "launch_config_name": make.name,
        "launch_template_name": make.name,
        "launch_template_id": Ref(make.step(LAUNCH_TEMPLATE)),
        "security_group_id": Ref(make.step(SECURITY_GROUP)),
        "cluster_tag_key": module.cluster_tag_key,
        "cluster_tag_value": module.cluster_tag_value,
        # Upstream tells nothing of a role that it has not made.
        "iam_role_arn": "" if own_profile else Ref(make.step(ROLE), "arn"),
        "iam_role_id": "" if own_profile else make.name,
        "iam_instance_profile_arn": "" if own_profile else Ref(make.step(INSTANCE_PROFILE), "arn"),
        "iam_instance_profile_id": "" if own_profile else Ref(make.step(INSTANCE_PROFILE), "unique_id"),
        "iam_instance_profile_name": module.iam_instance_profile_name or make.name,
    }


class _Maker:
    """Makes the steps of one module in one place."""

    def __init__(self, module: ClusterModule, placement: Placement) -> None:
        self.module, self.placement = module, placement
        self.name = f"{module.cluster_name}-{placement.run_id}"
        self.asg_name = f"{module.asg_name or module.cluster_name}-{placement.run_id}"
        # The run's own tags come last: whatever the user's say, they are how everything is found again.
        own = {"Name": module.cluster_name, RUN_TAG: placement.run_id, GROUP_TAG: placement.group, **placement.tags}
        self.tags = {**{tag.key: tag.value for tag in module.tags}, **own}
        self.kept_back = {tag.key for tag in module.tags if not tag.propagate_at_launch} - own.keys()

    def step(self, kind: str) -> str:
        return f"{self.placement.group}: {kind}"

    def role(self, policies: Mapping[str, str]) -> Iterator[Step]:
        module, profile = self.module, self.step(INSTANCE_PROFILE)
        arguments: dict[str, Any] = {
            "RoleName": self.name,
            "Path": module.instance_profile_path,
            "AssumeRolePolicyDocument": EC2_TRUST,
            "Tags": tag_list(self.tags),
        }
        if module.iam_permissions_boundary:
            arguments["PermissionsBoundary"] = module.iam_permissions_boundary
        yield Step(
            self.step(ROLE), "iam", "create_role", arguments, Creates(ROLE, self.name), values={"arn": "Role.Arn"}
        )
        not_yet = (("NoSuchEntity", ""),)
        for policy, document in policies.items():
            yield Step(
                self.step(f"policy {policy}"),
                "iam",
                "put_role_policy",
                {"RoleName": self.name, "PolicyName": policy, "PolicyDocument": document},
                transient=not_yet,
            )
        yield Step(
            profile,
            "iam",
            "create_instance_profile",
            {
                "InstanceProfileName": self.name,
                "Path": module.instance_profile_path,
                "Tags": tag_list(self.tags),
            },
            Creates(INSTANCE_PROFILE, self.name),
            values={"arn": "InstanceProfile.Arn", "unique_id": "InstanceProfile.InstanceProfileId"},
        )
        yield Step(
            self.step("role in its instance profile"),
            "iam",
            "add_role_to_instance_profile",
            {"InstanceProfileName": self.name, "RoleName": self.name},
            transient=not_yet,
        )

    def security_group(self, ports: Sequence[Port]) -> Iterator[Step]:
        module, group = self.module, Ref(self.step(SECURITY_GROUP))
        not_yet = (("InvalidGroup.NotFound", ""),)
        yield Step(
            group.step,
            "ec2",
            "create_security_group",
            {
                "GroupName": self.name,
                "Description": f"Hosts of {self.name}",
                "VpcId": self.placement.network.vpc_id,
                "TagSpecifications": [
                    {
                        "ResourceType": "security-group",
                        "Tags": tag_list({**module.security_group_tags, **self.tags}),
                    }
                ],
            },
            Creates(SECURITY_GROUP, self.name, "GroupId"),
        )
        inbound = inbound_rules(
            ports,
            cidr_blocks=module.allowed_inbound_cidr_blocks,
            security_groups=(*module.allowed_inbound_security_group_ids, group),
        ) + inbound_rules(
            [Port("tcp", module.ssh_port, "SSH")],
            cidr_blocks=module.allowed_ssh_cidr_blocks,
            security_groups=module.allowed_ssh_security_group_ids,
        )
        yield Step(
            self.step("inbound rules"),
            "ec2",
            "authorize_security_group_ingress",
            {"GroupId": group, "IpPermissions": fitted(inbound)},
            transient=not_yet,
        )
        if module.allow_outbound_cidr_blocks != ANYWHERE:  # a new group lets everything out
            yield Step(
                self.step("no outbound rule"),
                "ec2",
                "revoke_security_group_egress",
                {"GroupId": group, "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": ANYWHERE[0]}]}]},
                transient=not_yet,
            )
            if module.allow_outbound_cidr_blocks:
                rules = outbound_rules(module.allow_outbound_cidr_blocks)
                yield Step(
                    self.step("outbound rules"),
                    "ec2",
                    "authorize_security_group_egress",
                    {"GroupId": group, "IpPermissions": rules},
                    transient=not_yet,
                )

    def launch_template(self) -> Step:
        return Step(
            self.step(LAUNCH_TEMPLATE),
            "ec2",
            "create_launch_template",
            {
                "LaunchTemplateName": self.name,
                "LaunchTemplateData": self.launch_template_data(),
                "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tag_list(self.tags)}],
            },
            Creates(LAUNCH_TEMPLATE, self.name, "LaunchTemplate.LaunchTemplateId"),
        )

    def launch_template_data(self) -> dict[str, Any]:
        module = self.module
        data: dict[str, Any] = {
            "ImageId": self.placement.image_id,
            "InstanceType": module.instance_type,
            "EbsOptimized": module.root_volume_ebs_optimized,
            "IamInstanceProfile": {"Name": module.iam_instance_profile_name or self.name},
            # A public address can be asked for only where the interface is described; the groups then belong there.
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0,
                    "AssociatePublicIpAddress": module.associate_public_ip_address,
                    "DeleteOnTermination": True,
                    "Groups": [Ref(self.step(SECURITY_GROUP)), *module.more_security_groups],
                }
            ],
            "BlockDeviceMappings": [self.root_volume(), *(device.mapping() for device in module.ebs_block_devices)],
            "MetadataOptions": {
                "HttpEndpoint": "enabled",
                "HttpTokens": module.metadata_http_tokens,
                "InstanceMetadataTags": "enabled" if self.tags_in_metadata() else "disabled",
            },
            # An auto scaling group's tags reach its instances, but neither their volumes nor their interfaces.
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tag_list(self.propagated(self.tags))}
                for kind in ("volume", "network-interface")
            ],
        }
        if module.tenancy:
            data["Placement"] = {"Tenancy": module.tenancy}
        if module.spot_price:
            price = {"MaxPrice": f"{module.spot_price:.6f}".rstrip("0").rstrip("."), "SpotInstanceType": "one-time"}
            data["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": price}
        if key_name := module.ssh_key_name or self.placement.key_name:
            data["KeyName"] = key_name
        if module.user_data:
            data["UserData"] = base64.b64encode(module.user_data).decode()
        return data

    def root_volume(self) -> dict[str, Any]:
        module = self.module
        root: dict[str, Any] = {
            "VolumeType": module.root_volume_type,
            "VolumeSize": module.root_volume_size,
            "DeleteOnTermination": module.root_volume_delete_on_termination,
            "Encrypted": module.root_volume_encrypted,
        }
        if module.root_volume_iops:
            root["Iops"] = module.root_volume_iops
        return {"DeviceName": self.placement.root_device, "Ebs": root}

    def tags_in_metadata(self) -> bool:
        # AWS launches no instance with another tag that is to be in its metadata
        # (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/work-with-tags-in-IMDS.html).
        keys = (*self.propagated(self.tags), self.module.cluster_tag_key)
        return all(re.fullmatch(r"[\w+=.,:@-]+", key, re.ASCII) for key in keys)

    def propagated(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {key: value for key, value in tags.items() if key not in self.kept_back}

    def auto_scaling_group(self) -> Step:
        module, (smallest, greatest, desired) = self.module, self.module.sizes
        tags = {**self.tags, module.cluster_tag_key: module.cluster_tag_value}
        arguments: dict[str, Any] = {
            "AutoScalingGroupName": self.asg_name,
            "LaunchTemplate": {"LaunchTemplateId": Ref(self.step(LAUNCH_TEMPLATE)), "Version": "1"},
            "MinSize": smallest,
            "MaxSize": greatest,
            "DesiredCapacity": desired,
            "VPCZoneIdentifier": ",".join(subnet.subnet_id for subnet in self.placement.network.subnets),
            "TerminationPolicies": list(module.chosen_termination_policies),
            "NewInstancesProtectedFromScaleIn": module.protect_from_scale_in,
            "HealthCheckType": module.health_check_type,
            "HealthCheckGracePeriod": module.health_check_grace_period,
            "Tags": [
                {
                    "ResourceId": self.asg_name,
                    "ResourceType": "auto-scaling-group",
                    "Key": key,
                    "Value": value,
                    "PropagateAtLaunch": key not in self.kept_back,
                }
                for key, value in tags.items()
            ],
        }
        if module.service_linked_role_arn:
            arguments["ServiceLinkedRoleARN"] = module.service_linked_role_arn
        if module.lifecycle_hooks:
            # Hooks that were put later would miss the first instances.
            arguments["LifecycleHookSpecificationList"] = [hook.specification() for hook in module.lifecycle_hooks]
        return Step(
            self.step(AUTO_SCALING_GROUP),
            "autoscaling",
            "create_auto_scaling_group",
            arguments,
            Creates(AUTO_SCALING_GROUP, self.asg_name),
            # The template was just made, and so was what it names, but for what is the user's own.
            transient=(
                ("ValidationError", "The specified launch template"),
                ("ValidationError", "The security group"),
                ("ValidationError", "The key pair"),
                *((("ValidationError", "Invalid IAM Instance Profile"),) if module.enable_iam_setup else ()),
            ),
        )

    def metrics(self) -> Step:
        return Step(
            self.step("metrics"),
            "autoscaling",
            "enable_metrics_collection",
            {
                "AutoScalingGroupName": self.asg_name,
                "Metrics": list(self.module.enabled_metrics),
                "Granularity": "1Minute",  # the only one that there is
            },
            transient=(("ValidationError", "not found"),),
        )
