"""moto's EC2, made to drive real machines; the other modules `api_...` have its parts.

moto has no official way to extend it, so `install` puts these classes where moto looks its own up by name. Its version
is pinned exactly for that reason. Each override says what AWS does where moto does otherwise.
"""

# moto has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import moto.autoscaling.models as autoscaling_models
import moto.ec2.models as ec2_models
import moto.ec2.models.amis as ami_models
import moto.ec2.models.elastic_network_interfaces as interface_models
import moto.ec2.models.instances as instance_models
import moto.iam.models as iam_models
from moto.backends import get_backend
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.base_backend import BackendDict
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import InstanceState
from moto.ec2.utils import filter_iam_instance_profiles, random_ami_id

from nomad_testkit.ec2.api.authorization import authorize_action, authorize_s3
from nomad_testkit.ec2.api.autoscaling import CloudAutoScalingBackend, CloudAutoScalingGroup
from nomad_testkit.ec2.api.hardware import Hardware
from nomad_testkit.ec2.api.iam import CloudIamBackend
from nomad_testkit.ec2.api.launch_request import LaunchRequest
from nomad_testkit.ec2.api.resources import CloudAmi, CloudInstance, CloudInterface
from nomad_testkit.ec2.api.responses import CloudEc2Response
from nomad_testkit.ec2.api.security_groups import CheckedSecurityGroups
from nomad_testkit.ec2.credentials import new_secret_key
from nomad_testkit.ec2.machines.spec import MachineSpec
from nomad_testkit.ec2.vpc.names import API_SERVICES
from nomad_testkit.errors import Ec2Error, TestkitError

log = logging.getLogger(__name__)


