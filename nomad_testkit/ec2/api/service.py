"""The cloud's AWS API: EC2, Auto Scaling, IAM, STS and S3 by moto, with instances that are real machines."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from nomad_testkit.ec2.api.hardware import Hardware
from nomad_testkit.ec2.machines.spec import (
    ImageRecord,
    InstanceProfileView,
    InstanceView,
    Machines,
    RoleCredentials,
)
from nomad_testkit.ec2.vpc.names import API_SERVICES, api_names, public_hostname

if TYPE_CHECKING:
    from nomad_testkit.ec2.api.server import ApiServer
    from nomad_testkit.ec2.credentials import Credentials
    from nomad_testkit.ec2.vpc.security_groups import SecurityGroups
    from nomad_testkit.ec2.vpc.tls import CloudCa

log = logging.getLogger(__name__)

_CREDENTIALS_VALID = timedelta(hours=6)
_CREDENTIALS_RENEWED = timedelta(hours=1)
"""Time before their end at which an instance gets new credentials."""


@contextlib.contextmanager
def _no_aws_environment() -> Iterator[None]:
    """Hide the user's AWS settings from moto, which asks botocore for the list of regions."""
    for name in [name for name in os.environ if name.startswith("MOTO_")]:
        del os.environ[name]  # for good: moto reads some of them at each request
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    try:
        yield
    finally:
        del os.environ["AWS_CONFIG_FILE"], os.environ["AWS_SHARED_CREDENTIALS_FILE"]
        os.environ.update(hidden)


