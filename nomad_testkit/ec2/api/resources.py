"""What a cloud is made of, over moto's: instances, their interfaces, and images."""

# moto has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import ipaddress
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import Instance, InstanceState, StateReason

from nomad_testkit.ec2.api.launch_request import LaunchRequest, split_reason
from nomad_testkit.ec2.vpc.names import private_hostname

_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class CloudInterface(NetworkInterface):
    """A network interface whose addresses follow from its private one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_auto_public_ip()  # moto asks before it has chosen a private address
        octets = ipaddress.IPv4Address(self.private_ip_address).packed
        self.mac_address = ":".join(f"{octet:02x}" for octet in (0x0A, 0xFF, *octets))

    def check_auto_public_ip(self) -> None:
        if self.public_ip_auto_assign and self.private_ip_address:
            self.public_ip = self.ec2_backend.hardware.public_address(self.private_ip_address)

    @property
    def network_interface_id(self) -> str:
        return str(self.id)

    @property
    def group_set(self) -> list[Any]:
        return list(dict.fromkeys(self._group_set))


class CloudInstance(Instance):
    """An instance whose states follow its machine's."""

    def __init__(self, ec2_backend: Any, image_id: str, user_data: Any, security_groups: Any, **kwargs: Any) -> None:
        self.reachable: bool | None = None
        self.has_served = False
        """Whether its sshd has ever answered."""
        self.credentials: Any = None
        self.images_to_make: list[CloudAmi] = []
        self.nics: dict[int, CloudInterface] = {}
        self._state: InstanceState
        if not kwargs.get("private_ip") and not LaunchRequest.chooses_address(kwargs.get("nics") or []):
            kwargs["private_ip"] = ec2_backend.free_address(kwargs["subnet_id"])
        self._asked = {device["DeviceName"]: device["Ebs"] for device in kwargs.get("block_device_mappings") or []}
        super().__init__(ec2_backend, image_id, user_data, security_groups, **kwargs)
        asked = {int(nic.get("DeviceIndex", 0)): nic for nic in kwargs.get("nics") or []}
        for index, nic in self.nics.items():
            # On AWS what a launch creates ends with the instance, unless it says otherwise.
            nic.delete_on_termination = bool(asked.get(index, {}).get("DeleteOnTermination", index == 0))
        self.enter("pending", code="pending", text="pending")

    def enter(self, state: str, *, code: str = "", text: str = "", transition: str = "") -> InstanceState:
        """Go into a state; returns the one before."""
        previous = self._state
        self._state = InstanceState(state, _CODES[state])
        self.state_reason = StateReason(text, code) if code else None
        self._reason = transition
        return previous

    def enter_by_user(self, state: str) -> InstanceState:
        """Go into a state that the user asked for."""
        return self.enter(
            state,
            code="Client.UserInitiatedShutdown",
            text="Client.UserInitiatedShutdown: User initiated shutdown",
            transition=f"User initiated ({utcnow():%Y-%m-%d %H:%M:%S GMT})",
        )

    def enter_by_itself(self, state: str, reason: str) -> None:
        """Go into a state that nobody asked for."""
        code, text = split_reason(reason)
        self.enter(state, code=code, text=f"{code}: {text}", transition=code)

    def setup_defaults(self) -> None:
        """Make no volume: `CloudEc2Backend.run_instances` always names the root volume."""

    def add_block_device(
        self,
        size: int | None,
        device_path: str,
        snapshot_id: str | None,
        encrypted: bool,
        delete_on_termination: bool,
        kms_key_id: str | None,
        volume_type: str | None,
    ) -> None:
        # moto leaves out what faster volumes need.
        asked = self._asked.get(device_path, {})
        volume = self.ec2_backend.create_volume(
            size=size,
            zone_name=self.placement.zone,
            snapshot_id=snapshot_id,
            encrypted=encrypted,
            kms_key_id=kms_key_id,
            volume_type=volume_type,
            iops=asked.get("Iops"),
            throughput=asked.get("Throughput"),
        )
        self.ec2_backend.attach_volume(volume.id, self.id, device_path, delete_on_termination)

    def gone(self, reason: str | None) -> None:
        """Become terminated, and release all that was held."""
        before, reason_before, transition = self._state.name, self.state_reason, self._reason
        subnet = self.ec2_backend.get_subnet(self.subnet_id)
        super().terminate()
        for address in self._private_ips:
            subnet.del_subnet_ip(address)
        self._private_ips.clear()
        self.nics = {}
        self.security_groups = []
        self._subnet_id = None
        if before == "shutting-down":
            self.state_reason, self._reason = reason_before, transition
        else:
            self.enter_by_itself("terminated", reason or "Server.InternalError: The machine is gone")

    @property
    def security_groups(self) -> list[Any]:
        # An instance has the groups of its first interface.
        return self.nics[0].group_set if 0 in self.nics else self._groups

    @security_groups.setter
    def security_groups(self, groups: list[Any]) -> None:
        if 0 in self.nics:
            self.nics[0]._group_set = list(groups)
        else:
            self._groups = list(groups)

    @property
    def subnet_id(self) -> str | None:
        return self._subnet_id or (self.nics[0].subnet.id if 0 in self.nics else None)

    @property
    def private_ip(self) -> str | None:
        # A terminated instance has no addresses.
        return self.nics[0].private_ip_address if 0 in self.nics else None

    private_ip_address = private_ip

    @property
    def private_dns_name(self) -> str:
        return private_hostname(self.private_ip, self.region_name) if self.private_ip else ""

    @property
    def public_ip(self) -> str | None:
        return self.nics[0].public_ip if 0 in self.nics else None

    public_ip_address = public_ip

    @property
    def instance_status(self) -> dict[str, Any]:
        return self._status(failing=self.reachable is False)

    @property
    def system_status(self) -> dict[str, Any]:
        return self._status(failing=False)

    def _status(self, *, failing: bool) -> dict[str, Any]:
        if self.state != "running":
            return {"Status": "not-applicable"}
        if self.reachable is None:
            status, detail = "initializing", "initializing"
        else:
            status, detail = ("impaired", "failed") if failing else ("ok", "passed")
        return {"Status": status, "Details": [{"Name": "reachability", "Status": detail}]}


class CloudAmi(Ami):
    """An AMI whose root is an EBS volume; moto's say `standard`, which Packer refuses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.volume_size: int = kwargs.pop("volume_size", 8)
        self.state_reason: StateReason | None = None
        self.ena_support = True
        self.hypervisor: str | None
        self.image_location: str | None
        self.platform_details = "Linux/UNIX"
        super().__init__(*args, **{**kwargs, "root_device_type": "ebs"})
        self.hypervisor = self.hypervisor or "xen"
        self.virtualization_type = "hvm"
        self.image_location = self.image_location or f"{self.owner_id}/{self.name}"

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        ebs = {
            "SnapshotId": self.ebs_snapshot.id,
            "VolumeSize": self.volume_size,
            "VolumeType": "gp3",
            "DeleteOnTermination": True,
            "Encrypted": False,
        }
        return [{"DeviceName": self.root_device_name, "Ebs": ebs}]

    def fail(self, why: str) -> None:
        """Become failed."""
        self.state = "failed"
        self.state_reason = StateReason(f"Server.InternalError: {why}", "Server.InternalError")
