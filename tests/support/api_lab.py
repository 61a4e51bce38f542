"""A cloud's API on machines that do what a test says, asked with boto3 over HTTP."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from nomad_testkit.ec2.api.service import CloudApi
from nomad_testkit.ec2.credentials import Credentials
from nomad_testkit.ec2.machines.spec import ImageRecord, InstanceView, MachineSpec
from nomad_testkit.ec2.vpc.security_groups import SecurityGroups
from nomad_testkit.ec2.vpc.tls import CloudCa
from nomad_testkit.errors import ImageError, MachineError

REGION = "us-east-1"
AMI = "ami-0123456789abcdef0"
CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "nobodys")
"""Of the cloud's maker; some tests have them in the environment."""
SESSION = boto3.Session()  # one for all, since it keeps the service models that it has read
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6rM3bq5nT0kJvFQ0l2mIYy6XH1o1ZxRj0mYJ0bqkVb someone@somewhere"


class FakeMachines:
    """Machines that note what is asked of them; the test fires the events."""

    def __init__(self) -> None:
        self.specs: dict[str, MachineSpec] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.images = {AMI}
        self.failing_snapshot = ""
        self.failing_launch = ""
        self.protected: list[SecurityGroups] = []

    def launch(self, spec: MachineSpec) -> None:
        if self.failing_launch:
            raise MachineError(self.failing_launch)
        self.specs[spec.instance_id] = spec
        self.asked.append(("launch", spec.instance_id))

    def stop(self, instance_id: str, *, force: bool) -> None:
        self.asked.append(("stop", instance_id, force))

    def start(self, instance_id: str) -> None:
        self.asked.append(("start", instance_id))

    def reboot(self, instance_id: str) -> None:
        self.asked.append(("reboot", instance_id))

    def terminate(self, instance_id: str, *, force: bool) -> None:
        self.asked.append(("terminate", instance_id, force))

    def snapshot(self, instance_id: str, image_id: str) -> None:
        if self.failing_snapshot:
            raise ImageError(self.failing_snapshot)
        self.asked.append(("snapshot", instance_id))
        self.images.add(image_id)

    def console(self, instance_id: str) -> str:
        return f"console of {instance_id}: ä\n"

    def has_image(self, image_id: str) -> bool:
        return image_id in self.images

    def forget_image(self, image_id: str) -> None:
        self.images.discard(image_id)

    def protect(self, groups: SecurityGroups) -> None:
        self.protected.append(groups)


