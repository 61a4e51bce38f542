"""Requests to EC2 with parameters that moto does not read."""

# moto has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import logging

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response
from moto.ec2.utils import parse_user_data, random_ami_id

from nomad_testkit.ec2.api.launch_request import LaunchRequest
from nomad_testkit.ec2.api.resources import CloudAmi
from nomad_testkit.errors import TestkitError

log = logging.getLogger(__name__)


class CloudEc2Response(EC2Response):
    """The requests with parameters that moto does not read."""

    def run_instances(self) -> ActionResult:
        # AWS launches as many as it can, up to MaxCount; moto launches MinCount.
        self.params["MinCount"] = self._get_param("MaxCount") or self._get_param("MinCount") or 1
        self.ec2_backend.profile_of(self._get_param("IamInstanceProfile", {}))
        self.ec2_backend.tenancy = self._get_param("Placement.Tenancy")
        return super().run_instances()

    def stop_instances(self) -> ActionResult:
        self.ec2_backend.cut_power = self._without_os_shutdown()
        return super().stop_instances()

    def terminate_instances(self) -> ActionResult:
        self.ec2_backend.cut_power = self._without_os_shutdown()
        return super().terminate_instances()

    def _without_os_shutdown(self) -> bool:
        return any(self._get_bool_param(name, False) for name in ("Force", "SkipOsShutdown"))

    def detach_volume(self) -> ActionResult:
        # AWS takes the instance that a volume is attached to where none is named; moto asks for one.
        volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
        asked = self._get_param("InstanceId")
        if not asked and volume.attachment is None:
            raise EC2ClientError("IncorrectState", f"Volume '{volume.id}' is in the 'available' state.")
        instance_id = asked or volume.attachment.instance.id
        self.error_on_dryrun()
        attachment = self.ec2_backend.detach_volume(volume.id, instance_id, self._get_param("Device"))
        return ActionResult(
            {
                "VolumeId": attachment.volume.id,
                "InstanceId": attachment.instance.id,
                "Device": attachment.device,
                "State": "detaching",
                "AttachTime": attachment.attach_time,
            }
        )

    def create_image(self) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.create_image(
            self._get_param("InstanceId"),
            self._get_param("Name"),
            self._get_param("Description", ""),
            tag_specifications=self._get_param("TagSpecifications", []),
            no_reboot=self._get_bool_param("NoReboot", False),
        )
        return ActionResult({"ImageId": image.id})

    def register_image(self) -> ActionResult:
        image = CloudAmi(
            self.ec2_backend,
            random_ami_id(),
            name=self._get_param("Name"),
            description=self._get_param("Description", ""),
            architecture=self._get_param("Architecture", "x86_64"),
            root_device_name=self._get_param("RootDeviceName", "/dev/sda1"),
            region_name=f"{self.region}a",
        )
        self.ec2_backend.amis[image.id] = image  # without a disk: it can be described, and not be launched
        return ActionResult({"ImageId": image.id})

    def associate_iam_instance_profile(self) -> ActionResult:
        if self.ec2_backend.profile_of(self._get_param("IamInstanceProfile", {})) is None:
            raise _missing("IamInstanceProfile")
        return super().associate_iam_instance_profile()

    def modify_security_group_rules(self) -> ActionResult:
        for rule in self._get_param("SecurityGroupRules", []):
            if "SecurityGroupRule" not in rule:
                raise _missing("SecurityGroupRule")
        return super().modify_security_group_rules()

    def create_launch_template_version(self) -> ActionResult:
        if not self._get_param("LaunchTemplateId") and not self._get_param("LaunchTemplateName"):
            raise _missing("LaunchTemplateId or LaunchTemplateName")
        data = self._get_param("LaunchTemplateData", {})
        data["UserData"] = parse_user_data(data.get("UserData"))
        LaunchRequest.check_user_data(data["UserData"])
        return super().create_launch_template_version()

    def get_console_output(self) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        try:
            console = self.ec2_backend.hardware.machines.console(instance.id)
        except TestkitError as error:
            log.info("no console of %s: %s", instance.id, error)
            console = ""
        output = Base64EncodedString.from_raw_string(console)
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})


def _missing(parameter: str) -> EC2ClientError:
    """Refuse a request without a parameter that AWS needs, though the API's model does not, and boto3 neither."""
    return EC2ClientError("MissingParameter", f"The request must contain the parameter {parameter}")