class CloudEc2Backend(CheckedSecurityGroups, ec2_models.EC2Backend):
    """moto's EC2 over machines. `install` makes a subclass that has `hardware`."""

    hardware: Hardware

    def __init__(self, region_name: str, account_id: str) -> None:
        self.cut_power = False
        """Whether the request in progress does without the hosts' own shutdown."""
        self.tenancy: str | None = None
        """What the request in progress asks for besides what moto reads."""
        super().__init__(region_name, account_id)

    @property
    def _url_module(self) -> Any:
        from moto.ec2 import urls

        return SimpleNamespace(url_bases=urls.url_bases, url_paths={"{0}/": CloudEc2Response.dispatch})

    def _load_amis(self) -> None:
        # moto's own AMIs have no disk behind them.
        for record in self.hardware.images:
            self.amis[record.image_id] = CloudAmi(
                self,
                record.image_id,
                name=record.name,
                description=record.description,
                architecture=record.architecture,
                root_device_name=record.root_device_name,
                owner_id=record.owner_id or None,
                region_name=f"{self.region_name}a",
            )

    def free_address(self, subnet_id: str) -> str:
        """Take a free private address of a subnet."""
        subnet = self.get_subnet(subnet_id)
        taken = {eni.private_ip_address for eni in self.enis.values()} | subnet._subnet_ips.keys()
        address = self.hardware.take_address(subnet.cidr, taken)
        if address is None:
            raise EC2ClientError(
                "InsufficientFreeAddressesInSubnet",
                f"There are not enough free addresses in subnet '{subnet_id}' "
                "to satisfy the requested number of instances.",
            )
        return address

    def profile_of(self, profile: dict[str, str]) -> Any:
        """Give an instance profile by its Name or Arn; None where neither is there."""
        name, arn = profile.get("Name"), profile.get("Arn")
        if not name and not arn:
            return None
        try:
            return filter_iam_instance_profiles(self.account_id, self.partition, arn, name)
        except Exception as error:
            part = "name" if name else "arn"
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Value ({name or arn}) for parameter iamInstanceProfile.{part} is invalid. "
                f"Invalid IAM Instance Profile {part if name else 'ARN'}",
            ) from error

    def associate_iam_instance_profile(self, instance_id: str, *args: Any, **kwargs: Any) -> Any:
        association = super().associate_iam_instance_profile(instance_id, *args, **kwargs)
        profile = association.iam_instance_profile
        association.instance.iam_instance_profile = {"Arn": profile.arn, "Id": profile.id}
        return association

    def create_launch_template(self, name: str, description: str, template_data: Any, tag_spec: Any) -> Any:
        LaunchRequest.check_user_data(template_data.get("UserData"))
        return super().create_launch_template(name, description, template_data, tag_spec)

    def run_instances(
        self, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
    ) -> Any:
        template = kwargs.get("launch_template")
        data = self._get_template_from_args(template).data if template else {}
        request = LaunchRequest.merge(image_id, user_data, security_group_names, kwargs, data)
        image = self._launchable(request.image_id)
        if request.key_name and request.key_name not in self.key_pairs:
            raise EC2ClientError("InvalidKeyPair.NotFound", f"The key pair '{request.key_name}' does not exist")
        kwargs["instance_type"] = request.instance_type
        if request.instance_type not in INSTANCE_TYPES:
            raise EC2ClientError("InvalidParameterValue", f"Invalid value '{request.instance_type}' for InstanceType.")
        profile = self.profile_of(request.profile)
        subnet = self._subnet_of(request)
        if not subnet.cidr.subnet_of(self.hardware.private_block):
            raise EC2ClientError(
                "Unsupported",
                f"Subnet {subnet.id} is {subnet.cidr}: there are hosts in {self.hardware.private_block} only",
            )
        request.check_address(subnet, count)
        if not request.security_group_names and not request.security_group_ids:
            request.security_group_ids.append(self.get_default_security_group(subnet.vpc_id).id)
        tenancy, self.tenancy = self.tenancy or request.tenancy, None
        reservation = super().run_instances(
            request.image_id,
            count,
            request.user_data,
            request.security_group_names,
            **request.arguments(kwargs, subnet_id=subnet.id, zone=subnet.availability_zone),
            block_device_mappings=request.block_devices(image),
        )
        # What the request itself names, moto associates with its first instance when we return.
        by_moto = 1 if kwargs.get("iam_instance_profile_name") or kwargs.get("iam_instance_profile_arn") else 0
        for instance in reservation.instances[by_moto:] if profile else ():
            self.associate_iam_instance_profile(instance.id, iam_instance_profile_arn=profile.arn)
        for instance in reservation.instances:
            instance.placement.tenancy = tenancy
            for device in instance.block_device_mapping.values():
                self.get_volume(device.volume_id).add_tags(request.volume_tags)
            for interface in instance.nics.values():
                interface.add_tags(request.interface_tags)
            self._launch(instance)
        return reservation

    def _launchable(self, image_id: str | None) -> CloudAmi:
        if not image_id:
            raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
        if not image_id.startswith("ami-"):
            raise EC2ClientError("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-...")')
        image = self.amis.get(image_id)
        if image is None:
            raise EC2ClientError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        if image.state != "available" or not self.hardware.machines.has_image(image_id):
            raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
        return image  # type: ignore[no-any-return]

    def _subnet_of(self, request: LaunchRequest) -> Any:
        if request.interface_id:
            return self.get_network_interface(request.interface_id).subnet
        if request.subnet_id:
            return self.get_subnet(request.subnet_id)
        subnets = self.get_default_subnets()
        zone = request.zone or min(subnets, default=None)
        if zone not in subnets:
            raise EC2ClientError("MissingInput", f"No default subnet for availability zone: '{zone}'.")
        return subnets[zone]

    def _launch(self, instance: CloudInstance) -> None:
        nic = instance.nics[0]
        root = instance.block_device_mapping[instance.root_device_name]
        spec = MachineSpec(
            instance_id=instance.id,
            image_id=instance.image_id,
            private_ip=nic.private_ip_address,
            subnet_cidr=nic.subnet.cidr_block,
            mac=nic.mac_address,
            hostname=instance.private_dns_name,
            root_volume_gib=int(root.size),
        )
        try:
            self.hardware.machines.launch(spec)
        except TestkitError as error:
            log.exception("%s could not be launched", instance.id)
            instance.gone(f"Server.InternalError: {error}")

    def _in_states(self, instance_ids: list[str], states: tuple[str, ...], what: str) -> list[CloudInstance]:
        instances: list[CloudInstance] = self.get_multi_instances_by_id(instance_ids)
        for instance in instances:
            if instance.state not in states:
                raise EC2ClientError(
                    "IncorrectInstanceState",
                    f"The instance '{instance.id}' is not in a state from which it can be {what}.",
                )
        return instances

    def start_instances(self, instance_ids: list[str]) -> list[tuple[CloudInstance, InstanceState]]:
        done = []
        for instance in self._in_states(instance_ids, ("stopped", "pending", "running"), "started"):
            previous = instance.instance_state
            if instance.state == "stopped":
                for nic in instance.nics.values():
                    nic.start()
                instance.enter("pending", code="pending", text="pending")
                self.hardware.machines.start(instance.id)
            done.append((instance, previous))
        return done

    def stop_instances(self, instance_ids: list[str]) -> list[tuple[CloudInstance, InstanceState]]:
        force, self.cut_power = self.cut_power, False
        instances = self._in_states(instance_ids, ("running", "stopping", "stopped"), "stopped")
        for instance in instances:
            if instance.disable_api_stop:
                raise EC2ClientError(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be stopped. Modify its 'disableApiStop' instance attribute.",
                )
        done = []
        for instance in instances:
            previous = instance.instance_state
            if instance.state != "stopped":
                instance.enter_by_user("stopping")
                self.hardware.machines.stop(instance.id, force=force)
            done.append((instance, previous))
        return done

    def terminate_instances(self, instance_ids: list[str]) -> list[tuple[CloudInstance, InstanceState]]:
        force, self.cut_power = self.cut_power, False
        if not instance_ids:
            raise EC2ClientError("InvalidParameterCombination", "No instances specified")
        instances: list[CloudInstance] = self.get_multi_instances_by_id(instance_ids)
        for instance in instances:
            if instance.disable_api_termination:
                raise EC2ClientError(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be terminated. "
                    "Modify its 'disableApiTermination' instance attribute and try again.",
                )
        done = []
        for instance in instances:
            previous = instance.instance_state
            if instance.state != "terminated":
                instance.enter_by_user("shutting-down")
                self.hardware.machines.terminate(instance.id, force=force)
            done.append((instance, previous))
        return done

    def reboot_instances(self, instance_ids: list[str]) -> list[CloudInstance]:
        instances = self._in_states(instance_ids, ("running",), "rebooted")
        for instance in instances:
            self.hardware.machines.reboot(instance.id)
        return instances

    def modify_instance_metadata_options(self, instance_id: str, **changes: Any) -> Any:
        # What a request does not name stays as it is; moto sets it back to its default.
        options = self.get_instance(instance_id).metadata_options
        kept = {
            "http_tokens": options.http_tokens,
            "hop_limit": options.http_put_response_hop_limit,
            "http_endpoint": options.http_endpoint,
            "http_protocol": options.http_protocol_ipv6,
            "metadata_tags": options.instance_metadata_tags,
        }
        changed = {name: value for name, value in changes.items() if value is not None}
        return super().modify_instance_metadata_options(instance_id, **{**kept, **changed})

    def create_image(
        self,
        instance_id: str,
        name: str,
        description: str,
        tag_specifications: list[dict[str, Any]],
        *,
        no_reboot: bool = False,
    ) -> CloudAmi:
        (instance,) = self._in_states([instance_id], ("running", "stopped", "stopping"), "imaged")
        for other in self.amis.values():
            if other.name == name:
                raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {other.id}")
        image = CloudAmi(
            self,
            random_ami_id(),
            instance=instance,
            name=name,
            description=description,
            state="pending",
            root_device_name=instance.root_device_name,
            region_name=instance.placement.zone,
            volume_size=int(instance.block_device_mapping[instance.root_device_name].size),
            snapshot_description=f"Created by CreateImage({instance_id})",
        )
        for specification in tag_specifications:
            target = image.ebs_snapshot if specification["ResourceType"] == "snapshot" else image
            target.add_tags({tag["Key"]: tag["Value"] for tag in specification["Tags"]})
        self.amis[image.id] = image
        # As on AWS the instance is shut down for its image, and started again; its state says nothing of it.
        if instance.state == "stopping" or (instance.state == "running" and not no_reboot):
            instance.images_to_make.append(image)
            if instance.state == "running" and len(instance.images_to_make) == 1:
                self.hardware.machines.stop(instance.id, force=False)
        else:
            self.make_images(instance, [image])
        return image

    def make_images(self, instance: CloudInstance, images: list[CloudAmi], *, restart: bool = False) -> None:
        """Make images of a disk in a thread, then boot its machine again if `restart`."""

        def work() -> None:
            for image in images:
                try:
                    self.hardware.machines.snapshot(instance.id, image.id)
                except (TestkitError, OSError) as error:
                    log.exception("no image of %s", instance.id)
                    with self.hardware.lock:
                        image.fail(str(error))
                else:
                    with self.hardware.lock:
                        image.state = "available"
            with self.hardware.lock:
                if restart and instance.state == "running":
                    self.hardware.machines.start(instance.id)
                elif restart and instance.state == "stopping":
                    instance.enter_by_user("stopped")

        threading.Thread(target=work, name=f"image of {instance.id}", daemon=True).start()

    def deregister_image(self, ami_id: str) -> None:
        super().deregister_image(ami_id)
        self.hardware.machines.forget_image(ami_id)

    def _delete_security_group(self, vpc_id: str | None, group_id: str) -> None:
        used = any(group.id == group_id for eni in self.enis.values() for group in eni.group_set)
        others = (group for groups in self.groups.values() for group in groups.values() if group.id != group_id)
        named = any(
            rule.source_group.get("GroupId") == group_id
            for other in others
            for rule in (*other.ingress_rules, *other.egress_rules)
        )
        if used or named:
            raise EC2ClientError("DependencyViolation", f"resource {group_id} has a dependent object")
        super()._delete_security_group(vpc_id, group_id)


