"""All machines of a cloud, as its API drives them."""

from __future__ import annotations

from nomad_testkit.ec2.machines.layers import ImageStore
from nomad_testkit.ec2.machines.machine import Cloud, Machine, Wish
from nomad_testkit.ec2.machines.spec import MachineSpec
from nomad_testkit.ec2.vpc.network import filter_hosts
from nomad_testkit.ec2.vpc.security_groups import SecurityGroups
from nomad_testkit.errors import MachineError


class NspawnMachines:
    """Implements `machine_spec.Machines` with hosts booted by systemd-nspawn."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images
        self._machines: dict[str, Machine] = {}
        self._cloud: Cloud | None = None

    def join(self, cloud: Cloud) -> None:
        """Give what the API, which needs this object first, has made."""
        self._cloud = cloud

    def launch(self, spec: MachineSpec) -> None:
        """Boot a new host; events tell how it goes."""
        assert self._cloud is not None
        machine = Machine(spec, self._images.layers(spec.image_id), self._cloud)
        self._machines[spec.instance_id] = machine
        machine.start()

    def start(self, instance_id: str) -> None:
        """Boot a stopped host from its disk."""
        self._machine(instance_id).start()

    def stop(self, instance_id: str, *, force: bool) -> None:
        """Shut a host down, or with `force` cut its power; its disk stays."""
        self._machine(instance_id).end(Wish.STOP, force=force)

    def reboot(self, instance_id: str) -> None:
        """Restart a host."""
        self._machine(instance_id).end(Wish.REBOOT, force=False)

    def terminate(self, instance_id: str, *, force: bool) -> None:
        """Shut a host down, or with `force` cut its power, and remove its disk."""
        self._machine(instance_id).end(Wish.TERMINATE, force=force)

    def snapshot(self, instance_id: str, image_id: str) -> None:
        """Make an image of a host's disk; returns when it is done. Raises ImageError."""
        machine = self._machine(instance_id)
        with machine.still():
            self._images.add(
                image_id, machine.disk, machine.spec.image_id, certificate=machine.certificate, base=machine.base
            )

    def console(self, instance_id: str) -> str:
        """Give the end of a host's console."""
        return self._machine(instance_id).console()

    def has_image(self, image_id: str) -> bool:
        """Whether hosts can be booted from this image."""
        return self._images.has(image_id)

    def forget_image(self, image_id: str) -> None:
        """Forget an image."""
        self._images.forget(image_id)

    def protect(self, groups: SecurityGroups) -> None:
        """Bring security groups into force. Raises Ec2Error."""
        filter_hosts(groups.ruleset())

    def _machine(self, instance_id: str) -> Machine:
        try:
            return self._machines[instance_id]
        except KeyError:
            raise MachineError(f"there is no machine {instance_id}") from None