class Lab:
    """A cloud API with fake machines and clients for it."""

    def __init__(self, api: CloudApi, machines: FakeMachines, ca: CloudCa) -> None:
        self.api, self.machines, self.ca = api, machines, ca
        self.ec2 = self.client("ec2")
        subnets = self.ec2.describe_subnets()["Subnets"]
        self.subnets = {subnet["SubnetId"]: subnet for subnet in subnets}
        self.three = sorted(self.subnets, key=lambda name: str(self.subnets[name]["AvailabilityZone"]))[:3]

    @cached_property
    def autoscaling(self) -> Any:
        return self.client("autoscaling")

    @cached_property
    def iam(self) -> Any:
        return self.client("iam")

    def client(self, service: str, region: str = REGION, **options: Any) -> Any:
        return SESSION.client(  # type: ignore[call-overload]
            service,
            region_name=region,
            endpoint_url=f"http://127.0.0.1:{self.api.ports[0]}",
            **{
                "aws_access_key_id": CREDENTIALS.access_key_id,
                "aws_secret_access_key": CREDENTIALS.secret_access_key,
                "config": Config(retries={"total_max_attempts": 1}, proxies={}),
                **options,
            },
        )

    def run(self, **request: Any) -> dict[str, Any]:
        request = {"ImageId": AMI, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, **request}
        instance: dict[str, Any] = self.ec2.run_instances(**request)["Instances"][0]
        return instance

    def running(self, **request: Any) -> str:
        instance_id = str(self.run(**request)["InstanceId"])
        self.api.running(instance_id)
        return instance_id

    def halted(self, instance_id: str, reason: str | None = None) -> None:
        """Stop an instance, and let its machine stop."""
        self.ec2.stop_instances(InstanceIds=[instance_id])
        self.api.stopped(instance_id, reason)

    def ended(self, instance_id: str) -> None:
        """Terminate an instance, and let its machine end."""
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.api.terminated(instance_id, None)

    def subnet(self, cidr: str, vpc: str | None = None) -> str:
        """Make a subnet, of the default VPC unless another is named."""
        vpc = vpc or self.subnets[self.three[0]]["VpcId"]
        return str(self.ec2.create_subnet(VpcId=vpc, CidrBlock=cidr)["Subnet"]["SubnetId"])

    def security_group(self, name: str) -> str:
        """Make a security group."""
        return str(self.ec2.create_security_group(GroupName=name, Description=name)["GroupId"])

    def instance(self, instance_id: str) -> dict[str, Any]:
        answer = self.ec2.describe_instances(InstanceIds=[instance_id])
        instance: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return instance

    def state(self, instance_id: str) -> str:
        return str(self.instance(instance_id)["State"]["Name"])

    def view(self, instance_id: str) -> InstanceView:
        view = self.api.instance(self.machines.specs[instance_id].private_ip)
        assert view is not None
        return view

    def template(self, **data: Any) -> str:
        made = self.ec2.create_launch_template(
            LaunchTemplateName=f"template-{len(self.ec2.describe_launch_templates()['LaunchTemplates'])}",
            LaunchTemplateData={"ImageId": AMI, "InstanceType": "t3.micro", **data},
        )
        return str(made["LaunchTemplate"]["LaunchTemplateId"])

    def group(self, template: str, size: int, **request: Any) -> dict[str, Any]:
        self.autoscaling.create_auto_scaling_group(
            **{
                "AutoScalingGroupName": "group",
                "LaunchTemplate": {"LaunchTemplateId": template},
                "MinSize": 0,
                "MaxSize": 20,
                "DesiredCapacity": size,
                "VPCZoneIdentifier": ",".join(self.three),
                **request,
            }
        )
        return self.described_group()

    def resize(self, size: int) -> None:
        """Set the size of the group."""
        self.autoscaling.set_desired_capacity(AutoScalingGroupName="group", DesiredCapacity=size)

    @property
    def members(self) -> list[dict[str, Any]]:
        """What the API tells of the instances of the group."""
        return list(self.described_group()["Instances"])

    def described_group(self) -> dict[str, Any]:
        (group,) = self.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["group"])["AutoScalingGroups"]
        return dict(group)

    def profile(self, name: str = "profile") -> str:
        self.iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")
        arn = self.iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
        self.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName="role")
        return str(arn)


@contextmanager
def cloud_lab() -> Iterator[Lab]:
    """Serve a cloud's API on fake machines."""
    machines = FakeMachines()
    api = CloudApi(
        region=REGION,
        public_block=ipaddress.IPv4Network("127.31.0.0/16"),
        machines=machines,
        images=[ImageRecord(AMI, "debian-12", "Debian 12", "x86_64", "/dev/xvda")],
        credentials=CREDENTIALS,
    )
    ca = CloudCa()
    api.serve("127.0.0.1", 0, 0, ca)
    yield Lab(api, machines, ca)
    # Closing waits for the servers' loops to look up, which is not what these tests are about.
    threading.Thread(target=lambda servers: [server.stop() for server in servers], args=(list(api._servers),)).start()
    api._servers.clear()
    api.close()


def refused(code: str, call: Callable[..., object], **arguments: Any) -> str:
    """Make a call that has to be refused with a code; gives the message."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    assert error["Code"] == code, error
    return error["Message"]