_installed = threading.Lock()


def _forget_backends() -> None:
    # moto's own reset makes each backend anew before it drops it, and so one backend brings another back: that one
    # then lives on without being listed.
    for backends in [*BackendDict._instances, *(get_backend(service) for service in API_SERVICES)]:
        backends.clear()
    BackendDict._instances.clear()


@contextlib.contextmanager
def install(hardware: Hardware) -> Iterator[None]:
    """Put these classes in moto's places; at the end, moto's own are back and everything is forgotten.

    Raises Ec2Error for a second at a time: moto's state belongs to the process.
    """
    if not _installed.acquire(blocking=False):
        raise Ec2Error("this process has a cloud API already; close it before another is made")
    backend = type("InstalledEc2Backend", (CloudEc2Backend,), {"hardware": hardware})
    places = [
        (instance_models, "Instance", CloudInstance),
        (interface_models, "NetworkInterface", CloudInterface),
        (ami_models, "Ami", CloudAmi),
        (autoscaling_models, "FakeAutoScalingGroup", CloudAutoScalingGroup),
        (iam_models, "random_alphanumeric", new_secret_key),  # moto's secrets can be guessed
        (ActionAuthenticatorMixin, "_authenticate_and_authorize_normal_action", authorize_action),
        (ActionAuthenticatorMixin, "_authenticate_and_authorize_s3_action", authorize_s3),
        (ec2_models.ec2_backends, "backend", backend),
        (iam_models.iam_backends, "backend", CloudIamBackend),
        (autoscaling_models.autoscaling_backends, "backend", CloudAutoScalingBackend),
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    try:
        _forget_backends()
        for place, name, ours in places:
            setattr(place, name, ours)
        yield
    finally:
        for place, name, original in before:
            setattr(place, name, original)
        _forget_backends()
        _installed.release()
