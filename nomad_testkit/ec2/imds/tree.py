"""What the metadata service has to say about one instance, as a tree of folders and leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nomad_testkit.ec2.machines.spec import InstanceProfileView, InstanceView

VERSIONS = ("1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2021-01-03", "2021-03-23", "latest")
"""The versions that are listed; all have the same content."""

Tree = Mapping[str, "Tree | str | bytes"]


class _Listed(dict[str, Any]):
    """A folder whose listing has something after each name, as public keys do: `0=name`."""

    notes: Mapping[str, str]

    def __init__(self, content: Mapping[str, Any], notes: Mapping[str, str]) -> None:
        super().__init__(content)
        self.notes = notes


class _Bare(dict[str, Any]):
    """A folder whose listing marks no folders."""


def find(root: Tree, path: Iterable[str]) -> bytes | None:
    """Give a leaf, or a folder's listing; None where there is nothing.

    >>> find({"iam": {"info": "x"}, "mac": "y"}, [])
    b'iam/\\nmac'
    >>> find({"iam": {"info": "x"}}, ["iam", "info"])
    b'x'
    """
    node: Tree | str | bytes = root
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    if isinstance(node, Mapping):
        return "\n".join(_line(node, name) for name in sorted(node)).encode()
    return node.encode() if isinstance(node, str) else node


def _line(folder: Tree, name: str) -> str:
    if isinstance(folder, _Listed):
        return f"{name}={folder.notes[name]}"
    return f"{name}/" if isinstance(folder[name], Mapping) and not isinstance(folder, _Bare) else name


def tree(view: InstanceView) -> Tree:
    """Give everything below a version's folder."""
    root = _Bare(
        {
            "dynamic": {"instance-identity": {"document": _identity_document(view)}},
            "meta-data": _metadata(view),
        }
    )
    if view.user_data is not None:
        root["user-data"] = view.user_data
    return root


def _metadata(view: InstanceView) -> Tree:
    tree: dict[str, Any] = {
        "ami-id": view.image_id,
        "ami-launch-index": str(view.launch_index),
        "ami-manifest-path": "(unknown)",
        "block-device-mapping": {
            "ami": view.root_device_name.removeprefix("/dev/"),
            **{f"ebs{number}": name.removeprefix("/dev/") for number, name in enumerate(view.block_devices, 1)},
            "root": view.root_device_name,
        },
        "hostname": view.hostname,
        "instance-action": "none",
        "instance-id": view.instance_id,
        "instance-life-cycle": view.lifecycle,
        "instance-type": view.instance_type,
        "local-hostname": view.hostname,
        "local-ipv4": view.private_ip,
        "mac": view.mac,
        "network": {"interfaces": {"macs": {view.mac: _interface(view)}}},
        "placement": {
            "availability-zone": view.availability_zone,
            "availability-zone-id": view.availability_zone_id,
            "region": view.region,
        },
        "profile": "default-hvm",
        "reservation-id": view.reservation_id,
        "security-groups": "\n".join(view.security_groups.values()),
        "services": {"domain": "amazonaws.com", "partition": "aws"},
        "system": "nitro",
    }
    if view.target_lifecycle_state is not None:
        tree["autoscaling"] = {"target-lifecycle-state": view.target_lifecycle_state}
    if view.public_ip is not None:
        tree["public-ipv4"] = view.public_ip
        tree["public-hostname"] = view.public_hostname or ""
    if view.key_name is not None and view.public_key is not None:
        tree["public-keys"] = _Listed({"0": {"openssh-key": view.public_key}}, {"0": view.key_name})
    if view.profile is not None:
        tree["iam"] = _iam(view.profile)
    if view.tags_in_metadata:
        # Such keys are refused on AWS where tags are in the metadata.
        tree["tags"] = {"instance": {key: value for key, value in view.tags.items() if "/" not in key}}
    return tree


def _interface(view: InstanceView) -> Tree:
    interface = {
        "device-number": "0",
        "interface-id": view.interface_id,
        "local-hostname": view.hostname,
        "local-ipv4s": view.private_ip,
        "mac": view.mac,
        "owner-id": view.account_id,
        "security-group-ids": "\n".join(view.security_groups),
        "security-groups": "\n".join(view.security_groups.values()),
        "subnet-id": view.subnet_id,
        "subnet-ipv4-cidr-block": view.subnet_cidr,
        "vpc-id": view.vpc_id,
        "vpc-ipv4-cidr-block": view.vpc_cidr,
        "vpc-ipv4-cidr-blocks": view.vpc_cidr,
    }
    if view.public_ip is None:
        return interface
    return {
        **interface,
        "public-hostname": view.public_hostname or "",
        "public-ipv4s": view.public_ip,
        "ipv4-associations": {view.public_ip: view.private_ip},
    }


def _iam(profile: InstanceProfileView) -> Tree:
    credentials = profile.credentials
    issued = f"{credentials.issued:%Y-%m-%dT%H:%M:%SZ}"
    info = {
        "Code": "Success",
        "LastUpdated": issued,
        "InstanceProfileArn": profile.arn,
        "InstanceProfileId": profile.profile_id,
    }
    secret = {
        "Code": "Success",
        "LastUpdated": issued,
        "Type": "AWS-HMAC",
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "Token": credentials.session_token,
        "Expiration": f"{credentials.expiration:%Y-%m-%dT%H:%M:%SZ}",
    }
    return {
        "info": json.dumps(info, indent=2),
        "security-credentials": {profile.role_name: json.dumps(secret, indent=2)},
    }


def _identity_document(view: InstanceView) -> str:
    document = {
        "accountId": view.account_id,
        "architecture": view.architecture,
        "availabilityZone": view.availability_zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "marketplaceProductCodes": None,
        "imageId": view.image_id,
        "instanceId": view.instance_id,
        "instanceType": view.instance_type,
        "kernelId": None,
        "pendingTime": f"{view.launched:%Y-%m-%dT%H:%M:%SZ}",
        "privateIp": view.private_ip,
        "ramdiskId": None,
        "region": view.region,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)
