"""What a launch asks for, once the request and its launch template are put together as AWS does."""

from __future__ import annotations

import base64
import copy
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.utils import parse_user_data

_MOST_USER_DATA = 16_384  # bytes before base64 (EC2 User Guide, "Run commands at launch")
_REASON = re.compile(r"((?:Client|Server)\.\w+): (.*)", re.DOTALL)


def split_reason(reason: str) -> tuple[str, str]:
    """Split a state reason into AWS's code and the text.

    >>> split_reason("Client.InstanceInitiatedShutdown: Instance initiated shutdown")
    ('Client.InstanceInitiatedShutdown', 'Instance initiated shutdown')
    >>> split_reason("no init")
    ('Server.InternalError', 'no init')
    """
    match = _REASON.fullmatch(reason)
    return (match[1], match[2]) if match else ("Server.InternalError", reason)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@dataclass
class LaunchRequest:
    """One RunInstances, template included."""

    image_id: str | None
    user_data: Any
    instance_type: str
    key_name: str | None
    profile: dict[str, str]
    security_group_names: list[str]
    security_group_ids: list[str]
    interfaces: list[dict[str, Any]]
    subnet_id: str | None
    zone: str | None
    private_ip: str | None
    metadata_options: dict[str, Any]
    devices: list[dict[str, Any]]
    tenancy: str
    volume_tags: dict[str, str]
    """Those of the launch template; moto takes the request's own to the volumes."""
    interface_tags: dict[str, str]
    others: dict[str, Any]

    @classmethod
    def merge(
        cls,
        image_id: str | None,
        user_data: Any,
        security_group_names: list[str],
        request: Mapping[str, Any],
        template: Mapping[str, Any],
    ) -> LaunchRequest:
        """Put a request (moto's keyword arguments) over a launch template's data. Raises EC2ClientError."""
        interfaces = copy.deepcopy(request.get("nics") or template.get("NetworkInterfaces") or [])
        for index, interface in enumerate(interfaces):
            interface.setdefault("DeviceIndex", index)
        first: dict[str, Any] = next((each for each in interfaces if int(each["DeviceIndex"]) == 0), {})
        ids = request.get("security_group_ids") or []
        names = security_group_names
        if not ids and not names:
            # The instance itself has the groups of its first interface.
            ids = first.pop("Groups", None) or template.get("SecurityGroupIds") or []
            names = template.get("SecurityGroups") or []
        asked_type = None if request.get("is_instance_type_default") else request.get("instance_type")
        profile = request.get("profile") or {
            "Name": request.get("iam_instance_profile_name"),
            "Arn": request.get("iam_instance_profile_arn"),
        }
        merged = cls(
            image_id=image_id or template.get("ImageId"),
            user_data=user_data or cls._parsed(template.get("UserData")),
            instance_type=asked_type or template.get("InstanceType") or "m1.small",
            key_name=request.get("key_name") or template.get("KeyName"),
            profile=_given(profile) or dict(template.get("IamInstanceProfile") or {}),
            security_group_names=list(names),
            security_group_ids=list(ids),
            interfaces=interfaces,
            subnet_id=request.get("subnet_id") or first.get("SubnetId"),
            zone=request.get("placement") or (template.get("Placement") or {}).get("AvailabilityZone"),
            private_ip=request.get("private_ip") or cls._address(first),
            metadata_options={**(template.get("MetadataOptions") or {}), **(request.get("metadata_options") or {})},
            devices=cls._devices(request, template),
            tenancy=(template.get("Placement") or {}).get("Tenancy") or "default",
            volume_tags=cls._tags(template, "volume"),
            interface_tags=cls._tags(template, "network-interface")
            | (request.get("tags") or {}).get("network-interface", {}),
            others=cls._others(request, template),
        )
        cls.check_user_data(merged.user_data)
        return merged

    @staticmethod
    def _others(request: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
        monitored = (template.get("Monitoring") or {}).get("Enabled")
        return {
            "ebs_optimized": request.get("ebs_optimized") or template.get("EbsOptimized") or False,
            "monitoring_state": "enabled" if monitored else request.get("monitoring_state", "disabled"),
            "disable_api_stop": request.get("disable_api_stop") or template.get("DisableApiStop") or False,
            "instance_market_options": request.get("instance_market_options")
            or (template.get("InstanceMarketOptions") or {}).get("MarketType"),
            "disable_api_termination": template.get("DisableApiTermination") or False,
            "instance_initiated_shutdown_behavior": request.get("instance_initiated_shutdown_behavior")
            or template.get("InstanceInitiatedShutdownBehavior"),
        }

    @staticmethod
    def _tags(template: Mapping[str, Any], kind: str) -> dict[str, str]:
        kinds = [one for one in template.get("TagSpecifications") or [] if one.get("ResourceType") == kind]
        return {tag["Key"]: tag["Value"] for one in kinds for tag in one.get("Tags") or []}

    @staticmethod
    def _devices(request: Mapping[str, Any], template: Mapping[str, Any]) -> list[dict[str, Any]]:
        config = request.get("launch_config")
        over = request.get("block_device_mappings") or (config.block_device_mapping_dict if config else None) or []
        by_name = {device["DeviceName"]: device for device in template.get("BlockDeviceMappings") or []}
        by_name.update({device["DeviceName"]: device for device in over})
        return list(by_name.values())

    @staticmethod
    def _parsed(user_data: Any) -> Any:
        # Depending on the request that made a template, moto keeps text or an object of its own.
        return parse_user_data(user_data) if isinstance(user_data, str) else user_data

    @staticmethod
    def _address(interface: Mapping[str, Any]) -> str | None:
        primary: dict[str, Any] = next(
            (each for each in interface.get("PrivateIpAddresses", []) if each.get("Primary")), {}
        )
        return interface.get("PrivateIpAddress") or primary.get("PrivateIpAddress")

    @staticmethod
    def profile_named(name_or_arn: str | None) -> dict[str, str] | None:
        """Tell a profile's name from its ARN, as launch configurations take either."""
        if not name_or_arn:
            return None
        return {"Arn" if name_or_arn.startswith("arn:") else "Name": name_or_arn}

    @staticmethod
    def chooses_address(interfaces: list[dict[str, Any]]) -> bool:
        """Whether the first interface exists already, and so has an address."""
        return any(int(each["DeviceIndex"]) == 0 and each.get("NetworkInterfaceId") for each in interfaces)

    @staticmethod
    def check_user_data(user_data: Any) -> None:
        """Refuse user data that is longer than AWS takes."""
        if user_data is not None and len(base64.b64decode(str(user_data))) > _MOST_USER_DATA:
            raise EC2ClientError("InvalidParameterValue", f"User data is limited to {_MOST_USER_DATA} bytes")

    @property
    def interface_id(self) -> str | None:
        """The existing interface that becomes the first one."""
        return next((each.get("NetworkInterfaceId") for each in self.interfaces if int(each["DeviceIndex"]) == 0), None)

    def check_address(self, subnet: Any, count: int) -> None:
        """Refuse a private address that cannot be had."""
        if self.private_ip is None:
            return
        if count > 1:
            raise EC2ClientError(
                "InvalidParameterCombination",
                "Network interfaces or a private address may not be specified for more than one instance.",
            )
        if ipaddress.ip_address(self.private_ip) not in subnet.cidr:
            raise EC2ClientError(
                "InvalidParameterValue", f"Address {self.private_ip} does not fall within the subnet's address range"
            )
        if self.private_ip in subnet._subnet_ips:
            raise EC2ClientError("InvalidIPAddress.InUse", f"Address {self.private_ip} is in use.")

    def block_devices(self, image: Any) -> list[dict[str, Any]]:
        """Give the block devices: the image's root volume, and what was asked for over it."""
        (root,) = image.block_device_mappings
        ebs = {device["DeviceName"]: _given(device.get("Ebs") or {}) for device in self.devices}
        removed = {device["DeviceName"] for device in self.devices if device.get("NoDevice") is not None}
        rooted = ebs.pop(root["DeviceName"], {})
        if rooted.get("VolumeSize", image.volume_size) < image.volume_size:
            raise EC2ClientError(
                "InvalidBlockDeviceMapping",
                f"Volume of size {rooted['VolumeSize']}GB is smaller than snapshot "
                f"'{image.ebs_snapshot.id}', expect size >= {image.volume_size}GB",
            )
        devices = [{"DeviceName": root["DeviceName"], "Ebs": {**root["Ebs"], **rooted}}]
        for name, volume in ebs.items():
            if volume and name not in removed:
                devices.append({"DeviceName": name, "Ebs": {"DeleteOnTermination": True, **volume}})
        return devices

    def arguments(self, request: Mapping[str, Any], *, subnet_id: str, zone: str) -> dict[str, Any]:
        """Give moto's keyword arguments for the whole."""
        ours = {
            "key_name": self.key_name,
            "security_group_ids": self.security_group_ids,
            "nics": self.interfaces,
            "subnet_id": subnet_id,
            "placement": zone,
            "private_ip": None if self.interface_id else self.private_ip,
            "metadata_options": self.metadata_options,
            "instance_type": self.instance_type,
            "is_instance_type_default": False,
            **self.others,
        }
        dropped = ("profile", "block_device_mappings", "iam_instance_profile_name", "iam_instance_profile_arn")
        return {**{name: value for name, value in request.items() if name not in dropped}, **ours}