class CloudApi:
    """One region of one account; implements `machine_spec.MachineEvents`.

    A process can have one at a time. Raises Ec2Error for a second.
    """

    def __init__(
        self,
        *,
        region: str,
        public_block: ipaddress.IPv4Network,
        machines: Machines,
        images: Sequence[ImageRecord],
        credentials: Credentials,
    ) -> None:
        self._region = region
        self._hardware = Hardware(machines, public_block, tuple(images))
        self._lock = self._hardware.lock
        self._undo = contextlib.ExitStack()
        self._servers: list[ApiServer] = []
        self._in_force: SecurityGroups | None = None
        with _no_aws_environment():
            from moto.core import DEFAULT_ACCOUNT_ID

            from nomad_testkit.ec2.api.authorization import Authorizer
            from nomad_testkit.ec2.api.backend import install
            from nomad_testkit.ec2.api.principals import Principals
            from nomad_testkit.ec2.api.server import ApiApplication

            self._account = DEFAULT_ACCOUNT_ID
            self._undo.enter_context(install(self._hardware))
            self._warm_up()
            self._principals = Principals(self._iam, self._sts, region)
            self._principals.add_administrator(credentials)
            authorizer = Authorizer(self._account, region, self._ec2, self._groups, self._iam)
            self._application = ApiApplication(region, self._lock, self._principals, authorizer.decide)
        self._lock.settle = self._protect
        self._protect()

    def _warm_up(self) -> None:
        """Make the region, and load what the first requests would have to wait for."""
        from moto.autoscaling.models import autoscaling_backends
        from moto.core.utils import get_service_model
        from moto.ec2.models import ec2_backends
        from moto.iam.models import iam_backends
        from moto.sts.models import sts_backends

        self._ec2: Any = ec2_backends[self._account][self._region]
        self._groups: Any = autoscaling_backends[self._account][self._region]
        self._iam: Any = iam_backends[self._account]["aws"]
        self._sts: Any = sts_backends[self._account]["aws"]
        for service in API_SERVICES:
            get_service_model(service)

    def _protect(self) -> None:
        """Bring the security groups into force as they are now: whoever changes them holds the lock, and waits."""
        from nomad_testkit.ec2.api.security_groups import security_groups

        wanted = security_groups(self._ec2)
        if self._in_force is None or not wanted.adds_nothing_to(self._in_force):
            self._hardware.machines.protect(wanted)
            self._in_force = wanted

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports in use: for HTTP, then for HTTPS where that is served."""
        return tuple(server.port for server in self._servers)

    def serve(self, address: str, http_port: int = 80, https_port: int = 443, ca: CloudCa | None = None) -> None:
        """Serve over HTTP, and with a CA over HTTPS, in threads; port 0 is any free one. Raises Ec2Error."""
        from nomad_testkit.ec2.api.server import ApiServer

        self._hardware.reserved.add(address)
        self._servers.append(ApiServer(address, http_port, self._application))
        if ca is not None:
            names = [*api_names(self._region), f"*.s3.{self._region}.amazonaws.com", "*.s3.amazonaws.com"]
            self._servers.append(ApiServer(address, https_port, self._application, ca.server_context(names)))

    def close(self) -> None:
        """Stop serving and forget everything."""
        for server in self._servers:
            server.stop()
        self._servers.clear()
        with self._lock:
            for group in self._groups.autoscaling_groups.values():
                group.actions.close()
            self._lock.settle = lambda: None
        self._undo.close()

    # What the machines say.

    def running(self, instance_id: str) -> None:
        """Take an instance to `running`, unless it is on its way down; its status checks begin anew."""
        with self._lock:
            instance = self._ec2.get_instance_by_id(instance_id)
            if instance is None:
                return
            instance.reachable = None
            if instance.state == "pending":
                instance.enter("running")
            for state in self._membership(instance):
                instance.autoscaling_group.booted(state)

    def reachable(self, instance_id: str, ok: bool) -> None:
        """Set an instance's status checks."""
        with self._lock:
            instance = self._ec2.get_instance_by_id(instance_id)
            if instance is not None:
                instance.reachable = ok
                instance.has_served = instance.has_served or ok

    def stopped(self, instance_id: str, reason: str | None) -> None:
        """Take an instance to `stopped`, or make the images that waited for it."""
        with self._lock:
            instance = self._ec2.get_instance_by_id(instance_id)
            if instance is None or instance.state == "terminated":
                return
            for nic in instance.nics.values() if not instance.images_to_make else ():
                nic.stop()
            instance.reachable = None
            if instance.images_to_make:
                images, instance.images_to_make = instance.images_to_make, []
                self._ec2.make_images(instance, images, restart=True)
            elif instance.state == "stopping":
                instance.enter_by_user("stopped")
                self._unhealthy(instance)
            elif instance.state in ("pending", "running"):
                self._stopped_by_itself(instance, reason)

    def _stopped_by_itself(self, instance: Any, reason: str | None) -> None:
        why = reason or "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
        if instance.instance_initiated_shutdown_behavior == "terminate":
            instance.enter_by_itself("shutting-down", why)
            self._hardware.machines.terminate(instance.id, force=True)
        else:
            instance.enter_by_itself("stopped", why)
        self._unhealthy(instance)

    def terminated(self, instance_id: str, reason: str | None) -> None:
        """Take an instance to `terminated`, and release its addresses, volumes and interfaces."""
        with self._lock:
            instance = self._ec2.get_instance_by_id(instance_id)
            if instance is None or instance.state == "terminated":
                return
            for image in instance.images_to_make:
                image.fail("the instance was terminated")
            instance.images_to_make = []
            instance.gone(reason)
            self._unhealthy(instance)
            if group := getattr(instance, "autoscaling_group", None):
                group.actions.forget(instance.id)

    def _unhealthy(self, instance: Any) -> None:
        for _ in self._membership(instance):
            instance.autoscaling_group.look()

    def _membership(self, instance: Any) -> list[Any]:
        group = getattr(instance, "autoscaling_group", None)
        return [state for state in group.instance_states if state.instance is instance] if group else []

    def _target_state(self, instance: Any) -> str | None:
        states = [state.lifecycle_state for state in self._membership(instance)]
        return ("Terminated" if states[0].startswith("Terminating") else "InService") if states else None

    # What the metadata service and the resolver ask.

    def instance(self, private_ip: str) -> InstanceView | None:
        """Give the instance that has a private address, in any state but `terminated`."""
        with self._lock:
            for reservation in self._ec2.reservations.values():
                for instance in reservation.instances:
                    if instance.private_ip == private_ip:
                        return self._view(reservation, instance)
        return None

    def _view(self, reservation: Any, instance: Any) -> InstanceView:
        nic = instance.nics[0]
        key = self._ec2.key_pairs.get(instance.key_name)
        options = instance.metadata_options
        user_data = base64.b64decode(str(instance.user_data)) if instance.user_data is not None else b""
        return InstanceView(
            instance_id=instance.id,
            image_id=instance.image_id,
            launch_index=instance.ami_launch_index,
            reservation_id=reservation.id,
            instance_type=instance.instance_type,
            architecture=instance.architecture,
            lifecycle=instance.lifecycle or "on-demand",
            launched=instance.launch_time,
            account_id=self._account,
            region=self._region,
            availability_zone=nic.subnet.availability_zone,
            availability_zone_id=nic.subnet.availability_zone_id,
            hostname=instance.private_dns_name,
            private_ip=nic.private_ip_address,
            public_hostname=public_hostname(nic.public_ip, self._region) if nic.public_ip else None,
            public_ip=nic.public_ip,
            mac=nic.mac_address,
            interface_id=nic.id,
            subnet_id=nic.subnet.id,
            subnet_cidr=nic.subnet.cidr_block,
            vpc_id=nic.subnet.vpc_id,
            vpc_cidr=self._ec2.get_vpc(nic.subnet.vpc_id).cidr_block,
            security_groups={group.id: group.name for group in instance.security_groups},
            root_device_name=instance.root_device_name,
            block_devices=tuple(name for name in instance.block_device_mapping if name != instance.root_device_name),
            target_lifecycle_state=self._target_state(instance),
            key_name=instance.key_name,
            public_key=_openssh_line(key.material_public, key.key_name) if key else None,
            user_data=user_data or None,
            profile=self._profile(instance),
            tags={tag["key"]: tag["value"] for tag in instance.get_tags()},
            tags_in_metadata=options.instance_metadata_tags == "enabled",
            metadata_enabled=options.http_endpoint != "disabled",
            token_required=options.http_tokens == "required",
            hop_limit=options.http_put_response_hop_limit,
        )

    def _profile(self, instance: Any) -> InstanceProfileView | None:
        if not instance.iam_instance_profile:
            return None
        arn = instance.iam_instance_profile["Arn"]
        profile = next((each for each in self._iam.instance_profiles.values() if each.arn == arn), None)
        if profile is None or not profile.roles:
            return None
        role = profile.roles[0]
        return InstanceProfileView(arn, profile.id, role.name, self._credentials(instance, role.arn))

    def _credentials(self, instance: Any, role_arn: str) -> RoleCredentials:
        """Give an instance's own credentials for its role, new ones in time before the end of the old."""
        now = datetime.now(UTC)
        held: tuple[str, RoleCredentials] | None = instance.credentials
        if held and held[0] == role_arn and held[1].expiration - now > _CREDENTIALS_RENEWED:
            return held[1]
        role = self._sts.assume_role(
            region_name=self._region,
            role_session_name=instance.id,
            role_arn=role_arn,
            policy="",
            duration=int(_CREDENTIALS_VALID.total_seconds()),
            external_id="",
        )
        credentials = RoleCredentials(
            role.access_key_id, role.secret_access_key, role.session_token, now, now + _CREDENTIALS_VALID
        )
        instance.credentials = (role_arn, credentials)
        return credentials


def _openssh_line(material: bytes, name: str) -> str:
    """Give a public key as IMDS does: type, key, and the key pair's name as its comment."""
    kind, key, *_ = material.decode().split()
    return f"{kind} {key} {name}"
