"""The tables that some variables of the cluster modules are lists of; their keys have Terraform's names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Fault = tuple[str, str, str]
"""An input, what was found in it, and what is right."""

LAUNCHING, TERMINATING = "autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING"
VOLUME_TYPES = ("standard", "gp2", "gp3", "io1", "io2", "sc1", "st1")
"""https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsBlockDevice.html"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """A tag of the auto scaling group, and of its instances and their volumes where it is propagated."""

    key: str
    value: str
    propagate_at_launch: bool = True

    def faults(self) -> Iterator[Fault]:
        """Tell which keys AWS would refuse."""
        if not 0 < len(self.key) <= 128 or self.key.lower().startswith("aws:"):
            yield "key", repr(self.key), "1 to 128 characters that do not begin with aws:"
        if len(self.value) > 256:
            yield "value", f"{len(self.value)} characters", "at most 256"


@dataclass(frozen=True, kw_only=True, slots=True)
class LifecycleHook:
    """Something that an instance waits for when it is launched, or before it is terminated.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LifecycleHookSpecification.html
    """

    name: str
    lifecycle_transition: str
    default_result: str = "ABANDON"
    """What happens when nobody answers in time: ABANDON or CONTINUE."""
    heartbeat_timeout: int = 3600
    """In seconds."""
    notification_metadata: str = ""
    notification_target_arn: str = ""
    role_arn: str = ""

    def faults(self) -> Iterator[Fault]:
        """Tell which keys AWS would refuse."""
        if not 0 < len(self.name) <= 255:
            yield "name", repr(self.name), "1 to 255 characters"
        if self.lifecycle_transition not in (LAUNCHING, TERMINATING):
            yield "lifecycle_transition", repr(self.lifecycle_transition), f'"{LAUNCHING}" or "{TERMINATING}"'
        if self.default_result not in ("ABANDON", "CONTINUE"):
            yield "default_result", repr(self.default_result), '"ABANDON" or "CONTINUE"'
        if not 30 <= self.heartbeat_timeout <= 7200:
            yield "heartbeat_timeout", str(self.heartbeat_timeout), "30 to 7200 seconds"
        if bool(self.notification_target_arn) != bool(self.role_arn):
            yield (
                "role_arn",
                repr(self.role_arn),
                "a role that may write to notification_target_arn, or neither of both",
            )

    def specification(self) -> dict[str, Any]:
        """Write it as the AWS API wants it."""
        optional = {
            "NotificationMetadata": self.notification_metadata,
            "NotificationTargetARN": self.notification_target_arn,
            "RoleARN": self.role_arn,
        }
        return {
            "LifecycleHookName": self.name,
            "LifecycleTransition": self.lifecycle_transition,
            "DefaultResult": self.default_result,
            "HeartbeatTimeout": self.heartbeat_timeout,
            **{key: value for key, value in optional.items() if value},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class EbsBlockDevice:
    """A volume besides the root; what is 0 or empty is left to AWS.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsBlockDevice.html
    """

    device_name: str
    volume_type: str = ""
    volume_size: int = 0
    """In GiB."""
    snapshot_id: str = ""
    iops: int = 0
    throughput: int = 0
    """In MiB/s."""
    delete_on_termination: bool = True
    encrypted: bool = False

    def faults(self) -> Iterator[Fault]:
        """Tell which keys AWS would refuse."""
        if not self.device_name.startswith("/dev/"):
            yield "device_name", repr(self.device_name), "a device such as /dev/sdf"
        if self.volume_type not in ("", *VOLUME_TYPES):
            yield "volume_type", repr(self.volume_type), f"one of {', '.join(VOLUME_TYPES)}"
        if self.volume_size < 0 or not (self.volume_size or self.snapshot_id):
            yield "volume_size", str(self.volume_size), "a size in GiB, or a snapshot_id that has one"
        if self.volume_type in ("io1", "io2") and self.iops <= 0:
            yield "iops", str(self.iops), f"a number for a volume of type {self.volume_type}"

    def mapping(self) -> dict[str, Any]:
        """Write it as the AWS API wants it."""
        optional = {
            "VolumeType": self.volume_type,
            "VolumeSize": self.volume_size,
            "SnapshotId": self.snapshot_id,
            "Iops": self.iops,
            "Throughput": self.throughput,
        }
        return {
            "DeviceName": self.device_name,
            "Ebs": {
                **{key: value for key, value in optional.items() if value},
                "DeleteOnTermination": self.delete_on_termination,
                "Encrypted": self.encrypted,
            },
        }
